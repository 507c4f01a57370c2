/*
 * The series of a script, kept as samples and handed out as encoded chunks, so that what is tested includes the codecs and the counter reset hints
 * that chunks give on reading. Start timestamps, which chunks have no room for, are kept beside them.
 */
#include <stdlib.h>
#include <string.h>

#include "base/dtoa.h"
#include "base/err.h"
#include "promqltest_int.h"

struct stored {
    struct labels labels;
    int64_t *t;
    struct item *items;
    size_t n, cap;
    struct series_chunk *chunks; /* NULL: to be encoded */
    size_t n_chunks;
    struct start_time *starts;
    size_t n_starts;
};

struct store {
    struct queryable queryable;
    struct start_times start_times;
    struct arena arena;
    struct stored *series;
    size_t n, cap;
};

/* --- loading ------------------------------------------------------------------------------------------------------------------------- */

static struct stored *find(struct store *s, struct labels l)
{
    for (size_t i = 0; i < s->n; i++)
        if (labels_eq(s->series[i].labels, l))
            return &s->series[i];
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 64;
        s->series = realloc(s->series, s->cap * sizeof(*s->series));
        if (!s->series)
            abort();
    }
    s->series[s->n] = (struct stored){.labels = labels_dup(&s->arena, l)};
    return &s->series[s->n++];
}

static void append(struct store *s, struct stored *st, int64_t t, struct item it)
{
    if (st->n && st->t[st->n - 1] >= t)
        return;
    if (st->n == st->cap) {
        st->cap = st->cap ? st->cap * 2 : 64;
        st->t = realloc(st->t, st->cap * sizeof(*st->t));
        st->items = realloc(st->items, st->cap * sizeof(*st->items));
        st->starts = realloc(st->starts, st->cap * sizeof(*st->starts));
        if (!st->t || !st->items || !st->starts)
            abort();
    }
    if (it.h)
        it.h = fhist_dup(it.h, &s->arena);
    if (it.started && t + it.start_ms != 0)
        st->starts[st->n_starts++] = (struct start_time){t, t + it.start_ms};
    st->t[st->n] = t;
    st->items[st->n++] = it;
    st->chunks = NULL;
}

void store_load(struct store *s, const struct sequence *seqs, size_t n, int64_t step_ms)
{
    for (size_t i = 0; i < n; i++) {
        bool again = false;
        for (size_t j = i + 1; j < n; j++)
            again |= labels_eq(seqs[i].labels, seqs[j].labels);
        if (again)
            continue;
        struct stored *st = find(s, seqs[i].labels);
        for (size_t k = 0; k < seqs[i].n; k++)
            if (!seqs[i].items[k].omitted)
                append(s, st, (int64_t)k * step_ms, seqs[i].items[k]);
    }
}

/* --- chunks ------------------------------------------------------------------------------------------------------------------------------ */

static void add_chunk(struct store *s, struct stored *st, enum chunk_encoding enc, struct slice data, int64_t min_t, int64_t max_t)
{
    st->chunks[st->n_chunks++] = (struct series_chunk){min_t, max_t, enc, arena_dup(&s->arena, data)};
}

static size_t encode_floats(struct store *s, struct stored *st, size_t i)
{
    uint8_t bytes[CHUNK_SAMPLES * XOR_SAMPLE_MAX_BYTES + 64];
    struct xor_appender a;
    xor_appender_init(&a);
    size_t from = i;
    for (; i < st->n && !st->items[i].h && i - from < CHUNK_SAMPLES; i++)
        xor_append(&a, bytes, st->t[i], st->items[i].v);
    add_chunk(s, st, CHUNK_XOR, slice_make(bytes, xor_size(&a)), st->t[from], st->t[i - 1]);
    return i;
}

static size_t encode_hists(struct store *s, struct stored *st, size_t i)
{
    struct histogram_appender *a = histogram_appender_new(true);
    size_t from = i;
    for (; i < st->n && st->items[i].h; i++) {
        struct histogram *h = fhist_to_histogram(st->items[i].h, &s->arena);
        if (histogram_append(a, st->t[i], h) == HISTOGRAM_APPENDED)
            continue;
        struct histogram_appender *next = histogram_appender_next(a, true);
        add_chunk(s, st, CHUNK_FLOAT_HISTOGRAM, histogram_appender_bytes(a), st->t[from], st->t[i - 1]);
        histogram_appender_free(a);
        a = next;
        from = i;
        if (histogram_append(a, st->t[i], h) != HISTOGRAM_APPENDED)
            abort();
    }
    add_chunk(s, st, CHUNK_FLOAT_HISTOGRAM, histogram_appender_bytes(a), st->t[from], st->t[i - 1]);
    histogram_appender_free(a);
    return i;
}

static void encode(struct store *s, struct stored *st)
{
    if (st->chunks)
        return;
    st->chunks = arena_array(&s->arena, st->n + 1, sizeof(*st->chunks));
    st->n_chunks = 0;
    for (size_t i = 0; i < st->n;)
        i = st->items[i].h ? encode_hists(s, st, i) : encode_floats(s, st, i);
}

/* --- queryable ----------------------------------------------------------------------------------------------------------------------------- */

struct set {
    struct series_set base;
    struct store *store;
    const struct label_names *wanted;
    size_t *picked;
    size_t n, i;
};

static bool is_wanted(const struct label_names *wanted, struct slice name)
{
    bool yes = !wanted || slice_eq(name, SL(METRIC_NAME_LABEL));
    for (size_t i = 0; wanted && i < wanted->n; i++)
        yes |= slice_eq(name, wanted->names[i]);
    return yes;
}

/* As heads do: only what is asked for, in memory that is soon used for something else. */
static bool set_next_in(struct series_set *base, struct ctx *ctx, struct arena *mem, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct set *set = (struct set *)base;
    (void)ctx;
    *ret_n = 0;
    while (set->i < set->n && *ret_n < max) {
        struct stored *st = &set->store->series[set->picked[set->i++]];
        struct label *items = ARENA_ARRAY(mem, struct label, st->labels.n);
        struct series_chunk *chunks = ARENA_ARRAY(mem, struct series_chunk, st->n_chunks);
        size_t n = 0;
        if (!items || !chunks)
            return err_set(err, ERR_MAX_QUERY_MEMORY, "the series take more memory than the query has");
        for (size_t i = 0; i < st->labels.n; i++)
            if (is_wanted(set->wanted, st->labels.items[i].name))
                items[n++] = st->labels.items[i];
        memcpy(chunks, st->chunks, st->n_chunks * sizeof(*chunks));
        ret[(*ret_n)++] = (struct series){{items, n}, chunks, st->n_chunks};
    }
    return true;
}

static bool set_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    return set_next_in(base, ctx, ctx->arena, ret, max, ret_n, err);
}

static bool chunks_stay(const struct series_set *base)
{
    (void)base;
    return true;
}

static void set_release(struct series_set *base)
{
    struct set *set = (struct set *)base;
    free(set->picked);
    free(set);
}

static const struct series_set_ops set_ops = {set_next, set_release};
static const struct series_set_traits set_traits = {.chunks_stay = chunks_stay, .next_in = set_next_in};

static struct series_set *store_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    struct store *s = (struct store *)q;
    (void)ctx, (void)err;
    struct set *set = calloc(1, sizeof(*set));
    size_t *picked = calloc(s->n + 1, sizeof(*picked));
    if (!set || !picked)
        abort();
    set->base.ops = &set_ops;
    set->base.traits = &set_traits;
    set->wanted = p->labels;
    set->store = s;
    set->picked = picked;
    for (size_t i = 0; i < s->n; i++)
        if (matchers_match(p->matchers, p->n_matchers, s->series[i].labels)) {
            encode(s, &s->series[i]);
            picked[set->n++] = i;
        }
    return &set->base;
}

static void store_starts_of(struct start_times *base, struct labels series, int64_t min_t, int64_t max_t, const struct start_time **ret, size_t *ret_n)
{
    struct store *s = (struct store *)((char *)base - offsetof(struct store, start_times));
    const struct stored *st = find(s, series);
    size_t lo = 0, hi = st->n_starts;
    while (lo < hi && st->starts[lo].t < min_t)
        lo++;
    while (hi > lo && st->starts[hi - 1].t > max_t)
        hi--;
    *ret = st->starts + lo;
    *ret_n = hi - lo;
}

struct start_times *store_start_times(struct store *s)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->series[i].n_starts)
            return &s->start_times;
    return NULL;
}

static const struct queryable_ops store_ops = {.select = store_select};

struct store *store_new(void)
{
    struct store *s = calloc(1, sizeof(*s));
    if (!s)
        abort();
    s->queryable.ops = &store_ops;
    s->start_times.of_series = store_starts_of;
    arena_init(&s->arena, 0);
    return s;
}

void store_clear(struct store *s)
{
    for (size_t i = 0; i < s->n; i++) {
        free(s->series[i].t);
        free(s->series[i].items);
        free(s->series[i].starts);
    }
    s->n = 0;
    arena_release(&s->arena);
}

void store_free(struct store *s)
{
    store_clear(s);
    free(s->series);
    free(s);
}

struct queryable *store_queryable(struct store *s)
{
    return &s->queryable;
}

/* --- load_with_nhcb -------------------------------------------------------------------------------------------------------------------------- */

enum part { PART_NONE, PART_BUCKET, PART_COUNT, PART_SUM };

static enum part part_of(struct slice name, struct slice *ret_base)
{
    static const struct {
        const char *suffix;
        enum part part;
    } parts[] = {{"_bucket", PART_BUCKET}, {"_count", PART_COUNT}, {"_sum", PART_SUM}};
    for (size_t i = 0; i < 3; i++)
        if (slice_has_suffix(name, slice_of(parts[i].suffix))) {
            *ret_base = slice_make(name.p, name.n - strlen(parts[i].suffix));
            return parts[i].part;
        }
    return PART_NONE;
}

/* The labels of the histogram a classic series belongs to. */
static struct labels base_labels(struct labels l, struct slice base, struct arena *a)
{
    struct label *items = arena_array(a, l.n + 1, sizeof(*items));
    size_t n = 0;
    for (size_t i = 0; i < l.n; i++) {
        if (slice_eq(l.items[i].name, SL(BUCKET_LABEL)))
            continue;
        items[n] = l.items[i];
        if (slice_eq(items[n].name, SL(METRIC_NAME_LABEL)))
            items[n].value = base;
        n++;
    }
    return (struct labels){items, n};
}

struct nhcb {
    struct labels labels;
    double bounds[64];
    const struct sequence *buckets[64];
    size_t n;
    const struct sequence *count, *sum;
    size_t length;
};

static void nhcb_add_bucket(struct nhcb *h, const struct sequence *s)
{
    double le;
    if (!dtoa_parse(labels_get(s->labels, SL(BUCKET_LABEL)), &le) || h->n == 64)
        return;
    size_t i = 0;
    while (i < h->n && h->bounds[i] < le)
        i++;
    if (i < h->n && h->bounds[i] == le)
        return;
    memmove(h->bounds + i + 1, h->bounds + i, (h->n - i) * sizeof(*h->bounds));
    memmove(h->buckets + i + 1, h->buckets + i, (h->n - i) * sizeof(*h->buckets));
    h->bounds[i] = le;
    h->buckets[i] = s;
    h->n++;
}

static bool at(const struct sequence *s, size_t i, double *ret)
{
    if (!s || i >= s->n || s->items[i].omitted || s->items[i].h)
        return false;
    *ret = s->items[i].v;
    return true;
}

static struct item nhcb_item(const struct nhcb *h, size_t i, struct arena *a)
{
    struct fhist *f = ARENA_NEW(a, struct fhist);
    double *custom = arena_array(a, h->n + 1, sizeof(double));
    f->schema = HISTOGRAM_CUSTOM_BUCKETS;
    f->pos.idx = arena_array(a, h->n + 2, sizeof(int32_t));
    f->pos.c = arena_array(a, h->n + 2, sizeof(double));
    double prev = 0, c;
    bool any = false;
    for (size_t k = 0; k < h->n; k++) {
        if (!isinf(h->bounds[k]))
            custom[f->n_custom++] = h->bounds[k];
        if (!at(h->buckets[k], i, &c))
            continue;
        any = true;
        if (c < prev)
            return (struct item){.omitted = true}; /* not a histogram: upstream's conversion refuses it too */
        if (c > prev) {
            f->pos.idx[f->pos.n] = (int32_t)k;
            f->pos.c[f->pos.n++] = c - prev;
        }
        prev = c;
    }
    any |= at(h->count, i, &prev);
    f->count = prev;
    (void)at(h->sum, i, &f->sum);
    f->custom = custom;
    return (struct item){.h = f, .omitted = !any};
}

bool add_nhcb(struct sequence **seqs, size_t *n, struct arena *a)
{
    struct nhcb *hs = arena_array(a, *n + 1, sizeof(*hs));
    size_t n_hs = 0;
    for (size_t i = 0; i < *n; i++) {
        const struct sequence *s = &(*seqs)[i];
        struct slice base;
        enum part part = part_of(labels_get(s->labels, SL(METRIC_NAME_LABEL)), &base);
        if (part == PART_NONE)
            continue;
        struct labels l = base_labels(s->labels, base, a);
        size_t k = 0;
        while (k < n_hs && !labels_eq(hs[k].labels, l))
            k++;
        if (k == n_hs) {
            memset(&hs[k], 0, sizeof(hs[k]));
            hs[n_hs++].labels = l;
        }
        if (part == PART_BUCKET)
            nhcb_add_bucket(&hs[k], s);
        else if (part == PART_COUNT)
            hs[k].count = s;
        else
            hs[k].sum = s;
        if (s->n > hs[k].length)
            hs[k].length = s->n;
    }
    struct sequence *out = arena_array(a, *n + n_hs + 1, sizeof(*out));
    memcpy(out, *seqs, *n * sizeof(*out));
    for (size_t k = 0; k < n_hs; k++) {
        struct sequence s = {.labels = hs[k].labels, .n = hs[k].length};
        s.items = arena_array(a, s.n + 1, sizeof(*s.items));
        for (size_t i = 0; i < s.n; i++)
            s.items[i] = nhcb_item(&hs[k], i, a);
        out[*n + k] = s;
    }
    *seqs = out;
    *n += n_hs;
    return true;
}
