/* Label sets as text, and Go's quoting of strings: messages are compared with Mimir's and Prometheus's, so that the
 * escapes must be the same. */
#include "base/assert.h"
#include "base/utf8.h"
#include "model/labels.h"

struct rune_range {
    uint32_t first;
    uint32_t last;
};

static const struct rune_range printable[] = {
#define P(first, last) {first, last},
#include "model/printable.def"
#undef P
};

static bool rune_is_printable(uint32_t r)
{
    if (r < 0x7f)
        return r >= 0x20;
    size_t lo = 0, hi = ARRAY_LEN(printable);
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (printable[mid].last < r)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < ARRAY_LEN(printable) && printable[lo].first <= r;
}

/* The letter of \a \b \f \n \r \t \v, or 0. */
static char escape_letter(uint32_t r)
{
    return r >= 7 && r <= 13 ? "abtnvfr"[r - 7] : 0;
}

static void put_escaped_rune(uint32_t r, struct slice bytes, struct buf *out)
{
    bool is_bad_byte = r == 0xFFFD && bytes.n == 1;
    if (r == '"' || r == '\\') {
        buf_putc(out, '\\');
        buf_putc(out, (char)r);
    } else if (is_bad_byte) {
        buf_printf(out, "\\x%02x", (unsigned)(unsigned char)bytes.p[0]);
    } else if (rune_is_printable(r)) {
        buf_put_slice(out, bytes);
    } else if (escape_letter(r)) {
        buf_putc(out, '\\');
        buf_putc(out, escape_letter(r));
    } else if (r < 0x20 || r == 0x7f) {
        buf_printf(out, "\\x%02x", (unsigned)r);
    } else {
        buf_printf(out, r < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)r);
    }
}

static bool is_plain(char c)
{
    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

void labels_put_quoted(struct slice s, struct buf *out)
{
    buf_putc(out, '"');
    size_t i = 0;
    while (i < s.n) {
        size_t run = i;
        while (run < s.n && is_plain(s.p[run]))
            run++;
        buf_put(out, s.p + i, run - i);
        i = run;
        if (i == s.n)
            break;
        size_t size;
        uint32_t r = utf8_decode(slice_make(s.p + i, s.n - i), &size);
        put_escaped_rune(r, slice_make(s.p + i, size), out);
        i += size;
    }
    buf_putc(out, '"');
}

void labels_print(struct labels l, struct buf *out)
{
    size_t name_at = SIZE_MAX;
    for (size_t i = 0; i < l.n && name_at == SIZE_MAX; i++) {
        if (slice_eq(l.items[i].name, SL(METRIC_NAME_LABEL)) && l.items[i].value.n)
            name_at = i;
    }
    if (name_at != SIZE_MAX) {
        buf_put_slice(out, l.items[name_at].value);
        if (l.n == 1)
            return;
    }
    buf_putc(out, '{');
    bool first = true;
    for (size_t i = 0; i < l.n; i++) {
        if (i == name_at)
            continue;
        if (!first)
            buf_puts(out, ", ");
        first = false;
        buf_put_slice(out, l.items[i].name);
        buf_putc(out, '=');
        labels_put_quoted(l.items[i].value, out);
    }
    buf_putc(out, '}');
}

void labels_print_set(struct labels l, struct buf *out)
{
    buf_putc(out, '{');
    for (size_t i = 0; i < l.n; i++) {
        if (i)
            buf_puts(out, ", ");
        if (label_name_is_legacy(l.items[i].name))
            buf_put_slice(out, l.items[i].name);
        else
            labels_put_quoted(l.items[i].name, out);
        buf_putc(out, '=');
        labels_put_quoted(l.items[i].value, out);
    }
    buf_putc(out, '}');
}
