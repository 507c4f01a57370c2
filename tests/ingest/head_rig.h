/*
 * A head to push to and ask, for the tests of this room. Series are written "name,a=1,b=2"; answers come back as text,
 * one line a series, sorted: "name,a=1,b=2: 1000=1 2000=2.5". Everything is on one thread.
 */
#pragma once

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/dtoa.h"
#include "ingest/checkpoint_int.h"
#include "ingest/cut_int.h"
#include "ingest/ingest.h"
#include "ingest/ingest_metrics_int.h"
#include "ingest/query_int.h"

#define RIG_SEED 12345u
#define HOUR_MS (3600 * 1000LL)
/* A timestamp at the start of a two-hour range. */
#define T0 (1700006400000LL)

struct rig {
    char dir[64];
    struct limits limits;
    struct flag_set *flags;
    struct head_totals totals;
    struct head *head;
    struct arena arena; /* of the record being built */
    struct write_request req;
    struct write_series series[4096]; /* req's */
    struct write_sample samples[65536];
    struct slice histograms[4096];
    struct write_exemplar exemplars[4096];
    struct head_row rows[4096];
    size_t n_rows;
    int64_t offset;            /* of the next record */
    struct head_counts counts; /* of the last apply */
    char *answer;
};

static inline int rig_unlink(const char *path, const struct stat *sb, int type, struct FTW *f)
{
    (void)sb, (void)type, (void)f;
    return remove(path);
}

static inline struct head *rig_make_head(struct rig *r, uint32_t n_shards)
{
    char dir[128];
    char chunks[256];
    struct err err = ERR_NONE;
    snprintf(dir, sizeof(dir), "%s/tenants/t", r->dir);
    snprintf(chunks, sizeof(chunks), "%s/chunks", dir);
    struct chunk_store *cs = chunk_store_new(chunks, &err);
    if (!cs)
        abort();
    return head_new(SL("t"), dir, RIG_SEED, n_shards, cs, &r->totals);
}

static inline void rig_begin(struct rig *r)
{
    arena_clear(&r->arena);
    r->n_rows = 0;
    r->req = (struct write_request){.series = r->series, .samples = r->samples, .histograms = r->histograms, .exemplars = r->exemplars};
}

static inline struct rig *rig_new(uint32_t n_shards)
{
    struct rig *r = calloc(1, sizeof(*r));
    ingest_metrics_register();
    strcpy(r->dir, "/tmp/brunn-head-XXXXXX");
    if (!mkdtemp(r->dir))
        abort();
    r->flags = flag_set_new();
    flag_set_add(r->flags, "limits", limits_flags, limits_flags_n, &r->limits);
    arena_init(&r->arena, 0);
    r->head = rig_make_head(r, n_shards);
    rig_begin(r);
    return r;
}

static inline void rig_free(struct rig *r)
{
    head_free(r->head);
    arena_release(&r->arena);
    flag_set_free(r->flags);
    nftw(r->dir, rig_unlink, 16, FTW_DEPTH | FTW_PHYS);
    free(r->answer);
    free(r);
}

/* "name,a=1" -> canonical bytes in the record's arena. */
static inline struct slice rig_labels(struct arena *arena, const char *text)
{
    struct label items[64];
    size_t n = 0;
    const char *p = text;
    while (*p) {
        size_t len = strcspn(p, ",");
        const char *eq = memchr(p, '=', len);
        if (eq)
            items[n++] =
                (struct label){slice_make(p, (size_t)(eq - p)), slice_make(eq + 1, len - (size_t)(eq - p) - 1)};
        else if (len)
            items[n++] = (struct label){SL(METRIC_NAME_LABEL), slice_make(p, len)};
        p += len + (p[len] == ',');
    }
    labels_sort(items, n);
    struct buf b;
    buf_init(&b, 0);
    labels_put_canonical((struct labels){items, n}, &b);
    struct slice s = arena_dup(arena, buf_slice(&b));
    buf_release(&b);
    return s;
}

/* A row for the series; its samples follow by rig_sample or rig_histogram. */
static inline struct write_series *rig_series(struct rig *r, const char *text)
{
    struct write_series *s = &r->req.series[r->req.n_series++];
    *s = (struct write_series){.labels = rig_labels(&r->arena, text), .flags = WRITE_SERIES_CANONICAL};
    s->hash = series_hash_of(s->labels, RIG_SEED);
    s->first_sample = (uint32_t)r->req.n_samples;
    s->first_histogram = (uint32_t)r->req.n_histograms;
    s->first_exemplar = (uint32_t)r->req.n_exemplars;
    r->rows[r->n_rows++] = (struct head_row){.hash = s->hash, .series = s};
    return s;
}

static inline void rig_sample(struct rig *r, int64_t t, double v)
{
    struct write_series *s = &r->req.series[r->req.n_series - 1];
    r->req.samples[r->req.n_samples++] = (struct write_sample){t, v};
    s->n_samples++;
}

static inline void rig_histogram(struct rig *r, int64_t t, const struct histogram *h)
{
    struct buf b;
    buf_init(&b, 0);
    histogram_encode_proto(h, t, &b);
    r->req.histograms[r->req.n_histograms++] = arena_dup(&r->arena, buf_slice(&b));
    r->req.series[r->req.n_series - 1].n_histograms++;
    buf_release(&b);
}

static inline void rig_exemplar(struct rig *r, const char *labels, int64_t t, double v)
{
    struct write_exemplar *x = &r->req.exemplars[r->req.n_exemplars++];
    *x = (struct write_exemplar){.labels = rig_labels(&r->arena, labels), .t = t, .v = v};
    r->req.series[r->req.n_series - 1].n_exemplars++;
}

/* Applies what was built as one record with the next offset. */
static inline void rig_apply_at(struct rig *r, int64_t offset)
{
    static struct head_row sorted[4096];
    struct arena scratch;
    arena_init(&scratch, 0);
    struct head_record rec = {.req = &r->req, .offset = offset, .timestamp_ms = T0};
    head_apply(r->head, &r->limits, &rec, 1, r->rows, sorted, r->n_rows, &scratch, &r->counts);
    arena_release(&scratch);
    rig_begin(r);
}

static inline void rig_apply(struct rig *r)
{
    rig_apply_at(r, r->offset++);
}

static inline void rig_push(struct rig *r, const char *series, int64_t t, double v)
{
    rig_series(r, series);
    rig_sample(r, t, v);
    rig_apply(r);
}

/* --- asking --- */

struct rig_matcher {
    enum matcher_type type;
    const char *name;
    const char *value;
};
#define EQ(n, v)                                                                                                       \
    {                                                                                                                  \
        MATCH_EQ, n, v                                                                                                 \
    }
#define NEQ(n, v)                                                                                                      \
    {                                                                                                                  \
        MATCH_NEQ, n, v                                                                                                \
    }
#define RE(n, v)                                                                                                       \
    {                                                                                                                  \
        MATCH_RE, n, v                                                                                                 \
    }
#define NRE(n, v)                                                                                                      \
    {                                                                                                                  \
        MATCH_NRE, n, v                                                                                                \
    }

static inline void rig_print_labels(struct labels l, struct buf *out)
{
    buf_put_slice(out, labels_get(l, SL(METRIC_NAME_LABEL)));
    for (size_t i = 0; i < l.n; i++)
        if (!slice_eq(l.items[i].name, SL(METRIC_NAME_LABEL)))
            buf_printf(out, ",%.*s=%.*s", SL_FMT(l.items[i].name), SL_FMT(l.items[i].value));
}

static inline void rig_print_chunk(const struct series_chunk *c, struct arena *arena, struct buf *out)
{
    struct chunk_columns cols;
    struct err err;
    if (!chunk_decode(c->encoding, c->data, arena, &cols, &err)) {
        buf_printf(out, " undecodable(%s)", err.text);
        return;
    }
    if (cols.n == 0 || cols.t[0] != c->min_t || cols.t[cols.n - 1] != c->max_t)
        buf_puts(out, " wrong-range");
    for (size_t i = 0; i < cols.n; i++) {
        char v[DTOA_MAX];
        if (cols.v) {
            buf_printf(out, " %lld=%.*s", (long long)(cols.t[i] - T0), (int)dtoa_fixed(cols.v[i], v), v);
            continue;
        }
        const struct histogram *h = &cols.h[i];
        double count = h->is_float ? h->count : (double)h->count_int;
        buf_printf(out, " %lld=%s%.*s", (long long)(cols.t[i] - T0), h->is_float ? "fh" : "h",
                   (int)dtoa_fixed(count, v), v);
        if (is_stale_nan(h->sum))
            buf_puts(out, "stale");
    }
}

static inline int rig_by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static inline void rig_print_set(struct series_set *set, struct ctx *ctx, bool no_chunks, struct buf *out)
{
    char *lines[8192];
    size_t n_lines = 0;
    struct series batch[7];
    size_t n;
    struct err err = ERR_NONE;
    while (series_set_next(set, ctx, batch, 7, &n, &err) && n) {
        for (size_t i = 0; i < n; i++) {
            struct buf b;
            buf_init(&b, 0);
            rig_print_labels(batch[i].labels, &b);
            if (!no_chunks)
                buf_puts(&b, ":");
            for (size_t k = 0; !no_chunks && k < batch[i].n_chunks; k++) {
                if (k)
                    buf_puts(&b, " |");
                rig_print_chunk(&batch[i].chunks[k], ctx->arena, &b);
            }
            lines[n_lines++] = strdup(buf_cstr(&b));
            buf_release(&b);
        }
    }
    if (err.code != ERR_OK)
        buf_printf(out, "error %s\n", err_name(err.code));
    qsort(lines, n_lines, sizeof(*lines), rig_by_text);
    for (size_t i = 0; i < n_lines; i++) {
        buf_printf(out, "%s\n", lines[i]);
        free(lines[i]);
    }
}

struct rig_ask {
    const struct rig_matcher *m;
    size_t n;
    int64_t min_t;
    int64_t max_t;
    bool no_chunks;
    size_t limit;
    const char *values_of; /* label values of this name; "" = label names; NULL = series */
    size_t budget_bytes;
    bool exemplars;
};

/* The answer stays valid until the next question. */
static inline const char *rig_ask(struct rig *r, struct rig_ask ask)
{
    struct matcher ms[16];
    struct err err = ERR_NONE;
    for (size_t i = 0; i < ask.n; i++)
        if (!matcher_init(&ms[i], ask.m[i].type, slice_of(ask.m[i].name), slice_of(ask.m[i].value), &err))
            abort();
    struct arena arena;
    arena_init(&arena, ask.budget_bytes);
    struct ctx ctx = {.tenant = SL("t"), .arena = &arena};
    struct select_params p = {.min_t = ask.min_t,
                              .max_t = ask.max_t,
                              .matchers = ms,
                              .n_matchers = ask.n,
                              .no_chunks = ask.no_chunks,
                              .limit = ask.limit};
    struct buf out;
    buf_init(&out, 0);
    const struct slice *list = NULL;
    size_t n = 0;
    bool ok = true;
    if (ask.exemplars) {
        const struct exemplar_series *xs;
        ok = head_exemplars(r->head, &ctx, &p, &xs, &n, &err);
        for (size_t i = 0; ok && i < n; i++) {
            rig_print_labels(xs[i].labels, &out);
            buf_putc(&out, ':');
            for (size_t k = 0; k < xs[i].n; k++) {
                buf_printf(&out, " %lld=%g{", (long long)(xs[i].exemplars[k].t - T0), xs[i].exemplars[k].v);
                rig_print_labels(xs[i].exemplars[k].labels, &out);
                buf_putc(&out, '}');
            }
            buf_putc(&out, '\n');
        }
    } else if (ask.values_of) {
        ok = *ask.values_of ? head_label_values(r->head, &ctx, slice_of(ask.values_of), &p, &list, &n, &err)
                            : head_label_names(r->head, &ctx, &p, &list, &n, &err);
        for (size_t i = 0; ok && i < n; i++)
            buf_printf(&out, "%s%.*s", i ? " " : "", SL_FMT(list[i]));
    } else {
        struct series_set *set = head_select(r->head, &ctx, &p, &err);
        ok = set != NULL;
        if (set) {
            rig_print_set(set, &ctx, ask.no_chunks, &out);
            series_set_release(set);
        }
    }
    if (!ok)
        buf_printf(&out, "error %s", err_name(err.code));
    for (size_t i = 0; i < ask.n; i++)
        matcher_release(&ms[i]);
    arena_release(&arena);
    free(r->answer);
    r->answer = strdup(buf_cstr(&out));
    buf_release(&out);
    return r->answer;
}

#define ASK(r, ...)                                                                                                    \
    rig_ask((r), (struct rig_ask){.m = (const struct rig_matcher[]){__VA_ARGS__},                                      \
                                  .n = sizeof((const struct rig_matcher[]){__VA_ARGS__}) / sizeof(struct rig_matcher), \
                                  .min_t = INT64_MIN / 4,                                                              \
                                  .max_t = INT64_MAX / 4})
#define ASK_ALL(r) rig_ask((r), (struct rig_ask){.min_t = INT64_MIN / 4, .max_t = INT64_MAX / 4})
#define ASK_RANGE(r, from, to) rig_ask((r), (struct rig_ask){.min_t = (from), .max_t = (to)})

/* What a cut takes out of the head, without its blocks; how many series left. */
static inline uint64_t rig_truncate(struct rig *r, int64_t cut)
{
    uint64_t mark;
    struct err err;
    if (!head_seal(r->head, cut, NULL, &mark, &err))
        abort();
    pthread_mutex_lock(&r->head->cuts.lock);
    uint64_t removed = head_truncate(r->head, cut, mark, NULL);
    pthread_mutex_unlock(&r->head->cuts.lock);
    return removed;
}

/* Checkpoint, forget, load: what a restart does to a head. */
static inline bool rig_restart(struct rig *r, struct err *err)
{
    uint64_t bytes;
    if (!head_checkpoint(r->head, r->offset - 1, &bytes, err))
        return false;
    char dir[128];
    snprintf(dir, sizeof(dir), "%s/tenants/t", r->dir);
    head_free(r->head);
    r->head = head_load(SL("t"), dir, RIG_SEED, -1, &r->totals, err);
    return r->head != NULL;
}
