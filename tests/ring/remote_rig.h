/* What the tests of stores on servers share: documents that are changed, watches that are waited for, and the claims that hold for all of them. */
#pragma once

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "ring/config.h"
#include "ring/desc.h"

#define PATIENCE_MS 30000

static inline void nap_ms(int ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

/* The change: an instance more, of that name. */
static inline enum kv_cas add_instance(void *arg, void **value, struct err *err)
{
    (void)err;
    if (!*value)
        *value = ring_desc_new();
    struct ring_instance *in = ring_desc_add(*value, slice_of(arg));
    in->timestamp_s = 1700000000;
    ring_instance_set_tokens(in, (const uint32_t[]){1, 7, 4294967295U}, 3);
    return KV_CAS_STORE;
}

static inline void add(struct kv *kv, const char *key, const char *id)
{
    struct err err = ERR_NONE;
    cr_assert(kv_cas(kv, slice_of(key), &ring_desc_codec, add_instance, (void *)id, &err), "%s", err.text);
}

/* "a,b,": the ids; "-" when there is no such key. */
static inline void ids_of(const struct ring_desc *d, char ret[256])
{
    ret[0] = d ? 0 : '-';
    ret[1] = 0;
    size_t n = 0;
    for (size_t i = 0; d && i < d->n; i++)
        n += (size_t)snprintf(ret + n, 256 - n, "%s,", d->instances[i].id);
}

static inline void expect_ids(struct kv *kv, const char *key, const char *want)
{
    struct err err = ERR_NONE;
    void *v = NULL;
    char got[256];
    cr_assert(kv_get(kv, slice_of(key), &ring_desc_codec, &v, &err), "%s", err.text);
    ids_of(v, got);
    ring_desc_free(v);
    cr_assert_str_eq(got, want);
}

struct heard {
    pthread_mutex_t lock;
    int n;
    char key[64];
    char ids[256];
};
#define HEARD_NOTHING {.lock = PTHREAD_MUTEX_INITIALIZER}

static inline void hear(void *arg, struct slice key, const void *value)
{
    struct heard *h = arg;
    pthread_mutex_lock(&h->lock);
    h->n++;
    snprintf(h->key, sizeof(h->key), "%.*s", SL_FMT(key));
    ids_of(value, h->ids);
    pthread_mutex_unlock(&h->lock);
}

static inline bool has_heard(struct heard *h, const char *ids)
{
    pthread_mutex_lock(&h->lock);
    bool so = h->n && strcmp(h->ids, ids) == 0;
    pthread_mutex_unlock(&h->lock);
    return so;
}

static inline void expect_hearing(struct heard *h, const char *ids)
{
    int64_t end_ms = clock_mono_ms() + PATIENCE_MS;
    while (!has_heard(h, ids) && clock_mono_ms() < end_ms)
        nap_ms(5);
    cr_assert(has_heard(h, ids), "heard last: %s, not %s", h->ids, ids);
}

static inline void count_name(void *arg, struct slice name)
{
    int *n = arg;
    ++*n;
    cr_assert(slice_has_prefix(name, SL("dir/")));
}

/* --- claims; a and b are two stores on one server -------------------------------------------------------------------- */

static inline void check_two_stores_agree(struct kv *a, struct kv *b)
{
    expect_ids(a, "ring", "-");
    add(a, "ring", "x");
    expect_ids(b, "ring", "x,");
    add(b, "ring", "y");
    expect_ids(a, "ring", "x,y,");
    struct err err = ERR_NONE;
    cr_assert(kv_delete(a, SL("ring"), &err), "%s", err.text);
    cr_assert(kv_delete(b, SL("ring"), &err), "%s", err.text);
    expect_ids(b, "ring", "-");
    add(b, "ring", "z");
    expect_ids(a, "ring", "z,");
}

struct race {
    struct kv *rival;
    int tries;
    int rivals; /* tries that the rival spoils */
};

static inline enum kv_cas add_after_rival(void *arg, void **value, struct err *err)
{
    struct race *r = arg;
    char id[16];
    snprintf(id, sizeof(id), "rival-%d", r->tries);
    if (r->tries++ < r->rivals)
        add(r->rival, "race", id);
    return add_instance("mine", value, err);
}

static inline void check_conflicts_are_tried_again(struct kv *a, struct kv *b)
{
    struct race r = {.rival = b, .rivals = 2};
    struct err err = ERR_NONE;
    cr_assert(kv_cas(a, SL("race"), &ring_desc_codec, add_after_rival, &r, &err), "%s", err.text);
    cr_assert_eq(r.tries, 3);
    expect_ids(b, "race", "mine,rival-0,rival-1,");
    r = (struct race){.rival = b, .rivals = 1000};
    cr_assert_not(kv_cas(a, SL("race"), &ring_desc_codec, add_after_rival, &r, &err));
    cr_assert_eq(err.code, ERR_CONFLICT);
    cr_assert_eq(r.tries, KV_CAS_TRIES);
}

static inline enum kv_cas refuse(void *arg, void **value, struct err *err)
{
    (void)value;
    return *(bool *)arg ? KV_CAS_KEEP : (err_set(err, ERR_NOT_FOUND, "not so"), KV_CAS_FAIL);
}

static inline void check_refusals_leave_the_key(struct kv *a)
{
    struct err err = ERR_NONE;
    bool keep = true;
    add(a, "kept", "x");
    cr_assert(kv_cas(a, SL("kept"), &ring_desc_codec, refuse, &keep, &err));
    keep = false;
    cr_assert_not(kv_cas(a, SL("kept"), &ring_desc_codec, refuse, &keep, &err));
    cr_assert_eq(err.code, ERR_NOT_FOUND);
    expect_ids(a, "kept", "x,");
}

static inline void check_watches_hear(struct kv *a, struct kv *b)
{
    struct heard one = HEARD_NOTHING, all = HEARD_NOTHING;
    add(a, "dir/a", "x");
    struct kv_watch *w = kv_watch_key(b, SL("dir/a"), &ring_desc_codec, hear, &one, NULL);
    cr_assert(has_heard(&one, "x,"), "a watch begins with the value");
    struct kv_watch *p = kv_watch_prefix(b, SL("dir/"), &ring_desc_codec, hear, &all, NULL);
    cr_assert(has_heard(&all, "x,"));
    add(a, "dir/b", "y");
    expect_hearing(&all, "y,");
    cr_assert_str_eq(all.key, "dir/b");
    add(a, "dir/a", "z");
    expect_hearing(&one, "x,z,");
    expect_hearing(&all, "x,z,");
    add(a, "dirt", "other");
    int n = 0;
    cr_assert(kv_list(b, SL("dir/"), count_name, &n, NULL));
    cr_assert_eq(n, 2);
    kv_delete(a, SL("dir/a"), NULL);
    expect_hearing(&one, "-");
    expect_hearing(&all, "-");
    cr_assert_str_eq(all.key, "dir/a");
    add(a, "dir/a", "back");
    expect_hearing(&one, "back,");
    kv_unwatch(b, w);
    kv_unwatch(b, p);
    int told = one.n;
    add(a, "dir/a", "again");
    nap_ms(100);
    cr_assert_eq(one.n, told);
}

static inline void check_unwatching_is_quick(struct kv *a)
{
    struct heard h = HEARD_NOTHING;
    struct kv_watch *w = kv_watch_key(a, SL("quiet"), &ring_desc_codec, hear, &h, NULL);
    nap_ms(100);
    int64_t start_ms = clock_mono_ms();
    kv_unwatch(a, w);
    cr_assert_lt(clock_mono_ms() - start_ms, 3000);
    cr_assert_eq(h.n, 0);
}

/* The claims as tests of a suite, whose file has open_store(). */
#define STORE_CLAIM(suite, name, check)  \
    Test(suite, name)                    \
    {                                    \
        struct kv *a = open_store();     \
        struct kv *b = open_store();     \
        check;                           \
        kv_free(a);                      \
        kv_free(b);                      \
    }
#define STORE_CLAIMS(suite)                                                                     \
    STORE_CLAIM(suite, two_stores_on_one_server_agree, check_two_stores_agree(a, b))             \
    STORE_CLAIM(suite, a_conflict_is_tried_again, check_conflicts_are_tried_again(a, b))         \
    STORE_CLAIM(suite, a_change_that_is_refused_leaves_the_key, check_refusals_leave_the_key(a)) \
    STORE_CLAIM(suite, watches_hear_values_changes_and_deletions, check_watches_hear(a, b))      \
    STORE_CLAIM(suite, unwatching_does_not_wait_for_a_change, check_unwatching_is_quick(a))
