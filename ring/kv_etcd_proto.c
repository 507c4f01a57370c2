/* etcd's messages. See kv_etcd_int.h. */
#include "ring/kv_etcd_int.h"

#include "ring/doc_proto.h"

#define VARINT(field) (unsigned char)((field) << 3)
#define BYTES(field) (unsigned char)((field) << 3 | 2)

/* A message within a message; releases inner. */
static void put_message(struct buf *out, unsigned char tag, struct buf *inner)
{
    out->failed |= inner->failed;
    ring_put_bytes(out, tag, buf_slice(inner));
    buf_release(inner);
}

static void put_keys(struct buf *out, struct slice key, bool is_prefix)
{
    if (is_prefix && key.n == 0) { /* all keys: from "\0" to "\0" */
        ring_put_bytes(out, BYTES(1), slice_make("", 1));
        ring_put_bytes(out, BYTES(2), slice_make("", 1));
        return;
    }
    ring_put_bytes(out, BYTES(1), key);
    if (!is_prefix)
        return;
    size_t n = key.n;
    while (n && (unsigned char)key.p[n - 1] == 0xFF)
        n--;
    if (n == 0) { /* nothing is above: to the end */
        ring_put_bytes(out, BYTES(2), slice_make("", 1));
        return;
    }
    buf_putc(out, (char)BYTES(2));
    buf_put_uvarint(out, n);
    buf_put(out, key.p, n - 1);
    buf_putc(out, (char)(key.p[n - 1] + 1));
}

void etcd_put_range(struct buf *out, struct slice key, bool is_prefix, bool keys_only)
{
    put_keys(out, key, is_prefix);
    ring_put_varint(out, VARINT(8), keys_only);
}

void etcd_put_cas(struct buf *out, struct slice key, struct slice value, uint64_t version)
{
    struct buf compare = {0}, put = {0}, op = {0};
    ring_put_varint(&compare, VARINT(2), 2);
    ring_put_bytes(&compare, BYTES(3), key);
    buf_putc(&compare, (char)VARINT(6)); /* 0 counts here: without it there is nothing to compare with */
    buf_put_uvarint(&compare, version);
    put_message(out, BYTES(1), &compare);
    ring_put_bytes(&put, BYTES(1), key);
    ring_put_bytes(&put, BYTES(2), value);
    put_message(&op, BYTES(2), &put);
    put_message(out, BYTES(2), &op);
}

void etcd_put_delete(struct buf *out, struct slice key)
{
    put_keys(out, key, false);
}

void etcd_put_watch(struct buf *out, struct slice key, bool is_prefix, uint64_t start_revision)
{
    struct buf create = {0};
    put_keys(&create, key, is_prefix);
    ring_put_varint(&create, VARINT(3), start_revision);
    put_message(out, BYTES(1), &create);
}

void etcd_put_auth(struct buf *out, struct slice name, struct slice password)
{
    ring_put_bytes(out, BYTES(1), name);
    ring_put_bytes(out, BYTES(2), password);
}

static bool read_kv(struct slice message, struct etcd_kv *ret, struct err *err)
{
    struct proto r = proto_of(message, "etcd's KeyValue", err);
    while (proto_more(&r)) {
        uint32_t field, wire;
        if (!proto_tag(&r, &field, &wire))
            return false;
        bool ok = field == 1   ? proto_bytes_field(&r, wire, "key", &ret->key)
                  : field == 3 ? proto_varint_field(&r, wire, "mod_revision", &ret->mod_revision)
                  : field == 5 ? proto_bytes_field(&r, wire, "value", &ret->value)
                               : proto_skip(&r, wire);
        if (!ok)
            return false;
    }
    return true;
}

static bool read_revision(struct slice header, uint64_t *ret_revision, struct err *err)
{
    struct proto r = proto_of(header, "etcd's ResponseHeader", err);
    while (proto_more(&r)) {
        uint32_t field, wire;
        if (!proto_tag(&r, &field, &wire))
            return false;
        bool ok = field == 3 ? proto_varint_field(&r, wire, "revision", ret_revision) : proto_skip(&r, wire);
        if (!ok)
            return false;
    }
    return true;
}

static bool read_event(struct slice message, etcd_kv_fn *fn, void *arg, struct err *err)
{
    struct etcd_kv kv = {0};
    struct proto r = proto_of(message, "etcd's Event", err);
    while (proto_more(&r)) {
        uint32_t field, wire;
        uint64_t type = 0;
        struct slice inner;
        if (!proto_tag(&r, &field, &wire))
            return false;
        bool ok = field == 1   ? proto_varint_field(&r, wire, "type", &type)
                  : field == 2 ? proto_bytes_field(&r, wire, "kv", &inner) && read_kv(inner, &kv, err)
                               : proto_skip(&r, wire);
        if (!ok)
            return false;
        kv.deleted |= field == 1 && type == 1;
    }
    fn(arg, &kv);
    return true;
}

static bool damaged(bool ok, struct err *err)
{
    if (!ok && err)
        err->code = ERR_CORRUPT;
    return ok;
}

bool etcd_get_range(struct slice message, etcd_kv_fn *fn, void *arg, uint64_t *ret_revision, struct err *err)
{
    uint64_t revision = 0;
    struct proto r = proto_of(message, "etcd's RangeResponse", err);
    while (proto_more(&r)) {
        uint32_t field, wire;
        struct slice inner;
        struct etcd_kv kv = {0};
        if (!proto_tag(&r, &field, &wire))
            return damaged(false, err);
        bool ok = field == 1   ? proto_bytes_field(&r, wire, "header", &inner) && read_revision(inner, &revision, err)
                  : field == 2 ? proto_bytes_field(&r, wire, "kvs", &inner) && read_kv(inner, &kv, err)
                               : proto_skip(&r, wire);
        if (!ok)
            return damaged(false, err);
        if (field == 2)
            fn(arg, &kv);
    }
    *ret_revision = revision;
    return true;
}

bool etcd_get_txn(struct slice message, bool *ret_succeeded, struct err *err)
{
    uint64_t succeeded = 0;
    struct proto r = proto_of(message, "etcd's TxnResponse", err);
    while (proto_more(&r)) {
        uint32_t field, wire;
        if (!proto_tag(&r, &field, &wire))
            return damaged(false, err);
        bool ok = field == 2 ? proto_varint_field(&r, wire, "succeeded", &succeeded) : proto_skip(&r, wire);
        if (!ok)
            return damaged(false, err);
    }
    *ret_succeeded = succeeded != 0;
    return true;
}

bool etcd_get_watch(struct slice message, etcd_kv_fn *fn, void *arg, struct etcd_watch_answer *ret, struct err *err)
{
    *ret = (struct etcd_watch_answer){0};
    struct proto r = proto_of(message, "etcd's WatchResponse", err);
    while (proto_more(&r)) {
        uint32_t field, wire;
        uint64_t canceled = 0;
        struct slice event;
        if (!proto_tag(&r, &field, &wire))
            return damaged(false, err);
        bool ok = field == 4    ? proto_varint_field(&r, wire, "canceled", &canceled)
                  : field == 5  ? proto_varint_field(&r, wire, "compact_revision", &ret->compact_revision)
                  : field == 6  ? proto_bytes_field(&r, wire, "cancel_reason", &ret->cancel_reason)
                  : field == 11 ? proto_bytes_field(&r, wire, "events", &event) && read_event(event, fn, arg, err)
                                : proto_skip(&r, wire);
        if (!ok)
            return damaged(false, err);
        ret->canceled |= canceled != 0;
    }
    return true;
}

bool etcd_get_token(struct slice message, struct slice *ret_token, struct err *err)
{
    *ret_token = SL("");
    struct proto r = proto_of(message, "etcd's AuthenticateResponse", err);
    while (proto_more(&r)) {
        uint32_t field, wire;
        if (!proto_tag(&r, &field, &wire))
            return damaged(false, err);
        if (!(field == 2 ? proto_bytes_field(&r, wire, "token", ret_token) : proto_skip(&r, wire)))
            return damaged(false, err);
    }
    return true;
}
