/* A client's bytes, after its preface, to a server's session in memory: handlers run in place, the answers are made and
 * dropped. */
#include "net/rpc/rpc_int.h"
#include "tests/net/rpc/rpc_methods.h" /* of them: echo, refuse, tenant */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_count(struct rpc_request *req, void *arg)
{
    (void)arg;
    struct err err = ERR_NONE;
    for (int i = 0; i < 3; i++) {
        struct buf msg = {0};
        buf_put_slice(&msg, rpc_body(req));
        if (!rpc_send(req, &msg, &err)) {
            rpc_finish_err(req, &err);
            return;
        }
    }
    rpc_finish(req, RPC_OK, SL(""), SL(""));
}

static const struct rpc_method methods[] = {{"/t/E", echo, false}, {"/t/C", fuzz_count, true}, {"/t/R", refuse, false}, {"/t/M", tenant, false}};

static struct flag_set *flags;
static struct rpc_config cfg;
static struct rpc_server *server;
static struct rpc_loop *loop;

static void set_up(void)
{
    flags = flag_set_new();
    flag_set_add(flags, "gRPC server", rpc_flags, rpc_flags_n, &cfg);
    cfg.grpc_max_recv_msg_bytes = 4096;
    server = rpc_server_new(&cfg);
    rpc_server_add(server, methods, ARRAY_LEN(methods), NULL);
    loop = rpc_loop_new();
}

/* As the I/O thread does it. False: the connection is closed, or must be. */
static bool feed(struct slice in)
{
    bool fed = rpc_conn_feed(loop->conns, in);
    bool open = rpc_conn_flush(loop->conns);
    rpc_loop_turn(loop);
    return fed && open && loop->conns;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!server)
        set_up();
    struct rpc_conn *c = rpc_conn_new(loop, &rpc_server_role, server, -1, NULL, 10);
    ASSERT(c);
    atomic_fetch_add(&server->n_conns, 1);
    bool fine = feed(SL(NGHTTP2_CLIENT_MAGIC));
    /* In two pieces, cut where the first byte says. */
    size_t cut = size ? data[0] % size : 0;
    if (fine && feed(slice_make(data, cut)))
        feed(slice_make(data + cut, size - cut));
    if (loop->conns)
        rpc_conn_close(loop->conns);
    rpc_loop_turn(loop);
    ASSERT(server->n_live == 0 && atomic_load(&server->memory.used_bytes) == 0 && atomic_load(&server->n_conns) == 0);
    return 0;
}
