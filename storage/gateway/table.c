/*
 * The blocks that are served: which there are, and each one's life.
 *
 *     (table_set) ──▶ CLOSED ──▶ BUSY ──▶ OPEN ──▶ CLOSED (idle)       BUSY ──▶ CLOSED: it could not be opened, or was only prepared
 *
 * One thread takes a block from CLOSED to BUSY and works on its files without the lock; who needs the block meanwhile waits for gateway.changed. A block that is let go
 * leaves its tenant's list at once and its folder when nobody uses it any more; when it is wanted again before that, it comes back as it is.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/logger.h"
#include "model/tenant.h"
#include "storage/gateway/gateway_int.h"

#define WAIT_MS 100

/* --- finding --- */

/* The place of the tenant, or where it belongs. */
static size_t tenant_place(const struct table *t, struct slice tenant)
{
    size_t low = 0, high = t->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (slice_cmp(slice_of(t->tenants[mid].name), tenant) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

struct served_tenant *table_find(const struct table *t, struct slice tenant)
{
    size_t at = tenant_place(t, tenant);
    return at < t->n && slice_eq(slice_of(t->tenants[at].name), tenant) ? &t->tenants[at] : NULL;
}

struct served_block *served_find(const struct served_tenant *t, const struct ulid *id)
{
    size_t low = 0, high = t->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int order = strcmp(t->blocks[mid]->id.text, id->text);
        if (order == 0)
            return t->blocks[mid];
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

/* --- blocks --- */

static struct served_block *served_new(const struct gateway *g, struct slice tenant, const struct wanted_block *w)
{
    struct served_block *b = calloc(1, sizeof(*b));
    ASSERT(b);
    b->id = w->id;
    b->min_t = w->min_t;
    b->max_t = w->max_t;
    b->origin = w->origin;
    b->tenant = slice_strdup(tenant);
    int n = asprintf(&b->dir, "%s/%s/%s", g->sync_dir, b->tenant, b->id.text);
    ASSERT(n >= 0);
    b->refs = 1;
    return b;
}

static void served_free(struct served_block *b)
{
    store_block_unref(b->open);
    free(b->tenant);
    free(b->dir);
    free(b);
}

void served_unref(struct gateway *g, struct served_block *b)
{
    if (!b)
        return;
    pthread_mutex_lock(&g->lock);
    ASSERT(b->refs > 1); /* the last one is the table's, and only table_reap gives it back */
    b->refs--;
    pthread_mutex_unlock(&g->lock);
}

/* Takes the block from CLOSED to BUSY, or waits until it is open. Under the lock. */
static bool become_opener(struct gateway *g, struct served_block *b, const struct ctx *ctx, bool *ret_opener, struct err *err)
{
    while (b->state == SERVED_BUSY) {
        if (!ctx_check(ctx, err))
            return false;
        gateway_wait(&g->changed, &g->lock, WAIT_MS);
    }
    *ret_opener = b->state == SERVED_CLOSED;
    if (*ret_opener)
        b->state = SERVED_BUSY;
    return true;
}

/* The end of what become_opener began. open NULL: it stays closed. Under the lock. */
static void end_opening(struct gateway *g, struct served_block *b, struct store_block *open)
{
    b->open = open;
    b->state = open ? SERVED_OPEN : SERVED_CLOSED;
    b->prepared |= open != NULL;
    pthread_cond_broadcast(&g->changed);
}

/* The store makes the block's own folder only. A room of downsampled blocks has folders above it. */
static void make_tenant_folder(const struct gateway *g, const struct served_block *b)
{
    char path[4096];
    for (size_t to = 0, all = strlen(b->tenant); to < all;) {
        to += (to > 0) + strcspn(b->tenant + to + (to > 0), "/");
        int n = snprintf(path, sizeof(path), "%s/%.*s", g->sync_dir, (int)to, b->tenant);
        if (n > 0 && (size_t)n < sizeof(path))
            mkdir(path, 0777); /* what fails here fails once more, and louder, for the folder in it */
    }
}

static struct store_block *open_now(struct gateway *g, struct served_block *b, const struct ctx *ctx, struct err *err)
{
    struct store_block *open = NULL;
    if (gate_enter(&g->loads, ctx, err)) {
        make_tenant_folder(g, b);
        open = store_block_open(g->store, ctx, slice_of(b->tenant), &b->id, b->dir, err);
        gate_leave(&g->loads);
    }
    return open;
}

struct store_block *served_open(struct gateway *g, struct served_block *b, const struct ctx *ctx, struct err *err)
{
    bool opener;
    pthread_mutex_lock(&g->lock);
    if (!become_opener(g, b, ctx, &opener, err)) {
        pthread_mutex_unlock(&g->lock);
        return NULL;
    }
    if (opener) {
        pthread_mutex_unlock(&g->lock);
        struct store_block *made = open_now(g, b, ctx, err);
        pthread_mutex_lock(&g->lock);
        end_opening(g, b, made);
    }
    struct store_block *open = b->open ? store_block_ref(b->open) : NULL;
    b->used_ms = clock_mono_ms();
    pthread_mutex_unlock(&g->lock);
    return open;
}

/* --- which there are --- */

static size_t take_back(struct table *t, struct slice tenant, const struct ulid *id, struct served_block **ret)
{
    for (size_t i = 0; i < t->n_dropped; i++) {
        struct served_block *b = t->dropped[i];
        if (strcmp(b->id.text, id->text) != 0 || !slice_eq(slice_of(b->tenant), tenant))
            continue;
        t->dropped[i] = t->dropped[--t->n_dropped];
        *ret = b;
        return 1;
    }
    return 0;
}

static void drop(struct table *t, struct served_block *b)
{
    if (t->n_dropped == t->cap_dropped) {
        t->cap_dropped = t->cap_dropped ? 2 * t->cap_dropped : 16;
        t->dropped = realloc(t->dropped, t->cap_dropped * sizeof(*t->dropped));
        ASSERT(t->dropped);
    }
    t->dropped[t->n_dropped++] = b;
    metric_inc(gateway_metric(GATEWAY_DROPS));
}

static struct served_tenant *table_add(struct table *t, struct slice tenant)
{
    size_t at = tenant_place(t, tenant);
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 16;
        t->tenants = realloc(t->tenants, t->cap * sizeof(*t->tenants));
        ASSERT(t->tenants);
    }
    memmove(&t->tenants[at + 1], &t->tenants[at], (t->n - at) * sizeof(*t->tenants));
    t->n++;
    t->tenants[at] = (struct served_tenant){.name = slice_strdup(tenant)};
    return &t->tenants[at];
}

static void table_remove(struct table *t, struct served_tenant *tenant)
{
    free(tenant->name);
    free(tenant->blocks);
    size_t at = (size_t)(tenant - t->tenants);
    memmove(tenant, tenant + 1, (t->n - at - 1) * sizeof(*tenant));
    t->n--;
}

/* The wanted blocks that were here before, were just let go, or are new. Both lists are by id. Under the lock. */
static void replace_blocks(struct gateway *g, struct served_tenant *tenant, const struct wanted_block *wanted, size_t n)
{
    struct served_block **blocks = malloc(n * sizeof(*blocks));
    ASSERT(blocks || n == 0);
    size_t old = 0;
    for (size_t i = 0; i < n; i++) {
        while (old < tenant->n && strcmp(tenant->blocks[old]->id.text, wanted[i].id.text) < 0)
            drop(&g->table, tenant->blocks[old++]);
        if (old < tenant->n && strcmp(tenant->blocks[old]->id.text, wanted[i].id.text) == 0) {
            blocks[i] = tenant->blocks[old++];
            continue;
        }
        metric_inc(gateway_metric(GATEWAY_LOADS));
        if (!take_back(&g->table, slice_of(tenant->name), &wanted[i].id, &blocks[i]))
            blocks[i] = served_new(g, slice_of(tenant->name), &wanted[i]);
    }
    while (old < tenant->n)
        drop(&g->table, tenant->blocks[old++]);
    free(tenant->blocks);
    tenant->blocks = blocks;
    metric_add(gateway_metric(GATEWAY_BLOCKS), (double)n - (double)tenant->n);
    tenant->n = n;
}

void table_set(struct gateway *g, struct slice tenant, const struct wanted_block *wanted, size_t n, int64_t index_s)
{
    pthread_mutex_lock(&g->lock);
    struct served_tenant *t = table_find(&g->table, tenant);
    if (!t && n)
        t = table_add(&g->table, tenant);
    if (t) {
        replace_blocks(g, t, wanted, n);
        t->index_s = index_s;
    }
    if (t && n == 0)
        table_remove(&g->table, t);
    pthread_mutex_unlock(&g->lock);
}

/* --- files --- */

/* What the store keeps beside a block, and what was left of making it. Other files are none of ours, and keep the folder. */
static bool is_ours(const char *name)
{
    return strncmp(name, "index-header", 12) == 0 || strncmp(name, "sparse-index-header", 19) == 0;
}

/* True when the folder is gone. */
static bool remove_folder(const char *path)
{
    DIR *dir = opendir(path);
    if (!dir)
        return errno == ENOENT;
    for (struct dirent *e; (e = readdir(dir));)
        if (is_ours(e->d_name))
            unlinkat(dirfd(dir), e->d_name, 0);
    closedir(dir);
    return rmdir(path) == 0 || errno == ENOENT;
}

/* A dropped block that nobody uses, taken out of the list. */
static struct served_block *next_unused(struct gateway *g)
{
    struct served_block *found = NULL;
    pthread_mutex_lock(&g->lock);
    struct table *t = &g->table;
    for (size_t i = 0; i < t->n_dropped && !found; i++)
        if (t->dropped[i]->refs == 1) {
            found = t->dropped[i];
            t->dropped[i] = t->dropped[--t->n_dropped];
        }
    pthread_mutex_unlock(&g->lock);
    return found;
}

void table_reap(struct gateway *g)
{
    for (struct served_block *b; (b = next_unused(g));) {
        if (!remove_folder(b->dir)) {
            LOG_WARN("the folder of a block that was let go could not be removed", {"dir", LOG_STR(b->dir)}, {"err", LOG_STR(strerror(errno))});
            metric_inc(gateway_metric(GATEWAY_DROP_FAILURES));
        }
        served_free(b);
    }
}

static bool is_served(struct gateway *g, const char *tenant, const struct ulid *id)
{
    pthread_mutex_lock(&g->lock);
    const struct served_tenant *t = table_find(&g->table, slice_of(tenant));
    bool found = t && served_find(t, id);
    for (size_t i = 0; i < g->table.n_dropped && !found; i++)
        found = strcmp(g->table.dropped[i]->id.text, id->text) == 0;
    pthread_mutex_unlock(&g->lock);
    return found;
}

static bool has_tenant(struct gateway *g, const char *tenant)
{
    pthread_mutex_lock(&g->lock);
    bool found = table_find(&g->table, slice_of(tenant)) != NULL;
    pthread_mutex_unlock(&g->lock);
    return found;
}

static void clear_tenant(struct gateway *g, const char *tenant)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", g->sync_dir, tenant);
    DIR *dir = opendir(path);
    if (!dir)
        return;
    for (struct dirent *e; (e = readdir(dir));) {
        char folder[4096 + 256 + 2];
        struct ulid id;
        if (!ulid_parse(slice_of(e->d_name), &id) || is_served(g, tenant, &id))
            continue;
        snprintf(folder, sizeof(folder), "%s/%s", path, e->d_name);
        remove_folder(folder);
    }
    closedir(dir);
    if (!has_tenant(g, tenant))
        rmdir(path); /* when it is empty */
}

static void clear_rooms(struct gateway *g, const char *tenant)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s/" DOWNSAMPLE_FOLDER, g->sync_dir, tenant);
    if (access(path, F_OK) != 0)
        return;
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++) {
            struct bucket_name room = downsample_room(slice_of(tenant), r, a);
            clear_tenant(g, room.text);
        }
    rmdir(path); /* when it is empty */
}

void table_clear_folders(struct gateway *g)
{
    DIR *dir = opendir(g->sync_dir);
    if (!dir)
        return;
    for (struct dirent *e; (e = readdir(dir));)
        if (e->d_type == DT_DIR && tenant_id_valid(slice_of(e->d_name), NULL)) {
            clear_rooms(g, e->d_name);
            clear_tenant(g, e->d_name);
        }
    closedir(dir);
}

/* --- ahead of queries, and after them --- */

static void close_if_idle(struct gateway *g, struct served_block *b, int64_t now_ms)
{
    if (b->state != SERVED_OPEN || now_ms - b->used_ms < g->cfg->lazy_loading_idle_timeout)
        return;
    store_block_unref(b->open); /* unmaps at most: no I/O that could wait */
    b->open = NULL;
    b->state = SERVED_CLOSED;
}

void table_close_idle(struct gateway *g)
{
    if (!g->cfg->lazy_loading_enabled || g->cfg->lazy_loading_idle_timeout <= 0)
        return;
    int64_t now_ms = clock_mono_ms();
    pthread_mutex_lock(&g->lock);
    for (size_t i = 0; i < g->table.n; i++)
        for (size_t k = 0; k < g->table.tenants[i].n; k++)
            close_if_idle(g, g->table.tenants[i].blocks[k], now_ms);
    pthread_mutex_unlock(&g->lock);
}

struct preparation {
    struct gateway *g;
    struct served_block *block; /* a reference */
};

/* With lazy loading the header's file, else the open block. */
static bool prepare_now(struct gateway *g, struct served_block *b, const struct ctx *ctx, struct store_block **ret, struct err *err)
{
    struct slice tenant = slice_of(b->tenant);
    *ret = NULL;
    make_tenant_folder(g, b);
    if (g->cfg->lazy_loading_enabled)
        return store_block_prepare(g->store, ctx, tenant, &b->id, b->dir, err);
    return (*ret = store_block_open(g->store, ctx, tenant, &b->id, b->dir, err)) != NULL;
}

/* A query may have been faster; then there is nothing to do. */
static void prepare(struct gateway *g, struct served_block *b, struct arena *arena)
{
    struct err err = ERR_NONE;
    struct ctx ctx = {.arena = arena, .canceled = &g->stopping};
    pthread_mutex_lock(&g->lock);
    bool wanted = b->state == SERVED_CLOSED && !b->prepared;
    if (wanted)
        b->state = SERVED_BUSY;
    pthread_mutex_unlock(&g->lock);
    if (!wanted)
        return;
    struct store_block *open;
    bool ok = prepare_now(g, b, &ctx, &open, &err);
    if (!ok && !gateway_stopping(g)) {
        LOG_WARN("an index-header could not be made; queries for the block will try again", {"tenant", LOG_STR(b->tenant)}, {"block", LOG_STR(b->id.text)},
                 {"err", LOG_ERR(&err)});
        metric_inc(gateway_metric(GATEWAY_LOAD_FAILURES));
    }
    pthread_mutex_lock(&g->lock);
    b->prepared |= ok;
    b->prepare_after_ms = clock_mono_ms() + (ok ? 0 : g->cfg->sync_interval);
    end_opening(g, b, open);
    pthread_mutex_unlock(&g->lock);
}

static void run_preparation(void *job, struct arena *arena)
{
    struct preparation *p = job;
    if (!gateway_stopping(p->g))
        prepare(p->g, p->block, arena);
    served_unref(p->g, p->block);
    free(p);
}

/* False when the queue is full. Under the lock, which the pool's own is below. */
static bool submit(struct gateway *g, struct served_block *b)
{
    struct preparation *p = malloc(sizeof(*p));
    ASSERT(p);
    *p = (struct preparation){g, b};
    b->refs++;
    if (pool_submit(g->preparers, run_preparation, p))
        return true;
    b->refs--;
    free(p);
    return false;
}

void table_prepare(struct gateway *g)
{
    if (pool_queued(g->preparers) > 0)
        return; /* what is queued would be queued again */
    int64_t now_ms = clock_mono_ms();
    bool room = true;
    pthread_mutex_lock(&g->lock);
    for (size_t i = 0; i < g->table.n && room; i++) {
        const struct served_tenant *t = &g->table.tenants[i];
        for (size_t k = t->n; k-- > 0 && room;) { /* the newest first: they are asked for the most */
            struct served_block *b = t->blocks[k];
            if (b->state == SERVED_CLOSED && !b->prepared && b->prepare_after_ms <= now_ms)
                room = submit(g, b);
        }
    }
    pthread_mutex_unlock(&g->lock);
}

void table_free(struct gateway *g)
{
    struct table *t = &g->table;
    while (t->n_dropped > 0)
        served_free(t->dropped[--t->n_dropped]);
    for (size_t i = 0; i < t->n; i++) {
        for (size_t k = 0; k < t->tenants[i].n; k++)
            served_free(t->tenants[i].blocks[k]);
        metric_add(gateway_metric(GATEWAY_BLOCKS), -(double)t->tenants[i].n);
        free(t->tenants[i].blocks);
        free(t->tenants[i].name);
    }
    free(t->tenants);
    free(t->dropped);
    *t = (struct table){0};
}
