/*
 * Uploads over HTTP beside rounds of the cleaner, and a server that stops in the middle: for the thread sanitizer.
 * Exits 0 when every answer was one that the API has. compactor_upload_stress [seconds]
 */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "storage/compactor/cleaner/cleaner.h"
#include "storage/compactor/upload/upload.h"

#define CLIENTS 6
#define INDEX_BYTES ((size_t)900 << 10)

static const struct flag_def bucket_flags[] = {
#define OBJSTORE_FLAG "blocks-storage."
#define OBJSTORE_YAML "blocks_storage."
#define FLAG(...) FLAG_ROW(objstore_config, __VA_ARGS__)
#include "storage/objstore/objstore_flags.def"
#undef FLAG
};

static struct compactor_config cfg = {.max_block_upload_validation_concurrency = 2,
                                      .cleanup_interval = 100,
                                      .cleanup_concurrency = 3,
                                      .deletion_delay = 1,
                                      .tenant_cleanup_delay = 1};
static struct limits limit_values = {.compactor_block_upload_enabled = true,
                                     .compactor_block_upload_validation_enabled = true,
                                     .compactor_block_upload_verify_chunks = true,
                                     .compactor_partial_block_deletion_delay = (int64_t)24 * 3600 * 1000};
static struct limits_provider limits = {&limit_values};
static struct http_config http;
static struct http_server *server;
static _Atomic uint16_t port;
static atomic_bool done;
static atomic_int n_answers, n_bad;
static char *body;

static bool tenant_of(void *arg, struct slice header, struct slice *ret, struct err *err)
{
    (void)arg, (void)err;
    *ret = header.n ? header : SL("t");
    return true;
}

static bool owns(void *arg, struct slice tenant)
{
    (void)arg, (void)tenant;
    return true;
}

static void count_mark(const char *reason)
{
    (void)reason;
}

/* The status; 0: the server had gone. */
static int ask(const char *method, const char *path, const char *bytes, size_t n)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), status = 0;
    char head[512] = {0};
    if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0) {
        int k = snprintf(head, sizeof(head), "%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", method, path, n);
        bool sent = send(fd, head, (size_t)k, MSG_NOSIGNAL) == k;
        for (size_t at = 0; sent && at < n;) {
            ssize_t m = send(fd, bytes + at, n - at, MSG_NOSIGNAL);
            sent = m > 0;
            at += sent ? (size_t)m : 0;
        }
        memset(head, 0, sizeof(head));
        if (recv(fd, head, sizeof(head) - 1, 0) > 0)
            sscanf(head, "HTTP/1.1 %d", &status);
    }
    close(fd);
    return status;
}

static void expect(int status, const char *what)
{
    static const int good[] = {0, 200, 400, 404, 409, 429, 503};
    atomic_fetch_add(&n_answers, status != 0);
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        if (status == good[i])
            return;
    fprintf(stderr, "%s: %d\n", what, status);
    atomic_fetch_add(&n_bad, 1);
}

static void *client(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;
    char path[256], json[512];
    int n = snprintf(json, sizeof(json),
                     "{\"version\":1,\"minTime\":1763604000000,\"maxTime\":1763611200000,\"thanos\":{\"files\":[{\"rel_path\":\"index\",\"size_bytes\":%zu},"
                     "{\"rel_path\":\"chunks/000001\",\"size_bytes\":5}]}}",
                     INDEX_BYTES);
    for (unsigned i = 0; !done; i++) {
        char block[27];
        snprintf(block, sizeof(block), "01M7Y7WR36RNAK3M75M%03u%04u", (i / 3) % 50, rand_r(&seed) % 2);
        snprintf(path, sizeof(path), "/api/v1/upload/block/%s/start", block);
        expect(ask("POST", path, json, (size_t)n), "start");
        snprintf(path, sizeof(path), "/api/v1/upload/block/%s/files?path=index", block);
        expect(ask("POST", path, body, INDEX_BYTES), "index");
        snprintf(path, sizeof(path), "/api/v1/upload/block/%s/files?path=chunks/000001", block);
        expect(ask("POST", path, "12345", 5), "chunks");
        snprintf(path, sizeof(path), "/api/v1/upload/block/%s/finish", block);
        expect(ask("POST", path, "", 0), "finish");
        snprintf(path, sizeof(path), "/api/v1/upload/block/%s/check", block);
        expect(ask("GET", path, "", 0), "check");
        expect(ask("GET", "/compactor/delete_tenant_status", "", 0), "status");
        if (i % 20 == 19)
            expect(ask("POST", "/compactor/delete_tenant", "", 0), "delete");
    }
    return NULL;
}

/* One life of the process. */
static void live(struct objstore *store, int64_t ms)
{
    struct err err = ERR_NONE;
    struct upload_parts up = {.cfg = &cfg, .limits = &limits, .bucket = store, .heartbeat_ms = 20};
    struct cleaner_parts cp = {.cfg = &cfg, .limits = &limits, .bucket = store, .owns = owns, .count_mark = count_mark};
    struct upload *upload = upload_new(&up, &err);
    struct cleaner *cleaner = cleaner_new(&cp);
    server = http_server_new(&http, (struct http_limits){1 << 20, 1 << 20}, tenant_of, NULL);
    http_server_add(server, "", upload_routes, upload_routes_n, upload);
    http_server_on_spool(server, upload_routes, upload_spool);
    http_server_add(server, "", cleaner_routes, cleaner_routes_n, cleaner);
    ASSERT(upload && cleaner_start(cleaner, &err) && http_server_start(server, &err));
    port = http_server_port(server);
    usleep((useconds_t)ms * 1000);
    http_server_stop(server, ms % 2 ? 0 : 2000);
    http_server_free(server);
    cleaner_stop(cleaner);
    upload_stop(upload);
    cleaner_free(cleaner);
    upload_free(upload);
}

int main(int argc, char **argv)
{
    int seconds = argc > 1 ? atoi(argv[1]) : 6;
    struct objstore_config bucket;
    struct flag_set *flags = flag_set_new();
    struct err err = ERR_NONE;
    static char dir[] = "/tmp/upload-stress-XXXXXX", data[64], objects[64], command[96];
    pthread_t clients[CLIENTS];
    log_min_level = LOG_LEVEL_ERROR;
    ASSERT(mkdtemp(dir));
    snprintf(data, sizeof(data), "%s/data", dir);
    snprintf(objects, sizeof(objects), "%s/bucket", dir);
    cfg.data_dir = data;
    flag_set_add(flags, "Blocks", bucket_flags, ARRAY_LEN(bucket_flags), &bucket);
    flag_set_add(flags, "HTTP server", http_flags, http_flags_n, &http);
    http.http_listen_address = "127.0.0.1";
    http.http_listen_port = 0;
    struct objstore *store = objstore_open(&bucket, "blocks-storage.", objects, &err);
    ASSERT(store);
    body = calloc(1, INDEX_BYTES);
    ASSERT(body);
    for (uintptr_t i = 0; i < CLIENTS; i++)
        pthread_create(&clients[i], NULL, client, (void *)(i + 1));
    for (int i = 0; i < seconds; i++)
        live(store, 1000 + i % 2);
    done = true;
    for (size_t i = 0; i < CLIENTS; i++)
        pthread_join(clients[i], NULL);
    objstore_free(store);
    flag_set_free(flags);
    free(body);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    printf("%d answers, %d of them wrong\n", (int)n_answers, (int)n_bad);
    return system(command) != 0 || n_bad > 0 || n_answers < 100;
}
