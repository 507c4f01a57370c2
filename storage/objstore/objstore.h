/*
 * Object stores: named blobs that are written whole, read in ranges, listed by prefix. Blocks, their markers and the bucket index live in one.
 *
 * Behind the door: a filesystem (one node's default), S3 and whatever speaks its protocol. Names are relative to the store's prefix (-*.storage-prefix), with
 * slashes, never starting or ending with one, never with "." or ".." segments; others are refused.
 *
 * Promises
 *   1. put is atomic: a reader sees the whole new object, the old one, or none; when put returns true it is durable.
 *   2. get gives exactly the bytes of the range or fails: a body that is cut short is an error, never a short answer.
 *   3. An object is seen by get as soon as put has returned. Lists may be stale on some stores: nothing may depend on their freshness.
 *   4. Errors that may go away (timeouts, 429, 5xx, connections) are tried again within the store, with back-off, as long as ctx allows. What is
 *      returned: ERR_NOT_FOUND, ERR_TIMEOUT, ERR_CANCELED, ERR_UNAVAILABLE (tried, did not go away), ERR_PERMISSION or ERR_IO. Each names the operation
 *      and the object.
 *
 * Calls block. Any thread; calls do not wait for each other.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/ctx.h"
#include "base/err.h"
#include "base/flags.h"
#include "base/slice.h"

struct objstore_attributes {
    uint64_t size;
    int64_t modified_ms; /* wall clock of the store */
};

/* One name of a listing; the slice lives during the call. is_prefix: a "folder" ending with '/', with delimited listings. False ends the listing. */
typedef bool objstore_list_fn(void *arg, struct slice name, bool is_prefix, const struct objstore_attributes *attributes);

struct objstore;

struct objstore_ops {
    const char *name; /* "filesystem", "s3" */
    bool (*get)(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out, struct err *err);
    bool (*attributes)(struct objstore *s, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret, struct err *err);
    bool (*put)(struct objstore *s, const struct ctx *ctx, struct slice name, struct slice bytes, struct err *err);
    bool (*put_file)(struct objstore *s, const struct ctx *ctx, struct slice name, const char *path, struct err *err);
    bool (*remove)(struct objstore *s, const struct ctx *ctx, struct slice name, struct err *err);
    bool (*list)(struct objstore *s, const struct ctx *ctx, struct slice prefix, bool delimited, objstore_list_fn *fn, void *arg, struct err *err);
    void (*free)(struct objstore *s);
};

struct objstore {
    const struct objstore_ops *ops;
};

#define OBJSTORE_ALL UINT64_MAX

/* Appends [offset, offset + n) to out; n == OBJSTORE_ALL: to the end. A range beyond the end is ERR_OUT_OF_RANGE. out's own bound applies. */
bool objstore_get(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out, struct err *err);
bool objstore_attributes(struct objstore *s, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret, struct err *err);
bool objstore_put(struct objstore *s, const struct ctx *ctx, struct slice name, struct slice bytes, struct err *err);
/* A local file, of any size: in parts where the store has that. The size that arrived is compared. */
bool objstore_put_file(struct objstore *s, const struct ctx *ctx, struct slice name, const char *path, struct err *err);
/* What is not there is fine. */
bool objstore_remove(struct objstore *s, const struct ctx *ctx, struct slice name, struct err *err);
/* Names that start with prefix ("tenant-a/"), in no order. delimited: only up to the next '/', folders once each. */
bool objstore_list(struct objstore *s, const struct ctx *ctx, struct slice prefix, bool delimited, objstore_list_fn *fn, void *arg, struct err *err);
void objstore_free(struct objstore *s); /* NULL is fine */

/* -<PREFIX>backend, .filesystem.dir, .s3.*, .storage-prefix: rows in storage/objstore/objstore_flags.def, included with OBJSTORE_FLAG and OBJSTORE_YAML. */
struct objstore_config;
/* default_dir: of the filesystem when no flag says one. ERR_CONFIG names the flag. */
struct objstore *objstore_open(const struct objstore_config *cfg, const char *flag_prefix, const char *default_dir, struct err *err);
