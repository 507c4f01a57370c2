/*
 * Merging partitions rings (docs/formats.md 4.3).
 *
 * A partition is three registers: its tokens, which never change; its state, which the newest time wins (at the same second Deleted wins); its lock,
 * which has a time of its own. An owner is one register like an instance of the instance ring.
 */
#include <stdlib.h>

#include "base/assert.h"
#include "partition-ring/partition_desc.h"
#include "ring/codec.h"

static void copy_partition(struct partition_desc *to, const struct partition *from)
{
    struct partition *p = partition_desc_add(to, from->id);
    uint32_t *old = p->tokens;
    *p = *from;
    p->tokens = old;
    partition_set_tokens(p, from->tokens, from->n_tokens);
}

static void copy_owner(struct partition_desc *to, const struct partition_owner *from)
{
    struct partition_owner *o = partition_desc_add_owner(to, slice_of(from->id));
    o->partition = from->partition;
    o->state = from->state;
    o->updated_s = from->updated_s;
}

static bool merge_state(struct partition *mine, const struct partition *in)
{
    bool newer = in->state_s > mine->state_s;
    bool buried = in->state_s == mine->state_s && in->state == PARTITION_DELETED && mine->state != PARTITION_DELETED;
    if (!newer && !buried)
        return false;
    mine->state = in->state;
    mine->state_s = in->state_s;
    return true;
}

static bool merge_lock(struct partition *mine, const struct partition *in)
{
    if (in->locked_s <= mine->locked_s)
        return false;
    mine->locked = in->locked;
    mine->locked_s = in->locked_s;
    return true;
}

static void merge_partitions(struct partition_desc *local, const struct partition_desc *incoming, struct partition_desc *change)
{
    for (size_t i = 0; i < incoming->n_partitions; i++) {
        const struct partition *in = &incoming->partitions[i];
        struct partition *mine = partition_desc_find(local, in->id);
        bool changed = !mine;
        if (!mine) {
            copy_partition(local, in);
            mine = partition_desc_find(local, in->id);
        } else {
            changed |= merge_state(mine, in);
            changed |= merge_lock(mine, in);
        }
        if (changed)
            copy_partition(change, mine);
    }
}

static void merge_owners(struct partition_desc *local, const struct partition_desc *incoming, struct partition_desc *change)
{
    for (size_t i = 0; i < incoming->n_owners; i++) {
        const struct partition_owner *in = &incoming->owners[i];
        const struct partition_owner *mine = partition_desc_find_owner(local, slice_of(in->id));
        int64_t mine_s = mine ? mine->updated_s : 0;
        bool deleted = mine && mine->state == PARTITION_OWNER_DELETED;
        if (in->updated_s > mine_s || (in->updated_s == mine_s && in->state == PARTITION_OWNER_DELETED && !deleted)) {
            copy_owner(local, in);
            copy_owner(change, in);
        }
    }
}

/* What the wanted state lacks was removed on purpose. */
static void bury_missing(struct partition_desc *local, const struct partition_desc *wanted, int64_t now_s, struct partition_desc *change)
{
    for (size_t i = 0; i < local->n_partitions; i++) {
        struct partition *mine = &local->partitions[i];
        if (mine->state == PARTITION_DELETED || partition_desc_find(wanted, mine->id))
            continue;
        mine->state = PARTITION_DELETED;
        mine->state_s = now_s;
        copy_partition(change, mine);
    }
    for (size_t i = 0; i < local->n_owners; i++) {
        struct partition_owner *mine = &local->owners[i];
        if (mine->state == PARTITION_OWNER_DELETED || partition_desc_find_owner(wanted, slice_of(mine->id)))
            continue;
        mine->state = PARTITION_OWNER_DELETED;
        mine->updated_s = now_s;
        copy_owner(change, mine);
    }
}

static bool is_empty(const struct partition_desc *d)
{
    return d->n_partitions == 0 && d->n_owners == 0;
}

struct partition_desc *partition_desc_merge(struct partition_desc *local, const struct partition_desc *incoming, bool local_cas,
                                            int64_t now_s)
{
    struct partition_desc *change = partition_desc_new();
    merge_partitions(local, incoming, change);
    merge_owners(local, incoming, change);
    if (local_cas)
        bury_missing(local, incoming, now_s, change);
    if (!is_empty(change))
        return change;
    partition_desc_free(change);
    return NULL;
}

void partition_desc_remove_tombstones(struct partition_desc *d, int64_t limit_s, size_t *ret_removed, size_t *ret_left)
{
    size_t removed = 0, left = 0;
    for (size_t i = d->n_partitions; i-- > 0;) {
        struct partition *p = &d->partitions[i];
        if (p->state != PARTITION_DELETED)
            continue;
        bool keep = limit_s != INT64_MAX && p->state_s >= limit_s;
        left += keep;
        removed += !keep;
        if (!keep)
            partition_desc_remove(d, p);
    }
    for (size_t i = d->n_owners; i-- > 0;) {
        struct partition_owner *o = &d->owners[i];
        if (o->state != PARTITION_OWNER_DELETED)
            continue;
        bool keep = limit_s != INT64_MAX && o->updated_s >= limit_s;
        left += keep;
        removed += !keep;
        if (!keep)
            partition_desc_remove_owner(d, o);
    }
    if (ret_removed)
        *ret_removed = removed;
    if (ret_left)
        *ret_left = left;
}

static void codec_content(const void *value, kv_name_fn *fn, void *arg)
{
    const struct partition_desc *d = value;
    for (size_t i = 0; i < d->n_partitions; i++) {
        struct buf name = {0};
        buf_put_i64(&name, d->partitions[i].id);
        fn(arg, buf_slice(&name));
        buf_release(&name);
    }
    for (size_t i = 0; i < d->n_owners; i++)
        fn(arg, slice_of(d->owners[i].id));
}

static bool codec_is_empty(const void *value)
{
    return is_empty(value);
}

KV_CODEC_FUNCTIONS(struct partition_desc, partition_desc)

const struct kv_codec partition_desc_codec = KV_CODEC("partitionRingDesc", codec_content, codec_is_empty);
