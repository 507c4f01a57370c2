/* The compactor's flags, and what is read out of them. */
#include <string.h>

#include "base/assert.h"
#include "storage/compactor/compactor.h"

const struct flag_def compactor_flags[] = {
#define FLAG(...) FLAG_ROW(compactor_config, __VA_ARGS__)
#include "storage/compactor/compactor_flags.def"
#undef FLAG
};
const size_t compactor_flags_n = ARRAY_LEN(compactor_flags);

bool compactor_ranges(const struct compactor_config *cfg, int64_t ret[COMPACTOR_RANGES_MAX], size_t *ret_n, struct err *err)
{
    const struct flag_list *l = &cfg->block_ranges;
    if (l->n == 0 || l->n > COMPACTOR_RANGES_MAX)
        return err_set(err, ERR_CONFIG, "-compactor.block-ranges must have 1 to %d durations", COMPACTOR_RANGES_MAX);
    for (size_t i = 0; i < l->n; i++) {
        struct err why = ERR_NONE;
        if (!duration_parse(slice_of(l->items[i]), &ret[i], &why))
            return err_set(err, ERR_CONFIG, "-compactor.block-ranges: %s", why.text);
        if (ret[i] <= 0)
            return err_set(err, ERR_CONFIG, "-compactor.block-ranges: %s is no time range", l->items[i]);
        if (i && (ret[i] <= ret[i - 1] || ret[i] % ret[i - 1]))
            return err_set(err, ERR_CONFIG, "-compactor.block-ranges: %s is no multiple of %s", l->items[i], l->items[i - 1]);
    }
    *ret_n = l->n;
    return true;
}

static bool is_listed(const struct flag_list *l, struct slice tenant)
{
    for (size_t i = 0; i < l->n; i++)
        if (slice_eq(slice_of(l->items[i]), tenant))
            return true;
    return false;
}

bool compactor_tenant_allowed(const struct compactor_config *cfg, struct slice tenant)
{
    return (cfg->enabled_tenants.n == 0 || is_listed(&cfg->enabled_tenants, tenant)) && !is_listed(&cfg->disabled_tenants, tenant);
}
