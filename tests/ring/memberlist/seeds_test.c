/* From flags to a configuration, from names to addresses; a DNS server of our own answers for SRV records. */
#include <criterion/criterion.h>
#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ring/memberlist/seeds_int.h"

static void check_addr(const struct seeds *s, size_t i, const char *want)
{
    char text[64];
    cr_assert_lt(i, s->n);
    addr_to_text(&s->addrs[i], text, sizeof text);
    cr_assert_str_eq(text, want);
}

Test(memberlist_seeds, hosts_and_addresses_with_and_without_port)
{
    static const struct {
        const char *seed, *want;
    } cases[] = {{"127.0.0.1", "127.0.0.1:7946"},
                 {"127.0.0.1:17", "127.0.0.1:17"},
                 {"dns+127.0.0.2:17", "127.0.0.2:17"},
                 {"dns+127.0.0.2", "127.0.0.2:7946"},
                 {"[::1]:17", "[::1]:17"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct seeds s = {0};
        seeds_resolve(cases[i].seed, 7946, NULL, &s);
        check_addr(&s, 0, cases[i].want);
    }
    struct seeds s = {0};
    seeds_resolve("no such host at all.invalid", 7946, NULL, &s);
    seeds_resolve("", 7946, NULL, &s);
    seeds_resolve("127.0.0.1:port", 7946, NULL, &s);
}

/* Two SRV records and a CNAME before them; the targets are addresses, so that no other server is needed. */
static size_t answer(const uint8_t *question, size_t n, uint8_t *out)
{
    static const uint8_t cname[] = {0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12};
    static const uint8_t srv[] = {0xc0, 12,   0,    33, 0,   1,   0,   0, 0,   9, 0,   17, 0,   1, 0,
                                  1,    0x1f, 0x0a, 3,  '1', '2', '7', 1, '0', 1, '0', 1,  '5', 0};
    memcpy(out, question, n);
    out[2] = 0x81;
    out[3] = 0x80;
    out[7] = 3;            /* answers */
    out[10] = out[11] = 0; /* no additional records */
    size_t at = 12;
    while (question[at])
        at += question[at] + 1U;
    at += 5;
    memcpy(out + at, cname, sizeof cname);
    at += sizeof cname;
    for (int i = 0; i < 2; i++) {
        memcpy(out + at, srv, sizeof srv);
        out[at + sizeof srv - 2] = (uint8_t)('5' + i);
        out[at + 17] = (uint8_t)(0x0a + i);
        at += sizeof srv;
    }
    return at;
}

static void *serve(void *arg)
{
    int fd = *(int *)arg;
    uint8_t question[512], out[1024];
    struct sockaddr_in from;
    socklen_t n_from = sizeof from;
    for (ssize_t n; (n = recvfrom(fd, question, sizeof question, 0, (struct sockaddr *)&from, &n_from)) > 1;)
        sendto(fd, out, answer(question, (size_t)n, out), 0, (struct sockaddr *)&from, n_from);
    return NULL;
}

Test(memberlist_seeds, srv_records_are_all_their_targets_at_their_ports)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t n_at = sizeof at;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    pthread_t server;
    cr_assert_eq(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    getsockname(fd, (struct sockaddr *)&at, &n_at);
    pthread_create(&server, NULL, serve, &fd);
    struct seeds s = {0}, fixed = {0};
    seeds_resolve("dnssrv+_gossip._tcp.mimir.local.", 7946, &at, &s);
    cr_assert_eq(s.n, 2);
    check_addr(&s, 0, "127.0.0.5:7946");
    check_addr(&s, 1, "127.0.0.6:7947");
    seeds_resolve("dnssrvnoa+_gossip._tcp.mimir.local.:99", 7946, &at, &fixed);
    cr_assert_eq(fixed.n, 2);
    check_addr(&fixed, 1, "127.0.0.6:99");
    sendto(fd, "", 1, 0, (struct sockaddr *)&at, sizeof at); /* to itself: the end */
    pthread_join(server, NULL);
    close(fd);
}

Test(memberlist_seeds, damaged_answers_give_no_addresses)
{
    uint8_t question[] = {0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 'a', 0, 0, 33, 0, 1}, whole[1024];
    size_t n = answer(question, sizeof question, whole);
    for (size_t cut = 0; cut < n; cut++) {
        struct seeds s = {0};
        char *copy = malloc(cut + 1);
        memcpy(copy, whole, cut);
        seeds_add_srv((struct slice){copy, cut}, NULL, &s);
        cr_assert_leq(s.n, 1);
        free(copy);
    }
}

static bool from_flags(const char *const *argv, struct memberlist_config *ret, struct err *err)
{
    static struct memberlist_flags_config flags;
    struct flag_set *set = flag_set_new();
    int argc = 0;
    while (argv[argc])
        argc++;
    flag_set_add(set, "Memberlist", memberlist_flags, memberlist_flags_n, &flags);
    bool ok =
        flag_set_parse(set, argc, (char **)(uintptr_t)argv, err) && memberlist_config_from_flags(&flags, ret, err);
    if (ok && ret->n_join)
        cr_assert_str_eq(ret->join[0], "a:1");
    if (ok && ret->advertise_addr[0])
        cr_assert_str_eq(ret->advertise_addr, "10.1.2.3");
    flag_set_free(set);
    return ok;
}

Test(memberlist_flags, defaults_are_those_of_the_configuration)
{
    struct memberlist_config cfg, want;
    struct err err = ERR_NONE;
    memberlist_config_default(&want);
    cr_assert(from_flags((const char *const[]){"x", NULL}, &cfg, &err), "%s", err.text);
    cr_assert(cfg.bind_port == 7946 && cfg.advertise_port == 0 && !cfg.fast_join_min_nodes && !cfg.abort_if_join_fails);
    cr_assert(
        cfg.gossip_interval_ms == want.gossip_interval_ms && cfg.gossip_nodes == want.gossip_nodes &&
        cfg.push_pull_interval_ms == want.push_pull_interval_ms && cfg.leave_timeout_ms == want.leave_timeout_ms &&
        cfg.left_ingesters_timeout_ms == want.left_ingesters_timeout_ms && cfg.role == MEMBERLIST_NO_ZONE &&
        cfg.max_join_backoff_ms == want.max_join_backoff_ms && cfg.broadcast_timeout_ms == want.broadcast_timeout_ms);
}

Test(memberlist_flags, become_a_configuration)
{
    struct memberlist_config cfg;
    struct err err = ERR_NONE;
    cr_assert(from_flags((const char *const[]){"x", "-memberlist.join=a:1,b:2", "-memberlist.advertise-addr=10.1.2.3",
                                               "-memberlist.bind-port=0", "-memberlist.abort-if-fast-join-fails",
                                               "-memberlist.abort-if-fast-join-fails-min-nodes=2",
                                               "-memberlist.zone-aware-routing.enabled",
                                               "-memberlist.zone-aware-routing.instance-availability-zone=z",
                                               "-memberlist.zone-aware-routing.role=bridge", NULL},
                         &cfg, &err),
              "%s", err.text);
    cr_assert(cfg.n_join == 2 && cfg.bind_port == 0 && cfg.advertise_port == 7946 && cfg.fast_join_min_nodes == 2 &&
              cfg.role == MEMBERLIST_BRIDGE);
}

Test(memberlist_flags, that_make_no_sense_are_named)
{
    static const char *const cases[] = {
        "-memberlist.bind-port=65536",      "-memberlist.bind-addr=127.0.0.1,127.0.0.2",
        "-memberlist.gossip-nodes=0",       "-memberlist.zone-aware-routing.role=king",
        "-memberlist.retransmit-factor=-1", "-memberlist.zone-aware-routing.enabled",
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct memberlist_config cfg;
        struct err err = ERR_NONE;
        cr_assert_not(from_flags((const char *const[]){"x", cases[i], NULL}, &cfg, &err), "%s", cases[i]);
        cr_assert_eq(err.code, ERR_CONFIG);
        size_t n = strcspn(cases[i], "=");
        cr_assert(memmem(err.text, strlen(err.text), cases[i], n), "%s: %s", cases[i], err.text);
    }
}
