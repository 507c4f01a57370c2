/* The promises of plog.h, kept by the embedded back end. */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <errno.h>
#include <sys/wait.h>

#include "base/assert.h"
#include "base/clock.h"
#include "tests/log/plog_util.h"

static char *dir;
static struct plog_config cfg;
static struct plog *plog;

static void open_log(void)
{
    struct err err = ERR_NONE;
    plog = plog_open_embedded(&cfg, dir, &err);
    cr_assert(plog, "%s", err.text);
}

static void reopen(void)
{
    plog_close(plog);
    open_log();
}

static void setup(void)
{
    log_min_level = LOG_LEVEL_ERROR;
    dir = temp_dir();
    cfg = small_config();
}

static void teardown(void)
{
    plog_close(plog);
    remove_dir(dir);
}

TestSuite(plog, .init = setup, .fini = teardown, .timeout = 120);

static void put_n(int32_t partition, uint64_t first_seq, uint64_t n, size_t size)
{
    struct err err = ERR_NONE;
    for (uint64_t i = 0; i < n; i++) {
        int64_t offset = -1;
        cr_assert(produce_filled(plog, partition, first_seq + i, size, &offset, &err), "%s", err.text);
        cr_assert_eq(offset, (int64_t)(first_seq + i));
    }
}

/* Reads everything from `from` on: offsets dense, contents as produced. Returns the end. */
static int64_t read_all(int32_t partition, int64_t from, size_t max_bytes)
{
    struct err err = ERR_NONE;
    for (;;) {
        struct plog_batch b;
        cr_assert(plog_fetch(plog, partition, from, max_bytes, 0, &b, &err), "%s", err.text);
        for (size_t i = 0; i < b.n; i++) {
            const struct plog_record *r = &b.records[i];
            cr_assert_eq(r->offset, from + (int64_t)i);
            cr_assert_eq(r->partition, partition);
            cr_assert_eq(r->timestamp_ms, 1000 + r->offset);
            cr_assert(slice_eq(r->tenant, SL("t1")));
            cr_assert(value_is(r->value, partition, (uint64_t)r->offset), "value of offset %ld", (long)r->offset);
        }
        cr_assert_eq(b.next_offset, from + (int64_t)b.n);
        from = b.next_offset;
        size_t n = b.n;
        plog_batch_release(&b);
        if (!n)
            return from;
    }
}

static void offsets_are(int32_t partition, int64_t first, int64_t next)
{
    int64_t f, n;
    cr_assert(plog_offsets(plog, partition, &f, &n, NULL));
    cr_expect_eq(f, first, "first %ld, not %ld", (long)f, (long)first);
    cr_expect_eq(n, next, "next %ld, not %ld", (long)n, (long)next);
}

Test(plog, empty_log_has_no_records)
{
    open_log();
    offsets_are(0, 0, 0);
    struct plog_batch b;
    cr_assert(plog_fetch(plog, 0, 0, 1000, 0, &b, NULL));
    cr_expect_eq(b.n, 0);
    plog_batch_release(&b);
    reopen();
    offsets_are(0, 0, 0);
}

Test(plog, a_record_comes_back_as_it_was_produced)
{
    open_log();
    struct plog_record r[3] = {
        {.timestamp_ms = 5, .tenant = SL("tenant-a"), .version = 2, .form = PLOG_SNAPPY, .value = SL("abc")},
        {.timestamp_ms = -7, .tenant = {NULL, 0}, .version = 0, .value = {NULL, 0}},
        {.timestamp_ms = 0, .tenant = SL("x"), .version = 4000000000u, .value = SL("\0\xff")},
    };
    cr_assert(produce_wait(plog, r, 3, NULL));
    for (int again = 0; again < 2; again++, reopen()) {
        struct plog_batch b;
        cr_assert(plog_fetch(plog, 0, 0, 1000, 0, &b, NULL));
        cr_assert_eq(b.n, 3);
        for (int i = 0; i < 3; i++) {
            cr_expect_eq(b.records[i].offset, i);
            cr_expect(slice_eq(b.records[i].tenant, r[i].tenant));
            cr_expect(slice_eq(b.records[i].value, r[i].value));
            cr_expect_eq(b.records[i].version, r[i].version);
            cr_expect_eq(b.records[i].form, r[i].form);
            cr_expect_null(b.records[i].hint);
        }
        cr_expect_eq(b.records[1].timestamp_ms, -7);
        cr_expect_lt(clock_wall_ms() - b.records[2].timestamp_ms, 60000);
        plog_batch_release(&b);
    }
}

Test(plog, records_of_all_sizes_survive_reopening_across_segments)
{
    open_log();
    static const size_t sizes[] = {0, 1, 100, 1900, 1950, 1999, 2000, 2030, 4000, 4040, 4096, 60000, 300000, 2000000};
    uint64_t seq = 0;
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < ARRAY_LEN(sizes); i++, seq++)
            put_n(0, seq, 1, sizes[i]);
    cr_expect_eq(read_all(0, 0, 100000), (int64_t)seq);
    reopen();
    cr_expect_eq(read_all(0, 0, 100000), (int64_t)seq);
    char paths[32][512];
    cr_expect_gt(list_segments(dir, paths, 32), 3);
    put_n(0, seq, 5, 1000);
    offsets_are(0, 0, (int64_t)seq + 5);
}

Test(plog, many_small_records_fill_several_segments)
{
    open_log();
    enum { N = 30000 };
    static struct plog_record r[N];
    static char values[N][100];
    for (uint64_t i = 0; i < N; i++) {
        fill_value(values[i], 100, 0, i);
        r[i] = (struct plog_record){.timestamp_ms = 1000 + (int64_t)i, .tenant = SL("t1"), .value = {values[i], 100}};
    }
    for (size_t i = 0; i < N; i += 1000)
        cr_assert(produce_wait(plog, r + i, 1000, NULL));
    char paths[32][512];
    cr_expect_gt(list_segments(dir, paths, 32), 3);
    cr_expect_eq(read_all(0, 0, 1000000), N);
    cr_expect_eq(read_all(0, 12345, 5000), N);
}

Test(plog, a_request_larger_than_a_segment_gets_one_of_its_own)
{
    open_log();
    put_n(0, 0, 1, 100);
    put_n(0, 1, 1, 40 * MIB);
    put_n(0, 2, 1, 100);
    cr_expect_eq(read_all(0, 0, 1000), 3);
}

Test(plog, partitions_are_independent_and_may_grow_but_not_shrink)
{
    cfg.embedded_partitions = 3;
    open_log();
    put_n(0, 0, 40, 50000);
    put_n(2, 0, 5, 10);
    cfg.embedded_partitions = 5;
    reopen();
    put_n(4, 0, 30, 60000);
    put_n(0, 40, 2, 60000);
    reopen();
    cr_expect_eq(read_all(0, 0, 100000), 42);
    cr_expect_eq(read_all(1, 0, 100000), 0);
    cr_expect_eq(read_all(2, 0, 100000), 5);
    cr_expect_eq(read_all(4, 0, 100000), 30);
    plog_close(plog);
    cfg.embedded_partitions = 4;
    struct err err = ERR_NONE;
    cr_expect_null(plog_open_embedded(&cfg, dir, &err));
    cr_expect_eq(err.code, ERR_CONFIG);
    cr_expect(strstr(err.text, "has 5 partitions, -ingest-storage.embedded.partitions=4"), "%s", err.text);
    cfg.embedded_partitions = 5;
    open_log();
}

Test(plog, one_request_may_span_partitions_and_keeps_its_order)
{
    cfg.embedded_partitions = 2;
    open_log();
    struct plog_record r[6];
    for (int i = 0; i < 6; i++)
        r[i] = (struct plog_record){.partition = i % 2, .tenant = SL("t"), .value = {(const char *)"abcdef" + i, 1}};
    cr_assert(produce_wait(plog, r, 6, NULL));
    for (int p = 0; p < 2; p++) {
        struct plog_batch b;
        cr_assert(plog_fetch(plog, p, 0, 1000, 0, &b, NULL));
        cr_assert_eq(b.n, 3);
        for (int i = 0; i < 3; i++)
            cr_expect_eq(b.records[i].value.p[0], "abcdef"[2 * i + p]);
        plog_batch_release(&b);
    }
}

Test(plog, batches_end_at_max_bytes_but_hold_at_least_one_record)
{
    open_log();
    put_n(0, 0, 10, 1000);
    struct plog_batch b;
    cr_assert(plog_fetch(plog, 0, 2, 10, 0, &b, NULL));
    cr_expect_eq(b.n, 1);
    cr_expect_eq(b.next_offset, 3);
    plog_batch_release(&b);
    cr_assert(plog_fetch(plog, 0, 2, 3500, 0, &b, NULL));
    cr_expect_eq(b.n, 3);
    plog_batch_release(&b);
}

Test(plog, fetch_beyond_the_end_is_an_error_and_at_the_end_waits)
{
    open_log();
    put_n(0, 0, 1, 10);
    struct plog_batch b;
    struct err err = ERR_NONE;
    cr_expect_not(plog_fetch(plog, 0, 2, 1000, 1000, &b, &err));
    cr_expect_eq(err.code, ERR_NOT_FOUND);
    cr_expect_str_eq(err.text, "offset 2 is beyond the end of partition 0, which is 1");
    cr_expect_not(plog_fetch(plog, 1, 0, 1000, 0, &b, &err));
    cr_expect_eq(err.code, ERR_NOT_FOUND);
    int64_t before = clock_mono_ms();
    cr_assert(plog_fetch(plog, 0, 1, 1000, 200, &b, NULL));
    cr_expect_eq(b.n, 0);
    cr_expect_geq(clock_mono_ms() - before, 199);
    plog_batch_release(&b);
}

static void *produce_later(void *arg)
{
    usleep(50000);
    produce_filled(arg, 0, 0, 10, NULL, NULL);
    return NULL;
}

Test(plog, a_waiting_fetch_gets_the_next_record_at_once)
{
    open_log();
    pthread_t t;
    pthread_create(&t, NULL, produce_later, plog);
    struct plog_batch b;
    int64_t before = clock_mono_ms();
    cr_assert(plog_fetch(plog, 0, 0, 1000, 30000, &b, NULL));
    cr_expect_eq(b.n, 1);
    cr_expect_lt(clock_mono_ms() - before, 10000);
    plog_batch_release(&b);
    pthread_join(t, NULL);
}

Test(plog, committed_offsets_are_kept_by_group_and_partition)
{
    cfg.embedded_partitions = 2;
    open_log();
    int64_t o;
    cr_assert(plog_committed(plog, SL("g"), 0, &o, NULL));
    cr_expect_eq(o, -1);
    put_n(0, 0, 50, 10);
    cr_assert(plog_commit(plog, SL("g"), 0, 41, NULL));
    cr_assert(plog_commit(plog, SL("g"), 0, 42, NULL));
    cr_assert(plog_commit(plog, SL("g"), 1, 7, NULL));
    cr_assert(plog_commit(plog, SL("gg"), 0, 9, NULL));
    reopen();
    cr_assert(plog_committed(plog, SL("g"), 0, &o, NULL) && o == 42);
    cr_assert(plog_committed(plog, SL("g"), 1, &o, NULL) && o == 7);
    cr_assert(plog_committed(plog, SL("gg"), 0, &o, NULL) && o == 9);
    cr_assert(plog_committed(plog, SL("ggg"), 0, &o, NULL) && o == -1);
    /* Above what the log holds: the next offset goes beyond it, or a consumer would pass over new records. */
    offsets_are(1, 8, 8);
    struct err err = ERR_NONE;
    char name[300] = {0};
    cr_expect_not(plog_commit(plog, slice_make(name, sizeof(name)), 0, 1, &err));
    cr_expect_eq(err.code, ERR_BAD_DATA);
}

Test(plog, offsets_are_found_by_timestamp)
{
    open_log();
    int64_t o;
    cr_assert(plog_offset_at(plog, 0, 0, &o, NULL) && o == 0);
    put_n(0, 0, 60, 50000); /* timestamps 1000 + offset, several segments */
    for (int again = 0; again < 2; again++, reopen()) {
        for (int64_t t = 995; t < 1065; t++) {
            cr_assert(plog_offset_at(plog, 0, t, &o, NULL));
            cr_expect_eq(o, MIN(MAX(t - 1000, 0), 60), "at %ld: %ld", (long)t, (long)o);
        }
    }
}

Test(plog, timestamps_out_of_order_give_the_first_record_not_before)
{
    open_log();
    static const int64_t at[] = {50, 10, 70, 60, 20};
    for (size_t i = 0; i < ARRAY_LEN(at); i++) {
        struct plog_record r = {.timestamp_ms = at[i], .tenant = SL("t"), .value = SL("v")};
        cr_assert(produce_wait(plog, &r, 1, NULL));
    }
    int64_t o;
    cr_expect(plog_offset_at(plog, 0, 15, &o, NULL) && o == 0);
    cr_expect(plog_offset_at(plog, 0, 55, &o, NULL) && o == 2);
    cr_expect(plog_offset_at(plog, 0, 71, &o, NULL) && o == 5);
}

Test(plog, retention_by_size_removes_what_is_not_needed_and_nothing_else)
{
    cfg.embedded_retention_size_bytes = 3 * MIB;
    open_log();
    put_n(0, 0, 200, 60000); /* 12 MB */
    offsets_are(0, 0, 200);
    cr_expect_eq(read_all(0, 0, 100000), 200);
    plog_set_needed_from(plog, 0, 50);
    put_n(0, 200, 40, 60000);
    int64_t first, next, o;
    cr_assert(plog_offsets(plog, 0, &first, &next, NULL));
    cr_expect(first > 20 && first <= 50, "%ld", (long)first);
    /* An offset below the first one begins at the first one. */
    struct plog_batch b;
    cr_assert(plog_fetch(plog, 0, 3, 100, 0, &b, NULL));
    cr_assert_eq(b.n, 1);
    cr_expect_eq(b.records[0].offset, first);
    plog_batch_release(&b);
    cr_assert(plog_offset_at(plog, 0, 0, &o, NULL) && o == first);
    plog_set_needed_from(plog, 0, 240);
    put_n(0, 240, 40, 60000);
    cr_assert(plog_offsets(plog, 0, &first, &next, NULL));
    cr_expect_gt(first, 200);
    reopen();
    int64_t first_again;
    cr_assert(plog_offsets(plog, 0, &first_again, &next, NULL));
    cr_expect_eq(first, first_again);
    cr_expect_eq(next, 280);
    cr_expect_eq(read_all(0, first, 100000), 280);
}

Test(plog, retention_by_age_looks_at_the_newest_record_of_a_segment)
{
    cfg.embedded_retention_period = 3600 * 1000;
    open_log();
    int64_t now = clock_wall_ms();
    static char value[60000];
    for (int i = 0; i < 100; i++) { /* the first half is two hours old */
        struct plog_record r = {
            .timestamp_ms = i < 50 ? now - 7200 * 1000 : now, .tenant = SL("t"), .value = {value, sizeof(value)}};
        cr_assert(produce_wait(plog, &r, 1, NULL));
    }
    offsets_are(0, 0, 100);
    plog_set_needed_from(plog, 0, 100);
    for (int i = 0; i < 40; i++) {
        struct plog_record r = {.timestamp_ms = now, .tenant = SL("t"), .value = {value, sizeof(value)}};
        cr_assert(produce_wait(plog, &r, 1, NULL));
    }
    int64_t first, next;
    cr_assert(plog_offsets(plog, 0, &first, &next, NULL));
    cr_expect(first > 20 && first <= 50, "%ld", (long)first);
}

Test(plog, a_batch_outlives_the_removal_of_its_segment)
{
    cfg.embedded_retention_size_bytes = 2 * MIB;
    open_log();
    put_n(0, 0, 60, 60000);
    struct plog_batch b;
    cr_assert(plog_fetch(plog, 0, 0, 300000, 0, &b, NULL));
    cr_assert_gt(b.n, 2);
    plog_set_needed_from(plog, 0, 60);
    put_n(0, 60, 60, 60000);
    int64_t first, next;
    cr_assert(plog_offsets(plog, 0, &first, &next, NULL));
    cr_assert_gt(first, (int64_t)b.n);
    for (size_t i = 0; i < b.n; i++)
        cr_expect(value_is(b.records[i].value, 0, i));
    plog_batch_release(&b);
}

Test(plog, the_log_is_for_one_process)
{
    open_log();
    struct err err = ERR_NONE;
    cr_expect_null(plog_open_embedded(&cfg, dir, &err));
    cr_expect_eq(err.code, ERR_CONFLICT);
    cr_expect(strstr(err.text, "in use by another process"), "%s", err.text);
}

Test(plog, bad_configuration_names_the_flag)
{
    struct err err = ERR_NONE;
    cfg.embedded_partitions = 0;
    cr_expect_null(plog_open_embedded(&cfg, dir, &err));
    cr_expect(strstr(err.text, "-ingest-storage.embedded.partitions=0"), "%s", err.text);
    cfg = small_config();
    cfg.embedded_segment_bytes = 1000;
    cr_expect_null(plog_open_embedded(&cfg, dir, &err));
    cr_expect(strstr(err.text, "-ingest-storage.embedded.segment-size-bytes=1000"), "%s", err.text);
    cfg = small_config();
    cfg.embedded_max_size_bytes = MIB;
    cr_expect_null(plog_open_embedded(&cfg, dir, &err));
    cr_expect(strstr(err.text, "-ingest-storage.embedded.max-size-bytes"), "%s", err.text);
    cr_expect_null(plog_open_embedded(&(struct plog_config){0}, "/proc/no/such", &err));
    cfg = small_config();
    cr_expect_null(plog_open_embedded(&cfg, "/proc/no-such", &err));
    cr_expect(strstr(err.text, "/proc/no-such"), "%s", err.text);
}

Test(plog, a_log_may_have_a_thousand_partitions)
{
    cfg.embedded_partitions = EMBEDDED_MAX_PARTITIONS;
    open_log();
    for (int round = 0; round < 3; round++, reopen())
        for (int32_t p = 0; p < EMBEDDED_MAX_PARTITIONS; p += 93)
            put_n(p, (uint64_t)round, 1, 30000);
    for (int32_t p = 0; p < EMBEDDED_MAX_PARTITIONS; p++)
        cr_expect_eq(read_all(p, 0, 1000), p % 93 ? 0 : 3);
}

Test(plog, the_flags_have_their_defaults)
{
    struct plog_config c = {0};
    struct flag_set *fs = flag_set_new();
    flag_set_add(fs, "log", plog_flags, plog_flags_n, &c);
    cr_expect_eq(c.producer_max_buffered_bytes, 1073741824);
    cr_expect_eq(c.embedded_partitions, 1);
    cr_expect_eq(c.embedded_segment_bytes, 256 * MIB);
    cr_expect_eq(c.embedded_max_hint_bytes, 64 * MIB);
    cr_expect_eq(c.embedded_retention_period, 24 * 3600 * 1000);
    cr_expect_eq(c.embedded_retention_size_bytes, 10240 * MIB);
    cr_expect_eq(c.embedded_max_size_bytes, 0);
    flag_set_free(fs);
    open_log();
}

/* --- hints --- */

struct test_hint {
    struct plog_hint hint;
    int id;
};
static _Atomic int hints_freed;

static void hint_free(struct plog_hint *h)
{
    hints_freed++;
    free(h);
}

static void put_hinted(int id, size_t size_bytes)
{
    struct test_hint *h = calloc(1, sizeof(*h));
    h->hint = (struct plog_hint){.refs = 1, .size_bytes = size_bytes, .free = hint_free};
    h->id = id;
    struct plog_record r = {
        .timestamp_ms = 1000 + id, .tenant = SL("t1"), .version = 1, .value = SL("12345678"), .hint = &h->hint};
    cr_assert(produce_wait(plog, &r, 1, NULL));
    plog_hint_unref(&h->hint);
}

Test(plog, a_hint_is_handed_out_once_and_then_the_value)
{
    open_log();
    put_hinted(0, 100);
    put_hinted(1, 100);
    for (int again = 0; again < 2; again++) {
        struct plog_batch b;
        cr_assert(plog_fetch(plog, 0, 0, 1000, 0, &b, NULL));
        cr_assert_eq(b.n, 2);
        for (int i = 0; i < 2; i++) {
            cr_expect_eq(b.records[i].offset, i);
            cr_expect_eq(b.records[i].timestamp_ms, 1000 + i);
            cr_expect_eq(b.records[i].version, 1);
            cr_expect(slice_eq(b.records[i].tenant, SL("t1")));
            cr_expect_eq(b.records[i].hint != NULL, again == 0);
            cr_expect_eq(b.records[i].value.n, again ? 8 : 0);
            if (!again)
                cr_expect_eq(((struct test_hint *)b.records[i].hint)->id, i);
        }
        cr_expect_eq(hints_freed, again ? 2 : 0);
        plog_batch_release(&b);
    }
    cr_expect_eq(hints_freed, 2);
}

Test(plog, hints_are_bounded_and_the_oldest_go_first)
{
    open_log();
    for (int i = 0; i < 100; i++)
        put_hinted(i, 100000); /* of 1 MiB ten fit */
    cr_expect_geq(hints_freed, 89);
    int hinted = 0;
    for (int64_t o = 0; o < 100;) {
        struct plog_batch b;
        cr_assert(plog_fetch(plog, 0, o, 20, 0, &b, NULL));
        cr_assert_gt(b.n, 0);
        for (size_t i = 0; i < b.n; i++, o++) {
            cr_expect_eq(b.records[i].offset, o);
            if (b.records[i].hint) {
                cr_expect_geq(o, 89);
                cr_expect_eq(((struct test_hint *)b.records[i].hint)->id, o);
                hinted++;
            }
        }
        plog_batch_release(&b);
    }
    cr_expect_geq(hinted, 10);
    cr_expect_eq(hints_freed, 100);
}

Test(plog, hints_with_holes_and_too_large_ones)
{
    open_log();
    put_hinted(0, 10);
    put_n(0, 1, 1, 8);
    put_hinted(2, 10 * MIB); /* larger than the bound: not kept */
    put_hinted(3, 10);
    static const bool want[] = {true, false, false, true};
    for (int64_t o = 0; o < 4;) {
        struct plog_batch b;
        cr_assert(plog_fetch(plog, 0, o, 1, 0, &b, NULL));
        cr_assert_eq(b.n, 1);
        cr_expect_eq(b.records[0].hint != NULL, want[o]);
        o = b.next_offset;
        plog_batch_release(&b);
    }
    put_hinted(4, 10); /* not fetched: freed by close */
    plog_close(plog);
    plog = NULL;
    cr_expect_eq(hints_freed, 4);
    open_log();
}

/* --- bounds and faults --- */

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool shut;
    int waiting;
};

static int gate_fault(void *arg, const char *point)
{
    struct gate *g = arg;
    if (strcmp(point, "commit") != 0)
        return 0;
    pthread_mutex_lock(&g->lock);
    g->waiting++;
    pthread_cond_broadcast(&g->changed);
    while (g->shut)
        pthread_cond_wait(&g->changed, &g->lock);
    g->waiting--;
    pthread_mutex_unlock(&g->lock);
    return 0;
}

Test(plog, the_buffer_is_bounded_and_whole_requests_are_refused)
{
    struct gate gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .shut = true};
    struct embedded_hooks hooks = {gate_fault, &gate};
    cfg.producer_max_buffered_bytes = 10000;
    struct err err = ERR_NONE;
    plog = embedded_open_hooked(&cfg, dir, &hooks, &err);
    cr_assert(plog);
    static char value[3000];
    static struct waiter w[4];
    static struct plog_record r[4];
    for (int i = 0; i < 4; i++) {
        pthread_mutex_init(&w[i].lock, NULL);
        pthread_cond_init(&w[i].done, NULL);
        r[i] = (struct plog_record){.tenant = SL("t"), .value = {value, sizeof(value)}};
        w[i].p = (struct plog_produce){.records = &r[i], .n = 1, .done = waiter_done};
        cr_expect_eq(plog_produce(plog, &w[i].p, &err), i < 3);
    }
    cr_expect_eq(err.code, ERR_UNAVAILABLE);
    cr_expect(err_retriable(err.code));
    cr_expect(strstr(err.text, "-ingest-storage.kafka.producer-max-buffered-bytes=10000"), "%s", err.text);
    pthread_mutex_lock(&gate.lock);
    gate.shut = false;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
    for (int i = 0; i < 3; i++) {
        pthread_mutex_lock(&w[i].lock);
        while (!w[i].finished)
            pthread_cond_wait(&w[i].done, &w[i].lock);
        pthread_mutex_unlock(&w[i].lock);
        cr_expect(w[i].ok);
        cr_expect_eq(r[i].offset, i);
    }
    cr_assert(produce_filled(plog, 0, 3, 100, NULL, &err), "%s", err.text);
    struct plog_record big = {.tenant = SL("t"), .value = {value, sizeof(value)}};
    struct plog_record bigs[4] = {big, big, big, big};
    cr_expect_not(produce_wait(plog, bigs, 4, &err));
    cr_expect_eq(err.code, ERR_TOO_LARGE);
}

struct trip {
    const char *point;
    _Atomic int rc;    /* what happens there */
    _Atomic int times; /* that often, then no more */
};

static int trip_fault(void *arg, const char *point)
{
    struct trip *t = arg;
    return strcmp(point, t->point) == 0 && t->times > 0 && t->times-- > 0 ? t->rc : 0;
}

/* Whatever fails at whatever point: the produce fails, readers go on, the next produce works, offsets stay dense. */
static void survives(const char *point, int rc, enum err_code want)
{
    struct trip trip = {.point = point};
    struct embedded_hooks hooks = {trip_fault, &trip};
    struct err err = ERR_NONE;
    plog = embedded_open_hooked(&cfg, dir, &hooks, &err);
    cr_assert(plog);
    put_n(0, 0, 30, 50000);
    trip.rc = rc;
    trip.times = 1;
    uint64_t seq = 30;
    while (trip.times > 0 && seq < 100 && produce_filled(plog, 0, seq, 50000, NULL, &err))
        seq++;
    cr_assert_eq(trip.times, 0, "%s was not reached", point);
    if (want)
        cr_expect_eq(err.code, want, "%s: %s", point, err.text);
    cr_expect_eq(read_all(0, 0, 100000), (int64_t)seq, "%s", point);
    put_n(0, seq, 30, 50000);
    cr_expect_eq(read_all(0, 0, 100000), (int64_t)seq + 30, "%s", point);
    reopen();
    cr_expect_eq(read_all(0, 0, 100000), (int64_t)seq + 30, "%s", point);
    plog_close(plog);
    plog = NULL;
    remove_dir(dir);
    dir = temp_dir();
}

Test(plog, a_failing_disk_fails_one_group_and_no_more)
{
    log_min_level = LOG_LEVEL_ERROR + 1;
    survives("begin", EIO, ERR_IO);
    survives("begin", MDB_PANIC, ERR_IO);
    survives("commit", ENOSPC, ERR_NO_SPACE);
    survives("commit", EIO, ERR_IO);
    survives("commit", MDB_MAP_FULL, 0); /* a new segment: nobody notices */
    survives("committed", EIO, ERR_IO);  /* it is on disk, and still not part of the log */
    survives("segment-header", ENOSPC, ERR_NO_SPACE);
    survives("segment-rename", EIO, ERR_IO);
    survives("segment-dirsync", EIO, ERR_IO);
    survives("segment-open", EIO, 0);
    survives("meta", ENOSPC, 0); /* the row of a sealed segment: not lost, the file is read at the next start */
}

/* A commit that failed late has left a record in the file whose offset the next segment gives to another one. */
Test(plog, a_record_of_a_failed_commit_stays_out_even_when_files_are_read_anew)
{
    log_min_level = LOG_LEVEL_ERROR + 1;
    struct trip trip = {.point = "committed", .rc = EIO};
    struct embedded_hooks hooks = {trip_fault, &trip};
    struct err err = ERR_NONE;
    plog = embedded_open_hooked(&cfg, dir, &hooks, &err);
    cr_assert(plog);
    put_n(0, 0, 3, 1000);
    trip.times = 1;
    cr_expect_not(produce_filled(plog, 0, 99, 1000, NULL, &err));
    put_n(0, 3, 3, 1000);
    plog_close(plog);
    char path[512];
    snprintf(path, sizeof(path), "%s/meta.mdb", dir);
    cr_assert_eq(unlink(path), 0);
    open_log();
    offsets_are(0, 0, 6);
    cr_expect_eq(read_all(0, 0, 100000), 6);
}

Test(plog, a_log_at_its_maximum_size_refuses_until_records_are_consumed)
{
    cfg.embedded_max_size_bytes = 4 * MIB;
    log_min_level = LOG_LEVEL_ERROR + 1;
    open_log();
    struct err err = ERR_NONE;
    uint64_t seq = 0;
    while (produce_filled(plog, 0, seq, 60000, NULL, &err))
        cr_assert_lt(++seq, 100);
    cr_expect_eq(err.code, ERR_NO_SPACE);
    cr_expect_gt(seq, 40);
    cr_expect(strstr(err.text, "-ingest-storage.embedded.max-size-bytes=4194304"), "%s", err.text);
    cr_expect_not(produce_filled(plog, 0, seq, 60000, NULL, &err));
    cr_expect_eq(read_all(0, 0, 100000), (int64_t)seq);
    char paths[32][512];
    uint64_t bytes = 0;
    for (size_t i = 0, n = list_segments(dir, paths, 32); i < n; i++) {
        struct stat st;
        cr_assert_eq(stat(paths[i], &st), 0);
        bytes += (uint64_t)st.st_size;
    }
    cr_expect_leq(bytes, 4 * MIB);
    for (int i = 0; i < 200; i++, seq++) {
        plog_set_needed_from(plog, 0, (int64_t)seq);
        put_n(0, seq, 1, 60000);
    }
    reopen();
    int64_t first, next;
    cr_assert(plog_offsets(plog, 0, &first, &next, NULL));
    cr_expect_eq(next, (int64_t)seq);
    cr_expect_eq(read_all(0, first, 100000), next);
}

/* --- many threads --- */

enum { THREADS = 8, PER_THREAD = 200 };

static void *produce_many(void *arg)
{
    for (uint64_t i = 0; i < PER_THREAD; i++) {
        char value[2000];
        uint64_t head[2] = {(uint64_t)(uintptr_t)arg, i};
        memset(value, (int)i, sizeof(value));
        memcpy(value, head, sizeof(head));
        struct plog_record r[2] = {{.partition = 0, .tenant = SL("t"), .value = {value, sizeof(value)}},
                                   {.partition = 1, .tenant = SL("t"), .value = {value, 16 + i}}};
        struct err err = ERR_NONE;
        if (!produce_wait(plog, r, 2, &err))
            abort();
    }
    return NULL;
}

/* Each producer's records are there once and in its order. */
static void *consume_many(void *arg)
{
    int32_t partition = (int32_t)(uintptr_t)arg;
    uint64_t seen[THREADS] = {0};
    for (int64_t o = 0; o < THREADS * PER_THREAD;) {
        struct plog_batch b;
        if (!plog_fetch(plog, partition, o, 20000, 1000, &b, NULL))
            abort();
        for (size_t i = 0; i < b.n; i++) {
            uint64_t head[2];
            memcpy(head, b.records[i].value.p, sizeof(head));
            if (b.records[i].offset != o + (int64_t)i || head[0] >= THREADS || seen[head[0]] != head[1])
                abort();
            seen[head[0]]++;
        }
        o = b.next_offset;
        plog_batch_release(&b);
    }
    return NULL;
}

Test(plog, many_producers_and_readers_at_once)
{
    cfg.embedded_partitions = 2;
    open_log();
    pthread_t t[THREADS + 4];
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&t[i], NULL, produce_many, (void *)i);
    for (uintptr_t i = 0; i < 4; i++)
        pthread_create(&t[THREADS + i], NULL, consume_many, (void *)(i % 2));
    for (int i = 0; i < THREADS + 4; i++)
        pthread_join(t[i], NULL);
    reopen();
    consume_many((void *)0);
    consume_many((void *)1);
}

Test(plog, close_waits_for_what_is_queued)
{
    open_log();
    enum { N = 50 };
    static struct waiter w[N];
    static struct plog_record r[N];
    static char value[20000];
    for (int i = 0; i < N; i++) {
        pthread_mutex_init(&w[i].lock, NULL);
        pthread_cond_init(&w[i].done, NULL);
        r[i] = (struct plog_record){.tenant = SL("t"), .value = {value, sizeof(value)}};
        w[i].p = (struct plog_produce){.records = &r[i], .n = 1, .done = waiter_done};
        cr_assert(plog_produce(plog, &w[i].p, NULL));
    }
    plog_close(plog);
    for (int i = 0; i < N; i++)
        cr_expect(w[i].finished && w[i].ok);
    open_log();
    offsets_are(0, 0, N);
}

static void *wake_soon(void *arg)
{
    (void)arg;
    usleep(100000);
    plog_wake(plog, 0);
    return NULL;
}

Test(plog, a_fetch_that_waits_can_be_woken)
{
    struct plog_batch b;
    struct err err = ERR_NONE;
    pthread_t t;
    open_log();
    int64_t begin_ms = clock_mono_ms();
    pthread_create(&t, NULL, wake_soon, NULL);
    cr_assert(plog_fetch(plog, 0, 0, MIB, 20000, &b, &err), "%s", err.text);
    cr_expect(b.n == 0 && b.next_offset == 0);
    plog_batch_release(&b);
    pthread_join(t, NULL);
    plog_wake(plog, 0); /* before the fetch that would wait; once only */
    cr_assert(plog_fetch(plog, 0, 0, MIB, 20000, &b, &err));
    plog_batch_release(&b);
    cr_expect_lt(clock_mono_ms() - begin_ms, 5000);
    begin_ms = clock_mono_ms();
    cr_assert(plog_fetch(plog, 0, 0, MIB, 50, &b, &err));
    plog_batch_release(&b);
    cr_expect_geq(clock_mono_ms() - begin_ms, 49);
}
