/* ULIDs: names of blocks that sort by the time of their making (docs/formats.md 6.1). Any thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/slice.h"

#define ULID_TEXT_LEN 26

struct ulid {
    char text[ULID_TEXT_LEN + 1]; /* upper case, NUL-terminated */
};

/* 48 bits of time, 80 random ones. */
struct ulid ulid_new(int64_t time_ms);
bool ulid_parse(struct slice text, struct ulid *ret); /* exactly 26 characters of Crockford's alphabet, either case; the first at most '7' */
int64_t ulid_time_ms(const struct ulid *u);
/* Where the ring of store-gateways looks for a block: FNV-1 of the 16 bytes that the text stands for (docs/formats.md 3.7). */
uint32_t ulid_ring_token(const struct ulid *u);
