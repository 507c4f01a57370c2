/* Durations as Go and Prometheus write them (base/flags.h). */
#include <inttypes.h>
#include <stdio.h>

#include "base/assert.h"
#include "base/flags.h"

struct unit {
    const char *name;
    size_t name_len;
    int64_t ns;
};

#define NS_PER_MS INT64_C(1000000)
#define MS_PER_S INT64_C(1000)
#define MS_PER_M (60 * MS_PER_S)
#define MS_PER_H (60 * MS_PER_M)
#define MS_PER_D (24 * MS_PER_H)

/* Longer names first: "ms" must not be read as "m". */
static const struct unit units[] = {
    {"ns", 2, 1},
    {"us", 2, 1000},
    {"\xC2\xB5s", 3, 1000},
    {"ms", 2, NS_PER_MS},
    {"s", 1, MS_PER_S *NS_PER_MS},
    {"m", 1, MS_PER_M *NS_PER_MS},
    {"h", 1, MS_PER_H *NS_PER_MS},
    {"d", 1, MS_PER_D *NS_PER_MS},
    {"w", 1, 7 * MS_PER_D *NS_PER_MS},
    {"y", 1, 365 * MS_PER_D *NS_PER_MS},
};

static const struct unit *unit_at(struct slice s)
{
    for (size_t i = 0; i < ARRAY_LEN(units); i++)
        if (slice_has_prefix(s, slice_make(units[i].name, units[i].name_len)))
            return &units[i];
    return NULL;
}

/* How many bytes of "12" or "1.5" s begins with; 0: no number. */
static size_t number_len(struct slice s)
{
    size_t i = 0, dots = 0;
    while (i < s.n && ((s.p[i] >= '0' && s.p[i] <= '9') || (s.p[i] == '.' && dots == 0)))
        dots += s.p[i++] == '.';
    return i == dots ? 0 : i;
}

/* Adds so many units; false when that is out of range. A fraction is scaled by itself: 33.3 s are 33,300 ms, not a bit less. */
static bool add_units(struct slice number, int64_t unit_ns, int64_t *total_ns)
{
    int64_t whole = 0, fraction = 0, scale = 1;
    size_t i = 0;
    for (; i < number.n && number.p[i] != '.'; i++)
        if (__builtin_mul_overflow(whole, 10, &whole) || __builtin_add_overflow(whole, number.p[i] - '0', &whole))
            return false;
    /* Fifteen digits say it to the microsecond even in years, and only milliseconds stay. */
    for (i++; i < number.n && scale < INT64_C(1000000000000000); i++) {
        fraction = fraction * 10 + (number.p[i] - '0');
        scale *= 10;
    }
    int64_t part = (int64_t)((double)fraction * ((double)unit_ns / (double)scale));
    return !__builtin_mul_overflow(whole, unit_ns, &whole) && !__builtin_add_overflow(whole, part, &whole) &&
           !__builtin_add_overflow(*total_ns, whole, total_ns);
}

bool duration_parse(struct slice text, int64_t *ret_ms, struct err *err)
{
    struct slice rest = text;
    bool negative = rest.n > 0 && rest.p[0] == '-';
    if (negative)
        rest = slice_make(rest.p + 1, rest.n - 1);
    if (slice_eq(rest, SL("0"))) {
        *ret_ms = 0;
        return true;
    }
    int64_t ns = 0;
    if (rest.n == 0)
        return err_set(err, ERR_BAD_DATA, "empty duration string");
    while (rest.n > 0) {
        struct slice number = slice_make(rest.p, number_len(rest));
        rest = slice_make(rest.p + number.n, rest.n - number.n);
        const struct unit *u = number.n ? unit_at(rest) : NULL;
        if (!u)
            return err_set(err, ERR_BAD_DATA, "not a valid duration string: \"%.*s\"", SL_FMT(text));
        rest = slice_make(rest.p + u->name_len, rest.n - u->name_len);
        if (!add_units(number, u->ns, &ns))
            return err_set(err, ERR_BAD_DATA, "duration out of range: \"%.*s\"", SL_FMT(text));
    }
    int64_t ms = ns / NS_PER_MS;
    *ret_ms = negative ? -ms : ms;
    return true;
}

void duration_print(int64_t ms, struct buf *out)
{
    if (ms < 0) {
        buf_putc(out, '-');
        ms = -ms;
    }
    if (ms < MS_PER_S) {
        if (ms == 0)
            buf_puts(out, "0s");
        else
            buf_printf(out, "%" PRId64 "ms", ms);
        return;
    }
    int64_t h = ms / MS_PER_H, m = ms % MS_PER_H / MS_PER_M, s = ms % MS_PER_M / MS_PER_S, rest = ms % MS_PER_S;
    if (h)
        buf_printf(out, "%" PRId64 "h", h);
    if (h || m)
        buf_printf(out, "%" PRId64 "m", m);
    buf_printf(out, "%" PRId64, s);
    if (rest) {
        char frac[8];
        int n = snprintf(frac, sizeof(frac), ".%03d", (int)rest);
        while (frac[n - 1] == '0')
            n--;
        buf_put(out, frac, (size_t)n);
    }
    buf_putc(out, 's');
}

void duration_print_prometheus(int64_t ms, struct buf *out)
{
    static const struct {
        const char *name;
        int64_t ms;
        bool exact; /* only when nothing is left: 1y is not 52w1d */
    } parts[] = {{"y", 365 * MS_PER_D, true}, {"w", 7 * MS_PER_D, true}, {"d", MS_PER_D, false}, {"h", MS_PER_H, false},
                 {"m", MS_PER_M, false},      {"s", MS_PER_S, false},    {"ms", 1, false}};
    if (ms == 0) {
        buf_puts(out, "0s");
        return;
    }
    if (ms < 0) {
        buf_putc(out, '-');
        ms = -ms;
    }
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        if (ms < parts[i].ms || (parts[i].exact && ms % parts[i].ms != 0))
            continue;
        buf_printf(out, "%" PRId64 "%s", ms / parts[i].ms, parts[i].name);
        ms %= parts[i].ms;
    }
}
