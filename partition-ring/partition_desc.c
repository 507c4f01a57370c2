/* The partitions ring's document in memory. */
#include "partition-ring/partition_desc.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

const char *partition_state_name(int32_t state)
{
    static const char *const names[PARTITION_STATES] = {"PartitionUnknown", "PartitionPending", "PartitionActive",
                                                        "PartitionInactive", "PartitionDeleted"};
    return names[state >= 0 && state < PARTITION_STATES ? state : PARTITION_UNKNOWN];
}

struct partition_desc *partition_desc_new(void)
{
    struct partition_desc *d = calloc(1, sizeof(*d));
    ASSERT(d);
    return d;
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

void partition_set_tokens(struct partition *p, const uint32_t *tokens, size_t n)
{
    uint32_t *fresh = NULL;
    size_t kept = 0;
    if (n) {
        fresh = malloc(n * sizeof(*fresh));
        ASSERT(fresh);
        memcpy(fresh, tokens, n * sizeof(*fresh));
        qsort(fresh, n, sizeof(*fresh), compare_u32);
        for (size_t i = 0; i < n; i++)
            if (kept == 0 || fresh[i] != fresh[kept - 1])
                fresh[kept++] = fresh[i];
    }
    free(p->tokens);
    p->tokens = fresh;
    p->n_tokens = kept;
}

struct partition_desc *partition_desc_clone(const struct partition_desc *d)
{
    struct partition_desc *c = partition_desc_new();
    for (size_t i = 0; i < d->n_partitions; i++) {
        const struct partition *from = &d->partitions[i];
        struct partition *to = partition_desc_add(c, from->id);
        *to = *from;
        to->tokens = NULL;
        partition_set_tokens(to, from->tokens, from->n_tokens);
    }
    for (size_t i = 0; i < d->n_owners; i++) {
        const struct partition_owner *from = &d->owners[i];
        struct partition_owner *to = partition_desc_add_owner(c, slice_of(from->id));
        to->partition = from->partition;
        to->state = from->state;
        to->updated_s = from->updated_s;
    }
    return c;
}

void partition_desc_free(struct partition_desc *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < d->n_partitions; i++)
        free(d->partitions[i].tokens);
    for (size_t i = 0; i < d->n_owners; i++)
        free(d->owners[i].id);
    free(d->partitions);
    free(d->owners);
    free(d);
}

static bool partition_eq(const struct partition *a, const struct partition *b)
{
    return a->id == b->id && a->state == b->state && a->state_s == b->state_s && a->locked == b->locked &&
           a->locked_s == b->locked_s && a->n_tokens == b->n_tokens &&
           (!a->n_tokens || memcmp(a->tokens, b->tokens, a->n_tokens * sizeof(*a->tokens)) == 0);
}

static bool owner_eq(const struct partition_owner *a, const struct partition_owner *b)
{
    return strcmp(a->id, b->id) == 0 && a->partition == b->partition && a->state == b->state && a->updated_s == b->updated_s;
}

bool partition_desc_eq(const struct partition_desc *a, const struct partition_desc *b)
{
    if (a->n_partitions != b->n_partitions || a->n_owners != b->n_owners)
        return false;
    for (size_t i = 0; i < a->n_partitions; i++)
        if (!partition_eq(&a->partitions[i], &b->partitions[i]))
            return false;
    for (size_t i = 0; i < a->n_owners; i++)
        if (!owner_eq(&a->owners[i], &b->owners[i]))
            return false;
    return true;
}

/* Where the id is or would be. */
static size_t position(const struct partition_desc *d, int32_t id)
{
    size_t low = 0, high = d->n_partitions;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (d->partitions[mid].id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static size_t owner_position(const struct partition_desc *d, struct slice id)
{
    size_t low = 0, high = d->n_owners;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (slice_cmp(slice_of(d->owners[mid].id), id) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

struct partition *partition_desc_find(const struct partition_desc *d, int32_t id)
{
    size_t i = position(d, id);
    return i < d->n_partitions && d->partitions[i].id == id ? &d->partitions[i] : NULL;
}

struct partition_owner *partition_desc_find_owner(const struct partition_desc *d, struct slice id)
{
    size_t i = owner_position(d, id);
    return i < d->n_owners && slice_eq(slice_of(d->owners[i].id), id) ? &d->owners[i] : NULL;
}

static void *with_room(void *array, size_t n, size_t *cap, size_t size)
{
    if (n < *cap)
        return array;
    *cap = *cap * 2 + 4;
    array = realloc(array, *cap * size);
    ASSERT(array);
    return array;
}

struct partition *partition_desc_add(struct partition_desc *d, int32_t id)
{
    size_t i = position(d, id);
    if (i < d->n_partitions && d->partitions[i].id == id)
        return &d->partitions[i];
    d->partitions = with_room(d->partitions, d->n_partitions, &d->cap_partitions, sizeof(*d->partitions));
    memmove(&d->partitions[i + 1], &d->partitions[i], (d->n_partitions - i) * sizeof(*d->partitions));
    d->n_partitions++;
    d->partitions[i] = (struct partition){.id = id};
    return &d->partitions[i];
}

struct partition_owner *partition_desc_add_owner(struct partition_desc *d, struct slice id)
{
    size_t i = owner_position(d, id);
    if (i < d->n_owners && slice_eq(slice_of(d->owners[i].id), id))
        return &d->owners[i];
    d->owners = with_room(d->owners, d->n_owners, &d->cap_owners, sizeof(*d->owners));
    memmove(&d->owners[i + 1], &d->owners[i], (d->n_owners - i) * sizeof(*d->owners));
    d->n_owners++;
    d->owners[i] = (struct partition_owner){.id = slice_strdup(id)};
    return &d->owners[i];
}

void partition_desc_remove(struct partition_desc *d, struct partition *p)
{
    size_t i = (size_t)(p - d->partitions);
    ASSERT(i < d->n_partitions);
    free(p->tokens);
    d->n_partitions--;
    memmove(p, p + 1, (d->n_partitions - i) * sizeof(*p));
}

void partition_desc_remove_owner(struct partition_desc *d, struct partition_owner *o)
{
    size_t i = (size_t)(o - d->owners);
    ASSERT(i < d->n_owners);
    free(o->id);
    d->n_owners--;
    memmove(o, o + 1, (d->n_owners - i) * sizeof(*o));
}

size_t partition_desc_count_owners(const struct partition_desc *d, int32_t partition, int64_t before_s)
{
    size_t n = 0;
    for (size_t i = 0; i < d->n_owners; i++) {
        const struct partition_owner *o = &d->owners[i];
        n += o->partition == partition && o->state == PARTITION_OWNER_ACTIVE &&
             (before_s == INT64_MAX || o->updated_s < before_s);
    }
    return n;
}
