/* Private to storage/downsample. */
#pragma once

#include "storage/downsample/downsample.h"

/* In DOWNSAMPLE_HISTOGRAMS_LABEL: any metric may have histograms. */
#define DOWNSAMPLE_ANY "*"
/* Is the name one of those of ",latency,size,"? */
bool downsample_lists(struct slice names, struct slice name);
