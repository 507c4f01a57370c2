/* Private to storage/bucket/. */
#pragma once

#include <jansson.h>

#include "base/json.h"
#include "storage/bucket/bucket.h"

/* --- members of a JSON object, each checked for its kind (fields.c) ---------------------------------------------------------- */

/* A decode at work: the first fault is kept, later reads give zeros. What is missing or null has Go's zero value. */
struct fields {
    const char *what; /* what is being read: put before the text */
    struct arena *arena;
    struct err *err;
    bool bad;
};
void fields_fault(struct fields *f, const char *name, const char *wanted); /* ERR_CORRUPT: "<what>: <name> is no <wanted>" */
int64_t fields_i64(struct fields *f, const json_t *o, const char *name);
uint32_t fields_u32(struct fields *f, const json_t *o, const char *name);
bool fields_bool(struct fields *f, const json_t *o, const char *name);
struct slice fields_str(struct fields *f, const json_t *o, const char *name);
struct slice fields_copy(struct fields *f, struct slice s);
struct ulid fields_ulid(struct fields *f, const json_t *o, const char *name);
/* A small document that must be an object: NULL, and a fault. To be given back with json_decref. */
json_t *fields_load(struct fields *f, struct slice json);

/* Go's encoder writes < > & as \u003c and so on; base/json.h does not. They occur in JSON within strings only. */
void json_put_escaped_html(struct slice json, struct buf *out);

/* --- shared ------------------------------------------------------------------------------------------------------------------ */

#define BUCKET_MARK_MAX_BYTES ((size_t)64 << 10)

bool bucket_no_memory(struct err *err); /* false */
/* A whole object that is no larger than max: else ERR_CORRUPT. out is initialised, and to be released either way. */
bool bucket_get_small(struct objstore *s, const struct ctx *ctx, const struct bucket_name *name, size_t max, struct buf *out, struct err *err);
/* *ret_there false: there is no such object. Any other fault is the caller's. */
bool bucket_exists(struct objstore *s, const struct ctx *ctx, const struct bucket_name *name, bool *ret_there, struct err *err);
bool ulid_of_folder(struct slice name, struct ulid *ret); /* as blocks are named: upper case */
int ulid_cmp(const void *a, const void *b);
/* Sorted ULIDs; the index, or n. */
size_t ulid_find(const struct ulid *sorted, size_t n, const struct ulid *u);
bool bucket_read_global_mark(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct ulid *block, enum block_mark_kind kind,
                             struct arena *arena, struct block_mark *ret, struct err *err);
