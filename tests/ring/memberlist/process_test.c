/* Whole nodes with their threads and sockets on loopback; intervals are shortened, nothing else. */
#include <criterion/criterion.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "ring/memberlist/memberlist.h"
#include "set_codec.h"

#define KEY SL("collectors/ring")
#define PATIENCE_MS 30000

static struct memberlist *node_new(const char *name, uint16_t port, uint16_t seed, bool (*may_reach)(void *, uint16_t),
                                   void *arg)
{
    struct memberlist_config cfg;
    struct kv_codecs codecs = {.codecs = {&set_codec}, .n = 1};
    struct err err = ERR_NONE;
    char text[32];
    const char *seeds[] = {text};
    memberlist_config_default(&cfg);
    cfg.node_name = name;
    cfg.randomize_node_name = false;
    cfg.bind_addr = "127.0.0.1";
    cfg.bind_port = port;
    cfg.gossip_interval_ms = 20;
    cfg.probe_interval_ms = 200;
    cfg.probe_timeout_ms = 80;
    cfg.push_pull_interval_ms = 500;
    cfg.min_join_backoff_ms = 50;
    cfg.may_reach = may_reach;
    cfg.may_reach_arg = arg;
    snprintf(text, sizeof text, "127.0.0.1:%u", seed);
    cfg.join = seeds;
    cfg.n_join = seed != 0;
    struct memberlist *m = memberlist_new(&cfg, &codecs, &err);
    cr_assert(m, "%s", err.text);
    cr_assert(memberlist_start(m, &err));
    return m;
}

static size_t count(struct memberlist *m, const char *state)
{
    struct memberlist_member members[16];
    size_t n = memberlist_members(m, members, 16), found = 0;
    for (size_t i = 0; i < n; i++)
        found += strcmp(members[i].state, state) == 0;
    return found;
}

static void wait_count(struct memberlist *m, const char *state, size_t n)
{
    int64_t until_ms = clock_mono_ms() + PATIENCE_MS;
    while (count(m, state) != n) {
        cr_assert(clock_mono_ms() < until_ms, "%s sees %zu %s, not %zu", memberlist_node_name(m), count(m, state),
                  state, n);
        usleep(10000);
    }
}

static enum kv_cas add(void *arg, void **value, struct err *err)
{
    (void)err;
    if (!*value)
        *value = calloc(1, sizeof(struct set));
    set_put(*value, arg, clock_wall_ms() / 1000, false);
    return KV_CAS_STORE;
}

static enum kv_cas take_away(void *arg, void **value, struct err *err)
{
    (void)err;
    struct set *s = *value;
    int i = set_find(s, arg);
    cr_assert(i >= 0);
    s->items[i] = s->items[--s->n];
    return KV_CAS_STORE;
}

static void put(struct memberlist *m, const char *name)
{
    struct err err = ERR_NONE;
    cr_assert(kv_cas(memberlist_kv(m), KEY, &set_codec, add, (void *)(uintptr_t)name, &err), "%s", err.text);
}

static bool has(struct memberlist *m, const char *name)
{
    void *value = NULL;
    cr_assert(kv_get(memberlist_kv(m), KEY, &set_codec, &value, NULL));
    bool found = value && set_find(value, name) >= 0;
    free(value);
    return found;
}

static void wait_has(struct memberlist *m, const char *name, bool want)
{
    int64_t until_ms = clock_mono_ms() + PATIENCE_MS;
    while (has(m, name) != want) {
        cr_assert(clock_mono_ms() < until_ms, "%s: %s", memberlist_node_name(m), name);
        usleep(10000);
    }
}

Test(memberlist_process, five_nodes_converge_one_is_killed_and_comes_back)
{
    struct memberlist *m[5];
    char name[] = "n0";
    m[0] = node_new("n0", 0, 0, NULL, NULL);
    for (size_t i = 1; i < 5; i++) {
        name[1] = (char)('0' + i);
        m[i] = node_new(name, 0, memberlist_port(m[0]), NULL, NULL);
        cr_assert(memberlist_wait_joined(m[i], PATIENCE_MS));
    }
    for (size_t i = 0; i < 5; i++)
        wait_count(m[i], "alive", 5);
    put(m[0], "zero");
    put(m[4], "four");
    for (size_t i = 0; i < 5; i++) {
        wait_has(m[i], "zero", true);
        wait_has(m[i], "four", true);
    }
    uint16_t port = memberlist_port(m[3]);
    memberlist_free(m[3]);
    wait_count(m[0], "dead", 1);
    wait_count(m[1], "alive", 4);
    m[3] = node_new("n3", port, memberlist_port(m[1]), NULL, NULL);
    for (size_t i = 0; i < 5; i++)
        wait_count(m[i], "alive", 5);
    wait_has(m[3], "four", true);
    cr_assert(kv_cas(memberlist_kv(m[2]), KEY, &set_codec, take_away, (void *)(uintptr_t) "zero", NULL));
    for (size_t i = 0; i < 5; i++)
        wait_has(m[i], "zero", false);
    memberlist_leave(m[2]);
    wait_count(m[0], "left", 1);
    for (size_t i = 0; i < 5; i++)
        memberlist_free(m[i]);
}

struct wall {
    atomic_bool up;
    uint16_t ports[2];
};

static bool may_reach(void *arg, uint16_t port)
{
    struct wall *w = arg;
    return !atomic_load(&w->up) || (port != w->ports[0] && port != w->ports[1]);
}

Test(memberlist_process, partition_between_two_halves_heals)
{
    static struct wall left, right;
    struct memberlist *m[4];
    m[0] = node_new("n0", 0, 0, may_reach, &left);
    m[1] = node_new("n1", 0, memberlist_port(m[0]), may_reach, &left);
    m[2] = node_new("n2", 0, memberlist_port(m[0]), may_reach, &right);
    m[3] = node_new("n3", 0, memberlist_port(m[0]), may_reach, &right);
    for (size_t i = 0; i < 4; i++)
        wait_count(m[i], "alive", 4);
    for (size_t i = 0; i < 2; i++) {
        left.ports[i] = memberlist_port(m[2 + i]);
        right.ports[i] = memberlist_port(m[i]);
    }
    atomic_store(&left.up, true);
    atomic_store(&right.up, true);
    put(m[0], "l");
    put(m[3], "r");
    wait_has(m[1], "l", true);
    wait_has(m[2], "r", true);
    wait_count(m[0], "suspect", 2);
    cr_assert(!has(m[2], "l") && !has(m[1], "r"));
    atomic_store(&left.up, false);
    atomic_store(&right.up, false);
    for (size_t i = 0; i < 4; i++) {
        wait_has(m[i], "l", true);
        wait_has(m[i], "r", true);
        wait_count(m[i], "alive", 4);
    }
    for (size_t i = 0; i < 4; i++)
        memberlist_free(m[i]);
}

static void on_value(void *arg, struct slice key, const void *value)
{
    cr_assert(slice_eq(key, KEY));
    atomic_store((_Atomic int *)arg, value ? ((const struct set *)value)->n : -1);
}

Test(memberlist_process, watchers_hear_of_changes_that_others_make)
{
    static _Atomic int seen;
    struct memberlist *a = node_new("a", 0, 0, NULL, NULL), *b = node_new("b", 0, memberlist_port(a), NULL, NULL);
    struct kv_watch *w = kv_watch_key(memberlist_kv(b), KEY, &set_codec, on_value, &seen, NULL);
    cr_assert(w);
    put(a, "x");
    int64_t until_ms = clock_mono_ms() + PATIENCE_MS;
    while (atomic_load(&seen) != 1 && clock_mono_ms() < until_ms)
        usleep(1000);
    cr_assert_eq(atomic_load(&seen), 1);
    cr_assert(kv_delete(memberlist_kv(a), KEY, NULL));
    while (atomic_load(&seen) != -1 && clock_mono_ms() < until_ms)
        usleep(1000);
    cr_assert_eq(atomic_load(&seen), -1);
    kv_unwatch(memberlist_kv(b), w);
    memberlist_free(a);
    memberlist_free(b);
}

static int dial(const struct memberlist *m)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(memberlist_port(m))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

/* Bytes until the node closes. */
static size_t read_all(int fd)
{
    char bytes[4096];
    size_t n = 0;
    for (ssize_t got; (got = recv(fd, bytes, sizeof bytes, 0)) > 0;)
        n += (size_t)got;
    close(fd);
    return n;
}

Test(memberlist_process, push_pull_that_comes_byte_by_byte_is_answered)
{
    static const char join[] = "\x02\x06\x83\xa4Join\xc3\xa5Nodes\x00\xacUserStateLen\x00";
    struct memberlist *m = node_new("a", 0, 0, NULL, NULL);
    int fd = dial(m);
    for (size_t i = 0; i < sizeof join - 1; i++) {
        cr_assert_eq(send(fd, join + i, 1, MSG_NOSIGNAL), 1);
        usleep(2000);
    }
    cr_assert(read_all(fd) > 50);
    memberlist_free(m);
}

Test(memberlist_process, connections_that_make_no_sense_are_closed)
{
    static const struct slice lines[] = {{"GET / HTTP/1.1\r\n\r\n", 18}, {"\x02\xf4", 2}, {"\x01", 1}, {"\x02\x63", 2}};
    struct memberlist *m = node_new("a", 0, 0, NULL, NULL);
    struct memberlist_stats stats;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        int fd = dial(m);
        cr_assert_eq(send(fd, lines[i].p, lines[i].n, MSG_NOSIGNAL), (ssize_t)lines[i].n);
        cr_assert_eq(read_all(fd), 0); /* at the latest after stream_timeout_ms */
    }
    memberlist_stats(m, &stats);
    cr_assert_eq(stats.unknown_connections, 1);
    cr_assert_geq(stats.packets_in_errors, 3);
    memberlist_free(m);
}

Test(memberlist_process, configurations_that_cannot_work_are_refused)
{
    struct memberlist_config cfg;
    struct kv_codecs codecs = {0};
    struct err err = ERR_NONE;
    memberlist_config_default(&cfg);
    cfg.bind_port = 0;
    cfg.advertise_addr = "0.0.0.0"; /* nothing definite */
    cr_assert_null(memberlist_new(&cfg, &codecs, &err));
    cr_assert_eq(err.code, ERR_CONFIG);
    cfg.advertise_addr = "";
    cfg.bind_addr = "127.0.0.1";
    cfg.zone = "a-zone-of-17-byte";
    cr_assert_null(memberlist_new(&cfg, &codecs, &err));
    cfg.zone = "";
    cfg.bind_addr = "localhost";
    cr_assert_null(memberlist_new(&cfg, &codecs, &err));
}

static struct memberlist_config lonely(const char *const *seeds, size_t n)
{
    struct memberlist_config cfg;
    memberlist_config_default(&cfg);
    cfg.node_name = "lonely";
    cfg.bind_addr = "127.0.0.1";
    cfg.bind_port = 0;
    cfg.join = seeds;
    cfg.n_join = n;
    cfg.min_join_backoff_ms = cfg.max_join_backoff_ms = 10;
    return cfg;
}

static void count_up(void *arg)
{
    atomic_fetch_add((_Atomic int *)arg, 1);
}

Test(memberlist_process, joining_nobody_is_a_failure_only_if_it_shall_be)
{
    static _Atomic int failed;
    static const char *const nobody[] = {"127.0.0.1:1"};
    struct kv_codecs codecs = {.codecs = {&set_codec}, .n = 1};
    struct err err = ERR_NONE;
    struct memberlist_config cfg = lonely(nobody, 1);
    cfg.fast_join_min_nodes = 1;
    struct memberlist *m = memberlist_new(&cfg, &codecs, &err);
    cr_assert_not(memberlist_start(m, &err));
    cr_assert_eq(err.code, ERR_UNAVAILABLE);
    memberlist_free(m);
    cfg.fast_join_min_nodes = 0;
    cfg.max_join_retries = 3;
    cfg.abort_if_join_fails = true;
    cfg.on_join_failed = count_up;
    cfg.on_join_failed_arg = &failed;
    m = memberlist_new(&cfg, &codecs, &err);
    cr_assert(memberlist_start(m, &err));
    int64_t until_ms = clock_mono_ms() + PATIENCE_MS;
    while (!atomic_load(&failed) && clock_mono_ms() < until_ms)
        usleep(1000);
    cr_assert_eq(atomic_load(&failed), 1);
    cr_assert(!memberlist_wait_joined(m, 1));
    memberlist_free(m);
}

Test(memberlist_process, start_returns_with_the_values_of_the_cluster)
{
    struct memberlist *a = node_new("a", 0, 0, NULL, NULL);
    put(a, "x");
    struct memberlist *b = node_new("b", 0, memberlist_port(a), NULL, NULL);
    cr_assert(has(b, "x"));
    memberlist_free(b);
    memberlist_free(a);
}

Test(memberlist_process, the_first_of_a_service_finds_itself_and_later_the_others)
{
    struct memberlist *spare = node_new("spare", 0, 0, NULL, NULL); /* for its port, which another one takes later */
    uint16_t port = memberlist_port(spare);
    memberlist_free(spare);
    struct kv_codecs codecs = {.codecs = {&set_codec}, .n = 1};
    struct err err = ERR_NONE;
    char own[32], other[32];
    const char *const seeds[] = {own, other};
    struct memberlist *first_spare = node_new("first", 0, 0, NULL, NULL);
    struct memberlist_config cfg = lonely(seeds, 2);
    cfg.bind_port = memberlist_port(first_spare);
    memberlist_free(first_spare);
    snprintf(own, sizeof own, "127.0.0.1:%u", cfg.bind_port);
    snprintf(other, sizeof other, "127.0.0.1:%u", port);
    cfg.fast_join_min_nodes = 1;
    cfg.max_join_retries = 1000;
    struct memberlist *m = memberlist_new(&cfg, &codecs, &err);
    cr_assert(m && memberlist_start(m, &err), "%s", err.text);
    cr_assert_eq(count(m, "alive"), 1);
    struct memberlist *later = node_new("later", port, 0, NULL, NULL);
    wait_count(m, "alive", 2);
    memberlist_free(m);
    memberlist_free(later);
}

static void on_value_slowly(void *arg, struct slice key, const void *value)
{
    (void)key, (void)value;
    atomic_fetch_add((_Atomic int *)arg, 1);
}

Test(memberlist_process, watchers_hear_the_last_change_and_not_more_often_than_the_notify_interval)
{
    static _Atomic int calls, seen;
    struct kv_codecs codecs = {.codecs = {&set_codec}, .n = 1};
    struct err err = ERR_NONE;
    struct memberlist_config cfg = lonely(NULL, 0);
    cfg.notify_interval_ms = 300;
    struct memberlist *m = memberlist_new(&cfg, &codecs, &err);
    cr_assert(m && memberlist_start(m, &err));
    struct kv_watch *counting = kv_watch_key(memberlist_kv(m), KEY, &set_codec, on_value_slowly, &calls, NULL);
    struct kv_watch *last = kv_watch_key(memberlist_kv(m), KEY, &set_codec, on_value, &seen, NULL);
    for (char name[] = "a"; name[0] < 'a' + 20; name[0]++)
        put(m, name);
    int64_t until_ms = clock_mono_ms() + PATIENCE_MS;
    while (atomic_load(&seen) != 20 && clock_mono_ms() < until_ms)
        usleep(1000);
    cr_assert_eq(atomic_load(&seen), 20);
    cr_assert_lt(atomic_load(&calls), 20);
    kv_unwatch(memberlist_kv(m), counting);
    kv_unwatch(memberlist_kv(m), last);
    memberlist_free(m);
}
