/*
 * Samples of one series after the other: chunks to columns, which are reused from series to series and grow to the longest one. A series is decoded once,
 * whatever the number of steps.
 */
#include "read/promql/engine_int.h"

#include <string.h>

static const char narrow[] = " Consider reducing the time range and/or number of series selected by the query. One way to reduce the number of "
                             "selected series is to add more label matchers to the query. Otherwise, to adjust the related per-tenant limit, "
                             "configure -%s, or contact your service administrator.";

bool reader_open_lane(struct reader *r, struct env *env, int64_t min_t, int64_t max_t)
{
    *r = (struct reader){.env = env, .min_t = min_t, .max_t = max_t};
    return (r->mem = env_arena(env)) && (r->scratch = env_arena(env));
}

bool reader_open(struct reader *r, struct env *env, const struct vector_selector *sel, const struct label_names *labels, int64_t min_t, int64_t max_t,
                 const struct downsampled_use *use, struct select_hints *windows)
{
    struct select_params p = {.min_t = min_t, .max_t = max_t, .matchers = sel->matchers, .n_matchers = sel->n_matchers, .labels = labels};
    struct set_ref *ref = ENV_NEW(env, struct set_ref);
    if (!reader_open_lane(r, env, min_t, max_t) || !ref || !(r->buf = env_alloc(env, r->mem, READER_SERIES * sizeof(*r->buf))))
        return false;
    if (use) {
        r->use = use;
        r->downsampled.refused = &env->downsampled_refused;
        windows->aggregates = downsampled_aggregates(use);
        windows->ret = &r->downsampled;
        p.hints = windows;
    }
    r->set = env->q->ops->select(env->q, env->ctx, &p, env->err);
    if (!r->set)
        return false;
    ref->set = r->set;
    ref->next = env->sets;
    env->sets = ref;
    return true;
}

void reader_end(struct reader *r)
{
    env_arena_end(r->env, r->mem);
    env_arena_end(r->env, r->scratch);
    r->mem = r->scratch = NULL;
    r->buf = NULL;
    if (r->counts)
        reader_end(r->counts);
}

static bool limit_exceeded(struct env *env, enum err_code code, const char *what, uint64_t limit, const char *unit, const char *id, const char *flag)
{
    char hint[512];
    _Static_assert(sizeof(narrow) + 64 < sizeof(hint), "the hint with a flag's name fits");
    struct buf b;
    buf_init(&b, sizeof(hint));
    buf_printf(&b, narrow, flag);
    env_fail(env, code, "the query exceeded the %s (limit: %llu %s) (err-mimir-%s).%s", what, (unsigned long long)limit, unit, id, buf_cstr(&b));
    buf_release(&b);
    return false;
}

bool reader_charge(struct reader *r, const struct series *s)
{
    struct env *env = r->env;
    const struct engine_config *cfg = env->cfg;
    env->n_series++;
    env->n_chunks += s->n_chunks;
    for (size_t i = 0; i < s->n_chunks; i++)
        env->chunk_bytes += s->chunks[i].data.n;
    if (cfg->max_series && env->n_series > cfg->max_series)
        return limit_exceeded(env, ERR_MAX_SERIES_PER_QUERY, "maximum number of series", cfg->max_series, "series", "max-series-per-query",
                              "querier.max-fetched-series-per-query");
    if (cfg->max_chunks && env->n_chunks > cfg->max_chunks)
        return limit_exceeded(env, ERR_MAX_CHUNKS_PER_QUERY, "maximum number of chunks", cfg->max_chunks, "chunks", "max-chunks-per-query",
                              "querier.max-fetched-chunks-per-query");
    if (cfg->max_chunk_bytes && env->chunk_bytes > cfg->max_chunk_bytes)
        return limit_exceeded(env, ERR_MAX_CHUNK_BYTES_PER_QUERY, "aggregated chunks size limit", cfg->max_chunk_bytes, "bytes",
                              "max-chunks-bytes-per-query", "querier.max-fetched-chunk-bytes-per-query");
    return true;
}

bool reader_next(struct reader *r, struct arena *mem, size_t room, const struct series **ret)
{
    *ret = NULL;
    if (r->i == r->n) {
        r->i = r->n = 0;
        if (!env_tick(r->env) || !series_set_next_in(r->set, r->env->ctx, mem, r->buf, MIN(room, (size_t)READER_SERIES), &r->n, r->env->err))
            return false;
        if (r->n == 0)
            return true;
    }
    *ret = &r->buf[r->i++];
    r->n_series++;
    return reader_charge(r, *ret);
}

static bool reserve(struct reader *r, size_t n, size_t used, bool hists)
{
    struct env *env = r->env;
    if (n > r->cap) {
        size_t cap = MAX(r->cap * 2, (size_t)1024);
        while (cap < n)
            cap *= 2;
        int64_t *t = env_alloc(env, r->mem, cap * sizeof(*t));
        double *v = t ? env_alloc(env, r->mem, cap * sizeof(*v)) : NULL;
        if (!v)
            return false;
        if (used) {
            memcpy(t, r->t, used * sizeof(*t));
            memcpy(v, r->v, used * sizeof(*v));
        }
        if (r->h) {
            const struct fhist **h = env_zalloc(env, r->mem, cap, sizeof(*h));
            if (!h)
                return false;
            memcpy(h, r->h, used * sizeof(*h));
            r->h = h;
        }
        r->t = t;
        r->v = v;
        r->cap = cap;
    }
    if (hists && !r->h)
        return (r->h = env_zalloc(env, r->mem, r->cap, sizeof(*r->h))) != NULL;
    return true;
}

static bool decode_hists(struct reader *r, const struct series_chunk *c, struct arena *hist_mem, size_t *n)
{
    struct env *env = r->env;
    struct chunk_columns cols;
    arena_clear(r->scratch);
    if (!chunk_decode(c->encoding, c->data, r->scratch, &cols, env->err))
        return r->scratch->overflow ? env_memory_error(env) : false;
    if (!reserve(r, *n + cols.n, *n, true))
        return false;
    for (size_t i = 0; i < cols.n; i++) {
        if (cols.t[i] < r->min_t || cols.t[i] > r->max_t)
            continue;
        /* Custom bounds and the like lie in the scratch memory: the copy is deep. */
        struct fhist *h = fhist_from(&cols.h[i], r->scratch);
        if (!h || !(h = fhist_dup(h, hist_mem)))
            return env_memory_error(env);
        r->t[*n] = cols.t[i];
        r->v[*n] = 0;
        r->h[*n] = h;
        ++*n;
    }
    return true;
}

bool reader_floats(struct reader *r, const struct series_chunk *c, size_t *n)
{
    int count = xor_count(c->data);
    if (count < 0 || !reserve(r, *n + (size_t)MAX(count, 0), *n, false))
        return count < 0 ? env_fail(r->env, ERR_CORRUPT, "a chunk of %zu bytes cannot be decoded", c->data.n) : false;
    int64_t *t = r->t + *n;
    double *v = r->v + *n;
    int got = xor_decode(c->data, t, v, (size_t)count);
    if (got < 0)
        return env_fail(r->env, ERR_CORRUPT, "a chunk of %zu bytes cannot be decoded", c->data.n);
    size_t lo = 0, hi = (size_t)got;
    while (lo < hi && t[lo] < r->min_t)
        lo++;
    while (hi > lo && t[hi - 1] > r->max_t)
        hi--;
    if (lo && hi > lo) {
        memmove(t, t + lo, (hi - lo) * sizeof(*t));
        memmove(v, v + lo, (hi - lo) * sizeof(*v));
    }
    if (r->h)
        memset(r->h + *n, 0, (hi - lo) * sizeof(*r->h));
    *n += hi - lo;
    return true;
}

/* Where the samples from t on begin. */
static size_t first_from(const int64_t *times, size_t n, int64_t t)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (times[mid] < t)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/*
 * Out-of-order data: [0, at) and [at, n) are each in order. Merges them; of two samples at one time the first run's stays. What lies before the second run stays where it is: chunks come by
 * their beginnings, so that is nearly all, and two stores of the same series would otherwise cost the square of their chunks.
 */
static bool merge_runs(struct reader *r, size_t at, size_t *n)
{
    struct env *env = r->env;
    size_t from = first_from(r->t, at, r->t[at]), most = *n - from;
    arena_clear(r->scratch);
    int64_t *t = env_alloc(env, r->scratch, most * sizeof(*t));
    double *v = t ? env_alloc(env, r->scratch, most * sizeof(*v)) : NULL;
    const struct fhist **h = v ? env_zalloc(env, r->scratch, most, sizeof(*h)) : NULL;
    if (!h)
        return false;
    size_t i = from, j = at, k = 0;
    while (i < at || j < *n) {
        size_t next;
        if (j == *n || (i < at && r->t[i] <= r->t[j])) {
            if (j < *n && r->t[i] == r->t[j])
                j++;
            next = i++;
        } else {
            next = j++;
        }
        t[k] = r->t[next];
        v[k] = r->v[next];
        h[k++] = r->h ? r->h[next] : NULL;
    }
    memcpy(r->t + from, t, k * sizeof(*t));
    memcpy(r->v + from, v, k * sizeof(*v));
    if (r->h)
        memcpy(r->h + from, h, k * sizeof(*h));
    *n = from + k;
    return true;
}

bool reader_merge(struct reader *r, size_t before, size_t *n)
{
    return before == 0 || *n == before || r->t[before] > r->t[before - 1] || merge_runs(r, before, n);
}

static bool take_samples(struct reader *r, struct samples *s)
{
    r->env->samples_read += s->n;
    r->env->samples_most = MAX(r->env->samples_most, s->n);
    return !r->env->cfg->max_samples || r->env->samples_held + s->n <= r->env->cfg->max_samples || env_hold_samples(r->env, s->n);
}

bool reader_decode(struct reader *r, const struct series *s, struct arena *hist_mem, struct samples *ret)
{
    size_t n = 0;
    bool hists = false;
    if (r->use && downsampled_in(s))
        return downsampled_decode(r, s, ret) && take_samples(r, ret);
    for (size_t i = 0; i < s->n_chunks; i++) {
        const struct series_chunk *c = &s->chunks[i];
        if (c->max_t < r->min_t || c->min_t > r->max_t)
            continue;
        size_t before = n;
        bool ok = c->encoding == CHUNK_XOR ? reader_floats(r, c, &n) : decode_hists(r, c, hist_mem, &n);
        if (!ok)
            return false;
        hists |= c->encoding != CHUNK_XOR;
        if (!reader_merge(r, before, &n))
            return false;
    }
    *ret = (struct samples){.n = n, .t = r->t, .v = r->v, .h = hists ? (const struct fhist *const *)r->h : NULL};
    return take_samples(r, ret);
}

/* Takes the stale markers out, in the reader's own columns. */
void strip_stale(struct reader *r, struct samples *s)
{
    size_t k = 0;
    if (!s->h && !floats_any_nan(s->v, s->n))
        return;
    for (size_t i = 0; i < s->n; i++) {
        bool stale = s->h && s->h[i] ? s->h[i]->stale : is_stale_nan(s->v[i]);
        if (stale)
            continue;
        if (k != i) {
            r->t[k] = r->t[i];
            r->v[k] = r->v[i];
            if (s->h)
                r->h[k] = r->h[i];
        }
        k++;
    }
    s->n = k;
}

bool reader_start_times(struct reader *r, const struct series *series, struct samples *s)
{
    struct start_times *source = r->env->query->start_times;
    const struct start_time *starts;
    size_t n;
    if (!source || s->n == 0)
        return true;
    source->of_series(source, series->labels, s->t[0], s->t[s->n - 1], &starts, &n);
    if (n == 0)
        return true;
    arena_clear(r->scratch);
    int64_t *start_t = env_zalloc(r->env, r->scratch, s->n, sizeof(*start_t));
    if (!start_t)
        return false;
    for (size_t i = 0, k = 0; i < s->n; i++) {
        while (k < n && starts[k].t < s->t[i])
            k++;
        if (k < n && starts[k].t == s->t[i])
            start_t[i] = starts[k].start_t;
    }
    s->start_t = start_t;
    return true;
}

void mark_resets(struct samples *s, struct arena *scratch)
{
    const struct fhist *last = NULL;
    for (size_t i = 0; s->h && i < s->n; i++) {
        struct fhist *h = (struct fhist *)s->h[i]; /* made by the decode this follows */
        if (!h || h->stale)
            continue;
        arena_clear(scratch);
        if (last && h->hint == HISTOGRAM_HINT_UNKNOWN)
            h->hint = fhist_is_reset(h, last, scratch) ? HISTOGRAM_HINT_RESET : HISTOGRAM_HINT_NOT_RESET;
        last = h;
    }
    for (size_t i = 0; s->h && i < s->n; i++) {
        struct fhist *h = (struct fhist *)s->h[i];
        if (!h)
            continue;
        h->pos.n = h->neg.n = 0;
        h->zero_count = h->zero_threshold = 0;
        h->n_custom = 0;
        h->stored_size = 0;
    }
}
