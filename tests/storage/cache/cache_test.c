/* Both back ends: in this process, and a real memcached that the test starts. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "storage/cache/cache.h"

static const struct flag_def flags[] = {
#define CACHE_FLAG "x."
#define CACHE_YAML "x."
#define CACHE_BACKEND "inmemory"
#define FLAG(...) FLAG_ROW(cache_config, __VA_ARGS__)
#include "storage/cache/cache_flags.def"
#undef FLAG
};

static struct flag_set *fs;
static struct cache_config cfg;

static void setup(void)
{
    fs = flag_set_new();
    flag_set_add(fs, "x", flags, ARRAY_LEN(flags), &cfg);
}

static void teardown(void)
{
    flag_set_free(fs);
}

static struct cache *open_cache(const char *name)
{
    struct cache *c = NULL;
    struct err err = ERR_NONE;
    cr_assert(cache_open(&cfg, "x.", "store-gateway", name, &c, &err), "%s", err.text);
    return c;
}

static bool has(struct cache *c, struct slice key, struct slice value)
{
    struct buf out;
    buf_init(&out, 0);
    bool found = cache_get(c, NULL, CACHE_SERIES, key, &out);
    cr_expect(!found || slice_eq(buf_slice(&out), value));
    buf_release(&out);
    return found;
}

static struct slice number(char *text, int i)
{
    return slice_make(text, (size_t)sprintf(text, "key %d", i));
}

/* --- the door --- */

Test(cache, without_a_backend_all_is_a_miss, .init = setup, .fini = teardown)
{
    cfg.backend = "";
    struct cache *c = open_cache("chunks-cache");
    cr_expect(!c);
    cache_put(c, CACHE_CHUNKS, SL("a"), SL("b"), 1000);
    cr_expect(!has(c, SL("a"), SL("b")));
    cache_close(c);
}

Test(cache, flags_that_cannot_be_are_refused, .init = setup, .fini = teardown)
{
    struct cache *c = NULL;
    struct err err = ERR_NONE;
    cfg.backend = "redis";
    cr_expect(!cache_open(&cfg, "x.", "s", "n", &c, &err) && err.code == ERR_CONFIG && strstr(err.text, "-x.backend"), "%s", err.text);
    cfg.backend = "memcached";
    cr_expect(!cache_open(&cfg, "x.", "s", "n", &c, &err) && err.code == ERR_CONFIG, "%s", err.text);
    const char *bad[] = {"host", "host:", ":1", "host:0", "host:65536", "host:1x", "dnssrv+a:1", "dns+host"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        cfg.memcached_addresses = (struct flag_list){&bad[i], 1};
        cr_expect(!cache_open(&cfg, "x.", "s", "n", &c, &err) && err.code == ERR_CONFIG, "%s", bad[i]);
    }
    cfg.memcached_addresses = (struct flag_list){0};
}

/* --- in this process --- */

Test(cache, gives_what_was_put, .init = setup, .fini = teardown)
{
    struct cache *c = open_cache("index-cache");
    struct slice odd = slice_make("\0 \n\xff", 4);
    cache_put(c, CACHE_SERIES, SL("a"), SL("one"), 60000);
    cache_put(c, CACHE_SERIES, odd, SL(""), 60000);
    cr_expect(has(c, SL("a"), SL("one")));
    cr_expect(has(c, odd, SL("")));
    cr_expect(!has(c, SL("b"), SL("")));
    cache_put(c, CACHE_SERIES, SL("a"), SL("two"), 60000);
    cr_expect(has(c, SL("a"), SL("two")));
    cache_close(c);
}

Test(cache, forgets_when_the_time_is_over, .init = setup, .fini = teardown)
{
    struct cache *c = open_cache("index-cache");
    cache_put(c, CACHE_SERIES, SL("a"), SL("one"), 20);
    usleep(40000);
    cr_expect(!has(c, SL("a"), SL("one")));
    cache_close(c);
}

static double gauge(const char *name, const char *item)
{
    struct buf text;
    double v = 0;
    buf_init(&text, 0);
    metrics_write_text(&text, (struct slice[]){slice_of(name)}, 1);
    for (char *line = strtok(text.n ? (char *)(uintptr_t)buf_cstr(&text) : NULL, "\n"); line; line = strtok(NULL, "\n"))
        if (*line != '#' && strstr(line, item))
            v = atof(strrchr(line, ' '));
    buf_release(&text);
    return v;
}

Test(cache, what_was_not_used_goes_first, .init = setup, .fini = teardown)
{
    char value[1000] = {0}, text[32];
    cfg.inmemory_max_size_bytes = 16 * 100 * 1100;
    struct cache *c = open_cache("index-cache");
    int kept = 0;
    for (int i = 0; i < 10000; i++) {
        cache_put(c, CACHE_SERIES, number(text, i), slice_make(value, sizeof(value)), 60000);
        has(c, number(text, 0), slice_make(value, sizeof(value)));
    }
    cr_expect(has(c, number(text, 0), slice_make(value, sizeof(value))), "it was used all the time");
    for (int i = 1; i < 10000; i++)
        kept += has(c, number(text, i), slice_make(value, sizeof(value)));
    cr_expect(kept > 1000 && kept < 1600, "%d", kept);
    cr_expect_leq(gauge("thanos_store_index_cache_total_size_bytes", "Series"), (double)cfg.inmemory_max_size_bytes);
    cr_expect_eq(gauge("thanos_store_index_cache_items", "Series"), kept + 1);
    cr_expect_eq(gauge("thanos_store_index_cache_items_evicted_total", "Series"), 10000 - kept - 1);
    cache_close(c);
    cr_expect_eq(gauge("thanos_store_index_cache_items", "Series"), 0);
    cr_expect_eq(gauge("thanos_store_index_cache_total_size_bytes", "Series"), 0);
}

Test(cache, what_is_too_large_is_not_kept, .init = setup, .fini = teardown)
{
    char *value = calloc(1, 1 << 20);
    cfg.inmemory_max_size_bytes = 1 << 20;
    struct cache *c = open_cache("index-cache");
    cache_put(c, CACHE_SERIES, SL("a"), slice_make(value, 1 << 20), 60000);
    cr_expect(!has(c, SL("a"), SL("")));
    cr_expect_eq(gauge("thanos_store_index_cache_items_overflowed_total", "Series"), 1);
    cache_close(c);
    free(value);
}

/* --- memcached --- */

struct memcached {
    pid_t pid;
    char address[32];
    const char *list[1];
};

static const char *program(void)
{
    static const char *const paths[] = {"/usr/bin/memcached", "/usr/local/bin/memcached"};
    const char *own = getenv("MEMCACHED");
    if (own)
        return own;
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        if (access(paths[i], X_OK) == 0)
            return paths[i];
    return NULL;
}

static int free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && getsockname(fd, (struct sockaddr *)&a, &n) == 0);
    close(fd);
    return ntohs(a.sin_port);
}

static bool answers(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool good = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
    close(fd);
    return good;
}

/* False: there is none on this machine, which CI must have. */
static bool memcached_start(struct memcached *m, int port)
{
    char text[16];
    const char *path = program();
#ifndef BRUNN_MEMCACHED
    path = NULL;
#endif
    if (!path) {
        const char *ci = getenv("CI");
        cr_assert(!ci || strcmp(ci, "true") != 0, "memcached and libmemcached must be installed");
        cr_skip_test("no memcached");
        return false;
    }
    snprintf(text, sizeof(text), "%d", port);
    m->pid = fork();
    if (m->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* of a test that fails */
        execl(path, "memcached", "-l", "127.0.0.1", "-p", text, "-U", "0", "-u", "nobody", "-t", "1", NULL);
        _exit(127);
    }
    for (int i = 0; i < 500 && !answers(port); i++)
        usleep(10000);
    cr_assert(answers(port), "memcached does not start");
    snprintf(m->address, sizeof(m->address), "127.0.0.1:%d", port);
    m->list[0] = m->address;
    cfg.backend = "memcached";
    cfg.memcached_addresses = (struct flag_list){m->list, 1};
    cfg.memcached_timeout = 2000;
    return true;
}

static void memcached_stop(struct memcached *m)
{
    kill(m->pid, SIGKILL);
    waitpid(m->pid, NULL, 0);
}

static bool comes(struct cache *c, struct slice key, struct slice value)
{
    for (int i = 0; i < 300; i++) {
        if (has(c, key, value))
            return true;
        usleep(10000);
    }
    return false;
}

struct seen {
    int n;
    bool found[1000];
};

static void see(void *arg, size_t i, struct slice value)
{
    struct seen *s = arg;
    char text[32];
    cr_expect(slice_eq(value, number(text, (int)i)));
    s->found[i] = true;
    s->n++;
}

Test(cache, memcached_gives_what_was_put, .init = setup, .fini = teardown)
{
    struct memcached m;
    char text[32], texts[1000][32], *large = calloc(1, 500000);
    struct slice keys[1000];
    struct seen seen = {0};
    if (!memcached_start(&m, free_port()))
        return;
    struct cache *c = open_cache("chunks-cache");
    struct slice odd = slice_make("\0 \n\xff", 4);
    cache_put(c, CACHE_CHUNKS, odd, SL("odd"), 60000);
    cache_put(c, CACHE_CHUNKS, SL("empty"), SL(""), 60000);
    cache_put(c, CACHE_CHUNKS, SL("large"), slice_make(large, 500000), 60000);
    cr_expect(comes(c, odd, SL("odd")));
    cr_expect(comes(c, SL("empty"), SL("")));
    cr_expect(comes(c, SL("large"), slice_make(large, 500000)));
    cr_expect(!has(c, SL("none"), SL("")));
    for (int i = 0; i < 1000; i += 2)
        cache_put(c, CACHE_CHUNKS, number(text, i), number(text, i), 60000);
    for (int i = 0; i < 1000; i += 2)
        cr_expect(comes(c, number(text, i), number(text, i)), "%d", i);
    for (int i = 0; i < 1000; i++)
        keys[i] = number(texts[i], i);
    cr_expect_eq(cache_get_multi(c, NULL, CACHE_CHUNKS, keys, 1000, see, &seen), 500);
    cr_expect_eq(seen.n, 500);
    cr_expect(seen.found[0] && !seen.found[1] && seen.found[998]);
    cache_close(c);
    memcached_stop(&m);
    free(large);
}

Test(cache, a_memcached_that_is_away_is_a_miss_and_comes_back, .init = setup, .fini = teardown)
{
    struct memcached m;
    int port = free_port();
    if (!memcached_start(&m, port))
        return;
    struct cache *c = open_cache("chunks-cache");
    cache_put(c, CACHE_CHUNKS, SL("a"), SL("b"), 60000);
    cr_expect(comes(c, SL("a"), SL("b")));
    memcached_stop(&m);
    int64_t start_ms = clock_mono_ms();
    for (int i = 0; i < 1000; i++)
        cr_expect(!has(c, SL("a"), SL("b")));
    cr_expect_lt(clock_mono_ms() - start_ms, 3000, "a dead server costs no more than a few timeouts");
    cr_expect(memcached_start(&m, port));
    for (int i = 0; i < 100 && !has(c, SL("a"), SL("b")); i++) {
        cache_put(c, CACHE_CHUNKS, SL("a"), SL("b"), 60000);
        usleep(50000);
    }
    cr_expect(comes(c, SL("a"), SL("b")));
    cache_close(c);
    memcached_stop(&m);
}

Test(cache, a_memcached_that_hangs_costs_its_timeout, .init = setup, .fini = teardown)
{
    struct memcached m;
    if (!memcached_start(&m, free_port()))
        return;
    cfg.memcached_timeout = 100;
    struct cache *c = open_cache("chunks-cache");
    cache_put(c, CACHE_CHUNKS, SL("a"), SL("b"), 60000);
    cr_expect(comes(c, SL("a"), SL("b")));
    int status;
    cr_assert(kill(m.pid, SIGSTOP) == 0 && waitpid(m.pid, &status, WUNTRACED) == m.pid && WIFSTOPPED(status));
    int64_t start_ms = clock_mono_ms();
    for (int i = 0; i < 20; i++)
        cr_expect(!has(c, SL("a"), SL("b")));
    cr_expect_lt(clock_mono_ms() - start_ms, 2500);
    kill(m.pid, SIGCONT);
    cache_close(c);
    memcached_stop(&m);
}

Test(cache, what_others_wrote_into_memcached_is_a_miss, .init = setup, .fini = teardown)
{
    struct memcached m;
    int port = free_port();
    if (!memcached_start(&m, port))
        return;
    struct cache *c = open_cache("chunks-cache");
    cache_put(c, CACHE_CHUNKS, SL("a"), SL("b"), 60000);
    cr_expect(comes(c, SL("a"), SL("b")));
    /* Every item gets a byte behind its end: append to the one key there is, found by its name. */
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char line[1024] = {0}, *key;
    cr_assert(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && write(fd, "lru_crawler metadump all\r\n", 26) == 26);
    usleep(300000);
    cr_assert(read(fd, line, sizeof(line) - 1) > 0);
    cr_assert((key = strstr(line, "key=")), "%s", line);
    char command[128];
    int n = snprintf(command, sizeof(command), "append %.33s 0 0 1\r\nx\r\n", key + 4);
    cr_assert(write(fd, command, (size_t)n) == n);
    usleep(100000);
    cr_expect(!has(c, SL("a"), SL("b")));
    close(fd);
    cache_close(c);
    memcached_stop(&m);
}

/* Two servers: one dies, and the other's keys stay. */
Test(cache, memcached_servers_share_the_keys, .init = setup, .fini = teardown)
{
    struct memcached m[2];
    char text[32];
    if (!memcached_start(&m[0], free_port()) || !memcached_start(&m[1], free_port()))
        return;
    const char *both[] = {m[0].address, m[1].address};
    cfg.memcached_addresses = (struct flag_list){both, 2};
    struct cache *c = open_cache("chunks-cache");
    for (int i = 0; i < 200; i++)
        cache_put(c, CACHE_CHUNKS, number(text, i), number(text, i), 60000);
    for (int i = 0; i < 200; i++)
        cr_expect(comes(c, number(text, i), number(text, i)));
    memcached_stop(&m[1]);
    int kept = 0;
    for (int i = 0; i < 200; i++)
        kept += has(c, number(text, i), number(text, i));
    cr_expect(kept > 50 && kept < 150, "%d", kept);
    cache_close(c);
    memcached_stop(&m[0]);
}

Test(cache, memcached_by_name, .init = setup, .fini = teardown)
{
    struct memcached m;
    int port = free_port();
    if (!memcached_start(&m, port))
        return;
    char name[64];
    const char *list[] = {name};
    snprintf(name, sizeof(name), "dns+localhost:%d", port);
    cfg.memcached_addresses = (struct flag_list){list, 1};
    struct cache *c = open_cache("chunks-cache");
    bool found = false;
    for (int i = 0; i < 200 && !found; i++) {
        char text[32];
        cache_put(c, CACHE_CHUNKS, number(text, i), SL("b"), 60000);
        usleep(20000);
        found = has(c, number(text, i), SL("b"));
    }
    cr_expect(found);
    cache_close(c);
    memcached_stop(&m);
}
