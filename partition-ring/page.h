/*
 * GET and POST /ingester/partition-ring: the partitions, their states and owners, for people and as JSON, and the hand that changes them. Answers are
 * Mimir's (http.md 4.2); the page is ours.
 *
 * The document is read from the store at each request, so that who changed something sees it changed.
 */
#pragma once

#include <stddef.h>

#include "net/http.h"
#include "ring/kv.h"

/* The handlers' arg. Owned by app; immutable after start. */
struct partition_ring_page {
    struct kv *kv;
    const char *key;       /* as the store knows it */
    const char *shown_key; /* with the store's prefix: "collectors/ingester-partitions"; errors name it */
};

extern const struct http_route partition_ring_routes[];
extern const size_t partition_ring_routes_n;

/* What the answers to other endpoints say when a change of the partitions ring failed, too; err->text gets the prefix. */
void partition_ring_wrap_error(const char *shown_key, struct err *err);
