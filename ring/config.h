/*
 * The configuration that rings have in common: where the ring is kept, and who this process is in it.
 *
 * A room that has a ring makes a table of flags of its own out of the shared rows, with its own names:
 *
 *     static const struct flag_def ingester_ring_kv_flags[] = {
 *     #define RING_FLAG "ingester.ring."
 *     #define RING_YAML "ingester.ring."
 *     #define FLAG(...) FLAG_ROW(kv_config, __VA_ARGS__)
 *     #include "ring/kv_flags.def"
 *     #undef FLAG
 *     };
 *
 * and the same with ring_member_config and ring/member_flags.def, where the ring is one of instances. Each table is added by
 * itself (flag_set_add), with its struct. Immutable once the flags are parsed.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/flags.h"
#include "ring/kv.h"

#define FLAG FLAG_FIELD
struct kv_config {
#include "ring/kv_flags.def"
};
struct ring_member_config {
#include "ring/member_flags.def"
};
#undef FLAG

/* --- the store ------------------------------------------------------------------------------------------------------ */

/* Keys of Mimir's rings, to which the store adds its prefix: "collectors/" + "ring". */
#define RING_KEY_INGESTERS "ring"
#define RING_KEY_INGESTER_PARTITIONS "ingester-partitions"
#define RING_KEY_DISTRIBUTORS "distributor"
#define RING_KEY_STORE_GATEWAYS "store-gateway"

/* The stores that this process has; a ring whose store is NULL here cannot be opened. They must outlive what is opened. */
struct kv_stores {
    struct kv *inmemory;
    struct kv *memberlist;
};

/* Whom a store is opened for. */
struct kv_user {
    const char *flag; /* what the ring's flags start with, for errors: "ingester.ring." */
    /*
     * kv_name of the metrics. Mimir's: "ingester-lifecycler" and "ingester-ring" (who writes the ring and who reads it), the same with distributor;
     * "ingester-partitions-lifecycler" and "ingester-partitions-watcher". What starts with "ingester-partitions" counts in kv_request_duration_seconds,
     * all else in cortex_kv_request_duration_seconds, as it does there.
     */
    const char *name;
};

/*
 * The store of a ring, as its keys without the prefix. To be freed with kv_free, which leaves a store of kv_stores alone. Nothing is connected yet: a
 * server that is down is found by the first operation. cfg and the strings of user are copied. NULL and ERR_CONFIG, which names the flag: a store that is
 * unknown or not there in this process, or settings that make no sense.
 */
struct kv *kv_open(const struct kv_config *cfg, const struct kv_user *user, const struct kv_stores *stores, struct err *err);

/* --- this process as a member ----------------------------------------------------------------------------------------- */

#define RING_ADDR_MAX 280 /* a host name of 255 bytes, brackets and a port fit */

struct ring_member_identity {
    char id[256];
    char addr[RING_ADDR_MAX]; /* "host:port", "[2001:db8::1]:9095" */
    char zone[256];           /* "" = none */
};

/*
 * Fills in what the flags leave open: the host name, an address of the network interfaces, default_port (of gRPC). flag as in struct kv_user.
 * Interfaces that are not named are those of private networks, else any; with none at all the loopback address is taken and a warning logged, so that
 * a single process starts anywhere. ERR_CONFIG, which names the flag, when the named ones have no address, or a value is too long or no port.
 */
bool ring_member_resolve(const struct ring_member_config *cfg, const char *flag, uint16_t default_port,
                         struct ring_member_identity *ret, struct err *err);
