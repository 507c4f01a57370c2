/*
 * Races of net/rpc, for the thread sanitizer: callers, streams, cancellations, and a server that stops and comes again,
 * all at once. net_rpc_stress [SECONDS [MILLISECONDS BETWEEN STOPS]]
 */
#include "tests/net/rpc/rpc_methods.h"

#define CALLERS 12

struct stress {
    struct rpc_rig rig;
    atomic_bool stop;
    atomic_int fine;
    atomic_int codes[18]; /* how the others ended; the last is any other */
};

static void call_once(struct stress *s, unsigned *seed)
{
    static const char *const methods[] = {"/test.Test/Echo", "/test.Test/Later", "/test.Test/Nap", "/test.Test/Hang",
                                          "/test.Test/Refuse"};
    atomic_bool canceled = false;
    struct ctx ctx = {.deadline_ms = clock_mono_ms() + 1 + rand_r(seed) % 100, .canceled = &canceled};
    struct buf answer = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    bool fine =
        rig_ask(&s->rig, methods[(size_t)rand_r(seed) % ARRAY_LEN(methods)], SL("some bytes"), &ctx, &answer, &st);
    ASSERT(!fine || slice_eq(buf_slice(&answer), SL("some bytes")));
    atomic_fetch_add(fine ? &s->fine : &s->codes[MIN(MAX(st.code, 0), 17)], 1);
    if (st.code == RPC_UNAVAILABLE)
        usleep(1000); /* the back-off answers at once */
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
    useconds_t pause_us = argc > 2 ? (useconds_t)atoi(argv[2]) * 1000 : 700000;
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
        usleep(pause_us);
        rpc_server_stop(s.rig.server, restarts % 2 ? 0 : 100);
        rpc_server_free(s.rig.server);
        rig_serve(&s.rig);
    }
    atomic_store(&s.stop, true);
    for (size_t i = 0; i < CALLERS; i++)
        pthread_join(threads[i], NULL);
    rig_stop(&s.rig);
    printf("%d calls answered, %d restarts; others by code:", atomic_load(&s.fine), restarts);
    for (int i = 0; i < 18; i++)
        if (atomic_load(&s.codes[i]))
            printf(" %d=%d", i, atomic_load(&s.codes[i]));
    printf("\n");
    return atomic_load(&s.fine) > 0 ? 0 : 1;
}
