#include <criterion/criterion.h>

#include "base/assert.h"
#include "base/clock.h"

Test(clock, rfc3339_has_the_decimals_that_are_asked_for)
{
    static const struct {
        int64_t s;
        int32_t ns;
        int decimals;
        const char *text;
    } cases[] = {
        {1795237032, 493000000, 0, "2026-11-21T04:57:12Z"},
        {1795237032, 493000000, 3, "2026-11-21T04:57:12.493Z"},
        {1795237032, 493000000, 9, "2026-11-21T04:57:12.493000000Z"},
        {1795237032, 493000000, CLOCK_AS_NEEDED, "2026-11-21T04:57:12.493Z"},
        {1795237030, 500000000, CLOCK_AS_NEEDED, "2026-11-21T04:57:10.5Z"},
        {1795237030, 0, CLOCK_AS_NEEDED, "2026-11-21T04:57:10Z"},
        {0, -1000000, CLOCK_AS_NEEDED, "1969-12-31T23:59:59.999Z"},
        {-1, -1000000, 3, "1969-12-31T23:59:58.999Z"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[CLOCK_RFC3339_MAX];
        cr_expect(clock_rfc3339(cases[i].s, cases[i].ns, cases[i].decimals, text));
        cr_expect_str_eq(text, cases[i].text);
    }
}

Test(clock, a_second_that_no_calendar_has_is_no_time)
{
    char text[CLOCK_RFC3339_MAX];
    cr_expect(!clock_rfc3339(INT64_MAX, 0, 0, text));
    cr_expect_str_eq(text, CLOCK_NO_TIME);
}
