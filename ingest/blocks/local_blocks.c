#include "ingest/blocks/local_blocks.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/logger.h"
#include "ingest/blocks/folders_int.h"
#include "ingest/blocks/local_blocks_int.h"
#include "model/tenant.h"

#define METRICS_ROOM local_blocks
#define METRICS_DEF "ingest/blocks/local_blocks_metrics.def"
#define METRICS_DEFINE_ONLY
#include "base/metrics_table.h"

/* Of a block whose meta.json cannot be read nothing is known but when it was made: samples may be so much newer than that. */
#define UNKNOWN_AHEAD_MS (3600 * 1000LL)
#define META_READ_BYTES (64u << 10) /* an ingester's own are about 1 KiB */

/* Small things: without memory for them nothing goes on. */
void *blocks_realloc(void *p, size_t n)
{
    p = realloc(p, n);
    ASSERT(p);
    return p;
}

void *blocks_calloc(size_t n, size_t size)
{
    void *p = calloc(MAX(n, (size_t)1), size);
    ASSERT(p);
    return p;
}

/* --- tenants --- */

/* Under lock. With `make` never NULL. */
struct tenant_blocks *blocks_of(struct local_blocks *lb, struct slice tenant, bool make)
{
    size_t lo = 0;
    size_t hi = lb->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        int c = slice_cmp(lb->tenants[mid]->tenant, tenant);
        if (c == 0)
            return lb->tenants[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (!make)
        return NULL;
    if (lb->n == lb->cap) {
        lb->cap = MAX((size_t)16, 2 * lb->cap);
        lb->tenants = blocks_realloc(lb->tenants, lb->cap * sizeof(*lb->tenants));
    }
    struct tenant_blocks *t = blocks_calloc(1, sizeof(*t));
    t->tenant = slice_make(slice_strdup(tenant), tenant.n);
    t->m_bytes = metric_get(local_blocks_metrics[BLOCKS_BYTES], &t->tenant);
    memmove(&lb->tenants[lo + 1], &lb->tenants[lo], (lb->n - lo) * sizeof(*lb->tenants));
    lb->tenants[lo] = t;
    lb->n++;
    return t;
}

struct local_block *block_of(const struct tenant_blocks *t, const struct ulid *ulid)
{
    for (size_t i = 0; t && i < t->n; i++)
        if (strcmp(t->blocks[i]->ulid.text, ulid->text) == 0)
            return t->blocks[i];
    return NULL;
}

void blocks_tenant_path(const struct local_blocks *lb, struct slice tenant, const char *below, char *out, size_t cap)
{
    snprintf(out, cap, "%s/%.*s%s%s", lb->dir, SL_FMT(tenant), below[0] ? "/" : "", below);
}

void blocks_path(const struct local_blocks *lb, struct slice tenant, const char *below, const struct ulid *ulid, char *out, size_t cap)
{
    snprintf(out, cap, "%s/%.*s/%s%s%s", lb->dir, SL_FMT(tenant), below, below[0] ? "/" : "", ulid->text);
}

void local_blocks_tenant_dir(const struct local_blocks *lb, struct slice tenant, char *out, size_t cap)
{
    blocks_tenant_path(lb, tenant, "", out, cap);
}

/* --- blocks --- */

void local_block_unref(struct local_block *b)
{
    if (atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1)
        return;
    block_close(b->reader);
    free(b->why);
    free(b);
}

static uint64_t bytes_of(const struct block_meta *m)
{
    uint64_t n = 0;
    for (size_t i = 0; i < m->n_files; i++)
        n += m->files[i].size;
    return n;
}

/* Under lock. */
static void set_damaged(struct local_block *b, const struct err *why)
{
    if (b->damaged)
        return;
    b->damaged = true;
    b->why = slice_strdup(slice_of(why->text));
    metric_add(metric_single(local_blocks_metrics[BLOCKS_DAMAGED]), 1);
    LOG_ERROR("a local block is damaged: queries that need it fail, and it is not shipped", {"tenant", LOG_SLICE(b->tenant->tenant)},
              {"block", LOG_STR(b->ulid.text)}, {"err", LOG_STR(why->text)});
}

/* The times of a block that cannot be opened, when at least its meta.json can be read. */
static void read_times(const char *path, struct local_block *b)
{
    char name[4096 + 16];
    struct arena arena;
    struct block_meta m;
    snprintf(name, sizeof(name), "%s/meta.json", path);
    FILE *f = fopen(name, "re");
    char *text = blocks_calloc(1, META_READ_BYTES);
    size_t n = f ? fread(text, 1, META_READ_BYTES, f) : 0;
    arena_init(&arena, 0);
    if (n && block_meta_decode(slice_make(text, n), &arena, &m, NULL)) {
        b->min_t = m.min_t;
        b->max_t = m.max_t;
        b->out_of_order = block_meta_is_out_of_order(&m);
    }
    arena_release(&arena);
    free(text);
    if (f)
        fclose(f);
}

/* A block in a folder, not listed yet; `any`: one that is damaged, too. NULL: an error. */
static struct local_block *open_block(struct local_blocks *lb, struct tenant_blocks *t, const char *path, const struct ulid *ulid, bool any,
                                      struct err *err)
{
    struct err why;
    struct block *reader = block_open(path, &why);
    if (!reader && !any) {
        *err = why;
        return NULL;
    }
    if (!reader && why.code != ERR_CORRUPT && why.code != ERR_NOT_FOUND && why.code != ERR_BAD_DATA) {
        *err = why;
        return NULL;
    }
    struct local_block *b = blocks_calloc(1, sizeof(*b));
    *b = (struct local_block){.lb = lb, .tenant = t, .ulid = *ulid, .reader = reader, .min_t = INT64_MIN};
    atomic_init(&b->refs, 1);
    if (!reader) {
        b->max_t = ulid_time_ms(ulid) + UNKNOWN_AHEAD_MS;
        read_times(path, b);
        set_damaged(b, &why);
        return b;
    }
    const struct block_meta *m = block_meta_of(reader);
    b->min_t = m->min_t;
    b->max_t = m->max_t;
    b->out_of_order = block_meta_is_out_of_order(m);
    b->bytes = bytes_of(m);
    return b;
}

/* Under lock. */
static void list_block(struct tenant_blocks *t, struct local_block *b)
{
    if (t->n == t->cap) {
        t->cap = MAX((size_t)8, 2 * t->cap);
        t->blocks = blocks_realloc(t->blocks, t->cap * sizeof(struct local_block *));
    }
    size_t at = t->n;
    for (; at > 0 && strcmp(t->blocks[at - 1]->ulid.text, b->ulid.text) > 0; at--)
        t->blocks[at] = t->blocks[at - 1];
    t->blocks[at] = b;
    t->n++;
    metric_add(metric_single(local_blocks_metrics[BLOCKS_LOADED]), 1);
    metric_add(t->m_bytes, (double)b->bytes);
}

/* Under lock; the list's reference is the caller's then. */
void blocks_unlist(struct tenant_blocks *t, size_t at)
{
    struct local_block *b = t->blocks[at];
    memmove(&t->blocks[at], &t->blocks[at + 1], (t->n - at - 1) * sizeof(struct local_block *));
    t->n--;
    metric_add(metric_single(local_blocks_metrics[BLOCKS_LOADED]), -1);
    metric_add(t->m_bytes, -(double)b->bytes);
    if (b->damaged)
        metric_add(metric_single(local_blocks_metrics[BLOCKS_DAMAGED]), -1);
}

/* --- life cycle --- */

struct local_blocks *local_blocks_new(const struct local_blocks_config *cfg, struct err *err)
{
    local_blocks_metrics_register();
    if (strlen(cfg->dir) > 300) { /* paths of local_block_info */
        err_set(err, ERR_CONFIG, "the path %.200s... is too long", cfg->dir);
        return NULL;
    }
    if (!folder_make(cfg->dir, err))
        return NULL;
    struct local_blocks *lb = blocks_calloc(1, sizeof(*lb));
    lb->dir = slice_strdup(slice_of(cfg->dir));
    lb->retention_ms = cfg->retention_ms;
    lb->store_has_it_ms = cfg->store_has_it_ms;
    pthread_mutex_init(&lb->lock, NULL);
    return lb;
}

void local_blocks_free(struct local_blocks *lb)
{
    if (!lb)
        return;
    for (size_t i = 0; i < lb->n; i++) {
        struct tenant_blocks *t = lb->tenants[i];
        while (t->n) {
            struct local_block *b = t->blocks[t->n - 1];
            blocks_unlist(t, t->n - 1);
            local_block_unref(b);
        }
        free(t->blocks);
        free((char *)t->tenant.p);
        free(t);
    }
    free(lb->tenants);
    pthread_mutex_destroy(&lb->lock);
    free(lb->dir);
    free(lb);
}

/* --- publishing --- */

static bool publish_folder(struct local_blocks *lb, struct slice tenant, const struct ulid *ulid, bool may_be_gone, struct err *err)
{
    char from[4096];
    char to[4096];
    blocks_path(lb, tenant, PENDING, ulid, from, sizeof(from));
    blocks_path(lb, tenant, "", ulid, to, sizeof(to));
    if (rename(from, to) == 0 || (may_be_gone && errno == ENOENT))
        return true;
    return err_errno(err, ERR_IO, errno, "renaming %s", from);
}

static bool publish_folders(struct local_blocks *lb, struct slice tenant, const struct ulid *ulids, size_t n, bool may_be_gone, struct err *err)
{
    char dir[4096];
    blocks_tenant_path(lb, tenant, "", dir, sizeof(dir));
    for (size_t i = 0; i < n; i++)
        if (!publish_folder(lb, tenant, &ulids[i], may_be_gone, err))
            return false;
    struct stat st;
    if (n == 0 || (may_be_gone && stat(dir, &st) != 0))
        return true;
    return folder_sync(dir, err);
}

bool local_blocks_publish_named(struct local_blocks *lb, struct slice tenant, const struct ulid *ulids, size_t n, struct err *err)
{
    return publish_folders(lb, tenant, ulids, n, true, err);
}

bool local_blocks_publish(struct local_blocks *lb, struct slice tenant, const struct ulid *ulids, size_t n, struct err *err)
{
    /* May be gone: an earlier try failed after the rename. */
    if (!publish_folders(lb, tenant, ulids, n, true, err))
        return false;
    pthread_mutex_lock(&lb->lock);
    struct tenant_blocks *t = blocks_of(lb, tenant, false);
    for (size_t i = 0; i < n; i++) {
        struct local_block *b = block_of(t, &ulids[i]);
        if (b)
            b->pending = false;
    }
    pthread_mutex_unlock(&lb->lock);
    return true;
}

/* --- loading --- */

static bool load_tenant(struct local_blocks *lb, struct slice tenant, struct err *err)
{
    char dir[4096];
    char path[4096];
    blocks_tenant_path(lb, tenant, PENDING, path, sizeof(path));
    if (!folder_remove(path, err))
        return false;
    blocks_tenant_path(lb, tenant, DELETING, path, sizeof(path));
    if (!folder_remove(path, err))
        return false;
    blocks_tenant_path(lb, tenant, "", dir, sizeof(dir));
    DIR *d = opendir(dir);
    if (!d)
        return err_errno(err, ERR_IO, errno, "opening %s", dir);
    struct tenant_blocks *t = blocks_of(lb, tenant, true);
    bool ok = true;
    for (struct dirent *e; ok && (e = readdir(d));) {
        struct ulid ulid;
        if (!ulid_parse(slice_of(e->d_name), &ulid))
            continue;
        blocks_path(lb, tenant, "", &ulid, path, sizeof(path));
        struct local_block *b = open_block(lb, t, path, &ulid, true, err);
        if (b)
            list_block(t, b);
        ok = b != NULL;
    }
    closedir(d);
    return ok;
}

bool local_blocks_load(struct local_blocks *lb, struct err *err)
{
    DIR *d = opendir(lb->dir);
    if (!d)
        return err_errno(err, ERR_IO, errno, "opening %s", lb->dir);
    bool ok = true;
    pthread_mutex_lock(&lb->lock);
    for (struct dirent *e; ok && (e = readdir(d));)
        if (tenant_id_valid(slice_of(e->d_name), NULL))
            ok = load_tenant(lb, slice_of(e->d_name), err);
    pthread_mutex_unlock(&lb->lock);
    closedir(d);
    return ok;
}

/* --- cutting --- */

bool local_blocks_pending_dir(struct local_blocks *lb, struct slice tenant, char *out, size_t cap, struct err *err)
{
    char dir[4096];
    blocks_tenant_path(lb, tenant, "", dir, sizeof(dir));
    blocks_tenant_path(lb, tenant, PENDING, out, cap);
    return folder_make(out, err) && folder_sync(dir, err) && folder_sync(lb->dir, err);
}

bool local_blocks_add(struct local_blocks *lb, struct slice tenant, const struct ulid *ulids, size_t n, struct err *err)
{
    struct local_block **opened = blocks_calloc(n, sizeof(*opened));
    pthread_mutex_lock(&lb->lock);
    struct tenant_blocks *t = blocks_of(lb, tenant, true);
    pthread_mutex_unlock(&lb->lock);
    size_t i = 0;
    for (; i < n; i++) {
        char path[4096];
        blocks_path(lb, tenant, PENDING, &ulids[i], path, sizeof(path));
        if (!(opened[i] = open_block(lb, t, path, &ulids[i], false, err)))
            break;
    }
    bool ok = i == n;
    pthread_mutex_lock(&lb->lock);
    for (size_t k = 0; ok && k < n; k++) {
        opened[k]->pending = true;
        list_block(t, opened[k]);
    }
    pthread_mutex_unlock(&lb->lock);
    for (size_t k = 0; !ok && k < i; k++)
        local_block_unref(opened[k]);
    free(opened);
    return ok;
}

void local_blocks_discard(struct local_blocks *lb, struct slice tenant, const struct ulid *ulids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char path[4096];
        struct err err;
        blocks_path(lb, tenant, PENDING, &ulids[i], path, sizeof(path));
        if (!folder_remove(path, &err))
            LOG_WARN("a block that was given up stays until the next start", {"block", LOG_STR(path)}, {"err", LOG_ERR(&err)});
    }
}

/* --- reading --- */

static int by_begin(const void *a, const void *b)
{
    const struct local_block *x = *(struct local_block *const *)a;
    const struct local_block *y = *(struct local_block *const *)b;
    int c = (x->min_t > y->min_t) - (x->min_t < y->min_t);
    return c ? c : strcmp(x->ulid.text, y->ulid.text);
}

bool local_blocks_get(struct local_blocks *lb, struct slice tenant, int64_t min_t, int64_t max_t, struct local_block_refs *ret, struct err *err)
{
    bool ok = true;
    *ret = (struct local_block_refs){NULL, 0};
    pthread_mutex_lock(&lb->lock);
    struct tenant_blocks *t = blocks_of(lb, tenant, false);
    for (size_t i = 0; ok && t && i < t->n; i++) {
        struct local_block *b = t->blocks[i];
        if (b->min_t > max_t || b->max_t <= min_t)
            continue;
        if (b->damaged) {
            ok = err_set(err, ERR_CORRUPT, "the block %s is damaged: %s", b->ulid.text, b->why);
            break;
        }
        if (!ret->blocks)
            ret->blocks = blocks_calloc(t->n, sizeof(struct local_block *));
        atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
        ret->blocks[ret->n++] = b;
    }
    pthread_mutex_unlock(&lb->lock);
    if (!ok)
        local_block_refs_release(ret);
    else if (ret->n > 1)
        qsort(ret->blocks, ret->n, sizeof(struct local_block *), by_begin);
    return ok;
}

void local_block_refs_release(struct local_block_refs *refs)
{
    for (size_t i = 0; i < refs->n; i++)
        local_block_unref(refs->blocks[i]);
    free(refs->blocks);
    *refs = (struct local_block_refs){NULL, 0};
}

struct block *local_block_reader(const struct local_block *b)
{
    return b->reader;
}

void local_block_failed(struct local_block *b, const struct err *why)
{
    if (why->code != ERR_CORRUPT)
        return;
    pthread_mutex_lock(&b->lb->lock);
    /* One that was taken out of the list meanwhile is nobody's concern. */
    if (block_of(b->tenant, &b->ulid) == b)
        set_damaged(b, why);
    pthread_mutex_unlock(&b->lb->lock);
}
