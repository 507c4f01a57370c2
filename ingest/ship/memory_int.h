/*
 * Private to ingest/ship/: <dir>/<tenant>/mimir.shipper.json, Mimir's to the byte: a tab for indentation, a newline at the end, blocks by name, Unix seconds with
 * a fraction.
 *
 *     {
 *     	"version": 1,
 *     	"shipped": {
 *     		"<ULID>": 1795237503.198
 *     	}
 *     }
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "storage/block/ulid.h"

#define MEMORY_FILE "mimir.shipper.json"
#define MEMORY_MAX_BYTES ((size_t)16 << 20)

struct shipped {
    struct ulid ulid;
    int64_t at_ms;
};
struct memory {
    struct shipped *items; /* owned, by ULID */
    size_t n, cap;
};

/* No file is an empty memory. ERR_CORRUPT when it cannot be understood. */
bool memory_read(struct memory *m, const char *dir, struct err *err);
/* By way of a temporary file, synced. */
bool memory_write(const struct memory *m, const char *dir, struct err *err);
bool memory_decode(struct memory *m, struct slice json, struct err *err);
void memory_encode(const struct memory *m, struct buf *out);
bool memory_add(struct memory *m, const struct ulid *u, int64_t at_ms);           /* stays as it is when it is there; false: no memory */
void memory_release(struct memory *m);
