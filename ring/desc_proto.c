/*
 * ring.Desc as bytes (docs/formats.md 4.1).
 *
 *     Desc          1 map<string, InstanceDesc>: each entry a message {1 key, 2 value}
 *     InstanceDesc  1 addr  2 timestamp  3 state  6 tokens (packed)  7 zone  8 registered_timestamp  9 id
 *                   10 read_only_updated_timestamp  11 read_only  12 versions map<uint64, uint64>
 *
 * Other programs write maps in any order and may write a key twice: the last one counts. Unknown fields are passed over. A string with a NUL
 * byte is damage: here they end at it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "ring/desc_int.h"
#include "ring/doc_proto.h"

static bool read_string(struct proto *r, uint32_t wire, const char *field, char **to)
{
    struct slice s;
    if (!proto_bytes_field(r, wire, field, &s))
        return false;
    if (s.n && memchr(s.p, 0, s.n))
        return err_set(r->err, ERR_CORRUPT, "%s: %s holds a NUL byte", r->message, field);
    ring_string_set(to, s);
    return true;
}

static bool read_i64(struct proto *r, uint32_t wire, const char *field, int64_t *to)
{
    uint64_t v;
    if (!proto_varint_field(r, wire, field, &v))
        return false;
    *to = (int64_t)v;
    return true;
}

bool ring_read_tokens(struct proto *r, uint32_t wire, uint32_t **tokens, size_t *n)
{
    uint64_t v;
    struct slice packed;
    if (wire == PROTO_VARINT) { /* not packed: one at a time, for old writers */
        if (!proto_varint(r, &v))
            return false;
        if ((*n & (*n - 1)) == 0) {
            *tokens = realloc(*tokens, (*n ? *n * 2 : 1) * sizeof(**tokens));
            ASSERT(*tokens);
        }
        (*tokens)[(*n)++] = (uint32_t)v;
        return true;
    }
    if (!proto_bytes_field(r, wire, "Tokens", &packed))
        return false;
    if (packed.n == 0)
        return true;
    /* A token is a byte at least. The capacity is the power of two that the branch above expects. */
    size_t cap = 1;
    while (cap < *n + packed.n)
        cap *= 2;
    *tokens = realloc(*tokens, cap * sizeof(**tokens));
    ASSERT(*tokens);
    struct proto list = proto_of(packed, r->message, r->err);
    while (proto_more(&list)) {
        if (!proto_varint(&list, &v))
            return false;
        (*tokens)[(*n)++] = (uint32_t)v;
    }
    /* Give back what the worst case did not need, down to the power of two at or above n. */
    for (size_t half = cap / 2; half >= *n && half > 0; half /= 2)
        cap = half;
    *tokens = realloc(*tokens, cap * sizeof(**tokens));
    ASSERT(*tokens);
    return true;
}

static bool read_version(struct proto *r, uint32_t wire, struct ring_instance *in)
{
    struct slice entry;
    if (!proto_bytes_field(r, wire, "Versions", &entry))
        return false;
    struct ring_version v = {0};
    struct proto e = proto_of(entry, r->message, r->err);
    while (proto_more(&e)) {
        uint32_t field, w;
        if (!proto_tag(&e, &field, &w))
            return false;
        bool ok = field == 1   ? proto_varint_field(&e, w, "Versions key", &v.component)
                  : field == 2 ? proto_varint_field(&e, w, "Versions value", &v.version)
                               : proto_skip(&e, w);
        if (!ok)
            return false;
    }
    if ((in->n_versions & (in->n_versions - 1)) == 0) {
        in->versions = realloc(in->versions, (in->n_versions ? in->n_versions * 2 : 1) * sizeof(v));
        ASSERT(in->versions);
    }
    in->versions[in->n_versions++] = v;
    return true;
}

static bool read_instance_field(struct proto *r, uint32_t field, uint32_t wire, struct ring_instance *in)
{
    int64_t v = 0;
    switch (field) {
    case 1:
        return read_string(r, wire, "Addr", &in->addr);
    case 2:
        return read_i64(r, wire, "Timestamp", &in->timestamp_s);
    case 3:
        if (!read_i64(r, wire, "State", &v))
            return false;
        in->state = (int32_t)v;
        return true;
    case 6:
        return ring_read_tokens(r, wire, &in->tokens, &in->n_tokens);
    case 7:
        return read_string(r, wire, "Zone", &in->zone);
    case 8:
        return read_i64(r, wire, "RegisteredTimestamp", &in->registered_s);
    case 9:
        return read_string(r, wire, "Id", &in->name);
    case 10:
        return read_i64(r, wire, "ReadOnlyUpdatedTimestamp", &in->read_only_updated_s);
    case 11:
        if (!read_i64(r, wire, "ReadOnly", &v))
            return false;
        in->read_only = v != 0;
        return true;
    case 12:
        return read_version(r, wire, in);
    default:
        return proto_skip(r, wire);
    }
}

/* Entries of a map by key, the last of equal keys: stable by position. */
static void sort_versions(struct ring_instance *in)
{
    /* One or two in practice; insertion keeps equal keys together, the later one replaces. */
    size_t kept = 0;
    for (size_t i = 0; i < in->n_versions; i++) {
        struct ring_version v = in->versions[i];
        size_t at = kept;
        while (at > 0 && in->versions[at - 1].component >= v.component)
            at--;
        if (at < kept && in->versions[at].component == v.component) {
            in->versions[at] = v;
            continue;
        }
        memmove(&in->versions[at + 1], &in->versions[at], (kept - at) * sizeof(v));
        in->versions[at] = v;
        kept++;
    }
    in->n_versions = kept;
}

#define VERSIONS_MAX 256

static bool read_instance(struct slice message, struct err *err, struct ring_instance *in)
{
    struct proto r = proto_of(message, "InstanceDesc", err);
    ring_string_set(&in->name, SL(""));
    while (proto_more(&r)) {
        uint32_t field, wire;
        if (!proto_tag(&r, &field, &wire) || !read_instance_field(&r, field, wire, in))
            return false;
        if (in->n_versions > VERSIONS_MAX)
            return err_set(err, ERR_CORRUPT, "InstanceDesc: more than %d versions", VERSIONS_MAX);
    }
    in->n_tokens = ring_tokens_normalize(in->tokens, in->n_tokens);
    sort_versions(in);
    return true;
}

static bool read_entry(struct slice entry, struct err *err, struct ring_instance *in)
{
    struct proto r = proto_of(entry, "Desc", err);
    struct slice value = SL("");
    while (proto_more(&r)) {
        uint32_t field, wire;
        if (!proto_tag(&r, &field, &wire))
            return false;
        bool ok = field == 1   ? read_string(&r, wire, "Ingesters key", &in->id)
                  : field == 2 ? proto_bytes_field(&r, wire, "Ingesters value", &value)
                               : proto_skip(&r, wire);
        if (!ok)
            return false;
    }
    return read_instance(value, err, in);
}

/* By id; of equal ids the one that came last first, so that it is the one that stays. `order` is the position of arrival. */
struct arrival {
    struct ring_instance in;
    size_t order;
};

static int compare_arrivals(const void *a, const void *b)
{
    const struct arrival *x = a, *y = b;
    int c = strcmp(x->in.id, y->in.id);
    return c ? c : (x->order < y->order) - (x->order > y->order);
}

static struct ring_desc *desc_of_arrivals(struct arrival *all, size_t n)
{
    struct ring_desc *d = ring_desc_new();
    ring_desc_reserve(d, n);
    if (n)
        qsort(all, n, sizeof(*all), compare_arrivals);
    for (size_t i = 0; i < n; i++) {
        if (d->n && strcmp(d->instances[d->n - 1].id, all[i].in.id) == 0)
            ring_instance_release(&all[i].in);
        else
            d->instances[d->n++] = all[i].in;
    }
    return d;
}

static bool read_desc(struct proto *r, struct arrival **all, size_t *n)
{
    while (proto_more(r)) {
        uint32_t field, wire;
        if (!proto_tag(r, &field, &wire))
            return false;
        if (field != 1) {
            if (!proto_skip(r, wire))
                return false;
            continue;
        }
        struct slice entry;
        if (!proto_bytes_field(r, wire, "Ingesters", &entry))
            return false;
        if (*n >= RING_INSTANCES_MAX)
            return err_set(r->err, ERR_CORRUPT, "Desc: more than %d instances", RING_INSTANCES_MAX);
        if ((*n & (*n - 1)) == 0) {
            *all = realloc(*all, (*n ? *n * 2 : 1) * sizeof(**all));
            ASSERT(*all);
        }
        struct arrival *a = &(*all)[(*n)];
        a->order = (*n)++;
        ring_instance_init(&a->in, SL(""));
        if (!read_entry(entry, r->err, &a->in))
            return false;
    }
    return true;
}

struct ring_desc *ring_desc_decode(struct slice message, struct err *err)
{
    struct proto r = proto_of(message, "Desc", err);
    struct arrival *all = NULL;
    size_t n = 0;
    struct ring_desc *d = NULL;
    if (read_desc(&r, &all, &n)) {
        d = desc_of_arrivals(all, n);
    } else {
        for (size_t i = 0; i < n; i++)
            ring_instance_release(&all[i].in);
        if (err)
            err->code = ERR_CORRUPT;
    }
    free(all);
    return d;
}

/* --- writing --------------------------------------------------------------------------------------------------------
 */

void ring_put_varint(struct buf *out, unsigned char tag, uint64_t v)
{
    if (v == 0)
        return;
    buf_putc(out, (char)tag);
    buf_put_uvarint(out, v);
}

void ring_put_bytes(struct buf *out, unsigned char tag, struct slice s)
{
    buf_putc(out, (char)tag);
    buf_put_uvarint(out, s.n);
    buf_put_slice(out, s);
}

static void put_string(struct buf *out, unsigned char tag, const char *str)
{
    if (*str)
        ring_put_bytes(out, tag, slice_of(str));
}

void ring_put_tokens(struct buf *out, unsigned char tag, const uint32_t *tokens, size_t n)
{
    if (n == 0)
        return;
    size_t size = 0;
    for (size_t i = 0; i < n; i++)
        size += proto_uvarint_size(tokens[i]);
    buf_putc(out, (char)tag);
    buf_put_uvarint(out, size);
    for (size_t i = 0; i < n; i++)
        buf_put_uvarint(out, tokens[i]);
}

#define TAG(field, wire) ((unsigned char)((field) << 3 | (wire)))

static void put_instance(struct buf *out, const struct ring_instance *in)
{
    put_string(out, TAG(1, PROTO_BYTES), in->addr);
    ring_put_varint(out, TAG(2, PROTO_VARINT), (uint64_t)in->timestamp_s);
    ring_put_varint(out, TAG(3, PROTO_VARINT), (uint64_t)(int64_t)in->state);
    ring_put_tokens(out, TAG(6, PROTO_BYTES), in->tokens, in->n_tokens);
    put_string(out, TAG(7, PROTO_BYTES), in->zone);
    ring_put_varint(out, TAG(8, PROTO_VARINT), (uint64_t)in->registered_s);
    put_string(out, TAG(9, PROTO_BYTES), in->name);
    ring_put_varint(out, TAG(10, PROTO_VARINT), (uint64_t)in->read_only_updated_s);
    ring_put_varint(out, TAG(11, PROTO_VARINT), in->read_only);
    for (size_t i = 0; i < in->n_versions; i++) {
        char entry[32], *p = entry;
        *p++ = TAG(1, PROTO_VARINT);
        p = proto_put_uvarint(p, in->versions[i].component);
        *p++ = TAG(2, PROTO_VARINT);
        p = proto_put_uvarint(p, in->versions[i].version);
        ring_put_bytes(out, TAG(12, PROTO_BYTES), slice_make(entry, (size_t)(p - entry)));
    }
}

void ring_desc_encode(const struct ring_desc *d, struct buf *out)
{
    struct buf value = {.max = out->max}, entry = {.max = out->max};
    for (size_t i = 0; i < d->n; i++) {
        buf_clear(&value);
        buf_clear(&entry);
        put_instance(&value, &d->instances[i]);
        ring_put_bytes(&entry, TAG(1, PROTO_BYTES), slice_of(d->instances[i].id));
        ring_put_bytes(&entry, TAG(2, PROTO_BYTES), buf_slice(&value));
        ring_put_bytes(out, TAG(1, PROTO_BYTES), buf_slice(&entry));
        out->failed |= value.failed || entry.failed;
    }
    buf_release(&value);
    buf_release(&entry);
}
