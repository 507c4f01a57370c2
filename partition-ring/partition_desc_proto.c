/*
 * PartitionRingDesc as bytes (docs/formats.md 4.3).
 *
 *     PartitionRingDesc  1 map<int32, PartitionDesc>  2 map<string, OwnerDesc>: each entry a message {1 key, 2 value}
 *     PartitionDesc      1 tokens (packed)  2 state  3 stateTimestamp  4 id  5 stateChangeLocked  6 stateChangeLockedTimestamp
 *     OwnerDesc          1 ownedPartition  2 state  3 updatedTimestamp
 *
 * Of equal keys the last counts. The key of a partition is its id; the field 4 says the same and is not looked at. Ids outside of 0 .. PARTITIONS_MAX-1
 * are damage: no partition has them, and tables here are indexed by id.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "partition-ring/partition_desc.h"
#include "partition-ring/partition_ring.h"
#include "ring/doc_proto.h"

static bool read_u64(struct proto *r, uint32_t wire, const char *field, uint64_t *to)
{
    return proto_varint_field(r, wire, field, to);
}

/* {1 key, 2 value} with a key of text or number. */
struct map_entry {
    struct slice text;
    uint64_t number;
    struct slice value;
};

static bool read_entry(struct proto *outer, uint32_t wire, bool number_key, struct map_entry *ret)
{
    struct slice bytes;
    if (!proto_bytes_field(outer, wire, "entry", &bytes))
        return false;
    *ret = (struct map_entry){.value = SL(""), .text = SL("")};
    struct proto r = proto_of(bytes, outer->message, outer->err);
    while (proto_more(&r)) {
        uint32_t field, w;
        if (!proto_tag(&r, &field, &w))
            return false;
        bool ok;
        if (field == 1)
            ok = number_key ? read_u64(&r, w, "key", &ret->number) : proto_bytes_field(&r, w, "key", &ret->text);
        else
            ok = field == 2 ? proto_bytes_field(&r, w, "value", &ret->value) : proto_skip(&r, w);
        if (!ok)
            return false;
    }
    return true;
}

static bool read_partition_field(struct proto *r, uint32_t field, uint32_t wire, struct partition *p, uint32_t **tokens, size_t *n)
{
    uint64_t v = 0;
    if (field == 1)
        return ring_read_tokens(r, wire, tokens, n);
    if (field > 6)
        return proto_skip(r, wire);
    if (!read_u64(r, wire, "PartitionDesc", &v))
        return false;
    switch (field) {
    case 2:
        p->state = (int32_t)v;
        break;
    case 3:
        p->state_s = (int64_t)v;
        break;
    case 5:
        p->locked = v != 0;
        break;
    case 6:
        p->locked_s = (int64_t)v;
        break;
    default:
        break;
    }
    return true;
}

static bool read_partition(struct slice message, struct err *err, struct partition *p)
{
    struct proto r = proto_of(message, "PartitionDesc", err);
    uint32_t *tokens = NULL;
    size_t n = 0;
    bool ok = true;
    while (ok && proto_more(&r)) {
        uint32_t field, wire;
        ok = proto_tag(&r, &field, &wire) && read_partition_field(&r, field, wire, p, &tokens, &n);
    }
    partition_set_tokens(p, tokens, n);
    free(tokens);
    return ok;
}

static bool read_owner(struct slice message, struct err *err, struct partition_owner *o)
{
    struct proto r = proto_of(message, "OwnerDesc", err);
    while (proto_more(&r)) {
        uint32_t field, wire;
        uint64_t v = 0;
        if (!proto_tag(&r, &field, &wire))
            return false;
        if (!(field <= 3 ? read_u64(&r, wire, "OwnerDesc", &v) : proto_skip(&r, wire)))
            return false;
        if (field == 1)
            o->partition = (int32_t)v;
        else if (field == 2)
            o->state = (int32_t)v;
        else if (field == 3)
            o->updated_s = (int64_t)v;
    }
    return true;
}

static bool take_partition(struct partition_desc *d, const struct map_entry *e, struct err *err)
{
    if (e->number >= PARTITIONS_MAX)
        return err_set(err, ERR_CORRUPT, "PartitionRingDesc: a partition id is not between 0 and %d", PARTITIONS_MAX - 1);
    struct partition *p = partition_desc_add(d, (int32_t)e->number);
    partition_set_tokens(p, NULL, 0);
    *p = (struct partition){.id = p->id};
    return read_partition(e->value, err, p);
}

/*
 * Owners arrive in any order and there may be many: an insertion each would be quadratic in a hostile document. The limit keeps
 * that at 65536 moves of 1 MB at worst, some seconds; an honest one of 1000 costs a millisecond.
 */
static bool take_owner(struct partition_desc *d, const struct map_entry *e, struct err *err)
{
    if (e->text.n && memchr(e->text.p, 0, e->text.n))
        return err_set(err, ERR_CORRUPT, "PartitionRingDesc: an owner's id holds a NUL byte");
    if (d->n_owners >= PARTITION_OWNERS_MAX)
        return err_set(err, ERR_CORRUPT, "PartitionRingDesc: more than %d owners", PARTITION_OWNERS_MAX);
    struct partition_owner *o = partition_desc_add_owner(d, e->text);
    o->partition = 0;
    o->state = 0;
    o->updated_s = 0;
    return read_owner(e->value, err, o);
}

static bool read_desc(struct slice message, struct err *err, struct partition_desc *d)
{
    struct proto r = proto_of(message, "PartitionRingDesc", err);
    while (proto_more(&r)) {
        uint32_t field, wire;
        struct map_entry e;
        if (!proto_tag(&r, &field, &wire))
            return false;
        bool ok;
        if (field == 1)
            ok = read_entry(&r, wire, true, &e) && take_partition(d, &e, err);
        else if (field == 2)
            ok = read_entry(&r, wire, false, &e) && take_owner(d, &e, err);
        else
            ok = proto_skip(&r, wire);
        if (!ok)
            return false;
    }
    return true;
}

struct partition_desc *partition_desc_decode(struct slice message, struct err *err)
{
    struct partition_desc *d = partition_desc_new();
    if (read_desc(message, err, d))
        return d;
    partition_desc_free(d);
    if (err)
        err->code = ERR_CORRUPT;
    return NULL;
}

#define TAG(field, wire) ((unsigned char)((field) << 3 | (wire)))

static void put_partition(struct buf *out, const struct partition *p)
{
    ring_put_tokens(out, TAG(1, PROTO_BYTES), p->tokens, p->n_tokens);
    ring_put_varint(out, TAG(2, PROTO_VARINT), (uint64_t)(int64_t)p->state);
    ring_put_varint(out, TAG(3, PROTO_VARINT), (uint64_t)p->state_s);
    ring_put_varint(out, TAG(4, PROTO_VARINT), (uint64_t)p->id);
    ring_put_varint(out, TAG(5, PROTO_VARINT), p->locked);
    ring_put_varint(out, TAG(6, PROTO_VARINT), (uint64_t)p->locked_s);
}

static void put_entry(struct buf *out, unsigned char tag, struct buf *entry, struct buf *value)
{
    ring_put_bytes(entry, TAG(2, PROTO_BYTES), buf_slice(value));
    ring_put_bytes(out, tag, buf_slice(entry));
    out->failed |= entry->failed || value->failed;
    buf_clear(entry);
    buf_clear(value);
}

void partition_desc_encode(const struct partition_desc *d, struct buf *out)
{
    struct buf value = {.max = out->max}, entry = {.max = out->max};
    for (size_t i = 0; i < d->n_partitions; i++) {
        put_partition(&value, &d->partitions[i]);
        buf_putc(&entry, TAG(1, PROTO_VARINT));
        buf_put_uvarint(&entry, (uint64_t)d->partitions[i].id);
        put_entry(out, TAG(1, PROTO_BYTES), &entry, &value);
    }
    for (size_t i = 0; i < d->n_owners; i++) {
        const struct partition_owner *o = &d->owners[i];
        ring_put_varint(&value, TAG(1, PROTO_VARINT), (uint64_t)(int64_t)o->partition);
        ring_put_varint(&value, TAG(2, PROTO_VARINT), (uint64_t)(int64_t)o->state);
        ring_put_varint(&value, TAG(3, PROTO_VARINT), (uint64_t)o->updated_s);
        ring_put_bytes(&entry, TAG(1, PROTO_BYTES), slice_of(o->id));
        put_entry(out, TAG(2, PROTO_BYTES), &entry, &value);
    }
    buf_release(&value);
    buf_release(&entry);
}
