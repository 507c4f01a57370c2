/* A gRPC server with a store-gateway in it, and a client. */
#pragma once

#include "net/rpc/rpc.h"
#include "storage/gateway/gateway.h"

#define RPC_MESSAGES_MAX 256u

struct rpc_rig {
    struct rpc_config cfg;
    struct flag_set *flags;
    struct rpc_server *server;
    struct rpc_clients *clients;
    struct rpc_client *client;
    const char *index; /* how new the querier says that its bucket index is; NULL: it does not */
};

struct rpc_answer {
    struct slice messages[RPC_MESSAGES_MAX];
    size_t n;
    int code;
    const char *text;
    struct slice details;
};

static inline void rpc_rig_new(struct rpc_rig *r, struct gateway *g)
{
    struct err err = ERR_NONE;
    char address[64];
    *r = (struct rpc_rig){.flags = flag_set_new()};
    flag_set_add(r->flags, "rpc", rpc_flags, rpc_flags_n, &r->cfg);
    r->cfg.grpc_listen_port = 0;
    r->cfg.grpc_listen_address = "127.0.0.1";
    r->cfg.grpc_workers = 4;
    r->server = rpc_server_new(&r->cfg);
    rpc_server_add(r->server, gateway_methods, gateway_methods_n, g);
    CLAIM(rpc_server_start(r->server, &err), "%s", err.text);
    r->clients = rpc_clients_new(&(struct rpc_client_config){0});
    snprintf(address, sizeof(address), "127.0.0.1:%d", rpc_server_port(r->server));
    r->client = rpc_client_new(r->clients, address);
}

static inline void rpc_rig_free(struct rpc_rig *r)
{
    rpc_client_free(r->client);
    rpc_clients_free(r->clients);
    rpc_server_stop(r->server, 1000);
    rpc_server_free(r->server);
    flag_set_free(r->flags);
}

/* NULL: that metadata is not sent. Everything of the answer lies in the arena. */
static inline void rpc_rig_ask(struct rpc_rig *r, const char *method, struct slice request, const char *tenant, const char *own, struct arena *arena,
                               struct rpc_answer *ret)
{
    struct rpc_kv metadata[3];
    struct rpc_args args = {.method = method, .request = request, .metadata = metadata};
    struct rpc_status status = RPC_STATUS_NONE;
    struct buf message;
    *ret = (struct rpc_answer){0};
    if (tenant)
        metadata[args.n_metadata++] = (struct rpc_kv){SL("x-scope-orgid"), slice_of(tenant)};
    if (own)
        metadata[args.n_metadata++] = (struct rpc_kv){SL(STOREGATEWAY_TENANT_METADATA), slice_of(own)};
    if (r->index)
        metadata[args.n_metadata++] = (struct rpc_kv){SL(STOREGATEWAY_INDEX_METADATA), slice_of(r->index)};
    struct rpc_stream *st = rpc_stream_open(r->client, &args);
    while (rpc_stream_next(st, &message, &status) == RPC_NEXT_MESSAGE) {
        CLAIM(ret->n < RPC_MESSAGES_MAX, "more messages than expected");
        ret->messages[ret->n++] = arena_dup(arena, buf_slice(&message));
        buf_release(&message);
    }
    rpc_stream_close(st);
    ret->code = status.code;
    ret->text = arena_printf(arena, "%s", status.text);
    ret->details = arena_dup(arena, buf_slice(&status.details));
    rpc_status_release(&status);
}
