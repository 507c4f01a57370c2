/* Pieces of protobuf that both rings' documents are made of. Readers are those of model/proto.h. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/slice.h"
#include "model/proto.h"

/* Appends a repeated uint32, packed or not, to an array that starts as NULL, 0 and grows with realloc; its values in the order of the bytes. */
bool ring_read_tokens(struct proto *r, uint32_t wire, uint32_t **tokens, size_t *n);

/* Fields with a tag of one byte. A varint of 0 and an empty list are left out; bytes never. */
void ring_put_varint(struct buf *out, unsigned char tag, uint64_t v);
void ring_put_bytes(struct buf *out, unsigned char tag, struct slice s);
void ring_put_tokens(struct buf *out, unsigned char tag, const uint32_t *tokens, size_t n);
