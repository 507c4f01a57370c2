/*
 * Store-gateways made up for the tests: gRPC servers of this process that have a handful of blocks, which can be slow, fail, hang, break off or forget blocks; a ring in
 * memory that says where they are; and a cache of bucket indexes that says what the test wants (it stands in for storage/bucket's, which is not linked then).
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
#include "read/blocks/blocks.h"
#include "storage/downsample/downsample.h"
#include "storage/messages/storegateway_messages.h"

#define UNUSED __attribute__((unused))
#define FAKES_MAX 6
#define FAKE_BLOCKS_MAX 32
#define FAKE_SAMPLES 4
#ifndef FAKE_SERIES_MAX
#define FAKE_SERIES_MAX 2000
#endif

/* Series m{s="0007"}, first .. first + n - 1, every `stride`th; samples at t0 .. t0 + 3 s with values s * 1000 + k. */
struct fake_block {
    struct ulid id;
    int first, n, stride;
    int64_t t0;
};

struct rig;
struct fake {
    struct rpc_config cfg;
    struct rpc_server *server;
    const struct rig *rig;
    char id[32], zone[16], addr[64];
    size_t batch; /* series with chunks in a message; 0: as asked */
    /* How it behaves; any thread. */
    atomic_uint forgets;      /* blocks that it does not know, as bits */
    atomic_int delay_ms;      /* before the answer */
    atomic_int fail_code;     /* instead of an answer */
    atomic_int break_after;   /* the stream fails after so many messages; -1: never */
    atomic_int stall_after;   /* ... says no more until it is canceled */
    atomic_int stalls;        /* of so many streams; -1: of all */
    atomic_int skip;          /* a series whose chunks are left out; -1: none */
    atomic_int hides;         /* a series that it does not name; -1: none */
    atomic_bool backwards;    /* names its series in the wrong order */
    atomic_bool short_answer; /* ends before the chunks of the last series */
    atomic_bool silent;       /* as with a tenant that it does not know */
    atomic_bool roomless;     /* as with a room that it does not know */
    /* What was seen. */
    atomic_int requests, canceled, finished;
    pthread_mutex_t lock;
    char metadata[256]; /* guarded by lock: tenant|org id|index|cluster of the last request */
};

/* --- the bucket index -------------------------------------------------------------------------------------------------------------------- */

struct index_snapshot {
    struct bucket_index index;
};
struct index_cache {
    struct index_snapshot snapshot;
    struct err err; /* instead of it */
    struct index_snapshot rooms[DOWNSAMPLE_RESOLUTIONS][DOWNSAMPLE_AGGREGATES]; /* updated_at_s 0: the room has none */
};

UNUSED const struct index_snapshot *index_cache_get(struct index_cache *c, const struct ctx *ctx, struct slice tenant, struct err *err)
{
    enum downsample_resolution r;
    enum downsample_aggregate a;
    (void)ctx;
    if (downsample_room_of(tenant, &r, &a)) {
        if (c->rooms[r][a].index.updated_at_s)
            return &c->rooms[r][a];
        err_set(err, ERR_NOT_FOUND, "a room without an index");
        return NULL;
    }
    if (c->err.code == ERR_OK)
        return &c->snapshot;
    *err = c->err;
    return NULL;
}

UNUSED const struct bucket_index *index_snapshot_index(const struct index_snapshot *s)
{
    return &s->index;
}

UNUSED const struct index_snapshot *index_snapshot_ref(const struct index_snapshot *s)
{
    return s;
}

UNUSED void index_snapshot_unref(const struct index_snapshot *s)
{
    (void)s;
}

/* --- the rig --------------------------------------------------------------------------------------------------------------------------------- */

struct rig {
    struct flag_set *flags;
    struct blocks_config cfg;
    struct rpc_config rpc;
    struct limits limits;
    struct limits_provider provider;
    struct kv *kv;
    struct ring *ring;
    size_t replication;
    struct index_cache cache;
    struct fake_block blocks[FAKE_BLOCKS_MAX];
    struct index_block index_blocks[FAKE_BLOCKS_MAX];
    struct index_deletion deletions[FAKE_BLOCKS_MAX];
    size_t n_blocks;
    struct fake fakes[FAKES_MAX];
    size_t n;
    struct ring_desc *ring_doc;
    struct local_gateway local;
    const char *zone;
    int64_t upload_grace_ms;
    struct queryable *q;
    /* of the call */
    struct arena arena;
    atomic_bool canceled;
    struct ctx ctx;
    struct err err;
    struct matcher matcher;
    struct select_params params;
};

/* --- data ------------------------------------------------------------------------------------------------------------------------------------ */

static bool block_has(const struct fake_block *b, int s)
{
    return s >= b->first && s < b->first + b->n && (s - b->first) % b->stride == 0;
}

static void fake_chunk(const struct fake_block *b, int s, uint8_t bytes[FAKE_SAMPLES * XOR_SAMPLE_MAX_BYTES + 16], struct series_chunk *ret)
{
    struct xor_appender a;
    xor_appender_init(&a);
    for (int k = 0; k < FAKE_SAMPLES; k++)
        xor_append(&a, bytes, b->t0 + k * 1000, s * 1000 + k);
    *ret = (struct series_chunk){b->t0, b->t0 + (FAKE_SAMPLES - 1) * 1000, CHUNK_XOR, slice_make(bytes, xor_size(&a))};
}

struct fake_labels {
    struct label items[2];
    char s[16];
};

static struct labels fake_labels(int s, struct fake_labels *room)
{
    snprintf(room->s, sizeof(room->s), "%05d", s);
    room->items[0] = (struct label){SL(METRIC_NAME_LABEL), SL("m")};
    room->items[1] = (struct label){SL("s"), slice_of(room->s)};
    return (struct labels){room->items, 2};
}

/* Bits of the blocks that are asked for and known. */
static unsigned fake_found(const struct rig *r, unsigned forgets, const struct block_hints *hints, struct ulid *ret, size_t *ret_n)
{
    unsigned bits = 0;
    *ret_n = 0;
    for (size_t i = 0; i < r->n_blocks; i++) {
        bool asked = hints->all;
        for (size_t k = 0; k < hints->n; k++)
            asked |= strcmp(hints->blocks[k].text, r->blocks[i].id.text) == 0;
        if (!asked || (forgets >> i & 1))
            continue;
        bits |= 1u << i;
        ret[(*ret_n)++] = r->blocks[i].id;
    }
    return bits;
}

static bool any_has(const struct rig *r, unsigned bits, int s)
{
    for (size_t i = 0; i < r->n_blocks; i++)
        if ((bits >> i & 1) && block_has(&r->blocks[i], s))
            return true;
    return false;
}

/* The chunks of a series, by time. */
struct fake_chunks {
    struct series_chunk chunks[FAKE_BLOCKS_MAX];
    uint8_t bytes[FAKE_BLOCKS_MAX][FAKE_SAMPLES * XOR_SAMPLE_MAX_BYTES + 16];
    size_t n;
};
static void fake_chunks(const struct rig *r, unsigned bits, int s, struct fake_chunks *ret)
{
    ret->n = 0;
    for (size_t i = 0; i < r->n_blocks; i++) {
        if (!(bits >> i & 1) || !block_has(&r->blocks[i], s))
            continue;
        struct series_chunk c;
        fake_chunk(&r->blocks[i], s, ret->bytes[i], &c);
        size_t at = ret->n++;
        for (; at && ret->chunks[at - 1].min_t > c.min_t; at--)
            ret->chunks[at] = ret->chunks[at - 1];
        ret->chunks[at] = c;
    }
}

/* --- its methods -------------------------------------------------------------------------------------------------------------------------------- */

static void note(struct fake *f, struct rpc_request *req)
{
    static const char *const names[] = {"x-scope-orgid", STOREGATEWAY_TENANT_METADATA, STOREGATEWAY_INDEX_METADATA, "x-cluster"};
    atomic_fetch_add(&f->requests, 1);
    pthread_mutex_lock(&f->lock);
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct slice v = rpc_metadata(req, names[i]);
        n += (size_t)snprintf(f->metadata + n, sizeof(f->metadata) - n, "%s%.*s", i ? "|" : "", SL_FMT(v));
    }
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

static bool fake_begin(struct fake *f, struct rpc_request *req)
{
    note(f, req);
    if (!fake_sleep(f, req, atomic_load(&f->delay_ms)))
        return false;
    int code = atomic_load(&f->fail_code);
    struct slice place = rpc_metadata(req, STOREGATEWAY_TENANT_METADATA);
    bool silent = atomic_load(&f->silent) || (atomic_load(&f->roomless) && memchr(place.p, '/', place.n));
    if (code)
        rpc_finish(req, code, SL("made up"), SL(""));
    else if (silent)
        rpc_finish(req, RPC_OK, SL(""), SL(""));
    return !code && !silent;
}

static bool fake_send(struct fake *f, struct rpc_request *req, struct buf *msg, int *n_sent)
{
    struct err err = ERR_NONE;
    if (atomic_load(&f->break_after) == *n_sent) {
        buf_release(msg);
        rpc_finish(req, RPC_UNAVAILABLE, SL("broken off"), SL(""));
        return false;
    }
    bool stalls = atomic_load(&f->stall_after) == *n_sent && atomic_load(&f->stalls) != 0;
    if (stalls && atomic_load(&f->stalls) > 0)
        atomic_fetch_sub(&f->stalls, 1);
    if (stalls && !fake_sleep(f, req, 10000)) {
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

static bool send_names(struct fake *f, struct rpc_request *req, const int *series, int n, int *sent)
{
    struct buf msg = {0};
    for (int i = 0, in_message = 0;;) {
        size_t begin = storegateway_series_begin(&msg);
        for (; i < n && in_message < 100; i++, in_message++) {
            struct fake_labels room;
            struct labels l = fake_labels(series[atomic_load(&f->backwards) ? n - 1 - i : i], &room);
            storegateway_series_add(&l, &msg);
        }
        in_message = 0;
        storegateway_series_end(begin, i == n, &msg);
        if (!fake_send(f, req, &msg, sent))
            return false;
        if (i == n)
            return true;
    }
}

static bool send_chunks(struct fake *f, struct rpc_request *req, unsigned bits, const int *series, int n, size_t batch, int *sent)
{
    static _Thread_local struct fake_chunks c;
    struct buf msg = {0};
    size_t begin = 0, in_message = 0;
    n -= atomic_load(&f->short_answer) && n;
    for (int i = 0; i < n; i++) {
        if (in_message == 0)
            begin = storegateway_chunks_begin(&msg);
        fake_chunks(f->rig, bits, series[i], &c);
        if (series[i] != atomic_load(&f->skip))
            storegateway_chunks_add((uint64_t)i, c.chunks, c.n, &msg);
        if (++in_message < batch && i + 1 < n)
            continue;
        in_message = 0;
        storegateway_chunks_end(begin, &msg);
        if (!fake_send(f, req, &msg, sent))
            return false;
    }
    return true;
}

static bool answer_series(struct fake *f, struct rpc_request *req, const struct storegateway_request *r)
{
    struct buf msg = {0};
    struct ulid found[FAKE_BLOCKS_MAX];
    size_t n_found;
    int sent = 0, n = 0;
    unsigned bits = fake_found(f->rig, atomic_load(&f->forgets), &r->blocks, found, &n_found);
    int *series = calloc(FAKE_SERIES_MAX, sizeof(*series));
    for (int s = 0; s < FAKE_SERIES_MAX; s++)
        if (any_has(f->rig, bits, s) && s != atomic_load(&f->hides))
            series[n++] = s;
    storegateway_hints_put(found, n_found, &msg);
    bool ok = fake_send(f, req, &msg, &sent) && send_names(f, req, series, n, &sent);
    if (ok && !r->skip_chunks && n) {
        storegateway_chunks_estimate_put((uint64_t)n, &msg);
        ok = fake_send(f, req, &msg, &sent) && send_chunks(f, req, bits, series, n, f->batch ? f->batch : r->chunks_batch, &sent);
    }
    free(series);
    return ok;
}

static void fake_series(struct rpc_request *req, void *arg)
{
    struct fake *f = arg;
    struct arena arena;
    struct storegateway_request r;
    struct err err = ERR_NONE;
    if (!fake_begin(f, req))
        return;
    arena_init(&arena, 0);
    bool fine = storegateway_series_request_decode(rpc_body(req), &arena, &r, &err);
    if (!fine) {
        rpc_finish_err(req, &err);
    } else if (answer_series(f, req, &r)) {
        atomic_fetch_add(&f->finished, 1);
        rpc_finish(req, RPC_OK, SL(""), SL(""));
    }
    arena_release(&arena);
}

/* The values of label s; or the names, and of each block one of its own. */
static size_t fake_strings(const struct rig *r, unsigned bits, bool values, struct fake_labels *room, struct slice *ret)
{
    size_t n = 0;
    for (int s = 0; values && s < FAKE_SERIES_MAX; s++)
        if (any_has(r, bits, s)) {
            fake_labels(s, &room[s]);
            ret[n++] = slice_of(room[s].s);
        }
    for (size_t i = 0; !values && i < r->n_blocks; i++)
        if (bits >> i & 1)
            ret[n++] = slice_of(r->blocks[i].id.text);
    if (!values)
        ret[n++] = SL("s");
    return n;
}

static void answer_strings(struct rpc_request *req, struct fake *f, bool values)
{
    struct arena arena;
    struct storegateway_request r;
    struct err err = ERR_NONE;
    if (!fake_begin(f, req))
        return;
    arena_init(&arena, 0);
    if (values ? storegateway_label_values_request_decode(rpc_body(req), &arena, &r, &err) : storegateway_label_names_request_decode(rpc_body(req), &arena, &r, &err)) {
        struct buf msg = {0};
        struct ulid found[FAKE_BLOCKS_MAX];
        size_t n_found;
        unsigned bits = fake_found(f->rig, atomic_load(&f->forgets), &r.blocks, found, &n_found);
        struct fake_labels *room = calloc(FAKE_SERIES_MAX, sizeof(*room));
        struct slice *strings = calloc(FAKE_SERIES_MAX, sizeof(*strings));
        struct storegateway_strings answer = {.strings = strings, .queried = {false, found, n_found}};
        answer.n = fake_strings(f->rig, bits, values, room, strings);
        values ? storegateway_label_values_put(&answer, &msg) : storegateway_label_names_put(&answer, &msg);
        free(room);
        free(strings);
        rpc_respond(req, &msg);
    } else {
        rpc_finish_err(req, &err);
    }
    arena_release(&arena);
}

static void fake_values(struct rpc_request *req, void *arg)
{
    answer_strings(req, arg, true);
}

static void fake_names(struct rpc_request *req, void *arg)
{
    answer_strings(req, arg, false);
}

static const struct rpc_method fake_methods[] = {
    {STOREGATEWAY_SERIES, fake_series, true},
    {STOREGATEWAY_LABEL_NAMES, fake_names, false},
    {STOREGATEWAY_LABEL_VALUES, fake_values, false},
};

/* --- life -------------------------------------------------------------------------------------------------------------------------------------- */

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
    memset(r, 0, sizeof(*r));
    r->flags = flag_set_new();
    flag_set_add(r->flags, "Querier", blocks_flags, blocks_flags_n, &r->cfg);
    flag_set_add(r->flags, "Limits", limits_flags, limits_flags_n, &r->limits);
    flag_set_add(r->flags, "gRPC server", rpc_flags, rpc_flags_n, &r->rpc);
    r->provider.defaults = &r->limits;
    r->cfg.client.backoff_base_delay = 20;
    r->cfg.client.backoff_max_delay = 20;
    r->replication = 3;
    r->kv = kv_inmemory_new(10);
    r->ring_doc = ring_desc_new();
    r->cache.snapshot.index = (struct bucket_index){.blocks = r->index_blocks, .deletions = r->deletions, .updated_at_s = 1234567890};
    arena_init(&r->arena, 0);
    r->ctx = (struct ctx){.tenant = SL("t"), .canceled = &r->canceled, .arena = &r->arena, .deadline_ms = clock_mono_ms() + 60000};
    ASSERT(matcher_init(&r->matcher, MATCH_EQ, SL(METRIC_NAME_LABEL), SL("m"), &err));
    r->params = (struct select_params){.min_t = 0, .max_t = 1000000000, .matchers = &r->matcher, .n_matchers = 1};
}

UNUSED static struct fake_block *rig_block(struct rig *r, int first, int n, int64_t t0)
{
    ASSERT(r->n_blocks < FAKE_BLOCKS_MAX);
    struct fake_block *b = &r->blocks[r->n_blocks];
    *b = (struct fake_block){.first = first, .n = n, .stride = 1, .t0 = t0};
    b->id = ulid_new(1000 + (int64_t)r->n_blocks);
    r->index_blocks[r->n_blocks] = (struct index_block){.id = b->id, .min_t = t0, .max_t = t0 + FAKE_SAMPLES * 1000};
    r->cache.snapshot.index.n_blocks = ++r->n_blocks;
    return b;
}

UNUSED static void rig_mark(struct rig *r, const struct fake_block *b, int64_t age_s)
{
    r->deletions[r->cache.snapshot.index.n_deletions++] = (struct index_deletion){b->id, clock_wall_ms() / 1000 - age_s};
}

UNUSED static struct fake *rig_gateway(struct rig *r, const char *zone)
{
    ASSERT(r->n < FAKES_MAX);
    struct fake *f = &r->fakes[r->n++];
    *f = (struct fake){.cfg = r->rpc, .rig = r};
    f->cfg.grpc_listen_address = "127.0.0.1";
    f->cfg.grpc_listen_port = 0;
    f->cfg.grpc_workers = 8;
    f->cfg.grpc_io_threads = 1;
    atomic_init(&f->break_after, -1);
    atomic_init(&f->stall_after, -1);
    atomic_init(&f->stalls, -1);
    atomic_init(&f->skip, -1);
    atomic_init(&f->hides, -1);
    pthread_mutex_init(&f->lock, NULL);
    snprintf(f->zone, sizeof(f->zone), "%s", zone);
    snprintf(f->id, sizeof(f->id), "gateway-%s-%zu", zone, r->n - 1);
    fake_start(f);
    snprintf(f->addr, sizeof(f->addr), "127.0.0.1:%d", (int)f->cfg.grpc_listen_port);
    struct ring_instance *in = ring_desc_add(r->ring_doc, slice_of(f->id));
    ring_string_set(&in->addr, slice_of(f->addr));
    ring_string_set(&in->zone, slice_of(zone));
    in->state = RING_ACTIVE;
    in->timestamp_s = clock_wall_ms() / 1000;
    in->n_tokens = 64;
    in->tokens = calloc(in->n_tokens, sizeof(*in->tokens));
    for (size_t i = 0; i < in->n_tokens; i++)
        in->tokens[i] = (uint32_t)(i * 67108864 + r->n * 1000003);
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
    struct put ring = {&ring_desc_codec, r->ring_doc};
    bool ok = kv_cas(r->kv, SL("collectors/store-gateway"), ring.codec, put_doc, &ring, &err);
    ASSERT(ok);
}

UNUSED static void rig_start(struct rig *r)
{
    struct err err = ERR_NONE;
    const struct ring_config ring_cfg = {.replication_factor = r->replication, .heartbeat_timeout_ms = 60000};
    rig_publish(r);
    r->ring = ring_new(r->kv, SL("collectors/store-gateway"), &ring_cfg, &err);
    ASSERT(r->ring);
    r->q = blocks_queryable_new(&(struct blocks_parts){.cfg = &r->cfg,
                                                        .limits = &r->provider,
                                                        .indexes = &r->cache,
                                                        .gateways = r->ring,
                                                        .local = r->local.ops ? &r->local : NULL,
                                                        .zone = r->zone,
                                                        .upload_grace_ms = r->upload_grace_ms});
}

UNUSED static void rig_stop(struct rig *r)
{
    blocks_queryable_free(r->q);
    for (size_t i = 0; i < r->n; i++) {
        fake_stop(&r->fakes[i]);
        pthread_mutex_destroy(&r->fakes[i].lock);
    }
    ring_free(r->ring);
    kv_free(r->kv);
    ring_desc_free(r->ring_doc);
    matcher_release(&r->matcher);
    arena_release(&r->arena);
    flag_set_free(r->flags);
}

/* --- reading ------------------------------------------------------------------------------------------------------------------------------------- */

/* What a select gave: how often each series, and its samples. A wrong value or order aborts. */
struct read_result {
    bool ok;
    int n;
    int times[FAKE_SERIES_MAX];
    int chunks[FAKE_SERIES_MAX];
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
        ret->chunks[at]++;
    }
}

static int series_number(struct labels l)
{
    struct slice s = labels_get(l, SL("s"));
    char text[6] = "";
    ASSERT(s.n == 5);
    memcpy(text, s.p, 5);
    int at = atoi(text);
    ASSERT(at >= 0 && at < FAKE_SERIES_MAX);
    return at;
}

/* With a ctx of its own, so that many threads may. stop_after: gives up after so many calls. */
UNUSED static struct read_result *read_all(struct rig *r, struct ctx *ctx, const struct select_params *p, size_t batch_n, int stop_after, struct err *err)
{
    struct read_result *ret = calloc(1, sizeof(*ret));
    struct series batch[64];
    struct labels *all = calloc(FAKE_SERIES_MAX, sizeof(*all));
    struct series_set *set = r->q->ops->select(r->q, ctx, p, err);
    size_t n = 1;
    bool ok = set != NULL;
    for (int calls = 0; ok && n && calls != stop_after; calls++) {
        ok = series_set_next(set, ctx, batch, batch_n, &n, err);
        for (size_t i = 0; ok && i < n; i++) {
            int at = series_number(batch[i].labels);
            ASSERT(ret->n == 0 || labels_cmp(all[ret->n - 1], batch[i].labels) < 0);
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
    r->err = ERR_NONE;
    return read_all(r, &r->ctx, &r->params, 64, -1, &r->err);
}

/* Chunks that a series has in these blocks, equal ones once. */
UNUSED static int expected_chunks(const struct rig *r, unsigned bits, int s)
{
    static _Thread_local struct fake_chunks c;
    int n = 0;
    fake_chunks(r, bits, s, &c);
    for (size_t i = 0; i < c.n; i++)
        n += i == 0 || c.chunks[i].min_t != c.chunks[i - 1].min_t;
    return n;
}

/* Every series of these blocks once, with all its chunks, and no others. Frees it. */
UNUSED static bool is_exactly(const struct rig *r, struct read_result *got, unsigned bits)
{
    bool ok = got->ok;
    for (int s = 0; s < FAKE_SERIES_MAX; s++)
        ok = ok && got->times[s] == any_has(r, bits, s) && got->chunks[s] == (r->params.no_chunks ? 0 : expected_chunks(r, bits, s));
    free(got);
    return ok;
}
