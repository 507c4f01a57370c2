/*
 * Two compactors of one ring on one bucket, several jobs of each at a time, while blocks arrive, the pages' questions are asked and one of the two leaves and comes
 * back. In the end the bucket has every sample, none twice, and downsampled blocks of all of them. Run under the thread sanitizer; the argument is for how many seconds.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "storage/block/block.h"
#include "storage/bucket/bucket.h"
#include "storage/compactor/compactor_int.h"
#include "storage/compactor/tree_int.h"
#include "storage/downsample/downsample.h"

#define CLAIM(cond, ...) ((cond) ? (void)0 : (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), abort()))
#define T0 INT64_C(1763596800000)
#define RANGE INT64_C(7200000)
#define SERIES 20
#define SAMPLES 100
#define WINDOWS_5M 6 /* that the samples of a range lie in: the first is at the end of one */
#define WINDOWS_1H 2
#define TENANT SL("tenant-a")

static const struct flag_def store_flags[] = {
#define OBJSTORE_FLAG "blocks-storage."
#define OBJSTORE_YAML "blocks_storage."
#define FLAG(...) FLAG_ROW(objstore_config, __VA_ARGS__)
#include "storage/objstore/objstore_flags.def"
#undef FLAG
};

static struct objstore_config store_cfg;
static struct compactor_config cfg;
static struct kv_config kv_cfg;
static struct ring_member_config member_cfg[2];
static struct limits limits;
static struct limits_provider provider = {.defaults = &limits};
static struct objstore *store;
static struct kv *memory;
static char dir[] = "/tmp/compactor-stress-XXXXXX";
static atomic_int n_written; /* ranges; release: the arriving blocks, acquire: nobody needs more than the number */
static atomic_bool over;

struct peer {
    int id;
    char name[16], data[128];
    struct compactor_ring *ring;
    struct compactor *compactor;
};

static void peer_start(struct peer *p)
{
    struct err err = ERR_NONE;
    struct kv_stores stores = {.inmemory = memory};
    snprintf(p->name, sizeof(p->name), "compactor-%d", p->id);
    snprintf(p->data, sizeof(p->data), "%s/data-%d", dir, p->id);
    member_cfg[p->id].instance_id = p->name;
    member_cfg[p->id].instance_addr = "127.0.0.1";
    p->ring = compactor_ring_new(&cfg, &kv_cfg, &member_cfg[p->id], &provider, &stores, 9095, false, &err);
    CLAIM(p->ring, "%s", err.text);
    p->compactor = compactor_new(&cfg, p->ring, &provider, store, p->data, &err);
    CLAIM(p->compactor && compactor_start(p->compactor, &err), "%s", err.text);
}

static void peer_stop(struct peer *p)
{
    compactor_stop(p->compactor);
    compactor_free(p->compactor);
    compactor_ring_free(p->ring);
}

static void put_block(int range)
{
    struct err err = ERR_NONE;
    struct arena arena;
    struct ulid id = ulid_new(clock_wall_ms());
    int64_t from = T0 + range * RANGE;
    struct block_meta meta = {.ulid = id, .min_t = from, .max_t = from + RANGE, .level = 1, .sources = &id, .n_sources = 1};
    struct slice symbols[SERIES + 3] = {SL("__name__"), SL("i"), SL("m")};
    char names[SERIES][8];
    arena_init(&arena, 0);
    /* "__name__" < "i" < "m" < "s00" */
    for (int i = 0; i < SERIES; i++) {
        snprintf(names[i], sizeof(names[i]), "s%02d", i);
        symbols[3 + i] = slice_of(names[i]);
    }
    struct block_writer *w = block_writer_new(dir, &meta, symbols, SERIES + 3, &err);
    CLAIM(w, "%s", err.text);
    for (int i = 0; i < SERIES; i++) {
        uint8_t bytes[SAMPLES * XOR_SAMPLE_MAX_BYTES + 64];
        struct xor_appender a;
        xor_appender_init(&a);
        for (int k = 0; k < SAMPLES; k++)
            xor_append(&a, bytes, from + k * 15000, i + k);
        struct series_chunk c = {from, from + (SAMPLES - 1) * 15000, CHUNK_XOR, slice_make(bytes, xor_size(&a))};
        struct label l[] = {{SL("__name__"), SL("m")}, {SL("i"), slice_of(names[i])}};
        CLAIM(block_writer_add(w, &(struct labels){l, 2}, &c, 1, &err), "%s", err.text);
    }
    CLAIM(block_writer_finish(w, &arena, NULL, &err), "%s", err.text);
    block_writer_free(w);
    CLAIM(bucket_upload_block(store, &(struct ctx){0}, TENANT, dir, &id, &(struct bucket_upload){.source = SL("receive")}, NULL, &err), "%s", err.text);
    arena_release(&arena);
}

/* Two replicas of each range. */
static void *arrive(void *arg)
{
    (void)arg;
    for (int range = 0; !atomic_load(&over) && range < 200; range++) {
        put_block(range);
        put_block(range);
        atomic_fetch_add(&n_written, 1);
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    return NULL;
}

static void *watch(void *arg)
{
    const struct peer *p = arg;
    while (!atomic_load(&over)) {
        struct arena arena;
        struct bucket_index index = {0};
        struct err err = ERR_NONE;
        size_t n_split, n_merge;
        arena_init(&arena, 0);
        if (bucket_index_update(store, &(struct ctx){0}, TENANT, NULL, 1, 2, &arena, &index, NULL, &err))
            CLAIM(compactor_estimate_jobs(p->compactor, TENANT, &index, &n_split, &n_merge, &err), "%s", err.text);
        compactor_ring_owns_cleaning(p->ring, TENANT);
        compactor_ring_owns_job(p->ring, TENANT, "any");
        arena_release(&arena);
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    return NULL;
}

/* Samples of the blocks that are not marked. */
static uint64_t count_samples(struct slice tenant)
{
    struct arena arena;
    const struct ulid *ids, *marked;
    size_t n, n_marked;
    uint64_t samples = 0;
    arena_init(&arena, 0);
    CLAIM(bucket_blocks(store, &(struct ctx){0}, tenant, &arena, &ids, &n, NULL) &&
              bucket_list_marks(store, &(struct ctx){0}, tenant, BLOCK_MARK_DELETION, &arena, &marked, &n_marked, NULL),
          "the bucket cannot be listed");
    for (size_t i = 0; i < n; i++) {
        struct block_meta meta;
        bool gone = false;
        for (size_t k = 0; k < n_marked; k++)
            gone |= strcmp(marked[k].text, ids[i].text) == 0;
        if (!gone && bucket_read_meta(store, &(struct ctx){0}, tenant, &ids[i], &arena, &meta, NULL))
            samples += meta.stats.samples;
    }
    arena_release(&arena);
    return samples;
}

/* Those of every aggregate that has one a window. */
static bool rooms_have(uint64_t n_ranges)
{
    static const uint64_t windows[DOWNSAMPLE_RESOLUTIONS] = {WINDOWS_5M, WINDOWS_1H};
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        for (unsigned a = 0; a < DOWNSAMPLE_COUNTER; a++) {
            struct bucket_name room = downsample_room(TENANT, r, a);
            if (count_samples(bucket_name_slice(&room)) != n_ranges * SERIES * windows[r])
                return false;
        }
    return true;
}

static void configure(struct flag_set *flags)
{
    struct err err = ERR_NONE;
    char path[128];
    flag_set_add(flags, "Store", store_flags, ARRAY_LEN(store_flags), &store_cfg);
    flag_set_add(flags, "Compactor", compactor_flags, compactor_flags_n, &cfg);
    flag_set_add(flags, "Ring", compactor_kv_flags, compactor_kv_flags_n, &kv_cfg);
    flag_set_add(flags, "Member", compactor_member_flags, compactor_member_flags_n, &member_cfg[0]);
    flag_set_add(flags, "Limits", limits_flags, limits_flags_n, &limits);
    member_cfg[1] = member_cfg[0];
    cfg.first_level_compaction_wait_period = 0;
    cfg.compaction_interval = 1000;
    cfg.compaction_concurrency = 3;
    kv_cfg.store = "inmemory";
    limits.compactor_split_and_merge_shards = 2;
    limits.compactor_downsample_enabled = true;
    CLAIM(mkdtemp(dir), "no folder");
    snprintf(path, sizeof(path), "%s/bucket", dir);
    store = objstore_open(&store_cfg, "blocks-storage.", path, &err);
    CLAIM(store, "%s", err.text);
    memory = kv_inmemory_new(16);
}

int main(int argc, char **argv)
{
    int64_t end_ms = clock_mono_ms() + (argc > 1 ? atol(argv[1]) : 10) * 1000;
    struct flag_set *flags = flag_set_new();
    struct peer peers[2] = {{.id = 0}, {.id = 1}};
    pthread_t arriving, watching;
    log_min_level = LOG_LEVEL_ERROR;
    configure(flags);
    /* Metrics of one name are one lifecycler's: the second peer comes when the first is there, and they are told apart by their ids. */
    peer_start(&peers[0]);
    peer_start(&peers[1]);
    pthread_create(&arriving, NULL, arrive, NULL);
    pthread_create(&watching, NULL, watch, &peers[0]);
    while (clock_mono_ms() < end_ms) {
        nanosleep(&(struct timespec){.tv_sec = 2}, NULL);
        peer_stop(&peers[1]); /* in the midst of whatever it does */
        peer_start(&peers[1]);
    }
    atomic_store(&over, true);
    pthread_join(arriving, NULL);
    pthread_join(watching, NULL);
    uint64_t want = (uint64_t)atomic_load(&n_written) * SERIES * SAMPLES, got = 0;
    bool complete = false;
    for (int i = 0; i < 90 && (got != want || !complete); i++) {
        nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
        got = count_samples(TENANT);
        complete = rooms_have((uint64_t)atomic_load(&n_written));
    }
    CLAIM(complete, "the downsampled blocks have not what they should have");
    CLAIM(got == want, "%llu samples, and %llu were written", (unsigned long long)got, (unsigned long long)want);
    printf("%d ranges, %llu samples\n", atomic_load(&n_written), (unsigned long long)got);
    peer_stop(&peers[1]);
    peer_stop(&peers[0]);
    objstore_free(store);
    kv_free(memory);
    flag_set_free(flags);
    tree_remove(dir, NULL);
    return 0;
}
