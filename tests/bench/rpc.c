/*
 * What gRPC costs here: our client against our server on loopback, in one process.
 *
 *     bench_rpc [CERT KEY]
 *
 * One I/O thread on either end. With CERT and KEY, a self-signed certificate's PEM files, all goes through TLS. CPU is that
 * of the whole process, both ends and the kernel's part included.
 */
#include <pthread.h>
#include <sys/resource.h>

#include "tests/net/rpc/rpc_methods.h"

#define CALLS 40000
#define THREADS 16
#define STREAM_MESSAGES "20000 65536"
#define STREAM_BYTES (20000.0 * 65536)

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

struct caller {
    struct rpc_rig *rig;
    int calls;
};

static void *call_many(void *arg)
{
    struct caller *c = arg;
    char request[256];
    memset(request, 'r', sizeof request);
    for (int i = 0; i < c->calls; i++) {
        struct buf answer = {0};
        struct rpc_status st = RPC_STATUS_NONE;
        if (!rig_ask(c->rig, "/test.Test/Echo", slice_make(request, sizeof request), NULL, &answer, &st))
            fprintf(stderr, "%d %s\n", st.code, st.text);
        buf_release(&answer);
        rpc_status_release(&st);
    }
    return NULL;
}

static void bench_calls(struct rpc_rig *r, int n_threads)
{
    pthread_t threads[THREADS];
    struct caller c = {r, CALLS / n_threads};
    double cpu = cpu_seconds();
    int64_t start_ns = clock_mono_ns();
    for (int i = 0; i < n_threads; i++)
        pthread_create(&threads[i], NULL, call_many, &c);
    for (int i = 0; i < n_threads; i++)
        pthread_join(threads[i], NULL);
    double seconds = (double)(clock_mono_ns() - start_ns) / 1e9;
    printf("unary, 256 bytes, %2d callers: %8.0f calls/s, %6.1f us CPU a call\n", n_threads, CALLS / seconds,
           (cpu_seconds() - cpu) / CALLS * 1e6);
}

static void bench_stream(struct rpc_rig *r)
{
    double cpu = cpu_seconds();
    int64_t start_ns = clock_mono_ns();
    const struct rpc_args args = {.method = "/test.Test/Count", .request = SL(STREAM_MESSAGES)};
    struct rpc_stream *stream = rpc_stream_open(r->client, &args);
    struct rpc_status st = RPC_STATUS_NONE;
    struct buf msg = {0};
    while (rpc_stream_next(stream, &msg, &st) == RPC_NEXT_MESSAGE)
        buf_release(&msg);
    rpc_stream_close(stream);
    double seconds = (double)(clock_mono_ns() - start_ns) / 1e9;
    printf("stream, messages of 64 KiB:     %8.0f MB/s, %6.0f MB a CPU second%s%s\n", STREAM_BYTES / seconds / 1e6,
           STREAM_BYTES / (cpu_seconds() - cpu) / 1e6, st.code ? " " : "", st.text);
}

int main(int argc, char **argv)
{
    struct rpc_rig r;
    rig_new(&r);
    r.cfg.grpc_io_threads = 1;
    if (argc == 3) {
        r.cfg.grpc_tls_cert_path = argv[1];
        r.cfg.grpc_tls_key_path = argv[2];
        r.client_cfg.tls.enabled = r.client_cfg.tls.insecure_skip_verify = true;
    }
    rig_start(&r);
    bench_calls(&r, 1);
    bench_calls(&r, THREADS);
    bench_stream(&r);
    rig_stop(&r);
    return 0;
}
