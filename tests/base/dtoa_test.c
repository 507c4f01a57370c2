#include "base/dtoa.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

static const char *text_of(size_t (*fn)(double, char *), double v)
{
    static char out[DTOA_MAX];
    size_t n = fn(v, out);
    cr_assert(n < DTOA_MAX);
    out[n] = 0;
    return out;
}

/* Printed by Go: strconv.FormatFloat(v, 'g' and 'f', -1, 64), and encoding/json's rule for the API form. */
static const struct {
    double v;
    const char *g, *f, *json;
} golden[] = {
    {0, "0", "0", "0"},
    {-0.0, "-0", "-0", "-0"},
    {1, "1", "1", "1"},
    {-42, "-42", "-42", "-42"},
    {0.1, "0.1", "0.1", "0.1"},
    {1.0 / 3, "0.3333333333333333", "0.3333333333333333", "0.3333333333333333"},
    {100000, "100000", "100000", "100000"},
    {1e6, "1e+06", "1000000", "1000000"},
    {123456.7, "123456.7", "123456.7", "123456.7"},
    {123456789, "1.23456789e+08", "123456789", "123456789"},
    {2097151.5, "2.0971515e+06", "2097151.5", "2097151.5"},
    {9007199254740993.0, "9.007199254740992e+15", "9007199254740992", "9007199254740992"},
    {-9007199254740991.0, "-9.007199254740991e+15", "-9007199254740991", "-9007199254740991"},
    {123456789012345680000.0, "1.2345678901234568e+20", "123456789012345680000", "123456789012345680000"},
    {1e20, "1e+20", "100000000000000000000", "100000000000000000000"},
    {1e21, "1e+21", "1000000000000000000000", "1e+21"},
    {1e23, "1e+23", "100000000000000000000000", "1e+23"},
    {0.0001, "0.0001", "0.0001", "0.0001"},
    {0.00001, "1e-05", "0.00001", "0.00001"},
    {0.000001, "1e-06", "0.000001", "0.000001"},
    {0.0000001, "1e-07", "0.0000001", "1e-07"},
    {1.5e-300, "1.5e-300", NULL, "1.5e-300"},
    {1e100, "1e+100", NULL, "1e+100"},
    {5e-324, "5e-324", NULL, "5e-324"},
    {NAN, "NaN", "NaN", "NaN"},
    {INFINITY, "+Inf", "+Inf", "+Inf"},
    {-INFINITY, "-Inf", "-Inf", "-Inf"},
};

Test(dtoa, prints_as_go_does)
{
    for (size_t i = 0; i < sizeof(golden) / sizeof(*golden); i++) {
        cr_assert_str_eq(text_of(dtoa_g, golden[i].v), golden[i].g);
        cr_assert_str_eq(text_of(dtoa_json, golden[i].v), golden[i].json);
        if (golden[i].f)
            cr_assert_str_eq(text_of(dtoa_fixed, golden[i].v), golden[i].f);
    }
}

Test(dtoa, fixed_form_of_the_largest_and_smallest_fits)
{
    cr_assert_eq(strlen(text_of(dtoa_fixed, -1.7976931348623157e308)), 310);
    cr_assert_eq(strlen(text_of(dtoa_fixed, -4.9406564584124654e-324)), 327);
}

Test(dtoa, every_form_reads_back_to_the_same_bits)
{
    uint64_t x = 88172645463325252ULL;
    for (int i = 0; i < 200000; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        double v;
        uint64_t bits = i % 2 ? x : x & 0xFFFFFFFF;
        if (i % 2)
            memcpy(&v, &bits, 8);
        else
            v = (double)bits / 1000;
        if (!isfinite(v))
            continue;
        size_t (*forms[])(double, char *) = {dtoa_fixed, dtoa_json, dtoa_g};
        for (int k = 0; k < 3; k++) {
            double back;
            const char *text = text_of(forms[k], v);
            cr_assert(dtoa_parse(slice_of(text), &back), "%s", text);
            cr_assert_eq(memcmp(&v, &back, 8), 0, "%s", text);
        }
    }
}

Test(dtoa, parses_what_go_parses)
{
    static const struct {
        const char *text;
        double v;
    } good[] = {
        {"1", 1},       {"+1", 1},         {"-1.5", -1.5},  {".5", 0.5},        {"5.", 5},           {"1e3", 1000},      {"1E+3", 1000},
        {"1e-400", 0},  {"0x1p-2", 0.25},  {"0X1.8P1", 3},  {"-0x10p0", -16},   {"inf", INFINITY},   {"+Inf", INFINITY}, {"-INF", -INFINITY},
        {"nan", NAN},   {"NaN", NAN},      {"5e-324", 5e-324}, {"Infinity", INFINITY}, {"00012", 12},
        {"1.7976931348623157e308", 1.7976931348623157e308},
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        double v;
        cr_assert(dtoa_parse(slice_of(good[i].text), &v), "%s", good[i].text);
        cr_assert(isnan(good[i].v) ? isnan(v) : v == good[i].v, "%s", good[i].text);
    }
}

Test(dtoa, refuses_what_go_refuses)
{
    static const char *const bad[] = {"", "+", "-", ".", "1x", " 1", "1 ", "1_000", "0x", "0x1", "1e", "1e+", "--1", "+-1", "+nan", "nan(1)",
                                      "1e309", "-1e309", "0x1p2000", "infx", "1.2.3", "0x1e3"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        double v;
        cr_assert_not(dtoa_parse(slice_of(bad[i]), &v), "%s", bad[i]);
    }
}
