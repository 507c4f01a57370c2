/*
 * An ingester's membership: its entry in the instance ring, its partition in the partitions ring, and the endpoints
 * with which an operator takes it out of both.
 *
 * Start: JOINING while the log is replayed -> ACTIVE once it has caught up; then the partition is created and owned, by
 * the poll of its lifecycler. Stop: LEAVING, then unregistered or not; the partition's owner stays through a restart
 * and goes when prepare-shutdown said so. What prepare-shutdown said survives a crash (shutdown-requested.txt in the
 * ingester's folder); a stop that did it takes the file away.
 *
 * Threads: those of the two lifecyclers, and one that waits for the ingester to catch up and ends when it has joined.
 * Any thread may call what has no other word; start, stop and free are the owner's. See README.md in this folder.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/flags.h"
#include "ingest/ingest.h"
#include "net/http.h"
#include "partition-ring/config.h"
#include "partition-ring/lifecycler.h"
#include "ring/config.h"
#include "ring/lifecycler.h"

/* -ingester.ring.*, but for the rows that all rings share. */
struct ingester_ring_config {
#define FLAG FLAG_FIELD
#include "ingest/member/ingester_ring_flags.def"
#undef FLAG
};
extern const struct flag_def ingester_ring_flags[];
extern const size_t ingester_ring_flags_n;
/* The shared rows of ring/member_flags.def under -ingester.ring.*; their struct is ring_member_config. */
extern const struct flag_def ingester_ring_member_flags[];
extern const size_t ingester_ring_member_flags_n;

/*
 * The partition of an instance: the number at the end of its id, "ingester-zone-a-7" -> 7. ERR_CONFIG, which names the
 * flag, when there is none.
 */
bool member_partition_of(const char *instance_id, int32_t *ret_partition, struct err *err);

/* Strings and env are copied by member_new. */
struct member_config {
    struct lifecycler_config instance; /* unregister_on_stop is what DELETE unregister-on-shutdown goes back to */
    struct partition_lifecycler_config partition;
    const char *partition_shown_key;  /* with the store's prefix: "collectors/ingester-partitions"; errors name it. NULL: the key */
    int64_t heartbeat_timeout_ms;     /* of the instance ring: an entry of our id that is younger is somebody's */
    int64_t min_ready_ms;             /* not ready before so long after joining */
    int64_t observe_ms;               /* JOINING for at least so long */
    int64_t final_sleep_ms;           /* between leaving the ring and the end, so that metrics are scraped once more */
    const char *tokens_file;          /* NULL or "": tokens live in the ring only */
    const char *dir;                  /* where shutdown-requested.txt lies; exists when the member is started */
    const struct lifecycler_env *env; /* NULL: lifecycler_env_system */
};
/*
 * What the flags say; pointers into the arguments. A process that is alone in its rings sets min_ready_ms to 0: nobody
 * else has to hear of it. ERR_CONFIG names the flag.
 */
bool member_config_of(const struct ingester_ring_config *ring, const struct ring_member_config *shared,
                      const struct partition_ring_config *partitions, const struct ring_member_identity *self,
                      int32_t partition, const char *dir, struct member_config *ret, struct err *err);

struct member;

/* kv: of the instance ring; partition_kv: of the partitions ring (the same store or another). Everything given but cfg
 * must outlive the member. */
struct member *member_new(const struct member_config *cfg, struct kv *kv, struct kv *partition_kv, struct ingester *ing,
                          struct err *err);
/* Registers and starts the threads; after ingester_start. */
bool member_start(struct member *m, struct err *err);
/* In both rings for long enough, and consuming? If not, ret says what is missing. It includes ingester_ready. */
bool member_ready(struct member *m, struct err *ret);
/* Before ingester_stop: says to the others that we go. Nothing when it was never started. */
void member_leave(struct member *m);
/* After ingester_stop: takes the entry and the owner away where that is wanted. Ends the threads. */
void member_stop(struct member *m);
/* Stopped or never started; NULL is fine. */
void member_free(struct member *m);

/*
 * /ingester/prepare-shutdown, prepare-partition-downscale, prepare-instance-ring-downscale, unregister-on-shutdown,
 * shutdown, tenants and tsdb/{tenant}; arg: struct member.
 */
extern const struct http_route member_routes[];
extern const size_t member_routes_n;
