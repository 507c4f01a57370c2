/*
 * Matchers' regular expressions: facts first, RE2 after.
 *
 * A text that is not decided by the pattern's shape and is not refused by its prefix, suffix and inner literal goes to RE2. Error texts follow Go's
 * regexp/syntax, whose wording Prometheus shows; RE2 reports the same classes of error with nearly the same arguments.
 */
#include "base/regex.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/cxx_int.h"
#include "base/regex_int.h"
#include "base/utf8.h"

#define PROGRAM_MAX_BYTES (8 << 20)
#define FACTS_MAX_BYTES (256 << 10)
#define ERROR_ARG_MAX 512

struct regex {
    struct cxx_re2 *re;
    struct regex_facts facts;
    enum regex_shape shape;
    struct arena arena; /* the strings of facts */
};

static const char *error_text(enum cxx_re2_error code)
{
    switch (code) {
    case CXX_RE2_BAD_ESCAPE: return "invalid escape sequence";
    case CXX_RE2_BAD_CHAR_CLASS: return "invalid character class";
    case CXX_RE2_BAD_CHAR_RANGE: return "invalid character class range";
    case CXX_RE2_MISSING_BRACKET: return "missing closing ]";
    case CXX_RE2_MISSING_PAREN: return "missing closing )";
    case CXX_RE2_UNEXPECTED_PAREN: return "unexpected )";
    case CXX_RE2_TRAILING_BACKSLASH: return "trailing backslash at end of expression";
    case CXX_RE2_REPEAT_ARGUMENT: return "missing argument to repetition operator";
    case CXX_RE2_REPEAT_SIZE: return "invalid repeat count";
    case CXX_RE2_REPEAT_OP: return "invalid nested repetition operator";
    case CXX_RE2_BAD_PERL_OP: return "invalid or unsupported Perl syntax";
    case CXX_RE2_BAD_UTF8: return "invalid UTF-8";
    case CXX_RE2_BAD_NAMED_CAPTURE: return "invalid named capture";
    case CXX_RE2_TOO_LARGE: return "expression too large";
    case CXX_RE2_OK:
    case CXX_RE2_INTERNAL:
    case CXX_RE2_NO_MEMORY: break;
    }
    return "regexp/syntax: internal error";
}

/*
 * Where Go and RE2 disagree on what is a pattern: \C (any byte) is RE2's alone and is refused; (?<name>...) is Go's (and younger RE2s')
 * spelling of (?P<name>...) and is rewritten into out. Classes and \Q...\E are passed over. False: a \C was found.
 */
static bool to_re2_syntax(struct slice pattern, struct buf *out)
{
    bool in_class = false;
    for (size_t i = 0; i < pattern.n; i++) {
        char c = pattern.p[i];
        struct slice rest = slice_make(pattern.p + i, pattern.n - i);
        if (!in_class && slice_has_prefix(rest, SL("\\Q"))) {
            const char *end = memmem(rest.p, rest.n, "\\E", 2);
            size_t n = end ? (size_t)(end - rest.p) + 2 : rest.n;
            buf_put(out, rest.p, n);
            i += n - 1;
        } else if (c == '\\' && rest.n > 1) {
            if (!in_class && rest.p[1] == 'C')
                return false;
            buf_put(out, rest.p, 2);
            i++;
        } else if (!in_class && slice_has_prefix(rest, SL("(?<"))) {
            buf_put_slice(out, SL("(?P<"));
            i += 2;
        } else {
            if (in_class) {
                in_class = c != ']';
            } else if (c == '[') {
                in_class = true;
                /* A ']' right after '[' or '[^' stands for itself. */
                size_t skip = rest.n > 1 && rest.p[1] == '^' ? 2 : 1;
                if (rest.n > skip && rest.p[skip] == ']')
                    skip++;
                buf_put(out, rest.p, skip);
                i += skip - 1;
                continue;
            }
            buf_putc(out, c);
        }
    }
    return true;
}

static void set_compile_error(enum cxx_re2_error code, const char *arg, struct slice pattern, struct err *err)
{
    if (code == CXX_RE2_NO_MEMORY) {
        err_set(err, ERR_NO_MEMORY, "out of memory compiling a regular expression");
        return;
    }
    /* Go shows the whole pattern where RE2 does too, and nothing after a trailing backslash. */
    if (code == CXX_RE2_TRAILING_BACKSLASH)
        arg = "";
    struct slice shown = slice_of(arg);
    if (code == CXX_RE2_TOO_LARGE || code == CXX_RE2_MISSING_PAREN || code == CXX_RE2_UNEXPECTED_PAREN)
        shown = utf8_cut(pattern, ERROR_ARG_MAX);
    err_set(err, ERR_BAD_DATA, "error parsing regexp: %s: `%.*s`", error_text(code), SL_FMT(shown));
}

static struct cxx_re2 *compile(struct slice pattern, struct err *err)
{
    struct buf text;
    buf_init(&text, 2 * pattern.n + 64);
    struct cxx_re2 *re = NULL;
    enum cxx_re2_error code;
    char arg[ERROR_ARG_MAX];
    if (!to_re2_syntax(pattern, &text)) {
        set_compile_error(CXX_RE2_BAD_ESCAPE, "\\C", pattern, err);
    } else if (text.failed) {
        set_compile_error(CXX_RE2_NO_MEMORY, "", pattern, err);
    } else {
        re = cxx_re2_new(text.n ? text.p : "", text.n, PROGRAM_MAX_BYTES, &code, arg, sizeof(arg));
        if (!re)
            set_compile_error(code, arg, pattern, err);
    }
    buf_release(&text);
    return re;
}

struct regex *regex_new(struct slice pattern, struct err *err)
{
    struct cxx_re2 *re = compile(pattern, err);
    if (!re)
        return NULL;
    struct regex *r = calloc(1, sizeof(*r));
    if (!r) {
        cxx_re2_free(re);
        err_set(err, ERR_NO_MEMORY, "out of memory compiling a regular expression");
        return NULL;
    }
    r->re = re;
    arena_init(&r->arena, FACTS_MAX_BYTES);
    r->shape = regex_find_facts(pattern, &r->arena, &r->facts);
    return r;
}

/* RE2 keeps the pattern, its tree and some objects; an instruction and what belongs to it are some 32 bytes. Measured: 6 KB for "x.*y|z". */
#define REGEX_FIXED_BYTES 5120
#define REGEX_INSTRUCTION_BYTES 32

size_t regex_bytes(const struct regex *r)
{
    return REGEX_FIXED_BYTES + r->arena.used_bytes + (r->re ? (size_t)cxx_re2_size(r->re) * REGEX_INSTRUCTION_BYTES : 0);
}

void regex_free(struct regex *r)
{
    if (!r)
        return;
    cxx_re2_free(r->re);
    arena_release(&r->arena);
    free(r);
}

const struct regex_facts *regex_get_facts(const struct regex *r)
{
    return &r->facts;
}

static bool set_has(const struct regex_facts *f, struct slice text)
{
    size_t lo = 0;
    size_t hi = f->set_n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        int c = slice_cmp(f->set[mid], text);
        if (c == 0)
            return true;
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return false;
}

static bool has_inside(struct slice text, struct slice part)
{
    return part.n == 0 || (text.n >= part.n && memmem(text.p, text.n, part.p, part.n));
}

bool regex_match(const struct regex *r, struct slice text)
{
    const struct regex_facts *f = &r->facts;
    if (r->shape == REGEX_SHAPE_SET)
        return set_has(f, text);
    if (r->shape == REGEX_SHAPE_NONEMPTY)
        return text.n > 0;
    if (!slice_has_prefix(text, f->prefix) || !slice_has_suffix(text, f->suffix))
        return false;
    if (r->shape == REGEX_SHAPE_AFFIXES)
        return text.n >= f->prefix.n + f->suffix.n;
    if (!has_inside(text, f->contains))
        return false;
    if (r->shape == REGEX_SHAPE_CONTAINS)
        return true;
    return cxx_re2_match(r->re, text.p, text.n, NULL, 0);
}

/* --- label_replace -------------------------------------------------------------------------------------------------------- */

static bool is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/* A reference at tmpl[at] == '$'. Returns its length, 0 when there is none (Go then keeps the '$'). */
static size_t reference_at(struct slice tmpl, size_t at, struct slice *ret_name)
{
    size_t i = at + 1;
    bool braces = i < tmpl.n && tmpl.p[i] == '{';
    i += braces;
    size_t start = i;
    while (i < tmpl.n && is_name_byte(tmpl.p[i]))
        i++;
    if (i == start || (braces && (i == tmpl.n || tmpl.p[i] != '}')))
        return 0;
    *ret_name = slice_make(tmpl.p + start, i - start);
    return i + braces - at;
}

/* The number of the group a reference means, -1 when there is no such group. A name of digits is a number. */
static int group_of(const struct regex *r, struct slice name, int n_groups)
{
    int number = 0;
    for (size_t i = 0; i < name.n; i++) {
        if (name.p[i] < '0' || name.p[i] > '9')
            return cxx_re2_group_by_name(r->re, name.p, name.n);
        if (number < 100000)
            number = number * 10 + (name.p[i] - '0');
    }
    /* "01" is a name in Go, and no group can have it. */
    return number < n_groups && !(name.n > 1 && name.p[0] == '0') ? number : -1;
}

static void expand_into(const struct regex *r, struct slice text, struct slice tmpl, const ptrdiff_t *groups, int n_groups,
                        struct buf *out)
{
    for (size_t i = 0; i < tmpl.n;) {
        if (tmpl.p[i] != '$') {
            const char *next = memchr(tmpl.p + i, '$', tmpl.n - i);
            size_t n = next ? (size_t)(next - (tmpl.p + i)) : tmpl.n - i;
            buf_put(out, tmpl.p + i, n);
            i += n;
            continue;
        }
        if (i + 1 < tmpl.n && tmpl.p[i + 1] == '$') {
            buf_putc(out, '$');
            i += 2;
            continue;
        }
        struct slice name;
        size_t n = reference_at(tmpl, i, &name);
        if (n == 0) {
            buf_putc(out, '$');
            i++;
            continue;
        }
        int g = group_of(r, name, n_groups);
        if (g >= 0 && groups[2 * g] >= 0 && text.n > 0)
            buf_put(out, text.p + groups[2 * g], (size_t)(groups[2 * g + 1] - groups[2 * g]));
        i += n;
    }
}

bool regex_expand(const struct regex *r, struct slice text, struct slice tmpl, struct buf *out)
{
    int n_groups = cxx_re2_n_groups(r->re) + 1;
    ptrdiff_t few[32];
    ptrdiff_t *groups = few;
    if (n_groups > 16) {
        groups = calloc((size_t)n_groups, 2 * sizeof(*groups));
        if (!groups) {
            out->failed = true;
            return false;
        }
    }
    bool matched = cxx_re2_match(r->re, text.p, text.n, groups, n_groups);
    if (matched)
        expand_into(r, text, tmpl, groups, n_groups, out);
    if (groups != few)
        free(groups);
    return matched;
}
