/*
 * Recent data: one queryable over all partitions, each read from one of its owners.
 *
 * For each partition that may hold the tenant's data (ACTIVE and INACTIVE) one healthy owner is asked: one of this process first, then one of the preferred
 * zones, then any other in random order. When it fails, also in the middle of its answer, the next one is asked at once; when it has said nothing for the
 * hedging delay, the next one is asked beside it and the first answer counts. A partition for which nobody answers makes the query fail with an error that
 * names it: never a short answer.
 *
 * Series with the same labels may come from two partitions (the ring grew while they were written): they come out once, with the chunks of both.
 * Any thread may call; each set belongs to one thread. Labels are valid until the set is released, chunks until the next call on it.
 */
#pragma once

#include <stdint.h>

#include "base/flags.h"
#include "log/last_produced.h"
#include "model/limits.h"
#include "partition-ring/partition_view.h"
#include "read/peers/peers.h"
#include "ring/ring.h"
#include "storage/queryable.h"

struct ingesters_config {
#define FLAG FLAG_FIELD
#include "read/ingesters/ingesters_flags.def"
#undef FLAG
    struct peer_client_config client; /* -ingester.client.*, in the same table */
};
extern const struct flag_def ingesters_flags[];
extern const size_t ingesters_flags_n;

/* An ingester of this process: asked directly. */
struct local_ingester {
    const char *id; /* its instance id */
    struct queryable *queryable;
};

/* All of it must outlive the queryable; local ones and strings are copied. zone: this process's own, "" or NULL = none. */
struct ingesters_parts {
    const struct ingesters_config *cfg;
    const struct limits_provider *limits;
    struct partition_watcher *partitions;
    struct ring *instances;
    const struct local_ingester *local;
    size_t n_local;
    const char *zone;
};

/* ERR_CONFIG: TLS' files cannot be read, or its words are not known. */
bool ingesters_config_check(const struct ingesters_config *cfg, struct err *err);
struct queryable *ingesters_queryable_new(const struct ingesters_parts *parts);
/* All sets must have been released. */
void ingesters_queryable_free(struct queryable *q);

/*
 * A read_barrier_fn (read/api/api.h): when the ctx asks for a strong read and carries no offsets, asks for the last produced offsets of all partitions that
 * readers read and puts them into the ctx's tags, so that every ingester waits for the same moment and none has to ask. Any thread.
 */
struct ingesters_consistency {
    struct last_produced *last_produced;
    struct partition_watcher *partitions;
};
/* arg: struct ingesters_consistency. */
bool ingesters_consistency(void *arg, struct ctx *ctx, struct err *err);
