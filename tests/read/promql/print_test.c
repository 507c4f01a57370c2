/* What golden.txt cannot hold: places where Prometheus's own printing loses something. */
#include <criterion/criterion.h>
#include <string.h>

#include "read/promql/ast.h"

static void check(const char *text, const char *want)
{
    struct arena arena;
    arena_init(&arena, 0);
    struct err err = ERR_NONE;
    struct node *n = promql_parse(slice_of(text), NULL, &arena, &err);
    cr_assert_not_null(n, "%s: %s", text, err.text);
    struct buf b;
    buf_init(&b, 0);
    promql_print(n, &b);
    cr_expect_str_eq(buf_cstr(&b), want);
    buf_release(&b);
    promql_release(n);
    arena_release(&arena);
}

/* Prometheus prints 1s2ms and 333303h3m325ms: seconds in a double, multiplied and cut. */
Test(promql_print, milliseconds_survive)
{
    check("1003ms", "1s3ms");
    check("foo[1003ms]", "foo[1s3ms]");
    check("foo offset -1003ms", "foo offset -1s3ms");
    check("333303h3m326ms", "13887d15h3m326ms");
    check("foo[333303h3m326ms]", "foo[13887d15h3m326ms]");
    check("foo[0.0015]", "foo[1ms]");
}

Test(promql_print, years_and_weeks_only_when_exact)
{
    check("365d", "1y");
    check("14d", "2w");
    check("15d", "15d");
    check("400d", "400d");
    check("0s", "0s");
}

Test(promql_print, a_full_buffer_stops_the_printer)
{
    struct arena arena;
    arena_init(&arena, 0);
    struct node *n = promql_parse(SL("sum by (a) (rate(foo{bar=\"baz\"}[5m]))"), NULL, &arena, NULL);
    struct buf b;
    buf_init(&b, 10);
    promql_print(n, &b);
    promql_pretty(n, &b);
    cr_assert(b.failed && b.n <= 10);
    buf_release(&b);
    promql_release(n);
    arena_release(&arena);
}
