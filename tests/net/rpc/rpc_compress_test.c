/* Compressed messages. The snappy bytes are of Go: golang/snappy 1.0.0, NewBufferedWriter, one Write, Close. */
#include <criterion/criterion.h>

#include "net/rpc/rpc_int.h"

#define FROM_GO_SHORT "\xff\x06\x00\x00sNaPpY\x01\x09\x00\x00\xbb\x1f\x1c\x19hello"
#define FROM_GO_LONG "\xff\x06\x00\x00sNaPpY\x00\x0f\x00\x00\xb3\x81\xfb\xa7\x5a\x08" "abc\xfe\x03\x00\x5a\x03\x00"

static bool unpacks_to(struct slice in, struct slice want)
{
    struct buf out = {.max = 1000};
    bool fine = rpc_decompress(RPC_CODEC_SNAPPY, in, &out);
    fine = fine && slice_eq(buf_slice(&out), want);
    buf_release(&out);
    return fine;
}

Test(rpc_compress, what_go_packs_is_unpacked)
{
    char long_text[91] = "";
    for (int i = 0; i < 30; i++)
        strcat(long_text, "abc");
    cr_assert(unpacks_to(SL(""), SL("")));
    cr_assert(unpacks_to(SL(FROM_GO_SHORT), SL("hello")));
    cr_assert(unpacks_to(SL(FROM_GO_LONG), slice_of(long_text)));
    cr_assert(unpacks_to(SL(FROM_GO_SHORT "\xfe\x02\x00\x00" "xx" FROM_GO_SHORT), SL("hellohello"))); /* padding, a second stream */
}

Test(rpc_compress, what_we_pack_is_gos_form)
{
    struct buf out = {0};
    rpc_compress(RPC_CODEC_SNAPPY, SL("hello"), &out);
    cr_assert(slice_eq(buf_slice(&out), SL(FROM_GO_SHORT)));
    buf_release(&out);
}

Test(rpc_compress, every_truncation_and_every_flipped_bit_is_an_error_or_harmless)
{
    const struct slice good = SL(FROM_GO_LONG);
    char bytes[sizeof FROM_GO_LONG];
    for (size_t n = 1; n < good.n; n++)
        if (n != 10) /* the identifier alone is a stream */
            cr_assert_not(unpacks_to(slice_make(good.p, n), SL("")), "%zu", n);
    for (size_t bit = 0; bit < good.n * 8; bit++) {
        memcpy(bytes, good.p, good.n);
        bytes[bit / 8] = (char)(bytes[bit / 8] ^ 1 << bit % 8);
        struct buf out = {.max = 1000};
        if (rpc_decompress(RPC_CODEC_SNAPPY, slice_make(bytes, good.n), &out))
            cr_assert(out.n == 0 || out.n == 90, "bit %zu: %zu", bit, out.n); /* a chunk of a type that is skipped */
        buf_release(&out);
    }
}

Test(rpc_compress, what_comes_out_is_bounded)
{
    static const enum rpc_codec codecs[] = {RPC_CODEC_GZIP, RPC_CODEC_SNAPPY};
    static char zeros[300000];
    for (size_t i = 0; i < ARRAY_LEN(codecs); i++) {
        struct buf packed = {0};
        rpc_compress(codecs[i], slice_make(zeros, sizeof zeros), &packed);
        struct buf exact = {.max = sizeof zeros};
        struct buf small = {.max = sizeof zeros - 1};
        cr_assert(rpc_decompress(codecs[i], buf_slice(&packed), &exact));
        cr_assert_eq(exact.n, sizeof zeros);
        cr_assert_not(rpc_decompress(codecs[i], buf_slice(&packed), &small));
        cr_assert(small.failed);
        buf_release(&packed);
        buf_release(&exact);
        buf_release(&small);
    }
}
