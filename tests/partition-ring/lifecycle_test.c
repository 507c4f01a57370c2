/* The life of partitions by a clock of the test's: transitions as tables, then a lifecycler through a scale-down. */
#include <criterion/criterion.h>
#include <unistd.h>

#include "partition-ring/lifecycler.h"
#include "partition-ring/partition_ring.h"

static const struct partition_rules rules = {.min_owners = 1, .min_owners_ms = 10000, .delete_inactive_ms = 3600000};

static struct partition_desc *one(enum partition_state state, bool locked)
{
    struct partition_desc *d = partition_desc_new();
    cr_assert(partition_create(d, 3, 100000));
    d->partitions[0].state = (int32_t)state;
    d->partitions[0].locked = locked;
    return d;
}

Test(partition_lifecycle, begins_pending_with_its_tokens)
{
    struct partition_desc *d = partition_desc_new();
    cr_assert(partition_create(d, 3, 100999));
    cr_assert_not(partition_create(d, 3, 200000));
    const struct partition *p = &d->partitions[0];
    uint32_t tokens[PARTITION_TOKENS];
    partition_tokens(3, tokens);
    cr_assert(p->state == PARTITION_PENDING && p->state_s == 100 && p->n_tokens == PARTITION_TOKENS);
    cr_assert_arr_eq(p->tokens, tokens, sizeof(tokens));
    partition_desc_free(d);
}

Test(partition_lifecycle, changes_states_only_as_drawn_and_never_when_locked)
{
    static const char *const rows[PARTITION_STATES] = {
        /*                       ?PAID */
        [PARTITION_UNKNOWN] = "=----", [PARTITION_PENDING] = "-=yy-", [PARTITION_ACTIVE] = "--=y-",
        [PARTITION_INACTIVE] = "--y=-", [PARTITION_DELETED] = "----=",
    };
    for (unsigned from = 0; from < PARTITION_STATES; from++) {
        for (unsigned to = 0; to < PARTITION_STATES; to++) {
            for (int locked = 0; locked < 2; locked++) {
                struct partition_desc *d = one((enum partition_state)from, locked);
                bool changed = false;
                struct err err = ERR_NONE;
                char want = rows[from][to];
                bool ok = partition_change_state(d, 3, (enum partition_state)to, 200000, &changed, &err);
                cr_assert_eq(ok, want == '=' || (want == 'y' && !locked), "%u to %u", from, to);
                cr_assert_eq(d->partitions[0].state, (int32_t)(ok ? to : from));
                cr_assert_eq(d->partitions[0].state_s, ok && want == 'y' ? 200 : 100);
                cr_assert_eq(err.code, ok ? ERR_OK : ERR_CONFLICT);
                partition_desc_free(d);
            }
        }
    }
    struct partition_desc *none = partition_desc_new();
    struct err err = ERR_NONE;
    bool changed;
    cr_assert_not(partition_change_state(none, 3, PARTITION_ACTIVE, 1, &changed, &err));
    cr_assert_eq(err.code, ERR_NOT_FOUND);
    partition_desc_free(none);
}

/* A downscale that is taken back at once: a merge must not keep the first of the two changes. */
Test(partition_lifecycle, two_changes_of_one_second_have_their_order)
{
    struct partition_desc *d = partition_desc_new();
    bool changed;
    struct err err;
    partition_create(d, 3, 5000);
    int64_t before_s = partition_desc_find(d, 3)->state_s;
    const enum partition_state to[] = {PARTITION_ACTIVE, PARTITION_INACTIVE, PARTITION_ACTIVE};
    for (int i = 0; i < 3; i++) {
        cr_assert(partition_change_state(d, 3, to[i], 5300, &changed, &err) && changed);
        cr_expect_gt(partition_desc_find(d, 3)->state_s, before_s);
        before_s = partition_desc_find(d, 3)->state_s;
    }
    partition_desc_free(d);
}

Test(partition_lifecycle, becomes_active_when_its_owners_have_stayed)
{
    static const struct {
        size_t min_owners;
        int owners;
        int64_t now_ms;
        bool locked;
        bool want;
    } cases[] = {
        {1, 1, 110000, false, false}, {1, 1, 110001, false, true}, {1, 0, 200000, false, false}, {2, 1, 200000, false, false},
        {2, 2, 200000, false, true},  {1, 1, 200000, true, false}, {0, 0, 200000, false, true},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct partition_desc *d = one(PARTITION_PENDING, cases[i].locked);
        static const char *const ids[] = {"a", "b"};
        for (int o = 0; o < cases[i].owners; o++)
            cr_assert(partition_own(d, slice_of(ids[o]), 3, 100000));
        partition_own(d, SL("elsewhere"), 4, 100000);
        struct partition_rules r = rules;
        r.min_owners = cases[i].min_owners;
        cr_assert_eq(partition_activate(d, 3, &r, cases[i].now_ms), cases[i].want, "case %zu", i);
        cr_assert_eq(d->partitions[0].state, cases[i].want ? PARTITION_ACTIVE : PARTITION_PENDING);
        partition_desc_free(d);
    }
}

Test(partition_lifecycle, is_deleted_when_inactive_for_long_and_without_owners)
{
    static const struct {
        enum partition_state state;
        bool owned;
        int32_t own;
        int64_t now_ms;
        bool want;
    } cases[] = {
        {PARTITION_INACTIVE, false, 1, 3700001, true}, {PARTITION_INACTIVE, false, 1, 3700000, false},
        {PARTITION_INACTIVE, true, 1, 9900000, false}, {PARTITION_INACTIVE, false, 3, 9900000, false},
        {PARTITION_ACTIVE, false, 1, 9900000, false},  {PARTITION_PENDING, false, 1, 9900000, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct partition_desc *d = one(cases[i].state, false);
        if (cases[i].owned)
            partition_own(d, SL("a"), 3, 100000);
        cr_assert_eq(partition_delete_abandoned(d, cases[i].own, &rules, cases[i].now_ms), cases[i].want, "case %zu", i);
        cr_assert_eq(d->n_partitions, cases[i].want ? 0 : 1);
        partition_desc_free(d);
    }
}

Test(partition_lifecycle, keeps_the_time_of_an_unchanged_owner_and_lock)
{
    struct partition_desc *d = one(PARTITION_ACTIVE, false);
    cr_assert(partition_own(d, SL("a"), 3, 100000));
    cr_assert_not(partition_own(d, SL("a"), 3, 200000));
    cr_assert_eq(d->owners[0].updated_s, 100);
    cr_assert(partition_own(d, SL("a"), 4, 300000));
    cr_assert(partition_disown(d, SL("a")));
    cr_assert_not(partition_disown(d, SL("a")));
    cr_assert(partition_set_lock(d, 3, true, 400000));
    cr_assert_not(partition_set_lock(d, 3, true, 500000));
    cr_assert(d->partitions[0].locked && d->partitions[0].locked_s == 400);
    cr_assert_not(partition_set_lock(d, 77, true, 500000));
    partition_desc_free(d);
}

static int64_t now_of(void *arg)
{
    return *(int64_t *)arg;
}

static struct partition_lifecycler *new_lifecycler(struct kv *kv, int64_t *now_ms, const char *owner, int32_t partition, bool create)
{
    struct partition_lifecycler_config config = {
        .key = "partitions", .owner = owner, .partition = partition, .rules = rules, .poll_ms = 1, .create_on_start = create};
    struct lifecycler_env env = {.now_ms = now_of, .arg = now_ms};
    return partition_lifecycler_new(kv, &config, &env);
}

static void check_state(struct partition_lifecycler *l, enum partition_state want, int64_t want_s)
{
    enum partition_state state;
    int64_t changed_s;
    cr_assert(partition_lifecycler_state(l, &state, &changed_s, NULL));
    cr_assert_eq(state, want);
    cr_assert_eq(changed_s, want_s);
}

static void poll_once(struct partition_lifecycler *l, bool want_joined)
{
    bool joined;
    cr_assert(partition_lifecycler_poll(l, &joined, NULL));
    cr_assert_eq(joined, want_joined);
}

Test(partition_lifecycler, goes_from_pending_to_deleted_in_a_scale_down)
{
    int64_t now_ms = 100000;
    struct kv *kv = kv_inmemory_new(4);
    struct partition_lifecycler *a = new_lifecycler(kv, &now_ms, "ingester-0", 0, true);
    struct partition_lifecycler *b = new_lifecycler(kv, &now_ms, "ingester-1", 1, true);
    poll_once(a, true);
    poll_once(b, true);
    check_state(b, PARTITION_PENDING, 100);
    now_ms = 111000;
    poll_once(b, true);
    check_state(b, PARTITION_ACTIVE, 111);
    now_ms = 200000;
    cr_assert(partition_lifecycler_change_state(b, PARTITION_INACTIVE, NULL));
    cr_assert(partition_lifecycler_change_state(b, PARTITION_INACTIVE, NULL));
    check_state(b, PARTITION_INACTIVE, 200);
    cr_assert_not(partition_lifecycler_change_state(b, PARTITION_PENDING, NULL));
    partition_lifecycler_set_remove_owner_on_stop(b, true);
    cr_assert(partition_lifecycler_stop(b, NULL));
    now_ms = 3800001;
    poll_once(a, true);
    enum partition_state state;
    int64_t changed_s;
    struct err err = ERR_NONE;
    cr_assert_not(partition_lifecycler_state(b, &state, &changed_s, &err));
    cr_assert_eq(err.code, ERR_NOT_FOUND);
    check_state(a, PARTITION_ACTIVE, 3800);
    partition_lifecycler_free(a);
    partition_lifecycler_free(b);
    kv_free(kv);
}

Test(partition_lifecycler, waits_for_the_partition_when_it_shall_not_create_it)
{
    int64_t now_ms = 100000;
    struct kv *kv = kv_inmemory_new(4);
    struct partition_lifecycler *a = new_lifecycler(kv, &now_ms, "zone-a-0", 0, false);
    struct partition_lifecycler *b = new_lifecycler(kv, &now_ms, "zone-b-0", 0, true);
    poll_once(a, false);
    poll_once(b, true);
    poll_once(a, true);
    cr_assert(partition_lifecycler_stop(a, NULL));
    void *d;
    cr_assert(kv_get(kv, SL("partitions"), &partition_desc_codec, &d, NULL));
    cr_assert_eq(partition_desc_count_owners(d, 0, INT64_MAX), 2, "a restart keeps its owner");
    partition_desc_free(d);
    partition_lifecycler_free(a);
    partition_lifecycler_free(b);
    kv_free(kv);
}

Test(partition_lifecycler, polls_in_its_thread)
{
    int64_t now_ms = 100000;
    struct kv *kv = kv_inmemory_new(4);
    struct partition_lifecycler *a = new_lifecycler(kv, &now_ms, "ingester-0", 0, true);
    partition_lifecycler_start(a);
    enum partition_state state;
    int64_t changed_s;
    while (!partition_lifecycler_state(a, &state, &changed_s, NULL))
        usleep(1000);
    cr_assert(partition_lifecycler_stop(a, NULL));
    cr_assert_eq(state, PARTITION_PENDING);
    partition_lifecycler_free(a);
    kv_free(kv);
}
