/* What leaves: packets with their layers, rounds of gossip, push/pulls. All of it goes to the outbox. */
#include <arpa/inet.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"
#include "ring/memberlist/core_int.h"

/* --- addresses ---------------------------------------------------------------------------------------------------- */

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

bool addr_from_wire(struct slice ip, uint16_t port, struct gossip_addr *ret)
{
    if ((ip.n != 4 && ip.n != 16) || !port)
        return false;
    *ret = (struct gossip_addr){.n = (uint8_t)ip.n, .port = port};
    memcpy(ret->ip, ip.p, ip.n);
    return true;
}

bool addr_from_text(struct slice text, struct gossip_addr *ret)
{
    char host[64];
    const char *colon = text.n ? memrchr(text.p, ':', text.n) : NULL;
    if (!colon)
        return false;
    size_t n = (size_t)(colon - text.p), n_port = text.n - n - 1;
    const char *from = text.p;
    if (n >= 2 && from[0] == '[' && from[n - 1] == ']')
        from++, n -= 2;
    if (n >= sizeof host || !n_port || n_port > 5)
        return false;
    memcpy(host, from, n);
    host[n] = 0;
    uint32_t port = 0;
    for (size_t i = 1; i <= n_port; i++) {
        if (colon[i] < '0' || colon[i] > '9')
            return false;
        port = port * 10 + (uint32_t)(colon[i] - '0');
    }
    if (!port || port > UINT16_MAX)
        return false;
    /* 16 bytes for both families, as Go's net.ParseIP gives them. */
    *ret = (struct gossip_addr){.n = 16, .port = (uint16_t)port};
    memcpy(ret->ip, mapped, sizeof mapped);
    return inet_pton(AF_INET, host, ret->ip + 12) == 1 || inet_pton(AF_INET6, host, ret->ip) == 1;
}

void addr_to_text(const struct gossip_addr *a, char *ret, size_t n)
{
    char ip[INET6_ADDRSTRLEN] = "";
    bool is_v4 = a->n == 4 || memcmp(a->ip, mapped, sizeof mapped) == 0;
    inet_ntop(is_v4 ? AF_INET : AF_INET6, a->n == 16 && is_v4 ? a->ip + 12 : a->ip, ip, sizeof ip);
    snprintf(ret, n, is_v4 ? "%s:%u" : "[%s]:%u", ip, a->port);
}

/* --- the outbox --------------------------------------------------------------------------------------------------- */

static struct outgoing *post(struct core *c, const struct gossip_addr *to)
{
    if (c->n_outbox == CORE_OUTBOX_MAX) {
        c->stats.packets_unsent++;
        return NULL;
    }
    struct outgoing *o = &c->outbox[c->n_outbox++];
    *o = (struct outgoing){.to = *to};
    return o;
}

int core_transmit_limit(const struct core *c)
{
    return c->cfg.retransmit_factor * (int)ceil(log10((double)c->n_nodes + 1));
}

static struct wire_wrap wrap_of(const struct core *c, bool crc)
{
    return (struct wire_wrap){
        .label = slice_of(c->cfg.cluster_label), .compress = c->cfg.compression_enabled, .crc = crc};
}

static void send_one(struct core *c, const struct gossip_addr *to, bool crc, struct slice message)
{
    struct outgoing *o = post(c, to);
    if (!o)
        return;
    struct wire_wrap wrap = wrap_of(c, crc);
    struct buf payload;
    buf_init(&payload, 0);
    wire_wrap_packet(&payload, &wrap, message);
    wire_frame_put(&o->bytes, slice_of(c->addr_text), buf_slice(&payload));
    ASSERT(!payload.failed && !o->bytes.failed);
    buf_release(&payload);
    c->stats.packets_out++;
    c->stats.packet_bytes_out += o->bytes.n;
    c->stats.bytes_out += o->bytes.n;
}

void core_send(struct core *c, const struct gossip_addr *to, bool crc, const struct slice *messages, size_t n)
{
    struct slice small[WIRE_COMPOUND_MAX];
    size_t n_small = 0;
    for (size_t i = 0; i < n; i++) {
        if (messages[i].n > WIRE_COMPOUND_ITEM_MAX_BYTES)
            send_one(c, to, crc, messages[i]);
        else
            small[n_small++] = messages[i];
        if (n_small == WIRE_COMPOUND_MAX || (i + 1 == n && n_small > 1)) {
            struct buf all;
            buf_init(&all, 0);
            wire_put_compound(&all, small, n_small);
            send_one(c, to, crc, buf_slice(&all));
            buf_release(&all);
            n_small = 0;
        }
    }
    if (n_small)
        send_one(c, to, crc, small[0]);
}

/* News of nodes come first, then what this process changed, then what it passes on. */
static size_t take_broadcasts(struct core *c, size_t budget, struct slice *ret, size_t max)
{
    int limit = core_transmit_limit(c);
    size_t n = queue_take(&c->node_queue, limit, &budget, ret, max);
    n += queue_take(&c->local_queue, limit, &budget, ret + n, max - n);
    return n + queue_take(&c->forward_queue, limit, &budget, ret + n, max - n);
}

void core_send_piggyback(struct core *c, const struct gossip_addr *to, struct slice message)
{
    struct slice all[WIRE_COMPOUND_MAX] = {message};
    size_t n = take_broadcasts(c, CORE_PACKET_MAX_BYTES - message.n, all + 1, WIRE_COMPOUND_MAX - 1);
    core_send(c, to, false, all, n + 1);
}

/* --- gossip ------------------------------------------------------------------------------------------------------- */

static bool hears_gossip(const struct core *c, const struct node *n, const void *arg)
{
    (void)arg;
    bool hears =
        n->state <= NODE_SUSPECT || (n->state == NODE_DEAD && c->now_ms - n->changed_ms <= c->cfg.gossip_to_dead_ms);
    return hears && core_zone_talks(c, n);
}

void core_gossip(struct core *c)
{
    struct node *to[MEMBERLIST_GOSSIP_NODES_MAX];
    struct slice all[WIRE_COMPOUND_MAX];
    if (!c->node_queue.n && !c->local_queue.n && !c->forward_queue.n)
        return;
    size_t n_to = core_pick(c, hears_gossip, NULL, to, MIN(c->cfg.gossip_nodes, ARRAY_LEN(to)));
    for (size_t i = 0; i < n_to; i++) {
        size_t n = take_broadcasts(c, CORE_PACKET_MAX_BYTES, all, WIRE_COMPOUND_MAX);
        if (!n)
            return;
        core_send(c, &to[i]->addr, to[i]->vsn[1] >= 5, all, n);
    }
}

/* --- push/pull ---------------------------------------------------------------------------------------------------- */

void core_state(struct core *c, bool is_join, struct buf *out)
{
    struct buf user;
    buf_init(&user, WIRE_PLAIN_MAX_BYTES);
    store_put_state(c, &user);
    if (user.failed)
        buf_clear(&user); /* more than anybody would take: the nodes at least */
    struct wire_msg m = {.Join = is_join, .Nodes = (int32_t)c->n_nodes, .UserStateLen = (int32_t)user.n};
    wire_put(out, WIRE_PUSH_PULL, &m);
    for (size_t i = 0; i < c->n_nodes; i++) {
        node_to_wire(c->nodes[i], &m);
        wire_put_map(out, wire_fields_of_node_state(), &m);
    }
    buf_put_slice(out, buf_slice(&user));
    c->stats.state_pushes++;
    c->stats.state_push_bytes += user.n;
    buf_release(&user);
}

void core_send_stream(struct core *c, const struct gossip_addr *to, bool is_join, struct slice message)
{
    struct outgoing *o = post(c, to);
    if (!o)
        return;
    struct wire_wrap wrap = wrap_of(c, false);
    o->is_stream = true;
    o->is_join = is_join;
    buf_putc(&o->bytes, WIRE_FRAME_STREAM);
    wire_wrap_stream(&o->bytes, &wrap, message);
    ASSERT(!o->bytes.failed);
    c->stats.streams_out++;
    c->stats.bytes_out += o->bytes.n;
}

void core_push_pull(struct core *c, const struct gossip_addr *to, bool is_join)
{
    struct buf state;
    buf_init(&state, 0);
    core_state(c, is_join, &state);
    core_send_stream(c, to, is_join, buf_slice(&state));
    buf_release(&state);
}

void core_join(struct core *c, const struct gossip_addr *to)
{
    core_push_pull(c, to, true);
}
