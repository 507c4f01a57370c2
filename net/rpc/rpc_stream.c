/* One call, as both ends see it: queues of messages, references, waiting. Any thread, with the stream's lock where
 * rpc_int.h says so. */
#include <stdlib.h>
#include <time.h>

#include "net/rpc/rpc_int.h"

void rpc_stream_init(struct rpc_stream *st, const struct rpc_role *role, struct rpc_loop *loop)
{
    atomic_init(&st->refs, 1);
    st->role = role;
    st->loop = loop;
    atomic_fetch_add_explicit(&loop->refs, 1, memory_order_relaxed);
    pthread_mutex_init(&st->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&st->changed, &attr);
    pthread_condattr_destroy(&attr);
    st->out.end = &st->out.first;
    st->got.end = &st->got.first;
}

/* For the role's free: all but the struct itself. */
void rpc_stream_release(struct rpc_stream *st)
{
    rpc_frames_release(&st->in);
    rpc_queue_clear(&st->out);
    rpc_queue_clear(&st->got);
    rpc_status_release(&st->status);
    pthread_cond_destroy(&st->changed);
    pthread_mutex_destroy(&st->lock);
    rpc_loop_unref(st->loop);
}

void rpc_stream_ref(struct rpc_stream *st)
{
    atomic_fetch_add_explicit(&st->refs, 1, memory_order_relaxed);
}

void rpc_stream_unref(struct rpc_stream *st)
{
    if (st && atomic_fetch_sub_explicit(&st->refs, 1, memory_order_acq_rel) == 1)
        st->role->free(st);
}

void rpc_stream_wait(struct rpc_stream *st, int64_t until_ms)
{
    struct timespec ts = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
    pthread_cond_timedwait(&st->changed, &st->lock, &ts);
}

void rpc_queue_push(struct rpc_queue *q, struct buf *body, bool packed)
{
    struct rpc_msg *m = calloc(1, sizeof *m);
    ASSERT(m && body->n <= UINT32_MAX);
    m->body = *body;
    m->head[0] = packed;
    buf_init(body, 0);
    for (int i = 0; i < 4; i++)
        m->head[1 + i] = (uint8_t)(m->body.n >> (24 - 8 * i));
    q->bytes += m->body.n + RPC_HEAD_BYTES;
    *q->end = m;
    q->end = &m->next;
}

struct buf rpc_queue_pop(struct rpc_queue *q)
{
    struct rpc_msg *m = q->first;
    struct buf body = m->body;
    q->first = m->next;
    if (!q->first)
        q->end = &q->first;
    q->bytes -= body.n + RPC_HEAD_BYTES;
    free(m);
    return body;
}

void rpc_queue_clear(struct rpc_queue *q)
{
    while (q->first) {
        struct buf body = rpc_queue_pop(q);
        buf_release(&body);
    }
}
