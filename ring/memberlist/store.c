/* dskit's key-value store: documents that are merged, and told on as what changed. */
#include <stdlib.h>

#include "base/assert.h"
#include "ring/memberlist/core_int.h"

struct entry *store_find(struct core *c, struct slice key)
{
    for (size_t i = 0; i < MEMBERLIST_KEYS_MAX; i++)
        if (c->entries[i].key && slice_eq(slice_of(c->entries[i].key), key))
            return &c->entries[i];
    return NULL;
}

static struct entry *add(struct core *c, struct slice key, const struct kv_codec *codec)
{
    for (size_t i = 0; i < MIN(c->cfg.max_keys, MEMBERLIST_KEYS_MAX); i++) {
        struct entry *e = &c->entries[i];
        if (e->key)
            continue;
        *e = (struct entry){
            .key = must(strndup(key.p, key.n)), .codec = codec, .value = must(codec->decode(SL(""), NULL))};
        return e;
    }
    return NULL;
}

static void forget(struct entry *e)
{
    free(e->key);
    if (e->value)
        e->codec->free(e->value);
    *e = (struct entry){0};
}

static void add_name(void *arg, struct slice name)
{
    struct buf *names = arg;
    buf_put_slice(names, name);
    buf_putc(names, 0);
}

static bool fill_pair(const struct entry *e, const void *value, struct buf *bytes, struct wire_pair *ret_pair)
{
    e->codec->encode(value, bytes);
    *ret_pair = (struct wire_pair){.key = slice_of(e->key),
                                   .value = buf_slice(bytes),
                                   .codec = slice_of(e->codec->id),
                                   .deleted = e->deleted,
                                   .update_time_ms = e->update_time_ms};
    return !bytes->failed;
}

static void tell(struct core *c, const struct entry *e, const void *change, bool is_local)
{
    struct buf value, message;
    struct wire_pair pair;
    buf_init(&value, WIRE_PLAIN_MAX_BYTES);
    buf_init(&message, CORE_PACKET_MAX_BYTES);
    bool ok = fill_pair(e, change, &value, &pair);
    buf_putc(&message, WIRE_USER);
    wire_put_pair(&message, &pair);
    if (ok && !message.failed) {
        struct broadcast *b = broadcast_new(slice_of(e->key), buf_slice(&message));
        b->version = e->version;
        e->codec->content(change, add_name, &b->content);
        ok = queue_add(is_local ? &c->local_queue : &c->forward_queue, b);
    } else {
        ok = false;
    }
    c->stats.broadcasts_dropped += !ok;
    buf_release(&value);
    buf_release(&message);
}

/*
 * Merges into a copy: when all that changed is a tombstone too old to keep, the value stays as it was. Returns the
 * change, which the caller owns, or NULL.
 */
static void *merge(struct core *c, struct entry *e, const void *incoming, bool is_cas)
{
    int64_t now_s = c->wall_ms / 1000, limit_s = now_s - c->cfg.left_ingesters_timeout_ms / 1000;
    size_t removed = 0;
    void *value = must(e->codec->clone(e->value));
    void *change = e->codec->merge(value, incoming, is_cas, now_s);
    if (change && c->cfg.left_ingesters_timeout_ms > 0) {
        e->codec->remove_tombstones(value, limit_s, &removed, NULL);
        e->codec->remove_tombstones(change, limit_s, NULL, NULL);
        if (e->codec->is_empty(change)) {
            e->codec->free(change);
            change = NULL;
        }
    }
    if (!change) {
        e->codec->free(value);
        return NULL;
    }
    e->tombstones_removed += removed;
    e->codec->free(e->value);
    e->value = value;
    return change;
}

bool store_merge(struct core *c, struct slice key, const struct kv_codec *codec, const void *incoming, bool is_local,
                 bool is_cas, bool deleted, int64_t update_time_ms)
{
    struct entry *e = store_find(c, key);
    bool is_new = !e;
    if (is_new && deleted)
        return true;
    if (is_new && !(e = add(c, key, codec)))
        return false;
    if (e->codec != codec) {
        c->stats.bad_values++;
        return false;
    }
    void *change = merge(c, e, incoming, is_cas && !is_new);
    bool deletes = deleted && update_time_ms > e->update_time_ms;
    if (deletes) {
        e->deleted = true;
        e->update_time_ms = update_time_ms;
    }
    if (!change && !deletes) {
        if (is_new)
            forget(e);
        return true;
    }
    e->version = ++c->version;
    tell(c, e, deletes ? e->value : change, is_local);
    codec->free(change);
    return true;
}

void store_on_pair(struct core *c, struct slice bytes)
{
    struct wire_pair pair;
    const struct kv_codec *codec = NULL;
    void *value = NULL;
    bool ok = wire_get_pair(bytes, &pair) && pair.key.n && pair.key.n <= 1024 && !memchr(pair.key.p, 0, pair.key.n);
    if (ok)
        codec = kv_codecs_find(&c->codecs, pair.codec);
    if (codec)
        value = codec->decode(pair.value, NULL);
    if (!value) {
        c->stats.bad_values++;
        return;
    }
    if (!store_merge(c, pair.key, codec, value, false, false, pair.deleted, pair.update_time_ms))
        c->stats.bad_values++;
    codec->free(value);
}

void store_put_state(struct core *c, struct buf *out)
{
    struct wire_pair pair;
    for (size_t i = 0; i < MEMBERLIST_KEYS_MAX; i++) {
        if (!c->entries[i].key)
            continue;
        struct buf value;
        buf_init(&value, WIRE_PLAIN_MAX_BYTES);
        if (fill_pair(&c->entries[i], c->entries[i].value, &value, &pair))
            wire_put_state_pair(out, &pair);
        else
            out->failed = true;
        buf_release(&value);
    }
}

void store_remove(struct core *c, struct slice key)
{
    struct entry *e = store_find(c, key);
    if (!e || e->deleted)
        return;
    store_merge(c, key, e->codec, e->value, true, false, true, MAX(c->wall_ms, e->update_time_ms + 1));
}

/* Deleted keys go when everybody has heard of it. */
void store_clean(struct core *c)
{
    for (size_t i = 0; i < MEMBERLIST_KEYS_MAX; i++) {
        struct entry *e = &c->entries[i];
        if (e->key && e->deleted && c->wall_ms - e->update_time_ms > c->cfg.obsolete_entries_timeout_ms)
            forget(e);
    }
}

void store_release(struct core *c)
{
    for (size_t i = 0; i < MEMBERLIST_KEYS_MAX; i++)
        forget(&c->entries[i]);
}
