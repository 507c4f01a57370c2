/*
 * Per-tenant limits: one table, limits.def (rows as in base/flags.h; the YAML path is limits.<field>).
 * Immutable after start; runtime overrides will swap whole structs, so callers take the struct once a request through
 * limits_of.
 */
#pragma once

#include "base/err.h"
#include "base/flags.h"
#include "base/slice.h"

struct limits {
#define FLAG FLAG_FIELD
#include "model/limits.def"
#undef FLAG
};
extern const struct flag_def limits_flags[];
extern const size_t limits_flags_n;

/*
 * Checks the values that their type alone does not: enumerated strings and negative numbers. Run it on every struct
 * that was filled from outside, before use. On failure ERR_CONFIG, naming the YAML path, the value and what is allowed.
 */
bool limits_validate(const struct limits *l, struct err *err);

/* The enumerated limits as numbers. Valid after limits_validate. */
enum limits_name_scheme { LIMITS_NAMES_LEGACY, LIMITS_NAMES_UTF8 };
enum limits_value_strategy { LIMITS_VALUE_ERROR, LIMITS_VALUE_TRUNCATE, LIMITS_VALUE_DROP };
enum limits_consistency { LIMITS_READ_EVENTUAL, LIMITS_READ_STRONG };
enum limits_name_scheme limits_names(const struct limits *l);
enum limits_value_strategy limits_long_values(const struct limits *l);
enum limits_consistency limits_reads(const struct limits *l);

/* Where limits come from: defaults of the process, later overrides by tenant. */
struct limits_provider {
    const struct limits *defaults;
};

static inline const struct limits *limits_of(const struct limits_provider *p, struct slice tenant)
{
    (void)tenant;
    return p->defaults;
}
