/* The document as JSON, as Go's encoder writes dskit's message: what is empty is left out. */
#include <stdio.h>

#include "partition-ring/partition_desc.h"

static void put_int(struct json *j, const char *key, int64_t value)
{
    if (!value)
        return;
    json_key(j, slice_of(key));
    json_i64(j, value);
}

static void put_partition(struct json *j, const struct partition *p)
{
    json_obj(j);
    put_int(j, "id", p->id);
    if (p->n_tokens) {
        json_key(j, SL("tokens"));
        json_arr(j);
        for (size_t i = 0; i < p->n_tokens; i++)
            json_u64(j, p->tokens[i]);
        json_arr_end(j);
    }
    put_int(j, "state", p->state);
    put_int(j, "stateTimestamp", p->state_s);
    if (p->locked) {
        json_key(j, SL("stateChangeLocked"));
        json_bool(j, true);
    }
    put_int(j, "stateChangeLockedTimestamp", p->locked_s);
    json_obj_end(j);
}

void partition_desc_json(const void *value, struct json *j)
{
    const struct partition_desc *d = value;
    char id[16];
    json_obj(j);
    json_key(j, SL("partitions"));
    json_obj(j);
    for (size_t i = 0; i < d->n_partitions; i++) {
        snprintf(id, sizeof(id), "%d", d->partitions[i].id);
        json_key(j, slice_of(id));
        put_partition(j, &d->partitions[i]);
    }
    json_obj_end(j);
    json_key(j, SL("owners"));
    json_obj(j);
    for (size_t i = 0; i < d->n_owners; i++) {
        json_key(j, slice_of(d->owners[i].id));
        json_obj(j);
        put_int(j, "ownedPartition", d->owners[i].partition);
        put_int(j, "state", d->owners[i].state);
        put_int(j, "updatedTimestamp", d->owners[i].updated_s);
        json_obj_end(j);
    }
    json_obj_end(j);
    json_obj_end(j);
}
