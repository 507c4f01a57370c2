/* The engine's limits: memory, samples, series, cancellation, deadlines. The store is a list of equal series made on the fly. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/clock.h"
#include "read/promql/engine.h"

#define SAMPLES 100

struct fake {
    struct queryable q;
    size_t n_series;
};

struct fake_set {
    struct series_set base;
    size_t i, n;
    struct arena arena;
    struct series_chunk chunk;
    atomic_bool *cancel_at_next;
};

static atomic_bool canceled;
static bool cancel_while_reading;

static bool fake_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct fake_set *s = (struct fake_set *)base;
    (void)ctx, (void)err;
    *ret_n = 0;
    if (cancel_while_reading)
        atomic_store(&canceled, true);
    for (; s->i < s->n && *ret_n < max; s->i++) {
        struct label *l = ARENA_ARRAY(&s->arena, struct label, 2);
        l[0] = (struct label){SL(METRIC_NAME_LABEL), SL("m")};
        l[1] = (struct label){SL("i"), slice_of(arena_printf(&s->arena, "%zu", s->i))};
        ret[(*ret_n)++] = (struct series){{l, 2}, &s->chunk, 1};
    }
    return true;
}

static void fake_release(struct series_set *base)
{
    struct fake_set *s = (struct fake_set *)base;
    arena_release(&s->arena);
    free(s);
}

static const struct series_set_ops fake_set_ops = {fake_next, fake_release};

static struct series_set *fake_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    (void)ctx, (void)p, (void)err;
    struct fake_set *s = calloc(1, sizeof(*s));
    s->base.ops = &fake_set_ops;
    s->n = ((struct fake *)q)->n_series;
    arena_init(&s->arena, 0);
    uint8_t bytes[SAMPLES * XOR_SAMPLE_MAX_BYTES];
    struct xor_appender a;
    xor_appender_init(&a);
    for (int i = 0; i < SAMPLES; i++)
        xor_append(&a, bytes, i * 15000, i);
    s->chunk = (struct series_chunk){0, (SAMPLES - 1) * 15000, CHUNK_XOR, arena_dup(&s->arena, slice_make(bytes, xor_size(&a)))};
    return &s->base;
}

static const struct queryable_ops fake_ops = {.select = fake_select};

/* Runs a range query over the whole of the data; "" when it succeeds, else the error's text. */
static const char *run(const char *text, const struct engine_config *cfg, size_t n_series, int64_t step_ms, struct ctx *ctx,
                       enum err_code *ret_code)
{
    static struct err err;
    struct fake fake = {{&fake_ops}, n_series};
    struct arena a;
    struct engine_result res;
    arena_init(&a, 0);
    ctx->arena = &a;
    err = ERR_NONE;
    struct node *n = promql_parse(slice_of(text), NULL, &a, &err);
    cr_assert(n, "%s", err.text);
    struct engine_query q = {.expr = n, .text = slice_of(text), .end_ms = SAMPLES * 15000, .step_ms = step_ms};
    bool ok = engine_exec(cfg, &fake.q, ctx, &q, &res, &err);
    promql_release(n);
    arena_release(&a);
    *ret_code = ok ? ERR_OK : err.code;
    return ok ? "" : err.text;
}

static const struct engine_config open_config = {.lookback_delta_ms = 300000, .default_evaluation_interval_ms = 60000};

Test(limits, aggregation_streams_within_a_memory_that_the_series_would_not_fit)
{
    struct engine_config cfg = open_config;
    struct ctx ctx = {0};
    enum err_code code;
    cfg.max_memory_bytes = 2 << 20; /* 5,000 series x 101 steps x 8 bytes are 4 MB */
    const char *why = run("sum(rate(m[5m]))", &cfg, 5000, 15000, &ctx, &code);
    cr_assert_eq(code, ERR_OK, "%s", why);
}

Test(limits, memory_past_the_budget_is_an_error_that_names_the_flag)
{
    struct engine_config cfg = open_config;
    struct ctx ctx = {0};
    enum err_code code;
    cfg.max_memory_bytes = 2 << 20;
    const char *why = run("quantile(0.5, m)", &cfg, 5000, 15000, &ctx, &code);
    cr_assert_eq(code, ERR_MAX_QUERY_MEMORY);
    cr_assert(strstr(why, "consumed by a single query (limit: 2097152 bytes) (err-mimir-max-estimated-memory-consumption-per-query). Consider"),
              "%s", why);
}

/* "(" a " or " b ")", as deep as needed: 2^depth selectors. */
static void put_or_tree(struct buf *out, int depth)
{
    if (depth == 0) {
        buf_puts(out, "m");
        return;
    }
    buf_puts(out, "(");
    put_or_tree(out, depth - 1);
    buf_puts(out, " or ");
    put_or_tree(out, depth - 1);
    buf_puts(out, ")");
}

Test(limits, operators_that_have_ended_hold_no_memory)
{
    struct engine_config cfg = open_config;
    struct ctx ctx = {0};
    enum err_code code;
    struct buf text;
    buf_init(&text, 1 << 20);
    put_or_tree(&text, 10);
    cfg.max_memory_bytes = 8 << 20; /* the buffers of 1,024 selectors at a time would be 30 MB */
    const char *why = run(buf_cstr(&text), &cfg, 0, 15000, &ctx, &code);
    cr_assert_eq(code, ERR_OK, "%s", why);
    buf_release(&text);
}

Test(limits, the_tree_counts_as_memory_of_the_query)
{
    struct engine_config cfg = open_config;
    struct ctx ctx = {0};
    enum err_code code;
    struct buf text;
    buf_init(&text, 1 << 20);
    put_or_tree(&text, 10);
    cfg.max_memory_bytes = 256 << 10;
    run(buf_cstr(&text), &cfg, 0, 15000, &ctx, &code);
    cr_assert_eq(code, ERR_MAX_QUERY_MEMORY);
    buf_release(&text);
}

Test(limits, samples_in_memory)
{
    struct engine_config cfg = open_config;
    struct ctx ctx = {0};
    enum err_code code;
    cfg.max_samples = 5000;
    cr_assert_str_eq(run("m", &cfg, 1000, 15000, &ctx, &code),
                     "query processing would load too many samples into memory in query execution");
    cr_assert_eq(code, ERR_EXECUTION);
    run("sum(m)", &cfg, 1000, 15000, &ctx, &code);
    cr_assert_eq(code, ERR_OK);
}

Test(limits, series_chunks_and_bytes_have_mimirs_texts)
{
    struct engine_config series = open_config, chunks = open_config, bytes = open_config;
    struct ctx ctx = {0};
    enum err_code code;
    series.max_series = 10;
    chunks.max_chunks = 11;
    bytes.max_chunk_bytes = 100;
    const char *why = run("m", &series, 20, 15000, &ctx, &code);
    cr_assert_eq(code, ERR_MAX_SERIES_PER_QUERY);
    cr_assert(strstr(why, "the query exceeded the maximum number of series (limit: 10 series) (err-mimir-max-series-per-query). Consider reducing"),
              "%s", why);
    why = run("m", &chunks, 20, 15000, &ctx, &code);
    cr_assert_eq(code, ERR_MAX_CHUNKS_PER_QUERY, "%s", why);
    why = run("m", &bytes, 20, 15000, &ctx, &code);
    cr_assert_eq(code, ERR_MAX_CHUNK_BYTES_PER_QUERY);
    cr_assert(strstr(why, "the query exceeded the aggregated chunks size limit (limit: 100 bytes)"), "%s", why);
}

Test(limits, cancellation_is_seen_between_batches)
{
    struct ctx ctx = {.canceled = &canceled};
    enum err_code code;
    cancel_while_reading = true;
    run("sum(m)", &open_config, 1000000, 15000, &ctx, &code);
    cancel_while_reading = false;
    cr_assert_eq(code, ERR_CANCELED);
}

Test(limits, deadline)
{
    struct ctx ctx = {.deadline_ms = clock_mono_ms() - 1};
    enum err_code code;
    run("sum(m)", &open_config, 1000, 15000, &ctx, &code);
    cr_assert_eq(code, ERR_TIMEOUT);
}

Test(limits, a_subquery_of_too_many_steps_is_refused_at_once)
{
    struct ctx ctx = {0};
    enum err_code code;
    run("sum_over_time(m[10y:1ms])", &open_config, 1, 15000, &ctx, &code);
    cr_assert_eq(code, ERR_EXECUTION);
}

Test(limits, times_at_the_edge_of_what_can_be_written)
{
    static const char *const queries[] = {"m @ -9223372036854775", "m @ 9223372036854775 offset -200y", "rate(m[200y] @ -9223372036854775 offset 200y)",
                                          "max_over_time(m[5m:1m] @ 9223372036854775)"};
    for (size_t i = 0; i < sizeof(queries) / sizeof(queries[0]); i++) {
        struct ctx ctx = {0};
        enum err_code code;
        const char *why = run(queries[i], &open_config, 1, 15000, &ctx, &code);
        cr_assert_eq(code, ERR_OK, "%s: %s", queries[i], why);
    }
}
