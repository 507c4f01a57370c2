/* The same thing done to each of n items by a few threads, which end with it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/* Item i; runs on any of the threads. False, with err set, ends the whole: no further item is begun. */
typedef bool parallel_fn(void *arg, size_t i, struct err *err);

/* Returns when all that was begun has ended. The first error. With one thread, or one item, the caller's thread does it. */
bool parallel_run(size_t n, size_t n_threads, parallel_fn *fn, void *arg, struct err *err);
