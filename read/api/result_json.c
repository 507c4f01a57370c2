/*
 * Results as Prometheus's JSON, straight into the answer's buffer.
 *
 * An answer of 18 MB is mostly numbers. All series of a range query share the same few timestamps: their text is made once ("[1795237073.5,\"", at
 * most TEXT_MAX bytes) and copied; values are integers more often than not, and the others take the shortest digits from <charconv>. One check for
 * room a sample.
 */
#include <stdlib.h>
#include <string.h>

#include "base/dtoa.h"
#include "read/api/api_int.h"

#define SAMPLE_MAX_BYTES (DTOA_MAX + 64)
#define TEXT_MAX 28

/* --- numbers -------------------------------------------------------------------------------------------------------------------------- */

/* Two decimal digits at a time; returns the length. */
static size_t format_u64(uint64_t v, char *out)
{
    static const char pairs[] = "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051525354555657585960616263"
                                "64656667686970717273747576777879808182838485868788899091929394959697989900";
    char tmp[20];
    char *p = tmp + sizeof(tmp);
    while (v >= 100) {
        p -= 2;
        memcpy(p, pairs + v % 100 * 2, 2);
        v /= 100;
    }
    if (v >= 10) {
        p -= 2;
        memcpy(p, pairs + v * 2, 2);
    } else {
        *--p = (char)('0' + v);
    }
    size_t n = (size_t)(tmp + sizeof(tmp) - p);
    memcpy(out, p, n);
    return n;
}

static size_t format_timestamp(int64_t ms, char *out)
{
    char *p = out;
    uint64_t v = ms < 0 ? -(uint64_t)ms : (uint64_t)ms;
    if (ms < 0)
        *p++ = '-';
    p += format_u64(v / 1000, p);
    unsigned rest = (unsigned)(v % 1000);
    if (rest) {
        *p++ = '.';
        *p++ = (char)('0' + rest / 100);
        *p++ = (char)('0' + rest / 10 % 10);
        *p++ = (char)('0' + rest % 10);
    }
    return (size_t)(p - out);
}

void put_timestamp(struct buf *out, int64_t ms)
{
    if (buf_reserve(out, TEXT_MAX))
        out->n += format_timestamp(ms, out->p + out->n);
}

void put_value(struct buf *out, double v)
{
    if (!buf_reserve(out, SAMPLE_MAX_BYTES))
        return;
    char *p = out->p + out->n;
    *p++ = '"';
    p += dtoa_json(v, p);
    *p++ = '"';
    out->n = (size_t)(p - out->p);
}

void put_annotations(struct buf *out, const char *name, const struct slice *texts, size_t n)
{
    if (!n)
        return;
    buf_printf(out, ",\"%s\":[", name);
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_putc(out, ',');
        json_put_quoted(out, texts[i]);
    }
    buf_putc(out, ']');
}

void put_labels(struct buf *out, struct labels l)
{
    buf_putc(out, '{');
    for (size_t i = 0; i < l.n; i++) {
        if (i)
            buf_putc(out, ',');
        json_put_quoted(out, l.items[i].name);
        buf_putc(out, ':');
        json_put_quoted(out, l.items[i].value);
    }
    buf_putc(out, '}');
}

/* --- timestamps of a range ------------------------------------------------------------------------------------------------------------ */

struct stamp {
    uint8_t n;
    char text[TEXT_MAX + 3]; /* [1795237073.5," */
};

struct stamps {
    int64_t start_ms;
    int64_t step_ms;
    size_t n; /* 0: no table, each timestamp is made anew */
    struct stamp *items;
};

static size_t format_stamp(int64_t ms, char *out)
{
    char *p = out;
    *p++ = '[';
    p += format_timestamp(ms, p);
    *p++ = ',';
    *p++ = '"';
    return (size_t)(p - out);
}

static void stamps_init(struct stamps *s, const struct engine_result *r, const struct engine_query *q)
{
    *s = (struct stamps){.start_ms = q->start_ms, .step_ms = q->step_ms};
    if (q->step_ms <= 0 || r->n_series < 2)
        return;
    size_t n = (size_t)((q->end_ms - q->start_ms) / q->step_ms) + 1;
    s->items = malloc(n * sizeof(*s->items));
    if (!s->items)
        return;
    s->n = n;
    for (size_t i = 0; i < n; i++)
        s->items[i].n = (uint8_t)format_stamp(q->start_ms + (int64_t)i * q->step_ms, s->items[i].text);
}

/* Returns the length; out has room for a whole stamp. *hint is the step after the last one written. */
static inline size_t copy_stamp(const struct stamps *s, int64_t t, size_t *hint, char *out)
{
    if (!s->n)
        return format_stamp(t, out);
    size_t i = *hint;
    if (i >= s->n || s->start_ms + (int64_t)i * s->step_ms != t) {
        i = (size_t)((t - s->start_ms) / s->step_ms);
        if (i >= s->n || s->start_ms + (int64_t)i * s->step_ms != t)
            return format_stamp(t, out);
    }
    *hint = i + 1;
    memcpy(out, s->items[i].text, sizeof(s->items[i].text));
    return s->items[i].n;
}

/* --- series ------------------------------------------------------------------------------------------------------------------------------ */

static bool is_histogram(const struct result_series *s, size_t i)
{
    return s->h && s->h[i];
}

/* ,"values":[[t,"v"],...] */
static void put_floats(struct buf *out, const struct result_series *s, const struct stamps *stamps)
{
    size_t hint = 0;
    bool any = false;
    for (size_t i = 0; i < s->n; i++) {
        if (is_histogram(s, i))
            continue;
        if (!any)
            buf_puts(out, ",\"values\":[");
        if (!buf_reserve(out, SAMPLE_MAX_BYTES))
            return;
        char *p = out->p + out->n;
        if (any)
            *p++ = ',';
        p += copy_stamp(stamps, s->t[i], &hint, p);
        p += dtoa_json(s->v[i], p);
        *p++ = '"';
        *p++ = ']';
        out->n = (size_t)(p - out->p);
        any = true;
    }
    if (any)
        buf_putc(out, ']');
}

static void put_histograms(struct buf *out, const struct result_series *s)
{
    bool any = false;
    for (size_t i = 0; s->h && i < s->n; i++) {
        if (!is_histogram(s, i))
            continue;
        buf_puts(out, any ? ",[" : ",\"histograms\":[[");
        put_timestamp(out, s->t[i]);
        buf_putc(out, ',');
        put_histogram(out, s->h[i]);
        buf_putc(out, ']');
        any = true;
    }
    if (any)
        buf_putc(out, ']');
}

static void put_matrix(struct buf *out, const struct engine_result *r, const struct engine_query *q)
{
    struct stamps stamps;
    stamps_init(&stamps, r, q);
    for (size_t i = 0; i < r->n_series && !out->failed; i++) {
        buf_puts(out, i ? ",{\"metric\":" : "{\"metric\":");
        put_labels(out, r->series[i].labels);
        put_floats(out, &r->series[i], &stamps);
        put_histograms(out, &r->series[i]);
        buf_putc(out, '}');
    }
    free(stamps.items);
}

static void put_vector(struct buf *out, const struct engine_result *r)
{
    for (size_t i = 0; i < r->n_series && !out->failed; i++) {
        const struct result_series *s = &r->series[i];
        buf_puts(out, i ? ",{\"metric\":" : "{\"metric\":");
        put_labels(out, s->labels);
        buf_puts(out, is_histogram(s, 0) ? ",\"histogram\":[" : ",\"value\":[");
        put_timestamp(out, s->t[0]);
        buf_putc(out, ',');
        if (is_histogram(s, 0))
            put_histogram(out, s->h[0]);
        else
            put_value(out, s->v[0]);
        buf_puts(out, "]}");
    }
}

/* Scalars and strings have their time as a plain number, and scalars never an exponent: upstream makes them elsewhere. */
static void put_single(struct buf *out, const struct engine_result *r, const struct engine_query *q)
{
    char text[DTOA_MAX];
    buf_putc(out, '[');
    buf_put(out, text, dtoa_json((double)q->start_ms / 1000, text));
    buf_putc(out, ',');
    if (r->type == VALUE_STRING) {
        json_put_quoted(out, r->string);
    } else {
        buf_putc(out, '"');
        buf_put(out, text, dtoa_fixed(r->scalar, text));
        buf_putc(out, '"');
    }
    buf_putc(out, ']');
}

void put_result(struct buf *out, const struct engine_result *r, const struct engine_query *q)
{
    static const char *const names[] = {[VALUE_SCALAR] = "scalar", [VALUE_VECTOR] = "vector", [VALUE_MATRIX] = "matrix", [VALUE_STRING] = "string"};
    buf_puts(out, "{\"status\":\"success\",\"data\":{\"resultType\":\"");
    buf_puts(out, names[r->type]);
    buf_puts(out, "\",\"result\":");
    if (r->type == VALUE_SCALAR || r->type == VALUE_STRING) {
        put_single(out, r, q);
        return;
    }
    buf_putc(out, '[');
    if (r->type == VALUE_MATRIX)
        put_matrix(out, r, q);
    else
        put_vector(out, r);
    buf_putc(out, ']');
}
