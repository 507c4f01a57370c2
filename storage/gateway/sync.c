/*
 * A look at the bucket: which blocks are there, and which of them are ours (keep_up.c says when). It costs one bucket index a tenant; index-headers are made by other threads, and nobody
 * waits for them.
 *
 * What cannot be read changes nothing: the blocks of that tenant stay as they are until the next look.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/logger.h"
#include "storage/gateway/gateway_int.h"

#define INDEX_ARENA_BYTES ((size_t)4 << 30)

/* --- which blocks a tenant has here --- */

enum fate { FATE_LOADED, FATE_MARKED, FATE_TOO_YOUNG, FATE_OTHERS, FATE_NO_INDEX, FATE_CORRUPT_INDEX, FATES };
static const char *const fate_names[FATES] = {"loaded",         "marked-for-deletion", "min-time-excluded",
                                              "shard-excluded", "no-bucket-index",     "corrupted-bucket-index"};

/* One look at the bucket. */
struct look {
    struct gateway *g;
    struct ownership owner;
    const struct slice *tenants;
    size_t n;
    pthread_mutex_t lock;
    size_t fates[FATES]; /* under the lock, as what follows */
    size_t n_failed, n_ours;
    bool looks_for_new; /* not at the start, nor because others' blocks became ours */
};

static bool is_listed(const struct flag_list *list, struct slice tenant)
{
    for (size_t i = 0; i < list->n; i++)
        if (slice_eq(slice_of(list->items[i]), tenant))
            return true;
    return false;
}

bool tenant_is_allowed(const struct gateway_config *cfg, struct slice tenant)
{
    return (cfg->enabled_tenants.n == 0 || is_listed(&cfg->enabled_tenants, tenant)) && !is_listed(&cfg->disabled_tenants, tenant);
}

static int compare_ulids(const void *a, const void *b)
{
    return strcmp(((const struct ulid *)a)->text, ((const struct ulid *)b)->text);
}

static int compare_wanted(const void *a, const void *b)
{
    return strcmp(((const struct wanted_block *)a)->id.text, ((const struct wanted_block *)b)->id.text);
}

/* The blocks that were marked for deletion long enough ago, in order. */
static struct ulid *old_marks(const struct gateway *g, const struct bucket_index *index, int64_t now_ms, size_t *ret_n)
{
    struct ulid *marked = malloc((index->n_deletions + 1) * sizeof(*marked));
    ASSERT(marked);
    size_t n = 0;
    for (size_t i = 0; i < index->n_deletions; i++)
        if (now_ms / 1000 - index->deletions[i].time_s > g->cfg->ignore_deletion_marks_delay / 1000)
            marked[n++] = index->deletions[i].block;
    if (n)
        qsort(marked, n, sizeof(*marked), compare_ulids);
    *ret_n = n;
    return marked;
}

/* The ids of the blocks that are here, in order. */
static struct ulid *blocks_here(struct gateway *g, struct slice tenant, size_t *ret_n)
{
    pthread_mutex_lock(&g->lock);
    const struct served_tenant *t = table_find(&g->table, tenant);
    size_t n = t ? t->n : 0;
    struct ulid *ids = malloc((n + 1) * sizeof(*ids));
    ASSERT(ids);
    for (size_t i = 0; i < n; i++)
        ids[i] = t->blocks[i]->id;
    pthread_mutex_unlock(&g->lock);
    *ret_n = n;
    return ids;
}

static bool contains(const struct ulid *sorted, size_t n, const struct ulid *id)
{
    return n && bsearch(id, sorted, n, sizeof(*sorted), compare_ulids);
}

static enum fate fate_of(const struct look *l, const struct ring_snapshot *shard, const struct index_block *b, const struct ulid *marked, size_t n_marked, bool is_here)
{
    int64_t within_ms = l->g->cfg->ignore_blocks_within;
    if (contains(marked, n_marked, &b->id))
        return FATE_MARKED;
    if (within_ms > 0 && b->min_t >= l->owner.now_ms - within_ms)
        return FATE_TOO_YOUNG;
    return ownership_of_block(&l->owner, shard, &b->id, is_here) ? FATE_LOADED : FATE_OTHERS;
}

static void count_fates(struct look *l, const size_t *fates)
{
    pthread_mutex_lock(&l->lock);
    for (size_t i = 0; i < FATES; i++)
        l->fates[i] += fates[i];
    pthread_mutex_unlock(&l->lock);
}

static void take_index(struct look *l, struct slice tenant, const struct ring_snapshot *shard, const struct bucket_index *index, const struct ulid *here, size_t n_here)
{
    size_t n_marked, n = 0, fates[FATES] = {0};
    struct ulid *marked = old_marks(l->g, index, l->owner.now_ms, &n_marked);
    struct wanted_block *wanted = malloc((index->n_blocks + 1) * sizeof(*wanted));
    ASSERT(wanted);
    for (size_t i = 0; i < index->n_blocks; i++) {
        const struct index_block *b = &index->blocks[i];
        bool is_here = contains(here, n_here, &b->id);
        enum fate fate = fate_of(l, shard, b, marked, n_marked, is_here);
        fates[fate]++;
        if (fate == FATE_LOADED && !is_here && l->looks_for_new)
            metric_observe(gateway_metric(GATEWAY_DISCOVERY_SECONDS), (double)(l->owner.now_ms / 1000 - b->uploaded_at_s));
        if (fate == FATE_LOADED) {
            wanted[n] = (struct wanted_block){b->id, b->min_t, b->max_t, {.level = b->level, .out_of_order = b->out_of_order}};
            snprintf(wanted[n++].origin.source, sizeof(wanted[0].origin.source), "%.*s", SL_FMT(b->source));
        }
    }
    if (n)
        qsort(wanted, n, sizeof(*wanted), compare_wanted);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) /* the index comes from outside: a block that is in it twice is one */
        if (i == 0 || strcmp(wanted[kept - 1].id.text, wanted[i].id.text) != 0)
            wanted[kept++] = wanted[i];
    table_set(l->g, tenant, wanted, kept, index->updated_at_s);
    count_fates(l, fates);
    free(wanted);
    free(marked);
}

/* The index could not be read. No index: no blocks, or a tenant that was deleted. */
static void take_failure(struct look *l, struct slice tenant, const struct err *err)
{
    size_t fates[FATES] = {0};
    if (err->code == ERR_NOT_FOUND) {
        fates[FATE_NO_INDEX] = 1;
        table_set(l->g, tenant, NULL, 0, 0);
    } else if (!gateway_stopping(l->g)) {
        fates[FATE_CORRUPT_INDEX] = err->code == ERR_CORRUPT;
        metric_inc(gateway_metric(GATEWAY_META_FAILURES));
        LOG_WARN("a bucket index could not be read; the tenant's blocks stay as they are", {"tenant", LOG_SLICE(tenant)}, {"err", LOG_ERR(err)});
    }
    count_fates(l, fates);
    pthread_mutex_lock(&l->lock);
    /* One tenant's damaged index keeps nobody else's blocks from being served: whoever queries that tenant is told. */
    l->n_failed += err->code != ERR_NOT_FOUND && err->code != ERR_CORRUPT;
    pthread_mutex_unlock(&l->lock);
}

static void look_at_index(struct look *l, struct slice tenant, const struct ring_snapshot *shard, const struct ulid *here, size_t n_here)
{
    struct arena arena;
    struct bucket_index index;
    struct err err = ERR_NONE;
    arena_init(&arena, INDEX_ARENA_BYTES);
    struct ctx ctx = {.arena = &arena, .canceled = &l->g->stopping, .tenant = tenant};
    metric_inc(gateway_metric(GATEWAY_META_SYNCS));
    if (bucket_index_read(l->g->bucket, &ctx, tenant, &arena, &index, &err))
        take_index(l, tenant, shard, &index, here, n_here);
    else
        take_failure(l, tenant, &err);
    arena_release(&arena);
}

/* A room of downsampled blocks is its tenant's in all that limits and the ring say. */
static void look_at_tenant(void *arg, size_t i)
{
    struct look *l = arg;
    struct slice place = l->tenants[i], tenant = downsample_tenant_of(place);
    const struct limits *limits = limits_of(l->g->limits, tenant);
    bool is_room = place.n != tenant.n;
    if (gateway_stopping(l->g))
        return;
    if (!tenant_is_allowed(l->g->cfg, tenant) || (is_room && !downsample_max_resolution_ms(limits))) {
        table_set(l->g, place, NULL, 0, 0);
        return;
    }
    size_t n_here;
    struct ulid *here = blocks_here(l->g, place, &n_here);
    struct ring_snapshot *shard = gateway_tenant_ring(l->owner.ring, limits, tenant);
    bool ours = ownership_of_tenant(&l->owner, shard);
    if (ours || n_here)
        look_at_index(l, place, shard, here, n_here);
    if (ours && !is_room) {
        pthread_mutex_lock(&l->lock);
        l->n_ours++;
        pthread_mutex_unlock(&l->lock);
    }
    ring_snapshot_free(shard);
    free(here);
}

/* --- a look at all of them --- */

static int compare_slices(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

/* The rooms of those whose queries read downsampled blocks. */
static bool add_rooms(struct gateway *g, struct ctx *ctx, struct slice tenant, struct slice *rooms, size_t *n, struct err *err)
{
    struct downsample_rooms listed;
    if (!downsample_max_resolution_ms(limits_of(g->limits, tenant)) || !tenant_is_allowed(g->cfg, tenant))
        return true;
    if (!downsample_rooms_list(g->bucket, ctx, tenant, &listed, err))
        return false;
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++) {
            struct bucket_name room = downsample_room(tenant, r, a);
            if (listed.there[r][a])
                rooms[(*n)++] = arena_dup(ctx->arena, bucket_name_slice(&room));
        }
    return true;
}

/* The tenants of the bucket, and their rooms behind them. */
static bool list_tenants(struct gateway *g, struct ctx *ctx, const struct slice **ret, size_t *ret_n, size_t *ret_tenants, struct err *err)
{
    const struct slice *tenants;
    size_t n_tenants, n;
    if (!bucket_tenants(g->bucket, ctx, ctx->arena, &tenants, &n_tenants, err))
        return false;
    struct slice *all = ARENA_ARRAY(ctx->arena, struct slice, n_tenants * (1 + DOWNSAMPLE_RESOLUTIONS * DOWNSAMPLE_AGGREGATES) + 1);
    if (!all)
        return gateway_no_memory(err);
    if (n_tenants)
        memcpy(all, tenants, n_tenants * sizeof(*all));
    n = n_tenants;
    for (size_t i = 0; i < n_tenants; i++)
        if (!add_rooms(g, ctx, tenants[i], all, &n, err))
            return false;
    *ret = all;
    *ret_n = n;
    *ret_tenants = n_tenants;
    return true;
}

/* Those of the bucket, and those of whom something is here: a list may be stale. */
static bool all_tenants(struct gateway *g, struct ctx *ctx, const struct slice **ret, size_t *ret_n, size_t *ret_listed, struct err *err)
{
    const struct slice *listed = NULL;
    size_t n_listed = 0;
    if (!list_tenants(g, ctx, &listed, &n_listed, ret_listed, err))
        return false;
    pthread_mutex_lock(&g->lock);
    size_t n_here = g->table.n, n = 0;
    struct slice *all = ARENA_ARRAY(ctx->arena, struct slice, n_listed + n_here + 1);
    for (size_t i = 0; all && i < n_here; i++)
        all[n++] = arena_dup(ctx->arena, slice_of(g->table.tenants[i].name));
    pthread_mutex_unlock(&g->lock);
    if (!all || ctx->arena->overflow)
        return gateway_no_memory(err);
    if (n_listed)
        memcpy(all + n, listed, n_listed * sizeof(*all));
    n += n_listed;
    if (n)
        qsort(all, n, sizeof(*all), compare_slices);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (i == 0 || !slice_eq(all[kept - 1], all[i]))
            all[kept++] = all[i];
    *ret = all;
    *ret_n = kept;
    return true;
}

static void publish(const struct look *l, size_t n_listed)
{
    for (size_t i = 0; i < FATES; i++)
        metric_set(METRIC_WITH(gateway_metrics[GATEWAY_META_SYNCED], GATEWAY_COMPONENT, slice_of(fate_names[i])), (double)l->fates[i]);
    metric_set(gateway_metric(GATEWAY_TENANTS_DISCOVERED), (double)n_listed);
    metric_set(gateway_metric(GATEWAY_TENANTS_SYNCED), (double)l->n_ours);
    if (l->n_failed == 0)
        metric_set(gateway_metric(GATEWAY_LAST_SYNC), (double)clock_wall_ms() / 1000);
}

/* With a pool of its own for as long as it takes: requests need the other ones. */
static void look_at_all(struct look *l)
{
    int64_t threads = MIN(l->g->cfg->tenant_sync_concurrency, (int64_t)l->n);
    struct pool *pool = threads > 1 ? pool_new("gw-sync", (size_t)threads - 1, 1024, 1 << 20) : NULL;
    together(pool, 0, l->n, look_at_tenant, l);
    pool_stop(pool);
}

bool gateway_sync(struct gateway *g, const char *reason)
{
    int64_t since_ms = clock_mono_ms();
    struct arena arena;
    struct err err = ERR_NONE;
    size_t n_listed = 0;
    struct look l = {.g = g, .looks_for_new = strcmp(reason, "periodic") == 0 || strcmp(reason, "asked-for") == 0};
    metric_inc(METRIC_WITH(gateway_metrics[GATEWAY_SYNCS], slice_of(reason)));
    arena_init(&arena, INDEX_ARENA_BYTES);
    struct ctx ctx = {.arena = &arena, .canceled = &g->stopping};
    bool ok = all_tenants(g, &ctx, &l.tenants, &l.n, &n_listed, &err);
    if (ok) {
        pthread_mutex_init(&l.lock, NULL);
        ownership_take(&l.owner, gateway_ring_view(g->ring), g->self.id, clock_wall_ms());
        look_at_all(&l);
        ownership_release(&l.owner);
        pthread_mutex_destroy(&l.lock);
        publish(&l, n_listed);
        ok = l.n_failed == 0;
    } else if (!gateway_stopping(g)) {
        LOG_WARN("the tenants of the bucket could not be listed; all blocks stay as they are", {"err", LOG_ERR(&err)});
    }
    arena_release(&arena);
    metric_observe(gateway_metric(GATEWAY_SYNC_SECONDS), (double)(clock_mono_ms() - since_ms) / 1000);
    if (!gateway_stopping(g)) {
        table_reap(g);
        table_clear_folders(g);
        table_prepare(g);
        LOG_DEBUG("looked at the bucket", {"reason", LOG_STR(reason)}, {"tenants", LOG_U64(l.n)}, {"blocks", LOG_U64(l.fates[FATE_LOADED])},
                  {"took_ms", LOG_I64(clock_mono_ms() - since_ms)});
    }
    return ok;
}

void gateway_sync_tenants(struct gateway *g, const struct slice *tenants, size_t n)
{
    struct look l = {.g = g, .looks_for_new = true, .tenants = tenants, .n = n};
    metric_inc(METRIC_WITH(gateway_metrics[GATEWAY_SYNCS], SL("catch-up")));
    pthread_mutex_init(&l.lock, NULL);
    ownership_take(&l.owner, gateway_ring_view(g->ring), g->self.id, clock_wall_ms());
    look_at_all(&l);
    ownership_release(&l.owner);
    pthread_mutex_destroy(&l.lock);
}
