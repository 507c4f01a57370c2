/*
 * The texts of errors. Clients and runbooks know Mimir's wording, so it is Mimir's: what was wrong, the id in parentheses, and what to configure.
 * Texts can hold any bytes that a client sent: push_prepare's caller gets valid UTF-8, invalid runs replaced by U+FFFD.
 */
#include "base/assert.h"
#include "base/utf8.h"
#include "write/push.h"

#define CUT_RUNES 200
#define TEXT_MAX ((size_t)16 << 10)

void push_put_id(struct buf *out, enum err_code code)
{
    if (*err_public_id(code))
        buf_printf(out, " (err-mimir-%s)", err_public_id(code));
}

void push_put_hint(struct buf *out, const char *flag, const char *flag2, bool per_tenant)
{
    buf_printf(out, ". To adjust the related %slimit%s, configure -%s", per_tenant ? "per-tenant " : "", flag2 ? "s" : "", flag);
    if (flag2)
        buf_printf(out, " and -%s", flag2);
    buf_puts(out, ", or contact your service administrator.");
}

static struct buf *restart(struct push *p, size_t at, enum err_code code)
{
    buf_clear(&p->error.text);
    p->error.text.max = TEXT_MAX;
    p->error.code = code;
    p->error.at = at;
    return &p->error.text;
}

struct buf *push_error_begin(struct push *p, size_t at, enum err_code code)
{
    if (p->error.code != ERR_OK && p->error.at <= at)
        return NULL;
    return restart(p, at, code);
}

void push_error_end(struct push *p, const char *flag)
{
    push_put_id(&p->error.text, p->error.code);
    if (flag)
        push_put_hint(&p->error.text, flag, NULL, true);
}

bool push_fail(struct push *p, enum err_code code, const char *fmt, ...)
{
    struct buf *out = restart(p, 0, code);
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(out, fmt, ap);
    va_end(ap);
    push_put_id(out, code);
    return false;
}

bool push_fail_err(struct push *p, const struct err *err)
{
    return push_fail(p, err->code, "%s", err->text);
}

/* Length in bytes of the first n runes. */
static size_t runes_length(struct slice s, size_t n)
{
    size_t at = 0;
    while (n-- && at < s.n) {
        size_t size;
        utf8_decode(slice_make(s.p + at, s.n - at), &size);
        at += size;
    }
    return at;
}

void push_put_cut(struct buf *out, struct slice s, size_t n)
{
    buf_put(out, s.p, runes_length(s, n));
}

bool push_put_series(struct buf *out, struct labels l)
{
    /* What lies past the first 200 labels, or the first 200 runes of a value, is past the first 200 runes of the whole: it need not be printed. */
    struct label start[CUT_RUNES];
    size_t n = MIN(l.n, ARRAY_LEN(start));
    for (size_t i = 0; i < n; i++) {
        struct label k = l.items[i];
        start[i].name = slice_make(k.name.p, runes_length(k.name, CUT_RUNES));
        start[i].value = slice_make(k.value.p, runes_length(k.value, CUT_RUNES));
    }
    struct buf text;
    buf_init(&text, (size_t)4 << 20);
    labels_print((struct labels){start, n}, &text);
    struct slice all = buf_slice(&text);
    push_put_cut(out, all, CUT_RUNES);
    bool cut = runes_length(all, CUT_RUNES) < all.n;
    buf_release(&text);
    return cut;
}

struct slice push_metric_name(const struct write_series *s)
{
    struct write_label_iter it = write_label_iter(s->labels);
    struct label l;
    while (write_label_next(&it, &l) == 1)
        if (slice_eq(l.name, SL(METRIC_NAME_LABEL)))
            return l.value;
    return SL("");
}

void push_reject(struct push *p, struct write_series *s, enum discard_reason reason)
{
    uint64_t n = (uint64_t)s->n_samples + s->n_histograms;
    p->discards[reason] += MAX(n, 1);
    p->n_rejected += !(s->flags & WRITE_SERIES_REJECTED);
    s->flags |= WRITE_SERIES_REJECTED;
}
