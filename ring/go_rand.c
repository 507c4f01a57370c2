/*
 * Go's math/rand. See go_rand.h.
 *
 * The generator yields y[k] = y[k-607] + y[k-273] mod 2^64. Seeding xors a fixed table into the first state: the state that the same
 * generator has after 7.8e12 steps from seed 1. Instead of keeping 607 magic numbers we compute them: the sequence obeys the
 * polynomial x^607 = x^334 + 1, so y at a distance of n is the sum of c[i] * y[i], where c are the coefficients of x^n modulo that polynomial over
 * Z/2^64. x^n comes by 43 squarings (16 million multiplications), its successors by multiplying with x.
 */
#include "ring/go_rand.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

#include "base/assert.h"

#define LEN GO_RAND_LEN
#define TAP 273
#define FEED (LEN - TAP)
#define COOKED_STEPS 7800000000000ULL

/* Lehmer step modulo 2^31 - 1, in Schrage's form. */
static int32_t seed_step(int32_t x)
{
    int32_t hi = x / 44488;
    int32_t lo = x % 44488;
    x = 48271 * lo - 3399 * hi;
    return x < 0 ? x + INT32_MAX : x;
}

/* The state before any step: three Lehmer values an entry, shifted into place. */
static void fill_state(int64_t seed, int shift_high, int shift_mid, uint64_t vec[LEN])
{
    seed %= INT32_MAX;
    if (seed < 0)
        seed += INT32_MAX;
    if (seed == 0)
        seed = 89482311;
    int32_t x = (int32_t)seed;
    for (int i = 0; i < 20; i++)
        x = seed_step(x);
    for (int i = 0; i < LEN; i++) {
        x = seed_step(x);
        uint64_t u = (uint64_t)x << shift_high;
        x = seed_step(x);
        u ^= (uint64_t)x << shift_mid;
        x = seed_step(x);
        vec[i] = u ^ (uint64_t)x;
    }
}

/* Reduces a polynomial of degree < n_coeff to degree < LEN: x^607 = x^334 + 1, highest power first. */
static void poly_reduce(uint64_t *p, int n_coeff)
{
    for (int i = n_coeff - 1; i >= LEN; i--) {
        p[i - LEN] += p[i];
        p[i - TAP] += p[i];
    }
}

static void poly_square(uint64_t p[LEN])
{
    uint64_t wide[2 * LEN] = {0};
    for (int i = 0; i < LEN; i++)
        for (int j = 0; j < LEN; j++)
            wide[i + j] += p[i] * p[j];
    poly_reduce(wide, 2 * LEN);
    memcpy(p, wide, LEN * sizeof(*p));
}

static void poly_times_x(uint64_t p[LEN])
{
    uint64_t top = p[LEN - 1];
    memmove(p + 1, p, (LEN - 1) * sizeof(*p));
    p[0] = top;
    p[FEED] += top;
}

/* Where in the state vector the value of step k lies. */
static uint32_t position_of(uint64_t k)
{
    uint64_t back = k % LEN;
    return (uint32_t)((FEED + LEN - back) % LEN);
}

static uint64_t cooked[LEN];

static void compute_cooked(void)
{
    uint64_t start[LEN];
    fill_state(1, 20, 10, start);
    /* y[-606] .. y[0] as a sequence; step numbers are moved up by LEN to stay positive. */
    uint64_t y[LEN];
    for (uint64_t i = 0; i < LEN; i++)
        y[i] = start[position_of(i + 1)];

    uint64_t p[LEN] = {1};
    for (int bit = 63 - __builtin_clzll(COOKED_STEPS); bit >= 0; bit--) {
        poly_square(p);
        if ((COOKED_STEPS >> bit) & 1)
            poly_times_x(p);
    }
    /* y[i] holds step i - 606, so the state after N steps, steps N-606 .. N, is x^N .. x^(N+606) applied to it. */
    for (uint64_t i = 0; i < LEN; i++) {
        uint64_t v = 0;
        for (int j = 0; j < LEN; j++)
            v += p[j] * y[j];
        cooked[position_of(COOKED_STEPS + i + 1)] = v;
        poly_times_x(p);
    }
}

const uint64_t *go_rand_cooked(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, compute_cooked);
    return cooked;
}

void go_rand_seed(struct go_rand *r, int64_t seed)
{
    const uint64_t *table = go_rand_cooked();
    fill_state(seed, 40, 20, r->vec);
    for (int i = 0; i < LEN; i++)
        r->vec[i] ^= table[i];
    r->tap = 0;
    r->feed = FEED;
}

uint64_t go_rand_u64(struct go_rand *r)
{
    r->tap = r->tap ? r->tap - 1 : LEN - 1;
    r->feed = r->feed ? r->feed - 1 : LEN - 1;
    uint64_t v = r->vec[r->feed] + r->vec[r->tap];
    r->vec[r->feed] = v;
    return v;
}

int64_t shuffle_seed(struct slice id, struct slice zone)
{
    unsigned char md5[EVP_MAX_MD_SIZE];
    unsigned int n = 0;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = ctx && EVP_DigestInit_ex(ctx, EVP_md5(), NULL) && EVP_DigestUpdate(ctx, id.p, id.n);
    if (zone.n)
        ok = ok && EVP_DigestUpdate(ctx, "", 1) && EVP_DigestUpdate(ctx, zone.p, zone.n);
    ok = ok && EVP_DigestFinal_ex(ctx, md5, &n);
    ASSERT(ok && n == 16);
    EVP_MD_CTX_free(ctx);
    uint64_t seed = 0;
    for (int i = 0; i < 8; i++)
        seed = seed << 8 | md5[i];
    return (int64_t)seed;
}
