/*
 * This process's own entry in an instance ring: to appear, to beat, to change state, to go.
 *
 * The lifecycler holds what the entry should be (state, read-only); every write to the store writes all of it. So a write that fails is made good by
 * the next heartbeat, and an entry that others forgot comes back with its old tokens and registration time.
 *
 * Threads: any thread may call. `start` makes one thread, which beats; without it whoever owns the lifecycler calls lifecycler_heartbeat. No lock is held
 * while the store works: a store's change function takes the wish anew each time it runs, and the store repeats it when another write was faster, so the last
 * wish wins.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "ring/desc.h"
#include "ring/kv.h"

/* Time and chance, faked in tests. */
struct lifecycler_env {
    int64_t (*now_ms)(void *arg);
    uint32_t (*random_u32)(void *arg);
    void *arg;
};
extern const struct lifecycler_env lifecycler_env_system;

/* Strings are copied. */
struct lifecycler_config {
    /* Of the metrics: "ingester", "distributor"; one lifecycler of a name in a process. NULL: none. */
    const char *name;
    const char *key;  /* as the store knows it: "ring" where the store has a prefix */
    const char *id;
    const char *addr; /* "host:port" */
    const char *zone;
    size_t n_tokens; /* at most RING_TOKENS_MAX */
    int64_t heartbeat_period_ms; /* > 0 */
    int64_t forget_after_ms;     /* whoever has not beaten for so long is removed by our heartbeat; 0: nobody is */
    bool unregister_on_stop;     /* else the entry stays, LEAVING, with its tokens */
    /* Where the tokens are kept too, so that they survive when the ring does not or the entry has left it; those of an entry that is in the ring are newer. NULL or "": nowhere. */
    const char *tokens_file;
};

struct lifecycler;

struct lifecycler *lifecycler_new(struct kv *kv, const struct lifecycler_config *config, const struct lifecycler_env *env);
/* Stopped or never started. Does not touch the store. NULL is fine. */
void lifecycler_free(struct lifecycler *l);

/* Writes the entry in this state (PENDING, JOINING or ACTIVE). Tokens, registration time and read-only of an entry that is there already are kept. */
bool lifecycler_register(struct lifecycler *l, enum ring_state state, struct err *err);
/* ERR_CONFLICT when ring_state_may_change says no, and nothing is changed. */
bool lifecycler_set_state(struct lifecycler *l, enum ring_state state, struct err *err);
bool lifecycler_set_read_only(struct lifecycler *l, bool read_only, struct err *err);
bool lifecycler_heartbeat(struct lifecycler *l, struct err *err);
/* Removes the entry; a heartbeat later would bring it back, so it comes last. */
bool lifecycler_unregister(struct lifecycler *l, struct err *err);
enum ring_state lifecycler_state(struct lifecycler *l);
bool lifecycler_read_only(struct lifecycler *l, int64_t *ret_updated_s);
/* Overrules unregister_on_stop: the downscale endpoints decide it late. */
void lifecycler_set_unregister_on_stop(struct lifecycler *l, bool unregister);

/* Beats in a thread of its own, once it is registered. */
void lifecycler_start(struct lifecycler *l);
/* Ends the thread, then the entry is removed or becomes LEAVING (a PENDING one stays so). The error is that of the store; the thread has ended in any case. */
bool lifecycler_stop(struct lifecycler *l, struct err *err);
