/*
 * QueryStream: messages with series in order of their labels, 128 in each, the last one marked as the end; then
 * messages with their chunks in the same order.
 *
 * A batch of chunks is materialised when its turn comes, in an arena that is used again for the next one: however slow
 * the querier reads, what waits is the list of series (24 bytes each), a batch, and the mebibyte that rpc_send lets
 * wait.
 */
#include "ingest/service/service_int.h"

#define SERIES_PER_MESSAGE 128u
#define CHUNKS_BATCH_DEFAULT 256u /* series, when the querier does not say how many */

struct stream {
    struct call *call;
    struct series_list *list;
    struct arena scratch; /* of one batch */
};

static bool no_memory(struct stream *st)
{
    return err_set(&st->call->err, ERR_MAX_QUERY_MEMORY, "no memory for a batch of series");
}

static bool send_series(struct stream *st)
{
    size_t n = series_list_len(st->list);
    for (size_t i = 0; i < n; i++) {
        struct labels labels;
        uint32_t n_chunks;
        if (i > 0 && i % SERIES_PER_MESSAGE == 0) {
            if (!call_send(st->call))
                return false;
            arena_clear(&st->scratch);
        }
        if (!series_list_labels(st->list, i, &st->scratch, &labels, &n_chunks))
            return no_memory(st);
        streamed_series_put(&labels, n_chunks, &st->call->out);
    }
    end_of_series_put(&st->call->out);
    series_list_drop_labels(st->list);
    return call_send(st->call);
}

static bool send_chunks(struct stream *st, uint64_t batch)
{
    struct call *c = st->call;
    struct series series[SERIES_LIST_BATCH];
    size_t n = series_list_len(st->list);
    uint64_t in_message = 0;
    for (size_t from = 0; from < n; from += SERIES_LIST_BATCH) {
        size_t taken = MIN((size_t)SERIES_LIST_BATCH, n - from);
        arena_clear(&st->scratch);
        if (!series_list_chunks(st->list, from, taken, &st->scratch, series, &c->err))
            return false;
        for (size_t i = 0; i < taken; i++) {
            /* Fewer series than were asked for are fine, messages of many megabytes are not. */
            if (in_message > 0 && (in_message >= batch || c->out.n >= CALL_MESSAGE_BYTES)) {
                if (!call_send(c))
                    return false;
                in_message = 0;
            }
            streamed_chunks_put(from + i, series[i].chunks, series[i].n_chunks, &c->out);
            in_message++;
        }
    }
    return in_message == 0 || call_send(c);
}

bool query_stream(struct call *c)
{
    struct ingester_request r;
    struct series_filter filter = {.sorted = true};
    struct stream st = {.call = c};
    if (!query_request_decode(rpc_body(c->req), c->ctx->arena, &r, &c->err))
        return call_unreadable(c);
    struct select_params p = {.min_t = r.start_ms, .max_t = r.end_ms};
    if (!call_sharded_matchers(c, &r.sets[0], &filter, &p.matchers, &p.n_matchers) ||
        !ingester_list_series(c->service->ing, c->ctx, &p, &filter, &st.list, &c->err))
        return false;
    if (!st.list) /* an unknown tenant: no message at all, as Mimir has it */
        return true;
    arena_init(&st.scratch, c->ctx->arena->budget_bytes);
    bool ok = send_series(&st) && send_chunks(&st, r.chunks_batch ? r.chunks_batch : CHUNKS_BATCH_DEFAULT);
    series_list_free(st.list);
    arena_release(&st.scratch);
    return ok;
}
