/*
 * The distributor: takes pushes, validates them, and puts them into the log. See README.md in this folder.
 *
 * A push is one batch: decompress, scan, hash all series, look all of them up in the tenant's cache of known series (hash -> token,
 * verdict), validate and tokenise the unknown ones, group by partition, produce, answer when durable. Runs on the write pool; the answer is sent from
 * the log's thread.
 */
#pragma once

#include "base/flags.h"
#include "log/plog.h"
#include "model/limits.h"
#include "net/http.h"
#include "partition-ring/partition_view.h"
#include "ring/config.h"
#include "ring/ring.h"

struct write_config {
#define FLAG FLAG_FIELD
#include "write/write_flags.def"
#undef FLAG
};
extern const struct flag_def write_flags[];
extern const size_t write_flags_n;

/* Checks what the types of the flags do not: the hash's name, the bounds of sizes. ERR_CONFIG names the YAML path. */
bool write_config_validate(const struct write_config *cfg, struct err *err);

struct distributor;

/*
 * cfg (validated), limits, log and partitions are not owned and outlive it. A push goes to the partitions that are ACTIVE in the newest view that the watcher
 * has when its records are made; while there is none it is answered 500, "no active partition found".
 */
struct distributor *distributor_new(const struct write_config *cfg, const struct limits_provider *limits, struct plog *log,
                                    struct partition_watcher *partitions, uint64_t hash_seed);
/* After the HTTP server has stopped. Waits for the pushes that the log has not answered yet, so the log is stopped after it, or before it and then done. */
void distributor_free(struct distributor *d);

/*
 * --- the ring of distributors ---
 *
 * Distributors know of each other by a ring (key RING_KEY_DISTRIBUTORS) for one purpose: a tenant's rate limits hold for all of them together, so each lets
 * through its share, the limit over the number of healthy ones (bursts are not divided). A distributor that has joined no ring is alone.
 */
extern const struct flag_def distributor_kv_flags[];     /* of a struct kv_config */
extern const size_t distributor_kv_flags_n;
extern const struct flag_def distributor_member_flags[]; /* of a struct ring_member_config */
extern const size_t distributor_member_flags_n;

/*
 * Appears in the ring, ACTIVE, and follows it; once, before the first push. The stores must outlive the distributor. grpc_port: where others reach this
 * process when the flags do not say. False, with the distributor as it was: the flags are wrong, or the store refuses.
 */
bool distributor_join(struct distributor *d, const struct kv_config *kv, const struct ring_member_config *member,
                      const struct kv_stores *stores, uint16_t grpc_port, struct err *err);
/* Takes the entry out of the ring; pushes may still be in progress. Nothing when it has not joined. */
void distributor_leave(struct distributor *d);
/* For the page of the ring: NULL when it has not joined; the distributor's. */
struct ring *distributor_ring(struct distributor *d);
/* The store of the ring, to forget an instance by; as distributor_ring. */
struct kv *distributor_ring_store(struct distributor *d);

/* Routes of this room; the handlers' arg is the struct distributor. */
extern const struct http_route write_routes[];
extern const size_t write_routes_n;
/* The distributor's words for what the server refuses of its routes: give it to http_server_on_refusal. */
http_refuse_fn write_refuse;
