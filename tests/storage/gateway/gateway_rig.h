/*
 * A bucket on a filesystem, blocks in it, and store-gateways over it that share a ring in memory. Whoever includes this defines CLAIM(cond, format, ...) before.
 */
#pragma once

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "storage/block/block.h"
#include "storage/bucket/bucket.h"
#include "storage/gateway/gateway.h"

#define GW_NODES 4u

static const struct flag_def gw_bucket_flags[] = {
#define OBJSTORE_FLAG "blocks-storage."
#define OBJSTORE_YAML "blocks_storage."
#define FLAG(...) FLAG_ROW(objstore_config, __VA_ARGS__)
#include "storage/objstore/objstore_flags.def"
#undef FLAG
};

struct gw_node {
    struct gateway_config cfg;
    struct gateway_ring_config ring;
    struct store *store;
    struct gateway *gateway;
    char id[32], addr[32], dir[128];
};

struct gw_rig {
    char dir[64], bucket_dir[128], local[128];
    struct flag_set *flags;
    struct objstore_config bucket_cfg;
    struct store_config store_cfg;
    struct gateway_config cfg; /* of nodes to come, as the other two */
    struct gateway_ring_config ring;
    struct limits limits;
    struct limits_provider provider;
    struct objstore *bucket;
    struct cache *index_cache, *chunks_cache; /* none, unless the test opens them */
    struct kv *memory;
    struct kv_stores stores;
    struct gw_node nodes[GW_NODES];
    struct arena arena;
    struct ctx ctx;
};

static inline void gw_shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline void gw_shell(const char *format, ...)
{
    char command[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof(command), format, ap);
    va_end(ap);
    CLAIM(system(command) == 0, "%s", command);
}

static inline void gw_new(struct gw_rig *r)
{
    struct err err = ERR_NONE;
    /* In memory where there is such a folder: a bucket waits for the disk with each object. */
    char dir[] = "/dev/shm/gateway-test-XXXXXX";
    CLAIM(mkdtemp(dir) || mkdtemp(strcpy(dir, "/tmp/gateway-test-XXXXXX")), "mkdtemp");
    *r = (struct gw_rig){0};
    strcpy(r->dir, dir);
    snprintf(r->bucket_dir, sizeof(r->bucket_dir), "%s/bucket", dir);
    snprintf(r->local, sizeof(r->local), "%s/local", dir);
    gw_shell("mkdir %s %s", r->bucket_dir, r->local);
    r->flags = flag_set_new();
    flag_set_add(r->flags, "Blocks", gw_bucket_flags, ARRAY_LEN(gw_bucket_flags), &r->bucket_cfg);
    flag_set_add(r->flags, "Store", store_flags, store_flags_n, &r->store_cfg);
    flag_set_add(r->flags, "Gateway", gateway_flags, gateway_flags_n, &r->cfg);
    flag_set_add(r->flags, "Ring", gateway_sharding_flags, gateway_sharding_flags_n, &r->ring.sharding);
    flag_set_add(r->flags, "Ring", gateway_kv_flags, gateway_kv_flags_n, &r->ring.kv);
    flag_set_add(r->flags, "Ring", gateway_member_flags, gateway_member_flags_n, &r->ring.member);
    flag_set_add(r->flags, "Limits", limits_flags, limits_flags_n, &r->limits);
    r->provider.defaults = &r->limits;
    r->ring.kv.store = "inmemory";
    r->ring.sharding.num_tokens = 64;
    r->cfg.query_threads = 4;
    r->bucket = objstore_open(&r->bucket_cfg, "blocks-storage.", r->bucket_dir, &err);
    CLAIM(r->bucket, "%s", err.text);
    r->memory = kv_inmemory_new(16);
    r->stores.inmemory = r->memory;
    arena_init(&r->arena, 0);
    r->ctx = (struct ctx){.arena = &r->arena};
}

/* --- nodes --- */

/* Made, not started. */
static inline struct gw_node *gw_node(struct gw_rig *r, size_t i)
{
    struct gw_node *n = &r->nodes[i];
    struct err err = ERR_NONE;
    char dir[sizeof(r->dir)];
    strcpy(dir, r->dir);
    n->cfg = r->cfg;
    n->ring = r->ring;
    snprintf(n->id, sizeof(n->id), "gateway-%zu", i);
    snprintf(n->addr, sizeof(n->addr), "127.0.0.%zu", i + 1);
    snprintf(n->dir, sizeof(n->dir), "%s/sync-%zu", dir, i);
    n->ring.member.instance_id = n->id;
    n->ring.member.instance_addr = n->addr;
    n->store = store_new(&r->store_cfg, &(struct store_deps){.bucket = r->bucket, .index_cache = r->index_cache, .chunks_cache = r->chunks_cache});
    CLAIM(n->store, "store_new");
    n->gateway = gateway_new(&(struct gateway_deps){&n->cfg, &n->ring, &r->stores, &r->provider, r->bucket, n->store, n->dir, 9095, false}, &err);
    CLAIM(n->gateway, "%s", err.text);
    return n;
}

static inline void gw_wait_ready(struct gw_node *n)
{
    struct err err = ERR_NONE;
    for (int i = 0; i < 1000 && !gateway_ready(n->gateway, &err); i++)
        usleep(10000);
    CLAIM(gateway_ready(n->gateway, &err), "%s: %s", n->id, err.text);
}

static inline struct gateway *gw_start(struct gw_rig *r, size_t i)
{
    struct err err = ERR_NONE;
    struct gw_node *n = gw_node(r, i);
    CLAIM(gateway_start(n->gateway, &err), "%s", err.text);
    gw_wait_ready(n);
    return n->gateway;
}

static inline void gw_stop(struct gw_rig *r, size_t i)
{
    struct gw_node *n = &r->nodes[i];
    if (!n->gateway)
        return;
    gateway_leave(n->gateway);
    gateway_stop(n->gateway);
    gateway_free(n->gateway);
    store_free(n->store);
    *n = (struct gw_node){0};
}

static inline void gw_free(struct gw_rig *r)
{
    for (size_t i = 0; i < GW_NODES; i++)
        gw_stop(r, i);
    objstore_free(r->bucket);
    kv_free(r->memory);
    flag_set_free(r->flags);
    arena_release(&r->arena);
    gw_shell("rm -rf %s", r->dir);
}

/* --- blocks --- */

/* One series: "a=1,b=2", and a chunk of n samples from t on. */
struct gw_series {
    const char *labels;
    int64_t t, step;
    size_t n;
    double v;
};

static inline struct labels gw_labels(struct gw_rig *r, const char *text)
{
    struct label *items = ARENA_ARRAY(&r->arena, struct label, 16);
    size_t n = 0;
    char *copy = arena_printf(&r->arena, "%s", text), *save = NULL;
    for (char *part = strtok_r(copy, ",", &save); part; part = strtok_r(NULL, ",", &save)) {
        char *eq = strchr(part, '=');
        items[n++] = (struct label){slice_make(part, (size_t)(eq - part)), slice_of(eq + 1)};
    }
    return (struct labels){items, n};
}

static inline struct series_chunk gw_chunk(struct gw_rig *r, const struct gw_series *s)
{
    struct xor_appender a;
    uint8_t *bytes = arena_zalloc(&r->arena, s->n * XOR_SAMPLE_MAX_BYTES + 64);
    xor_appender_init(&a);
    for (size_t i = 0; i < s->n; i++)
        xor_append(&a, bytes, s->t + (int64_t)i * s->step, s->v + (double)i);
    return (struct series_chunk){s->t, s->t + (int64_t)(s->n - 1) * s->step, CHUNK_XOR, slice_make(bytes, xor_size(&a))};
}

static inline int gw_cmp_slices(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

/* In the bucket, not in the index. Series are in order. */
static inline struct ulid gw_block(struct gw_rig *r, const char *tenant, const struct gw_series *list, size_t n, int64_t min_t, int64_t max_t)
{
    struct err err = ERR_NONE;
    struct labels *labels = ARENA_ARRAY(&r->arena, struct labels, n);
    struct slice *symbols = ARENA_ARRAY(&r->arena, struct slice, 32 * n + 1);
    size_t n_symbols = 0, kept = 0;
    struct ulid *id = ARENA_NEW(&r->arena, struct ulid);
    *id = ulid_new(max_t);
    for (size_t i = 0; i < n; i++) {
        labels[i] = gw_labels(r, list[i].labels);
        for (size_t k = 0; k < labels[i].n; k++) {
            symbols[n_symbols++] = labels[i].items[k].name;
            symbols[n_symbols++] = labels[i].items[k].value;
        }
    }
    qsort(symbols, n_symbols, sizeof(*symbols), gw_cmp_slices);
    for (size_t i = 0; i < n_symbols; i++)
        if (i == 0 || !slice_eq(symbols[kept - 1], symbols[i]))
            symbols[kept++] = symbols[i];
    struct block_meta meta = {.ulid = *id, .min_t = min_t, .max_t = max_t, .level = 1, .sources = id, .n_sources = 1};
    struct block_writer *w = block_writer_new(r->local, &meta, symbols, kept, &err);
    CLAIM(w, "%s", err.text);
    for (size_t i = 0; i < n; i++) {
        struct series_chunk c = gw_chunk(r, &list[i]);
        CLAIM(block_writer_add(w, &labels[i], &c, 1, &err), "%s", err.text);
    }
    CLAIM(block_writer_finish(w, &r->arena, NULL, &err), "%s", err.text);
    block_writer_free(w);
    const struct bucket_upload as = {.source = SL("receive")};
    CLAIM(bucket_upload_block(r->bucket, &r->ctx, slice_of(tenant), r->local, id, &as, NULL, &err), "%s", err.text);
    return *id;
}

/* The index says what is in the bucket. */
static inline void gw_index(struct gw_rig *r, const char *tenant)
{
    struct err err = ERR_NONE;
    struct bucket_index index;
    CLAIM(bucket_index_update(r->bucket, &r->ctx, slice_of(tenant), NULL, clock_wall_ms() / 1000, 1, &r->arena, &index, NULL, &err), "%s", err.text);
    CLAIM(bucket_index_write(r->bucket, &r->ctx, slice_of(tenant), &index, &err), "%s", err.text);
}

static inline void gw_mark(struct gw_rig *r, const char *tenant, const struct ulid *id, int64_t age_s)
{
    struct err err = ERR_NONE;
    const struct block_mark mark = {.block = *id, .time_s = clock_wall_ms() / 1000 - age_s};
    CLAIM(bucket_mark_block(r->bucket, &r->ctx, slice_of(tenant), BLOCK_MARK_DELETION, &mark, NULL, &err), "%s", err.text);
}

/* --- asking --- */

#define GW_ALL ((struct block_hints){.all = true})

/* All that a select gives, as text: a line a series, {labels} and min-max of each chunk. NULL: it failed, err says how. */
static inline char *gw_select(struct gw_rig *r, struct gateway *g, const char *tenant, const struct select_params *p, const struct block_hints *blocks,
                               struct gateway_found *ret_found, size_t batch, struct err *err)
{
    struct buf out = {0};
    struct series all[64];
    size_t n;
    r->ctx.tenant = slice_of(tenant);
    struct series_set *set = gateway_select(g, &r->ctx, p, blocks, ret_found, err);
    if (!set)
        return NULL;
    bool ok;
    while ((ok = series_set_next(set, &r->ctx, all, MIN(batch, ARRAY_LEN(all)), &n, err)) && n)
        for (size_t i = 0; i < n; i++) {
            labels_print_set(all[i].labels, &out);
            for (size_t k = 0; k < all[i].n_chunks; k++)
                buf_printf(&out, " %lld-%lld", (long long)all[i].chunks[k].min_t, (long long)all[i].chunks[k].max_t);
            buf_putc(&out, '\n');
        }
    series_set_release(set);
    char *text = ok ? arena_printf(&r->arena, "%.*s", (int)out.n, out.n ? out.p : "") : NULL;
    buf_release(&out);
    return text;
}

/* All of a tenant in one metric. */
static inline char *gw_everything(struct gw_rig *r, struct gateway *g, const char *tenant, struct gateway_found *ret_found, struct err *err)
{
    struct matcher m;
    CLAIM(matcher_init(&m, MATCH_NEQ, SL("__name__"), SL(""), NULL), "matcher");
    const struct select_params p = {.min_t = INT64_MIN, .max_t = INT64_MAX, .matchers = &m, .n_matchers = 1};
    char *text = gw_select(r, g, tenant, &p, &GW_ALL, ret_found, 7, err);
    matcher_release(&m);
    return text;
}

/* How many blocks of the tenant the gateway has. */
static inline size_t gw_count(struct gw_rig *r, struct gateway *g, const char *tenant)
{
    struct gateway_found found = {0};
    const struct slice *names;
    size_t n;
    struct err err = ERR_NONE;
    r->ctx.tenant = slice_of(tenant);
    const struct select_params p = {.min_t = INT64_MIN, .max_t = INT64_MAX, .no_chunks = true};
    CLAIM(gateway_label_names(g, &r->ctx, &p, &GW_ALL, &found, &names, &n, &err), "%s", err.text);
    return found.n;
}

static inline bool gw_has(const struct gateway_found *f, const struct ulid *id)
{
    for (size_t i = 0; i < f->n; i++)
        if (strcmp(f->blocks[i].text, id->text) == 0)
            return true;
    return false;
}
