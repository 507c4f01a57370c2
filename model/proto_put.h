/*
 * Writing protobuf fields to a buf, as proto3 has them: numbers that are 0 and strings that are empty are left out,
 * what is repeated and what is a message of its own never is. Readers are those of model/proto.h.
 */
#pragma once

#include <stdint.h>
#include <string.h>

#include "base/buf.h"
#include "model/proto.h"

static inline void proto_put_tag(struct buf *out, uint32_t field, enum proto_wire wire)
{
    buf_put_uvarint(out, (uint64_t)field << 3 | wire);
}

/* An element of a repeated field, or a number that stands there also when it is 0. */
static inline void proto_put_varint_element(struct buf *out, uint32_t field, uint64_t v)
{
    proto_put_tag(out, field, PROTO_VARINT);
    buf_put_uvarint(out, v);
}

static inline void proto_put_varint(struct buf *out, uint32_t field, uint64_t v)
{
    if (v)
        proto_put_varint_element(out, field, v);
}

/* sint32 and sint64. */
static inline void proto_put_zigzag(struct buf *out, uint32_t field, int64_t v)
{
    proto_put_varint(out, field, (uint64_t)v << 1 ^ (uint64_t)(v >> 63));
}

static inline int64_t proto_zigzag(uint64_t v)
{
    return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

/* -0 is left out as 0 is, as Go does. */
static inline void proto_put_double(struct buf *out, uint32_t field, double v)
{
    if (v == 0)
        return;
    proto_put_tag(out, field, PROTO_FIXED64);
    buf_put(out, &v, sizeof(v));
}

/* An element of a repeated field, or a message that is there. */
static inline void proto_put_element(struct buf *out, uint32_t field, struct slice s)
{
    proto_put_tag(out, field, PROTO_BYTES);
    buf_put_uvarint(out, s.n);
    buf_put_slice(out, s);
}

static inline void proto_put_string(struct buf *out, uint32_t field, struct slice s)
{
    if (s.n)
        proto_put_element(out, field, s);
}

/*
 * A message inside, written in place: begin, its fields, end. Its length takes one byte first; a longer one moves what
 * was written, which costs less than counting it before.
 */
static inline size_t proto_put_begin(struct buf *out, uint32_t field)
{
    proto_put_tag(out, field, PROTO_BYTES);
    buf_putc(out, 0);
    return out->n;
}

static inline void proto_put_end(struct buf *out, size_t begin)
{
    if (out->failed)
        return;
    size_t n = out->n - begin;
    size_t more = proto_uvarint_size(n) - 1;
    if (more) {
        if (!buf_reserve(out, more))
            return;
        memmove(out->p + begin + more, out->p + begin, n);
        out->n += more;
    }
    proto_put_uvarint(out->p + begin - 1, n);
}
