/* Who is there: the states of nodes, as core_int.h draws them. */
#include <math.h>
#include <stdlib.h>

#include "base/assert.h"
#include "ring/memberlist/core_int.h"

void *must(void *p)
{
    ASSERT(p);
    return p;
}

/* splitmix64: gossip needs numbers that differ, not secrets. */
uint64_t core_random(struct core *c)
{
    uint64_t z = (c->random += 0x9e3779b97f4a7c15U);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9U;
    z = (z ^ z >> 27) * 0x94d049bb133111ebU;
    return z ^ z >> 31;
}

uint32_t name_hash(struct slice name)
{
    uint32_t h = 2166136261U;
    for (size_t i = 0; i < name.n; i++)
        h = (h ^ (uint8_t)name.p[i]) * 16777619U;
    return h;
}

/* Linear: a push/pull of n nodes costs n*n comparisons of a word, 10 ms with the most nodes that are allowed. */
struct node *core_find(struct core *c, struct slice name)
{
    uint32_t h = name_hash(name);
    for (size_t i = 0; i < c->n_nodes; i++)
        if (c->nodes[i]->name_hash == h && slice_eq(slice_of(c->nodes[i]->name), name))
            return c->nodes[i];
    return NULL;
}

static struct slice node_meta(const struct node *n)
{
    return n->meta_nil ? (struct slice){0} : (struct slice){n->meta, n->meta_n};
}

void node_to_wire(const struct node *n, struct wire_msg *ret_m)
{
    *ret_m = (struct wire_msg){
        .Addr = {(const char *)n->addr.ip, n->addr.n},
        .Incarnation = n->incarnation,
        .Meta = node_meta(n),
        .Name = slice_of(n->name),
        .Node = slice_of(n->name),
        .Port = n->addr.port,
        .State = (int32_t)n->state,
        .Vsn = {(const char *)n->vsn, WIRE_VSN_BYTES},
    };
}

static void broadcast(struct core *c, struct slice name, enum wire_type type, const struct wire_msg *m)
{
    struct buf bytes;
    buf_init(&bytes, 0);
    wire_put(&bytes, type, m);
    c->stats.broadcasts_dropped += bytes.failed || !queue_add(&c->node_queue, broadcast_new(name, buf_slice(&bytes)));
    buf_release(&bytes);
}

static void broadcast_accusation(struct core *c, enum wire_type type, struct slice name, struct slice from,
                                 uint32_t incarnation)
{
    broadcast(c, name, type, &(struct wire_msg){.Node = name, .From = from, .Incarnation = incarnation});
}

/* Somebody thinks ill of us: a higher incarnation than the accusation proves that we live. */
static void refute(struct core *c, uint32_t accused)
{
    c->incarnation = MAX(c->incarnation, accused) + 1;
    c->self->incarnation = c->incarnation;
    core_awareness_add(c, 1);
    struct wire_msg m;
    node_to_wire(c->self, &m);
    broadcast(c, m.Node, WIRE_ALIVE, &m);
}

static void set_state(struct core *c, struct node *n, enum node_state state)
{
    if (n->state == state)
        return;
    n->state = state;
    n->changed_ms = c->now_ms;
}

static struct node *add(struct core *c, struct slice name)
{
    if (c->n_nodes >= c->cfg.max_nodes)
        return NULL;
    struct node *n = must(calloc(1, sizeof *n));
    n->name = must(strndup(name.p, name.n));
    n->name_hash = name_hash(name);
    n->state = NODE_DEAD;
    n->changed_ms = c->now_ms;
    n->meta_nil = true;
    c->nodes = must(realloc(c->nodes, (c->n_nodes + 1) * sizeof *c->nodes));
    /* At a random place, so that not everybody probes the new one at the same time. */
    size_t at = core_random(c) % (c->n_nodes + 1);
    if (at < c->n_nodes)
        c->nodes[c->n_nodes] = c->nodes[at];
    c->nodes[at] = n;
    c->n_nodes++;
    return n;
}

static void take(struct node *n, const struct wire_msg *m, const struct gossip_addr *addr)
{
    n->addr = *addr;
    n->incarnation = m->Incarnation;
    n->meta_nil = !m->Meta.p;
    n->meta_n = n->meta_nil ? 0 : (uint16_t)m->Meta.n;
    if (n->meta_n)
        memcpy(n->meta, m->Meta.p, n->meta_n);
    memset(n->vsn, 0, sizeof n->vsn);
    if (m->Vsn.n)
        memcpy(n->vsn, m->Vsn.p, MIN(m->Vsn.n, sizeof n->vsn));
}

static bool addr_eq(const struct gossip_addr *a, const struct gossip_addr *b)
{
    return a->n == b->n && a->port == b->port && memcmp(a->ip, b->ip, a->n) == 0;
}

/* Whether a node may come back at another address. */
static bool may_move(const struct core *c, const struct node *n)
{
    if (n->state == NODE_LEFT)
        return true;
    return n->state == NODE_DEAD && c->cfg.dead_node_reclaim_ms > 0 &&
           c->now_ms - n->changed_ms > c->cfg.dead_node_reclaim_ms;
}

static bool same_as_self(const struct core *c, const struct wire_msg *m)
{
    return m->Incarnation == c->self->incarnation && slice_eq(m->Meta, node_meta(c->self)) &&
           slice_eq(m->Vsn, (struct slice){(const char *)c->self->vsn, WIRE_VSN_BYTES});
}

void core_alive(struct core *c, const struct wire_msg *m, bool is_bootstrap)
{
    struct gossip_addr addr;
    bool is_self = slice_eq(m->Node, slice_of(c->name));
    if ((is_self && c->leaving) || !m->Node.n || m->Node.n > WIRE_NAME_MAX_BYTES || memchr(m->Node.p, 0, m->Node.n) ||
        m->Meta.n > WIRE_META_MAX_BYTES || !addr_from_wire(m->Addr, m->Port, &addr))
        return;
    struct node *n = core_find(c, m->Node);
    bool moves = false, is_new = !n;
    if (is_new) {
        n = add(c, m->Node);
        if (!n)
            return;
    } else if (!addr_eq(&n->addr, &addr)) {
        moves = may_move(c, n);
        if (!moves) {
            c->stats.conflicts++;
            return;
        }
    }
    if (is_self && !is_bootstrap) {
        if (m->Incarnation >= n->incarnation && !same_as_self(c, m))
            refute(c, m->Incarnation);
        return;
    }
    if (m->Incarnation <= n->incarnation && !moves && !is_new)
        return;
    n->suspect_deadline_ms = 0;
    take(n, m, &addr);
    set_state(c, n, NODE_ALIVE);
    struct wire_msg told;
    node_to_wire(n, &told);
    broadcast(c, told.Node, WIRE_ALIVE, &told);
}

/* --- suspicion ---------------------------------------------------------------------------------------------------- */

/* Log-scaled between max (nobody agrees) and min (k others do). */
static void arm(struct node *n)
{
    double timeout = (double)n->suspect_min_ms;
    if (n->suspect_k > 0) {
        double fraction = log(n->suspect_n + 1.0) / log(n->suspect_k + 1.0);
        timeout = (double)n->suspect_max_ms - fraction * (double)(n->suspect_max_ms - n->suspect_min_ms);
    }
    n->suspect_deadline_ms = n->changed_ms + MAX((int64_t)floor(timeout), n->suspect_min_ms);
}

static bool confirm(struct node *n, struct slice from)
{
    uint32_t h = name_hash(from);
    if (n->suspect_n >= n->suspect_k)
        return false;
    for (int i = 0; i <= n->suspect_n; i++)
        if (n->suspect_from[i] == h)
            return false;
    n->suspect_from[++n->suspect_n] = h;
    arm(n);
    return true;
}

void core_suspect(struct core *c, struct slice name, struct slice from, uint32_t incarnation)
{
    struct node *n = core_find(c, name);
    if (!n || incarnation < n->incarnation)
        return;
    if (n->suspect_deadline_ms) {
        if (confirm(n, from))
            broadcast_accusation(c, WIRE_SUSPECT, slice_of(n->name), from, incarnation);
        return;
    }
    if (n->state != NODE_ALIVE)
        return;
    if (n == c->self) {
        refute(c, incarnation);
        return;
    }
    broadcast_accusation(c, WIRE_SUSPECT, slice_of(n->name), from, incarnation);
    n->incarnation = incarnation;
    set_state(c, n, NODE_SUSPECT);
    double scale = MAX(1.0, log10(MAX(1.0, (double)c->n_nodes)));
    n->suspect_min_ms = (int64_t)(4.0 * scale * 1000.0) * c->cfg.probe_interval_ms / 1000;
    n->suspect_max_ms = 6 * n->suspect_min_ms;
    n->suspect_k = c->n_nodes < CORE_SUSPICION_K + 2 ? 0 : CORE_SUSPICION_K;
    n->suspect_n = 0;
    n->suspect_from[0] = name_hash(from);
    arm(n);
}

void core_dead(struct core *c, struct slice name, struct slice from, uint32_t incarnation)
{
    struct node *n = core_find(c, name);
    if (!n || incarnation < n->incarnation)
        return;
    n->suspect_deadline_ms = 0;
    if (n->state == NODE_DEAD || n->state == NODE_LEFT)
        return;
    if (n == c->self && !c->leaving) {
        refute(c, incarnation);
        return;
    }
    broadcast_accusation(c, WIRE_DEAD, slice_of(n->name), from, incarnation);
    n->incarnation = incarnation;
    set_state(c, n, slice_eq(name, from) ? NODE_LEFT : NODE_DEAD);
}

void core_check_suspects(struct core *c)
{
    for (size_t i = 0; i < c->n_nodes; i++) {
        struct node *n = c->nodes[i];
        if (n->suspect_deadline_ms && n->suspect_deadline_ms <= c->now_ms)
            core_dead(c, slice_of(n->name), slice_of(c->name), n->incarnation);
    }
}

/* Forgets nodes that are dead for long, and shuffles the rest for the next round of probes. */
void core_reap(struct core *c)
{
    for (size_t i = c->n_nodes; i-- > 0;) {
        struct node *n = c->nodes[i];
        if (n == c->self || n->state < NODE_DEAD || c->now_ms - n->changed_ms <= c->cfg.gossip_to_dead_ms)
            continue;
        free(n->name);
        free(n);
        c->nodes[i] = c->nodes[--c->n_nodes];
    }
    for (size_t i = c->n_nodes; i > 1; i--) {
        size_t j = core_random(c) % i;
        struct node *n = c->nodes[i - 1];
        c->nodes[i - 1] = c->nodes[j];
        c->nodes[j] = n;
    }
}

/* 01, role, length, zone; false for a node that says no zone. */
static bool zone_of(const struct node *n, enum memberlist_role *ret_role, struct slice *ret_zone)
{
    const uint8_t *meta = (const uint8_t *)n->meta;
    if (n->meta_n < 3 || meta[0] != 1 || meta[2] == 0 || n->meta_n < 3 + meta[2])
        return false;
    *ret_role = meta[1] == MEMBERLIST_BRIDGE ? MEMBERLIST_BRIDGE : MEMBERLIST_MEMBER;
    *ret_zone = (struct slice){n->meta + 3, meta[2]};
    return true;
}

static bool zone_has_bridge(const struct core *c, struct slice zone)
{
    for (size_t i = 0; i < c->n_nodes; i++) {
        enum memberlist_role role;
        struct slice its;
        if (c->nodes[i]->state == NODE_ALIVE && zone_of(c->nodes[i], &role, &its) && role == MEMBERLIST_BRIDGE &&
            slice_eq(its, zone))
            return true;
    }
    return false;
}

bool core_zone_talks(const struct core *c, const struct node *n)
{
    enum memberlist_role role;
    struct slice own = slice_of(c->cfg.zone ? c->cfg.zone : ""), zone;
    if (c->cfg.role == MEMBERLIST_NO_ZONE || !own.n || !zone_of(n, &role, &zone) || slice_eq(zone, own))
        return true;
    if (c->cfg.role == MEMBERLIST_BRIDGE && role == MEMBERLIST_BRIDGE)
        return true;
    return !zone_has_bridge(c, own);
}

size_t core_pick(struct core *c, bool (*ok)(const struct core *c, const struct node *n, const void *arg),
                 const void *arg, struct node **ret, size_t max)
{
    size_t n = 0, seen = 0;
    for (size_t i = 0; i < c->n_nodes; i++) {
        if (c->nodes[i] == c->self || !ok(c, c->nodes[i], arg))
            continue;
        seen++;
        if (n < max) {
            ret[n++] = c->nodes[i];
            continue;
        }
        size_t at = core_random(c) % seen;
        if (at < max)
            ret[at] = c->nodes[i];
    }
    return n;
}
