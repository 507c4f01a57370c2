/* The store on a real etcd (Debian's etcd-server), which each test starts on a loopback address of its own: nobody takes its ports while the server is down. */
#include "tests/ring/remote_rig.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/assert.h"
#include "ring/ring.h"
#include "tests/net/tls_rig.h"

static struct server {
    char dir[64];
    char ip[16];
    pid_t pid;
    bool tls; /* and wants certificates of its clients */
} server;

static struct certs certs;

#define PORT 2379
#define PEER_PORT 2380

/* In memory where there is room: etcd answers nobody while the disk takes seconds for a sync, which is not what is tested. */
static void make_dir(void)
{
    struct statvfs fs;
    bool room = statvfs("/dev/shm", &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize > (uint64_t)1 << 30;
    snprintf(server.dir, sizeof(server.dir), "%s/brunn-etcd-XXXXXX", room ? "/dev/shm" : "/tmp");
    cr_assert(mkdtemp(server.dir));
}

static void run_etcd(void)
{
    char client[64], peer[64], cluster[80];
    snprintf(client, sizeof(client), "%s://%s:%d", server.tls ? "https" : "http", server.ip, PORT);
    snprintf(peer, sizeof(peer), "http://%s:%d", server.ip, PEER_PORT);
    snprintf(cluster, sizeof(cluster), "default=%s", peer);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int log = open("/dev/null", O_WRONLY);
    dup2(log, 1);
    dup2(log, 2);
    if (server.tls) {
        setenv("ETCD_CERT_FILE", certs_path(&certs, "server.pem"), 1);
        setenv("ETCD_KEY_FILE", certs_path(&certs, "server.key"), 1);
        setenv("ETCD_TRUSTED_CA_FILE", certs_path(&certs, "ca.pem"), 1);
        setenv("ETCD_CLIENT_CERT_AUTH", "true", 1);
    }
    execlp("etcd", "etcd", "--data-dir", server.dir, "--listen-client-urls", client, "--advertise-client-urls", client,
           "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster, (char *)NULL);
    _exit(127);
}

static bool answers(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = inet_addr(server.ip), .sin_port = htons(PORT)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool ok = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
    close(fd);
    return ok;
}

static void start_server(void)
{
    server.pid = fork();
    if (server.pid == 0)
        run_etcd();
    for (int i = 0; i < 2000 && !answers(); i++) {
        cr_assert_eq(waitpid(server.pid, NULL, WNOHANG), 0, "etcd ended; is the package etcd-server installed?");
        nap_ms(10);
    }
}

static void stop_server(void)
{
    kill(server.pid, SIGKILL);
    waitpid(server.pid, NULL, 0);
}

static void teardown(void)
{
    stop_server();
    char command[96];
    snprintf(command, sizeof(command), "rm -rf '%s'", server.dir);
    cr_assert_eq(system(command), 0);
}

static struct kv *open_with(const char *user, const char *password, const char *first)
{
    char address[64];
    snprintf(address, sizeof(address), "%s:%d", server.ip, PORT);
    const char *items[] = {first ? first : address, address};
    struct kv_config cfg = {.store = "etcd",
                            .prefix = "test/",
                            .etcd_endpoints = {items, first ? 2 : 1},
                            .etcd_dial_timeout = 5000,
                            .etcd_max_retries = 10,
                            .etcd_username = user,
                            .etcd_password = password,
                            .etcd_tls_cert_path = "",
                            .etcd_tls_key_path = "",
                            .etcd_tls_ca_path = "",
                            .etcd_tls_server_name = "",
                            .etcd_tls_cipher_suites = "",
                            .etcd_tls_min_version = ""};
    struct err err = ERR_NONE;
    struct kv *kv = kv_open(&cfg, &(struct kv_user){"test.", "test"}, &(struct kv_stores){0}, &err);
    cr_assert(kv, "%s", err.text);
    return kv;
}

static struct kv *open_store(void)
{
    return open_with("", "", NULL);
}

static void setup(void)
{
    make_dir();
    unsigned pid = (unsigned)getpid();
    snprintf(server.ip, sizeof(server.ip), "127.%u.%u.%u", 64 + (pid >> 16 & 63), pid >> 8 & 255, pid & 255);
    start_server();
    /* An etcd that is killed while it makes its first files never answers again. */
    struct kv *kv = open_store();
    expect_ids(kv, "ring", "-");
    kv_free(kv);
}

TestSuite(kv_etcd, .init = setup, .fini = teardown);

STORE_CLAIMS(kv_etcd)

Test(kv_etcd, a_watch_survives_a_restart_of_the_server)
{
    struct kv *a = open_store();
    struct kv *b = open_store();
    struct heard one = HEARD_NOTHING, all = HEARD_NOTHING;
    add(a, "ring", "x");
    struct kv_watch *w = kv_watch_key(b, SL("ring"), &ring_desc_codec, hear, &one, NULL);
    struct kv_watch *p = kv_watch_prefix(b, SL(""), &ring_desc_codec, hear, &all, NULL);
    stop_server();
    nap_ms(300);
    start_server();
    add(a, "ring", "y");
    expect_hearing(&one, "x,y,");
    expect_hearing(&all, "x,y,");
    add(a, "ring", "z");
    expect_hearing(&one, "x,y,z,");
    cr_assert_eq(one.n, 3, "what was told before the restart is not told again: %d", one.n);
    kv_unwatch(b, w);
    kv_unwatch(b, p);
    kv_free(a);
    kv_free(b);
}

Test(kv_etcd, a_watch_begun_without_a_server_hears_when_it_comes)
{
    stop_server();
    struct kv *a = open_store();
    struct heard h = HEARD_NOTHING;
    struct kv_watch *w = kv_watch_key(a, SL("ring"), &ring_desc_codec, hear, &h, NULL);
    cr_assert(w);
    start_server();
    add(a, "ring", "x");
    expect_hearing(&h, "x,");
    kv_unwatch(a, w);
    kv_free(a);
}

Test(kv_etcd, operations_without_a_server_fail_after_their_tries)
{
    char address[] = "127.0.0.1:1";
    const char *items[] = {address};
    struct kv_config cfg = {.store = "etcd", .prefix = "", .etcd_endpoints = {items, 1}, .etcd_dial_timeout = 1000, .etcd_max_retries = 2,
                            .etcd_username = "", .etcd_password = ""};
    struct kv *kv = kv_open(&cfg, &(struct kv_user){"test.", "test"}, &(struct kv_stores){0}, NULL);
    struct err err = ERR_NONE;
    void *v;
    cr_assert_not(kv_get(kv, SL("ring"), &ring_desc_codec, &v, &err));
    cr_assert_eq(err.code, ERR_UNAVAILABLE);
    cr_assert_not(kv_cas(kv, SL("ring"), &ring_desc_codec, add_instance, "x", &err));
    cr_assert(slice_has_prefix(slice_of(err.text), SL("etcd: Unavailable: ")), "%s", err.text);
    kv_free(kv);
}

Test(kv_etcd, the_next_server_is_asked_when_one_does_not_answer)
{
    struct kv *a = open_with("", "", "127.0.0.1:1");
    add(a, "ring", "x");
    expect_ids(a, "ring", "x,");
    struct heard h = HEARD_NOTHING;
    struct kv_watch *w = kv_watch_key(a, SL("ring"), &ring_desc_codec, hear, &h, NULL);
    cr_assert(has_heard(&h, "x,"));
    add(a, "ring", "y");
    expect_hearing(&h, "x,y,");
    kv_unwatch(a, w);
    kv_free(a);
}

Test(kv_etcd, a_server_that_does_not_answer_is_given_up)
{
    struct kv *a = open_store();
    struct err err = ERR_NONE;
    void *v;
    kill(server.pid, SIGSTOP);
    int64_t start_ms = clock_mono_ms();
    cr_assert_not(kv_get(a, SL("ring"), &ring_desc_codec, &v, &err));
    cr_assert(err.code == ERR_TIMEOUT || err.code == ERR_UNAVAILABLE, "%s", err.text);
    cr_assert_lt(clock_mono_ms() - start_ms, 40000);
    kill(server.pid, SIGCONT);
    add(a, "ring", "x");
    expect_ids(a, "ring", "x,");
    kv_free(a);
}

static void etcdctl(const char *words)
{
    char command[256];
    snprintf(command, sizeof(command), "ETCDCTL_API=3 etcdctl --command-timeout=30s --endpoints=%s:%d %s >/dev/null 2>&1", server.ip, PORT, words);
    cr_assert_eq(system(command), 0, "%s", command);
}

Test(kv_etcd, the_bytes_are_a_snappy_block_under_the_full_key)
{
    struct kv *a = open_store();
    char command[256], line[64] = "";
    snprintf(command, sizeof(command), "ETCDCTL_API=3 etcdctl --command-timeout=30s --endpoints=%s:%d get test/ring --print-value-only | od -An -tx1 | head -1",
             server.ip, PORT);
    add(a, "ring", "x");
    FILE *f = popen(command, "r");
    cr_assert(fgets(line, sizeof(line), f));
    pclose(f);
    struct buf want = {0}, hex = {0};
    void *v = NULL;
    cr_assert(kv_get(a, SL("ring"), &ring_desc_codec, &v, NULL));
    ring_desc_codec.encode(v, &want);
    for (size_t i = 0; i < MIN(want.n, (size_t)16); i++)
        buf_printf(&hex, " %02x", (unsigned char)want.p[i]);
    line[strcspn(line, "\n")] = 0;
    cr_assert_str_eq(line, buf_cstr(&hex));
    ring_desc_free(v);
    buf_release(&want);
    buf_release(&hex);
    kv_free(a);
}

Test(kv_etcd, a_damaged_document_is_an_error_and_passed_over_by_watches)
{
    struct kv *a = open_store();
    etcdctl("put test/ring damaged");
    struct err err = ERR_NONE;
    void *v;
    cr_assert_not(kv_get(a, SL("ring"), &ring_desc_codec, &v, &err));
    cr_assert_eq(err.code, ERR_CORRUPT);
    struct heard h = HEARD_NOTHING;
    struct kv_watch *w = kv_watch_key(a, SL("ring"), &ring_desc_codec, hear, &h, NULL);
    cr_assert_eq(h.n, 0);
    kv_delete(a, SL("ring"), NULL);
    add(a, "ring", "x");
    expect_hearing(&h, "x,");
    kv_unwatch(a, w);
    kv_free(a);
}

Test(kv_etcd, a_user_name_gets_a_token_and_a_new_one_after_a_restart)
{
    etcdctl("user add root:secret");
    etcdctl("user grant-role root root");
    etcdctl("auth enable");
    struct kv *a = open_with("root", "secret", NULL);
    struct heard h = HEARD_NOTHING;
    add(a, "ring", "x");
    struct kv_watch *w = kv_watch_key(a, SL("ring"), &ring_desc_codec, hear, &h, NULL);
    stop_server(); /* etcd's simple tokens live as long as the server */
    start_server();
    add(a, "ring", "y");
    expect_hearing(&h, "x,y,");
    kv_unwatch(a, w);
    kv_free(a);
    struct kv *b = open_with("root", "wrong", NULL);
    struct err err = ERR_NONE;
    void *v;
    cr_assert_not(kv_get(b, SL("ring"), &ring_desc_codec, &v, &err));
    kv_free(b);
}

static struct kv *open_tls(const char *cert, const char *key, const char *ca)
{
    char address[64];
    snprintf(address, sizeof(address), "https://%s:%d", server.ip, PORT);
    const char *items[] = {address};
    struct kv_config cfg = {.store = "etcd",
                            .prefix = "test/",
                            .etcd_endpoints = {items, 1},
                            .etcd_dial_timeout = 5000,
                            .etcd_max_retries = 5,
                            .etcd_username = "",
                            .etcd_password = "",
                            .etcd_tls_enabled = true,
                            .etcd_tls_cert_path = cert ? certs_path(&certs, cert) : "",
                            .etcd_tls_key_path = key ? certs_path(&certs, key) : "",
                            .etcd_tls_ca_path = certs_path(&certs, ca),
                            .etcd_tls_server_name = "localhost", /* which the certificate has, but not the address */
                            .etcd_tls_cipher_suites = "",
                            .etcd_tls_min_version = "VersionTLS12"};
    struct err err = ERR_NONE;
    struct kv *kv = kv_open(&cfg, &(struct kv_user){"test.", "test"}, &(struct kv_stores){0}, &err);
    cr_assert(kv, "%s", err.text);
    return kv;
}

Test(kv_etcd, tls_shows_and_checks_certificates)
{
    certs_new(&certs);
    stop_server();
    server.tls = true;
    start_server();
    struct kv *a = open_tls("client.pem", "client.key", "ca.pem");
    struct heard h = HEARD_NOTHING;
    add(a, "ring", "x");
    struct kv_watch *w = kv_watch_key(a, SL("ring"), &ring_desc_codec, hear, &h, NULL);
    add(a, "ring", "y");
    expect_hearing(&h, "x,y,");
    kv_unwatch(a, w);
    kv_free(a);
    static const struct {
        const char *cert, *key, *ca;
    } wrong[] = {{NULL, NULL, "ca.pem"}, {"client.pem", "client.key", "other.pem"}};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct kv *b = open_tls(wrong[i].cert, wrong[i].key, wrong[i].ca);
        struct err err = ERR_NONE;
        void *v;
        cr_assert_not(kv_get(b, SL("ring"), &ring_desc_codec, &v, &err));
        cr_assert_eq(err.code, ERR_UNAVAILABLE, "%s", err.text);
        kv_free(b);
    }
    certs_free(&certs);
}

Test(kv_etcd, https_without_tls_is_refused)
{
    const char *items[] = {"https://127.0.0.1:2379"};
    struct kv_config cfg = {.store = "etcd", .prefix = "", .etcd_endpoints = {items, 1}, .etcd_dial_timeout = 1000, .etcd_max_retries = 2,
                            .etcd_username = "", .etcd_password = ""};
    struct err err = ERR_NONE;
    cr_assert_null(kv_open(&cfg, &(struct kv_user){"test.", "test"}, &(struct kv_stores){0}, &err));
    cr_assert_eq(err.code, ERR_CONFIG);
    cr_assert_str_eq(err.text, "-test.etcd.endpoints has https://127.0.0.1:2379, which needs -test.etcd.tls-enabled");
}

Test(kv_etcd, a_ring_follows_it)
{
    struct kv *a = open_store();
    add(a, "ring", "x");
    struct ring_config config = {.replication_factor = 1};
    struct ring *r = ring_new(a, SL("ring"), &config, NULL);
    struct ring_snapshot *s = ring_current(r);
    cr_assert_eq(ring_snapshot_desc(s)->n, 1);
    ring_snapshot_free(s);
    ring_free(r);
    kv_free(a);
}
