/*
 * Races of net/rpc, for the thread sanitizer: callers, streams, cancellations, and a server that stops and comes again, all at once.
 *   net_rpc_stress [SECONDS]
 */
#include "tests/net/rpc/rpc_methods.h"

#define CALLERS 12

struct stress {
    struct rpc_rig rig;
    atomic_bool stop;
    atomic_int fine, failed;
};

static void call_once(struct stress *s, unsigned *seed)
{
    static const char *const methods[] = {"/test.Test/Echo", "/test.Test/Later", "/test.Test/Nap", "/test.Test/Hang", "/test.Test/Refuse"};
    atomic_bool canceled = false;
    struct ctx ctx = {.deadline_ms = clock_mono_ms() + rand_r(seed) % 60, .canceled = &canceled};
    struct buf answer = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    bool fine = rig_ask(&s->rig, methods[(size_t)rand_r(seed) % ARRAY_LEN(methods)], SL("some bytes"), &ctx, &answer, &st);
    ASSERT(!fine || slice_eq(buf_slice(&answer), SL("some bytes")));
    atomic_fetch_add(fine ? &s->fine : &s->failed, 1);
    buf_release(&answer);
    rpc_status_release(&st);
}

static void stream_once(struct stress *s, unsigned *seed)
{
    struct ctx ctx = {.deadline_ms = clock_mono_ms() + 2000};
    const struct rpc_args args = {.method = "/test.Test/Count", .request = SL("300 9000"), .ctx = &ctx};
    struct rpc_stream *stream = rpc_stream_open(s->rig.client, &args);
    struct buf msg = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    int want = rand_r(seed) % 600; /* half of them are closed before their end */
    int n = 0;
    while (n < want && rpc_stream_next(stream, &msg, &st) == RPC_NEXT_MESSAGE) {
        ASSERT(msg.n == 9000 && atoi(msg.p) == n);
        buf_release(&msg);
        n++;
    }
    rpc_status_release(&st);
    rpc_stream_close(stream);
}

static void *caller(void *arg)
{
    struct stress *s = arg;
    unsigned seed = (unsigned)clock_mono_ns();
    while (!atomic_load(&s->stop)) {
        if (rand_r(&seed) % 4)
            call_once(s, &seed);
        else
            stream_once(s, &seed);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static struct stress s;
    int64_t seconds = argc > 1 ? atoi(argv[1]) : 5;
    rig_new(&s.rig);
    s.rig.client_cfg.backoff_min_ms = 10;
    s.rig.client_cfg.backoff_max_ms = 50;
    rig_start(&s.rig);
    s.rig.cfg.grpc_listen_port = rpc_server_port(s.rig.server);
    pthread_t threads[CALLERS];
    for (size_t i = 0; i < CALLERS; i++)
        if (pthread_create(&threads[i], NULL, caller, &s) != 0)
            return 1;
    int restarts = 0;
    for (int64_t until = clock_mono_ms() + seconds * 1000; clock_mono_ms() < until; restarts++) {
        usleep(700000);
        rpc_server_stop(s.rig.server, restarts % 2 ? 0 : 100);
        rpc_server_free(s.rig.server);
        rig_serve(&s.rig);
    }
    atomic_store(&s.stop, true);
    for (size_t i = 0; i < CALLERS; i++)
        pthread_join(threads[i], NULL);
    rig_stop(&s.rig);
    printf("%d calls answered, %d failed or refused, %d restarts\n", atomic_load(&s.fine), atomic_load(&s.failed), restarts);
    return atomic_load(&s.fine) > 0 ? 0 : 1;
}
