/* Label sets: lookup, order, canonical bytes, hashes. Printing is in labels_print.c. */
#include "model/labels.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"
#include "model/proto.h"
#include "model/write_request.h"

struct slice labels_get(struct labels l, struct slice name)
{
    for (size_t i = 0; i < l.n; i++) {
        if (slice_eq(l.items[i].name, name))
            return l.items[i].value;
    }
    return slice_make(NULL, 0);
}

int labels_cmp(struct labels a, struct labels b)
{
    size_t n = MIN(a.n, b.n);
    for (size_t i = 0; i < n; i++) {
        int c = slice_cmp(a.items[i].name, b.items[i].name);
        if (c == 0)
            c = slice_cmp(a.items[i].value, b.items[i].value);
        if (c)
            return c;
    }
    return (a.n > b.n) - (a.n < b.n);
}

#define HASH_WHOLE_BYTES 512

/* FF occurs in no UTF-8 text, so that a pair cannot be mistaken for another split of the same bytes. */
static uint64_t hash_in_pieces(struct labels l)
{
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    for (size_t i = 0; i < l.n; i++) {
        XXH3_64bits_update(&state, l.items[i].name.p, l.items[i].name.n);
        XXH3_64bits_update(&state, "\xff", 1);
        XXH3_64bits_update(&state, l.items[i].value.p, l.items[i].value.n);
        XXH3_64bits_update(&state, "\xff", 1);
    }
    return XXH3_64bits_digest(&state);
}

static size_t put_piece(char *out, struct slice s)
{
    if (s.n)
        memcpy(out, s.p, s.n);
    out[s.n] = '\xff';
    return s.n + 1;
}

/* What is short is copied together first: that is some times cheaper than feeding forty pieces, and gives the same hash. */
uint64_t labels_hash(struct labels l)
{
    char bytes[HASH_WHOLE_BYTES];
    size_t n = 0;
    for (size_t i = 0; i < l.n; i++) {
        if (n + l.items[i].name.n + l.items[i].value.n + 2 > sizeof(bytes))
            return hash_in_pieces(l);
        n += put_piece(bytes + n, l.items[i].name);
        n += put_piece(bytes + n, l.items[i].value);
    }
    return XXH3_64bits(bytes, n);
}

struct series_hash series_hash_of(struct slice canonical, uint64_t seed)
{
    XXH128_hash_t h = XXH3_128bits_withSeed(canonical.p, canonical.n, seed);
    return (struct series_hash){.lo = h.low64, .hi = h.high64};
}

void series_hasher_init(struct series_hasher *h, uint64_t seed)
{
    _Static_assert(sizeof(h->secret) == XXH3_SECRET_DEFAULT_SIZE, "XXH3's secret");
    XXH3_generateSecret_fromSeed(h->secret, seed);
    h->seed = seed;
}

struct series_hash series_hasher_hash(const struct series_hasher *h, struct slice canonical)
{
    XXH128_hash_t x = XXH3_128bits_withSecretandSeed(canonical.p, canonical.n, h->secret, sizeof(h->secret), h->seed);
    return (struct series_hash){.lo = x.low64, .hi = x.high64};
}

/* --- canonical bytes ------------------------------------------------------------------------------------------------
 */

static size_t pair_size(struct label l)
{
    return proto_bytes_size(l.name.n) + proto_bytes_size(l.value.n);
}

size_t label_canonical_size(struct label l)
{
    return proto_bytes_size(pair_size(l));
}

char *label_put_canonical(char *out, struct label l)
{
    *out++ = 0x0A;
    out = proto_put_uvarint(out, pair_size(l));
    out = proto_put_bytes(out, 0x0A, l.name);
    return proto_put_bytes(out, 0x12, l.value);
}

void labels_put_canonical(struct labels l, struct buf *out)
{
    for (size_t i = 0; i < l.n; i++) {
        size_t n = label_canonical_size(l.items[i]);
        if (!buf_reserve(out, n))
            return;
        label_put_canonical(out->p + out->n, l.items[i]);
        out->n += n;
    }
}

bool labels_from_span(struct slice span, struct arena *arena, struct labels *ret)
{
    struct write_label_iter it = write_label_iter(span);
    struct label label;
    size_t n = 0;
    int r;
    while ((r = write_label_next(&it, &label)) > 0)
        n++;
    if (r < 0)
        return false;
    struct label *items = ARENA_ARRAY(arena, struct label, n ? n : 1);
    if (!items)
        return false;
    it = write_label_iter(span);
    for (size_t i = 0; i < n; i++)
        write_label_next(&it, &items[i]);
    *ret = (struct labels){.items = items, .n = n};
    return true;
}

struct labels labels_dup(struct arena *arena, struct labels l)
{
    size_t bytes = 0;
    for (size_t i = 0; i < l.n; i++)
        bytes += l.items[i].name.n + l.items[i].value.n;
    struct label *items = ARENA_ARRAY(arena, struct label, l.n ? l.n : 1);
    char *p = arena_alloc(arena, bytes ? bytes : 1);
    if (!items || !p)
        return (struct labels){NULL, 0};
    for (size_t i = 0; i < l.n; i++) {
        struct slice from[2] = {l.items[i].name, l.items[i].value};
        struct slice to[2];
        for (size_t j = 0; j < 2; j++) {
            if (from[j].n)
                memcpy(p, from[j].p, from[j].n);
            to[j] = slice_make(p, from[j].n);
            p += from[j].n;
        }
        items[i] = (struct label){.name = to[0], .value = to[1]};
    }
    return (struct labels){.items = items, .n = l.n};
}

/* --- order ----------------------------------------------------------------------------------------------------------
 */

/* Sets of senders are small and mostly sorted already: insertion is then one pass. */
#define INSERTION_MAX 48

static void insertion_sort(struct label *items, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        struct label l = items[i];
        size_t j = i;
        while (j > 0 && slice_cmp(items[j - 1].name, l.name) > 0) {
            items[j] = items[j - 1];
            j--;
        }
        items[j] = l;
    }
}

/* Bottom-up merge sort: stable, and n log n for the set of a million labels that somebody sends to see what happens. */
static void merge_sort(struct label *items, struct label *spare, size_t n)
{
    for (size_t at = 0; at < n; at += INSERTION_MAX)
        insertion_sort(items + at, MIN((size_t)INSERTION_MAX, n - at));
    struct label *from = items;
    struct label *to = spare;
    for (size_t width = INSERTION_MAX; width < n; width *= 2) {
        for (size_t at = 0; at < n; at += 2 * width) {
            size_t a = at, mid = MIN(at + width, n), b = mid, end = MIN(at + 2 * width, n);
            for (size_t k = at; k < end; k++) {
                bool take_a = a < mid && (b >= end || slice_cmp(from[a].name, from[b].name) <= 0);
                to[k] = take_a ? from[a++] : from[b++];
            }
        }
        struct label *t = from;
        from = to;
        to = t;
    }
    if (from != items)
        memcpy(items, from, n * sizeof(*items));
}

bool labels_sort(struct label *items, size_t n)
{
    if (n <= INSERTION_MAX) {
        insertion_sort(items, n);
        return true;
    }
    struct label *spare = malloc(n * sizeof(*items));
    if (!spare)
        return false;
    merge_sort(items, spare, n);
    free(spare);
    return true;
}

/* --- names ----------------------------------------------------------------------------------------------------------
 */

static bool name_is_legacy(struct slice s, bool colon)
{
    if (s.n == 0)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (colon && c == ':');
        if (!letter && !(i > 0 && c >= '0' && c <= '9'))
            return false;
    }
    return true;
}

bool metric_name_is_legacy(struct slice s)
{
    return name_is_legacy(s, true);
}

bool label_name_is_legacy(struct slice s)
{
    return name_is_legacy(s, false);
}
