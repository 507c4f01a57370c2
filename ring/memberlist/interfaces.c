/* The address that others are told when nobody says which. */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>

#include "ring/memberlist/memberlist_int.h"

/* Lower is better; 0 = none that others could reach. */
static int rank4(uint32_t ip)
{
    bool private = (ip >> 24) == 10 || (ip >> 20) == 0xac1 || (ip >> 16) == 0xc0a8 ||
                   (ip >> 22) == 0x191; /* RFC 1918, and 100.64/10 */
    if ((ip >> 24) == 127 || (ip >> 24) == 0 || (ip >> 16) == 0xa9fe)
        return 0;
    return private ? 1 : 2;
}

static int rank6(const struct in6_addr *ip)
{
    if (IN6_IS_ADDR_LOOPBACK(ip) || IN6_IS_ADDR_LINKLOCAL(ip) || IN6_IS_ADDR_UNSPECIFIED(ip) ||
        IN6_IS_ADDR_MULTICAST(ip))
        return 0;
    return (ip->s6_addr[0] & 0xfe) == 0xfc ? 3 : 4;
}

static int take(const struct sockaddr *sa, struct gossip_addr *ret)
{
    *ret = (struct gossip_addr){.n = 16};
    if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *in4 = (const struct sockaddr_in *)(const void *)sa;
        ret->ip[10] = ret->ip[11] = 0xff;
        memcpy(ret->ip + 12, &in4->sin_addr, 4);
        return rank4(ntohl(in4->sin_addr.s_addr));
    }
    if (sa->sa_family != AF_INET6)
        return 0;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)sa;
    memcpy(ret->ip, &in6->sin6_addr, 16);
    return rank6(&in6->sin6_addr);
}

bool first_private_addr(struct gossip_addr *ret)
{
    struct ifaddrs *list;
    int best = 0;
    if (getifaddrs(&list) != 0)
        return false;
    for (const struct ifaddrs *i = list; i; i = i->ifa_next) {
        struct gossip_addr a;
        int rank = i->ifa_addr && (i->ifa_flags & IFF_UP) ? take(i->ifa_addr, &a) : 0;
        if (rank && (!best || rank < best)) {
            best = rank;
            *ret = a;
        }
    }
    freeifaddrs(list);
    return best > 0;
}
