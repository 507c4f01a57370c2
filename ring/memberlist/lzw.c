#include "ring/memberlist/lzw_int.h"

#include <stdlib.h>

#include "base/assert.h"

enum { CLEAR = 256, END = 257, WIDTH_MIN = 9, WIDTH_MAX = 12, CODES = 1 << WIDTH_MAX, CODE_LAST = CODES - 1 };
enum { SLOTS = 4 * CODES, NO_CODE = -1 };

/* The strings known to the writer: key = code of all but the last byte, then that byte. 0 is a free slot (no key with a
 * code has value 0). */
struct writer {
    struct buf *out;
    uint32_t bits;
    uint32_t n_bits;
    uint32_t width;
    uint32_t high;     /* the newest code */
    uint32_t overflow; /* the first code that needs a wider code */
    uint32_t slots[SLOTS];
};

static void put_code(struct writer *w, uint32_t code)
{
    w->bits |= code << w->n_bits;
    w->n_bits += w->width;
    for (; w->n_bits >= 8; w->n_bits -= 8, w->bits >>= 8)
        buf_putc(w->out, (char)(w->bits & 0xff));
}

static void writer_reset(struct writer *w)
{
    w->width = WIDTH_MIN;
    w->high = END;
    w->overflow = 1 << WIDTH_MIN;
    memset(w->slots, 0, sizeof w->slots);
}

/* Takes the next code; false when there was none left and the table was cleared instead. */
static bool next_code(struct writer *w)
{
    w->high++;
    if (w->high == w->overflow) {
        w->width++;
        w->overflow <<= 1;
    }
    if (w->high < CODE_LAST)
        return true;
    put_code(w, CLEAR);
    writer_reset(w);
    return false;
}

/* The slot of a key: the one that holds it, or the free one where it belongs. At most a quarter of them is used. */
static uint32_t *slot_of(struct writer *w, uint32_t key)
{
    uint32_t i = (key >> 12 ^ key) % SLOTS;
    while (w->slots[i] && w->slots[i] >> WIDTH_MAX != key)
        i = (i + 1) % SLOTS;
    return &w->slots[i];
}

void lzw_encode(struct slice in, struct buf *out)
{
    struct writer *w = malloc(sizeof *w);
    if (!w) {
        out->failed = true;
        return;
    }
    w->out = out;
    w->bits = w->n_bits = 0;
    writer_reset(w);
    put_code(w, CLEAR);
    if (in.n) {
        uint32_t code = (uint8_t)in.p[0];
        for (size_t i = 1; i < in.n; i++) {
            uint32_t byte = (uint8_t)in.p[i], key = code << 8 | byte, *slot = slot_of(w, key);
            if (*slot) {
                code = *slot % CODES;
                continue;
            }
            put_code(w, code);
            code = byte;
            if (next_code(w))
                *slot = key << WIDTH_MAX | w->high;
        }
        put_code(w, code);
        next_code(w);
    }
    put_code(w, END);
    if (w->n_bits)
        buf_putc(out, (char)(w->bits & 0xff));
    free(w);
}

struct reader {
    struct slice in;
    size_t pos;
    uint32_t bits;
    uint32_t n_bits;
    uint32_t width;
    int32_t high; /* the code that the next string gets */
    int32_t last; /* the code before, NO_CODE after a clear */
    uint16_t prefix[CODES];
    uint8_t suffix[CODES];
    uint8_t text[CODES];
};

static bool get_code(struct reader *r, int32_t *ret_code)
{
    for (; r->n_bits < r->width; r->n_bits += 8) {
        if (r->pos == r->in.n)
            return false;
        r->bits |= (uint32_t)(uint8_t)r->in.p[r->pos++] << r->n_bits;
    }
    *ret_code = (int32_t)(r->bits & ((1U << r->width) - 1));
    r->bits >>= r->width;
    r->n_bits -= r->width;
    return true;
}

/* Writes the string of a code into the end of text; returns where it starts. */
static size_t expand(struct reader *r, int32_t code, size_t end)
{
    for (; code >= CLEAR; code = r->prefix[code])
        r->text[--end] = r->suffix[code];
    r->text[--end] = (uint8_t)code;
    return end;
}

/* One byte or string; false when the code cannot be known yet. */
static bool emit(struct reader *r, int32_t code, struct buf *out)
{
    size_t end = CODES, start;
    if (code == r->high && r->last != NO_CODE) {
        /* The string that is just being made: the last one and its own first byte. */
        start = expand(r, r->last, end - 1);
        r->text[end - 1] = r->text[start];
    } else if (code < CLEAR || (code > END && code < r->high)) {
        start = expand(r, code, end);
    } else {
        return false;
    }
    if (r->last != NO_CODE) {
        r->prefix[r->high] = (uint16_t)r->last;
        r->suffix[r->high] = r->text[start];
    }
    buf_put(out, r->text + start, end - start);
    return !out->failed;
}

/*
 * The reader is one string behind the writer: high names the string that the next code completes. When all 12-bit codes
 * are taken, no more are made until a clear comes.
 */
static void advance(struct reader *r, int32_t code)
{
    r->last = code;
    r->high++;
    if (r->high < 1 << r->width)
        return;
    if (r->width == WIDTH_MAX) {
        r->last = NO_CODE;
        r->high--;
    } else {
        r->width++;
    }
}

bool lzw_decode(struct slice in, struct buf *out)
{
    struct reader *r = malloc(sizeof *r);
    if (!r)
        return false;
    *r = (struct reader){.in = in, .width = WIDTH_MIN, .high = END, .last = NO_CODE};
    bool ok = false;
    for (int32_t code; get_code(r, &code);) {
        if (code == CLEAR) {
            r->width = WIDTH_MIN;
            r->high = END;
            r->last = NO_CODE;
        } else if (code == END) {
            ok = true;
            break;
        } else if (emit(r, code, out)) {
            advance(r, code);
        } else {
            break;
        }
    }
    free(r);
    return ok && !out->failed;
}
