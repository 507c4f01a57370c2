/*
 * What does not depend on the encoding: dispatch, and the merge of the chunks of one series.
 */
#include "storage/chunk/chunk.h"

#include "base/assert.h"
#include "storage/chunk/histogram_int.h"

int chunk_count(enum chunk_encoding enc, struct slice data)
{
    switch (enc) {
    case CHUNK_XOR: return xor_count(data);
    case CHUNK_HISTOGRAM:
    case CHUNK_FLOAT_HISTOGRAM: return data.n < HISTOGRAM_HEADER_BITS / 8 ? -1 : xor_count(data);
    case CHUNK_NONE: break;
    }
    return -1;
}

static bool decode_xor(struct slice data, struct arena *arena, struct chunk_columns *ret, struct err *err)
{
    int n = xor_count(data);
    /* A sample takes two bits at least: that bounds what a false count can make us allocate. */
    if (n < 0 || (size_t)n > data.n * 4)
        return err_set(err, ERR_CORRUPT, "XOR chunk: %zu bytes cannot hold %d samples", data.n, n);
    int64_t *t = arena_array(arena, (size_t)MAX(n, 1), sizeof(*t));
    double *v = arena_array(arena, (size_t)MAX(n, 1), sizeof(*v));
    if (!t || !v)
        return err_set(err, ERR_NO_MEMORY, "not enough memory for an XOR chunk of %d samples", n);
    if (xor_decode(data, t, v, (size_t)n) != n)
        return err_set(err, ERR_CORRUPT, "XOR chunk: %zu bytes do not hold the %d samples they should", data.n, n);
    *ret = (struct chunk_columns){.n = (size_t)n, .t = t, .v = v};
    return true;
}

bool chunk_decode(enum chunk_encoding enc, struct slice data, struct arena *arena, struct chunk_columns *ret, struct err *err)
{
    switch (enc) {
    case CHUNK_XOR: return decode_xor(data, arena, ret, err);
    case CHUNK_HISTOGRAM: return histogram_chunk_decode(false, data, arena, ret, err);
    case CHUNK_FLOAT_HISTOGRAM: return histogram_chunk_decode(true, data, arena, ret, err);
    case CHUNK_NONE: break;
    }
    return err_set(err, ERR_CORRUPT, "unknown chunk encoding %d", (int)enc);
}

/* --- merge ---------------------------------------------------------------------------------------------------------------- */

/* Output of a merge, and where it stands. */
struct merge {
    size_t n;
    int64_t *t;
    double *v;
    const struct histogram **h; /* NULL = floats only */
    size_t last_col;            /* where the sample written last came from */
    size_t last_at;
};

static bool is_sorted(const int64_t *t, size_t n)
{
    bool sorted = true;
    for (size_t i = 1; i < n; i++)
        sorted &= t[i - 1] < t[i];
    return sorted;
}

/* Samples [from, to) of a column, which do not go back in time. */
static void merge_run(struct merge *m, const struct chunk_columns *col, size_t index, size_t from, size_t to)
{
    size_t k = to - from;
    memcpy(m->t + m->n, col->t + from, k * sizeof(*m->t));
    if (col->v) {
        memcpy(m->v + m->n, col->v + from, k * sizeof(*m->v));
        if (m->h)
            memset(m->h + m->n, 0, k * sizeof(*m->h));
    } else {
        bool follows = m->n && m->last_col == index && m->last_at + 1 == from;
        if (!follows && col->h[from].hint == HISTOGRAM_HINT_NOT_RESET)
            col->h[from].hint = HISTOGRAM_HINT_UNKNOWN;
        memset(m->v + m->n, 0, k * sizeof(*m->v));
        for (size_t i = 0; i < k; i++)
            m->h[m->n + i] = &col->h[from + i];
    }
    m->n += k;
    m->last_col = index;
    m->last_at = to - 1;
}

/* How far the column goes on from `from` without going back in time and without reaching `limit`. */
static size_t run_end(const struct chunk_columns *col, size_t from, int64_t limit, bool limited)
{
    size_t to = from + 1;
    while (to < col->n && col->t[to] > col->t[to - 1] && (!limited || col->t[to] < limit))
        to++;
    return to;
}

/*
 * Looks at the heads of all columns, takes a run from the earliest, and again: as many looks as there are runs, which is one a chunk where
 * chunks do not overlap. at[] is where each column stands.
 */
static void merge_all(struct merge *m, const struct chunk_columns *cols, size_t n_cols, size_t *at)
{
    for (;;) {
        size_t best = n_cols;
        int64_t limit = 0;
        bool limited = false;
        for (size_t c = 0; c < n_cols; c++) {
            while (m->n && at[c] < cols[c].n && cols[c].t[at[c]] <= m->t[m->n - 1])
                at[c]++;
            if (at[c] == cols[c].n)
                continue;
            int64_t t = cols[c].t[at[c]];
            if (best == n_cols) {
                best = c;
                continue;
            }
            bool earlier = t < cols[best].t[at[best]];
            int64_t other = earlier ? cols[best].t[at[best]] : t;
            limit = limited ? MIN(limit, other) : other;
            limited = true;
            if (earlier)
                best = c;
        }
        if (best == n_cols)
            return;
        size_t to = run_end(&cols[best], at[best], limit, limited);
        merge_run(m, &cols[best], best, at[best], to);
        at[best] = to;
    }
}

bool chunk_columns_merge(const struct chunk_columns *cols, size_t n_cols, struct arena *arena, struct chunk_samples *ret,
                         struct err *err)
{
    size_t total = 0, filled = 0, one = 0;
    bool histograms = false;
    for (size_t c = 0; c < n_cols; c++) {
        if (cols[c].n == 0)
            continue;
        total += cols[c].n;
        histograms |= cols[c].h != NULL;
        filled++;
        one = c;
    }
    if (filled == 0) {
        *ret = (struct chunk_samples){0};
        return true;
    }
    if (filled == 1 && !histograms && is_sorted(cols[one].t, cols[one].n)) {
        *ret = (struct chunk_samples){.n = cols[one].n, .t = cols[one].t, .v = cols[one].v};
        return true;
    }
    struct merge m = {.t = arena_array(arena, total, sizeof(*m.t)), .v = arena_array(arena, total, sizeof(*m.v))};
    size_t *at = arena_array(arena, n_cols, sizeof(*at));
    if (histograms)
        m.h = arena_array(arena, total, sizeof(*m.h));
    if (!m.t || !m.v || !at || (histograms && !m.h))
        return err_set(err, ERR_NO_MEMORY, "not enough memory to merge %zu samples", total);
    memset(at, 0, n_cols * sizeof(*at));
    merge_all(&m, cols, n_cols, at);
    *ret = (struct chunk_samples){.n = m.n, .t = m.t, .v = m.v, .h = m.h};
    return true;
}
