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
 *   4. Errors that may go away (timeouts, 429, 5xx, connections) are tried again within the store, ten times with back-off (some 15 s), as long as ctx
 *      allows. What is returned: ERR_NOT_FOUND, ERR_TIMEOUT, ERR_CANCELED, ERR_UNAVAILABLE (tried, did not go away), ERR_PERMISSION, ERR_OUT_OF_RANGE,
 *      ERR_TOO_LARGE (more than out holds), ERR_NO_SPACE, ERR_BAD_DATA (a name that cannot be) or ERR_IO. Each names the operation and the object.
 *      A bucket that does not exist is ERR_IO: ERR_NOT_FOUND always means that there is no such object.
 *   5. A call returns within 100 ms of its ctx's end (a filesystem's: unless the disk itself hangs). Whether a put or removal that failed was done is open.
 *
 * Calls block. Any thread; calls do not wait for each other, but for a connection when all that a store may have are in use.
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

/* One bucket's flags. A room that has a bucket makes a table of them under its own names, as with ring/kv_flags.def (ring/config.h shows how). */
struct objstore_config {
#define FLAG FLAG_FIELD
#include "storage/objstore/objstore_flags.def"
#undef FLAG
};

struct objstore_attributes {
    uint64_t size;
    int64_t modified_ms; /* wall clock of the store */
};

/* One name of a listing; the slice lives during the call. is_prefix: a "folder" ending with '/', with delimited listings. False ends the listing. */
typedef bool objstore_list_fn(void *arg, struct slice name, bool is_prefix, const struct objstore_attributes *attributes);

struct objstore;

struct objstore_ops {
    const char *name; /* "filesystem", "s3" */
    bool is_view;     /* hands all on to another store's door, which tries again */
    uint64_t request_bytes; /* objstore_request_bytes; 0: it does not say */
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

/*
 * Appends [offset, offset + n) to out; n == OBJSTORE_ALL: to the end, which may be at offset. A range that reaches beyond the end is ERR_OUT_OF_RANGE. out's own
 * bound applies. Where it fails out is as before.
 */
bool objstore_get(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out, struct err *err);
bool objstore_attributes(struct objstore *s, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret, struct err *err);
bool objstore_put(struct objstore *s, const struct ctx *ctx, struct slice name, struct slice bytes, struct err *err);
/*
 * A local file, of any size: in parts where the store has that. The size that arrived is compared. From then on the file must not be changed in place, only
 * removed or replaced by another: a folder on the same filesystem has it by a link.
 */
bool objstore_put_file(struct objstore *s, const struct ctx *ctx, struct slice name, const char *path, struct err *err);
/* What is not there is fine. */
bool objstore_remove(struct objstore *s, const struct ctx *ctx, struct slice name, struct err *err);
/* Names that start with prefix ("tenant-a/"), in no order. delimited: only up to the next '/', folders once each. */
bool objstore_list(struct objstore *s, const struct ctx *ctx, struct slice prefix, bool delimited, objstore_list_fn *fn, void *arg, struct err *err);
void objstore_free(struct objstore *s); /* NULL is fine */

/*
 * What a further get costs, in bytes that could be read in its stead: ranges that are not farther apart are better read as one. UINT64_MAX where a get has the
 * latency of a network, and the caller's own bound is to be used.
 */
uint64_t objstore_request_bytes(const struct objstore *s);

/*
 * The store that the flags name, as one bucket with the prefix put before each name. flag_prefix: what the flags start with, "blocks-storage.". default_dir: of
 * the filesystem when no flag says one; made if need be. ERR_CONFIG names the flag. No server is connected yet. Strings are copied.
 */
struct objstore *objstore_open(const struct objstore_config *cfg, const char *flag_prefix, const char *default_dir, struct err *err);
/* The same bucket and connections for one component, "compactor" and the like: label of the metrics ("" from objstore_open). To be freed before s. */
struct objstore *objstore_as(struct objstore *s, const char *component);
