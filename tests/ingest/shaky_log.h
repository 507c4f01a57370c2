/* A log in front of a real one that fails, is slow or loses its beginning when the test wants it. */
#pragma once

#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/assert.h"
#include "log/plog_int.h"

struct shaky_log {
    struct plog base;
    _Atomic(struct plog *) inner;
    atomic_int failing_fetches; /* so many to come; negative: all */
    atomic_int failing_offsets;
    atomic_int failing_commits;
    atomic_int offsets_us; /* how long the question for the ends takes */
    atomic_bool frozen;    /* no fetch comes back */
    _Atomic int64_t first; /* the log says that it begins here, if that is later */
};

static inline struct plog *shaky_inner(struct plog *log, struct shaky_log **ret)
{
    *ret = CONTAINER_OF(log, struct shaky_log, base);
    return atomic_load(&(*ret)->inner);
}

/* Takes one of the failures. */
static inline bool shaky_ok(atomic_int *failing, struct err *err)
{
    int n = atomic_load(failing);
    if (n > 0)
        atomic_fetch_sub(failing, 1);
    return n == 0 || err_set(err, ERR_UNAVAILABLE, "the log is away");
}

static inline bool shaky_fetch(struct plog *log, int32_t partition, int64_t offset, size_t max_bytes,
                               int64_t timeout_ms, struct plog_batch *ret, struct err *err)
{
    struct shaky_log *s;
    struct plog *inner = shaky_inner(log, &s);
    while (atomic_load(&s->frozen))
        usleep(1000);
    return shaky_ok(&s->failing_fetches, err) && plog_fetch(inner, partition, offset, max_bytes, timeout_ms, ret, err);
}

static inline bool shaky_offsets(struct plog *log, int32_t partition, int64_t *ret_first, int64_t *ret_next,
                                 struct err *err)
{
    struct shaky_log *s;
    struct plog *inner = shaky_inner(log, &s);
    usleep((useconds_t)atomic_load(&s->offsets_us));
    if (!shaky_ok(&s->failing_offsets, err) || !plog_offsets(inner, partition, ret_first, ret_next, err))
        return false;
    *ret_first = MAX(*ret_first, atomic_load(&s->first));
    return true;
}

static inline bool shaky_offset_at(struct plog *log, int32_t partition, int64_t t, int64_t *ret, struct err *err)
{
    struct shaky_log *s;
    struct plog *inner = shaky_inner(log, &s);
    if (!plog_offset_at(inner, partition, t, ret, err))
        return false;
    *ret = MAX(*ret, atomic_load(&s->first));
    return true;
}

static inline bool shaky_commit(struct plog *log, struct slice group, int32_t partition, int64_t offset,
                                struct err *err)
{
    struct shaky_log *s;
    struct plog *inner = shaky_inner(log, &s);
    return shaky_ok(&s->failing_commits, err) && plog_commit(inner, group, partition, offset, err);
}

static inline bool shaky_committed(struct plog *log, struct slice group, int32_t partition, int64_t *ret,
                                   struct err *err)
{
    struct shaky_log *s;
    return plog_committed(shaky_inner(log, &s), group, partition, ret, err);
}

static inline void shaky_set_needed_from(struct plog *log, int32_t partition, int64_t offset)
{
    struct shaky_log *s;
    plog_set_needed_from(shaky_inner(log, &s), partition, offset);
}

static inline void shaky_wake(struct plog *log, int32_t partition)
{
    struct shaky_log *s;
    plog_wake(shaky_inner(log, &s), partition);
}

static inline void shaky_init(struct shaky_log *s, struct plog *inner)
{
    static const struct plog_ops ops = {.fetch = shaky_fetch,
                                        .offsets = shaky_offsets,
                                        .offset_at = shaky_offset_at,
                                        .commit = shaky_commit,
                                        .committed = shaky_committed,
                                        .set_needed_from = shaky_set_needed_from,
                                        .wake = shaky_wake};
    *s = (struct shaky_log){.base = {.ops = &ops, .n_partitions = plog_partitions(inner)}};
    atomic_init(&s->inner, inner);
}
