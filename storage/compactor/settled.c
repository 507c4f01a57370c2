/*
 * Days that are done: blocks of which nothing says that their samples will yet be in other blocks, or that another block has the same ones. What is made of such
 * blocks one by one, as downsampling does, may be added up.
 */
#include <stdlib.h>
#include <string.h>

#include "model/query_shard.h"
#include "storage/compactor/plan.h"

#define DAY_BLOCKS_MAX 4096

struct entry {
    const struct plan_block *b;
    size_t at; /* in the caller's list */
    int64_t day;
};

static int64_t day_of(int64_t t, int64_t range_ms)
{
    return t / range_ms - (t % range_ms < 0);
}

static int by_day(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return x->day != y->day ? (x->day < y->day ? -1 : 1) : (x->at > y->at) - (x->at < y->at);
}

static bool is_shard_label(const struct block_label *l)
{
    return slice_eq(l->name, SL(BLOCK_LABEL_SHARD));
}

static bool has_label(const struct plan_block *b, const struct block_label *l)
{
    for (size_t i = 0; i < b->n_labels; i++)
        if (slice_eq(b->labels[i].name, l->name))
            return slice_eq(b->labels[i].value, l->value);
    return false;
}

static bool same_but_for_shard(const struct plan_block *x, const struct plan_block *y)
{
    for (size_t i = 0; i < x->n_labels; i++)
        if (!is_shard_label(&x->labels[i]) && !has_label(y, &x->labels[i]))
            return false;
    for (size_t i = 0; i < y->n_labels; i++)
        if (!is_shard_label(&y->labels[i]) && !has_label(x, &y->labels[i]))
            return false;
    return true;
}

/* Of two blocks of one day: a sample of the one cannot be in the other, by time or by series. */
static bool are_disjoint(const struct plan_block *x, const struct plan_block *y)
{
    struct query_shard a, b;
    if (x->max_t <= y->min_t || y->max_t <= x->min_t)
        return true;
    return same_but_for_shard(x, y) && query_shard_parse(x->shard, &a) && query_shard_parse(y->shard, &b) && a.count == b.count && a.index != b.index;
}

static bool day_is_settled(const struct entry *e, size_t n)
{
    if (n > DAY_BLOCKS_MAX)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (e[i].b->resolution_ms != 0)
            return false;
        for (size_t k = 0; k < i; k++)
            if (!are_disjoint(e[i].b, e[k].b))
                return false;
    }
    return true;
}

/* Blocks of the days that [from, to) touches are not settled. */
static void unsettle(const struct entry *e, size_t n, int64_t range_ms, int64_t from, int64_t to, bool *settled)
{
    int64_t first = day_of(from, range_ms), last = day_of(to - 1, range_ms);
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (e[mid].day < first)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo < n && e[lo].day <= last; lo++)
        settled[e[lo].at] = false;
}

bool plan_settled(const struct plan_block *blocks, size_t n, const struct compaction_job *jobs, size_t n_jobs, int64_t range_ms, bool *ret_settled, struct err *err)
{
    struct entry *e = calloc(n + 1, sizeof(*e));
    if (!e)
        return err_set(err, ERR_NO_MEMORY, "no memory to plan a compaction");
    for (size_t i = 0; i < n; i++)
        e[i] = (struct entry){&blocks[i], i, day_of(blocks[i].min_t, range_ms)};
    qsort(e, n, sizeof(*e), by_day);
    for (size_t from = 0, to; from < n; from = to) {
        for (to = from + 1; to < n && e[to].day == e[from].day; to++)
            ;
        bool good = day_is_settled(e + from, to - from);
        for (size_t i = from; i < to; i++)
            ret_settled[e[i].at] = good;
    }
    for (size_t i = 0; i < n; i++)
        if (blocks[i].max_t > blocks[i].min_t && day_of(blocks[i].max_t - 1, range_ms) != day_of(blocks[i].min_t, range_ms))
            unsettle(e, n, range_ms, blocks[i].min_t, blocks[i].max_t, ret_settled);
    for (size_t i = 0; i < n_jobs; i++)
        unsettle(e, n, range_ms, jobs[i].start < jobs[i].min_t ? jobs[i].start : jobs[i].min_t, jobs[i].end > jobs[i].max_t ? jobs[i].end : jobs[i].max_t,
                 ret_settled);
    free(e);
    return true;
}
