/* The entry of one instance through its life, by a clock of the test's. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ring/lifecycler.h"

struct world {
    int64_t now_ms;
    uint32_t next;
};

static int64_t world_now_ms(void *arg)
{
    return ((struct world *)arg)->now_ms;
}

static uint32_t world_random_u32(void *arg)
{
    return ((struct world *)arg)->next++ / 2; /* each number twice: some are taken */
}

static struct lifecycler *new_lifecycler(struct kv *kv, struct world *w, const char *id, bool unregister)
{
    struct lifecycler_config config = {.key = "ring",
                                       .id = id,
                                       .addr = "127.0.0.1:9095",
                                       .zone = "zone-a",
                                       .n_tokens = 4,
                                       .heartbeat_period_ms = 1,
                                       .forget_after_ms = 600000,
                                       .unregister_on_stop = unregister};
    struct lifecycler_env env = {.now_ms = world_now_ms, .random_u32 = world_random_u32, .arg = w};
    return lifecycler_new(kv, &config, &env);
}

static struct ring_desc *read_ring(struct kv *kv)
{
    void *v;
    cr_assert(kv_get(kv, SL("ring"), &ring_desc_codec, &v, NULL));
    cr_assert(v);
    return v;
}

Test(lifecycler, registers_beats_and_unregisters)
{
    struct world w = {.now_ms = 100000};
    struct kv *kv = kv_inmemory_new(4);
    struct lifecycler *l = new_lifecycler(kv, &w, "a", true);
    cr_assert(lifecycler_register(l, RING_ACTIVE, NULL));
    struct ring_desc *d = read_ring(kv);
    const struct ring_instance *a = ring_desc_find(d, SL("a"));
    cr_assert(a && a->state == RING_ACTIVE && a->registered_s == 100 && a->timestamp_s == 100 && a->n_tokens == 4);
    cr_assert_str_eq(a->addr, "127.0.0.1:9095");
    cr_assert_str_eq(a->zone, "zone-a");
    ring_desc_free(d);
    w.now_ms += 15000;
    cr_assert(lifecycler_heartbeat(l, NULL));
    d = read_ring(kv);
    cr_assert(d->instances[0].timestamp_s == 115 && d->instances[0].registered_s == 100);
    ring_desc_free(d);
    cr_assert(lifecycler_stop(l, NULL));
    d = read_ring(kv);
    cr_assert_eq(d->n, 0);
    ring_desc_free(d);
    lifecycler_free(l);
    kv_free(kv);
}

Test(lifecycler, takes_up_its_tokens_and_registration_after_a_restart)
{
    struct world w = {.now_ms = 100000};
    struct kv *kv = kv_inmemory_new(4);
    struct lifecycler *l = new_lifecycler(kv, &w, "a", false), *other = new_lifecycler(kv, &w, "b", false);
    cr_assert(lifecycler_register(l, RING_ACTIVE, NULL));
    cr_assert(lifecycler_register(other, RING_ACTIVE, NULL));
    cr_assert(lifecycler_set_read_only(l, true, NULL));
    cr_assert(lifecycler_stop(l, NULL));
    lifecycler_free(l);
    struct ring_desc *before = read_ring(kv);
    cr_assert_eq(ring_desc_find(before, SL("a"))->state, RING_LEAVING);
    w.now_ms = 200000;
    l = new_lifecycler(kv, &w, "a", false);
    cr_assert(lifecycler_register(l, RING_JOINING, NULL));
    cr_assert(lifecycler_set_state(l, RING_ACTIVE, NULL));
    struct ring_desc *after = read_ring(kv);
    struct ring_instance *was = ring_desc_find(before, SL("a"));
    was->state = RING_ACTIVE;
    was->timestamp_s = 200;
    cr_assert(ring_instance_eq(was, ring_desc_find(after, SL("a"))));
    cr_assert(was->read_only && was->read_only_updated_s == 100);
    const struct ring_instance *b = ring_desc_find(after, SL("b"));
    for (size_t i = 0; i < b->n_tokens; i++)
        for (size_t j = 0; j < was->n_tokens; j++)
            cr_assert_neq(b->tokens[i], was->tokens[j]);
    ring_desc_free(before);
    ring_desc_free(after);
    lifecycler_free(l);
    lifecycler_free(other);
    kv_free(kv);
}

Test(lifecycler, refuses_changes_that_are_not_drawn)
{
    struct world w = {.now_ms = 100000};
    struct kv *kv = kv_inmemory_new(4);
    struct lifecycler *l = new_lifecycler(kv, &w, "a", false);
    cr_assert(lifecycler_register(l, RING_ACTIVE, NULL));
    struct err err = ERR_NONE;
    cr_assert_not(lifecycler_set_state(l, RING_JOINING, &err));
    cr_assert_eq(err.code, ERR_CONFLICT);
    cr_assert_eq(lifecycler_state(l), RING_ACTIVE);
    cr_assert_not(lifecycler_set_state(l, RING_LEFT, NULL));
    lifecycler_free(l);
    kv_free(kv);
}

Test(lifecycler, forgets_the_silent_and_comes_back_when_it_was_forgotten_itself)
{
    struct world w = {.now_ms = 100000};
    struct kv *kv = kv_inmemory_new(4);
    struct lifecycler *a = new_lifecycler(kv, &w, "a", false), *b = new_lifecycler(kv, &w, "b", false);
    cr_assert(lifecycler_register(a, RING_ACTIVE, NULL));
    struct ring_desc *before = read_ring(kv);
    w.now_ms += 600001 + 1000;
    cr_assert(lifecycler_register(b, RING_ACTIVE, NULL));
    struct ring_desc *d = read_ring(kv);
    cr_assert_null(ring_desc_find(d, SL("a")));
    ring_desc_free(d);
    cr_assert(lifecycler_heartbeat(a, NULL));
    d = read_ring(kv);
    struct ring_instance *was = ring_desc_find(before, SL("a"));
    was->timestamp_s = w.now_ms / 1000;
    cr_assert(ring_instance_eq(was, ring_desc_find(d, SL("a"))));
    ring_desc_free(d);
    ring_desc_free(before);
    lifecycler_free(a);
    lifecycler_free(b);
    kv_free(kv);
}

static enum kv_cas steal(void *arg, void **value, struct err *err)
{
    (void)err;
    struct ring_desc *d = *value;
    uint32_t token = *(uint32_t *)arg;
    ring_desc_remove(d, ring_desc_find(d, SL("a")));
    ring_instance_set_tokens(ring_desc_add(d, SL("thief")), &token, 1);
    return KV_CAS_STORE;
}

Test(lifecycler, replaces_tokens_that_another_took_while_it_was_forgotten)
{
    struct world w = {.now_ms = 100000};
    struct kv *kv = kv_inmemory_new(4);
    struct lifecycler *a = new_lifecycler(kv, &w, "a", false);
    cr_assert(lifecycler_register(a, RING_ACTIVE, NULL));
    struct ring_desc *before = read_ring(kv);
    uint32_t token = before->instances[0].tokens[2];
    cr_assert(kv_cas(kv, SL("ring"), &ring_desc_codec, steal, &token, NULL));
    w.now_ms += 600000;
    cr_assert(lifecycler_heartbeat(a, NULL));
    struct ring_desc *d = read_ring(kv);
    const struct ring_instance *in = ring_desc_find(d, SL("a"));
    cr_assert_eq(in->n_tokens, 4);
    for (size_t i = 0; i < 4; i++)
        cr_assert_neq(in->tokens[i], token);
    ring_desc_free(d);
    ring_desc_free(before);
    lifecycler_free(a);
    kv_free(kv);
}

static void count(void *arg, struct slice key, const void *value)
{
    (void)key;
    (void)value;
    __atomic_add_fetch((int *)arg, 1, __ATOMIC_SEQ_CST);
}

Test(lifecycler, beats_in_its_thread_until_it_is_stopped)
{
    struct world w = {.now_ms = 100000};
    struct kv *kv = kv_inmemory_new(4);
    struct lifecycler *l = new_lifecycler(kv, &w, "a", false);
    cr_assert(lifecycler_register(l, RING_ACTIVE, NULL));
    int n = 0;
    struct kv_watch *watch = kv_watch_key(kv, SL("ring"), &ring_desc_codec, count, &n, NULL);
    lifecycler_start(l);
    while (__atomic_load_n(&n, __ATOMIC_SEQ_CST) < 5)
        usleep(1000);
    cr_assert(lifecycler_stop(l, NULL));
    struct ring_desc *d = read_ring(kv);
    cr_assert_eq(d->instances[0].state, RING_LEAVING);
    ring_desc_free(d);
    kv_unwatch(kv, watch);
    lifecycler_free(l);
    kv_free(kv);
}

/* --- the file of tokens --- */

static struct lifecycler *with_file(struct kv *kv, struct world *w, const char *path)
{
    struct lifecycler_config config = {.key = "ring", .id = "a", .addr = "127.0.0.1:9095", .zone = "", .n_tokens = 4, .heartbeat_period_ms = 1, .unregister_on_stop = true, .tokens_file = path};
    struct lifecycler_env env = {.now_ms = world_now_ms, .random_u32 = world_random_u32, .arg = w};
    return lifecycler_new(kv, &config, &env);
}

/* The tokens of the entry after a life of it. */
static void live_once(struct kv *kv, struct world *w, const char *path, uint32_t ret[4])
{
    struct lifecycler *l = with_file(kv, w, path);
    cr_assert(lifecycler_register(l, RING_JOINING, NULL));
    struct ring_desc *d = read_ring(kv);
    const struct ring_instance *in = ring_desc_find(d, SL("a"));
    cr_assert_eq(in->n_tokens, 4);
    memcpy(ret, in->tokens, 4 * sizeof(ret[0]));
    ring_desc_free(d);
    cr_assert(lifecycler_stop(l, NULL));
    lifecycler_free(l);
}

static void put_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
}

Test(lifecycler, tokens_survive_in_their_file_when_the_entry_has_left)
{
    char path[] = "/tmp/brunn-tokens-XXXXXX";
    struct world w = {.now_ms = 100000};
    struct kv *kv = kv_inmemory_new(4);
    uint32_t first[4], second[4];
    close(mkstemp(path));
    unlink(path);
    live_once(kv, &w, path, first);
    live_once(kv, &w, path, second);
    cr_assert(memcmp(first, second, sizeof(first)) == 0);
    /* What somebody else has taken meanwhile is theirs. */
    struct lifecycler *other = new_lifecycler(kv, &(struct world){.now_ms = 100000, .next = first[0] * 2}, "b", false);
    cr_assert(lifecycler_register(other, RING_ACTIVE, NULL));
    live_once(kv, &w, path, second);
    for (size_t i = 0; i < 4; i++)
        cr_assert_neq(second[i], first[0]);
    /* Files that say nothing are passed over, and made anew. */
    static const char *const bad[] = {"", "{", "[1]", "{\"tokens\":[-1]}", "{\"tokens\":{\"a\":1}}"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        put_text(path, bad[i]);
        live_once(kv, &w, path, first);
        live_once(kv, &w, path, second);
        cr_assert(memcmp(first, second, sizeof(first)) == 0, "case %zu", i);
    }
    unlink(path);
    lifecycler_free(other);
    kv_free(kv);
}
