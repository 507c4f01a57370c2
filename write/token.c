/* See token.h. */
#include "write/token.h"

#include "base/assert.h"

#define PRIME 16777619U
#define LANES 8

#define INLINE static inline __attribute__((always_inline))

INLINE uint32_t step(enum token_kind kind, uint32_t h, unsigned char byte)
{
    return kind == TOKEN_FNV32A ? (h ^ byte) * PRIME : (h * PRIME) ^ byte;
}

INLINE uint32_t run(enum token_kind kind, uint32_t h, const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = step(kind, h, p[i]);
    return h;
}

uint32_t token_add(enum token_kind kind, uint32_t state, struct slice bytes)
{
    const unsigned char *p = (const unsigned char *)bytes.p;
    return kind == TOKEN_FNV32A ? run(TOKEN_FNV32A, state, p, bytes.n) : run(TOKEN_FNV32, state, p, bytes.n);
}

struct lane {
    const unsigned char *p;
    size_t left;
    uint32_t h;
    uint32_t *ret;
};

INLINE struct lane lane_of(const struct token_job *job, uint32_t start)
{
    return (struct lane){job->p, job->n, start, job->ret};
}

/* All lanes run for as many bytes as the shortest has left, then the empty ones take the next series. */
INLINE void run_lanes(enum token_kind kind, uint32_t start, const struct token_job *jobs, size_t n)
{
    struct lane lanes[LANES];
    size_t next = 0;
    for (; next < LANES; next++)
        lanes[next] = lane_of(&jobs[next], start);
    for (;;) {
        size_t m = lanes[0].left;
        for (size_t l = 1; l < LANES; l++)
            m = MIN(m, lanes[l].left);
        uint32_t h[LANES];
        for (size_t l = 0; l < LANES; l++)
            h[l] = lanes[l].h;
        for (size_t i = 0; i < m; i++)
#pragma GCC unroll 8
            for (size_t l = 0; l < LANES; l++)
                h[l] = step(kind, h[l], lanes[l].p[i]);
        bool short_of_work = false;
        for (size_t l = 0; l < LANES; l++) {
            lanes[l].h = h[l];
            lanes[l].p += m;
            lanes[l].left -= m;
            if (lanes[l].left)
                continue;
            *lanes[l].ret = lanes[l].h;
            if (next < n)
                lanes[l] = lane_of(&jobs[next++], start);
            else
                short_of_work = true;
        }
        if (short_of_work)
            break;
    }
    for (size_t l = 0; l < LANES; l++)
        *lanes[l].ret = run(kind, lanes[l].h, lanes[l].p, lanes[l].left);
}

INLINE void batch(enum token_kind kind, uint32_t start, const struct token_job *jobs, size_t n)
{
    if (n >= LANES) {
        run_lanes(kind, start, jobs, n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        *jobs[i].ret = run(kind, start, jobs[i].p, jobs[i].n);
}

void token_batch(enum token_kind kind, uint32_t start, const struct token_job *jobs, size_t n)
{
    if (kind == TOKEN_FNV32A)
        batch(TOKEN_FNV32A, start, jobs, n);
    else
        batch(TOKEN_FNV32, start, jobs, n);
}
