#include "base/utf8.h"

#include "base/assert.h"

#define RUNE_ERROR 0xFFFD

/* The rune at s and its length, or length 0 when the bytes are no rune. */
static uint32_t decode(const unsigned char *p, size_t n, size_t *ret_size)
{
    *ret_size = 0;
    uint32_t c = p[0];
    if (c < 0x80) {
        *ret_size = 1;
        return c;
    }
    size_t len = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
    if (c < 0xC2 || c > 0xF4 || n < len)
        return RUNE_ERROR;
    /* The second byte's range rules out overlong forms, surrogates and values past U+10FFFF. */
    unsigned char lo = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    unsigned char hi = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    if (p[1] < lo || p[1] > hi)
        return RUNE_ERROR;
    c = len == 2 ? c & 0x1F : len == 3 ? c & 0x0F : c & 0x07;
    c = c << 6 | (p[1] & 0x3F);
    for (size_t i = 2; i < len; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return RUNE_ERROR;
        c = c << 6 | (p[i] & 0x3F);
    }
    *ret_size = len;
    return c;
}

bool utf8_valid(struct slice s)
{
    const unsigned char *p = (const unsigned char *)s.p;
    size_t i = 0;
    while (i < s.n) {
        /* Eight ASCII bytes at a time: nearly all label text is ASCII. */
        uint64_t word;
        if (s.n - i >= 8 && (memcpy(&word, p + i, 8), (word & 0x8080808080808080ULL) == 0)) {
            i += 8;
            continue;
        }
        size_t size;
        decode(p + i, s.n - i, &size);
        if (size == 0)
            return false;
        i += size;
    }
    return true;
}

uint32_t utf8_decode(struct slice s, size_t *ret_size)
{
    ASSERT(s.n > 0);
    uint32_t rune = decode((const unsigned char *)s.p, s.n, ret_size);
    if (*ret_size == 0)
        *ret_size = 1;
    return rune;
}

size_t utf8_encode(uint32_t rune, char out[4])
{
    if (rune > 0x10FFFF || (rune >= 0xD800 && rune <= 0xDFFF))
        rune = RUNE_ERROR;
    if (rune < 0x80) {
        out[0] = (char)rune;
        return 1;
    }
    size_t n = rune < 0x800 ? 2 : rune < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (rune & 0x3F));
        rune >>= 6;
    }
    out[0] = (char)(lead[n] | rune);
    return n;
}

size_t utf8_count(struct slice s)
{
    size_t count = 0;
    for (size_t i = 0; i < s.n; count++) {
        size_t size;
        utf8_decode(slice_make(s.p + i, s.n - i), &size);
        i += size;
    }
    return count;
}

struct slice utf8_cut(struct slice s, size_t n)
{
    if (s.n <= n)
        return s;
    /* Step back over a rune that the cut would split: at most three continuation bytes and their lead byte. */
    for (size_t back = 1; back <= 4 && back <= n; back++) {
        unsigned char c = (unsigned char)s.p[n - back];
        if ((c & 0xC0) == 0x80)
            continue;
        size_t want = c < 0x80 ? 1 : c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
        if (want > back)
            n -= back;
        break;
    }
    return slice_make(s.p, n);
}
