/*
 * Streaming JSON writer: straight into a buf, no tree. Commas are placed by the writer; nesting is at most 32 deep (asserted).
 * Strings are escaped as Go's encoder with HTML escaping off: \" \\ \n \r \t, \u00XX for other control characters, U+2028/2029
 * as \u2028 \u2029; bytes that are no UTF-8 become \ufffd. Owned by one thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/slice.h"

struct json {
    struct buf *out;
    uint32_t depth;
    uint32_t has_items; /* bit i: level i already has an item */
    bool after_key;
};

void json_init(struct json *j, struct buf *out);

void json_obj(struct json *j);
void json_obj_end(struct json *j);
void json_arr(struct json *j);
void json_arr_end(struct json *j);
void json_key(struct json *j, struct slice key);
void json_str(struct json *j, struct slice s);
void json_i64(struct json *j, int64_t v);
void json_u64(struct json *j, uint64_t v);
void json_bool(struct json *j, bool v);
void json_put_null(struct json *j); /* jansson, which lives in the same process, has a json_null */
void json_raw(struct json *j, struct slice literal); /* one complete value */
void json_double(struct json *j, double v);          /* number, shortest round trip; NaN and Inf as null */

/* Escaped and quoted, without any comma logic: for writers that lay out bytes themselves. */
void json_put_quoted(struct buf *out, struct slice s);
