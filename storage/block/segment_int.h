/*
 * A segment of chunks (docs/formats.md 6.4): 85BD40DD (BE32), version 01, three zero bytes; then chunks, each
 *   uvarint length of the data, encoding u8, data, CRC-32C (BE32) of encoding and data
 * A chunk's reference is (segment - 1) << 32 | offset of its length.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"
#include "storage/chunk/chunk.h"

#define SEGMENT_MAGIC UINT32_C(0x85BD40DD)
#define SEGMENT_HEADER_BYTES 8

struct segment {
    const char *path; /* for messages; not owned */
    const uint8_t *p; /* not owned */
    size_t n;
    bool no_checksums; /* for fuzzing alone */
};

bool segment_open(struct segment *s, const char *path, const void *p, size_t n, bool no_checksums, struct err *err);
bool segment_chunk(const struct segment *s, uint32_t offset, enum chunk_encoding *ret_encoding, struct slice *ret_data, struct err *err);
