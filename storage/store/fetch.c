/*
 * Reading ranges of a block's files: joined where they lie close, several at a time, with the cache in front.
 *
 * With a cache a file is a row of pages of PAGE_BYTES. Pages that ranges touch and the cache does not have are read in runs, and put into it; so whatever parts
 * of a file queries ask for, they meet in the same items. Without a cache exactly the ranges are read. Lists of postings are kept by postings.c one by one.
 *
 * The calling thread reads too, and helpers that have not begun when it is done are not waited for: a busy pool costs parallelism, not time.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "storage/block/bytes.h"
#include "storage/store/store_int.h"

#define PAGE_BYTES ((uint64_t)16 << 10)
#define SMALL_GAP_BYTES PAGE_BYTES /* what is read along, and mostly in the same pages, may as well be looked at */
#define HELPERS_MAX 7
#define READ_BYTES_MAX ((size_t)1 << 30) /* callers ask for some MiB, but one entry may be large */
#define SERIES_TTL_MS ((int64_t)7 * 24 * 3600 * 1000)

void fetch_clear(struct fetch *f)
{
    f->n = f->total = f->n_ranges = f->n_wanted = f->wanted_bytes = 0;
}

void fetch_release(struct fetch *f)
{
    free(f->groups);
    free(f->ranges);
    free(f->bytes);
    *f = (struct fetch){0};
}

static void add_range(struct fetch *f, uint64_t from, uint64_t to)
{
    if (f->n_ranges == f->cap_ranges) {
        f->cap_ranges = f->cap_ranges ? 2 * f->cap_ranges : 64;
        f->ranges = realloc(f->ranges, f->cap_ranges * sizeof(*f->ranges));
        ASSERT(f->ranges);
    }
    f->ranges[f->n_ranges++] = (struct fetch_range){from, to, 1};
}

size_t fetch_want(struct fetch *f, uint32_t file, uint64_t from, uint64_t to, uint64_t max_gap)
{
    struct fetch_group *last = f->n ? &f->groups[f->n - 1] : NULL;
    ASSERT(from < to && (!last || file != last->file || from >= last->from));
    f->n_wanted++;
    f->wanted_bytes += to - from;
    if (last && file == last->file && (from <= last->to || from - last->to <= max_gap)) {
        struct fetch_range *before = &f->ranges[f->n_ranges - 1];
        f->total += MAX(to, last->to) - last->to;
        last->to = MAX(to, last->to);
        if (from <= before->to + SMALL_GAP_BYTES) {
            before->to = MAX(to, before->to);
            before->n_wanted++;
        } else {
            add_range(f, from, to);
        }
        return f->n - 1;
    }
    if (f->n == f->cap) {
        f->cap = f->cap ? 2 * f->cap : 64;
        f->groups = realloc(f->groups, f->cap * sizeof(*f->groups));
        ASSERT(f->groups);
    }
    f->groups[f->n] = (struct fetch_group){.file = file, .from = from, .to = to, .first_range = f->n_ranges};
    add_range(f, from, to);
    f->total += to - from;
    return f->n++;
}

const uint8_t *fetch_find(const struct fetch *f, struct fetch_place *at, uint32_t file, uint64_t offset, size_t *ret_n)
{
    for (; at->group < f->n; at->group++) {
        const struct fetch_group *g = &f->groups[at->group];
        if (g->file != file || offset < g->from || offset >= g->to)
            continue;
        at->range = MAX(at->range, g->first_range);
        while (f->ranges[at->range].to <= offset)
            at->range++;
        if (f->ranges[at->range].from > offset)
            return NULL;
        *ret_n = f->ranges[at->range].to - offset;
        return f->bytes + g->at + (offset - g->from);
    }
    return NULL;
}

/* --- reading, several at a time --- */

/* One request to the bucket. */
struct run {
    uint32_t file;
    uint64_t from, to;
    size_t group; /* whose bytes it has */
};

struct reading {
    struct store_block *b;
    const struct ctx *ctx;
    struct fetch *f;
    struct cache *cache; /* what is read goes there, page by page; or NULL */
    enum cache_item item;
    int64_t ttl_ms;
    struct run *runs; /* owned */
    size_t n, cap;
    atomic_size_t next; /* run that nobody has taken yet; relaxed */
    atomic_bool failed; /* relaxed: no more are begun */
    struct crew *crew;
    struct err err; /* guarded by the crew's lock: of the first that failed */
};

/* The threads of one reading. It outlives the reading where a helper comes only when all is done, so that nobody waits for one that has not begun. */
struct crew {
    pthread_mutex_t lock;
    pthread_cond_t idle;
    size_t refs;       /* guarded by lock, as the rest is */
    size_t at_work;    /* helpers that read */
    struct reading *r; /* NULL: it is over */
};

struct page_key {
    uint8_t bytes[1 + BLOCK_KEY_BYTES + 4 + 8];
};

static struct page_key key_of(const struct reading *r, uint32_t file, uint64_t page)
{
    struct page_key k;
    k.bytes[0] = r->item == CACHE_SERIES ? 'S' : 'C';
    memcpy(k.bytes + 1, r->b->key, BLOCK_KEY_BYTES);
    put_be32(k.bytes + 1 + BLOCK_KEY_BYTES, file);
    put_be32(k.bytes + 5 + BLOCK_KEY_BYTES, (uint32_t)(page >> 32));
    put_be32(k.bytes + 9 + BLOCK_KEY_BYTES, (uint32_t)page);
    return k;
}

/* Bytes of a file from `from` on, to where the group wants them. */
static void copy_to_group(struct fetch *f, const struct fetch_group *g, uint64_t from, struct slice bytes)
{
    uint64_t low = MAX(from, g->from), high = MIN(from + bytes.n, g->to);
    if (low < high)
        memcpy(f->bytes + g->at + (low - g->from), bytes.p + (low - from), high - low);
}

static bool read_run(struct reading *r, const struct run *run, struct buf *bytes, struct err *err)
{
    char name[OBJECT_NAME_MAX];
    buf_clear(bytes);
    bytes->max = run->to - run->from;
    if (!objstore_get(r->b->store->bucket, r->ctx, block_object(r->b, run->file, name), run->from, run->to - run->from, bytes, err)) {
        if (err->code == ERR_OUT_OF_RANGE)
            return block_corrupt(r->b, run->file, run->from, "the file is shorter than its block says", err);
        return false;
    }
    copy_to_group(r->f, &r->f->groups[run->group], run->from, buf_slice(bytes));
    for (uint64_t at = run->from; r->cache && at < run->to; at += PAGE_BYTES) {
        struct page_key k = key_of(r, run->file, at / PAGE_BYTES);
        struct slice page = slice_make(bytes->p + (at - run->from), MIN(PAGE_BYTES, run->to - at));
        cache_put(r->cache, r->item, slice_make(k.bytes, sizeof(k.bytes)), page, r->ttl_ms);
    }
    return true;
}

static void read_runs(struct reading *r)
{
    struct buf bytes;
    struct err err = ERR_NONE;
    bool good = true;
    buf_init(&bytes, 0);
    while (good && !atomic_load_explicit(&r->failed, memory_order_relaxed)) {
        size_t i = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed);
        if (i >= r->n)
            break;
        good = read_run(r, &r->runs[i], &bytes, &err);
    }
    buf_release(&bytes);
    if (good)
        return;
    pthread_mutex_lock(&r->crew->lock);
    if (!atomic_exchange_explicit(&r->failed, true, memory_order_relaxed))
        r->err = err;
    pthread_mutex_unlock(&r->crew->lock);
}

/* Under the lock, which it gives back. */
static void crew_unref(struct crew *c)
{
    bool last = --c->refs == 0;
    pthread_mutex_unlock(&c->lock);
    if (!last)
        return;
    pthread_cond_destroy(&c->idle);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static void help(void *job, struct arena *arena)
{
    struct crew *c = job;
    (void)arena;
    pthread_mutex_lock(&c->lock);
    if (c->r) {
        c->at_work++;
        pthread_mutex_unlock(&c->lock);
        read_runs(c->r);
        pthread_mutex_lock(&c->lock);
        if (--c->at_work == 0)
            pthread_cond_signal(&c->idle);
    }
    crew_unref(c);
}

static struct crew *crew_new(struct reading *r)
{
    struct crew *c = calloc(1, sizeof(*c));
    ASSERT(c);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->idle, NULL);
    c->refs = 1;
    c->r = r;
    return c;
}

static void call_helpers(struct crew *c, struct pool *pool, size_t n)
{
    pthread_mutex_lock(&c->lock);
    c->refs += n;
    pthread_mutex_unlock(&c->lock);
    size_t called = 0;
    while (called < n && pool_submit(pool, help, c))
        called++;
    pthread_mutex_lock(&c->lock);
    c->refs -= n - called;
    pthread_mutex_unlock(&c->lock);
}

static bool read_all(struct reading *r, struct err *err)
{
    struct crew *c = r->crew = crew_new(r);
    if (r->n > 1)
        call_helpers(c, r->b->store->fetchers, MIN(r->n - 1, (size_t)HELPERS_MAX));
    read_runs(r);
    pthread_mutex_lock(&c->lock);
    while (c->at_work)
        pthread_cond_wait(&c->idle, &c->lock);
    c->r = NULL;
    crew_unref(c);
    return !atomic_load_explicit(&r->failed, memory_order_relaxed) || err_set(err, r->err.code, "%s", r->err.text);
}

static void add_run(struct reading *r, const struct run *run)
{
    if (r->n == r->cap) {
        r->cap = r->cap ? 2 * r->cap : 64;
        r->runs = realloc(r->runs, r->cap * sizeof(*r->runs));
        ASSERT(r->runs);
    }
    r->runs[r->n++] = *run;
}

/* --- pages --- */

struct wanted_page {
    uint64_t page;
    size_t group;
    bool found;
};

struct pages {
    struct reading *r;
    struct wanted_page *items; /* owned */
    size_t n;
    uint64_t cached_bytes;
};

static void found_page(void *arg, size_t i, struct slice value)
{
    struct pages *p = arg;
    struct wanted_page *w = &p->items[i];
    const struct fetch_group *g = &p->r->f->groups[w->group];
    /* The last page of a file is shorter; one that does not reach as far as the group wants is of another file's making. */
    if (value.n > PAGE_BYTES || (value.n < PAGE_BYTES && w->page * PAGE_BYTES + value.n < g->to))
        return;
    copy_to_group(p->r->f, g, w->page * PAGE_BYTES, value);
    w->found = true;
    p->cached_bytes += value.n;
}

static void ask_cache(struct pages *p)
{
    struct page_key *keys = malloc(p->n * sizeof(*keys));
    struct slice *slices = malloc(p->n * sizeof(*slices));
    ASSERT(keys && slices);
    for (size_t i = 0; i < p->n; i++) {
        keys[i] = key_of(p->r, p->r->f->groups[p->items[i].group].file, p->items[i].page);
        slices[i] = slice_make(keys[i].bytes, sizeof(keys[i].bytes));
    }
    cache_get_multi(p->r->cache, p->r->ctx, p->r->item, slices, p->n, found_page, p);
    free(slices);
    free(keys);
}

/* Missing pages of a group with none between them that was found are one run: what lies between is a gap that is read along. */
static bool runs_of_missing(struct pages *p, struct err *err)
{
    for (size_t i = 0, end; i < p->n; i = end) {
        const struct wanted_page *w = &p->items[i];
        uint32_t file = p->r->f->groups[w->group].file;
        uint64_t file_bytes;
        for (end = i + 1; end < p->n && !p->items[end].found && p->items[end].group == w->group;)
            end++;
        if (w->found)
            end = i + 1;
        if (w->found)
            continue;
        if (!block_file_bytes(p->r->b, p->r->ctx, file, &file_bytes, err))
            return false;
        struct run run = {file, w->page * PAGE_BYTES, MIN((p->items[end - 1].page + 1) * PAGE_BYTES, file_bytes), w->group};
        if (run.from >= run.to || run.to < MIN(p->r->f->groups[w->group].to, (p->items[end - 1].page + 1) * PAGE_BYTES))
            return block_corrupt(p->r->b, file, file_bytes, "the file is shorter than its block says", err);
        add_run(p->r, &run);
    }
    return true;
}

/* The pages that a group's ranges touch. */
static void add_pages(struct pages *p, size_t group)
{
    const struct fetch *f = p->r->f;
    size_t end = group + 1 < f->n ? f->groups[group + 1].first_range : f->n_ranges, first = p->n;
    for (size_t i = f->groups[group].first_range; i < end; i++) {
        uint64_t page = f->ranges[i].from / PAGE_BYTES, last = (f->ranges[i].to - 1) / PAGE_BYTES;
        if (p->n > first)
            page = MAX(page, p->items[p->n - 1].page + 1);
        for (; page <= last; page++)
            p->items[p->n++] = (struct wanted_page){page, group, false};
    }
}

static bool plan_pages(struct reading *r, struct store_stats *stats, struct err *err)
{
    struct pages p = {.r = r};
    size_t max = 0;
    for (size_t i = 0; i < r->f->n_ranges; i++)
        max += (r->f->ranges[i].to - 1) / PAGE_BYTES - r->f->ranges[i].from / PAGE_BYTES + 1;
    p.items = malloc((max + 1) * sizeof(*p.items));
    ASSERT(p.items);
    for (size_t i = 0; i < r->f->n; i++)
        add_pages(&p, i);
    ask_cache(&p);
    stats->cached_bytes += p.cached_bytes;
    bool good = runs_of_missing(&p, err);
    free(p.items);
    return good;
}

/* --- the whole --- */

static bool place_groups(struct fetch *f, struct err *err)
{
    size_t at = 0;
    if (f->total > READ_BYTES_MAX)
        return err_set(err, ERR_TOO_LARGE, "%zu bytes of a block are wanted at once, and no more than %zu can be", f->total, READ_BYTES_MAX);
    if (f->total > f->cap_bytes) {
        free(f->bytes);
        f->bytes = malloc(f->total);
        f->cap_bytes = f->bytes ? f->total : 0;
        if (!f->bytes)
            return err_set(err, ERR_NO_MEMORY, "no memory to read %zu bytes of a block", f->total);
    }
    for (size_t i = 0; i < f->n; i++) {
        f->groups[i].at = at;
        at += f->groups[i].to - f->groups[i].from;
    }
    ASSERT(at == f->total);
    return true;
}

static void count_ranges(const struct store *s, enum fetch_kind kind, const struct fetch *f)
{
    const struct store_metrics_of *m = &s->kinds[kind];
    metric_add(m->requested_bytes, (double)f->wanted_bytes);
    metric_add(m->requested_ranges, (double)f->n_wanted);
    metric_add(m->expanded_bytes, (double)f->total);
    metric_add(m->expanded_ranges, (double)f->n);
}

void store_stats_add(struct store_stats *to, const struct store_stats *from)
{
    to->postings_fetched_bytes += from->postings_fetched_bytes;
    to->series_fetched_bytes += from->series_fetched_bytes;
    to->chunks_fetched_bytes += from->chunks_fetched_bytes;
    to->postings_fetched += from->postings_fetched;
    to->series_fetched += from->series_fetched;
    to->chunks_fetched += from->chunks_fetched;
    to->postings_touched += from->postings_touched;
    to->series_touched += from->series_touched;
    to->chunks_touched += from->chunks_touched;
    to->postings_touched_bytes += from->postings_touched_bytes;
    to->series_touched_bytes += from->series_touched_bytes;
    to->chunks_touched_bytes += from->chunks_touched_bytes;
    to->cached_bytes += from->cached_bytes;
}

/* Whatever is wanted of ranges that runs touch. Both are in the order of groups, and of bytes within them. */
static uint64_t count_touched(const struct reading *r)
{
    const struct fetch *f = r->f;
    uint64_t n = 0;
    for (size_t i = 0, g = 0, k = 0; i < f->n_ranges; i++) {
        while (g + 1 < f->n && i >= f->groups[g + 1].first_range)
            g++;
        while (k < r->n && (r->runs[k].group < g || (r->runs[k].group == g && r->runs[k].to <= f->ranges[i].from)))
            k++;
        n += k < r->n && r->runs[k].group == g && r->runs[k].from < f->ranges[i].to ? f->ranges[i].n_wanted : 0;
    }
    return n;
}

static void count_fetched(const struct reading *r, enum fetch_kind kind, struct store_stats *stats)
{
    uint64_t bytes = 0, n = count_touched(r);
    for (size_t i = 0; i < r->n; i++)
        bytes += r->runs[i].to - r->runs[i].from;
    const struct store_stats fetched = {
        .postings_fetched_bytes = kind == FETCH_POSTINGS ? bytes : 0,
        .postings_fetched = kind == FETCH_POSTINGS ? n : 0,
        .series_fetched_bytes = kind == FETCH_SERIES ? bytes : 0,
        .series_fetched = kind == FETCH_SERIES ? n : 0,
        .chunks_fetched_bytes = kind == FETCH_CHUNKS ? bytes : 0,
        .chunks_fetched = kind == FETCH_CHUNKS ? n : 0,
    };
    store_stats_add(stats, &fetched);
}

bool fetch_read(struct store_block *b, const struct ctx *ctx, enum fetch_kind kind, struct fetch *f, struct store_stats *stats, struct err *err)
{
    struct store *s = b->store;
    struct reading r = {.b = b, .ctx = ctx, .f = f, .item = kind == FETCH_SERIES ? CACHE_SERIES : CACHE_CHUNKS};
    if (f->n == 0)
        return true;
    if (!place_groups(f, err))
        return false;
    count_ranges(s, kind, f);
    r.cache = kind == FETCH_POSTINGS ? NULL : kind == FETCH_SERIES ? s->index_cache : s->chunks_cache;
    r.ttl_ms = kind == FETCH_SERIES ? SERIES_TTL_MS : MAX(s->cfg.chunks_subrange_ttl, 1);
    bool good = true;
    if (r.cache)
        good = plan_pages(&r, stats, err);
    else
        for (size_t i = 0; i < f->n; i++)
            add_run(&r, &(struct run){f->groups[i].file, f->groups[i].from, f->groups[i].to, i});
    count_fetched(&r, kind, stats);
    good = good && read_all(&r, err);
    free(r.runs);
    return good;
}

bool fetch_one(struct store_block *b, const struct ctx *ctx, enum fetch_kind kind, uint32_t file, uint64_t from, uint64_t n, struct buf *out,
               struct store_stats *stats, struct err *err)
{
    struct fetch f = {0};
    fetch_want(&f, file, from, from + n, 0);
    buf_clear(out);
    bool good = fetch_read(b, ctx, kind, &f, stats, err);
    if (good)
        buf_put(out, f.bytes, n);
    fetch_release(&f);
    return good && (!out->failed || err_set(err, ERR_NO_MEMORY, "no memory to read a block"));
}
