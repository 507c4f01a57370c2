/*
 * Planning: blocks into groups, groups into ranges, ranges into jobs.
 *
 * A group is the blocks with the same labels but for the shard, and the same resolution. Its key is "<resolution>@<hash of the labels>", as that of Mimir and
 * Thanos. Ranges are aligned to the epoch; a block belongs to the range in which it begins when it also ends there, else to none.
 */
#include "storage/compactor/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "model/query_shard.h"
#include "storage/compactor/merge.h"

#define JOBS_MAX 100000
#define TIME_MAX (INT64_C(1) << 60) /* of a block that can be planned: times and ranges are added without a thought */

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory to plan a compaction");
}

/* --- blocks ---------------------------------------------------------------------------------------------------------------------- */

static bool copy_labels(const struct block_label *labels, size_t n, struct arena *arena, struct plan_block *ret)
{
    struct block_label *copy = ARENA_ARRAY(arena, struct block_label, n + 1);
    bool good = copy != NULL;
    for (size_t i = 0; good && i < n; i++) {
        copy[i] = (struct block_label){arena_dup(arena, labels[i].name), arena_dup(arena, labels[i].value)};
        good = copy[i].name.p && copy[i].value.p;
        if (good && slice_eq(copy[i].name, SL(BLOCK_LABEL_SHARD)))
            ret->shard = copy[i].value;
    }
    ret->labels = copy;
    ret->n_labels = n;
    return good;
}

bool plan_block_of_meta(const struct block_meta *m, int64_t uploaded_ms, struct arena *arena, struct plan_block *ret)
{
    *ret = (struct plan_block){.id = m->ulid,
                               .min_t = m->min_t,
                               .max_t = m->max_t,
                               .uploaded_ms = uploaded_ms,
                               .resolution_ms = m->resolution_ms,
                               .level = m->level,
                               .out_of_order = block_meta_is_out_of_order(m)};
    struct ulid *sources = ARENA_ARRAY(arena, struct ulid, m->n_sources + 1);
    if (!sources)
        return false;
    if (m->n_sources)
        memcpy(sources, m->sources, m->n_sources * sizeof(*sources));
    ret->sources = sources;
    ret->n_sources = m->n_sources;
    return copy_labels(m->labels, m->n_labels, arena, ret);
}

bool plan_block_of_index(const struct index_block *b, struct arena *arena, struct plan_block *ret)
{
    *ret = (struct plan_block){.id = b->id,
                               .min_t = b->min_t,
                               .max_t = b->max_t,
                               .uploaded_ms = b->uploaded_at_s * 1000,
                               .level = b->level,
                               .out_of_order = b->out_of_order};
    if (!copy_labels(b->labels, b->n_labels, arena, ret))
        return false;
    if (ret->shard.n || !b->shard.n)
        return true;
    /* An index of an older version names the shard apart from the labels. */
    ret->shard = arena_dup(arena, b->shard);
    return ret->shard.p != NULL;
}

/* --- parameters ------------------------------------------------------------------------------------------------------------------- */

static uint32_t power_of_two(int64_t n)
{
    uint32_t p = 1;
    if (n <= 0)
        return 0;
    while (p < n && p < MERGE_MAX_SHARDS)
        p *= 2;
    return p;
}

void plan_params_of_limits(const struct limits *l, struct plan_params *ret)
{
    ret->shards = power_of_two(l->compactor_split_and_merge_shards);
    ret->ooo_shards = power_of_two(l->compactor_ooo_split_and_merge_shards);
    ret->split_groups = (uint32_t)MIN(MAX(l->compactor_split_groups, 1), MERGE_MAX_SHARDS);
}

bool compaction_order_parse(struct slice text, enum compaction_order *ret)
{
    *ret = slice_eq(text, SL("newest-blocks-first")) ? COMPACTION_NEWEST_FIRST : COMPACTION_SMALLEST_RANGE_OLDEST_FIRST;
    return *ret == COMPACTION_NEWEST_FIRST || slice_eq(text, SL("smallest-range-oldest-blocks-first"));
}

const char *compaction_stage_name(enum compaction_stage s)
{
    return s == COMPACTION_SPLIT ? "split" : "merge";
}

/* --- groups ------------------------------------------------------------------------------------------------------------------------ */

static bool is_shard_label(const struct block_label *l)
{
    return slice_eq(l->name, SL(BLOCK_LABEL_SHARD));
}

/* By labels but for the shard. */
static int cmp_labels(const struct plan_block *x, const struct plan_block *y)
{
    size_t i = 0, k = 0;
    for (;; i++, k++) {
        while (i < x->n_labels && is_shard_label(&x->labels[i]))
            i++;
        while (k < y->n_labels && is_shard_label(&y->labels[k]))
            k++;
        if (i == x->n_labels || k == y->n_labels)
            return (i < x->n_labels) - (k < y->n_labels);
        int c = slice_cmp(x->labels[i].name, y->labels[k].name);
        c = c ? c : slice_cmp(x->labels[i].value, y->labels[k].value);
        if (c)
            return c;
    }
}

static int cmp_group(const struct plan_block *x, const struct plan_block *y)
{
    if (x->resolution_ms != y->resolution_ms)
        return x->resolution_ms < y->resolution_ms ? -1 : 1;
    return cmp_labels(x, y);
}

static int cmp_time(const struct plan_block *x, const struct plan_block *y)
{
    if (x->min_t != y->min_t)
        return x->min_t < y->min_t ? -1 : 1;
    return strcmp(x->id.text, y->id.text);
}

static int by_group_then_time(const void *a, const void *b)
{
    const struct plan_block *x = *(const struct plan_block *const *)a, *y = *(const struct plan_block *const *)b;
    int c = cmp_group(x, y);
    return c ? c : cmp_time(x, y);
}

static int by_shard_then_time(const void *a, const void *b)
{
    const struct plan_block *x = *(const struct plan_block *const *)a, *y = *(const struct plan_block *const *)b;
    int c = slice_cmp(x->shard, y->shard);
    return c ? c : cmp_time(x, y);
}

/* "0@17241709254077376921" */
static char *group_key(const struct plan_block *b, struct arena *arena)
{
    struct label labels[64];
    size_t n = 0;
    for (size_t i = 0; i < b->n_labels && n < ARRAY_LEN(labels); i++)
        if (!is_shard_label(&b->labels[i]))
            labels[n++] = (struct label){b->labels[i].name, b->labels[i].value};
    return arena_printf(arena, "%lld@%llu", (long long)b->resolution_ms, (unsigned long long)query_shard_hash((struct labels){labels, n}));
}

/* --- jobs of one range --------------------------------------------------------------------------------------------------------------- */

struct planner {
    const struct plan_params *p;
    struct arena *arena;
    struct compaction_job *jobs; /* in a buffer, then copied to the arena */
    size_t n_jobs, cap_jobs;
    size_t first_of_group; /* the jobs of the group at hand begin here */
    const char *group;     /* its key */
    uint32_t shards;       /* of it */
    int64_t newest_t;      /* max_t of all blocks */
};

/* Two jobs of one group whose ranges share time: the later one waits for what the earlier makes, though its own blocks may be others. */
static bool conflict(const struct compaction_job *x, const struct compaction_job *y)
{
    if (x->start >= y->end || y->start >= x->end)
        return false;
    if (x->stage == y->stage && (x->stage == COMPACTION_MERGE || (x->start == y->start && x->end == y->end)))
        return slice_eq(x->shard, y->shard);
    return true;
}

static bool add_job(struct planner *pl, enum compaction_stage stage, struct slice shard, int64_t start, int64_t end, const struct plan_block *const *blocks,
                    size_t n, struct err *err)
{
    n = MIN(n, MERGE_MAX_BLOCKS); /* the rest follows when these have become one */
    struct compaction_job job = {.stage = stage, .shard = shard, .start = start, .end = end, .n_blocks = n, .min_t = blocks[0]->min_t,
                                 .max_t = blocks[0]->max_t, .shards = stage == COMPACTION_SPLIT ? pl->shards : 0};
    for (size_t i = 1; i < n; i++) {
        job.min_t = MIN(job.min_t, blocks[i]->min_t);
        job.max_t = MAX(job.max_t, blocks[i]->max_t);
    }
    for (size_t i = pl->first_of_group; i < pl->n_jobs; i++)
        if (conflict(&job, &pl->jobs[i]))
            return true;
    if (pl->n_jobs == JOBS_MAX)
        return true; /* more than a run does; what is left is planned again */
    if (pl->n_jobs == pl->cap_jobs) {
        size_t cap = MAX(pl->cap_jobs * 2, 64);
        struct compaction_job *jobs = realloc(pl->jobs, cap * sizeof(*jobs));
        if (!jobs)
            return no_memory(err);
        pl->jobs = jobs;
        pl->cap_jobs = cap;
    }
    job.blocks = ARENA_ARRAY(pl->arena, const struct plan_block *, n);
    job.key = arena_printf(pl->arena, "%s-%s-%.*s-%lld-%lld", pl->group, compaction_stage_name(stage), SL_FMT(shard), (long long)start, (long long)end);
    if (!job.blocks || !job.key)
        return no_memory(err);
    memcpy(job.blocks, blocks, n * sizeof(*job.blocks));
    pl->jobs[pl->n_jobs++] = job;
    return true;
}

static uint32_t split_group_of(const struct plan_block *b, uint32_t n)
{
    uint32_t h = UINT32_C(2166136261);
    for (size_t i = 0; i < ULID_TEXT_LEN; i++)
        h = (h ^ (uint8_t)b->id.text[i]) * UINT32_C(16777619);
    return h % n;
}

/* The blocks of one range that have no shard. *ret_any: there are such. */
static bool plan_split(struct planner *pl, const struct plan_block *const *blocks, size_t n, int64_t start, int64_t end, bool *ret_any, struct err *err)
{
    const struct plan_block **of_group = calloc(n, sizeof(*of_group));
    bool good = of_group || no_memory(err);
    *ret_any = false;
    for (uint32_t g = 0; good && g < pl->p->split_groups; g++) {
        size_t k = 0;
        for (size_t i = 0; i < n; i++)
            if (blocks[i]->shard.n == 0 && split_group_of(blocks[i], pl->p->split_groups) == g)
                of_group[k++] = blocks[i];
        if (k == 0)
            continue;
        *ret_any = true;
        const char *name = arena_printf(pl->arena, "%u_of_%u", g + 1, pl->p->split_groups);
        good = name ? add_job(pl, COMPACTION_SPLIT, slice_of(name), start, end, of_group, k, err) : no_memory(err);
    }
    free(of_group);
    return good;
}

/* Shard by shard, those that have at least two. */
static bool plan_merge(struct planner *pl, const struct plan_block *const *blocks, size_t n, int64_t start, int64_t end, struct err *err)
{
    const struct plan_block **sorted = calloc(n, sizeof(*sorted));
    if (!sorted)
        return no_memory(err);
    memcpy(sorted, blocks, n * sizeof(*sorted));
    qsort(sorted, n, sizeof(*sorted), by_shard_then_time);
    bool good = true;
    for (size_t from = 0, to; good && from < n; from = to) {
        for (to = from + 1; to < n && slice_eq(sorted[to]->shard, sorted[from]->shard);)
            to++;
        if (to - from > 1)
            good = add_job(pl, COMPACTION_MERGE, sorted[from]->shard, start, end, sorted + from, to - from, err);
    }
    free(sorted);
    return good;
}

static int64_t range_start(int64_t t, int64_t range)
{
    int64_t start = t / range * range;
    return start > t ? start - range : start;
}

/* One range length over the blocks of one group, which are in order of time. */
static bool plan_range(struct planner *pl, const struct plan_block *const *blocks, size_t n, int64_t range, bool smallest, struct err *err)
{
    const struct plan_block **inside = calloc(n, sizeof(*inside));
    bool good = inside || no_memory(err);
    for (size_t from = 0, to; good && from < n; from = to) {
        int64_t start = range_start(blocks[from]->min_t, range), end = start + range;
        size_t k = 0;
        for (to = from; to < n && blocks[to]->min_t < end; to++)
            if (blocks[to]->max_t <= end)
                inside[k++] = blocks[to];
        bool split = false;
        if (k && smallest && pl->shards)
            good = plan_split(pl, inside, k, start, end, &split, err);
        if (good && k > 1 && !split)
            good = plan_merge(pl, inside, k, start, end, err);
    }
    free(inside);
    return good;
}

static bool plan_group(struct planner *pl, const struct plan_block *const *blocks, size_t n, struct err *err)
{
    bool ooo = false;
    for (size_t i = 0; i < blocks[0]->n_labels; i++)
        ooo |= slice_eq(blocks[0]->labels[i].name, SL(BLOCK_LABEL_OUT_OF_ORDER));
    pl->shards = ooo && pl->p->ooo_shards ? pl->p->ooo_shards : pl->p->shards;
    pl->first_of_group = pl->n_jobs;
    pl->group = group_key(blocks[0], pl->arena);
    if (!pl->group)
        return no_memory(err);
    for (size_t i = 0; i < pl->p->n_ranges; i++)
        if (!plan_range(pl, blocks, n, pl->p->ranges_ms[i], i == 0, err))
            return false;
    return true;
}

/* --- what is to be done now ------------------------------------------------------------------------------------------------------------ */

/* The range is over when there are newer blocks, when it is full, or when by the clock nothing of it is to come. */
static bool is_due(const struct planner *pl, const struct compaction_job *job)
{
    return job->end <= pl->newest_t || job->max_t - job->min_t == job->end - job->start || job->end + pl->p->wait_ms <= pl->p->now_ms;
}

/* Splitting comes first whatever its times are, since all else waits for it. */
static int smallest_oldest_first(const void *a, const void *b)
{
    const struct compaction_job *x = a, *y = b;
    if (x->stage != y->stage)
        return x->stage == COMPACTION_SPLIT ? -1 : 1;
    int64_t len_x = x->max_t - x->min_t, len_y = y->max_t - y->min_t;
    if (x->stage == COMPACTION_MERGE && len_x != len_y)
        return len_x < len_y ? -1 : 1;
    if (x->min_t != y->min_t)
        return x->min_t < y->min_t ? -1 : 1;
    return strcmp(x->key, y->key);
}

static int newest_first(const void *a, const void *b)
{
    const struct compaction_job *x = a, *y = b;
    if (x->max_t != y->max_t)
        return x->max_t > y->max_t ? -1 : 1;
    if (x->min_t != y->min_t)
        return x->min_t > y->min_t ? -1 : 1;
    if (x->stage != y->stage)
        return x->stage == COMPACTION_SPLIT ? -1 : 1;
    return strcmp(x->key, y->key);
}

static bool give(struct planner *pl, const struct compaction_job **ret, size_t *ret_n, struct err *err)
{
    struct compaction_job *jobs = ARENA_ARRAY(pl->arena, struct compaction_job, pl->n_jobs + 1);
    size_t n = 0;
    if (!jobs)
        return no_memory(err);
    for (size_t i = 0; i < pl->n_jobs; i++)
        if (is_due(pl, &pl->jobs[i]))
            jobs[n++] = pl->jobs[i];
    if (n)
        qsort(jobs, n, sizeof(*jobs), pl->p->order == COMPACTION_NEWEST_FIRST ? newest_first : smallest_oldest_first);
    *ret = jobs;
    *ret_n = n;
    return true;
}

bool plan_compaction(const struct plan_params *p, const struct plan_block *blocks, size_t n, struct arena *arena, const struct compaction_job **ret,
                     size_t *ret_n, struct err *err)
{
    ASSERT(p->n_ranges >= 1 && p->split_groups >= 1);
    struct planner pl = {.p = p, .arena = arena, .newest_t = INT64_MIN};
    const struct plan_block **sorted = calloc(n + 1, sizeof(*sorted));
    bool good = sorted || no_memory(err);
    size_t n_sorted = 0;
    for (size_t i = 0; good && i < n; i++) {
        if (blocks[i].min_t < -TIME_MAX || blocks[i].max_t > TIME_MAX)
            continue;
        sorted[n_sorted++] = &blocks[i];
        pl.newest_t = MAX(pl.newest_t, blocks[i].max_t);
    }
    if (n_sorted)
        qsort(sorted, n_sorted, sizeof(*sorted), by_group_then_time);
    for (size_t from = 0, to; good && from < n_sorted; from = to) {
        for (to = from + 1; to < n_sorted && cmp_group(sorted[to], sorted[from]) == 0;)
            to++;
        good = plan_group(&pl, sorted + from, to - from, err);
    }
    good = good && give(&pl, ret, ret_n, err);
    free(pl.jobs);
    free(sorted);
    return good;
}

bool plan_must_wait(const struct compactor_config *cfg, const struct compaction_job *job, int64_t now_ms)
{
    for (size_t i = 0; i < job->n_blocks; i++) {
        const struct plan_block *b = job->blocks[i];
        if (b->level > 1)
            continue;
        int64_t wait = b->out_of_order ? cfg->first_level_compaction_ooo_wait_period : cfg->first_level_compaction_wait_period;
        if (wait > 0 && b->uploaded_ms > now_ms - wait)
            return true;
        if (cfg->first_level_compaction_skip_future_max_time && b->max_t > now_ms - cfg->first_level_compaction_wait_period)
            return true;
    }
    return false;
}
