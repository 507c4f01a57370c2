/* What configurations of Grafana Mimir may hold that has no effect here. */
#include <string.h>

#include "app/modules.h"
#include "base/assert.h"
#include "base/logger.h"

#define ANY false
#define DEFAULT_ONLY true

static const struct flag_accepted accepted_flags[] = {
#define ACCEPTED(flag, yaml, type, def, which, why) {flag, yaml, FLAG_##type, def, which, why},
#include "app/accepted_flags.def"
#undef ACCEPTED
};

void accepted_add_flags(struct process *p)
{
    flag_set_accept(p->flags, accepted_flags, ARRAY_LEN(accepted_flags));
}

void accepted_log(const struct process *p)
{
    struct buf names;
    buf_init(&names, 0);
    size_t n = flag_set_print_ignored(p->flags, &names);
    if (n)
        LOG_WARN("flags that have no effect here were given values other than their defaults; docs/reference/accepted-flags.md says why",
                 {"n", LOG_U64(n)}, {"flags", LOG_STR(buf_cstr(&names))});
    buf_release(&names);
}

/* Targets of Mimir that are no role of this process. */
static const char *const other_targets[] = {"query-frontend",  "query-scheduler", "ruler",         "alertmanager",        "overrides-exporter",
                                            "block-builder",   "block-builder-scheduler",   "compactor-scheduler", "usage-tracker", "continuous-test",
                                            "memberlist-kv",   "read",            "write",         "backend",             "flusher"};

bool accepted_is_other_target(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(other_targets); i++)
        if (strcmp(other_targets[i], name) == 0)
            return true;
    return false;
}
