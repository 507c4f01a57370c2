/*
 * What a pattern says about its matches, found by a small walk of its text.
 *
 * RE2's own tree is private, so this is a second, deliberately partial parser: it knows literals, classes, groups, alternation, repetition and
 * escapes of single characters, and gives up the whole pattern ("bail") on anything else: flags, word boundaries, anchors other than a leading ^
 * and a trailing $ (which change nothing in a match of the whole text). Giving up costs speed, never truth. It runs only on patterns that RE2 has
 * accepted, so that syntax errors need no care. A test compares its claims with RE2 over many texts.
 *
 * Each part of the pattern is summed up in a struct part; parts are combined bottom up. Depth is bounded by DEPTH_MAX, sets by SET_MAX strings,
 * memory by the caller's arena.
 */
#include "base/regex_int.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/utf8.h"

#define DEPTH_MAX 50
#define SET_MAX 256
#define CLASS_MAX 64
#define NO_LIMIT (-1)

struct part {
    bool has_set; /* matches exactly the strings of set */
    struct slice *set;
    size_t set_n;
    struct slice prefix; /* every match begins, ends, with these, and contains that */
    struct slice suffix;
    struct slice contains;
    /* What it is made of, as long as it is a plain sequence: literals, n_any times ".*", n_other times something else. */
    int n_any;
    int n_other;
    bool is_dot_plus;
};

struct walk {
    const char *start;
    const char *p;
    const char *end;
    struct arena *arena;
    bool bail;
    int depth;
};

static struct part walk_alternatives(struct walk *w);

static struct part unknown(void)
{
    return (struct part){.n_other = 1};
}

static struct part give_up(struct walk *w)
{
    w->bail = true;
    return unknown();
}

static struct slice join(struct walk *w, struct slice a, struct slice b)
{
    if (a.n == 0)
        return b;
    if (b.n == 0)
        return a;
    char *p = arena_alloc(w->arena, a.n + b.n);
    if (!p) {
        w->bail = true;
        return (struct slice){NULL, 0};
    }
    memcpy(p, a.p, a.n);
    memcpy(p + a.n, b.p, b.n);
    return slice_make(p, a.n + b.n);
}

static struct slice common_prefix(struct slice a, struct slice b)
{
    size_t n = 0;
    while (n < a.n && n < b.n && a.p[n] == b.p[n])
        n++;
    return slice_make(a.p, n);
}

static struct slice common_suffix(struct slice a, struct slice b)
{
    size_t n = 0;
    while (n < a.n && n < b.n && a.p[a.n - 1 - n] == b.p[b.n - 1 - n])
        n++;
    return n ? slice_make(a.p + (a.n - n), n) : SL("");
}

static struct slice longest(struct slice a, struct slice b)
{
    return b.n > a.n ? b : a;
}

static struct part part_of_set(struct walk *w, const struct slice *set, size_t n)
{
    struct part r = {.has_set = true, .set_n = n};
    r.set = ARENA_ARRAY(w->arena, struct slice, n);
    if (!r.set)
        return give_up(w);
    memcpy(r.set, set, n * sizeof(*set));
    r.prefix = r.suffix = set[0];
    for (size_t i = 1; i < n; i++) {
        r.prefix = common_prefix(r.prefix, set[i]);
        r.suffix = common_suffix(r.suffix, set[i]);
    }
    r.contains = longest(r.prefix, r.suffix);
    r.n_other = n > 1;
    return r;
}

static struct part part_of_literal(struct walk *w, struct slice s)
{
    return part_of_set(w, &s, 1);
}

/* --- combining -------------------------------------------------------------------------------------------------------------- */

static struct part concat(struct walk *w, struct part a, struct part b)
{
    struct part r = {.n_any = a.n_any + b.n_any, .n_other = a.n_other + b.n_other};
    bool a_one = a.has_set && a.set_n == 1;
    bool b_one = b.has_set && b.set_n == 1;
    if (a_one && a.set[0].n == 0)
        return b;
    if (b_one && b.set[0].n == 0)
        return a;
    r.prefix = a_one ? join(w, a.set[0], b.prefix) : a.prefix;
    r.suffix = b_one ? join(w, a.suffix, b.set[0]) : b.suffix;
    r.contains = longest(a.contains, b.contains);
    r.contains = longest(r.contains, join(w, a.suffix, b.prefix));
    r.contains = longest(r.contains, longest(r.prefix, r.suffix));
    if (a.has_set && b.has_set && a.set_n * b.set_n <= SET_MAX) {
        r.set = ARENA_ARRAY(w->arena, struct slice, a.set_n * b.set_n);
        if (!r.set)
            return give_up(w);
        r.has_set = true;
        for (size_t i = 0; i < a.set_n; i++)
            for (size_t k = 0; k < b.set_n; k++)
                r.set[r.set_n++] = join(w, a.set[i], b.set[k]);
    }
    return r;
}

static struct part either(struct walk *w, struct part a, struct part b)
{
    struct part r = {.n_other = 1};
    r.prefix = common_prefix(a.prefix, b.prefix);
    r.suffix = common_suffix(a.suffix, b.suffix);
    r.contains = longest(r.prefix, r.suffix);
    if (a.has_set && b.has_set && a.set_n + b.set_n <= SET_MAX) {
        r.set = ARENA_ARRAY(w->arena, struct slice, a.set_n + b.set_n);
        if (!r.set)
            return give_up(w);
        r.has_set = true;
        memcpy(r.set, a.set, a.set_n * sizeof(*a.set));
        memcpy(r.set + a.set_n, b.set, b.set_n * sizeof(*b.set));
        r.set_n = a.set_n + b.set_n;
    }
    return r;
}

/* a{min,max} */
static struct part repeat(struct walk *w, struct part a, int min, int max, bool is_dot)
{
    if (min == 1 && max == 1)
        return a;
    if (max == 0)
        return part_of_literal(w, SL(""));
    if (min == 0 && max == 1)
        return either(w, part_of_literal(w, SL("")), a);
    if (is_dot && max == NO_LIMIT && min == 0)
        return (struct part){.n_any = 1};
    struct part r = unknown();
    if (min > 0) {
        r.prefix = a.prefix;
        r.suffix = a.suffix;
        r.contains = a.contains;
    }
    r.is_dot_plus = is_dot && max == NO_LIMIT && min == 1;
    return r;
}

/* --- walking ---------------------------------------------------------------------------------------------------------------- */

static bool is_special(char c)
{
    return strchr("\\.+*?()|[]{}^$", c) && c;
}

static bool is_quantifier(char c)
{
    return c == '*' || c == '+' || c == '?' || c == '{';
}

/* A run of ordinary characters; the last is left for the next call when a quantifier follows, which binds to it alone. */
static struct part walk_literal(struct walk *w)
{
    const char *start = w->p;
    const char *last = w->p;
    while (w->p < w->end && !is_special(*w->p)) {
        size_t size;
        utf8_decode(slice_make(w->p, (size_t)(w->end - w->p)), &size);
        last = w->p;
        w->p += size;
    }
    if (w->p == start) /* a bare ']' or '}' */
        return give_up(w);
    if (w->p < w->end && is_quantifier(*w->p) && last > start)
        w->p = last;
    return part_of_literal(w, slice_make(start, (size_t)(w->p - start)));
}

static bool is_alnum(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* The single character that an escape stands for; 0: it is none. */
static char escaped_char(const char *at)
{
    static const char names[] = "ntrfva";
    static const char values[] = "\n\t\r\f\v\a";
    if (!is_alnum(*at))
        return (*at & 0x80) ? 0 : *at;
    const char *found = strchr(names, *at);
    return found ? values[found - names] : 0;
}

static struct part part_of_char(struct walk *w, char c)
{
    char *p = arena_alloc(w->arena, 1);
    if (!p)
        return give_up(w);
    *p = c;
    return part_of_literal(w, slice_make(p, 1));
}

static struct part walk_escape(struct walk *w)
{
    const char *at = w->p + 1;
    ASSERT(at < w->end); /* RE2 has refused a trailing backslash */
    char c = escaped_char(at);
    w->p += 2;
    if (c)
        return part_of_char(w, c);
    static const struct slice digits[] = {{"0", 1}, {"1", 1}, {"2", 1}, {"3", 1}, {"4", 1},
                                          {"5", 1}, {"6", 1}, {"7", 1}, {"8", 1}, {"9", 1}};
    switch (*at) {
    case 'd': return part_of_set(w, digits, ARRAY_LEN(digits));
    case 'w': case 's': case 'D': case 'W': case 'S': return unknown();
    default: return give_up(w);
    }
}

/* One character of a class. False: something this walk does not know. */
static bool class_char(struct walk *w, uint32_t *ret)
{
    if (w->p >= w->end || *w->p == '[')
        return false;
    if (*w->p == '\\') {
        char c = w->p + 1 < w->end ? escaped_char(w->p + 1) : 0;
        *ret = (unsigned char)c;
        w->p += 2;
        return c != 0;
    }
    size_t size;
    *ret = utf8_decode(slice_make(w->p, (size_t)(w->end - w->p)), &size);
    w->p += size;
    return true;
}

static struct part walk_class(struct walk *w)
{
    struct slice set[CLASS_MAX];
    size_t n = 0;
    bool too_many = false;
    w->p++;
    bool negated = w->p < w->end && *w->p == '^';
    w->p += negated;
    for (bool first = true; first || (w->p < w->end && *w->p != ']'); first = false) {
        uint32_t lo;
        if (!class_char(w, &lo))
            return give_up(w);
        uint32_t hi = lo;
        if (w->p + 1 < w->end && w->p[0] == '-' && w->p[1] != ']') {
            w->p++;
            if (!class_char(w, &hi))
                return give_up(w);
        }
        too_many = too_many || negated || hi - lo >= CLASS_MAX - n;
        for (uint32_t c = lo; !too_many && c <= hi; c++) {
            char *p = arena_alloc(w->arena, 4);
            if (!p)
                return give_up(w);
            set[n++] = slice_make(p, utf8_encode(c, p));
        }
    }
    if (w->p >= w->end)
        return give_up(w);
    w->p++;
    return too_many ? unknown() : part_of_set(w, set, n);
}

static struct part walk_group(struct walk *w)
{
    struct slice rest = slice_make(w->p, (size_t)(w->end - w->p));
    if (slice_has_prefix(rest, SL("(?:"))) {
        w->p += 3;
    } else if (slice_has_prefix(rest, SL("(?P<")) || slice_has_prefix(rest, SL("(?<"))) {
        const char *close = memchr(rest.p, '>', rest.n);
        if (!close)
            return give_up(w);
        w->p = close + 1;
    } else if (slice_has_prefix(rest, SL("(?")) || w->depth >= DEPTH_MAX) {
        return give_up(w);
    } else {
        w->p++;
    }
    w->depth++;
    struct part r = walk_alternatives(w);
    w->depth--;
    if (w->bail || w->p >= w->end || *w->p != ')')
        return give_up(w);
    w->p++;
    return r;
}

static int walk_number(struct walk *w)
{
    int v = -1;
    while (w->p < w->end && *w->p >= '0' && *w->p <= '9' && v < 10000)
        v = (v < 0 ? 0 : v) * 10 + (*w->p++ - '0');
    return v;
}

/* {n} {n,} {n,m}; '{' with anything else after it is a literal for RE2, and unknown here. */
static bool walk_braces(struct walk *w, int *ret_min, int *ret_max)
{
    w->p++;
    int min = walk_number(w);
    int max = min;
    if (w->p < w->end && *w->p == ',') {
        w->p++;
        max = walk_number(w); /* -1 when absent: no limit */
    }
    if (min < 0 || w->p >= w->end || *w->p != '}')
        return false;
    w->p++;
    *ret_min = min;
    *ret_max = max;
    return true;
}

static struct part walk_atom(struct walk *w)
{
    switch (*w->p) {
    case '(': return walk_group(w);
    case '[': return walk_class(w);
    case '\\': return walk_escape(w);
    case '.':
        w->p++;
        return unknown();
    case '^':
        if (w->p != w->start || (w->p + 1 < w->end && is_quantifier(w->p[1])))
            return give_up(w);
        w->p++;
        return part_of_literal(w, SL(""));
    case '$':
        if (w->p + 1 != w->end)
            return give_up(w);
        w->p++;
        return part_of_literal(w, SL(""));
    default: return walk_literal(w);
    }
}

static struct part walk_repeated(struct walk *w)
{
    bool is_dot = *w->p == '.';
    struct part a = walk_atom(w);
    if (w->bail || w->p >= w->end || !is_quantifier(*w->p))
        return a;
    int min = *w->p == '+';
    int max = *w->p == '?' ? 1 : NO_LIMIT;
    if (*w->p != '{')
        w->p++;
    else if (!walk_braces(w, &min, &max))
        return give_up(w);
    if (w->p < w->end && *w->p == '?') /* not greedy: the same for a match of the whole text */
        w->p++;
    if (w->p < w->end && is_quantifier(*w->p)) /* repetition of a repetition, (a*)* without the parentheses */
        return give_up(w);
    return repeat(w, a, min, max, is_dot);
}

static struct part walk_sequence(struct walk *w)
{
    struct part r = part_of_literal(w, SL(""));
    while (!w->bail && w->p < w->end && *w->p != '|' && *w->p != ')')
        r = concat(w, r, walk_repeated(w));
    return r;
}

static struct part walk_alternatives(struct walk *w)
{
    struct part r = walk_sequence(w);
    while (!w->bail && w->p < w->end && *w->p == '|') {
        w->p++;
        struct part b = walk_sequence(w);
        if (!w->bail)
            r = either(w, r, b);
    }
    return r;
}

/* --- the answer -------------------------------------------------------------------------------------------------------------- */

static int by_bytes(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

static size_t sort_unique(struct slice *set, size_t n)
{
    qsort(set, n, sizeof(*set), by_bytes);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || !slice_eq(set[kept - 1], set[i]))
            set[kept++] = set[i];
    return kept;
}

enum regex_shape regex_find_facts(struct slice pattern, struct arena *arena, struct regex_facts *ret)
{
    /* The facts may point into the pattern: keep a copy with them. */
    struct slice own = arena_dup(arena, pattern);
    struct walk w = {.start = own.p, .p = own.p, .end = own.p + own.n, .arena = arena};
    if (arena->overflow || !utf8_valid(pattern))
        return REGEX_SHAPE_OTHER;
    struct part all = walk_alternatives(&w);
    if (w.bail || arena->overflow || w.p != w.end)
        return REGEX_SHAPE_OTHER;
    ret->prefix = all.prefix;
    ret->suffix = all.suffix;
    ret->contains = all.contains;
    if (all.has_set) {
        ret->set_n = sort_unique(all.set, all.set_n);
        ret->set = all.set;
        return REGEX_SHAPE_SET;
    }
    if (all.is_dot_plus) {
        ret->any_nonempty = true;
        return REGEX_SHAPE_NONEMPTY;
    }
    if (all.n_other || all.n_any == 0)
        return REGEX_SHAPE_OTHER;
    if (all.n_any == 1) {
        ret->any = all.prefix.n == 0 && all.suffix.n == 0;
        return REGEX_SHAPE_AFFIXES;
    }
    return all.n_any == 2 && all.prefix.n == 0 && all.suffix.n == 0 ? REGEX_SHAPE_CONTAINS : REGEX_SHAPE_OTHER;
}
