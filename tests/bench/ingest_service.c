/*
 * QueryStream through a real gRPC server and client in one process: what a series and a sample cost, from the head to
 * decoded columns.
 *
 *     bench_ingest_service [series] [samples] [runs] [writing]
 *
 * CPU time is that of the whole process, both ends, so "a second of one core" is what the numbers are of. With a fourth
 * argument new samples and series are pushed all the while: under the thread sanitizer this is the room's stress test.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "base/clock.h"
#include "ingest/series_list.h"
#include "ingest/service/ingest_service.h"
#include "model/proto_put.h"
#include "tests/ingest/ingester_rig.h"
/* After the rig: a metric of the ingester has the name of a method here. */
#include "storage/messages/ingester_messages.h"

#define SERIES_PER_RECORD 1000
#define STEP_MS 15000

static struct world *w;
static struct rpc_config rpc_cfg;

static void die(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static double cpu_seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void put_label(struct buf *out, const char *name, const char *value)
{
    size_t begin = proto_put_begin(out, 1);
    proto_put_string(out, 1, slice_of(name));
    proto_put_string(out, 2, slice_of(value));
    proto_put_end(out, begin);
}

/* Ten labels, as a scraped container has them. */
static void put_series(struct buf *out, int i, int64_t t, int samples)
{
    char instance[64], pod[64], number[32];
    snprintf(instance, sizeof(instance), "10.%d.%d.%d:8080", i / 60000, i / 250 % 240, i % 250);
    snprintf(pod, sizeof(pod), "backend-%d-%x", i / 20, i / 20 * 7919);
    snprintf(number, sizeof(number), "%d", i % 20);
    size_t begin = proto_put_begin(out, 1);
    put_label(out, "__name__", "http_requests_total");
    put_label(out, "cluster", "eu-west-1");
    put_label(out, "container", "backend");
    put_label(out, "handler", number);
    put_label(out, "instance", instance);
    put_label(out, "job", "kubernetes-pods");
    put_label(out, "method", i % 2 ? "GET" : "POST");
    put_label(out, "namespace", "production");
    put_label(out, "pod", pod);
    put_label(out, "status", "200");
    for (int k = 0; k < samples; k++) {
        size_t sample = proto_put_begin(out, 2);
        proto_put_double(out, 1, (double)(i + k * 3));
        proto_put_varint(out, 2, (uint64_t)(t + (int64_t)k * STEP_MS));
        proto_put_end(out, sample);
    }
    proto_put_end(out, begin);
}

static void push(int first, int n, int64_t t, int samples)
{
    struct buf value = {0};
    for (int i = first; i < first + n; i++)
        put_series(&value, i, t, samples);
    struct plog_record rec = {.tenant = SL("t"), .value = buf_slice(&value), .timestamp_ms = t + samples * STEP_MS};
    struct world_produce p = {.p = {.records = &rec, .n = 1, .done = world_produced}};
    struct err err;
    pthread_mutex_init(&p.lock, NULL);
    pthread_cond_init(&p.cond, NULL);
    if (!plog_produce(w->log, &p.p, &err))
        die("producing", err.text);
    pthread_mutex_lock(&p.lock);
    while (!p.done)
        pthread_cond_wait(&p.cond, &p.lock);
    pthread_mutex_unlock(&p.lock);
    buf_release(&value);
}

static void fill(int series, int samples)
{
    struct arena arena;
    struct err err;
    int64_t first, next;
    arena_init(&arena, 0);
    struct ctx ctx = {.arena = &arena};
    for (int i = 0; i < series; i += SERIES_PER_RECORD)
        push(i, MIN(SERIES_PER_RECORD, series - i), T0, samples);
    if (!plog_offsets(w->log, 0, &first, &next, &err) || !ingester_wait(w->ing, next, &ctx, &err))
        die("waiting", err.text);
}

/* --- measuring --- */

struct result {
    uint64_t series, samples, bytes;
    double messages_seconds, chunks_seconds; /* of decoding */
};

static void take(struct slice message, struct arena *arena, struct result *r)
{
    static _Thread_local int64_t t[65536];
    static _Thread_local double v[65536];
    struct query_stream_response res;
    struct err err;
    double begin = cpu_seconds(CLOCK_THREAD_CPUTIME_ID);
    arena_clear(arena);
    if (!query_stream_response_decode(message, arena, &res, &err))
        die("decoding", err.text);
    double decoded = cpu_seconds(CLOCK_THREAD_CPUTIME_ID);
    r->bytes += message.n;
    r->series += res.n_series;
    for (size_t i = 0; i < res.n_chunks; i++)
        for (size_t k = 0; k < res.chunks[i].n; k++) {
            int n = xor_decode(res.chunks[i].chunks[k].data, t, v, ARRAY_LEN(t));
            r->samples += n > 0 ? (uint64_t)n : 0;
        }
    r->messages_seconds += decoded - begin;
    r->chunks_seconds += cpu_seconds(CLOCK_THREAD_CPUTIME_ID) - decoded;
}

static struct result stream(struct rpc_client *client)
{
    static const struct rpc_kv tenant[] = {{{"x-scope-orgid", 13}, {"t", 1}}};
    struct matcher_spec m = {MATCH_EQ, SL("__name__"), SL("http_requests_total")};
    struct matcher_set set = {&m, 1};
    struct ingester_request q = {.end_ms = INT64_MAX, .sets = &set, .n_sets = 1, .chunks_batch = 256};
    struct buf request = {0}, msg = {0};
    struct result r = {0};
    struct arena arena;
    arena_init(&arena, 0);
    query_request_put(&q, &request);
    struct rpc_args args = {
        .method = INGESTER_QUERY_STREAM, .request = buf_slice(&request), .metadata = tenant, .n_metadata = 1};
    struct rpc_status status = RPC_STATUS_NONE;
    struct rpc_stream *st = rpc_stream_open(client, &args);
    while (rpc_stream_next(st, &msg, &status) == RPC_NEXT_MESSAGE) {
        take(buf_slice(&msg), &arena, &r);
        buf_release(&msg);
    }
    rpc_stream_close(st);
    if (status.code != RPC_OK)
        die("the stream", status.text);
    rpc_status_release(&status);
    buf_release(&request);
    arena_release(&arena);
    return r;
}

static void measure_list(void)
{
    static const struct series_filter sorted = {.sorted = true};
    struct select_params p = {.max_t = INT64_MAX};
    struct arena arena;
    struct series_list *l;
    struct err err;
    arena_init(&arena, 0);
    struct ctx ctx = {.tenant = SL("t"), .arena = &arena};
    double begin = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
    if (!ingester_list_series(w->ing, &ctx, &p, &sorted, &l, &err))
        die("listing", err.text);
    printf("list and sort: %.0f ns a series\n",
           (cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - begin) * 1e9 / (double)series_list_len(l));
    series_list_free(l);
    arena_release(&arena);
}

static void measure_streams(struct rpc_client *client, int runs)
{
    for (int i = 0; i < runs; i++) {
        double cpu = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
        int64_t wall_ns = clock_mono_ns();
        struct result r = stream(client);
        cpu = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        double wall = (double)(clock_mono_ns() - wall_ns) / 1e9;
        printf("stream: %llu series, %llu samples, %.1f MB; a second of one core: %.0f series, %.1f million samples; "
               "%.2f s of CPU (%.2f reading messages, %.2f chunks), %.2f s of wall time\n",
               (unsigned long long)r.series, (unsigned long long)r.samples, (double)r.bytes / 1e6,
               (double)r.series / cpu, (double)r.samples / cpu / 1e6, cpu, r.messages_seconds, r.chunks_seconds, wall);
    }
}

/* --- writing meanwhile --- */

static _Atomic bool stop_writing;

static void *write_on(void *arg)
{
    int series = *(int *)arg;
    for (int64_t round = 1; !stop_writing; round++) {
        int64_t t = T0 + 3600 * 1000 + round * STEP_MS;
        push((int)(round * SERIES_PER_RECORD) % series, SERIES_PER_RECORD, t, 1);
        push(series + (int)round * 100, 100, t, 1);
    }
    return NULL;
}

struct reader {
    struct rpc_client *client;
    int runs;
};

static void *read_on(void *arg)
{
    struct reader *r = arg;
    measure_streams(r->client, r->runs);
    return NULL;
}

static void measure_writing(struct rpc_client *client, int series, int runs)
{
    pthread_t writer, readers[3];
    struct reader reader = {client, runs};
    pthread_create(&writer, NULL, write_on, &series);
    for (size_t i = 0; i < ARRAY_LEN(readers); i++)
        pthread_create(&readers[i], NULL, read_on, &reader);
    for (size_t i = 0; i < ARRAY_LEN(readers); i++)
        pthread_join(readers[i], NULL);
    stop_writing = true;
    pthread_join(writer, NULL);
}

int main(int argc, char **argv)
{
    int series = argc > 1 ? atoi(argv[1]) : 100000;
    int samples = argc > 2 ? atoi(argv[2]) : 120;
    int runs = argc > 3 ? atoi(argv[3]) : 5;
    struct err err;
    struct flag_set *flags = flag_set_new();
    char address[32];
    flag_set_add(flags, "rpc", rpc_flags, rpc_flags_n, &rpc_cfg);
    rpc_cfg.grpc_listen_address = "127.0.0.1";
    rpc_cfg.grpc_listen_port = 0;
    w = world_new();
    w->cfg.head_shards = 8;
    w->limit_values.max_global_series_per_user = 0;
    world_start(w);
    fill(series, samples);
    struct ingest_service *service = ingest_service_new(&w->cfg, w->ing, 0, NULL);
    struct rpc_server *server = rpc_server_new(&rpc_cfg);
    rpc_server_add(server, ingest_service_methods, ingest_service_methods_n, service);
    if (!rpc_server_start(server, &err))
        die("starting", err.text);
    struct rpc_clients *clients = rpc_clients_new(&(struct rpc_client_config){0});
    snprintf(address, sizeof(address), "127.0.0.1:%d", rpc_server_port(server));
    struct rpc_client *client = rpc_client_new(clients, address);
    measure_list();
    if (argc > 4)
        measure_writing(client, series, runs);
    else
        measure_streams(client, runs);
    rpc_client_free(client);
    rpc_clients_free(clients);
    rpc_server_stop(server, 1000);
    rpc_server_free(server);
    ingest_service_free(service);
    world_free(w);
    flag_set_free(flags);
    return 0;
}
