/* Folders below the data dir. Private to storage/compactor/. */
#pragma once

#include <stdbool.h>

#include "base/err.h"

/* With all that is in it; links are not followed. What is not there is fine. */
bool tree_remove(const char *path, struct err *err);
/* The folder and those above it. */
bool tree_make(const char *path, struct err *err);
