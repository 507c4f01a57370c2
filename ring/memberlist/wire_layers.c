/* Layers, frames, push/pull and KeyValuePair. */
#include <snappy-c.h>
#include <stdlib.h>
#include <zlib.h>

#include "base/assert.h"
#include "ring/memberlist/lzw_int.h"
#include "ring/memberlist/md5_int.h"
#include "ring/memberlist/wire_int.h"

#define DIGEST_BYTES 16

static struct slice rest_of(struct slice s, size_t from)
{
    return (struct slice){s.p + from, s.n - from};
}

static void put_u16(struct buf *out, size_t v)
{
    buf_putc(out, (char)(v >> 8 & 0xff));
    buf_putc(out, (char)(v & 0xff));
}

static void put_u32(struct buf *out, size_t v)
{
    put_u16(out, v >> 16);
    put_u16(out, v);
}

static uint32_t get_u16(const char *p)
{
    return (uint32_t)(uint8_t)p[0] << 8 | (uint8_t)p[1];
}

static uint32_t get_u32(const char *p)
{
    return get_u16(p) << 16 | get_u16(p + 2);
}

static uint32_t crc_of(struct slice s)
{
    return (uint32_t)crc32_z(crc32_z(0, NULL, 0), (const Bytef *)s.p, s.n);
}

/* --- compound --------------------------------------------------------------------------------------------------------
 */

void wire_put_compound(struct buf *out, const struct slice *messages, size_t n)
{
    ASSERT(n >= 1 && n <= WIRE_COMPOUND_MAX);
    buf_putc(out, (char)WIRE_COMPOUND);
    buf_putc(out, (char)n);
    for (size_t i = 0; i < n; i++) {
        ASSERT(messages[i].n <= WIRE_COMPOUND_ITEM_MAX_BYTES);
        put_u16(out, messages[i].n);
    }
    for (size_t i = 0; i < n; i++)
        buf_put_slice(out, messages[i]);
}

bool wire_each_of_compound(struct slice body, void (*fn)(void *arg, struct slice message), void *arg)
{
    if (!body.n)
        return false;
    size_t n = (uint8_t)body.p[0];
    if (body.n < 1 + 2 * n)
        return false;
    struct slice left = rest_of(body, 1 + 2 * n);
    for (size_t i = 0; i < n; i++) {
        size_t size = get_u16(body.p + 1 + 2 * i);
        if (size > left.n)
            return false;
        fn(arg, (struct slice){left.p, size});
        left = rest_of(left, size);
    }
    return true;
}

/* --- compression -----------------------------------------------------------------------------------------------------
 */

void wire_put_compressed(struct buf *out, struct slice plain)
{
    struct buf packed;
    buf_init(&packed, 2 * WIRE_PLAIN_MAX_BYTES);
    lzw_encode(plain, &packed);
    out->failed |= packed.failed;
    struct wire_msg m = {.Algo = WIRE_ALGO_LZW, .Buf = {packed.p, packed.n}};
    wire_put(out, WIRE_COMPRESS, &m);
    buf_release(&packed);
}

static bool unsnappy(struct slice in, struct buf *plain)
{
    size_t n;
    if (snappy_uncompressed_length(in.p, in.n, &n) != SNAPPY_OK || n > WIRE_PLAIN_MAX_BYTES ||
        !buf_reserve(plain, n + 1))
        return false;
    if (snappy_uncompress(in.p, in.n, plain->p + plain->n, &n) != SNAPPY_OK)
        return false;
    plain->n += n;
    return true;
}

bool wire_decompress(struct slice body, struct buf *plain)
{
    struct wire_msg m;
    if (!wire_get(body, &m) || !m.Buf.n)
        return false;
    if (m.Algo == WIRE_ALGO_SNAPPY)
        return unsnappy(m.Buf, plain);
    return m.Algo == WIRE_ALGO_LZW && lzw_decode(m.Buf, plain);
}

/* --- label, CRC, wrapping -------------------------------------------------------------------------------------------
 */

static void put_label(struct buf *out, struct slice label)
{
    if (!label.n)
        return;
    ASSERT(label.n <= 255);
    buf_putc(out, (char)WIRE_LABEL);
    buf_putc(out, (char)label.n);
    buf_put_slice(out, label);
}

void wire_wrap_packet(struct buf *out, const struct wire_wrap *w, struct slice message)
{
    struct buf packed;
    buf_init(&packed, 0);
    if (w->compress)
        wire_put_compressed(&packed, message);
    if (w->compress && !packed.failed && packed.n < message.n)
        message = buf_slice(&packed);
    put_label(out, w->label);
    if (w->crc) {
        buf_putc(out, (char)WIRE_CRC);
        put_u32(out, crc_of(message));
    }
    buf_put_slice(out, message);
    buf_release(&packed);
}

void wire_wrap_stream(struct buf *out, const struct wire_wrap *w, struct slice message)
{
    put_label(out, w->label);
    if (w->compress)
        wire_put_compressed(out, message);
    else
        buf_put_slice(out, message);
}

bool wire_take_label(struct slice in, struct slice *ret_label, struct slice *ret_rest)
{
    *ret_label = SL("");
    *ret_rest = in;
    if (!in.n || (uint8_t)in.p[0] != WIRE_LABEL)
        return true;
    size_t n = in.n < 2 ? 0 : (uint8_t)in.p[1];
    if (!n || in.n < 2 + n)
        return false;
    *ret_label = (struct slice){in.p + 2, n};
    *ret_rest = rest_of(in, 2 + n);
    return !(ret_rest->n && (uint8_t)ret_rest->p[0] == WIRE_LABEL);
}

bool wire_take_crc(struct slice in, struct slice *ret_rest)
{
    *ret_rest = in;
    if (!in.n || in.p[0] != WIRE_CRC)
        return true;
    if (in.n < 5)
        return false;
    *ret_rest = rest_of(in, 5);
    return get_u32(in.p + 1) == crc_of(*ret_rest);
}

bool wire_frame_parse(struct slice in, struct slice *ret_addr, struct slice *ret_payload, bool *ret_digest_ok)
{
    size_t n = in.n ? (uint8_t)in.p[0] : 0;
    if (in.n < 1 + n + DIGEST_BYTES)
        return false;
    *ret_addr = (struct slice){in.p + 1, n};
    *ret_payload = (struct slice){in.p + 1 + n, in.n - 1 - n - DIGEST_BYTES};
    uint8_t digest[DIGEST_BYTES];
    md5(*ret_payload, digest);
    *ret_digest_ok = memcmp(digest, ret_payload->p + ret_payload->n, DIGEST_BYTES) == 0;
    return true;
}

void wire_frame_put(struct buf *out, struct slice addr, struct slice payload)
{
    ASSERT(addr.n <= 255);
    uint8_t digest[DIGEST_BYTES];
    md5(payload, digest);
    buf_putc(out, WIRE_FRAME_PACKET);
    buf_putc(out, (char)addr.n);
    buf_put_slice(out, addr);
    buf_put_slice(out, payload);
    buf_put(out, digest, DIGEST_BYTES);
}

/* --- push/pull -------------------------------------------------------------------------------------------------------
 */

enum wire_result wire_push_pull_parse(struct wire_cursor *c, size_t max_nodes, struct wire_msg *ret_header,
                                      wire_node_fn *fn, void *arg, struct slice *ret_user_state)
{
    struct wire_msg node;
    enum wire_result r = wire_get_map(c, ret_header);
    if (r != WIRE_OK)
        return r;
    if (ret_header->Nodes < 0 || (size_t)ret_header->Nodes > max_nodes || ret_header->UserStateLen < 0 ||
        (size_t)ret_header->UserStateLen > WIRE_PLAIN_MAX_BYTES)
        return WIRE_BAD;
    for (int32_t i = 0; i < ret_header->Nodes; i++) {
        if ((r = wire_get_map(c, &node)) != WIRE_OK)
            return r;
        if (fn && !fn(arg, &node))
            return WIRE_BAD;
    }
    size_t n = (size_t)ret_header->UserStateLen;
    if (n > c->in.n - c->pos) {
        c->need_bytes = c->pos + n;
        return WIRE_SHORT;
    }
    *ret_user_state = (struct slice){c->in.p + c->pos, n};
    c->pos += n;
    return WIRE_OK;
}

/* --- KeyValuePair ----------------------------------------------------------------------------------------------------
 */

enum { PAIR_KEY = 1, PAIR_VALUE, PAIR_CODEC, PAIR_DELETED, PAIR_TIME };
enum { VARINT = 0, FIXED64 = 1, LENGTH = 2, FIXED32 = 5 };

static void put_proto_bytes(struct buf *out, uint32_t field, struct slice s)
{
    if (!s.n)
        return;
    buf_put_uvarint(out, field << 3 | LENGTH);
    buf_put_uvarint(out, s.n);
    buf_put_slice(out, s);
}

void wire_put_pair(struct buf *out, const struct wire_pair *pair)
{
    put_proto_bytes(out, PAIR_KEY, pair->key);
    put_proto_bytes(out, PAIR_VALUE, pair->value);
    put_proto_bytes(out, PAIR_CODEC, pair->codec);
    if (pair->deleted) {
        buf_put_uvarint(out, PAIR_DELETED << 3 | VARINT);
        buf_put_uvarint(out, 1);
    }
    if (pair->update_time_ms) {
        buf_put_uvarint(out, PAIR_TIME << 3 | VARINT);
        buf_put_uvarint(out, (uint64_t)pair->update_time_ms);
    }
}

static bool get_uvarint(struct slice *in, uint64_t *ret_v)
{
    *ret_v = 0;
    for (unsigned shift = 0; shift < 64 && in->n; shift += 7) {
        uint8_t b = (uint8_t)in->p[0];
        *in = rest_of(*in, 1);
        *ret_v |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80)
            return true;
    }
    return false;
}

/* The value of one field: a number, or bytes. */
static bool get_proto(struct slice *in, uint64_t wire, uint64_t *ret_v, struct slice *ret_bytes)
{
    if (wire == VARINT)
        return get_uvarint(in, ret_v);
    if (wire == LENGTH && !get_uvarint(in, ret_v))
        return false;
    uint64_t n = wire == LENGTH ? *ret_v : wire == FIXED64 ? 8 : wire == FIXED32 ? 4 : UINT64_MAX;
    if (n > in->n)
        return false;
    *ret_bytes = (struct slice){in->p, (size_t)n};
    *in = rest_of(*in, (size_t)n);
    return true;
}

bool wire_get_pair(struct slice in, struct wire_pair *ret_pair)
{
    *ret_pair = (struct wire_pair){0};
    while (in.n) {
        uint64_t tag, v = 0;
        struct slice bytes = {0};
        if (!get_uvarint(&in, &tag) || !(tag >> 3) || !get_proto(&in, tag & 7, &v, &bytes))
            return false;
        switch (tag) {
        case PAIR_KEY << 3 | LENGTH:
            ret_pair->key = bytes;
            break;
        case PAIR_VALUE << 3 | LENGTH:
            ret_pair->value = bytes;
            break;
        case PAIR_CODEC << 3 | LENGTH:
            ret_pair->codec = bytes;
            break;
        case PAIR_DELETED << 3 | VARINT:
            ret_pair->deleted = v != 0;
            break;
        case PAIR_TIME << 3 | VARINT:
            ret_pair->update_time_ms = (int64_t)v;
            break;
        default:
            if (tag >> 3 <= PAIR_TIME)
                return false; /* ours, with another wire type */
        }
    }
    return true;
}

void wire_put_state_pair(struct buf *out, const struct wire_pair *pair)
{
    struct buf one;
    buf_init(&one, WIRE_PLAIN_MAX_BYTES);
    wire_put_pair(&one, pair);
    out->failed |= one.failed;
    put_u32(out, one.n);
    buf_put_slice(out, buf_slice(&one));
    buf_release(&one);
}

bool wire_each_state_pair(struct slice state, void (*fn)(void *arg, struct slice pair), void *arg)
{
    while (state.n) {
        if (state.n < 4)
            return false;
        size_t n = get_u32(state.p);
        if (n > state.n - 4)
            return false;
        fn(arg, (struct slice){state.p + 4, n});
        state = rest_of(state, 4 + n);
    }
    return true;
}
