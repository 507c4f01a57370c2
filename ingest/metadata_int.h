/*
 * Metric metadata of one tenant: for each metric family the set of (type, help, unit) seen, each with the time it was
 * last seen. What has not been seen for the retain period goes. Bounded by max_global_metadata_per_user (families) and
 * _per_metric (entries of a family), 0 = no limit; and by METADATA_MAX_PER_FAMILY in any case. Guarded by its own lock;
 * any thread.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "model/limits.h"
#include "model/write_request.h"
#include "storage/queryable.h"

#define METADATA_MAX_PER_FAMILY 100u

struct metadata_family;

struct metadata_store {
    pthread_mutex_t lock;
    struct metadata_family **families; /* hash chains */
    uint32_t n_buckets;
    uint32_t n_families;
};

void metadata_init(struct metadata_store *m);
void metadata_release(struct metadata_store *m);

enum metadata_result { METADATA_NEW, METADATA_SEEN, METADATA_USER_LIMIT, METADATA_METRIC_LIMIT };
enum metadata_result metadata_add(struct metadata_store *m, const struct limits *limits,
                                  const struct write_metadata *md, int64_t now_ms);
/* Drops what was last seen before `before_ms`; returns how many entries went. */
uint64_t metadata_expire(struct metadata_store *m, int64_t before_ms);
uint64_t metadata_count(struct metadata_store *m);
/* All entries, by family in byte order, copied to the arena. False when it overflows. */
bool metadata_list(struct metadata_store *m, struct arena *arena, const struct metric_metadata **ret, size_t *ret_n);

void metadata_save(struct metadata_store *m, struct buf *out);
bool metadata_load(struct metadata_store *m, struct slice bytes);
