/*
 * A process with the log open is killed (SIGKILL) at random moments and at each named point; then every acknowledged
 * record is there once, at its offset, whole and in order, whatever retention and committed offsets were doing. All
 * rounds work on one folder, so that damage would add up.
 *
 * BRUNN_CRASH_ROUNDS sets the number of random rounds (default 120).
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "base/assert.h"
#include "base/clock.h"
#include "tests/log/plog_util.h"

enum { PARTITIONS = 2, PRODUCERS = 4, MAX_OFFSETS = 1 << 20, MAX_VALUE = 70000 };

/* Shared with the child: outlives it. Written by the child's threads, read by the parent when the child is gone. */
struct shared {
    _Atomic uint64_t acked[PARTITIONS][MAX_OFFSETS]; /* id of the record that was acknowledged at an offset; 0 = none */
    _Atomic int64_t acked_end[PARTITIONS];
    _Atomic int64_t needed[PARTITIONS];
    _Atomic int64_t commit_tried, commit_done;
    _Atomic int hits; /* of the deadly point, in this child */
};
static struct shared *shared;
static char *dir;
static struct plog_config cfg;
static unsigned rng = 12345;

struct record_head {
    uint64_t id;
    uint64_t size;
};

static unsigned next_random(void)
{
    rng = rng * 1664525 + 1013904223;
    return rng >> 8;
}

/* --- the child --- */

struct deadly {
    const char *point;
    int at_hit;
};

static int die_here(void *arg, const char *point)
{
    struct deadly *d = arg;
    if (d->point && strcmp(d->point, point) == 0 && ++shared->hits == d->at_hit)
        kill(getpid(), SIGKILL);
    return 0;
}

struct producer {
    struct plog *log;
    uint64_t id; /* of the first record; one more for each */
};

/* One more acknowledged end, from any thread. */
static void raise_to(_Atomic int64_t *v, int64_t to)
{
    int64_t now = *v;
    while (now < to && !atomic_compare_exchange_weak(v, &now, to))
        continue;
}

static void *produce_forever(void *arg)
{
    struct producer *me = arg;
    char *value = malloc(MAX_VALUE);
    for (uint64_t id = me->id;; id++) {
        int32_t partition = (int32_t)(id % PARTITIONS);
        size_t size = sizeof(struct record_head) + id * 2654435761u % (id % 8 ? 3000 : MAX_VALUE - 100);
        fill_value(value, size, partition, id);
        struct record_head head = {id, size};
        memcpy(value, &head, sizeof(head));
        struct plog_record r = {.partition = partition, .tenant = SL("t"), .value = {value, size}};
        if (!produce_wait(me->log, &r, 1, NULL))
            abort();
        shared->acked[partition][r.offset] = id;
        raise_to(&shared->acked_end[partition], r.offset + 1);
    }
    return NULL;
}

/* A consumer that is always a little behind, so that retention has work. */
static void consume_forever(struct plog *log)
{
    for (;;) {
        for (int32_t p = 0; p < PARTITIONS; p++) {
            int64_t needed = MAX(shared->acked_end[p] - 100, 0);
            shared->needed[p] = needed;
            plog_set_needed_from(log, p, needed);
        }
        int64_t o = shared->acked_end[0] - 1;
        if (o >= 0) {
            shared->commit_tried = o;
            if (!plog_commit(log, SL("group"), 0, o, NULL))
                abort();
            shared->commit_done = o;
        }
        usleep(2000);
    }
}

static void child_main(uint64_t round, struct deadly *deadly)
{
    log_min_level = LOG_LEVEL_ERROR + 1;
    struct embedded_hooks hooks = {die_here, deadly};
    struct err err = ERR_NONE;
    struct plog *log = embedded_open_hooked(&cfg, dir, &hooks, &err);
    if (!log) {
        fprintf(stderr, "child: %s\n", err.text);
        _exit(3);
    }
    for (int32_t p = 0; p < PARTITIONS; p++)
        plog_set_needed_from(log, p, shared->needed[p]);
    static struct producer producers[PRODUCERS];
    for (uint64_t i = 0; i < PRODUCERS; i++) {
        pthread_t t;
        producers[i] = (struct producer){log, ((round * PRODUCERS + i) << 32) + 1};
        pthread_create(&t, NULL, produce_forever, &producers[i]);
    }
    consume_forever(log);
}

/* Runs a child until it is killed after wait_us, or by itself at the deadly point. */
static void run_child(uint64_t round, struct deadly *deadly, unsigned wait_us)
{
    shared->hits = 0;
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0)
        child_main(round, deadly);
    int status = 0;
    if (deadly->point) { /* at the latest after two seconds: some points are not reached in each child */
        for (int i = 0; i < 2000 && waitpid(pid, &status, WNOHANG) == 0; i++)
            usleep(1000);
    } else {
        usleep(wait_us);
    }
    if (kill(pid, SIGKILL) == 0)
        waitpid(pid, &status, 0);
    cr_assert(!WIFEXITED(status) && (!WIFSIGNALED(status) || WTERMSIG(status) == SIGKILL),
              "the child ended by itself: %d", status);
}

/* --- the parent --- */

struct seen {
    uint64_t last_id[4096]; /* by id >> 32 */
    uint64_t n;
};

static void check_record(const struct plog_record *r, struct seen *seen)
{
    struct record_head head;
    cr_assert_geq(r->value.n, sizeof(head));
    memcpy(&head, r->value.p, sizeof(head));
    cr_assert_eq(head.size, r->value.n);
    uint64_t acked = shared->acked[r->partition][r->offset];
    cr_assert(acked == 0 || acked == head.id, "partition %d, offset %ld", r->partition, (long)r->offset);
    char *want = malloc(head.size);
    fill_value(want, head.size, r->partition, head.id);
    memcpy(want, &head, sizeof(head));
    cr_assert_eq(memcmp(want, r->value.p, head.size), 0);
    free(want);
    uint64_t producer = head.id >> 32;
    cr_assert_lt(producer, ARRAY_LEN(seen->last_id));
    cr_assert_gt(head.id, seen->last_id[producer], "a record is there twice or out of order");
    seen->last_id[producer] = head.id;
    seen->n++;
}

static uint64_t check_partition(struct plog *log, int32_t partition)
{
    static struct seen seen;
    seen = (struct seen){0};
    int64_t first, next;
    cr_assert(plog_offsets(log, partition, &first, &next, NULL));
    cr_assert_leq(first, shared->needed[partition], "retention took what was needed");
    cr_assert_geq(next, shared->acked_end[partition], "acknowledged records are gone");
    struct err err = ERR_NONE;
    for (int64_t o = first; o < next;) {
        struct plog_batch b;
        cr_assert(plog_fetch(log, partition, o, 1 << 20, 0, &b, &err), "%s", err.text);
        cr_assert_gt(b.n, 0);
        for (size_t i = 0; i < b.n; i++) {
            cr_assert_eq(b.records[i].offset, o + (int64_t)i);
            check_record(&b.records[i], &seen);
        }
        o = b.next_offset;
        plog_batch_release(&b);
    }
    /* A record that nobody was told of counts from now on, or its offset could be another's after the next crash. */
    shared->acked_end[partition] = next;
    return seen.n;
}

static uint64_t check_log(void)
{
    struct err err = ERR_NONE;
    struct plog *log = plog_open_embedded(&cfg, dir, &err);
    cr_assert(log, "%s", err.text);
    uint64_t n = 0;
    for (int32_t p = 0; p < PARTITIONS; p++)
        n += check_partition(log, p);
    int64_t committed;
    cr_assert(plog_committed(log, SL("group"), 0, &committed, &err), "%s", err.text);
    cr_assert_geq(committed, shared->commit_done);
    cr_assert_leq(committed, shared->commit_tried);
    shared->commit_done = committed;
    plog_close(log);
    return n;
}

static void setup(void)
{
    log_min_level = LOG_LEVEL_ERROR + 1;
    dir = temp_dir();
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(shared, MAP_FAILED);
    shared->commit_tried = shared->commit_done = -1;
    cfg = small_config();
    cfg.embedded_partitions = PARTITIONS;
    cfg.embedded_retention_size_bytes = 3 * MIB;
}

static void teardown(void)
{
    munmap(shared, sizeof(*shared));
    remove_dir(dir);
}

TestSuite(plog_crash, .init = setup, .fini = teardown, .timeout = 280);

Test(plog_crash, kill_at_random_moments_loses_and_doubles_nothing)
{
    const char *env = getenv("BRUNN_CRASH_ROUNDS");
    uint64_t rounds = MIN(env ? strtoull(env, NULL, 10) : 120, 1000), n = 0;
    struct deadly none = {NULL, 0};
    rng = (unsigned)clock_wall_ns();
    fprintf(stderr, "seed %u\n", rng);
    for (uint64_t round = 0; round < rounds; round++) {
        unsigned wait_us = next_random() % 4 ? next_random() % 60000 : next_random() % 5000;
        run_child(round, &none, wait_us);
        n = check_log();
    }
    fprintf(stderr, "%lu rounds, partitions end at %ld and %ld, the last round found %lu records\n",
            (unsigned long)rounds, (long)shared->acked_end[0], (long)shared->acked_end[1], (unsigned long)n);
    cr_expect_gt(shared->acked_end[0], 100);
}

Test(plog_crash, kill_at_each_named_point)
{
    static const char *const points[] = {
        "segment-header", "segment-rename", "segment-dirsync",  "segment-open", "meta", "begin", "commit",
        "committed",      "seal",           "retention-unlink", "retention-row"};
    uint64_t round = 0;
    for (size_t i = 0; i < ARRAY_LEN(points); i++) {
        for (int hit = 1; hit <= 5; hit += 2, round++) {
            struct deadly deadly = {points[i], hit};
            run_child(round, &deadly, 0);
            cr_expect_eq(shared->hits, hit, "%s was not reached %d times", points[i], hit);
            check_log();
        }
    }
}
