#include "ring/memberlist/memberlist.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "ring/memberlist/memberlist_int.h"

void memberlist_config_default(struct memberlist_config *cfg)
{
    *cfg = (struct memberlist_config){
        .node_name = "",
        .randomize_node_name = true,
        .bind_addr = "",
        .bind_port = 7946,
        .advertise_addr = "",
        .cluster_label = "",
        .compression_enabled = true,
        .zone = "",
        .min_join_backoff_ms = 1000,
        .max_join_backoff_ms = 60000,
        .max_join_retries = 10,
        .gossip_interval_ms = 200,
        .gossip_nodes = 3,
        .gossip_to_dead_ms = 30000,
        .probe_interval_ms = 5000,
        .probe_timeout_ms = 2000,
        .push_pull_interval_ms = 30000,
        .retransmit_factor = 4,
        .stream_timeout_ms = 2000,
        .packet_dial_timeout_ms = 500,
        .packet_write_timeout_ms = 500,
        .broadcast_timeout_ms = 10000,
        .leave_timeout_ms = 20000,
        .left_ingesters_timeout_ms = 300000,
        .obsolete_entries_timeout_ms = 30000,
        .max_nodes = 4096,
        .max_keys = MEMBERLIST_KEYS_MAX,
        .max_queued_messages = 4096,
        .max_queued_bytes = (size_t)20 << 20,
        .max_connections_in = 512,
        .max_connections_out = 256,
    };
}

static bool check(const struct memberlist_config *cfg, struct err *err)
{
    if (strlen(cfg->cluster_label) > 255)
        return err_set(err, ERR_CONFIG, "memberlist: cluster label is longer than 255 bytes");
    if (strlen(cfg->zone) > 16)
        return err_set(err, ERR_CONFIG, "memberlist: zone is longer than 16 bytes");
    if (strlen(cfg->node_name) > WIRE_NAME_MAX_BYTES - 10)
        return err_set(err, ERR_CONFIG, "memberlist: node name is longer than %d bytes", WIRE_NAME_MAX_BYTES - 10);
    if (cfg->gossip_interval_ms < 1 || cfg->probe_interval_ms < 1 || cfg->push_pull_interval_ms < 0 ||
        cfg->max_nodes < 1 || cfg->stream_timeout_ms < 1 || cfg->packet_dial_timeout_ms < 1 ||
        cfg->packet_write_timeout_ms < 1)
        return err_set(err, ERR_CONFIG, "memberlist: intervals and limits must be positive");
    return true;
}

static char **copy_list(const char *const *list, size_t n)
{
    char **copy = must(calloc(n + 1, sizeof *copy));
    for (size_t i = 0; i < n; i++)
        copy[i] = must(strdup(list[i]));
    return copy;
}

static void free_list(char **list)
{
    for (size_t i = 0; list && list[i]; i++)
        free(list[i]);
    free(list);
}

static void copy_config(struct memberlist *m, const struct memberlist_config *cfg)
{
    m->cfg = *cfg;
    const char **from[] = {&m->cfg.node_name, &m->cfg.bind_addr, &m->cfg.advertise_addr, &m->cfg.cluster_label,
                           &m->cfg.zone};
    for (size_t i = 0; i < ARRAY_LEN(from); i++)
        *from[i] = m->strings[i] = must(strdup(*from[i]));
    m->seeds = copy_list(cfg->join, cfg->n_join);
    m->rejoin_seeds = copy_list(cfg->rejoin_seeds, cfg->n_rejoin_seeds);
    m->cfg.join = m->cfg.rejoin_seeds = NULL;
}

static bool is_definite(const struct gossip_addr *a)
{
    static const uint8_t none[16] = {0}, none4[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0};
    return memcmp(a->ip, none, 16) != 0 && memcmp(a->ip, none4, 16) != 0;
}

static bool advertised(const struct memberlist *m, struct gossip_addr *ret, struct err *err)
{
    const char *ip = m->cfg.advertise_addr[0] ? m->cfg.advertise_addr : m->cfg.bind_addr[0] ? m->cfg.bind_addr : "::";
    char text[80];
    snprintf(text, sizeof text, strchr(ip, ':') ? "[%s]:1" : "%s:1", ip);
    if (!addr_from_text(slice_of(text), ret) || (m->cfg.advertise_addr[0] && !is_definite(ret)))
        return err_set(err, ERR_CONFIG, "memberlist: advertise address \"%s\" is not one that others can reach", ip);
    if (!is_definite(ret) && !first_private_addr(ret))
        return err_set(err, ERR_CONFIG,
                       "memberlist: this machine has no address to tell others; "
                       "-memberlist.advertise-addr or -memberlist.bind-addr must say one");
    ret->port = m->cfg.advertise_port ? m->cfg.advertise_port : m->port;
    return true;
}

static void init_lock(struct memberlist *m)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->changed, &attr);
    pthread_condattr_destroy(&attr);
}

struct memberlist *memberlist_new(const struct memberlist_config *cfg, const struct kv_codecs *codecs, struct err *err)
{
    if (!check(cfg, err))
        return NULL;
    struct memberlist *m = must(calloc(1, sizeof *m));
    struct gossip_addr addr;
    char name[WIRE_NAME_MAX_BYTES + 1], host[128] = "";
    uint64_t random = 0;
    m->kv.ops = &memberlist_kv_ops;
    m->listen_fd = m->epoll_fd = m->wake_fd = -1;
    copy_config(m, cfg);
    init_lock(m);
    if (!event_init(m, err) || !advertised(m, &addr, err)) {
        memberlist_free(m);
        return NULL;
    }
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        random = (uint64_t)clock_wall_ns();
    gethostname(host, sizeof host - 1);
    const char *base = m->cfg.node_name[0] ? m->cfg.node_name : host;
    if (m->cfg.randomize_node_name)
        snprintf(name, sizeof name, "%.245s-%08x", base, (unsigned)(random >> 32));
    else
        snprintf(name, sizeof name, "%.245s", base);
    core_init(&m->core, &m->cfg, codecs, name, &addr, random, clock_mono_ms(), clock_wall_ms());
    return m;
}

static void join_threads(struct memberlist *m, int n)
{
    pthread_t threads[] = {m->event_thread, m->notify_thread, m->join_thread};
    pthread_mutex_lock(&m->lock);
    m->stopping = true;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
    event_wake(m);
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

static bool wait_first_try(struct memberlist *m, struct err *err)
{
    if (!m->cfg.n_join)
        return true;
    pthread_mutex_lock(&m->lock);
    while (!m->first_try_done)
        pthread_cond_wait(&m->changed, &m->lock);
    size_t reached = m->first_try_reached;
    pthread_mutex_unlock(&m->lock);
    if (reached >= m->cfg.fast_join_min_nodes)
        return true;
    return err_set(err, ERR_UNAVAILABLE, "memberlist: the first try to join reached %zu members, not %zu", reached,
                   m->cfg.fast_join_min_nodes);
}

bool memberlist_start(struct memberlist *m, struct err *err)
{
    int n = 0, failed;
    ASSERT(!m->started);
    if ((failed = pthread_create(&m->event_thread, NULL, event_main, m)) == 0)
        n++;
    if (!failed && (failed = pthread_create(&m->notify_thread, NULL, notify_main, m)) == 0)
        n++;
    if (!failed && (failed = pthread_create(&m->join_thread, NULL, join_main, m)) == 0)
        n++;
    m->started = n == 3;
    if (m->started)
        return wait_first_try(m, err);
    join_threads(m, n);
    return err_errno(err, ERR_INTERNAL, failed, "memberlist: starting a thread");
}

/* Until done says so, the time is over or it stops. With the lock held. */
static void wait_locked(struct memberlist *m, int64_t timeout_ms, bool (*done)(const struct memberlist *m))
{
    int64_t until_ms = clock_mono_ms() + timeout_ms;
    struct timespec ts = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
    while (!m->stopping && clock_mono_ms() < until_ms && !done(m))
        pthread_cond_timedwait(&m->changed, &m->lock, &ts);
}

static bool changes_told(const struct memberlist *m)
{
    return !m->started || core_changes_told(&m->core);
}

static bool good_bye_told(const struct memberlist *m)
{
    return !m->started || (core_left_told(&m->core) && !m->core.n_outbox && !m->n_out);
}

void memberlist_leave(struct memberlist *m)
{
    pthread_mutex_lock(&m->lock);
    wait_locked(m, m->cfg.broadcast_timeout_ms, changes_told);
    if (!m->core.leaving)
        core_leave(&m->core);
    wait_locked(m, m->cfg.leave_timeout_ms, good_bye_told);
    m->core.left = true;
    pthread_mutex_unlock(&m->lock);
}

void memberlist_free(struct memberlist *m)
{
    if (!m)
        return;
    metrics_withdraw(m);
    if (m->started)
        join_threads(m, 3);
    for (size_t i = 0; i < MEMBERLIST_WATCHES_MAX; i++)
        ASSERT(!m->watches[i]);
    event_release(m);
    core_release(&m->core);
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->lock);
    for (size_t i = 0; i < ARRAY_LEN(m->strings); i++)
        free(m->strings[i]);
    free_list(m->seeds);
    free_list(m->rejoin_seeds);
    free(m);
}

uint16_t memberlist_port(const struct memberlist *m)
{
    return m->port;
}

const char *memberlist_node_name(const struct memberlist *m)
{
    return m->core.name;
}

static bool has_joined(const struct memberlist *m)
{
    return m->joined;
}

bool memberlist_wait_joined(struct memberlist *m, int64_t timeout_ms)
{
    pthread_mutex_lock(&m->lock);
    wait_locked(m, timeout_ms, has_joined);
    bool joined = m->joined;
    pthread_mutex_unlock(&m->lock);
    return joined;
}

struct kv *memberlist_kv(struct memberlist *m)
{
    return &m->kv;
}

size_t memberlist_members(struct memberlist *m, struct memberlist_member *ret, size_t max)
{
    static const char *const states[] = {"alive", "suspect", "dead", "left"};
    pthread_mutex_lock(&m->lock);
    size_t n = m->core.n_nodes;
    int64_t now_ms = clock_mono_ms();
    for (size_t i = 0; i < n && i < max; i++) {
        const struct node *node = m->core.nodes[i];
        ret[i] = (struct memberlist_member){
            .state = states[node->state], .incarnation = node->incarnation, .state_age_ms = now_ms - node->changed_ms};
        snprintf(ret[i].name, sizeof ret[i].name, "%s", node->name);
        addr_to_text(&node->addr, ret[i].addr, sizeof ret[i].addr);
    }
    pthread_mutex_unlock(&m->lock);
    return n;
}

void memberlist_stats(struct memberlist *m, struct memberlist_stats *ret)
{
    pthread_mutex_lock(&m->lock);
    *ret = m->core.stats;
    ret->queued = m->core.node_queue.n + m->core.local_queue.n + m->core.forward_queue.n;
    ret->awareness = m->core.awareness;
    pthread_mutex_unlock(&m->lock);
}
