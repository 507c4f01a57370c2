/* MD5 (RFC 1321): the checksum at the end of a packet, nothing that must withstand an attacker. Any thread. */
#pragma once

#include <stdint.h>

#include "base/slice.h"

void md5(struct slice data, uint8_t ret_digest[16]);
