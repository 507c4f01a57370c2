/* A member with an ingester over an embedded log, rings in memory that can be out of reach, and a clock of the test's.
 */
#pragma once

#include <ftw.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "base/assert.h"
#include "ingest/member/member_int.h"
#include "log/plog.h"
#include "partition-ring/partition_desc.h"
#include "ring/desc.h"
#include "tests/net/http_rig.h"

#define ID "ingester-zone-a-3"
#define PARTITION 3
#define T0_MS 1800000000000

/* A store that passes everything on, or fails. */
struct store {
    struct kv kv;
    struct kv *inner;
    atomic_bool down;
};

static bool store_up(struct kv *kv, struct err *err)
{
    struct store *s = CONTAINER_OF(kv, struct store, kv);
    return !atomic_load(&s->down) || err_set(err, ERR_UNAVAILABLE, "the store is down");
}

static bool store_get(struct kv *kv, struct slice key, const struct kv_codec *codec, void **ret, struct err *err)
{
    return store_up(kv, err) && kv_get(CONTAINER_OF(kv, struct store, kv)->inner, key, codec, ret, err);
}

static bool store_cas(struct kv *kv, struct slice key, const struct kv_codec *codec, kv_cas_fn *fn, void *arg,
                      struct err *err)
{
    return store_up(kv, err) && kv_cas(CONTAINER_OF(kv, struct store, kv)->inner, key, codec, fn, arg, err);
}

static const struct kv_ops store_ops = {.name = "test", .get = store_get, .cas = store_cas};

struct world {
    char dir[64];
    char tokens_file[128];
    _Atomic int64_t now_ms;
    uint32_t next_random;
    struct store store;
    struct flag_set *flags;
    struct ingest_config ingest;
    struct plog_config log_cfg;
    struct limits limit_values;
    struct limits_provider limits;
    struct plog *log;
    struct ingester *ing;
    bool started; /* the ingester */
    struct member *m;
    struct rig http;
    /* what the next member is made with */
    struct lifecycler_env env;
    struct member_config cfg;
};

static int64_t world_now_ms(void *arg)
{
    return atomic_load(&((struct world *)arg)->now_ms);
}

static uint32_t world_random(void *arg)
{
    return ((struct world *)arg)->next_random += 1000003;
}

static void world_config(struct world *w)
{
    w->env = (struct lifecycler_env){world_now_ms, world_random, w};
    w->cfg = (struct member_config){
        .instance = {.key = "ring",
                     .id = ID,
                     .addr = "10.0.0.1:9095",
                     .zone = "zone-a",
                     .n_tokens = 8,
                     .heartbeat_period_ms = 3600000,
                     .unregister_on_stop = true},
        .partition_shown_key = "collectors/ingester-partitions",
        .partition = {.key = "ingester-partitions",
                      .owner = ID,
                      .partition = PARTITION,
                      .rules = {.min_owners = 1, .min_owners_ms = 10000, .delete_inactive_ms = 13 * 3600000},
                      .poll_ms = 10,
                      .create_on_start = true},
        .heartbeat_timeout_ms = 60000,
        .dir = w->dir,
        .env = &w->env,
    };
}

static void world_new_store(struct world *w)
{
    kv_free(w->store.inner);
    w->store.kv.ops = &store_ops;
    w->store.inner = kv_inmemory_new(16);
}

UNUSED static struct world *world_new(void)
{
    struct world *w = calloc(1, sizeof(*w));
    struct err err;
    strcpy(w->dir, "/tmp/brunn-member-XXXXXX");
    cr_assert(mkdtemp(w->dir));
    snprintf(w->tokens_file, sizeof(w->tokens_file), "%s/tokens.json", w->dir);
    w->now_ms = T0_MS;
    w->flags = flag_set_new();
    flag_set_add(w->flags, "limits", limits_flags, limits_flags_n, &w->limit_values);
    flag_set_add(w->flags, "ingest", ingest_flags, ingest_flags_n, &w->ingest);
    flag_set_add(w->flags, "log", plog_flags, plog_flags_n, &w->log_cfg);
    w->limits.defaults = &w->limit_values;
    w->log_cfg.embedded_partitions = PARTITION + 1;
    world_new_store(w);
    world_config(w);
    char dir[128];
    snprintf(dir, sizeof(dir), "%s/log", w->dir);
    cr_assert(w->log = plog_open_embedded(&w->log_cfg, dir, &err), "%s", err.text);
    return w;
}

/* The ingester is there, but its replay does not begin. */
UNUSED static void world_make(struct world *w)
{
    struct err err;
    w->ing = ingester_new(&w->ingest, &w->limits, w->log, PARTITION, w->dir, ID, 1, &err);
    cr_assert(w->ing, "%s", err.text);
    w->m = member_new(&w->cfg, &w->store.kv, &w->store.kv, w->ing, &err);
    cr_assert(w->m, "%s", err.text);
}

UNUSED static void world_replay(struct world *w)
{
    struct err err;
    cr_assert(ingester_start(w->ing, &err), "%s", err.text);
}

static bool world_joined(struct world *w)
{
    pthread_mutex_lock(&w->m->lock);
    bool joined = w->m->joined;
    pthread_mutex_unlock(&w->m->lock);
    return joined;
}

UNUSED static void world_start(struct world *w)
{
    struct err err;
    world_make(w);
    world_replay(w);
    cr_assert(member_start(w->m, &err), "%s", err.text);
    EVENTUALLY(world_joined(w));
}

UNUSED static void world_stop(struct world *w)
{
    member_leave(w->m);
    ingester_stop(w->ing);
    member_stop(w->m);
    member_free(w->m);
    ingester_free(w->ing);
    w->m = NULL;
    w->ing = NULL;
}

/* As after kill -9: the store is not told. */
UNUSED static void world_crash(struct world *w)
{
    atomic_store(&w->store.down, true);
    world_stop(w);
    atomic_store(&w->store.down, false);
}

static int world_unlink(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

UNUSED static void world_free(struct world *w)
{
    if (w->m)
        world_stop(w);
    plog_close(w->log);
    flag_set_free(w->flags);
    kv_free(w->store.inner);
    nftw(w->dir, world_unlink, 16, FTW_DEPTH | FTW_PHYS);
    free(w);
}

UNUSED static bool world_has_file(const struct world *w, const char *name)
{
    char path[128];
    struct stat st;
    snprintf(path, sizeof(path), "%s/%s", w->dir, name);
    return stat(path, &st) == 0;
}

/* --- what the rings say --- */

/* "JOINING 8", the state and the number of tokens; "" when it is not there. */
UNUSED static const char *entry(struct world *w)
{
    static char text[64];
    void *d;
    cr_assert(kv_get(w->store.inner, SL("ring"), &ring_desc_codec, &d, NULL));
    const struct ring_instance *in = d ? ring_desc_find(d, SL(ID)) : NULL;
    text[0] = '\0';
    if (in)
        snprintf(text, sizeof(text), "%s %zu", ring_state_name(in->state), in->n_tokens);
    ring_desc_free(d);
    return text;
}

/* The tokens of our entry, into ret[RING_TOKENS_MAX]. */
UNUSED static size_t entry_tokens(struct world *w, uint32_t *ret)
{
    void *d;
    cr_assert(kv_get(w->store.inner, SL("ring"), &ring_desc_codec, &d, NULL));
    const struct ring_instance *in = d ? ring_desc_find(d, SL(ID)) : NULL;
    size_t n = in ? in->n_tokens : 0;
    if (n)
        memcpy(ret, in->tokens, n * sizeof(*ret));
    ring_desc_free(d);
    return n;
}

/* "PartitionPending 0 owned 12": the state, since which second after T0, and since when we own it; "" when it is not
 * there. */
UNUSED static const char *partition(struct world *w)
{
    static char text[96];
    void *d;
    cr_assert(kv_get(w->store.inner, SL("ingester-partitions"), &partition_desc_codec, &d, NULL));
    const struct partition *p = d ? partition_desc_find(d, PARTITION) : NULL;
    const struct partition_owner *o = d ? partition_desc_find_owner(d, SL(ID)) : NULL;
    text[0] = '\0';
    if (p)
        snprintf(text, sizeof(text), "%s %lld", partition_state_name(p->state), (long long)(p->state_s - T0_MS / 1000));
    if (o)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), " owned %lld",
                 (long long)(o->updated_s - T0_MS / 1000));
    partition_desc_free(d);
    return text;
}

struct lock_wish {
    bool locked;
    int64_t now_ms;
};

static enum kv_cas do_lock(void *arg, void **value, struct err *err)
{
    (void)err;
    const struct lock_wish *wish = arg;
    return partition_set_lock(*value, PARTITION, wish->locked, wish->now_ms) ? KV_CAS_STORE : KV_CAS_KEEP;
}

UNUSED static void partition_lock(struct world *w, bool locked)
{
    struct lock_wish wish = {locked, w->now_ms};
    cr_assert(kv_cas(w->store.inner, SL("ingester-partitions"), &partition_desc_codec, do_lock, &wish, NULL));
}

/* Eleven seconds later the partition is ACTIVE. */
UNUSED static void world_activate(struct world *w)
{
    w->now_ms += 11000;
    EVENTUALLY(strncmp(partition(w), "PartitionActive", 15) == 0);
}

/* --- asking it --- */

UNUSED static struct reply ask_body(struct world *w, const char *method, const char *path, const char *body)
{
    rig_new(&w->http);
    rig_start(&w->http, member_routes, member_routes_n, w->m);
    struct reply r = rig_ask(&w->http, method, path, "Connection: close\r\n", body, body ? strlen(body) : 0);
    rig_stop(&w->http);
    return r;
}

/* "200 set\n": status and body. */
UNUSED static const char *ask(struct world *w, const char *method, const char *path, const char *body)
{
    static char text[4096];
    struct reply r = ask_body(w, method, path, body);
    snprintf(text, sizeof(text), "%d %s", r.status, r.body ? r.body : "");
    reply_free(&r);
    return text;
}
