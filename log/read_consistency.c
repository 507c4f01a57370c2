/* Read consistency as text: levels, offsets of partitions, what a query's tags ask for. All of it comes from outside. */
#include "log/read_consistency.h"

#include "base/flags.h"

bool read_consistency_parse(struct slice text, enum read_consistency *ret)
{
    if (slice_eq(text, SL("strong")))
        *ret = READ_STRONG;
    else if (slice_eq(text, SL("eventual")))
        *ret = READ_EVENTUAL;
    else
        return false;
    return true;
}

/* --- offsets --- */

void read_offsets_put(const struct partition_offset *offsets, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n; i++) {
        buf_puts(out, i ? "," : "v1=");
        buf_put_i64(out, offsets[i].partition);
        buf_putc(out, ':');
        buf_put_i64(out, offsets[i].offset);
    }
}

/* Takes a decimal number of at most max off the front: digits only, no sign. */
static bool take_number(struct slice *s, int64_t max, int64_t *ret)
{
    size_t n = 0;
    int64_t v = 0;
    for (; n < s->n && s->p[n] >= '0' && s->p[n] <= '9'; n++) {
        int digit = s->p[n] - '0';
        if (v > (max - digit) / 10)
            return false;
        v = 10 * v + digit;
    }
    *s = slice_make(s->p + n, s->n - n);
    *ret = v;
    return n > 0;
}

static bool take_char(struct slice *s, char c)
{
    if (s->n == 0 || s->p[0] != c)
        return false;
    *s = slice_make(s->p + 1, s->n - 1);
    return true;
}

/* "<partition>:<offset>"; -1 is the only offset with a sign. */
static bool take_entry(struct slice *s, int64_t *ret_partition, int64_t *ret_offset)
{
    if (!take_number(s, INT32_MAX, ret_partition) || !take_char(s, ':'))
        return false;
    if (!take_char(s, '-'))
        return take_number(s, INT64_MAX, ret_offset);
    *ret_offset = -1;
    return take_char(s, '1');
}

bool read_offsets_find(struct slice text, int32_t partition, int64_t *ret_offset)
{
    bool found = false;
    int64_t at, offset, found_offset = 0;
    if (!slice_has_prefix(text, SL("v1=")))
        return false;
    struct slice rest = slice_make(text.p + 3, text.n - 3);
    do {
        if (!take_entry(&rest, &at, &offset))
            return false;
        if (at == partition) {
            found = true;
            found_offset = offset;
        }
    } while (take_char(&rest, ','));
    if (!found || rest.n > 0)
        return false;
    *ret_offset = found_offset;
    return true;
}

/* --- a query's wish --- */

/* A duration above 0; else 0. */
static int64_t delay_of(const struct ctx *ctx, struct slice tag)
{
    struct slice text = ctx_tag_find(ctx, tag);
    int64_t ms;
    return text.n && duration_parse(text, &ms, NULL) && ms > 0 ? ms : 0;
}

struct read_wish read_wish_of(const struct ctx *ctx, int32_t partition)
{
    struct read_wish w = {.level = READ_EVENTUAL};
    read_consistency_parse(ctx_tag_find(ctx, SL(READ_LEVEL_TAG)), &w.level);
    if (w.level == READ_STRONG)
        w.has_offset = read_offsets_find(ctx_tag_find(ctx, SL(READ_OFFSETS_TAG)), partition, &w.offset);
    if (w.level == READ_EVENTUAL) {
        w.max_delay_ms = delay_of(ctx, SL(READ_MAX_DELAY_TAG));
        w.prefer_delay_ms = delay_of(ctx, SL(READ_PREFER_DELAY_TAG));
    }
    return w;
}

/* --- an owner that is behind --- */

#define LAG_PREFIX "behind_ms="

bool read_lag_err(int64_t behind_ms, struct err *err)
{
    return err_set(err, ERR_LAGGING, LAG_PREFIX "%lld: the ingester has not consumed the newest records of its partition", (long long)behind_ms);
}

bool read_lag_parse(struct slice text, int64_t *ret_behind_ms)
{
    if (!slice_has_prefix(text, SL(LAG_PREFIX)))
        return false;
    struct slice rest = slice_make(text.p + sizeof(LAG_PREFIX) - 1, text.n - (sizeof(LAG_PREFIX) - 1));
    return take_number(&rest, INT64_MAX, ret_behind_ms) && take_char(&rest, ':');
}
