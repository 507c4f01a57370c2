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
#include "ingest/blocks/local_blocks.h"
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

/*
 * dir: the ingester's folder (checkpoints, mapped chunks). instance_id names the consumer group when no flag does. The
 * strings of cfg must outlive the ingester.
 */
struct ingester *ingester_new(const struct ingest_config *cfg, const struct limits_provider *limits, struct plog *log,
                              int32_t partition, const char *dir, const char *instance_id, uint64_t hash_seed,
                              struct err *err);
/*
 * Loads the checkpoint, starts the threads and the replay; returns before the replay is done. A log that does not answer
 * is asked again for up to a minute.
 */
bool ingester_start(struct ingester *ing, struct err *err);
/*
 * Caught up with the log (README.md: when that is), not stopped, and consuming? If not, ret says in a few words what is
 * wrong. Any thread; asks nobody.
 */
bool ingester_ready(struct ingester *ing, struct err *ret);
/*
 * May it be asked: has it caught up once, and is not stopping? Unlike ingester_ready this does not look at whether it
 * makes progress: what it has is right. ERR_UNAVAILABLE with Mimir's text. Any thread; cheap.
 */
bool ingester_serving(struct ingester *ing, struct err *err);
/* True when it is stopping or has stopped; err then says so as ingester_serving does. Any thread; cheap. */
bool ingester_stopped(struct ingester *ing, struct err *err);
/*
 * Consumes what this process has produced, writes a last checkpoint, commits, joins. The heads stay until the ingester
 * is freed. Once more does nothing; not by two threads at a time.
 */
void ingester_stop(struct ingester *ing);
void ingester_free(struct ingester *ing); /* stopped or never started */

/*
 * The blocks that were cut out of the heads, in <dir>/blocks; for the shipper and pages. Owned by the ingester. A shipper is announced
 * (local_blocks_expect_shipper) before ingester_start, and stopped after ingester_stop and before ingester_free.
 */
struct local_blocks *ingester_local_blocks(struct ingester *ing);
/*
 * Cuts all that the heads have consumed so far into blocks and publishes them; tenant.p == NULL: of all tenants. Waits for a cut that is under way. An unknown
 * tenant has nothing to flush. The first error; the others are tried all the same. Any thread; takes as long as it takes, unless the ingester is stopped.
 */
bool ingester_flush(struct ingester *ing, struct slice tenant, struct err *err);
/* ingester_stop flushes when the flag -blocks-storage.tsdb.flush-blocks-on-shutdown says so; this overrules it (prepare-shutdown). Any thread. */
void ingester_flush_on_stop(struct ingester *ing, bool on);
bool ingester_flushes_on_stop(struct ingester *ing);

/* Writes a checkpoint of everything consumed before the call and waits until it is durable. Any thread. */
bool ingester_checkpoint(struct ingester *ing, struct err *err);
/* Has the keeper write one soon. Any thread. */
void ingester_checkpoint_soon(struct ingester *ing);

/* Waits until everything below `offset` is consumed; ERR_TIMEOUT or ERR_CANCELED by ctx. Any thread. */
bool ingester_wait(struct ingester *ing, int64_t offset, struct ctx *ctx, struct err *err);
/*
 * After the process stood still for seconds (stopped by a signal, moved with its machine) others may still take it for healthy: waits until what was produced
 * meanwhile is consumed, for some seconds at most. At once when it did not. False only by ctx. Any thread; cheap.
 */
bool ingester_awake(struct ingester *ing, struct ctx *ctx, struct err *err);
/*
 * How long ago what is not consumed yet may have been produced: by the last moment up to which the log is known to be consumed (plog_batch.complete_ms; with
 * Kafka and nothing new that is up to about a second), or by the time of the newest record consumed, whichever is less. A process that stood still is behind
 * by as much. Any thread.
 */
int64_t ingester_delay_ms(struct ingester *ing);
/* Owned by the ingester. Any thread. */
struct queryable *ingester_queryable(struct ingester *ing);

struct ingester_user_stats {
    uint64_t num_series;
    uint64_t active_series;
    double api_ingestion_rate; /* samples a second */
    double rule_ingestion_rate;
};
bool ingester_user_stats(struct ingester *ing, struct slice tenant, struct ingester_user_stats *ret);

/* What the pages of tenants show. */
struct ingester_tenant {
    struct slice tenant;   /* lives as long as the ingester */
    uint64_t num_series;
    int64_t min_t;         /* about the oldest sample; INT64_MAX: none */
    int64_t max_t;         /* INT64_MIN: none */
    int64_t min_valid;     /* older samples are not taken in order; INT64_MIN: there is no bound */
    int64_t past_grace_ms; /* the tenant's limits */
    int64_t future_grace_ms;
};
/* All tenants by name into malloc'ed memory; NULL when there are none. Any thread. */
struct ingester_tenant *ingester_tenants(struct ingester *ing, size_t *ret_n);
bool ingester_tenant(struct ingester *ing, struct slice tenant, struct ingester_tenant *ret);
