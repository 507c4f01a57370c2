/*
 * OpenMetrics text, a line at a time, as Prometheus's own parser takes it: the same lines give the same series, and what it refuses is refused here, with the
 * exception of a raw line feed within a quoted name.
 *
 *     # HELP name text      # TYPE name counter      # UNIT name seconds
 *     name{a="b"} 1.5 1600000000.123 # {trace_id="x"} 0.5
 *     {"a name", "a label"="b"} 1.5 1600000000
 *     # EOF
 *
 * Label values that are empty are left out; le of histograms and quantile of summaries are written as OpenMetrics writes floats ("1.0"), by the last TYPE line
 * that there was. A NaN of any kind is the plain one. Exemplars are checked and dropped. One thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/slice.h"
#include "model/labels.h"

enum openmetrics_kind { OPENMETRICS_SAMPLE, OPENMETRICS_OTHER, OPENMETRICS_END };

#define OPENMETRICS_LABELS_MAX 1024

struct openmetrics {
    struct buf text; /* unescaped labels of the line at hand */
    struct label labels[OPENMETRICS_LABELS_MAX];
    bool is_histogram, is_summary; /* of the last TYPE line */
};

struct openmetrics_sample {
    struct labels labels; /* sorted; valid until the next line */
    double v;
    bool has_time;
    int64_t t; /* ms */
};

void openmetrics_init(struct openmetrics *o);
void openmetrics_release(struct openmetrics *o);
/* One line, without its line feed. *ret_sample is set for a sample. ERR_BAD_DATA says what is wrong with it. */
bool openmetrics_line(struct openmetrics *o, struct slice line, enum openmetrics_kind *ret, struct openmetrics_sample *ret_sample, struct err *err);
