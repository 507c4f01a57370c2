/*
 * Many threads on one store: each writes, reads, lists and removes, and calls are canceled meanwhile. Run under the thread sanitizer; the first argument is for
 * how many seconds each. Over a filesystem, and over an S3 server with both signatures: the tests' own one, or what OBJSTORE_TEST_ENDPOINT names (see
 * store_of_environment). To be started in the checkout.
 */
#include <stdio.h>

#define CLAIM(cond, ...) ((cond) ? (void)0 : (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), abort()))
#include "suite.h"
#include "server.h"

#define THREADS 8

#ifdef __SANITIZE_THREAD__
/* libs3 parses times with mktime, where libc takes a lock that the sanitizer does not see. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race:^tzset_internal$\n";
}
#endif

struct worker {
    struct objstore *store;
    int id;
    int64_t end_ms;
    int rounds;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    struct buf out;
    buf_init(&out, 0);
    while (clock_mono_ms() < w->end_ms) {
        struct err err = ERR_NONE;
        struct ctx ctx = {0};
        char own[64], text[64];
        size_t n = 0;
        snprintf(own, sizeof(own), "stress/%d/%d", w->id, w->rounds % 5);
        snprintf(text, sizeof(text), "%d of %d", w->rounds, w->id);
        CLAIM(objstore_put(w->store, &ctx, slice_of(own), slice_of(text), &err), "%s", err.text);
        CLAIM(objstore_put(w->store, &ctx, SL("stress/shared"), slice_of(text), &err), "%s", err.text);
        buf_clear(&out);
        CLAIM(objstore_get(w->store, &ctx, slice_of(own), 0, OBJSTORE_ALL, &out, &err), "%s", err.text);
        CLAIM(slice_eq(buf_slice(&out), slice_of(text)), "%s: %.*s", own, SL_FMT(buf_slice(&out)));
        CLAIM(objstore_list(w->store, &ctx, SL("stress/"), w->rounds % 2, count_name, &n, &err) && n > 0, "%s", err.text);
        CLAIM(objstore_remove(w->store, &ctx, slice_of(own), &err), "%s", err.text);
        struct ctx late = {.deadline_ms = clock_mono_ms() + w->rounds % 3};
        objstore_put(w->store, &late, SL("stress/late"), slice_of(text), &err);
        w->rounds++;
    }
    buf_release(&out);
    return NULL;
}

static int stress(struct objstore *store, int64_t seconds)
{
    pthread_t threads[THREADS];
    struct worker workers[THREADS];
    int rounds = 0;
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.store = store, .id = i, .end_ms = clock_mono_ms() + seconds * 1000};
        CLAIM(pthread_create(&threads[i], NULL, work, &workers[i]) == 0, "no thread");
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        rounds += workers[i].rounds;
    }
    objstore_free(store);
    return rounds;
}

int main(int argc, char **argv)
{
    int64_t seconds = argc > 1 ? atoi(argv[1]) : 5;
    char dir[] = "/tmp/objstore-stress-XXXXXX";
    CLAIM(mkdtemp(dir), "no folder");
    struct objstore_config cfg = plain_config();
    printf("filesystem: %d rounds\n", stress(store_open(&cfg, dir), seconds));
    remove_tree(dir);
    struct server server = {0};
    if (!store_of_environment(&cfg)) {
        server = server_start(NULL, NULL);
        cfg.backend = "s3";
        cfg.s3_endpoint = server.endpoint;
        cfg.s3_access_key_id = "testkey";
        cfg.s3_secret_access_key = "testsecret";
        cfg.s3_bucket_name = "bkt";
        cfg.s3_insecure = true;
    }
    cfg.s3_max_connections_per_host = THREADS - 2; /* some wait */
    printf("s3: %d rounds\n", stress(store_open(&cfg, ""), seconds));
#ifdef BRUNN_LIBS3
    cfg.s3_signature_version = "v2";
    printf("s3, signature v2: %d rounds\n", stress(store_open(&cfg, ""), seconds));
#endif
    if (server.pid)
        server_stop(&server);
    return 0;
}
