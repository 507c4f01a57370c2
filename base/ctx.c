#include "base/ctx.h"

#include <string.h>

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

bool ctx_tag_add(struct ctx *ctx, struct slice name, struct slice value)
{
    struct ctx_tag *tags = ARENA_ARRAY(ctx->arena, struct ctx_tag, ctx->n_tags + 1);
    if (!tags)
        return false;
    if (ctx->n_tags)
        memcpy(tags, ctx->tags, ctx->n_tags * sizeof(*tags));
    tags[ctx->n_tags++] = (struct ctx_tag){name, value};
    ctx->tags = tags;
    return true;
}
