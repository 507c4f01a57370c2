/*
 * promqltest [-v] [-names-early] [-mimir-errors] [-threads N] [-min percent] file...
 *
 * Runs test scripts in the language of Prometheus's promqltest and prints `name: N passed, N failed` a file and a total. An eval counts once; an
 * instant eval is also run as a range query around its time, whose middle step must give the same.
 *   -v            print what failed
 *   -mimir-errors errors in the words of Mimir's engine, which is how the server gives them unless it is told otherwise (-querier.query-engine)
 *   -names-early  metric names are dropped where the operation happens (delayed name removal off)
 *   -threads N    so many threads work on each selector, from its first series on
 *   -min N        exit 0 when at least N per cent of all evals pass (100 when not given)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/dtoa.h"
#include "base/err.h"
#include "base/regex.h"
#include "promqltest_int.h"
#include "read/promql/engine.h"

#define TOLERANCE 1e-6

static bool fail(struct runner *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool fail(struct runner *r, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(&r->why, fmt, ap);
    va_end(ap);
    return false;
}

/* --- comparing ------------------------------------------------------------------------------------------------------------------------ */

static bool almost(double a, double b)
{
    if (isnan(a) || isnan(b))
        return isnan(a) && isnan(b);
    if (a == b)
        return true;
    double sum = fabs(a) + fabs(b), diff = fabs(a - b);
    if (a == 0 || b == 0 || sum < 2.2250738585072014e-308)
        return diff < TOLERANCE * 2.2250738585072014e-308;
    return diff / fmin(sum, 1.7976931348623157e308) < TOLERANCE;
}

static bool almost_list(const struct blist *a, const struct blist *b)
{
    if (a->n != b->n)
        return false;
    for (uint32_t i = 0; i < a->n; i++)
        if (a->idx[i] != b->idx[i] || !almost(a->c[i], b->c[i]))
            return false;
    return true;
}

static bool almost_hist(const struct item *want, const struct fhist *got)
{
    const struct fhist *h = want->h;
    if (h->schema != got->schema || !almost(h->count, got->count) || !almost(h->sum, got->sum) || h->n_custom != got->n_custom ||
        (want->hint_given && h->hint != got->hint))
        return false;
    for (uint32_t i = 0; i < h->n_custom; i++)
        if (h->custom[i] != got->custom[i])
            return false;
    return h->zero_threshold == got->zero_threshold && almost(h->zero_count, got->zero_count) && almost_list(&h->pos, &got->pos) &&
           almost_list(&h->neg, &got->neg);
}

static void describe(struct runner *r, double v, const struct fhist *h)
{
    char text[DTOA_MAX];
    if (h) {
        fhist_print(h, &r->why);
        buf_printf(&r->why, " schema %d hint %d threshold %g bounds", h->schema, h->hint, h->zero_threshold);
        for (uint32_t i = 0; i < h->n_custom; i++)
            buf_printf(&r->why, " %g", h->custom[i]);
    } else {
        buf_put(&r->why, text, dtoa_g(v, text));
    }
}

static bool same_value(struct runner *r, const struct item *want, struct labels l, int64_t t, double v, const struct histogram *h)
{
    struct fhist *got = h ? fhist_from(h, &r->arena) : NULL;
    if (!want->h == !got && (got ? almost_hist(want, got) : almost(want->v, v)))
        return true;
    labels_print(l, &r->why);
    buf_printf(&r->why, " at %lld: expected ", (long long)t);
    describe(r, want->v, want->h);
    buf_puts(&r->why, ", got ");
    describe(r, v, got);
    return false;
}

static bool unexpected(struct runner *r, const char *what, struct labels l)
{
    buf_puts(&r->why, what);
    labels_print(l, &r->why);
    return false;
}

/* The expected item at time t, of a grid that begins at start. NULL: none. */
static const struct item *expected_at(const struct sequence *s, int64_t start, int64_t step, int64_t t)
{
    if (t < start || (t - start) % step)
        return NULL;
    size_t i = (size_t)((t - start) / step);
    return i < s->n && !s->items[i].omitted ? &s->items[i] : NULL;
}

static size_t count_items(const struct sequence *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++)
        n += !s->items[i].omitted;
    return n;
}

static bool compare_matrix(struct runner *r, const struct eval *e, const struct engine_result *res, int64_t start, int64_t step)
{
    size_t found = 0;
    for (size_t i = 0; i < res->n_series; i++) {
        const struct result_series *s = &res->series[i];
        const struct sequence *want = NULL;
        for (size_t k = 0; k < e->n_expected; k++)
            if (labels_eq(e->expected[k].labels, s->labels))
                want = &e->expected[k];
        if (!want)
            return unexpected(r, "unexpected series ", s->labels);
        found++;
        if (s->n != count_items(want)) {
            labels_print(s->labels, &r->why);
            return fail(r, ": expected %zu points, got %zu", count_items(want), s->n);
        }
        for (size_t k = 0; k < s->n; k++) {
            const struct item *it = expected_at(want, start, step, s->t[k]);
            if (!it)
                return unexpected(r, "unexpected point of ", s->labels);
            if (!same_value(r, it, s->labels, s->t[k], s->v[k], s->h ? s->h[k] : NULL))
                return false;
        }
        if (i && labels_cmp(res->series[i - 1].labels, s->labels) >= 0)
            return fail(r, "the matrix is not sorted by labels");
    }
    for (size_t k = 0; k < e->n_expected; k++)
        if (count_items(&e->expected[k]) == 0)
            found++;
    return found == e->n_expected || fail(r, "expected %zu series, got %zu", e->n_expected, found);
}

/* The values at time t (all, for an instant result). */
static bool compare_vector(struct runner *r, const struct eval *e, const struct engine_result *res, int64_t t, bool ordered)
{
    size_t found = 0;
    for (size_t i = 0; i < res->n_series; i++) {
        const struct result_series *s = &res->series[i];
        for (size_t k = 0; k < s->n; k++) {
            if (s->t[k] != t)
                continue;
            size_t w = 0;
            while (w < e->n_expected && !labels_eq(e->expected[w].labels, s->labels))
                w++;
            if (w == e->n_expected)
                return unexpected(r, "unexpected series ", s->labels);
            if (ordered && w != found)
                return unexpected(r, "not in this place: ", s->labels);
            if (e->expected[w].n == 0 ||
                !same_value(r, &e->expected[w].items[0], s->labels, t, s->v[k], s->h ? s->h[k] : NULL))
                return false;
            found++;
        }
    }
    return found == e->n_expected || fail(r, "expected %zu series, got %zu", e->n_expected, found);
}

static bool message_matches(const struct check *c, size_t i, struct slice text)
{
    if (!c->is_regex[i])
        return slice_eq(c->msgs[i], text);
    struct buf b;
    buf_init(&b, 65536);
    buf_printf(&b, "(?s:.*(?:%.*s).*)", SL_FMT(c->msgs[i]));
    struct err err = ERR_NONE;
    struct regex *re = regex_new(buf_slice(&b), &err);
    bool ok = re && regex_match(re, text);
    regex_free(re);
    buf_release(&b);
    return ok;
}

static bool check_messages(struct runner *r, const struct check *c, const struct slice *texts, size_t n, const char *what)
{
    if (c->given && n == 0)
        return fail(r, "expected a %s annotation", what);
    for (size_t i = 0; i < c->n_msgs; i++) {
        bool any = false;
        for (size_t k = 0; k < n; k++)
            any |= message_matches(c, i, texts[k]);
        if (!any)
            return fail(r, "expected %s '%.*s', got '%.*s'", what, SL_FMT(c->msgs[i]), SL_FMT(texts[0]));
    }
    return true;
}

static bool check_annotations(struct runner *r, const struct eval *e, const struct engine_result *res)
{
    if (e->checks[EXPECT_NO_WARN].given && res->n_warnings)
        return fail(r, "unexpected warning '%.*s'", SL_FMT(res->warnings[0]));
    if (e->checks[EXPECT_NO_INFO].given && res->n_infos)
        return fail(r, "unexpected info '%.*s'", SL_FMT(res->infos[0]));
    return check_messages(r, &e->checks[EXPECT_WARN], res->warnings, res->n_warnings, "warning") &&
           check_messages(r, &e->checks[EXPECT_INFO], res->infos, res->n_infos, "info");
}

/* --- running ---------------------------------------------------------------------------------------------------------------------------- */

static bool exec(struct runner *r, const struct eval *e, int64_t start, int64_t end, int64_t step, struct engine_result *ret, struct err *err)
{
    struct engine_config cfg = {.lookback_delta_ms = 300000, .default_evaluation_interval_ms = 60000, .max_samples = 50000000,
                                .max_memory_bytes = (uint64_t)1 << 30, .delayed_name_removal = !r->names_early, .type_and_unit_labels = true,
                                .prometheus_errors = !r->mimir_errors, .crew = r->crew};
    struct node *n = promql_parse(e->expr, NULL, &r->arena, err);
    if (!n)
        return false;
    struct ctx ctx = {.arena = &r->arena};
    struct engine_query q = {.expr = n, .text = e->expr, .start_ms = start, .end_ms = end, .step_ms = step,
                             .start_times = store_start_times(r->store)};
    bool ok = promql_resolve_durations(n, step, end - start, err) && engine_exec(&cfg, store_queryable(r->store), &ctx, &q, ret, err);
    promql_release(n);
    return ok;
}

static bool check_failure(struct runner *r, const struct eval *e, const struct err *err)
{
    const struct check *c = &e->checks[EXPECT_FAIL];
    if (!c->given)
        return fail(r, "failed: %s", err->text);
    for (size_t i = 0; i < c->n_msgs; i++)
        if (!message_matches(c, i, slice_of(err->text)))
            return fail(r, "expected failure '%.*s', got '%s'", SL_FMT(c->msgs[i]), err->text);
    return true;
}

static bool compare_instant(struct runner *r, const struct eval *e, const struct engine_result *res)
{
    if (e->has_string)
        return (res->type == VALUE_STRING && slice_eq(res->string, e->string)) || fail(r, "got string '%.*s'", SL_FMT(res->string));
    if (e->range_vector)
        return compare_matrix(r, e, res, e->vec_start_ms, e->vec_step_ms);
    if (e->has_scalar)
        return (res->type == VALUE_SCALAR && almost(e->scalar, res->scalar)) || fail(r, "expected %g, got %g", e->scalar, res->scalar);
    if (res->type != VALUE_VECTOR)
        return fail(r, "expected a vector");
    return compare_vector(r, e, res, e->start_ms, e->ordered);
}

/* Expressions over the query's own start, end and step mean something else in another query. */
static bool depends_on_query(struct slice expr)
{
    static const char *const calls[] = {"step()", "range()", "start()", "end()"};
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
        if (memmem(expr.p, expr.n, calls[i], strlen(calls[i])))
            return true;
    return false;
}

/* The same at the middle of a range of three steps. */
static bool check_as_range(struct runner *r, const struct eval *e)
{
    struct engine_result res;
    struct err err = ERR_NONE;
    if (e->has_string || e->range_vector || depends_on_query(e->expr))
        return true;
    if (!exec(r, e, e->start_ms - 60000, e->start_ms + 60000, 60000, &res, &err))
        return check_failure(r, e, &err) || fail(r, " (in range mode)");
    if (e->ordered)
        return true;
    struct eval scalar = *e;
    struct item it = {.v = e->scalar};
    struct sequence seq = {.items = &it, .n = 1};
    if (e->has_scalar) {
        scalar.expected = &seq;
        scalar.n_expected = 1;
    }
    return compare_vector(r, &scalar, &res, e->start_ms, false) || fail(r, " (in range mode)");
}

static bool run_eval(struct runner *r, const struct eval *e)
{
    struct engine_result res;
    struct err err = ERR_NONE;
    if (!exec(r, e, e->start_ms, e->end_ms, e->step_ms, &res, &err))
        return check_failure(r, e, &err);
    if (e->checks[EXPECT_FAIL].given)
        return fail(r, "expected to fail");
    if (!check_annotations(r, e, &res))
        return false;
    if (e->range)
        return compare_matrix(r, e, &res, e->start_ms, e->step_ms);
    return compare_instant(r, e, &res) && check_as_range(r, e);
}

/* --- files ---------------------------------------------------------------------------------------------------------------------------------- */

static bool run_line(struct runner *r, struct script *s, struct slice line)
{
    struct slice rest = line, word = next_word(&rest);
    arena_clear(&r->arena);
    if (slice_eq(word, SL("clear"))) {
        store_clear(r->store);
        return true;
    }
    if (slice_eq(word, SL("load")) || slice_eq(word, SL("load_with_nhcb")))
        return run_load(r, s, rest, word.n > 4);
    if (!slice_has_prefix(word, SL("eval")))
        return script_error(r, s->line, "unknown command");
    struct eval e;
    int at = s->line;
    if (!parse_eval(r, s, word, rest, &e) || !parse_expected(r, s, &e))
        return false;
    buf_clear(&r->why);
    if (run_eval(r, &e)) {
        r->passed++;
        return true;
    }
    r->failed++;
    if (r->verbose)
        printf("%s:%d: %.*s\n    %s\n", r->file, at, SL_FMT(e.expr), buf_cstr(&r->why));
    return true;
}

static char *read_file(const char *path, size_t *ret_n)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    struct buf b;
    char chunk[65536];
    size_t n;
    buf_init(&b, 0);
    while ((n = fread(chunk, 1, sizeof(chunk), f)) > 0)
        buf_put(&b, chunk, n);
    fclose(f);
    return buf_steal(&b, ret_n);
}

static void print_counts(const char *file, int passed, int failed)
{
    if (file)
        printf("%s: ", file);
    printf("%d passed, %d failed\n", passed, failed);
}

static bool run_file(struct runner *r, const char *path)
{
    size_t n;
    char *text = read_file(path, &n);
    if (!text) {
        fprintf(stderr, "%s: cannot be read\n", path);
        return false;
    }
    const char *slash = strrchr(path, '/');
    r->file = slash ? slash + 1 : path;
    r->store = store_new();
    int passed = r->passed, failed = r->failed;
    struct script s = {.rest = slice_make(text, n)};
    struct slice line;
    bool ok = true;
    while (ok && next_line(&s, &line))
        ok = line.n == 0 || run_line(r, &s, line);
    print_counts(r->file, r->passed - passed, r->failed - failed);
    store_free(r->store);
    free(text);
    return ok;
}

int main(int argc, char **argv)
{
    struct runner r = {0};
    double min = 100;
    bool ok = true;
    arena_init(&r.arena, 0);
    buf_init(&r.why, 1 << 20);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-v") == 0)
            r.verbose = true;
        else if (strcmp(argv[i], "-names-early") == 0)
            r.names_early = true;
        else if (strcmp(argv[i], "-mimir-errors") == 0)
            r.mimir_errors = true;
        else if (strcmp(argv[i], "-threads") == 0 && i + 1 < argc && !r.crew)
            r.crew = engine_crew_new((size_t)atoi(argv[++i]), 0);
        else if (strcmp(argv[i], "-min") == 0 && i + 1 < argc)
            min = atof(argv[++i]);
        else
            ok &= run_file(&r, argv[i]);
    }
    int total = r.passed + r.failed;
    print_counts(NULL, r.passed, r.failed);
    engine_crew_free(r.crew);
    arena_release(&r.arena);
    buf_release(&r.why);
    return ok && total && r.passed * 100.0 >= min * total ? 0 : 1;
}
