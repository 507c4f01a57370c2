/*
 * The known series of a tenant: hash of a series' label bytes -> its token, for series that passed validation. Private to write/.
 *
 * What validation, UTF-8 checks and the token cost is paid once a series, not once a sample. An entry says: these label bytes are canonical, valid
 * under the rules of this tenant, and have this token. Two different byte strings under one hash would make a wrong hit; the hash is 128 bits
 * with a secret seed, so that has a chance of 2^-128 a pair and cannot be provoked (model/labels.h).
 *
 * A set-associative cache: buckets of one cache line hold three entries (16 B hash, 4 B token, 1 B generation each). An entry lies in one of the
 * WAYS buckets from its own on; entries are never removed, only replaced, so a bucket with a free slot ends every search: a lookup
 * normally touches one line. The table doubles at two thirds full until the tenant's or the process's bound; from then on the entry of the oldest
 * generation among the WAYS buckets makes room. A generation lasts ten minutes; a hit moves an entry to the newest.
 * Memory: 32 to 64 B a series.
 *
 * Locks: one reader-writer lock; lookups of a whole request under one read lock, insertions of a whole request under one write lock.
 * Growing copies the table under the write lock: 5 ms for 200,000 series, and it doubles each time. Any thread.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "model/write_request.h"

struct known_bucket;

/* Bytes that the caches of all tenants may take. */
struct known_budget {
    atomic_size_t used_bytes;
    size_t max_bytes;
};

struct known_series {
    pthread_rwlock_t lock;
    struct known_bucket *buckets;  /* guarded by lock; generations inside are also written, relaxed, under the read lock */
    size_t n_buckets;              /* guarded by lock; a power of two, 0 before the first insertion */
    size_t n_entries;              /* guarded by lock */
    uint64_t rules;                /* guarded by lock */
    _Atomic uint8_t generation;    /* 1..255, round and round; writers hold the write lock */
    int64_t generation_began_ms;   /* guarded by lock; monotonic clock */
    size_t max_buckets;            /* immutable */
    struct known_budget *budget;   /* not owned */
};

void known_series_init(struct known_series *k, size_t max_series, struct known_budget *budget);
void known_series_release(struct known_series *k);

/*
 * Looks up series[0..n), all hashed, and sets token and WRITE_SERIES_CANONICAL of those known. Series whose labels are not one whole run
 * count as unknown. Indexes of the unknown go to ret_unknown (room for n). rules: a number that changes with the rules of validation; entries made
 * under another one are not used. Returns how many are unknown.
 */
size_t known_series_find(struct known_series *k, uint64_t rules, struct write_series *series, size_t n, uint32_t *ret_unknown);

/* Adds the series named by idx[0..n), valid and canonical under `rules`. now_ms: monotonic. Drops everything first when the rules have changed. */
void known_series_add(struct known_series *k, uint64_t rules, const struct write_series *series, const uint32_t *idx, size_t n,
                      int64_t now_ms);

size_t known_series_count(struct known_series *k);
