/*
 * A tenant's downsampled blocks (storage/downsample), made when its compaction has come to rest: of each block of a settled day (plan_settled) that is old enough, a
 * block for each aggregate, first of 5 minutes, then, of those, of an hour.
 *
 * Everything has the name of the block that it was made of, and the same bytes whoever makes it. So there is nothing to agree on and nothing to undo: what is
 * missing is made, and what is there is left alone. Killed anywhere, the next run finds some aggregates with a meta.json and makes the others; files of an upload that
 * was broken off are there with their size and are not sent again. A block of aggregates whose raw block has become part of another one speaks of samples
 * that the other has as well, perhaps with more: it is marked for deletion, and made anew out of that other. One whose raw block has expired stays.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "base/parallel.h"
#include "storage/compactor/compactor_int.h"
#include "storage/compactor/merge.h"
#include "storage/compactor/tree_int.h"
#include "storage/downsample/downsample.h"

#define OUTDATED_DETAILS "outdated: the block that it was made of was compacted"

struct item {
    const struct plan_block *block;
    enum downsample_resolution resolution;
};

struct downsampling {
    struct compactor *c;
    const struct ctx *ctx;
    struct slice tenant;
    const struct tenant_blocks *raw;
    struct tenant_blocks *rooms[DOWNSAMPLE_RESOLUTIONS][DOWNSAMPLE_AGGREGATES]; /* owned */
    struct item *items; /* owned; those of one resolution */
    size_t n_items;
};

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory to downsample");
}

static const struct plan_block *find(const struct tenant_blocks *t, const struct ulid *id)
{
    size_t from = 0, to = t->n;
    while (from < to) {
        size_t mid = from + (to - from) / 2;
        int cmp = strcmp(t->blocks[mid].id.text, id->text);
        if (cmp == 0)
            return &t->blocks[mid];
        if (cmp < 0)
            from = mid + 1;
        else
            to = mid;
    }
    return NULL;
}

/* --- what there is ---------------------------------------------------------------------------------------------------------------- */

static bool read_rooms(struct downsampling *d, struct err *err)
{
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++) {
            struct bucket_name room = downsample_room(d->tenant, r, a);
            d->rooms[r][a] = tenant_blocks_read(d->c, d->ctx, bucket_name_slice(&room), err);
            if (!d->rooms[r][a])
                return false;
        }
    return true;
}

static void keep_rooms(struct downsampling *d)
{
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++)
            if (d->rooms[r][a])
                tenant_blocks_keep(d->c, d->rooms[r][a]);
}

static bool has_sources(const struct plan_block *b, const struct plan_block *of)
{
    for (size_t i = 0; i < of->n_sources; i++) {
        bool has = false;
        for (size_t k = 0; k < b->n_sources && !has; k++)
            has = strcmp(b->sources[k].text, of->sources[i].text) == 0;
        if (!has)
            return false;
    }
    return of->n_sources > 0;
}

/*
 * Whether a raw block that is there now has what this one was made of. The shards of a split have the same sources, and the one is no heir of the other; all of them
 * are heirs of what was made before the split.
 */
static bool has_heir(struct downsampling *d, const struct plan_block *made, bool *ret, struct err *err)
{
    *ret = false;
    for (size_t i = 0; i < d->raw->n && !*ret; i++) {
        const struct plan_block *b = &d->raw->blocks[i];
        if (b->max_t <= made->min_t || b->min_t >= made->max_t || (made->shard.n && !slice_eq(made->shard, b->shard)) || !has_sources(b, made))
            continue;
        if (!block_is_there(d->c, d->ctx, d->tenant, &b->id, ret, err))
            return false;
    }
    return true;
}

/*
 * Of a block whose raw one is gone: by that of a raw block, or by one of its own room, which was made of the heir before that expired. by: of plan_superseded over the
 * room.
 */
static bool is_outdated(struct downsampling *d, struct slice room, const struct tenant_blocks *t, size_t i, const size_t *by, bool *ret, struct err *err)
{
    *ret = false;
    if (find(d->raw, &t->blocks[i].id))
        return true;
    if (!has_heir(d, &t->blocks[i], ret, err))
        return false;
    return *ret || by[i] == PLAN_NOT_SUPERSEDED || block_is_there(d->c, d->ctx, room, &t->blocks[by[i]].id, ret, err);
}

static bool mark(struct downsampling *d, struct slice room, const struct plan_block *b, struct err *err)
{
    bool is_new = false;
    struct block_mark mark = {.block = b->id, .time_s = clock_wall_ms() / 1000, .details = SL(OUTDATED_DETAILS)};
    if (!bucket_mark_block(d->c->bucket, d->ctx, room, BLOCK_MARK_DELETION, &mark, &is_new, err))
        return false;
    if (is_new)
        compactor_count_deletion_mark("compaction");
    return true;
}

static bool mark_outdated(struct downsampling *d, enum downsample_resolution r, enum downsample_aggregate a, struct err *err)
{
    const struct tenant_blocks *t = d->rooms[r][a];
    struct bucket_name name = downsample_room(d->tenant, r, a);
    struct slice room = bucket_name_slice(&name);
    size_t *by = calloc(t->n + 1, sizeof(*by));
    bool good = (by || no_memory(err)) && plan_superseded(t->blocks, t->n, by, err);
    for (size_t i = 0; good && i < t->n; i++) {
        bool outdated = false;
        good = is_outdated(d, room, t, i, by, &outdated, err) && (!outdated || mark(d, room, &t->blocks[i], err));
    }
    free(by);
    return good;
}

static bool mark_all_outdated(struct downsampling *d, struct err *err)
{
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++)
            if (!mark_outdated(d, r, a, err))
                return false;
    return true;
}

/* --- what is to be made ------------------------------------------------------------------------------------------------------------- */

static bool is_complete(const struct downsampling *d, enum downsample_resolution r, const struct ulid *id)
{
    for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++)
        if (!find(d->rooms[r][a], id))
            return false;
    return true;
}

static bool is_due(const struct downsampling *d, enum downsample_resolution r, const struct plan_block *b, int64_t now_ms)
{
    const struct limits *l = limits_of(d->c->limits, d->tenant);
    int64_t day = d->c->ranges_ms[d->c->n_ranges - 1], retention = downsample_retention_ms(l, r);
    int64_t day_end = (b->max_t - 1) / day * day + day;
    return day_end <= now_ms - downsample_after_ms(l, r) && (retention <= 0 || b->max_t >= now_ms - retention);
}

static bool plan_items(struct downsampling *d, enum downsample_resolution r, const bool *settled, struct err *err)
{
    int64_t now_ms = clock_wall_ms();
    free(d->items);
    d->n_items = 0;
    d->items = calloc(d->raw->n + 1, sizeof(*d->items));
    if (!d->items)
        return no_memory(err);
    for (size_t i = 0; i < d->raw->n; i++) {
        const struct plan_block *b = &d->raw->blocks[i];
        if (settled[i] && is_due(d, r, b, now_ms) && !is_complete(d, r, &b->id))
            d->items[d->n_items++] = (struct item){b, r};
    }
    return true;
}

/* --- making -------------------------------------------------------------------------------------------------------------------------- */

struct work {
    struct downsampling *d;
    const struct item *item;
    char *dir, *in, *out; /* owned */
};

static bool is_of_block(const struct err *err)
{
    return err->code == ERR_CORRUPT || err->code == ERR_BAD_DATA || err->code == ERR_OUT_OF_RANGE || err->code == ERR_TOO_LARGE;
}

/* A listing may be old, and passes over what is marked for deletion: is each of them there, by name? */
static bool are_all_there(const struct work *w, bool *ret, struct err *err)
{
    *ret = true;
    for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES && *ret; a++) {
        struct err why = ERR_NONE;
        struct objstore_attributes attributes;
        struct bucket_name room = downsample_room(w->d->tenant, w->item->resolution, a);
        struct bucket_name meta = bucket_block_file(bucket_name_slice(&room), &w->item->block->id, BUCKET_META);
        *ret = objstore_attributes(w->d->c->bucket, w->d->ctx, bucket_name_slice(&meta), &attributes, &why);
        if (*ret || why.code == ERR_NOT_FOUND)
            continue;
        if (err)
            *err = why;
        return false;
    }
    return true;
}

static bool upload(const struct work *w, enum downsample_aggregate a, struct err *err)
{
    struct bucket_name room = downsample_room(w->d->tenant, w->item->resolution, a);
    char *path;
    int n = asprintf(&path, "%s/%s", w->out, downsample_aggregate_name(a));
    ASSERT(n > 0);
    bool good = bucket_upload_block(w->d->c->bucket, w->d->ctx, bucket_name_slice(&room), path, &w->item->block->id, NULL, NULL, err);
    free(path);
    return good;
}

/* The block of `room` downloaded, looked through, and its results made and looked through; they are not uploaded. */
static bool make_of(const struct work *w, struct slice room, struct downsample_params *p, struct err *err)
{
    const struct ctx *ctx = w->d->ctx;
    struct downsample_stats stats;
    char *path;
    if (!bucket_download_block(w->d->c->bucket, ctx, room, &w->item->block->id, w->in, err))
        return false;
    int n = asprintf(&path, "%s/%s", w->in, w->item->block->id.text);
    ASSERT(n > 0);
    p->source = block_open(path, err);
    bool good = p->source && merge_check_source(p->source, ctx, err) && downsample_block(p, ctx, &stats, err) && downsample_verify(p, &stats, ctx, err);
    block_close(p->source);
    good = tree_remove(path, good ? err : NULL) && good;
    free(path);
    return good;
}

static bool make_fine(const struct work *w, struct err *err)
{
    struct downsample_params p = {.resolution = DOWNSAMPLE_5M, .dir = w->out};
    if (!make_of(w, w->d->tenant, &p, err))
        return false;
    for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++)
        if (!upload(w, a, err))
            return false;
    return true;
}

static bool make_coarse(const struct work *w, struct err *err)
{
    for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++) {
        struct bucket_name room = downsample_room(w->d->tenant, DOWNSAMPLE_5M, a);
        struct downsample_params p = {.again = true, .only = a, .resolution = DOWNSAMPLE_1H, .dir = w->out};
        if (!make_of(w, bucket_name_slice(&room), &p, err) || !upload(w, a, err))
            return false;
    }
    return true;
}

static bool make(const struct work *w, struct err *err)
{
    bool there = false;
    if (!are_all_there(w, &there, err))
        return false;
    if (there)
        return true;
    if (!tree_remove(w->dir, err) || !tree_make(w->in, err) || !tree_make(w->out, err))
        return false;
    if (!(w->item->resolution == DOWNSAMPLE_5M ? make_fine(w, err) : make_coarse(w, err)))
        return false;
    metric_inc(METRIC_WITH(compactor_metrics[COMPACTOR_M_DOWNSAMPLED], slice_of(downsample_resolution_name(w->item->resolution))));
    LOG_INFO("downsampled a block", {"user", LOG_SLICE(w->d->tenant)}, {"block", LOG_STR(w->item->block->id.text)},
             {"resolution", LOG_STR(downsample_resolution_name(w->item->resolution))});
    return true;
}

/*
 * A block that is wrong, or has gone since it was listed (the raw one was compacted; that of 5 minutes has expired), costs itself alone. What else goes wrong ends
 * the run.
 */
static bool make_item(void *arg, size_t i, struct err *err)
{
    struct downsampling *d = arg;
    struct work w = {.d = d, .item = &d->items[i]};
    struct err why = ERR_NONE;
    char key[64];
    snprintf(key, sizeof(key), "downsample-%s-%s", downsample_resolution_name(w.item->resolution), w.item->block->id.text);
    if (!ctx_check(d->ctx, err))
        return false;
    if (!compactor_ring_owns_job(d->c->ring, d->tenant, key))
        return true;
    if (asprintf(&w.dir, "%s/compact/%.*s/%s", d->c->dir, SL_FMT(d->tenant), key) < 0 || asprintf(&w.in, "%s/in", w.dir) < 0 ||
        asprintf(&w.out, "%s/out", w.dir) < 0)
        ASSERT(false);
    bool good = make(&w, &why);
    (void)tree_remove(w.dir, NULL); /* what stays goes before the next attempt, or at the next start */
    free(w.dir);
    free(w.in);
    free(w.out);
    if (good || why.code == ERR_NOT_FOUND)
        return true;
    if (!ctx_check(d->ctx, err))
        return false;
    metric_add(metric_single(compactor_metrics[COMPACTOR_M_DOWNSAMPLE_FAILURES]), 1);
    LOG_WARN("a block could not be downsampled", {"user", LOG_SLICE(d->tenant)}, {"block", LOG_STR(w.item->block->id.text)},
             {"resolution", LOG_STR(downsample_resolution_name(w.item->resolution))}, {"err", LOG_ERR(&why)});
    if (is_of_block(&why))
        return true;
    if (err)
        *err = why;
    return err_prefix(err, "block %s: ", w.item->block->id.text);
}

/* --- the whole ------------------------------------------------------------------------------------------------------------------------ */

static bool run(struct downsampling *d, const bool *settled, struct err *err)
{
    size_t n_threads = (size_t)MAX(d->c->cfg->compaction_concurrency, 1);
    if (!read_rooms(d, err) || !mark_all_outdated(d, err))
        return false;
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        if (!plan_items(d, r, settled, err) || !parallel_run(d->n_items, n_threads, make_item, d, err))
            return false;
    return true;
}

bool downsample_tenant(struct compactor *c, const struct ctx *ctx, struct slice tenant, const struct tenant_blocks *blocks, const struct compaction_job *jobs,
                       size_t n_jobs, struct err *err)
{
    struct downsampling d = {.c = c, .ctx = ctx, .tenant = tenant, .raw = blocks};
    if (!limits_of(c->limits, tenant)->compactor_downsample_enabled)
        return true;
    bool *settled = calloc(blocks->n + 1, sizeof(*settled));
    bool good = settled || no_memory(err);
    good = good && plan_settled(blocks->blocks, blocks->n, jobs, n_jobs, c->ranges_ms[c->n_ranges - 1], settled, err) && run(&d, settled, err);
    keep_rooms(&d);
    free(d.items);
    free(settled);
    return good;
}
