/*
 * Per-tenant limits: one table, limits.def (rows as in base/flags.h; the YAML path is limits.<field>).
 * Immutable after start; runtime overrides will swap whole structs, so callers take the struct once a request through limits_of.
 */
#pragma once

#include "base/flags.h"
#include "base/slice.h"

struct limits {
#define FLAG FLAG_FIELD
#include "model/limits.def"
#undef FLAG
};
extern const struct flag_def limits_flags[];
extern const size_t limits_flags_n;

/* Where limits come from: defaults of the process, later overrides by tenant. */
struct limits_provider {
    const struct limits *defaults;
};

static inline const struct limits *limits_of(const struct limits_provider *p, struct slice tenant)
{
    (void)tenant;
    return p->defaults;
}
