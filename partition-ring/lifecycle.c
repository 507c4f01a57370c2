/* The transitions of a partition. See lifecycle.h. */
#include "partition-ring/lifecycle.h"

#include <string.h>

#include "base/assert.h"
#include "partition-ring/partition_ring.h"

/* The first whole second that is not before the time: t_s * 1000 < ms is t_s < this. */
static int64_t second_at_or_after(int64_t ms)
{
    return ms / 1000 + (ms % 1000 > 0);
}

/* Later than the change before it, if by a second of the future: of two states of one second a merge keeps the greater one, not the later one. */
static void set_state(struct partition *p, enum partition_state to, int64_t now_ms)
{
    p->state = (int32_t)to;
    p->state_s = MAX(now_ms / 1000, p->state_s + 1);
}

bool partition_create(struct partition_desc *d, int32_t id, int64_t now_ms)
{
    ASSERT(id >= 0 && id < PARTITIONS_MAX);
    if (partition_desc_find(d, id))
        return false;
    uint32_t tokens[PARTITION_TOKENS];
    partition_tokens(id, tokens);
    struct partition *p = partition_desc_add(d, id);
    partition_set_tokens(p, tokens, PARTITION_TOKENS);
    set_state(p, PARTITION_PENDING, now_ms);
    return true;
}

bool partition_activate(struct partition_desc *d, int32_t id, const struct partition_rules *rules, int64_t now_ms)
{
    struct partition *p = partition_desc_find(d, id);
    if (!p || p->state != PARTITION_PENDING || p->locked)
        return false;
    if (partition_desc_count_owners(d, id, second_at_or_after(now_ms - rules->min_owners_ms)) < rules->min_owners)
        return false;
    set_state(p, PARTITION_ACTIVE, now_ms);
    return true;
}

static bool may_change(int32_t from, enum partition_state to)
{
    return (from == PARTITION_PENDING && (to == PARTITION_ACTIVE || to == PARTITION_INACTIVE)) ||
           (from == PARTITION_ACTIVE && to == PARTITION_INACTIVE) || (from == PARTITION_INACTIVE && to == PARTITION_ACTIVE);
}

static const char *bare_name(int32_t state)
{
    return partition_state_name(state) + strlen("Partition");
}

bool partition_change_state(struct partition_desc *d, int32_t id, enum partition_state to, int64_t now_ms, bool *ret_changed,
                            struct err *err)
{
    struct partition *p = partition_desc_find(d, id);
    if (!p)
        return err_set(err, ERR_NOT_FOUND, PARTITION_NOT_THERE);
    *ret_changed = p->state != (int32_t)to;
    if (!*ret_changed)
        return true;
    if (!may_change(p->state, to))
        return err_set(err, ERR_CONFLICT, "change partition state from %s to %s: partition state change not allowed", bare_name(p->state),
                       bare_name((int32_t)to));
    if (p->locked)
        return err_set(err, ERR_CONFLICT, PARTITION_STATE_LOCKED);
    set_state(p, to, now_ms);
    return true;
}

size_t partition_delete_abandoned(struct partition_desc *d, int32_t own, const struct partition_rules *rules, int64_t now_ms)
{
    if (rules->delete_inactive_ms <= 0)
        return 0;
    int64_t before_s = second_at_or_after(now_ms - rules->delete_inactive_ms);
    size_t n = 0;
    for (size_t i = d->n_partitions; i-- > 0;) {
        struct partition *p = &d->partitions[i];
        if (p->id == own || p->state != PARTITION_INACTIVE || p->state_s >= before_s ||
            partition_desc_count_owners(d, p->id, INT64_MAX) > 0)
            continue;
        partition_desc_remove(d, p);
        n++;
    }
    return n;
}

bool partition_set_lock(struct partition_desc *d, int32_t id, bool locked, int64_t now_ms)
{
    struct partition *p = partition_desc_find(d, id);
    if (!p || p->locked == locked)
        return false;
    p->locked = locked;
    p->locked_s = now_ms / 1000;
    return true;
}

bool partition_own(struct partition_desc *d, struct slice owner, int32_t id, int64_t now_ms)
{
    struct partition_owner *o = partition_desc_add_owner(d, owner);
    if (o->state == PARTITION_OWNER_ACTIVE && o->partition == id)
        return false;
    o->state = PARTITION_OWNER_ACTIVE;
    o->partition = id;
    o->updated_s = now_ms / 1000;
    return true;
}

bool partition_disown(struct partition_desc *d, struct slice owner)
{
    struct partition_owner *o = partition_desc_find_owner(d, owner);
    if (o)
        partition_desc_remove_owner(d, o);
    return o != NULL;
}
