/*
 * Many threads on one block, which is opened and closed meanwhile: selects with and without a cache that is too small, two phases, labels, some of them
 * canceled. Every answer is compared with the first. Run under the thread sanitizer; the first argument is for how many seconds, the second, if any, the address
 * of a memcached, host:port.
 */
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/assert.h"
#include "base/clock.h"
#include "storage/block/block.h"
#include "storage/store/store.h"

#define CLAIM(cond, ...) ((cond) ? (void)0 : (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), abort()))
#define THREADS 6
#define SERIES 3000

static char folder[] = "/tmp/brunn-store-stress-XXXXXX";
static struct store *store;
static struct ulid id;
static int64_t end_ms;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct store_block *current; /* guarded by lock */

static struct objstore *open_bucket(const char *dir)
{
    static const struct flag_def defs[] = {
#define OBJSTORE_FLAG "b."
#define OBJSTORE_YAML "b."
#define FLAG(...) FLAG_ROW(objstore_config, __VA_ARGS__)
#include "storage/objstore/objstore_flags.def"
#undef FLAG
    };
    struct objstore_config cfg;
    struct err err = ERR_NONE;
    struct flag_set *fs = flag_set_new();
    flag_set_add(fs, "bucket", defs, ARRAY_LEN(defs), &cfg);
    struct objstore *s = objstore_open(&cfg, "b.", dir, &err);
    CLAIM(s, "%s", err.text);
    flag_set_free(fs);
    return s;
}

static void write_block(const char *dir)
{
    static char names[SERIES][8];
    struct slice symbols[SERIES + 4] = {SL("__name__"), SL("id"), SL("m")};
    struct err err = ERR_NONE;
    id = ulid_new(1000);
    struct block_meta meta = {.ulid = id, .max_t = 10000000, .level = 1, .sources = &id, .n_sources = 1, .has_thanos = true, .source = SL("test")};
    for (int i = 0; i < SERIES; i++) {
        snprintf(names[i], sizeof(names[i]), "v%05d", i);
        symbols[3 + i] = slice_of(names[i]);
    }
    struct block_writer *w = block_writer_new(dir, &meta, symbols, SERIES + 3, &err);
    CLAIM(w, "%s", err.text);
    for (int i = 0; i < SERIES; i++) {
        uint8_t bytes[4096] = {0};
        struct xor_appender a;
        struct label labels[] = {{SL("__name__"), SL("m")}, {SL("id"), symbols[3 + i]}};
        xor_appender_init(&a);
        for (int k = 0; k < 100; k++)
            xor_append(&a, bytes, k * 15000, (double)(i * k));
        struct series_chunk chunk = {0, 99 * 15000, CHUNK_XOR, slice_make(bytes, xor_size(&a))};
        CLAIM(block_writer_add(w, &(struct labels){labels, 2}, &chunk, 1, &err), "%s", err.text);
    }
    CLAIM(block_writer_finish(w, NULL, NULL, &err), "%s", err.text);
    block_writer_free(w);
}

static struct store_block *open_block(void)
{
    char dir[128];
    struct err err = ERR_NONE;
    struct ctx ctx = {0};
    snprintf(dir, sizeof(dir), "%s/sync/t/%s", folder, id.text);
    struct store_block *b = store_block_open(store, &ctx, SL("t"), &id, dir, &err);
    CLAIM(b, "%s", err.text);
    return b;
}

static struct store_block *take(void)
{
    pthread_mutex_lock(&lock);
    struct store_block *b = store_block_ref(current);
    pthread_mutex_unlock(&lock);
    return b;
}

static uint64_t sum_of(struct slice s, uint64_t sum)
{
    for (size_t i = 0; i < s.n; i++)
        sum = sum * 31 + (uint8_t)s.p[i];
    return sum;
}

/* One select; 0 when it was canceled. */
static uint64_t ask(struct store_block *b, int64_t deadline_ms)
{
    struct arena arena;
    struct ctx ctx = {.arena = &arena, .deadline_ms = deadline_ms};
    struct err err = ERR_NONE;
    struct matcher m;
    struct series batch[100];
    size_t n = 0;
    uint64_t sum = 1;
    arena_init(&arena, (size_t)64 << 20);
    CLAIM(matcher_init(&m, MATCH_RE, SL("id"), SL("v0[012].*"), &err), "%s", err.text);
    struct select_params p = {.min_t = 0, .max_t = INT64_MAX, .matchers = &m, .n_matchers = 1};
    struct series_set *set = store_block_select(b, &ctx, &p, NULL, &err);
    store_block_unref(b);
    bool good = set != NULL;
    while (good && (good = series_set_next(set, &ctx, batch, ARRAY_LEN(batch), &n, &err)) && n)
        for (size_t i = 0; i < n; i++)
            sum = sum_of(batch[i].chunks[0].data, sum_of(batch[i].labels.items[1].value, sum));
    CLAIM(good || err.code == ERR_TIMEOUT, "%s", err.text);
    series_set_release(set);
    matcher_release(&m);
    arena_release(&arena);
    return good ? sum : 0;
}

static void *work(void *arg)
{
    size_t *rounds = arg;
    uint64_t first = 0;
    for (; clock_mono_ms() < end_ms; ++*rounds) {
        bool late = *rounds % 7 == 3;
        uint64_t sum = ask(take(), late ? clock_mono_ms() + 1 : 0);
        first = first ? first : sum;
        CLAIM(sum == first || (late && sum == 0), "another answer");
    }
    return NULL;
}

static void *reopen(void *arg)
{
    (void)arg;
    while (clock_mono_ms() < end_ms) {
        struct store_block *fresh = open_block();
        pthread_mutex_lock(&lock);
        struct store_block *old = current;
        current = fresh;
        pthread_mutex_unlock(&lock);
        store_block_unref(old);
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    return NULL;
}

static const char *memcached; /* its address */

static void stress(struct objstore *bucket, const char *backend, uint64_t bytes, int64_t seconds)
{
    struct store_config cfg;
    struct cache_config cache_cfg;
    struct cache *cache = NULL;
    struct err err = ERR_NONE;
    struct flag_set *fs = flag_set_new();
    pthread_t threads[THREADS], opener;
    size_t rounds[THREADS] = {0}, total = 0;
    flag_set_add(fs, "store", store_flags, store_flags_n, &cfg);
    flag_set_add(fs, "cache", store_index_cache_flags, store_cache_flags_n, &cache_cfg);
    cache_cfg.backend = backend;
    cache_cfg.memcached_addresses = (struct flag_list){&memcached, memcached != NULL};
    cache_cfg.inmemory_max_size_bytes = bytes;
    cfg.max_gap_bytes = 100;
    CLAIM(cache_open(&cache_cfg, STORE_INDEX_CACHE_FLAGS, "store-gateway", "index-cache", &cache, &err), "%s", err.text);
    store = store_new(&cfg, &(struct store_deps){bucket, cache, cache});
    current = open_block();
    end_ms = clock_mono_ms() + seconds * 1000;
    CLAIM(pthread_create(&opener, NULL, reopen, NULL) == 0, "no thread");
    for (int i = 0; i < THREADS; i++)
        CLAIM(pthread_create(&threads[i], NULL, work, &rounds[i]) == 0, "no thread");
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        total += rounds[i];
    }
    pthread_join(opener, NULL);
    store_block_unref(current);
    store_free(store);
    cache_close(cache);
    flag_set_free(fs);
    printf("%s of %llu bytes: %zu selects\n", *backend ? backend : "no cache", (unsigned long long)bytes, total);
    CLAIM(total > 0, "nothing was done");
}

static int drop(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

int main(int argc, char **argv)
{
    int64_t seconds = argc > 1 ? atoi(argv[1]) : 5;
    char dir[64];
    CLAIM(mkdtemp(folder), "no folder");
    snprintf(dir, sizeof(dir), "%s/bucket", folder);
    mkdir(dir, 0755);
    struct objstore *bucket = open_bucket(dir);
    snprintf(dir, sizeof(dir), "%s/bucket/t", folder);
    mkdir(dir, 0755);
    write_block(dir);
    stress(bucket, "", 0, (seconds + 2) / 3);
    stress(bucket, "inmemory", 200000, (seconds + 2) / 3);
    stress(bucket, "inmemory", 100 << 20, (seconds + 2) / 3);
    memcached = argc > 2 ? argv[2] : NULL;
    if (memcached)
        stress(bucket, "memcached", 0, (seconds + 2) / 3);
    objstore_free(bucket);
    nftw(folder, drop, 8, FTW_DEPTH | FTW_PHYS);
    return 0;
}
