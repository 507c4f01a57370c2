/*
 * The ingester: consumes one partition of the log into heads, one per tenant, and answers selects from them.
 *
 * The log is the only write-ahead log. A head shard is a pure function of the partition's records up to its own offset;
 * a checkpoint (written beside, fsynced, renamed) bounds replay; an offset is committed only after the checkpoint that
 * covers it is durable. kill -9 at any moment loses nothing and doubles nothing. See README.md in this folder.
 *
 * Threads: one consumer a partition (the only writer of its heads), one for checkpoints and truncation; selects run on
 * the callers' threads.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ctx.h"
#include "base/flags.h"
#include "log/plog.h"
#include "model/limits.h"
#include "storage/queryable.h"

struct ingest_config {
#define FLAG FLAG_FIELD
#include "ingest/ingest_flags.def"
#undef FLAG
};
extern const struct flag_def ingest_flags[];
extern const size_t ingest_flags_n;

struct ingester;

/* dir: the ingester's folder (checkpoints, mapped chunks). instance_id names the consumer group. */
struct ingester *ingester_new(const struct ingest_config *cfg, const struct limits_provider *limits, struct plog *log,
                              int32_t partition, const char *dir, const char *instance_id, uint64_t hash_seed,
                              struct err *err);
/* Loads the checkpoint, starts the threads and the replay; returns before the replay is done. */
bool ingester_start(struct ingester *ing, struct err *err);
/* Caught up with what the log held at start? If not, ret says how far in a few words. */
bool ingester_ready(struct ingester *ing, struct err *ret);
/* Consumes what is durable, writes a last checkpoint, commits, joins. */
void ingester_stop(struct ingester *ing);
void ingester_free(struct ingester *ing);

/* Waits until everything below `offset` is consumed; ERR_TIMEOUT or ERR_CANCELED by ctx. Any thread. */
bool ingester_wait(struct ingester *ing, int64_t offset, struct ctx *ctx, struct err *err);
/* Owned by the ingester. Any thread. */
struct queryable *ingester_queryable(struct ingester *ing);

struct ingester_user_stats {
    uint64_t num_series;
    uint64_t active_series;
    double api_ingestion_rate; /* samples a second */
    double rule_ingestion_rate;
};
bool ingester_user_stats(struct ingester *ing, struct slice tenant, struct ingester_user_stats *ret);
