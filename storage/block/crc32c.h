/* CRC-32C (Castagnoli, reflected), as every file of a block is guarded with. Any thread. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Goes on from the CRC of the bytes before; 0 at the start. */
uint32_t crc32c(uint32_t crc, const void *p, size_t n);
