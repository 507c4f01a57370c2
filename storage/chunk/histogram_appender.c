/*
 * Appender of histogram chunks: which sample may follow which, and how the layout of an open chunk is widened.
 *
 * A chunk holds samples of one layout. When a sample comes with buckets that the chunk does not have, the chunk is decoded and encoded
 * anew with the wider layout; when it lacks buckets that are empty in the chunk, the sample is widened. A counter that went back
 * (in its count, in any bucket, or by its own hint) starts a new chunk, so that within a chunk rates need no reset detection.
 * All rules are Prometheus's, in its order, because the order decides what the header of the next chunk says (FORMATS.md 6.6).
 *
 * Memory: one block for the state and its arrays (8 B a span and bound, 16 B a bucket), one for the bytes. A failed allocation leaves the
 * appender as it was. The appender of the chunk before is kept, without its bytes, until the first sample decides the header.
 */
#include "storage/chunk/chunk.h"

#include <math.h>
#include <stdlib.h>

#include "storage/chunk/histogram_int.h"

#define BYTES_FIRST 128
#define WRITE_SLACK 16 /* bits_put may touch 8 bytes past the last bit */
#define TARGET_BYTES 1024
#define MIN_SAMPLES 10

struct histogram_appender {
    struct histogram_state s; /* its arrays are in `arrays` */
    void *arrays;             /* owned */
    size_t arrays_bytes;
    uint8_t *bytes; /* owned */
    size_t cap;
    uint64_t bits;
    int64_t min_t;
    int64_t next_at;    /* predicted end of the chunk, once predicted */
    bool predicted;
    bool refused;       /* the last append did not fit: the next chunk exists because of the sample, not because of size */
    uint8_t header;
    struct histogram_appender *before; /* owned: the chunk before, without bytes, until the first sample is here */
};

/* --- life ----------------------------------------------------------------------------------------------------------------- */

struct histogram_appender *histogram_appender_new(bool is_float)
{
    struct histogram_appender *a = calloc(1, sizeof(*a));
    if (a)
        a->s.is_float = is_float;
    return a;
}

void histogram_appender_free(struct histogram_appender *a)
{
    if (!a)
        return;
    histogram_appender_free(a->before); /* it has none before itself */
    free(a->arrays);
    free(a->bytes);
    free(a);
}

/* Copies the arrays of a layout into a block of the appender's own, and makes zeroed room for its buckets. */
static bool take_layout(struct histogram_appender *a, const struct histogram *l)
{
    size_t spans_p = (size_t)l->n_positive_spans * sizeof(struct histogram_span);
    size_t spans_n = (size_t)l->n_negative_spans * sizeof(struct histogram_span);
    size_t bounds = (size_t)l->n_custom_values * sizeof(double);
    size_t buckets = ((size_t)l->n_positive + l->n_negative) * sizeof(union histogram_field);
    size_t total = buckets + spans_p + spans_n + bounds;
    char *block = calloc(1, total + 1);
    if (!block)
        return false;
    a->arrays = block;
    a->arrays_bytes = total + 1;
    a->s.buckets = (union histogram_field *)(void *)block;
    struct histogram *own = &a->s.layout;
    *own = (struct histogram){.schema = l->schema,
                              .zero_threshold = l->zero_threshold,
                              .is_float = a->s.is_float,
                              .n_positive = l->n_positive,
                              .n_negative = l->n_negative};
    char *at = block + buckets;
    if (spans_p)
        own->positive_spans = memcpy(at, l->positive_spans, spans_p);
    if (spans_n)
        own->negative_spans = memcpy(at + spans_p, l->negative_spans, spans_n);
    if (bounds)
        own->custom_values = memcpy(at + spans_p + spans_n, l->custom_values, bounds);
    own->n_positive_spans = l->n_positive_spans;
    own->n_negative_spans = l->n_negative_spans;
    own->n_custom_values = l->n_custom_values;
    return true;
}

struct histogram_appender *histogram_appender_next(const struct histogram_appender *prev, bool is_float)
{
    struct histogram_appender *a = histogram_appender_new(is_float);
    if (!a || prev->s.n == 0 || prev->s.is_float != is_float)
        return a;
    struct histogram_appender *before = histogram_appender_new(is_float);
    if (!before || !take_layout(before, &prev->s.layout)) {
        histogram_appender_free(before);
        histogram_appender_free(a);
        return NULL;
    }
    struct histogram own = before->s.layout;
    union histogram_field *buckets = before->s.buckets;
    if (histogram_n_buckets(&own))
        memcpy(buckets, prev->s.buckets, histogram_n_buckets(&own) * sizeof(*buckets));
    before->s = prev->s;
    before->s.layout = own;
    before->s.buckets = buckets;
    before->refused = prev->refused;
    before->header = prev->header;
    a->before = before;
    return a;
}

/* Room for `bits` more. */
static bool reserve(struct histogram_appender *a, uint64_t bits)
{
    size_t need = (size_t)((a->bits + bits + 7) / 8) + WRITE_SLACK;
    if (need <= a->cap)
        return true;
    size_t cap = MAX(need, a->cap ? a->cap + a->cap / 2 : BYTES_FIRST);
    uint8_t *bytes = realloc(a->bytes, cap);
    if (!bytes)
        return false;
    a->bytes = bytes;
    a->cap = cap;
    return true;
}

static void put_sample(struct histogram_appender *a, int64_t t, const struct histogram *h)
{
    if (a->s.n == 0)
        a->min_t = t;
    a->bits = state_put(&a->s, a->bytes, a->bits, t, h);
}

/* Header and layout of an empty appender, and room for the first sample. */
static bool begin(struct histogram_appender *a, const struct histogram *layout, uint8_t header)
{
    if (!take_layout(a, layout))
        return false;
    if (!reserve(a, HISTOGRAM_HEADER_BITS + layout_max_bits(layout) + state_max_sample_bits(&a->s))) {
        free(a->arrays);
        a->arrays = NULL;
        return false;
    }
    a->header = header;
    memset(a->bytes, 0, HISTOGRAM_HEADER_BITS / 8);
    a->bytes[2] = header;
    a->bits = layout_put(&a->s.layout, a->bytes, HISTOGRAM_HEADER_BITS);
    return true;
}

/* --- what may follow what --------------------------------------------------------------------------------------------------- */

/* How the buckets of one side of a sample differ from the chunk's. */
struct side_diff {
    bool reset;    /* a bucket went back, or one that was in use is gone */
    bool forward;  /* the sample has buckets that the chunk lacks */
    bool backward; /* the chunk has buckets that the sample lacks */
};

struct verdict {
    bool ok;
    uint8_t header; /* of the next chunk when not ok; for counters */
    struct side_diff positive;
    struct side_diff negative;
};

static struct spans positive_spans(const struct histogram *h) { return (struct spans){h->positive_spans, h->n_positive_spans}; }
static struct spans negative_spans(const struct histogram *h) { return (struct spans){h->negative_spans, h->n_negative_spans}; }

/* Absolute counts of the chunk's and the sample's bucket, walked in step. */
struct walk {
    struct bucket_iter it;
    bool more;
    int64_t x;
    size_t i;
    int64_t count_int;
    double count;
};

static void walk_load(struct walk *w, bool is_float, uint64_t bits)
{
    if (is_float)
        w->count = bits_double(bits);
    else
        w->count_int = wrap_add(w->count_int, (int64_t)bits);
}

static void walk_chunk(struct walk *w, bool is_float, const union histogram_field *buckets)
{
    w->more = bucket_next(&w->it, &w->x);
    if (w->more)
        walk_load(w, is_float, buckets[w->i++].x.v);
}

static void walk_sample(struct walk *w, bool is_float, const int64_t *buckets)
{
    uint64_t bits;
    w->more = bucket_next(&w->it, &w->x);
    if (!w->more)
        return;
    memcpy(&bits, &buckets[w->i++], 8);
    walk_load(w, is_float, bits);
}

static struct side_diff diff_side(struct spans chunk, const union histogram_field *chunk_buckets, struct spans sample,
                                  const int64_t *sample_buckets, bool is_float, bool gauge)
{
    struct side_diff d = {false, false, false};
    struct walk c = {.it = bucket_iter(chunk.p, chunk.n)}, s = {.it = bucket_iter(sample.p, sample.n)};
    walk_chunk(&c, is_float, chunk_buckets);
    walk_sample(&s, is_float, sample_buckets);
    while (c.more || s.more) {
        bool in_chunk = c.more && (!s.more || c.x <= s.x), in_sample = s.more && (!c.more || s.x <= c.x);
        if (in_chunk && in_sample) {
            if (!gauge && (is_float ? c.count > s.count : c.count_int > s.count_int))
                d.reset = true;
        } else if (in_chunk) {
            if (!gauge && !(is_float ? c.count == 0 : c.count_int == 0))
                d.reset = true;
            d.backward = true;
        } else {
            d.forward = true;
        }
        if (in_chunk)
            walk_chunk(&c, is_float, chunk_buckets);
        if (in_sample)
            walk_sample(&s, is_float, sample_buckets);
    }
    return d;
}

static void diff_sides(const struct histogram_state *s, const struct histogram *h, bool gauge, struct verdict *v)
{
    v->positive = diff_side(positive_spans(&s->layout), s->buckets, positive_spans(h), h->positive_deltas, s->is_float, gauge);
    v->negative = diff_side(negative_spans(&s->layout), s->buckets + s->layout.n_positive, negative_spans(h),
                            h->negative_deltas, s->is_float, gauge);
}

static bool same_bounds(const struct histogram *a, const struct histogram *b)
{
    if (a->schema != HISTOGRAM_CUSTOM_BUCKETS)
        return true;
    if (a->n_custom_values != b->n_custom_values)
        return false;
    for (uint32_t i = 0; i < a->n_custom_values; i++)
        if (a->custom_values[i] != b->custom_values[i])
            return false;
    return true;
}

static bool same_resolution(const struct histogram *a, const struct histogram *b)
{
    return a->schema == b->schema && a->zero_threshold == b->zero_threshold;
}

static struct verdict refuse(uint8_t header)
{
    return (struct verdict){.ok = false, .header = header};
}

/* The table of FORMATS.md 6.6, row by row. */
static struct verdict judge_counter(const struct histogram_appender *a, const struct histogram *h)
{
    const struct histogram_state *s = &a->s;
    struct verdict v = {.ok = true, .header = HEADER_NOT_RESET};
    if (a->header == HEADER_GAUGE)
        return refuse(HEADER_NOT_RESET); /* nothing is known, but this is what Prometheus writes */
    if (h->hint == HISTOGRAM_HINT_RESET)
        return refuse(HEADER_RESET);
    if (is_stale_nan(h->sum))
        return v;
    if (state_is_stale(s))
        return refuse(HEADER_UNKNOWN);
    if (s->is_float ? h->count < bits_double(s->count.x.v) : h->count_int < s->count.x.v)
        return refuse(HEADER_RESET);
    if (!same_resolution(h, &s->layout))
        return refuse(HEADER_UNKNOWN);
    if (!same_bounds(h, &s->layout))
        return refuse(HEADER_RESET);
    if (s->is_float ? h->zero_count < bits_double(s->zero.x.v) : h->zero_count_int < s->zero.x.v)
        return refuse(HEADER_RESET);
    diff_sides(s, h, false, &v);
    if (v.positive.reset || v.negative.reset)
        return refuse(HEADER_RESET);
    return v;
}

static struct verdict judge_gauge(const struct histogram_appender *a, const struct histogram *h)
{
    struct verdict v = {.ok = true, .header = HEADER_GAUGE};
    if (a->header != HEADER_GAUGE)
        return refuse(HEADER_GAUGE);
    if (is_stale_nan(h->sum))
        return v;
    if (state_is_stale(&a->s) || !same_resolution(h, &a->s.layout) || !same_bounds(h, &a->s.layout))
        return refuse(HEADER_GAUGE);
    diff_sides(&a->s, h, true, &v);
    return v;
}

static struct verdict judge(const struct histogram_appender *a, const struct histogram *h)
{
    return h->hint == HISTOGRAM_HINT_GAUGE ? judge_gauge(a, h) : judge_counter(a, h);
}

/* The header of a chunk that begins with h. */
static uint8_t first_header(const struct histogram_appender *a, const struct histogram *h)
{
    if (h->hint == HISTOGRAM_HINT_GAUGE)
        return HEADER_GAUGE;
    if (h->hint == HISTOGRAM_HINT_RESET)
        return HEADER_RESET;
    if (!a->before)
        return HEADER_UNKNOWN;
    uint8_t header = judge_counter(a->before, h).header;
    if (!a->s.is_float || header == HEADER_RESET)
        return header;
    /* Float chunks know only "reset" and, by the way the chunk came to be, one of the other two. */
    return a->before->refused ? HEADER_UNKNOWN : HEADER_NOT_RESET;
}

/* --- widening --------------------------------------------------------------------------------------------------------------- */

/* h with the spans of `layout`, in the arena. False when the arena is full. */
static bool widen_sample(const struct histogram *h, const struct histogram *layout, struct arena *arena, struct histogram *ret)
{
    int64_t *p = arena_array(arena, MAX(layout->n_positive, 1u), 8);
    int64_t *n = arena_array(arena, MAX(layout->n_negative, 1u), 8);
    if (!p || !n)
        return false;
    spans_remap(positive_spans(h), h->positive_deltas, positive_spans(layout), h->is_float, p);
    spans_remap(negative_spans(h), h->negative_deltas, negative_spans(layout), h->is_float, n);
    *ret = *h;
    ret->positive_spans = layout->positive_spans;
    ret->n_positive_spans = layout->n_positive_spans;
    ret->negative_spans = layout->negative_spans;
    ret->n_negative_spans = layout->n_negative_spans;
    ret->positive_deltas = p;
    ret->n_positive = layout->n_positive;
    ret->negative_deltas = n;
    ret->n_negative = layout->n_negative;
    return true;
}

/*
 * The layout that has the buckets of both. Which spans say so matters for the bytes: the sample's own where they are enough, else the
 * fewest possible; for gauges those on both sides as soon as one side needs them.
 */
static bool wider_layout(const struct histogram_state *s, const struct histogram *h, const struct verdict *v, struct arena *arena,
                         struct histogram *ret)
{
    bool gauge = h->hint == HISTOGRAM_HINT_GAUGE;
    bool any = v->positive.backward || v->negative.backward;
    struct spans p = positive_spans(h), n = negative_spans(h);
    *ret = *h;
    if ((gauge ? any : v->positive.backward) &&
        !spans_union(positive_spans(&s->layout), p, arena, &p, &ret->n_positive))
        return false;
    if ((gauge ? any : v->negative.backward) &&
        !spans_union(negative_spans(&s->layout), n, arena, &n, &ret->n_negative))
        return false;
    ret->positive_spans = p.p;
    ret->n_positive_spans = p.n;
    ret->negative_spans = n.p;
    ret->n_negative_spans = n.n;
    return true;
}

/* A new appender with all samples of a in a wider layout. NULL when memory is short. */
static struct histogram_appender *recode(const struct histogram_appender *a, const struct histogram *layout, struct arena *arena)
{
    struct chunk_columns old;
    struct histogram_appender *b = histogram_appender_new(a->s.is_float);
    if (!b || !begin(b, layout, a->header) ||
        !histogram_chunk_decode(a->s.is_float, histogram_appender_bytes(a), arena, &old, NULL))
        goto fail;
    for (size_t i = 0; i < old.n; i++) {
        struct histogram wide = old.h[i];
        if (!is_stale_nan(wide.sum) && !widen_sample(&old.h[i], layout, arena, &wide))
            goto fail;
        if (!reserve(b, state_max_sample_bits(&b->s)))
            goto fail;
        put_sample(b, old.t[i], &wide);
    }
    b->next_at = a->next_at;
    b->predicted = a->predicted;
    return b;
fail:
    histogram_appender_free(b);
    return NULL;
}

/* Appends h, whose buckets are not the chunk's. */
static enum histogram_append_result append_wider(struct histogram_appender *a, int64_t t, const struct histogram *h,
                                                 const struct verdict *v)
{
    enum histogram_append_result result = HISTOGRAM_NO_MEMORY;
    struct histogram layout = a->s.layout, wide;
    struct histogram_appender *b = NULL;
    struct arena arena;
    arena_init(&arena, 0);
    if (v->positive.forward || v->negative.forward) {
        if (!wider_layout(&a->s, h, v, &arena, &layout)) {
            /* A gap wider than a span can say: such buckets do not share a chunk. */
            result = arena.overflow ? HISTOGRAM_NO_MEMORY : HISTOGRAM_NEW_CHUNK;
            goto out;
        }
        b = recode(a, &layout, &arena);
        if (!b)
            goto out;
    }
    struct histogram_appender *to = b ? b : a;
    if (!widen_sample(h, &layout, &arena, &wide) || !reserve(to, state_max_sample_bits(&to->s)))
        goto out;
    put_sample(to, t, &wide);
    result = HISTOGRAM_APPENDED;
    if (b) {
        struct histogram_appender swap = *a;
        *a = *b;
        *b = swap;
    }
out:
    histogram_appender_free(b);
    arena_release(&arena);
    return result;
}

/* --- appending -------------------------------------------------------------------------------------------------------------- */

static enum histogram_append_result append_first(struct histogram_appender *a, int64_t t, const struct histogram *h)
{
    static const struct histogram empty[2] = {{.is_float = false}, {.is_float = true}};
    if (!begin(a, is_stale_nan(h->sum) ? &empty[h->is_float] : h, first_header(a, h)))
        return HISTOGRAM_NO_MEMORY;
    put_sample(a, t, h);
    histogram_appender_free(a->before);
    a->before = NULL;
    return HISTOGRAM_APPENDED;
}

static bool differs(const struct side_diff *d)
{
    return d->forward || d->backward;
}

/* A stale sample carries nothing but its mark, whatever the sender put beside it. */
static struct histogram stale_sample(const struct histogram *h)
{
    return (struct histogram){.is_float = h->is_float, .hint = h->hint, .sum = h->sum};
}

enum histogram_append_result histogram_append(struct histogram_appender *a, int64_t t, const struct histogram *h)
{
    struct histogram stale;
    SLOW_ASSERT(histogram_validate(h, NULL));
    if (h->is_float != a->s.is_float)
        return HISTOGRAM_NEW_CHUNK;
    if (is_stale_nan(h->sum)) {
        stale = stale_sample(h);
        h = &stale;
    }
    if (a->s.n == 0)
        return append_first(a, t, h);
    if (a->s.n == UINT16_MAX)
        return HISTOGRAM_NEW_CHUNK;
    struct verdict v = judge(a, h);
    enum histogram_append_result result = HISTOGRAM_NEW_CHUNK;
    if (v.ok && (differs(&v.positive) || differs(&v.negative))) {
        result = append_wider(a, t, h, &v);
    } else if (v.ok) {
        if (!reserve(a, state_max_sample_bits(&a->s)))
            return HISTOGRAM_NO_MEMORY;
        put_sample(a, t, h);
        result = HISTOGRAM_APPENDED;
    }
    a->refused = result == HISTOGRAM_NEW_CHUNK;
    return result;
}

int64_t chunk_end_time(int64_t start, int64_t cur, int64_t max_t, double ratio_to_full)
{
    double n = (double)(max_t - start) / ((double)(cur - start + 1) * ratio_to_full);
    if (n <= 1)
        return max_t;
    return (int64_t)((double)start + (double)(max_t - start) / floor(n));
}

bool histogram_appender_full(struct histogram_appender *a, int64_t t, int64_t range_end)
{
    size_t size = histogram_appender_bytes(a).n;
    if (a->s.n == 0)
        return false;
    /* At a quarter of the aimed size the end is predicted, such that the chunks of the range become about equally large. */
    if (!a->predicted && size >= TARGET_BYTES / 4) {
        a->next_at = chunk_end_time(a->min_t, a->s.t, range_end, (double)TARGET_BYTES / (double)size);
        a->predicted = true;
    }
    int64_t end = a->predicted ? a->next_at : range_end;
    return a->s.n == UINT16_MAX || ((t >= end || size >= 2 * TARGET_BYTES) && (a->s.n >= MIN_SAMPLES || t >= range_end));
}

/* --- looking at it ------------------------------------------------------------------------------------------------------------ */

struct slice histogram_appender_bytes(const struct histogram_appender *a)
{
    return slice_make(a->bytes, (size_t)(a->bits + 7) / 8);
}

uint16_t histogram_appender_count(const struct histogram_appender *a)
{
    return a->s.n;
}

int64_t histogram_appender_last_t(const struct histogram_appender *a)
{
    return a->s.t;
}

bool histogram_appender_is_float(const struct histogram_appender *a)
{
    return a->s.is_float;
}

size_t histogram_appender_memory(const struct histogram_appender *a)
{
    return sizeof(*a) + a->arrays_bytes + a->cap + (a->before ? histogram_appender_memory(a->before) : 0);
}

/* --- after a restart ---------------------------------------------------------------------------------------------------------- */

static bool resume(struct histogram_appender *a, struct slice data, struct arena *arena)
{
    struct histogram_state s;
    struct bit_reader r;
    uint16_t n;
    if (!histogram_chunk_open(a->s.is_float, data, arena, &s, &r, &n, &a->header, NULL))
        return false;
    if (n == 0)
        return true;
    if (!take_layout(a, &s.layout))
        return false;
    s.layout = a->s.layout;
    s.buckets = a->s.buckets;
    for (uint16_t i = 0; i < n; i++) {
        if (!state_get(&s, &r))
            return false;
        if (i == 0)
            a->min_t = s.t;
    }
    if (!reserve(a, (uint64_t)data.n << 3))
        return false;
    memcpy(a->bytes, data.p, data.n);
    a->s = s;
    a->bits = r.pos;
    return true;
}

struct histogram_appender *histogram_appender_resume(enum chunk_encoding enc, struct slice data)
{
    if (enc != CHUNK_HISTOGRAM && enc != CHUNK_FLOAT_HISTOGRAM)
        return NULL;
    struct histogram_appender *a = histogram_appender_new(enc == CHUNK_FLOAT_HISTOGRAM);
    struct arena arena;
    arena_init(&arena, 0);
    bool ok = a && resume(a, data, &arena);
    arena_release(&arena);
    if (!ok) {
        histogram_appender_free(a);
        return NULL;
    }
    return a;
}
