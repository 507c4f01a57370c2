/*
 * An ingester's part in the life of partitions: it creates its own, owns it, activates it, and clears away what others abandoned.
 *
 * Every poll (5 s) does whatever is due; a poll that fails is made good by the next. Threads: any thread may call; `start` makes one thread that
 * polls. Switches are atomic; no locks are held while the store works.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "partition-ring/lifecycle.h"
#include "ring/kv.h"
#include "ring/lifecycler.h"

#define PARTITION_POLL_MS 5000

/* Strings are copied. */
struct partition_lifecycler_config {
    const char *key;   /* "collectors/ingester-partitions" */
    const char *owner; /* the ingester's instance id */
    int32_t partition;
    struct partition_rules rules;
    int64_t poll_ms;           /* > 0 */
    bool create_on_start;      /* else wait until another has created the partition */
    bool remove_owner_on_stop; /* else the owner stays: a restart */
};

struct partition_lifecycler;

struct partition_lifecycler *partition_lifecycler_new(struct kv *kv, const struct partition_lifecycler_config *config,
                                                      const struct lifecycler_env *env);
/* Stopped or never started. NULL is fine. */
void partition_lifecycler_free(struct partition_lifecycler *l);

/*
 * Creates the partition (or finds it) and becomes its owner; later calls activate and delete. *ret_joined says whether we are its owner now: false
 * as long as it does not exist and we shall not create it.
 */
bool partition_lifecycler_poll(struct partition_lifecycler *l, bool *ret_joined, struct err *err);
/* See partition_change_state. */
bool partition_lifecycler_change_state(struct partition_lifecycler *l, enum partition_state to, struct err *err);
/* The state of our partition and when it changed. ERR_NOT_FOUND. */
bool partition_lifecycler_state(struct partition_lifecycler *l, enum partition_state *ret_state, int64_t *ret_changed_s,
                                struct err *err);
/* prepare-shutdown says so and takes it back. */
void partition_lifecycler_set_create_on_start(struct partition_lifecycler *l, bool create);
void partition_lifecycler_set_remove_owner_on_stop(struct partition_lifecycler *l, bool remove);

void partition_lifecycler_start(struct partition_lifecycler *l);
/* Ends the thread; then the owner is removed if it shall be. The error is the store's; the thread has ended in any case. */
bool partition_lifecycler_stop(struct partition_lifecycler *l, struct err *err);
