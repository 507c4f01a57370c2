/*
 * The store-gateway: how long until it is ready with many blocks, a first query (index-headers are mapped, everything is read from the bucket), and the same ones again, by the door and by gRPC.
 *
 *     bench_gateway [blocks] [series of each]
 *
 * The bucket is a folder; caches are those of the defaults. Blocks of 2 h with a sample a minute, one chunk a series; queries are about all of them.
 */
#include <stdio.h>
#include <stdlib.h>

#define CLAIM(cond, ...)                                                                                               \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#include "base/logger.h"
#include "tests/storage/gateway/gateway_rig.h"
#include "tests/storage/gateway/rpc_rig.h"

#define H INT64_C(3600000)

static struct gw_rig rig;
static struct rpc_rig rpc;
static struct arena arena;

static void make_blocks(size_t blocks, size_t series)
{
    char(*names)[80] = calloc(series, sizeof(*names));
    struct gw_series *all = calloc(series, sizeof(*all));
    CLAIM(names && all, "no memory\n");
    for (size_t b = 0; b < blocks; b++) {
        int64_t t = 2 * (int64_t)b * H;
        for (size_t i = 0; i < series; i++) {
            snprintf(names[i], sizeof(names[i]), "__name__=m%02zu,instance=i%06zu,job=j", i * 50 / series, i);
            all[i] = (struct gw_series){names[i], t, 60000, 120, (double)i};
        }
        gw_block(&rig, "t", all, series, t, t + 2 * H);
        arena_clear(&rig.arena);
    }
    gw_index(&rig, "t");
    free(all);
    free(names);
}

static double ms_since(int64_t since_ns)
{
    return (double)(clock_mono_ns() - since_ns) / 1e6;
}

/* The name matches a fiftieth of the series, or all of them. */
static void by_door(struct gateway *g, const char *what, const char *regex)
{
    struct ctx ctx = {.arena = &arena, .tenant = SL("t")};
    struct gateway_found found;
    struct err err = ERR_NONE;
    struct series batch[256];
    struct matcher m;
    size_t n, series = 0, chunks = 0;
    int64_t since_ns = clock_mono_ns();
    CLAIM(matcher_init(&m, MATCH_RE, SL("__name__"), slice_of(regex), &err), "%s\n", err.text);
    const struct select_params p = {.min_t = 0, .max_t = INT64_MAX, .matchers = &m, .n_matchers = 1};
    struct series_set *set = gateway_select(g, &ctx, &p, &GW_ALL, &found, &err);
    CLAIM(set, "%s\n", err.text);
    for (;;) {
        CLAIM(series_set_next(set, &ctx, batch, ARRAY_LEN(batch), &n, &err), "%s\n", err.text);
        if (n == 0)
            break;
        for (size_t i = 0; i < n; i++)
            chunks += batch[i].n_chunks;
        series += n;
    }
    series_set_release(set);
    matcher_release(&m);
    double ms = ms_since(since_ns);
    printf("%-28s %8.1f ms  %zu series, %zu chunks of %zu blocks, %.2f us a chunk\n", what, ms, series, chunks, found.n, chunks ? ms * 1000 / (double)chunks : 0);
    arena_clear(&arena);
}

static void by_rpc(const char *what, const char *regex)
{
    const struct matcher_spec m = {MATCH_RE, SL("__name__"), slice_of(regex)};
    const struct rpc_kv metadata[] = {{SL("x-scope-orgid"), SL("t")}, {SL(STOREGATEWAY_TENANT_METADATA), SL("t")}};
    struct buf request = {0}, message;
    struct rpc_status status = RPC_STATUS_NONE;
    size_t bytes = 0;
    int64_t since_ns = clock_mono_ns();
    storegateway_series_request_put(&(struct storegateway_request){.max_t = INT64_MAX, .matchers = {&m, 1}, .blocks = {.all = true}, .chunks_batch = 256}, &request);
    struct rpc_stream *st = rpc_stream_open(rpc.client, &(struct rpc_args){.method = STOREGATEWAY_SERIES, .request = buf_slice(&request), .metadata = metadata, .n_metadata = 2});
    while (rpc_stream_next(st, &message, &status) == RPC_NEXT_MESSAGE) {
        bytes += message.n;
        buf_release(&message);
    }
    rpc_stream_close(st);
    CLAIM(status.code == RPC_OK, "%s\n", status.text);
    rpc_status_release(&status);
    buf_release(&request);
    printf("%-28s %8.1f ms  %.1f MiB\n", what, ms_since(since_ns), (double)bytes / (1 << 20));
}

int main(int argc, char **argv)
{
    size_t blocks = argc > 1 ? (size_t)atoi(argv[1]) : 200, series = argc > 2 ? (size_t)atoi(argv[2]) : 2000;
    struct cache_config index_cfg = {0}, chunks_cfg = {0};
    struct err err = ERR_NONE;
    log_min_level = LOG_LEVEL_WARN;
    gw_new(&rig);
    arena_init(&arena, 0);
    flag_set_add(rig.flags, "Cache", store_index_cache_flags, store_cache_flags_n, &index_cfg);
    flag_set_add(rig.flags, "Cache", store_chunks_cache_flags, store_cache_flags_n, &chunks_cfg);
    CLAIM(cache_open(&index_cfg, STORE_INDEX_CACHE_FLAGS, "store-gateway", "index-cache", &rig.index_cache, &err) &&
              cache_open(&chunks_cfg, STORE_CHUNKS_CACHE_FLAGS, "store-gateway", "chunks-cache", &rig.chunks_cache, &err),
          "%s\n", err.text);
    rig.limits.max_fetched_chunks_per_query = 0;
    make_blocks(blocks, series);
    int64_t since_ns = clock_mono_ns();
    struct gateway *g = gw_start(&rig, 0);
    printf("%-28s %8.1f ms  %zu blocks of %zu series\n", "ready", ms_since(since_ns), blocks, series);
    by_door(g, "first query, a fiftieth", "m07");
    by_door(g, "again", "m07");
    by_door(g, "first query, all", "m.*");
    by_door(g, "again", "m.*");
    rpc_rig_new(&rpc, g);
    by_rpc("by gRPC, a fiftieth", "m07");
    by_rpc("by gRPC, all", "m.*");
    rpc_rig_free(&rpc);
    struct cache *caches[] = {rig.index_cache, rig.chunks_cache};
    gw_free(&rig);
    for (size_t i = 0; i < ARRAY_LEN(caches); i++)
        cache_close(caches[i]);
    arena_release(&arena);
    return 0;
}
