/* The store of one process. Its values here are of a codec of the test's own: a number. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "ring/kv.h"

static void *number_new(int v)
{
    int *p = malloc(sizeof(*p));
    *p = v;
    return p;
}

static void *number_clone(const void *v)
{
    return number_new(*(const int *)v);
}

static const struct kv_codec number_codec = {.id = "number", .clone = number_clone, .free = free};

static enum kv_cas add_one(void *arg, void **value, struct err *err)
{
    (void)err;
    int *tries = arg;
    if (tries)
        ++*tries;
    if (*value)
        ++*(int *)*value;
    else
        *value = number_new(1);
    return KV_CAS_STORE;
}

static int read_number(struct kv *kv, const char *key)
{
    void *v = NULL;
    cr_assert(kv_get(kv, slice_of(key), &number_codec, &v, NULL));
    int n = v ? *(int *)v : -1;
    free(v);
    return n;
}

static void add(struct kv *kv, const char *key)
{
    cr_assert(kv_cas(kv, slice_of(key), &number_codec, add_one, NULL, NULL));
}

struct heard {
    struct kv *kv;
    int n;
    int last;
    char key[32];
    int raise_to; /* the callback itself adds one up to this */
};

static void hear(void *arg, struct slice key, const void *value)
{
    struct heard *h = arg;
    h->n++;
    int now = value ? *(const int *)value : -1;
    cr_assert(!value || now > h->last, "an older value after a newer");
    h->last = now;
    snprintf(h->key, sizeof(h->key), "%.*s", SL_FMT(key));
    if (now > 0 && now < h->raise_to)
        add(h->kv, h->key);
}

Test(kv, finds_codecs_by_id)
{
    struct kv_codecs set = {0};
    kv_codecs_add(&set, &number_codec);
    cr_assert_eq(kv_codecs_find(&set, SL("number")), &number_codec);
    cr_assert_null(kv_codecs_find(&set, SL("numbe")));
}

Test(kv_inmemory, stores_what_a_cas_made_and_deletes)
{
    struct kv *kv = kv_inmemory_new(4);
    cr_assert_eq(read_number(kv, "a"), -1);
    add(kv, "a");
    add(kv, "a");
    cr_assert_eq(read_number(kv, "a"), 2);
    cr_assert(kv_delete(kv, SL("a"), NULL));
    cr_assert(kv_delete(kv, SL("a"), NULL));
    cr_assert_eq(read_number(kv, "a"), -1);
    kv_free(kv);
}

static enum kv_cas keep(void *arg, void **value, struct err *err)
{
    (void)err;
    if (*value)
        *(int *)*value = 99;
    return *(enum kv_cas *)arg;
}

Test(kv_inmemory, leaves_the_key_alone_when_the_cas_keeps_or_fails)
{
    struct kv *kv = kv_inmemory_new(4);
    add(kv, "a");
    enum kv_cas wish = KV_CAS_KEEP;
    cr_assert(kv_cas(kv, SL("a"), &number_codec, keep, &wish, NULL));
    wish = KV_CAS_FAIL;
    cr_assert_not(kv_cas(kv, SL("a"), &number_codec, keep, &wish, NULL));
    cr_assert_eq(read_number(kv, "a"), 1);
    kv_free(kv);
}

Test(kv_inmemory, refuses_more_keys_than_its_maximum)
{
    struct kv *kv = kv_inmemory_new(2);
    add(kv, "a");
    add(kv, "b");
    struct err err = ERR_NONE;
    cr_assert_not(kv_cas(kv, SL("c"), &number_codec, add_one, NULL, &err));
    cr_assert_eq(err.code, ERR_NO_SPACE);
    kv_delete(kv, SL("a"), NULL);
    add(kv, "c");
    kv_free(kv);
}

struct race {
    struct kv *kv;
    int tries;
    int rivals; /* how many tries another writer spoils */
};

static enum kv_cas add_one_beside_a_rival(void *arg, void **value, struct err *err)
{
    struct race *r = arg;
    if (r->tries++ < r->rivals)
        add(r->kv, "a");
    return add_one(NULL, value, err);
}

Test(kv_inmemory, tries_again_when_another_writer_was_faster)
{
    struct kv *kv = kv_inmemory_new(4);
    struct race r = {.kv = kv, .rivals = 3};
    cr_assert(kv_cas(kv, SL("a"), &number_codec, add_one_beside_a_rival, &r, NULL));
    cr_assert_eq(r.tries, 4);
    cr_assert_eq(read_number(kv, "a"), 4);
    r = (struct race){.kv = kv, .rivals = 1000};
    struct err err = ERR_NONE;
    cr_assert_not(kv_cas(kv, SL("a"), &number_codec, add_one_beside_a_rival, &r, &err));
    cr_assert_eq(err.code, ERR_CONFLICT);
    kv_free(kv);
}

Test(kv_inmemory, watches_hear_of_the_value_at_once_and_of_changes)
{
    struct kv *kv = kv_inmemory_new(4);
    add(kv, "a");
    struct heard h = {.kv = kv}, all = {.kv = kv};
    struct kv_watch *w = kv_watch_key(kv, SL("a"), &number_codec, hear, &h, NULL);
    cr_assert_eq(h.last, 1);
    add(kv, "a");
    add(kv, "ab");
    cr_assert_eq(h.n, 2);
    cr_assert_eq(h.last, 2);
    kv_delete(kv, SL("ab"), NULL);
    struct kv_watch *p = kv_watch_prefix(kv, SL("a"), &number_codec, hear, &all, NULL);
    cr_assert_eq(all.n, 1);
    kv_delete(kv, SL("a"), NULL);
    cr_assert_eq(h.last, -1);
    cr_assert_eq(all.last, -1);
    kv_unwatch(kv, w);
    add(kv, "a");
    cr_assert_eq(h.n, 3);
    cr_assert_eq(all.last, 1);
    kv_unwatch(kv, p);
    kv_free(kv);
}

Test(kv_inmemory, a_watch_may_change_the_store)
{
    struct kv *kv = kv_inmemory_new(4);
    struct heard h = {.kv = kv, .raise_to = 5};
    struct kv_watch *w = kv_watch_key(kv, SL("a"), &number_codec, hear, &h, NULL);
    add(kv, "a");
    cr_assert_eq(h.last, 5);
    cr_assert_eq(read_number(kv, "a"), 5);
    kv_unwatch(kv, w);
    kv_free(kv);
}

static void *add_a_thousand(void *kv)
{
    for (int i = 0; i < 1000; i++)
        while (!kv_cas(kv, SL("a"), &number_codec, add_one, NULL, NULL))
            ;
    return NULL;
}

Test(kv_inmemory, loses_no_change_of_threads_and_tells_the_last)
{
    struct kv *kv = kv_inmemory_new(4);
    struct heard h = {.kv = kv};
    struct kv_watch *w = kv_watch_key(kv, SL("a"), &number_codec, hear, &h, NULL);
    pthread_t t[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, add_a_thousand, kv);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    cr_assert_eq(read_number(kv, "a"), 4000);
    cr_assert_eq(h.last, 4000);
    kv_unwatch(kv, w);
    kv_free(kv);
}
