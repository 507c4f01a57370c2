/*
 * The process: configuration, modules in order, and what the pages show of them.
 *
 * Modules start in the order of the table in process.c and stop in the reverse one: whatever a module uses is there as long as it. The main thread
 * starts and stops; HTTP threads read the states.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

#include "app/data_dir.h"
#include "base/flags.h"
#include "ingest/ingest.h"
#include "ingest/member/member.h"
#include "ingest/service/ingest_service.h"
#include "ingest/ship/flush.h"
#include "ingest/ship/ship.h"
#include "log/last_produced.h"
#include "log/plog.h"
#include "model/limits.h"
#include "net/http.h"
#include "net/page.h"
#include "net/rpc/rpc.h"
#include "partition-ring/config.h"
#include "partition-ring/page.h"
#include "partition-ring/partition_view.h"
#include "read/api/api.h"
#include "read/blocks/blocks.h"
#include "read/ingesters/ingesters.h"
#include "read/merged/merged.h"
#include "ring/config.h"
#include "ring/memberlist/page.h"
#include "ring/page.h"
#include "ring/ring.h"
#include "storage/bucket/index_cache.h"
#include "storage/cache/cache.h"
#include "storage/compactor/cleaner/cleaner.h"
#include "storage/compactor/compactor.h"
#include "storage/compactor/upload/upload.h"
#include "storage/gateway/gateway.h"
#include "storage/objstore/objstore.h"
#include "storage/queryable.h"
#include "storage/store/store.h"
#include "write/write.h"

struct app_config {
#define FLAG FLAG_FIELD
#include "app/app_flags.def"
#undef FLAG
};

/* As dskit's services, whose names people know from /services. */
enum module_state { MODULE_NEW, MODULE_STARTING, MODULE_RUNNING, MODULE_STOPPING, MODULE_TERMINATED, MODULE_FAILED };
const char *module_state_name(enum module_state s);

#define PROCESS_MAX_MODULES 24

/* What a process does; -target names them. */
enum role { ROLE_DISTRIBUTOR = 1, ROLE_INGESTER = 2, ROLE_QUERIER = 4, ROLE_STORE_GATEWAY = 8, ROLE_COMPACTOR = 16 };

struct process_target {
    const char *name;
    unsigned roles;
};
extern const struct process_target process_targets[]; /* "all" is the first */
extern const size_t process_targets_n;

/* The flags of the rings and of gossip (cluster.c). */
struct cluster_config {
    struct memberlist_flags_config gossip;
    struct kv_config instance_kv;
    struct kv_config partition_kv;
    struct kv_config distributor_kv;
    struct ring_member_config distributor_member;
    struct ring_member_config member;
    struct ingester_ring_config ingester_ring;
    struct partition_ring_config partitions;
};

/* The flags of long-term storage (storage.c). */
struct storage_config {
    struct objstore_config common_bucket, bucket;
    struct index_cache_config indexes;
    struct store_config store;
    struct cache_config index_cache, chunks_cache;
    struct gateway_config gateway;
    struct gateway_ring_config gateway_ring;
    struct compactor_config compactor;
    struct kv_config compactor_kv;
    struct ring_member_config compactor_member;
    struct blocks_config blocks;
    struct merged_config merged;
    struct shipper_config shipper;
};

/* An ingester of this process and its place in the rings. */
struct seat {
    char *id;
    struct ingester *ingester;
    struct ingest_service *service;
    struct member *member;
};

struct process {
    /* configuration: immutable after process_configure */
    struct flag_set *flags;
    struct app_config app;
    struct http_config http;
    struct rpc_config rpc;
    struct plog_config log_cfg;
    struct ingest_config ingest;
    struct write_config write;
    struct read_config read;
    struct ingesters_config ingesters_cfg;
    struct cluster_config cluster;
    struct storage_config storage;
    struct limits limits;
    struct limits_provider limits_provider;
    unsigned roles; /* enum role bits */

    /* modules: set by their start functions */
    struct data_dir data_dir;
    struct memberlist *gossip; /* NULL: no ring is gossiped */
    struct plog *log;
    struct last_produced *last_produced;
    struct kv *memory_kv;
    struct kv_stores stores; /* what rings may be kept in */
    struct kv *instance_kv, *partition_kv;      /* of those who read the rings */
    struct kv *member_kv, *member_partition_kv; /* of those who are in them */
    struct ring *instances;
    struct partition_watcher *partitions;
    struct seat *seats;
    size_t n_seats;
    struct shipper *shipper;
    struct flusher *flusher;
    struct objstore *bucket, *shipper_bucket, *gateway_bucket, *querier_bucket, *compactor_bucket;
    struct cache *index_cache, *chunks_cache;
    struct store *store;
    struct gateway *gateway;
    struct gateway_ring *gateways; /* the querier's view */
    struct index_cache *indexes;
    struct compactor_ring *compactor_ring;
    struct compactor *compactor;
    struct cleaner *cleaner;
    struct upload *upload;
    struct queryable *recent, *stored, *queryable; /* of ingesters, of blocks, of both */
    struct ingesters_consistency consistency;
    struct distributor *distributor;
    struct query_api *api;
    struct http_server *server;
    struct rpc_server *rpc_server;
    struct memberlist_page gossip_page;
    struct partition_ring_page partition_page;
    struct ring_page ingester_page, distributor_page, gateway_page, compactor_page;
    char *shown_keys[5]; /* of the pages */
    size_t n_shown_keys;

    _Atomic int states[PROCESS_MAX_MODULES]; /* enum module_state; writer: main thread, readers any, relaxed */
    atomic_bool stopping;                    /* SIGTERM was received */
};

/* Registers every flag and parses argv. */
bool process_configure(struct process *p, int argc, char **argv, struct err *err);
bool process_start(struct process *p, struct err *err);
/* Stops what was started; also after a failed start. */
void process_stop(struct process *p);
void process_release(struct process *p);

/* The log is this process's own: it is the whole cluster. */
static inline bool process_is_alone(const struct process *p)
{
    return p->log_cfg.kafka_address.n == 0 && p->roles & ROLE_INGESTER;
}

size_t process_n_modules(void);
/* It is there in a process of these roles. */
bool process_has_module(const struct process *p, size_t i);
const char *process_module_name(size_t i);
/* As shown: a module that runs but is not ready yet is Starting. detail (may be NULL) says what is missing. */
enum module_state process_module_state(struct process *p, size_t i, struct err *detail);

/* The pages of pages.c; their arg is the struct process. */
extern const struct http_route page_routes[];
extern const size_t page_routes_n;
/* Before the server starts: the frame that all pages have. */
void app_pages_start(const struct process *p);

/* Writes docs/reference/ out of the tables into a folder (reference.c). */
bool reference_write(struct process *p, const char *dir, struct err *err);
