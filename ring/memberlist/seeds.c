/* Where seeds are: names to addresses. */
#include "ring/memberlist/seeds_int.h"

#include <arpa/nameser.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <resolv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* nameser.h brings param.h, which has its own. */
#undef MIN
#undef MAX
#include "base/assert.h"
#include "base/logger.h"

#define ANSWER_BYTES 65536

static void add_addresses(const struct addrinfo *list, struct seeds *s)
{
    for (; list && s->n < SEEDS_MAX; list = list->ai_next) {
        struct gossip_addr *a = &s->addrs[s->n];
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
        s->n++;
    }
}

static void resolve_host(const char *host, const char *port, struct seeds *s)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    int failed = getaddrinfo(host, port, &hints, &list);
    if (failed)
        LOG_WARN("memberlist: a seed is not known", {"seed", LOG_STR(host)}, {"err", LOG_STR(gai_strerror(failed))});
    else
        add_addresses(list, s);
    if (list)
        freeaddrinfo(list);
}

/* "host", "host:port", "[v6]:port": the host, and the port if there is one. */
static const char *split(const char *seed, char *ret_host, size_t n)
{
    const char *colon = strrchr(seed, ':');
    size_t n_host = colon ? (size_t)(colon - seed) : strlen(seed);
    if (n_host >= 2 && seed[0] == '[' && seed[n_host - 1] == ']')
        seed++, n_host -= 2;
    snprintf(ret_host, n, "%.*s", (int)MIN(n_host, n - 1), seed);
    return colon ? colon + 1 : NULL;
}

/* --- SRV records --------------------------------------------------------------------------------------------------
 */

void seeds_add_srv(struct slice answer, const char *port, struct seeds *s)
{
    ns_msg msg;
    if (answer.n > INT32_MAX || ns_initparse((const unsigned char *)answer.p, (int)answer.n, &msg) != 0)
        return;
    for (int i = 0; i < ns_msg_count(msg, ns_s_an); i++) {
        ns_rr rr;
        char target[NS_MAXDNAME], own_port[8];
        if (ns_parserr(&msg, ns_s_an, i, &rr) != 0 || ns_rr_type(rr) != ns_t_srv || ns_rr_rdlen(rr) < 7)
            continue;                                /* a CNAME on the way, or nonsense */
        const unsigned char *data = ns_rr_rdata(rr); /* priority, weight, port: 16 bits each; target */
        if (ns_name_uncompress(ns_msg_base(msg), ns_msg_end(msg), data + 6, target, sizeof target) < 0)
            continue;
        snprintf(own_port, sizeof own_port, "%u", ns_get16(data + 4));
        resolve_host(target, port ? port : own_port, s);
    }
}

static void resolve_srv(const char *name, const char *port, const struct sockaddr_in *dns_server, struct seeds *s)
{
    struct __res_state state;
    memset(&state, 0, sizeof state);
    unsigned char *answer = must(malloc(ANSWER_BYTES));
    bool ready = res_ninit(&state) == 0;
    if (ready && dns_server) {
        state.nscount = 1;
        state.nsaddr_list[0] = *dns_server;
    }
    int n = ready ? res_nsearch(&state, name, ns_c_in, ns_t_srv, answer, ANSWER_BYTES) : -1;
    if (n < 0)
        LOG_WARN("memberlist: a seed is not known", {"seed", LOG_STR(name)},
                 {"err", LOG_STR(hstrerror(state.res_h_errno))});
    else
        seeds_add_srv((struct slice){(const char *)answer, (size_t)MIN(n, ANSWER_BYTES)}, port, s);
    if (ready)
        res_nclose(&state);
    free(answer);
}

void seeds_resolve(const char *seed, uint16_t default_port, const struct sockaddr_in *dns_server, struct seeds *s)
{
    static const char *const srv[] = {"dnssrv+", "dnssrvnoa+"};
    char host[NS_MAXDNAME], own_port[8];
    for (size_t i = 0; i < ARRAY_LEN(srv); i++) {
        if (strncmp(seed, srv[i], strlen(srv[i])) != 0)
            continue;
        const char *port = split(seed + strlen(srv[i]), host, sizeof host);
        resolve_srv(host, port, dns_server, s);
        return;
    }
    if (strncmp(seed, "dns+", 4) == 0)
        seed += 4;
    const char *port = split(seed, host, sizeof host);
    snprintf(own_port, sizeof own_port, "%u", default_port);
    resolve_host(host, port ? port : own_port, s);
}
