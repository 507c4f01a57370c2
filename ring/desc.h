/*
 * The instance ring's document, dskit's ring.Desc (docs/formats.md 4.1, 4.2): who is there, in what state, with which tokens.
 *
 * A plain value: owned by whoever holds it, changed by one thread at a time, copied to be shared. Instances are sorted by id, an
 * instance's tokens ascending and without doubles; decoding sees to both. Strings are never NULL. Times are unix seconds, as in the document.
 * Out of memory ends the process: a document is small (1000 instances of 128 tokens are 0.7 MB).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/slice.h"
#include "ring/kv.h"

#define RING_INSTANCES_MAX 65536

/* The numbers of the format. RING_LEFT is the tombstone. */
enum ring_state { RING_ACTIVE, RING_LEAVING, RING_PENDING, RING_JOINING, RING_LEFT, RING_STATES };

struct ring_version {
    uint64_t component;
    uint64_t version;
};

struct ring_instance {
    char *id;      /* the key in the document's map */
    char *addr;    /* "host:port" */
    char *zone;    /* "" when zones are not used */
    char *name;    /* field 9; other programs write the id once more */
    int32_t state; /* enum ring_state; other values are kept and count as unhealthy */
    int64_t timestamp_s;          /* last heartbeat; the newest wins in a merge */
    int64_t registered_s;         /* 0 = unknown */
    int64_t read_only_updated_s;
    bool read_only;
    uint32_t *tokens;
    size_t n_tokens;
    struct ring_version *versions; /* ascending components */
    size_t n_versions;
};

struct ring_desc {
    struct ring_instance *instances;
    size_t n;
    size_t cap;
};

/* "ACTIVE"; "UNKNOWN" for other numbers. */
const char *ring_state_name(int32_t state);
/*
 * What an instance may do to its own state:
 *
 *     PENDING <--> JOINING ---> ACTIVE ---> LEAVING ---> LEFT (by unregistering)
 *        |            |          ^  |          ^
 *        +------------|----------+  +----------+
 *                     +------------------------+   (and LEAVING ---> ACTIVE: back after a restart)
 *
 * To stay is always allowed.
 */
bool ring_state_may_change(int32_t from, int32_t to);

struct ring_desc *ring_desc_new(void);
struct ring_desc *ring_desc_clone(const struct ring_desc *d);
void ring_desc_free(struct ring_desc *d);

/* NULL when it is not there. Pointers into a document hold until an instance is added or removed. */
struct ring_instance *ring_desc_find(const struct ring_desc *d, struct slice id);
/* The instance of that id, made empty (ACTIVE, no tokens, name = id) when it is not there. */
struct ring_instance *ring_desc_add(struct ring_desc *d, struct slice id);
void ring_desc_remove(struct ring_desc *d, struct ring_instance *in);

/* Replace a string or the tokens by copies; tokens are sorted and freed of doubles. */
void ring_string_set(char **field, struct slice value);
void ring_instance_set_tokens(struct ring_instance *in, const uint32_t *tokens, size_t n);
bool ring_instance_eq(const struct ring_instance *a, const struct ring_instance *b);
bool ring_desc_eq(const struct ring_desc *a, const struct ring_desc *b);

/* The heartbeat is no older than timeout_ms (0: it does not matter). now_ms is wall time. */
bool ring_instance_alive(const struct ring_instance *in, int64_t timeout_ms, int64_t now_ms);
/* Removes instances whose heartbeat is older than forget_after_ms (> 0). Returns how many. */
size_t ring_desc_forget(struct ring_desc *d, int64_t forget_after_ms, int64_t now_ms);
/*
 * n new random tokens, none of which anybody in d has, ascending into ret[n]. random_u32 is the source. n is at most RING_TOKENS_MAX, so that
 * the ring cannot be full.
 */
#define RING_TOKENS_MAX 4096
void ring_desc_new_tokens(const struct ring_desc *d, uint32_t (*random_u32)(void *arg), void *arg, size_t n, uint32_t *ret);

/* The protobuf message without snappy. NULL and ERR_CORRUPT when it is damaged. */
struct ring_desc *ring_desc_decode(struct slice message, struct err *err);
void ring_desc_encode(const struct ring_desc *d, struct buf *out);

/* struct kv_codec's promises. The change that is returned is a struct ring_desc. */
struct ring_desc *ring_desc_merge(struct ring_desc *local, const struct ring_desc *incoming, bool local_cas, int64_t now_s);
void ring_desc_remove_tombstones(struct ring_desc *d, int64_t limit_s, size_t *ret_removed, size_t *ret_left);

/* "ringDesc"; its values are struct ring_desc. */
extern const struct kv_codec ring_desc_codec;
