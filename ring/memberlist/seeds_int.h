/*
 * Where seeds are. "host:port", "host" and "dns+host:port" are all addresses of a host; "dnssrv+name" and
 * "dnssrvnoa+name" are those of every target of the name's SRV records, at the record's port unless the seed names one.
 * (Upstream's two forms differ in who looks the targets up.) The system's resolver is asked, which may take seconds:
 * for the join thread.
 */
#pragma once

#include <netinet/in.h>

#include "ring/memberlist/core_int.h"

#define SEEDS_MAX 1024

struct seeds {
    struct gossip_addr addrs[SEEDS_MAX];
    size_t n;
};

/* Adds what the seed stands for; nothing, and a line in the log, when it is not known. dns_server: for SRV instead of
 * the system's, for tests. */
void seeds_resolve(const char *seed, uint16_t default_port, const struct sockaddr_in *dns_server, struct seeds *s);
/* Adds the targets of a DNS answer. port NULL: that of each record. */
void seeds_add_srv(struct slice answer, const char *port, struct seeds *s);
