/* The small common part of all stores. */
#include "ring/kv.h"

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
