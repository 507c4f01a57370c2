/* Life cycle, timers, and what comes in. */
#include "ring/memberlist/core_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"

#define DEPTH_MAX 4 /* CRC, compress, compound, message */
#define CLEAN_INTERVAL_MS 1000

/* 01, role, length and zone; nothing without a role. */
static void make_meta(struct core *c)
{
    size_t n = c->cfg.zone ? strlen(c->cfg.zone) : 0;
    if (c->cfg.role == MEMBERLIST_NO_ZONE)
        return;
    ASSERT(n <= 16);
    c->meta_bytes[0] = 1;
    c->meta_bytes[1] = (char)c->cfg.role;
    c->meta_bytes[2] = (char)n;
    if (n)
        memcpy(c->meta_bytes + 3, c->cfg.zone, n);
    c->meta = (struct slice){c->meta_bytes, 3 + n};
}

void core_init(struct core *c, const struct memberlist_config *cfg, const struct kv_codecs *codecs, const char *name,
               const struct gossip_addr *addr, uint64_t random, int64_t now_ms, int64_t wall_ms)
{
    static const char vsn[WIRE_VSN_BYTES] = {1, 5, 2, 0, 0, 0};
    *c = (struct core){.cfg = *cfg, .codecs = *codecs, .name = must(strdup(name)), .addr = *addr, .random = random};
    c->now_ms = now_ms;
    c->wall_ms = wall_ms;
    addr_to_text(addr, c->addr_text, sizeof c->addr_text);
    make_meta(c);
    struct queue *queues[] = {&c->node_queue, &c->local_queue, &c->forward_queue};
    for (size_t i = 0; i < ARRAY_LEN(queues); i++) {
        queues[i]->max_items = cfg->max_queued_messages;
        queues[i]->max_bytes = cfg->max_queued_bytes;
    }
    c->incarnation = 1;
    struct wire_msg m = {.Addr = {(const char *)addr->ip, addr->n},
                         .Incarnation = 1,
                         .Meta = c->meta,
                         .Node = slice_of(c->name),
                         .Port = addr->port,
                         .Vsn = {vsn, sizeof vsn}};
    core_alive(c, &m, true);
    c->self = core_find(c, slice_of(c->name));
    ASSERT(c->self);
    /* Not all processes of a cluster that was started at once do everything at the same time. */
    c->next_gossip_ms = now_ms + (int64_t)(core_random(c) % (uint64_t)cfg->gossip_interval_ms);
    c->next_probe_ms = now_ms + (int64_t)(core_random(c) % (uint64_t)cfg->probe_interval_ms);
    c->next_push_pull_ms = cfg->push_pull_interval_ms
                               ? now_ms + (int64_t)(core_random(c) % (uint64_t)cfg->push_pull_interval_ms)
                               : INT64_MAX;
    c->next_clean_ms = now_ms + CLEAN_INTERVAL_MS;
}

void core_release(struct core *c)
{
    for (size_t i = 0; i < c->n_nodes; i++) {
        free(c->nodes[i]->name);
        free(c->nodes[i]);
    }
    free(c->nodes);
    free(c->name);
    free(c->probe.name);
    queue_release(&c->node_queue);
    queue_release(&c->local_queue);
    queue_release(&c->forward_queue);
    for (size_t i = 0; i < c->n_outbox; i++)
        buf_release(&c->outbox[i].bytes);
    store_release(c);
    *c = (struct core){0};
}

/* --- timers ------------------------------------------------------------------------------------------------------- */

static bool is_alive(const struct core *c, const struct node *n, const void *arg)
{
    (void)arg;
    return n->state == NODE_ALIVE && core_zone_talks(c, n);
}

/* Large clusters exchange everything less often, for all of them together it stays the same. */
static int64_t push_pull_interval_ms(const struct core *c)
{
    if (!c->cfg.push_pull_interval_ms)
        return INT64_MAX / 2;
    if (c->n_nodes <= 32)
        return c->cfg.push_pull_interval_ms;
    return c->cfg.push_pull_interval_ms * ((int64_t)ceil(log2((double)c->n_nodes) - 5) + 1);
}

static void push_pull_tick(struct core *c)
{
    struct node *to[2];
    c->next_push_pull_ms = c->now_ms + push_pull_interval_ms(c);
    size_t n = core_pick(c, is_alive, NULL, to, c->cfg.role == MEMBERLIST_BRIDGE ? 2 : 1);
    for (size_t i = 0; i < n; i++)
        core_push_pull(c, &to[i]->addr, false);
}

void core_tick(struct core *c, int64_t now_ms, int64_t wall_ms)
{
    c->now_ms = now_ms;
    c->wall_ms = wall_ms;
    if (c->left)
        return;
    core_check_suspects(c);
    if (!c->leaving)
        core_probe_tick(c);
    if (now_ms >= c->next_gossip_ms) {
        core_gossip(c);
        c->next_gossip_ms = now_ms + c->cfg.gossip_interval_ms;
    }
    if (now_ms >= c->next_push_pull_ms && !c->leaving)
        push_pull_tick(c);
    if (now_ms >= c->next_clean_ms) {
        store_clean(c);
        c->next_clean_ms = now_ms + CLEAN_INTERVAL_MS;
    }
}

/* Deadlines between two rounds of gossip wait for the next one: they are seconds long, a round is 200 ms. */
int64_t core_next_ms(const struct core *c)
{
    return c->left ? c->now_ms + CLEAN_INTERVAL_MS : c->next_gossip_ms;
}

void core_leave(struct core *c)
{
    c->leaving = true;
    core_dead(c, slice_of(c->name), slice_of(c->name), c->self->incarnation);
}

static bool is_alone(const struct core *c)
{
    for (size_t i = 0; i < c->n_nodes; i++)
        if (c->nodes[i] != c->self && c->nodes[i]->state <= NODE_SUSPECT)
            return false;
    return true;
}

bool core_changes_told(const struct core *c)
{
    return is_alone(c) || !queue_pending(&c->local_queue, core_transmit_limit(c));
}

bool core_left_told(const struct core *c)
{
    return is_alone(c) ||
           (core_changes_told(c) && !queue_has(&c->node_queue, slice_of(c->name), core_transmit_limit(c)));
}

/* --- messages ----------------------------------------------------------------------------------------------------- */

struct incoming {
    struct core *c;
    struct gossip_addr from;
    int depth;
};

static void on_message(void *arg, struct slice message);

static void on_compressed(struct incoming *in, struct slice body)
{
    struct buf plain;
    buf_init(&plain, WIRE_PLAIN_MAX_BYTES);
    if (wire_decompress(body, &plain))
        on_message(in, buf_slice(&plain));
    else
        in->c->stats.packets_in_errors++;
    buf_release(&plain);
}

static void on_body(struct incoming *in, enum wire_type type, struct slice body)
{
    struct core *c = in->c;
    struct wire_msg m;
    if (!wire_fields_of(type) || !wire_get(body, &m)) {
        c->stats.packets_in_errors++;
        return;
    }
    switch (type) {
    case WIRE_PING:
        core_on_ping(c, &m, &in->from);
        break;
    case WIRE_INDIRECT_PING:
        core_on_indirect_ping(c, &m, &in->from);
        break;
    case WIRE_ACK:
        core_on_ack(c, m.SeqNo);
        break;
    case WIRE_NACK:
        core_on_nack(c, m.SeqNo);
        break;
    case WIRE_SUSPECT:
        core_suspect(c, m.Node, m.From, m.Incarnation);
        break;
    case WIRE_DEAD:
        core_dead(c, m.Node, m.From, m.Incarnation);
        break;
    case WIRE_ALIVE:
        core_alive(c, &m, false);
        break;
    default:
        c->stats.packets_in_errors++; /* a message of streams */
    }
}

static void on_user(struct core *c, struct slice pair)
{
    uint64_t bad = c->stats.bad_values;
    c->stats.user_messages_in++;
    c->stats.user_bytes_in += pair.n;
    store_on_pair(c, pair);
    c->stats.user_invalid += c->stats.bad_values > bad;
}

static void on_message(void *arg, struct slice message)
{
    struct incoming *in = arg;
    struct core *c = in->c;
    if (!message.n || in->depth == DEPTH_MAX) {
        c->stats.packets_in_errors++;
        return;
    }
    struct slice body = {message.p + 1, message.n - 1};
    in->depth++;
    switch ((uint8_t)message.p[0]) {
    case WIRE_COMPOUND:
        c->stats.packets_in_errors += !wire_each_of_compound(body, on_message, in);
        break;
    case WIRE_COMPRESS:
        on_compressed(in, body);
        break;
    case WIRE_USER:
        on_user(c, body);
        break;
    default:
        on_body(in, (enum wire_type)(uint8_t)message.p[0], body);
    }
    in->depth--;
}

static bool label_fits(const struct core *c, struct slice label)
{
    return c->cfg.cluster_label_verification_disabled || slice_eq(label, slice_of(c->cfg.cluster_label));
}

void core_on_packet(struct core *c, struct slice frame)
{
    struct incoming in = {.c = c};
    struct slice addr, payload, label;
    bool digest_ok;
    if (c->left)
        return;
    c->stats.packets_in++;
    c->stats.packet_bytes_in += frame.n + 1;
    c->stats.bytes_in += frame.n + 1;
    if (!wire_frame_parse(frame, &addr, &payload, &digest_ok) || !wire_take_label(payload, &label, &payload) ||
        !label_fits(c, label) || !wire_take_crc(payload, &payload)) {
        c->stats.packets_in_errors++;
        return;
    }
    c->stats.bad_digests += !digest_ok;
    if (!addr_from_text(addr, &in.from))
        in.from.port = 0;
    on_message(&in, payload);
}

/* --- streams ------------------------------------------------------------------------------------------------------ */

static enum wire_result unwrap_label(const struct core *c, struct slice *in, size_t *ret_need)
{
    struct slice label;
    *ret_need = 1;
    if (!in->n)
        return WIRE_SHORT;
    if ((uint8_t)in->p[0] == WIRE_LABEL) {
        *ret_need = 3 + (in->n < 2 ? 0 : (size_t)(uint8_t)in->p[1]);
        if (in->n < *ret_need)
            return WIRE_SHORT;
    }
    return wire_take_label(*in, &label, in) && label_fits(c, label) ? WIRE_OK : WIRE_BAD;
}

/* Takes the compression off: message points into plain or into in. */
static enum wire_result unwrap(struct slice in, struct buf *plain, struct slice *ret_message, size_t *ret_need)
{
    *ret_need = 1;
    if (!in.n)
        return WIRE_SHORT;
    *ret_message = in;
    if ((uint8_t)in.p[0] != WIRE_COMPRESS)
        return WIRE_OK;
    struct wire_cursor cursor = {.in = {in.p + 1, in.n - 1}};
    struct wire_msg m;
    enum wire_result r = wire_get_map(&cursor, &m);
    *ret_need = cursor.need_bytes + 1;
    if (r != WIRE_OK)
        return r;
    if (!wire_decompress(cursor.in, plain) || !plain->n)
        return WIRE_BAD;
    *ret_message = buf_slice(plain);
    return WIRE_OK;
}

static bool merge_node(void *arg, const struct wire_msg *node)
{
    struct core *c = arg;
    struct wire_msg m = *node;
    m.Node = node->Name;
    if (node->State == NODE_ALIVE)
        core_alive(c, &m, false);
    else if (node->State == NODE_LEFT)
        core_dead(c, m.Node, m.Node, m.Incarnation);
    else
        core_suspect(c, m.Node, slice_of(c->name), m.Incarnation); /* a dead one may know better */
    return true;
}

static void merge_pair(void *arg, struct slice pair)
{
    store_on_pair(arg, pair);
}

/* Our own state goes into reply, if there is one, before theirs is merged. Looks through all of it before it merges
 * any. */
static enum wire_result on_push_pull(struct core *c, struct slice body, struct buf *reply, size_t *ret_need)
{
    struct wire_cursor first = {.in = body}, second = {.in = body};
    struct wire_msg header;
    struct slice state;
    enum wire_result r = wire_push_pull_parse(&first, c->cfg.max_nodes, &header, NULL, NULL, &state);
    *ret_need = first.need_bytes;
    if (r != WIRE_OK)
        return r;
    if (reply)
        core_state(c, header.Join, reply);
    wire_push_pull_parse(&second, c->cfg.max_nodes, &header, merge_node, c, &state);
    if (!wire_each_state_pair(state, merge_pair, c))
        c->stats.bad_values++;
    c->stats.state_pulls++;
    c->stats.state_pull_bytes += state.n;
    return WIRE_OK;
}

static enum wire_result on_stream_ping(struct core *c, struct slice body, struct buf *reply, size_t *ret_need)
{
    struct wire_cursor cursor = {.in = body};
    struct wire_msg m;
    enum wire_result r = wire_get_map(&cursor, &m);
    *ret_need = cursor.need_bytes;
    if (r != WIRE_OK)
        return r;
    if (m.Node.n && !slice_eq(m.Node, slice_of(c->name)))
        return WIRE_BAD;
    wire_put(reply, WIRE_ACK, &(struct wire_msg){.SeqNo = m.SeqNo});
    return WIRE_OK;
}

static enum wire_result on_stream_user(struct core *c, struct slice body, size_t *ret_need)
{
    struct wire_cursor cursor = {.in = body};
    struct wire_msg m;
    enum wire_result r = wire_get_map(&cursor, &m);
    *ret_need = cursor.need_bytes;
    if (r != WIRE_OK)
        return r;
    if (m.UserMsgLen < 0 || (size_t)m.UserMsgLen > WIRE_PLAIN_MAX_BYTES)
        return WIRE_BAD;
    *ret_need = cursor.pos + (size_t)m.UserMsgLen;
    if (body.n < *ret_need)
        return WIRE_SHORT;
    store_on_pair(c, (struct slice){body.p + cursor.pos, (size_t)m.UserMsgLen});
    return WIRE_OK;
}

enum wire_result core_on_stream(struct core *c, struct slice in, struct buf *reply, size_t *ret_need)
{
    struct buf plain, answer;
    struct slice message, rest = in;
    buf_init(&plain, WIRE_PLAIN_MAX_BYTES);
    buf_init(&answer, 0);
    size_t need = 0, before;
    enum wire_result r = unwrap_label(c, &rest, &need);
    before = in.n - rest.n;
    if (r == WIRE_OK)
        r = unwrap(rest, &plain, &message, &need);
    if (r == WIRE_OK) {
        struct slice body = {message.p + 1, message.n - 1};
        uint8_t type = (uint8_t)message.p[0];
        r = type == WIRE_PUSH_PULL ? on_push_pull(c, body, &answer, &need)
            : type == WIRE_PING    ? on_stream_ping(c, body, &answer, &need)
            : type == WIRE_USER    ? on_stream_user(c, body, &need)
                                   : WIRE_BAD;
        need += 1;
        if (r == WIRE_SHORT && plain.n)
            r = WIRE_BAD; /* what was compressed is there in full */
    }
    *ret_need = before + need;
    if (r == WIRE_OK && answer.n) {
        wire_wrap_stream(reply, &(struct wire_wrap){.compress = c->cfg.compression_enabled}, buf_slice(&answer));
        c->stats.bytes_out += reply->n;
    }
    if (r == WIRE_OK) {
        c->stats.streams_in++;
        c->stats.bytes_in += in.n;
    }
    buf_release(&plain);
    buf_release(&answer);
    return r;
}

enum wire_result core_on_reply(struct core *c, struct slice in, size_t *ret_need)
{
    struct buf plain;
    struct slice message;
    buf_init(&plain, WIRE_PLAIN_MAX_BYTES);
    enum wire_result r = unwrap(in, &plain, &message, ret_need);
    if (r == WIRE_OK) {
        r = WIRE_BAD; /* also for an errResp: they would not have us */
        if ((uint8_t)message.p[0] == WIRE_PUSH_PULL)
            r = on_push_pull(c, (struct slice){message.p + 1, message.n - 1}, NULL, ret_need);
        *ret_need += 1;
        if (r == WIRE_SHORT && plain.n)
            r = WIRE_BAD;
    }
    if (r == WIRE_OK)
        c->stats.bytes_in += in.n;
    buf_release(&plain);
    return r;
}
