/* Values of flags: text to C and back (base/flags.h). */
#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/dtoa.h"
#include "base/flags_int.h"

static bool parse_bool(struct slice text, bool *ret, struct err *err)
{
    /* The spellings of Go's strconv.ParseBool. */
    static const char *const yes[] = {"1", "t", "T", "true", "TRUE", "True"};
    static const char *const no[] = {"0", "f", "F", "false", "FALSE", "False"};
    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (slice_eq(text, slice_of(yes[i])) || slice_eq(text, slice_of(no[i]))) {
            *ret = slice_eq(text, slice_of(yes[i]));
            return true;
        }
    }
    return err_set(err, ERR_CONFIG, "not a boolean: \"%.*s\"", SL_FMT(text));
}

static bool parse_u64(struct slice text, uint64_t *ret, size_t *ret_used)
{
    uint64_t v = 0;
    size_t i = 0;
    for (; i < text.n && text.p[i] >= '0' && text.p[i] <= '9'; i++)
        if (__builtin_mul_overflow(v, 10u, &v) || __builtin_add_overflow(v, (uint64_t)(text.p[i] - '0'), &v))
            return false;
    *ret = v;
    *ret_used = i;
    return i > 0;
}

static bool parse_int(struct slice text, int64_t *ret, struct err *err)
{
    bool negative = text.n > 0 && text.p[0] == '-';
    struct slice digits = negative ? slice_make(text.p + 1, text.n - 1) : text;
    uint64_t v;
    size_t used;
    if (!parse_u64(digits, &v, &used) || used != digits.n || v > INT64_MAX)
        return err_set(err, ERR_CONFIG, "not an integer: \"%.*s\"", SL_FMT(text));
    *ret = negative ? -(int64_t)v : (int64_t)v;
    return true;
}

/* One or more numbers with their units, which are added: Go programs print 65535 as "63KiB1023B". */
static bool parse_bytes(struct slice text, uint64_t *ret, struct err *err)
{
    static const struct {
        const char *suffix;
        uint64_t factor;
    } suffixes[] = {{"", 1},          {"B", 1},          {"KiB", 1ull << 10}, {"MiB", 1ull << 20}, {"GiB", 1ull << 30},
                    {"TiB", 1ull << 40}, {"KB", 1000},     {"MB", 1000000},     {"GB", 1000000000}};
    uint64_t v, part, sum = 0;
    size_t used, at = 0;
    bool ok = text.n > 0;
    while (ok && at < text.n && (ok = parse_u64(slice_make(text.p + at, text.n - at), &v, &used))) {
        size_t end = at + used;
        while (end < text.n && (text.p[end] < '0' || text.p[end] > '9'))
            end++;
        struct slice suffix = slice_make(text.p + at + used, end - at - used);
        ok = false;
        for (size_t i = 0; i < ARRAY_LEN(suffixes) && !ok; i++)
            ok = slice_eq(suffix, slice_of(suffixes[i].suffix)) && !__builtin_mul_overflow(v, suffixes[i].factor, &part) &&
                 !__builtin_add_overflow(sum, part, &sum);
        at = end;
    }
    if (!ok)
        return err_set(err, ERR_CONFIG, "not a size in bytes: \"%.*s\"", SL_FMT(text));
    *ret = sum;
    return true;
}

bool flag_value_parse(enum flag_type type, struct slice text, void *ret_field, struct flag_set *owner, struct err *err)
{
    uint64_t u;
    size_t used;
    switch (type) {
    case FLAG_STRING:
    case FLAG_SECRET:
    case FLAG_TREE:
        *(const char **)ret_field = arena_dup(&owner->arena, text).p;
        return true;
    case FLAG_BOOL:
        return parse_bool(text, ret_field, err);
    case FLAG_INT:
        return parse_int(text, ret_field, err);
    case FLAG_UINT64:
        if (!parse_u64(text, &u, &used) || used != text.n)
            return err_set(err, ERR_CONFIG, "not an unsigned integer: \"%.*s\"", SL_FMT(text));
        *(uint64_t *)ret_field = u;
        return true;
    case FLAG_DOUBLE:
        if (!dtoa_parse(text, ret_field))
            return err_set(err, ERR_CONFIG, "not a number: \"%.*s\"", SL_FMT(text));
        return true;
    case FLAG_DURATION:
        return duration_parse(text, ret_field, err);
    case FLAG_BYTES:
        return parse_bytes(text, ret_field, err);
    case FLAG_LIST:
        flag_list_parse(text, ret_field, owner);
        return true;
    }
    ASSERT(false);
    return false;
}

void flag_list_parse(struct slice text, struct flag_list *ret, struct flag_set *owner)
{
    size_t n = text.n ? 1 : 0;
    for (size_t i = 0; i < text.n; i++)
        n += text.p[i] == ',';
    const char **items = ARENA_ARRAY(&owner->arena, const char *, n);
    const char *start = text.p;
    for (size_t i = 0; i < n; i++) {
        const char *end = memchr(start, ',', (size_t)(text.p + text.n - start));
        if (!end)
            end = text.p + text.n;
        items[i] = arena_dup(&owner->arena, slice_make(start, (size_t)(end - start))).p;
        start = end + 1;
    }
    *ret = (struct flag_list){items, n};
}

void flag_value_print(enum flag_type type, const void *field, struct buf *out)
{
    char num[DTOA_MAX];
    const struct flag_list *list = field;
    switch (type) {
    case FLAG_STRING:
    case FLAG_TREE:
        buf_puts(out, *(const char *const *)field);
        return;
    case FLAG_SECRET:
        buf_puts(out, **(const char *const *)field ? "********" : "");
        return;
    case FLAG_BOOL:
        buf_puts(out, *(const bool *)field ? "true" : "false");
        return;
    case FLAG_INT:
        buf_put_i64(out, *(const int64_t *)field);
        return;
    case FLAG_UINT64:
    case FLAG_BYTES:
        buf_put_u64(out, *(const uint64_t *)field);
        return;
    case FLAG_DOUBLE:
        buf_put(out, num, dtoa_g(*(const double *)field, num));
        return;
    case FLAG_DURATION:
        duration_print(*(const int64_t *)field, out);
        return;
    case FLAG_LIST:
        for (size_t i = 0; i < list->n; i++) {
            buf_puts(out, i ? "," : "");
            buf_puts(out, list->items[i]);
        }
        return;
    }
}
