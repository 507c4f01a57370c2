/* A bucket in a folder with blocks in it, a store that reads them, and a view of the bucket that lies. */
#pragma once

#include <stdatomic.h>

#include "storage/store/store_int.h"
#include "tests/storage/block/block_util.h"

#define TENANT SL("t1")

struct test_store {
    struct flag_set *flags;
    struct store_config cfg;
    struct cache_config index_cfg, chunks_cfg;
    struct cache *index_cache, *chunks_cache;
    struct objstore *bucket; /* not owned */
    struct store *store;
    char dir[160]; /* of index-headers */
};

/* A bucket in <folder>/bucket, or anywhere else. */
static inline struct objstore *open_bucket(const char *dir)
{
    struct err err = ERR_NONE;
    struct flag_set *fs = flag_set_new();
    struct objstore_config cfg;
    static const struct flag_def defs[] = {
#define OBJSTORE_FLAG "b."
#define OBJSTORE_YAML "b."
#define FLAG(...) FLAG_ROW(objstore_config, __VA_ARGS__)
#include "storage/objstore/objstore_flags.def"
#undef FLAG
    };
    flag_set_add(fs, "bucket", defs, ARRAY_LEN(defs), &cfg);
    cfg.filesystem_dir = dir;
    struct objstore *s = objstore_open(&cfg, "b.", dir, &err);
    cr_assert(s, "%s", err.text);
    flag_set_free(fs);
    return s;
}

enum caches { NO_CACHES, CACHES };

/* Settings of its own may be made between the two. */
static inline void store_setup(struct test_store *t, struct objstore *bucket)
{
    *t = (struct test_store){.bucket = bucket, .flags = flag_set_new()};
    flag_set_add(t->flags, "store", store_flags, store_flags_n, &t->cfg);
    flag_set_add(t->flags, "index cache", store_index_cache_flags, store_cache_flags_n, &t->index_cfg);
    flag_set_add(t->flags, "chunks cache", store_chunks_cache_flags, store_cache_flags_n, &t->chunks_cfg);
    snprintf(t->dir, sizeof(t->dir), "%s/sync", folder);
}

static inline void store_begin(struct test_store *t, enum caches caches)
{
    struct err err = ERR_NONE;
    if (caches == CACHES) {
        t->chunks_cfg.backend = "inmemory";
        cr_assert(cache_open(&t->index_cfg, STORE_INDEX_CACHE_FLAGS, "store-gateway", "index-cache", &t->index_cache, &err), "%s", err.text);
        cr_assert(cache_open(&t->chunks_cfg, STORE_CHUNKS_CACHE_FLAGS, "store-gateway", "chunks-cache", &t->chunks_cache, &err), "%s", err.text);
    }
    t->store = store_new(&t->cfg, &(struct store_deps){t->bucket, t->index_cache, t->chunks_cache});
}

static inline void store_end(struct test_store *t)
{
    store_free(t->store);
    cache_close(t->index_cache);
    cache_close(t->chunks_cache);
    flag_set_free(t->flags);
}

static inline const char *dir_of(const struct test_store *t, struct slice tenant, const char *id)
{
    return arena_printf(&arena, "%s/%.*s/%s", t->dir, SL_FMT(tenant), id);
}

static inline struct store_block *try_block(struct test_store *t, struct slice tenant, const char *id, struct err *err)
{
    struct ctx ctx = test_ctx();
    struct ulid ulid;
    cr_assert(ulid_parse(slice_of(id), &ulid));
    return store_block_open(t->store, &ctx, tenant, &ulid, dir_of(t, tenant, id), err);
}

static inline struct store_block *remote_block(struct test_store *t, struct slice tenant, const char *id)
{
    struct err err = ERR_NONE;
    struct store_block *b = try_block(t, tenant, id, &err);
    cr_assert(b, "%s: %s", id, err.text);
    return b;
}

static inline const char *bucket_dir(void)
{
    return path_of(folder, "bucket");
}

/* Writes the block into the bucket; its ULID. */
static inline const char *put_block(const struct series *series, size_t n, int64_t min_t, int64_t max_t)
{
    struct block_meta meta = meta_of_times(min_t, max_t);
    const char *from = write_block(series, n, meta);
    mkdir(bucket_dir(), 0755);
    mkdir(path_of(bucket_dir(), "t1"), 0755);
    const char *id = arena_printf(&arena, "%s", meta.ulid.text);
    cr_assert_eq(rename(from, path_of(path_of(bucket_dir(), "t1"), id)), 0);
    return id;
}

static inline const char *block_dir(const char *id)
{
    return path_of(path_of(bucket_dir(), "t1"), id);
}

static inline bool set_text(struct series_set *set, struct buf *out, struct err *err)
{
    struct ctx ctx = test_ctx();
    struct series batch[7];
    size_t n;
    if (!set)
        return false;
    bool good;
    while ((good = series_set_next(set, &ctx, batch, ARRAY_LEN(batch), &n, err)) && n)
        for (size_t i = 0; i < n; i++) {
            labels_print_set(batch[i].labels, out);
            for (size_t j = 0; j < batch[i].n_chunks; j++) {
                const struct series_chunk *c = &batch[i].chunks[j];
                buf_printf(out, " %lld-%lld:%d:", (long long)c->min_t, (long long)c->max_t, (int)c->encoding);
                for (size_t k = 0; k < c->data.n; k++)
                    buf_printf(out, "%02x", (uint8_t)c->data.p[k]);
            }
            buf_putc(out, '\n');
        }
    series_set_release(set);
    return good;
}

/* What the store gives, as select_text of the block. */
static inline bool remote_text(struct store_block *b, const struct select_params *p, struct buf *out, struct store_stats *stats, struct err *err)
{
    struct ctx ctx = test_ctx();
    return set_text(store_block_select(b, &ctx, p, stats, err), out, err);
}

static inline void expect_same(struct block *local, struct store_block *b, const struct select_params *p, const char *what)
{
    struct err err = ERR_NONE;
    struct buf want, got;
    buf_init(&want, 0);
    buf_init(&got, 0);
    cr_assert(select_text(local, p, &want, &err), "%s: %s", what, err.text);
    cr_assert(remote_text(b, p, &got, NULL, &err), "%s: %s", what, err.text);
    cr_assert(slice_eq(buf_slice(&want), buf_slice(&got)), "%s: %zu bytes, not %zu", what, got.n, want.n);
    buf_release(&want);
    buf_release(&got);
}

static inline void expect_same_list(const struct slice *want, size_t n_want, const struct slice *got, size_t n_got, const char *what)
{
    cr_assert_eq(n_want, n_got, "%s: %zu, not %zu", what, n_got, n_want);
    for (size_t i = 0; i < n_want; i++)
        cr_assert(slice_eq(want[i], got[i]), "%s: %.*s, not %.*s", what, SL_FMT(got[i]), SL_FMT(want[i]));
}

static inline void expect_same_labels(struct block *local, struct store_block *b, const struct select_params *p, const char *what)
{
    struct ctx ctx = test_ctx();
    struct err err = ERR_NONE;
    const struct slice *want, *got;
    size_t n_want, n_got;
    cr_assert(block_label_names(local, &ctx, p, &want, &n_want, &err));
    cr_assert(store_block_label_names(b, &ctx, p, &got, &n_got, NULL, &err), "%s: %s", what, err.text);
    expect_same_list(want, n_want, got, n_got, what);
    const char *const names[] = {"__name__", "l0", "l3", "job", "zone", "none", ""};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        cr_assert(block_label_values(local, &ctx, slice_of(names[i]), p, &want, &n_want, &err));
        cr_assert(store_block_label_values(b, &ctx, slice_of(names[i]), p, &got, &n_got, NULL, &err), "%s: %s", what, err.text);
        expect_same_list(want, n_want, got, n_got, what);
    }
}

/* --- a bucket that lies --- */

struct liar {
    struct objstore base;
    struct objstore *inner;   /* not owned */
    struct slice name;        /* ends the names that are lied about */
    int64_t flip_at;          /* byte of the object that has another bit; -1: none */
    uint8_t flip_bit;
    uint64_t cut_at;          /* the object seems to end here; UINT64_MAX: it does not */
    atomic_int fail_in;       /* gets until one fails; negative: none does */
    atomic_ullong gets, bytes;
};

static inline bool liar_get(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out, struct err *err)
{
    struct liar *l = CONTAINER_OF(s, struct liar, base);
    size_t before = out->n;
    bool about = slice_has_suffix(name, l->name);
    atomic_fetch_add(&l->gets, 1);
    if (atomic_fetch_sub(&l->fail_in, 1) == 0)
        return err_set(err, ERR_UNAVAILABLE, "the bucket is away");
    if (about && n != OBJSTORE_ALL && offset + n > l->cut_at)
        return err_set(err, ERR_OUT_OF_RANGE, "beyond the end");
    if (!objstore_get(l->inner, ctx, name, offset, n, out, err))
        return false;
    atomic_fetch_add(&l->bytes, out->n - before);
    if (about && l->flip_at >= (int64_t)offset && (uint64_t)l->flip_at - offset < out->n - before)
        out->p[before + ((uint64_t)l->flip_at - offset)] ^= (char)(1 << l->flip_bit);
    return true;
}

static inline bool liar_attributes(struct objstore *s, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret, struct err *err)
{
    struct liar *l = CONTAINER_OF(s, struct liar, base);
    if (!objstore_attributes(l->inner, ctx, name, ret, err))
        return false;
    if (slice_has_suffix(name, l->name))
        ret->size = MIN(ret->size, l->cut_at);
    return true;
}

static const struct objstore_ops liar_ops = {.name = "liar", .is_view = true, .get = liar_get, .attributes = liar_attributes};

static inline void liar_init(struct liar *l, struct objstore *inner)
{
    *l = (struct liar){.base = {&liar_ops}, .inner = inner, .flip_at = -1, .cut_at = UINT64_MAX};
    atomic_init(&l->fail_in, -1);
}
