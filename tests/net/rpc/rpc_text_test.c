/* The small encodings: timeouts, percent, messages. */
#include <criterion/criterion.h>
#include <zlib.h>

#include "net/rpc/rpc_int.h"

Test(rpc_text, timeouts_are_read_in_all_units)
{
    const struct {
        const char *text;
        int64_t ms; /* -1: malformed */
    } cases[] = {{"1H", 3600000}, {"2M", 120000}, {"3S", 3000},
                 {"4m", 4},       {"5u", 1},      {"6n", 1},
                 {"1500u", 2},    {"0m", 0},      {"99999999H", 359999996400000},
                 {"", -1},        {"m", -1},      {"123456789m", -1},
                 {"-1S", -1},     {"1s", -1},     {"1", -1}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int64_t ms = -1;
        cr_assert_eq(rpc_timeout_parse(slice_of(cases[i].text), &ms), cases[i].ms >= 0, "%s", cases[i].text);
        cr_assert_eq(ms, cases[i].ms, "%s", cases[i].text);
    }
}

Test(rpc_text, timeouts_are_written_in_eight_digits)
{
    const struct {
        int64_t ms;
        const char *text;
    } cases[] = {{-5, "1m"},
                 {0, "1m"},
                 {1500, "1500m"},
                 {99999999, "99999999m"},
                 {100000000, "100000S"},
                 {INT64_MAX / 2, "99999999S"}};
    char text[16];
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        rpc_timeout_format(cases[i].ms, text);
        cr_assert_str_eq(text, cases[i].text);
    }
}

Test(rpc_text, messages_survive_percent_encoding)
{
    struct buf out = {0};
    struct buf back = {0};
    rpc_percent_encode(SL("a b%\n\xc3\xbc~"), &out);
    cr_assert_str_eq(buf_cstr(&out), "a b%25%0A%C3%BC~");
    rpc_percent_decode(buf_slice(&out), &back);
    cr_assert(slice_eq(buf_slice(&back), SL("a b%\n\xc3\xbc~")));
    buf_clear(&back);
    rpc_percent_decode(SL("%zz%4%"), &back);
    cr_assert(slice_eq(buf_slice(&back), SL("%zz%4%")));
    buf_release(&out);
    buf_release(&back);
}

Test(rpc_text, codes_have_names)
{
    char name[RPC_CODE_NAME_MAX];
    cr_assert_str_eq(rpc_code_name(RPC_OK, name), "OK");
    cr_assert_str_eq(rpc_code_name(RPC_FAILED_PRECONDITION, name), "FailedPrecondition");
    cr_assert_str_eq(rpc_code_name(RPC_UNAUTHENTICATED, name), "Unauthenticated");
    cr_assert_str_eq(rpc_code_name(422, name), "422");
    cr_assert_eq(rpc_code_of_err(ERR_TOO_MANY_REQUESTS), RPC_RESOURCE_EXHAUSTED);
    cr_assert_eq(rpc_code_of_err(ERR_UNAVAILABLE), RPC_UNAVAILABLE);
}

Test(rpc_frames, messages_come_out_however_the_bytes_are_cut)
{
    const struct slice wire = SL("\0\0\0\0\3abc\0\0\0\0\0\0\0\0\0\1z");
    for (size_t step = 1; step <= wire.n; step++) {
        struct rpc_frames f = {.max_bytes = 3};
        struct buf all = {0};
        for (size_t at = 0; at < wire.n; at += step) {
            struct slice in = slice_make(wire.p + at, MIN(step, wire.n - at));
            while (in.n) {
                int code;
                bool done;
                cr_assert(rpc_frames_feed(&f, &in, &done, &code, NULL));
                if (done) {
                    struct buf body = rpc_frames_take(&f);
                    buf_put_slice(&all, buf_slice(&body));
                    buf_putc(&all, ';');
                    buf_release(&body);
                }
            }
        }
        cr_assert_str_eq(buf_cstr(&all), "abc;;z;");
        cr_assert(rpc_frames_between(&f));
        buf_release(&all);
        rpc_frames_release(&f);
    }
}

/* A message "aaaa..." of n bytes in gzip with its head. */
static size_t gzip_message(char *out, size_t cap, size_t n)
{
    char *plain = malloc(n);
    memset(plain, 'a', n);
    z_stream z = {0};
    cr_assert_eq(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)plain;
    z.avail_in = (uInt)n;
    z.next_out = (Bytef *)out + RPC_HEAD_BYTES;
    z.avail_out = (uInt)(cap - RPC_HEAD_BYTES);
    cr_assert_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t packed = z.total_out;
    deflateEnd(&z);
    free(plain);
    const char head[RPC_HEAD_BYTES] = {1, 0, 0, (char)(packed >> 8), (char)(packed & 255)};
    memcpy(out, head, sizeof head);
    return packed + RPC_HEAD_BYTES;
}

Test(rpc_frames, gzip_is_inflated_up_to_the_limit)
{
    char wire[4096];
    size_t n = gzip_message(wire, sizeof wire, 100000);
    const struct {
        uint64_t max_bytes;
        size_t cut;
        bool gzip;
        int code; /* RPC_OK: fine */
    } cases[] = {{100000, 0, true, RPC_OK},
                 {99999, 0, true, RPC_RESOURCE_EXHAUSTED},
                 {100000, 8, true, RPC_INTERNAL},
                 {100000, 0, false, RPC_INTERNAL}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct rpc_frames f = {.max_bytes = cases[i].max_bytes, .codec = cases[i].gzip ? RPC_CODEC_GZIP : RPC_CODEC_NONE};
        size_t packed = n - RPC_HEAD_BYTES - cases[i].cut;
        wire[3] = (char)(packed >> 8);
        wire[4] = (char)(packed & 255);
        struct slice in = slice_make(wire, packed + RPC_HEAD_BYTES);
        int code = RPC_OK;
        bool done = false;
        cr_assert_eq(rpc_frames_feed(&f, &in, &done, &code, NULL), cases[i].code == RPC_OK, "case %zu", i);
        cr_assert_eq(code, cases[i].code, "case %zu: %d", i, code);
        if (done)
            cr_assert_eq(f.body.n, 100000);
        rpc_frames_release(&f);
    }
}

Test(rpc_frames, a_length_past_the_limit_takes_no_memory)
{
    struct rpc_frames f = {.max_bytes = 1000};
    struct slice in = SL("\0\xff\xff\xff\xff");
    int code;
    bool done;
    struct err err = ERR_NONE;
    cr_assert(!rpc_frames_feed(&f, &in, &done, &code, &err));
    cr_assert_eq(code, RPC_RESOURCE_EXHAUSTED);
    cr_assert_str_eq(err.text, "grpc: received message larger than max (4294967295 vs. 1000)");
    cr_assert_eq(f.body.cap, 0);
    rpc_frames_release(&f);
}
