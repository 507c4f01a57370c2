/* The life of an ingester's membership. See member.h; locks in member_int.h. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "ingest/member/member_int.h"
#include "partition-ring/partition_ring.h"
#include "ring/tokens_file.h"

#define METRICS_ROOM member
#define METRICS_DEF "ingest/member/member_metrics.def"
#define METRICS_DEFINE
#include "base/metrics_table.h"

/* Between two looks at whether the ingester has caught up, and after a store that failed. */
#define LOOK_MS 20
#define RETRY_MS 1000

/* --- making --- */

static int64_t now_ms(const struct member *m)
{
    return m->env.now_ms(m->env.arg);
}

static void init_locks(struct member *m)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&m->wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&m->act, NULL);
    pthread_mutex_init(&m->lock, NULL);
}

static void copy_config(struct member *m, const struct member_config *cfg)
{
    m->env = cfg->env ? *cfg->env : lifecycler_env_system;
    m->key = slice_strdup(slice_of(cfg->instance.key));
    m->partition_key = slice_strdup(slice_of(cfg->partition.key));
    m->partition_shown_key = slice_strdup(slice_of(cfg->partition_shown_key ? cfg->partition_shown_key : cfg->partition.key));
    m->id = slice_strdup(slice_of(cfg->instance.id));
    m->addr = slice_strdup(slice_of(cfg->instance.addr));
    m->zone = slice_strdup(slice_of(cfg->instance.zone));
    m->dir = slice_strdup(slice_of(cfg->dir));
    m->tokens_file = slice_strdup(slice_of(cfg->tokens_file));
    m->partition = cfg->partition.partition;
    m->n_tokens = cfg->instance.n_tokens;
    m->unregister_by_flag = cfg->instance.unregister_on_stop;
    m->create_partition = cfg->partition.create_on_start;
    m->poll_ms = cfg->partition.poll_ms;
    m->heartbeat_timeout_ms = cfg->heartbeat_timeout_ms;
    m->min_ready_ms = cfg->min_ready_ms;
    m->observe_ms = cfg->observe_ms;
    m->final_sleep_ms = cfg->final_sleep_ms;
}

struct member *member_new(const struct member_config *cfg, struct kv *kv, struct kv *partition_kv, struct ingester *ing,
                          struct err *err)
{
    if (cfg->partition.partition < 0 || cfg->partition.partition >= PARTITIONS_MAX) {
        err_set(err, ERR_CONFIG, "partition %d is not below %d", cfg->partition.partition, PARTITIONS_MAX);
        return NULL;
    }
    struct member *m = calloc(1, sizeof(*m));
    ASSERT(m);
    member_metrics_register();
    copy_config(m, cfg);
    init_locks(m);
    m->kv = kv;
    m->partition_kv = partition_kv;
    m->ing = ing;
    m->unregister = m->unregister_by_flag;
    m->flush_by_flag = ingester_flushes_on_stop(ing);
    m->m_prepared = metric_single(member_metrics[MEMBER_PREPARE_SHUTDOWN]);
    m->instance = lifecycler_new(kv, &cfg->instance, &m->env);
    m->owner = partition_lifecycler_new(partition_kv, &cfg->partition, &m->env);
    return m;
}

void member_free(struct member *m)
{
    if (!m)
        return;
    ASSERT(!m->has_thread);
    lifecycler_free(m->instance);
    partition_lifecycler_free(m->owner);
    pthread_cond_destroy(&m->wake);
    pthread_mutex_destroy(&m->act);
    pthread_mutex_destroy(&m->lock);
    char *texts[] = {m->key, m->partition_key, m->partition_shown_key, m->id, m->addr, m->zone, m->dir, m->tokens_file};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        free(texts[i]);
    free(m);
}

/* --- what is wanted at the stop --- */

enum member_phase member_phase(struct member *m)
{
    pthread_mutex_lock(&m->lock);
    enum member_phase phase = m->phase;
    pthread_mutex_unlock(&m->lock);
    return phase;
}

static void set_phase(struct member *m, enum member_phase phase)
{
    pthread_mutex_lock(&m->lock);
    m->phase = phase;
    pthread_mutex_unlock(&m->lock);
}

void member_set_unregister(struct member *m, bool unregister)
{
    pthread_mutex_lock(&m->lock);
    m->unregister = unregister;
    pthread_mutex_unlock(&m->lock);
    lifecycler_set_unregister_on_stop(m->instance, unregister);
}

void member_set_prepared(struct member *m, bool prepared)
{
    pthread_mutex_lock(&m->lock);
    m->prepared = prepared;
    pthread_mutex_unlock(&m->lock);
    member_set_unregister(m, prepared || m->unregister_by_flag);
    partition_lifecycler_set_remove_owner_on_stop(m->owner, prepared);
    partition_lifecycler_set_create_on_start(m->owner, !prepared && m->create_partition);
    ingester_flush_on_stop(m->ing, prepared || m->flush_by_flag);
    metric_set(m->m_prepared, prepared);
}

/* --- start --- */

/* An entry of our id may be that of another process, which was given the same id by mistake: the younger one wins, as
 * in Mimir. */
static bool warn_of_twin(struct member *m, struct err *err)
{
    void *ring;
    if (!kv_get(m->kv, slice_of(m->key), &ring_desc_codec, &ring, err))
        return false;
    const struct ring_instance *in = ring ? ring_desc_find(ring, slice_of(m->id)) : NULL;
    if (in && in->state != RING_LEAVING && strcmp(in->addr, m->addr) != 0 &&
        ring_instance_alive(in, m->heartbeat_timeout_ms, now_ms(m)))
        LOG_WARN("an instance with this id but another address is in the ring, and alive a moment ago; this one takes "
                 "its place",
                 {"id", LOG_STR(m->id)}, {"addr", LOG_STR(m->addr)}, {"other_addr", LOG_STR(in->addr)},
                 {"other_state", LOG_STR(ring_state_name(in->state))});
    ring_desc_free(ring);
    return true;
}

struct token_list {
    struct member *m;
    uint32_t *tokens;
    size_t n;
};

static int compare_tokens(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static bool is_taken(const struct ring_desc *d, uint32_t token)
{
    for (size_t i = 0; i < d->n; i++) {
        const struct ring_instance *in = &d->instances[i];
        if (in->n_tokens && bsearch(&token, in->tokens, in->n_tokens, sizeof(token), compare_tokens))
            return true;
    }
    return false;
}

/* An entry that is in the ring has its tokens there, and they are newer than those in the file. */
static enum kv_cas put_tokens(void *arg, void **value, struct err *err)
{
    (void)err;
    const struct token_list *t = arg;
    struct ring_desc *d = *value ? *value : ring_desc_new();
    *value = d;
    const struct ring_instance *there = ring_desc_find(d, slice_of(t->m->id));
    if (there && there->n_tokens)
        return KV_CAS_KEEP;
    uint32_t *free_ones = malloc((t->n + 1) * sizeof(*free_ones));
    ASSERT(free_ones);
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++)
        if (!is_taken(d, t->tokens[i]))
            free_ones[n++] = t->tokens[i];
    struct ring_instance *in = ring_desc_add(d, slice_of(t->m->id));
    in->state = RING_JOINING;
    in->timestamp_s = now_ms(t->m) / 1000;
    if (!there)
        in->registered_s = in->timestamp_s;
    ring_string_set(&in->addr, slice_of(t->m->addr));
    ring_string_set(&in->zone, slice_of(t->m->zone));
    ring_instance_set_tokens(in, free_ones, n);
    free(free_ones);
    return KV_CAS_STORE;
}

static bool bring_tokens(struct member *m, struct err *err)
{
    struct token_list t = {.m = m};
    struct err why;
    if (!m->tokens_file[0])
        return true;
    if (!tokens_file_read(m->tokens_file, &t.tokens, &t.n, &why)) {
        if (why.code != ERR_NOT_FOUND)
            LOG_WARN("the tokens are not taken from their file, new ones are made", {"err", LOG_ERR(&why)});
        return true;
    }
    t.n = MIN(t.n, m->n_tokens);
    bool ok = kv_cas(m->kv, slice_of(m->key), &ring_desc_codec, put_tokens, &t, err);
    free(t.tokens);
    return ok;
}

/* As they are in the ring now. What fails costs tokens of a later start, no more. */
static void keep_tokens(struct member *m)
{
    struct err err = ERR_NONE;
    void *ring = NULL;
    if (!m->tokens_file[0])
        return;
    bool ok = kv_get(m->kv, slice_of(m->key), &ring_desc_codec, &ring, &err);
    const struct ring_instance *in = ok && ring ? ring_desc_find(ring, slice_of(m->id)) : NULL;
    if (in)
        ok = tokens_file_write(m->tokens_file, in->tokens, in->n_tokens, &err);
    if (!ok)
        LOG_WARN("the tokens could not be kept in their file", {"err", LOG_ERR(&err)});
    ring_desc_free(ring);
}

static void *join_main(void *arg)
{
    struct member *m = arg;
    pthread_setname_np(pthread_self(), "member");
    for (int64_t wait_ms; (wait_ms = member_step(m)) >= 0;) {
        int64_t until_ns = clock_mono_ns() + wait_ms * 1000000;
        struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
        pthread_mutex_lock(&m->lock);
        while (!m->stopping && pthread_cond_timedwait(&m->wake, &m->lock, &until) == 0)
            ;
        bool stopping = m->stopping;
        pthread_mutex_unlock(&m->lock);
        if (stopping)
            break;
    }
    return NULL;
}

bool member_start(struct member *m, struct err *err)
{
    bool prepared;
    if (!marker_there(m->dir, &prepared, err))
        return false;
    if (prepared)
        LOG_INFO("a stop for good was requested before the start: no partition is created",
                 {"file", LOG_STR(MEMBER_MARKER)}, {"partition", LOG_I64(m->partition)});
    pthread_mutex_lock(&m->act);
    member_set_prepared(m, prepared);
    bool ok = warn_of_twin(m, err) && bring_tokens(m, err) && lifecycler_register(m->instance, RING_JOINING, err);
    if (ok) {
        lifecycler_start(m->instance);
        m->joining_since_ms = now_ms(m);
        set_phase(m, MEMBER_JOINING);
        m->stopping = false;
        int failed = pthread_create(&m->thread, NULL, join_main, m);
        ASSERT(!failed);
        m->has_thread = true;
    }
    pthread_mutex_unlock(&m->act);
    return ok;
}

/* --- joining --- */

static bool elapsed(const struct member *m, int64_t since_ms, int64_t wanted_ms)
{
    int64_t ms = now_ms(m) - since_ms;
    return ms >= wanted_ms || ms < 0; /* a clock that was set back is no reason to wait longer */
}

static bool activate(struct member *m)
{
    struct err err = ERR_NONE;
    if (!lifecycler_set_state(m->instance, RING_ACTIVE, &err)) {
        LOG_WARN("the instance could not be made ACTIVE in the ring", {"id", LOG_STR(m->id)}, {"err", LOG_ERR(&err)});
        return false;
    }
    keep_tokens(m);
    set_phase(m, MEMBER_ACTIVE);
    return true;
}

static void describe_partition(struct member *m)
{
    void *d;
    if (!kv_get(m->partition_kv, slice_of(m->partition_key), &partition_desc_codec, &d, NULL))
        return;
    const struct partition *p = d ? partition_desc_find(d, m->partition) : NULL;
    if (p)
        LOG_INFO("owns its partition", {"partition", LOG_I64(m->partition)},
                 {"state", LOG_STR(partition_state_name(p->state))},
                 {"owners", LOG_U64(partition_desc_count_owners(d, m->partition, INT64_MAX))});
    if (p && p->locked)
        LOG_WARN("the state of the partition is locked: it stays what it is until somebody unlocks it",
                 {"partition", LOG_I64(m->partition)}, {"state", LOG_STR(partition_state_name(p->state))});
    partition_desc_free(d);
}

/* Only now, when somebody can read it, the partition is made: writers take an ACTIVE one at once. */
static int64_t join_partition(struct member *m)
{
    bool joined = false;
    struct err err = ERR_NONE;
    if (!partition_lifecycler_poll(m->owner, &joined, &err)) {
        LOG_WARN("the partition could not be joined", {"partition", LOG_I64(m->partition)}, {"err", LOG_ERR(&err)});
        return RETRY_MS;
    }
    if (!joined)
        return m->poll_ms;
    describe_partition(m);
    partition_lifecycler_start(m->owner);
    pthread_mutex_lock(&m->lock);
    m->ready_since_ms = now_ms(m);
    m->joined = true;
    pthread_mutex_unlock(&m->lock);
    return -1;
}

int64_t member_step(struct member *m)
{
    if (member_phase(m) == MEMBER_JOINING) {
        if (!ingester_serving(m->ing, NULL) || !elapsed(m, m->joining_since_ms, m->observe_ms))
            return LOOK_MS;
        if (!activate(m))
            return RETRY_MS;
    }
    return join_partition(m);
}

bool member_ready(struct member *m, struct err *ret)
{
    pthread_mutex_lock(&m->lock);
    enum member_phase phase = m->phase;
    bool joined = m->joined, prepared = m->prepared;
    int64_t since_ms = m->ready_since_ms;
    pthread_mutex_unlock(&m->lock);
    if (phase == MEMBER_LEFT)
        return err_set(ret, ERR_UNAVAILABLE, "the ingester was shut down");
    if (phase == MEMBER_LEAVING)
        return err_set(ret, ERR_UNAVAILABLE, "leaving the ring");
    if (!ingester_ready(m->ing, ret))
        return false;
    if (phase != MEMBER_ACTIVE)
        return err_set(ret, ERR_UNAVAILABLE, "not ACTIVE in the ring yet");
    if (!joined && prepared)
        return err_set(ret, ERR_UNAVAILABLE,
                       "partition %d does not exist and is not created, because a stop for good was requested (%s)",
                       m->partition, MEMBER_MARKER);
    if (!joined)
        return err_set(ret, ERR_UNAVAILABLE, "partition %d is not joined yet", m->partition);
    if (elapsed(m, since_ms, m->min_ready_ms))
        return true;
    struct buf text;
    buf_init(&text, 0);
    duration_print(m->min_ready_ms, &text);
    err_set(ret, ERR_UNAVAILABLE, "waiting for %s after being ready", buf_cstr(&text));
    buf_release(&text);
    return false;
}

/* --- stop --- */

static void end_thread(struct member *m)
{
    pthread_mutex_lock(&m->lock);
    m->stopping = true;
    pthread_cond_broadcast(&m->wake);
    pthread_mutex_unlock(&m->lock);
    if (m->has_thread)
        pthread_join(m->thread, NULL);
    m->has_thread = false;
}

/* Under act. */
static void leave(struct member *m)
{
    struct err err = ERR_NONE;
    end_thread(m);
    enum member_phase phase = member_phase(m);
    if (phase != MEMBER_JOINING && phase != MEMBER_ACTIVE)
        return;
    set_phase(m, MEMBER_LEAVING);
    if (!lifecycler_set_state(m->instance, RING_LEAVING, &err))
        LOG_WARN("the instance could not be made LEAVING in the ring", {"id", LOG_STR(m->id)}, {"err", LOG_ERR(&err)});
}

/* The owner first: an owner without an instance is one that nobody can ask. Under act. */
static bool leave_rings(struct member *m, struct err *err)
{
    struct err why = ERR_NONE;
    bool disowned = partition_lifecycler_stop(m->owner, err);
    bool left = lifecycler_stop(m->instance, disowned ? err : &why);
    if (disowned && left)
        set_phase(m, MEMBER_LEFT);
    return disowned && left;
}

void member_leave(struct member *m)
{
    pthread_mutex_lock(&m->act);
    leave(m);
    pthread_mutex_unlock(&m->act);
}

bool member_shut_down(struct member *m, struct err *err)
{
    pthread_mutex_lock(&m->act);
    bool ok = member_phase(m) == MEMBER_LEFT;
    if (!ok) {
        leave(m);
        ingester_flush_on_stop(m->ing, true);
        ingester_stop(m->ing);
        partition_lifecycler_set_remove_owner_on_stop(m->owner, true);
        lifecycler_set_unregister_on_stop(m->instance, true);
        ok = leave_rings(m, err);
    }
    pthread_mutex_unlock(&m->act);
    return ok;
}

/* Leaves the rings if that is still to be done. Under act. */
static void finish(struct member *m)
{
    struct err err = ERR_NONE;
    if (member_phase(m) != MEMBER_LEFT && !leave_rings(m, &err)) {
        LOG_ERROR("the rings could not be told of the stop", {"id", LOG_STR(m->id)}, {"err", LOG_ERR(&err)});
        return;
    }
    /* Done what it asks for; what comes back to this folder is there to stay. */
    if (m->prepared && !marker_remove(m->dir, &err))
        LOG_WARN("the request to stop for good stays on disk", {"err", LOG_ERR(&err)});
}

void member_stop(struct member *m)
{
    pthread_mutex_lock(&m->act);
    end_thread(m);
    bool was_there = member_phase(m) != MEMBER_NEW;
    if (was_there)
        finish(m);
    pthread_mutex_unlock(&m->act);
    if (was_there && m->final_sleep_ms > 0)
        nanosleep(&(struct timespec){m->final_sleep_ms / 1000, m->final_sleep_ms % 1000 * 1000000}, NULL);
}
