/*
 * What joins this process with others: gossip, the stores and views of the rings, and its ingesters' seats in them.
 *
 * With the embedded log the cluster is this process: its rings live in memory, every partition of the log is ACTIVE from the start, and one ingester a
 * partition runs here. With Kafka a process has one ingester, whose partition is the number at the end of its instance id.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "app/modules.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "ring/memberlist/page.h"

#define INGESTER_RING "ingester.ring."
#define PARTITION_RING "ingester.partition-ring."

#define KV_ROW(...) FLAG_ROW(kv_config, __VA_ARGS__)

static const struct flag_def instance_kv_flags[] = {
#define FLAG KV_ROW
#define RING_FLAG INGESTER_RING
#define RING_YAML INGESTER_RING
#include "ring/kv_flags.def"
#undef RING_FLAG
#undef RING_YAML
#undef FLAG
};

static const struct flag_def partition_kv_flags[] = {
#define FLAG KV_ROW
#define RING_FLAG PARTITION_RING
#define RING_YAML "ingester.partition_ring."
#include "ring/kv_flags.def"
#undef RING_FLAG
#undef RING_YAML
#undef FLAG
};

void cluster_add_flags(struct process *p)
{
    struct cluster_config *c = &p->cluster;
    flag_set_add(p->flags, "Gossip", memberlist_flags, memberlist_flags_n, &c->gossip);
    flag_set_add(p->flags, "Ingester ring", instance_kv_flags, ARRAY_LEN(instance_kv_flags), &c->instance_kv);
    flag_set_add(p->flags, "Ingester ring", ingester_ring_member_flags, ingester_ring_member_flags_n, &c->member);
    flag_set_add(p->flags, "Ingester ring", ingester_ring_flags, ingester_ring_flags_n, &c->ingester_ring);
    flag_set_add(p->flags, "Partitions ring", partition_kv_flags, ARRAY_LEN(partition_kv_flags), &c->partition_kv);
    flag_set_add(p->flags, "Distributor ring", distributor_kv_flags, distributor_kv_flags_n, &c->distributor_kv);
    flag_set_add(p->flags, "Distributor ring", distributor_member_flags, distributor_member_flags_n, &c->distributor_member);
    flag_set_add(p->flags, "Partitions ring", partition_ring_flags, partition_ring_flags_n, &c->partitions);
}

/* --- gossip ---------------------------------------------------------------------------------------------------------- */

static bool is_gossiped(const struct kv_config *kv)
{
    return strcmp(kv->store, "memberlist") == 0;
}

static bool wants_gossip(const struct process *p)
{
    const struct kv_config *kvs[] = {&p->cluster.instance_kv, &p->cluster.partition_kv, &p->cluster.distributor_kv, &p->storage.gateway_ring.kv,
                                     &p->storage.compactor_kv};
    bool wanted = false;
    for (size_t i = 0; i < ARRAY_LEN(kvs); i++)
        wanted |= is_gossiped(kvs[i]);
    return wanted && !process_is_alone(p);
}

/* -memberlist.abort-if-join-fails: as if an operator had stopped us; whoever runs the process starts it again. */
static void stop_process(void *arg)
{
    (void)arg;
    LOG_ERROR("no member of -memberlist.join could be reached: stopping");
    kill(getpid(), SIGTERM);
}

bool gossip_start(struct process *p, struct err *err)
{
    p->memory_kv = kv_inmemory_new(16);
    p->stores.inmemory = p->memory_kv;
    if (!wants_gossip(p))
        return true;
    struct memberlist_config cfg;
    struct kv_codecs codecs = {0};
    kv_codecs_add(&codecs, &ring_desc_codec);
    kv_codecs_add(&codecs, &partition_desc_codec);
    if (!memberlist_config_from_flags(&p->cluster.gossip, &cfg, err))
        return false;
    cfg.on_join_failed = stop_process;
    p->gossip = memberlist_new(&cfg, &codecs, err);
    if (!p->gossip)
        return false;
    p->stores.memberlist = memberlist_kv(p->gossip);
    memberlist_metrics_export(p->gossip);
    return memberlist_start(p->gossip, err);
}

bool gossip_ready(struct process *p, struct err *ret)
{
    if (!p->gossip || p->cluster.gossip.join.n == 0 || memberlist_wait_joined(p->gossip, 0))
        return true;
    return err_set(ret, ERR_UNAVAILABLE, "no member of -memberlist.join has answered yet");
}

void gossip_stop(struct process *p)
{
    if (p->gossip)
        memberlist_leave(p->gossip);
    memberlist_free(p->gossip);
    kv_free(p->memory_kv);
    p->gossip = NULL;
    p->memory_kv = NULL;
    p->stores = (struct kv_stores){0};
}

static struct kv *open_store(struct process *p, const struct kv_config *cfg, const char *flag, const char *name,
                             struct err *err)
{
    struct kv_config own = *cfg;
    if (process_is_alone(p))
        own.store = "inmemory";
    return kv_open(&own, &(struct kv_user){flag, name}, &p->stores, err);
}

/* --- the rings --------------------------------------------------------------------------------------------------------- */

bool instance_ring_start(struct process *p, struct err *err)
{
    const struct ring_config cfg = {
        .replication_factor = (size_t)p->cluster.ingester_ring.replication_factor,
        .heartbeat_timeout_ms = p->cluster.member.heartbeat_timeout,
        .zone_awareness = p->cluster.ingester_ring.zone_awareness_enabled,
        .excluded_zones = p->cluster.ingester_ring.excluded_zones.items,
        .n_excluded_zones = p->cluster.ingester_ring.excluded_zones.n,
        .name = "ingester",
    };
    return (p->instance_kv = open_store(p, &p->cluster.instance_kv, INGESTER_RING, "ingester-ring", err)) &&
           (p->instances = ring_new(p->instance_kv, SL(RING_KEY_INGESTERS), &cfg, err));
}

void instance_ring_stop(struct process *p)
{
    ring_free(p->instances);
    kv_free(p->instance_kv);
    p->instances = NULL;
    p->instance_kv = NULL;
}

/* Every partition of the embedded log, ACTIVE; whoever owns them says so himself. */
static enum kv_cas put_partitions(void *arg, void **value, struct err *err)
{
    (void)err;
    const struct process *p = arg;
    struct partition_desc *d = partition_desc_new();
    bool changed;
    for (int32_t i = 0; i < plog_partitions(p->log); i++) {
        partition_create(d, i, clock_wall_ms());
        partition_change_state(d, i, PARTITION_ACTIVE, clock_wall_ms(), &changed, NULL);
    }
    partition_desc_free(*value);
    *value = d;
    return KV_CAS_STORE;
}

/* The watcher is told by a thread of the store's. */
static void wait_for_partitions(struct process *p)
{
    for (size_t n = 0; n == 0;) {
        struct partition_view *v = partition_watcher_current(p->partitions);
        partition_view_readers(v, &n);
        partition_view_free(v);
        if (n == 0)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

bool partition_ring_start(struct process *p, struct err *err)
{
    const struct slice key = SL(RING_KEY_INGESTER_PARTITIONS);
    p->partition_kv = open_store(p, &p->cluster.partition_kv, PARTITION_RING, "ingester-partitions-watcher", err);
    if (!p->partition_kv || !(p->partitions = partition_watcher_new(p->partition_kv, key, err)))
        return false;
    if (!process_is_alone(p))
        return true;
    if (!kv_cas(p->partition_kv, key, &partition_desc_codec, put_partitions, p, err))
        return false;
    wait_for_partitions(p);
    return true;
}

void partition_ring_stop(struct process *p)
{
    partition_watcher_free(p->partitions);
    kv_free(p->partition_kv);
    p->partitions = NULL;
    p->partition_kv = NULL;
}

/* --- ingesters and their seats ------------------------------------------------------------------------------------------ */

static bool seat_identity(struct process *p, int32_t partition, struct ring_member_identity *ret, struct err *err)
{
    if (!process_is_alone(p))
        return ring_member_resolve(&p->cluster.member, INGESTER_RING, (uint16_t)p->rpc.grpc_listen_port, ret, err);
    snprintf(ret->id, sizeof(ret->id), "ingester-%d", partition);
    snprintf(ret->addr, sizeof(ret->addr), "127.0.0.1:%lld", (long long)p->rpc.grpc_listen_port);
    ret->zone[0] = '\0';
    return true;
}

static bool add_seat(struct process *p, const struct ring_member_identity *self, int32_t partition, const char *dir,
                     struct err *err)
{
    char own[PATH_MAX + 32];
    snprintf(own, sizeof(own), "%s/partition-%d", dir, partition);
    struct seat *s = &p->seats[p->n_seats++];
    s->id = strdup(self->id);
    struct member_config cfg;
    char shown[512];
    if (!member_config_of(&p->cluster.ingester_ring, &p->cluster.member, &p->cluster.partitions, self, partition, own, &cfg, err))
        return false;
    snprintf(shown, sizeof(shown), "%s%s", p->cluster.partition_kv.prefix, cfg.partition.key);
    cfg.partition_shown_key = shown;
    if (p->n_seats == 1)
        cfg.instance.name = "ingester"; /* of the metrics, which are one lifecycler's */
    if (process_is_alone(p))
        cfg.min_ready_ms = cfg.observe_ms = 0; /* nobody else has to hear of it */
    return (s->ingester = ingester_new(&p->ingest, &p->limits_provider, p->log, partition, own, self->id,
                                       p->data_dir.hash_seed, err)) &&
           (s->service = ingest_service_new(&p->ingest, s->ingester, partition, p->last_produced)) &&
           (s->member = member_new(&cfg, p->member_kv, p->member_partition_kv, s->ingester, err));
}

static bool add_seats(struct process *p, const char *dir, struct err *err)
{
    struct ring_member_identity self;
    int32_t partition = 0, n = process_is_alone(p) ? plog_partitions(p->log) : 1;
    p->seats = calloc((size_t)n, sizeof(p->seats[0]));
    ASSERT(p->seats);
    for (int32_t i = 0; i < n; i++) {
        if (!seat_identity(p, i, &self, err) || !member_partition_of(self.id, &partition, err) ||
            !add_seat(p, &self, partition, dir, err))
            return false;
    }
    return true;
}

static bool start_ingesters(struct process *p, struct err *err)
{
    for (size_t i = 0; i < p->n_seats; i++)
        if (!ingester_start(p->seats[i].ingester, err))
            return false;
    shipper_start(p->shipper);
    return true;
}

bool ingesters_start(struct process *p, struct err *err)
{
    char dir[PATH_MAX];
    if (p->app.tsdb_dir[0])
        snprintf(dir, sizeof(dir), "%s", p->app.tsdb_dir);
    else
        snprintf(dir, sizeof(dir), "%s/tsdb", p->app.data_dir);
    return data_dir_make(dir, err) && (p->member_kv = open_store(p, &p->cluster.instance_kv, INGESTER_RING, "ingester-lifecycler", err)) &&
           (p->member_partition_kv =
                open_store(p, &p->cluster.partition_kv, PARTITION_RING, "ingester-partitions-lifecycler", err)) &&
           add_seats(p, dir, err) && shipper_open(p, err) && start_ingesters(p, err);
}

void ingesters_stop(struct process *p)
{
    flusher_free(p->flusher);
    p->flusher = NULL;
    for (size_t i = 0; i < p->n_seats; i++)
        ingester_stop(p->seats[i].ingester);
    shipper_close(p);
    for (size_t i = 0; i < p->n_seats; i++) {
        struct seat *s = &p->seats[i];
        member_stop(s->member);
        member_free(s->member);
        ingest_service_free(s->service);
        ingester_free(s->ingester);
        free(s->id);
    }
    free(p->seats);
    kv_free(p->member_kv);
    kv_free(p->member_partition_kv);
    p->seats = NULL;
    p->n_seats = 0;
    p->member_kv = p->member_partition_kv = NULL;
}

/* Last of all, when everything that others may ask for is there. */
bool membership_start(struct process *p, struct err *err)
{
    for (size_t i = 0; i < p->n_seats; i++)
        if (!member_start(p->seats[i].member, err))
            return false;
    return true;
}

void membership_stop(struct process *p)
{
    for (size_t i = 0; i < p->n_seats; i++)
        member_leave(p->seats[i].member);
}

bool membership_ready(struct process *p, struct err *ret)
{
    for (size_t i = 0; i < p->n_seats; i++)
        if (!member_ready(p->seats[i].member, ret))
            return false;
    return true;
}

/* --- pages and endpoints -------------------------------------------------------------------------------------------------- */

enum { INGESTER_RING_PAGE, DISTRIBUTOR_RING_PAGE, GATEWAY_RING_PAGE, COMPACTOR_RING_PAGE };
const struct http_route ring_page_routes[] = {
    [INGESTER_RING_PAGE] = {HTTP_GET | HTTP_POST, "/ingester/ring", HTTP_POOL_QUERY, HTTP_GZIP, ring_page,
                            "The ring of ingesters; POST forget=<instance> takes one out"},
    [DISTRIBUTOR_RING_PAGE] = {HTTP_GET | HTTP_POST, "/distributor/ring", HTTP_POOL_QUERY, HTTP_GZIP, ring_page,
                               "The ring of distributors; POST forget=<instance> takes one out"},
    [GATEWAY_RING_PAGE] = {HTTP_GET | HTTP_POST, "/store-gateway/ring", HTTP_POOL_QUERY, HTTP_GZIP, ring_page,
                           "The ring of store-gateways; POST forget=<instance> takes one out"},
    [COMPACTOR_RING_PAGE] = {HTTP_GET | HTTP_POST, "/compactor/ring", HTTP_POOL_QUERY, HTTP_GZIP, ring_page,
                             "The ring of compactors; POST forget=<instance> takes one out"},
};
const size_t ring_page_routes_n = ARRAY_LEN(ring_page_routes);

/* A key as people know it: with the prefix of its store. */
static const char *shown_key(struct process *p, const struct kv_config *kv, const char *key)
{
    char text[512];
    snprintf(text, sizeof(text), "%s%s", kv->prefix, key);
    char *shown = strdup(text);
    ASSERT(shown);
    p->shown_keys[p->n_shown_keys++] = shown;
    return shown;
}

/* One page of ring_page_routes; kv NULL: this process has nothing to do with that ring. */
static void add_ring_page(struct process *p, size_t route, struct ring_page *page, const char *title, struct kv *kv, const char *key,
                          const struct kv_config *kv_cfg, const struct ring_member_config *member)
{
    if (!kv)
        return;
    *page = (struct ring_page){title, kv, key, shown_key(p, kv_cfg, key), member->heartbeat_timeout};
    http_server_add(p->server, p->app.prometheus_http_prefix, &ring_page_routes[route], 1, page);
}

static void add_ring_pages(struct process *p)
{
    const struct cluster_config *c = &p->cluster;
    const struct storage_config *s = &p->storage;
    add_ring_page(p, INGESTER_RING_PAGE, &p->ingester_page, "Ingesters", p->instance_kv, RING_KEY_INGESTERS, &c->instance_kv, &c->member);
    add_ring_page(p, DISTRIBUTOR_RING_PAGE, &p->distributor_page, "Distributors", p->distributor ? distributor_ring_store(p->distributor) : NULL,
                  RING_KEY_DISTRIBUTORS, &c->distributor_kv, &c->distributor_member);
    struct gateway_ring *gateways = p->gateway ? gateway_own_ring(p->gateway) : p->gateways;
    add_ring_page(p, GATEWAY_RING_PAGE, &p->gateway_page, "Store-gateways", gateways ? gateway_ring_store(gateways) : NULL, RING_KEY_STORE_GATEWAYS,
                  &s->gateway_ring.kv, &s->gateway_ring.member);
    add_ring_page(p, COMPACTOR_RING_PAGE, &p->compactor_page, "Compactors", p->compactor_ring ? compactor_ring_store(p->compactor_ring) : NULL,
                  RING_KEY_COMPACTORS, &s->compactor_kv, &s->compactor_member);
    if (!p->partition_kv)
        return;
    p->partition_page = (struct partition_ring_page){p->partition_kv, RING_KEY_INGESTER_PARTITIONS,
                                                     shown_key(p, &c->partition_kv, RING_KEY_INGESTER_PARTITIONS)};
    http_server_add(p->server, p->app.prometheus_http_prefix, partition_ring_routes, partition_ring_routes_n, &p->partition_page);
}

void cluster_add_routes(struct process *p)
{
    static const struct memberlist_view views[] = {{&partition_desc_codec, partition_desc_json}};
    const char *prefix = p->app.prometheus_http_prefix;
    add_ring_pages(p);
    p->gossip_page = (struct memberlist_page){.m = p->gossip, .views = views, .n_views = ARRAY_LEN(views)};
    http_server_add(p->server, prefix, memberlist_routes, memberlist_routes_n, &p->gossip_page);
    /* Several ingesters are in one process only when it is alone, and then nobody scales it. */
    if (p->n_seats == 1)
        http_server_add(p->server, prefix, member_routes, member_routes_n, p->seats[0].member);
}

void cluster_free_routes(struct process *p)
{
    while (p->n_shown_keys > 0)
        free(p->shown_keys[--p->n_shown_keys]);
}
