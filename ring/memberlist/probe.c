/*
 * Failure detection. Every probe interval the next node of a shuffled list is pinged; without an answer after
 * probe_timeout three others are asked to ping it; without theirs at the end of the interval it is suspected. One probe
 * is under way at a time. Who fails often doubts himself: the awareness (0..7) stretches the interval.
 */
#include <stdlib.h>

#include "base/assert.h"
#include "ring/memberlist/core_int.h"

void core_awareness_add(struct core *c, int delta)
{
    c->awareness = MAX(0, MIN(CORE_AWARENESS_MAX, c->awareness + delta));
}

static uint32_t next_seq(struct core *c)
{
    c->seq++;
    if (!c->seq)
        c->seq = 1;
    return c->seq;
}

static struct wire_msg from_us(const struct core *c)
{
    return (struct wire_msg){.SourceAddr = {(const char *)c->addr.ip, c->addr.n},
                             .SourcePort = c->addr.port,
                             .SourceNode = slice_of(c->name)};
}

static void send_ping(struct core *c, const struct node *n, uint32_t seq)
{
    struct wire_msg m = from_us(c);
    m.Node = slice_of(n->name);
    m.SeqNo = seq;
    struct buf ping, accusation;
    buf_init(&ping, 0);
    buf_init(&accusation, 0);
    wire_put(&ping, WIRE_PING, &m);
    if (n->state == NODE_ALIVE) {
        core_send_piggyback(c, &n->addr, buf_slice(&ping));
    } else {
        /* It hears what it is accused of at once, and can refute it. */
        struct wire_msg s = {.Incarnation = n->incarnation, .Node = m.Node, .From = slice_of(c->name)};
        wire_put(&accusation, WIRE_SUSPECT, &s);
        core_send(c, &n->addr, false, (struct slice[]){buf_slice(&ping), buf_slice(&accusation)}, 2);
    }
    buf_release(&ping);
    buf_release(&accusation);
}

static void end_probe(struct core *c)
{
    free(c->probe.name);
    c->probe = (struct probe){0};
}

static struct node *next_target(struct core *c)
{
    for (size_t i = 0; i <= c->n_nodes; i++) {
        if (c->probe_index >= c->n_nodes) {
            core_reap(c);
            c->probe_index = 0;
        }
        struct node *n = c->nodes[c->probe_index++];
        if (n != c->self && n->state <= NODE_SUSPECT && core_zone_talks(c, n))
            return n;
    }
    return NULL;
}

static void start_probe(struct core *c)
{
    struct node *n = next_target(c);
    c->next_probe_ms = c->now_ms + c->cfg.probe_interval_ms;
    if (!n)
        return;
    c->probe = (struct probe){
        .seq = next_seq(c),
        .name = must(strdup(n->name)),
        .indirect_at_ms = c->now_ms + c->cfg.probe_timeout_ms,
        .deadline_ms = c->now_ms + c->cfg.probe_interval_ms * (c->awareness + 1),
    };
    send_ping(c, n, c->probe.seq);
}

static bool can_help(const struct core *c, const struct node *n, const void *arg)
{
    return n->state == NODE_ALIVE && strcmp(n->name, arg) != 0 && core_zone_talks(c, n);
}

static void probe_indirectly(struct core *c, const struct node *target)
{
    struct node *helpers[CORE_INDIRECT_PROBES];
    size_t n = core_pick(c, can_help, target->name, helpers, ARRAY_LEN(helpers));
    c->probe.indirect = true;
    for (size_t i = 0; i < n; i++) {
        struct wire_msg m = from_us(c);
        m.Nack = helpers[i]->vsn[1] >= 4;
        m.Node = slice_of(target->name);
        m.Target = (struct slice){(const char *)target->addr.ip, target->addr.n};
        m.Port = target->addr.port;
        m.SeqNo = c->probe.seq;
        c->probe.nacks_expected += m.Nack;
        struct buf bytes;
        buf_init(&bytes, 0);
        wire_put(&bytes, WIRE_INDIRECT_PING, &m);
        core_send_piggyback(c, &helpers[i]->addr, buf_slice(&bytes));
        buf_release(&bytes);
    }
}

/* Nobody could reach it. Helpers that said so prove that our own network is well; where they too are silent the fault
 * may be ours. */
static void probe_failed(struct core *c, const struct node *n)
{
    struct probe *p = &c->probe;
    if (p->nacks_expected)
        core_awareness_add(c, MAX(0, p->nacks_expected - p->nacks));
    else
        core_awareness_add(c, 1);
    core_suspect(c, slice_of(n->name), slice_of(c->name), n->incarnation);
}

static void check_probe(struct core *c)
{
    struct node *n = core_find(c, slice_of(c->probe.name));
    if (!n) {
        end_probe(c);
    } else if (c->now_ms >= c->probe.deadline_ms) {
        probe_failed(c, n);
        end_probe(c);
    } else if (!c->probe.indirect && c->now_ms >= c->probe.indirect_at_ms) {
        probe_indirectly(c, n);
    }
}

static void send_seq(struct core *c, const struct gossip_addr *to, enum wire_type type, uint32_t seq)
{
    struct buf bytes;
    buf_init(&bytes, 0);
    wire_put(&bytes, type, &(struct wire_msg){.SeqNo = seq});
    core_send_piggyback(c, to, buf_slice(&bytes));
    buf_release(&bytes);
}

static void check_relays(struct core *c)
{
    for (size_t i = 0; i < CORE_RELAYS_MAX; i++) {
        struct relay *r = &c->relays[i];
        if (!r->deadline_ms || r->deadline_ms > c->now_ms)
            continue;
        r->deadline_ms = 0;
        if (r->nack)
            send_seq(c, &r->back_to, WIRE_NACK, r->for_seq);
    }
}

void core_probe_tick(struct core *c)
{
    check_relays(c);
    if (c->probe.seq)
        check_probe(c);
    if (!c->probe.seq && c->now_ms >= c->next_probe_ms)
        start_probe(c);
}

/* --- what others ask ---------------------------------------------------------------------------------------------- */

static struct gossip_addr reply_to(const struct wire_msg *m, const struct gossip_addr *from)
{
    struct gossip_addr a;
    return addr_from_wire(m->SourceAddr, m->SourcePort, &a) ? a : *from;
}

void core_on_ping(struct core *c, const struct wire_msg *m, const struct gossip_addr *from)
{
    if (m->Node.n && !slice_eq(m->Node, slice_of(c->name)))
        return; /* meant for whoever had this address before */
    struct gossip_addr to = reply_to(m, from);
    if (to.port)
        send_seq(c, &to, WIRE_ACK, m->SeqNo);
}

void core_on_indirect_ping(struct core *c, const struct wire_msg *m, const struct gossip_addr *from)
{
    struct gossip_addr target;
    struct relay *r = c->relays, *end = c->relays + CORE_RELAYS_MAX;
    while (r < end && r->deadline_ms)
        r++;
    if (r == end || !addr_from_wire(m->Target, m->Port, &target))
        return;
    *r = (struct relay){.seq = next_seq(c),
                        .for_seq = m->SeqNo,
                        .back_to = reply_to(m, from),
                        .nack = m->Nack,
                        .deadline_ms = c->now_ms + c->cfg.probe_timeout_ms};
    if (!r->back_to.port) {
        r->deadline_ms = 0;
        return;
    }
    struct wire_msg ping = from_us(c);
    ping.SeqNo = r->seq;
    ping.Node = m->Node;
    struct buf bytes;
    buf_init(&bytes, 0);
    wire_put(&bytes, WIRE_PING, &ping);
    core_send_piggyback(c, &target, buf_slice(&bytes));
    buf_release(&bytes);
}

void core_on_ack(struct core *c, uint32_t seq)
{
    if (c->probe.seq && c->probe.seq == seq) {
        core_awareness_add(c, -1);
        end_probe(c);
        return;
    }
    for (size_t i = 0; i < CORE_RELAYS_MAX; i++) {
        struct relay *r = &c->relays[i];
        if (!r->deadline_ms || r->seq != seq)
            continue;
        r->deadline_ms = 0;
        send_seq(c, &r->back_to, WIRE_ACK, r->for_seq);
        return;
    }
}

void core_on_nack(struct core *c, uint32_t seq)
{
    if (c->probe.seq && c->probe.seq == seq)
        c->probe.nacks++;
}
