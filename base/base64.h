/* Base64 of RFC 4648 with '+' and '/'. Any thread. */
#pragma once

#include <stdbool.h>

#include "base/buf.h"
#include "base/slice.h"

/* Appends; padded with '=' to a multiple of four, or not at all. */
void base64_encode(struct slice bytes, bool padded, struct buf *out);
/* Appends; with or without padding. False: it is not base64, or out is full; what out then has is not to be used. */
bool base64_decode(struct slice text, struct buf *out);
