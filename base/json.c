#include "base/json.h"

#include <math.h>

#include "base/assert.h"
#include "base/dtoa.h"
#include "base/utf8.h"

#define JSON_MAX_DEPTH 32

void json_init(struct json *j, struct buf *out)
{
    *j = (struct json){.out = out};
}

/* What stands before a value: nothing after a key or as the first item, else a comma. */
static void before_value(struct json *j)
{
    if (j->after_key) {
        j->after_key = false;
        return;
    }
    uint32_t bit = 1u << j->depth;
    if (j->has_items & bit)
        buf_putc(j->out, ',');
    j->has_items |= bit;
}

static void open_level(struct json *j, char c)
{
    before_value(j);
    buf_putc(j->out, c);
    j->depth++;
    ASSERT(j->depth < JSON_MAX_DEPTH);
    j->has_items &= ~(1u << j->depth);
}

static void close_level(struct json *j, char c)
{
    ASSERT(j->depth > 0 && !j->after_key);
    j->depth--;
    buf_putc(j->out, c);
}

void json_obj(struct json *j)
{
    open_level(j, '{');
}

void json_obj_end(struct json *j)
{
    close_level(j, '}');
}

void json_arr(struct json *j)
{
    open_level(j, '[');
}

void json_arr_end(struct json *j)
{
    close_level(j, ']');
}

void json_key(struct json *j, struct slice key)
{
    before_value(j);
    json_put_quoted(j->out, key);
    buf_putc(j->out, ':');
    j->after_key = true;
}

void json_str(struct json *j, struct slice s)
{
    before_value(j);
    json_put_quoted(j->out, s);
}

void json_i64(struct json *j, int64_t v)
{
    before_value(j);
    buf_put_i64(j->out, v);
}

void json_u64(struct json *j, uint64_t v)
{
    before_value(j);
    buf_put_u64(j->out, v);
}

void json_bool(struct json *j, bool v)
{
    json_raw(j, v ? SL("true") : SL("false"));
}

void json_put_null(struct json *j)
{
    json_raw(j, SL("null"));
}

void json_raw(struct json *j, struct slice literal)
{
    before_value(j);
    buf_put_slice(j->out, literal);
}

void json_double(struct json *j, double v)
{
    if (!isfinite(v)) {
        json_put_null(j);
        return;
    }
    before_value(j);
    char text[DTOA_MAX];
    buf_put(j->out, text, dtoa_json(v, text));
}

static bool is_plain(unsigned char c)
{
    return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

static void put_escaped_byte(struct buf *out, unsigned char c)
{
    static const char short_form[] = {['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't', ['\b'] = 'b', ['\f'] = 'f', ['"'] = '"', ['\\'] = '\\'};
    buf_putc(out, '\\');
    if (c < sizeof(short_form) && short_form[c])
        buf_putc(out, short_form[c]);
    else
        buf_printf(out, "u%04x", c);
}

/* Eight bytes at once: of bytes below 0x80, one that is less than what is subtracted ends up with its high bit set; one that is looked for is 0 after the ^. */
static bool are_plain(const char *p)
{
    const uint64_t ones = 0x0101010101010101, highs = 0x8080808080808080;
    uint64_t w;
    memcpy(&w, p, sizeof(w));
    uint64_t quotes = w ^ ones * '"', backslashes = w ^ ones * '\\';
    return ((w | (w - ones * 0x20) | (quotes - ones) | (backslashes - ones)) & highs) == 0;
}

void json_put_quoted(struct buf *out, struct slice s)
{
    buf_putc(out, '"');
    size_t i = 0;
    while (i < s.n) {
        size_t run = i;
        while (s.n - run >= sizeof(uint64_t) && are_plain(s.p + run))
            run += sizeof(uint64_t);
        while (run < s.n && is_plain((unsigned char)s.p[run]))
            run++;
        buf_put(out, s.p + i, run - i);
        if ((i = run) == s.n)
            break;
        unsigned char c = (unsigned char)s.p[i];
        if (c < 0x80) {
            put_escaped_byte(out, c);
            i++;
            continue;
        }
        size_t size;
        uint32_t rune = utf8_decode(slice_make(s.p + i, s.n - i), &size);
        if (rune == 0xFFFD && size == 1)
            buf_puts(out, "\\ufffd");
        else if (rune == 0x2028 || rune == 0x2029)
            buf_printf(out, "\\u%04x", rune);
        else
            buf_put(out, s.p + i, size);
        i += size;
    }
    buf_putc(out, '"');
}
