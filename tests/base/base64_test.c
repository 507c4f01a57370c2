#include <criterion/criterion.h>

#include "base/assert.h"
#include "base/base64.h"

Test(base64, goes_there_and_back)
{
    static const char *const texts[] = {"", "f", "fo", "foo", "foob", "fooba", "foobar"};
    static const char *const bare[] = {"", "Zg", "Zm8", "Zm9v", "Zm9vYg", "Zm9vYmE", "Zm9vYmFy"};
    static const char *const padded[] = {"", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct buf out = {0}, back = {0};
        base64_encode(slice_of(texts[i]), true, &out);
        cr_assert_str_eq(buf_cstr(&out), padded[i]);
        buf_clear(&out);
        base64_encode(slice_of(texts[i]), false, &out);
        cr_assert_str_eq(buf_cstr(&out), bare[i]);
        buf_puts(&out, "==");
        cr_assert(base64_decode(buf_slice(&out), &back));
        cr_assert(slice_eq(buf_slice(&back), slice_of(texts[i])));
        buf_release(&out);
        buf_release(&back);
    }
}

Test(base64, refuses_what_it_is_not)
{
    struct buf back = {0};
    cr_assert(!base64_decode(SL("a"), &back));
    cr_assert(!base64_decode(SL("ab*d"), &back));
    buf_release(&back);
    buf_init(&back, 2);
    cr_assert(!base64_decode(SL("Zm9v"), &back), "out is full");
    buf_release(&back);
}
