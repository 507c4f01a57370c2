/*
 * Whether a read may go on. A strong one waits until what was produced before it is consumed: up to the offset that
 * came with it, or else up to the log's last one, asked for after the read began. An eventual one may say how far
 * behind it lets the ingester be, and from where on it would rather ask another owner of the partition.
 */
#include "base/clock.h"
#include "ingest/service/service_int.h"
#include "log/read_consistency.h"

/* The caller's ctx with a deadline that is ours when it comes first. */
static struct ctx waiting_ctx(const struct ingest_service *s, const struct ctx *ctx)
{
    struct ctx own = *ctx;
    int64_t timeout_ms = s->cfg.wait_strong_read_consistency_timeout;
    if (timeout_ms > 0) {
        int64_t at_ms = clock_mono_ms() + timeout_ms;
        own.deadline_ms = ctx->deadline_ms ? MIN(ctx->deadline_ms, at_ms) : at_ms;
    }
    return own;
}

static bool wait_for_offset(struct ingest_service *s, const struct read_wish *wish, struct ctx *ctx, struct err *err)
{
    struct partition_offset at = {s->partition, wish->offset};
    if (!wish->has_offset) {
        if (!s->last_produced)
            return err_set(err, ERR_UNAVAILABLE, "the last produced offset cannot be found out here");
        if (!last_produced_wait(s->last_produced, ctx, &at, 1, err))
            return false;
    }
    return at.offset < 0 || ingester_wait(s->ing, at.offset + 1, ctx, err);
}

static bool wait_strong(struct ingest_service *s, const struct read_wish *wish, struct ctx *ctx, struct err *err)
{
    int64_t begin_ns = clock_mono_ns();
    struct ctx own = waiting_ctx(s, ctx);
    metric_inc(wish->has_offset ? s->strong_with_offset : s->strong_without_offset);
    bool ok = wait_for_offset(s, wish, &own, err);
    if (!ok) {
        metric_inc(s->strong_failures);
        if (err && err->code == ERR_TIMEOUT && ctx_check(ctx, NULL))
            err_prefix(err, "wait strong read consistency timeout exceeded: ");
        err_prefix(err, "wait for read consistency: ");
    }
    metric_observe(s->strong_seconds, (double)(clock_mono_ns() - begin_ns) / 1e9);
    return ok;
}

bool service_admit(struct ingest_service *s, struct ctx *ctx, struct err *err)
{
    if (!ingester_serving(s->ing, err))
        return false;
    struct read_wish wish = read_wish_of(ctx, s->partition);
    if (wish.level == READ_STRONG)
        return wait_strong(s, &wish, ctx, err);
    if (wish.prefer_delay_ms > 0) {
        int64_t behind_ms = ingester_delay_ms(s->ing);
        if (behind_ms > wish.prefer_delay_ms)
            return read_lag_err(behind_ms, err);
    }
    /* Nobody else is to be asked. */
    if (!ingester_awake(s->ing, ctx, err))
        return false;
    int64_t delay_ms = wish.max_delay_ms > 0 ? ingester_delay_ms(s->ing) : 0;
    if (delay_ms <= wish.max_delay_ms || wish.max_delay_ms <= 0)
        return true;
    metric_inc(metric_single(ingest_service_metrics[SERVICE_DELAY_REFUSED]));
    return err_set(
        err, ERR_UNAVAILABLE,
        "wait for read consistency: the ingester is %lld ms behind, more than the %lld ms that the read allows",
        (long long)delay_ms, (long long)wish.max_delay_ms);
}
