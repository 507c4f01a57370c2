/* The table of limits and the checks that go beyond the types of its columns. */
#include "model/limits.h"

#include <string.h>

#include "base/assert.h"

const struct flag_def limits_flags[] = {
#define FLAG(...) FLAG_ROW(limits, __VA_ARGS__)
#include "model/limits.def"
#undef FLAG
};
const size_t limits_flags_n = ARRAY_LEN(limits_flags);

/* In the order of the enums of limits.h. */
static const char *const name_schemes[] = {"legacy", "utf8", NULL};
static const char *const value_strategies[] = {"error", "truncate", "drop", NULL};
static const char *const consistencies[] = {"eventual", "strong", NULL};
static const char *const range_selectors[] = {"smoothed", "anchored", "all", NULL};

/* Index of value in a NULL-terminated list, or -1. */
static int index_in(const char *const *list, const char *value)
{
    for (int i = 0; list[i]; i++) {
        if (strcmp(list[i], value) == 0)
            return i;
    }
    return -1;
}

static bool check_one_of(const char *yaml, const char *const *list, const char *value, struct err *err)
{
    if (index_in(list, value) >= 0)
        return true;
    char allowed[64] = "";
    size_t n = 0;
    for (size_t i = 0; list[i]; i++) {
        size_t len = strlen(list[i]);
        if (n + len + 3 > sizeof(allowed))
            break;
        if (i) {
            memcpy(allowed + n, ", ", 2);
            n += 2;
        }
        memcpy(allowed + n, list[i], len + 1);
        n += len;
    }
    return err_set(err, ERR_CONFIG, "%s: invalid value \"%s\", allowed are: %s", yaml, value, allowed);
}

/* No limit has a meaning below zero. */
static bool check_not_negative(const struct limits *l, struct err *err)
{
    for (size_t i = 0; i < limits_flags_n; i++) {
        const struct flag_def *def = &limits_flags[i];
        const char *field = (const char *)l + def->offset;
        bool negative = false;
        if (def->type == FLAG_INT || def->type == FLAG_DURATION) {
            int64_t v;
            memcpy(&v, field, sizeof(v));
            negative = v < 0;
        } else if (def->type == FLAG_DOUBLE) {
            double v;
            memcpy(&v, field, sizeof(v));
            negative = !(v >= 0); /* NaN too */
        }
        if (negative)
            return err_set(err, ERR_CONFIG, "%s: must not be negative", def->yaml);
    }
    return true;
}

bool limits_validate(const struct limits *l, struct err *err)
{
    if (!check_one_of("limits.label_value_length_over_limit_strategy", value_strategies,
                      l->label_value_length_over_limit_strategy, err) ||
        !check_one_of("limits.name_validation_scheme", name_schemes, l->name_validation_scheme, err) ||
        !check_one_of("limits.ingest_storage_read_consistency", consistencies, l->ingest_storage_read_consistency, err))
        return false;
    for (size_t i = 0; i < l->enabled_promql_extended_range_selectors.n; i++) {
        if (!check_one_of("limits.enabled_promql_extended_range_selectors", range_selectors,
                          l->enabled_promql_extended_range_selectors.items[i], err))
            return false;
    }
    return check_not_negative(l, err);
}

enum limits_name_scheme limits_names(const struct limits *l)
{
    int i = index_in(name_schemes, l->name_validation_scheme);
    ASSERT(i >= 0);
    return (enum limits_name_scheme)i;
}

enum limits_value_strategy limits_long_values(const struct limits *l)
{
    int i = index_in(value_strategies, l->label_value_length_over_limit_strategy);
    ASSERT(i >= 0);
    return (enum limits_value_strategy)i;
}

enum limits_consistency limits_reads(const struct limits *l)
{
    int i = index_in(consistencies, l->ingest_storage_read_consistency);
    ASSERT(i >= 0);
    return (enum limits_consistency)i;
}
