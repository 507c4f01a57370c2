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
#include "log/plog.h"
#include "model/limits.h"
#include "net/http.h"
#include "net/page.h"
#include "net/rpc/rpc.h"
#include "partition-ring/partition_view.h"
#include "read/api/api.h"
#include "storage/queryable.h"
#include "write/write.h"

struct app_config {
#define FLAG FLAG_FIELD
#include "app/app_flags.def"
#undef FLAG
};

/* As dskit's services, whose names people know from /services. */
enum module_state { MODULE_NEW, MODULE_STARTING, MODULE_RUNNING, MODULE_STOPPING, MODULE_TERMINATED, MODULE_FAILED };
const char *module_state_name(enum module_state s);

#define PROCESS_MAX_MODULES 8

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
    struct limits limits;
    struct limits_provider limits_provider;

    /* modules: set by their start functions */
    struct data_dir data_dir;
    struct plog *log;
    struct kv *kv; /* in memory; holds the partitions ring */
    struct partition_watcher *partitions;
    struct ingester **ingesters; /* one a partition */
    size_t n_ingesters;
    struct queryable *queryable;
    struct distributor *distributor;
    struct query_api *api;
    struct http_server *server;
    struct rpc_server *rpc_server;

    _Atomic int states[PROCESS_MAX_MODULES]; /* enum module_state; writer: main thread, readers any, relaxed */
    atomic_bool stopping;                    /* SIGTERM was received */
};

/* Registers every flag and parses argv. */
bool process_configure(struct process *p, int argc, char **argv, struct err *err);
bool process_start(struct process *p, struct err *err);
/* Stops what was started; also after a failed start. */
void process_stop(struct process *p);
void process_release(struct process *p);

size_t process_n_modules(void);
const char *process_module_name(size_t i);
/* As shown: an ingester that has not caught up is Starting. detail (may be NULL) says how far it is. */
enum module_state process_module_state(struct process *p, size_t i, struct err *detail);

/* The pages of pages.c; their arg is the struct process. */
extern const struct http_route page_routes[];
extern const size_t page_routes_n;
extern const struct page_frame app_page_frame;

/* Writes docs/reference/ out of the tables into a folder (reference.c). */
bool reference_write(struct process *p, const char *dir, struct err *err);
