/* BLAKE2b with 32 bytes of output and no key (RFC 7693): names over-long label values. Private to write/. OpenSSL 3.0 has only the 64-byte one. */
#pragma once

#include <stdint.h>

#include "base/slice.h"

void blake2b_256(struct slice in, uint8_t ret[32]);
