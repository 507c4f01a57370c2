/* XOR chunks: what is appended comes back, from whole, resumed, cut short and spoilt bytes. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "storage/chunk/chunk.h"
#include "tests/storage/chunk/compare.h"
#include "tests/storage/chunk/random.h"

#define MAX 400

struct samples {
    int n;
    int64_t t[MAX];
    double v[MAX];
};

static uint8_t bytes[MAX * XOR_SAMPLE_MAX_BYTES + 64];

static size_t encode(const struct samples *s)
{
    struct xor_appender a;
    xor_appender_init(&a);
    for (int i = 0; i < s->n; i++) {
        size_t before = i ? xor_size(&a) : 2;
        xor_append(&a, bytes, s->t[i], s->v[i]);
        cr_assert_leq(xor_size(&a), before + XOR_SAMPLE_MAX_BYTES);
        cr_assert_eq(xor_count(slice_make(bytes, xor_size(&a))), i + 1);
    }
    return xor_size(&a);
}

/* Decodes from a copy of exactly n bytes, so that the sanitizer sees a read past the end. */
static int decode_exact(const uint8_t *p, size_t n, int64_t *t, double *v, size_t cap)
{
    char *own = malloc(n ? n : 1);
    memcpy(own, p, n);
    int got = xor_decode(slice_make(own, n), t, v, cap);
    free(own);
    return got;
}

static void check_round_trip(const struct samples *s)
{
    int64_t t[MAX];
    double v[MAX];
    size_t n = encode(s);
    cr_assert_eq(decode_exact(bytes, n, t, v, MAX), s->n);
    for (int i = 0; i < s->n; i++) {
        cr_assert_eq(t[i], s->t[i], "time %d: %ld, not %ld", i, t[i], s->t[i]);
        cr_assert(same_bits(v[i], s->v[i]), "value %d: %a, not %a", i, v[i], s->v[i]);
    }
}

static int64_t random_step(struct rnd *r)
{
    switch (rnd_below(r, 6)) {
    case 0: return 15000;
    case 1: return 15000 + (int64_t)rnd_below(r, 20) - 10;
    case 2: return 1 + (int64_t)rnd_below(r, 1 << 16);
    case 3: return 1 + (int64_t)rnd_below(r, 1 << 20);
    case 4: return 1 + (int64_t)rnd_below(r, UINT64_C(1) << 40);
    default: return 1;
    }
}

Test(xor, what_is_appended_comes_back)
{
    struct rnd r = {42};
    for (int round = 0; round < 2000; round++) {
        struct samples s = {.n = 1 + (int)rnd_below(&r, MAX)};
        bool wild = rnd_below(&r, 2);
        int64_t t = (int64_t)rnd_below(&r, UINT64_C(1) << 41) - (INT64_C(1) << 40);
        double v = 0;
        for (int i = 0; i < s.n; i++) {
            t += wild ? random_step(&r) : 15000;
            v = wild ? rnd_double(&r, v) : v + (double)rnd_below(&r, 100);
            s.t[i] = t;
            s.v[i] = v;
        }
        check_round_trip(&s);
    }
}

/* Lower edge, upper edge, and one beyond each, of the time code's ranges of 14, 17, 20 and 64 bits. */
Test(xor, differences_at_the_edges_of_every_time_code)
{
    static const int sizes[] = {14, 17, 20};
    struct samples s = {0};
    int64_t t = INT64_C(1) << 40, delta = INT64_C(1) << 30;
    s.t[0] = t;
    s.v[0] = 1;
    s.n = 1;
    for (int i = 0; i < 3; i++) {
        int64_t high = INT64_C(1) << (sizes[i] - 1);
        int64_t edges[] = {high, high + 1, high - 1, -(high - 1), -high, -high - 1, 1, -1, 0};
        for (size_t k = 0; k < sizeof(edges) / sizeof(edges[0]); k++) {
            delta += edges[k];
            t += delta;
            s.t[s.n] = t;
            s.v[s.n] = s.n;
            s.n++;
        }
    }
    check_round_trip(&s);
}

Test(xor, times_at_the_ends_of_the_range)
{
    struct samples s = {.n = 4, .t = {INT64_MIN, -1, 0, INT64_MAX}, .v = {1, 1, 1, 2}};
    check_round_trip(&s);
    struct samples one = {.n = 1, .t = {INT64_MAX}, .v = {-0.0}};
    check_round_trip(&one);
}

Test(xor, sixty_four_significant_bits)
{
    struct samples s = {.n = 5, .t = {1, 2, 3, 4, 5}};
    uint64_t bits[] = {0, UINT64_MAX, 0, UINT64_C(0x8000000000000001), 1};
    memcpy(s.v, bits, sizeof(bits));
    check_round_trip(&s);
}

/* t = 0 and t = 15, both 1.0: count, varint 0, 1.0, uvarint 15, one zero bit. Worked out by hand from the format. */
Test(xor, bytes_of_a_small_chunk)
{
    static const uint8_t want[] = {0, 2, 0, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0, 15, 0};
    struct samples s = {.n = 2, .t = {0, 15}, .v = {1, 1}};
    cr_assert_eq(encode(&s), sizeof(want));
    cr_assert_arr_eq(bytes, want, sizeof(want));
}

Test(xor, resumed_after_any_sample_it_goes_on_with_the_same_bytes)
{
    struct rnd r = {7};
    for (int round = 0; round < 20; round++) {
        struct samples s = {.n = 150};
        int64_t t = 1700000000000;
        double v = 0;
        for (int i = 0; i < s.n; i++) {
            t += round % 2 ? random_step(&r) : 15000;
            v = i < 5 ? 0 : rnd_double(&r, v); /* no window at first */
            s.t[i] = t;
            s.v[i] = v;
        }
        size_t n = encode(&s);
        uint8_t *whole = malloc(n), *part = malloc(sizeof(bytes));
        memcpy(whole, bytes, n);
        for (int cut = 0; cut <= s.n; cut++) {
            struct xor_appender a, b;
            xor_appender_init(&a);
            for (int i = 0; i < cut; i++)
                xor_append(&a, bytes, s.t[i], s.v[i]);
            memset(part, 0xAA, sizeof(bytes)); /* what lies behind the chunk must not matter */
            memcpy(part, bytes, xor_size(&a));
            cr_assert(xor_resume(&b, slice_make(part, xor_size(&a))));
            if (cut > 1)
                cr_assert_eq(memcmp(&a, &b, sizeof(a)), 0, "after %d", cut);
            for (int i = cut; i < s.n; i++)
                xor_append(&b, part, s.t[i], s.v[i]);
            cr_assert_eq(xor_size(&b), n);
            cr_assert_eq(memcmp(whole, part, n), 0, "after %d", cut);
        }
        free(whole);
        free(part);
    }
}

/* Prometheus goes on after a restart as if a window of all 64 bits were set; such chunks exist, and must be read and continued. */
Test(xor, a_window_that_was_never_set_is_all_64_bits)
{
    struct samples s = {.n = 3, .t = {0, 15, 30}, .v = {1, 1, 1}};
    struct xor_appender a;
    int64_t t[4];
    double v[4];
    size_t n = encode(&s);
    xor_appender_init(&a);
    cr_assert(xor_resume(&a, slice_make(bytes, n)));
    cr_assert_eq(a.leading, 0xFF);
    a.leading = a.trailing = 0;
    xor_append(&a, bytes, 45, 2);
    cr_assert_eq(decode_exact(bytes, xor_size(&a), t, v, 4), 4);
    cr_assert(v[3] == 2 && t[3] == 45);
    struct xor_appender b;
    cr_assert(xor_resume(&b, slice_make(bytes, xor_size(&a))));
    cr_assert(b.leading == 0 && b.trailing == 0);
}

Test(xor, cut_short_it_is_an_error)
{
    struct rnd r = {9};
    int64_t t[MAX];
    double v[MAX];
    struct samples s = {.n = 120};
    for (int i = 0; i < s.n; i++) {
        s.t[i] = i * 15000 + (int64_t)rnd_below(&r, 9);
        s.v[i] = rnd_double(&r, 1);
    }
    size_t n = encode(&s);
    for (size_t cut = 0; cut < n; cut++) {
        struct xor_appender a;
        cr_assert_eq(decode_exact(bytes, cut, t, v, MAX), -1, "%zu bytes of %zu", cut, n);
        cr_assert(!xor_resume(&a, slice_make(bytes, cut)) || cut < 2);
    }
}

Test(xor, spoilt_bytes_are_read_without_harm)
{
    struct rnd r = {11};
    static int64_t t[65536];
    static double v[65536];
    for (int round = 0; round < 100000; round++) {
        uint8_t b[200];
        size_t n = rnd_below(&r, sizeof(b));
        for (size_t i = 0; i < n; i++)
            b[i] = (uint8_t)(rnd_below(&r, 3) ? rnd_next(&r) : 0xFF);
        if (n > 1)
            b[0] = 0;
        int got = decode_exact(b, n, t, v, 65536);
        cr_assert_leq(got, (int)(n * 4));
    }
}

Test(xor, too_small_an_output_is_an_error)
{
    struct samples s = {.n = 3, .t = {1, 2, 3}};
    int64_t t[3];
    double v[3];
    size_t n = encode(&s);
    cr_assert_eq(decode_exact(bytes, n, t, v, 2), -1);
    cr_assert_eq(decode_exact(bytes, n, t, v, 3), 3);
}

Test(xor, an_empty_chunk_has_no_samples)
{
    uint8_t none[2] = {0, 0};
    struct xor_appender a;
    cr_assert_eq(decode_exact(none, 2, NULL, NULL, 0), 0);
    cr_assert(xor_resume(&a, slice_make(none, 2)));
    cr_assert_eq(xor_size(&a), 0);
}

Test(xor, decoding_into_an_arena_needs_no_more_than_the_bytes_allow)
{
    uint8_t lie[4] = {0xFF, 0xFF, 0, 0};
    struct arena arena;
    struct chunk_columns cols;
    struct err err = ERR_NONE;
    arena_init(&arena, 1 << 20);
    cr_assert(!chunk_decode(CHUNK_XOR, slice_make(lie, sizeof(lie)), &arena, &cols, &err));
    cr_assert_eq(err.code, ERR_CORRUPT);
    cr_assert_str_eq(err.text, "XOR chunk: 4 bytes cannot hold 65535 samples");
    cr_assert_lt(arena.used_bytes, 65536);
    cr_assert(!chunk_decode(CHUNK_NONE, slice_make(lie, sizeof(lie)), &arena, &cols, &err));
    cr_assert_eq(chunk_count(CHUNK_NONE, slice_make(lie, 4)), -1);
    cr_assert_eq(chunk_count(CHUNK_HISTOGRAM, slice_make(lie, 2)), -1);
    arena_release(&arena);
}

/* Half of the range in the time of a quarter of the samples: two chunks; nothing to predict when the range is nearly over. */
Test(xor, chunk_end_time_makes_chunks_of_equal_length)
{
    cr_assert_eq(chunk_end_time(0, 450000 - 1, 7200000, 4), 1800000);
    cr_assert_eq(chunk_end_time(0, 3600000, 7200000, 4), 7200000);
    cr_assert_eq(chunk_end_time(0, 29 * 15000, 7200000, 4), 7200000 / 4);
    cr_assert_eq(chunk_end_time(7000000, 7100000, 7200000, 4), 7200000);
}

/* --- joining -------------------------------------------------------------------------------------------------------------- */

static struct slice part(const struct samples *s, int from, int to, uint8_t *room)
{
    struct xor_appender a;
    xor_appender_init(&a);
    for (int i = from; i < to; i++)
        xor_append(&a, room, s->t[i], s->v[i]);
    return slice_make(room, xor_size(&a));
}

/* Copies of exactly the chunks' sizes, so that the sanitizer sees a read or a write past the end. */
static bool join_exact(struct slice a, struct slice b, uint8_t **ret, size_t *ret_n)
{
    char *x = malloc(a.n ? a.n : 1), *y = malloc(b.n ? b.n : 1);
    memcpy(x, a.p, a.n);
    memcpy(y, b.p, b.n);
    *ret = malloc(a.n + b.n + XOR_JOIN_ROOM);
    bool ok = xor_join(slice_make(x, a.n), slice_make(y, b.n), *ret, ret_n);
    free(x);
    free(y);
    return ok;
}

Test(xor, joined_chunks_have_the_samples_of_both)
{
    static uint8_t first[MAX * XOR_SAMPLE_MAX_BYTES + 64], second[MAX * XOR_SAMPLE_MAX_BYTES + 64];
    struct rnd r = {77};
    for (int round = 0; round < 20000; round++) {
        static struct samples s;
        static int64_t t[MAX];
        static double v[MAX];
        int kind = (int)rnd_below(&r, 3);
        s.n = 2 + (int)rnd_below(&r, round % 16 ? 12 : MAX - 2);
        for (int i = 0; i < s.n; i++) {
            s.t[i] = i ? s.t[i - 1] + random_step(&r) : (int64_t)rnd_below(&r, 1000000);
            s.v[i] = kind == 0 ? 5 : kind == 1 ? (double)rnd_below(&r, 4) : (double)rnd_below(&r, 1u << 30) / 7;
        }
        int cut = 1 + (int)rnd_below(&r, (uint32_t)s.n - 1);
        struct slice a = part(&s, 0, cut, first), b = part(&s, cut, s.n, second);
        uint8_t *joined;
        size_t n;
        cr_assert(join_exact(a, b, &joined, &n));
        cr_assert_leq(n, a.n + b.n + 16);
        cr_assert_eq(decode_exact(joined, n, t, v, MAX), s.n);
        for (int i = 0; i < s.n; i++)
            cr_assert(t[i] == s.t[i] && same_bits(v[i], s.v[i]), "round %d, sample %d of %d, cut at %d", round, i, s.n, cut);
        free(joined);
        cr_assert_not(join_exact(b, a, &joined, &n), "not in order");
        free(joined);
    }
}

Test(xor, joining_takes_no_bytes_that_are_no_chunk)
{
    static uint8_t first[MAX * XOR_SAMPLE_MAX_BYTES + 64], second[MAX * XOR_SAMPLE_MAX_BYTES + 64];
    static struct samples s = {.n = 40};
    struct rnd r = {78};
    uint8_t *joined;
    size_t n;
    for (int i = 0; i < s.n; i++) {
        s.t[i] = 1000 * i;
        s.v[i] = (double)(i / 3);
    }
    struct slice a = part(&s, 0, 20, first), b = part(&s, 20, 40, second);
    for (size_t cut = 0; cut < a.n; cut++) {
        cr_expect_not(join_exact(slice_make(a.p, cut), b, &joined, &n), "%zu bytes of the first", cut);
        free(joined);
    }
    /* Spoilt bytes: whatever comes out, nothing is read or written that is not ours. */
    for (int round = 0; round < 50000; round++) {
        struct slice c = part(&s, 20, 40, second);
        second[rnd_below(&r, (uint32_t)c.n)] ^= (uint8_t)(1u << rnd_below(&r, 8));
        join_exact(a, slice_make(c.p, 2 + rnd_below(&r, (uint32_t)c.n - 1)), &joined, &n);
        free(joined);
    }
    /* A value that reuses a window which no value before it has set: '10', where an appender writes '11'. */
    uint8_t reuse[] = {0, 2, 0x80, 0xC2, 0xD7, 0x2F, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x40, 0};
    int64_t t[2];
    double v[2];
    cr_expect_eq(xor_decode(slice_make(reuse, sizeof(reuse)), t, v, 2), 2);
    cr_expect_not(join_exact(a, slice_make(reuse, sizeof(reuse)), &joined, &n));
    free(joined);
}
