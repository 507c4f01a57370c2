/*
 * One job: sources down and looked through, merged, the results looked through and up, the sources marked.
 *
 *   <dir>/compact/<tenant>/<key>/in/<ulid>    sources
 *                               /out/<ulid>   results
 *
 * The folder is removed before and after. Nothing of it is needed again: a job that was broken off anywhere is planned again out of what the bucket has. Until
 * the first source is marked all of them are there; they are marked when every result is, with its meta.json. A result that the bucket has from an earlier
 * attempt is taken as it is, since merging the same blocks gives the same.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "base/parallel.h"
#include "storage/compactor/compactor_int.h"
#include "storage/compactor/merge.h"
#include "storage/compactor/tree_int.h"

#define SOURCE_DETAILS "source of compacted block"

struct job {
    struct compactor *c;
    const struct ctx *ctx;
    struct slice tenant;
    const struct compaction_job *plan;
    const struct tenant_blocks *all;
    char *dir, *in, *out;   /* owned */
    struct block **sources; /* owned, n_blocks; open while they are merged */
    struct err *bad;        /* owned, n_blocks: what is wrong with a source; ERR_OK */
    bool *aside;            /* the caller's, n_blocks: has been set aside */
    struct arena arena;
    struct merge_result result;
};

/* --- sources ------------------------------------------------------------------------------------------------------------------------------- */

static char *source_path(const struct job *j, size_t i)
{
    char *path;
    int n = asprintf(&path, "%s/%s", j->in, j->plan->blocks[i]->id.text);
    ASSERT(n > 0);
    return path;
}

/* Is it the block that is wrong, and not this machine or the network? */
static bool is_of_block(const struct err *err)
{
    return err->code == ERR_CORRUPT || err->code == ERR_BAD_DATA || err->code == ERR_OUT_OF_RANGE;
}

static bool open_source(struct job *j, size_t i, const char *path, struct err *err)
{
    struct block *b = block_open(path, err);
    if (b && merge_check_source(b, j->ctx, err)) {
        j->sources[i] = b;
        return true;
    }
    block_close(b);
    return false;
}

/* An object is missing: is the block gone as a whole, or only a part of it? */
static void judge_missing(struct job *j, size_t i, struct err *why)
{
    struct arena arena;
    struct block_meta meta;
    arena_init(&arena, 0);
    if (bucket_read_meta(j->c->bucket, j->ctx, j->tenant, &j->plan->blocks[i]->id, &arena, &meta, NULL))
        why->code = ERR_CORRUPT;
    arena_release(&arena);
}

static bool fetch_once(struct job *j, size_t i, const char *path, struct err *why)
{
    if (!tree_remove(path, why))
        return false;
    if (bucket_download_block(j->c->bucket, j->ctx, j->tenant, &j->plan->blocks[i]->id, j->in, why))
        return open_source(j, i, path, why);
    if (why->code == ERR_NOT_FOUND)
        judge_missing(j, i, why);
    return false;
}

/* A fault is believed when a second download shows it as well. */
static bool fetch_source(void *arg, size_t i, struct err *err)
{
    struct job *j = arg;
    struct err why = ERR_NONE;
    char *path = source_path(j, i);
    bool good = fetch_once(j, i, path, &why);
    if (!good && is_of_block(&why)) {
        why = ERR_NONE;
        good = fetch_once(j, i, path, &why);
    }
    free(path);
    if (good)
        return true;
    if (is_of_block(&why)) {
        j->bad[i] = why;
        return true;
    }
    if (err)
        *err = why;
    return err_prefix(err, "block %s: ", j->plan->blocks[i]->id.text);
}

static void close_sources(struct job *j)
{
    for (size_t i = 0; j->sources && i < j->plan->n_blocks; i++) {
        block_close(j->sources[i]);
        j->sources[i] = NULL;
    }
}

/* --- setting aside -------------------------------------------------------------------------------------------------------------------------- */

static bool set_aside(struct job *j, size_t i, const char *reason, const struct err *why, struct err *err)
{
    bool is_new = false;
    const struct ulid *id = &j->plan->blocks[i]->id;
    /* Without the way to the folder here, which tells others nothing. */
    const char *text = strstr(why->text, id->text);
    struct block_mark mark = {.block = *id, .time_s = clock_wall_ms() / 1000, .reason = slice_of(reason), .details = slice_of(text ? text : why->text)};
    if (!bucket_mark_block(j->c->bucket, j->ctx, j->tenant, BLOCK_MARK_NO_COMPACT, &mark, &is_new, err))
        return false;
    j->aside[i] = true;
    if (is_new)
        compactor_count_no_compact_mark(reason);
    LOG_ERROR("a block cannot be compacted and is set aside", {"user", LOG_SLICE(j->tenant)}, {"block", LOG_STR(id->text)}, {"reason", LOG_STR(reason)},
              {"err", LOG_ERR(why)});
    return true;
}

/* *ret_any: a source was bad. */
static bool set_bad_aside(struct job *j, bool *ret_any, struct err *err)
{
    for (size_t i = 0; i < j->plan->n_blocks; i++) {
        if (j->bad[i].code == ERR_OK)
            continue;
        *ret_any = true;
        metric_inc(metric_single(compactor_metrics[COMPACTOR_M_VERIFICATION_FAILURES]));
        if (!set_aside(j, i, j->bad[i].code == ERR_OUT_OF_RANGE ? NO_COMPACT_OUT_OF_ORDER_CHUNK : NO_COMPACT_CRITICAL, &j->bad[i], err))
            return false;
    }
    return true;
}

/* The index of the result would be too large: the block with the largest one stays as it is. */
static bool set_largest_aside(struct job *j, const struct err *why, struct err *err)
{
    size_t largest = 0;
    uint64_t most = 0;
    for (size_t i = 0; i < j->plan->n_blocks; i++) {
        uint64_t n = block_meta_of(j->sources[i])->stats.series;
        if (n <= most)
            continue;
        most = n;
        largest = i;
    }
    return set_aside(j, largest, NO_COMPACT_INDEX_SIZE, why, err);
}

/* --- merging --------------------------------------------------------------------------------------------------------------------------------- */

static void count_merge(const struct job *j, double seconds)
{
    const struct join_stats *s = &j->result.stats;
    struct metric_family *samples = compactor_metrics[COMPACTOR_M_SAMPLES];
    metric_add(METRIC_WITH(samples, SL("in")), (double)s->samples_in);
    metric_add(METRIC_WITH(samples, SL("out")), (double)s->samples_out);
    metric_add(METRIC_WITH(samples, SL("duplicate")), (double)s->duplicates);
    metric_observe(metric_single(compactor_metrics[COMPACTOR_M_PROM_DURATION]), seconds);
}

static bool is_vertical(const struct compaction_job *job)
{
    for (size_t i = 1; i < job->n_blocks; i++)
        if (job->blocks[i]->min_t < job->blocks[i - 1]->max_t)
            return true;
    return false;
}

/* All labels of the sources but the shard, which splitting gives anew. */
static bool result_labels(struct job *j, struct merge_params *p, struct err *err)
{
    const struct plan_block *first = j->plan->blocks[0];
    struct block_label *labels = ARENA_ARRAY(&j->arena, struct block_label, first->n_labels + 1);
    if (!labels)
        return err_set(err, ERR_NO_MEMORY, "no memory to merge blocks");
    for (size_t i = 0; i < first->n_labels; i++)
        if (!p->shards || !slice_eq(first->labels[i].name, SL(BLOCK_LABEL_SHARD)))
            labels[p->n_labels++] = first->labels[i];
    p->labels = labels;
    return true;
}

static bool merge(struct job *j, struct err *err)
{
    int64_t start = clock_mono_ms();
    struct merge_params p = {.blocks = j->sources, .n_blocks = j->plan->n_blocks, .dir = j->out, .shards = j->plan->shards, .now_ms = clock_wall_ms(), .pack = true};
    metric_inc(metric_single(compactor_metrics[COMPACTOR_M_PROM_COMPACTIONS]));
    if (is_vertical(j->plan))
        metric_inc(metric_single(compactor_metrics[COMPACTOR_M_PROM_VERTICAL]));
    if (!result_labels(j, &p, err) || !blocks_merge(&p, j->ctx, &j->arena, &j->result, err))
        return false;
    count_merge(j, (double)(clock_mono_ms() - start) / 1e3);
    return true;
}

/* --- results ---------------------------------------------------------------------------------------------------------------------------------- */

static bool verify_result(void *arg, size_t i, struct err *err)
{
    struct job *j = arg;
    char *path;
    int n = asprintf(&path, "%s/%s", j->out, j->result.blocks[i].ulid.text);
    ASSERT(n > 0);
    struct block *b = ctx_check(j->ctx, err) ? block_open(path, err) : NULL;
    bool good = b && block_verify_within(b, j->ctx, err);
    block_close(b);
    free(path);
    return good;
}

/* No sample more or less: what the sources had is in the results, or was there twice. */
static bool check_sums(const struct job *j, struct err *err)
{
    uint64_t in = 0, out = 0;
    const struct join_stats *s = &j->result.stats;
    for (size_t i = 0; i < j->plan->n_blocks; i++)
        in += block_meta_of(j->sources[i])->stats.samples;
    for (size_t i = 0; i < j->result.n_blocks; i++)
        out += j->result.blocks[i].stats.samples;
    if (in == s->samples_in && out == s->samples_out && in == out + s->duplicates)
        return true;
    return err_set(err, ERR_INTERNAL, "the merge of %llu samples gave %llu and %llu that were there twice", (unsigned long long)in, (unsigned long long)out,
                   (unsigned long long)s->duplicates);
}

static bool verify_results(struct job *j, struct err *err)
{
    if (check_sums(j, err) && parallel_run(j->result.n_blocks, 1, verify_result, j, err))
        return true;
    if (!ctx_check(j->ctx, NULL))
        return false;
    metric_inc(metric_single(compactor_metrics[COMPACTOR_M_VERIFICATION_FAILURES]));
    return err_prefix(err, "the result does not stand the check: ");
}

static bool same_sources(const struct plan_block *b, const struct block_meta *m)
{
    if (b->n_sources != m->n_sources || b->n_labels != m->n_labels || b->min_t != m->min_t || b->max_t != m->max_t || b->resolution_ms != m->resolution_ms)
        return false;
    for (size_t i = 0; i < m->n_sources; i++)
        if (strcmp(b->sources[i].text, m->sources[i].text) != 0)
            return false;
    for (size_t i = 0; i < m->n_labels; i++)
        if (!slice_eq(b->labels[i].name, m->labels[i].name) || !slice_eq(b->labels[i].value, m->labels[i].value))
            return false;
    return true;
}

/* Of an attempt that was broken off. It is no source of this job: a split's have no shard, and a merge's have fewer sources. */
static bool find_made(const struct job *j, const struct block_meta *m, const struct plan_block **ret, struct err *err)
{
    *ret = NULL;
    for (size_t i = 0; i < j->all->n && !*ret; i++) {
        const struct plan_block *b = &j->all->blocks[i];
        bool there, source = false;
        for (size_t k = 0; k < j->plan->n_blocks; k++)
            source |= strcmp(j->plan->blocks[k]->id.text, b->id.text) == 0;
        if (source || !same_sources(b, m))
            continue;
        if (!block_is_there(j->c, j->ctx, j->tenant, &b->id, &there, err))
            return false;
        if (there)
            *ret = b;
    }
    return true;
}

static bool upload_result(void *arg, size_t i, struct err *err)
{
    struct job *j = arg;
    const struct block_meta *m = &j->result.blocks[i];
    const struct plan_block *made;
    const struct bucket_upload as = {.source = SL("compactor")};
    int64_t start = clock_mono_ms();
    if (!find_made(j, m, &made, err))
        return false;
    if (made) {
        LOG_INFO("a block of this job is in the bucket already", {"user", LOG_SLICE(j->tenant)}, {"block", LOG_STR(made->id.text)});
        return true;
    }
    metric_inc(metric_single(compactor_metrics[COMPACTOR_M_UPLOADS]));
    if (!bucket_upload_block(j->c->bucket, j->ctx, j->tenant, j->out, &m->ulid, &as, NULL, err))
        return err_prefix(err, "block %s: ", m->ulid.text);
    metric_observe(METRIC_WITH(compactor_metrics[COMPACTOR_M_UPLOAD_DURATION], slice_of(compaction_stage_name(j->plan->stage))),
                   (double)(clock_mono_ms() - start) / 1e3);
    return true;
}

static bool mark_source(void *arg, size_t i, struct err *err)
{
    struct job *j = arg;
    bool is_new = false;
    const struct plan_block *b = j->plan->blocks[i];
    int64_t now_ms = clock_wall_ms();
    struct block_mark mark = {.block = b->id, .time_s = now_ms / 1000, .details = SL(SOURCE_DETAILS)};
    if (!bucket_mark_block(j->c->bucket, j->ctx, j->tenant, BLOCK_MARK_DELETION, &mark, &is_new, err))
        return err_prefix(err, "block %s: ", b->id.text);
    if (!is_new)
        return true;
    char level[16];
    snprintf(level, sizeof(level), "%u", b->level);
    compactor_count_deletion_mark("compaction");
    metric_observe(METRIC_WITH(compactor_metrics[COMPACTOR_M_DELAY], slice_of(level)), (double)(now_ms - ulid_time_ms(&b->id)) / 1e3);
    return true;
}

/* --- the whole -------------------------------------------------------------------------------------------------------------------------------- */

static bool prepare(struct job *j, struct err *err)
{
    size_t n = j->plan->n_blocks;
    arena_init(&j->arena, 0);
    j->sources = calloc(n, sizeof(struct block *));
    j->bad = calloc(n, sizeof(*j->bad));
    if (!j->sources || !j->bad || asprintf(&j->dir, "%s/compact/%.*s/%s", j->c->dir, SL_FMT(j->tenant), j->plan->key) < 0 ||
        asprintf(&j->in, "%s/in", j->dir) < 0 || asprintf(&j->out, "%s/out", j->dir) < 0)
        return err_set(err, ERR_NO_MEMORY, "no memory for a compaction");
    return tree_remove(j->dir, err) && tree_make(j->in, err) && tree_make(j->out, err);
}

static void clear_away(struct job *j)
{
    struct err err = ERR_NONE;
    close_sources(j);
    if (j->dir && !tree_remove(j->dir, &err))
        LOG_WARN("the folder of a compaction stays", {"err", LOG_ERR(&err)});
    arena_release(&j->arena);
    free(j->sources);
    free(j->bad);
    free(j->dir);
    free(j->in);
    free(j->out);
}

static enum job_end work(struct job *j, struct err *err)
{
    bool any_bad = false;
    struct err why = ERR_NONE;
    size_t n = j->plan->n_blocks, n_threads = (size_t)MAX(j->c->cfg->block_sync_concurrency, 1);
    if (!prepare(j, err) || !parallel_run(n, n_threads, fetch_source, j, err) || !set_bad_aside(j, &any_bad, err))
        return JOB_FAILED;
    if (any_bad)
        return JOB_SET_ASIDE;
    if (!merge(j, &why)) {
        if (why.code == ERR_TOO_LARGE)
            return set_largest_aside(j, &why, err) ? JOB_SET_ASIDE : JOB_FAILED;
        *err = why;
        return JOB_FAILED;
    }
    if (!verify_results(j, err))
        return JOB_FAILED;
    close_sources(j);
    if (!tree_remove(j->in, err) || !parallel_run(j->result.n_blocks, n_threads, upload_result, j, err) || !parallel_run(n, 1, mark_source, j, err))
        return JOB_FAILED;
    return JOB_DONE;
}

static void tell(const struct job *j, enum job_end end, int64_t ms, const struct err *err)
{
    const struct join_stats *s = &j->result.stats;
    struct slice stage = slice_of(compaction_stage_name(j->plan->stage));
    metric_observe(METRIC_WITH(compactor_metrics[COMPACTOR_M_JOB_DURATION], stage), (double)ms / 1e3);
    if (end == JOB_FAILED && !ctx_check(j->ctx, NULL)) {
        LOG_INFO("a compaction was broken off", {"user", LOG_SLICE(j->tenant)}, {"job", LOG_STR(j->plan->key)});
        return;
    }
    if (end == JOB_FAILED) {
        metric_inc(metric_single(compactor_metrics[COMPACTOR_M_GROUPS_FAILED]));
        if (err->code == ERR_NO_SPACE)
            metric_add(metric_single(compactor_metrics[COMPACTOR_M_NO_SPACE]), 1);
        LOG_WARN("a compaction failed", {"user", LOG_SLICE(j->tenant)}, {"job", LOG_STR(j->plan->key)}, {"err", LOG_ERR(err)});
        return;
    }
    metric_inc(metric_single(compactor_metrics[COMPACTOR_M_GROUPS_COMPLETED]));
    if (end == JOB_SET_ASIDE)
        return;
    metric_inc(metric_single(compactor_metrics[COMPACTOR_M_GROUPS]));
    LOG_INFO("compacted blocks", {"user", LOG_SLICE(j->tenant)}, {"job", LOG_STR(j->plan->key)}, {"sources", LOG_U64(j->plan->n_blocks)},
             {"results", LOG_U64(j->result.n_blocks)}, {"series", LOG_U64(s->series)}, {"samples", LOG_U64(s->samples_out)},
             {"duplicates", LOG_U64(s->duplicates)}, {"ms", LOG_I64(ms)});
}

enum job_end job_run(struct compactor *c, const struct ctx *ctx, struct slice tenant, const struct compaction_job *job, const struct tenant_blocks *all,
                     bool *ret_aside, struct err *err)
{
    int64_t start = clock_mono_ms(), now_ms = clock_wall_ms();
    struct job j = {.c = c, .ctx = ctx, .tenant = tenant, .plan = job, .all = all, .aside = ret_aside};
    metric_inc(metric_single(compactor_metrics[COMPACTOR_M_GROUPS_STARTED]));
    metric_observe(METRIC_WITH(compactor_metrics[COMPACTOR_M_JOB_BLOCKS], slice_of(compaction_stage_name(job->stage))), (double)job->n_blocks);
    for (size_t i = 0; i < job->n_blocks; i++)
        metric_observe(metric_single(compactor_metrics[COMPACTOR_M_MAX_TIME_DELTA]), (double)(now_ms - job->blocks[i]->max_t) / 1e3);
    enum job_end end = work(&j, err);
    clear_away(&j);
    tell(&j, end, clock_mono_ms() - start, err);
    return end;
}
