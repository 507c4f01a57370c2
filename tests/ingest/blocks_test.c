/* An ingester with its local blocks: who answers, what stays on disk, what a restart and a kill leave. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "ingest/series_list.h"
#include "tests/ingest/ingester_rig.h"

static void sleep_ms(int64_t ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static size_t n_blocks(struct world *w, const char *tenant)
{
    size_t n;
    free(local_blocks_list(ingester_local_blocks(w->ing), slice_of(tenant), &n));
    return n;
}

static bool wait_for_blocks(struct world *w, const char *tenant, size_t n)
{
    for (int i = 0; i < 1000 && n_blocks(w, tenant) != n; i++)
        sleep_ms(10);
    return n_blocks(w, tenant) == n;
}

/* One sample each ten minutes, from..to hours. */
static void push_hours(struct world *w, const char *tenant, int from, int to)
{
    for (int64_t t = from * HOUR_MS; t < to * HOUR_MS; t += HOUR_MS / 6) {
        world_push(w, tenant, "a,x=1", T0 + t, (double)(t / 1000));
        if (t < HOUR_MS)
            world_push(w, tenant, "gone,y=2", T0 + t, 1);
    }
}

static char *ask(struct world *w, const char *tenant)
{
    return strdup(world_ask(w, tenant));
}

static bool flush(struct world *w)
{
    struct err err = ERR_NONE;
    bool ok = ingester_flush(w->ing, (struct slice){NULL, 0}, &err);
    cr_expect(ok, "%s", err.text);
    return ok;
}

/* Names, and values of x, in [from, to] hours. */
static const char *ask_names(struct world *w, int from, int to)
{
    static char text[256];
    struct arena arena;
    struct err err = ERR_NONE;
    arena_init(&arena, 0);
    struct ctx ctx = {.tenant = SL("t"), .arena = &arena};
    struct select_params p = {.min_t = T0 + from * HOUR_MS, .max_t = T0 + to * HOUR_MS};
    struct queryable *q = ingester_queryable(w->ing);
    const struct slice *names;
    const struct slice *values;
    size_t n;
    size_t n_values;
    text[0] = 0;
    cr_assert(q->ops->label_names(q, &ctx, &p, &names, &n, &err), "%s", err.text);
    cr_assert(q->ops->label_values(q, &ctx, SL("__name__"), &p, &values, &n_values, &err), "%s", err.text);
    for (size_t i = 0; i < n; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%.*s ", SL_FMT(names[i]));
    for (size_t i = 0; i < n_values; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%.*s ", SL_FMT(values[i]));
    arena_release(&arena);
    return text;
}

Test(blocks, are_part_of_every_answer)
{
    struct world *w = world_new();
    world_start(w);
    push_hours(w, "t", 0, 5);
    char *before = ask(w, "t");
    cr_expect_not_null(strstr(before, "gone,y=2"));
    flush(w);
    cr_expect_eq(n_blocks(w, "t"), 3);
    cr_expect_str_eq(world_ask(w, "t"), before);
    cr_expect_str_eq(ask_names(w, 0, 1), "__name__ x y a gone ");
    push_hours(w, "t", 5, 6);
    free(before);
    before = ask(w, "t");
    cr_expect_not_null(strstr(before, "20400000=20400"));
    world_stop(w);
    world_start(w);
    cr_expect_str_eq(world_ask(w, "t"), before, "after a restart");
    cr_expect_eq(n_blocks(w, "t"), 3);
    cr_expect_str_eq(world_ask(w, "unknown"), "");
    free(before);
    world_free(w);
}

static void expect_list(struct world *w, const struct series_filter *f, struct select_params p, const char *expect)
{
    struct arena arena;
    struct err err = ERR_NONE;
    struct series_list *l;
    struct buf text;
    struct series s[8];
    arena_init(&arena, 0);
    buf_init(&text, 0);
    struct ctx ctx = {.tenant = SL("t"), .arena = &arena};
    cr_assert(ingester_list_series(w->ing, &ctx, &p, f, &l, &err), "%s", err.text);
    size_t n = series_list_len(l);
    cr_assert(n <= ARRAY_LEN(s));
    cr_assert(p.no_chunks || series_list_chunks(l, 0, n, &arena, s, &err), "%s", err.text);
    for (size_t i = 0; i < n; i++) {
        uint32_t n_chunks;
        cr_assert(series_list_labels(l, i, &arena, &s[i].labels, &n_chunks));
        cr_expect(n_chunks > 0);
        rig_print_labels(s[i].labels, &text);
        if (!p.no_chunks)
            buf_printf(&text, ":%zu", s[i].n_chunks);
        buf_putc(&text, ' ');
    }
    cr_expect_str_eq(buf_cstr(&text), expect);
    series_list_free(l);
    buf_release(&text);
    arena_release(&arena);
}

Test(blocks, are_listed_with_the_head_in_order_within_limits_and_shards)
{
    static const struct series_filter sorted = {.sorted = true};
    static const struct series_filter any;
    struct world *w = world_new();
    world_start(w);
    for (int i = 0; i < 3; i++) {
        char name[32];
        snprintf(name, sizeof(name), "old,i=%d", i);
        world_push(w, "t", name, T0, 1);
        world_push(w, "t", "both", T0 + i, 1);
    }
    free(ask(w, "t"));
    flush(w);
    world_push(w, "t", "both", T0 + HOUR_MS, 1);
    world_push(w, "t", "new", T0 + HOUR_MS, 1);
    free(ask(w, "t"));
    struct select_params p = {.min_t = T0, .max_t = T0 + 2 * HOUR_MS};
    expect_list(w, &sorted, p, "both:2 new:1 old,i=0:1 old,i=1:1 old,i=2:1 ");
    p.limit = 3;
    expect_list(w, &any, p, "both:2 new:1 old,i=0:1 ");
    p.no_chunks = true;
    expect_list(w, &sorted, p, "both new old,i=0 ");
    p = (struct select_params){.min_t = T0 + HOUR_MS, .max_t = T0 + 2 * HOUR_MS};
    expect_list(w, &sorted, p, "both:1 new:1 ");
    p.min_t = T0;
    size_t together = 0;
    for (uint64_t i = 0; i < 3; i++) {
        struct series_filter part = {.sorted = true, .shard = {i, 3}};
        struct arena arena;
        arena_init(&arena, 0);
        struct ctx ctx = {.tenant = SL("t"), .arena = &arena};
        struct series_list *l;
        cr_assert(ingester_list_series(w->ing, &ctx, &p, &part, &l, NULL));
        together += series_list_len(l);
        cr_expect_lt(series_list_len(l), 5);
        series_list_free(l);
        arena_release(&arena);
    }
    cr_expect_eq(together, 5);
    const struct series_filter active = {.active_since_s = 1};
    expect_list(w, &active, (struct select_params){.min_t = T0, .max_t = T0 + 2 * HOUR_MS, .no_chunks = true}, "both new ");
    world_free(w);
}

static int by_word(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* What a select gives, taken max series at a time: each with its number of chunks, sorted. */
static size_t select_series(struct world *w, const struct select_params *p, size_t max, char *ret, size_t cap)
{
    struct arena arena;
    struct err err = ERR_NONE;
    struct buf text;
    char *words[16];
    size_t n_all = 0, n;
    arena_init(&arena, 0);
    buf_init(&text, 0);
    struct ctx ctx = {.tenant = SL("t"), .arena = &arena};
    struct queryable *q = ingester_queryable(w->ing);
    struct series_set *set = q->ops->select(q, &ctx, p, &err);
    cr_assert(set, "%s", err.text);
    for (;;) {
        struct series s[8];
        cr_assert(series_set_next(set, &ctx, s, max, &n, &err), "%s", err.text);
        if (n == 0)
            break;
        for (size_t i = 0; i < n; i++) {
            buf_clear(&text);
            rig_print_labels(s[i].labels, &text);
            buf_printf(&text, ":%zu", s[i].n_chunks);
            words[n_all++] = strdup(buf_cstr(&text));
        }
    }
    series_set_release(set);
    qsort(words, n_all, sizeof(words[0]), by_word);
    ret[0] = 0;
    for (size_t i = 0; i < n_all; i++) {
        snprintf(ret + strlen(ret), cap - strlen(ret), "%s ", words[i]);
        free(words[i]);
    }
    buf_release(&text);
    arena_release(&arena);
    return n_all;
}

Test(blocks, of_several_times_and_the_head_are_united_by_series)
{
    static const struct slice wanted[] = {SL("x")};
    static const struct label_names only_x = {wanted, 1};
    struct world *w = world_new();
    char text[512];
    world_start(w);
    world_push(w, "t", "first,x=1,y=1", T0, 1);
    world_push(w, "t", "two,x=1,y=1", T0, 1);
    world_push(w, "t", "all,x=1,y=1", T0, 1);
    world_push(w, "t", "two,x=1,y=1", T0 + 2 * HOUR_MS, 1);
    world_push(w, "t", "all,x=1,y=1", T0 + 2 * HOUR_MS, 1);
    world_push(w, "t", "second,x=1,y=1", T0 + 2 * HOUR_MS, 1);
    free(ask(w, "t"));
    flush(w);
    cr_expect_eq(n_blocks(w, "t"), 2);
    world_push(w, "t", "all,x=1,y=1", T0 + 4 * HOUR_MS, 1);
    world_push(w, "t", "new,x=1,y=1", T0 + 4 * HOUR_MS, 1);
    free(ask(w, "t"));
    struct select_params p = {.min_t = T0, .max_t = T0 + 5 * HOUR_MS};
    for (size_t max = 1; max <= 8; max++) {
        cr_expect_eq(select_series(w, &p, max, text, sizeof(text)), 5);
        cr_expect_str_eq(text, "all,x=1,y=1:3 first,x=1,y=1:1 new,x=1,y=1:1 second,x=1,y=1:1 two,x=1,y=1:2 ");
    }
    p.labels = &only_x;
    select_series(w, &p, 8, text, sizeof(text));
    cr_expect_str_eq(text, "all,x=1:3 first,x=1:1 new,x=1:1 second,x=1:1 two,x=1:2 ");
    p.no_chunks = true;
    select_series(w, &p, 8, text, sizeof(text));
    cr_expect_str_eq(text, "all,x=1:0 first,x=1:0 new,x=1:0 second,x=1:0 two,x=1:0 ");
    for (p.limit = 1; p.limit <= 5; p.limit++)
        cr_expect_eq(select_series(w, &p, 2, text, sizeof(text)), p.limit);
    world_free(w);
}

Test(blocks, are_cut_by_themselves_when_their_time_has_come)
{
    struct world *w = world_new();
    w->cfg.head_compaction_interval = 20;
    world_start(w);
    push_hours(w, "t", 0, 4);
    push_hours(w, "u", 0, 6);
    char *t = ask(w, "t");
    char *u = ask(w, "u");
    cr_expect(wait_for_blocks(w, "t", 1));
    cr_expect(wait_for_blocks(w, "u", 2));
    cr_expect_str_eq(world_ask(w, "t"), t);
    cr_expect_str_eq(world_ask(w, "u"), u);
    free(t);
    free(u);
    world_free(w);
}

Test(blocks, are_flushed_at_a_stop_when_that_is_wanted)
{
    struct world *w = world_new();
    world_start(w);
    push_hours(w, "t", 0, 1);
    free(ask(w, "t"));
    cr_expect_not(ingester_flushes_on_stop(w->ing));
    ingester_flush_on_stop(w->ing, true);
    ingester_stop(w->ing);
    cr_expect_eq(n_blocks(w, "t"), 1);
    world_free(w);
}

Test(blocks, of_one_tenant_can_be_flushed_alone)
{
    struct world *w = world_new();
    world_start(w);
    push_hours(w, "t", 0, 1);
    push_hours(w, "u", 0, 1);
    free(ask(w, "u"));
    struct err err = ERR_NONE;
    cr_expect(ingester_flush(w->ing, SL("u"), &err));
    cr_expect_eq(n_blocks(w, "u"), 1);
    cr_expect_eq(n_blocks(w, "t"), 0);
    size_t n;
    struct slice *tenants = local_blocks_tenants(ingester_local_blocks(w->ing), &n);
    cr_assert_eq(n, 1);
    cr_expect(slice_eq(tenants[0], SL("u")));
    free(tenants);
    world_free(w);
}

Test(blocks, go_when_they_are_old_and_shipped)
{
    struct world *w = world_new();
    w->cfg.head_compaction_interval = 20;
    world_start(w);
    push_hours(w, "t", 0, 1);
    free(ask(w, "t"));
    flush(w);
    world_stop(w);
    w->cfg.retention_period = 13 * HOUR_MS;
    char dir[128];
    struct err err;
    snprintf(dir, sizeof(dir), "%s/ingester", w->dir);
    w->ing = ingester_new(&w->cfg, &w->limits, w->log, 0, dir, "ingester-0", RIG_SEED, &err);
    struct local_blocks *lb = ingester_local_blocks(w->ing);
    local_blocks_expect_shipper(lb);
    cr_assert(ingester_start(w->ing, &err));
    sleep_ms(200);
    size_t n;
    struct local_block_info *list = local_blocks_list(lb, SL("t"), &n);
    cr_assert_eq(n, 1, "what is not shipped stays");
    cr_expect_eq(access(list[0].path, F_OK), 0);
    local_blocks_set_shipped(lb, SL("t"), &list[0].ulid, clock_wall_ms());
    sleep_ms(200);
    cr_expect_eq(access(list[0].path, F_OK), 0, "what was shipped a moment ago stays, however old its samples are");
    local_blocks_set_shipped(lb, SL("t"), &list[0].ulid, clock_wall_ms() - 13 * HOUR_MS);
    cr_expect(wait_for_blocks(w, "t", 0));
    for (int i = 0; i < 100 && access(list[0].path, F_OK) == 0; i++)
        sleep_ms(10);
    cr_expect_neq(access(list[0].path, F_OK), 0);
    free(list);
    world_free(w);
}

static void damage(const char *dir, const char *file)
{
    char path[1024];
    snprintf(path, sizeof(path), "%s/%s", dir, file);
    FILE *f = fopen(path, "r+");
    cr_assert(f);
    fseek(f, -6, SEEK_END);
    int c = fgetc(f);
    fseek(f, -6, SEEK_END);
    fputc(c ^ 0x40, f);
    fclose(f);
}

Test(blocks, that_are_damaged_fail_the_queries_that_need_them_and_no_others)
{
    static const char *const files[] = {"chunks/000001", "index", "meta.json"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        struct world *w = world_new();
        world_start(w);
        push_hours(w, "t", 0, 1);
        free(ask(w, "t"));
        flush(w);
        push_hours(w, "t", 20, 21);
        free(ask(w, "t"));
        size_t n;
        struct local_block_info *list = local_blocks_list(ingester_local_blocks(w->ing), SL("t"), &n);
        cr_assert_eq(n, 1);
        world_stop(w);
        damage(list[0].path, files[i]);
        world_start(w);
        const char *answer = world_ask(w, "t");
        if (i == 0) /* found while chunks are read: the set has failed, the rig stops there */
            answer = world_ask(w, "t");
        cr_expect_not_null(strstr(answer, list[0].ulid.text), "%s: %s", files[i], answer);
        struct local_block_info *now = local_blocks_list(ingester_local_blocks(w->ing), SL("t"), &n);
        cr_expect(now[0].damaged);
        free(now);
        if (i < 2)
            cr_expect_not_null(strstr(ask_names(w, 19, 22), "a "));
        free(list);
        world_free(w);
    }
}

static bool wait_until_closed(struct world *w, const char *tenant)
{
    char path[256];
    struct ingester_user_stats stats;
    snprintf(path, sizeof(path), "%s/ingester/tenants/%s", w->dir, tenant);
    for (int i = 0; i < 1000 && ingester_user_stats(w->ing, slice_of(tenant), &stats); i++)
        sleep_ms(10);
    return !ingester_user_stats(w->ing, slice_of(tenant), &stats) && access(path, F_OK) != 0;
}

Test(blocks, are_all_that_is_left_of_an_idle_tenant)
{
    struct world *w = world_new();
    w->cfg.head_compaction_interval = 20;
    w->cfg.head_compaction_idle_timeout = 300;
    w->cfg.close_idle_tsdb_timeout = 600;
    w->cfg.checkpoint_interval = 100;
    world_start(w);
    push_hours(w, "t", 0, 3);
    char *before = ask(w, "t");
    cr_assert(wait_until_closed(w, "t"));
    cr_expect_str_eq(world_ask(w, "t"), before);
    world_push(w, "t", "a,x=1", T0 + 3 * HOUR_MS, 1);
    free(before);
    before = ask(w, "t");
    cr_expect_not_null(strstr(before, "10800000=1"));
    cr_assert(wait_until_closed(w, "t"));
    world_stop(w);
    world_start(w);
    cr_expect_str_eq(world_ask(w, "t"), before);
    free(before);
    world_free(w);
}

/* --- kill -9 --- */

/* Twelve, or as many as BRUNN_KILL_ROUNDS says. */
static int kill_rounds(void)
{
    const char *rounds = getenv("BRUNN_KILL_ROUNDS");
    return rounds ? atoi(rounds) : 12;
}

/* Sample k of the series is at k minutes; late ones stand beside. Never returns. */
static void push_for_ever(struct world *w)
{
    int64_t first;
    int64_t next;
    struct err err;
    w->cfg.head_compaction_interval = 1;
    w->cfg.checkpoint_interval = 50;
    world_start(w);
    cr_assert(plog_offsets(w->log, 0, &first, &next, &err));
    for (int64_t k = next;; k++) {
        /* Every seventh is late by up to an hour and a half. */
        int64_t t = k % 7 == 6 ? k - 61 : k;
        world_push(w, "t", k % 7 == 6 ? "a,late=1" : "a", T0 + t * 60000, (double)k);
        if (k % 97 == 0 && !ingester_flush(w->ing, (struct slice){NULL, 0}, &err))
            _exit(1);
    }
}

/* Sample k has the value k, whatever series, chunk and place it is in. */
static void expect_each_once(struct world *w, int64_t n)
{
    char *all = ask(w, "t");
    char *seen = calloc((size_t)n, 1);
    int64_t found = 0;
    for (char *p = all; (p = strpbrk(p, " \n")); p++) {
        long long t;
        double v;
        if (sscanf(p + 1, "%lld=%lf", &t, &v) != 2)
            continue;
        int64_t k = (int64_t)v;
        cr_assert(k >= 0 && k < n, "sample %lld of %lld", (long long)k, (long long)n);
        cr_expect_eq(t, (k % 7 == 6 ? k - 61 : k) * 60000);
        cr_expect_eq(seen[k]++, 0, "sample %lld is there twice", (long long)k);
        found++;
    }
    cr_expect_eq(found, n, "%lld of %lld", (long long)found, (long long)n);
    free(seen);
    free(all);
}

Test(blocks, are_exactly_what_was_acknowledged_after_kills_at_any_time, .timeout = 1200)
{
    struct world *w = world_new();
    unsigned seed = 7;
    w->limit_values.out_of_order_time_window = 3 * HOUR_MS;
    for (int round = 0; round < kill_rounds(); round++) {
        pid_t pid = fork();
        if (pid == 0)
            push_for_ever(w);
        sleep_ms(150 + rand_r(&seed) % 500);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        int64_t first;
        int64_t next;
        struct err err = ERR_NONE;
        w->cfg.head_compaction_interval = 1000;
        world_start(w);
        cr_assert(plog_offsets(w->log, 0, &first, &next, &err));
        expect_each_once(w, next);
        world_stop(w);
        world_close_log(w);
    }
    world_free(w);
}
