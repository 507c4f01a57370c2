/*
 * An ingester's membership: its entry in the instance ring, its partition in the partitions ring, and the endpoints with which an operator takes
 * it out of both.
 *
 * Start: PENDING -> JOINING while the log is replayed -> ACTIVE once it has caught up; the partition is created and owned by the poll of its
 * lifecycler. Stop: LEAVING, or unregistered; the partition's owner stays through a restart and goes when prepare-shutdown said so. What
 * prepare-shutdown said survives a restart (shutdown-requested.txt in the ingester's folder).
 *
 * Threads: those of the two lifecyclers, and one that waits for the ingester to catch up. Any thread may call.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "ingest/ingest.h"
#include "net/http.h"
#include "partition-ring/lifecycler.h"
#include "ring/lifecycler.h"

/*
 * The partition of an instance: the number at the end of its id, "ingester-zone-a-7" -> 7. ERR_CONFIG, which names the flag, when there is none.
 */
bool member_partition_of(const char *instance_id, int32_t *ret_partition, struct err *err);

struct member_config {
    struct lifecycler_config instance;
    struct partition_lifecycler_config partition;
    int64_t min_ready_ms;  /* -ingester.ring.min-ready-duration: not ready before */
    int64_t final_sleep_ms; /* between leaving the ring and the end, so that metrics are scraped once more */
    const char *dir;       /* where shutdown-requested.txt lies */
};

struct member;

/* kv: of the instance ring; partition_kv: of the partitions ring (the same store or another). cfg is copied. Everything given must outlive the member. */
struct member *member_new(const struct member_config *cfg, struct kv *kv, struct kv *partition_kv, struct ingester *ing, struct err *err);
/* Registers and starts the threads; after ingester_start. */
bool member_start(struct member *m, struct err *err);
/* ACTIVE in the ring for long enough, and consuming? If not, ret says what is missing. */
bool member_ready(struct member *m, struct err *ret);
/* Before ingester_stop: says to the others that we go. */
void member_leave(struct member *m);
/* After ingester_stop: takes the entry and the owner away where that is wanted. Ends the threads. */
void member_stop(struct member *m);
void member_free(struct member *m);

/* /ingester/prepare-shutdown, prepare-partition-downscale, prepare-instance-ring-downscale, unregister-on-shutdown, flush, shutdown; arg: struct member. */
extern const struct http_route member_routes[];
extern const size_t member_routes_n;
