/* Protobuf by hand, for tests that need bytes no sender makes: each function appends one field to a buf. */
#pragma once

#include <string.h>

#include "base/buf.h"
#include "base/slice.h"

static inline void wire_tag(struct buf *b, uint32_t field, uint32_t wire)
{
    buf_put_uvarint(b, (uint64_t)field << 3 | wire);
}

static inline void wire_varint(struct buf *b, uint32_t field, uint64_t v)
{
    wire_tag(b, field, 0);
    buf_put_uvarint(b, v);
}

static inline void wire_double(struct buf *b, uint32_t field, double v)
{
    wire_tag(b, field, 1);
    buf_put(b, &v, 8);
}

static inline void wire_bytes(struct buf *b, uint32_t field, struct slice s)
{
    wire_tag(b, field, 2);
    buf_put_uvarint(b, s.n);
    buf_put_slice(b, s);
}

static inline void wire_str(struct buf *b, uint32_t field, const char *s)
{
    wire_bytes(b, field, slice_of(s));
}

/* The message in `inner` as a field, and inner emptied for the next one. */
static inline void wire_message(struct buf *b, uint32_t field, struct buf *inner)
{
    wire_bytes(b, field, buf_slice(inner));
    buf_clear(inner);
}

static inline void wire_label(struct buf *b, const char *name, const char *value)
{
    struct buf pair = {0};
    wire_str(&pair, 1, name);
    wire_str(&pair, 2, value);
    wire_message(b, 1, &pair);
    buf_release(&pair);
}

static inline void wire_sample(struct buf *b, int64_t t, double v)
{
    struct buf sample = {0};
    wire_double(&sample, 1, v);
    wire_varint(&sample, 2, (uint64_t)t);
    wire_message(b, 2, &sample);
    buf_release(&sample);
}

/* References of the symbol form, packed in one field; n of them. */
static inline void wire_refs(struct buf *b, uint32_t field, const uint32_t *refs, size_t n)
{
    struct buf packed = {0};
    for (size_t i = 0; i < n; i++)
        buf_put_uvarint(&packed, refs[i]);
    wire_message(b, field, &packed);
    buf_release(&packed);
}
