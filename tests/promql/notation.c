/* The notation of series in test scripts. Everything parsed lives in the arena given. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/dtoa.h"
#include "promqltest_int.h"

struct slice trim(struct slice s)
{
    while (s.n && isspace((unsigned char)s.p[0]))
        s = slice_make(s.p + 1, s.n - 1);
    while (s.n && isspace((unsigned char)s.p[s.n - 1]))
        s.n--;
    return s;
}

struct slice next_word(struct slice *text)
{
    *text = trim(*text);
    size_t n = 0;
    while (n < text->n && !isspace((unsigned char)text->p[n]))
        n++;
    struct slice w = {text->p, n};
    *text = trim(slice_make(text->p + n, text->n - n));
    return w;
}

bool parse_number(struct slice s, double *ret)
{
    return s.n && dtoa_parse(s, ret);
}

bool parse_time(struct slice s, int64_t *ret_ms)
{
    double v;
    if (parse_number(s, &v)) {
        *ret_ms = (int64_t)(v * 1000 + (v < 0 ? -0.5 : 0.5));
        return true;
    }
    static const struct {
        const char *name;
        int64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}, {"w", 604800000}, {"y", 31536000000}};
    int64_t total = 0;
    if (s.n == 0)
        return false;
    while (s.n) {
        int64_t k = 0;
        size_t i = 0;
        while (i < s.n && isdigit((unsigned char)s.p[i]))
            k = k * 10 + (s.p[i++] - '0');
        if (i == 0)
            return false;
        s = slice_make(s.p + i, s.n - i);
        size_t u = 0;
        while (u < sizeof(units) / sizeof(units[0]) && !slice_has_prefix(s, slice_of(units[u].name)))
            u++;
        if (u == sizeof(units) / sizeof(units[0]))
            return false;
        total += k * units[u].ms;
        s = slice_make(s.p + strlen(units[u].name), s.n - strlen(units[u].name));
    }
    *ret_ms = total;
    return true;
}

/* --- labels ------------------------------------------------------------------------------------------------------------------------ */

static void skip_blanks(struct slice *t)
{
    while (t->n && isspace((unsigned char)t->p[0]))
        *t = slice_make(t->p + 1, t->n - 1);
}

static bool take(struct slice *t, char c)
{
    skip_blanks(t);
    if (!t->n || t->p[0] != c)
        return false;
    *t = slice_make(t->p + 1, t->n - 1);
    return true;
}

static struct slice take_name(struct slice *t)
{
    size_t n = 0;
    skip_blanks(t);
    while (n < t->n && (isalnum((unsigned char)t->p[n]) || t->p[n] == '_' || t->p[n] == ':'))
        n++;
    struct slice name = {t->p, n};
    *t = slice_make(t->p + n, t->n - n);
    return name;
}

static bool take_string(struct slice *t, struct arena *a, struct slice *ret)
{
    skip_blanks(t);
    if (!t->n || (t->p[0] != '"' && t->p[0] != '\'' && t->p[0] != '`'))
        return false;
    char quote = t->p[0];
    char *out = arena_alloc(a, t->n);
    size_t n = 0, i = 1;
    for (; i < t->n && t->p[i] != quote; i++) {
        char c = t->p[i];
        if (c == '\\' && quote != '`' && i + 1 < t->n) {
            c = t->p[++i];
            c = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
        }
        out[n++] = c;
    }
    if (i == t->n)
        return false;
    *t = slice_make(t->p + i + 1, t->n - i - 1);
    *ret = slice_make(out, n);
    return true;
}

bool parse_labels(struct slice *text, struct arena *a, struct labels *ret)
{
    struct label *items = arena_array(a, 64, sizeof(*items));
    size_t n = 0;
    struct slice name = take_name(text);
    if (name.n)
        items[n++] = (struct label){SL(METRIC_NAME_LABEL), name};
    if (text->n && text->p[0] == '{' && !(text->n > 1 && text->p[1] == '{')) {
        take(text, '{');
        while (!take(text, '}') && n < 64) {
            struct slice key, value;
            bool quoted = take_string(text, a, &key);
            if (!quoted)
                key = take_name(text);
            if (take(text, '=')) {
                if (!take_string(text, a, &value))
                    return false;
            } else if (quoted) {
                value = key;
                key = SL(METRIC_NAME_LABEL);
            } else {
                return false;
            }
            if (value.n)
                items[n++] = (struct label){key, value};
            take(text, ',');
        }
    } else if (!name.n) {
        return false;
    }
    labels_sort(items, n);
    *ret = (struct labels){items, n};
    return true;
}

/* --- histograms ---------------------------------------------------------------------------------------------------------------------- */

static bool take_numbers(struct slice *t, struct arena *a, double **ret, uint32_t *ret_n)
{
    if (!take(t, '['))
        return false;
    double *out = arena_array(a, 256, sizeof(double));
    uint32_t n = 0;
    while (!take(t, ']')) {
        size_t k = 0;
        while (k < t->n && !isspace((unsigned char)t->p[k]) && t->p[k] != ']')
            k++;
        if (n == 256 || !parse_number(slice_make(t->p, k), &out[n++]))
            return false;
        *t = slice_make(t->p + k, t->n - k);
    }
    *ret = out;
    *ret_n = n;
    return true;
}

static bool take_value(struct slice *t, double *ret)
{
    size_t k = 0;
    skip_blanks(t);
    while (k < t->n && !isspace((unsigned char)t->p[k]) && t->p[k] != '}')
        k++;
    bool ok = parse_number(slice_make(t->p, k), ret);
    *t = slice_make(t->p + k, t->n - k);
    return ok;
}

static void fill_list(struct blist *l, const double *counts, uint32_t n, int32_t offset, struct arena *a)
{
    l->idx = arena_array(a, n + 1, sizeof(*l->idx));
    l->c = arena_array(a, n + 1, sizeof(*l->c));
    l->n = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (counts[i] == 0)
            continue;
        l->idx[l->n] = offset + (int32_t)i;
        l->c[l->n++] = counts[i];
    }
}

static struct slice take_key(struct slice *t)
{
    size_t n = 0;
    skip_blanks(t);
    while (n < t->n && (isalpha((unsigned char)t->p[n]) || t->p[n] == '_'))
        n++;
    struct slice key = {t->p, n};
    *t = slice_make(t->p + n, t->n - n);
    return key;
}

static bool take_hint(struct slice *t, struct fhist *h)
{
    struct slice w = take_key(t);
    static const char *const names[] = {"unknown", "reset", "not_reset", "gauge"};
    for (uint8_t i = 0; i < 4; i++)
        if (slice_eq(w, slice_of(names[i]))) {
            h->hint = i;
            return true;
        }
    return false;
}

/* {{schema:0 sum:1 count:2 buckets:[1 2] ...}} */
static bool take_histogram(struct slice *t, struct arena *a, struct item *ret)
{
    struct fhist *h = ARENA_NEW(a, struct fhist);
    double *pos = NULL, *neg = NULL, v, offset = 0, n_offset = 0, schema = 0;
    uint32_t n_pos = 0, n_neg = 0;
    if (!take(t, '{') || !take(t, '{'))
        return false;
    *ret = (struct item){.h = h};
    for (;;) {
        skip_blanks(t);
        if (take(t, '}'))
            break;
        struct slice key = take_key(t);
        bool ok = take(t, ':');
        if (slice_eq(key, SL("buckets")))
            ok &= take_numbers(t, a, &pos, &n_pos);
        else if (slice_eq(key, SL("n_buckets")))
            ok &= take_numbers(t, a, &neg, &n_neg);
        else if (slice_eq(key, SL("custom_values")))
            ok &= take_numbers(t, a, (double **)&h->custom, &h->n_custom);
        else if (slice_eq(key, SL("counter_reset_hint")))
            ok &= ret->hint_given = take_hint(t, h);
        else
            ok &= take_value(t, slice_eq(key, SL("schema"))       ? &schema
                                : slice_eq(key, SL("sum"))        ? &h->sum
                                : slice_eq(key, SL("count"))      ? &h->count
                                : slice_eq(key, SL("z_bucket"))   ? &h->zero_count
                                : slice_eq(key, SL("z_bucket_w")) ? &h->zero_threshold
                                : slice_eq(key, SL("offset"))     ? &offset
                                : slice_eq(key, SL("n_offset"))   ? &n_offset
                                                                  : &v);
        if (!ok)
            return false;
    }
    h->schema = (int32_t)schema;
    fill_list(&h->pos, pos, n_pos, (int32_t)offset, a);
    fill_list(&h->neg, neg, n_neg, (int32_t)n_offset, a);
    return take(t, '}');
}

/* --- sequences ------------------------------------------------------------------------------------------------------------------------- */

static void push(struct sequence *s, struct arena *a, struct item it)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 64;
        struct item *p = arena_array(a, cap, sizeof(*p));
        if (s->n)
            memcpy(p, s->items, s->n * sizeof(*p));
        s->items = p;
        s->cap = cap;
    }
    s->items[s->n++] = it;
}

static bool take_times(struct slice *t, int64_t *ret)
{
    if (!t->n || t->p[0] != 'x')
        return false;
    int64_t n = 0;
    size_t i = 1;
    while (i < t->n && isdigit((unsigned char)t->p[i]))
        n = n * 10 + (t->p[i++] - '0');
    *t = slice_make(t->p + i, t->n - i);
    *ret = n;
    return i > 1;
}

static bool take_hist_run(struct slice *t, struct arena *a, struct sequence *ret)
{
    struct item first, inc = {0};
    if (!take_histogram(t, a, &first))
        return false;
    double sign = 0;
    if (t->n && (t->p[0] == '+' || t->p[0] == '-')) {
        sign = t->p[0] == '+' ? 1 : -1;
        *t = slice_make(t->p + 1, t->n - 1);
        if (!take_histogram(t, a, &inc))
            return false;
    }
    int64_t times = 0;
    bool repeated = take_times(t, &times);
    if (sign != 0 && !repeated)
        return false;
    for (int64_t i = 0; i <= times; i++) {
        push(ret, a, first);
        unsigned notes = 0;
        if (sign != 0 && fhist_add(first.h, inc.h, sign, a, &first.h, &notes) != FHIST_OK)
            return false;
    }
    return true;
}

/* The first + or - that is neither at the start nor the sign of an exponent. */
static size_t find_operator(struct slice w)
{
    for (size_t i = 1; i < w.n; i++)
        if ((w.p[i] == '+' || w.p[i] == '-') && w.p[i - 1] != 'e' && w.p[i - 1] != 'E')
            return i;
    return w.n;
}

static bool float_run(struct slice w, struct arena *a, struct sequence *ret)
{
    struct item it = {0};
    int64_t times = 0;
    bool repeated = false;
    for (size_t i = w.n; i-- > 0;)
        if (w.p[i] == 'x') {
            struct slice tail = {w.p + i, w.n - i};
            repeated = take_times(&tail, &times) && tail.n == 0;
            if (repeated)
                w.n = i;
            break;
        }
    if (slice_eq(w, SL("_")) || slice_eq(w, SL("stale"))) {
        it.omitted = w.n == 1;
        it.v = stale_nan();
        for (int64_t i = it.omitted && repeated ? 1 : 0; i <= times; i++)
            push(ret, a, it);
        return true;
    }
    double step = 0;
    size_t op = find_operator(w);
    if (op < w.n && !parse_number(w, &it.v)) {
        if (!parse_number(slice_make(w.p + op + (w.p[op] == '+'), w.n - op - (w.p[op] == '+')), &step))
            return false;
        w.n = op;
    }
    if (!parse_number(w, &it.v))
        return false;
    for (int64_t i = 0; i <= times; i++) {
        push(ret, a, it);
        it.v += step;
    }
    return true;
}

/* -59999ms: a duration with a sign. */
static bool parse_signed_time(struct slice s, int64_t *ret_ms)
{
    bool negative = s.n && s.p[0] == '-', sign = negative || (s.n && s.p[0] == '+');
    if (!parse_time(slice_make(s.p + sign, s.n - sign), ret_ms))
        return false;
    if (negative)
        *ret_ms = -*ret_ms;
    return true;
}

/* _, _x3, -1m, -1mx4, -30s-1mx2 */
static bool start_run(struct slice w, struct arena *a, struct sequence *ret)
{
    struct item it = {.started = true};
    int64_t times = 0, step = 0;
    const char *x = memchr(w.p, 'x', w.n);
    if (x) {
        struct slice tail = {x, (size_t)(w.p + w.n - x)};
        if (!take_times(&tail, &times) || tail.n)
            return false;
        w.n = (size_t)(x - w.p);
    }
    if (slice_eq(w, SL("_"))) {
        it = (struct item){.omitted = true};
        for (int64_t i = x ? 1 : 0; i <= times; i++)
            push(ret, a, it);
        return true;
    }
    size_t op = find_operator(w);
    if ((op < w.n && !parse_signed_time(slice_make(w.p + op, w.n - op), &step)) || !parse_signed_time(slice_make(w.p, op), &it.start_ms))
        return false;
    for (int64_t i = 0; i <= times; i++) {
        push(ret, a, it);
        it.start_ms += step;
    }
    return true;
}

bool parse_starts(struct slice line, struct arena *a, struct sequence *ret, bool *ret_is, const char **ret_why)
{
    *ret = (struct sequence){0};
    *ret_is = parse_labels(&line, a, &ret->labels) && slice_has_prefix(line, SL("@st"));
    if (!*ret_is)
        return true;
    line = slice_make(line.p + 3, line.n - 3);
    *ret_why = "a start timestamp cannot be parsed";
    for (;;) {
        skip_blanks(&line);
        if (line.n == 0)
            return true;
        if (!start_run(next_word(&line), a, ret))
            return false;
    }
}

bool parse_sequence(struct slice line, struct arena *a, struct sequence *ret, const char **ret_why)
{
    *ret = (struct sequence){0};
    *ret_why = "a label set was expected";
    if (!parse_labels(&line, a, &ret->labels))
        return false;
    for (;;) {
        skip_blanks(&line);
        if (line.n == 0)
            return true;
        *ret_why = "a value cannot be parsed";
        if (slice_has_prefix(line, SL("{{"))) {
            if (!take_hist_run(&line, a, ret))
                return false;
            continue;
        }
        struct slice w = next_word(&line);
        if (!float_run(w, a, ret))
            return false;
    }
}
