/*
 * Reading protobuf by hand, for the write path: a cursor over one message. Every length is checked against the
 * message's end before it is used. Texts are those of Go's generated code (gogoproto), which clients of Mimir get to
 * see. A failed call leaves the cursor anywhere.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/slice.h"

enum proto_wire { PROTO_VARINT, PROTO_FIXED64, PROTO_BYTES, PROTO_GROUP, PROTO_GROUP_END, PROTO_FIXED32 };

struct proto {
    const char *p;
    const char *end;
    const char *message; /* its name, for texts */
    struct err *err;     /* may be NULL */
};

static inline struct proto proto_of(struct slice bytes, const char *message, struct err *err)
{
    /* No arithmetic on NULL. */
    const char *p = bytes.p ? bytes.p : "";
    return (struct proto){.p = p, .end = p + bytes.n, .message = message, .err = err};
}

static inline bool proto_more(const struct proto *r)
{
    return r->p < r->end;
}

static inline size_t proto_left(const struct proto *r)
{
    return (size_t)(r->end - r->p);
}

/* Slow paths and failures, in proto.c. */
bool proto_varint_slow(struct proto *r, uint64_t *ret);
bool proto_tag_slow(struct proto *r, uint32_t *ret_field, uint32_t *ret_wire);
void proto_set_length_error(struct proto *r, uint64_t length);
void proto_set_wire_error(struct proto *r, uint32_t wire, const char *field);
/* Passes over a field's value: unknown fields. Balanced groups are passed over too, as Go does. */
bool proto_skip(struct proto *r, uint32_t wire);

/* Always false. Inline, so that the compiler sees it and does not suspect the results of being unset. */
static inline bool proto_fail_length(struct proto *r, uint64_t length)
{
    proto_set_length_error(r, length);
    return false;
}

static inline bool proto_fail_wire(struct proto *r, uint32_t wire, const char *field)
{
    proto_set_wire_error(r, wire, field);
    return false;
}

static inline bool proto_varint(struct proto *r, uint64_t *ret)
{
    if (LIKELY(r->p < r->end && !(*r->p & 0x80))) {
        *ret = (uint64_t)*r->p++;
        return true;
    }
    return proto_varint_slow(r, ret);
}

static inline bool proto_tag(struct proto *r, uint32_t *ret_field, uint32_t *ret_wire)
{
    unsigned char c = r->p < r->end ? (unsigned char)*r->p : 0;
    if (LIKELY(c >= 8 && c < 0x80 && (c & 7) != PROTO_GROUP_END)) {
        r->p++;
        *ret_field = c >> 3;
        *ret_wire = c & 7;
        return true;
    }
    return proto_tag_slow(r, ret_field, ret_wire);
}

/* The value of a field of wire type 2. */
static inline bool proto_bytes(struct proto *r, struct slice *ret)
{
    uint64_t n;
    if (!proto_varint(r, &n))
        return false;
    if (UNLIKELY(n > proto_left(r)))
        return proto_fail_length(r, n);
    *ret = slice_make(r->p, (size_t)n);
    r->p += n;
    return true;
}

/* The same for a named field: checks the wire type first. */
static inline bool proto_bytes_field(struct proto *r, uint32_t wire, const char *field, struct slice *ret)
{
    if (UNLIKELY(wire != PROTO_BYTES))
        return proto_fail_wire(r, wire, field);
    return proto_bytes(r, ret);
}

static inline bool proto_varint_field(struct proto *r, uint32_t wire, const char *field, uint64_t *ret)
{
    if (UNLIKELY(wire != PROTO_VARINT))
        return proto_fail_wire(r, wire, field);
    return proto_varint(r, ret);
}

static inline bool proto_double_field(struct proto *r, uint32_t wire, const char *field, double *ret)
{
    if (UNLIKELY(wire != PROTO_FIXED64))
        return proto_fail_wire(r, wire, field);
    if (UNLIKELY(proto_left(r) < 8))
        return proto_fail_length(r, 8);
    memcpy(ret, r->p, 8);
    r->p += 8;
    return true;
}

/*
 * The next value of a repeated field of wire type 2, other fields passed over. *ret_found false: the message has ended. Returns false when it is damaged.
 */
bool proto_find(struct proto *r, uint32_t field, const char *name, struct slice *ret, bool *ret_found);

/* --- writing --------------------------------------------------------------------------------------------------------
 */

static inline size_t proto_uvarint_size(uint64_t v)
{
    if (LIKELY(v < 0x80))
        return 1;
    unsigned bits = 64 - (unsigned)__builtin_clzll(v);
    return (bits + 6) / 7;
}

static inline char *proto_put_uvarint(char *out, uint64_t v)
{
    while (v >= 0x80) {
        *out++ = (char)(v | 0x80);
        v >>= 7;
    }
    *out++ = (char)v;
    return out;
}

/* Size of a field of wire type 2 with a tag of one byte. */
static inline size_t proto_bytes_size(size_t n)
{
    return 1 + proto_uvarint_size(n) + n;
}

static inline char *proto_put_bytes(char *out, unsigned char tag, struct slice s)
{
    *out++ = (char)tag;
    out = proto_put_uvarint(out, s.n);
    if (s.n)
        memcpy(out, s.p, s.n);
    return out + s.n;
}
