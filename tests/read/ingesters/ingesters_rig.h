/*
 * Ingesters made up for the tests: gRPC servers of this process with a handful of series each, which can be slow, fail, hang or break off; and a ring
 * in memory that says where they are.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "model/matcher.h"
#include "read/ingesters/ingesters.h"
#include "storage/messages/ingester_messages.h"

#define UNUSED __attribute__((unused))
#define FAKES_MAX 8
#define FAKE_SAMPLES 4

/* Series s of an ingester: m{s="0007"}, samples at t0 .. t0 + 3 s with values s * 1000 + k. */
struct fake {
    struct rpc_config cfg;
    struct rpc_server *server;
    char id[32], zone[16], addr[64];
    int first, n; /* its series */
    int64_t t0;
    bool backwards; /* sends its series in descending order */
    size_t batch;   /* series with chunks in a message; 0: as asked */
    size_t pad;     /* bytes of a padding label in each series */
    bool merged_end; /* the first chunks come in the message with the last series */
    /* How it behaves; any thread. */
    atomic_int delay_ms;     /* before the answer */
    atomic_int fail_code;    /* instead of an answer */
    atomic_int behind_ms;    /* how far it lags */
    atomic_int break_after;  /* the stream fails after so many messages; -1: never */
    atomic_int stall_after;  /* ... says no more until it is canceled */
    atomic_bool short_answer; /* the last series' chunks are left out */
    /* What was seen. */
    atomic_int requests, canceled, finished, lagged;
    pthread_mutex_t lock;
    char metadata[256]; /* guarded by lock: tenant|only replica|level|offsets|cluster of the last request */
    int64_t left_ms;    /* guarded by lock: its deadline */
};

/* --- its data ---------------------------------------------------------------------------------------------------------------------- */

static size_t fake_chunk(const struct fake *f, int s, uint8_t bytes[FAKE_SAMPLES * XOR_SAMPLE_MAX_BYTES + 16], struct series_chunk *ret)
{
    struct xor_appender a;
    xor_appender_init(&a);
    for (int k = 0; k < FAKE_SAMPLES; k++)
        xor_append(&a, bytes, f->t0 + k * 1000, s * 1000 + k);
    *ret = (struct series_chunk){f->t0, f->t0 + (FAKE_SAMPLES - 1) * 1000, CHUNK_XOR, slice_make(bytes, xor_size(&a))};
    return 1;
}

struct fake_labels {
    struct label items[3];
    char s[16];
    char *pad;
};

static struct labels fake_labels(const struct fake *f, int s, struct fake_labels *room)
{
    snprintf(room->s, sizeof(room->s), "%05d", s);
    room->items[0] = (struct label){SL(METRIC_NAME_LABEL), SL("m")};
    room->items[1] = (struct label){SL("s"), slice_of(room->s)};
    room->items[2] = (struct label){SL("x"), slice_make(room->pad, f->pad)};
    return (struct labels){room->items, f->pad ? 3 : 2};
}

static int fake_series(const struct fake *f, int i)
{
    return f->backwards ? f->first + f->n - 1 - i : f->first + i;
}

/* --- its methods --------------------------------------------------------------------------------------------------------------------- */

static void note(struct fake *f, struct rpc_request *req)
{
    static const char *const names[] = {"x-scope-orgid", "__only_replica__", READ_LEVEL_TAG, READ_OFFSETS_TAG, "x-cluster"};
    atomic_fetch_add(&f->requests, 1);
    pthread_mutex_lock(&f->lock);
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct slice v = rpc_metadata(req, names[i]);
        n += (size_t)snprintf(f->metadata + n, sizeof(f->metadata) - n, "%s%.*s", i ? "|" : "", SL_FMT(v));
    }
    const struct ctx *ctx = rpc_ctx(req);
    f->left_ms = ctx->deadline_ms ? ctx->deadline_ms - clock_mono_ms() : 0;
    pthread_mutex_unlock(&f->lock);
}

/* Sleeps; false: the caller has gone, and the request is finished. */
static bool fake_sleep(struct fake *f, struct rpc_request *req, int ms)
{
    struct err err = ERR_NONE;
    for (int64_t until = clock_mono_ms() + ms; clock_mono_ms() < until; usleep(500))
        if (!ctx_check(rpc_ctx(req), &err)) {
            atomic_fetch_add(&f->canceled, 1);
            rpc_finish_err(req, &err);
            return false;
        }
    return true;
}

/* As ingest/service has it. */
static bool fake_is_fresh(struct fake *f, struct rpc_request *req)
{
    struct ctx_tag tags[] = {{SL(READ_MAX_DELAY_TAG), rpc_metadata(req, READ_MAX_DELAY_TAG)},
                             {SL(READ_PREFER_DELAY_TAG), rpc_metadata(req, READ_PREFER_DELAY_TAG)}};
    struct ctx ctx = {.tags = tags, .n_tags = 2};
    struct read_wish wish = read_wish_of(&ctx, 0);
    struct err err = ERR_NONE;
    int behind_ms = atomic_load(&f->behind_ms);
    if (wish.prefer_delay_ms && behind_ms > wish.prefer_delay_ms) {
        read_lag_err(behind_ms, &err);
        rpc_finish(req, RPC_FAILED_PRECONDITION, slice_of(err.text), SL(""));
        atomic_fetch_add(&f->lagged, 1);
        return false;
    }
    if (wish.max_delay_ms && behind_ms > wish.max_delay_ms) {
        rpc_finish(req, RPC_UNAVAILABLE, SL("too far behind"), SL(""));
        return false;
    }
    return true;
}

/* What is common to all methods. False: it is finished. */
static bool fake_begin(struct fake *f, struct rpc_request *req)
{
    note(f, req);
    if (!fake_sleep(f, req, atomic_load(&f->delay_ms)))
        return false;
    int code = atomic_load(&f->fail_code);
    if (code) {
        rpc_finish(req, code, SL("made up"), SL(""));
        return false;
    }
    return fake_is_fresh(f, req);
}

static bool fake_send(struct fake *f, struct rpc_request *req, struct buf *msg, int *n_sent)
{
    struct err err = ERR_NONE;
    if (atomic_load(&f->break_after) == *n_sent) {
        buf_release(msg);
        rpc_finish(req, RPC_UNAVAILABLE, SL("broken off"), SL(""));
        return false;
    }
    if (atomic_load(&f->stall_after) == *n_sent && !fake_sleep(f, req, 10000)) {
        buf_release(msg);
        return false;
    }
    ++*n_sent;
    if (rpc_send(req, msg, &err))
        return true;
    atomic_fetch_add(&f->canceled, 1);
    rpc_finish_err(req, &err);
    return false;
}

static void put_fake_chunk(const struct fake *f, int i, struct buf *msg)
{
    uint8_t bytes[FAKE_SAMPLES * XOR_SAMPLE_MAX_BYTES + 16];
    struct series_chunk chunk;
    fake_chunk(f, fake_series(f, i), bytes, &chunk);
    streamed_chunks_put((uint64_t)i, &chunk, 1, msg);
}

static bool send_series(struct fake *f, struct rpc_request *req, int *sent, int *ret_given)
{
    struct buf msg = {0};
    struct fake_labels room;
    room.pad = calloc(1, f->pad + 1);
    memset(room.pad, 'x', f->pad);
    bool ok = true;
    for (int i = 0; i < f->n && ok; i++) {
        struct labels l = fake_labels(f, fake_series(f, i), &room);
        streamed_series_put(&l, 1, &msg);
        if (i % 128 == 127 && i + 1 < f->n)
            ok = fake_send(f, req, &msg, sent);
    }
    free(room.pad);
    if (!ok)
        return false;
    end_of_series_put(&msg);
    *ret_given = 0;
    for (; f->merged_end && *ret_given < f->n && *ret_given < 3; ++*ret_given)
        put_fake_chunk(f, *ret_given, &msg);
    return fake_send(f, req, &msg, sent);
}

static void fake_query_stream(struct rpc_request *req, void *arg)
{
    struct fake *f = arg;
    struct arena arena;
    struct ingester_request r;
    struct err err = ERR_NONE;
    int sent = 0, i = 0;
    if (!fake_begin(f, req))
        return;
    arena_init(&arena, 0);
    bool fine = query_request_decode(rpc_body(req), &arena, &r, &err);
    size_t batch = f->batch ? f->batch : r.chunks_batch;
    arena_release(&arena);
    if (!fine) {
        rpc_finish_err(req, &err);
        return;
    }
    if (f->n && !send_series(f, req, &sent, &i))
        return;
    struct buf msg = {0};
    int n = f->n - (atomic_load(&f->short_answer) ? 1 : 0);
    for (size_t in_message = 0; f->n && i < n; i++) {
        put_fake_chunk(f, i, &msg);
        if (++in_message < batch && i + 1 < n)
            continue;
        in_message = 0;
        if (!fake_send(f, req, &msg, &sent))
            return;
    }
    buf_release(&msg);
    atomic_fetch_add(&f->finished, 1);
    rpc_finish(req, RPC_OK, SL(""), SL(""));
}

static void fake_metrics(struct rpc_request *req, void *arg)
{
    struct fake *f = arg;
    struct buf msg = {0};
    struct fake_labels room = {.pad = (char[4]){"xxx"}};
    if (!fake_begin(f, req))
        return;
    for (int i = 0; i < f->n; i++) {
        struct labels l = fake_labels(f, fake_series(f, i), &room);
        metrics_response_put(&l, &msg);
    }
    rpc_respond(req, &msg);
}

/* The values of label s, or the name of the ingester as a label name. */
static void fake_values(struct rpc_request *req, void *arg)
{
    struct fake *f = arg;
    struct buf msg = {0};
    if (!fake_begin(f, req))
        return;
    for (int i = 0; i < f->n; i++) {
        struct fake_labels room = {0};
        fake_labels(f, fake_series(f, i), &room);
        struct slice s = slice_of(room.s);
        strings_response_put(&s, 1, &msg);
    }
    rpc_respond(req, &msg);
}

static void fake_names(struct rpc_request *req, void *arg)
{
    struct fake *f = arg;
    struct buf msg = {0};
    const struct slice names[] = {SL("__name__"), SL("s"), slice_of(f->id)};
    if (!fake_begin(f, req))
        return;
    strings_response_put(names, 3, &msg);
    rpc_respond(req, &msg);
}

static void fake_metadata(struct rpc_request *req, void *arg)
{
    struct fake *f = arg;
    struct buf msg = {0};
    const struct metric_metadata items[] = {{SL("m"), "counter", SL("Things."), SL("")}, {slice_of(f->id), "gauge", SL("Its own."), SL("")}};
    if (!fake_begin(f, req))
        return;
    for (size_t i = 0; i < 2; i++)
        metadata_response_put(&items[i], &msg);
    rpc_respond(req, &msg);
}

static void fake_exemplars(struct rpc_request *req, void *arg)
{
    struct fake *f = arg;
    struct buf msg = {0};
    struct fake_labels room = {0};
    struct label trace = {SL("trace"), slice_of(f->id)};
    const struct exemplar e[] = {{{&trace, 1}, 1, f->t0}, {{0}, 2, 77}};
    if (!fake_begin(f, req))
        return;
    for (int i = 0; i < f->n; i++) {
        struct exemplar_series s = {fake_labels(f, fake_series(f, i), &room), e, 2};
        exemplar_response_put(&s, &msg);
    }
    rpc_respond(req, &msg);
}

static const struct rpc_method fake_methods[] = {
    {INGESTER_QUERY_STREAM, fake_query_stream, true},
    {INGESTER_METRICS_FOR_MATCHERS, fake_metrics, false},
    {INGESTER_LABEL_VALUES, fake_values, false},
    {INGESTER_LABEL_NAMES, fake_names, false},
    {INGESTER_METRICS_METADATA, fake_metadata, false},
    {INGESTER_QUERY_EXEMPLARS, fake_exemplars, false},
};

/* --- the rig --------------------------------------------------------------------------------------------------------------------------- */

struct rig {
    struct flag_set *flags;
    struct ingesters_config cfg;
    struct rpc_config rpc;
    struct limits limits;
    struct limits_provider provider;
    struct kv *kv;
    struct ring *ring;
    struct partition_watcher *partitions;
    struct fake fakes[FAKES_MAX];
    size_t n;
    struct ring_desc *ring_doc;
    struct partition_desc *partition_doc;
    struct local_ingester local[2];
    size_t n_local;
    const char *zone;
    struct queryable *q;
    /* of the call */
    struct arena arena;
    atomic_bool canceled;
    struct ctx ctx;
    struct err err;
    struct matcher matcher;
};

static void fake_start(struct fake *f)
{
    struct err err = ERR_NONE;
    f->server = rpc_server_new(&f->cfg);
    rpc_server_add(f->server, fake_methods, ARRAY_LEN(fake_methods), f);
    if (!rpc_server_start(f->server, &err)) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    f->cfg.grpc_listen_port = rpc_server_port(f->server);
}

UNUSED static void fake_stop(struct fake *f)
{
    if (!f->server)
        return;
    rpc_server_stop(f->server, 0);
    rpc_server_free(f->server);
    f->server = NULL;
}

UNUSED static void rig_new(struct rig *r)
{
    struct err err = ERR_NONE;
    const struct ring_config ring_cfg = {.replication_factor = 1, .heartbeat_timeout_ms = 60000};
    memset(r, 0, sizeof(*r));
    r->flags = flag_set_new();
    flag_set_add(r->flags, "Querier", ingesters_flags, ingesters_flags_n, &r->cfg);
    flag_set_add(r->flags, "Limits", limits_flags, limits_flags_n, &r->limits);
    flag_set_add(r->flags, "gRPC server", rpc_flags, rpc_flags_n, &r->rpc);
    r->provider.defaults = &r->limits;
    r->cfg.hedging_delay = 10000; /* tests that mean it say so */
    r->cfg.client.backoff_base_delay = 20;
    r->cfg.client.backoff_max_delay = 20;
    r->kv = kv_inmemory_new(10);
    r->ring = ring_new(r->kv, SL("collectors/ring"), &ring_cfg, &err);
    r->partitions = partition_watcher_new(r->kv, SL("collectors/ingester-partitions"), &err);
    r->ring_doc = ring_desc_new();
    r->partition_doc = partition_desc_new();
    ASSERT(r->ring && r->partitions);
    arena_init(&r->arena, 0);
    r->ctx = (struct ctx){.tenant = SL("t"), .canceled = &r->canceled, .arena = &r->arena, .deadline_ms = clock_mono_ms() + 60000};
    ASSERT(matcher_init(&r->matcher, MATCH_EQ, SL(METRIC_NAME_LABEL), SL("m"), &err));
}

/* An ingester "<zone>-<partition>" that owns the partition and has n series from the first one on. */
UNUSED static struct fake *rig_add(struct rig *r, const char *zone, int32_t partition, int first, int n)
{
    ASSERT(r->n < FAKES_MAX);
    struct fake *f = &r->fakes[r->n++];
    *f = (struct fake){.cfg = r->rpc, .first = first, .n = n};
    f->cfg.grpc_listen_address = "127.0.0.1";
    f->cfg.grpc_listen_port = 0;
    f->cfg.grpc_workers = 8;
    f->cfg.grpc_io_threads = 1;
    atomic_init(&f->break_after, -1);
    atomic_init(&f->stall_after, -1);
    pthread_mutex_init(&f->lock, NULL);
    snprintf(f->zone, sizeof(f->zone), "%s", zone);
    snprintf(f->id, sizeof(f->id), "%s-%d", zone, partition);
    fake_start(f);
    snprintf(f->addr, sizeof(f->addr), "127.0.0.1:%d", (int)f->cfg.grpc_listen_port);
    struct ring_instance *in = ring_desc_add(r->ring_doc, slice_of(f->id));
    ring_string_set(&in->addr, slice_of(f->addr));
    ring_string_set(&in->zone, slice_of(zone));
    in->timestamp_s = clock_wall_ms() / 1000;
    if (!partition_desc_find(r->partition_doc, partition)) {
        struct partition *p = partition_desc_add(r->partition_doc, partition);
        p->state = PARTITION_ACTIVE;
        p->state_s = 1;
    }
    struct partition_owner *o = partition_desc_add_owner(r->partition_doc, slice_of(f->id));
    o->partition = partition;
    o->state = PARTITION_OWNER_ACTIVE;
    return f;
}

struct put {
    const struct kv_codec *codec;
    const void *doc;
};

static enum kv_cas put_doc(void *arg, void **value, struct err *err)
{
    const struct put *p = arg;
    (void)err;
    p->codec->free(*value);
    *value = p->codec->clone(p->doc);
    return KV_CAS_STORE;
}

UNUSED static void rig_publish(struct rig *r)
{
    struct err err = ERR_NONE;
    struct put ring = {&ring_desc_codec, r->ring_doc}, partitions = {&partition_desc_codec, r->partition_doc};
    bool ok = kv_cas(r->kv, SL("collectors/ring"), ring.codec, put_doc, &ring, &err) &&
              kv_cas(r->kv, SL("collectors/ingester-partitions"), partitions.codec, put_doc, &partitions, &err);
    ASSERT(ok);
}

UNUSED static void rig_start(struct rig *r)
{
    rig_publish(r);
    r->q = ingesters_queryable_new(&(struct ingesters_parts){.cfg = &r->cfg,
                                                              .limits = &r->provider,
                                                              .partitions = r->partitions,
                                                              .instances = r->ring,
                                                              .local = r->local,
                                                              .n_local = r->n_local,
                                                              .zone = r->zone});
}

UNUSED static void rig_stop(struct rig *r)
{
    ingesters_queryable_free(r->q);
    for (size_t i = 0; i < r->n; i++) {
        fake_stop(&r->fakes[i]);
        pthread_mutex_destroy(&r->fakes[i].lock);
    }
    ring_free(r->ring);
    partition_watcher_free(r->partitions);
    kv_free(r->kv);
    ring_desc_free(r->ring_doc);
    partition_desc_free(r->partition_doc);
    matcher_release(&r->matcher);
    arena_release(&r->arena);
    flag_set_free(r->flags);
}

/* --- reading ------------------------------------------------------------------------------------------------------------------------------ */

/* What a select gave: how often each series, and the times of its samples added up; a wrong value or order aborts. */
#define READ_SERIES_MAX 5000
struct read_result {
    bool ok;
    int n;
    int times[READ_SERIES_MAX];
    int samples[READ_SERIES_MAX];
};

static void read_chunks(const struct series *s, int at, struct read_result *ret)
{
    int64_t last = INT64_MIN;
    for (size_t i = 0; i < s->n_chunks; i++) {
        int64_t t[FAKE_SAMPLES];
        double v[FAKE_SAMPLES];
        int n = xor_decode(s->chunks[i].data, t, v, FAKE_SAMPLES);
        ASSERT(n == FAKE_SAMPLES && s->chunks[i].min_t >= last && t[0] == s->chunks[i].min_t);
        last = s->chunks[i].min_t;
        for (int k = 0; k < n; k++)
            ASSERT(v[k] == at * 1000 + k);
        ret->samples[at] += n;
    }
}

static int series_number(struct labels l)
{
    struct slice s = labels_get(l, SL("s"));
    char text[6] = "";
    ASSERT(s.n == 5);
    memcpy(text, s.p, 5);
    int at = atoi(text);
    ASSERT(at >= 0 && at < READ_SERIES_MAX);
    return at;
}

/* With a ctx of its own, so that many threads may. stop_after: gives up after so many calls. */
UNUSED static struct read_result *read_all(struct rig *r, struct ctx *ctx, const struct select_params *p, int stop_after, struct err *err)
{
    struct read_result *ret = calloc(1, sizeof(*ret));
    struct series batch[64];
    struct labels *all = calloc(READ_SERIES_MAX, sizeof(*all));
    struct series_set *set = r->q->ops->select(r->q, ctx, p, err);
    size_t n = 1;
    bool ok = set != NULL;
    for (int calls = 0; ok && n && calls != stop_after; calls++) {
        ok = series_set_next(set, ctx, batch, ARRAY_LEN(batch), &n, err);
        for (size_t i = 0; ok && i < n; i++) {
            int at = series_number(batch[i].labels);
            ret->times[at]++;
            all[ret->n++] = batch[i].labels;
            read_chunks(&batch[i], at, ret);
        }
    }
    for (int i = 0; i < ret->n; i++)
        series_number(all[i]); /* labels are valid to the end */
    series_set_release(set);
    free(all);
    ret->ok = ok;
    return ret;
}

UNUSED static struct read_result *rig_read(struct rig *r)
{
    const struct select_params p = {.min_t = 0, .max_t = 1000000, .matchers = &r->matcher, .n_matchers = 1};
    r->err = ERR_NONE;
    return read_all(r, &r->ctx, &p, -1, &r->err);
}

/* Series first .. first + n - 1 each once with so many samples, and no others. Frees it. */
UNUSED static bool is_exactly(struct read_result *got, int first, int n, int samples)
{
    bool ok = got->ok && got->n == n;
    for (int i = first; i < first + n; i++)
        ok = ok && got->times[i] == 1 && got->samples[i] == samples;
    free(got);
    return ok;
}
