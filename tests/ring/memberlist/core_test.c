/*
 * The protocol on a simulated network with a clock that we turn: many cores, whose packets arrive 1 ms later unless a
 * filter drops them. What takes minutes on a real clock takes a second here, and every run is the same.
 */
#include <criterion/criterion.h>

#include "base/assert.h"
#include "ring/memberlist/core_int.h"
#include "set_codec.h"

#define WORLD_MAX 50
#define KEY SL("collectors/ring")

struct world {
    int64_t now_ms;
    size_t n;
    struct core *cores[WORLD_MAX]; /* NULL = killed; core i is at port 1000 + i */
    bool (*drops)(const struct world *w, size_t from, size_t to);
    uint32_t loss_percent;
    uint32_t random;
    size_t packets, bytes;
};

static struct kv_codecs codecs = {.codecs = {&set_codec}, .n = 1};

static void start_with(struct world *w, size_t i, const char *name, const struct memberlist_config *cfg)
{
    struct gossip_addr addr;
    char text[32];
    snprintf(text, sizeof text, "127.0.0.1:%zu", 1000 + i);
    cr_assert(addr_from_text(slice_of(text), &addr));
    w->cores[i] = calloc(1, sizeof *w->cores[i]);
    core_init(w->cores[i], cfg, &codecs, name, &addr, i * 7919 + (uint64_t)w->now_ms + 1, w->now_ms, w->now_ms);
}

static void start(struct world *w, size_t i, const char *name, const char *label)
{
    struct memberlist_config cfg;
    memberlist_config_default(&cfg);
    cfg.cluster_label = label;
    start_with(w, i, name, &cfg);
}

static struct world *world_new(size_t n)
{
    struct world *w = calloc(1, sizeof *w);
    w->now_ms = 1000000000;
    w->n = n;
    w->random = 1;
    char name[24];
    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "n%zu", i);
        start(w, i, name, "");
    }
    return w;
}

static void kill_core(struct world *w, size_t i)
{
    core_release(w->cores[i]);
    free(w->cores[i]);
    w->cores[i] = NULL;
}

static void world_free(struct world *w)
{
    for (size_t i = 0; i < w->n; i++)
        if (w->cores[i])
            kill_core(w, i);
    free(w);
}

static void deliver(struct world *w, size_t from, struct outgoing *o)
{
    size_t to = o->to.port - 1000U, need;
    w->random = w->random * 1664525 + 1013904223;
    bool lost = (w->random >> 8) % 100 < w->loss_percent || (w->drops && w->drops(w, from, to));
    struct slice in = {o->bytes.p + 1, o->bytes.n - 1};
    w->packets++;
    w->bytes += o->bytes.n;
    if (!lost && to < w->n && w->cores[to]) {
        if (o->is_stream) {
            struct buf reply = {0};
            cr_assert(core_on_stream(w->cores[to], in, &reply, &need) != WIRE_SHORT);
            if (reply.n)
                cr_assert_eq(core_on_reply(w->cores[from], buf_slice(&reply), &need), WIRE_OK);
            w->bytes += reply.n;
            buf_release(&reply);
        } else {
            core_on_packet(w->cores[to], in);
        }
    }
    buf_release(&o->bytes);
}

static void run(struct world *w, int64_t ms)
{
    static struct outgoing mail[CORE_OUTBOX_MAX];
    for (int64_t end = w->now_ms + ms; w->now_ms < end; w->now_ms += 10) {
        for (size_t i = 0; i < w->n; i++)
            if (w->cores[i])
                core_tick(w->cores[i], w->now_ms, w->now_ms);
        for (size_t i = 0; i < w->n; i++) {
            if (!w->cores[i])
                continue;
            size_t n = w->cores[i]->n_outbox;
            memcpy(mail, w->cores[i]->outbox, n * sizeof *mail);
            w->cores[i]->n_outbox = 0;
            for (size_t k = 0; k < n; k++)
                deliver(w, i, &mail[k]);
        }
    }
}

static void join_all(struct world *w)
{
    for (size_t i = 1; i < w->n; i++)
        core_join(w->cores[i], &w->cores[0]->addr);
}

static enum node_state state_of(const struct world *w, size_t observer, const char *name)
{
    struct node *n = core_find(w->cores[observer], slice_of(name));
    cr_assert(n, "%zu does not know %s", observer, name);
    return n->state;
}

/* Everybody who lives thinks so of the node. */
static void all_say(const struct world *w, const char *name, enum node_state state)
{
    for (size_t i = 0; i < w->n; i++)
        if (w->cores[i] && strcmp(w->cores[i]->name, name) != 0)
            cr_assert_eq(state_of(w, i, name), state, "%zu says %d of %s", i, state_of(w, i, name), name);
}

static size_t n_alive(const struct core *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_nodes; i++)
        n += c->nodes[i]->state == NODE_ALIVE;
    return n;
}

static void put(struct world *w, size_t i, const char *name)
{
    struct set s = {0};
    set_put(&s, name, w->now_ms / 1000, false);
    cr_assert(store_merge(w->cores[i], KEY, &set_codec, &s, true, false, false, 0));
}

static bool has(const struct world *w, size_t i, const char *name)
{
    const struct entry *e = store_find(w->cores[i], KEY);
    return e && set_find(e->value, name) >= 0;
}

static void all_have(const struct world *w, const char *name)
{
    for (size_t i = 0; i < w->n; i++)
        cr_assert(!w->cores[i] || has(w, i, name), "%zu lacks %s", i, name);
}

Test(memberlist_core, two_nodes_see_each_other_and_each_others_values)
{
    struct world *w = world_new(2);
    put(w, 0, "zero");
    join_all(w);
    run(w, 100);
    cr_assert(has(w, 1, "zero"));
    put(w, 1, "one");
    run(w, 1000);
    all_have(w, "one");
    cr_assert_eq(n_alive(w->cores[0]), 2);
    cr_assert_eq(n_alive(w->cores[1]), 2);
    world_free(w);
}

Test(memberlist_core, fifty_nodes_hear_of_a_change_within_two_seconds_and_fall_silent)
{
    struct world *w = world_new(50);
    join_all(w);
    run(w, 10000);
    for (size_t i = 0; i < 50; i++)
        cr_assert_eq(n_alive(w->cores[i]), 50);
    put(w, 17, "x");
    run(w, 2000);
    all_have(w, "x");
    run(w, 20000);
    w->packets = 0;
    run(w, 10000);
    /* ping and ack every 5 s for each, and push/pulls */
    cr_assert(w->packets <= 250, "%zu packets in 10 s of silence", w->packets);
    world_free(w);
}

Test(memberlist_core, killed_node_is_declared_dead_and_rejoins_under_its_name)
{
    struct world *w = world_new(5);
    join_all(w);
    run(w, 5000);
    kill_core(w, 3);
    run(w, 12000);
    cr_assert_neq(state_of(w, 0, "n3"), NODE_ALIVE);
    run(w, 75000);
    for (size_t i = 0; i < 5; i++) {
        struct node *n = w->cores[i] ? core_find(w->cores[i], SL("n3")) : NULL;
        cr_assert(!n || n->state == NODE_DEAD, "%zu", i);
    }
    start(w, 3, "n3", "");
    core_join(w->cores[3], &w->cores[1]->addr);
    run(w, 20000);
    all_say(w, "n3", NODE_ALIVE);
    cr_assert_eq(n_alive(w->cores[3]), 5);
    world_free(w);
}

Test(memberlist_core, node_that_leaves_is_left_and_not_suspected)
{
    struct world *w = world_new(5);
    join_all(w);
    run(w, 5000);
    core_leave(w->cores[2]);
    run(w, 3000);
    cr_assert(core_left_told(w->cores[2]));
    all_say(w, "n2", NODE_LEFT);
    world_free(w);
}

static bool half(const struct world *w, size_t from, size_t to)
{
    return (from < w->n / 2) != (to < w->n / 2);
}

Test(memberlist_core, partition_heals_and_both_sides_have_all_changes)
{
    struct world *w = world_new(10);
    join_all(w);
    run(w, 5000);
    w->drops = half;
    put(w, 1, "left-side");
    put(w, 8, "right-side");
    run(w, 12000);
    cr_assert(has(w, 4, "left-side") && !has(w, 5, "left-side"));
    w->drops = NULL;
    run(w, 70000);
    all_have(w, "left-side");
    all_have(w, "right-side");
    for (size_t i = 0; i < 10; i++)
        cr_assert_eq(n_alive(w->cores[i]), 10);
    world_free(w);
}

Test(memberlist_core, partition_that_outlives_the_deaths_heals_when_one_rejoins)
{
    struct world *w = world_new(6);
    join_all(w);
    run(w, 5000);
    w->drops = half;
    run(w, 300000);
    cr_assert_eq(n_alive(w->cores[0]), 3);
    cr_assert_eq(n_alive(w->cores[5]), 3);
    w->drops = NULL;
    core_join(w->cores[5], &w->cores[0]->addr);
    run(w, 40000);
    for (size_t i = 0; i < 6; i++)
        cr_assert_eq(n_alive(w->cores[i]), 6);
    world_free(w);
}

static bool one_way(const struct world *w, size_t from, size_t to)
{
    (void)w;
    return (from == 0 && to == 4) || (from == 4 && to == 0);
}

Test(memberlist_core, node_that_only_one_cannot_reach_stays_alive_through_helpers)
{
    struct world *w = world_new(5);
    join_all(w);
    run(w, 5000);
    w->drops = one_way;
    for (int i = 0; i < 300; i++) {
        run(w, 1000);
        cr_assert_eq(state_of(w, 1, "n4"), NODE_ALIVE);
        cr_assert_eq(state_of(w, 0, "n4"), NODE_ALIVE);
    }
    world_free(w);
}

Test(memberlist_core, lost_packets_kill_nobody)
{
    struct world *w = world_new(20);
    join_all(w);
    run(w, 5000);
    w->loss_percent = 10;
    put(w, 3, "x");
    run(w, 300000);
    all_have(w, "x");
    for (size_t i = 0; i < 20; i++)
        for (size_t k = 0; k < w->cores[i]->n_nodes; k++)
            cr_assert(w->cores[i]->nodes[k]->state <= NODE_SUSPECT);
    world_free(w);
}

Test(memberlist_core, fifty_nodes_with_every_fifth_packet_lost_hear_of_a_change_and_kill_nobody)
{
    struct world *w = world_new(50);
    join_all(w);
    run(w, 10000);
    w->loss_percent = 20;
    put(w, 17, "x");
    run(w, 5000);
    all_have(w, "x");
    run(w, 120000);
    for (size_t i = 0; i < 50; i++)
        for (size_t k = 0; k < w->cores[i]->n_nodes; k++)
            cr_assert(w->cores[i]->nodes[k]->state <= NODE_SUSPECT);
    world_free(w);
}

Test(memberlist_core, fifty_nodes_in_two_halves_for_half_a_minute_are_one_again)
{
    struct world *w = world_new(50);
    join_all(w);
    run(w, 10000);
    w->drops = half;
    put(w, 3, "left-side");
    put(w, 42, "right-side");
    run(w, 30000);
    cr_assert(has(w, 24, "left-side") && !has(w, 25, "left-side"));
    w->drops = NULL;
    run(w, 60000);
    all_have(w, "left-side");
    all_have(w, "right-side");
    for (size_t i = 0; i < 50; i++)
        cr_assert_eq(n_alive(w->cores[i]), 50);
    world_free(w);
}

/* The news of one node: at most three packets an interval from each, until each has told it 4 * log10(n) times. */
Test(memberlist_core, one_that_comes_back_under_another_name_is_known_at_once_and_makes_no_storm)
{
    struct world *w = world_new(50);
    join_all(w);
    run(w, 30000);
    kill_core(w, 20);
    w->packets = 0;
    start(w, 20, "again", "");
    core_join(w->cores[20], &w->cores[0]->addr);
    run(w, 2000);
    all_say(w, "again", NODE_ALIVE);
    cr_assert_leq(w->packets, 50 * 30, "%zu packets in 2 s", w->packets);
    run(w, 300000); /* the old one is suspected, dead and forgotten meanwhile */
    for (size_t i = 0; i < 50; i++)
        cr_assert(w->cores[i]->n_nodes == 50 && n_alive(w->cores[i]) == 50, "%zu of %zu", n_alive(w->cores[i]),
                  w->cores[i]->n_nodes);
    w->packets = 0;
    run(w, 10000);
    cr_assert_leq(w->packets, 250, "%zu packets in 10 s of silence", w->packets);
    world_free(w);
}

/* Nodes 0..3 are of zone a, 4..7 of zone b; 0 and 4 are bridges. */
static size_t n_across;
static bool count_across(const struct world *w, size_t from, size_t to)
{
    (void)w;
    bool bridges = (from == 0 || from == 4) && (to == 0 || to == 4);
    n_across += (from < 4) != (to < 4) && !bridges;
    return false;
}

static struct world *zones_new(void)
{
    struct world *w = world_new(0);
    struct memberlist_config cfg;
    memberlist_config_default(&cfg);
    char name[24];
    w->n = 8;
    for (size_t i = 0; i < 8; i++) {
        snprintf(name, sizeof name, "n%zu", i);
        cfg.zone = i < 4 ? "a" : "b";
        cfg.role = i % 4 ? MEMBERLIST_MEMBER : MEMBERLIST_BRIDGE;
        start_with(w, i, name, &cfg);
    }
    join_all(w);
    run(w, 5000);
    return w;
}

Test(memberlist_core, only_bridges_talk_to_other_zones_and_all_hear_of_all)
{
    struct world *w = zones_new();
    n_across = 0;
    w->drops = count_across;
    put(w, 1, "x");
    run(w, 60000);
    all_have(w, "x");
    for (size_t i = 0; i < 8; i++)
        cr_assert_eq(n_alive(w->cores[i]), 8);
    cr_assert_eq(n_across, 0);
    world_free(w);
}

Test(memberlist_core, zone_without_its_bridge_is_not_cut_off)
{
    struct world *w = zones_new();
    kill_core(w, 4);
    run(w, 300000);
    put(w, 1, "x");
    run(w, 60000);
    all_have(w, "x");
    put(w, 6, "y");
    run(w, 60000);
    all_have(w, "y");
    world_free(w);
}

Test(memberlist_core, accused_node_refutes)
{
    struct world *w = world_new(3);
    join_all(w);
    run(w, 5000);
    core_suspect(w->cores[0], SL("n1"), SL("n0"), 1);
    cr_assert_eq(state_of(w, 0, "n1"), NODE_SUSPECT);
    run(w, 2000);
    all_say(w, "n1", NODE_ALIVE);
    cr_assert_eq(core_find(w->cores[0], SL("n1"))->incarnation, 2);
    world_free(w);
}

Test(memberlist_core, deleted_key_vanishes_everywhere_and_stays_away)
{
    struct world *w = world_new(4);
    join_all(w);
    run(w, 5000);
    put(w, 0, "x");
    run(w, 2000);
    store_remove(w->cores[2], KEY);
    run(w, 2000);
    for (size_t i = 0; i < 4; i++)
        cr_assert(store_find(w->cores[i], KEY)->deleted);
    run(w, 90000);
    for (size_t i = 0; i < 4; i++)
        cr_assert_null(store_find(w->cores[i], KEY));
    world_free(w);
}

Test(memberlist_core, other_labels_are_not_heard)
{
    struct world *w = world_new(2);
    kill_core(w, 1);
    start(w, 1, "n1", "other");
    put(w, 0, "x");
    core_join(w->cores[1], &w->cores[0]->addr);
    run(w, 10000);
    cr_assert_eq(w->cores[0]->n_nodes, 1);
    cr_assert_eq(w->cores[1]->n_nodes, 1);
    cr_assert(!has(w, 1, "x"));
    world_free(w);
}

Test(memberlist_core, full_queues_drop_and_push_pull_repairs)
{
    struct world *w = world_new(3);
    join_all(w);
    run(w, 5000);
    w->cores[0]->local_queue.max_items = 1;
    put(w, 0, "a");
    put(w, 0, "b");
    put(w, 0, "c");
    cr_assert(w->cores[0]->stats.broadcasts_dropped > 0);
    run(w, 65000);
    all_have(w, "a");
    all_have(w, "c");
    world_free(w);
}

Test(memberlist_core, newer_broadcast_of_the_same_names_replaces_the_older)
{
    struct world *w = world_new(2);
    put(w, 0, "a");
    w->now_ms += 1000;
    w->cores[0]->wall_ms += 1000;
    put(w, 0, "a");
    cr_assert_eq(w->cores[0]->local_queue.n, 1);
    put(w, 0, "b");
    cr_assert_eq(w->cores[0]->local_queue.n, 2);
    world_free(w);
}

Test(memberlist_core, more_nodes_than_allowed_are_ignored)
{
    struct world *w = world_new(5);
    w->cores[0]->cfg.max_nodes = 3;
    join_all(w);
    run(w, 5000);
    cr_assert(w->cores[0]->n_nodes <= 3);
    world_free(w);
}
