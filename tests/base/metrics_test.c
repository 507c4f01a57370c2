#include "base/metrics.h"

#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const double buckets[] = {0.5, 1, 2.5, INFINITY};

static const struct metric_def defs[] = {
    {METRIC_COUNTER, "t_requests_total", "Requests.\nSecond \\ line", NULL, {"method", "path"}},
    {METRIC_GAUGE, "t_gauge", "A gauge", NULL, {NULL}},
    {METRIC_HISTOGRAM, "t_seconds", "Durations", buckets, {"route"}},
    {METRIC_COUNTER, "t_plain_total", "No labels", NULL, {NULL}},
    {METRIC_GAUGE, "a_gauge", "By tenant", NULL, {"user"}},
};
enum { REQUESTS, GAUGE, SECONDS, PLAIN, BY_USER, N };
static struct metric_family *f[N];

static void setup(void)
{
    metrics_register(defs, N, f);
}

static const char *text(const struct slice *names, size_t n)
{
    static struct buf out;
    buf_clear(&out);
    metrics_write_text(&out, names, n);
    return buf_cstr(&out);
}

TestSuite(metrics, .init = setup);

Test(metrics, text_has_families_and_series_in_order_and_escapes)
{
    metric_add(METRIC_WITH(f[REQUESTS], SL("POST"), SL("/b")), 2);
    metric_inc(METRIC_WITH(f[REQUESTS], SL("GET"), SL("a\"b\\c\nd")));
    metric_set(METRIC_WITH(f[BY_USER], SL("x")), 1.5);
    cr_assert_str_eq(text(NULL, 0), "# HELP a_gauge By tenant\n"
                                    "# TYPE a_gauge gauge\n"
                                    "a_gauge{user=\"x\"} 1.5\n"
                                    "# HELP t_gauge A gauge\n"
                                    "# TYPE t_gauge gauge\n"
                                    "t_gauge 0\n"
                                    "# HELP t_plain_total No labels\n"
                                    "# TYPE t_plain_total counter\n"
                                    "t_plain_total 0\n"
                                    "# HELP t_requests_total Requests.\\nSecond \\\\ line\n"
                                    "# TYPE t_requests_total counter\n"
                                    "t_requests_total{method=\"GET\",path=\"a\\\"b\\\\c\\nd\"} 1\n"
                                    "t_requests_total{method=\"POST\",path=\"/b\"} 2\n");
}

Test(metrics, histogram_buckets_are_cumulative)
{
    struct metric *m = METRIC_WITH(f[SECONDS], SL("r"));
    const double seen[] = {0.25, 0.5, 0.75, 2, 100, NAN};
    for (size_t i = 0; i + 1 < sizeof seen / sizeof seen[0]; i++)
        metric_observe(m, seen[i]);
    const struct slice name = SL("t_seconds");
    cr_assert_str_eq(text(&name, 1), "# HELP t_seconds Durations\n"
                                     "# TYPE t_seconds histogram\n"
                                     "t_seconds_bucket{route=\"r\",le=\"0.5\"} 2\n"
                                     "t_seconds_bucket{route=\"r\",le=\"1\"} 3\n"
                                     "t_seconds_bucket{route=\"r\",le=\"2.5\"} 4\n"
                                     "t_seconds_bucket{route=\"r\",le=\"+Inf\"} 5\n"
                                     "t_seconds_sum{route=\"r\"} 103.5\n"
                                     "t_seconds_count{route=\"r\"} 5\n");
    metric_observe(m, NAN);
    cr_assert_float_eq(metric_value(m), 6, 0);
}

Test(metrics, special_values_are_written_as_prometheus_reads_them)
{
    static const struct {
        double v;
        const char *line;
    } cases[] = {{NAN, "t_gauge NaN\n"},      {INFINITY, "t_gauge +Inf\n"}, {-INFINITY, "t_gauge -Inf\n"},
                 {0.1, "t_gauge 0.1\n"},      {-3, "t_gauge -3\n"},         {1e6, "t_gauge 1e+06\n"},
                 {1.0 / 3, "t_gauge 0.3333333333333333\n"}};
    const struct slice name = SL("t_gauge");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        metric_set(metric_single(f[GAUGE]), cases[i].v);
        cr_assert(strstr(text(&name, 1), cases[i].line), "%s", text(&name, 1));
    }
}

static void *add_much(void *arg)
{
    struct metric **m = arg;
    for (int i = 0; i < 20000; i++) {
        metric_inc(m[0]);
        metric_add(m[0], 0.5);
        metric_observe(m[1], 1);
        metric_add(m[2], i % 2 ? 1 : -1);
    }
    return NULL;
}

Test(metrics, adding_from_many_threads_loses_nothing)
{
    struct metric *m[] = {metric_single(f[PLAIN]), METRIC_WITH(f[SECONDS], SL("x")), metric_single(f[GAUGE])};
    pthread_t t[12];
    for (int i = 0; i < 12; i++)
        pthread_create(&t[i], NULL, add_much, m);
    for (int i = 0; i < 12; i++)
        pthread_join(t[i], NULL);
    cr_assert_float_eq(metric_value(m[0]), 12 * 20000 * 1.5, 0);
    cr_assert_float_eq(metric_value(m[1]), 12 * 20000, 0);
    cr_assert_float_eq(metric_value(m[2]), 0, 0);
}

Test(metrics, same_values_give_the_same_series_also_past_a_growth_of_the_table)
{
    struct metric *m[1000];
    char name[16];
    for (int i = 0; i < 1000; i++) {
        int n = snprintf(name, sizeof name, "u%d", i);
        m[i] = METRIC_WITH(f[BY_USER], slice_make(name, (size_t)n));
    }
    for (int i = 0; i < 1000; i++) {
        int n = snprintf(name, sizeof name, "u%d", i);
        cr_assert_eq(m[i], METRIC_WITH(f[BY_USER], slice_make(name, (size_t)n)));
    }
}

Test(metrics, series_of_a_value_can_be_removed)
{
    metric_set(METRIC_WITH(f[BY_USER], SL("a")), 1);
    metric_set(METRIC_WITH(f[BY_USER], SL("b")), 2);
    metric_set(METRIC_WITH(f[BY_USER], SL("c")), 3);
    metrics_remove_matching(SL("user"), SL("b"));
    metric_remove(f[BY_USER], (const struct slice[]){SL("c")});
    const struct slice name = SL("a_gauge");
    cr_assert_str_eq(text(&name, 1), "# HELP a_gauge By tenant\n# TYPE a_gauge gauge\na_gauge{user=\"a\"} 1\n");
    metric_add(METRIC_WITH(f[BY_USER], SL("b")), 5);
    cr_assert(strstr(text(&name, 1), "a_gauge{user=\"b\"} 5\n"));
}

static double answer(void *arg)
{
    return *(double *)arg;
}

static void refresh(void *arg)
{
    metric_set(METRIC_WITH(f[BY_USER], SL("hook")), ++*(int *)arg);
}

Test(metrics, callbacks_and_hooks_run_at_each_scrape)
{
    double v = 41;
    int runs = 0;
    metric_set_callback(metric_single(f[PLAIN]), answer, &v);
    metrics_on_scrape(refresh, &runs);
    cr_assert(strstr(text(NULL, 0), "t_plain_total 41\n"));
    v = 42;
    cr_assert(strstr(text(NULL, 0), "t_plain_total 42\n"));
    cr_assert(strstr(text(NULL, 0), "a_gauge{user=\"hook\"} 3\n"));
    cr_assert_float_eq(metric_value(metric_single(f[PLAIN])), 42, 0);
    metrics_remove_on_scrape(refresh, &runs);
    (void)text(NULL, 0);
    cr_assert_eq(runs, 3);
}

Test(metrics, process_metrics_are_plausible)
{
    metrics_register_process();
    metrics_register_process();
    const char *t = text(NULL, 0);
    static const char *const names[] = {"\nprocess_cpu_seconds_total ", "\nprocess_resident_memory_bytes ",
                                        "\nprocess_virtual_memory_bytes ", "\nprocess_open_fds ",
                                        "\nprocess_max_fds ", "\nprocess_start_time_seconds "};
    for (size_t i = 0; i < 6; i++) {
        const char *at = strstr(t, names[i]);
        cr_assert(at, "%s", names[i]);
        cr_assert_gt(strtod(at + strlen(names[i]), NULL), 0, "%s", names[i]);
    }
    double start = strtod(strstr(t, names[5]) + strlen(names[5]), NULL);
    cr_assert_float_eq(start, (double)time(NULL), 600);
}

static void count_def(const struct metric_def *def, void *arg)
{
    (void)def;
    ++*(int *)arg;
}

Test(metrics, every_definition_is_listed)
{
    int n = 0;
    metrics_each_def(count_def, &n);
    cr_assert_eq(n, N);
}
