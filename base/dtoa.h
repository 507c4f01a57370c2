/*
 * Doubles to text and back, through libstdc++'s <charconv> (cxx.cc): shortest round trip. Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/slice.h"

#define DTOA_MAX 400 /* enough for the fixed form of any double, and a NUL */

/*
 * As Go's strconv.FormatFloat(v, 'f', -1, 64): no exponent. "NaN", "+Inf", "-Inf". Integers below 2^53 take a fast path.
 * Writes at most DTOA_MAX bytes, not NUL-terminated; returns the length.
 */
size_t dtoa_fixed(double v, char *out);
/*
 * As Prometheus's API writes sample values ('g'-like: exponent form "1e+21" when |v| < 1e-6 or >= 1e21, else 'f'; exponent has at
 * least two digits: "1e-07").
 */
size_t dtoa_json(double v, char *out);
/* As Go's %g / FormatFloat(v, 'g', -1, 64): exponent form when exp < -4 or >= 6 (1e+06). What PromQL prints for number literals is dtoa_fixed. */
size_t dtoa_g(double v, char *out);

/* As Go's strconv.ParseFloat on the whole text: decimal, hex floats, "inf", "+Inf", "nan" in any case; no blanks, no underscores. */
bool dtoa_parse(struct slice text, double *ret);
