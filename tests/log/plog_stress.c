/*
 * Everything of the log at once, for the thread sanitizer: producers with and without hints, readers at the end and
 * from the start, committed offsets, timestamps, retention, failing commits. Exits 0 when every reader saw every record
 * that was acknowledged, in order.
 *
 *   log_plog_stress [seconds = 10]
 */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "tests/log/plog_util.h"

enum { PARTITIONS = 3, PRODUCERS = 6, HEAD = 16 };

static struct plog *plog;
static atomic_bool stop, all_produced;
static _Atomic int64_t consumed[PARTITIONS];
static _Atomic uint64_t n_produced, n_refused, n_consumed, n_hinted, n_replayed;
static _Atomic unsigned n_commits;

static int now_and_then(void *arg, const char *point)
{
    (void)arg;
    if (strcmp(point, "commit") != 0)
        return 0;
    unsigned n = ++n_commits;
    return n % 200 == 0 ? ENOSPC : n % 331 == 0 ? EIO : 0;
}

struct hint {
    struct plog_hint hint;
    uint64_t head[2];
};

static void hint_free(struct plog_hint *h)
{
    free(h);
}

/* Each producer numbers its own records; the value begins with {producer, number}. */
static void *produce(void *arg)
{
    uint64_t me = (uint64_t)(uintptr_t)arg, seq[PARTITIONS] = {0};
    char *value = malloc(70000);
    memset(value, (int)me, 70000);
    for (uint64_t i = 0; !stop; i++) {
        struct plog_record r[2];
        struct hint *h = NULL;
        int32_t p = (int32_t)(i % PARTITIONS), q = (int32_t)((i + 1) % PARTITIONS);
        uint64_t head[2] = {me, seq[p]}, head_q[2] = {me, seq[q]};
        char small[HEAD];
        memcpy(value, head, HEAD);
        memcpy(small, head_q, HEAD);
        if (i % 2) {
            h = calloc(1, sizeof(*h));
            h->hint = (struct plog_hint){.refs = 1, .size_bytes = 3000, .free = hint_free};
            memcpy(h->head, head, HEAD);
        }
        r[0] = (struct plog_record){
            .partition = p, .tenant = SL("t"), .value = {value, i % 50 ? 500 : 70000}, .hint = h ? &h->hint : NULL};
        r[1] = (struct plog_record){.partition = q, .tenant = SL("t"), .value = {small, HEAD}};
        if (produce_wait(plog, r, 2, NULL)) {
            seq[p]++;
            seq[q]++;
            n_produced += 2;
        } else {
            n_refused++;
        }
        if (h)
            plog_hint_unref(&h->hint);
    }
    free(value);
    return NULL;
}

static void check(const struct plog_record *r, uint64_t *seen)
{
    uint64_t head[2];
    memcpy(head, r->hint ? (const char *)((const struct hint *)r->hint)->head : r->value.p, HEAD);
    if (head[0] >= PRODUCERS || (seen && head[1] != seen[head[0]]++)) {
        fprintf(stderr, "partition %d, offset %" PRId64 ": producer %" PRIu64 ", record %" PRIu64 "\n", r->partition,
                r->offset, head[0], head[1]);
        abort();
    }
}

static void fetch_or_die(int32_t partition, int64_t offset, int64_t timeout_ms, struct plog_batch *ret)
{
    struct err err = ERR_NONE;
    if (!plog_fetch(plog, partition, offset, 100000, timeout_ms, ret, &err)) {
        fprintf(stderr, "fetch: %s\n", err.text);
        abort();
    }
}

static void *consume(void *arg)
{
    int32_t partition = (int32_t)(uintptr_t)arg;
    uint64_t seen[PRODUCERS] = {0};
    int64_t o = 0, next = INT64_MAX;
    while (o < next) {
        struct plog_batch b;
        fetch_or_die(partition, o, 50, &b);
        for (size_t i = 0; i < b.n; i++) {
            check(&b.records[i], seen);
            n_hinted += b.records[i].hint != NULL;
        }
        n_consumed += b.n;
        o = b.next_offset;
        plog_batch_release(&b);
        consumed[partition] = o;
        plog_set_needed_from(plog, partition, o);
        if (all_produced)
            plog_offsets(plog, partition, &(int64_t){0}, &next, NULL);
    }
    return NULL;
}

/* Reads what is retained over and over, while retention takes it away. */
static void *replay(void *arg)
{
    int32_t partition = (int32_t)(uintptr_t)arg;
    while (!stop) {
        int64_t o, next;
        plog_offsets(plog, partition, &o, &next, NULL);
        while (o < next && !stop) {
            struct plog_batch b;
            fetch_or_die(partition, o, 0, &b);
            for (size_t i = 0; i < b.n; i++)
                if (!b.records[i].hint) /* a stolen hint would be missed by the consumer only as speed */
                    check(&b.records[i], NULL);
            n_replayed += b.n;
            o = b.next_offset;
            plog_batch_release(&b);
        }
    }
    return NULL;
}

static void *commit(void *arg)
{
    (void)arg;
    while (!stop) {
        for (int32_t p = 0; p < PARTITIONS; p++) {
            int64_t o = consumed[p], got;
            if (!plog_commit(plog, SL("g"), p, o, NULL) || !plog_committed(plog, SL("g"), p, &got, NULL) || got != o)
                abort();
            if (!plog_offset_at(plog, p, clock_wall_ms() - 100, &got, NULL))
                abort();
        }
        usleep(1000);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    unsigned seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 10;
    log_min_level = LOG_LEVEL_ERROR + 1;
    char *dir = temp_dir();
    struct plog_config cfg = small_config();
    cfg.embedded_partitions = PARTITIONS;
    cfg.embedded_retention_size_bytes = 4 * MIB;
    cfg.embedded_max_hint_bytes = 200000;
    struct embedded_hooks hooks = {now_and_then, NULL};
    struct err err = ERR_NONE;
    plog = embedded_open_hooked(&cfg, dir, &hooks, &err);
    if (!plog) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    pthread_t t[32];
    size_t n = 0;
    for (uintptr_t i = 0; i < PRODUCERS; i++)
        pthread_create(&t[n++], NULL, produce, (void *)i);
    for (uintptr_t i = 0; i < PARTITIONS; i++)
        pthread_create(&t[n++], NULL, consume, (void *)i);
    for (uintptr_t i = 0; i < 2; i++)
        pthread_create(&t[n++], NULL, replay, (void *)i);
    pthread_create(&t[n++], NULL, commit, NULL);
    sleep(seconds);
    stop = true;
    for (size_t i = 0; i < n; i++) {
        all_produced = i >= PRODUCERS;
        pthread_join(t[i], NULL);
    }
    plog_close(plog);
    remove_dir(dir);
    printf("produced %" PRIu64 ", refused %" PRIu64 ", consumed %" PRIu64 " (%" PRIu64 " by hint), replayed %" PRIu64
           ", commits %u\n",
           n_produced, n_refused, n_consumed, n_hinted, n_replayed, n_commits);
    return n_consumed == n_produced && n_produced > 0 ? 0 : 1;
}
