/*
 * From matchers to refs.
 *
 * Candidates start as the shortest postings list of an equality matcher (or the union of another matcher's values, or
 * all series) and are filtered by the matchers that are left. A filter runs in one of two ways, whichever looks at
 * less: by value   every value of the label is matched once, the postings of the matching ones (or, for a matcher that
 * also matches the absent label, of the others) are or-ed into a bitmap, candidates are looked up there by series  the
 * value of each candidate is matched, each value once Memory besides the result: a bit a series, or a byte a symbol,
 * malloc'ed and freed at once.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "ingest/query_int.h"

struct candidates {
    uint32_t *refs;
    size_t n;
};

/* One matcher on this shard. */
struct term {
    const struct matcher *m;
    uint32_t name;   /* symbol, or SYMBOL_NONE when no series has the label */
    bool empty;      /* matches the absent label */
    uint32_t single; /* equality with a text: the pair's symbol; SYMBOL_NONE otherwise */
    bool done;
};

/* --- which values --- */

/* The literals that decide the matcher, when there are: values equal to one of them match (EQ, RE) or do not (NEQ,
 * NRE). */
static size_t term_literals(const struct term *t, const struct slice **ret)
{
    if (t->m->type == MATCH_EQ || t->m->type == MATCH_NEQ) {
        *ret = &t->m->value;
        return 1;
    }
    const struct regex_facts *f = regex_get_facts(t->m->regex);
    *ret = f->set;
    return f->set_n;
}

/* Do the literals name exactly the values that the bitmap is made of? */
static bool literals_suffice(const struct term *t)
{
    bool positive = t->m->type == MATCH_EQ || t->m->type == MATCH_RE;
    return positive != t->empty;
}

static void bitmap_add(uint64_t *bits, const struct shard_data *d, uint32_t symbol)
{
    const struct symbol *s = symbol_at(d, symbol);
    const uint32_t *list = symbol_list(d, s);
    for (uint32_t i = 0; i < s->n; i++)
        bits[list[i] / 64] |= 1ULL << (list[i] % 64);
}

/* The series with a value that decides: those that match, or, when the absent label matches too, those that do not. */
static uint64_t *term_bitmap(const struct shard_data *d, const struct term *t)
{
    uint64_t *bits = xcalloc(d->n_series / 64 + 1, sizeof(*bits));
    const struct slice *literals;
    size_t n = term_literals(t, &literals);
    if (n && literals_suffice(t)) {
        for (size_t i = 0; i < n; i++) {
            uint32_t symbol = symbol_find(d, t->name, literals[i]);
            if (symbol != SYMBOL_NONE)
                bitmap_add(bits, d, symbol);
        }
        return bits;
    }
    const struct symbol *name = symbol_at(d, t->name);
    const uint32_t *values = symbol_list(d, name);
    for (uint32_t i = 0; i < name->n; i++)
        if (matcher_matches(t->m, symbol_text(d, values[i])) != t->empty)
            bitmap_add(bits, d, values[i]);
    return bits;
}

/* How many values term_bitmap matches. */
static size_t term_values(const struct shard_data *d, const struct term *t)
{
    const struct slice *literals;
    size_t n = term_literals(t, &literals);
    return n && literals_suffice(t) ? n : symbol_at(d, t->name)->n;
}

/* --- filters --- */

static void filter_by_value(const struct shard_data *d, const struct term *t, struct candidates *c)
{
    uint64_t *bits = term_bitmap(d, t);
    size_t kept = 0;
    for (size_t i = 0; i < c->n; i++) {
        bool set = bits[c->refs[i] / 64] >> (c->refs[i] % 64) & 1;
        c->refs[kept] = c->refs[i];
        kept += set != t->empty;
    }
    c->n = kept;
    free(bits);
}

static uint32_t value_of(const struct shard_data *d, uint32_t ref, uint32_t name)
{
    const uint32_t *labels = series_labels(d, ref);
    for (uint16_t i = 0; i < series_hot(d, ref)->n_labels; i++)
        if (symbol_at(d, labels[i])->name == name)
            return labels[i];
    return SYMBOL_NONE;
}

static void filter_by_series(const struct shard_data *d, const struct term *t, struct candidates *c)
{
    enum { UNKNOWN, NO, YES };
    uint8_t *verdicts = xcalloc(d->n_symbols, 1);
    size_t kept = 0;
    for (size_t i = 0; i < c->n; i++) {
        uint32_t value = value_of(d, c->refs[i], t->name);
        bool match = t->empty;
        if (value != SYMBOL_NONE) {
            if (verdicts[value] == UNKNOWN)
                verdicts[value] = matcher_matches(t->m, symbol_text(d, value)) ? YES : NO;
            match = verdicts[value] == YES;
        }
        c->refs[kept] = c->refs[i];
        kept += match;
    }
    c->n = kept;
    free(verdicts);
}

/* Both sides ascend: the longer one is galloped through. */
static void intersect(struct candidates *c, const uint32_t *list, size_t n)
{
    size_t kept = 0;
    size_t at = 0;
    for (size_t i = 0; i < c->n && at < n; i++) {
        size_t step = 1;
        while (at + step < n && list[at + step] < c->refs[i])
            step *= 2;
        size_t lo = at + step / 2;
        size_t hi = MIN(at + step + 1, n);
        while (lo < hi) {
            size_t mid = (lo + hi) / 2;
            if (list[mid] < c->refs[i])
                lo = mid + 1;
            else
                hi = mid;
        }
        at = lo;
        if (at < n && list[at] == c->refs[i])
            c->refs[kept++] = c->refs[i];
    }
    c->n = kept;
}

/* --- start --- */

enum start { START_NONE, START_ALL, START_LIST, START_BITMAP };

/* Drops terms that say nothing here and looks for the best to start with. */
static enum start choose_start(const struct shard_data *d, struct term *terms, size_t n, struct term **ret)
{
    struct term *best = NULL;
    struct term *positive = NULL;
    for (size_t i = 0; i < n; i++) {
        struct term *t = &terms[i];
        if (t->name == SYMBOL_NONE) {
            if (!t->empty)
                return START_NONE;
            t->done = true;
        } else if (t->m->type == MATCH_EQ && !t->empty) {
            t->single = symbol_find(d, t->name, t->m->value);
            if (t->single == SYMBOL_NONE)
                return START_NONE;
            if (!best || symbol_at(d, t->single)->n < symbol_at(d, best->single)->n)
                best = t;
        } else if (t->m->regex && t->m->type == MATCH_RE && regex_get_facts(t->m->regex)->any) {
            t->done = true;
        } else if (!t->empty && (!positive || term_values(d, t) < term_values(d, positive))) {
            positive = t;
        }
    }
    *ret = best ? best : positive;
    return best ? START_LIST : positive ? START_BITMAP : START_ALL;
}

static bool start_bitmap(const struct shard_data *d, const struct term *t, struct arena *arena, struct candidates *c)
{
    uint64_t *bits = term_bitmap(d, t);
    size_t n = 0;
    for (size_t w = 0; w <= d->n_series / 64; w++)
        n += (size_t)__builtin_popcountll(bits[w]);
    c->refs = ARENA_ARRAY(arena, uint32_t, n + 1);
    for (size_t w = 0; c->refs && w <= d->n_series / 64; w++)
        for (uint64_t word = bits[w]; word; word &= word - 1)
            c->refs[c->n++] = (uint32_t)(w * 64) + (uint32_t)__builtin_ctzll(word);
    free(bits);
    return c->refs != NULL;
}

static bool start_candidates(const struct shard_data *d, enum start how, struct term *first, struct arena *arena,
                             struct candidates *c)
{
    if (first)
        first->done = true;
    if (how == START_BITMAP)
        return start_bitmap(d, first, arena, c);
    const struct symbol *s = how == START_LIST ? symbol_at(d, first->single) : NULL;
    size_t n = s ? s->n : d->n_series;
    c->refs = ARENA_ARRAY(arena, uint32_t, n + 1);
    if (!c->refs)
        return false;
    if (s)
        memcpy(c->refs, symbol_list(d, s), n * sizeof(*c->refs));
    else
        for (uint32_t ref = 0; ref < d->n_series; ref++)
            c->refs[ref] = ref;
    c->n = n;
    return true;
}

static void filter(const struct shard_data *d, const struct term *t, struct candidates *c)
{
    if (t->single != SYMBOL_NONE) {
        const struct symbol *s = symbol_at(d, t->single);
        intersect(c, symbol_list(d, s), s->n);
    } else if (term_values(d, t) < c->n) {
        filter_by_value(d, t, c);
    } else {
        filter_by_series(d, t, c);
    }
}

bool postings_select(const struct shard_data *d, const struct matcher *matchers, size_t n, struct arena *arena,
                     const uint32_t **ret, size_t *ret_n)
{
    struct term *terms = ARENA_ARRAY(arena, struct term, n);
    if (!terms)
        return false;
    for (size_t i = 0; i < n; i++)
        terms[i] = (struct term){.m = &matchers[i],
                                 .name = symbol_find(d, SYMBOL_IS_NAME, matchers[i].name),
                                 .empty = matcher_matches_empty(&matchers[i]),
                                 .single = SYMBOL_NONE};
    struct candidates c = {0};
    struct term *first = NULL;
    enum start how = choose_start(d, terms, n, &first);
    bool ok = how == START_NONE || start_candidates(d, how, first, arena, &c);
    /* Equality first: it costs the least and leaves the fewest. */
    for (int pass = 0; ok && pass < 2; pass++)
        for (size_t i = 0; i < n && c.n; i++)
            if (!terms[i].done && (terms[i].single != SYMBOL_NONE) == (pass == 0))
                filter(d, &terms[i], &c);
    *ret = c.refs;
    *ret_n = c.n;
    return ok;
}
