#include "app/process.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "app/explorer/explorer.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "base/metrics.h"
#include "model/tenant.h"

static const struct flag_def app_flags[] = {
#define FLAG(...) FLAG_ROW(app_config, __VA_ARGS__)
#include "app/app_flags.def"
#undef FLAG
};

static const char *const state_names[] = {"New", "Starting", "Running", "Stopping", "Terminated", "Failed"};

const char *module_state_name(enum module_state s)
{
    return state_names[s];
}

/* --- configuration --------------------------------------------------------------------------------------------------- */

static bool check_target(const struct flag_list *target, struct err *err)
{
    for (size_t i = 0; i < target->n; i++)
        if (strcmp(target->items[i], "all") != 0)
            return err_set(err, ERR_CONFIG,
                           "-target=%s: a module of its own needs a log that processes share (Kafka); the embedded log "
                           "serves one process with -target=all",
                           target->items[i]);
    return target->n > 0 ? true : err_set(err, ERR_CONFIG, "-target is empty");
}

static bool check_log_flags(const struct app_config *app, struct err *err)
{
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
        if (strcmp(app->log_level, levels[i]) != 0)
            continue;
        log_min_level = (enum log_level)i;
        log_json = strcmp(app->log_format, "json") == 0;
        if (log_json || strcmp(app->log_format, "logfmt") == 0)
            return true;
        return err_set(err, ERR_CONFIG, "invalid value for flag -log.format: \"%s\" is not logfmt or json", app->log_format);
    }
    return err_set(err, ERR_CONFIG, "invalid value for flag -log.level: \"%s\" is not debug, info, warn or error", app->log_level);
}

bool process_configure(struct process *p, int argc, char **argv, struct err *err)
{
    p->flags = flag_set_new();
    flag_set_add(p->flags, "Process", app_flags, ARRAY_LEN(app_flags), &p->app);
    flag_set_add(p->flags, "HTTP server", http_flags, http_flags_n, &p->http);
    flag_set_add(p->flags, "gRPC server", rpc_flags, rpc_flags_n, &p->rpc);
    flag_set_add(p->flags, "Distributor", write_flags, write_flags_n, &p->write);
    flag_set_add(p->flags, "Log", plog_flags, plog_flags_n, &p->log_cfg);
    flag_set_add(p->flags, "Ingester", ingest_flags, ingest_flags_n, &p->ingest);
    flag_set_add(p->flags, "Querier", read_flags, read_flags_n, &p->read);
    flag_set_add(p->flags, "Limits", limits_flags, limits_flags_n, &p->limits);
    p->limits_provider.defaults = &p->limits;
    return flag_set_parse(p->flags, argc, argv, err) && limits_validate(&p->limits, err) &&
           write_config_validate(&p->write, err) && plog_config_validate(&p->log_cfg, err) && check_log_flags(&p->app, err) &&
           check_target(&p->app.target, err);
}

/* --- modules ------------------------------------------------------------------------------------------------------------- */

static bool data_dir_start(struct process *p, struct err *err)
{
    return data_dir_open(&p->data_dir, p->app.data_dir, err);
}

static void data_dir_stop(struct process *p)
{
    data_dir_close(&p->data_dir);
}

static bool log_start(struct process *p, struct err *err)
{
    char dir[PATH_MAX];
    snprintf(dir, sizeof(dir), "%s/log", p->app.data_dir);
    bool kafka = p->log_cfg.kafka_address.n > 0;
    p->log = kafka ? plog_open_kafka(&p->log_cfg, err) : plog_open_embedded(&p->log_cfg, dir, err);
    return p->log != NULL;
}

static void log_stop(struct process *p)
{
    plog_close(p->log);
    p->log = NULL;
}

/* Every partition of the log, ACTIVE and owned by the ingester in this process that reads it. */
static enum kv_cas put_partitions(void *arg, void **value, struct err *err)
{
    (void)err;
    const struct process *p = arg;
    struct partition_desc *d = partition_desc_new();
    int64_t now_s = clock_wall_ms() / 1000;
    for (int32_t i = 0; i < plog_partitions(p->log); i++) {
        char id[32];
        uint32_t tokens[PARTITION_TOKENS];
        snprintf(id, sizeof(id), "ingester-%d", i);
        partition_tokens(i, tokens);
        struct partition *partition = partition_desc_add(d, i);
        partition->state = PARTITION_ACTIVE;
        partition->state_s = now_s;
        partition_set_tokens(partition, tokens, PARTITION_TOKENS);
        struct partition_owner *owner = partition_desc_add_owner(d, slice_of(id));
        owner->partition = i;
        owner->state = PARTITION_OWNER_ACTIVE;
        owner->updated_s = now_s;
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

static bool ring_start(struct process *p, struct err *err)
{
    static const struct slice key = {"collectors/ingester-partitions", sizeof("collectors/ingester-partitions") - 1};
    p->kv = kv_inmemory_new(16);
    p->partitions = partition_watcher_new(p->kv, key, err);
    if (!p->partitions || !kv_cas(p->kv, key, &partition_desc_codec, put_partitions, p, err))
        return false;
    wait_for_partitions(p);
    return true;
}

static void ring_stop(struct process *p)
{
    partition_watcher_free(p->partitions);
    kv_free(p->kv);
    p->partitions = NULL;
    p->kv = NULL;
}

static bool start_ingester(struct process *p, int32_t partition, const char *dir, struct err *err)
{
    char own[PATH_MAX + 32], id[32];
    snprintf(own, sizeof(own), "%s/partition-%d", dir, partition);
    snprintf(id, sizeof(id), "ingester-%d", partition);
    struct ingester *ing =
        ingester_new(&p->ingest, &p->limits_provider, p->log, partition, own, id, p->data_dir.hash_seed, err);
    if (!ing)
        return false;
    p->ingesters[p->n_ingesters++] = ing;
    return ingester_start(ing, err);
}

static bool ingesters_start(struct process *p, struct err *err)
{
    int32_t n = plog_partitions(p->log);
    char dir[PATH_MAX];
    snprintf(dir, sizeof(dir), "%s/tsdb", p->app.data_dir);
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return err_errno(err, ERR_IO, errno, "making folder %s", dir);
    p->ingesters = calloc((size_t)n, sizeof(p->ingesters[0]));
    ASSERT(p->ingesters);
    for (int32_t i = 0; i < n; i++)
        if (!start_ingester(p, i, dir, err))
            return false;
    return true;
}

static void ingesters_stop(struct process *p)
{
    for (size_t i = 0; i < p->n_ingesters; i++)
        ingester_stop(p->ingesters[i]);
    for (size_t i = 0; i < p->n_ingesters; i++)
        ingester_free(p->ingesters[i]);
    free(p->ingesters);
    p->ingesters = NULL;
    p->n_ingesters = 0;
}

static bool distributor_start(struct process *p, struct err *err)
{
    (void)err;
    p->distributor = distributor_new(&p->write, &p->limits_provider, p->log, p->partitions, p->data_dir.hash_seed);
    return true;
}

static void distributor_stop(struct process *p)
{
    distributor_free(p->distributor);
    p->distributor = NULL;
}

/* In the single process a query sees everything that was acknowledged before it began. */
static bool wait_for_log(void *arg, struct ctx *ctx, struct err *err)
{
    struct process *p = arg;
    for (size_t i = 0; i < p->n_ingesters; i++) {
        int64_t next;
        if (!plog_acknowledged(p->log, (int32_t)i, &next, err) || !ingester_wait(p->ingesters[i], next, ctx, err))
            return false;
    }
    return true;
}

static bool querier_start(struct process *p, struct err *err)
{
    struct queryable **parts = calloc(p->n_ingesters, sizeof(parts[0]));
    if (!parts)
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < p->n_ingesters; i++)
        parts[i] = ingester_queryable(p->ingesters[i]);
    p->queryable = queryable_fanout_new(parts, p->n_ingesters);
    free(parts);
    p->api = query_api_new(&p->read, &p->limits_provider, p->queryable, wait_for_log, p);
    return true;
}

static void querier_stop(struct process *p)
{
    query_api_free(p->api);
    queryable_fanout_free(p->queryable);
    p->api = NULL;
    p->queryable = NULL;
}

static bool tenant_of(void *arg, struct slice header, struct slice *ret, struct err *err)
{
    const struct process *p = arg;
    if (p->app.multitenancy_enabled)
        return tenant_parse(header, ret, err);
    *ret = slice_of(p->app.no_auth_tenant);
    return true;
}

static bool server_start(struct process *p, struct err *err)
{
    struct http_limits limits = {.max_body_bytes = p->read.max_body_size, .max_push_body_bytes = p->write.max_recv_msg_size};
    const char *prefix = p->app.prometheus_http_prefix;
    page_set_frame(&app_page_frame);
    p->server = http_server_new(&p->http, limits, tenant_of, p);
    http_server_add(p->server, prefix, page_routes, page_routes_n, p);
    http_server_add(p->server, prefix, explorer_routes, explorer_routes_n, p);
    http_server_add(p->server, prefix, write_routes, write_routes_n, p->distributor);
    http_server_add(p->server, prefix, read_routes, read_routes_n, p->api);
    http_server_on_refusal(p->server, write_routes, write_refuse);
    http_server_on_refusal(p->server, read_routes, query_api_refuse);
    return http_server_start(p->server, err);
}

static void server_stop(struct process *p)
{
    if (p->server)
        http_server_stop(p->server, p->app.graceful_shutdown_timeout);
    http_server_free(p->server);
    p->server = NULL;
}

static bool rpc_start(struct process *p, struct err *err)
{
    p->rpc_server = rpc_server_new(&p->rpc);
    return rpc_server_start(p->rpc_server, err);
}

static void rpc_stop(struct process *p)
{
    if (p->rpc_server)
        rpc_server_stop(p->rpc_server, p->app.graceful_shutdown_timeout);
    rpc_server_free(p->rpc_server);
    p->rpc_server = NULL;
}

struct module {
    const char *name; /* as /services and /ready show it */
    bool (*start)(struct process *p, struct err *err);
    void (*stop)(struct process *p); /* also after a start that failed half way */
};

/*
 * The servers are last: they stop first, so that no request meets a module that is gone. The log outlives the ingesters, who at their stop consume
 * what is durable and commit.
 */
static const struct module modules[] = {
    {"data-dir", data_dir_start, data_dir_stop},
    {"log", log_start, log_stop},
    {"ingester-partitions-ring", ring_start, ring_stop},
    {"ingester-service", ingesters_start, ingesters_stop},
    {"distributor-service", distributor_start, distributor_stop},
    {"querier", querier_start, querier_stop},
    {"server", server_start, server_stop},
    {"grpc-server", rpc_start, rpc_stop},
};
#define INGESTER_MODULE 3
_Static_assert(ARRAY_LEN(modules) <= PROCESS_MAX_MODULES, "PROCESS_MAX_MODULES is too small");

static void set_state(struct process *p, size_t i, enum module_state s)
{
    atomic_store_explicit(&p->states[i], (int)s, memory_order_relaxed);
}

bool process_start(struct process *p, struct err *err)
{
    metrics_register_process();
    for (size_t i = 0; i < ARRAY_LEN(modules); i++) {
        set_state(p, i, MODULE_STARTING);
        if (!modules[i].start(p, err)) {
            set_state(p, i, MODULE_FAILED);
            return false;
        }
        set_state(p, i, MODULE_RUNNING);
    }
    return true;
}

void process_stop(struct process *p)
{
    for (size_t i = ARRAY_LEN(modules); i-- > 0;) {
        if (p->states[i] == MODULE_NEW)
            continue;
        int64_t start_ms = clock_mono_ms();
        set_state(p, i, MODULE_STOPPING);
        modules[i].stop(p);
        set_state(p, i, MODULE_TERMINATED);
        LOG_DEBUG("module stopped", {"module", LOG_STR(modules[i].name)}, {"ms", LOG_I64(clock_mono_ms() - start_ms)});
    }
}

void process_release(struct process *p)
{
    flag_set_free(p->flags);
    p->flags = NULL;
}

size_t process_n_modules(void)
{
    return ARRAY_LEN(modules);
}

const char *process_module_name(size_t i)
{
    return modules[i].name;
}

enum module_state process_module_state(struct process *p, size_t i, struct err *detail)
{
    enum module_state s = (enum module_state)atomic_load_explicit(&p->states[i], memory_order_relaxed);
    if (i != INGESTER_MODULE || s != MODULE_RUNNING)
        return s;
    for (size_t k = 0; k < p->n_ingesters; k++)
        if (!ingester_ready(p->ingesters[k], detail))
            return MODULE_STARTING;
    return s;
}
