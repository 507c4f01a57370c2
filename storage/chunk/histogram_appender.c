/*
 * Appender of histogram chunks: how the layout of an open chunk is widened, and what decides over the next chunk (histogram_follow.c).
 *
 * A chunk holds samples of one layout. When a sample comes with buckets that the chunk does not have, the chunk is decoded and encoded
 * anew with the wider layout; when it lacks buckets that are empty in the chunk, the sample is widened. A counter that went back
 * (in its count, in any bucket, or by its own hint) starts a new chunk, so that within a chunk rates need no reset detection.
 * All rules are Prometheus's, in its order, because the order decides what the header of the next chunk says (docs/formats.md 6.6).
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

static struct verdict judge(const struct histogram_appender *a, const struct histogram *h)
{
    return h->hint == HISTOGRAM_HINT_GAUGE ? judge_gauge(&a->s, a->header, h) : judge_counter(&a->s, a->header, h);
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
    uint8_t header = judge_counter(&a->before->s, a->before->header, h).header;
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
