/* The tokens of this process in a file, so that they survive when the ring does not: {"tokens":[1,2,3]}, as dskit writes it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* *ret is the caller's to free. ERR_NOT_FOUND: there is no file. ERR_CORRUPT: it is none of tokens. */
bool tokens_file_read(const char *path, uint32_t **ret, size_t *ret_n, struct err *err);
/* Written beside, synced and renamed. Threads that write at once each write a whole file; one of them stays. */
bool tokens_file_write(const char *path, const uint32_t *tokens, size_t n, struct err *err);
