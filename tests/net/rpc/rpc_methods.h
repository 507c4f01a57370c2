/* The methods that the tests of net/rpc call, and a server with them on a free loopback port. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "net/rpc/rpc.h"

#define UNUSED __attribute__((unused))

struct seen {
    atomic_int running;  /* handlers that wait */
    atomic_int canceled; /* handlers that saw ctx.canceled or the deadline */
    atomic_int sent;     /* messages that rpc_send took */
};

static void echo(struct rpc_request *req, void *arg)
{
    (void)arg;
    struct buf out = {0};
    buf_put_slice(&out, rpc_body(req));
    rpc_respond(req, &out);
}

/* Body "N SIZE": N messages of SIZE bytes, each begins with its number as text. */
static void count(struct rpc_request *req, void *arg)
{
    struct seen *seen = arg;
    char body[64] = "";
    int n = 0;
    int size = 0;
    snprintf(body, sizeof body, "%.*s", SL_FMT(rpc_body(req)));
    if (sscanf(body, "%d %d", &n, &size) != 2 || n < 0 || size < 0) {
        rpc_finish(req, RPC_INVALID_ARGUMENT, SL("the body must be two numbers"), SL(""));
        return;
    }
    struct err err = ERR_NONE;
    for (int i = 0; i < n; i++) {
        struct buf msg = {0};
        buf_printf(&msg, "%d ", i);
        if (msg.n < (size_t)size && buf_reserve(&msg, (size_t)size - msg.n)) {
            memset(msg.p + msg.n, 'x', (size_t)size - msg.n);
            msg.n = (size_t)size;
        }
        if (!rpc_send(req, &msg, &err)) {
            atomic_fetch_add(&seen->canceled, 1);
            rpc_finish_err(req, &err);
            return;
        }
        atomic_fetch_add(&seen->sent, 1);
    }
    rpc_finish(req, RPC_OK, SL(""), SL(""));
}

/* Waits until nobody waits for it any more, ten seconds at most. */
static void hang(struct rpc_request *req, void *arg)
{
    struct seen *seen = arg;
    struct err err = ERR_NONE;
    atomic_fetch_add(&seen->running, 1);
    for (int i = 0; i < 10000 && ctx_check(rpc_ctx(req), &err); i++)
        usleep(1000);
    atomic_fetch_sub(&seen->running, 1);
    atomic_fetch_add(&seen->canceled, 1);
    rpc_finish_err(req, &err);
}

static void nap(struct rpc_request *req, void *arg)
{
    (void)arg;
    usleep(20000);
    echo(req, NULL);
}

static void refuse(struct rpc_request *req, void *arg)
{
    (void)arg;
    rpc_finish(req, RPC_FAILED_PRECONDITION, SL("100% \"f\xc3\xbcr\"\nnothing"), SL("\x08\x09\x00\xff"));
}

/* As Mimir's httpgrpc does: an HTTP status as the code. */
static void http_status(struct rpc_request *req, void *arg)
{
    (void)arg;
    rpc_finish(req, 422, SL("unprocessable"), SL(""));
}

static void tenant(struct rpc_request *req, void *arg)
{
    (void)arg;
    struct buf out = {0};
    buf_put_slice(&out, rpc_metadata(req, "x-scope-orgid"));
    buf_putc(&out, '/');
    buf_put_slice(&out, rpc_metadata(req, "other"));
    rpc_respond(req, &out);
}

static void *answer_later(void *arg)
{
    usleep(5000);
    echo(arg, NULL);
    return NULL;
}

/* Answered by another thread, after the handler has returned. */
static void later(struct rpc_request *req, void *arg)
{
    (void)arg;
    pthread_t thread;
    int rc = pthread_create(&thread, NULL, answer_later, req);
    ASSERT(rc == 0);
    pthread_detach(thread);
}

static const struct rpc_method test_methods[] = {
    {"/test.Test/Echo", echo, false},
    {"/test.Test/Count", count, true},
    {"/test.Test/Hang", hang, false},
    {"/test.Test/Nap", nap, false},
    {"/test.Test/Refuse", refuse, false},
    {"/test.Test/Http", http_status, false},
    {"/test.Test/Tenant", tenant, false},
    {"/test.Test/Later", later, false},
};

struct rpc_rig {
    struct rpc_config cfg;
    struct flag_set *flags;
    struct rpc_server *server;
    struct rpc_clients *clients;
    struct rpc_client *client;
    struct rpc_client_config client_cfg;
    char address[64];
    struct seen seen;
};

UNUSED static void rig_new(struct rpc_rig *r)
{
    *r = (struct rpc_rig){0};
    r->flags = flag_set_new();
    flag_set_add(r->flags, "gRPC server", rpc_flags, rpc_flags_n, &r->cfg);
    r->cfg.grpc_listen_address = "127.0.0.1";
    r->cfg.grpc_listen_port = 0;
    r->cfg.grpc_workers = 8;
    r->cfg.grpc_io_threads = 2;
}

UNUSED static void rig_serve(struct rpc_rig *r)
{
    struct err err = ERR_NONE;
    r->server = rpc_server_new(&r->cfg);
    rpc_server_add(r->server, test_methods, ARRAY_LEN(test_methods), &r->seen);
    if (!rpc_server_start(r->server, &err)) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    snprintf(r->address, sizeof r->address, "127.0.0.1:%d", rpc_server_port(r->server));
}

UNUSED static void rig_start(struct rpc_rig *r)
{
    rig_serve(r);
    r->clients = rpc_clients_new(&r->client_cfg);
    r->client = rpc_client_new(r->clients, r->address);
}

UNUSED static void rig_stop(struct rpc_rig *r)
{
    rpc_client_free(r->client);
    rpc_clients_free(r->clients);
    if (r->server)
        rpc_server_stop(r->server, 5000);
    rpc_server_free(r->server);
    flag_set_free(r->flags);
}

UNUSED static bool rig_ask(struct rpc_rig *r, const char *method, struct slice request, const struct ctx *ctx,
                           struct buf *ret_answer, struct rpc_status *ret_status)
{
    const struct rpc_args args = {.method = method, .request = request, .ctx = ctx};
    return rpc_call(r->client, &args, ret_answer, ret_status);
}
