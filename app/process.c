#include "app/process.h"

#include <string.h>

#include "app/modules.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "base/metrics.h"

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

const struct process_target process_targets[] = {
    {"all", ALL_ROLES},
    {"distributor", ROLE_DISTRIBUTOR},
    {"ingester", ROLE_INGESTER},
    {"querier", ROLE_QUERIER},
    {"store-gateway", ROLE_STORE_GATEWAY},
    {"compactor", ROLE_COMPACTOR},
};
const size_t process_targets_n = ARRAY_LEN(process_targets);

static bool add_target(struct process *p, const char *name, struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(process_targets); i++) {
        if (strcmp(process_targets[i].name, name) == 0) {
            p->roles |= process_targets[i].roles;
            return true;
        }
    }
    if (accepted_is_other_target(name))
        return err_set(err, ERR_CONFIG, "-target=%s: there is no %s here; -modules lists what there is", name, name);
    return err_set(err, ERR_CONFIG, "-target=%s: unrecognised module name: %s; -modules lists them", name, name);
}

static bool check_target(struct process *p, struct err *err)
{
    const struct flag_list *target = &p->app.target;
    for (size_t i = 0; i < target->n; i++)
        if (!add_target(p, target->items[i], err))
            return false;
    if (target->n == 0)
        return err_set(err, ERR_CONFIG, "-target is empty");
    if (p->log_cfg.kafka_address.n == 0 && p->roles & LOG_ROLES && p->roles != ALL_ROLES)
        return err_set(err, ERR_CONFIG,
                       "-target=%s: a module of its own needs a log that processes share (-ingest-storage.kafka.address); "
                       "the embedded log serves one process with -target=all",
                       target->items[0]);
    return true;
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
    flag_set_add(p->flags, "Querier", ingesters_flags, ingesters_flags_n, &p->ingesters_cfg);
    cluster_add_flags(p);
    storage_add_flags(p);
    flag_set_add(p->flags, "Limits", limits_flags, limits_flags_n, &p->limits);
    accepted_add_flags(p);
    p->limits_provider.defaults = &p->limits;
    return flag_set_parse(p->flags, argc, argv, err) && limits_validate(&p->limits, err) &&
           write_config_validate(&p->write, err) && read_config_validate(&p->read, err) && ingesters_config_check(&p->ingesters_cfg, err) && plog_config_validate(&p->log_cfg, err) && check_log_flags(&p->app, err) &&
           check_target(p, err) && storage_check_flags(p, err);
}

static void set_state(struct process *p, size_t i, enum module_state s)
{
    atomic_store_explicit(&p->states[i], (int)s, memory_order_relaxed);
}

bool process_has_module(const struct process *p, size_t i)
{
    return modules[i].roles & p->roles;
}

bool process_start(struct process *p, struct err *err)
{
    metrics_register_process();
    accepted_log(p);
    for (size_t i = 0; i < n_modules; i++) {
        if (!process_has_module(p, i))
            continue;
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
    for (size_t i = n_modules; i-- > 0;) {
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
    return n_modules;
}

const char *process_module_name(size_t i)
{
    return modules[i].name;
}

enum module_state process_module_state(struct process *p, size_t i, struct err *detail)
{
    enum module_state s = (enum module_state)atomic_load_explicit(&p->states[i], memory_order_relaxed);
    return s == MODULE_RUNNING && modules[i].ready && !modules[i].ready(p, detail) ? MODULE_STARTING : s;
}
