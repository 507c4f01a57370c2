/*
 * Tokens: the 32-bit number of a series by which its partition is found (docs/formats.md 3.1). Private to write/ and its tests.
 *
 * The bytes hashed are the tenant's id, then name and value of each label in sorted order, with nothing between them. Two hash
 * functions: fnv32a (xor, then multiply) and fnv32 (multiply, then xor), the second for a topic shared with Mimir's distributors.
 * Both are a chain in which each byte waits for the multiplication of the one before: about a nanosecond a byte for one series, whatever the
 * machine could do beside it. token_batch runs eight series in lanes and is four times faster.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

enum token_kind { TOKEN_FNV32A, TOKEN_FNV32 };

#define TOKEN_EMPTY 2166136261U

/* The state after more bytes; start with TOKEN_EMPTY. */
uint32_t token_add(enum token_kind kind, uint32_t state, struct slice bytes);

struct token_job {
    const unsigned char *p; /* names and values of the sorted labels, one after the other */
    size_t n;
    uint32_t *ret;
};

/* start: the state after the tenant's bytes. */
void token_batch(enum token_kind kind, uint32_t start, const struct token_job *jobs, size_t n);
