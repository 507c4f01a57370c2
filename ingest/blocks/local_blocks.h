/*
 * Local blocks: the blocks that an ingester has cut out of its heads and still keeps, of all its tenants.
 *
 *     <dir>/<tenant>/<ULID>/            a published block
 *     <dir>/<tenant>/pending/<ULID>/    written and readable, but the head's checkpoint on disk may still have its samples
 *     <dir>/<tenant>/deleting/<ULID>/   on its way out
 *     <dir>/<tenant>/mimir.shipper.json the shipper's; this room does not look at it
 *
 * The life of one: the cutter writes it below pending/ and adds it (it is read from now on); once a checkpoint that names it is durable it is published by a
 * rename; the shipper is told of published ones only, and says which it has uploaded and when; the retention period after that it is deleted, so that who was away or late still finds here
 * what the bucket index does not tell yet. Without a shipper it is deleted when all its samples are older than the retention period. Blocks are referenced: one that is deleted stays mapped until its last reader is done.
 *
 * A block that turns out to be damaged is logged and counted, and stays in the list. Whoever needs its time gets ERR_CORRUPT with its name, rather than an answer that lacks it; other
 * times are answered. It is not given to the shipper.
 *
 * Any function may be called from any thread, except where it says "start". One mutex guards the lists; no I/O is done under it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"
#include "storage/block/block.h"

struct local_blocks;

struct local_blocks_config {
    const char *dir;         /* made when absent */
    int64_t retention_ms;    /* -blocks-storage.tsdb.retention-period; 0 = blocks are never deleted */
    int64_t store_has_it_ms; /* queriers ask the store for what is older than this (-querier.query-store-after): a damaged block that is shipped may go then */
};

struct local_blocks *local_blocks_new(const struct local_blocks_config *cfg, struct err *err);
void local_blocks_free(struct local_blocks *lb); /* NULL is fine; no reference may be left */

/* --- start, in this order, by one thread --------------------------------------------------------------------------------------- */

/*
 * Publishes what a tenant's checkpoint names: it is durable, so the samples are in no head. Those that are published already, or were deleted since, are
 * passed over.
 */
bool local_blocks_publish_named(struct local_blocks *lb, struct slice tenant, const struct ulid *ulids, size_t n, struct err *err);
/* Removes all other pending blocks (their samples are in the heads) and opens the published ones; one that cannot be opened is listed as damaged. */
bool local_blocks_load(struct local_blocks *lb, struct err *err);

/* --- cutting: one cutter a tenant ---------------------------------------------------------------------------------------------- */

/* The folder in which the tenant's next blocks are to be written, made when absent. */
bool local_blocks_pending_dir(struct local_blocks *lb, struct slice tenant, char *out, size_t cap, struct err *err);
/* Opens pending/<ulid> of each and lists them all or none: from now on they are read. */
bool local_blocks_add(struct local_blocks *lb, struct slice tenant, const struct ulid *ulids, size_t n, struct err *err);
/* Removes blocks that were written and not added: the cut has failed. Logs what stays. */
void local_blocks_discard(struct local_blocks *lb, struct slice tenant, const struct ulid *ulids, size_t n);
/* A checkpoint that names them is durable. */
bool local_blocks_publish(struct local_blocks *lb, struct slice tenant, const struct ulid *ulids, size_t n, struct err *err);

/* --- reading ------------------------------------------------------------------------------------------------------------------- */

struct local_block;

/* The tenant's blocks that may have something in [min_t, max_t]; malloc'ed, by their beginning. */
struct local_block_refs {
    struct local_block **blocks;
    size_t n;
};
/*
 * A reader that wants heads too takes its references to their data first: what a truncation takes out of a head was listed here before. ERR_CORRUPT when one
 * that it would need is damaged.
 */
bool local_blocks_get(struct local_blocks *lb, struct slice tenant, int64_t min_t, int64_t max_t, struct local_block_refs *ret, struct err *err);
void local_block_refs_release(struct local_block_refs *refs);
/* Valid as long as the reference. */
struct block *local_block_reader(const struct local_block *b);
/* Reading it gave ERR_CORRUPT: it is damaged from now on; logged once. Other codes are passed over. */
void local_block_failed(struct local_block *b, const struct err *why);

/* --- shipping ------------------------------------------------------------------------------------------------------------------ */

/* There is a shipper: from now on a block is kept until it is shipped. To be called before the ingester starts. */
void local_blocks_expect_shipper(struct local_blocks *lb);

/* A published block. Strings and all in one malloc'ed array (see below). */
struct local_block_info {
    struct ulid ulid;
    int64_t min_t;    /* of its meta.json */
    int64_t max_t;    /* exclusive */
    bool out_of_order;
    int64_t shipped_ms; /* wall clock; 0: it is not */
    bool damaged;
    uint64_t bytes;   /* of index and chunks */
    char path[512];   /* its folder */
};
/*
 * All published blocks of a tenant by ULID, so in the order in which they were cut; *ret_n 0 and NULL when there are none. To be freed. The folder of a block that
 * is not shipped stays while a shipper is expected; ship what is neither shipped nor damaged.
 */
struct local_block_info *local_blocks_list(struct local_blocks *lb, struct slice tenant, size_t *ret_n);
/* Tenants that have blocks, by name: one malloc'ed array, strings in it. NULL when there are none. */
struct slice *local_blocks_tenants(struct local_blocks *lb, size_t *ret_n);
/* The shipper has proof that it is in the bucket since then (meta.json uploaded last; not 0). An unknown one is passed over, so that a shipper may tell its whole file. */
void local_blocks_set_shipped(struct local_blocks *lb, struct slice tenant, const struct ulid *block, int64_t at_ms);
/* The folder for the shipper's own file of a tenant: <dir>/<tenant>. */
void local_blocks_tenant_dir(const struct local_blocks *lb, struct slice tenant, char *out, size_t cap);

/* --- upkeep -------------------------------------------------------------------------------------------------------------------- */

/* Deletes what may go at that time; returns how many blocks. */
size_t local_blocks_expire(struct local_blocks *lb, int64_t now_ms);
/* Has the tenant a block that waits for its publication, or for its shipping while a shipper is expected? */
bool local_blocks_waiting(struct local_blocks *lb, struct slice tenant);
