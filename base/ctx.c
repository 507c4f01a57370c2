#include "base/ctx.h"

#include "base/clock.h"

bool ctx_check(const struct ctx *ctx, struct err *err)
{
    if (ctx->canceled && atomic_load_explicit(ctx->canceled, memory_order_relaxed))
        return err_set(err, ERR_CANCELED, "context canceled");
    if (ctx->deadline_ms && clock_mono_ms() >= ctx->deadline_ms)
        return err_set(err, ERR_TIMEOUT, "context deadline exceeded");
    return true;
}

struct slice ctx_tag_find(const struct ctx *ctx, struct slice name)
{
    for (size_t i = 0; i < ctx->n_tags; i++)
        if (slice_eq(ctx->tags[i].name, name))
            return ctx->tags[i].value;
    return (struct slice){0};
}
