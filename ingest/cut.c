#include "ingest/cut_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "ingest/checkpoint_int.h"
#include "ingest/head_list_int.h"
#include "ingest/ingest_metrics_int.h"

/* Series sealed under one hold of a shard's locks, or looked at: well below a millisecond. */
#define SEAL_STEP 1024u
#define WRITE_STEP 128u
#define REST_AFTER_NS PRIORITY_YIELD_NS
/* An arena of late chunks that are merged is cleared for each few series. */
_Static_assert(WRITE_STEP <= SERIES_LIST_BATCH, "series are taken in one step");

/* --- pace --- */

bool cut_rest(struct cut_pace *pace, struct err *err)
{
    if (!pace)
        return true;
    if (pace->stop && atomic_load_explicit(pace->stop, memory_order_relaxed))
        return err_set(err, ERR_CANCELED, "the ingester is stopping");
    bool hurry = pace->hurry && atomic_load_explicit(pace->hurry, memory_order_relaxed) > 0;
    int64_t used_ns = clock_thread_cpu_ns() - pace->rested_ns;
    if (pace->share > 0 && pace->share < 1 && !hurry && used_ns >= REST_AFTER_NS) {
        int64_t pause_ns = MIN((int64_t)((double)used_ns * (1 - pace->share) / pace->share), (int64_t)200000000);
        for (struct timespec left = {.tv_nsec = pause_ns}; nanosleep(&left, &left) != 0 && errno == EINTR;) {
        }
        pace->rested_ns = clock_thread_cpu_ns();
    }
    if (pace->yield)
        priority_yield(pace->yield);
    return true;
}

/* --- one cut --- */

struct cut_range {
    int64_t start;
    int64_t newest; /* of the chunks that touch it */
    bool in_order;  /* there are others than late ones */
};

struct cut_run {
    struct head *h;
    struct local_blocks *lb;
    bool label;
    struct head_list_cut x;
    struct cut_pace *pace;
    char dir[4096]; /* pending */
    struct cut_range *ranges; /* by start; owned */
    size_t n_ranges;
    struct ulid *names; /* of blocks written; owned, n_ranges */
    size_t n_names;
    uint64_t damaged;
    struct cut_result result;
};

/* --- seal --- */

static bool seal_shard(struct head *h, struct shard *s, int64_t cut, struct cut_pace *pace, struct err *err)
{
    uint32_t n = 1;
    for (uint32_t from = 0; from < n; from += SEAL_STEP) {
        struct appender a = {.chunks = h->chunks};
        pthread_mutex_lock(&s->writer);
        pthread_rwlock_wrlock(&s->lock);
        a.data = s->data;
        n = s->data->n_series;
        for (uint32_t ref = from; ref < MIN(n, from + SEAL_STEP); ref++)
            append_seal(&a, ref, cut);
        pthread_rwlock_unlock(&s->lock);
        pthread_mutex_unlock(&s->writer);
        metric_add(h->metrics.chunks_created, (double)a.chunks_created);
        if (!chunk_store_flush(h->chunks, false, err) || !cut_rest(pace, err))
            return false;
    }
    return true;
}

bool head_seal(struct head *h, int64_t cut, struct cut_pace *pace, uint64_t *ret_mark, struct err *err)
{
    for (uint32_t i = 0; i < h->n_shards; i++)
        if (!seal_shard(h, &h->shards[i], cut, pace, err))
            return false;
    atomic_fetch_add_explicit(&h->changes, 1, memory_order_release);
    *ret_mark = chunk_store_mark(h->chunks);
    return true;
}

/* --- ranges --- */

static struct cut_range *range_of(struct cut_run *run, int64_t start)
{
    size_t at = run->n_ranges;
    while (at > 0 && run->ranges[at - 1].start > start)
        at--;
    if (at > 0 && run->ranges[at - 1].start == start)
        return &run->ranges[at - 1];
    run->ranges = xrealloc(run->ranges, (run->n_ranges + 1) * sizeof(*run->ranges));
    memmove(&run->ranges[at + 1], &run->ranges[at], (run->n_ranges - at) * sizeof(*run->ranges));
    run->ranges[at] = (struct cut_range){.start = start, .newest = INT64_MIN};
    run->n_ranges++;
    return &run->ranges[at];
}

static void note_ranges(struct cut_run *run, const struct chunk_entry *e)
{
    int64_t max_t = e->min_t + e->span_ms;
    for (int64_t start = chunk_range_start(e->min_t); start <= max_t; start += CHUNK_RANGE_MS) {
        struct cut_range *r = range_of(run, start);
        int64_t last = saturating_add(start, CHUNK_RANGE_MS - 1);
        r->newest = MAX(r->newest, MIN(max_t, last));
        r->in_order |= !(e->flags & CHUNK_OUT_OF_ORDER);
        if (start > INT64_MAX - CHUNK_RANGE_MS)
            break;
    }
}

static bool find_ranges(struct cut_run *run, struct shard *s, struct err *err)
{
    uint32_t n = 1;
    for (uint32_t from = 0; from < n; from += SEAL_STEP) {
        pthread_rwlock_rdlock(&s->lock);
        n = s->data->n_series;
        for (uint32_t ref = from; ref < MIN(n, from + SEAL_STEP); ref++) {
            const struct series_cold *c = series_cold(s->data, ref);
            const struct chunk_entry *e = series_chunks(s->data, c);
            for (uint32_t i = 0; i < c->n_chunks; i++)
                if (chunk_in_cut(&e[i], run->x.mark, run->x.cut))
                    note_ranges(run, &e[i]);
        }
        pthread_rwlock_unlock(&s->lock);
        if (!cut_rest(run->pace, err))
            return false;
    }
    return true;
}

/* --- blocks --- */

/* What stands in meta.json; its arrays. */
struct cut_meta {
    struct block_meta meta;
    struct block_parent parent;
    struct block_label label;
    struct slice hint;
};

static void describe(const struct cut_run *run, const struct cut_range *r, struct cut_meta *m)
{
    bool newest = run->x.cut == CUT_ALL && r == &run->ranges[run->n_ranges - 1];
    *m = (struct cut_meta){.hint = SL(BLOCK_HINT_OUT_OF_ORDER), .label = {SL(BLOCK_LABEL_OUT_OF_ORDER), SL("true")}};
    memset(m->parent.ulid.text, '0', ULID_TEXT_LEN);
    m->meta = (struct block_meta){.ulid = ulid_new(clock_wall_ms()),
                                  .min_t = r->start,
                                  .max_t = newest ? r->newest + 1 : saturating_add(r->start, CHUNK_RANGE_MS),
                                  .level = 1,
                                  .sources = &m->meta.ulid,
                                  .n_sources = 1,
                                  .has_thanos = true,
                                  .source = SL("receive")};
    if (r->in_order)
        return;
    m->meta.parents = &m->parent;
    m->meta.n_parents = 1;
    m->meta.hints = &m->hint;
    m->meta.n_hints = 1;
    m->meta.labels = &m->label;
    m->meta.n_labels = run->label ? 1 : 0;
}

static bool arena_full(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory to cut a block");
}

static bool write_some(struct cut_run *run, const struct block_meta *m, struct head_list *list, size_t from, size_t n, struct arena *scratch,
                       struct block_writer *w, struct err *err)
{
    struct series series[WRITE_STEP];
    if (!head_list_chunks(list, from, n, scratch, series))
        return arena_full(err);
    for (size_t i = 0; i < n; i++) {
        struct labels labels;
        uint32_t n_had;
        const struct series_chunk *chunks;
        size_t n_chunks;
        if (!head_list_labels(list, from + i, scratch, &labels, &n_had) ||
            !cut_series(series[i].chunks, series[i].n_chunks, m->min_t, m->max_t, scratch, &chunks, &n_chunks, &run->damaged))
            return arena_full(err);
        if (n_chunks == 0)
            continue;
        if (!block_writer_add(w, &labels, chunks, n_chunks, err))
            return false;
        run->result.n_series++;
    }
    return true;
}

static bool write_series(struct cut_run *run, const struct block_meta *m, struct head_list *list, struct block_writer *w, struct err *err)
{
    struct arena scratch;
    arena_init(&scratch, 0);
    size_t n = head_list_len(list);
    bool ok = true;
    for (size_t from = 0; ok && from < n; from += WRITE_STEP) {
        arena_clear(&scratch);
        ok = write_some(run, m, list, from, MIN((size_t)WRITE_STEP, n - from), &scratch, w, err) && cut_rest(run->pace, err);
    }
    arena_release(&scratch);
    return ok;
}

/* A range whose chunks turn out to be damaged, or to have nothing in it, has no block. */
static bool finish_block(struct cut_run *run, const struct block_meta *m, struct block_writer *w, uint64_t series_before, struct err *err)
{
    struct arena arena;
    struct block_meta written;
    if (run->result.n_series == series_before)
        return true;
    arena_init(&arena, 0);
    bool ok = block_writer_finish(w, &arena, &written, err);
    if (ok) {
        run->names[run->n_names++] = m->ulid;
        run->result.n_samples += written.stats.samples;
    }
    arena_release(&arena);
    return ok;
}

static bool write_range(struct cut_run *run, const struct cut_range *r, struct err *err)
{
    struct cut_meta m;
    struct arena arena;
    describe(run, r, &m);
    arena_init(&arena, 0);
    struct ctx ctx = {.tenant = run->h->tenant, .arena = &arena, .canceled = run->pace ? run->pace->stop : NULL};
    struct select_params p = {.min_t = m.meta.min_t, .max_t = m.meta.max_t - 1};
    const struct series_filter sorted = {.sorted = true};
    struct head_list *list = head_list_new(run->h, &ctx, &p, &sorted, &run->x, err);
    struct block_writer *w = NULL;
    uint64_t before = run->result.n_series;
    if (list) {
        size_t n_symbols;
        struct slice *symbols = head_list_symbols(list, &n_symbols);
        w = block_writer_new(run->dir, &m.meta, symbols, n_symbols, err);
        free(symbols);
    }
    bool ok = w && write_series(run, &m.meta, list, w, err) && finish_block(run, &m.meta, w, before, err);
    block_writer_free(w);
    run->damaged += list ? head_list_damaged(list) : 0;
    head_list_free(list);
    arena_release(&arena);
    return ok;
}

static bool write_blocks(struct cut_run *run, struct err *err)
{
    for (uint32_t i = 0; i < run->h->n_shards; i++)
        if (!find_ranges(run, &run->h->shards[i], err))
            return false;
    if (run->n_ranges && !local_blocks_pending_dir(run->lb, run->h->tenant, run->dir, sizeof(run->dir), err))
        return false;
    run->names = xcalloc(run->n_ranges, sizeof(*run->names));
    for (size_t i = 0; i < run->n_ranges; i++)
        if (!write_range(run, &run->ranges[i], err))
            return false;
    return true;
}

/* --- the cut --- */

static void take_out(struct cut_run *run)
{
    struct head_cuts *c = &run->h->cuts;
    pthread_mutex_lock(&c->lock);
    run->result.n_removed = head_truncate(run->h, run->x.cut, run->x.mark, run->pace);
    if (run->x.cut != CUT_ALL)
        c->until = MAX(c->until, run->x.cut);
    c->names = xrealloc(c->names, (c->n_names + run->n_names + 1) * sizeof(*c->names));
    if (run->n_names)
        memcpy(c->names + c->n_names, run->names, run->n_names * sizeof(*c->names));
    c->n_names += run->n_names;
    pthread_mutex_unlock(&c->lock);
}

bool head_cut(struct head *h, struct local_blocks *lb, bool out_of_order_label, int64_t cut, struct cut_pace *pace, struct cut_result *ret,
              struct err *err)
{
    struct cut_run run = {.h = h, .lb = lb, .label = out_of_order_label, .pace = pace, .x = {.cut = cut}};
    bool ok = head_seal(h, cut, pace, &run.x.mark, err);
    if (ok) {
        cut_point(pace, "sealed");
        ok = write_blocks(&run, err);
    }
    if (ok) {
        cut_point(pace, "written");
        ok = local_blocks_add(lb, h->tenant, run.names, run.n_names, err);
    }
    if (ok) {
        cut_point(pace, "added");
        take_out(&run);
        cut_point(pace, "truncated");
        run.result.n_blocks = run.n_names;
        *ret = run.result;
        if (run.damaged)
            LOG_ERROR("chunks are damaged and in no block", {"tenant", LOG_SLICE(h->tenant)}, {"chunks", LOG_U64(run.damaged)});
    } else {
        local_blocks_discard(lb, h->tenant, run.names, run.n_names);
    }
    free(run.ranges);
    free(run.names);
    return ok;
}

int64_t head_cut_ready(struct head *h)
{
    int64_t cut = head_oldest_in_order(atomic_load_explicit(&h->settled_t, memory_order_acquire));
    if (cut == INT64_MIN)
        return INT64_MIN;
    cut = chunk_range_start(cut);
    pthread_mutex_lock(&h->cuts.lock);
    bool ready = cut > h->cuts.until && atomic_load(&h->min_t) < cut;
    pthread_mutex_unlock(&h->cuts.lock);
    return ready ? cut : INT64_MIN;
}

/* --- the checkpoint after it --- */

bool head_save(struct head *h, struct local_blocks *lb, int64_t consumed, struct cut_pace *pace, uint64_t *ret_bytes, struct err *err)
{
    struct head_cuts *c = &h->cuts;
    pthread_mutex_lock(&c->lock);
    size_t n = c->n_names;
    struct ulid *names = xcalloc(n, sizeof(*names));
    if (n)
        memcpy(names, c->names, n * sizeof(*names));
    pthread_mutex_unlock(&c->lock);
    /* Names are only added meanwhile. */
    bool ok = head_checkpoint(h, consumed, ret_bytes, err);
    if (ok && n) {
        cut_point(pace, "saved");
        ok = local_blocks_publish(lb, h->tenant, names, n, err);
    }
    if (ok && n) {
        pthread_mutex_lock(&c->lock);
        c->n_names -= n;
        memmove(c->names, c->names + n, c->n_names * sizeof(*names));
        pthread_mutex_unlock(&c->lock);
        cut_point(pace, "published");
    }
    free(names);
    return ok;
}
