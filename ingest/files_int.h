/* Small file operations that say what went wrong. Any thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/slice.h"

/* Makes the folder and its parents when absent. */
bool dir_make(const char *path, struct err *err);
/* Makes renames and new names in it durable. */
bool dir_sync(const char *path, struct err *err);
/* Removes a folder with everything in it; one that is not there is fine. */
bool dir_remove(const char *path, struct err *err);
/* All n bytes; errno says why not. */
bool write_at(int fd, const void *p, size_t n, off_t off);
bool read_at(int fd, void *p, size_t n, off_t off);
/* The whole file into malloc'ed memory; ERR_NOT_FOUND when there is none. */
bool file_read(const char *path, size_t max, char **ret, size_t *ret_n, struct err *err);
/* Written beside, synced, renamed, the folder synced. */
bool file_replace(const char *dir, const char *name, struct slice bytes, struct err *err);
