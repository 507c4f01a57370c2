/* A bucket on the disk, a compactor that is alone, and a look at every sample in the bucket. */
#pragma once

#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

#include "base/clock.h"
#include "base/logger.h"
#include "model/limits.h"
#include "storage/compactor/compactor_int.h"
#include "tests/storage/block/block_util.h"

#define TENANT SL("tenant-a")
#define T0 INT64_C(1763596800000) /* begins a range of 12 h, long ago */
#define RANGE INT64_C(7200000)

/* On a disk of memory where there is one: nothing here is about the disk, and syncing it takes most of the time. */
static inline void begin(void)
{
    log_min_level = (enum log_level)(LOG_LEVEL_ERROR + 1);
    arena_init(&arena, 0);
    strcpy(folder, "/dev/shm/brunn-compactor-XXXXXX");
    if (!mkdtemp(folder)) {
        strcpy(folder, "/tmp/brunn-compactor-XXXXXX");
        cr_assert(mkdtemp(folder));
    }
}

/* --- a store whose operations fail, end the process, or wait --------------------------------------------------------------------------- */

struct faulty {
    struct objstore base;
    struct objstore *inner;
    atomic_int n_changes; /* puts and removals */
    int die_before;       /* that change; 0: none */
    int die_after;
    int fail_percent;     /* of all operations */
    int slow_ms;          /* each operation, or until ctx ends */
    const char *out_of_reach; /* part of the names of objects that cannot be read; NULL: none */
    int stale_percent;    /* of all listings: what the same one said the time before */
    struct listing *listings;
    size_t n_listings;
    struct rnd rnd;       /* one thread's */
};

struct listed {
    char *name;
    bool is_prefix;
    struct objstore_attributes attributes;
};

struct listing {
    char *prefix; /* owned, as all of it */
    struct listed *items;
    size_t n;
};

static inline bool faulty_goes(struct objstore *s, const struct ctx *ctx, bool change, struct err *err)
{
    struct faulty *f = CONTAINER_OF(s, struct faulty, base);
    for (int waited = 0; waited < f->slow_ms; waited += 10) {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        if (!ctx_check(ctx, err))
            return false;
    }
    if (f->fail_percent && rnd_below(&f->rnd, 100) < (uint64_t)f->fail_percent)
        return err_set(err, ERR_UNAVAILABLE, "a fault that was asked for");
    if (change && atomic_fetch_add(&f->n_changes, 1) + 1 == f->die_before)
        _exit(42);
    return true;
}

static inline bool faulty_done(struct objstore *s, bool good)
{
    struct faulty *f = CONTAINER_OF(s, struct faulty, base);
    if (atomic_load(&f->n_changes) == f->die_after && f->die_after)
        _exit(42);
    return good;
}

#define INNER (CONTAINER_OF(s, struct faulty, base)->inner)
static inline bool faulty_get(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out, struct err *err)
{
    const char *part = CONTAINER_OF(s, struct faulty, base)->out_of_reach;
    if (part && memmem(name.p, name.n, part, strlen(part)))
        return err_set(err, ERR_UNAVAILABLE, "out of reach");
    return faulty_goes(s, ctx, false, err) && objstore_get(INNER, ctx, name, offset, n, out, err);
}
static inline bool faulty_attributes(struct objstore *s, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret, struct err *err)
{
    return faulty_goes(s, ctx, false, err) && objstore_attributes(INNER, ctx, name, ret, err);
}
static inline bool faulty_put(struct objstore *s, const struct ctx *ctx, struct slice name, struct slice bytes, struct err *err)
{
    return faulty_goes(s, ctx, true, err) && faulty_done(s, objstore_put(INNER, ctx, name, bytes, err));
}
static inline bool faulty_put_file(struct objstore *s, const struct ctx *ctx, struct slice name, const char *path, struct err *err)
{
    return faulty_goes(s, ctx, true, err) && faulty_done(s, objstore_put_file(INNER, ctx, name, path, err));
}
static inline bool faulty_remove(struct objstore *s, const struct ctx *ctx, struct slice name, struct err *err)
{
    return faulty_goes(s, ctx, true, err) && faulty_done(s, objstore_remove(INNER, ctx, name, err));
}
static inline void listing_clear(struct listing *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->items[i].name);
    free(l->items);
    l->items = NULL;
    l->n = 0;
}
static inline bool listing_add(void *arg, struct slice name, bool is_prefix, const struct objstore_attributes *attributes)
{
    struct listing *l = arg;
    l->items = realloc(l->items, (l->n + 1) * sizeof(*l->items));
    l->items[l->n++] = (struct listed){slice_strdup(name), is_prefix, attributes ? *attributes : (struct objstore_attributes){0}};
    return true;
}
static inline struct listing *listing_of(struct faulty *f, struct slice prefix)
{
    for (size_t i = 0; i < f->n_listings; i++)
        if (slice_eq(slice_of(f->listings[i].prefix), prefix))
            return &f->listings[i];
    f->listings = realloc(f->listings, (f->n_listings + 1) * sizeof(*f->listings));
    f->listings[f->n_listings] = (struct listing){.prefix = slice_strdup(prefix)};
    return &f->listings[f->n_listings++];
}
static inline bool faulty_list(struct objstore *s, const struct ctx *ctx, struct slice prefix, bool delimited, objstore_list_fn *fn, void *arg, struct err *err)
{
    struct faulty *f = CONTAINER_OF(s, struct faulty, base);
    if (!faulty_goes(s, ctx, false, err))
        return false;
    if (!f->stale_percent)
        return objstore_list(INNER, ctx, prefix, delimited, fn, arg, err);
    struct listing *l = listing_of(f, prefix);
    if (l->n == 0 || rnd_below(&f->rnd, 100) >= (uint64_t)f->stale_percent) {
        listing_clear(l);
        if (!objstore_list(INNER, ctx, prefix, delimited, listing_add, l, err))
            return false;
    }
    for (size_t i = 0; i < l->n; i++)
        if (!fn(arg, slice_of(l->items[i].name), l->items[i].is_prefix, &l->items[i].attributes))
            break;
    return true;
}
#undef INNER
static inline void faulty_free(struct objstore *s)
{
    (void)s;
}
static const struct objstore_ops faulty_ops = {
    .name = "faulty",
    .is_view = true,
    .get = faulty_get,
    .attributes = faulty_attributes,
    .put = faulty_put,
    .put_file = faulty_put_file,
    .remove = faulty_remove,
    .list = faulty_list,
    .free = faulty_free,
};

/* --- a compactor ------------------------------------------------------------------------------------------------------------------------ */

static const struct flag_def test_store_flags[] = {
#define OBJSTORE_FLAG "blocks-storage."
#define OBJSTORE_YAML "blocks_storage."
#define FLAG(...) FLAG_ROW(objstore_config, __VA_ARGS__)
#include "storage/objstore/objstore_flags.def"
#undef FLAG
};

struct site {
    struct flag_set *flags;
    struct objstore_config store_cfg;
    struct compactor_config cfg;
    struct kv_config kv_cfg;
    struct ring_member_config member_cfg;
    struct limits limits;
    struct limits_provider provider;
    struct objstore *store;
    struct faulty faulty;
    struct kv *memory;
    struct compactor_ring *ring;
    struct compactor *compactor;
};

/* All defaults, without pauses. The bucket is <folder>/bucket. */
static inline void site_open(struct site *r)
{
    struct err err = ERR_NONE;
    memset(r, 0, sizeof(*r));
    r->flags = flag_set_new();
    flag_set_add(r->flags, "Store", test_store_flags, ARRAY_LEN(test_store_flags), &r->store_cfg);
    flag_set_add(r->flags, "Compactor", compactor_flags, compactor_flags_n, &r->cfg);
    flag_set_add(r->flags, "Ring", compactor_kv_flags, compactor_kv_flags_n, &r->kv_cfg);
    flag_set_add(r->flags, "Member", compactor_member_flags, compactor_member_flags_n, &r->member_cfg);
    flag_set_add(r->flags, "Limits", limits_flags, limits_flags_n, &r->limits);
    r->cfg.first_level_compaction_wait_period = 0;
    r->cfg.compaction_retries = 0;
    r->provider.defaults = &r->limits;
    r->store = objstore_open(&r->store_cfg, "blocks-storage.", path_of(folder, "bucket"), &err);
    cr_assert(r->store, "%s", err.text);
    r->faulty = (struct faulty){.base.ops = &faulty_ops, .inner = r->store, .rnd = {1}};
}

static inline void site_start(struct site *r)
{
    struct err err = ERR_NONE;
    r->memory = kv_inmemory_new(16);
    struct kv_stores stores = {.inmemory = r->memory};
    r->ring = compactor_ring_new(&r->cfg, &r->kv_cfg, &r->member_cfg, &r->provider, &stores, 9095, true, &err);
    cr_assert(r->ring, "%s", err.text);
    cr_assert(compactor_ring_wait(r->ring, &(struct ctx){0}, &err), "%s", err.text);
    r->compactor = compactor_new(&r->cfg, r->ring, &r->provider, &r->faulty.base, path_of(folder, "data"), &err);
    cr_assert(r->compactor, "%s", err.text);
    r->compactor->retry_ms = 1;
}

static inline void site_close(struct site *r)
{
    compactor_free(r->compactor);
    compactor_ring_free(r->ring);
    kv_free(r->memory);
    objstore_free(r->store);
    flag_set_free(r->flags);
    for (size_t i = 0; i < r->faulty.n_listings; i++) {
        listing_clear(&r->faulty.listings[i]);
        free(r->faulty.listings[i].prefix);
    }
    free(r->faulty.listings);
}

/* --- blocks in the bucket ---------------------------------------------------------------------------------------------------------------- */

static inline struct ulid put_series(struct site *r, struct slice tenant, const struct series *series, size_t n, struct block_meta meta)
{
    struct err err = ERR_NONE;
    struct ctx ctx = test_ctx();
    struct bucket_upload as = {.source = SL("receive")};
    const char *dir = write_block(series, n, meta);
    cr_assert(bucket_upload_block(r->store, &ctx, tenant, folder, &meta.ulid, &as, NULL, &err), "%s", err.text);
    nftw(dir, util_remove, 8, FTW_DEPTH | FTW_PHYS);
    return meta.ulid;
}

/* A block of a replica: ten series over one range of two hours; replicas have most samples in common. */
static inline struct ulid put_block(struct site *r, struct slice tenant, int range, int replica)
{
    struct series s[10];
    int64_t from = T0 + range * RANGE;
    for (int i = 0; i < 10; i++) {
        struct series_chunk *chunks = ARENA_ARRAY(&arena, struct series_chunk, 2);
        chunks[0] = float_chunk(from + 1000 * replica, 15000, 100, i);
        chunks[1] = float_chunk(from + 3600000, 15000, 90, i);
        s[i] = (struct series){labels_of(arena_printf(&arena, "__name__=m,i=%d", i)), chunks, 2};
    }
    return put_series(r, tenant, s, 10, meta_of_times(from, from + RANGE));
}

/* --- what the bucket has ------------------------------------------------------------------------------------------------------------------- */

struct bucket_facts {
    uint64_t hash;      /* of all samples as a set: any order, each once */
    size_t n_samples;   /* of them */
    size_t n_again;     /* how many there are more than once */
    size_t n_blocks;    /* that are not marked */
    size_t n_partial;   /* without a meta.json */
    uint32_t max_level;
};

static inline int util_cmp_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static inline uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static inline size_t hash_samples(const char *dir, uint64_t *hashes)
{
    struct err err = ERR_NONE;
    struct block *b = open_block(dir);
    struct series s;
    bool more;
    size_t n = 0;
    cr_assert(block_verify(b, &err), "%s", err.text);
    struct block_scan *scan = block_scan_new(b, &err);
    while (block_scan_next(scan, &s, &more, &err) && more)
        for (size_t c = 0; c < s.n_chunks; c++) {
            struct chunk_columns col;
            cr_assert(chunk_decode(s.chunks[c].encoding, s.chunks[c].data, &arena, &col, &err), "%s", err.text);
            for (size_t i = 0; i < col.n; i++) {
                uint64_t bits = 0;
                if (col.v)
                    memcpy(&bits, &col.v[i], 8);
                hashes[n++] = mix(mix(labels_hash(s.labels) ^ (uint64_t)col.t[i]) ^ bits);
            }
        }
    block_scan_free(scan);
    block_close(b);
    return n;
}

/* Removes what is marked, as the cleaner does, and looks at all the rest. */
static inline struct bucket_facts look(struct site *r, struct slice tenant)
{
    struct err err = ERR_NONE;
    struct ctx ctx = test_ctx();
    const struct ulid *ids;
    size_t n, n_all = 0, cap = 1 << 20;
    uint64_t *hashes = malloc(cap * sizeof(*hashes));
    struct bucket_facts facts = {0};
    cr_assert(bucket_list_marks(r->store, &ctx, tenant, BLOCK_MARK_DELETION, &arena, &ids, &n, &err), "%s", err.text);
    for (size_t i = 0; i < n; i++)
        cr_assert(bucket_delete_block(r->store, &ctx, tenant, &ids[i], &err), "%s", err.text);
    cr_assert(bucket_blocks(r->store, &ctx, tenant, &arena, &ids, &n, &err), "%s", err.text);
    const char *dir = path_of(folder, "looked-at");
    mkdir(dir, 0777);
    for (size_t i = 0; i < n; i++) {
        struct block_meta meta;
        if (!bucket_read_meta(r->store, &ctx, tenant, &ids[i], &arena, &meta, NULL)) {
            facts.n_partial++;
            continue;
        }
        cr_assert(bucket_download_block(r->store, &ctx, tenant, &ids[i], dir, &err), "%s", err.text);
        n_all += hash_samples(path_of(dir, ids[i].text), hashes + n_all);
        facts.n_blocks++;
        facts.max_level = MAX(facts.max_level, meta.level);
    }
    nftw(dir, util_remove, 8, FTW_DEPTH | FTW_PHYS);
    if (n_all)
        qsort(hashes, n_all, sizeof(*hashes), util_cmp_u64);
    for (size_t i = 0; i < n_all; i++) {
        if (i && hashes[i] == hashes[i - 1]) {
            facts.n_again++;
            continue;
        }
        facts.n_samples++;
        facts.hash = mix(facts.hash ^ hashes[i]);
    }
    free(hashes);
    return facts;
}

static inline size_t n_no_compact(struct site *r, struct slice tenant)
{
    struct ctx ctx = test_ctx();
    const struct ulid *ids;
    size_t n;
    cr_assert(bucket_list_marks(r->store, &ctx, tenant, BLOCK_MARK_NO_COMPACT, &arena, &ids, &n, NULL));
    return n;
}
