/*
 * Doubles as Go prints them. <charconv> finds the shortest digits; the layouts are made here, because Go pads those digits with zeros where
 * C++'s fixed form would print the exact binary value (1e23 is "100000000000000000000000", not "99999999999999991611392").
 */
#include "base/dtoa.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cxx_int.h"

/* v = 0.d1d2d3... * 10^point, without trailing zeros. */
struct digits {
    char d[24];
    int n;
    int point;
    bool negative;
};

static size_t put_special(double v, char *out)
{
    const char *text = isnan(v) ? "NaN" : v > 0 ? "+Inf" : "-Inf";
    size_t n = strlen(text);
    memcpy(out, text, n);
    return n;
}

static size_t put_u64(uint64_t v, char *out)
{
    char tmp[20];
    size_t n = 0;
    do {
        tmp[n++] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    for (size_t i = 0; i < n; i++)
        out[i] = tmp[n - 1 - i];
    return n;
}

/* Most sample values are counts. An integer below 2^53 has no shorter digits than its own; -0 is left to the slow path. */
static size_t put_integer(double v, char *out)
{
    if (!(fabs(v) < 9007199254740992.0) || v != (double)(int64_t)v || (v == 0 && signbit(v)))
        return 0;
    if (v >= 0)
        return put_u64((uint64_t)v, out);
    *out = '-';
    return 1 + put_u64((uint64_t)-v, out + 1);
}

static void find_digits(double v, struct digits *d)
{
    char text[32];
    size_t n = cxx_double_to_scientific(v, text);
    char *p = text;
    char *end = text + n;
    d->negative = *p == '-';
    p += d->negative;
    d->n = 0;
    for (; p < end && *p != 'e'; p++)
        if (*p != '.')
            d->d[d->n++] = *p;
    ASSERT(p < end && d->n > 0 && d->n <= 20);
    bool exp_negative = p[1] == '-';
    int exp = 0;
    for (p += 2; p < end; p++)
        exp = exp * 10 + (*p - '0');
    while (d->n > 1 && d->d[d->n - 1] == '0')
        d->n--;
    d->point = (exp_negative ? -exp : exp) + 1;
    if (v == 0) /* nothing to place a point in */
        d->point = 1;
}

static size_t put_zeros(char *out, int n)
{
    memset(out, '0', (size_t)n);
    return (size_t)n;
}

static size_t put_fixed(const struct digits *d, char *out)
{
    char *p = out;
    if (d->negative)
        *p++ = '-';
    int whole = MIN(d->n, d->point);
    if (whole <= 0) {
        *p++ = '0';
        *p++ = '.';
        p += put_zeros(p, -d->point);
        whole = 0;
    } else {
        memcpy(p, d->d, (size_t)whole);
        p += whole;
        p += put_zeros(p, d->point - whole);
        if (d->n > whole)
            *p++ = '.';
    }
    memcpy(p, d->d + whole, (size_t)(d->n - whole));
    p += d->n - whole;
    return (size_t)(p - out);
}

static size_t put_exponent(const struct digits *d, char *out)
{
    char *p = out;
    if (d->negative)
        *p++ = '-';
    *p++ = d->d[0];
    if (d->n > 1) {
        *p++ = '.';
        memcpy(p, d->d + 1, (size_t)d->n - 1);
        p += d->n - 1;
    }
    int exp = d->point - 1;
    *p++ = 'e';
    *p++ = exp < 0 ? '-' : '+';
    exp = abs(exp);
    if (exp < 10)
        *p++ = '0';
    p += put_u64((uint64_t)exp, p);
    return (size_t)(p - out);
}

size_t dtoa_fixed(double v, char *out)
{
    size_t n = put_integer(v, out);
    if (n)
        return n;
    if (!isfinite(v))
        return put_special(v, out);
    struct digits d;
    find_digits(v, &d);
    return put_fixed(&d, out);
}

size_t dtoa_json(double v, char *out)
{
    size_t n = put_integer(v, out);
    if (n)
        return n;
    if (!isfinite(v))
        return put_special(v, out);
    struct digits d;
    find_digits(v, &d);
    double abs_v = fabs(v);
    return abs_v != 0 && (abs_v < 1e-6 || abs_v >= 1e21) ? put_exponent(&d, out) : put_fixed(&d, out);
}

size_t dtoa_g(double v, char *out)
{
    if (!isfinite(v))
        return put_special(v, out);
    struct digits d;
    find_digits(v, &d);
    int exp = d.point - 1;
    return exp < -4 || exp >= 6 ? put_exponent(&d, out) : put_fixed(&d, out);
}

/* --- reading ----------------------------------------------------------------------------------------------------------------- */

static bool word_is(struct slice s, const char *word)
{
    size_t n = strlen(word);
    return s.n == n && strncasecmp(s.p, word, n) == 0;
}

static bool is_digit(char c, bool hex)
{
    return (c >= '0' && c <= '9') || (hex && ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')));
}

/* Digits with at most one point and at least one digit, then an exponent: 'e' and optional, or for hex 'p' and required, as in Go. */
static bool shape_is_number(struct slice s, bool hex)
{
    size_t i = 0;
    size_t n_digits = 0;
    bool point = false;
    for (; i < s.n; i++) {
        if (s.p[i] == '.' && !point)
            point = true;
        else if (is_digit(s.p[i], hex))
            n_digits++;
        else
            break;
    }
    if (!n_digits)
        return false;
    if (i == s.n)
        return !hex;
    if ((s.p[i] | 0x20) != (hex ? 'p' : 'e'))
        return false;
    i++;
    if (i < s.n && (s.p[i] == '+' || s.p[i] == '-'))
        i++;
    if (i == s.n)
        return false;
    for (; i < s.n; i++)
        if (!is_digit(s.p[i], false))
            return false;
    return true;
}

/* Out of range for from_chars: an overflow is an error in Go, an underflow is zero or a denormal. */
static bool parse_out_of_range(struct slice s, bool hex, double *ret)
{
    char stack[128];
    size_t need = s.n + 3;
    char *text = need <= sizeof(stack) ? stack : malloc(need);
    if (!text)
        return false;
    size_t at = 0;
    if (hex) {
        memcpy(text, "0x", 2);
        at = 2;
    }
    memcpy(text + at, s.p, s.n);
    text[at + s.n] = 0;
    double v = strtod(text, NULL);
    if (text != stack)
        free(text);
    if (!isfinite(v))
        return false;
    *ret = v;
    return true;
}

bool dtoa_parse(struct slice text, double *ret)
{
    struct slice s = text;
    bool sign = s.n && (*s.p == '+' || *s.p == '-');
    bool negative = sign && *s.p == '-';
    if (sign)
        s = slice_make(s.p + 1, s.n - 1);
    double v;
    if (word_is(s, "inf") || word_is(s, "infinity")) {
        v = INFINITY;
    } else if (word_is(s, "nan")) {
        if (sign)
            return false;
        v = NAN;
    } else {
        bool hex = s.n > 2 && s.p[0] == '0' && (s.p[1] | 0x20) == 'x';
        if (hex)
            s = slice_make(s.p + 2, s.n - 2);
        if (!shape_is_number(s, hex))
            return false;
        enum cxx_parse r = cxx_double_parse(s.p, s.n, hex, &v);
        if (r == CXX_PARSE_BAD || (r == CXX_PARSE_RANGE && !parse_out_of_range(s, hex, &v)))
            return false;
    }
    *ret = negative ? -v : v;
    return true;
}
