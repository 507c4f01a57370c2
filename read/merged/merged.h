/*
 * All data of a tenant: one queryable of what ingesters have and what the object store has.
 *
 * Ingesters are asked for what is younger than the tenant's -querier.query-ingesters-within, blocks for what is older than -querier.query-store-after; in between both are. A call whose range
 * needs one side goes straight there: the other is not asked, and the set is that side's own. Where both are asked a series that both have comes out once, with the chunks of
 * both by their beginnings. The two are asked at once, also for names and values of labels; series come in no order. The head of set.c says what is held in memory meanwhile, and what it costs.
 *
 * Any thread may call; each set belongs to one thread. Labels are valid until the set is released, chunks until the next call on it.
 */
#pragma once

#include "base/flags.h"
#include "model/limits.h"
#include "storage/queryable.h"

struct merged_config {
#define FLAG FLAG_FIELD
#include "read/merged/merged_flags.def"
#undef FLAG
};
extern const struct flag_def merged_flags[];
extern const size_t merged_flags_n;

/* All of it must outlive the queryable. */
struct merged_parts {
    const struct merged_config *cfg;
    const struct limits_provider *limits; /* query_ingesters_within */
    struct queryable *recent;             /* ingesters */
    struct queryable *stored;             /* blocks */
};

/* ERR_CONFIG: blocks would be queried only from later on than ingesters, so that what is in between would be nowhere. */
bool merged_config_check(const struct merged_config *cfg, const struct limits *limits, struct err *err);
struct queryable *merged_queryable_new(const struct merged_parts *parts);
void merged_queryable_free(struct queryable *q); /* NULL is fine */
