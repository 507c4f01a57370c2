/* The small common part of all stores. */
#include "ring/kv.h"

#include <snappy-c.h>
#include <stdlib.h>

#include "base/assert.h"

void kv_codecs_add(struct kv_codecs *set, const struct kv_codec *codec)
{
    ASSERT(set->n < KV_CODECS_MAX);
    ASSERT(!kv_codecs_find(set, slice_of(codec->id)));
    set->codecs[set->n++] = codec;
}

const struct kv_codec *kv_codecs_find(const struct kv_codecs *set, struct slice id)
{
    for (size_t i = 0; i < set->n; i++)
        if (slice_eq(slice_of(set->codecs[i]->id), id))
            return set->codecs[i];
    return NULL;
}

char *kv_snappy_open(struct slice bytes, size_t *ret_n, struct err *err)
{
    size_t n = 0;
    /* A snappy element of three bytes makes at most 64: a block that promises more is not worth its memory. */
    if (bytes.n && (snappy_uncompressed_length(bytes.p, bytes.n, &n) != SNAPPY_OK || n / 22 > bytes.n || n > KV_DOCUMENT_MAX)) {
        err_set(err, ERR_CORRUPT, "the document's snappy length is corrupt");
        return NULL;
    }
    char *document = malloc(n + 1);
    ASSERT(document);
    if (bytes.n && snappy_uncompress(bytes.p, bytes.n, document, &n) != SNAPPY_OK) {
        free(document);
        err_set(err, ERR_CORRUPT, "the document's snappy block is corrupt");
        return NULL;
    }
    *ret_n = n;
    return document;
}

void kv_snappy_put(const struct buf *document, struct buf *out)
{
    if (document->failed) {
        out->failed = true;
        return;
    }
    size_t n = snappy_max_compressed_length(document->n);
    if (!buf_reserve(out, n))
        return;
    snappy_status s = snappy_compress(document->n ? document->p : "", document->n, out->p + out->n, &n);
    ASSERT(s == SNAPPY_OK);
    out->n += n;
}

bool kv_get(struct kv *kv, struct slice key, const struct kv_codec *codec, void **ret_value, struct err *err)
{
    return kv->ops->get(kv, key, codec, ret_value, err);
}

bool kv_cas(struct kv *kv, struct slice key, const struct kv_codec *codec, kv_cas_fn *fn, void *arg, struct err *err)
{
    return kv->ops->cas(kv, key, codec, fn, arg, err);
}

bool kv_delete(struct kv *kv, struct slice key, struct err *err)
{
    return kv->ops->remove(kv, key, err);
}

bool kv_list(struct kv *kv, struct slice prefix, kv_name_fn *fn, void *arg, struct err *err)
{
    return kv->ops->list(kv, prefix, fn, arg, err);
}

struct kv_watch *kv_watch_key(struct kv *kv, struct slice key, const struct kv_codec *codec, kv_watch_fn *fn, void *arg,
                              struct err *err)
{
    return kv->ops->watch(kv, key, false, codec, fn, arg, err);
}

struct kv_watch *kv_watch_prefix(struct kv *kv, struct slice prefix, const struct kv_codec *codec, kv_watch_fn *fn, void *arg,
                                 struct err *err)
{
    return kv->ops->watch(kv, prefix, true, codec, fn, arg, err);
}

void kv_unwatch(struct kv *kv, struct kv_watch *watch)
{
    if (watch)
        kv->ops->unwatch(kv, watch);
}

void kv_free(struct kv *kv)
{
    if (kv)
        kv->ops->free(kv);
}
