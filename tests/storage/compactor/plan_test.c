/* What is merged with what, and when: the behaviour of Mimir's split-and-merge planning, as its documentation has it and as its blocks show (mimir/blocks). */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "storage/compactor/plan.h"

#define HOUR INT64_C(3600000)
#define DAY0 (INT64_C(20411) * 24 * HOUR) /* a midnight */

static const int64_t ranges[] = {2 * HOUR, 12 * HOUR, 24 * HOUR};

static struct arena arena;

static void setup(void)
{
    arena_init(&arena, 0);
}

static void teardown(void)
{
    arena_release(&arena);
}

/* Blocks are named by letters: 'a' is the oldest. */
static struct ulid ulid_of(char c)
{
    struct ulid u;
    memset(u.text, '0', ULID_TEXT_LEN);
    u.text[ULID_TEXT_LEN - 1] = (char)(c - 'a' + 'A');
    u.text[ULID_TEXT_LEN] = '\0';
    return u;
}

/*
 * "a 0-2;b 0-2 1_of_2;c 2-4 - x=1" : name, hours from DAY0, shard or -, one label, "L2" for a level, "<ab" for sources. A block's own name is its source where
 * nothing is said.
 */
static size_t parse(const char *text, struct plan_block **ret)
{
    struct plan_block *blocks = ARENA_ARRAY(&arena, struct plan_block, 64);
    size_t n = 0;
    char *save = NULL, *copy = arena_printf(&arena, "%s", text);
    for (char *part = strtok_r(copy, ";", &save); part; part = strtok_r(NULL, ";", &save)) {
        char name, rest[4][32] = {"", "", "", ""};
        double from, to;
        struct plan_block *b = &blocks[n++];
        cr_assert(sscanf(part, " %c %lf-%lf %31s %31s %31s %31s", &name, &from, &to, rest[0], rest[1], rest[2], rest[3]) >= 3, "%s", part);
        struct block_label *labels = ARENA_ARRAY(&arena, struct block_label, 4);
        struct ulid *sources = ARENA_ARRAY(&arena, struct ulid, 32);
        *b = (struct plan_block){.id = ulid_of(name), .min_t = DAY0 + (int64_t)(from * (double)HOUR), .max_t = DAY0 + (int64_t)(to * (double)HOUR), .level = 1,
                                 .labels = labels, .sources = sources, .n_sources = 1};
        sources[0] = b->id;
        for (size_t i = 0; i < 4; i++) {
            char *word = arena_printf(&arena, "%s", rest[i]), *eq = strchr(word, '=');
            if (strstr(word, "_of_") && !eq) {
                b->shard = slice_of(word);
                labels[b->n_labels++] = (struct block_label){SL(BLOCK_LABEL_SHARD), b->shard};
            } else if (eq) {
                labels[b->n_labels++] = (struct block_label){slice_make(word, (size_t)(eq - word)), slice_of(eq + 1)};
            } else if (word[0] == 'L') {
                b->level = (uint32_t)(word[1] - '0');
            } else if (word[0] == '<') {
                b->n_sources = strlen(word) - 1;
                for (size_t k = 0; k < b->n_sources; k++)
                    sources[k] = ulid_of(word[k + 1]);
            }
        }
    }
    *ret = blocks;
    return n;
}

static struct plan_params params(uint32_t shards, uint32_t groups)
{
    return (struct plan_params){.ranges_ms = ranges, .n_ranges = 3, .shards = shards, .split_groups = groups, .wait_ms = 2 * HOUR, .now_ms = DAY0};
}

/* "split 1_of_1 0-2: ab | merge 1_of_2 0-12: cd" */
static const char *plan(const struct plan_params *p, const char *text)
{
    struct plan_block *blocks;
    const struct compaction_job *jobs;
    struct err err = ERR_NONE;
    size_t n, n_blocks = parse(text, &blocks);
    cr_assert(plan_compaction(p, blocks, n_blocks, &arena, &jobs, &n, &err), "%s", err.text);
    char *out = arena_printf(&arena, "%s", "");
    for (size_t i = 0; i < n; i++) {
        out = arena_printf(&arena, "%s%s%s%s%.*s %lld-%lld: ", out, i ? " | " : "", compaction_stage_name(jobs[i].stage), jobs[i].shard.n ? " " : "",
                           SL_FMT(jobs[i].shard), (long long)((jobs[i].start - DAY0) / HOUR), (long long)((jobs[i].end - DAY0) / HOUR));
        for (size_t k = 0; k < jobs[i].n_blocks; k++)
            out = arena_printf(&arena, "%s%c", out, jobs[i].blocks[k]->id.text[ULID_TEXT_LEN - 1] - 'A' + 'a');
    }
    return out;
}

Test(plan, jobs_without_splitting, .init = setup, .fini = teardown)
{
    static const struct {
        const char *blocks, *jobs;
    } cases[] = {
        {"", ""},
        {"a 0-2", ""},
        /* one range: replicas are merged as soon as the range is full, or over */
        {"a 0-2;b 0-2", "merge 0-2: ab"},
        {"a 0-1;b 0-1", ""},
        {"a 0-1;b 0-1;c 2-4", "merge 0-2: ab"},
        {"b 0-2;a 0-2;d 2-4;c 2-4", "merge 0-2: ab | merge 2-4: cd"},
        /* a larger range waits for the smaller ones in it */
        {"a 0-2;b 0-2;c 2-4;d 12-14", "merge 0-2: ab"},
        {"a 0-2;b 2-4;c 4-6;d 12-14", "merge 0-12: abc"},
        {"a 0-2;b 2-4;c 4-6", ""},
        {"a 0-2;b 2-4;c 4-6;d 6-8;e 8-10;f 10-12", "merge 0-12: abcdef"},
        {"a 0-12 L2;b 12-24 L2", "merge 0-24: ab"},
        {"a 0-12 L2;b 12-24 L2;c 12-24 L2", "merge 12-24: bc"},
        {"a 0-12 L2;b 12-14;c 12-14;d 24-26", "merge 12-14: bc"},
        /* a block that came late is merged with what its range has become */
        {"a 0-24 L3;b 2-4;c 24-26", "merge 0-24: ab"},
        {"a 0-12 L2;b 2-4;c 12-14", "merge 0-12: ab"},
        /* blocks that lie across a range's end belong to none */
        {"a 1-3;b 1-3;c 6-8", ""},
        {"a 1-3;b 1-3;c 12-14", "merge 0-12: ab"},
        {"a 23-25;b 23-25;c 48-50", ""},
        /* labels keep blocks apart */
        {"a 0-2 - x=1;b 0-2 - x=2;c 0-2 - x=1;d 0-2", "merge 0-2: ac"},
        {"a 0-2 1_of_2;b 0-2 2_of_2;c 0-2 1_of_2", "merge 1_of_2 0-2: ac"},
        {"a 0-2 1_of_2;b 2-4 1_of_2;c 0-2 1_of_4;d 2-4 1_of_4;e 12-14", "merge 1_of_2 0-12: ab | merge 1_of_4 0-12: cd"},
        /* shards do not wait for each other */
        {"a 0-2 1_of_2;b 0-2 1_of_2;c 0-2 2_of_2;d 2-4 2_of_2;e 12-14", "merge 1_of_2 0-2: ab | merge 2_of_2 0-12: cd"},
        {"a -2-0;b -2-0;c 0-2", "merge -2-0: ab"},
    };
    struct plan_params p = params(0, 1);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        cr_expect_str_eq(plan(&p, cases[i].blocks), cases[i].jobs, "%s: %s", cases[i].blocks, plan(&p, cases[i].blocks));
}

Test(plan, jobs_with_splitting, .init = setup, .fini = teardown)
{
    static const struct {
        const char *blocks, *jobs;
    } cases[] = {
        /* one block alone is split as well */
        {"a 0-2", "split 1_of_1 0-2: a"},
        {"a 0-2;b 0-2;c 2-4", "split 1_of_1 0-2: ab | split 1_of_1 2-4: c"},
        {"a 0-1", ""},
        /* what has a shard is merged by shards once nothing is left to be split */
        {"a 0-2 1_of_2;b 0-2;c 0-2 1_of_2", "split 1_of_1 0-2: b"},
        {"a 0-2 1_of_2;b 0-2 2_of_2;c 2-4 1_of_2;d 2-4 2_of_2;e 12-14 1_of_2", "merge 1_of_2 0-12: ac | merge 2_of_2 0-12: bd"},
        /* and a larger range waits for the splitting of what it has */
        {"a 0-2 1_of_2;b 2-4 1_of_2;c 4-6;d 12-14 1_of_2", "split 1_of_1 4-6: c"},
        /* splitting goes before merging, whatever the times are */
        {"a 0-2 1_of_2;b 0-2 1_of_2;c 12-14;d 24-26 1_of_2", "split 1_of_1 12-14: c | merge 1_of_2 0-2: ab"},
        /* blocks that were merged before splitting began stay whole */
        {"a 0-12 L2;b 12-24 L2;c 24-26 1_of_2", "merge 0-24: ab"},
        {"a 0-24 L3;b 24-26 1_of_2", ""},
        /* out-of-order blocks with their label are split, and merged with their like alone */
        {"a 0-2 - __out_of_order__=true;b 0-2", "split 1_of_1 0-2: a | split 1_of_1 0-2: b"},
    };
    struct plan_params p = params(2, 1);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        cr_expect_str_eq(plan(&p, cases[i].blocks), cases[i].jobs, "%s: %s", cases[i].blocks, plan(&p, cases[i].blocks));
}

Test(plan, splitting_is_shared_out_to_groups, .init = setup, .fini = teardown)
{
    struct plan_block *blocks;
    const struct compaction_job *jobs;
    struct plan_params p = params(4, 3);
    size_t n, n_blocks = parse("a 0-2;b 0-2;c 0-2;d 0-2;e 0-2;f 0-2;g 0-2;h 0-2;i 0-2;j 0-2;k 0-2;l 0-2", &blocks), seen = 0;
    cr_assert(plan_compaction(&p, blocks, n_blocks, &arena, &jobs, &n, NULL));
    cr_assert_eq(n, 3);
    for (size_t i = 0; i < n; i++) {
        seen += jobs[i].n_blocks;
        cr_expect(jobs[i].stage == COMPACTION_SPLIT && jobs[i].shards == 4 && jobs[i].shard.n == 6 && jobs[i].shard.p[0] == '1' + (char)i);
    }
    cr_expect_eq(seen, 12);
}

Test(plan, out_of_order_blocks_may_have_another_number_of_shards, .init = setup, .fini = teardown)
{
    struct plan_block *blocks;
    const struct compaction_job *jobs;
    struct plan_params p = params(2, 1);
    size_t n, n_blocks = parse("a 0-2;b 0-2 - __out_of_order__=true", &blocks);
    p.ooo_shards = 8;
    cr_assert(plan_compaction(&p, blocks, n_blocks, &arena, &jobs, &n, NULL));
    cr_assert_eq(n, 2);
    for (size_t i = 0; i < n; i++)
        cr_expect_eq(jobs[i].shards, jobs[i].blocks[0]->n_labels ? 8 : 2);
}

Test(plan, a_range_that_is_over_by_the_clock_is_due, .init = setup, .fini = teardown)
{
    struct plan_params p = params(0, 1);
    p.now_ms = DAY0 + 4 * HOUR - 1;
    cr_expect_str_eq(plan(&p, "a 0-1;b 0-1"), "");
    p.now_ms++;
    cr_expect_str_eq(plan(&p, "a 0-1;b 0-1"), "merge 0-2: ab");
}

Test(plan, newest_first, .init = setup, .fini = teardown)
{
    struct plan_params p = params(2, 1);
    p.order = COMPACTION_NEWEST_FIRST;
    cr_expect_str_eq(plan(&p, "a 0-2;b 2-4;c 12-14 1_of_2;d 14-16 1_of_2;e 24-26 1_of_2"), "merge 1_of_2 12-24: cd | split 1_of_1 2-4: b | split 1_of_1 0-2: a");
    enum compaction_order o;
    cr_expect(compaction_order_parse(SL("newest-blocks-first"), &o) && o == COMPACTION_NEWEST_FIRST);
    cr_expect(compaction_order_parse(SL("smallest-range-oldest-blocks-first"), &o) && o == COMPACTION_SMALLEST_RANGE_OLDEST_FIRST);
    cr_expect(!compaction_order_parse(SL("oldest"), &o));
}

Test(plan, keys_differ_and_stay_the_same, .init = setup, .fini = teardown)
{
    struct plan_block *blocks;
    const struct compaction_job *jobs;
    struct plan_params p = params(2, 1);
    size_t n, n_blocks = parse("a 0-2;b 2-4;c 0-2 - x=1", &blocks);
    cr_assert(plan_compaction(&p, blocks, n_blocks, &arena, &jobs, &n, NULL));
    cr_assert_eq(n, 3);
    cr_expect_str_eq(jobs[1].key, "0@17241709254077376921-split-1_of_1-1763510400000-1763517600000");
    cr_expect(strcmp(jobs[0].key, jobs[1].key) != 0 && strcmp(jobs[0].key, jobs[2].key) != 0);
}

Test(plan, blocks_of_ingesters_wait, .init = setup, .fini = teardown)
{
    struct plan_block *blocks;
    const struct compaction_job *jobs;
    struct plan_params p = params(0, 1);
    struct compactor_config cfg = {.first_level_compaction_wait_period = 25 * 60000};
    int64_t now = DAY0 + 10 * HOUR;
    size_t n, n_blocks = parse("a 0-2;b 0-2", &blocks);
    cr_assert(plan_compaction(&p, blocks, n_blocks, &arena, &jobs, &n, NULL) && n == 1);
    cr_expect(!plan_must_wait(&cfg, jobs, now));
    blocks[1].uploaded_ms = now - 24 * 60000;
    cr_expect(plan_must_wait(&cfg, jobs, now));
    cr_expect(!plan_must_wait(&cfg, jobs, now + 60000));
    blocks[1].out_of_order = true;
    cr_expect(!plan_must_wait(&cfg, jobs, now), "out-of-order blocks have a wait of their own, which is 0");
    cfg.first_level_compaction_ooo_wait_period = 60 * 60000;
    cr_expect(plan_must_wait(&cfg, jobs, now));
    blocks[1].level = 2;
    cr_expect(!plan_must_wait(&cfg, jobs, now), "what was merged before does not wait");
    blocks[0].max_t = now - 1;
    cr_expect(!plan_must_wait(&cfg, jobs, now));
    cfg.first_level_compaction_skip_future_max_time = true;
    cr_expect(plan_must_wait(&cfg, jobs, now));
}

Test(plan, limits_become_parameters, .init = setup, .fini = teardown)
{
    static const struct {
        int64_t limit;
        uint32_t shards;
    } cases[] = {{0, 0}, {1, 1}, {2, 2}, {3, 4}, {48, 64}, {1000000, 1024}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct limits l = {.compactor_split_and_merge_shards = cases[i].limit};
        struct plan_params p = {0};
        plan_params_of_limits(&l, &p);
        cr_expect(p.shards == cases[i].shards && p.split_groups == 1, "%lld", (long long)cases[i].limit);
    }
}

/* --- superseded ------------------------------------------------------------------------------------------------------------------------- */

Test(superseded, blocks, .init = setup, .fini = teardown)
{
    static const struct {
        const char *blocks, *superseded;
    } cases[] = {
        {"a 0-2;b 2-4;c 0-4 L2 <ab", "ab"},
        {"a 0-2;b 2-4;c 0-4 L2 <a", "a"},
        {"a 0-2 1_of_2;b 0-2 2_of_2;c 0-12 1_of_2 L3 <ab", "a"},
        /* what was split is not superseded: of the shards some may be missing */
        {"a 0-2;b 0-2 1_of_2 L2 <a;c 0-2 2_of_2 L2 <a", ""},
        /* the same work done twice: the older stays */
        {"a 0-2 1_of_2 L2 <xy;b 0-2 1_of_2 L2 <xy", "b"},
        {"a 0-2 1_of_2 L2 <xy;b 0-2 1_of_2 L3 <xy", "a"},
        {"a 0-2 1_of_2 L2 <xy;b 0-2 2_of_2 L2 <xy", ""},
        {"a 0-2 - l=1;b 0-2 - l=2 <ab", ""},
        {"a 0-2;b 0-1 <ab", ""},
        {"a 0-2 <ab;b 0-2 <bc;c 0-2 <abc", "ab"},
        {"a 0-2;b 0-12 L2 <ab;c 0-24 L3 <abd", "ab"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct plan_block *blocks;
        size_t by[64];
        char got[64] = "";
        size_t n = parse(cases[i].blocks, &blocks), k = 0;
        cr_assert(plan_superseded(blocks, n, by, NULL));
        for (size_t j = 0; j < n; j++)
            if (by[j] != PLAN_NOT_SUPERSEDED)
                got[k++] = (char)('a' + j);
        got[k] = '\0';
        cr_expect_str_eq(got, cases[i].superseded, "%s: %s", cases[i].blocks, got);
    }
}

Test(superseded, nothing_is_said_of_blocks_whose_sources_are_unknown, .init = setup, .fini = teardown)
{
    struct plan_block *blocks;
    size_t by[2];
    size_t n = parse("a 0-2;b 0-2", &blocks);
    blocks[0].n_sources = 0;
    cr_assert(plan_superseded(blocks, n, by, NULL));
    cr_expect(by[0] == PLAN_NOT_SUPERSEDED && by[1] == PLAN_NOT_SUPERSEDED);
}

Test(superseded, lookback_goes_by_when_a_block_was_made, .init = setup, .fini = teardown)
{
    struct plan_block b = {.id = ulid_new(DAY0)};
    struct limits l = {0};
    cr_expect(!plan_is_too_old(&l, &b, DAY0 + 1000 * HOUR));
    l.compactor_max_lookback = 10 * HOUR;
    cr_expect(plan_is_too_old(&l, &b, DAY0 + 11 * HOUR));
    cr_expect(!plan_is_too_old(&l, &b, DAY0 + 9 * HOUR));
}

/* --- settled days --------------------------------------------------------------------------------------------------------------------------- */

Test(plan, days_are_settled_when_no_block_of_theirs_can_share_a_sample_and_no_job_is_left, .init = setup, .fini = teardown)
{
    /* Letters of the settled blocks; `job`: hours that a job has. */
    static const struct {
        const char *blocks;
        double job_from, job_to;
        const char *settled;
    } cases[] = {
        {"a 0-24", 0, 0, "a"},
        {"a 0-24;b 24-48", 0, 0, "ab"},
        {"a 0-24;b 24-48", 24, 26, "a"},
        {"a 0-24;b 24-48", 23, 25, ""},
        {"a 0-24;b 24-48;c 48-72", 24, 48, "ac"},
        {"a 3-5", 0, 0, "a"},
        {"a 3-5;b 7-9", 0, 0, "ab"},
        {"a 0-24;b 2-4", 0, 0, ""},
        {"a 0-24;b 2-4;c 24-48", 0, 0, "c"},
        {"a 0-24 1_of_2;b 0-24 2_of_2", 0, 0, "ab"},
        {"a 0-24 1_of_2;b 0-24 1_of_2", 0, 0, ""},
        {"a 0-24 1_of_2;b 0-24 2_of_4", 0, 0, ""},
        {"a 0-24 1_of_2;b 0-24", 0, 0, ""},
        {"a 0-24 1_of_2;b 0-24 2_of_2 - x=1", 0, 0, ""},
        {"a 0-24 1_of_2 - x=1;b 0-24 2_of_2 - x=1", 0, 0, "ab"},
        {"a 0-24 1_of_2 - x=1;b 0-24 2_of_2 - x=2", 0, 0, ""},
        {"a 0-24 - x=1;b 0-24 - x=2", 0, 0, ""},
        {"a 0-24;b 23-25;c 24-48;d 48-72", 0, 0, "d"},
        {"a 0-72;b 24-26;c 72-96", 0, 0, "c"},
        {"a -24-0;b 0-24", 0, 0, "ab"},
        {"a -1-1;b 0-24", 0, 0, ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct plan_block *blocks;
        bool settled[64];
        struct err err = ERR_NONE;
        size_t n = parse(cases[i].blocks, &blocks), n_jobs = cases[i].job_to > 0, at = 0;
        char got[64];
        struct compaction_job job = {.start = DAY0 + (int64_t)(cases[i].job_from * (double)HOUR), .end = DAY0 + (int64_t)(cases[i].job_to * (double)HOUR)};
        job.min_t = job.start;
        job.max_t = job.end;
        cr_assert(plan_settled(blocks, n, &job, n_jobs, 24 * HOUR, settled, &err), "%s", err.text);
        for (size_t k = 0; k < n; k++)
            if (settled[k])
                got[at++] = (char)(blocks[k].id.text[ULID_TEXT_LEN - 1] - 'A' + 'a');
        got[at] = '\0';
        cr_expect_str_eq(got, cases[i].settled, "%s: %s, not %s", cases[i].blocks, got, cases[i].settled);
    }
}

Test(plan, days_with_blocks_of_another_resolution_are_not_settled, .init = setup, .fini = teardown)
{
    struct plan_block *blocks;
    bool settled[2];
    size_t n = parse("a 0-24;b 24-48", &blocks);
    blocks[0].resolution_ms = 300000;
    cr_assert(plan_settled(blocks, n, NULL, 0, 24 * HOUR, settled, NULL));
    cr_expect(!settled[0] && settled[1]);
}
