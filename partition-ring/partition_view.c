/*
 * Views of the partitions ring. A view costs its document, the writers' ring, and for lookback shards 8 bytes a token of all partitions.
 * Lock of a watcher: `lock` guards the pointer `current` only.
 */
#include "partition-ring/partition_view.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "ring/go_rand.h"
#include "partition-ring/metrics_int.h"
#include "partition-ring/partition_ring_int.h"

#define METRICS_ROOM partition_ring
#define METRICS_DEF "partition-ring/partition_ring_metrics.def"
#define METRICS_DEFINE_ONLY
#include "base/metrics_table.h"

struct any_token {
    uint32_t token;
    uint32_t partition; /* position in the document */
};

struct partition_view {
    _Atomic int refs;
    struct partition_desc *desc;    /* owned */
    struct partition_ring *writers; /* owned: one reference */
    int32_t *readers;               /* owned */
    size_t n_readers;
    struct any_token *tokens; /* owned; of partitions in all states, ascending */
    size_t n_tokens;
    /* Owners of the partition at position i: owners[owners_begin[i]] .. owners[owners_begin[i + 1] - 1], in the order of their ids. */
    const struct partition_owner **owners; /* owned; the owners are the document's */
    uint32_t *owners_begin;                /* owned */
};

static int compare_tokens(const void *a, const void *b)
{
    const struct any_token *x = a, *y = b;
    if (x->token != y->token)
        return x->token < y->token ? -1 : 1;
    return (x->partition > y->partition) - (x->partition < y->partition);
}

static bool is_read(const struct partition *p)
{
    return p->state == PARTITION_ACTIVE || p->state == PARTITION_INACTIVE;
}

/*
 * A document may leave tokens out (Mimir's derived tokens): they follow from the id. All at once, for each costs the simulation of all below it.
 */
static void derive_tokens(struct partition_desc *d)
{
    int32_t n = 0;
    for (size_t i = 0; i < d->n_partitions; i++)
        if (!d->partitions[i].n_tokens)
            n = d->partitions[i].id + 1;
    if (n == 0)
        return;
    uint32_t *all = malloc((size_t)n * PARTITION_TOKENS * sizeof(*all));
    ASSERT(all);
    partition_tokens_all(n, all);
    for (size_t i = 0; i < d->n_partitions; i++) {
        struct partition *p = &d->partitions[i];
        if (!p->n_tokens)
            partition_set_tokens(p, all + (size_t)p->id * PARTITION_TOKENS, PARTITION_TOKENS);
    }
    free(all);
}

static void collect_tokens(struct partition_view *v)
{
    const struct partition_desc *d = v->desc;
    size_t n = 0;
    for (size_t i = 0; i < d->n_partitions; i++)
        n += d->partitions[i].n_tokens;
    v->tokens = malloc((n + 1) * sizeof(*v->tokens));
    ASSERT(v->tokens);
    for (size_t i = 0; i < d->n_partitions; i++)
        for (size_t t = 0; t < d->partitions[i].n_tokens; t++)
            v->tokens[v->n_tokens++] = (struct any_token){d->partitions[i].tokens[t], (uint32_t)i};
    qsort(v->tokens, v->n_tokens, sizeof(*v->tokens), compare_tokens);
}

/* Sorted by counting: a query asks for the owners of many partitions. Owners of partitions that are not there are left out. */
static void collect_owners(struct partition_view *v)
{
    const struct partition_desc *d = v->desc;
    v->owners = malloc((d->n_owners + 1) * sizeof(*v->owners));
    v->owners_begin = calloc(d->n_partitions + 2, sizeof(*v->owners_begin));
    ASSERT(v->owners && v->owners_begin);
    for (int turn = 0; turn < 2; turn++) {
        for (size_t i = 0; i < d->n_owners; i++) {
            const struct partition *p = partition_desc_find(d, d->owners[i].partition);
            if (!p || d->owners[i].state != PARTITION_OWNER_ACTIVE)
                continue;
            /* First how many each has, one place further on; then that place is where the next one goes. */
            uint32_t *place = &v->owners_begin[(size_t)(p - d->partitions) + (turn ? 1 : 2)];
            if (turn)
                v->owners[*place] = &d->owners[i];
            ++*place;
        }
        for (size_t i = 0; !turn && i < d->n_partitions; i++)
            v->owners_begin[i + 2] += v->owners_begin[i + 1];
    }
}

struct partition_view *partition_view_new(struct partition_desc *d)
{
    struct partition_view *v = calloc(1, sizeof(*v));
    ASSERT(v);
    atomic_init(&v->refs, 1);
    v->desc = d;
    derive_tokens(d);
    v->writers = partition_ring_new_active(d);
    v->readers = malloc((d->n_partitions + 1) * sizeof(*v->readers));
    ASSERT(v->readers);
    for (size_t i = 0; i < d->n_partitions; i++)
        if (is_read(&d->partitions[i]))
            v->readers[v->n_readers++] = d->partitions[i].id;
    collect_tokens(v);
    collect_owners(v);
    return v;
}

struct partition_view *partition_view_ref(struct partition_view *v)
{
    atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
    return v;
}

void partition_view_free(struct partition_view *v)
{
    if (!v || atomic_fetch_sub_explicit(&v->refs, 1, memory_order_acq_rel) != 1)
        return;
    partition_desc_free(v->desc);
    partition_ring_free(v->writers);
    free(v->readers);
    free(v->tokens);
    free(v->owners);
    free(v->owners_begin);
    free(v);
}

const struct partition_desc *partition_view_desc(const struct partition_view *v)
{
    return v->desc;
}

struct partition_ring *partition_view_writers(const struct partition_view *v)
{
    return v->writers;
}

const int32_t *partition_view_readers(const struct partition_view *v, size_t *ret_n)
{
    *ret_n = v->n_readers;
    return v->readers;
}

/* --- shuffle shards with lookback ---
 */

/* The first token strictly greater than the key; the first of all when there is none. */
static size_t search(const struct partition_view *v, uint32_t key)
{
    size_t low = 0, high = v->n_tokens;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (v->tokens[mid].token <= key)
            low = mid + 1;
        else
            high = mid;
    }
    return low < v->n_tokens ? low : 0;
}

struct shard {
    bool *seen; /* chosen or passed over for good, by position */
    bool *chosen;
    size_t n_seen;
    int64_t want;
    int64_t n;
    int64_t since_s; /* INT64_MAX: no lookback */
};

/*
 * One round from a random place: takes the next ACTIVE partition. A partition that changed within the lookback is taken beside, and the round goes
 * on: it may hold what another one holds at other times. False when the turn found no more.
 */
static bool shard_round(const struct partition_view *v, struct shard *s, size_t start)
{
    size_t all = v->desc->n_partitions; /* when all are seen the rest of the turn brings nothing */
    for (size_t i = 0, at = start; i < v->n_tokens && s->n_seen < all; i++, at = at + 1 < v->n_tokens ? at + 1 : 0) {
        uint32_t at_partition = v->tokens[at].partition;
        const struct partition *p = &v->desc->partitions[at_partition];
        if (s->seen[at_partition])
            continue;
        s->seen[at_partition] = true;
        s->n_seen++;
        if (p->state == PARTITION_PENDING)
            continue;
        bool within = p->state_s >= s->since_s;
        if (p->state != PARTITION_ACTIVE && !within)
            continue;
        s->chosen[at_partition] = true;
        s->n++;
        if (!within)
            return true;
        s->want++;
    }
    return false;
}

size_t partition_view_tenant_readers(const struct partition_view *v, struct slice tenant, int64_t shard_size, int64_t lookback_ms,
                                     int64_t now_ms, int32_t *ret)
{
    size_t n_partitions = v->desc->n_partitions, n = 0;
    if (shard_size <= 0) {
        memcpy(ret, v->readers, v->n_readers * sizeof(*ret));
        return v->n_readers;
    }
    struct shard s = {.want = MIN(shard_size, (int64_t)n_partitions),
                      .since_s = lookback_ms > 0 ? (now_ms - lookback_ms) / 1000 : INT64_MAX};
    s.seen = calloc(2 * n_partitions + 1, sizeof(*s.seen));
    ASSERT(s.seen);
    s.chosen = s.seen + n_partitions;
    struct go_rand rng;
    go_rand_seed(&rng, partition_shuffle_seed(tenant));
    while (s.n < s.want && shard_round(v, &s, search(v, go_rand_u32(&rng))))
        ;
    for (size_t i = 0; i < n_partitions; i++)
        if (s.chosen[i] && is_read(&v->desc->partitions[i]))
            ret[n++] = v->desc->partitions[i].id;
    free(s.seen);
    return n;
}

/* --- owners ---
 */

/* The instance of an owner: its id, or what is before "/<partition>" when an instance owns several. */
static const struct ring_instance *instance_of(const struct ring_desc *d, const struct partition_owner *o)
{
    const struct ring_instance *in = ring_desc_find(d, slice_of(o->id));
    const char *slash = strrchr(o->id, '/');
    if (in || !slash)
        return in;
    char partition[16];
    snprintf(partition, sizeof(partition), "%d", o->partition);
    return strcmp(slash + 1, partition) == 0 ? ring_desc_find(d, slice_make(o->id, (size_t)(slash - o->id))) : NULL;
}

bool partition_view_owners(const struct partition_view *v, int32_t partition, const struct ring_snapshot *instances, int64_t now_ms,
                           struct replication_set *ret, struct err *err)
{
    const struct partition *p = partition_desc_find(v->desc, partition);
    size_t at = p ? (size_t)(p - v->desc->partitions) : 0, begin = p ? v->owners_begin[at] : 0, end = p ? v->owners_begin[at + 1] : 0;
    struct replication_set set = {.instances = malloc((end - begin + 1) * sizeof(*set.instances))};
    ASSERT(set.instances);
    for (size_t i = begin; i < end; i++) {
        const struct ring_instance *in = instance_of(ring_snapshot_desc(instances), v->owners[i]);
        if (in && ring_snapshot_is_healthy(instances, in, &ring_op_read, now_ms))
            set.instances[set.n++] = in;
    }
    if (set.n == 0) {
        replication_set_release(&set);
        return err_set(err, ERR_UNAVAILABLE, "partition %d: no healthy owner", partition);
    }
    set.max_errors = set.n - 1;
    *ret = set;
    return true;
}

/* --- following a key ---
 */

struct partition_watcher {
    struct kv *kv;
    struct kv_watch *watch;
    pthread_mutex_t lock;
    struct partition_view *current; /* owned: one reference */
};

/* Of this process's newest view; a process has one watcher. */
static void set_gauges(const struct partition_desc *d)
{
    struct metric_family *f = partition_ring_metrics[PARTITION_RING_M_PARTITIONS];
    for (int32_t state = PARTITION_PENDING; state <= PARTITION_INACTIVE; state++) {
        const char *name = partition_state_name(state) + strlen("Partition");
        size_t n = 0;
        for (size_t i = 0; i < d->n_partitions; i++)
            n += d->partitions[i].state == state;
        metric_set(METRIC_WITH(f, SL(PARTITION_RING_NAME), slice_of(name)), (double)n);
    }
}

static void swap_view(void *arg, struct slice key, const void *value)
{
    (void)key;
    struct partition_watcher *w = arg;
    struct partition_view *fresh = partition_view_new(value ? partition_desc_clone(value) : partition_desc_new());
    pthread_mutex_lock(&w->lock);
    struct partition_view *old = w->current;
    w->current = fresh;
    pthread_mutex_unlock(&w->lock);
    set_gauges(fresh->desc);
    partition_view_free(old);
}

struct partition_watcher *partition_watcher_new(struct kv *kv, struct slice key, struct err *err)
{
    struct partition_watcher *w = calloc(1, sizeof(*w));
    ASSERT(w);
    w->kv = kv;
    pthread_mutex_init(&w->lock, NULL);
    w->current = partition_view_new(partition_desc_new());
    partition_ring_metrics_register();
    set_gauges(w->current->desc);
    w->watch = kv_watch_key(kv, key, &partition_desc_codec, swap_view, w, err);
    if (!w->watch) {
        partition_watcher_free(w);
        return NULL;
    }
    return w;
}

void partition_watcher_free(struct partition_watcher *w)
{
    if (!w)
        return;
    kv_unwatch(w->kv, w->watch);
    partition_view_free(w->current);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

struct partition_view *partition_watcher_current(struct partition_watcher *w)
{
    pthread_mutex_lock(&w->lock);
    struct partition_view *v = partition_view_ref(w->current);
    pthread_mutex_unlock(&w->lock);
    return v;
}
