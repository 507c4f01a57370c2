/*
 * The parts of a membership: member.c (life), requests.c and tenants.c (endpoints), files.c (marker, tokens), config.c
 * (flags).
 *
 * Locks: `act` is held by whoever changes where we stand (a request that changes something, leave, stop), also while
 * the stores and the disk work and while /ingester/shutdown drains: two of them at a time would undo each other. `lock`
 * guards the fields below it, is taken after `act` and never held while anything waits.
 */
#pragma once

#include <pthread.h>

#include "ingest/member/member.h"

enum member_phase {
    MEMBER_NEW,     /* not in the ring */
    MEMBER_JOINING, /* registered; the log is being replayed */
    MEMBER_ACTIVE,  /* ACTIVE; the partition may still have to be joined */
    MEMBER_LEAVING, /* told that we go */
    MEMBER_LEFT,    /* the rings are as they shall be without us */
};

struct member {
    struct lifecycler_env env; /* immutable, as all down to `act` */
    struct kv *kv;
    struct kv *partition_kv;
    struct ingester *ing;
    struct lifecycler *instance;
    struct partition_lifecycler *owner;
    char *key, *partition_key, *partition_shown_key, *id, *addr, *zone, *dir, *tokens_file;
    int32_t partition;
    size_t n_tokens;
    bool unregister_by_flag;
    bool flush_by_flag;
    bool create_partition;
    int64_t poll_ms;
    int64_t heartbeat_timeout_ms;
    int64_t min_ready_ms;
    int64_t observe_ms;
    int64_t final_sleep_ms;
    struct metric *m_prepared;

    pthread_mutex_t act;
    pthread_t thread; /* act */
    bool has_thread;  /* act */

    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping; /* the thread shall end */
    enum member_phase phase;
    bool joined;   /* the partition is there and ours */
    bool prepared; /* prepare-shutdown */
    bool unregister;
    int64_t joining_since_ms; /* by env, as the next */
    int64_t ready_since_ms;   /* when joined became true */
};

/* --- member.c --- */

enum member_phase member_phase(struct member *m);
/* What the next stop does with the entry. Under act. */
void member_set_unregister(struct member *m, bool unregister);
/* Prepared for a stop for good, or not any more; the marker is the caller's. Under act. */
void member_set_prepared(struct member *m, bool prepared);
/* One round of the thread: goes as far as it can. Returns when to come again, in ms; -1: everything is joined. */
int64_t member_step(struct member *m);
/* All of POST /ingester/shutdown: consumption ends with a checkpoint, both rings are left. Once more tries what failed.
 */
bool member_shut_down(struct member *m, struct err *err);

/* --- marker.c --- */

#define MEMBER_MARKER "shutdown-requested.txt"

bool marker_write(const char *dir, int64_t now_ms, struct err *err);
bool marker_there(const char *dir, bool *ret, struct err *err);
bool marker_remove(const char *dir, struct err *err);

/* --- tenants.c --- */
http_handler tenants_page, tenant_page;
