#include "storage/block/ulid.h"

#include <string.h>
#include <sys/random.h>

#include "base/assert.h"

static const char alphabet[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

struct ulid ulid_new(int64_t time_ms)
{
    uint8_t random[10];
    struct ulid u;
    ASSERT(time_ms >= 0 && time_ms < INT64_C(1) << 48);
    /* getentropy fails only where the kernel has no random source at all, which is no machine to name blocks on. */
    ASSERT(getentropy(random, sizeof(random)) == 0);
    for (int i = 0; i < 10; i++)
        u.text[i] = alphabet[(time_ms >> (45 - 5 * i)) & 31];
    for (size_t half = 0; half < 2; half++) { /* 40 bits are 8 characters */
        uint64_t bits = 0;
        for (size_t i = 0; i < 5; i++)
            bits = bits << 8 | random[5 * half + i];
        for (size_t i = 0; i < 8; i++)
            u.text[10 + 8 * half + i] = alphabet[(bits >> (35 - 5 * i)) & 31];
    }
    u.text[ULID_TEXT_LEN] = 0;
    return u;
}

static char upper(char c)
{
    return c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
}

bool ulid_parse(struct slice text, struct ulid *ret)
{
    struct ulid u;
    if (text.n != ULID_TEXT_LEN)
        return false;
    for (size_t i = 0; i < ULID_TEXT_LEN; i++) {
        u.text[i] = upper(text.p[i]);
        if (!u.text[i] || !strchr(alphabet, u.text[i]))
            return false;
    }
    u.text[ULID_TEXT_LEN] = 0;
    if (u.text[0] > '7')
        return false;
    *ret = u;
    return true;
}

int64_t ulid_time_ms(const struct ulid *u)
{
    int64_t t = 0;
    for (int i = 0; i < 10; i++) {
        const char *at = strchr(alphabet, u->text[i]);
        ASSERT(at && u->text[i]);
        t = t << 5 | (int64_t)(at - alphabet);
    }
    return t;
}

/* 26 characters of five bits are 130: the first has two that are always 0. */
static void ulid_bytes(const struct ulid *u, uint8_t ret[16])
{
    uint32_t bits = 0;
    unsigned n_bits = 0;
    size_t n = 0;
    for (size_t i = 0; i < ULID_TEXT_LEN; i++) {
        const char *at = strchr(alphabet, u->text[i]);
        ASSERT(at && u->text[i]);
        bits = (bits << 5 | (uint32_t)(at - alphabet)) & 0xfff;
        n_bits += i ? 5 : 3;
        if (n_bits >= 8) {
            n_bits -= 8;
            ret[n++] = (uint8_t)(bits >> n_bits);
        }
    }
    ASSERT(n == 16 && n_bits == 0);
}

uint32_t ulid_ring_token(const struct ulid *u)
{
    uint8_t bytes[16];
    uint32_t h = 2166136261u;
    ulid_bytes(u, bytes);
    for (size_t i = 0; i < sizeof(bytes); i++)
        h = h * 16777619u ^ bytes[i];
    return h;
}
