/* A request to one owner: sending it, counting it, ending it. */
#include <stdlib.h>

#include "base/clock.h"
#include "read/ingesters/ingesters_int.h"

void attempt_count(const struct fetch *f, struct attempt *a, int code)
{
    if (a->counted || !a->stream)
        return;
    a->counted = true;
    metric_observe(METRIC_WITH(ingesters_metrics[INGESTERS_M_CLIENT_SECONDS], slice_of(f->ops->method), peer_status_class(code)),
                   (double)(clock_mono_ns() - a->began_ns) / 1e9);
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

void attempt_free(struct fetch *f, struct attempt *a)
{
    if (!a)
        return;
    if (a->stream && !a->counted)
        attempt_count(f, a, final_code(a));
    rpc_stream_close(a->stream);
    if (a->peer)
        peers_put(&f->q->peers, a->peer);
    series_set_release(a->set);
    buf_release(&a->held);
    free(a);
}

struct attempt *attempt_new(struct part *p, struct owner *o)
{
    struct attempt *a = calloc(1, sizeof(*a));
    ASSERT(a);
    a->part = p;
    a->owner = o;
    a->began_ns = clock_mono_ns();
    a->next = p->running;
    p->running = a;
    p->heard_ms = clock_mono_ms();
    o->tries++;
    a->anyway = o->lagging;
    o->lagging = false;
    return a;
}

bool attempt_prefers(const struct fetch *f, const struct attempt *a)
{
    return f->prefer.n && a->part->n_owners > 1 && !a->anyway;
}

void attempt_forgive(struct attempt *a)
{
    a->owner->tries--;
    a->owner->lagging = a->anyway;
}

void attempt_take_off(struct attempt *a)
{
    struct attempt **at = &a->part->running;
    while (*at != a)
        at = &(*at)->next;
    *at = a->next;
    a->next = NULL;
}

/*
 * An ingester is told its own partition's offset only: a list of all of them would be longer than metadata may be in a large cluster. One that finds none asks the log.
 * Returns how many metadata there are.
 */
static size_t put_own(struct fetch *f, const struct attempt *a, struct buf *text)
{
    size_t n = f->n_metadata;
    struct partition_offset at = {.partition = a->part->partition};
    if (read_offsets_find(f->offsets, at.partition, &at.offset)) {
        read_offsets_put(&at, 1, text);
        f->metadata[n++] = (struct rpc_kv){SL(READ_OFFSETS_TAG), buf_slice(text)};
    }
    if (attempt_prefers(f, a))
        f->metadata[n++] = (struct rpc_kv){SL(READ_PREFER_DELAY_TAG), f->prefer};
    return n;
}

void attempt_send(struct fetch *f, struct attempt *a)
{
    struct buf offset;
    buf_init(&offset, 0);
    a->peer = peers_get(&f->q->peers, a->owner->instance->addr, a->owner->tries > 1 && a->owner->unavailable);
    const struct rpc_args args = {.method = f->ops->method,
                                  .request = buf_slice(&f->request),
                                  .n_metadata = put_own(f, a, &offset),
                                  .metadata = f->metadata,
                                  .ctx = &f->rpc_ctx,
                                  .unary = f->ops->unary};
    a->stream = rpc_stream_open(a->peer->client, &args); /* copies it all */
    buf_release(&offset);
}
