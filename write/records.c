/*
 * Records: which partition each accepted series goes to, and the values.
 *
 * The cheap way, taken by nearly every request: nothing of it was refused or changed and one partition takes it all, so the record's value is the
 * request's own snappy frame, untouched. Otherwise the accepted series are grouped by partition, each group is encoded anew (their bytes are
 * copied) and compressed. For a log that compresses by itself (Kafka, whole batches) it is the same with plain values: the scanned message as it is, or what
 * was encoded anew.
 *
 * A value may not be larger than -ingest-storage.kafka.producer-max-record-size-bytes, uncompressed. A group that is larger is split as Mimir does it:
 * records of series alone, then records of metadata alone; an item is never split (docs/formats.md 2.4).
 */
#include <snappy-c.h>
#include <stdlib.h>

#include "base/assert.h"
#include "write/push.h"

/* The items of one kind that go to one partition: idx[start .. start + n). */
struct group {
    uint32_t start;
    uint32_t n;
};

struct grouping {
    uint32_t *idx;        /* in the batch's arena: hints name it */
    struct group *groups; /* by partition, in the scratch arena */
};

struct maker {
    struct push *p;
    struct arena *arena;
    int32_t n_partitions; /* highest id + 1 */
    struct grouping series;
    struct grouping metadata;
    size_t cap; /* of p->produce.records and p->values */
};

static bool no_memory(struct push *p)
{
    return push_fail(p, ERR_NO_MEMORY, "out of memory while making records");
}

static bool is_untouched(const struct push *p)
{
    const struct write_request *req = p->req;
    return p->version == PUSH_RW1 && p->n_rejected == 0 && p->n_reencoded == 0 && req->n_unlabelled_series == 0 &&
           p->n_metadata == req->n_metadata && req->skip_label_validation == p->skip_names &&
           !req->skip_label_count_validation && req->message.n <= p->d->cfg->max_record_size_bytes;
}

static uint32_t metadata_token(const struct push *p, size_t i)
{
    return token_add(p->d->token_kind, p->tenant->token_start, p->req->metadata[i].family);
}

/* The one partition that takes everything that was accepted, or -1. */
static int32_t only_partition(const struct push *p, const struct partition_ring *ring)
{
    if (partition_ring_count(ring) == 1)
        return partition_ring_members(ring)[0];
    int32_t only = -1;
    for (size_t i = 0; i < p->req->n_series; i++) {
        if (p->req->series[i].flags & WRITE_SERIES_REJECTED)
            continue;
        int32_t partition = partition_ring_lookup(ring, p->req->series[i].token);
        if (only >= 0 && only != partition)
            return -1;
        only = partition;
    }
    for (size_t i = 0; i < p->n_metadata; i++) {
        int32_t partition = partition_ring_lookup(ring, metadata_token(p, p->metadata[i]));
        if (only >= 0 && only != partition)
            return -1;
        only = partition;
    }
    return only;
}

/* What a record takes of the request, as record_encode_v0 wants it. */
struct selection {
    const uint32_t *series; /* NULL: all, RECORD_NONE: none */
    size_t n_series;
    const uint32_t *metadata;
    size_t n_metadata;
};

/* A record; the value is the caller's to set. NULL: out of memory. Room for it was made. No hint for a log whose readers get the bytes in any case. */
static struct plog_record *add_record(struct push *p, int32_t partition, struct selection s)
{
    struct record_hint *hint = NULL;
    if (!p->d->plain) {
        hint = record_hint_new(p->batch);
        if (!hint)
            return NULL;
        hint->series = s.series;
        hint->n_series = s.n_series;
        hint->metadata = s.metadata;
        hint->n_metadata = s.n_metadata;
    }
    struct plog_record *r = &p->produce.records[p->produce.n++];
    *r = (struct plog_record){.partition = partition,
                              .timestamp_ms = p->now_ms,
                              .tenant = p->tenant->name,
                              .form = p->d->plain ? PLOG_PLAIN : PLOG_SNAPPY,
                              .hint = hint ? &hint->hint : NULL};
    return r;
}

static bool untouched_record(struct push *p, int32_t partition)
{
    p->produce.records = ARENA_ARRAY(&p->batch->arena, struct plog_record, 1);
    struct plog_record *r = p->produce.records ? add_record(p, partition, (struct selection){0}) : NULL;
    if (!r)
        return no_memory(p);
    r->value = p->d->plain ? p->req->message : buf_slice(&p->body);
    return true;
}

/* Sorts n items with these partitions into groups; order within a group is the request's. Counting sort. */
static bool make_groups(struct maker *m, const uint32_t *items, const int32_t *partitions, size_t n, struct grouping *ret)
{
    ret->groups = arena_zalloc(&m->p->scratch, (size_t)m->n_partitions * sizeof(*ret->groups));
    ret->idx = n ? ARENA_ARRAY(m->arena, uint32_t, n) : NULL;
    if (!ret->groups || (n && !ret->idx))
        return no_memory(m->p);
    for (size_t i = 0; i < n; i++)
        ret->groups[partitions[i]].n++;
    uint32_t start = 0;
    for (int32_t g = 0; g < m->n_partitions; g++) {
        ret->groups[g].start = start;
        start += ret->groups[g].n;
        ret->groups[g].n = 0;
    }
    for (size_t i = 0; i < n; i++) {
        struct group *g = &ret->groups[partitions[i]];
        ret->idx[g->start + g->n++] = items[i];
    }
    return true;
}

static bool group_series(struct maker *m, const struct partition_ring *ring)
{
    const struct write_request *req = m->p->req;
    uint32_t *items = ARENA_ARRAY(&m->p->scratch, uint32_t, req->n_series + 1);
    int32_t *partitions = ARENA_ARRAY(&m->p->scratch, int32_t, req->n_series + 1);
    if (!items || !partitions)
        return no_memory(m->p);
    size_t n = 0;
    for (size_t i = 0; i < req->n_series; i++) {
        if (req->series[i].flags & WRITE_SERIES_REJECTED)
            continue;
        items[n] = (uint32_t)i;
        partitions[n++] = partition_ring_lookup(ring, req->series[i].token);
    }
    return make_groups(m, items, partitions, n, &m->series);
}

static bool group_metadata(struct maker *m, const struct partition_ring *ring)
{
    const struct push *p = m->p;
    int32_t *partitions = ARENA_ARRAY(&m->p->scratch, int32_t, p->n_metadata + 1);
    if (!partitions)
        return no_memory(m->p);
    for (size_t i = 0; i < p->n_metadata; i++)
        partitions[i] = partition_ring_lookup(ring, metadata_token(p, p->metadata[i]));
    return make_groups(m, p->metadata, partitions, p->n_metadata, &m->metadata);
}

/* Sets the value of a record from what was encoded; takes the bytes. There is room in values. */
static bool plain_value(struct push *p, struct buf *plain, struct plog_record *r)
{
    size_t n;
    char *value = buf_steal(plain, &n);
    p->values[p->n_values++] = value;
    r->value = slice_make(value, n);
    return true;
}

static bool compress_value(struct push *p, struct slice plain, struct plog_record *r)
{
    size_t n = snappy_max_compressed_length(plain.n);
    char *out = malloc(n);
    if (!out || snappy_compress(plain.p, plain.n, out, &n) != SNAPPY_OK) {
        free(out);
        return no_memory(p);
    }
    p->values[p->n_values++] = out;
    r->value = slice_make(out, n);
    return true;
}

/* Room for one more record. */
static bool reserve(struct maker *m)
{
    struct push *p = m->p;
    if (p->produce.n < m->cap)
        return true;
    size_t cap = m->cap ? 2 * m->cap : 16;
    struct plog_record *records = ARENA_ARRAY(m->arena, struct plog_record, cap);
    char **values = realloc(p->values, cap * sizeof(*values));
    if (values)
        p->values = values;
    if (!records || !values)
        return no_memory(p);
    if (p->produce.n)
        memcpy(records, p->produce.records, p->produce.n * sizeof(*records));
    p->produce.records = records;
    m->cap = cap;
    return true;
}

static bool encode_record(struct maker *m, int32_t partition, const uint32_t *series, size_t n_series, const uint32_t *metadata,
                          size_t n_metadata)
{
    struct push *p = m->p;
    if (!reserve(m))
        return false;
    struct selection s = {n_series ? series : RECORD_NONE, n_series, n_metadata ? metadata : RECORD_NONE, n_metadata};
    struct plog_record *r = add_record(p, partition, s);
    if (!r)
        return no_memory(p);
    struct buf plain;
    buf_init(&plain, 0);
    buf_reserve(&plain, record_encoded_size_max(p->req, s.series, n_series, s.metadata, n_metadata));
    record_encode_v0(p->req, s.series, n_series, s.metadata, n_metadata, &plain);
    bool ok = plain.failed ? no_memory(p) : p->d->plain ? plain_value(p, &plain, r) : compress_value(p, buf_slice(&plain), r);
    buf_release(&plain);
    return ok;
}

/* What an item adds to a message: a tag of one byte, the length, the bytes. */
static size_t item_cost(struct slice raw)
{
    size_t n = raw.n + 2;
    for (size_t rest = raw.n >> 7; rest; rest >>= 7)
        n++;
    return n;
}

static struct slice item_raw(const struct write_request *req, bool metadata, uint32_t i)
{
    return metadata ? req->metadata[i].raw : req->series[i].raw;
}

static bool item_too_large(struct push *p)
{
    return push_fail(p, ERR_DATA_ITEM_TOO_LARGE,
                     "send data to partitions: failed pushing to partitions: the write request contains a timeseries or metadata "
                     "item which is larger that the maximum allowed size of %llu bytes",
                     (unsigned long long)p->d->cfg->max_record_size_bytes);
}

/* Size of a message without any item: source and skip_label_validation. */
static size_t empty_size(const struct push *p)
{
    return (p->req->source ? 2U : 0U) + (p->skip_names ? 3U : 0U);
}

/* Records of one kind of items, each as full as may be. */
static bool encode_parts(struct maker *m, int32_t partition, const uint32_t *idx, size_t n, bool metadata)
{
    struct push *p = m->p;
    const size_t max = p->d->cfg->max_record_size_bytes, empty = empty_size(p);
    size_t from = 0, size = empty;
    for (size_t i = 0; i < n; i++) {
        size_t cost = item_cost(item_raw(p->req, metadata, idx[i]));
        if (empty + cost > max)
            return item_too_large(p);
        if (size + cost > max) {
            if (metadata ? !encode_record(m, partition, NULL, 0, idx + from, i - from)
                         : !encode_record(m, partition, idx + from, i - from, NULL, 0))
                return false;
            from = i;
            size = empty;
        }
        size += cost;
    }
    if (from == n)
        return true;
    return metadata ? encode_record(m, partition, NULL, 0, idx + from, n - from)
                    : encode_record(m, partition, idx + from, n - from, NULL, 0);
}

static size_t group_size(const struct push *p, const uint32_t *idx, size_t n, bool metadata)
{
    size_t size = 0;
    for (size_t i = 0; i < n; i++)
        size += item_cost(item_raw(p->req, metadata, idx[i]));
    return size;
}

static bool encode_partition(struct maker *m, int32_t partition)
{
    struct push *p = m->p;
    struct group s = m->series.groups[partition], d = m->metadata.groups[partition];
    if (s.n == 0 && d.n == 0)
        return true;
    const uint32_t *series = s.n ? m->series.idx + s.start : NULL;
    const uint32_t *metadata = d.n ? m->metadata.idx + d.start : NULL;
    size_t size = empty_size(p) + group_size(p, series, s.n, false) + group_size(p, metadata, d.n, true);
    if (size <= p->d->cfg->max_record_size_bytes)
        return encode_record(m, partition, series, s.n, metadata, d.n);
    return encode_parts(m, partition, series, s.n, false) && encode_parts(m, partition, metadata, d.n, true);
}

static bool encode_groups(struct push *p, const struct partition_ring *ring)
{
    const int32_t n = partition_ring_count(ring);
    const int32_t *members = partition_ring_members(ring);
    struct maker m = {.p = p, .arena = &p->batch->arena, .n_partitions = members[n - 1] + 1};
    arena_clear(&p->scratch);
    if (!group_series(&m, ring) || !group_metadata(&m, ring))
        return false;
    for (int32_t i = 0; i < n; i++)
        if (!encode_partition(&m, members[i]))
            return false;
    return true;
}

/* A hint counts what the batch holds; several records of one batch share it. */
static void share_hint_sizes(struct push *p)
{
    for (size_t i = 0; i < p->produce.n && !p->d->plain; i++)
        p->produce.records[i].hint->size_bytes = p->batch->arena.used_bytes / p->produce.n + sizeof(struct record_hint);
}

static bool make_records(struct push *p, const struct partition_ring *ring)
{
    int32_t only = is_untouched(p) ? only_partition(p, ring) : -1;
    p->req->skip_label_validation = p->skip_names; /* what the body asks for counts only with the header */
    bool ok = only >= 0 ? untouched_record(p, only) : encode_groups(p, ring);
    if (ok)
        share_hint_sizes(p);
    return ok;
}

bool push_make_records(struct push *p)
{
    struct partition_view *view = partition_watcher_current(p->d->partitions);
    struct partition_ring *whole = partition_view_writers(view);
    struct partition_ring *ring = write_tenant_ring(p->tenant, whole, p->limits->ingestion_partitions_tenant_shard_size);
    partition_view_free(view);
    bool ok = partition_ring_count(ring) > 0 ? make_records(p, ring)
                                             : push_fail(p, ERR_INTERNAL, "send data to partitions: no active partition found");
    partition_ring_free(ring);
    return ok;
}
