/*
 * The data folder: made when absent, locked while in use, and home of the seed that series are hashed with.
 *
 *   <dir>/lock       flock(2)ed; holds the pid for people
 *   <dir>/hash-seed  16 hex digits and a newline, random, made once
 *
 * Private to app/. Used by the main thread at start and stop.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct data_dir {
    const char *path;
    int lock_fd;
    uint64_t hash_seed;
};

/* A folder and those above it, where they are missing. */
bool data_dir_make(const char *path, struct err *err);
bool data_dir_open(struct data_dir *d, const char *path, struct err *err);
void data_dir_close(struct data_dir *d);
