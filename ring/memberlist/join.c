/* The join thread: finds the seeds' addresses, which may take the resolver seconds, and has the event thread ask them.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "ring/memberlist/memberlist_int.h"

#define ADDRESSES_MAX 128

static void add_addresses(const struct addrinfo *list, struct gossip_addr *ret, size_t *n)
{
    for (; list && *n < ADDRESSES_MAX; list = list->ai_next) {
        struct gossip_addr *a = &ret[*n];
        *a = (struct gossip_addr){.n = 16};
        if (list->ai_family == AF_INET) {
            const struct sockaddr_in *in4 = (const struct sockaddr_in *)(const void *)list->ai_addr;
            a->ip[10] = a->ip[11] = 0xff;
            memcpy(a->ip + 12, &in4->sin_addr, 4);
            a->port = ntohs(in4->sin_port);
        } else if (list->ai_family == AF_INET6) {
            const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)list->ai_addr;
            memcpy(a->ip, &in6->sin6_addr, 16);
            a->port = ntohs(in6->sin6_port);
        } else {
            continue;
        }
        ++*n;
    }
}

/* "host", "host:port", "[v6]:port", with or without "dns+". */
static void resolve(const struct memberlist *m, const char *seed, struct gossip_addr *ret, size_t *n)
{
    char host[256], port[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    if (strncmp(seed, "dns+", 4) == 0)
        seed += 4;
    const char *colon = strrchr(seed, ':');
    size_t n_host = colon ? (size_t)(colon - seed) : strlen(seed);
    if (n_host >= 2 && seed[0] == '[' && seed[n_host - 1] == ']')
        seed++, n_host -= 2;
    snprintf(host, sizeof host, "%.*s", (int)MIN(n_host, sizeof host - 1), seed);
    snprintf(port, sizeof port, "%u", m->port);
    int failed = getaddrinfo(host, colon ? colon + 1 : port, &hints, &list);
    if (failed)
        LOG_WARN("memberlist: a seed is not known", {"seed", LOG_STR(seed)}, {"err", LOG_STR(gai_strerror(failed))});
    else
        add_addresses(list, ret, n);
    if (list)
        freeaddrinfo(list);
}

/* With the lock held: until ms have passed, or all is over. */
static void sleep_locked(struct memberlist *m, int64_t ms)
{
    int64_t until_ms = clock_mono_ms() + ms;
    struct timespec ts = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
    while (!m->stopping && clock_mono_ms() < until_ms)
        pthread_cond_timedwait(&m->changed, &m->lock, &ts);
}

/* Asks all seeds; true when one has answered. */
static bool try_once(struct memberlist *m)
{
    struct gossip_addr to[ADDRESSES_MAX];
    size_t n = 0, sent = 0;
    for (size_t i = 0; i < m->cfg.n_join; i++)
        resolve(m, m->seeds[i], to, &n);
    pthread_mutex_lock(&m->lock);
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
    bool joined = m->joins_ok > 0;
    pthread_mutex_unlock(&m->lock);
    return joined;
}

static bool join(struct memberlist *m)
{
    int64_t backoff_ms = m->cfg.min_join_backoff_ms;
    for (int i = 0; i < m->cfg.max_join_retries; i++) {
        if (try_once(m))
            return true;
        pthread_mutex_lock(&m->lock);
        sleep_locked(m, backoff_ms);
        bool stopping = m->stopping;
        pthread_mutex_unlock(&m->lock);
        if (stopping)
            return false;
        backoff_ms = MIN(2 * backoff_ms, m->cfg.max_join_backoff_ms);
    }
    LOG_WARN("memberlist: no seed has answered", {"tries", LOG_I64(m->cfg.max_join_retries)});
    return false;
}

void *join_main(void *arg)
{
    struct memberlist *m = arg;
    bool stopping = false;
    if (!m->cfg.n_join)
        return NULL;
    join(m);
    while (m->cfg.rejoin_interval_ms > 0 && !stopping) {
        pthread_mutex_lock(&m->lock);
        sleep_locked(m, m->cfg.rejoin_interval_ms);
        stopping = m->stopping;
        pthread_mutex_unlock(&m->lock);
        if (!stopping)
            try_once(m);
    }
    return NULL;
}
