/* The listening socket: address by name or number, "" = all addresses, IPv6 and IPv4 on one socket where the machine has both. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/http_int.h"

#define BACKLOG 1024

/* errno in the words that operators know from other programs: lower case, without a number. */
static const char *reason(int errnum)
{
    switch (errnum) {
    case EADDRINUSE:
        return "address already in use";
    case EACCES:
        return "permission denied";
    case EADDRNOTAVAIL:
        return "cannot assign requested address";
    default:
        return strerror(errnum);
    }
}

/* Returns the socket, or -1 with errno. */
static int open_listener(int family, const struct sockaddr *addr, socklen_t len)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    int on = 1;
    int off = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(fd, addr, len) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static int listen_on_all(uint16_t port)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = in6addr_any, .sin6_port = htons(port)};
    int fd = open_listener(AF_INET6, (const struct sockaddr *)&six, sizeof six);
    if (fd >= 0 || (errno != EAFNOSUPPORT && errno != EADDRNOTAVAIL))
        return fd;
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_ANY)}, .sin_port = htons(port)};
    return open_listener(AF_INET, (const struct sockaddr *)&four, sizeof four);
}

/* The first address of the name that can be had. ret_reason: why there was none. */
static int listen_on_name(const char *address, int64_t port, const char **ret_reason)
{
    char service[32];
    snprintf(service, sizeof service, "%d", (int)port);
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(address, service, &hints, &found);
    if (rc) {
        *ret_reason = rc == EAI_NONAME ? "no such host" : gai_strerror(rc);
        return -1;
    }
    int fd = -1;
    for (struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        fd = open_listener(a->ai_family, a->ai_addr, a->ai_addrlen);
        if (fd < 0)
            *ret_reason = reason(errno);
    }
    freeaddrinfo(found);
    return fd;
}

static uint16_t bound_port(int fd)
{
    struct sockaddr_storage addr = {0};
    socklen_t len = sizeof addr;
    if (getsockname(fd, (struct sockaddr *)&addr, &len) != 0)
        return 0;
    if (addr.ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)&addr)->sin6_port);
    return ntohs(((const struct sockaddr_in *)&addr)->sin_port);
}

bool http_listen(const char *address, int64_t port, int *ret_fd, uint16_t *ret_port, struct err *err)
{
    const char *why = "invalid port";
    int fd = -1;
    if (port >= 0 && port <= 65535) {
        if (address[0]) {
            fd = listen_on_name(address, port, &why);
        } else {
            fd = listen_on_all((uint16_t)port);
            why = reason(errno);
        }
    }
    if (fd < 0) {
        bool brackets = strchr(address, ':') != NULL;
        return err_set(err, ERR_CONFIG, "listen tcp %s%s%s:%lld: %s", brackets ? "[" : "", address, brackets ? "]" : "",
                       (long long)port, why);
    }
    *ret_fd = fd;
    *ret_port = bound_port(fd);
    return true;
}
