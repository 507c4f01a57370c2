/*
 * What the bucket has of a tenant. Blocks never change, so that what was read of one is good for as long as it is listed; marks are listed anew each time.
 * A listing may be stale: a block that it lacks is compacted another time, a mark that it lacks costs work that is found to be done.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "base/parallel.h"
#include "storage/compactor/compactor_int.h"
#include "storage/downsample/downsample.h"

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory for the blocks of a tenant");
}

void tenant_blocks_free(struct tenant_blocks *t)
{
    if (!t)
        return;
    arena_release(&t->arena);
    free(t->tenant);
    free(t);
}

/* --- the cache ------------------------------------------------------------------------------------------------------------------------ */

static struct tenant_blocks *take_cached(struct compactor *c, struct slice tenant)
{
    for (struct tenant_blocks **at = &c->cache; *at; at = &(*at)->next) {
        struct tenant_blocks *t = *at;
        if (!slice_eq(slice_of(t->tenant), tenant))
            continue;
        *at = t->next;
        c->n_cached -= t->n;
        return t;
    }
    return NULL;
}

void tenant_blocks_keep(struct compactor *c, struct tenant_blocks *t)
{
    if (c->n_cached + t->n > COMPACTOR_CACHED_BLOCKS_MAX) {
        tenant_blocks_free(t);
        return;
    }
    t->next = c->cache;
    c->cache = t;
    c->n_cached += t->n;
}

static const struct plan_block *find(const struct tenant_blocks *t, const struct ulid *id)
{
    size_t from = 0, to = t ? t->n : 0;
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

static bool copy_block(const struct plan_block *from, struct arena *arena, struct plan_block *ret)
{
    struct block_label *labels = ARENA_ARRAY(arena, struct block_label, from->n_labels + 1);
    struct ulid *sources = ARENA_ARRAY(arena, struct ulid, from->n_sources + 1);
    bool good = labels && sources;
    size_t n = 0;
    *ret = *from;
    if (good && from->n_sources)
        memcpy(sources, from->sources, from->n_sources * sizeof(*sources));
    for (size_t i = 0; good && i < from->n_labels; i++) {
        struct block_label *l = &labels[n];
        if (slice_eq(from->labels[i].name, SL(DOWNSAMPLE_HISTOGRAMS_LABEL)))
            continue; /* it says what is in the block, not where that is from */
        *l = (struct block_label){arena_dup(arena, from->labels[i].name), arena_dup(arena, from->labels[i].value)};
        good = l->name.p && l->value.p;
        if (good && slice_eq(l->name, SL(BLOCK_LABEL_SHARD)))
            ret->shard = l->value;
        n++;
    }
    ret->labels = labels;
    ret->n_labels = n;
    ret->sources = sources;
    return good;
}

/* --- reading --------------------------------------------------------------------------------------------------------------------------- */

/* One block on its way in. */
struct fetched {
    struct ulid id;
    bool no_compact;
    const struct plan_block *known; /* of the cache */
    struct arena arena;             /* of what was read */
    struct plan_block block;
    bool there;
    bool corrupt; /* its meta.json */
};

struct reading {
    struct compactor *c;
    const struct ctx *ctx;
    struct slice tenant;
    struct fetched *blocks;
    size_t n_marked; /* for deletion: they are not among the blocks */
};

/* When the block of an ingester came; others do not wait. */
static bool read_upload_time(const struct reading *r, struct fetched *f, int64_t *ret, struct err *err)
{
    struct objstore_attributes attributes;
    struct bucket_name name = bucket_block_file(r->tenant, &f->id, BUCKET_META);
    if (!objstore_attributes(r->c->bucket, r->ctx, bucket_name_slice(&name), &attributes, err))
        return false;
    *ret = attributes.modified_ms;
    return true;
}

static bool fetch(void *arg, size_t i, struct err *err)
{
    const struct reading *r = arg;
    struct fetched *f = &r->blocks[i];
    struct block_meta meta;
    struct err why = ERR_NONE;
    int64_t uploaded_ms = 0;
    if (f->known)
        return true;
    bool good = bucket_read_meta(r->c->bucket, r->ctx, r->tenant, &f->id, &f->arena, &meta, &why) &&
                (meta.level > 1 || read_upload_time(r, f, &uploaded_ms, &why));
    if (!good && (why.code == ERR_NOT_FOUND || why.code == ERR_CORRUPT)) {
        f->corrupt = why.code == ERR_CORRUPT;
        if (f->corrupt)
            LOG_WARN("a block with a meta.json that cannot be read is left alone", {"user", LOG_SLICE(r->tenant)}, {"block", LOG_STR(f->id.text)},
                     {"err", LOG_ERR(&why)});
        return true; /* partial: the cleaner's */
    }
    if (!good) {
        if (err)
            *err = why;
        return false;
    }
    f->there = plan_block_of_meta(&meta, uploaded_ms, &f->arena, &f->block);
    return f->there || no_memory(err);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(((const struct ulid *)a)->text, ((const struct ulid *)b)->text);
}

static bool is_among(const struct ulid *list, size_t n, const struct ulid *id)
{
    return n && bsearch(id, list, n, sizeof(*list), by_text) != NULL;
}

/* The listing, less what is marked for deletion. */
static bool list(struct reading *r, const struct tenant_blocks *old, struct arena *arena, size_t *ret_n, struct err *err)
{
    const struct ulid *ids, *deletions, *no_compacts;
    size_t n, n_deletions, n_no_compacts, k = 0;
    struct objstore *s = r->c->bucket;
    /* The marks come after the blocks: a block that is marked in between is seen as marked. */
    if (!bucket_blocks(s, r->ctx, r->tenant, arena, &ids, &n, err) ||
        !bucket_list_marks(s, r->ctx, r->tenant, BLOCK_MARK_DELETION, arena, &deletions, &n_deletions, err) ||
        !bucket_list_marks(s, r->ctx, r->tenant, BLOCK_MARK_NO_COMPACT, arena, &no_compacts, &n_no_compacts, err))
        return false;
    r->blocks = calloc(n + 1, sizeof(*r->blocks));
    if (!r->blocks)
        return no_memory(err);
    for (size_t i = 0; i < n; i++) {
        if (is_among(deletions, n_deletions, &ids[i])) {
            r->n_marked++;
            continue;
        }
        struct fetched *f = &r->blocks[k++];
        f->id = ids[i];
        f->no_compact = is_among(no_compacts, n_no_compacts, &ids[i]);
        f->known = find(old, &ids[i]);
        arena_init(&f->arena, 0);
    }
    *ret_n = k;
    return true;
}

static bool take_over(const struct reading *r, size_t n, struct tenant_blocks *t, struct err *err)
{
    t->blocks = ARENA_ARRAY(&t->arena, struct plan_block, n + 1);
    t->no_compact = ARENA_ARRAY(&t->arena, bool, n + 1);
    if (!t->blocks || !t->no_compact)
        return no_memory(err);
    for (size_t i = 0; i < n; i++) {
        const struct fetched *f = &r->blocks[i];
        if (!f->known && !f->there)
            continue;
        if (!copy_block(f->known ? f->known : &f->block, &t->arena, &t->blocks[t->n]))
            return no_memory(err);
        t->n_no_compact += f->no_compact;
        t->no_compact[t->n++] = f->no_compact;
    }
    return true;
}

static void set_state(struct slice state, size_t n)
{
    metric_set(METRIC_WITH(compactor_metrics[COMPACTOR_M_META_BLOCKS], state), (double)n);
}

/* The gauges are about blocks that may be compacted. */
static bool is_counted(const struct tenant_blocks *t)
{
    return !strchr(t->tenant, '/');
}

static void count_states(const struct reading *r, size_t n, const struct tenant_blocks *t)
{
    size_t corrupt = 0;
    for (size_t i = 0; i < n; i++)
        corrupt += r->blocks[i].corrupt;
    set_state(SL("loaded"), t->n - t->n_no_compact);
    set_state(SL("marked-for-no-compact"), t->n_no_compact);
    set_state(SL("marked-for-deletion"), r->n_marked);
    set_state(SL("corrupted-meta-json"), corrupt);
    set_state(SL("no-meta-json"), n - t->n - corrupt);
}

static bool read_all(struct compactor *c, const struct ctx *ctx, const struct tenant_blocks *old, struct tenant_blocks *t, struct err *err)
{
    struct reading r = {.c = c, .ctx = ctx, .tenant = slice_of(t->tenant)};
    struct arena arena;
    size_t n = 0;
    arena_init(&arena, 0);
    bool good = list(&r, old, &arena, &n, err) && parallel_run(n, (size_t)MAX(c->cfg->meta_sync_concurrency, 1), fetch, &r, err) &&
                take_over(&r, n, t, err);
    if (good && is_counted(t))
        count_states(&r, n, t);
    for (size_t i = 0; i < n; i++)
        arena_release(&r.blocks[i].arena);
    free(r.blocks);
    arena_release(&arena);
    return good;
}

struct tenant_blocks *tenant_blocks_read(struct compactor *c, const struct ctx *ctx, struct slice tenant, struct err *err)
{
    int64_t start = clock_mono_ms();
    struct tenant_blocks *old = take_cached(c, tenant), *t = calloc(1, sizeof(*t));
    ASSERT(t);
    t->tenant = slice_strdup(tenant);
    arena_init(&t->arena, 0);
    metric_inc(metric_single(compactor_metrics[COMPACTOR_M_META_SYNCS]));
    bool good = read_all(c, ctx, old, t, err);
    if (good) {
        metric_observe(metric_single(compactor_metrics[COMPACTOR_M_META_SYNC_DURATION]), (double)(clock_mono_ms() - start) / 1e3);
        tenant_blocks_free(old);
        return t;
    }
    metric_inc(metric_single(compactor_metrics[COMPACTOR_M_META_SYNC_FAILURES]));
    tenant_blocks_free(t);
    if (old)
        tenant_blocks_keep(c, old);
    return NULL;
}

bool block_is_there(struct compactor *c, const struct ctx *ctx, struct slice tenant, const struct ulid *id, bool *ret, struct err *err)
{
    struct arena arena;
    struct block_meta meta;
    struct block_mark mark;
    struct err why = ERR_NONE;
    arena_init(&arena, 0);
    bool marked = bucket_read_mark(c->bucket, ctx, tenant, id, BLOCK_MARK_DELETION, &arena, &mark, &why);
    bool good = marked || why.code == ERR_NOT_FOUND;
    *ret = good && !marked && bucket_read_meta(c->bucket, ctx, tenant, id, &arena, &meta, &why);
    good = good && (*ret || marked || why.code == ERR_NOT_FOUND || why.code == ERR_CORRUPT);
    arena_release(&arena);
    if (!good && err)
        *err = why;
    return good;
}
