/*
 * Snapshots: the document, its tokens in order, and each instance's zone as a number.
 *
 * Memory: 8 bytes a token beside the document. A lookup is a binary search and a walk over as many tokens as it takes to meet enough instances, with
 * a bit set of those that were met.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "ring/snapshot_int.h"

#define BIT(state) (uint8_t)(1U << (state))

const struct ring_op ring_op_write = {
    .healthy = BIT(RING_ACTIVE),
    .extend = BIT(RING_LEAVING) | BIT(RING_PENDING) | BIT(RING_JOINING) | BIT(RING_LEFT),
};
const struct ring_op ring_op_read = {
    .healthy = BIT(RING_ACTIVE) | BIT(RING_PENDING) | BIT(RING_LEAVING),
    .extend = BIT(RING_PENDING) | BIT(RING_JOINING) | BIT(RING_LEFT),
};
const struct ring_op ring_op_reporting = {
    .healthy = BIT(RING_ACTIVE) | BIT(RING_PENDING) | BIT(RING_LEAVING) | BIT(RING_JOINING),
};

const struct ring_op ring_op_blocks_read = {
    .healthy = BIT(RING_ACTIVE),
    .extend = BIT(RING_LEAVING) | BIT(RING_PENDING) | BIT(RING_JOINING) | BIT(RING_LEFT),
};
const struct ring_op ring_op_blocks_owner_sync = {
    .healthy = BIT(RING_ACTIVE) | BIT(RING_JOINING) | BIT(RING_LEAVING),
};
const struct ring_op ring_op_blocks_owner_read = {.healthy = BIT(RING_ACTIVE)};

static int compare_tokens(const void *a, const void *b)
{
    const struct owned_token *x = a, *y = b;
    if (x->token != y->token)
        return x->token < y->token ? -1 : 1;
    return (x->instance > y->instance) - (x->instance < y->instance);
}

static void number_zones(struct ring_snapshot *s)
{
    const struct ring_desc *d = s->desc;
    for (size_t i = 0; i < d->n; i++) {
        size_t j = 0;
        while (strcmp(d->instances[j].zone, d->instances[i].zone) != 0)
            j++;
        s->zones[i] = j < i ? s->zones[j] : s->n_zones++;
    }
}

/* From the end, so that what is removed moves little. */
static void drop_excluded_zones(struct ring_desc *d, const struct ring_config *config)
{
    for (size_t i = config->n_excluded_zones ? d->n : 0; i-- > 0;)
        for (size_t z = 0; z < config->n_excluded_zones; z++)
            if (strcmp(d->instances[i].zone, config->excluded_zones[z]) == 0) {
                ring_desc_remove(d, &d->instances[i]);
                break;
            }
}

struct ring_snapshot *ring_snapshot_new(struct ring_desc *d, const struct ring_config *config)
{
    ASSERT(config->replication_factor >= 1);
    drop_excluded_zones(d, config);
    struct ring_snapshot *s = calloc(1, sizeof(*s));
    ASSERT(s);
    atomic_init(&s->refs, 1);
    s->config = *config;
    s->desc = d;
    for (size_t i = 0; i < d->n; i++)
        s->n_tokens += d->instances[i].n_tokens;
    s->tokens = malloc((s->n_tokens + 1) * sizeof(*s->tokens));
    s->zones = malloc((d->n + 1) * sizeof(*s->zones));
    ASSERT(s->tokens && s->zones);
    size_t at = 0;
    for (size_t i = 0; i < d->n; i++)
        for (size_t t = 0; t < d->instances[i].n_tokens; t++)
            s->tokens[at++] = (struct owned_token){d->instances[i].tokens[t], (uint32_t)i};
    qsort(s->tokens, s->n_tokens, sizeof(*s->tokens), compare_tokens);
    number_zones(s);
    return s;
}

struct ring_snapshot *ring_snapshot_ref(struct ring_snapshot *s)
{
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

void ring_snapshot_free(struct ring_snapshot *s)
{
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    ring_desc_free(s->desc);
    free(s->tokens);
    free(s->zones);
    free(s);
}

const struct ring_desc *ring_snapshot_desc(const struct ring_snapshot *s)
{
    return s->desc;
}

void replication_set_release(struct replication_set *set)
{
    free(set->instances);
    *set = (struct replication_set){0};
}

static bool has_state(uint8_t states, int32_t state)
{
    return state >= 0 && state < RING_STATES && (states >> state & 1);
}

bool ring_snapshot_is_healthy(const struct ring_snapshot *s, const struct ring_instance *in, const struct ring_op *op,
                              int64_t now_ms)
{
    return has_state(op->healthy, in->state) && ring_instance_alive(in, s->config.heartbeat_timeout_ms, now_ms);
}

size_t ring_search_token(const struct owned_token *tokens, size_t n, uint32_t key)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (tokens[mid].token <= key)
            low = mid + 1;
        else
            high = mid;
    }
    return low < n ? low : 0;
}

/* The walk of a lookup: what was met so far. */
struct walk {
    bool *seen_instances;
    bool *seen_zones;
    const struct ring_instance **found;
    size_t n;
    size_t n_zones;
    size_t want;
};

static void walk_visit(const struct ring_snapshot *s, struct walk *w, uint32_t i, const struct ring_op *op)
{
    const struct ring_instance *in = &s->desc->instances[i];
    bool zoned = s->config.zone_awareness && in->zone[0];
    if (w->seen_instances[i] || (zoned && w->seen_zones[s->zones[i]]))
        return;
    w->seen_instances[i] = true;
    w->found[w->n++] = in;
    if (has_state(op->extend, in->state)) {
        w->want++; /* and its zone stays open for one that can do it */
    } else if (zoned) {
        w->seen_zones[s->zones[i]] = true;
        w->n_zones++;
    }
}

static bool walk_done(const struct ring_snapshot *s, const struct walk *w)
{
    return w->n >= MIN(w->want, s->desc->n) || (s->config.zone_awareness && w->n_zones >= MIN(w->want, s->n_zones));
}

/* Who has the key, healthy or not, in the order in which they stand in the ring. */
static bool find_replicas(const struct ring_snapshot *s, uint32_t key, const struct ring_op *op, struct replication_set *ret,
                          struct err *err)
{
    if (s->n_tokens == 0)
        return err_set(err, ERR_UNAVAILABLE, "empty ring");
    struct walk w = {.want = s->config.replication_factor};
    w.seen_instances = calloc(s->desc->n + s->n_zones, sizeof(*w.seen_instances));
    w.found = malloc(s->desc->n * sizeof(*w.found));
    ASSERT(w.seen_instances && w.found);
    w.seen_zones = w.seen_instances + s->desc->n;
    size_t at = ring_search_token(s->tokens, s->n_tokens, key);
    for (size_t i = 0; i < s->n_tokens && !walk_done(s, &w); i++) {
        walk_visit(s, &w, s->tokens[at].instance, op);
        at = at + 1 < s->n_tokens ? at + 1 : 0;
    }
    free(w.seen_instances);
    *ret = (struct replication_set){.instances = w.found, .n = w.n};
    return true;
}

static void keep_healthy(const struct ring_snapshot *s, const struct ring_op *op, int64_t now_ms, struct replication_set *set)
{
    size_t kept = 0;
    for (size_t i = 0; i < set->n; i++)
        if (ring_snapshot_is_healthy(s, set->instances[i], op, now_ms))
            set->instances[kept++] = set->instances[i];
    set->n = kept;
}

/* Keeps the healthy; true when enough are left. */
static bool keep_quorum(const struct ring_snapshot *s, const struct ring_op *op, int64_t now_ms, struct replication_set *set)
{
    size_t quorum = MAX(s->config.replication_factor, set->n) / 2 + 1;
    keep_healthy(s, op, now_ms, set);
    if (set->n < quorum)
        return false;
    set->max_errors = set->n - quorum;
    return true;
}

bool ring_snapshot_get(const struct ring_snapshot *s, uint32_t key, const struct ring_op *op, int64_t now_ms,
                       struct replication_set *ret, struct err *err)
{
    struct replication_set set;
    if (!find_replicas(s, key, op, &set, err))
        return false;
    size_t chosen = set.n;
    if (!keep_quorum(s, op, now_ms, &set)) {
        err_set(err, ERR_UNAVAILABLE, "at least %zu live replicas required, could only find %zu",
                MAX(s->config.replication_factor, chosen) / 2 + 1, set.n);
        replication_set_release(&set);
        return false;
    }
    *ret = set;
    return true;
}

bool ring_snapshot_get_healthy(const struct ring_snapshot *s, uint32_t key, const struct ring_op *op, int64_t now_ms,
                               struct replication_set *ret, struct err *err)
{
    struct replication_set set;
    if (!find_replicas(s, key, op, &set, err))
        return false;
    keep_healthy(s, op, now_ms, &set);
    if (set.n == 0) {
        replication_set_release(&set);
        return err_set(err, ERR_UNAVAILABLE, "at least 1 healthy replica required, could only find 0");
    }
    set.max_errors = set.n - 1;
    *ret = set;
    return true;
}

static bool get_all_zoned(const struct ring_snapshot *s, const bool *failed_zones, size_t n_failed, struct replication_set *set)
{
    size_t zones = MIN((size_t)s->n_zones, s->config.replication_factor);
    size_t may_fail = zones / 2;
    if (n_failed > may_fail)
        return false;
    /* A zone with one sick instance lacks keys: it is out as a whole. */
    size_t kept = 0;
    for (size_t i = 0; i < set->n; i++) {
        size_t at = (size_t)(set->instances[i] - s->desc->instances);
        if (!failed_zones[s->zones[at]])
            set->instances[kept++] = set->instances[i];
    }
    set->n = kept;
    set->zone_aware = true;
    set->max_unavailable_zones = may_fail - n_failed;
    return true;
}

static bool get_all_unzoned(const struct ring_snapshot *s, struct replication_set *set)
{
    size_t required = MAX(s->desc->n, s->config.replication_factor) - s->config.replication_factor / 2;
    if (set->n < required)
        return false;
    set->max_errors = set->n - required;
    return true;
}

bool ring_snapshot_get_all(const struct ring_snapshot *s, const struct ring_op *op, int64_t now_ms, struct replication_set *ret,
                           struct err *err)
{
    const struct ring_desc *d = s->desc;
    if (d->n == 0)
        return err_set(err, ERR_UNAVAILABLE, "empty ring");
    struct replication_set set = {.instances = malloc(d->n * sizeof(*set.instances))};
    bool *failed_zones = calloc(s->n_zones, sizeof(*failed_zones));
    ASSERT(set.instances && failed_zones);
    size_t n_failed = 0;
    for (size_t i = 0; i < d->n; i++) {
        if (ring_snapshot_is_healthy(s, &d->instances[i], op, now_ms)) {
            set.instances[set.n++] = &d->instances[i];
        } else if (!failed_zones[s->zones[i]]) {
            failed_zones[s->zones[i]] = true;
            n_failed++;
        }
    }
    bool ok = s->config.zone_awareness ? get_all_zoned(s, failed_zones, n_failed, &set) : get_all_unzoned(s, &set);
    free(failed_zones);
    if (!ok) {
        replication_set_release(&set);
        return err_set(err, ERR_UNAVAILABLE, "too many unhealthy instances in the ring");
    }
    *ret = set;
    return true;
}
