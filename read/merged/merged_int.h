/* Private to read/merged. */
#pragma once

#include "base/assert.h"
#include "read/merged/merged.h"
#include "read/series/series.h"

/* The union of two sets, both owned from here on. limit: of series; 0 = none. ctx is only of this call. */
struct series_set *merged_set_new(struct ctx *ctx, struct series_set *recent, struct series_set *stored, size_t limit);
