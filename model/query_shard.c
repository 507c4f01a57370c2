#include "model/query_shard.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

static bool read_number(struct slice *s, uint64_t *ret)
{
    uint64_t v = 0;
    size_t n = 0;
    for (; n < s->n && s->p[n] >= '0' && s->p[n] <= '9'; n++) {
        v = v * 10 + (uint64_t)(s->p[n] - '0');
        if (v > UINT32_MAX)
            return false;
    }
    *s = slice_make(s->p + n, s->n - n);
    *ret = v;
    return n > 0;
}

bool query_shard_parse(struct slice text, struct query_shard *ret)
{
    uint64_t index, count;
    if (!read_number(&text, &index) || !slice_has_prefix(text, SL("_of_")))
        return false;
    text = slice_make(text.p + 4, text.n - 4);
    if (!read_number(&text, &count) || text.n || index < 1 || index > count)
        return false;
    *ret = (struct query_shard){index - 1, count};
    return true;
}

#define WHOLE_BYTES 1024 /* Prometheus hashes what is longer piece by piece, with the same result */

uint64_t query_shard_hash(struct labels l)
{
    char bytes[WHOLE_BYTES];
    size_t n = 0, i = 0;
    for (; i < l.n && n + l.items[i].name.n + l.items[i].value.n + 2 <= sizeof(bytes); i++) {
        struct slice name = l.items[i].name, value = l.items[i].value;
        if (name.n)
            memcpy(bytes + n, name.p, name.n);
        n += name.n;
        bytes[n++] = '\xff';
        if (value.n)
            memcpy(bytes + n, value.p, value.n);
        n += value.n;
        bytes[n++] = '\xff';
    }
    if (i == l.n)
        return XXH64(bytes, n, 0);
    XXH64_state_t h;
    XXH64_reset(&h, 0);
    XXH64_update(&h, bytes, n);
    for (; i < l.n; i++) {
        XXH64_update(&h, l.items[i].name.p, l.items[i].name.n);
        XXH64_update(&h, "\xff", 1);
        XXH64_update(&h, l.items[i].value.p, l.items[i].value.n);
        XXH64_update(&h, "\xff", 1);
    }
    return XXH64_digest(&h);
}
