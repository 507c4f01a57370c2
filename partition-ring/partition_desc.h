/*
 * The partitions ring's document, dskit's PartitionRingDesc (docs/formats.md 4.3): partitions with their states and tokens, and which ingesters
 * own them.
 *
 * A plain value as ring/desc.h's: owned by its holder, changed by one thread at a time. Partitions are sorted by id, owners by their
 * id. Times are unix seconds.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"
#include "base/slice.h"
#include "ring/kv.h"

#define PARTITION_OWNERS_MAX 65536

/* The numbers of the format. Deleted ones are tombstones. */
enum partition_state {
    PARTITION_UNKNOWN,
    PARTITION_PENDING,
    PARTITION_ACTIVE,
    PARTITION_INACTIVE,
    PARTITION_DELETED,
    PARTITION_STATES
};

enum partition_owner_state { PARTITION_OWNER_UNKNOWN, PARTITION_OWNER_ACTIVE, PARTITION_OWNER_DELETED };

struct partition {
    int32_t id;
    int32_t state; /* enum partition_state; other values are kept and are nobody's partition */
    int64_t state_s; /* when the state changed */
    bool locked; /* nobody may change the state */
    int64_t locked_s;
    uint32_t *tokens; /* ascending; never change */
    size_t n_tokens;
};

struct partition_owner {
    char *id;
    int32_t partition;
    int32_t state; /* enum partition_owner_state */
    int64_t updated_s;
};

struct partition_desc {
    struct partition *partitions;
    size_t n_partitions;
    size_t cap_partitions;
    struct partition_owner *owners;
    size_t n_owners;
    size_t cap_owners;
};

const char *partition_state_name(int32_t state); /* "PartitionPending", as Mimir's pages write it */

struct partition_desc *partition_desc_new(void);
struct partition_desc *partition_desc_clone(const struct partition_desc *d);
void partition_desc_free(struct partition_desc *d);
bool partition_desc_eq(const struct partition_desc *a, const struct partition_desc *b);

/* NULL when it is not there. Pointers hold until one is added or removed. */
struct partition *partition_desc_find(const struct partition_desc *d, int32_t id);
struct partition_owner *partition_desc_find_owner(const struct partition_desc *d, struct slice id);
/* The one of that id, made empty (state UNKNOWN) when it is not there. */
struct partition *partition_desc_add(struct partition_desc *d, int32_t id);
struct partition_owner *partition_desc_add_owner(struct partition_desc *d, struct slice id);
void partition_desc_remove(struct partition_desc *d, struct partition *p);
void partition_desc_remove_owner(struct partition_desc *d, struct partition_owner *o);
/* A sorted copy without doubles. */
void partition_set_tokens(struct partition *p, const uint32_t *tokens, size_t n);

/* ACTIVE owners of a partition; with before_s only those that were updated before that second (INT64_MAX: all). */
size_t partition_desc_count_owners(const struct partition_desc *d, int32_t partition, int64_t before_s);

/* The protobuf message without snappy. NULL and ERR_CORRUPT when it is damaged. */
struct partition_desc *partition_desc_decode(struct slice message, struct err *err);
void partition_desc_encode(const struct partition_desc *d, struct buf *out);

/* struct kv_codec's promises. */
struct partition_desc *partition_desc_merge(struct partition_desc *local, const struct partition_desc *incoming, bool local_cas,
                                            int64_t now_s);
void partition_desc_remove_tombstones(struct partition_desc *d, int64_t limit_s, size_t *ret_removed, size_t *ret_left);

/* The fields of the message, for people: struct memberlist_view's function. */
void partition_desc_json(const void *value, struct json *j);

/* "partitionRingDesc"; its values are struct partition_desc. */
extern const struct kv_codec partition_desc_codec;
