/* A head with a folder of local blocks, and a list of all samples that were pushed to it: for the tests of cutting. One thread. */
#pragma once

#include <criterion/criterion.h>
#include <sys/stat.h>

#include "ingest/blocks/local_blocks.h"
#include "ingest/cut_int.h"
#include "tests/ingest/head_rig.h"

struct cut_sample {
    char series[32]; /* as rig_push takes it */
    int64_t t;
    double v;
    bool histogram;
    int64_t offset; /* of its record */
    int seen;
};

struct cut_world {
    struct rig *rig;
    struct local_blocks *blocks;
    struct cut_sample *samples;
    size_t n;
    size_t cap;
    struct cut_result result;
    bool label;
    atomic_bool *stop;
    const char *push_at; /* pushes late samples there */
    const char *die_at;
    int die_nth;
    int pushes;
    struct buf answer;
};

static inline void cut_open_blocks(struct cut_world *w)
{
    char dir[128];
    struct err err = ERR_NONE;
    snprintf(dir, sizeof(dir), "%s/blocks", w->rig->dir);
    const struct local_blocks_config cfg = {.dir = dir};
    w->blocks = local_blocks_new(&cfg, &err);
    cr_assert(w->blocks, "%s", err.text);
}

static inline struct cut_world *cut_world_new(uint32_t n_shards)
{
    struct cut_world *w = calloc(1, sizeof(*w));
    w->rig = rig_new(n_shards);
    buf_init(&w->answer, 0);
    cut_open_blocks(w);
    return w;
}

static inline void cut_world_free(struct cut_world *w)
{
    local_blocks_free(w->blocks);
    rig_free(w->rig);
    buf_release(&w->answer);
    free(w->samples);
    free(w);
}

static inline struct histogram cut_histogram(double v)
{
    static const struct histogram_span span = {0, 2};
    static int64_t deltas[2];
    deltas[0] = (int64_t)v;
    deltas[1] = 1;
    return (struct histogram){.schema = 1,
                              .count_int = 2 * (uint64_t)v + 1,
                              .sum = v,
                              .positive_spans = &span,
                              .n_positive_spans = 1,
                              .positive_deltas = deltas,
                              .n_positive = 2};
}

static inline void cut_apply(struct cut_world *w, const struct cut_sample *s)
{
    w->rig->offset = s->offset;
    rig_series(w->rig, s->series);
    if (s->histogram) {
        struct histogram h = cut_histogram(s->v);
        rig_histogram(w->rig, s->t, &h);
    } else {
        rig_sample(w->rig, s->t, s->v);
    }
    rig_apply(w->rig);
}

/* t from T0 on; the sample must be one that is taken. */
static inline void cut_push_kind(struct cut_world *w, const char *series, int64_t t, double v, bool histogram)
{
    if (w->n == w->cap) {
        w->cap = w->cap ? 2 * w->cap : 1024;
        w->samples = realloc(w->samples, w->cap * sizeof(*w->samples));
    }
    struct cut_sample *s = &w->samples[w->n++];
    *s = (struct cut_sample){.t = T0 + t, .v = v, .histogram = histogram, .offset = w->rig->offset};
    snprintf(s->series, sizeof(s->series), "%s", series);
    cut_apply(w, s);
}

static inline void cut_push(struct cut_world *w, const char *series, int64_t t, double v)
{
    cut_push_kind(w, series, t, v, false);
}

/* Five hours of floats, histograms and late samples. */
static inline void cut_fill(struct cut_world *w)
{
    w->rig->limits.out_of_order_time_window = MAX(w->rig->limits.out_of_order_time_window, HOUR_MS);
    for (int k = 0; k <= 300; k++) {
        int64_t t = k * 60000;
        for (int i = 0; i < 4; i++) {
            char text[32];
            snprintf(text, sizeof(text), "m,i=%d,pod=p%d", i, i % 2);
            cut_push(w, text, t, i * k);
            if (k % 7 == 3)
                cut_push(w, text, t - 90000 - i, 0.25 * k);
        }
        cut_push_kind(w, "h,x=1", t, k, true);
        if (k % 50 == 49)
            cut_push_kind(w, "h,x=1", t - 30000, k, true);
        if (k < 30)
            cut_push(w, "gone", t, k);
    }
}

/* Late ones of all ranges, and newer ones. */
static inline void cut_fill_late(struct cut_world *w)
{
    int p = w->pushes++;
    for (int k = 1; k < 290; k += 3)
        cut_push(w, "m,i=1,pod=p1", k * 60000 + 1001 + p, k);
    cut_push_kind(w, "h,x=1", 100 * 60000 + 501 + p, 5, true);
    cut_push(w, "m,i=2,pod=p0", 301 * 60000 + p, 1);
    cut_push(w, "new", 290 * 60000 + p, p);
}

static inline void cut_at(void *arg, const char *point)
{
    struct cut_world *w = arg;
    if (w->die_at && strcmp(point, w->die_at) == 0 && --w->die_nth == 0)
        _exit(42);
    if (w->push_at && strcmp(point, w->push_at) == 0)
        cut_fill_late(w);
}

static inline bool cut_all_steps(struct cut_world *w, int64_t cut)
{
    struct cut_pace pace = {.at = cut_at, .arg = w, .stop = w->stop};
    struct err err = ERR_NONE;
    uint64_t bytes;
    bool ok = head_cut(w->rig->head, w->blocks, w->label, cut, &pace, &w->result, &err) &&
              head_save(w->rig->head, w->blocks, w->rig->offset - 1, &pace, &bytes, &err);
    if (!ok)
        fprintf(stderr, "cut: %s\n", err.text);
    return ok;
}

/* --- counting --- */

static inline void cut_see(struct cut_world *w, const char *series, int64_t t, bool histogram, double v)
{
    for (size_t i = 0; i < w->n; i++) {
        struct cut_sample *s = &w->samples[i];
        if (s->t != t || strcmp(s->series, series) != 0)
            continue;
        s->seen++;
        cr_expect_eq(s->histogram, histogram);
        cr_expect_eq(s->v, v, "%s at %lld: %g", series, (long long)(t - T0), v);
        return;
    }
    cr_expect(false, "%s at %lld was never pushed", series, (long long)(t - T0));
}

static inline void cut_see_series(struct cut_world *w, const struct series *s)
{
    struct buf text;
    struct arena arena;
    arena_init(&arena, 0);
    buf_init(&text, 0);
    rig_print_labels(s->labels, &text);
    for (size_t i = 0; i < s->n_chunks; i++) {
        struct chunk_columns cols;
        cr_assert(chunk_decode(s->chunks[i].encoding, s->chunks[i].data, &arena, &cols, NULL));
        for (size_t k = 0; k < cols.n; k++)
            cut_see(w, buf_cstr(&text), cols.t[k], cols.h != NULL, cols.h ? cols.h[k].sum : cols.v[k]);
    }
    buf_release(&text);
    arena_release(&arena);
}

static inline void cut_see_head(struct cut_world *w)
{
    struct arena arena;
    arena_init(&arena, 0);
    struct ctx ctx = {.tenant = SL("t"), .arena = &arena};
    struct err err = ERR_NONE;
    struct select_params p = {.min_t = INT64_MIN / 4, .max_t = INT64_MAX / 4};
    struct series_set *set = head_select(w->rig->head, &ctx, &p, &err);
    struct series s[16];
    size_t n;
    cr_assert(set);
    while (series_set_next(set, &ctx, s, 16, &n, &err) && n)
        for (size_t i = 0; i < n; i++)
            cut_see_series(w, &s[i]);
    series_set_release(set);
    arena_release(&arena);
}

static inline void cut_see_blocks(struct cut_world *w)
{
    size_t n;
    struct err err = ERR_NONE;
    struct local_block_info *list = local_blocks_list(w->blocks, SL("t"), &n);
    for (size_t i = 0; i < n; i++) {
        struct block *b = block_open(list[i].path, &err);
        cr_assert(b, "%s", err.text);
        cr_expect(block_verify(b, &err), "%s", err.text);
        struct block_scan *scan = block_scan_new(b, &err);
        struct series s;
        bool more = true;
        while (more) {
            cr_assert(block_scan_next(scan, &s, &more, &err), "%s", err.text);
            if (more)
                cut_see_series(w, &s);
        }
        block_scan_free(scan);
        block_close(b);
    }
    free(list);
}

/* Every sample pushed is in the head or in one published block. */
static inline void cut_expect_each_once(struct cut_world *w, const char *when)
{
    for (size_t i = 0; i < w->n; i++)
        w->samples[i].seen = 0;
    cut_see_head(w);
    cut_see_blocks(w);
    size_t wrong = 0;
    for (size_t i = 0; i < w->n; i++) {
        const struct cut_sample *s = &w->samples[i];
        if (s->seen != 1 && wrong++ < 5)
            cr_expect(false, "%s: %s at %lld is there %d times", when, s->series, (long long)(s->t - T0), s->seen);
    }
    cr_expect_eq(wrong, 0, "%s: %zu wrong", when, wrong);
}

static inline int rig_by_min_t(const void *a, const void *b)
{
    const struct series_chunk *x = a;
    const struct series_chunk *y = b;
    return (x->min_t > y->min_t) - (x->min_t < y->min_t);
}

/* What readers get of head and blocks together, merged by time. */
static inline const char *cut_ask(struct cut_world *w, int64_t from, int64_t to)
{
    struct arena arena;
    arena_init(&arena, 0);
    struct ctx ctx = {.tenant = SL("t"), .arena = &arena};
    struct select_params p = {.min_t = from, .max_t = to};
    struct local_block_refs refs;
    struct err err = ERR_NONE;
    struct series_chunk chunks[256];
    size_t n_chunks = 0;
    struct series s[16];
    size_t n;
    struct series_set *sets[64];
    size_t n_sets = 0;
    sets[n_sets++] = head_select(w->rig->head, &ctx, &p, &err);
    cr_assert(local_blocks_get(w->blocks, SL("t"), from, to, &refs, &err));
    for (size_t i = 0; i < refs.n; i++)
        sets[n_sets++] = block_select(local_block_reader(refs.blocks[i]), &ctx, &p, &err);
    for (size_t i = 0; i < n_sets; i++)
        while (series_set_next(sets[i], &ctx, s, 16, &n, &err) && n)
            for (size_t k = 0; k < n; k++)
                for (size_t c = 0; c < s[k].n_chunks; c++)
                    chunks[n_chunks++] = s[k].chunks[c];
    struct chunk_columns cols[256];
    struct chunk_samples merged;
    qsort(chunks, n_chunks, sizeof(chunks[0]), rig_by_min_t);
    for (size_t i = 0; i < n_chunks; i++)
        cr_assert(chunk_decode(chunks[i].encoding, chunks[i].data, &arena, &cols[i], &err));
    cr_assert(chunk_columns_merge(cols, n_chunks, &arena, &merged, &err));
    buf_clear(&w->answer);
    for (size_t i = 0; i < merged.n; i++)
        if (merged.t[i] >= from && merged.t[i] <= to)
            buf_printf(&w->answer, " %lld=%g", (long long)(merged.t[i] - T0), merged.v[i]);
    for (size_t i = 0; i < n_sets; i++)
        series_set_release(sets[i]);
    local_block_refs_release(&refs);
    arena_release(&arena);
    return buf_cstr(&w->answer);
}

/* --- restarts --- */

/* What a start does with what is on disk; then the log once more. */
static inline bool cut_reload(struct cut_world *w)
{
    char dir[128];
    struct err err = ERR_NONE;
    snprintf(dir, sizeof(dir), "%s/tenants/t", w->rig->dir);
    local_blocks_free(w->blocks);
    head_free(w->rig->head);
    cut_open_blocks(w);
    w->rig->head = head_load(SL("t"), dir, RIG_SEED, -1, &w->rig->totals, &err);
    cr_assert(w->rig->head, "%s", err.text);
    bool ok = local_blocks_publish_named(w->blocks, SL("t"), w->rig->head->cuts.names, w->rig->head->cuts.n_names, &err) &&
              local_blocks_load(w->blocks, &err);
    cr_expect(ok, "%s", err.text);
    int64_t offset = w->rig->offset;
    for (size_t i = 0; i < w->n; i++)
        cut_apply(w, &w->samples[i]);
    w->rig->offset = offset;
    return ok;
}

static inline bool cut_restart(struct cut_world *w)
{
    uint64_t bytes;
    struct err err = ERR_NONE;
    return head_save(w->rig->head, w->blocks, w->rig->offset - 1, NULL, &bytes, &err) && cut_reload(w);
}
