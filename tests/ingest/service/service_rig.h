/* An ingester with its service on a gRPC server of its own, and a client for it. */
#pragma once

#include <criterion/criterion.h>
#include <stdio.h>

#include "base/clock.h"
#include "ingest/service/ingest_service.h"
#include "tests/ingest/ingester_rig.h"
/* After the rig: a metric of the ingester has the name of a method here. */
#include "storage/messages/ingester_messages.h"

struct service_rig {
    struct world *w;
    struct last_produced *last_produced;
    struct ingest_service *service;
    struct rpc_config rpc_cfg;
    struct flag_set *flags;
    struct rpc_server *server;
    struct rpc_clients *clients;
    struct rpc_client *client;
    struct arena arena;
};

static inline void service_rig_serve(struct service_rig *r)
{
    struct err err = ERR_NONE;
    char address[64];
    r->last_produced = last_produced_new(r->w->log, &r->w->log_cfg);
    r->service = ingest_service_new(&r->w->cfg, r->w->ing, 0, r->last_produced);
    r->server = rpc_server_new(&r->rpc_cfg);
    rpc_server_add(r->server, ingest_service_methods, ingest_service_methods_n, r->service);
    cr_assert(rpc_server_start(r->server, &err), "%s", err.text);
    r->clients = rpc_clients_new(&(struct rpc_client_config){0});
    snprintf(address, sizeof(address), "127.0.0.1:%d", rpc_server_port(r->server));
    r->client = rpc_client_new(r->clients, address);
}

/* The world is not started yet: its configuration may be changed first. */
static inline struct service_rig *service_rig_new(void)
{
    struct service_rig *r = calloc(1, sizeof(*r));
    r->w = world_new();
    r->flags = flag_set_new();
    flag_set_add(r->flags, "rpc", rpc_flags, rpc_flags_n, &r->rpc_cfg);
    r->rpc_cfg.grpc_listen_port = 0;
    r->rpc_cfg.grpc_listen_address = "127.0.0.1";
    r->rpc_cfg.grpc_workers = 4;
    arena_init(&r->arena, 0);
    return r;
}

static inline void service_rig_start(struct service_rig *r)
{
    struct err err;
    world_start(r->w);
    for (int i = 0; i < 500 && !ingester_serving(r->w->ing, &err); i++)
        usleep(10000);
    service_rig_serve(r);
}

static inline void service_rig_free(struct service_rig *r)
{
    rpc_client_free(r->client);
    rpc_clients_free(r->clients);
    if (r->server) {
        rpc_server_stop(r->server, 1000);
        rpc_server_free(r->server);
    }
    ingest_service_free(r->service);
    last_produced_free(r->last_produced);
    world_free(r->w);
    flag_set_free(r->flags);
    arena_release(&r->arena);
    free(r);
}

/* As world_produce, with a time. */
static inline void service_rig_produce(struct service_rig *r, const char *tenant, struct slice value, int64_t t)
{
    struct plog_record rec = {.tenant = slice_of(tenant), .value = value, .timestamp_ms = t};
    struct world_produce p = {.p = {.records = &rec, .n = 1, .done = world_produced}};
    struct err err;
    pthread_mutex_init(&p.lock, NULL);
    pthread_cond_init(&p.cond, NULL);
    cr_assert(plog_produce(r->w->log, &p.p, &err), "%s", err.text);
    pthread_mutex_lock(&p.lock);
    while (!p.done)
        pthread_cond_wait(&p.cond, &p.lock);
    pthread_mutex_unlock(&p.lock);
    cr_assert(p.ok);
    struct ctx ctx = {.arena = &r->arena};
    cr_assert(ingester_wait(r->w->ing, rec.offset + 1, &ctx, &err), "%s", err.text);
}

#define RIG_MESSAGES_MAX 64u

struct service_answer {
    struct slice messages[RIG_MESSAGES_MAX]; /* in the rig's arena */
    size_t n;
    int code;
    char text[ERR_TEXT_MAX];
    struct slice details;
};

static inline struct service_answer service_rig_call(struct service_rig *r, const char *method, struct slice request,
                                                     const struct rpc_kv *metadata, size_t n_metadata)
{
    struct rpc_args args = {.method = method, .request = request, .metadata = metadata, .n_metadata = n_metadata};
    struct service_answer a = {0};
    struct rpc_status status = RPC_STATUS_NONE;
    struct rpc_stream *st = rpc_stream_open(r->client, &args);
    struct buf msg = {0};
    while (rpc_stream_next(st, &msg, &status) == RPC_NEXT_MESSAGE) {
        cr_assert(a.n < RIG_MESSAGES_MAX);
        a.messages[a.n++] = arena_dup(&r->arena, buf_slice(&msg));
        buf_release(&msg);
    }
    rpc_stream_close(st);
    a.code = status.code;
    snprintf(a.text, sizeof(a.text), "%s", status.text);
    a.details = arena_dup(&r->arena, buf_slice(&status.details));
    rpc_status_release(&status);
    return a;
}
