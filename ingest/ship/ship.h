/*
 * The shipper: uploads the finished blocks of this process's ingesters to the bucket, and tells local_blocks which are there, so that they may be deleted
 * when their time has come. Nothing is deleted here.
 *
 * Every -blocks-storage.tsdb.ship-interval a round: tenant by tenant, ship-concurrency of them at a time, the blocks of each in the order in which they were
 * cut. What is in the bucket is remembered in <dir>/<tenant>/mimir.shipper.json, Mimir's; the file is a memory only: without it the bucket is asked. A tenant
 * with a failure is passed over for one, two, four, ... intervals, at most ten minutes. A block is shipped when its meta.json is in the bucket, that is
 * after all its files; a failure, a crash or a stop in between is a block without a meta.json, which the next try completes.
 *
 * Of a tenant that is marked for deletion nothing is uploaded: its blocks count as shipped, so that they go with their time.
 *
 * Any thread, but for new, start, stop and free.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ctx.h"
#include "base/err.h"
#include "base/flags.h"
#include "base/slice.h"
#include "ingest/blocks/local_blocks.h"
#include "model/limits.h"
#include "storage/objstore/objstore.h"

struct shipper_config {
#define FLAG FLAG_FIELD
#include "ingest/ship/ship_flags.def"
#undef FLAG
};
extern const struct flag_def shipper_flags[];
extern const size_t shipper_flags_n;

#define SHIPPER_CONCURRENCY_MAX 1024

struct shipper;

/*
 * sources: the local blocks of each ingester of this process; all of this must outlive the shipper. Announces the shipper
 * (local_blocks_expect_shipper), so it is to be called before the ingesters start. ERR_CONFIG names a flag.
 */
struct shipper *shipper_new(struct objstore *bucket, struct local_blocks *const *sources, size_t n_sources, const struct limits_provider *limits,
                            const struct shipper_config *cfg, struct err *err);
/* Once the ingesters have loaded their blocks: says which of them are shipped, and begins with the rounds. With ship-interval 0 there are none. */
void shipper_start(struct shipper *s);
/* Ends the rounds; what is being uploaded is broken off. Fine without start, and twice. */
void shipper_stop(struct shipper *s);
void shipper_free(struct shipper *s); /* stopped; NULL is fine */

/*
 * A round now, back-off or not, of one tenant, or of all where tenant.p is NULL: after a flush. Waits for a round that is under way, and for the end of its own. The
 * first error; the others are tried all the same.
 */
bool shipper_ship(struct shipper *s, const struct ctx *ctx, struct slice tenant, struct err *err);
