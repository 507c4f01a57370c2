/*
 * Readers of bucket indexes while the cache refreshes and drops them, a writer makes new ones and the store fails now and then; and shippers that are asked by
 * several threads at once beside their own rounds. Run under the thread sanitizer; the first argument is for how many seconds each.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "ingest/ship/ship.h"
#include "storage/block/block.h"
#include "storage/bucket/bucket.h"
#include "storage/bucket/index_cache.h"
#include "storage/chunk/chunk.h"

#define CLAIM(cond, ...) ((cond) ? (void)0 : (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), abort()))
#define READERS 6
#define TENANTS 5
#define BLOCKS 3

static const struct flag_def flags[] = {
#define OBJSTORE_FLAG "blocks-storage."
#define OBJSTORE_YAML "blocks_storage."
#define FLAG(...) FLAG_ROW(objstore_config, __VA_ARGS__)
#include "storage/objstore/objstore_flags.def"
#undef FLAG
};

static const struct ctx no_hurry = {.deadline_ms = 0};

static struct objstore *open_store(const char *dir)
{
    struct objstore_config cfg;
    struct flag_set *set = flag_set_new();
    struct err err = ERR_NONE;
    flag_set_add(set, "Blocks", flags, ARRAY_LEN(flags), &cfg);
    struct objstore *s = objstore_open(&cfg, "blocks-storage.", dir, &err);
    CLAIM(s, "%s", err.text);
    flag_set_free(set);
    return s;
}

struct shared {
    struct objstore *store;
    struct index_cache *cache;
    struct shipper *shipper;
    int64_t end_ms;
    _Atomic uint64_t n_done;
};

static void tenant_name(unsigned i, char out[static 16])
{
    snprintf(out, 16, "tenant-%u", i % TENANTS);
}

/* --- the cache ---------------------------------------------------------------------------------------------------------------------- */

static void *write_indexes(void *arg)
{
    struct shared *s = arg;
    for (unsigned i = 0; clock_mono_ms() < s->end_ms; i++) {
        struct index_block blocks[8] = {0};
        struct bucket_index index = {.blocks = blocks, .n_blocks = i % 8, .updated_at_s = clock_wall_ms() / 1000};
        char tenant[16];
        struct err err = ERR_NONE;
        for (size_t k = 0; k < index.n_blocks; k++)
            blocks[k] = (struct index_block){.id = ulid_new(clock_wall_ms()), .min_t = (int64_t)index.n_blocks, .max_t = 10};
        tenant_name(i, tenant);
        CLAIM(bucket_index_write(s->store, &no_hurry, slice_of(tenant), &index, &err), "%s", err.text);
        if (i % 7 == 0) {
            struct bucket_name name = bucket_tenant_file(slice_of(tenant), BUCKET_INDEX);
            CLAIM(objstore_remove(s->store, &no_hurry, bucket_name_slice(&name), &err), "%s", err.text);
        }
        usleep(1000);
    }
    return NULL;
}

static void *read_indexes(void *arg)
{
    struct shared *s = arg;
    for (unsigned i = 0; clock_mono_ms() < s->end_ms; i++) {
        struct ctx ctx = {.deadline_ms = i % 50 == 0 ? clock_mono_ms() : 0};
        char tenant[16];
        struct err err = ERR_NONE;
        tenant_name(i * 2654435761u >> 7, tenant);
        const struct index_snapshot *snapshot = index_cache_get(s->cache, &ctx, slice_of(tenant), &err);
        CLAIM(snapshot || err.code == ERR_NOT_FOUND || err.code == ERR_TIMEOUT, "%s", err.text);
        const struct bucket_index *index = snapshot ? index_snapshot_index(snapshot) : NULL;
        for (size_t k = 0; index && k < index->n_blocks; k++)
            CLAIM(index->blocks[k].min_t == (int64_t)index->n_blocks, "an index that nobody wrote");
        index_snapshot_unref(snapshot);
        s->n_done++;
        if (i % 100 == 0)
            usleep(1000);
    }
    return NULL;
}

static void stress_cache(const char *dir, int64_t seconds)
{
    struct index_cache_config cfg = {.update_on_error_interval = 5, .idle_timeout = 20, .max_stale_period = 3600000};
    struct shared s = {.store = open_store(dir), .end_ms = clock_mono_ms() + seconds * 1000};
    pthread_t threads[READERS + 1];
    s.cache = index_cache_new(s.store, &cfg, 10);
    index_cache_start(s.cache);
    for (int i = 0; i <= READERS; i++)
        CLAIM(pthread_create(&threads[i], NULL, i ? read_indexes : write_indexes, &s) == 0, "no thread");
    for (int i = 0; i <= READERS; i++)
        pthread_join(threads[i], NULL);
    index_cache_free(s.cache);
    objstore_free(s.store);
    printf("%llu reads of bucket indexes\n", (unsigned long long)s.n_done);
}

/* --- the shipper -------------------------------------------------------------------------------------------------------------------- */

/* A block of one series in <dir>/<tenant>. */
static void write_block(const char *dir, const char *tenant)
{
    static const struct slice symbols[] = {{"__name__", 8}, {"m", 1}};
    static const struct label name = {{"__name__", 8}, {"m", 1}};
    struct block_meta meta = {.ulid = ulid_new(clock_wall_ms()), .min_t = 1, .max_t = 2, .level = 1, .n_sources = 1, .source = {"", 0}};
    struct labels labels = {&name, 1};
    struct xor_appender a;
    uint8_t bytes[64];
    char path[256];
    struct err err = ERR_NONE;
    meta.sources = &meta.ulid;
    snprintf(path, sizeof(path), "%s/%s", dir, tenant);
    mkdir(path, 0755);
    xor_appender_init(&a);
    xor_append(&a, bytes, 1, 1);
    struct series_chunk chunk = {1, 1, CHUNK_XOR, {(const char *)bytes, xor_size(&a)}};
    struct block_writer *w = block_writer_new(path, &meta, symbols, ARRAY_LEN(symbols), &err);
    CLAIM(w && block_writer_add(w, &labels, &chunk, 1, &err) && block_writer_finish(w, NULL, NULL, &err), "%s", err.text);
    block_writer_free(w);
}

static void *ask(void *arg)
{
    struct shared *s = arg;
    for (unsigned i = 0; clock_mono_ms() < s->end_ms; i++) {
        struct ctx ctx = {.deadline_ms = i % 3 ? 0 : clock_mono_ms() + 2};
        char tenant[16];
        struct err err = ERR_NONE;
        tenant_name(i, tenant);
        bool good = shipper_ship(s->shipper, &ctx, i % 2 ? slice_of(tenant) : slice_make(NULL, 0), &err);
        CLAIM(good || err.code == ERR_TIMEOUT, "%s", err.text);
        s->n_done++;
    }
    return NULL;
}

/* Again and again with an empty bucket, so that there is something to ship. */
static void stress_shipper(const char *dir, int64_t seconds)
{
    static const struct limits limits;
    struct limits_provider provider = {.defaults = &limits};
    struct shipper_config cfg = {.ship_interval = 3, .ship_concurrency = 4};
    char local[128], bucket[160];
    int64_t end_ms = clock_mono_ms() + seconds * 1000;
    uint64_t n_done = 0;
    snprintf(local, sizeof(local), "%s/local", dir);
    mkdir(local, 0755);
    for (unsigned i = 0; i < TENANTS * BLOCKS; i++) {
        char tenant[16];
        tenant_name(i, tenant);
        write_block(local, tenant);
    }
    for (int round = 0; clock_mono_ms() < end_ms; round++) {
        struct err err = ERR_NONE;
        struct local_blocks_config blocks = {.dir = local};
        struct local_blocks *lb = local_blocks_new(&blocks, &err);
        char command[400];
        snprintf(bucket, sizeof(bucket), "%s/bucket-%d", dir, round);
        snprintf(command, sizeof(command), "rm -f %s/*/mimir.shipper.json", local);
        CLAIM(lb && system(command) == 0, "%s", err.text);
        struct shared s = {.store = open_store(bucket), .end_ms = MIN(end_ms, clock_mono_ms() + 500)};
        s.shipper = shipper_new(s.store, &lb, 1, &provider, &cfg, &err);
        CLAIM(s.shipper && local_blocks_load(lb, &err), "%s", err.text);
        shipper_start(s.shipper);
        pthread_t threads[3];
        for (int i = 0; i < 3; i++)
            CLAIM(pthread_create(&threads[i], NULL, ask, &s) == 0, "no thread");
        for (int i = 0; i < 3; i++)
            pthread_join(threads[i], NULL);
        shipper_stop(s.shipper);
        shipper_free(s.shipper);
        local_blocks_free(lb);
        objstore_free(s.store);
        n_done += s.n_done;
    }
    printf("%llu rounds of shipping asked for\n", (unsigned long long)n_done);
}

int main(int argc, char **argv)
{
    char dir[] = "/tmp/bucket-stress-XXXXXX", command[64];
    int64_t seconds = argc > 1 ? atoi(argv[1]) : 5;
    log_min_level = LOG_LEVEL_ERROR;
    CLAIM(mkdtemp(dir), "no folder");
    stress_cache(dir, seconds);
    stress_shipper(dir, seconds);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command);
}
