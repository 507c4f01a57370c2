/*
 * The chunks of one series from all sources, joined into chunks in order that do not overlap.
 *
 * Chunks are sorted by time and fall into groups that no time of another touches. A group of one is copied. In a larger one, chunks that are the same byte for
 * byte (two replicas that cut alike) are dropped but for one; if more are left they are decoded, laid into lanes (the chunks of one source that follow each
 * other), merged sample by sample, and encoded anew: at most 120 samples a chunk, a new one where floats and histograms change places, and where a histogram
 * does not fit the chunk (storage/chunk). These are the rules of Prometheus's vertical compaction.
 *
 * A histogram that does not follow the sample which it followed in its old chunk loses the hint that it is no counter reset: the appender finds out.
 */
#include "storage/join/join.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define SAMPLES_MAX CHUNK_SAMPLES

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory to merge a series");
}

void join_init(struct join *m, size_t budget_bytes)
{
    *m = (struct join){0};
    arena_init(&m->decoded, budget_bytes);
    arena_init(&m->encoded, budget_bytes);
}

void join_release(struct join *m)
{
    free(m->in);
    free(m->out);
    arena_release(&m->decoded);
    arena_release(&m->encoded);
}

void join_start(struct join *m)
{
    m->n_in = m->n_out = 0;
    arena_clear(&m->encoded);
}

bool join_put(struct join *m, uint32_t source, const struct series_chunk *chunks, size_t n, struct err *err)
{
    if (m->n_in + n > m->cap_in) {
        size_t cap = MAX(m->cap_in * 2, m->n_in + n + 16);
        struct join_chunk *in = realloc(m->in, cap * sizeof(*in));
        if (!in)
            return no_memory(err);
        m->in = in;
        m->cap_in = cap;
    }
    for (size_t i = 0; i < n; i++) {
        m->in[m->n_in++] = (struct join_chunk){chunks[i], source};
        m->n_bytes += chunks[i].data.n;
    }
    return true;
}

static bool put_out(struct join *m, const struct series_chunk *c, struct err *err)
{
    if (m->n_out == m->cap_out) {
        size_t cap = MAX(m->cap_out * 2, 16);
        struct series_chunk *out = realloc(m->out, cap * sizeof(*out));
        if (!out)
            return no_memory(err);
        m->out = out;
        m->cap_out = cap;
    }
    m->out[m->n_out++] = *c;
    return true;
}

/* --- encoding ------------------------------------------------------------------------------------------------------------- */

struct encoder {
    struct join *m;
    enum chunk_encoding kind; /* of the open chunk; CHUNK_NONE: none is open */
    size_t n;                 /* samples in it */
    int64_t min_t, max_t;
    struct xor_appender xor;
    struct histogram_appender *histogram; /* owned; also of the chunk that was closed last, for the next one's header */
    uint8_t bytes[2 + (SAMPLES_MAX + 1) * XOR_SAMPLE_MAX_BYTES];
};

static bool encoder_close(struct encoder *e, struct err *err)
{
    if (e->kind == CHUNK_NONE || e->n == 0)
        return true;
    struct slice bytes = e->kind == CHUNK_XOR ? slice_make(e->bytes, xor_size(&e->xor)) : histogram_appender_bytes(e->histogram);
    struct slice kept = arena_dup(&e->m->encoded, bytes);
    struct series_chunk c = {e->min_t, e->max_t, e->kind, kept};
    e->m->stats.samples_out += e->n;
    e->m->stats.chunks_encoded++;
    e->n = 0;
    return (kept.p || no_memory(err)) && put_out(e->m, &c, err);
}

static void encoder_count(struct encoder *e, int64_t t)
{
    if (e->n++ == 0)
        e->min_t = t;
    e->max_t = t;
}

static bool encode_float(struct encoder *e, int64_t t, double v, struct err *err)
{
    if (e->kind != CHUNK_XOR || e->n >= SAMPLES_MAX) {
        if (!encoder_close(e, err))
            return false;
        e->kind = CHUNK_XOR;
        xor_appender_init(&e->xor);
    }
    xor_append(&e->xor, e->bytes, t, v);
    encoder_count(e, t);
    return true;
}

/* Closes the open chunk and begins one of histograms; the header of one that follows another of its kind is made out of both. */
static bool next_histogram_chunk(struct encoder *e, enum chunk_encoding kind, struct err *err)
{
    bool is_float = kind == CHUNK_FLOAT_HISTOGRAM;
    if (!encoder_close(e, err))
        return false;
    struct histogram_appender *next =
        e->kind == kind ? histogram_appender_next(e->histogram, is_float) : histogram_appender_new(is_float);
    if (!next)
        return no_memory(err);
    histogram_appender_free(e->histogram);
    e->histogram = next;
    e->kind = kind;
    return true;
}

static bool encode_histogram(struct encoder *e, int64_t t, const struct histogram *h, struct err *err)
{
    struct err why = ERR_NONE;
    enum chunk_encoding kind = h->is_float ? CHUNK_FLOAT_HISTOGRAM : CHUNK_HISTOGRAM;
    if (!histogram_validate(h, &why))
        return err_set(err, ERR_CORRUPT, "a histogram that is none: %s", why.text);
    if ((e->kind != kind || e->n >= SAMPLES_MAX) && !next_histogram_chunk(e, kind, err))
        return false;
    enum histogram_append_result r = histogram_append(e->histogram, t, h);
    if (r == HISTOGRAM_NEW_CHUNK) {
        if (!next_histogram_chunk(e, kind, err))
            return false;
        r = histogram_append(e->histogram, t, h);
    }
    if (r != HISTOGRAM_APPENDED)
        return no_memory(err);
    encoder_count(e, t);
    return true;
}

/* --- merging a group ------------------------------------------------------------------------------------------------------- */

struct column {
    struct chunk_columns data;
    uint32_t source;
    size_t next; /* of its lane; SIZE_MAX: the last */
};

/* Columns of one source, one behind the other in time. */
struct lane {
    uint32_t source;
    size_t column, at; /* the sample at hand; column SIZE_MAX: at the end */
    size_t last;       /* column, while lanes are being made */
};

struct group {
    struct column *columns;
    size_t n_columns;
    struct lane *lanes; /* by source: the order in which they win */
    size_t n_lanes;
};

static inline int64_t lane_t(const struct group *g, const struct lane *l)
{
    return g->columns[l->column].data.t[l->at];
}

static inline void lane_advance(const struct group *g, struct lane *l)
{
    if (++l->at < g->columns[l->column].data.n)
        return;
    l->column = g->columns[l->column].next;
    l->at = 0;
}

static bool decode_group(struct join *m, const struct join_chunk *const *chunks, size_t n, struct group *g, struct err *err)
{
    g->columns = ARENA_ARRAY(&m->decoded, struct column, n);
    g->lanes = ARENA_ARRAY(&m->decoded, struct lane, n);
    if (!g->columns || !g->lanes)
        return no_memory(err);
    g->n_columns = 0;
    for (size_t i = 0; i < n; i++) {
        struct column *c = &g->columns[g->n_columns];
        *c = (struct column){.source = chunks[i]->source, .next = SIZE_MAX};
        if (!chunk_decode(chunks[i]->chunk.encoding, chunks[i]->chunk.data, &m->decoded, &c->data, err))
            return false;
        m->stats.samples_in += c->data.n;
        m->stats.chunks_merged++;
        g->n_columns += c->data.n > 0;
    }
    return true;
}

/* Columns come by their first time. */
static void make_lanes(struct group *g)
{
    g->n_lanes = 0;
    for (size_t i = 0; i < g->n_columns; i++) {
        struct column *c = &g->columns[i];
        struct lane *free_lane = NULL;
        for (size_t k = 0; k < g->n_lanes && !free_lane; k++) {
            const struct chunk_columns *last = &g->columns[g->lanes[k].last].data;
            if (g->lanes[k].source == c->source && last->t[last->n - 1] < c->data.t[0])
                free_lane = &g->lanes[k];
        }
        if (free_lane) {
            g->columns[free_lane->last].next = i;
            free_lane->last = i;
            continue;
        }
        size_t at = g->n_lanes++;
        for (; at > 0 && g->lanes[at - 1].source > c->source; at--)
            g->lanes[at] = g->lanes[at - 1];
        g->lanes[at] = (struct lane){c->source, i, 0, i};
    }
}

/* The lane that is next, and the time at which another one has to be looked at; NULL at the end. */
static struct lane *next_lane(const struct group *g, int64_t *ret_until)
{
    struct lane *best = NULL;
    int64_t best_t = 0;
    *ret_until = INT64_MAX;
    for (size_t i = 0; i < g->n_lanes; i++) {
        struct lane *l = &g->lanes[i];
        if (l->column == SIZE_MAX)
            continue;
        int64_t t = lane_t(g, l);
        if (best && t >= best_t) {
            *ret_until = MIN(*ret_until, t);
            continue;
        }
        if (best)
            *ret_until = MIN(*ret_until, best_t);
        best = l;
        best_t = t;
    }
    return best;
}

static void skip_to(struct join *m, const struct group *g, int64_t last_t)
{
    for (size_t i = 0; i < g->n_lanes; i++)
        for (struct lane *l = &g->lanes[i]; l->column != SIZE_MAX && lane_t(g, l) <= last_t; lane_advance(g, l))
            m->stats.duplicates++;
}

static bool encode_sample(struct encoder *e, const struct chunk_columns *c, size_t i, bool follows, struct err *err)
{
    if (c->v)
        return encode_float(e, c->t[i], c->v[i], err);
    if (!follows && c->h[i].hint == HISTOGRAM_HINT_NOT_RESET)
        c->h[i].hint = HISTOGRAM_HINT_UNKNOWN;
    return encode_histogram(e, c->t[i], &c->h[i], err);
}

static bool encode_group(struct join *m, struct group *g, struct encoder *e, struct err *err)
{
    const struct lane *before = NULL;
    int64_t until, last_t = INT64_MIN;
    for (struct lane *l; (l = next_lane(g, &until)) != NULL; before = l) {
        bool follows = before == l;
        do {
            const struct chunk_columns *c = &g->columns[l->column].data;
            int64_t t = c->t[l->at];
            if (last_t != INT64_MIN && t <= last_t)
                return err_set(err, ERR_CORRUPT, "a chunk with samples out of order");
            if (!encode_sample(e, c, l->at, follows, err))
                return false;
            last_t = t;
            follows = true;
            lane_advance(g, l);
        } while (l->column != SIZE_MAX && lane_t(g, l) < until);
        skip_to(m, g, last_t);
    }
    return encoder_close(e, err);
}

static bool merge_group(struct join *m, const struct join_chunk *const *chunks, size_t n, struct err *err)
{
    struct group g = {0};
    struct encoder e = {.m = m, .kind = CHUNK_NONE};
    bool good = decode_group(m, chunks, n, &g, err);
    if (good) {
        make_lanes(&g);
        good = encode_group(m, &g, &e, err);
    }
    histogram_appender_free(e.histogram);
    return good;
}

/* --- groups ----------------------------------------------------------------------------------------------------------------- */

static bool is_before(const struct join_chunk *x, const struct join_chunk *y)
{
    if (x->chunk.min_t != y->chunk.min_t)
        return x->chunk.min_t < y->chunk.min_t;
    return x->chunk.max_t != y->chunk.max_t ? x->chunk.max_t < y->chunk.max_t : x->source < y->source;
}

static int by_time(const void *a, const void *b)
{
    return is_before(b, a) - is_before(a, b);
}

static bool is_same(const struct series_chunk *x, const struct series_chunk *y)
{
    return x->min_t == y->min_t && x->max_t == y->max_t && x->encoding == y->encoding && slice_eq(x->data, y->data);
}

static bool count_samples(const struct series_chunk *c, uint64_t *ret, struct err *err)
{
    int n = chunk_count(c->encoding, c->data);
    if (n < 0)
        return err_set(err, ERR_CORRUPT, "a chunk without a count");
    *ret = (uint64_t)n;
    return true;
}

static bool copy_chunk(struct join *m, const struct series_chunk *c, struct err *err)
{
    uint64_t n = 0;
    if (!count_samples(c, &n, err))
        return false;
    m->stats.samples_in += n;
    m->stats.samples_out += n;
    m->stats.chunks_copied++;
    return put_out(m, c, err);
}

/* Chunks [from, to), which touch each other's times. */
static bool join_group(struct join *m, size_t from, size_t to, struct err *err)
{
    size_t n = 0;
    arena_clear(&m->decoded);
    const struct join_chunk **kept = ARENA_ARRAY(&m->decoded, const struct join_chunk *, to - from);
    if (!kept)
        return no_memory(err);
    for (size_t i = from; i < to; i++) {
        const struct series_chunk *c = &m->in[i].chunk;
        bool same = false;
        /* Those with the same times are neighbours. */
        for (size_t k = n; k-- > 0 && !same && kept[k]->chunk.min_t == c->min_t && kept[k]->chunk.max_t == c->max_t;)
            same = is_same(&kept[k]->chunk, c);
        if (!same) {
            kept[n++] = &m->in[i];
            continue;
        }
        uint64_t count = 0;
        if (!count_samples(c, &count, err))
            return false;
        m->stats.samples_in += count;
        m->stats.duplicates += count;
    }
    return n == 1 ? copy_chunk(m, &kept[0]->chunk, err) : merge_group(m, kept, n, err);
}

bool join_finish(struct join *m, struct err *err)
{
    bool sorted = true;
    for (size_t i = 1; i < m->n_in && sorted; i++)
        sorted = is_before(&m->in[i - 1], &m->in[i]);
    if (!sorted)
        qsort(m->in, m->n_in, sizeof(*m->in), by_time);
    for (size_t from = 0, to; from < m->n_in; from = to) {
        int64_t max_t = m->in[from].chunk.max_t;
        for (to = from + 1; to < m->n_in && m->in[to].chunk.min_t <= max_t; to++)
            max_t = MAX(max_t, m->in[to].chunk.max_t);
        bool good = to == from + 1 ? copy_chunk(m, &m->in[from].chunk, err) : join_group(m, from, to, err);
        if (!good)
            return false;
    }
    return true;
}
