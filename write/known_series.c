/* See known_series.h. */
#include "write/known_series.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/assert.h"

#define SLOTS 3
#define WAYS 8 /* at two thirds full one series in 700 finds no place in 8 buckets, one in 100 none in 4 */
#define FIRST_BUCKETS 256
#define GENERATION_MS (10 * 60 * 1000)
#define HUGE_PAGE ((size_t)2 << 20)
#define PREFETCH_AHEAD 16

struct known_bucket {
    struct series_hash hash[SLOTS];
    uint32_t token[SLOTS];
    uint8_t generation[SLOTS]; /* 0: the slot is free; slots fill from the first on */
    uint8_t unused;
};
_Static_assert(sizeof(struct known_bucket) == CACHE_LINE, "one bucket, one line");

static size_t full_at(size_t n_buckets)
{
    return n_buckets * SLOTS * 2 / 3;
}

void known_series_init(struct known_series *k, size_t max_series, struct known_budget *budget)
{
    memset(k, 0, sizeof(*k));
    pthread_rwlock_init(&k->lock, NULL);
    k->budget = budget;
    atomic_init(&k->generation, 1);
    while (full_at(k->max_buckets) < max_series)
        k->max_buckets = k->max_buckets ? 2 * k->max_buckets : FIRST_BUCKETS;
}

/*
 * Zeroed. Whole huge pages: at random access they save a TLB miss a lookup. A mapping of its own, not of the allocator: memory that was a huge page once would become one
 * again with the first byte that somebody else writes to it.
 */
static void *map_huge(size_t bytes)
{
    char *p = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    size_t before = -(uintptr_t)p & (HUGE_PAGE - 1);
    if (before)
        munmap(p, before);
    munmap(p + before + bytes, HUGE_PAGE - before);
    madvise(p + before, bytes, MADV_HUGEPAGE); /* only a hint */
    return p + before;
}

static struct known_bucket *alloc_buckets(size_t n)
{
    size_t bytes = n * sizeof(struct known_bucket);
    if (bytes >= HUGE_PAGE)
        return map_huge(bytes);
    struct known_bucket *b = aligned_alloc(CACHE_LINE, bytes);
    if (b)
        memset(b, 0, bytes);
    return b;
}

static void release_buckets(struct known_bucket *b, size_t n)
{
    if (n * sizeof(*b) < HUGE_PAGE)
        free(b);
    else
        munmap(b, n * sizeof(*b));
}

static void free_buckets(struct known_series *k)
{
    atomic_fetch_sub_explicit(&k->budget->used_bytes, k->n_buckets * sizeof(*k->buckets), memory_order_relaxed);
    release_buckets(k->buckets, k->n_buckets);
    k->buckets = NULL;
    k->n_buckets = k->n_entries = 0;
}

void known_series_release(struct known_series *k)
{
    free_buckets(k);
    pthread_rwlock_destroy(&k->lock);
}

/* The slot with this hash from bucket `home` on, or NULL. */
static inline struct known_bucket *find(const struct known_series *k, struct series_hash hash, size_t *ret_slot)
{
    for (size_t way = 0; way < WAYS; way++) {
        struct known_bucket *b = &k->buckets[(hash.lo + way) & (k->n_buckets - 1)];
        for (size_t slot = 0; slot < SLOTS; slot++) {
            if (series_hash_eq(b->hash[slot], hash) && __atomic_load_n(&b->generation[slot], __ATOMIC_RELAXED)) {
                *ret_slot = slot;
                return b;
            }
        }
        if (!__atomic_load_n(&b->generation[SLOTS - 1], __ATOMIC_RELAXED))
            return NULL;
    }
    return NULL;
}

size_t known_series_find(struct known_series *k, uint64_t rules, struct write_series *series, size_t n, uint32_t *ret_unknown)
{
    size_t n_unknown = 0;
    pthread_rwlock_rdlock(&k->lock);
    const bool usable = k->n_buckets && k->rules == rules;
    const uint8_t generation = atomic_load_explicit(&k->generation, memory_order_relaxed);
    const size_t mask = k->n_buckets - 1;
    for (size_t i = 0; i < n; i++) {
        struct write_series *s = &series[i];
        if (usable && i + PREFETCH_AHEAD < n)
            __builtin_prefetch(&k->buckets[series[i + PREFETCH_AHEAD].hash.lo & mask]);
        size_t slot;
        struct known_bucket *b = usable && (s->flags & WRITE_SERIES_SPAN_WHOLE) ? find(k, s->hash, &slot) : NULL;
        if (!b) {
            ret_unknown[n_unknown++] = (uint32_t)i;
            continue;
        }
        s->token = b->token[slot];
        s->flags |= WRITE_SERIES_CANONICAL;
        if (__atomic_load_n(&b->generation[slot], __ATOMIC_RELAXED) != generation)
            __atomic_store_n(&b->generation[slot], generation, __ATOMIC_RELAXED);
    }
    pthread_rwlock_unlock(&k->lock);
    return n_unknown;
}

/* How many generations ago; generations run 1..255 and begin anew. */
static unsigned age_of(const struct known_series *k, uint8_t generation)
{
    unsigned now = atomic_load_explicit(&k->generation, memory_order_relaxed);
    return (now + 255U - generation) % 255U;
}

static void set_slot(struct known_series *k, struct known_bucket *b, size_t slot, struct series_hash hash, uint32_t token,
                     uint8_t generation)
{
    k->n_entries += b->generation[slot] == 0;
    b->hash[slot] = hash;
    b->token[slot] = token;
    b->generation[slot] = generation;
}

/* Into a free slot, else over the oldest of the WAYS buckets. */
static void insert(struct known_series *k, struct series_hash hash, uint32_t token, uint8_t generation)
{
    struct known_bucket *oldest = NULL;
    size_t oldest_slot = 0;
    unsigned oldest_age = 0;
    for (size_t way = 0; way < WAYS; way++) {
        struct known_bucket *b = &k->buckets[(hash.lo + way) & (k->n_buckets - 1)];
        for (size_t slot = 0; slot < SLOTS; slot++) {
            if (!b->generation[slot] || series_hash_eq(b->hash[slot], hash)) {
                set_slot(k, b, slot, hash, token, generation);
                return;
            }
            unsigned age = age_of(k, b->generation[slot]);
            if (!oldest || age > oldest_age) {
                oldest = b;
                oldest_slot = slot;
                oldest_age = age;
            }
        }
    }
    set_slot(k, oldest, oldest_slot, hash, token, generation);
}

/* Takes n buckets from the process's budget. */
static bool budget_take(struct known_budget *budget, size_t bytes)
{
    size_t used = atomic_fetch_add_explicit(&budget->used_bytes, bytes, memory_order_relaxed);
    if (used + bytes <= budget->max_bytes)
        return true;
    atomic_fetch_sub_explicit(&budget->used_bytes, bytes, memory_order_relaxed);
    return false;
}

/*
 * Twice the size, if the bounds and the memory allow it. Where not, the cache goes on at its size: it only forgets more. Entries unused for two
 * generations are left behind.
 */
static void grow(struct known_series *k)
{
    size_t n = k->n_buckets ? 2 * k->n_buckets : FIRST_BUCKETS;
    if (n > k->max_buckets || !budget_take(k->budget, n * sizeof(*k->buckets)))
        return;
    struct known_bucket *bigger = alloc_buckets(n);
    if (!bigger) {
        atomic_fetch_sub_explicit(&k->budget->used_bytes, n * sizeof(*k->buckets), memory_order_relaxed);
        return;
    }
    struct known_bucket *old = k->buckets;
    size_t n_old = k->n_buckets;
    k->buckets = bigger;
    k->n_buckets = n;
    k->n_entries = 0;
    for (size_t i = 0; i < n_old; i++)
        for (size_t slot = 0; slot < SLOTS; slot++)
            if (old[i].generation[slot] && age_of(k, old[i].generation[slot]) <= 2)
                insert(k, old[i].hash[slot], old[i].token[slot], old[i].generation[slot]);
    atomic_fetch_sub_explicit(&k->budget->used_bytes, n_old * sizeof(*k->buckets), memory_order_relaxed);
    release_buckets(old, n_old);
}

/* Time passed without insertions counts as one generation at most: what was not asked for meanwhile is no older than the rest. */
static void next_generation(struct known_series *k, int64_t now_ms)
{
    if (now_ms - k->generation_began_ms < GENERATION_MS)
        return;
    k->generation_began_ms = now_ms;
    unsigned g = atomic_load_explicit(&k->generation, memory_order_relaxed);
    atomic_store_explicit(&k->generation, (uint8_t)(g % 255U + 1U), memory_order_relaxed);
}

void known_series_add(struct known_series *k, uint64_t rules, const struct write_series *series, const uint32_t *idx, size_t n,
                      int64_t now_ms)
{
    pthread_rwlock_wrlock(&k->lock);
    if (k->rules != rules) {
        free_buckets(k);
        k->rules = rules;
    }
    next_generation(k, now_ms);
    const uint8_t generation = atomic_load_explicit(&k->generation, memory_order_relaxed);
    for (size_t i = 0; i < n; i++) {
        if (k->n_entries >= full_at(k->n_buckets))
            grow(k);
        if (!k->n_buckets)
            break; /* no memory at all: nothing is remembered */
        const struct write_series *s = &series[idx[i]];
        insert(k, s->hash, s->token, generation);
    }
    pthread_rwlock_unlock(&k->lock);
}

size_t known_series_count(struct known_series *k)
{
    pthread_rwlock_rdlock(&k->lock);
    size_t n = k->n_entries;
    pthread_rwlock_unlock(&k->lock);
    return n;
}
