/* The ingester over the embedded log: consumption, restarts, what goes wrong. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "ingest/files_int.h"
#include "ingest/ingester_int.h"
#include "log/record.h"
#include "tests/ingest/ingester_rig.h"

TestSuite(ingester, .timeout = 120);

Test(ingester, consumes_records_and_answers)
{
    struct world *w = world_new();
    world_start(w);
    world_push(w, "t1", "up,job=a", T0, 1);
    world_push(w, "t2", "up,job=b", T0, 2);
    world_push(w, "t1", "up,job=a", T0 + 1000, 3);
    cr_expect_str_eq(world_ask(w, "t1"), "up,job=a: 0=1 1000=3\n");
    cr_expect_str_eq(world_ask(w, "t2"), "up,job=b: 0=2\n");
    cr_expect_str_eq(world_ask(w, "nobody"), "");
    struct err err;
    cr_expect(ingester_ready(w->ing, &err));
    struct ingester_user_stats st;
    cr_assert(ingester_user_stats(w->ing, SL("t1"), &st));
    cr_expect_eq(st.num_series, 1);
    cr_expect_not(ingester_user_stats(w->ing, SL("nobody"), &st));
    world_free(w);
}

Test(ingester, hints_and_bytes_give_the_same)
{
    struct world *w = world_new();
    world_start(w);
    w->hints = true;
    world_push(w, "t", "up,job=a", T0, 1);
    w->hints = false;
    world_push(w, "t", "up,job=a", T0 + 1, 2);
    w->hints = true;
    w->hint_seed = 1; /* another process's */
    world_push(w, "t", "up,job=a", T0 + 2, 3);
    cr_expect_str_eq(world_ask(w, "t"), "up,job=a: 0=1 1=2 2=3\n");
    struct metric *hinted = metric_get(ingest_metrics[READER_RECORDS], &SL("hint"));
    cr_expect_eq(metric_value(hinted), 1);
    world_stop(w);
    world_close_log(w);
    world_start(w);
    cr_expect_str_eq(world_ask(w, "t"), "up,job=a: 0=1 1=2 2=3\n");
    world_free(w);
}

Test(ingester, goes_on_after_a_stop_without_replaying)
{
    struct world *w = world_new();
    world_start(w);
    for (int i = 0; i < 50; i++)
        world_push(w, "t", i % 2 ? "a" : "b", T0 + i, i);
    char *before = strdup(world_ask(w, "t"));
    world_stop(w);
    int64_t committed;
    struct err err;
    cr_assert(plog_committed(w->log, SL("ingester-0"), 0, &committed, &err));
    cr_expect_eq(committed, 49);
    world_close_log(w);
    world_start(w);
    cr_expect_eq(w->ing->position, 50);
    cr_expect_str_eq(world_ask(w, "t"), before);
    world_push(w, "t", "a", T0 + 50, 50);
    cr_expect(strstr(world_ask(w, "t"), "50=50"));
    free(before);
    world_free(w);
}

/* The child is gone in the middle of things, without a word, as after kill -9. */
Test(ingester, a_crash_loses_nothing_and_doubles_nothing)
{
    for (int round = 0; round < 6; round++) {
        struct world *w = world_new();
        pid_t pid = fork();
        if (pid == 0) {
            struct err err;
            world_start(w);
            for (int i = 0; i < 300; i++) {
                char series[32];
                snprintf(series, sizeof(series), "m,i=%d", i % 7);
                world_push(w, i % 3 ? "t" : "u", series, T0 + i * 15000, i);
                if (round > 0 && i % (40 * round) == 39 && !keeper_checkpoint(w->ing, &err))
                    _exit(1);
            }
            world_ask(w, "t");
            _exit(0);
        }
        int status;
        waitpid(pid, &status, 0);
        cr_assert_eq(status, 0);
        world_start(w);
        struct rig *expected = rig_new(4);
        struct rig *other = rig_new(4);
        for (int i = 0; i < 300; i++) {
            char series[32];
            snprintf(series, sizeof(series), "m,i=%d", i % 7);
            rig_push(i % 3 ? expected : other, series, T0 + i * 15000, i);
        }
        cr_expect_str_eq(world_ask(w, "t"), ASK_ALL(expected), "round %d", round);
        cr_expect_str_eq(world_ask(w, "u"), ASK_ALL(other), "round %d", round);
        rig_free(expected);
        rig_free(other);
        world_free(w);
    }
}

Test(ingester, records_that_cannot_be_read_are_passed_over)
{
    struct world *w = world_new();
    world_start(w);
    world_push(w, "t", "a", T0, 1);
    world_produce(w, (struct plog_record){.tenant = SL("t"), .value = SL("\xFF\xFF nonsense")});
    world_produce(w, (struct plog_record){.tenant = SL("t"), .version = 9, .value = SL("")});
    world_produce(w, (struct plog_record){.tenant = SL(""), .value = SL("")});
    world_produce(w, (struct plog_record){.tenant = SL(".."), .value = SL("")});
    world_push(w, "t", "a", T0 + 1, 2);
    cr_expect_str_eq(world_ask(w, "t"), "a: 0=1 1=2\n");
    cr_expect_eq(metric_value(metric_get(ingest_metrics[READER_REQUESTS_FAILED], &SL("client"))), 4);
    world_free(w);
}

Test(ingester, tenants_beyond_the_limit_are_refused_and_counted)
{
    struct world *w = world_new();
    w->cfg.max_tenants = 1;
    world_start(w);
    world_push(w, "t", "a", T0, 1);
    world_push(w, "u", "a", T0, 1);
    world_push(w, "t", "a", T0 + 1, 2);
    cr_expect_str_eq(world_ask(w, "t"), "a: 0=1 1=2\n");
    cr_expect_str_eq(world_ask(w, "u"), "");
    world_free(w);
}

Test(ingester, metadata_comes_with_records)
{
    struct world *w = world_new();
    world_start(w);
    w->metadata = (struct write_metadata){.type = 1, .family = SL("a"), .help = SL("what it is"), .unit = SL("s")};
    world_push(w, "t", "a", T0, 1);
    world_ask(w, "t");
    struct arena arena;
    arena_init(&arena, 0);
    struct ctx ctx = {.tenant = SL("t"), .arena = &arena};
    const struct metric_metadata *md;
    size_t n;
    struct err err;
    struct queryable *q = ingester_queryable(w->ing);
    cr_assert(q->ops->metadata(q, &ctx, &md, &n, &err));
    cr_assert_eq(n, 1);
    cr_expect(slice_eq(md[0].help, SL("what it is")));
    arena_release(&arena);
    world_free(w);
}

Test(ingester, a_damaged_checkpoint_is_replayed_from_the_start_of_the_log)
{
    struct world *w = world_new();
    world_start(w);
    for (int i = 0; i < 400; i++)
        world_push(w, i % 2 ? "t" : "u", "a", T0 + i * 15000, i);
    char *before = strdup(world_ask(w, "t"));
    char *other = strdup(world_ask(w, "u"));
    world_stop(w);
    char path[256];
    snprintf(path, sizeof(path), "%s/ingester/tenants/t/head.ckpt", w->dir);
    int fd = open(path, O_RDWR);
    cr_assert(write_at(fd, "XXXX", 4, 100));
    close(fd);
    world_start(w);
    cr_expect_str_eq(world_ask(w, "t"), before);
    cr_expect_str_eq(world_ask(w, "u"), other, "the others skip what they have");
    world_stop(w);
    snprintf(path, sizeof(path), "%s/ingester/manifest", w->dir);
    struct err err;
    cr_assert(file_replace(w->dir, "ingester/manifest", SL("zzz"), &err));
    world_start(w);
    cr_expect_str_eq(world_ask(w, "t"), before);
    cr_expect_str_eq(world_ask(w, "u"), other);
    free(before);
    free(other);
    world_free(w);
}

Test(ingester, a_lost_log_is_read_from_its_new_start_with_the_heads_kept)
{
    struct world *w = world_new();
    world_start(w);
    for (int i = 0; i < 20; i++)
        world_push(w, "t", "a", T0 + i, i);
    world_ask(w, "t");
    world_stop(w);
    world_close_log(w);
    char path[256];
    struct err err;
    snprintf(path, sizeof(path), "%s/log", w->dir);
    cr_assert(dir_remove(path, &err));
    world_start(w);
    world_push(w, "t", "a", T0 + 100, 100);
    const char *all = world_ask(w, "t");
    cr_expect(strstr(all, " 19=19 100=100\n"), "%s", all);
    cr_expect(ingester_ready(w->ing, &err));
    world_stop(w);
    world_start(w);
    cr_expect(strstr(world_ask(w, "t"), " 19=19 100=100\n"));
    cr_expect_eq(w->ing->position, 1);
    world_free(w);
}

Test(ingester, waiting_ends_with_the_deadline)
{
    struct world *w = world_new();
    world_start(w);
    struct ctx ctx = {.deadline_ms = clock_mono_ms() + 50};
    struct err err;
    cr_expect_not(ingester_wait(w->ing, 1, &ctx, &err));
    cr_expect_eq(err.code, ERR_TIMEOUT);
    atomic_bool canceled = true;
    ctx = (struct ctx){.canceled = &canceled};
    cr_expect_not(ingester_wait(w->ing, 1, &ctx, &err));
    cr_expect_eq(err.code, ERR_CANCELED);
    world_free(w);
}

Test(ingester, a_wrong_configuration_is_named)
{
    struct world *w = world_new();
    struct err err;
    w->cfg.head_shards = 3;
    cr_expect_null(ingester_new(&w->cfg, &w->limits, w->log, 0, w->dir, "i", 1, &err));
    cr_expect(strstr(err.text, "-ingester.head-shards"));
    world_free(w);
}

Test(ingester, a_damaged_checkpoint_without_the_whole_log_refuses_to_start)
{
    struct world *w = world_new();
    w->log_cfg.embedded_retention_period = 1000; /* T0 is older */
    struct err err;
    int64_t first = 0;
    int64_t next;
    /* A log that is opened begins a segment with the first push; soon after, the ones before go. */
    for (int i = 0; i < 50 && first == 0; i++) {
        world_start(w);
        world_push(w, "t", "a", T0 + i, 1);
        usleep(20000);
        cr_assert(plog_offsets(w->log, 0, &first, &next, &err));
        world_stop(w);
        world_close_log(w);
    }
    cr_assert_gt(first, 0);
    char path[256];
    snprintf(path, sizeof(path), "%s/ingester/tenants/t/head.ckpt", w->dir);
    int fd = open(path, O_RDWR);
    cr_assert(write_at(fd, "XXXX", 4, 100));
    close(fd);
    cr_expect_not(world_try_start(w, &err));
    cr_expect_eq(err.code, ERR_CORRUPT);
    cr_expect(strstr(err.text, "head.ckpt") && strstr(err.text, "the log begins at offset "), "%s", err.text);
    world_free(w);
}

/*
 * The disk is looked at before records are applied, and a consumer that lags applies many at once: so one push after another is waited for. Returns how many there are.
 */
static int push_until_stalled(struct world *w, int n)
{
    for (; n < 1000 && !atomic_load(&w->ing->stalled); n++) {
        world_push(w, "t", "a", T0 + n * 15000, n);
        while (atomic_load(&w->ing->consumed) < n && !atomic_load(&w->ing->stalled))
            usleep(1000);
    }
    return n;
}

Test(ingester, a_full_disk_pauses_consumption_until_it_heals)
{
    struct world *w = world_new();
    world_start(w);
    world_push(w, "t", "a", T0, 0);
    world_ask(w, "t");
    struct head *h = tenants_find(&w->ing->tenants, SL("t"));
    char away[160], last[64];
    snprintf(away, sizeof(away), "%s.away", h->chunks->dir);
    cr_assert_eq(rename(h->chunks->dir, away), 0);
    h->chunks->tail_max = 100;
    int n = push_until_stalled(w, 1);
    cr_assert_lt(n, 1000);
    struct ctx ctx = {.deadline_ms = clock_mono_ms() + 300};
    struct err err;
    cr_expect_not(ingester_wait(w->ing, n, &ctx, &err));
    cr_expect_not(keeper_checkpoint(w->ing, &err));
    int64_t committed;
    cr_assert(plog_committed(w->log, SL("ingester-0"), 0, &committed, &err));
    cr_expect_eq(committed, -1, "nothing is committed that is not durable");
    cr_assert_eq(rename(away, h->chunks->dir), 0);
    snprintf(last, sizeof(last), " %d=%d\n", (n - 1) * 15000, n - 1);
    const char *all = world_ask(w, "t");
    cr_expect(strstr(all, last), "%s", all);
    cr_expect_null(strstr(all, "wrong-range"));
    cr_expect_not(atomic_load(&w->ing->stalled));
    world_free(w);
}
