/* Where consumption begins, when the ingester is ready, and what it does while the log is away. */
#include <criterion/criterion.h>
#include <fcntl.h>

#include "base/clock.h"
#include "ingest/files_int.h"
#include "ingest/ingester_int.h"
#include "tests/ingest/ingester_rig.h"
#include "tests/ingest/shaky_log.h"

TestSuite(start, .timeout = 120);


#define EVENTUALLY(cond)                                                                                               \
    do {                                                                                                               \
        int64_t until_ = clock_mono_ms() + 10000;                                                                      \
        while (!(cond) && clock_mono_ms() < until_)                                                                    \
            usleep(1000);                                                                                              \
        cr_assert(cond);                                                                                               \
    } while (0)

/* A world whose ingester sees the log through a shaky one. */
static struct world *shaky_world(struct shaky_log *shaky)
{
    struct world *w = world_new();
    world_open_log(w);
    shaky_init(shaky, w->log);
    w->front = &shaky->base;
    return w;
}

/* Records 0 .. 5, produced 20, 16, 12, 8, 4 and 0 hours ago. */
static void push_six(struct world *w, int64_t now_ms)
{
    for (int i = 0; i < 6; i++) {
        w->produce_ms = now_ms - (5 - i) * 4 * HOUR_MS;
        world_push(w, "t", "a", T0 + i, i);
    }
}

/* --- where it begins --- */

Test(start, without_a_checkpoint_the_flag_and_the_retention_say_where)
{
    int64_t now_ms = clock_wall_ms();
    const struct {
        const char *flag;
        int64_t timestamp;
        int64_t retention_ms;
        int64_t position;
    } cases[] = {
        {"last-offset", 0, 13 * HOUR_MS, 2},
        {"last-offset", 0, 0, 0},
        {"last-offset", 0, 100 * (int64_t)HOUR_MS, 0},
        {"start", 0, 13 * HOUR_MS, 0},
        {"end", 0, 13 * HOUR_MS, 6},
        {"timestamp", now_ms - 5 * HOUR_MS, 13 * HOUR_MS, 4},
        {"timestamp", now_ms - 30 * HOUR_MS, 13 * HOUR_MS, 0},
        {"timestamp", now_ms + HOUR_MS, 13 * HOUR_MS, 6},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct world *w = world_new();
        struct err err;
        world_open_log(w);
        push_six(w, now_ms);
        /* Somebody has consumed five of them to a disk that is not this one. */
        cr_assert(plog_commit(w->log, SL("ingester-0"), 0, 4, &err));
        w->cfg.consume_from_position = cases[i].flag;
        w->cfg.consume_from_timestamp = cases[i].timestamp;
        w->cfg.retention_period = cases[i].retention_ms;
        world_start(w);
        cr_expect_eq(w->ing->durable, -1);
        EVENTUALLY(atomic_load(&w->ing->consumed) == 5);
        EVENTUALLY(ingester_ready(w->ing, &err));
        w->cfg.retention_period = 0;
        char expected[64] = "";
        for (int64_t k = cases[i].position; k < 6; k++)
            snprintf(expected + strlen(expected), sizeof(expected) - strlen(expected), "%s%lld=%lld",
                     k == cases[i].position ? "a: " : " ", (long long)k, (long long)k);
        strcat(expected, cases[i].position < 6 ? "\n" : "");
        cr_expect_str_eq(world_ask(w, "t"), expected, "case %zu", i);
        world_free(w);
    }
}

Test(start, with_a_checkpoint_nothing_is_consumed_twice)
{
    int64_t now_ms = clock_wall_ms();
    const struct {
        const char *flag;
        int64_t timestamp;
        const char *all;
    } cases[] = {
        {"last-offset", 0, "a: 0=0 1=1 2=2 3=3 4=4 5=5 100=100 101=101\n"},
        {"start", 0, "a: 0=0 1=1 2=2 3=3 4=4 5=5 100=100 101=101\n"},
        {"timestamp", now_ms - 5 * HOUR_MS, "a: 0=0 1=1 2=2 3=3 4=4 5=5 100=100 101=101\n"},
        {"timestamp", now_ms + 1500, "a: 0=0 1=1 2=2 3=3 4=4 5=5 101=101\n"},
        {"end", 0, "a: 0=0 1=1 2=2 3=3 4=4 5=5\n"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct world *w = world_new();
        world_start(w);
        push_six(w, now_ms);
        world_ask(w, "t");
        world_stop(w);
        for (int k = 0; k < 2; k++) {
            w->produce_ms = now_ms + 1000 + k * 1000;
            world_push(w, "t", "a", T0 + 100 + k, 100 + k);
        }
        w->cfg.consume_from_position = cases[i].flag;
        w->cfg.consume_from_timestamp = cases[i].timestamp;
        world_start(w);
        cr_expect_str_eq(world_ask(w, "t"), cases[i].all, "case %zu", i);
        world_free(w);
    }
}

Test(start, a_damaged_checkpoint_is_given_up_when_the_log_has_the_retention_period)
{
    struct shaky_log shaky;
    struct world *w = shaky_world(&shaky);
    struct err err;
    char path[256];
    w->cfg.retention_period = 13 * HOUR_MS;
    push_six(w, clock_wall_ms());
    world_start(w);
    EVENTUALLY(atomic_load(&w->ing->consumed) == 5);
    world_stop(w);
    snprintf(path, sizeof(path), "%s/ingester/tenants/t/head.ckpt", w->dir);
    int fd = open(path, O_RDWR);
    cr_assert(write_at(fd, "XXXX", 4, 100));
    close(fd);
    atomic_store(&shaky.first, 3);
    cr_expect_not(world_try_start(w, &err), "record 2 is gone, and was in it");
    cr_expect_eq(err.code, ERR_CORRUPT);
    ingester_free(w->ing);
    w->ing = NULL;
    atomic_store(&shaky.first, 1);
    world_start(w);
    cr_expect_str_eq(world_ask(w, "t"), "a: 2=2 3=3 4=4 5=5\n");
    world_free(w);
}

Test(start, a_log_that_is_replaced_while_it_is_read_is_found_out)
{
    struct shaky_log shaky;
    struct world *w = shaky_world(&shaky);
    struct err err;
    char dir[128];
    world_start(w);
    for (int i = 0; i < 5; i++)
        world_push(w, "t", "a", T0 + i, i);
    cr_expect_str_eq(world_ask(w, "t"), "a: 0=0 1=1 2=2 3=3 4=4\n");
    struct plog *old = w->log;
    snprintf(dir, sizeof(dir), "%s/log2", w->dir);
    w->log = plog_open_embedded(&w->log_cfg, dir, &err);
    cr_assert(w->log);
    atomic_store(&shaky.inner, w->log);
    EVENTUALLY(atomic_load(&w->ing->consumed) == -1);
    world_push(w, "t", "a", T0 + 50, 50);
    EVENTUALLY(atomic_load(&w->ing->consumed) == 0);
    cr_expect_str_eq(world_ask(w, "t"), "a: 0=0 1=1 2=2 3=3 4=4 50=50\n");
    EVENTUALLY(ingester_ready(w->ing, &err));
    world_stop(w);
    plog_close(old);
    world_free(w);
}

/* --- the group --- */

Test(start, the_group_is_the_instance_or_what_the_flag_says)
{
    static const char *const cases[][2] = {{"", "ingester-0"},
                                           {"mine", "mine"},
                                           {"g-<partition>", "g-0"},
                                           {"<partition>/<partition>x", "0/0x"},
                                           {"<partition", "<partition"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct world *w = world_new();
        struct err err;
        int64_t committed;
        w->cfg.consumer_group = cases[i][0];
        world_start(w);
        world_push(w, "t", "a", T0, 1);
        world_ask(w, "t");
        world_stop(w);
        cr_assert(plog_committed(w->log, slice_of(cases[i][1]), 0, &committed, &err));
        cr_expect_eq(committed, 0, "%s", cases[i][1]);
        world_free(w);
    }
}

Test(start, a_wrong_configuration_is_named)
{
    static char long_name[PLOG_GROUP_NAME_MAX + 2];
    memset(long_name, 'x', sizeof(long_name) - 1);
    const struct {
        struct ingest_config cfg;
        const char *named;
    } cases[] = {
        {{.consume_from_position = "middle"}, "-consume-from-position-at-startup"},
        {{.consume_from_position = "timestamp"}, "-consume-from-timestamp-at-startup"},
        {{.consume_from_timestamp = 1700000000}, "-consume-from-timestamp-at-startup"},
        {{.offset_commit_interval = -1}, "-consumer-group-offset-commit-interval"},
        {{.target_consumer_lag = -1}, "-consumer-lag-at-startup"},
        {{.target_consumer_lag = 20000}, "-max-consumer-lag-at-startup"},
        {{.consumer_group = long_name}, "-consumer-group"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct world *w = world_new();
        const struct ingest_config *c = &cases[i].cfg;
        struct err err = ERR_NONE;
        if (c->consume_from_position)
            w->cfg.consume_from_position = c->consume_from_position;
        if (c->consumer_group)
            w->cfg.consumer_group = c->consumer_group;
        if (c->offset_commit_interval)
            w->cfg.offset_commit_interval = 0;
        if (c->target_consumer_lag)
            w->cfg.target_consumer_lag = c->target_consumer_lag < 0 ? 0 : c->target_consumer_lag;
        w->cfg.consume_from_timestamp = c->consume_from_timestamp;
        world_open_log(w);
        cr_expect_null(ingester_new(&w->cfg, &w->limits, w->log, 0, w->dir, "i-0", 1, &err));
        cr_expect(strstr(err.text, cases[i].named + 1), "case %zu: %s", i, err.text);
        world_free(w);
    }
}

/* --- catching up --- */

Test(start, is_not_ready_while_the_lag_is_larger_than_the_maximum)
{
    struct shaky_log shaky;
    struct world *w = shaky_world(&shaky);
    struct err err;
    w->cfg.target_consumer_lag = 10;
    w->cfg.max_consumer_lag = 20;
    world_push(w, "t", "a", T0, 1);
    atomic_store(&shaky.offsets_us, 50000);
    world_start(w);
    EVENTUALLY(atomic_load(&w->ing->consumed) == 0);
    usleep(300000);
    cr_expect_not(ingester_ready(w->ing, &err));
    cr_expect_str_eq(err.text, "partition 0: replayed up to offset 1 of 1");
    cr_expect_not(ingester_serving(w->ing, &err));
    cr_expect_str_eq(err.text, "ingester is unavailable (current state: Starting)");
    atomic_store(&shaky.offsets_us, 0);
    EVENTUALLY(ingester_ready(w->ing, &err));
    world_free(w);
}

Test(start, waits_for_the_target_lag_for_twice_the_maximum)
{
    struct shaky_log shaky;
    struct world *w = shaky_world(&shaky);
    struct err err;
    w->cfg.target_consumer_lag = 10;
    w->cfg.max_consumer_lag = 300;
    world_push(w, "t", "a", T0, 1);
    atomic_store(&shaky.offsets_us, 50000);
    int64_t begin_ms = clock_mono_ms();
    world_start(w);
    EVENTUALLY(ingester_ready(w->ing, &err));
    int64_t ms = clock_mono_ms() - begin_ms;
    cr_expect(ms >= 600, "%lld", (long long)ms);
    world_free(w);
}

Test(start, an_end_that_cannot_be_asked_for_is_no_reason_to_be_ready)
{
    struct shaky_log shaky;
    struct world *w = shaky_world(&shaky);
    struct err err;
    w->cfg.target_consumer_lag = 10;
    w->cfg.max_consumer_lag = 20;
    world_push(w, "t", "a", T0, 1);
    atomic_store(&shaky.offsets_us, 30000);
    world_start(w);
    atomic_store(&shaky.failing_offsets, -1);
    usleep(300000);
    cr_expect_not(ingester_ready(w->ing, &err));
    atomic_store(&shaky.failing_offsets, 0);
    atomic_store(&shaky.offsets_us, 0);
    EVENTUALLY(ingester_ready(w->ing, &err));
    world_free(w);
}

Test(start, without_lags_it_is_ready_at_once)
{
    struct shaky_log shaky;
    struct world *w = shaky_world(&shaky);
    struct err err;
    w->cfg.target_consumer_lag = w->cfg.max_consumer_lag = 0;
    world_push(w, "t", "a", T0, 1);
    atomic_store(&shaky.failing_fetches, -1);
    world_start(w);
    cr_expect(ingester_ready(w->ing, &err));
    world_free(w);
}

/* --- a process that stood still --- */

static void *thaw_later(void *arg)
{
    struct shaky_log *shaky = arg;
    usleep(300000);
    atomic_store(&shaky->frozen, false);
    return NULL;
}

Test(start, after_it_stood_still_reads_wait_for_what_was_missed)
{
    struct shaky_log shaky;
    struct world *w = shaky_world(&shaky);
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct ctx ctx = {.arena = &arena};
    struct err err;
    world_start(w);
    EVENTUALLY(ingester_ready(w->ing, &err));
    int64_t begin_ms = clock_mono_ms();
    cr_expect(ingester_awake(w->ing, &ctx, &err));
    cr_expect_lt(clock_mono_ms() - begin_ms, 1000, "nothing was missed");
    atomic_store(&shaky.frozen, true);
    usleep(500000); /* the fetch that was under way */
    world_push(w, "t", "a", T0, 1);
    usleep(STOOD_STILL_MS * 1000);
    cr_expect_eq(atomic_load(&w->ing->consumed), -1);
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, thaw_later, &shaky), 0);
    cr_expect(ingester_awake(w->ing, &ctx, &err));
    cr_expect_eq(atomic_load(&w->ing->consumed), 0);
    pthread_join(thread, NULL);
    ctx.deadline_ms = clock_mono_ms() - 1;
    cr_expect(ingester_awake(w->ing, &ctx, &err), "nobody waits any more");
    arena_release(&arena);
    world_free(w);
}

/* --- a log that is away --- */

Test(start, a_log_that_does_not_answer_at_the_start_is_asked_again)
{
    struct shaky_log shaky;
    struct world *w = shaky_world(&shaky);
    atomic_store(&shaky.failing_offsets, 3);
    world_push(w, "t", "a", T0, 1);
    world_start(w);
    cr_expect_str_eq(world_ask(w, "t"), "a: 0=1\n");
    world_free(w);
}

Test(start, fetches_that_fail_are_counted_and_tried_again)
{
    struct shaky_log shaky;
    struct world *w = shaky_world(&shaky);
    struct err err;
    world_start(w);
    world_push(w, "t", "a", T0, 1);
    world_ask(w, "t");
    EVENTUALLY(ingester_delay_ms(w->ing) < 300);
    atomic_store(&shaky.failing_fetches, 3);
    EVENTUALLY(atomic_load(&shaky.failing_fetches) < 3);
    world_push(w, "t", "a", T0 + 1, 2);
    EVENTUALLY(ingester_delay_ms(w->ing) > 500);
    cr_expect(ingester_ready(w->ing, &err), "whoever asks gets what is here");
    cr_expect_str_eq(world_ask(w, "t"), "a: 0=1 1=2\n");
    cr_expect_eq(metric_value(metric_single(ingest_metrics[READER_FETCH_ERRORS])), 3);
    EVENTUALLY(ingester_delay_ms(w->ing) < 300);
    world_free(w);
}

Test(start, a_stop_does_not_wait_for_a_log_that_is_away)
{
    struct shaky_log shaky;
    struct world *w = shaky_world(&shaky);
    struct err err;
    world_start(w);
    atomic_store(&shaky.failing_fetches, -1);
    atomic_store(&shaky.failing_offsets, -1);
    atomic_store(&shaky.failing_commits, -1);
    usleep(300000);
    int64_t begin_ms = clock_mono_ms();
    ingester_stop(w->ing);
    cr_expect_lt(clock_mono_ms() - begin_ms, 5000);
    cr_expect_not(ingester_serving(w->ing, &err));
    cr_expect_str_eq(err.text, "ingester is unavailable (current state: Terminated)");
    cr_expect_not(ingester_ready(w->ing, &err));
    ingester_stop(w->ing);
    world_free(w);
}

Test(start, a_commit_that_fails_is_made_good_and_holds_up_no_checkpoint)
{
    struct shaky_log shaky;
    struct world *w = shaky_world(&shaky);
    struct err err;
    int64_t committed;
    w->cfg.offset_commit_interval = 100;
    atomic_store(&shaky.failing_commits, -1);
    world_start(w);
    world_push(w, "t", "a", T0, 1);
    world_ask(w, "t");
    cr_assert(ingester_checkpoint(w->ing, &err));
    int64_t offset = -1;
    cr_assert(manifest_read(w->ing->dir, 0, RIG_SEED, &offset, &err));
    cr_expect_eq(offset, 0);
    EVENTUALLY(metric_value(w->ing->m_commit_failures) >= 2);
    cr_assert(plog_committed(w->log, SL("ingester-0"), 0, &committed, &err));
    cr_expect_eq(committed, -1);
    atomic_store(&shaky.failing_commits, 0);
    EVENTUALLY(plog_committed(w->log, SL("ingester-0"), 0, &committed, &err) && committed == 0);
    world_free(w);
}

Test(start, what_is_consumed_is_not_committed_before_it_is_in_a_checkpoint)
{
    struct shaky_log shaky;
    struct world *w = shaky_world(&shaky);
    struct err err;
    int64_t committed;
    w->cfg.offset_commit_interval = 50;
    world_start(w);
    for (int i = 0; i < 5; i++)
        world_push(w, "t", "a", T0 + i, i);
    world_ask(w, "t");
    usleep(1200000);
    cr_assert(plog_committed(w->log, SL("ingester-0"), 0, &committed, &err));
    cr_expect_eq(committed, -1);
    ingester_checkpoint_soon(w->ing);
    EVENTUALLY(plog_committed(w->log, SL("ingester-0"), 0, &committed, &err) && committed == 4);
    world_free(w);
}

Test(start, no_progress_with_records_there_is_not_ready)
{
    struct shaky_log shaky;
    struct world *w = shaky_world(&shaky);
    struct err err;
    world_start(w);
    world_push(w, "t", "a", T0, 1);
    world_ask(w, "t");
    atomic_store(&shaky.failing_fetches, -1);
    usleep(300000); /* the fetch that is under way has ended */
    atomic_store(&w->ing->progress_ms, clock_mono_ms() - STUCK_MS - 1000);
    usleep(700000);
    cr_expect(ingester_ready(w->ing, &err), "nothing is there to be consumed");
    world_push(w, "t", "a", T0 + 1, 2);
    /* The keeper asks the log every ten seconds. */
    EVENTUALLY(!ingester_ready(w->ing, &err));
    cr_expect(strstr(err.text, "no progress at offset 1"), "%s", err.text);
    cr_expect(ingester_serving(w->ing, &err));
    atomic_store(&shaky.failing_fetches, 0);
    EVENTUALLY(ingester_ready(w->ing, &err));
    world_free(w);
}
