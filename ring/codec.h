/*
 * A struct kv_codec out of the functions of a kind of document, whose bytes are a snappy block of a protobuf message. Private to the rings.
 *
 *     KV_CODEC_FUNCTIONS(struct ring_desc, ring_desc)
 *     const struct kv_codec ring_desc_codec = KV_CODEC("ringDesc", content_fn, is_empty_fn);
 *
 * stands on ring_desc_decode, _encode, _clone, _free, _merge and _remove_tombstones.
 */
#pragma once

#include <stdlib.h>

#include "ring/kv.h"

#define KV_CODEC_FUNCTIONS(type, prefix)                                                                          \
    static void *codec_decode(struct slice bytes, struct err *err)                                                \
    {                                                                                                             \
        size_t n;                                                                                                 \
        char *message = kv_snappy_open(bytes, &n, err);                                                           \
        if (!message)                                                                                             \
            return NULL;                                                                                          \
        type *value = prefix##_decode(slice_make(message, n), err);                                               \
        free(message);                                                                                            \
        return value;                                                                                             \
    }                                                                                                             \
    static void codec_encode(const void *value, struct buf *out)                                                  \
    {                                                                                                             \
        struct buf message = {.max = KV_DOCUMENT_MAX};                                                            \
        prefix##_encode(value, &message);                                                                         \
        kv_snappy_put(&message, out);                                                                             \
        buf_release(&message);                                                                                    \
    }                                                                                                             \
    static void *codec_clone(const void *value)                                                                   \
    {                                                                                                             \
        return prefix##_clone(value);                                                                             \
    }                                                                                                             \
    static void codec_free(void *value)                                                                           \
    {                                                                                                             \
        prefix##_free(value);                                                                                     \
    }                                                                                                             \
    static void *codec_merge(void *local, const void *incoming, bool local_cas, int64_t now_s)                    \
    {                                                                                                             \
        return prefix##_merge(local, incoming, local_cas, now_s);                                                 \
    }                                                                                                             \
    static void codec_remove_tombstones(void *value, int64_t limit_s, size_t *ret_removed, size_t *ret_left)      \
    {                                                                                                             \
        prefix##_remove_tombstones(value, limit_s, ret_removed, ret_left);                                        \
    }

#define KV_CODEC(wire_id, content_fn, is_empty_fn)                                                                \
    {                                                                                                             \
        .id = wire_id, .decode = codec_decode, .encode = codec_encode, .clone = codec_clone, .free = codec_free,  \
        .merge = codec_merge, .remove_tombstones = codec_remove_tombstones, .content = content_fn,                \
        .is_empty = is_empty_fn,                                                                                  \
    }
