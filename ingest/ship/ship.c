/*
 * Rounds. A round is a list of jobs, one a tenant and source; as many threads as ship-concurrency and the jobs allow take one after the other and end with the
 * round: there is nothing to do for most of a minute. One round at a time, the thread's or that of somebody who has flushed; `busy` says that there is one,
 * and the condition that it has ended. The lock guards that, stopping, and the back-offs; it is not held across I/O.
 */
#include "ingest/ship/ship.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "ingest/ship/memory_int.h"
#include "storage/bucket/bucket.h"

#define METRICS_ROOM ship
#define METRICS_DEF "ingest/ship/ship_metrics.def"
#define METRICS_DEFINE
#include "base/metrics_table.h"

#define BACKOFF_MAX_MS 600000
#define LOOK_MS 40 /* how often who waits for a round looks whether it is still wanted */
#define DIR_MAX 512

const struct flag_def shipper_flags[] = {
#define FLAG(...) FLAG_ROW(shipper_config, __VA_ARGS__)
#include "ingest/ship/ship_flags.def"
#undef FLAG
};
const size_t shipper_flags_n = ARRAY_LEN(shipper_flags);

/* A tenant whose last round failed. */
struct backoff {
    struct backoff *next;
    const struct local_blocks *source;
    char *tenant; /* owned */
    int64_t pause_ms;
    int64_t until_ms; /* monotonic */
};

struct shipper {
    struct objstore *bucket;
    struct local_blocks **sources; /* owned array */
    size_t n_sources;
    const struct limits_provider *limits;
    struct shipper_config cfg;
    atomic_bool cancel; /* relaxed: written by stop, read by uploads */
    bool running;       /* of the thread that starts and stops */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* guarded by lock, as the rest: a round has ended, or stop */
    bool busy;
    bool stopping;
    struct backoff *backoffs;
};

struct job {
    struct local_blocks *source;
    struct slice tenant;
};

struct round {
    struct shipper *s;
    const struct ctx *ctx;
    bool patient; /* back-offs count */
    struct job *jobs;
    size_t n_jobs;
    atomic_size_t next;        /* job; relaxed */
    pthread_mutex_t lock;      /* guards first */
    struct err first;          /* error */
};

/* --- back-off ---------------------------------------------------------------------------------------------------------------- */

static struct backoff **find_backoff(struct shipper *s, const struct job *j)
{
    struct backoff **at = &s->backoffs;
    while (*at && ((*at)->source != j->source || !slice_eq(slice_of((*at)->tenant), j->tenant)))
        at = &(*at)->next;
    return at;
}

static bool is_waiting(struct shipper *s, const struct job *j)
{
    pthread_mutex_lock(&s->lock);
    const struct backoff *b = *find_backoff(s, j);
    bool waiting = b && clock_mono_ms() < b->until_ms;
    pthread_mutex_unlock(&s->lock);
    return waiting;
}

static void remember_outcome(struct shipper *s, const struct job *j, bool good)
{
    pthread_mutex_lock(&s->lock);
    struct backoff **at = find_backoff(s, j), *b = *at;
    if (good && b) {
        *at = b->next;
        free(b->tenant);
        free(b);
    } else if (!good) {
        if (!b) {
            b = *at = calloc(1, sizeof(*b));
            ASSERT(b);
            b->source = j->source;
            b->tenant = slice_strdup(j->tenant);
            ASSERT(b->tenant);
        }
        b->pause_ms = MIN(b->pause_ms ? b->pause_ms * 2 : MAX(s->cfg.ship_interval, 1), MAX(BACKOFF_MAX_MS, s->cfg.ship_interval));
        b->until_ms = clock_mono_ms() + b->pause_ms;
    }
    pthread_mutex_unlock(&s->lock);
}

/* --- one tenant -------------------------------------------------------------------------------------------------------------- */

/* A memory that is missing or damaged costs a look into the bucket for each block. */
static void read_memory(const struct local_blocks *source, struct slice tenant, struct memory *ret)
{
    char dir[DIR_MAX];
    struct err err = ERR_NONE;
    *ret = (struct memory){0};
    local_blocks_tenant_dir(source, tenant, dir, sizeof(dir));
    if (memory_read(ret, dir, &err))
        return;
    LOG_WARN("what was shipped is not known; the bucket will be asked", {"user", LOG_SLICE(tenant)}, {"err", LOG_ERR(&err)});
    memory_release(ret);
}

/* What is shipped and still kept here. */
static bool write_memory(const struct job *j, struct err *err)
{
    char dir[DIR_MAX];
    struct memory now = {0};
    size_t n;
    bool good = true;
    struct local_block_info *blocks = local_blocks_list(j->source, j->tenant, &n);
    for (size_t i = 0; good && i < n; i++) {
        good = !blocks[i].shipped_ms || memory_add(&now, &blocks[i].ulid, blocks[i].shipped_ms) ||
               err_set(err, ERR_NO_MEMORY, "no memory for what is shipped");
    }
    local_blocks_tenant_dir(j->source, j->tenant, dir, sizeof(dir));
    good = good && memory_write(&now, dir, err);
    free(blocks);
    memory_release(&now);
    return good;
}

static bool upload(struct shipper *s, const struct ctx *ctx, const struct job *j, const struct local_block_info *b, struct err *err)
{
    static const struct block_label out_of_order = {{BLOCK_LABEL_OUT_OF_ORDER, sizeof(BLOCK_LABEL_OUT_OF_ORDER) - 1}, {"true", 4}};
    struct bucket_upload as = {.source = SL("receive")};
    char dir[DIR_MAX];
    bool before = false;
    if (b->out_of_order && limits_of(s->limits, j->tenant)->out_of_order_blocks_external_label_enabled) {
        as.labels = &out_of_order;
        as.n_labels = 1;
    }
    local_blocks_tenant_dir(j->source, j->tenant, dir, sizeof(dir));
    if (!bucket_upload_block(s->bucket, ctx, j->tenant, dir, &b->ulid, &as, &before, err)) {
        metric_inc(metric_single(ship_metrics[SHIP_M_FAILURES]));
        return false;
    }
    local_blocks_set_shipped(j->source, j->tenant, &b->ulid, clock_wall_ms());
    if (before)
        return true;
    metric_inc(metric_single(ship_metrics[SHIP_M_UPLOADS]));
    metric_set(metric_single(ship_metrics[SHIP_M_LAST_UPLOAD]), (double)clock_wall_ms() / 1e3);
    LOG_INFO("a block was uploaded", {"user", LOG_SLICE(j->tenant)}, {"block", LOG_STR(b->ulid.text)}, {"min_time", LOG_I64(b->min_t)},
             {"max_time", LOG_I64(b->max_t)});
    return true;
}

static void keep_first(struct err *first, const struct err *why)
{
    if (first->code == ERR_OK)
        *first = *why;
}

/* All that are due, whatever becomes of the others; the first error is in *first. */
static void upload_all(struct shipper *s, const struct ctx *ctx, const struct job *j, const struct local_block_info *blocks, size_t n, struct err *first)
{
    size_t done = 0;
    for (size_t i = 0; i < n && ctx_check(ctx, NULL); i++) {
        struct err why = ERR_NONE;
        if (blocks[i].shipped_ms || blocks[i].damaged)
            continue;
        if (upload(s, ctx, j, &blocks[i], &why)) {
            done++;
            continue;
        }
        err_prefix(&why, "block %s of tenant %.*s: ", blocks[i].ulid.text, SL_FMT(j->tenant));
        if (ctx_check(ctx, NULL))
            LOG_ERROR("a block could not be uploaded", {"user", LOG_SLICE(j->tenant)}, {"err", LOG_ERR(&why)});
        keep_first(first, &why);
    }
    struct err why = ERR_NONE;
    if (done && !write_memory(j, &why)) {
        LOG_WARN("what was shipped cannot be remembered; the bucket will be asked", {"user", LOG_SLICE(j->tenant)}, {"err", LOG_ERR(&why)});
        keep_first(first, &why);
    }
}

/* Nothing is owed to a tenant that is marked for deletion: *ret_marked. */
static bool check_mark(struct shipper *s, const struct ctx *ctx, const struct job *j, bool *ret_marked, struct err *err)
{
    struct tenant_mark mark;
    struct err why = ERR_NONE;
    *ret_marked = bucket_read_tenant_mark(s->bucket, ctx, j->tenant, &mark, &why);
    /* A mark that cannot be understood is a mark. */
    *ret_marked |= why.code == ERR_CORRUPT;
    return *ret_marked || why.code == ERR_NOT_FOUND || err_set(err, why.code, "%s", why.text);
}

static void ship_tenant(struct shipper *s, const struct ctx *ctx, const struct job *j, struct err *first)
{
    size_t n, due = 0;
    bool marked;
    struct local_block_info *blocks = local_blocks_list(j->source, j->tenant, &n);
    for (size_t i = 0; i < n; i++)
        due += !blocks[i].shipped_ms && !blocks[i].damaged;
    if (due && check_mark(s, ctx, j, &marked, first)) {
        for (size_t i = 0; marked && i < n; i++)
            local_blocks_set_shipped(j->source, j->tenant, &blocks[i].ulid, clock_wall_ms());
        if (marked)
            LOG_INFO("a tenant that is marked for deletion has blocks: they are not uploaded", {"user", LOG_SLICE(j->tenant)}, {"blocks", LOG_U64(due)});
        else
            upload_all(s, ctx, j, blocks, n, first);
    }
    free(blocks);
}

/* --- a round ----------------------------------------------------------------------------------------------------------------- */

static void *work(void *arg)
{
    struct round *r = arg;
    size_t i;
    while ((i = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed)) < r->n_jobs && ctx_check(r->ctx, NULL)) {
        struct err first = ERR_NONE;
        if (r->patient && is_waiting(r->s, &r->jobs[i]))
            continue;
        ship_tenant(r->s, r->ctx, &r->jobs[i], &first);
        if (ctx_check(r->ctx, NULL))
            remember_outcome(r->s, &r->jobs[i], first.code == ERR_OK);
        pthread_mutex_lock(&r->lock);
        if (first.code != ERR_OK)
            keep_first(&r->first, &first);
        pthread_mutex_unlock(&r->lock);
    }
    return NULL;
}

/* This thread works too; the others are extra, so that a thread that cannot be made costs time only. */
static void work_together(struct round *r)
{
    pthread_t threads[SHIPPER_CONCURRENCY_MAX];
    size_t wanted = MIN((size_t)r->s->cfg.ship_concurrency, r->n_jobs), n = 0;
    while (n + 1 < wanted && pthread_create(&threads[n], NULL, work, r) == 0)
        n++;
    work(r);
    for (size_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

/* Tenants are listed once a source: *ret_lists[i] has the strings of the i-th. */
static void list_jobs(struct round *r, struct slice only, struct slice **ret_lists)
{
    for (size_t i = 0; i < r->s->n_sources; i++) {
        size_t n;
        ret_lists[i] = local_blocks_tenants(r->s->sources[i], &n);
        r->jobs = realloc(r->jobs, (r->n_jobs + n + 1) * sizeof(*r->jobs));
        ASSERT(r->jobs);
        for (size_t k = 0; k < n; k++)
            if (!only.p || slice_eq(only, ret_lists[i][k]))
                r->jobs[r->n_jobs++] = (struct job){r->s->sources[i], ret_lists[i][k]};
    }
}

static void show_oldest(const struct round *r)
{
    int64_t oldest_ms = 0;
    for (size_t i = 0; i < r->n_jobs; i++) {
        size_t n;
        struct local_block_info *blocks = local_blocks_list(r->jobs[i].source, r->jobs[i].tenant, &n);
        for (size_t k = 0; k < n; k++) {
            int64_t at_ms = ulid_time_ms(&blocks[k].ulid);
            if (!blocks[k].shipped_ms && (oldest_ms == 0 || at_ms < oldest_ms))
                oldest_ms = at_ms;
        }
        free(blocks);
    }
    metric_set(metric_single(ship_metrics[SHIP_M_OLDEST]), (double)(oldest_ms / 1000));
}

/* By whoever has set busy. */
static bool run(struct shipper *s, const struct ctx *ctx, struct slice only, bool patient, struct err *err)
{
    struct round r = {.s = s, .ctx = ctx, .patient = patient};
    struct slice **lists = calloc(s->n_sources + 1, sizeof(*lists));
    ASSERT(lists);
    pthread_mutex_init(&r.lock, NULL);
    list_jobs(&r, only, lists);
    work_together(&r);
    if (!only.p)
        show_oldest(&r);
    for (size_t i = 0; i < s->n_sources; i++)
        free(lists[i]);
    free(lists);
    free(r.jobs);
    pthread_mutex_destroy(&r.lock);
    if (r.first.code != ERR_OK)
        return err_set(err, r.first.code, "%s", r.first.text);
    return ctx_check(ctx, err);
}

static void wait_ms(struct shipper *s, int64_t ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ms % 1000 * 1000000;
    until.tv_sec += ms / 1000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&s->changed, &s->lock, &until);
}

static void end_round(struct shipper *s)
{
    s->busy = false;
    pthread_cond_broadcast(&s->changed);
}

bool shipper_ship(struct shipper *s, const struct ctx *ctx, struct slice tenant, struct err *err)
{
    struct ctx own = {.deadline_ms = ctx->deadline_ms, .canceled = ctx->canceled ? ctx->canceled : &s->cancel};
    pthread_mutex_lock(&s->lock);
    while (s->busy && ctx_check(&own, NULL))
        wait_ms(s, LOOK_MS);
    bool mine = !s->busy && ctx_check(&own, err);
    s->busy |= mine;
    pthread_mutex_unlock(&s->lock);
    if (!mine)
        return ctx_check(&own, err);
    bool good = run(s, &own, tenant, false, err);
    pthread_mutex_lock(&s->lock);
    end_round(s);
    pthread_mutex_unlock(&s->lock);
    return good;
}

static void *rounds(void *arg)
{
    struct shipper *s = arg;
    struct ctx ctx = {.canceled = &s->cancel};
    int64_t next_ms = clock_mono_ms();
    pthread_mutex_lock(&s->lock);
    while (!s->stopping) {
        int64_t left_ms = next_ms - clock_mono_ms();
        if (s->busy || left_ms > 0) {
            wait_ms(s, s->busy ? LOOK_MS : left_ms);
            continue;
        }
        s->busy = true;
        pthread_mutex_unlock(&s->lock);
        (void)run(s, &ctx, slice_make(NULL, 0), true, NULL); /* what failed was logged */
        pthread_mutex_lock(&s->lock);
        end_round(s);
        next_ms = clock_mono_ms() + s->cfg.ship_interval;
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* --- life cycle -------------------------------------------------------------------------------------------------------------- */

struct shipper *shipper_new(struct objstore *bucket, struct local_blocks *const *sources, size_t n_sources, const struct limits_provider *limits,
                            const struct shipper_config *cfg, struct err *err)
{
    if (cfg->ship_concurrency < 1 || cfg->ship_concurrency > SHIPPER_CONCURRENCY_MAX) {
        err_set(err, ERR_CONFIG, "-blocks-storage.tsdb.ship-concurrency must be from 1 to %d", SHIPPER_CONCURRENCY_MAX);
        return NULL;
    }
    struct shipper *s = calloc(1, sizeof(*s));
    ASSERT(s);
    ship_metrics_register();
    s->bucket = bucket;
    s->sources = malloc((n_sources + 1) * sizeof(*s->sources));
    ASSERT(s->sources);
    for (size_t i = 0; i < n_sources; i++) {
        s->sources[i] = sources[i];
        local_blocks_expect_shipper(sources[i]);
    }
    s->n_sources = n_sources;
    s->limits = limits;
    s->cfg = *cfg;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
    return s;
}

/* What the memories say of blocks that are still here. */
static void recall(struct shipper *s)
{
    for (size_t i = 0; i < s->n_sources; i++) {
        size_t n;
        struct slice *tenants = local_blocks_tenants(s->sources[i], &n);
        for (size_t k = 0; k < n; k++) {
            struct memory m;
            read_memory(s->sources[i], tenants[k], &m);
            for (size_t b = 0; b < m.n; b++)
                local_blocks_set_shipped(s->sources[i], tenants[k], &m.items[b].ulid, m.items[b].at_ms);
            memory_release(&m);
        }
        free(tenants);
    }
}

void shipper_start(struct shipper *s)
{
    ASSERT(!s->running);
    recall(s);
    if (s->cfg.ship_interval <= 0)
        return;
    s->running = pthread_create(&s->thread, NULL, rounds, s) == 0;
    ASSERT(s->running);
    pthread_setname_np(s->thread, "shipper");
}

void shipper_stop(struct shipper *s)
{
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    atomic_store_explicit(&s->cancel, true, memory_order_relaxed);
    pthread_cond_broadcast(&s->changed);
    while (s->busy)
        wait_ms(s, LOOK_MS);
    pthread_mutex_unlock(&s->lock);
    if (s->running)
        pthread_join(s->thread, NULL);
    s->running = false;
}

void shipper_free(struct shipper *s)
{
    if (!s)
        return;
    ASSERT(!s->running && !s->busy);
    while (s->backoffs) {
        struct backoff *b = s->backoffs;
        s->backoffs = b->next;
        free(b->tenant);
        free(b);
    }
    free(s->sources);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
