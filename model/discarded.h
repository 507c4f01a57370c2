/*
 * What was refused, by reason and tenant: cortex_discarded_{samples,exemplars,metadata}_total.
 *
 * The distributor and the ingester both count here, so the families live below them. Reasons of the distributor have underscores
 * ("label_value_too_long"), those of the ingester's samples hyphens ("sample-out-of-order"), as Mimir's have.
 * Any thread. A call costs a lock and a hash lookup: add up over a request and call once a reason.
 */
#pragma once

#include <stdint.h>

#include "base/slice.h"

enum discard_kind { DISCARD_SAMPLES, DISCARD_EXEMPLARS, DISCARD_METADATA };

/* The label `group` of the samples family, which Mimir fills from a series label of choice, is always "". n == 0 does nothing. */
void discard_count(enum discard_kind kind, const char *reason, struct slice tenant, uint64_t n);
