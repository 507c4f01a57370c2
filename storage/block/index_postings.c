/*
 * Postings: which series have a label, and which match all matchers.
 *
 * A matcher that does not match "" asks for series that have the label: the union of the lists of the values that match, intersected with the rest. One that
 * matches "" is turned round: the lists of the values that do not match are taken away. Values are looked up where the matcher names them (=, !=,
 * alternations of literals); else all values of the name are tried. The memory is 4 bytes a posting of the lists read, twice that for a union.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "storage/block/bytes.h"
#include "storage/block/crc32c.h"
#include "storage/block/index.h"

static bool over_memory(struct err *err)
{
    return err_set(err, ERR_MAX_QUERY_MEMORY, "the request used up its memory while reading the postings of a block");
}

/* BE32 length, BE32 count, count x BE32, CRC-32C. */
bool index_postings_decode(const struct index *ix, uint64_t offset, const uint8_t *p, size_t n_bytes, struct arena *arena, struct postings *ret,
                           size_t *ret_need, struct err *err)
{
    *ret_need = 0;
    if (offset < ix->postings_from || offset > ix->postings_to || ix->postings_to - offset < 12)
        return index_corrupt(ix, offset, "postings out of their section", err);
    if (n_bytes < 12) {
        *ret_need = 12;
        return true;
    }
    uint64_t n_content = get_be32(p), n = get_be32(p + 4);
    if (n_content != 4 + 4 * n || n_content > ix->postings_to - offset - 8)
        return index_corrupt(ix, offset, "postings of a length that does not fit", err);
    if (n_bytes < n_content + 8) {
        *ret_need = n_content + 8;
        return true;
    }
    if (!ix->no_checksums && crc32c(0, p + 4, n_content) != get_be32(p + 4 + n_content))
        return index_corrupt(ix, offset + 4, "the checksum does not fit", err);
    uint32_t *refs = ARENA_ARRAY(arena, uint32_t, n + 1);
    if (!refs)
        return over_memory(err);
    for (size_t i = 0; i < n; i++) {
        refs[i] = get_be32(p + 8 + 4 * i);
        if (i && refs[i] <= refs[i - 1])
            return index_corrupt(ix, offset + 8 + 4 * i, "postings out of order", err);
    }
    *ret = (struct postings){refs, n};
    return true;
}

bool index_postings_read(const struct index *ix, uint64_t offset, struct arena *arena, struct postings *ret, struct err *err)
{
    size_t need;
    if (offset < ix->postings_from || offset > ix->postings_to)
        return index_corrupt(ix, offset, "postings out of their section", err);
    if (!index_postings_decode(ix, offset, ix->p + offset, ix->postings_to - offset, arena, ret, &need, err))
        return false;
    ASSERT(need == 0);
    return true;
}

/* --- sets --- */

/* First position from i on with refs[i] >= ref: steps that double, then halve; short hops stay cheap. */
static size_t seek(const struct postings *p, size_t i, uint32_t ref)
{
    size_t step = 1, low = i;
    while (i < p->n && p->refs[i] < ref) {
        low = i + 1;
        i += step;
        step *= 2;
    }
    size_t high = MIN(i, p->n);
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (p->refs[mid] < ref)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

void postings_restrict(struct postings *a, const struct postings *b, bool keep)
{
    size_t n = 0, j = 0;
    for (size_t i = 0; i < a->n; i++) {
        uint32_t ref = a->refs[i];
        j = seek(b, j, ref);
        if ((j < b->n && b->refs[j] == ref) == keep)
            a->refs[n++] = ref;
    }
    a->n = n;
}

static struct postings merge_two(const struct postings *a, const struct postings *b, uint32_t *out)
{
    size_t i = 0, j = 0, n = 0;
    while (i < a->n && j < b->n) {
        uint32_t x = a->refs[i], y = b->refs[j];
        out[n++] = MIN(x, y);
        i += x <= y;
        j += y <= x;
    }
    for (; i < a->n; i++)
        out[n++] = a->refs[i];
    for (; j < b->n; j++)
        out[n++] = b->refs[j];
    return (struct postings){out, n};
}

/* Round after round in pairs, between two buffers; the lists are used up. */
bool postings_unite(struct postings *lists, size_t n, struct arena *scratch, struct postings *ret, struct err *err)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++)
        total += lists[i].n;
    if (n == 0)
        *ret = (struct postings){NULL, 0};
    if (n <= 1) {
        if (n)
            *ret = lists[0];
        return true;
    }
    uint32_t *from = ARENA_ARRAY(scratch, uint32_t, total + 1), *to = ARENA_ARRAY(scratch, uint32_t, total + 1);
    if (!from || !to)
        return over_memory(err);
    while (n > 1) {
        uint32_t *out = to;
        for (size_t i = 0; i < n; i += 2) {
            struct postings none = {NULL, 0};
            lists[i / 2] = merge_two(&lists[i], i + 1 < n ? &lists[i + 1] : &none, out);
            out += lists[i / 2].n;
        }
        n = (n + 1) / 2;
        to = from;
        from = lists[0].refs;
    }
    *ret = lists[0];
    return true;
}

/* --- matchers --- */

/* The lists that a matcher wants, as they are found. */
struct wanted {
    const struct index *ix;
    struct arena *scratch;
    struct postings *lists; /* cap of them, in scratch */
    size_t n, cap;
};

static bool want_entry(struct wanted *w, uint64_t offset, struct err *err)
{
    if (w->n == w->cap) {
        size_t cap = w->cap ? 2 * w->cap : 16;
        struct postings *lists = ARENA_ARRAY(w->scratch, struct postings, cap);
        if (!lists)
            return over_memory(err);
        if (w->n)
            memcpy(lists, w->lists, w->n * sizeof(*lists));
        w->lists = lists;
        w->cap = cap;
    }
    return index_postings_read(w->ix, offset, w->scratch, &w->lists[w->n++], err);
}

static bool want_value(struct wanted *w, const struct index_name *name, struct slice value, struct err *err)
{
    uint32_t entry;
    uint64_t offset;
    if (!index_find_value(w->ix, name, value, &entry))
        return true;
    index_entry_value(w->ix, entry, &offset);
    return want_entry(w, offset, err);
}

const struct slice *matcher_named_values(const struct matcher *m, bool wants_matching, size_t *ret_n)
{
    if ((m->type == MATCH_EQ && wants_matching) || (m->type == MATCH_NEQ && !wants_matching)) {
        *ret_n = 1;
        return &m->value;
    }
    if ((m->type == MATCH_RE && wants_matching) || (m->type == MATCH_NRE && !wants_matching)) {
        const struct regex_facts *facts = regex_get_facts(m->regex);
        *ret_n = facts->set_n;
        return facts->set_n ? facts->set : NULL;
    }
    return NULL;
}

/* The series whose value of m's name is present and matches, or does not, as wants_matching says. */
static bool with_values(const struct index *ix, const struct matcher *m, bool wants_matching, struct arena *scratch, struct postings *ret,
                        struct err *err)
{
    struct wanted w = {.ix = ix, .scratch = scratch};
    const struct index_name *name = index_find_name(ix, m->name);
    size_t n_values;
    const struct slice *values = matcher_named_values(m, wants_matching, &n_values);
    for (size_t i = 0; name && values && i < n_values; i++)
        if (values[i].n && !want_value(&w, name, values[i], err))
            return false;
    for (uint32_t i = 0; name && !values && i < name->n; i++) {
        uint64_t offset;
        struct slice value = index_entry_value(ix, name->first + i, &offset);
        if (matcher_matches(m, value) == wants_matching && !want_entry(&w, offset, err))
            return false;
    }
    return postings_unite(w.lists, w.n, scratch, ret, err);
}

static int by_length(const void *a, const void *b)
{
    const struct postings *x = a, *y = b;
    return (x->n > y->n) - (x->n < y->n);
}

/* Intersection of what matchers that ask for a label found; the shortest list first. */
static bool asked_for(const struct index *ix, const struct matcher *ms, size_t n_ms, struct arena *scratch, struct postings *ret,
                      struct err *err)
{
    struct postings *lists = ARENA_ARRAY(scratch, struct postings, n_ms + 1);
    size_t n = 0;
    if (!lists)
        return over_memory(err);
    for (size_t i = 0; i < n_ms; i++) {
        if (matcher_matches_empty(&ms[i]))
            continue;
        if (!with_values(ix, &ms[i], true, scratch, &lists[n], err))
            return false;
        if (lists[n++].n == 0) {
            *ret = (struct postings){NULL, 0};
            return true;
        }
    }
    if (n == 0)
        return index_postings_read(ix, ix->all_postings, scratch, ret, err);
    qsort(lists, n, sizeof(*lists), by_length);
    for (size_t i = 1; i < n; i++)
        postings_restrict(&lists[0], &lists[i], true);
    *ret = lists[0];
    return true;
}

bool index_postings_match(const struct index *ix, const struct matcher *ms, size_t n_ms, struct arena *scratch, struct arena *arena,
                          struct postings *ret, struct err *err)
{
    struct postings found, away;
    if (!asked_for(ix, ms, n_ms, scratch, &found, err))
        return false;
    for (size_t i = 0; i < n_ms && found.n; i++) {
        if (!matcher_matches_empty(&ms[i]))
            continue;
        if (!with_values(ix, &ms[i], false, scratch, &away, err))
            return false;
        postings_restrict(&found, &away, false);
    }
    uint32_t *refs = ARENA_ARRAY(arena, uint32_t, found.n + 1);
    if (!refs)
        return over_memory(err);
    if (found.n)
        memcpy(refs, found.refs, found.n * sizeof(*refs));
    *ret = (struct postings){refs, found.n};
    return true;
}
