/* Who this process is in a ring: names and addresses that the flags leave open. See config.h. */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/logger.h"
#include "ring/config.h"

/* How good an address is; of equal ones the first counts. */
enum quality { UNUSABLE, LOOPBACK, LINK_LOCAL, LINK_LOCAL_IPV6, ROUTABLE, ROUTABLE_IPV6 };

static enum quality quality_of_ipv4(struct in_addr in)
{
    uint32_t a = ntohl(in.s_addr);
    if (a == INADDR_ANY)
        return UNUSABLE;
    if (a >> 24 == 127)
        return LOOPBACK;
    return a >> 16 == 0xA9FE ? LINK_LOCAL : ROUTABLE; /* 169.254.0.0/16 */
}

static enum quality quality_of_ipv6(const struct in6_addr *a)
{
    if (IN6_IS_ADDR_UNSPECIFIED(a) || IN6_IS_ADDR_MULTICAST(a))
        return UNUSABLE;
    if (IN6_IS_ADDR_LOOPBACK(a))
        return LOOPBACK;
    return IN6_IS_ADDR_LINKLOCAL(a) ? LINK_LOCAL_IPV6 : ROUTABLE_IPV6;
}

static enum quality quality_of(const struct sockaddr *sa, bool ipv6)
{
    if (sa && sa->sa_family == AF_INET)
        return quality_of_ipv4(((const struct sockaddr_in *)(const void *)sa)->sin_addr);
    if (sa && sa->sa_family == AF_INET6 && ipv6)
        return quality_of_ipv6(&((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr);
    return UNUSABLE;
}

/* 10/8, 172.16/12, 192.168/16, fc00::/7. */
static bool is_private(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET6)
        return (((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr.s6_addr[0] & 0xFE) == 0xFC;
    uint32_t a = ntohl(((const struct sockaddr_in *)(const void *)sa)->sin_addr.s_addr);
    return a >> 24 == 10 || a >> 20 == 0xAC1 || a >> 16 == 0xC0A8;
}

static bool has_private(const struct ifaddrs *all, const char *name, bool ipv6)
{
    for (const struct ifaddrs *i = all; i; i = i->ifa_next)
        if (strcmp(i->ifa_name, name) == 0 && quality_of(i->ifa_addr, ipv6) >= ROUTABLE && is_private(i->ifa_addr))
            return true;
    return false;
}

/* The best address of an interface; name NULL: of all. */
static enum quality best_of(const struct ifaddrs *all, const char *name, bool ipv6, const struct sockaddr **ret)
{
    enum quality best = UNUSABLE;
    for (const struct ifaddrs *i = all; i; i = i->ifa_next) {
        if (!(i->ifa_flags & IFF_UP) || (name && strcmp(i->ifa_name, name) != 0))
            continue;
        enum quality q = quality_of(i->ifa_addr, ipv6);
        if (q > best) {
            best = q;
            *ret = i->ifa_addr;
        }
    }
    return best;
}

static enum quality best_named(const struct ifaddrs *all, const struct flag_list *names, bool ipv6, const struct sockaddr **ret)
{
    enum quality best = UNUSABLE;
    for (size_t i = 0; i < names->n && best < ROUTABLE; i++) {
        const struct sockaddr *sa = NULL;
        enum quality q = best_of(all, names->items[i], ipv6, &sa);
        if (q > best) {
            best = q;
            *ret = sa;
        }
    }
    return best;
}

/* An interface of a private network, else whatever there is: a single process must start on a machine without a network, too. */
static enum quality best_by_default(const struct ifaddrs *all, bool ipv6, const struct sockaddr **ret)
{
    for (const struct ifaddrs *i = all; i; i = i->ifa_next)
        if ((i->ifa_flags & IFF_UP) && has_private(all, i->ifa_name, ipv6))
            return best_of(all, i->ifa_name, ipv6, ret);
    enum quality best = best_of(all, NULL, ipv6, ret);
    if (best == LOOPBACK)
        LOG_WARN("no network interface has an address that others can reach; this instance is registered with its loopback address");
    return best;
}

static void print_ip(const struct sockaddr *sa, char ret[INET6_ADDRSTRLEN])
{
    const void *in = sa->sa_family == AF_INET6 ? (const void *)&((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr
                                               : (const void *)&((const struct sockaddr_in *)(const void *)sa)->sin_addr;
    const char *text = inet_ntop(sa->sa_family, in, ret, INET6_ADDRSTRLEN);
    ASSERT(text);
}

static bool find_ip(const struct ring_member_config *cfg, const char *flag, char ret[INET6_ADDRSTRLEN], struct err *err)
{
    struct ifaddrs *all;
    if (getifaddrs(&all) != 0)
        return err_set(err, ERR_CONFIG, "-%sinstance-addr is not set and the network interfaces cannot be read: %m", flag);
    const struct flag_list *names = &cfg->instance_interface_names;
    const struct sockaddr *sa = NULL;
    enum quality q = names->n ? best_named(all, names, cfg->instance_enable_ipv6, &sa)
                              : best_by_default(all, cfg->instance_enable_ipv6, &sa);
    if (q != UNUSABLE)
        print_ip(sa, ret);
    freeifaddrs(all);
    if (q == UNUSABLE)
        return err_set(err, ERR_CONFIG, "none of the interfaces of -%sinstance-interface-names has an address; -%sinstance-addr sets one",
                       flag, flag);
    return true;
}

static bool set_string(char *ret, size_t size, const char *value, const char *flag, const char *name, struct err *err)
{
    if (strlen(value) >= size)
        return err_set(err, ERR_CONFIG, "-%s%s is longer than %zu bytes", flag, name, size - 1);
    memcpy(ret, value, strlen(value) + 1);
    return true;
}

bool ring_member_resolve(const struct ring_member_config *cfg, const char *flag, uint16_t default_port,
                         struct ring_member_identity *ret, struct err *err)
{
    struct ring_member_identity me;
    char host[256] = "", ip[INET6_ADDRSTRLEN];
    if (!cfg->instance_id[0] && gethostname(host, sizeof(host) - 1) != 0)
        return err_set(err, ERR_CONFIG, "-%sinstance-id is not set and the host name cannot be read: %m", flag);
    if (!set_string(me.id, sizeof(me.id), cfg->instance_id[0] ? cfg->instance_id : host, flag, "instance-id", err) ||
        !set_string(me.zone, sizeof(me.zone), cfg->instance_availability_zone, flag, "instance-availability-zone", err))
        return false;
    if (!me.id[0])
        return err_set(err, ERR_CONFIG, "-%sinstance-id is not set and the host has no name", flag);
    if (cfg->instance_port < 0 || cfg->instance_port > UINT16_MAX)
        return err_set(err, ERR_CONFIG, "-%sinstance-port is no port", flag);
    if (strlen(cfg->instance_addr) > 255)
        return err_set(err, ERR_CONFIG, "-%sinstance-addr is longer than 255 bytes", flag);
    if (!cfg->instance_addr[0] && !find_ip(cfg, flag, ip, err))
        return false;
    const char *addr = cfg->instance_addr[0] ? cfg->instance_addr : ip;
    bool bare_ipv6 = strchr(addr, ':') && addr[0] != '[';
    snprintf(me.addr, sizeof(me.addr), "%s%s%s:%u", bare_ipv6 ? "[" : "", addr, bare_ipv6 ? "]" : "",
             cfg->instance_port ? (unsigned)cfg->instance_port : default_port);
    *ret = me;
    return true;
}
