/* Strong reads: the offsets that every ingester of the query will wait for. */
#include "read/ingesters/ingesters_int.h"

/* "v1=0:41,1:-1" in the arena; p == NULL: it is used up. */
static struct slice offsets_text(const struct partition_offset *offsets, size_t n, struct arena *arena)
{
    struct buf text;
    buf_init(&text, 0);
    read_offsets_put(offsets, n, &text);
    struct slice s = text.failed ? (struct slice){0} : arena_dup(arena, buf_slice(&text));
    buf_release(&text);
    return s;
}

/* Of the partitions that readers read; none are no error: then there is nobody to wait either. */
static bool ask_offsets(struct ingesters_consistency *c, struct ctx *ctx, const struct partition_view *view, struct err *err)
{
    size_t n;
    const int32_t *ids = partition_view_readers(view, &n);
    if (n == 0)
        return true;
    struct partition_offset *offsets = ARENA_ARRAY(ctx->arena, struct partition_offset, n);
    if (!offsets)
        return query_over_memory(ctx, err);
    for (size_t i = 0; i < n; i++)
        offsets[i] = (struct partition_offset){.partition = ids[i]};
    if (!last_produced_wait(c->last_produced, ctx, offsets, n, err))
        return err_prefix(err, "wait for read consistency: last produced offsets: ");
    struct slice text = offsets_text(offsets, n, ctx->arena);
    return (text.p && ctx_tag_add(ctx, SL(READ_OFFSETS_TAG), text)) || query_over_memory(ctx, err);
}

bool ingesters_consistency(void *arg, struct ctx *ctx, struct err *err)
{
    struct ingesters_consistency *c = arg;
    enum read_consistency level;
    if (!read_consistency_parse(ctx_tag_find(ctx, SL(READ_LEVEL_TAG)), &level) || level != READ_STRONG || ctx_tag_find(ctx, SL(READ_OFFSETS_TAG)).p)
        return true;
    struct partition_view *view = partition_watcher_current(c->partitions);
    bool ok = ask_offsets(c, ctx, view, err);
    partition_view_free(view);
    return ok;
}
