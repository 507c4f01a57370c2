#include "app/tools/openmetrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/dtoa.h"
#include "base/utf8.h"

/* Where the line is being read; bytes of the line behind p are still to come. */
struct cursor {
    struct openmetrics *o;
    const char *p, *end;
    size_t n_labels;
    struct err *err;
};

static bool bad(struct cursor *c, const char *what)
{
    return err_set(c->err, ERR_BAD_DATA, "%s at \"%.*s\"", what, (int)MIN((size_t)(c->end - c->p), (size_t)40), c->p);
}

static bool take(struct cursor *c, char expected)
{
    if (c->p == c->end || *c->p != expected)
        return false;
    c->p++;
    return true;
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

/* A plain name; colons where it is a metric's. Empty: there is none. */
static struct slice plain_name(struct cursor *c, bool of_metric)
{
    const char *from = c->p;
    while (c->p < c->end && (is_letter(*c->p) || (of_metric && *c->p == ':') || (c->p > from && *c->p >= '0' && *c->p <= '9')))
        c->p++;
    return slice_make(from, (size_t)(c->p - from));
}

/* A quoted string, unescaped into the text: \" \\ \n; a backslash before anything else stays. The slice moves with the text: offsets are kept till the end. */
static bool quoted(struct cursor *c, size_t *ret_offset, size_t *ret_n)
{
    struct buf *text = &c->o->text;
    size_t from = text->n;
    if (!take(c, '"'))
        return bad(c, "expected a quoted string");
    while (c->p < c->end && *c->p != '"') {
        char ch = *c->p++;
        if (ch == '\\' && c->p == c->end)
            break;
        if (ch != '\\') {
            buf_putc(text, ch);
            continue;
        }
        char next = *c->p++;
        if (next == 'n')
            buf_putc(text, '\n');
        else if (next == '"' || next == '\\')
            buf_putc(text, next);
        else
            buf_put(text, (char[]){'\\', next}, 2);
    }
    if (!take(c, '"'))
        return bad(c, "a quoted string does not end");
    if (text->failed || !utf8_valid(slice_make(text->p + from, text->n - from)))
        return bad(c, "invalid UTF-8 label value");
    *ret_offset = from;
    *ret_n = text->n - from;
    return true;
}

/* Until the line has been read labels hold offsets into the text, since that may move. */
static bool add_label(struct cursor *c, struct slice name, struct slice value)
{
    if (c->n_labels == OPENMETRICS_LABELS_MAX)
        return bad(c, "more labels than a series may have");
    c->o->labels[c->n_labels++] = (struct label){name, value};
    return true;
}

static struct slice at_offset(size_t offset, size_t n)
{
    return (struct slice){(const char *)(uintptr_t)offset, n};
}

static struct slice put_text(struct cursor *c, struct slice s)
{
    size_t offset = c->o->text.n;
    buf_put_slice(&c->o->text, s);
    return at_offset(offset, s.n);
}

/* "a="b"", ""a"="b"", or the metric's name alone, in quotes. */
static bool label(struct cursor *c, bool *ret_named)
{
    struct slice name = plain_name(c, false), value;
    size_t offset, n;
    bool in_quotes = name.n == 0;
    if (in_quotes) {
        if (!quoted(c, &offset, &n))
            return false;
        name = at_offset(offset, n);
    } else {
        name = put_text(c, name);
    }
    if (!take(c, '=')) {
        if (!in_quotes || *ret_named)
            return bad(c, "expected = and a value");
        *ret_named = true;
        return add_label(c, put_text(c, SL(METRIC_NAME_LABEL)), name);
    }
    if (!quoted(c, &offset, &n))
        return false;
    value = at_offset(offset, n);
    return add_label(c, name, value);
}

static bool label_set(struct cursor *c, bool *ret_named)
{
    if (!take(c, '{'))
        return true;
    while (!take(c, '}')) {
        if (!label(c, ret_named))
            return false;
        if (c->p < c->end && *c->p == '}')
            continue;
        if (!take(c, ','))
            return bad(c, "expected , or }");
    }
    return true;
}

/* A blank and what follows it up to the next one. */
static bool word(struct cursor *c, struct slice *ret)
{
    if (!take(c, ' '))
        return false;
    const char *from = c->p;
    while (c->p < c->end && *c->p != ' ')
        c->p++;
    *ret = slice_make(from, (size_t)(c->p - from));
    return ret->n > 0;
}

/* As Go before 1.13: no hexadecimal, no underscores. */
static bool number(struct cursor *c, struct slice text, double *ret)
{
    for (size_t i = 0; i < text.n; i++)
        if (memchr("pPxX_", text.p[i], 5))
            return bad(c, "unsupported character in float");
    return dtoa_parse(text, ret) || err_set(c->err, ERR_BAD_DATA, "\"%.*s\" is no number", (int)MIN(text.n, (size_t)40), text.p);
}

static bool timestamp(struct cursor *c, struct slice text, int64_t *ret)
{
    double seconds;
    if (!number(c, text, &seconds))
        return false;
    if (!(fabs(seconds) <= 9e12))
        return err_set(c->err, ERR_BAD_DATA, "invalid timestamp %.*s", (int)MIN(text.n, (size_t)40), text.p);
    *ret = (int64_t)(seconds * 1000);
    return true;
}

/* " # {a="b"} 0.5 1600000000": checked and dropped. */
static bool exemplar(struct cursor *c)
{
    struct slice text;
    double v;
    int64_t t;
    size_t n = c->n_labels;
    bool named = true;
    if (c->end - c->p < 4 || memcmp(c->p, " # {", 4) != 0)
        return bad(c, "expected the end of the line, or an exemplar");
    c->p += 3;
    if (!label_set(c, &named) || !word(c, &text))
        return bad(c, "expected an exemplar");
    c->n_labels = n;
    if (!number(c, text, &v))
        return false;
    if (c->p == c->end)
        return true;
    if (!word(c, &text))
        return bad(c, "expected the exemplar's timestamp");
    return timestamp(c, text, &t) && (c->p == c->end || bad(c, "expected the end of the line"));
}

/* As OpenMetrics writes le and quantile. */
static struct slice normal_float(struct cursor *c, struct slice text)
{
    char out[DTOA_MAX + 2];
    double v;
    if (!dtoa_parse(text, &v))
        return text;
    size_t n = dtoa_g(v, out);
    if (isfinite(v) && !memchr(out, '.', n) && !memchr(out, 'e', n)) {
        memcpy(out + n, ".0", 2);
        n += 2;
    }
    size_t offset = c->o->text.n;
    buf_put(&c->o->text, out, n);
    return slice_make(c->o->text.p + offset, n);
}

/* The offsets become slices; labels are sorted, empty ones left out. */
static bool finish_labels(struct cursor *c, struct labels *ret)
{
    struct openmetrics *o = c->o;
    size_t kept = 0;
    if (o->text.failed || !buf_reserve(&o->text, c->n_labels * (DTOA_MAX + 2))) /* so that it does not move any more */
        return bad(c, "too long a line");
    for (size_t i = 0; i < c->n_labels; i++) {
        struct label l = o->labels[i];
        l.name.p = o->text.p + (uintptr_t)l.name.p;
        l.value.p = o->text.p + (uintptr_t)l.value.p;
        if ((o->is_histogram && slice_eq(l.name, SL(BUCKET_LABEL))) || (o->is_summary && slice_eq(l.name, SL("quantile"))))
            l.value = normal_float(c, l.value);
        if (l.value.n)
            o->labels[kept++] = l;
    }
    if (!labels_sort(o->labels, kept))
        return err_set(c->err, ERR_NO_MEMORY, "no memory for labels");
    for (size_t i = 1; i < kept; i++)
        if (slice_eq(o->labels[i - 1].name, o->labels[i].name))
            return err_set(c->err, ERR_BAD_DATA, "label name \"%.*s\" is not unique", (int)MIN(o->labels[i].name.n, (size_t)100), o->labels[i].name.p);
    *ret = (struct labels){o->labels, kept};
    return true;
}

/* Prometheus's NaN of every value that is none, but for stale markers. */
static double plain_nan(void)
{
    static const uint64_t bits = UINT64_C(0x7FF8000000000001);
    double v;
    memcpy(&v, &bits, sizeof(v));
    return v;
}

static bool sample(struct cursor *c, struct openmetrics_sample *ret)
{
    struct slice name = plain_name(c, true), text;
    struct openmetrics_sample s = {0};
    bool named = name.n > 0;
    if (!named && (c->p == c->end || *c->p != '{'))
        return bad(c, "expected a metric name");
    if (named && !add_label(c, put_text(c, SL(METRIC_NAME_LABEL)), put_text(c, name)))
        return false;
    if (!label_set(c, &named))
        return false;
    if (!named)
        return bad(c, "metric name not set");
    if (!word(c, &text))
        return bad(c, "expected value after metric");
    if (!number(c, text, &s.v))
        return false;
    if (isnan(s.v))
        s.v = plain_nan();
    if (c->p < c->end && !(c->end - c->p > 1 && c->p[1] == '#')) {
        if (!word(c, &text))
            return bad(c, "expected timestamp or new record");
        if (!timestamp(c, text, &s.t))
            return false;
        s.has_time = true;
    }
    if (c->p < c->end && !exemplar(c))
        return false;
    if (!finish_labels(c, &s.labels))
        return false;
    *ret = s;
    return true;
}

/* --- lines that begin with # ---------------------------------------------------------------------------------------------------- */

static bool type_line(struct cursor *c, struct slice text)
{
    static const char *const types[] = {"counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset", "unknown"};
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        if (slice_eq(text, slice_of(types[i]))) {
            c->o->is_histogram = slice_eq(text, SL("histogram"));
            c->o->is_summary = slice_eq(text, SL("summary"));
            return true;
        }
    return err_set(c->err, ERR_BAD_DATA, "invalid metric type \"%.*s\"", (int)MIN(text.n, (size_t)40), text.p);
}

static bool unit_line(struct cursor *c, struct slice name, struct slice unit)
{
    bool fits = unit.n == 0 || (slice_has_suffix(name, unit) && name.n > unit.n && name.p[name.n - unit.n - 1] == '_');
    return fits || bad(c, "the unit is no suffix of the metric's name");
}

static bool skip_word(struct cursor *c, struct slice expected)
{
    if ((size_t)(c->end - c->p) < expected.n || memcmp(c->p, expected.p, expected.n) != 0)
        return false;
    c->p += expected.n;
    return true;
}

static bool metadata(struct cursor *c)
{
    bool is_help = skip_word(c, SL("HELP ")), is_type = !is_help && skip_word(c, SL("TYPE "));
    if (!is_help && !is_type && !skip_word(c, SL("UNIT ")))
        return bad(c, "expected HELP, TYPE, UNIT or EOF");
    size_t offset = 0, n = 0;
    bool in_quotes = c->p < c->end && *c->p == '"';
    struct slice name = in_quotes ? SL("") : plain_name(c, true);
    if (in_quotes && !quoted(c, &offset, &n))
        return false;
    if (n)
        name = slice_make(c->o->text.p + offset, n);
    if (name.n == 0 || !take(c, ' '))
        return bad(c, "expected a metric name and text");
    struct slice text = slice_make(c->p, (size_t)(c->end - c->p));
    if (!utf8_valid(text))
        return bad(c, "help text is not a valid utf8 string");
    return is_help || (is_type ? type_line(c, text) : unit_line(c, name, text));
}

void openmetrics_init(struct openmetrics *o)
{
    buf_init(&o->text, (size_t)64 << 20);
    o->is_histogram = o->is_summary = false;
}

void openmetrics_release(struct openmetrics *o)
{
    buf_release(&o->text);
}

bool openmetrics_line(struct openmetrics *o, struct slice line, enum openmetrics_kind *ret, struct openmetrics_sample *ret_sample, struct err *err)
{
    struct cursor c = {o, line.p, line.p + line.n, 0, err};
    buf_clear(&o->text);
    if (!buf_reserve(&o->text, 1)) /* empty strings have a place too */
        return err_set(err, ERR_NO_MEMORY, "no memory for labels");
    if (slice_eq(line, SL("# EOF"))) {
        *ret = OPENMETRICS_END;
        return true;
    }
    *ret = line.n && line.p[0] == '#' ? OPENMETRICS_OTHER : OPENMETRICS_SAMPLE;
    if (*ret == OPENMETRICS_OTHER)
        return skip_word(&c, SL("# ")) ? metadata(&c) : bad(&c, "expected a comment");
    return sample(&c, ret_sample);
}
