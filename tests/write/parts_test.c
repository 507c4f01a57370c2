/* The parts of the distributor that stand for themselves: tokens, known series, rates, hashes, tenants. */
#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "push_fixture.h"
#include "write/blake2b.h"

/* --- tokens ------------------------------------------------------------------------------------------------------------------------ */

static uint32_t slow_fnv(enum token_kind kind, uint32_t h, struct slice s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (kind == TOKEN_FNV32A)
            h = (h ^ (unsigned char)s.p[i]) * 16777619U;
        else
            h = (h * 16777619U) ^ (unsigned char)s.p[i];
    }
    return h;
}

Test(token, has_the_known_values)
{
    cr_expect_eq(token_add(TOKEN_FNV32, TOKEN_EMPTY, SL("user-1")), 3956040770u);
    cr_expect_eq(token_add(TOKEN_FNV32, TOKEN_EMPTY, SL("user-1up")), 1612714009u);
    cr_expect_eq(token_add(TOKEN_FNV32A, TOKEN_EMPTY, SL("foobar")), 0xbf9cf968u);
}

Test(token, lanes_give_what_one_at_a_time_gives)
{
    static char text[100000];
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (char)(i * 131 + i / 7);
    for (size_t n = 0; n <= 40; n++) {
        struct token_job jobs[40];
        uint32_t got[40];
        for (size_t i = 0; i < n; i++)
            jobs[i] = (struct token_job){(unsigned char *)text + 17 * i, (i * 7919 + n) % (i % 5 ? 300 : 3), &got[i]};
        for (int kind = 0; kind < 2; kind++) {
            token_batch((enum token_kind)kind, 77, jobs, n);
            for (size_t i = 0; i < n; i++)
                cr_assert_eq(got[i], slow_fnv((enum token_kind)kind, 77, slice_make(jobs[i].p, jobs[i].n)), "%zu of %zu", i, n);
        }
    }
}

/* --- known series ---------------------------------------------------------------------------------------------------------------------- */

static struct write_series *fake_series(size_t n, uint64_t seed)
{
    struct write_series *s = calloc(n, sizeof(*s));
    for (size_t i = 0; i < n; i++) {
        uint64_t key = i + seed;
        s[i].hash = series_hash_of(slice_make(&key, 8), 1);
        s[i].token = (uint32_t)(key * 2654435761u);
        s[i].flags = WRITE_SERIES_SPAN_WHOLE;
    }
    return s;
}

static size_t count_found(struct known_series *k, uint64_t rules, struct write_series *s, size_t n)
{
    uint32_t *unknown = calloc(n + 1, sizeof(*unknown));
    for (size_t i = 0; i < n; i++) {
        s[i].flags = WRITE_SERIES_SPAN_WHOLE;
        s[i].token = 0;
    }
    size_t found = n - known_series_find(k, rules, s, n, unknown);
    for (size_t i = 0; i < n; i++) {
        if (s[i].flags & WRITE_SERIES_CANONICAL) {
            uint64_t key;
            memcpy(&key, &i, 8);
            cr_assert_eq(s[i].token, (uint32_t)(key * 2654435761u));
        }
    }
    free(unknown);
    return found;
}

static void add_all(struct known_series *k, uint64_t rules, const struct write_series *s, size_t n, int64_t now_ms)
{
    uint32_t *idx = calloc(n + 1, sizeof(*idx));
    for (size_t i = 0; i < n; i++)
        idx[i] = (uint32_t)i;
    known_series_add(k, rules, s, idx, n, now_ms);
    free(idx);
}

Test(known_series, remembers_what_was_added_while_it_grows)
{
    struct known_budget budget = {.max_bytes = (size_t)1 << 30};
    struct known_series k;
    known_series_init(&k, 1000000, &budget);
    const size_t n = 50000;
    struct write_series *s = fake_series(n, 0);
    cr_expect_eq(count_found(&k, 1, s, n), 0u);
    free(s);
    s = fake_series(n, 0);
    add_all(&k, 1, s, n / 2, 1000);
    add_all(&k, 1, s, n, 1000);
    cr_expect_geq(count_found(&k, 1, s, n), n * 997 / 1000);
    cr_expect_leq(known_series_count(&k), n);
    cr_expect_leq(atomic_load(&budget.used_bytes) / n, 64u, "bytes a series");
    cr_expect_eq(count_found(&k, 2, s, n), 0u, "other rules");
    known_series_release(&k);
    cr_expect_eq(atomic_load(&budget.used_bytes), 0u);
    free(s);
}

Test(known_series, a_rules_change_forgets_all)
{
    struct known_budget budget = {.max_bytes = (size_t)1 << 30};
    struct known_series k;
    known_series_init(&k, 1000, &budget);
    struct write_series *s = fake_series(100, 0);
    add_all(&k, 1, s, 100, 0);
    add_all(&k, 2, s, 1, 0);
    cr_expect_eq(known_series_count(&k), 1u);
    known_series_release(&k);
    free(s);
}

Test(known_series, the_bound_holds_and_the_oldest_make_room)
{
    struct known_budget budget = {.max_bytes = 1 << 20};
    struct known_series k;
    known_series_init(&k, 3000, &budget);
    struct write_series *live = fake_series(1000, 0);
    int64_t now = 1;
    add_all(&k, 1, live, 1000, now);
    for (int round = 0; round < 20; round++) {
        now += 11 * 60 * 1000; /* a generation each */
        struct write_series *churn = fake_series(1000, 1000000 + 1000 * (uint64_t)round);
        add_all(&k, 1, churn, 1000, now);
        free(churn);
        cr_assert_leq(atomic_load(&budget.used_bytes), (size_t)1 << 20);
        size_t found = count_found(&k, 1, live, 1000); /* a hit keeps it young */
        cr_expect_geq(found, 950u, "round %d: %zu", round, found);
        struct write_series *again = fake_series(1000, 0);
        add_all(&k, 1, again, 1000, now);
        free(again);
    }
    known_series_release(&k);
    free(live);
}

Test(known_series, without_memory_it_forgets_and_nothing_else)
{
    struct known_budget budget = {.max_bytes = 100};
    struct known_series k;
    known_series_init(&k, 3000, &budget);
    struct write_series *s = fake_series(10, 0);
    add_all(&k, 1, s, 10, 1);
    cr_expect_eq(count_found(&k, 1, s, 10), 0u);
    known_series_release(&k);
    free(s);
}

/* --- rates ------------------------------------------------------------------------------------------------------------------------------- */

Test(token_bucket, starts_full_and_refills_up_to_the_burst)
{
    struct token_bucket b = {0};
    const int64_t s = 1000000000;
    cr_expect(!token_bucket_take(&b, s, 10, 20, 21));
    cr_expect(token_bucket_take(&b, s, 10, 20, 20));
    cr_expect(!token_bucket_take(&b, s, 10, 20, 1));
    cr_expect(!token_bucket_take(&b, s + s / 2, 10, 20, 6));
    cr_expect(token_bucket_take(&b, s + s / 2, 10, 20, 5));
    cr_expect(token_bucket_take(&b, 100 * s, 10, 20, 20));
    cr_expect(!token_bucket_take(&b, 100 * s, 10, 20, 1));
    cr_expect(token_bucket_take(&b, 100 * s, INFINITY, 20, 1e9));
}

Test(moving_rate, follows_the_events_of_the_last_seconds)
{
    struct moving_rate r = {0};
    const int64_t s = 1000000000;
    for (int i = 0; i < 50; i++)
        moving_rate_add(&r, s * (1 + i / 10), 10);
    cr_expect_float_eq(moving_rate_get(&r, 6 * s), 100, 1e-9);
    cr_expect_lt(moving_rate_get(&r, 20 * s), 10);
    cr_expect_eq(moving_rate_get(&r, 1000 * s), 0);
}

/* --- hashes ------------------------------------------------------------------------------------------------------------------------------ */

/* Expected: b2sum -l 256 of coreutils. */
Test(blake2b, equals_b2sum)
{
    static char as[300];
    memset(as, 'a', sizeof(as));
    static const struct {
        size_t n;
        const char *hex;
    } cases[] = {
        {0, "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"},
        {3, "c8ed3cbe4acb99aeb94515ad89a6228f3f5d8f82dec429df135adafcea639416"},
        {128, "ae2aa48507885c4c950fb809b2076f959cde9f8ea6da260d9a3587df33dac450"},
        {129, "2f64744a6de0d2c0b56e64cf6e29a5aaa255010d415d51c75ccc82f73dccd865"},
        {300, "3c1292de00a518e36823f9ff908ac2da46be38718c018713403461df077e15f6"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t digest[32];
        char hex[65];
        blake2b_256(slice_make(as, cases[i].n), digest);
        for (int k = 0; k < 32; k++)
            snprintf(hex + 2 * k, 3, "%02x", digest[k]);
        cr_expect_str_eq(hex, cases[i].hex, "%zu bytes", cases[i].n);
    }
}

/* --- tenants ------------------------------------------------------------------------------------------------------------------------------ */

Test(tenants, are_bounded_and_the_one_unused_for_longest_goes)
{
    write_metrics_register();
    struct known_budget budget = {.max_bytes = 1 << 20};
    struct write_tenants *all = write_tenants_new(2, 1000, TOKEN_FNV32A, 1000, &budget);
    struct write_tenant *a = write_tenants_get(all, SL("a"), 1);
    struct write_tenant *b = write_tenants_get(all, SL("b"), 2);
    cr_expect_eq(write_tenants_get(all, SL("a"), 3), a);
    cr_expect_null(write_tenants_get(all, SL("c"), 4), "all are in use");
    write_tenants_put(all, a);
    write_tenants_put(all, a);
    write_tenants_put(all, b);
    struct write_tenant *c = write_tenants_get(all, SL("c"), 5);
    cr_expect_eq(write_tenants_count(all), 2u);
    cr_expect_eq(write_tenants_get(all, SL("a"), 6), a, "b was unused for longer");
    write_tenants_put(all, a);
    write_tenants_put(all, c);
    c = write_tenants_get(all, SL("c"), 70000);
    cr_expect_eq(write_tenants_count(all), 1u, "a was idle");
    write_tenants_put(all, c);
    write_tenants_free(all);
}

Test(tenants, take_their_metrics_with_them)
{
    write_metrics_register();
    struct known_budget budget = {.max_bytes = 1 << 20};
    struct write_tenants *all = write_tenants_new(10, 1000, TOKEN_FNV32A, 1000, &budget);
    write_tenants_put(all, write_tenants_get(all, SL("gone-soon"), 1));
    struct buf text = {0};
    metrics_write_text(&text, NULL, 0);
    cr_expect(strstr(buf_cstr(&text), "gone-soon"));
    buf_clear(&text);
    write_tenants_free(all);
    metrics_write_text(&text, NULL, 0);
    cr_expect_null(strstr(buf_cstr(&text), "gone-soon"));
    buf_release(&text);
}
