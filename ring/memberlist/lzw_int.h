/*
 * LZW as Go's compress/lzw writes it with order LSB and literal width 8: the compression of memberlist's packets and
 * streams.
 *
 * Codes are packed from the low bits of each byte upwards, 9 bits wide at first and 12 at most. 0..255 are bytes, 256
 * clears the table, 257 ends the stream, 258.. are strings, each one byte longer than an earlier one. The first code is
 * a clear. Any thread; no state is kept.
 */
#pragma once

#include <stdbool.h>

#include "base/buf.h"
#include "base/slice.h"

/* Appends the same bytes that Go's writer makes of in. */
void lzw_encode(struct slice in, struct buf *out);

/* Appends what in says, at most until out->max; false when the codes are no LZW, the end is missing or out is full. */
bool lzw_decode(struct slice in, struct buf *out);
