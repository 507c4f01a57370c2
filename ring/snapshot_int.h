/* Private to ring/. */
#pragma once

#include <stdatomic.h>

#include "ring/ring.h"

struct owned_token {
    uint32_t token;
    uint32_t instance; /* its place in the document */
};

struct ring_snapshot {
    _Atomic int refs;
    struct ring_config config;
    struct ring_desc *desc; /* owned */
    struct owned_token *tokens; /* ascending */
    size_t n_tokens;
    uint32_t *zones; /* of each instance; numbers from 0 in order of first appearance */
    uint32_t n_zones;
};

/* The place of the first token strictly greater than the key; 0 when there is none. */
size_t ring_search_token(const struct owned_token *tokens, size_t n, uint32_t key);
