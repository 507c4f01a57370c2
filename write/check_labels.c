/*
 * Labels of series that are not known yet: brought into canonical form, validated in Mimir's order, given their token, remembered.
 *
 * Canonical form first, as Mimir does it: labels of -distributor.drop-label and those with an empty value go, the rest is sorted by name. Then the
 * checks: there is a metric name; it is valid; the number of labels; then for each label its name, the name's length, the value's UTF-8, the
 * value's length, and whether its name is the one before it again.
 *
 * Runs in chunks of CHUNK series, so that memory does not grow with the request: the label text of a chunk is laid out in one buffer, the tokens of
 * a chunk are computed side by side.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/utf8.h"
#include "write/blake2b.h"
#include "write/push.h"

#define CHUNK 256
#define HASHED_VALUE_LEN 71 /* "(hash:" 64 hex digits ")" */

struct label_check {
    struct push *p;
    const struct limits *limits;
    enum limits_name_scheme scheme;
    enum limits_value_strategy long_values;
    /* limits, where 0 (none) has become the largest number */
    int64_t labels_max;
    int64_t labels_info_max;
    size_t name_max;
    size_t value_max;
    int64_t most_labels; /* more of them than this are not kept, only counted */

    /* the series under check */
    struct label *items; /* owned */
    size_t cap;
    size_t n;         /* kept */
    size_t n_counted; /* all that are left of it */
    struct slice metric_name;
    bool changed; /* its canonical form is not its bytes */

    /* the valid series of the chunk */
    struct buf text; /* names and values one after the other */
    uint32_t idx[CHUNK];
    size_t text_end[CHUNK];
    size_t n_valid;
};

static bool is_dropped(const struct label_check *c, struct slice name)
{
    for (size_t i = 0; i < c->limits->drop_labels.n; i++)
        if (slice_eq(name, slice_of(c->limits->drop_labels.items[i])))
            return true;
    return false;
}

static bool keep_label(struct label_check *c, struct label l)
{
    if (c->n == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 64;
        struct label *more = realloc(c->items, cap * sizeof(*more));
        if (!more)
            return push_fail(c->p, ERR_NO_MEMORY, "out of memory while checking labels");
        c->items = more;
        c->cap = cap;
    }
    c->items[c->n++] = l;
    return true;
}

/*
 * Takes the labels out of the bytes, sorted. A series far over the limit of labels keeps only the first of them: enough for the error, and a
 * request with a million labels costs neither the memory nor the sort.
 */
static bool collect(struct label_check *c, const struct write_series *s)
{
    c->n = c->n_counted = 0;
    c->metric_name = SL("");
    c->changed = !(s->flags & WRITE_SERIES_SPAN_WHOLE) || !label_span_is_canonical(s->labels);
    struct write_label_iter it = write_label_iter(s->labels);
    struct label l;
    int more;
    while ((more = write_label_next(&it, &l)) == 1) {
        if (is_dropped(c, l.name)) {
            c->changed = true;
            continue;
        }
        if (l.value.n == 0)
            continue; /* not canonical either */
        if (c->metric_name.n == 0 && slice_eq(l.name, SL(METRIC_NAME_LABEL)))
            c->metric_name = l.value;
        c->n_counted++;
        if ((int64_t)c->n < c->most_labels && !keep_label(c, l))
            return false;
    }
    if (more < 0) {
        struct err err = ERR_NONE;
        if (!write_labels_check(s->labels, &err))
            return push_fail_err(c->p, &err);
        return push_fail(c->p, ERR_BAD_DATA, "unexpected EOF");
    }
    if (c->changed && !labels_sort(c->items, c->n))
        return push_fail(c->p, ERR_NO_MEMORY, "out of memory while sorting labels");
    return true;
}

static struct labels labels_of(const struct label_check *c)
{
    return (struct labels){c->items, c->n};
}

/* Without the bytes past ASCII, and saying so. */
static void put_ascii_name(struct buf *out, struct slice name)
{
    struct buf text;
    buf_init(&text, 4096);
    for (size_t i = 0; i < name.n && text.n < 256; i++)
        if ((unsigned char)name.p[i] < 0x80)
            buf_putc(&text, name.p[i]);
    bool removed = false;
    for (size_t i = 0; i < name.n && !removed; i++)
        removed = (unsigned char)name.p[i] >= 0x80;
    if (removed)
        buf_puts(&text, " (non-ascii characters removed)");
    push_put_cut(out, buf_slice(&text), 200);
    buf_release(&text);
}

static bool check_metric_name(struct label_check *c, struct write_series *s, size_t at)
{
    struct buf *out;
    if (c->metric_name.n == 0) {
        push_reject(c->p, s, REASON_MISSING_METRIC_NAME);
        if ((out = push_error_begin(c->p, at, ERR_MISSING_METRIC_NAME))) {
            buf_puts(out, "received series has no metric name");
            push_error_end(c->p, NULL);
        }
        return false;
    }
    bool valid = c->scheme == LIMITS_NAMES_LEGACY ? metric_name_is_legacy(c->metric_name) : utf8_valid(c->metric_name);
    if (valid)
        return true;
    push_reject(c->p, s, REASON_METRIC_NAME_INVALID);
    if ((out = push_error_begin(c->p, at, ERR_METRIC_NAME_INVALID))) {
        buf_puts(out, "received a series with invalid metric name: '");
        put_ascii_name(out, c->metric_name);
        buf_putc(out, '\'');
        push_error_end(c->p, NULL);
    }
    return false;
}

static bool check_label_count(struct label_check *c, struct write_series *s, size_t at)
{
    int64_t n = (int64_t)c->n_counted;
    bool info = slice_has_suffix(c->metric_name, SL("_info"));
    int64_t limit = info ? MAX(c->labels_max, c->labels_info_max) : c->labels_max;
    if (c->p->skip_count || n <= limit)
        return true;
    push_reject(c->p, s, info ? REASON_MAX_LABEL_NAMES_PER_INFO_SERIES : REASON_MAX_LABEL_NAMES_PER_SERIES);
    struct buf *out =
        push_error_begin(c->p, at, info ? ERR_MAX_LABEL_NAMES_PER_INFO_SERIES : ERR_MAX_LABEL_NAMES_PER_SERIES);
    if (!out)
        return false;
    if (!labels_sort(c->items, c->n))
        c->n = 0; /* no memory for it: the text goes without the labels */
    buf_printf(out, "received %s series whose number of labels exceeds the limit (actual: %lld, limit: %lld) series: '",
               info ? "an info" : "a", (long long)n, (long long)limit);
    if (push_put_series(out, labels_of(c)))
        buf_puts(out, "\xe2\x80\xa6");
    buf_putc(out, '\'');
    push_error_end(c->p, info ? "validation.max-label-names-per-info-series" : "validation.max-label-names-per-series");
    return false;
}

/* The rest of a text: the series, the closing quote, the id. */
static void finish_with_series(struct label_check *c, struct buf *out, const char *flag)
{
    push_put_series(out, labels_of(c));
    buf_putc(out, '\'');
    push_error_end(c->p, flag);
}

static void name_invalid(struct label_check *c, struct write_series *s, size_t at, struct label l)
{
    push_reject(c->p, s, REASON_LABEL_INVALID);
    struct buf *out = push_error_begin(c->p, at, ERR_LABEL_INVALID);
    if (!out)
        return;
    buf_puts(out, "received a series with an invalid label: '");
    push_put_cut(out, l.name, 200);
    buf_puts(out, "' series: '");
    finish_with_series(c, out, NULL);
}

static void name_too_long(struct label_check *c, struct write_series *s, size_t at, struct label l)
{
    push_reject(c->p, s, REASON_LABEL_NAME_TOO_LONG);
    struct buf *out = push_error_begin(c->p, at, ERR_LABEL_NAME_TOO_LONG);
    if (!out)
        return;
    buf_puts(out, "received a series whose label name length exceeds the limit, label: '");
    push_put_cut(out, l.name, 200);
    buf_puts(out, "' series: '");
    finish_with_series(c, out, "validation.max-length-label-name");
}

static void value_invalid(struct label_check *c, struct write_series *s, size_t at, struct label l)
{
    push_reject(c->p, s, REASON_LABEL_VALUE_INVALID);
    struct buf *out = push_error_begin(c->p, at, ERR_LABEL_VALUE_INVALID);
    if (!out)
        return;
    buf_puts(out, "received a series with invalid value in label '");
    push_put_cut(out, l.name, 200);
    buf_puts(out, "': '");
    push_put_cut(out, l.value, 200);
    buf_puts(out, "' metric: '");
    push_put_cut(out, c->metric_name, 200);
    buf_putc(out, '\'');
    push_error_end(c->p, NULL);
}

static void value_too_long(struct label_check *c, struct write_series *s, size_t at, struct label l)
{
    push_reject(c->p, s, REASON_LABEL_VALUE_TOO_LONG);
    struct buf *out = push_error_begin(c->p, at, ERR_LABEL_VALUE_TOO_LONG);
    if (!out)
        return;
    buf_printf(out, "received a series whose label value length of %zu exceeds the limit of %lld, label: '", l.value.n,
               (long long)c->limits->max_label_value_length);
    push_put_cut(out, l.name, 1024);
    buf_puts(out, "', value: '");
    push_put_cut(out, l.value, 200);
    buf_puts(out, "' (truncated) series: '");
    finish_with_series(c, out, "validation.max-length-label-value");
}

static void duplicate_name(struct label_check *c, struct write_series *s, size_t at, struct label l)
{
    push_reject(c->p, s, REASON_DUPLICATE_LABEL_NAMES);
    struct buf *out = push_error_begin(c->p, at, ERR_DUPLICATE_LABEL_NAMES);
    if (!out)
        return;
    buf_puts(out, "received a series with duplicate label name, label: '");
    push_put_cut(out, l.name, 200);
    buf_puts(out, "' series: '");
    finish_with_series(c, out, NULL);
}

/* -validation.label-value-length-over-limit-strategy: the value's hash in place of its end, or of all of it. */
static bool shorten_value(struct label_check *c, struct label *l)
{
    size_t keep = 0;
    if (c->long_values == LIMITS_VALUE_TRUNCATE && c->limits->max_label_value_length > HASHED_VALUE_LEN)
        keep = utf8_cut(l->value, (size_t)c->limits->max_label_value_length - HASHED_VALUE_LEN).n;
    uint8_t digest[32];
    blake2b_256(l->value, digest);
    char *out = arena_alloc(&c->p->batch->arena, keep + HASHED_VALUE_LEN + 1);
    if (!out)
        return push_fail(c->p, ERR_BAD_DATA, "the push request needs too much memory for its size");
    memcpy(out, l->value.p, keep);
    memcpy(out + keep, "(hash:", 6);
    for (size_t i = 0; i < 32; i++)
        snprintf(out + keep + 6 + 2 * i, 3, "%02x", digest[i]);
    out[keep + HASHED_VALUE_LEN - 1] = ')';
    l->value = slice_make(out, keep + HASHED_VALUE_LEN);
    c->changed = true;
    return true;
}

enum verdict { REJECTED, VALID, FAILED };

static bool label_name_is_valid(const struct label_check *c, struct slice name)
{
    if (c->p->skip_names)
        return true;
    return c->scheme == LIMITS_NAMES_LEGACY ? label_name_is_legacy(name) : name.n && utf8_valid(name);
}

static enum verdict check_each_label(struct label_check *c, struct write_series *s, size_t at)
{
    for (size_t i = 0; i < c->n; i++) {
        struct label *l = &c->items[i];
        if (!label_name_is_valid(c, l->name)) {
            name_invalid(c, s, at, *l);
        } else if (l->name.n > c->name_max) {
            name_too_long(c, s, at, *l);
        } else if (!c->p->skip_names && !utf8_valid(l->value)) {
            value_invalid(c, s, at, *l);
        } else if (l->value.n > c->value_max && c->long_values == LIMITS_VALUE_ERROR) {
            value_too_long(c, s, at, *l);
        } else if (i && slice_eq(l->name, l[-1].name)) {
            duplicate_name(c, s, at, *l);
        } else {
            if (l->value.n > c->value_max && !shorten_value(c, l))
                return FAILED;
            continue;
        }
        return REJECTED;
    }
    return VALID;
}

static enum verdict check_series(struct label_check *c, struct write_series *s, size_t at)
{
    if (!collect(c, s))
        return FAILED;
    if (c->n_counted == 0) {
        push_reject(c->p, s, REASON_NO_LABELS); /* 200, as Mimir; but counted */
        return REJECTED;
    }
    if (!check_metric_name(c, s, at) || !check_label_count(c, s, at))
        return REJECTED;
    return check_each_label(c, s, at);
}

/* Builds the canonical bytes where the client's are not, and puts the series into the chunk. */
static bool accept_series(struct label_check *c, struct write_series *s, size_t at)
{
    struct push *p = c->p;
    if (c->changed) {
        struct labels l = labels_of(c);
        p->n_reencoded += !(s->flags & WRITE_SERIES_REENCODED);
        if (!write_series_rebuild(p->req, s, &l, &p->batch->arena))
            return push_fail(p, ERR_BAD_DATA, "the push request needs too much memory for its size");
        s->hash = series_hash_of(s->labels, p->d->hash_seed);
    }
    s->flags |= WRITE_SERIES_CANONICAL;
    for (size_t i = 0; i < c->n; i++) {
        buf_put_slice(&c->text, c->items[i].name);
        buf_put_slice(&c->text, c->items[i].value);
    }
    c->idx[c->n_valid] = (uint32_t)at;
    c->text_end[c->n_valid++] = c->text.n;
    return true;
}

/* Tokens for the chunk, and into the cache with it. */
static bool finish_chunk(struct label_check *c)
{
    struct push *p = c->p;
    if (c->text.failed)
        return push_fail(p, ERR_NO_MEMORY, "out of memory while checking labels");
    struct token_job jobs[CHUNK];
    size_t from = 0;
    for (size_t i = 0; i < c->n_valid; i++) {
        jobs[i] = (struct token_job){(const unsigned char *)c->text.p + from, c->text_end[i] - from,
                                     &p->req->series[c->idx[i]].token};
        from = c->text_end[i];
    }
    token_batch(p->d->token_kind, p->tenant->token_start, jobs, c->n_valid);
    /* What was accepted only because checks were switched off must not be accepted when they are on. */
    if (!p->skip_names && !p->skip_count)
        known_series_add(&p->tenant->known, p->rules, p->req->series, c->idx, c->n_valid, clock_mono_ms());
    buf_clear(&c->text);
    c->n_valid = 0;
    return true;
}

static bool check_all(struct label_check *c, const uint32_t *unknown, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t at = unknown[i];
        struct write_series *s = &c->p->req->series[at];
        enum verdict v = check_series(c, s, at);
        if (v == FAILED || (v == VALID && !accept_series(c, s, at)))
            return false;
        if (c->n_valid == CHUNK && !finish_chunk(c))
            return false;
    }
    return c->n_valid == 0 || finish_chunk(c);
}

static int64_t or_none(int64_t limit)
{
    return limit > 0 ? limit : INT64_MAX;
}

bool push_check_labels(struct push *p, const uint32_t *unknown, size_t n)
{
    const struct limits *limits = p->limits;
    struct label_check c = {
        .p = p,
        .limits = limits,
        .scheme = limits_names(limits),
        .long_values = limits_long_values(limits),
        .labels_max = or_none(limits->max_label_names_per_series),
        .labels_info_max = or_none(limits->max_label_names_per_info_series),
        .name_max = (size_t)or_none(limits->max_label_name_length),
        .value_max = (size_t)or_none(limits->max_label_value_length),
    };
    int64_t most = MAX(c.labels_max, c.labels_info_max);
    c.most_labels = p->skip_count || most == INT64_MAX ? INT64_MAX : most + 256;
    buf_init(&c.text, 0);
    bool ok = check_all(&c, unknown, n);
    buf_release(&c.text);
    free(c.items);
    return ok;
}
