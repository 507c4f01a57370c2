/*
 * The join thread: finds the seeds' addresses, which may take the resolver seconds, and has the event thread ask them.
 *
 * A try asks few seeds, at random, and more only when these do not answer: each question is an exchange of everything,
 * and a cluster that starts at once with all its names as seeds would ask n * n of them. Our own address may be among
 * the seeds (the name of a service): it is not asked; a try that finds only that is no failure, but not the last one.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "ring/memberlist/memberlist_int.h"
#include "ring/memberlist/seeds_int.h"

#define ENOUGH 3
#define BATCH_MAX 16

struct attempt {
    size_t others; /* that answered */
    bool is_seed;  /* we are among the seeds ourselves */
};

/* With the lock held: until ms have passed, or all is over. */
static void sleep_locked(struct memberlist *m, int64_t ms)
{
    int64_t until_ms = clock_mono_ms() + ms;
    struct timespec ts = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
    while (!m->stopping && clock_mono_ms() < until_ms)
        pthread_cond_timedwait(&m->changed, &m->lock, &ts);
}

/* Asks these and waits for their answers; returns how many answered. With the lock held. */
static size_t ask(struct memberlist *m, const struct gossip_addr *to, size_t n)
{
    size_t sent = 0;
    m->joins_done = m->joins_ok = 0;
    for (size_t i = 0; i < n && !m->stopping && !m->core.leaving; i++) {
        size_t before = m->core.n_outbox;
        core_join(&m->core, &to[i]);
        sent += m->core.n_outbox - before;
    }
    event_wake(m);
    int64_t until_ms = clock_mono_ms() + 2 * m->cfg.stream_timeout_ms;
    struct timespec ts = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
    while (!m->stopping && m->joins_done < sent && clock_mono_ms() < until_ms)
        pthread_cond_timedwait(&m->changed, &m->lock, &ts);
    return m->joins_ok;
}

static bool is_self(const struct memberlist *m, const struct gossip_addr *a)
{
    return a->port == m->core.addr.port && memcmp(a->ip, m->core.addr.ip, sizeof a->ip) == 0;
}

/* Takes us out and puts the rest into another order. */
static bool prepare(struct memberlist *m, struct seeds *s)
{
    bool is_seed = false;
    for (size_t i = s->n; i-- > 0;) {
        if (!is_self(m, &s->addrs[i]))
            continue;
        is_seed = true;
        s->addrs[i] = s->addrs[--s->n];
    }
    for (size_t i = s->n; i > 1; i--) {
        size_t j = core_random(&m->core) % i;
        struct gossip_addr a = s->addrs[i - 1];
        s->addrs[i - 1] = s->addrs[j];
        s->addrs[j] = a;
    }
    return is_seed;
}

static struct attempt try_once(struct memberlist *m, char **seeds, size_t n_seeds)
{
    struct attempt a = {0};
    struct seeds *s = must(malloc(sizeof *s));
    s->n = 0;
    for (size_t i = 0; i < n_seeds; i++)
        seeds_resolve(seeds[i], m->port, NULL, s);
    pthread_mutex_lock(&m->lock);
    a.is_seed = prepare(m, s);
    size_t enough = MAX(ENOUGH, m->cfg.fast_join_min_nodes);
    for (size_t at = 0, n; at < s->n && a.others < enough && !m->stopping; at += n) {
        n = MIN(at ? BATCH_MAX : enough, s->n - at);
        a.others += ask(m, s->addrs + at, n);
    }
    m->joined |= a.is_seed || a.others > 0;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
    free(s);
    return a;
}

/* The first try, which memberlist_start waits for. */
static struct attempt fast_join(struct memberlist *m)
{
    struct attempt a = try_once(m, m->seeds, m->cfg.n_join);
    pthread_mutex_lock(&m->lock);
    m->first_try_done = true;
    m->first_try_reached = a.others + a.is_seed;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
    return a;
}

static void join(struct memberlist *m)
{
    int64_t backoff_ms = m->cfg.min_join_backoff_ms;
    struct attempt a = fast_join(m);
    for (int i = 0; i < m->cfg.max_join_retries && !a.others; i++) {
        pthread_mutex_lock(&m->lock);
        sleep_locked(m, backoff_ms);
        bool stopping = m->stopping;
        pthread_mutex_unlock(&m->lock);
        if (stopping)
            return;
        backoff_ms = MIN(2 * backoff_ms, m->cfg.max_join_backoff_ms);
        a = try_once(m, m->seeds, m->cfg.n_join);
    }
    if (a.others) {
        LOG_INFO("memberlist: joined the cluster", {"reached", LOG_I64((int64_t)a.others)});
    } else if (a.is_seed) {
        LOG_INFO("memberlist: no other member was found, this one is the first");
    } else {
        LOG_WARN("memberlist: no seed has answered", {"tries", LOG_I64(m->cfg.max_join_retries)});
        if (m->cfg.abort_if_join_fails && m->cfg.on_join_failed)
            m->cfg.on_join_failed(m->cfg.on_join_failed_arg);
    }
}

void *join_main(void *arg)
{
    struct memberlist *m = arg;
    bool stopping = false;
    if (m->cfg.n_join)
        join(m);
    bool own = m->cfg.n_rejoin_seeds > 0;
    size_t n = own ? m->cfg.n_rejoin_seeds : m->cfg.n_join;
    while (m->cfg.rejoin_interval_ms > 0 && n && !stopping) {
        pthread_mutex_lock(&m->lock);
        sleep_locked(m, m->cfg.rejoin_interval_ms);
        stopping = m->stopping;
        pthread_mutex_unlock(&m->lock);
        if (!stopping)
            try_once(m, own ? m->rejoin_seeds : m->seeds, n);
    }
    return NULL;
}
