/*
 * Store-gateways under load, for the thread sanitizer: queries by the door and by gRPC, while blocks come and go, the ring changes, index-headers are unmapped, and requests are canceled.
 * Every answer must be right: a block is either named and all of its series are there, or not named.
 */
#include <pthread.h>
#include <stdatomic.h>

#define CLAIM(cond, ...)                                                                                               \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                                            \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fputc('\n', stderr);                                                                                       \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

#include <stdio.h>
#include <stdlib.h>

#include "base/logger.h"
#include "tests/storage/gateway/gateway_rig.h"
#include "tests/storage/gateway/rpc_rig.h"

#define BLOCKS 20u
#define SERIES 40u
#define ASKERS 4u
#define H INT64_C(3600000)

static struct gw_rig rig;
static struct rpc_rig rpc;
static struct ulid ids[BLOCKS];
static atomic_bool stop;
static atomic_size_t answers, errors;

static struct ulid add_block(size_t i)
{
    static char names[SERIES][48];
    struct gw_series all[SERIES];
    for (size_t k = 0; k < SERIES; k++) {
        snprintf(names[k], sizeof(names[k]), "__name__=m,b=%02zu,i=%02zu", i, k);
        all[k] = (struct gw_series){names[k], 2 * (int64_t)i * H, 1000, 20, (double)k};
    }
    return gw_block(&rig, "t", all, SERIES, 2 * (int64_t)i * H, 2 * (int64_t)(i + 1) * H);
}

/* --- by the door --- */

static void check_answer(struct gateway *g, struct arena *arena, const struct block_hints *asked)
{
    struct ctx ctx = {.arena = arena, .tenant = SL("t")};
    struct gateway_found found;
    struct err err = ERR_NONE;
    struct series all[16];
    size_t n, series = 0;
    const struct select_params p = {.min_t = 0, .max_t = INT64_MAX};
    struct series_set *set = gateway_select(g, &ctx, &p, asked, &found, &err);
    bool ok = set != NULL;
    while (ok && (ok = series_set_next(set, &ctx, all, ARRAY_LEN(all), &n, &err)) && n)
        for (size_t i = 0; i < n; i++, series++)
            CLAIM(all[i].n_chunks == 1, "%zu chunks", all[i].n_chunks);
    series_set_release(set);
    if (ok)
        CLAIM(series == found.n * SERIES, "%zu series of %zu blocks", series, found.n);
    else
        CLAIM(err.code == ERR_UNAVAILABLE || err.code == ERR_CANCELED, "%s", err.text);
    atomic_fetch_add(ok ? &answers : &errors, 1);
}

static void *ask(void *arg)
{
    struct gateway *g = arg;
    struct arena arena;
    arena_init(&arena, 0);
    for (size_t i = 0; !atomic_load(&stop); i++) {
        const struct block_hints some = {.blocks = &ids[i % (BLOCKS - 3)], .n = 3};
        check_answer(g, &arena, i % 2 ? &some : &GW_ALL);
        arena_clear(&arena);
    }
    arena_release(&arena);
    return NULL;
}

/* --- by gRPC, perhaps not to the end --- */

static void *ask_remote(void *arg)
{
    (void)arg;
    struct buf request = {0};
    storegateway_series_request_put(&(struct storegateway_request){.max_t = INT64_MAX, .blocks = {.all = true}, .chunks_batch = 10}, &request);
    const struct rpc_kv metadata[] = {{SL("x-scope-orgid"), SL("t")}, {SL(STOREGATEWAY_TENANT_METADATA), SL("t")}};
    for (size_t i = 0; !atomic_load(&stop); i++) {
        struct rpc_status status = RPC_STATUS_NONE;
        struct buf message;
        struct rpc_stream *st = rpc_stream_open(rpc.client, &(struct rpc_args){.method = STOREGATEWAY_SERIES, .request = buf_slice(&request), .metadata = metadata, .n_metadata = 2});
        size_t n = 0;
        while (n < i % 40 + 1 && rpc_stream_next(st, &message, &status) == RPC_NEXT_MESSAGE) {
            buf_release(&message);
            n++;
        }
        rpc_stream_close(st);
        rpc_status_release(&status);
    }
    buf_release(&request);
    return NULL;
}

/* --- what happens meanwhile --- */

static int64_t run_for_s(int argc, char **argv)
{
    return argc > 1 ? atoi(argv[1]) : 6;
}

static void stir(int64_t seconds)
{
    int64_t until_ms = clock_mono_ms() + seconds * 1000;
    for (size_t i = 0; clock_mono_ms() < until_ms; i++) {
        arena_clear(&rig.arena);
        if (i % 2 == 0)
            gw_start(&rig, 1);
        else
            gw_stop(&rig, 1);
        if (i % 3 == 0)
            gw_mark(&rig, "t", &ids[i % BLOCKS], 7200);
        gw_index(&rig, "t");
        usleep(150000);
    }
}

int main(int argc, char **argv)
{
    pthread_t threads[ASKERS + 2];
    log_min_level = LOG_LEVEL_ERROR;
    gw_new(&rig);
    rig.cfg.sync_interval = 50;
    rig.cfg.lazy_loading_idle_timeout = 20;
    rig.ring.sharding.replication_factor = 1;
    for (size_t i = 0; i < BLOCKS; i++)
        ids[i] = add_block(i);
    gw_index(&rig, "t");
    struct gateway *g = gw_start(&rig, 0);
    rpc_rig_new(&rpc, g);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        CLAIM(pthread_create(&threads[i], NULL, i < ASKERS ? ask : ask_remote, g) == 0, "pthread_create");
    stir(run_for_s(argc, argv));
    atomic_store(&stop, true);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    rpc_rig_free(&rpc);
    gw_free(&rig);
    printf("%zu answers, %zu errors\n", atomic_load(&answers), atomic_load(&errors));
    CLAIM(atomic_load(&answers) > 0, "no answers");
    return 0;
}
