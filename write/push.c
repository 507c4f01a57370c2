/* See push.h. */
#include "write/push.h"

#include <snappy-c.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/dtoa.h"
#include "model/discarded.h"

/* Snappy's densest element makes 64 bytes out of 3: a frame that declares more than this is corrupt, and is not worth an allocation. */
#define SNAPPY_MAX_RATIO 22
/* Arena of a request: the message, 100 bytes a series, 16 a sample; most when series are tiny. See model/write_request.h. */
#define ARENA_FACTOR 12
#define ARENA_FREE ((size_t)16 << 20)
#define EXEMPLAR_MAX_AGE_MS (5 * 60 * 1000)

struct push *push_new(struct distributor *d, struct write_tenant *tenant)
{
    struct push *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->d = d;
    p->tenant = tenant;
    p->limits = limits_of(d->limits, tenant->name);
    p->now_ms = clock_wall_ms();
    p->latest_ms = INT64_MIN;
    arena_init(&p->scratch, 0);
    return p;
}

void push_free(struct push *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->produce.n; i++)
        plog_hint_unref(p->produce.records[i].hint);
    for (size_t i = 0; i < p->n_values; i++)
        free(p->values[i]);
    free(p->values);
    record_batch_unref(p->batch);
    arena_release(&p->scratch);
    buf_release(&p->body);
    buf_release(&p->error.text);
    write_tenants_put(p->d->tenants, p->tenant);
    free(p);
}

void push_put_too_large(struct buf *out, uint64_t n, const char *which, uint64_t limit)
{
    buf_printf(out,
               "the incoming push request has been rejected because its message size of %llu bytes (%s) is larger than the allowed "
               "limit of %llu bytes",
               (unsigned long long)n, which, (unsigned long long)limit);
    push_put_id(out, ERR_MESSAGE_TOO_LARGE);
    push_put_hint(out, "distributor.max-recv-msg-size", NULL, false);
}

static bool too_large(struct push *p, uint64_t n, const char *which)
{
    p->error.code = ERR_MESSAGE_TOO_LARGE;
    push_put_too_large(&p->error.text, n, which, p->d->cfg->max_recv_msg_size);
    return false;
}

static bool out_of_memory(struct push *p)
{
    return push_fail(p, ERR_NO_MEMORY, "out of memory while taking in the push request");
}

/* The body's message, in the batch's arena. Nothing is allocated for a length that is over the limit or cannot be true. */
static bool decompress(struct push *p, struct slice *ret)
{
    struct slice body = buf_slice(&p->body);
    if (body.n > p->d->cfg->max_recv_msg_size)
        return too_large(p, body.n, "compressed");
    size_t n = 0;
    if (snappy_uncompressed_length(body.p, body.n, &n) != SNAPPY_OK)
        return push_fail(p, ERR_BAD_DATA, "getting snappy decoded length: snappy: corrupt input");
    if (n > p->d->cfg->max_recv_msg_size)
        return too_large(p, n, "uncompressed");
    if (n > body.n * SNAPPY_MAX_RATIO + 64)
        return push_fail(p, ERR_BAD_DATA, "decompress snappy: snappy: corrupt input");
    p->batch = record_batch_new(n * ARENA_FACTOR + ARENA_FREE);
    if (!p->batch)
        return out_of_memory(p);
    char *message = arena_alloc(&p->batch->arena, n + 1);
    if (!message)
        return out_of_memory(p);
    if (snappy_uncompress(body.p, body.n, message, &n) != SNAPPY_OK)
        return push_fail(p, ERR_BAD_DATA, "decompress snappy: snappy: corrupt input");
    *ret = slice_make(message, n);
    return true;
}

/* The distributor's own bound of bytes in progress; the body is in already, so that the whole size is known here. */
static bool account_inflight(struct push *p, size_t n)
{
    struct distributor *d = p->d;
    p->inflight_bytes = (int64_t)n;
    int64_t all = atomic_fetch_add_explicit(&d->inflight_bytes, p->inflight_bytes, memory_order_relaxed) + p->inflight_bytes;
    uint64_t limit = d->cfg->max_inflight_push_requests_bytes;
    if (limit == 0 || all <= (int64_t)limit)
        return true;
    metric_inc(METRIC_WITH(write_metrics[WRITE_M_INSTANCE_REJECTED], SL("distributor_max_inflight_push_requests_bytes")));
    push_fail(p, ERR_DISTRIBUTOR_MAX_INFLIGHT_BYTES,
              "the write request has been rejected because the distributor exceeded the allowed total size in bytes of inflight "
              "push requests");
    push_put_hint(&p->error.text, "distributor.instance-limits.max-inflight-push-requests-bytes", NULL, false);
    return false;
}

static bool scan(struct push *p, struct slice message)
{
    p->req = &p->batch->req;
    struct err err = ERR_NONE;
    bool ok = p->version == PUSH_RW1 ? write_request_scan(message, &p->batch->arena, p->req, &err)
                                     : write_request_scan_v2(message, WRITE_SYMBOLS_RW2, &p->batch->arena, p->req, &err);
    return ok || push_fail_err(p, &err);
}

/* The counts before validation; exemplars of a tenant who has none are not even looked at. */
static void count_decoded(struct push *p)
{
    struct write_request *req = p->req;
    if (p->limits->max_global_exemplars_per_user == 0 && req->n_exemplars) {
        for (size_t i = 0; i < req->n_series; i++)
            req->series[i].n_exemplars = 0;
        req->n_exemplars = 0;
        req->n_unlabelled_exemplars = 0;
    }
    p->decoded.samples = req->n_samples + req->n_unlabelled_samples;
    p->decoded.histograms = req->n_histograms;
    p->decoded.exemplars = req->n_exemplars + req->n_unlabelled_exemplars;
    p->decoded.metadata = req->n_metadata;
    if (req->n_unlabelled_series)
        p->discards[REASON_NO_LABELS] += MAX(req->n_unlabelled_samples, req->n_unlabelled_series);
}

/* What known verdicts depend on. A change of one of these forgets them. */
static uint64_t rules_of(const struct push *p)
{
    const struct limits *l = p->limits;
    const int64_t numbers[] = {l->max_label_names_per_series, l->max_label_names_per_info_series, l->max_label_name_length,
                               l->max_label_value_length,     (int64_t)limits_names(l),           (int64_t)limits_long_values(l)};
    uint64_t rules = series_hash_of(slice_make(numbers, sizeof(numbers)), p->d->hash_seed).lo;
    for (size_t i = 0; i < l->drop_labels.n; i++)
        rules = rules * 31 + series_hash_of(slice_of(l->drop_labels.items[i]), p->d->hash_seed).lo;
    return rules;
}

static void set_bounds(struct push *p)
{
    const struct limits *l = p->limits;
    struct push_bounds *b = &p->bounds;
    b->max = p->now_ms + l->creation_grace_period;
    b->past_min = l->past_grace_period > 0 ? p->now_ms - l->past_grace_period - l->out_of_order_time_window : INT64_MIN;
    bool window = l->enforce_out_of_order_window_on_distributor && l->out_of_order_time_window > 0;
    b->window_min = window ? p->now_ms - l->out_of_order_time_window : INT64_MIN;
    b->min = MAX(b->past_min, b->window_min);
    b->exemplar_min = INT64_MIN;
    if (p->req->n_exemplars == 0)
        return;
    int64_t earliest = INT64_MAX;
    for (size_t i = 0; i < p->req->n_samples; i++)
        earliest = MIN(earliest, p->req->samples[i].t);
    if (earliest != INT64_MAX && earliest > INT64_MIN + EXEMPLAR_MAX_AGE_MS)
        b->exemplar_min = earliest - EXEMPLAR_MAX_AGE_MS;
}

/* Hashes every series, finds the known ones, validates the others. */
static bool resolve_series(struct push *p)
{
    struct write_request *req = p->req;
    if (req->n_series == 0)
        return true;
    const uint64_t seed = p->d->hash_seed;
    struct series_hasher hasher;
    series_hasher_init(&hasher, seed);
    for (size_t i = 0; i < req->n_series; i++)
        req->series[i].hash = series_hasher_hash(&hasher, req->series[i].labels);
    p->batch->hash_seed = seed;
    p->batch->hashed = true;
    arena_clear(&p->scratch);
    uint32_t *unknown = ARENA_ARRAY(&p->scratch, uint32_t, req->n_series);
    if (!unknown)
        return out_of_memory(p);
    size_t n = known_series_find(&p->tenant->known, p->rules, req->series, req->n_series, unknown);
    metric_add(metric_single(write_metrics[WRITE_M_KNOWN_HITS]), (double)(req->n_series - n));
    if (n == 0)
        return true;
    metric_add(metric_single(write_metrics[WRITE_M_KNOWN_MISSES]), (double)n);
    return push_check_labels(p, unknown, n);
}

/* --- ingestion rate ----------------------------------------------------------------------------------------------------------- */

static double burst_of(const struct limits *l)
{
    return l->ingestion_burst_factor > 0 ? (double)(int64_t)(l->ingestion_rate * l->ingestion_burst_factor)
                                         : (double)l->ingestion_burst_size;
}

/* What this distributor may let through of the tenant's rate: all distributors together keep the limit. */
static double rate_of(struct push *p)
{
    return p->limits->ingestion_rate / (double)distributor_n_healthy(p->d);
}

static bool rate_limited(struct push *p, const struct push_counts *items, uint64_t n)
{
    static const char of_all[] = "This limit is applied on the total number of samples, exemplars and metadata received across all "
                                 "distributors";
    const double burst = burst_of(p->limits);
    p->discards[REASON_SAMPLES_RATE_LIMITED] += items->samples + items->histograms;
    p->discards[REASON_EXEMPLARS_RATE_LIMITED] += items->exemplars;
    p->discards[REASON_METADATA_RATE_LIMITED] += items->metadata;
    if ((double)n > burst) {
        push_fail(p, ERR_TENANT_MAX_INGESTION_RATE,
                  "the request has been rejected because the tenant exceeded the ingestion burst size limit, set to %.0f, with %llu "
                  "items. %s",
                  burst, (unsigned long long)n, of_all);
        push_put_hint(&p->error.text, "distributor.ingestion-burst-size", NULL, true);
        return false;
    }
    char rate[DTOA_MAX];
    int rate_n = (int)dtoa_g(p->limits->ingestion_rate, rate);
    push_fail(p, ERR_TENANT_MAX_INGESTION_RATE,
              "the request has been rejected because the tenant exceeded the ingestion rate limit, set to %.*s items/s with a maximum "
              "allowed burst of %.0f. %s",
              rate_n, rate, burst, of_all);
    push_put_hint(&p->error.text, "distributor.ingestion-rate-limit", "distributor.ingestion-burst-size", true);
    return false;
}

static uint64_t items_of(const struct push_counts *c)
{
    return c->samples + c->histograms + c->exemplars + c->metadata;
}

/* A tenant with nothing left is told so before its request costs more than the scan. */
static bool rate_allows_any(struct push *p)
{
    uint64_t n = items_of(&p->decoded);
    if (n == 0)
        return true;
    struct write_tenant *t = p->tenant;
    const double rate = rate_of(p);
    pthread_mutex_lock(&t->lock);
    double have = token_bucket_peek(&t->items, clock_mono_ns(), rate, burst_of(p->limits));
    pthread_mutex_unlock(&t->lock);
    return have >= 1 || rate_limited(p, &p->decoded, n);
}

static bool take_rate(struct push *p)
{
    uint64_t n = items_of(&p->accepted);
    struct write_tenant *t = p->tenant;
    const double rate = rate_of(p);
    pthread_mutex_lock(&t->lock);
    bool ok = token_bucket_take(&t->items, clock_mono_ns(), rate, burst_of(p->limits), (double)n);
    pthread_mutex_unlock(&t->lock);
    if (!ok) {
        struct push_counts refused = p->accepted;
        p->accepted = (struct push_counts){0};
        return rate_limited(p, &refused, n);
    }
    distributor_count_items(p->d, n);
    return true;
}

/* --- all of it ------------------------------------------------------------------------------------------------------------------ */

static bool validate(struct push *p)
{
    p->rules = rules_of(p);
    set_bounds(p);
    p->skip_names = p->skip_names_header && p->req->skip_label_validation;
    p->skip_count = p->skip_count_header && p->req->skip_label_count_validation;
    return resolve_series(p) && push_check_samples(p) && push_check_metadata(p);
}

bool push_prepare(struct push *p)
{
    struct slice message = SL("");
    if (!decompress(p, &message) || !account_inflight(p, message.n) || !scan(p, message))
        return false;
    count_decoded(p);
    if (!rate_allows_any(p) || !validate(p))
        return false;
    if (items_of(&p->accepted) == 0)
        return true;
    if (!take_rate(p) || !push_make_records(p))
        return false;
    if (p->latest_ms != INT64_MIN)
        write_tenant_saw(p->tenant, p->latest_ms);
    return true;
}

/* --- metrics ---------------------------------------------------------------------------------------------------------------------- */

static const struct {
    enum discard_kind kind;
    const char *label;
} reasons[] = {
#define REASON(id, kind, label) {DISCARD_##kind, label},
#include "write/discard_reasons.def"
#undef REASON
};

/* Families that most tenants never use are looked up when there is something to count. */
static void count_rare(const struct push *p, enum write_metric_id id, uint64_t n)
{
    if (n)
        metric_add(METRIC_WITH(write_metrics[id], p->tenant->name), (double)n);
}

static void count_received(const struct push *p)
{
    const struct tenant_metrics *m = &p->tenant->metrics;
    metric_inc(m->received_requests);
    metric_add(m->received_samples, (double)(p->accepted.samples + p->accepted.histograms));
    metric_add(m->received_bytes, (double)p->req->message.n);
    count_rare(p, WRITE_M_RECEIVED_EXEMPLARS, p->accepted.exemplars);
    count_rare(p, WRITE_M_RECEIVED_METADATA, p->accepted.metadata);
    count_rare(p, WRITE_M_RECEIVED_HISTOGRAM_SAMPLES, p->accepted.histograms);
    count_rare(p, WRITE_M_RECEIVED_HISTOGRAM_BUCKETS, p->accepted.histogram_buckets);
    metric_observe(metric_single(write_metrics[WRITE_M_RECORDS_PER_REQUEST]), (double)p->produce.n);
    if (p->produce.n == 1 && p->n_values == 0)
        metric_inc(metric_single(write_metrics[WRITE_M_UNTOUCHED]));
}

void push_count(struct push *p)
{
    const struct tenant_metrics *m = &p->tenant->metrics;
    metric_inc(m->requests_in[p->version]);
    if (p->req && p->req->message.p) {
        uint64_t samples = p->decoded.samples + p->decoded.histograms;
        metric_add(m->samples_in, (double)samples);
        metric_observe(m->samples_per_request, (double)samples);
        metric_observe(m->body_size, (double)p->req->message.n);
        metric_observe(METRIC_WITH(write_metrics[WRITE_M_COMPRESSION_RATIO], SL("push")),
                       (double)p->req->message.n / (double)MAX(p->body.n, (size_t)1));
        count_rare(p, WRITE_M_EXEMPLARS_IN, p->decoded.exemplars);
        count_rare(p, WRITE_M_METADATA_IN, p->decoded.metadata);
        if (p->decoded.exemplars)
            metric_observe(METRIC_WITH(write_metrics[WRITE_M_EXEMPLARS_PER_REQUEST], p->tenant->name), (double)p->decoded.exemplars);
    }
    count_rare(p, WRITE_M_DROPPED_HISTOGRAMS, p->dropped_histograms);
    for (size_t i = 0; i < REASON_N; i++)
        discard_count(reasons[i].kind, reasons[i].label, p->tenant->name, p->discards[i]);
    if (p->produce.n)
        count_received(p);
}
