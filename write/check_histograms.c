/*
 * Native histograms: times, schema, number of buckets, and everything that the TSDB would refuse. In Mimir the ingester finds the last kind,
 * after the push was answered 200, and some of it stops a partition for ever; here the push is the place where it is found.
 */
#include <stdio.h>

#include "base/assert.h"
#include "base/clock.h"
#include "write/push.h"

/* A resolution cannot be halved more often than there are schemas. */
enum fit { FITS, REDUCED, TOO_MANY, CANNOT_REDUCE, CUSTOM_TOO_MANY };

static enum fit fit_buckets(struct push *p, struct histogram *h)
{
    const int64_t limit = p->limits->max_native_histogram_buckets;
    if (limit <= 0 || histogram_n_buckets(h) <= limit)
        return FITS;
    if (h->schema == HISTOGRAM_CUSTOM_BUCKETS)
        return CUSTOM_TOO_MANY;
    if (!p->limits->reduce_native_histogram_over_max_buckets)
        return TOO_MANY;
    while (histogram_n_buckets(h) > limit) {
        struct histogram smaller;
        if (h->schema <= HISTOGRAM_SCHEMA_MIN || !histogram_reduce(h, h->schema - 1, &p->scratch, &smaller))
            return CANNOT_REDUCE;
        *h = smaller;
    }
    return REDUCED;
}

static void too_many_buckets(struct push *p, size_t at, int64_t t, const struct histogram *h, enum fit fit)
{
    static const struct {
        enum err_code code;
        const char *what;
    } kinds[] = {
        [TOO_MANY] = {ERR_MAX_NATIVE_HISTOGRAM_BUCKETS, "with too many buckets"},
        [CANNOT_REDUCE] = {ERR_NOT_REDUCIBLE_NATIVE_HISTOGRAM, "with too many buckets and cannot reduce"},
        [CUSTOM_TOO_MANY] = {ERR_NATIVE_HISTOGRAM_CUSTOM_BUCKETS_NOT_REDUCIBLE, "with more custom buckets than the limit"},
    };
    p->discards[REASON_MAX_NATIVE_HISTOGRAM_BUCKETS]++;
    struct buf *out = push_error_begin(p, at, kinds[fit].code);
    if (!out)
        return;
    buf_printf(out, "received a native histogram sample %s, timestamp: %lld series: ", kinds[fit].what, (long long)t);
    struct labels l;
    if (labels_from_span(p->req->series[at].labels, &p->scratch, &l))
        push_put_series(out, l);
    buf_printf(out, ", buckets: %u, limit: %lld", histogram_n_buckets(h), (long long)p->limits->max_native_histogram_buckets);
    push_error_end(p, NULL);
}

static void invalid_schema(struct push *p, size_t at, int32_t schema)
{
    p->discards[REASON_INVALID_NATIVE_HISTOGRAM_SCHEMA]++;
    struct buf *out = push_error_begin(p, at, ERR_INVALID_NATIVE_HISTOGRAM_SCHEMA);
    if (!out)
        return;
    buf_printf(out, "received a native histogram sample with an invalid schema: %d", schema);
    push_error_end(p, NULL);
}

/* RFC 3339, with milliseconds only where there are some. */
static void put_time(struct buf *out, int64_t t)
{
    char text[CLOCK_RFC3339_MAX];
    if (clock_rfc3339(t / 1000, (int32_t)(t % 1000) * 1000000, CLOCK_AS_NEEDED, text))
        buf_puts(out, text);
    else
        buf_put_i64(out, t);
}

/* The labels as the ingester's messages have them: [{__name__ nh1} {a b}]. */
static void put_label_list(struct buf *out, const struct write_series *s)
{
    struct write_label_iter it = write_label_iter(s->labels);
    struct label l;
    buf_putc(out, '[');
    for (bool first = true; write_label_next(&it, &l) == 1 && out->n < 4096; first = false) {
        buf_puts(out, first ? "{" : " {");
        push_put_cut(out, l.name, 200);
        buf_putc(out, ' ');
        push_put_cut(out, l.value, 200);
        buf_putc(out, '}');
    }
    buf_putc(out, ']');
}

static void invalid_histogram(struct push *p, size_t at, int64_t t, const struct err *why)
{
    p->discards[REASON_INVALID_NATIVE_HISTOGRAM]++;
    struct buf *out = push_error_begin(p, at, why->code);
    if (!out)
        return;
    buf_printf(out, "err: %s. timestamp=", why->text);
    put_time(out, t);
    buf_puts(out, ", series=");
    put_label_list(out, &p->req->series[at]);
    push_error_end(p, NULL);
}

static bool schema_is_valid(int32_t schema)
{
    return schema == HISTOGRAM_CUSTOM_BUCKETS || (schema >= HISTOGRAM_SCHEMA_MIN && schema <= HISTOGRAM_SCHEMA_MAX);
}

/* The new bytes of a histogram whose resolution was lowered. */
static bool encode_again(struct push *p, const struct histogram *h, int64_t t, struct slice *ret)
{
    struct buf out;
    buf_init(&out, 0);
    histogram_encode_proto(h, t, &out);
    *ret = arena_dup(&p->batch->arena, buf_slice(&out));
    bool ok = !out.failed && ret->p;
    buf_release(&out);
    return ok || push_fail(p, ERR_BAD_DATA, "the push request needs too much memory for its size");
}

/* *ret_keep: whether the histogram stays. False: the whole request fails. */
static bool check_one(struct push *p, size_t at, struct slice *raw, bool *ret_keep)
{
    struct histogram h;
    int64_t t;
    struct err err = ERR_NONE;
    *ret_keep = false;
    if (!histogram_decode_proto(*raw, &p->scratch, &h, &t, &err))
        return push_fail_err(p, &err);
    if (!push_time_is_accepted(p, at, t))
        return true;
    if (!schema_is_valid(h.schema)) {
        invalid_schema(p, at, h.schema);
        return true;
    }
    /* Validated first: reducing assumes that spans and buckets agree. */
    if (!histogram_validate(&h, &err)) {
        invalid_histogram(p, at, t, &err);
        return true;
    }
    enum fit fit = fit_buckets(p, &h);
    if (fit != FITS && fit != REDUCED) {
        too_many_buckets(p, at, t, &h, fit);
        return true;
    }
    if (fit == REDUCED) {
        p->n_reencoded++;
        if (!encode_again(p, &h, t, raw))
            return false;
    }
    p->latest_ms = MAX(p->latest_ms, t);
    p->accepted.histogram_buckets += histogram_n_buckets(&h);
    *ret_keep = true;
    return true;
}

/* Field 15 of each. A histogram that cannot be decoded fails the request. */
static bool read_times(struct push *p, const struct slice *raw, size_t n, int64_t **ret)
{
    int64_t *times = ARENA_ARRAY(&p->batch->arena, int64_t, n);
    if (!times)
        return push_fail(p, ERR_BAD_DATA, "the push request needs too much memory for its size");
    for (size_t i = 0; i < n; i++) {
        struct histogram h;
        struct err err = ERR_NONE;
        arena_clear(&p->scratch);
        if (!histogram_decode_proto(raw[i], &p->scratch, &h, &times[i], &err))
            return push_fail_err(p, &err);
    }
    *ret = times;
    return true;
}

bool push_check_histograms(struct push *p, size_t at)
{
    struct write_series *s = &p->req->series[at];
    struct slice *raw = p->req->histograms + s->first_histogram;
    if (!p->limits->native_histograms_ingestion_enabled) {
        p->dropped_histograms += s->n_histograms;
        s->n_histograms = 0;
        return true;
    }
    const bool *repeated = NULL;
    if (s->n_histograms > 1) {
        int64_t *times;
        if (!read_times(p, raw, s->n_histograms, &times))
            return false;
        arena_clear(&p->scratch);
        const bool *found = push_find_repeated(p, times, sizeof(*times), s->n_histograms);
        if (found) { /* out of the scratch arena, which is cleared for each histogram */
            bool *copy = arena_alloc(&p->batch->arena, s->n_histograms);
            if (!copy)
                return push_fail(p, ERR_BAD_DATA, "the push request needs too much memory for its size");
            memcpy(copy, found, s->n_histograms);
            repeated = copy;
        }
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->n_histograms; i++) {
        bool keep = false;
        arena_clear(&p->scratch);
        if (repeated && repeated[i])
            p->discards[REASON_SAMPLE_DUPLICATE_TIMESTAMP]++;
        else if (!check_one(p, at, &raw[i], &keep))
            return false;
        if (keep)
            raw[kept++] = raw[i];
    }
    s->n_histograms = kept;
    return true;
}
