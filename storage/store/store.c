/* The store and its blocks: flags, opening, what the others ask of a block. See store.h. */
#include "storage/store/store_int.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "storage/block/bytes.h"

#define METRICS_ROOM store
#define METRICS_DEF "storage/store/store_metrics.def"
#define METRICS_DEFINE_ONLY
#include "base/metrics_table.h"

#define FETCHERS 16
#define FETCHES_QUEUED_MAX 256
#define TENANT_MAX 180
#define SEGMENTS_MAX 131072
/* From this size on the bucket is asked for a sparse header before a walk over the table makes one: some 30 ms. */
#define ASK_BUCKET_BYTES ((uint64_t)32 << 20)

/* --- flags --- */

const struct flag_def store_flags[] = {
#define FLAG(...) FLAG_ROW(store_config, __VA_ARGS__)
#include "storage/store/store_flags.def"
#undef FLAG
};
const size_t store_flags_n = ARRAY_LEN(store_flags);

#define FLAG(...) FLAG_ROW(cache_config, __VA_ARGS__)
#define CACHE_FLAG STORE_INDEX_CACHE_FLAGS
#define CACHE_YAML "blocks_storage.bucket_store.index_cache."
#define CACHE_BACKEND "inmemory"
const struct flag_def store_index_cache_flags[] = {
#include "storage/cache/cache_flags.def"
};
#undef CACHE_FLAG
#undef CACHE_YAML
#undef CACHE_BACKEND
#define CACHE_BACKEND ""
#define CACHE_FLAG STORE_CHUNKS_CACHE_FLAGS
#define CACHE_YAML "blocks_storage.bucket_store.chunks_cache."
const struct flag_def store_chunks_cache_flags[] = {
#include "storage/cache/cache_flags.def"
};
#undef FLAG
const size_t store_cache_flags_n = ARRAY_LEN(store_index_cache_flags);

/* --- the store --- */

static void find_metrics(struct store *s)
{
    static const char *const types[FETCH_KINDS] = {"postings", "series", "chunks"};
    struct slice who = SL(STORE_COMPONENT);
    store_metrics_register();
    for (int i = 0; i < FETCH_KINDS; i++) {
        struct slice type = slice_of(types[i]);
        s->kinds[i] = (struct store_metrics_of){METRIC_WITH(store_metrics[STORE_M_REQUESTED_BYTES], who, type),
                                                METRIC_WITH(store_metrics[STORE_M_REQUESTED_RANGES], who, type),
                                                METRIC_WITH(store_metrics[STORE_M_EXPANDED_BYTES], who, type),
                                                METRIC_WITH(store_metrics[STORE_M_EXPANDED_RANGES], who, type)};
    }
    s->refetches = METRIC_WITH(store_metrics[STORE_M_REFETCHES], who);
    s->chunk_refetches = METRIC_WITH(store_metrics[STORE_M_CHUNK_REFETCHES], who);
    s->loads = METRIC_WITH(store_metrics[STORE_M_LOADS], who);
    s->load_failures = METRIC_WITH(store_metrics[STORE_M_LOAD_FAILURES], who);
    s->load_duration = METRIC_WITH(store_metrics[STORE_M_LOAD_DURATION], who);
    s->unloads = METRIC_WITH(store_metrics[STORE_M_UNLOADS], who);
    s->postings_bytes = METRIC_WITH(store_metrics[STORE_M_POSTINGS_BYTES], who);
    s->postings_cached_bytes = METRIC_WITH(store_metrics[STORE_M_POSTINGS_CACHED_BYTES], who);
    s->built = METRIC_WITH(store_metrics[STORE_M_BUILT], who);
}

struct store *store_new(const struct store_config *cfg, const struct store_deps *deps)
{
    struct store *s = calloc(1, sizeof(*s));
    ASSERT(s);
    s->cfg = *cfg;
    if (s->cfg.max_gap_bytes_chunks == 0)
        s->cfg.max_gap_bytes_chunks = s->cfg.max_gap_bytes;
    /* The flags' gap is for the latency of an object store. */
    uint64_t worth_bytes = objstore_request_bytes(deps->bucket);
    s->cfg.max_gap_bytes = MIN(s->cfg.max_gap_bytes, worth_bytes);
    s->cfg.max_gap_bytes_chunks = MIN(s->cfg.max_gap_bytes_chunks, worth_bytes);
    s->cfg.postings_sampling = MIN(MAX(s->cfg.postings_sampling, 1), 1 << 20);
    s->ask_bucket_bytes = ASK_BUCKET_BYTES;
    s->bucket = deps->bucket;
    s->index_cache = deps->index_cache;
    s->chunks_cache = deps->chunks_cache;
    find_metrics(s);
    s->fetchers = pool_new("store-fetch", FETCHERS, FETCHES_QUEUED_MAX, 0);
    return s;
}

void store_free(struct store *s)
{
    if (!s)
        return;
    pool_stop(s->fetchers);
    free(s);
}

/* --- what the others ask of a block --- */

struct slice block_object(const struct store_block *b, uint32_t file, char name[static OBJECT_NAME_MAX])
{
    int n = file == FILE_INDEX ? snprintf(name, OBJECT_NAME_MAX, "%sindex", b->prefix)
                               : snprintf(name, OBJECT_NAME_MAX, "%schunks/%06u", b->prefix, file + 1);
    ASSERT(n > 0 && n < OBJECT_NAME_MAX);
    return slice_make(name, (size_t)n);
}

bool block_corrupt(const struct store_block *b, uint32_t file, uint64_t offset, const char *what, struct err *err)
{
    char name[OBJECT_NAME_MAX];
    block_object(b, file, name);
    return err_set(err, ERR_CORRUPT, "%s: offset %llu: %s", name, (unsigned long long)offset, what);
}

static uint64_t known_bytes(struct store_block *b, uint32_t segment)
{
    pthread_mutex_lock(&b->lock);
    uint64_t bytes = segment < b->n_segments ? b->segment_bytes[segment] : 0;
    pthread_mutex_unlock(&b->lock);
    return bytes;
}

static void remember_bytes(struct store_block *b, uint32_t segment, uint64_t bytes)
{
    pthread_mutex_lock(&b->lock);
    if (segment >= b->n_segments) {
        b->segment_bytes = realloc(b->segment_bytes, ((size_t)segment + 1) * sizeof(*b->segment_bytes));
        ASSERT(b->segment_bytes);
        memset(b->segment_bytes + b->n_segments, 0, ((size_t)segment + 1 - b->n_segments) * sizeof(*b->segment_bytes));
        b->n_segments = (size_t)segment + 1;
    }
    b->segment_bytes[segment] = bytes;
    pthread_mutex_unlock(&b->lock);
}

/* The size that the cache of chunks remembers, or the bucket's word, which the cache then gets. */
static bool ask_bytes(struct store_block *b, const struct ctx *ctx, uint32_t segment, uint64_t *ret, struct err *err)
{
    struct store *s = b->store;
    uint8_t key[1 + BLOCK_KEY_BYTES + 4] = {'A'}, value[8];
    char name[OBJECT_NAME_MAX];
    struct objstore_attributes attributes;
    struct buf found;
    memcpy(key + 1, b->key, BLOCK_KEY_BYTES);
    put_be32(key + 1 + BLOCK_KEY_BYTES, segment);
    struct slice k = slice_make(key, sizeof(key));
    buf_init(&found, sizeof(value));
    bool cached = cache_get(s->chunks_cache, ctx, CACHE_ATTRIBUTES, k, &found) && found.n == sizeof(value);
    if (cached)
        *ret = get_be64((const uint8_t *)found.p);
    buf_release(&found);
    if (cached)
        return true;
    if (!objstore_attributes(s->bucket, ctx, block_object(b, segment, name), &attributes, err))
        return false;
    *ret = attributes.size;
    put_be32(value, (uint32_t)(attributes.size >> 32));
    put_be32(value + 4, (uint32_t)attributes.size);
    cache_put(s->chunks_cache, CACHE_ATTRIBUTES, k, slice_make(value, sizeof(value)), MAX(s->cfg.chunks_attributes_ttl, 1));
    return true;
}

bool block_file_bytes(struct store_block *b, const struct ctx *ctx, uint32_t file, uint64_t *ret, struct err *err)
{
    if (file == FILE_INDEX) {
        *ret = b->header.index_bytes;
        return true;
    }
    if (file >= SEGMENTS_MAX)
        return err_set(err, ERR_CORRUPT, "%sindex: a chunk in segment %u, and there are at most %d", b->prefix, file + 1, SEGMENTS_MAX);
    *ret = known_bytes(b, file);
    if (*ret)
        return true;
    if (!ask_bytes(b, ctx, file, ret, err))
        return false;
    remember_bytes(b, file, *ret);
    return true;
}

/* --- opening --- */

static bool read_file(const char *path, struct buf *out)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool good = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && buf_reserve(out, (size_t)st.st_size + 1);
    while (good && out->n < (size_t)st.st_size) {
        ssize_t n = read(fd, out->p + out->n, (size_t)st.st_size - out->n);
        good = n > 0;
        out->n += good ? (size_t)n : 0;
    }
    if (fd >= 0)
        close(fd);
    return good;
}

static bool local_sparse(struct store_block *b, const char *dir)
{
    char path[4096];
    struct buf bytes;
    buf_init(&bytes, 0);
    snprintf(path, sizeof(path), "%s/" HEADER_SPARSE_FILE, dir);
    bool good = read_file(path, &bytes) && header_load_sparse(&b->header, buf_slice(&bytes), NULL);
    buf_release(&bytes);
    return good;
}

/* Whatever is wrong with the bucket's, it is only a help: the table itself is here. */
static bool bucket_sparse(struct store_block *b, const struct ctx *ctx, const char *dir)
{
    char name[OBJECT_NAME_MAX];
    struct buf bytes;
    buf_init(&bytes, 0);
    snprintf(name, sizeof(name), "%s" HEADER_SPARSE_FILE, b->prefix);
    bool good = objstore_get(b->store->bucket, ctx, slice_of(name), 0, OBJSTORE_ALL, &bytes, NULL) &&
                header_load_sparse(&b->header, buf_slice(&bytes), NULL);
    if (good)
        header_write_file(dir, HEADER_SPARSE_FILE, buf_slice(&bytes), NULL);
    buf_release(&bytes);
    return good;
}

static bool own_sparse(struct store_block *b, const char *dir, struct err *err)
{
    struct err why = ERR_NONE;
    struct buf bytes;
    if (!header_find_samples(&b->header, (uint32_t)b->store->cfg.postings_sampling, err))
        return false;
    buf_init(&bytes, 0);
    bool good = header_encode_sparse(&b->header, &bytes, err);
    /* Without the file the next opening takes longer, and no more. */
    if (good && !header_write_file(dir, HEADER_SPARSE_FILE, buf_slice(&bytes), &why))
        LOG_WARN("a sparse index-header could not be written", {"dir", LOG_STR(dir)}, {"error", LOG_ERR(&why)});
    buf_release(&bytes);
    return good;
}

static bool open_header(struct store_block *b, const struct ctx *ctx, const char *dir, struct err *err)
{
    char path[4096], index[OBJECT_NAME_MAX];
    struct err why = ERR_NONE;
    struct slice name = block_object(b, FILE_INDEX, index);
    if (snprintf(path, sizeof(path), "%s/" HEADER_FILE, dir) >= (int)sizeof(path) - 16)
        return err_set(err, ERR_IO, "%s: too long for a path", dir);
    if (!header_open(&b->header, path, index, &why)) {
        if (why.code == ERR_CORRUPT)
            LOG_WARN("an index-header is damaged and made anew", {"error", LOG_ERR(&why)});
        else if (why.code != ERR_NOT_FOUND)
            return err_set(err, why.code, "%s", why.text);
        if (!header_build(b->store, ctx, name, dir, err) || !header_open(&b->header, path, index, err))
            return false;
    }
    return local_sparse(b, dir) || (b->header.n >= b->store->ask_bucket_bytes && bucket_sparse(b, ctx, dir)) || own_sparse(b, dir, err);
}

static struct store_block *block_new(struct store *s, struct slice tenant, const struct ulid *id, struct err *err)
{
    struct store_block *b = calloc(1, sizeof(*b));
    ASSERT(b);
    b->store = s;
    b->id = *id;
    atomic_init(&b->refs, 1);
    pthread_mutex_init(&b->lock, NULL);
    if (tenant.n == 0 || tenant.n > TENANT_MAX || asprintf(&b->prefix, "%.*s/%s/", SL_FMT(tenant), id->text) < 0) {
        b->prefix = NULL;
        store_block_unref(b);
        err_set(err, ERR_BAD_DATA, "a block of a tenant that cannot be");
        return NULL;
    }
    XXH128_hash_t h = XXH3_128bits(b->prefix, strlen(b->prefix));
    memcpy(b->key, &h, sizeof(b->key));
    return b;
}

struct store_block *store_block_open(struct store *s, const struct ctx *ctx, struct slice tenant, const struct ulid *id, const char *dir, struct err *err)
{
    int64_t start_ns = clock_mono_ns();
    struct store_block *b = block_new(s, tenant, id, err);
    metric_inc(s->loads);
    if (b && open_header(b, ctx, dir, err)) {
        metric_observe(s->load_duration, (double)(clock_mono_ns() - start_ns) / 1e9);
        return b;
    }
    metric_inc(s->load_failures);
    store_block_unref(b);
    return NULL;
}

bool store_block_prepare(struct store *s, const struct ctx *ctx, struct slice tenant, const struct ulid *id, const char *dir, struct err *err)
{
    char path[4096];
    struct stat st;
    if (snprintf(path, sizeof(path), "%s/" HEADER_FILE, dir) < (int)sizeof(path) && stat(path, &st) == 0 && st.st_size > 0)
        return true;
    struct store_block *b = store_block_open(s, ctx, tenant, id, dir, err);
    store_block_unref(b);
    return b != NULL;
}

struct store_block *store_block_ref(struct store_block *b)
{
    atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    return b;
}

void store_block_unref(struct store_block *b)
{
    if (!b || atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (b->header.p)
        metric_inc(b->store->unloads);
    header_release(&b->header);
    pthread_mutex_destroy(&b->lock);
    free(b->segment_bytes);
    free(b->prefix);
    free(b);
}

const struct ulid *store_block_id(const struct store_block *b)
{
    return &b->id;
}

uint64_t store_block_header_bytes(const struct store_block *b)
{
    return b->header.n;
}

uint64_t store_block_index_bytes(const struct store_block *b)
{
    return b->header.index_bytes;
}
