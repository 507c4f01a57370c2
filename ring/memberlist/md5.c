#include "ring/memberlist/md5_int.h"

#include <math.h>

static const uint8_t shifts[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};

/* floor(2^32 |sin(i+1)|), as the RFC defines the table. */
static const uint32_t *sines(uint32_t table[64])
{
    for (int i = 0; i < 64; i++)
        table[i] = (uint32_t)(uint64_t)floor(fabs(sin(i + 1)) * 4294967296.0);
    return table;
}

static void block(uint32_t h[4], const uint8_t *p, const uint32_t *t)
{
    uint32_t m[16], a = h[0], b = h[1], c = h[2], d = h[3];
    for (int i = 0; i < 16; i++)
        m[i] = (uint32_t)p[4 * i] | (uint32_t)p[4 * i + 1] << 8 | (uint32_t)p[4 * i + 2] << 16 |
               (uint32_t)p[4 * i + 3] << 24;
    for (uint32_t i = 0; i < 64; i++) {
        uint32_t f, g;
        switch (i / 16) {
        case 0:
            f = (b & c) | (~b & d), g = i;
            break;
        case 1:
            f = (d & b) | (~d & c), g = (5 * i + 1) % 16;
            break;
        case 2:
            f = b ^ c ^ d, g = (3 * i + 5) % 16;
            break;
        default:
            f = c ^ (b | ~d), g = (7 * i) % 16;
            break;
        }
        f += a + t[i] + m[g];
        uint8_t s = shifts[i / 16][i % 4];
        a = d;
        d = c;
        c = b;
        b += f << s | f >> (32 - s);
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d;
}

void md5(struct slice data, uint8_t ret_digest[16])
{
    uint32_t table[64], h[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};
    const uint32_t *t = sines(table);
    const uint8_t *p = (const uint8_t *)data.p;
    size_t left = data.n;
    for (; left >= 64; left -= 64, p += 64)
        block(h, p, t);
    uint8_t tail[128] = {0};
    if (left)
        memcpy(tail, p, left);
    tail[left] = 0x80;
    size_t n = left < 56 ? 64 : 128;
    for (size_t i = 0; i < 8; i++)
        tail[n - 8 + i] = (uint8_t)((uint64_t)data.n * 8 >> (8 * i));
    for (size_t at = 0; at < n; at += 64)
        block(h, tail + at, t);
    for (size_t i = 0; i < 16; i++)
        ret_digest[i] = (uint8_t)(h[i / 4] >> (8 * (i % 4)));
}
