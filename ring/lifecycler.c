/* This process's own entry in an instance ring. See lifecycler.h; lock: `lock` guards everything below it and is innermost. */
#include "ring/lifecycler.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "ring/beat.h"
#include "ring/desc_int.h"
#include "ring/ring_metrics_int.h"
#include "ring/tokens_file.h"

struct lifecycler {
    struct kv *kv;
    struct lifecycler_env env;
    char *key, *id, *addr, *zone; /* owned; immutable */
    char *tokens_file;            /* owned; NULL: none; immutable */
    size_t n_tokens;              /* wanted; immutable */
    int64_t forget_after_ms;
    struct beat beat;
    /* NULL without a name; immutable. */
    struct metric *heartbeats, *ingester_heartbeats, *tokens_owned, *read_only_now;

    pthread_mutex_t lock;
    bool unregister_on_stop;
    enum ring_state state;
    bool read_only;
    int64_t read_only_updated_s;
    int64_t registered_s; /* 0: not yet */
    uint32_t *tokens;     /* n_known of them, as last written */
    size_t n_known;
    bool tokens_changed; /* since they were last written to the file */
};

static int64_t system_now_ms(void *arg)
{
    (void)arg;
    return clock_wall_ms();
}

static uint32_t system_random_u32(void *arg)
{
    (void)arg;
    uint32_t v;
    ssize_t n = getrandom(&v, sizeof(v), 0);
    ASSERT(n == (ssize_t)sizeof(v)); /* so few bytes are never cut short */
    return v;
}

const struct lifecycler_env lifecycler_env_system = {.now_ms = system_now_ms, .random_u32 = system_random_u32};

/* Mimir counts an ingester's heartbeats in one family and everybody else's in another; here both are everybody's. */
static void init_metrics(struct lifecycler *l, const char *name)
{
    ring_metrics_register();
    l->heartbeats = METRIC_WITH(ring_metrics[RING_M_HEARTBEATS], slice_of(name));
    l->ingester_heartbeats = METRIC_WITH(ring_metrics[RING_M_MEMBER_HEARTBEATS], slice_of(name));
    l->tokens_owned = METRIC_WITH(ring_metrics[RING_M_TOKENS_OWNED], slice_of(name));
    l->read_only_now = METRIC_WITH(ring_metrics[RING_M_READ_ONLY], slice_of(name));
    metric_set(METRIC_WITH(ring_metrics[RING_M_TOKENS_TO_OWN], slice_of(name)), (double)l->n_tokens);
}

static beat_fn beat;

struct lifecycler *lifecycler_new(struct kv *kv, const struct lifecycler_config *config, const struct lifecycler_env *env)
{
    ASSERT(config->n_tokens <= RING_TOKENS_MAX);
    struct lifecycler *l = calloc(1, sizeof(*l));
    ASSERT(l);
    l->kv = kv;
    l->env = *env;
    l->key = slice_strdup(slice_of(config->key));
    l->id = slice_strdup(slice_of(config->id));
    l->addr = slice_strdup(slice_of(config->addr));
    l->zone = slice_strdup(slice_of(config->zone));
    l->tokens_file = config->tokens_file && config->tokens_file[0] ? slice_strdup(slice_of(config->tokens_file)) : NULL;
    l->n_tokens = config->n_tokens;
    l->forget_after_ms = config->forget_after_ms;
    l->unregister_on_stop = config->unregister_on_stop;
    l->state = RING_PENDING;
    if (config->name)
        init_metrics(l, config->name);
    pthread_mutex_init(&l->lock, NULL);
    beat_init(&l->beat, config->heartbeat_period_ms, beat, l);
    return l;
}

void lifecycler_free(struct lifecycler *l)
{
    if (!l)
        return;
    beat_release(&l->beat);
    pthread_mutex_destroy(&l->lock);
    free(l->key);
    free(l->id);
    free(l->addr);
    free(l->zone);
    free(l->tokens_file);
    free(l->tokens);
    free(l);
}

/* As many tokens as are wanted: those there are, and new ones. Under the lock; in is the entry within d. */
static void complete_tokens(struct lifecycler *l, const struct ring_desc *d, struct ring_instance *in)
{
    if (in->n_tokens < l->n_tokens) {
        uint32_t *all = malloc(l->n_tokens * sizeof(*all));
        ASSERT(all);
        size_t have = in->n_tokens, more = l->n_tokens - have;
        if (have)
            memcpy(all, in->tokens, have * sizeof(*all));
        ring_desc_new_tokens(d, l->env.random_u32, l->env.arg, more, all + have);
        ring_instance_set_tokens(in, all, l->n_tokens);
        free(all);
    }
    if (in->n_tokens != l->n_known || (l->n_known && memcmp(in->tokens, l->tokens, l->n_known * sizeof(*l->tokens)) != 0)) {
        free(l->tokens);
        l->tokens = malloc((in->n_tokens + 1) * sizeof(*l->tokens));
        ASSERT(l->tokens);
        if (in->n_tokens)
            memcpy(l->tokens, in->tokens, in->n_tokens * sizeof(*l->tokens));
        l->n_known = in->n_tokens;
        l->tokens_changed = true;
    }
}

/* The entry as it was before it was forgotten, or brand new. Under the lock. */
static struct ring_instance *add_entry(struct lifecycler *l, struct ring_desc *d, int64_t now_s)
{
    struct ring_instance *in = ring_desc_add(d, slice_of(l->id));
    if (l->registered_s == 0)
        l->registered_s = now_s;
    in->registered_s = l->registered_s;
    /* Others may have taken tokens of ours while we were away: those are theirs, complete_tokens finds new ones. */
    size_t kept = 0;
    for (size_t i = 0; i < l->n_known; i++)
        if (!ring_desc_has_token(d, l->tokens[i]))
            l->tokens[kept++] = l->tokens[i];
    l->n_known = kept;
    ring_instance_set_tokens(in, l->tokens, kept);
    return in;
}

/* Writes all of the wish. */
static enum kv_cas write_entry(void *arg, void **value, struct err *err)
{
    (void)err;
    struct lifecycler *l = arg;
    struct ring_desc *d = *value ? *value : ring_desc_new();
    *value = d;
    int64_t now_ms = l->env.now_ms(l->env.arg);
    pthread_mutex_lock(&l->lock);
    struct ring_instance *in = ring_desc_find(d, slice_of(l->id));
    if (!in)
        in = add_entry(l, d, now_ms / 1000);
    in->timestamp_s = now_ms / 1000;
    in->state = (int32_t)l->state;
    in->read_only = l->read_only;
    in->read_only_updated_s = l->read_only_updated_s;
    ring_string_set(&in->addr, slice_of(l->addr));
    ring_string_set(&in->zone, slice_of(l->zone));
    ring_string_set(&in->name, slice_of(l->id));
    complete_tokens(l, d, in);
    l->registered_s = in->registered_s;
    pthread_mutex_unlock(&l->lock);
    if (l->forget_after_ms > 0)
        ring_desc_forget(d, l->forget_after_ms, now_ms);
    return KV_CAS_STORE;
}

/* Before the first write: what an earlier life left in the ring. */
static void adopt(struct lifecycler *l, const struct ring_desc *d)
{
    const struct ring_instance *in = ring_desc_find(d, slice_of(l->id));
    if (!in)
        return;
    pthread_mutex_lock(&l->lock);
    l->read_only = in->read_only;
    l->read_only_updated_s = in->read_only_updated_s;
    pthread_mutex_unlock(&l->lock);
}

/* After a write: what the entry holds now. */
static void measure(struct lifecycler *l)
{
    pthread_mutex_lock(&l->lock);
    size_t tokens = l->n_known;
    bool read_only = l->read_only;
    pthread_mutex_unlock(&l->lock);
    metric_inc(l->heartbeats);
    metric_inc(l->ingester_heartbeats);
    metric_set(l->tokens_owned, (double)tokens);
    metric_set(l->read_only_now, read_only);
}

/* What fails here costs tokens of a later start, no more. */
static void keep_tokens(struct lifecycler *l)
{
    struct err err = ERR_NONE;
    uint32_t *tokens = NULL;
    pthread_mutex_lock(&l->lock);
    size_t n = l->tokens_changed ? l->n_known : 0;
    if (n) {
        tokens = malloc(n * sizeof(*tokens));
        ASSERT(tokens);
        memcpy(tokens, l->tokens, n * sizeof(*tokens));
    }
    l->tokens_changed = false;
    pthread_mutex_unlock(&l->lock);
    if (n && !tokens_file_write(l->tokens_file, tokens, n, &err))
        LOG_WARN("the tokens could not be kept in their file", {"err", LOG_ERR(&err)});
    free(tokens);
}

/* Before the first write, when it is not known that the ring has any: add_entry takes those that nobody else has by now. */
static void bring_tokens(struct lifecycler *l)
{
    struct err err = ERR_NONE;
    uint32_t *tokens;
    size_t n;
    if (!tokens_file_read(l->tokens_file, &tokens, &n, &err)) {
        if (err.code != ERR_NOT_FOUND)
            LOG_WARN("the tokens are not taken from their file, new ones are made", {"err", LOG_ERR(&err)});
        return;
    }
    pthread_mutex_lock(&l->lock);
    if (l->n_known == 0) {
        free(l->tokens);
        l->tokens = tokens;
        l->n_known = MIN(n, l->n_tokens);
        tokens = NULL;
    }
    pthread_mutex_unlock(&l->lock);
    free(tokens);
}

bool lifecycler_heartbeat(struct lifecycler *l, struct err *err)
{
    bool ok = kv_cas(l->kv, slice_of(l->key), &ring_desc_codec, write_entry, l, err);
    if (ok && l->heartbeats)
        measure(l);
    if (ok && l->tokens_file)
        keep_tokens(l);
    return ok;
}

bool lifecycler_register(struct lifecycler *l, enum ring_state state, struct err *err)
{
    ASSERT(state == RING_PENDING || state == RING_JOINING || state == RING_ACTIVE);
    void *before;
    if (!kv_get(l->kv, slice_of(l->key), &ring_desc_codec, &before, err))
        return false;
    if (before)
        adopt(l, before);
    ring_desc_free(before);
    if (l->tokens_file)
        bring_tokens(l);
    pthread_mutex_lock(&l->lock);
    l->state = state;
    pthread_mutex_unlock(&l->lock);
    return lifecycler_heartbeat(l, err);
}

bool lifecycler_set_state(struct lifecycler *l, enum ring_state state, struct err *err)
{
    pthread_mutex_lock(&l->lock);
    enum ring_state from = l->state;
    bool ok = state != RING_LEFT && ring_state_may_change((int32_t)from, (int32_t)state);
    if (ok)
        l->state = state;
    pthread_mutex_unlock(&l->lock);
    if (!ok)
        return err_set(err, ERR_CONFLICT, "changing the instance state from %s to %s is disallowed",
                       ring_state_name((int32_t)from), ring_state_name((int32_t)state));
    return lifecycler_heartbeat(l, err);
}

bool lifecycler_set_read_only(struct lifecycler *l, bool read_only, struct err *err)
{
    int64_t now_s = l->env.now_ms(l->env.arg) / 1000;
    pthread_mutex_lock(&l->lock);
    bool changed = l->read_only != read_only;
    if (changed) {
        l->read_only = read_only;
        l->read_only_updated_s = now_s;
    }
    pthread_mutex_unlock(&l->lock);
    return !changed || lifecycler_heartbeat(l, err);
}

static enum kv_cas remove_entry(void *arg, void **value, struct err *err)
{
    (void)err;
    struct lifecycler *l = arg;
    struct ring_instance *in = *value ? ring_desc_find(*value, slice_of(l->id)) : NULL;
    if (!in)
        return KV_CAS_KEEP;
    ring_desc_remove(*value, in);
    return KV_CAS_STORE;
}

bool lifecycler_unregister(struct lifecycler *l, struct err *err)
{
    return kv_cas(l->kv, slice_of(l->key), &ring_desc_codec, remove_entry, l, err);
}

enum ring_state lifecycler_state(struct lifecycler *l)
{
    pthread_mutex_lock(&l->lock);
    enum ring_state state = l->state;
    pthread_mutex_unlock(&l->lock);
    return state;
}

bool lifecycler_read_only(struct lifecycler *l, int64_t *ret_updated_s)
{
    pthread_mutex_lock(&l->lock);
    bool read_only = l->read_only;
    *ret_updated_s = l->read_only_updated_s;
    pthread_mutex_unlock(&l->lock);
    return read_only;
}

void lifecycler_set_unregister_on_stop(struct lifecycler *l, bool unregister)
{
    pthread_mutex_lock(&l->lock);
    l->unregister_on_stop = unregister;
    pthread_mutex_unlock(&l->lock);
}

static void beat(void *arg)
{
    struct lifecycler *l = arg;
    struct err err = ERR_NONE;
    if (!lifecycler_heartbeat(l, &err))
        LOG_WARN("the heartbeat could not be written", {"key", LOG_STR(l->key)}, {"err", LOG_ERR(&err)});
}

void lifecycler_start(struct lifecycler *l)
{
    beat_start(&l->beat, false);
}

bool lifecycler_stop(struct lifecycler *l, struct err *err)
{
    beat_stop(&l->beat);
    pthread_mutex_lock(&l->lock);
    bool unregister = l->unregister_on_stop;
    pthread_mutex_unlock(&l->lock);
    if (unregister)
        return lifecycler_unregister(l, err);
    return ring_state_may_change((int32_t)lifecycler_state(l), RING_LEAVING) ? lifecycler_set_state(l, RING_LEAVING, err)
                                                                            : lifecycler_heartbeat(l, err);
}
