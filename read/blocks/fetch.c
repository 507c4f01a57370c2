/*
 * Each block is asked of one store-gateway; of another when that one fails or does not know it.
 *
 *     block: open --asked of a replica--> asked --the attempt is complete and names it--> answered --the stream breaks off (select)--> open
 *                                               --it fails, or does not name it--------> open
 *            open --no replica is left--> missing: the call fails when all others are answered; a dispensable block is left out
 *
 * Everything runs on the query's thread. Requests are streams that net/rpc fills meanwhile; the thread sleeps until one of them has something. The store-gateway of
 * this process is called directly, after the requests to others are on their way.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/logger.h"
#include "read/blocks/blocks_int.h"

#define WAIT_MS 60000 /* deadline and cancellation wake the sleeper by themselves */

/* --- lists of attempts ---------------------------------------------------------------------------------------------------- */

static void take_off(struct attempt **list, struct attempt *a)
{
    while (*list != a)
        list = &(*list)->next;
    *list = a->next;
    a->next = NULL;
}

static void append(struct attempt **list, struct attempt *a)
{
    while (*list)
        list = &(*list)->next;
    *list = a;
}

static bool is_local(const struct fetch *f, const struct attempt *a)
{
    return f->q->local.ops && strcmp(f->q->local.id, a->gateway->id) == 0;
}

/* --- whom to ask next ---------------------------------------------------------------------------------------------------------------------- */

static int compare_ids(const void *a, const void *b)
{
    return strcmp(((const struct ulid *)a)->text, ((const struct ulid *)b)->text);
}

/* What is wrong is wrong with rooms of downsampled blocks: samples would do, where there are any. */
static void refuse_rooms(const struct fetch *f)
{
    if (f->refused)
        atomic_store_explicit(f->refused, true, memory_order_relaxed);
}

/* Mimir's text, with the blocks sorted, and the last reason in brackets. */
static bool fail_missing(struct fetch *f, struct err *err)
{
    struct buf ids;
    size_t n = 0;
    buf_init(&ids, 0);
    bool in_rooms = true;
    struct ulid *missing = ARENA_ARRAY(f->ctx->arena, struct ulid, f->n_blocks + 1);
    for (size_t i = 0; i < f->n_blocks && missing; i++)
        if (f->blocks[i].state == BLOCK_MISSING) {
            missing[n++] = f->blocks[i].in_index->id;
            in_rooms &= f->blocks[i].place->is_room;
        }
    if (in_rooms)
        refuse_rooms(f);
    if (n)
        qsort(missing, n, sizeof(*missing), compare_ids);
    for (size_t i = 0; i < n; i++)
        buf_printf(&ids, " %s", missing[i].text);
    metric_inc(metric_single(blocks_metrics[BLOCKS_M_CHECKS_FAILED]));
    LOG_WARN("blocks are missing from all store-gateways that were asked", {"tenant", LOG_SLICE(f->ctx->tenant)}, {"blocks", LOG_STR(buf_cstr(&ids))},
             {"err", LOG_ERR(&f->why)});
    bool why = f->why.code != ERR_OK;
    err_set(err, ERR_STORE_CONSISTENCY_CHECK_FAILED, "failed to fetch some blocks (err-mimir-store-consistency-check-failed). The failed blocks are:%s%s%s%s",
            buf_cstr(&ids), why ? " (" : "", why ? f->why.text : "", why ? ")" : "");
    buf_release(&ids);
    return false;
}

/* A new attempt for each store-gateway that has open blocks. */
static struct attempt *distribute(struct fetch *f)
{
    struct attempt *fresh = NULL;
    for (size_t i = 0; i < f->n_blocks; i++) {
        struct block *b = &f->blocks[i];
        if (b->state != BLOCK_OPEN)
            continue;
        bool renew;
        const struct ring_instance *gateway = blocks_plan_replica(f, b, &renew, &f->why);
        if (!gateway && blocks_hedge_give_back(b))
            continue;
        if (!gateway) {
            b->state = b->dispensable ? BLOCK_LEFT_OUT : BLOCK_MISSING;
            f->n_missing += !b->dispensable;
            continue;
        }
        f->n_refetches = MAX(f->n_refetches, (size_t)b->tries - 1);
        struct attempt *a = fresh;
        while (a && (a->gateway != gateway || a->place != b->place))
            a = a->next;
        if (!a) {
            a = blocks_attempt_new(f, gateway, b->place, renew);
            append(&fresh, a);
        }
        a->renew |= renew;
        b->state = BLOCK_ASKED;
        b->next = a->blocks;
        a->blocks = b;
    }
    return fresh;
}

/* Its blocks are to be asked of others. */
static void reopen(struct attempt *a)
{
    for (struct block *b = a->blocks, *next; b; b = next) {
        next = b->next;
        b->next = NULL;
        b->state = BLOCK_OPEN;
    }
    a->blocks = NULL;
}

static void mark_failed(struct block *b, const struct attempt *a, const struct err *why)
{
    if (a->given_up) {
        blocks_hedge_given_up(b, a);
        return;
    }
    for (size_t i = 0; i < b->n_tried; i++)
        if (b->tried[i].gateway == a->gateway)
            b->tried[i].unavailable = why->code == ERR_UNAVAILABLE && !a->renew;
}

/* Keeps why. False: the whole call ends with err, because it was given up or would fail anywhere. */
static bool attempt_failed(struct fetch *f, struct attempt *a, const struct err *why, struct err *err)
{
    for (struct block *b = a->blocks; b; b = b->next)
        mark_failed(b, a, why);
    blocks_hedge_failed(f, a, mark_failed, why);
    f->why = *why;
    err_prefix(&f->why, "%s: ", a->gateway->id);
    if (!ctx_check(f->ctx, err))
        return false;
    if (!peer_err_is_final(why))
        return true;
    if (a->place->is_room)
        refuse_rooms(f);
    return err_set(err, why->code, "%s", why->text);
}

/* --- complete attempts ---------------------------------------------------------------------------------------------------------------------- */

static bool is_found(const struct attempt *a, const struct block *b)
{
    for (size_t i = 0; i < a->found.n; i++)
        if (memcmp(a->found.blocks[i].text, b->in_index->id.text, ULID_TEXT_LEN) == 0)
            return true;
    return false;
}

/* Blocks that it does not know are open again; without any it is of no use. */
static void take_answer(struct fetch *f, struct attempt *a)
{
    struct block *blocks = a->blocks;
    size_t n = 0;
    a->blocks = NULL;
    take_off(&f->running, a);
    for (struct block *b = blocks, *next; b; b = next) {
        next = b->next;
        b->next = NULL;
        b->state = BLOCK_OPEN;
        if (!is_found(a, b))
            continue;
        b->state = BLOCK_ANSWERED;
        b->next = a->blocks;
        a->blocks = b;
    }
    blocks_hedge_answered(f, a, is_found);
    for (struct block *b = a->blocks; b; b = b->next)
        n++;
    if (n == 0) {
        blocks_attempt_free(f, a);
        return;
    }
    metric_add(metric_single(blocks_metrics[BLOCKS_M_QUERIED]), (double)n);
    append(&f->answered, a);
}

static bool drop_failed(struct fetch *f, struct attempt *a, const struct err *why, struct err *err)
{
    bool go_on = attempt_failed(f, a, why, err);
    reopen(a);
    take_off(&f->running, a);
    blocks_attempt_free(f, a);
    return go_on;
}

static bool ask_local(struct fetch *f, struct attempt *a, struct err *err)
{
    struct block_hints blocks;
    struct err why = ERR_NONE;
    if (!blocks_attempt_list(f, a, &blocks))
        return query_over_memory(f->ctx, err);
    if (!f->ops->local(f, a, &blocks, &why))
        return drop_failed(f, a, &why, err);
    take_answer(f, a);
    return true;
}

/* Sends what is to be asked of other processes. What is of this process stays among the running ones, without a stream. */
static bool send_open(struct fetch *f, struct err *err)
{
    struct attempt *fresh = distribute(f);
    append(&f->running, fresh);
    for (struct attempt *a = fresh; a; a = a->next)
        if (!is_local(f, a) && !blocks_attempt_send(f, a, err))
            return false;
    return true;
}

/* --- waiting ---------------------------------------------------------------------------------------------------------------------------------- */

/* Takes what the attempt's stream has, at least one message or the end. */
static enum fetch_step read_answer(struct fetch *f, struct attempt *a, struct err *why)
{
    struct buf msg = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    enum fetch_step step = FETCH_FAILED;
    if (rpc_stream_next(a->stream, &msg, &st) == RPC_NEXT_MESSAGE) {
        blocks_attempt_count_bytes(a, msg.n);
        arena_clear(&f->scratch);
        step = f->ops->message(f, a, &msg, why);
        buf_release(&msg);
        return step;
    }
    blocks_attempt_count(f, a, st.code);
    if (st.code == RPC_OK)
        step = f->ops->end(f, a, why);
    else
        peer_err_of_status(&st, why);
    rpc_status_release(&st);
    return step;
}

static bool step_attempt(struct fetch *f, struct attempt *a, struct err *err)
{
    struct err why = ERR_NONE;
    a->heard_ms = clock_mono_ms();
    switch (read_answer(f, a, &why)) {
    case FETCH_MORE:
        return true;
    case FETCH_COMPLETE:
        take_answer(f, a);
        return true;
    default:
        return drop_failed(f, a, &why, err);
    }
}

/* Calls the gateway of this process, if it is to be asked; then waits for one of the others, and reads from it, until one of them has been silent for too long. */
static bool step(struct fetch *f, struct err *err)
{
    size_t n = 0;
    int64_t wake_ms = clock_mono_ms() + WAIT_MS;
    for (struct attempt *a = f->running; a; a = a->next, n++) {
        if (!a->stream)
            return ask_local(f, a, err);
        wake_ms = MIN(wake_ms, blocks_hedge_at_ms(f, a));
    }
    struct attempt **live = calloc(n, sizeof(*live));
    struct rpc_stream **streams = calloc(n, sizeof(*streams));
    ASSERT(live && streams);
    n = 0;
    for (struct attempt *a = f->running; a; a = a->next) {
        live[n] = a;
        streams[n++] = a->stream;
    }
    rpc_stream_wait_any(streams, n, MAX(wake_ms - clock_mono_ms(), (int64_t)0));
    bool ok = ctx_check(f->ctx, err);
    for (size_t from = 0; ok && from < n;) {
        int i = rpc_stream_wait_any(streams + from, n - from, 0);
        if (i < 0)
            break;
        from += (size_t)i;
        ok = step_attempt(f, live[from++], err);
    }
    free(live);
    free(streams);
    blocks_hedge_sweep(f);
    blocks_hedge(f);
    return ok;
}

static bool finish(struct fetch *f, struct err *err)
{
    for (;;) {
        if (!send_open(f, err))
            return false;
        if (!f->running)
            return f->n_missing == 0 || fail_missing(f, err);
        if (!step(f, err))
            return false;
    }
}

static void count_call(struct fetch *f)
{
    if (f->counted)
        return;
    f->counted = true;
    metric_inc(metric_single(blocks_metrics[BLOCKS_M_CHECKS]));
    metric_observe(metric_single(blocks_metrics[BLOCKS_M_INSTANCES]), (double)f->n_instances);
    metric_observe(metric_single(blocks_metrics[BLOCKS_M_REFETCHES]), (double)f->n_refetches);
}

bool blocks_fetch_finish(struct fetch *f, struct ctx *ctx, struct err *err)
{
    f->ctx = ctx;
    if (f->n_blocks == 0)
        return true;
    bool ok = ctx_check(ctx, err) && finish(f, err);
    count_call(f);
    return ok;
}

/* --- taking over -------------------------------------------------------------------------------------------------------------------------------- */

/* The last series that was taken from it. False: none was. */
static bool last_of(const struct attempt *a, struct labels *ret)
{
    *ret = a->last;
    if (a->set || a->window)
        return a->has_last;
    if (a->at)
        *ret = a->names[a->at - 1]->known.labels;
    return a->at > 0;
}

static bool pass_over_local(struct fetch *f, struct attempt *a, struct labels last, struct err *err)
{
    for (;;) {
        while (a->win_at < a->win_n && labels_cmp(a->window[a->win_at].labels, last) <= 0)
            a->win_at++;
        if (a->win_at < a->win_n || a->ended)
            return true;
        a->win_at = 0;
        if (!series_set_next(a->set, f->ctx, a->window, LOCAL_WINDOW, &a->win_n, err))
            return false;
        a->ended = a->win_n == 0;
    }
}

static bool pass_over(struct fetch *f, struct attempt *a, struct labels last, struct err *err)
{
    if (a->set) {
        a->last = last;
        a->has_last = true;
        return pass_over_local(f, a, last, err);
    }
    while (a->at < a->n && labels_cmp(a->names[a->at]->known.labels, last) <= 0)
        a->at++;
    return true;
}

/* Those that come from here on. False: one is of this process, and they are not known. */
static bool mark_names(const struct fetch *f, const struct attempt *list)
{
    for (; list; list = list->next) {
        if (list->set)
            return false;
        for (size_t i = list->at; i < list->n; i++)
            list->names[i]->mark = f->mark;
    }
    return true;
}

/* Blocks do not change, so those that take over name whatever was named before. Of a gateway of this process nothing is known beforehand. */
static bool names_all(struct fetch *f, const struct attempt *old, const struct attempt *fresh, const struct attempt *others)
{
    f->mark++;
    if (!mark_names(f, fresh))
        return true;
    /* It may have named series of blocks that others, asked beside it, have answered. */
    if (f->n_hedged && !mark_names(f, others))
        return true;
    for (size_t i = old->at; i < old->n; i++)
        if (old->names[i]->mark != f->mark)
            return false;
    return true;
}

bool blocks_fetch_take_over(struct fetch *f, struct attempt *a, const struct err *why, struct err *err)
{
    struct labels last;
    blocks_attempt_count(f, a, RPC_UNKNOWN);
    if (!attempt_failed(f, a, why, err))
        return false;
    metric_inc(metric_single(blocks_metrics[BLOCKS_M_TAKEN_OVER]));
    for (struct block *b = a->blocks; b; b = b->next)
        b->dispensable = false; /* half of it may have been given */
    reopen(a);
    take_off(&f->answered, a);
    struct attempt *others = f->answered;
    f->answered = NULL;
    bool ok = finish(f, err);
    struct attempt *fresh = f->answered;
    if (ok && last_of(a, &last))
        for (struct attempt *x = fresh; x && ok; x = x->next)
            ok = pass_over(f, x, last, err);
    if (ok && !a->set && !names_all(f, a, fresh, others))
        ok = err_set(err, ERR_INTERNAL, "two store-gateways have different series in the same blocks");
    append(&f->answered, others);
    if (!a->set) {
        blocks_attempt_free(f, a);
        return ok;
    }
    /* Labels that were given lie in its set: it stays to the end. */
    a->blocks = NULL;
    a->ended = true;
    a->win_at = a->win_n = 0;
    append(&f->answered, a);
    return ok;
}

/* --- life ----------------------------------------------------------------------------------------------------------------------------------------- */

static bool put_matchers(struct fetch *f, const struct select_params *p)
{
    struct matcher_spec *specs = ARENA_ARRAY(f->ctx->arena, struct matcher_spec, p->n_matchers + 1);
    for (size_t i = 0; specs && i < p->n_matchers; i++)
        specs[i] = (struct matcher_spec){p->matchers[i].type, p->matchers[i].name, p->matchers[i].value};
    f->matchers = (struct matcher_set){specs, p->n_matchers};
    return specs;
}

/* A store-gateway that knows an older bucket index than this looks for a newer one before it says that it does not know a block. */
static bool put_metadata(const struct fetch *f, struct place *p)
{
    const char *updated = arena_printf(f->ctx->arena, "%lld", (long long)index_snapshot_index(p->index)->updated_at_s);
    if (!updated)
        return false;
    p->metadata[0] = (struct rpc_kv){SL("x-scope-orgid"), f->ctx->tenant};
    p->metadata[1] = (struct rpc_kv){SL(STOREGATEWAY_TENANT_METADATA), p->name};
    p->metadata[2] = (struct rpc_kv){SL(STOREGATEWAY_INDEX_METADATA), slice_of(updated)};
    return true;
}

static bool put_all_metadata(struct fetch *f)
{
    for (size_t i = 0; i < f->n_places; i++)
        if (!put_metadata(f, &f->places[i]))
            return false;
    return true;
}

static void take_ring(struct fetch *f)
{
    struct ring_snapshot *all = ring_current(f->q->gateways);
    peers_sweep(&f->q->peers, all);
    f->ring = gateway_tenant_ring(all, limits_of(f->q->limits, f->ctx->tenant), f->ctx->tenant);
    ring_snapshot_free(all);
}

bool blocks_fetch_init(struct fetch *f, struct blocks *q, struct ctx *ctx, const struct fetch_ops *ops, const struct select_params *p, struct err *err)
{
    *f = (struct fetch){.q = q, .ops = ops, .ctx = ctx, .params = *p, .names = {.entry_bytes = sizeof(struct name)}};
    f->rpc_ctx = (struct ctx){.tenant = ctx->tenant, .deadline_ms = ctx->deadline_ms, .canceled = ctx->canceled};
    f->random = atomic_fetch_add_explicit(&q->calls, 1, memory_order_relaxed);
    arena_init(&f->scratch, ctx->arena->budget_bytes);
    struct err why = ERR_NONE;
    const struct index_snapshot *index = index_cache_get(q->indexes, ctx, ctx->tenant, &why);
    if (!index)
        return why.code == ERR_NOT_FOUND || err_set(err, why.code, "%s", why.text);
    f->places[f->n_places++] = (struct place){.name = ctx->tenant, .index = index};
    if (!blocks_plan(f, p) || !blocks_plan_downsampled(f, p) || !put_matchers(f, p) || !put_all_metadata(f))
        return query_over_memory(ctx, err);
    if (f->n_blocks)
        take_ring(f);
    return true;
}

bool blocks_fetch_start(struct fetch *f, struct err *err)
{
    return f->n_blocks == 0 || send_open(f, err);
}

static void free_all(struct fetch *f, struct attempt *list)
{
    while (list) {
        struct attempt *a = list;
        list = a->next;
        blocks_attempt_free(f, a);
    }
}

void blocks_fetch_release(struct fetch *f)
{
    free_all(f, f->running);
    free_all(f, f->answered);
    arena_release(&f->scratch);
    ring_snapshot_free(f->ring);
    for (size_t i = 0; i < f->n_places; i++)
        index_snapshot_unref(f->places[i].index);
}
