/* An ingester with a log of its own in a folder of its own, for whole-room tests. */
#pragma once

#include <pthread.h>

#include "ingest/ingester_int.h"
#include "log/record.h"
#include "tests/ingest/head_rig.h"

struct world {
    char dir[64];
    struct ingest_config cfg;
    struct plog_config log_cfg;
    struct limits limit_values;
    struct limits_provider limits;
    struct flag_set *flags;
    struct plog *log;
    struct plog *front; /* what the ingester is given instead of the log; NULL = the log itself */
    int64_t produce_ms; /* when the next record is produced; 0 = T0 */
    struct ingester *ing;
    bool hints;
    uint64_t hint_seed;
    struct write_metadata metadata; /* goes with the next push when it has a family */
    char *answer;
};

static inline void world_open_log(struct world *w)
{
    char dir[128];
    struct err err;
    snprintf(dir, sizeof(dir), "%s/log", w->dir);
    w->log = plog_open_embedded(&w->log_cfg, dir, &err);
    if (!w->log) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
}

static inline struct world *world_new(void)
{
    struct world *w = calloc(1, sizeof(*w));
    ingest_metrics_register();
    strcpy(w->dir, "/tmp/brunn-ingester-XXXXXX");
    if (!mkdtemp(w->dir))
        abort();
    w->flags = flag_set_new();
    flag_set_add(w->flags, "limits", limits_flags, limits_flags_n, &w->limit_values);
    flag_set_add(w->flags, "ingest", ingest_flags, ingest_flags_n, &w->cfg);
    flag_set_add(w->flags, "log", plog_flags, plog_flags_n, &w->log_cfg);
    w->cfg.retention_period = 0; /* T0 is long ago */
    w->cfg.head_shards = 4;
    w->limits.defaults = &w->limit_values;
    w->hint_seed = RIG_SEED;
    return w;
}

static inline bool world_try_start(struct world *w, struct err *err)
{
    char dir[128];
    if (!w->log)
        world_open_log(w);
    snprintf(dir, sizeof(dir), "%s/ingester", w->dir);
    w->ing = ingester_new(&w->cfg, &w->limits, w->front ? w->front : w->log, 0, dir, "ingester-0", RIG_SEED, err);
    return w->ing && ingester_start(w->ing, err);
}

static inline void world_start(struct world *w)
{
    struct err err;
    if (!world_try_start(w, &err)) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
}

static inline void world_stop(struct world *w)
{
    if (w->ing)
        ingester_stop(w->ing);
    ingester_free(w->ing);
    w->ing = NULL;
}

static inline void world_close_log(struct world *w)
{
    plog_close(w->log);
    w->log = NULL;
}

static inline void world_free(struct world *w)
{
    world_stop(w);
    world_close_log(w);
    flag_set_free(w->flags);
    nftw(w->dir, rig_unlink, 16, FTW_DEPTH | FTW_PHYS);
    free(w->answer);
    free(w);
}

/* --- producing --- */

struct world_produce {
    struct plog_produce p;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
    bool ok;
};

static inline void world_produced(struct plog_produce *p, const struct err *err)
{
    struct world_produce *w = CONTAINER_OF(p, struct world_produce, p);
    pthread_mutex_lock(&w->lock);
    w->done = true;
    w->ok = err == NULL;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static inline void world_produce(struct world *w, struct plog_record rec)
{
    struct world_produce p = {.p = {.records = &rec, .n = 1, .done = world_produced}};
    struct err err;
    pthread_mutex_init(&p.lock, NULL);
    pthread_cond_init(&p.cond, NULL);
    rec.timestamp_ms = w->produce_ms ? w->produce_ms : T0;
    if (!plog_produce(w->log, &p.p, &err))
        abort();
    pthread_mutex_lock(&p.lock);
    while (!p.done)
        pthread_cond_wait(&p.cond, &p.lock);
    pthread_mutex_unlock(&p.lock);
    if (!p.ok)
        abort();
    pthread_mutex_destroy(&p.lock);
    pthread_cond_destroy(&p.cond);
}

/* TimeSeries{labels, one sample}, in the batch's arena. */
static inline struct slice world_raw(struct arena *arena, struct slice labels, int64_t t, double v)
{
    struct buf b;
    buf_init(&b, 0);
    buf_put_slice(&b, labels);
    struct buf sample;
    buf_init(&sample, 0);
    buf_putc(&sample, 0x09);
    buf_put(&sample, &v, sizeof(v));
    buf_putc(&sample, 0x10);
    buf_put_uvarint(&sample, (uint64_t)t);
    buf_putc(&b, 0x12);
    buf_put_uvarint(&b, sample.n);
    buf_put_slice(&b, buf_slice(&sample));
    struct slice raw = arena_dup(arena, buf_slice(&b));
    buf_release(&sample);
    buf_release(&b);
    return raw;
}

static inline struct slice world_raw_metadata(struct arena *arena, const struct write_metadata *md)
{
    struct buf b;
    buf_init(&b, 0);
    const struct slice texts[] = {md->family, md->help, md->unit};
    const char tags[] = {0x12, 0x22, 0x2A};
    buf_putc(&b, 0x08);
    buf_put_uvarint(&b, md->type);
    for (int i = 0; i < 3; i++) {
        buf_putc(&b, tags[i]);
        buf_put_uvarint(&b, texts[i].n);
        buf_put_slice(&b, texts[i]);
    }
    struct slice raw = arena_dup(arena, buf_slice(&b));
    buf_release(&b);
    return raw;
}

static inline void world_push(struct world *w, const char *tenant, const char *series, int64_t t, double v)
{
    struct record_batch *batch = record_batch_new(0);
    struct write_request *req = &batch->req;
    struct write_sample *sample = ARENA_NEW(&batch->arena, struct write_sample);
    struct write_series *s = ARENA_NEW(&batch->arena, struct write_series);
    *sample = (struct write_sample){t, v};
    s->labels = rig_labels(&batch->arena, series);
    s->raw = world_raw(&batch->arena, s->labels, t, v);
    s->hash = series_hash_of(s->labels, w->hint_seed);
    s->flags = WRITE_SERIES_SPAN_WHOLE | WRITE_SERIES_CANONICAL;
    s->n_samples = 1;
    *req = (struct write_request){.series = s, .n_series = 1, .samples = sample, .n_samples = 1};
    if (w->metadata.family.n) {
        struct write_metadata *md = ARENA_NEW(&batch->arena, struct write_metadata);
        *md = w->metadata;
        md->raw = world_raw_metadata(&batch->arena, md);
        req->metadata = md;
        req->n_metadata = 1;
    }
    batch->hash_seed = w->hint_seed;
    batch->hashed = true;
    struct buf value;
    buf_init(&value, 0);
    const uint32_t zero = 0;
    record_encode_v0(req, &zero, 1, &zero, req->n_metadata, &value);
    struct record_hint *hint = w->hints ? record_hint_new(batch) : NULL;
    world_produce(w, (struct plog_record){
                         .tenant = slice_of(tenant), .value = buf_slice(&value), .hint = hint ? &hint->hint : NULL});
    if (hint)
        plog_hint_unref(&hint->hint);
    record_batch_unref(batch);
    buf_release(&value);
}

/* All series of the tenant, after everything that the log holds is consumed. */
static inline const char *world_ask(struct world *w, const char *tenant)
{
    struct arena arena;
    arena_init(&arena, 0);
    struct ctx ctx = {.tenant = slice_of(tenant), .arena = &arena};
    struct err err = ERR_NONE;
    int64_t first;
    int64_t next;
    struct buf out;
    buf_init(&out, 0);
    struct select_params p = {.min_t = INT64_MIN / 4, .max_t = INT64_MAX / 4};
    struct queryable *q = ingester_queryable(w->ing);
    struct series_set *set = NULL;
    if (plog_offsets(w->log, 0, &first, &next, &err) && ingester_wait(w->ing, next, &ctx, &err))
        set = q->ops->select(q, &ctx, &p, &err);
    if (set)
        rig_print_set(set, &ctx, false, &out);
    else
        buf_puts(&out, err.text);
    series_set_release(set);
    free(w->answer);
    w->answer = strdup(buf_cstr(&out));
    buf_release(&out);
    arena_release(&arena);
    return w->answer;
}
