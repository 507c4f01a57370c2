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

/* Routes of this room; the handlers' arg is the struct distributor. */
extern const struct http_route write_routes[];
extern const size_t write_routes_n;
/* The distributor's words for what the server refuses of its routes: give it to http_server_on_refusal. */
http_refuse_fn write_refuse;
