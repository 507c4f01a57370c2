/*
 * One owner of each partition is asked; another one when it fails or says nothing for too long.
 *
 *     part: open --an attempt is complete--> answered --its stream breaks off (select only)--> open --> ...
 *                --nobody is left to ask---> the call fails
 *
 * Everything runs on the query's thread. Requests to other processes are streams that net/rpc fills meanwhile, unary calls too; the thread sleeps until one of
 * them has something. Owners of this process are called directly, after the requests to others are on their way.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "read/ingesters/ingesters_int.h"

#define TRIES_MAX 2

/* --- the end of attempts ------------------------------------------------------------------------------------------------------------ */

/* Cancels them. They have not failed: their owners may be asked again when the one that answered breaks off. */
static void free_running(struct fetch *f, struct part *p)
{
    while (p->running) {
        struct attempt *a = p->running;
        attempt_forgive(a);
        attempt_take_off(a);
        attempt_free(f, a);
    }
}

/* The others that were asked about this partition are not needed any more. */
static void answered(struct fetch *f, struct attempt *a)
{
    attempt_take_off(a);
    a->part->answered = a;
    free_running(f, a->part);
}

/* --- who is next --------------------------------------------------------------------------------------------------------------------- */

static struct owner *never_asked(const struct part *p)
{
    for (size_t i = 0; i < p->n_owners; i++)
        if (p->owners[i].tries == 0)
            return &p->owners[i];
    return NULL;
}

/* Of those that lag the one that lags least. */
static struct owner *freshest_lagging(const struct part *p)
{
    struct owner *best = NULL;
    for (size_t i = 0; i < p->n_owners; i++)
        if (p->owners[i].lagging && (!best || p->owners[i].behind_ms < best->behind_ms))
            best = &p->owners[i];
    return best;
}

/*
 * Each owner once; then, if nobody else can say anything any more, those that lag, for what they have is better than nothing: the brokers may be away, and all of
 * them behind. Then once again those that could not be reached: a connection that has just been lost says little about the process behind it. Those that cannot
 * be connected to fail at once then.
 */
static struct owner *next_owner(const struct part *p)
{
    struct owner *o = never_asked(p);
    if (!o && !p->running)
        o = freshest_lagging(p);
    for (size_t i = 0; i < p->n_owners && !o && !p->running; i++)
        if (p->owners[i].tries < TRIES_MAX && p->owners[i].unavailable)
            o = &p->owners[i];
    return o;
}

/* Who may be asked beside one that has been silent for long. */
static struct owner *next_beside(const struct part *p)
{
    struct owner *o = never_asked(p);
    return o ? o : freshest_lagging(p);
}

/* Keeps why. False: the whole call ends with err, because it was given up or would fail anywhere. */
static bool attempt_failed(struct fetch *f, struct attempt *a, const struct err *why, struct err *err)
{
    struct part *p = a->part;
    a->owner->unavailable = why->code == ERR_UNAVAILABLE;
    if (why->code == ERR_LAGGING && !a->anyway) {
        a->owner->lagging = true;
        a->owner->behind_ms = INT64_MAX;
        read_lag_parse(slice_of(why->text), &a->owner->behind_ms);
        metric_inc(metric_single(ingesters_metrics[INGESTERS_M_LAGGING]));
    }
    p->why = *why;
    err_prefix(&p->why, "partition %d: %s: ", p->partition, a->owner->instance->id);
    if (!ctx_check(f->ctx, err))
        return false;
    return !peer_err_is_final(why) || err_set(err, why->code, "%s", why->text);
}

/* In this process what goes with the request lies in the ctx. */
static bool ask_local(struct fetch *f, struct attempt *a, struct err *err)
{
    struct ctx *of_call = f->ctx, own = *f->ctx;
    if (attempt_prefers(f, a) && !ctx_tag_add(&own, SL(READ_PREFER_DELAY_TAG), f->prefer))
        return query_over_memory(f->ctx, err);
    f->ctx = &own;
    bool ok = f->ops->local(f, a, err);
    f->ctx = of_call;
    return ok;
}

/* Asks the owner. False as above; that the attempt itself failed is seen in p->running and p->answered. */
static bool ask(struct fetch *f, struct part *p, struct owner *o, struct err *err)
{
    struct attempt *a = attempt_new(p, o);
    if (!o->local) {
        attempt_send(f, a);
        return true;
    }
    struct err why = ERR_NONE;
    if (ask_local(f, a, &why)) {
        answered(f, a);
        return true;
    }
    bool go_on = attempt_failed(f, a, &why, err);
    attempt_take_off(a);
    a->next = f->dead;
    f->dead = a;
    return go_on;
}

/* Somebody runs or has answered afterwards, or there is nobody left: an error, unless the part is dispensable. */
static bool ask_next(struct fetch *f, struct part *p, struct err *err)
{
    while (!p->running && !p->answered && !p->left_out) {
        struct owner *o = next_owner(p);
        if (!o && p->dispensable) {
            p->left_out = true;
            return true;
        }
        if (!o)
            return err_set(err, p->why.code == ERR_TIMEOUT ? ERR_TIMEOUT : ERR_UNAVAILABLE, "%s", p->why.text);
        if (p->why.code != ERR_OK)
            metric_inc(metric_single(ingesters_metrics[INGESTERS_M_RETRIED]));
        if (!ask(f, p, o, err))
            return false;
    }
    return true;
}

/* --- answers --------------------------------------------------------------------------------------------------------------------------- */

/* Statuses below 17 are gRPC's own; others are HTTP's. */
static void err_of_status(const struct rpc_status *st, struct err *err)
{
    int64_t behind_ms;
    if (st->code == RPC_FAILED_PRECONDITION && read_lag_parse(slice_of(st->text), &behind_ms))
        err_set(err, ERR_LAGGING, "%s", st->text);
    else
        peer_err_of_status(st, err);
}

/* Takes what the attempt's stream has, at least one message or the end. */
static enum fetch_step read_answer(struct fetch *f, struct attempt *a, struct err *why)
{
    struct buf msg = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    enum fetch_step step;
    if (rpc_stream_next(a->stream, &msg, &st) == RPC_NEXT_MESSAGE) {
        a->part->heard_ms = clock_mono_ms();
        arena_clear(&f->scratch);
        step = f->ops->message(f, a, &msg, why);
        buf_release(&msg);
        return step;
    }
    attempt_count(f, a, st.code);
    if (st.code == RPC_OK) {
        step = f->ops->end(f, a, why);
    } else {
        err_of_status(&st, why);
        step = FETCH_FAILED;
    }
    rpc_status_release(&st);
    return step;
}

/* False: the call fails. */
static bool step_attempt(struct fetch *f, struct attempt *a, struct err *err)
{
    struct part *p = a->part;
    struct err why = ERR_NONE;
    switch (read_answer(f, a, &why)) {
    case FETCH_MORE:
        return true;
    case FETCH_COMPLETE:
        answered(f, a);
        return true;
    default:
        break;
    }
    bool go_on = attempt_failed(f, a, &why, err);
    attempt_take_off(a);
    attempt_free(f, a);
    if (!go_on || p->answered)
        return go_on;
    struct owner *fresh = p->running ? next_owner(p) : NULL;
    return fresh ? ask(f, p, fresh, err) : ask_next(f, p, err);
}

/* --- waiting --------------------------------------------------------------------------------------------------------------------------- */

static void add_live(struct fetch *f, struct attempt *a)
{
    f->live[f->n_live] = a;
    f->streams[f->n_live++] = a->stream;
}

static void list_running(struct fetch *f, const struct part *p)
{
    for (struct attempt *a = p->running; a; a = a->next)
        add_live(f, a);
}

/* When the next owner is to be asked beside one that is silent; INT64_MAX: never. */
static int64_t hedge_at_ms(const struct fetch *f, const struct part *p)
{
    int64_t delay_ms = f->q->cfg->hedging_delay;
    return delay_ms > 0 && next_beside(p) ? p->heard_ms + delay_ms : INT64_MAX;
}

static bool hedge_if_due(struct fetch *f, struct part *p, int64_t now_ms, struct err *err)
{
    if (hedge_at_ms(f, p) > now_ms)
        return true;
    metric_inc(metric_single(ingesters_metrics[INGESTERS_M_HEDGED]));
    return ask(f, p, next_beside(p), err);
}

/* The time that may be slept; deadline and cancellation wake the sleeper by themselves. */
static int64_t until_ms(int64_t at_ms)
{
    return at_ms == INT64_MAX ? 60000 : MAX(at_ms - clock_mono_ms(), (int64_t)0);
}

/* Lists what runs for the parts that are not answered. */
static bool list_open(struct fetch *f, int64_t *ret_wake_ms, struct err *err)
{
    *ret_wake_ms = INT64_MAX;
    f->n_live = 0;
    for (size_t i = 0; i < f->n_parts; i++) {
        struct part *p = &f->parts[i];
        if (p->answered || p->left_out)
            continue;
        if (!ask_next(f, p, err))
            return false;
        if (p->answered || p->left_out)
            continue;
        list_running(f, p);
        *ret_wake_ms = MIN(*ret_wake_ms, hedge_at_ms(f, p));
    }
    return true;
}

/* One step for each part of which a listed attempt has something. A step may free the part's other attempts, so they are passed over. */
static bool step_all(struct fetch *f, struct err *err)
{
    size_t from = 0;
    while (from < f->n_live) {
        int i = rpc_stream_wait_any(f->streams + from, f->n_live - from, 0);
        if (i < 0)
            return true;
        size_t at = from + (size_t)i;
        for (from = at + 1; from < f->n_live && f->live[from]->part == f->live[at]->part; from++)
            ; /* attempts of one part stand side by side */
        if (!step_attempt(f, f->live[at], err))
            return false;
    }
    return true;
}

/* After what is there has been read: who is silent then has said nothing, however long nobody listened. */
static bool hedge_open(struct fetch *f, struct err *err)
{
    int64_t now_ms = clock_mono_ms();
    for (size_t i = 0; i < f->n_parts; i++) {
        struct part *p = &f->parts[i];
        if (!p->answered && p->running && !hedge_if_due(f, p, now_ms, err))
            return false;
    }
    return true;
}

static void count_call(struct fetch *f, bool ok)
{
    if (f->counted)
        return;
    f->counted = true;
    const char *method = strrchr(f->ops->method, '/') + 1;
    char name[64];
    snprintf(name, sizeof(name), "Distributor.%s", method);
    metric_observe(METRIC_WITH(ingesters_metrics[INGESTERS_M_QUERY_SECONDS], slice_of(name), ok ? SL("200") : SL("500")),
                   (double)(clock_mono_ns() - f->began_ns) / 1e9);
}

static bool finish(struct fetch *f, struct err *err)
{
    for (;;) {
        int64_t wake_ms;
        if (!list_open(f, &wake_ms, err))
            return false;
        if (f->n_live == 0)
            return true;
        rpc_stream_wait_any(f->streams, f->n_live, until_ms(wake_ms));
        if (!step_all(f, err) || !hedge_open(f, err))
            return false;
    }
}

/* Every part that is left has an answer then. None has others running. */
static void drop_left_out(struct fetch *f)
{
    size_t n = 0;
    for (size_t i = 0; i < f->n_parts; i++) {
        if (f->parts[i].left_out)
            continue;
        f->parts[n] = f->parts[i];
        f->parts[n].answered->part = &f->parts[n];
        n++;
    }
    f->n_parts = n;
}

bool ingesters_fetch_finish(struct fetch *f, struct ctx *ctx, struct err *err)
{
    f->ctx = ctx;
    bool ok = ctx_check(ctx, err) && finish(f, err);
    if (ok)
        drop_left_out(f);
    count_call(f, ok);
    return ok;
}

/* --- after the answer: a stream that goes on -------------------------------------------------------------------------------------------- */

enum fetch_next ingesters_fetch_replace(struct fetch *f, struct part *p, const struct err *why, struct attempt **ret_old, struct err *err)
{
    struct attempt *old = p->answered;
    *ret_old = NULL;
    attempt_count(f, old, RPC_UNKNOWN);
    if (!attempt_failed(f, old, why, err))
        return FETCH_NEXT_FAILED;
    p->dispensable = false; /* half of it may have been given */
    p->answered = NULL;
    if (finish(f, err)) {
        *ret_old = old;
        return FETCH_NEXT_OTHER;
    }
    p->answered = old; /* it goes with the rest */
    return FETCH_NEXT_FAILED;
}

static enum fetch_next next_of_answered(struct fetch *f, struct part *p, struct buf *ret_msg, struct attempt **ret_old, struct err *err)
{
    struct attempt *a = p->answered;
    struct rpc_status st = RPC_STATUS_NONE;
    struct err why = ERR_NONE;
    if (rpc_stream_next(a->stream, ret_msg, &st) == RPC_NEXT_MESSAGE) {
        free_running(f, p);
        return FETCH_NEXT_MESSAGE;
    }
    attempt_count(f, a, st.code);
    bool ok = st.code == RPC_OK;
    if (!ok)
        err_of_status(&st, &why);
    rpc_status_release(&st);
    if (!ok)
        return ingesters_fetch_replace(f, p, &why, ret_old, err);
    free_running(f, p);
    return FETCH_NEXT_END;
}

enum fetch_next fetch_next(struct fetch *f, struct part *p, struct buf *ret_msg, struct attempt **ret_old, struct err *err)
{
    *ret_old = NULL;
    *ret_msg = (struct buf){0};
    p->heard_ms = clock_mono_ms(); /* what it said before is of no account: nobody listened */
    for (;;) {
        f->n_live = 0;
        add_live(f, p->answered);
        list_running(f, p);
        int i = rpc_stream_wait_any(f->streams, f->n_live, until_ms(hedge_at_ms(f, p)));
        if (i == 0)
            return next_of_answered(f, p, ret_msg, ret_old, err);
        struct attempt *before = p->answered;
        bool ok = i > 0 ? step_attempt(f, f->live[i], err) : hedge_if_due(f, p, clock_mono_ms(), err);
        if (!ok)
            return FETCH_NEXT_FAILED;
        if (p->answered != before) {
            attempt_forgive(before); /* slow, not broken */
            *ret_old = before;
            return FETCH_NEXT_OTHER;
        }
    }
}

/* --- life ------------------------------------------------------------------------------------------------------------------------------- */

/* The preference as a duration in the arena. False: it is used up. */
static bool make_preference(struct fetch *f, struct ctx *ctx)
{
    char text[32];
    int64_t ms = f->q->cfg->prefer_owners_within;
    if (ms <= 0)
        return true;
    snprintf(text, sizeof(text), "%lldms", (long long)ms);
    f->prefer = arena_dup(ctx->arena, slice_of(text));
    return f->prefer.p;
}

/* Who asks, and what the query carries along; room for what only some requests say (attempt.c). */
static bool make_metadata(struct fetch *f, struct ctx *ctx)
{
    f->metadata = ARENA_ARRAY(ctx->arena, struct rpc_kv, ctx->n_tags + 4);
    if (!f->metadata || !make_preference(f, ctx))
        return false;
    f->metadata[f->n_metadata++] = (struct rpc_kv){SL("x-scope-orgid"), ctx->tenant};
    /* Mimir's ingesters answer in full only when they know that nobody else is asked. */
    f->metadata[f->n_metadata++] = (struct rpc_kv){SL("__only_replica__"), SL("true")};
    f->offsets = ctx_tag_find(ctx, SL(READ_OFFSETS_TAG));
    for (size_t i = 0; i < ctx->n_tags; i++)
        if (!slice_eq(ctx->tags[i].name, SL(READ_OFFSETS_TAG)))
            f->metadata[f->n_metadata++] = (struct rpc_kv){ctx->tags[i].name, ctx->tags[i].value};
    return true;
}

static bool make_room(struct fetch *f, struct ctx *ctx)
{
    size_t n = f->n_parts;
    for (size_t i = 0; i < f->n_parts; i++)
        n += f->parts[i].n_owners;
    f->live = ARENA_ARRAY(ctx->arena, struct attempt *, n + 1);
    f->streams = ARENA_ARRAY(ctx->arena, struct rpc_stream *, n + 1);
    return f->live && f->streams;
}

bool ingesters_fetch_init(struct fetch *f, struct ingesters *q, struct ctx *ctx, const struct fetch_ops *ops, const struct select_params *p, struct err *err)
{
    *f = (struct fetch){.q = q, .ops = ops, .ctx = ctx, .began_ns = clock_mono_ns()};
    if (p)
        f->params = *p;
    f->rpc_ctx = (struct ctx){.tenant = ctx->tenant, .deadline_ms = ctx->deadline_ms, .canceled = ctx->canceled};
    arena_init(&f->scratch, ctx->arena->budget_bytes);
    f->view = partition_watcher_current(q->partitions);
    f->instances = ring_current(q->instances);
    peers_sweep(&q->peers, f->instances);
    bool ok = plan_parts(q, ctx, f->view, f->instances, &f->parts, &f->n_parts, err) &&
              ((make_metadata(f, ctx) && make_room(f, ctx)) || query_over_memory(ctx, err));
    if (!ok)
        count_call(f, false);
    return ok;
}

void ingesters_fetch_start(struct fetch *f)
{
    for (size_t i = 0; i < f->n_parts; i++) {
        struct part *p = &f->parts[i];
        if (!p->owners[0].local)
            attempt_send(f, attempt_new(p, &p->owners[0]));
    }
}

void ingesters_fetch_release(struct fetch *f)
{
    for (size_t i = 0; i < f->n_parts; i++) {
        free_running(f, &f->parts[i]);
        attempt_free(f, f->parts[i].answered);
    }
    while (f->dead) {
        struct attempt *a = f->dead;
        f->dead = a->next;
        attempt_free(f, a);
    }
    buf_release(&f->request);
    arena_release(&f->scratch);
    partition_view_free(f->view);
    ring_snapshot_free(f->instances);
}
