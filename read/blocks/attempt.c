/* A request to one store-gateway: sending it, counting it, ending it. */
#include <stdlib.h>

#include "base/clock.h"
#include "read/blocks/blocks_int.h"

void blocks_attempt_count(const struct fetch *f, struct attempt *a, int code)
{
    if (a->counted || !a->stream)
        return;
    a->counted = true;
    metric_observe(METRIC_WITH(blocks_metrics[BLOCKS_M_CLIENT_SECONDS], SL("querier"), slice_of(f->ops->method), peer_status_class(code)),
                   (double)(clock_mono_ns() - a->began_ns) / 1e9);
}

void blocks_attempt_count_bytes(const struct attempt *a, size_t n)
{
    metric_add(METRIC_WITH(blocks_metrics[BLOCKS_M_BYTES], slice_of(a->gateway->zone)), (double)n);
}

/* An answer that is complete has its end waiting, as a rule; then the request was a good one. */
static int final_code(struct attempt *a)
{
    struct buf msg = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    int code = RPC_CANCELED;
    if (rpc_stream_wait_any(&a->stream, 1, 0) == 0 && rpc_stream_next(a->stream, &msg, &st) == RPC_NEXT_END)
        code = st.code;
    buf_release(&msg);
    rpc_status_release(&st);
    return code;
}

void blocks_attempt_free(struct fetch *f, struct attempt *a)
{
    if (a->stream && !a->counted)
        blocks_attempt_count(f, a, final_code(a));
    rpc_stream_close(a->stream);
    if (a->peer)
        peers_put(&f->q->peers, a->peer);
    series_set_release(a->set);
    free(a->window);
    buf_release(&a->msg);
    arena_release(&a->decoded);
    free(a);
}

struct ctx *blocks_attempt_ctx(const struct fetch *f, struct attempt *a)
{
    if (!a->place->is_room)
        return f->ctx;
    a->ctx = *f->ctx;
    a->ctx.tenant = a->place->name;
    return &a->ctx;
}

struct attempt *blocks_attempt_new(struct fetch *f, const struct ring_instance *gateway, const struct place *place, bool renew)
{
    struct attempt *a = calloc(1, sizeof(*a));
    ASSERT(a);
    a->gateway = gateway;
    a->place = place;
    a->renew = renew;
    a->began_ns = clock_mono_ns();
    a->heard_ms = clock_mono_ms();
    arena_init(&a->decoded, f->ctx->arena->budget_bytes);
    f->n_instances++;
    return a;
}

/* Its blocks, in the arena. False: that is used up. */
bool blocks_attempt_list(const struct fetch *f, const struct attempt *a, struct block_hints *ret)
{
    size_t n = 0, k = 0;
    for (const struct block *b = a->blocks; b; b = b->next)
        n++;
    struct ulid *ids = ARENA_ARRAY(f->ctx->arena, struct ulid, n + 1);
    for (const struct block *b = a->blocks; b && ids; b = b->next)
        ids[k++] = b->in_index->id;
    *ret = (struct block_hints){.blocks = ids, .n = n, .index_s = index_snapshot_index(a->place->index)->updated_at_s};
    return ids;
}

bool blocks_attempt_send(struct fetch *f, struct attempt *a, struct err *err)
{
    struct block_hints blocks;
    if (!blocks_attempt_list(f, a, &blocks))
        return query_over_memory(f->ctx, err);
    const struct storegateway_request r = {
        .min_t = f->params.min_t,
        .max_t = f->params.max_t,
        .matchers = f->matchers,
        .blocks = blocks,
        .skip_chunks = f->params.no_chunks,
        .chunks_batch = f->q->cfg->series_buffer,
        .label_name = f->label_name,
        .limit = f->params.limit > INT64_MAX ? INT64_MAX : (int64_t)f->params.limit,
    };
    struct buf request;
    buf_init(&request, 0);
    f->ops->put(&r, &request);
    bool ok = !request.failed;
    if (ok) {
        const struct rpc_args args = {.method = f->ops->method,
                                      .request = buf_slice(&request),
                                      .metadata = a->place->metadata,
                                      .n_metadata = ARRAY_LEN(a->place->metadata),
                                      .ctx = &f->rpc_ctx,
                                      .unary = f->ops->unary};
        a->peer = peers_get(&f->q->peers, a->gateway->addr, a->renew);
        a->stream = rpc_stream_open(a->peer->client, &args); /* copies it all */
    }
    buf_release(&request);
    return ok || err_set(err, ERR_NO_MEMORY, "out of memory");
}
