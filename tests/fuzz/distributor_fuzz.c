/*
 * A push from its message to its records: the first byte says the form (as for push_fuzz: remote write 1.0 or 2.0; else the rest is the body itself, before
 * decompression) and which of two distributors takes it, one with the defaults and one with everything optional switched on and small limits.
 *
 * Beside what the sanitizers see: a refused request has a text and no records; every record decodes, holds the series that its hint names, with
 * their hashes, in the partition of their tokens; each series is in one record; a second push of the same bytes gives the same.
 */
#include <snappy-c.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "tests/write/partitions.h"
#include "write/push.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define SEED 4711
#define NOW_MS 1700000000000LL

struct side {
    struct flag_set *flags;
    struct write_config cfg;
    struct limits limits;
    struct limits_provider provider;
    struct partition_ring *ring;
    struct distributor *d;
};

static void side_start(struct side *s, bool small)
{
    static const char *dropped[] = {"drop"};
    s->flags = flag_set_new(); /* as all of this, as long as the process */
    flag_set_add(s->flags, "write", write_flags, write_flags_n, &s->cfg);
    flag_set_add(s->flags, "limits", limits_flags, limits_flags_n, &s->limits);
    s->limits.ingestion_rate = 1e15;
    s->limits.ingestion_burst_size = INT32_MAX;
    s->cfg.tenant_idle_timeout = 1000;
    if (small) {
        s->limits.max_global_exemplars_per_user = 10;
        s->limits.max_exemplars_per_series_per_request = 3;
        s->limits.max_native_histogram_buckets = 3;
        s->limits.max_label_value_length = 80;
        s->limits.max_metadata_length = 10;
        s->limits.label_value_length_over_limit_strategy = "truncate";
        s->limits.past_grace_period = 3600000;
        s->limits.name_validation_scheme = "utf8";
        s->limits.drop_labels = (struct flag_list){dropped, 1};
        s->cfg.max_record_size_bytes = 200;
        s->cfg.known_series_max = 100;
    }
    s->provider = (struct limits_provider){&s->limits};
    struct partitions partitions; /* the watcher lives as long as the process */
    partitions_start(&partitions, small ? 7 : 1);
    s->ring = partitions_ring(&partitions);
    s->d = distributor_new(&s->cfg, &s->provider, NULL, partitions.watcher, SEED);
}

static struct buf body_of(struct slice message, bool raw)
{
    struct buf b = {0};
    if (raw) {
        buf_put_slice(&b, message);
        return b;
    }
    size_t n = snappy_max_compressed_length(message.n);
    buf_reserve(&b, n);
    snappy_status status = snappy_compress(message.p, message.n, b.p, &n);
    ASSERT(status == SNAPPY_OK);
    b.n = n;
    return b;
}

static void check_record(const struct side *side, const struct push *p, const struct plog_record *r, uint8_t *seen)
{
    struct arena arena;
    arena_init(&arena, 0);
    struct write_request req;
    struct err err = ERR_NONE;
    bool ok = record_decode(r, SEED, &arena, &req, &err);
    ASSERT(ok);
    const struct record_hint *hint = (const struct record_hint *)r->hint;
    if (!hint->series) {
        ASSERT(req.n_series == p->req->n_series && req.n_metadata == p->req->n_metadata);
        ASSERT(p->n_rejected == 0);
    } else {
        ASSERT(req.n_series == hint->n_series && req.n_metadata == hint->n_metadata);
    }
    for (size_t i = 0; i < req.n_series; i++) {
        size_t at = hint->series ? hint->series[i] : i;
        const struct write_series *s = &p->req->series[at];
        ASSERT(!(s->flags & WRITE_SERIES_REJECTED) && (s->flags & WRITE_SERIES_CANONICAL));
        ASSERT(!(req.series[i].flags & WRITE_SERIES_REJECTED));
        ASSERT(series_hash_eq(s->hash, req.series[i].hash) && slice_eq(s->labels, req.series[i].labels));
        ASSERT(s->n_samples == req.series[i].n_samples && s->n_histograms == req.series[i].n_histograms);
        ASSERT(partition_ring_lookup(side->ring, s->token) == r->partition);
        ASSERT(!seen[at]);
        seen[at] = 1;
    }
    arena_release(&arena);
}

struct result {
    enum err_code code;
    struct push_counts accepted;
    size_t n_records;
};

static struct result push_once(struct side *side, struct slice message, unsigned form)
{
    struct push *p = push_new(side->d, write_tenants_get(side->d->tenants, SL("tenant"), clock_mono_ms()));
    p->version = form == 1 ? PUSH_RW2 : PUSH_RW1;
    p->body = body_of(message, form == 2);
    bool ok = push_prepare(p);
    push_count(p);
    ASSERT(ok || p->error.code != ERR_OK);
    ASSERT(p->error.code == ERR_OK || p->error.text.n > 0);
    struct buf text = {0};
    push_put_valid(&text, buf_slice(&p->error.text));
    buf_release(&text);
    if (ok && p->produce.n) {
        uint8_t *seen = calloc(p->req->n_series + 1, 1);
        for (size_t i = 0; i < p->produce.n; i++)
            check_record(side, p, &p->produce.records[i], seen);
        for (size_t i = 0; i < p->req->n_series; i++)
            ASSERT(seen[i] == !(p->req->series[i].flags & WRITE_SERIES_REJECTED));
        free(seen);
    }
    struct result r = {p->error.code, p->accepted, ok ? p->produce.n : 0};
    atomic_fetch_sub(&side->d->inflight_bytes, p->inflight_bytes);
    push_free(p);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct side sides[2];
    if (!sides[0].d) {
        clock_fake_wall_ms(NOW_MS);
        side_start(&sides[0], false);
        side_start(&sides[1], true);
    }
    if (n < 1)
        return 0;
    struct side *side = &sides[data[0] / 3 % 2];
    struct slice message = slice_make(data + 1, n - 1);
    struct result a = push_once(side, message, data[0] % 3);
    struct result b = push_once(side, message, data[0] % 3);
    ASSERT(a.code == b.code && a.n_records == b.n_records);
    ASSERT(a.accepted.samples == b.accepted.samples && a.accepted.histograms == b.accepted.histograms);
    ASSERT(a.accepted.exemplars == b.accepted.exemplars && a.accepted.metadata == b.accepted.metadata);
    return 0;
}
