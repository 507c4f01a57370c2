#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"
#include "base/pool.h"
#include "base/utf8.h"

Test(arena, memory_is_aligned_and_apart)
{
    struct arena a;
    arena_init(&a, 0);
    char *prev = NULL;
    for (size_t i = 1; i < 2000; i++) {
        char *p = arena_alloc(&a, i % 97 + 1);
        cr_assert_eq((uintptr_t)p % 16, 0);
        memset(p, (int)i, i % 97 + 1);
        cr_assert_neq(p, prev);
        prev = p;
    }
    char *big = arena_alloc(&a, 5 << 20);
    memset(big, 1, 5 << 20);
    arena_clear(&a);
    cr_assert_leq(a.used_bytes, 8192);
    cr_assert_not_null(arena_alloc(&a, 100));
    arena_release(&a);
}

Test(arena, the_budget_holds_and_overflow_is_told)
{
    struct arena a;
    arena_init(&a, 100000);
    size_t got = 0;
    while (arena_alloc(&a, 1000))
        got += 1000;
    cr_assert(a.overflow);
    cr_assert_leq(a.used_bytes, 100000);
    cr_assert_geq(got, 60000);
    cr_assert_null(arena_array(&a, SIZE_MAX / 2, 8));
    cr_assert_null(arena_alloc(&a, SIZE_MAX - 100));
    arena_release(&a);
}

Test(buf, stops_at_its_maximum)
{
    struct buf b;
    buf_init(&b, 1000);
    for (int i = 0; i < 100; i++)
        buf_printf(&b, "%d,", i);
    cr_assert_not(b.failed);
    for (int i = 0; i < 1000; i++)
        buf_puts(&b, "x");
    cr_assert(b.failed);
    cr_assert_leq(b.n, 1000);
    buf_clear(&b);
    buf_put_i64(&b, INT64_MIN);
    buf_putc(&b, ' ');
    buf_put_u64(&b, UINT64_MAX);
    cr_assert_str_eq(buf_cstr(&b), "-9223372036854775808 18446744073709551615");
    buf_release(&b);
}

Test(err, text_is_cut_at_a_rune)
{
    struct err err;
    char text[ERR_TEXT_MAX + 100];
    for (size_t i = 0; i + 2 < sizeof(text); i += 2)
        memcpy(text + i, "\xC3\xA9", 3);
    err_set(&err, ERR_BAD_DATA, "x%s", text);
    cr_assert(utf8_valid(slice_of(err.text)));
    err_errno(&err, ERR_IO, ENOSPC, "writing %s", "f");
    cr_assert_eq(err.code, ERR_NO_SPACE);
    cr_assert_str_eq(err.text, "writing f: No space left on device");
    err_prefix(&err, "log: ");
    cr_assert_str_eq(err.text, "log: writing f: No space left on device");
    cr_assert_eq(err_http_status(ERR_TOO_MANY_TENANTS), 422);
}

Test(utf8, validity_is_gos)
{
    cr_assert(utf8_valid(SL("plain ascii text that is longer than eight")));
    cr_assert(utf8_valid(SL("\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80")));
    cr_assert_not(utf8_valid(SL("\xC0\xAF")));
    cr_assert_not(utf8_valid(SL("\xED\xA0\x80")));
    cr_assert_not(utf8_valid(SL("\xF4\x90\x80\x80")));
    cr_assert_not(utf8_valid(SL("abc\xE2\x82")));
    cr_assert_eq(utf8_count(SL("a\xC3\xA9\xFF")), 3);
    for (uint32_t rune = 0; rune < 0x110000; rune += 7) {
        if (rune >= 0xD800 && rune < 0xE000)
            continue;
        char out[4];
        size_t n = utf8_encode(rune, out), size;
        cr_assert_eq(utf8_decode(slice_make(out, n), &size), rune);
        cr_assert_eq(size, n);
    }
    cr_assert_eq(utf8_cut(SL("ab\xE2\x82\xAC"), 4).n, 2);
    cr_assert_eq(utf8_cut(SL("ab\xE2\x82\xAC"), 5).n, 5);
}

Test(json, commas_and_escapes)
{
    struct buf b;
    buf_init(&b, 0);
    struct json j;
    json_init(&j, &b);
    json_obj(&j);
    json_key(&j, SL("a\"\n\x01"));
    json_arr(&j);
    json_i64(&j, -1);
    json_double(&j, 0.1);
    json_put_null(&j);
    json_arr_end(&j);
    json_key(&j, SL("b"));
    json_obj(&j);
    json_obj_end(&j);
    json_key(&j, SL("c"));
    json_str(&j, SL("<&>\xC3\xA9\xFF"));
    json_obj_end(&j);
    cr_assert_str_eq(buf_cstr(&b), "{\"a\\\"\\n\\u0001\":[-1,0.1,null],\"b\":{},\"c\":\"<&>\xC3\xA9\\ufffd\"}");
    buf_release(&b);
}

Test(json, escapes_each_byte_wherever_it_stands)
{
    static const char text[] = "~ abcdefghijklmnopq"; /* the first and last plain bytes, and longer than two words */
    for (int c = 1; c < 0x80; c++)
        for (size_t at = 0; at < sizeof(text) - 1; at++) {
            char in[sizeof(text)], alone[16];
            struct buf b;
            buf_init(&b, 0);
            memcpy(in, text, sizeof(text));
            in[at] = (char)c;
            json_put_quoted(&b, slice_make(&in[at], 1));
            snprintf(alone, sizeof(alone), "%.*s", (int)b.n - 2, b.p + 1);
            buf_clear(&b);
            json_put_quoted(&b, slice_of(in));
            char want[64];
            snprintf(want, sizeof(want), "\"%.*s%s%s\"", (int)at, text, alone, text + at + 1);
            cr_assert_str_eq(buf_cstr(&b), want);
            bool plain = c >= 0x20 && c != '"' && c != '\\';
            cr_assert_eq(strlen(alone) == 1, plain);
            buf_release(&b);
        }
}

static atomic_int ran;

static void job(void *arg, struct arena *arena)
{
    cr_assert_not_null(arena_alloc(arena, 100));
    atomic_fetch_add(&ran, *(int *)arg);
}

Test(pool, stop_runs_what_was_taken)
{
    struct pool *p = pool_new("test", 3, 64, 0);
    int one = 1, taken = 0;
    for (int i = 0; i < 1000; i++)
        taken += pool_submit(p, job, &one);
    pool_stop(p);
    cr_assert_eq(atomic_load(&ran), taken);
    cr_assert_geq(taken, 64);
}
