/*
 * The consumer thread: log -> heads. Records of one tenant in a row are applied together (a group), which ends at
 * another tenant, at GROUP_ROWS series, or with the batch that was fetched. Everything below `consumed` is in the
 * heads.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "ingest/ingester_int.h"
#include "log/record.h"
#include "model/discarded.h"
#include "model/tenant.h"

#define GROUP_ROWS 8192u
#define GROUP_RECORDS 1024u
#define FETCH_WAIT_MS 200
#define RETRY_MS 250
#define RETRY_MAX_MS 2000 /* of fetches */
#define LOG_LINE_MS 1000
#define MISSED_MAX_MS 15000
/* At stop: how long to go on consuming, and how long to wait for a disk that takes nothing. */
#define STOP_DRAIN_MS 20000

struct group {
    struct head *head; /* NULL = empty */
    struct head_record recs[GROUP_RECORDS];
    struct write_request decoded[GROUP_RECORDS]; /* of records without a hint */
    size_t n_recs;
    struct head_row *rows;
    struct head_row *sorted;
    size_t n_rows;
    size_t cap_rows;
    struct arena arena; /* decoded requests and histograms */
};

struct consumer {
    struct ingester *ing;
    struct group group;
    int64_t stop_at_ms; /* 0 = not stopping */
    int64_t stop_below; /* stopping: what lies below this offset is consumed first */
    int64_t retry_ms;   /* pause after the next failed fetch */
    int64_t missed_until_ms; /* nobody waits for what was missed after this */
    struct metric *m_hinted;
    struct metric *m_decoded;
    struct metric *m_bytes;
};

static void sleep_ms(int64_t ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* A line about a record at most once a second, with how many were left out. */
static bool may_log(struct ingester *ing)
{
    int64_t now = clock_mono_ms();
    if (ing->log_line_ms && now - ing->log_line_ms < LOG_LINE_MS) {
        ing->log_line_skipped++;
        return false;
    }
    ing->log_line_ms = now;
    return true;
}

static void skip_record(struct ingester *ing, const struct plog_record *rec, const struct err *err)
{
    metric_inc(metric_get(ingest_metrics[READER_REQUESTS_FAILED], &SL("client")));
    if (!may_log(ing))
        return;
    LOG_WARN("a record is passed over", {"partition", LOG_I64(rec->partition)}, {"offset", LOG_I64(rec->offset)},
             {"tenant", LOG_SLICE(rec->tenant)}, {"err", LOG_ERR(err)}, {"not_logged", LOG_U64(ing->log_line_skipped)});
    ing->log_line_skipped = 0;
}

static bool out_of_time(const struct consumer *c)
{
    return c->stop_at_ms && clock_mono_ms() > c->stop_at_ms;
}

/* --- groups --- */

/*
 * Full chunks that the disk does not take stay in memory, to a bound; then nothing more is applied until it takes them.
 * False: stopping, and the disk is still full: the log has the rest.
 */
static bool wait_for_disk(struct consumer *c, struct head *h)
{
    struct ingester *ing = c->ing;
    bool said = false;
    while (chunk_store_stalled(h->chunks)) {
        struct err err;
        if (chunk_store_flush(h->chunks, true, &err))
            break;
        metric_inc(metric_single(ingest_metrics[INGESTER_CHUNK_WRITE_FAILURES]));
        if (!said)
            LOG_ERROR("consumption waits for the disk to take chunks", {"tenant", LOG_SLICE(h->tenant)},
                      {"err", LOG_ERR(&err)});
        said = true;
        atomic_store(&ing->stalled, true);
        metric_set(ing->m_stalled, 1);
        if (atomic_load(&ing->stop_consumer) && !c->stop_at_ms)
            c->stop_at_ms = clock_mono_ms() + RETRY_MS;
        if (out_of_time(c))
            return false;
        sleep_ms(RETRY_MS);
    }
    if (said)
        LOG_INFO("the disk takes chunks again", {"tenant", LOG_SLICE(h->tenant)});
    atomic_store(&ing->stalled, false);
    metric_set(ing->m_stalled, 0);
    return true;
}

/* Opens a closed head, however long the disk takes; false: stopping. */
static bool enter_head(struct consumer *c, struct head *h)
{
    struct err err;
    while (!head_enter(h, &err)) {
        if (may_log(c->ing))
            LOG_ERROR("consumption waits for the disk to take a tenant's folder", {"tenant", LOG_SLICE(h->tenant)}, {"err", LOG_ERR(&err)});
        if (atomic_load(&c->ing->stop_consumer) && !c->stop_at_ms)
            c->stop_at_ms = clock_mono_ms() + RETRY_MS;
        if (out_of_time(c))
            return false;
        sleep_ms(RETRY_MS);
    }
    return true;
}

static void note_refusals(const struct head_counts *c)
{
    uint64_t refused = 0;
    for (int r = 1; r < REFUSALS; r++)
        refused += c->refused[r];
    if (refused)
        metric_inc(metric_get(ingest_metrics[READER_REQUESTS_FAILED], &SL("client")));
    if (c->refused[REFUSAL_INSTANCE_LIMIT])
        metric_inc(metric_get(ingest_metrics[INGESTER_INSTANCE_REJECTED], &SL("ingester_max_series")));
    if (c->exemplars)
        metric_add(metric_single(ingest_metrics[INGESTER_INGESTED_EXEMPLARS]), (double)c->exemplars);
}

static void group_clear(struct group *g)
{
    g->head = NULL;
    g->n_recs = 0;
    g->n_rows = 0;
    arena_clear(&g->arena);
}

/* Applies the group, if there is one; false when stopping with a full disk. */
static bool group_apply(struct consumer *c)
{
    struct group *g = &c->group;
    if (!g->head)
        return true;
    struct head *h = g->head;
    if (!enter_head(c, h))
        return false;
    if (!wait_for_disk(c, h)) {
        head_leave(h);
        return false;
    }
    struct head_counts counts;
    int64_t begin = clock_mono_ns();
    head_apply(h, limits_of(c->ing->limits, h->tenant), g->recs, g->n_recs, g->rows, g->sorted, g->n_rows, &g->arena,
               &counts);
    head_publish(h, &counts);
    note_refusals(&counts);
    metric_inc(metric_single(ingest_metrics[READER_REQUESTS]));
    struct err err;
    if (!chunk_store_flush(h->chunks, false, &err)) {
        metric_inc(metric_single(ingest_metrics[INGESTER_CHUNK_WRITE_FAILURES]));
        if (may_log(c->ing))
            LOG_ERROR("full chunks stay in memory", {"tenant", LOG_SLICE(h->tenant)}, {"err", LOG_ERR(&err)});
    }
    head_leave(h);
    metric_observe(metric_single(ingest_metrics[READER_PROCESS_SECONDS]), (double)(clock_mono_ns() - begin) / 1e9);
    group_clear(g);
    return true;
}

static void row_add(struct group *g, const struct write_series *s)
{
    if (s->flags & WRITE_SERIES_REJECTED)
        return;
    if (g->n_rows == g->cap_rows) {
        g->cap_rows = MAX((size_t)GROUP_ROWS, g->cap_rows * 2);
        g->rows = xrealloc(g->rows, g->cap_rows * sizeof(*g->rows));
        g->sorted = xrealloc(g->sorted, g->cap_rows * sizeof(*g->sorted));
    }
    g->rows[g->n_rows++] = (struct head_row){.hash = s->hash, .series = s, .record = (uint32_t)g->n_recs};
}

/* --- metadata --- */

static void metadata_put(struct head *h, const struct limits *limits, const struct write_metadata *md, int64_t now_ms)
{
    static const char *const reasons[] = {
        [METADATA_USER_LIMIT] = "per_user_metadata_limit", [METADATA_METRIC_LIMIT] = "per_metric_metadata_limit"};
    enum metadata_result r = metadata_add(&h->metadata, limits, md, now_ms);
    if (r == METADATA_NEW)
        metric_inc(h->metrics.metadata_created);
    if (r == METADATA_NEW || r == METADATA_SEEN) {
        metric_inc(metric_single(ingest_metrics[INGESTER_INGESTED_METADATA]));
        return;
    }
    metric_inc(metric_single(ingest_metrics[INGESTER_INGESTED_METADATA_FAILURES]));
    discard_count(DISCARD_METADATA, reasons[r], h->tenant, 1);
}

/* --- records --- */

/* The work that the distributor has done, when it is of use here. */
static const struct record_hint *usable_hint(const struct ingester *ing, const struct plog_record *rec)
{
    const struct record_hint *hint = rec->hint ? CONTAINER_OF(rec->hint, struct record_hint, hint) : NULL;
    return hint && hint->batch->hashed && hint->batch->hash_seed == ing->hash_seed ? hint : NULL;
}

static void add_hinted(struct group *g, const struct limits *limits, const struct record_hint *hint, int64_t now_ms)
{
    const struct write_request *req = &hint->batch->req;
    g->recs[g->n_recs].req = req;
    if (hint->series)
        for (size_t i = 0; i < hint->n_series; i++)
            row_add(g, &req->series[hint->series[i]]);
    else
        for (size_t i = 0; i < req->n_series; i++)
            row_add(g, &req->series[i]);
    size_t n = hint->metadata ? hint->n_metadata : req->n_metadata;
    for (size_t i = 0; i < n; i++)
        metadata_put(g->head, limits, &req->metadata[hint->metadata ? hint->metadata[i] : i], now_ms);
}

static void add_decoded(struct group *g, const struct limits *limits, const struct write_request *req, int64_t now_ms)
{
    g->recs[g->n_recs].req = req;
    for (size_t i = 0; i < req->n_series; i++)
        row_add(g, &req->series[i]);
    for (size_t i = 0; i < req->n_metadata; i++)
        metadata_put(g->head, limits, &req->metadata[i], now_ms);
}

/* Samples of a tenant that is one too many are counted: they are series of no head. */
static void count_tenant_refused(const struct plog_record *rec, const struct write_request *req)
{
    metric_inc(metric_get(ingest_metrics[INGESTER_INSTANCE_REJECTED], &SL("ingester_max_tenants")));
    discard_count(DISCARD_SAMPLES, refusal_reason(REFUSAL_TENANT_LIMIT), rec->tenant,
                  req->n_samples + req->n_histograms);
}

/* The decoded form goes to the group's arena. When that is too full of other records, those are applied first. NULL: it
 * cannot be read. */
static struct write_request *decode(struct consumer *c, const struct plog_record *rec, struct err *err)
{
    struct group *g = &c->group;
    struct write_request *req = &g->decoded[g->n_recs];
    if (record_decode(rec, c->ing->hash_seed, &g->arena, req, err))
        return req;
    if (g->n_recs == 0 || !g->arena.overflow || !group_apply(c))
        return NULL;
    req = &g->decoded[0];
    return record_decode(rec, c->ing->hash_seed, &g->arena, req, err) ? req : NULL;
}

/* One record into the group, which ends here when it is of another tenant or full. False only when stopping with a full
 * disk. */
static bool consume_record(struct consumer *c, const struct plog_record *rec)
{
    struct ingester *ing = c->ing;
    struct group *g = &c->group;
    struct err err;
    if (!tenant_id_valid(rec->tenant, &err)) {
        skip_record(ing, rec, &err);
        return true;
    }
    bool full = g->n_rows >= GROUP_ROWS || g->n_recs == GROUP_RECORDS;
    if (g->head && (full || !slice_eq(g->head->tenant, rec->tenant)) && !group_apply(c))
        return false;
    const struct record_hint *hint = usable_hint(ing, rec);
    const struct write_request *req = hint ? &hint->batch->req : decode(c, rec, &err);
    struct head *h = req ? ingester_head(ing, rec->tenant, &err) : NULL;
    if (!h) {
        skip_record(ing, rec, &err);
        if (req)
            count_tenant_refused(rec, req);
        return true;
    }
    g->head = h;
    g->recs[g->n_recs] = (struct head_record){.offset = rec->offset, .timestamp_ms = rec->timestamp_ms};
    const struct limits *limits = limits_of(ing->limits, h->tenant);
    if (hint)
        add_hinted(g, limits, hint, rec->timestamp_ms);
    else
        add_decoded(g, limits, req, rec->timestamp_ms);
    g->n_recs++;
    metric_inc(hint ? c->m_hinted : c->m_decoded);
    metric_add(c->m_bytes, (double)req->message.n);
    atomic_fetch_add_explicit(&ing->record_bytes, req->message.n, memory_order_relaxed);
    return true;
}

static void note_batch(struct ingester *ing, const struct plog_batch *b)
{
    struct slice phase = atomic_load_explicit(&ing->ready, memory_order_relaxed) ? SL("running") : SL("starting");
    struct metric *delay = metric_get(ingest_metrics[READER_RECEIVE_DELAY], &phase);
    int64_t now_ms = clock_wall_ms();
    for (size_t i = 0; i < b->n; i++)
        metric_observe(delay, (double)MAX(now_ms - b->records[i].timestamp_ms, 0) / 1e3);
    metric_set(metric_single(ingest_metrics[READER_BUFFERED_RECORDS]), (double)b->n);
    metric_inc(metric_single(ingest_metrics[READER_FETCHES]));
    metric_observe(metric_single(ingest_metrics[READER_RECORDS_PER_FETCH]), (double)b->n);
}

/* The first n records of the batch are in the heads. */
static void note_consumed(struct ingester *ing, const struct plog_batch *b, size_t n)
{
    struct slice phase = atomic_load_explicit(&ing->ready, memory_order_relaxed) ? SL("running") : SL("starting");
    struct metric *delay = metric_get(ingest_metrics[READER_CONSUME_DELAY], &phase);
    int64_t now_ms = clock_wall_ms();
    for (size_t i = 0; i < n; i++)
        metric_observe(delay, (double)MAX(now_ms - b->records[i].timestamp_ms, 0) / 1e3);
    if (n)
        atomic_store_explicit(&ing->newest_ms, b->records[n - 1].timestamp_ms, memory_order_relaxed);
    metric_set(metric_single(ingest_metrics[READER_BUFFERED_RECORDS]), 0);
}

static void note_gap(struct ingester *ing, int64_t expected, int64_t got)
{
    metric_add(metric_single(ingest_metrics[READER_MISSED_RECORDS]), (double)(got - expected));
    LOG_WARN("records are gone from the log that were not consumed", {"partition", LOG_I64(ing->partition)},
             {"from", LOG_I64(expected)}, {"to", LOG_I64(got)});
}

/*
 * Applies a batch, up to a record whose hint is of no use here: such a record comes without its value, and is fetched
 * once more from there on. What was applied is published. False only when stopping with a full disk.
 */
static bool consume_batch(struct consumer *c, const struct plog_batch *b)
{
    struct ingester *ing = c->ing;
    int64_t next = b->next_offset;
    note_batch(ing, b);
    if (b->records[0].offset > ing->position)
        note_gap(ing, ing->position, b->records[0].offset);
    size_t n = 0;
    for (; n < b->n; n++) {
        if (b->records[n].hint && !usable_hint(ing, &b->records[n])) {
            next = b->records[n].offset;
            break;
        }
        if (!consume_record(c, &b->records[n]))
            return false;
    }
    if (!group_apply(c))
        return false;
    note_consumed(ing, b, n);
    ing->position = next;
    ingester_publish(ing, next - 1);
    return true;
}

/* --- the loop --- */

static void reset_position(struct ingester *ing)
{
    int64_t first;
    int64_t next;
    struct err err;
    if (!plog_offsets(ing->log, ing->partition, &first, &next, &err) || ing->position <= next) {
        sleep_ms(RETRY_MS);
        return;
    }
    LOG_ERROR("the position to read from is beyond the end of the log: reading all of it",
              {"partition", LOG_I64(ing->partition)}, {"position", LOG_I64(ing->position)}, {"end", LOG_I64(next)});
    if (ingester_rewind(ing, first, &err))
        ing->position = first;
    else
        LOG_ERROR("no checkpoint could be written", {"err", LOG_ERR(&err)});
    sleep_ms(RETRY_MS);
}

/*
 * Notes that the process runs. When it did not for a while, reads wait for what the log holds now (ingester_awake): an owner that was frozen would answer with
 * what it knew before, as long as its last heartbeat is fresh enough. A log that is away ends that after a time.
 */
static void look(struct consumer *c)
{
    struct ingester *ing = c->ing;
    int64_t now_ms = clock_mono_ms();
    int64_t before_ms = atomic_load_explicit(&ing->looked_ms, memory_order_relaxed);
    int64_t missed = atomic_load_explicit(&ing->missed, memory_order_relaxed);
    if (before_ms && now_ms - before_ms > STOOD_STILL_MS && atomic_load_explicit(&ing->ready, memory_order_relaxed)) {
        LOG_WARN("the consumer did not run for a while", {"partition", LOG_I64(ing->partition)}, {"ms", LOG_I64(now_ms - before_ms)});
        missed = INT64_MAX;
        c->missed_until_ms = now_ms + MISSED_MAX_MS;
    }
    int64_t first;
    int64_t next;
    if (missed && (now_ms > c->missed_until_ms || ing->position >= missed))
        missed = 0;
    else if (missed == INT64_MAX && plog_offsets(ing->log, ing->partition, &first, &next, NULL))
        missed = next;
    atomic_store_explicit(&ing->missed, missed, memory_order_relaxed);
    atomic_store_explicit(&ing->looked_ms, clock_mono_ms(), memory_order_release);
}

/* The log may be away for as long as it likes: whoever asks meanwhile gets what is here. */
static void fetch_failed(struct consumer *c, const struct err *err)
{
    struct ingester *ing = c->ing;
    metric_inc(metric_single(ingest_metrics[READER_FETCH_ERRORS]));
    if (err->code == ERR_NOT_FOUND) {
        reset_position(ing);
        return;
    }
    if (may_log(ing))
        LOG_ERROR("cannot fetch from the log", {"partition", LOG_I64(ing->partition)}, {"err", LOG_ERR(err)});
    look(c);
    sleep_ms(c->retry_ms);
    c->retry_ms = MIN(2 * c->retry_ms, RETRY_MAX_MS);
}

/*
 * While stopping: is everything consumed that this process has produced? That is what the next start need not replay,
 * at no question to a log elsewhere; what others go on to produce has no end.
 */
static bool drained(struct consumer *c)
{
    struct ingester *ing = c->ing;
    if (!atomic_load(&ing->stop_consumer))
        return false;
    if (!c->stop_at_ms)
        c->stop_at_ms = clock_mono_ms() + STOP_DRAIN_MS;
    if (!c->stop_below && (!plog_acknowledged(ing->log, ing->partition, &c->stop_below, NULL) || !c->stop_below))
        return true;
    return ing->position >= c->stop_below || out_of_time(c);
}

/* No record; but damaged ones may have been passed over. */
static void nothing_there(struct ingester *ing, const struct plog_batch *b)
{
    if (b->next_offset > ing->position) {
        note_gap(ing, ing->position, b->next_offset);
        ing->position = b->next_offset;
        ingester_publish(ing, ing->position - 1);
    }
    atomic_store_explicit(&ing->progress_ms, clock_mono_ms(), memory_order_relaxed);
}

/* The batch is consumed as a whole: so far the heads are complete. */
static void note_complete(struct ingester *ing, const struct plog_batch *b, int64_t fetched_ms)
{
    if (b->n)
        atomic_store_explicit(&ing->fetched_ms, fetched_ms, memory_order_relaxed);
    if (b->complete_ms && ing->position >= b->next_offset)
        atomic_store_explicit(&ing->complete_ms, b->complete_ms, memory_order_release);
}

/* A batch that was fetched; false only when stopping with a full disk. */
static bool take_batch(struct consumer *c, const struct plog_batch *b, int64_t asked_ns)
{
    struct ingester *ing = c->ing;
    int64_t fetched_ms = clock_mono_ms();
    if (b->n == 0) {
        nothing_there(ing, b);
        note_complete(ing, b, fetched_ms);
        return true;
    }
    metric_observe(metric_single(ingest_metrics[READER_WAIT_SECONDS]), (double)(clock_mono_ns() - asked_ns) / 1e9);
    atomic_store(&ing->applying, true);
    bool ok = consume_batch(c, b);
    atomic_store(&ing->applying, false);
    if (ok)
        note_complete(ing, b, fetched_ms);
    return ok;
}

static void consume(struct consumer *c)
{
    struct ingester *ing = c->ing;
    while (!drained(c)) {
        struct plog_batch b = {0};
        struct err err;
        look(c);
        int64_t asked_ns = clock_mono_ns();
        int64_t wait_ms = atomic_load(&ing->stop_consumer) ? 0 : FETCH_WAIT_MS;
        if (!plog_fetch(ing->log, ing->partition, ing->position, (size_t)ing->cfg.fetch_max_bytes, wait_ms, &b, &err)) {
            if (c->stop_at_ms)
                return; /* the next start reads the rest */
            fetch_failed(c, &err);
            continue;
        }
        c->retry_ms = RETRY_MS;
        bool ok = take_batch(c, &b, asked_ns);
        plog_batch_release(&b);
        if (!ok)
            return;
        if (!atomic_load_explicit(&ing->ready, memory_order_relaxed))
            catch_up_check(ing);
    }
}

void *consumer_main(void *arg)
{
    struct ingester *ing = arg;
    struct consumer *c = xcalloc(1, sizeof(*c));
    c->ing = ing;
    c->retry_ms = RETRY_MS;
    c->m_hinted = metric_get(ingest_metrics[READER_RECORDS], &SL("hint"));
    c->m_decoded = metric_get(ingest_metrics[READER_RECORDS], &SL("bytes"));
    c->m_bytes = metric_single(ingest_metrics[READER_BYTES]);
    arena_init(&c->group.arena, (size_t)ing->cfg.decode_max_bytes);
    pthread_setname_np(pthread_self(), "consumer");
    consume(c);
    arena_release(&c->group.arena);
    free(c->group.rows);
    free(c->group.sorted);
    free(c);
    pthread_mutex_lock(&ing->progress_lock);
    ing->consumer_ended = true;
    pthread_cond_broadcast(&ing->progress);
    pthread_mutex_unlock(&ing->progress_lock);
    return NULL;
}
