/*
 * The text exposition format 0.0.4, as a Go client library writes it: # HELP, # TYPE, then the series; histograms as cumulative buckets,
 * _sum and _count. Families without series are left out. Runs under the scrape lock; a family's lock is held while its lines are
 * formatted (microseconds a series), which delays only those who look up or make series of that family.
 */
#include <math.h>
#include <stdlib.h>

#include "base/dtoa.h"
#include "base/metrics_int.h"

static void put_escaped(struct buf *out, struct slice s, bool quote)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c == '\\')
            buf_puts(out, "\\\\");
        else if (c == '\n')
            buf_puts(out, "\\n");
        else if (c == '"' && quote)
            buf_puts(out, "\\\"");
        else
            buf_putc(out, c);
    }
}

static void put_double(struct buf *out, double v)
{
    char text[DTOA_MAX];
    buf_put(out, text, dtoa_g(v, text));
}

/* name suffix {labels, le}; le NULL = none. */
static void put_name(struct buf *out, const struct metric *m, const char *suffix, const double *le)
{
    const struct metric_family *f = m->family;
    buf_puts(out, f->def->name);
    buf_puts(out, suffix);
    if (f->n_labels || le) {
        buf_putc(out, '{');
        for (size_t i = 0; i < f->n_labels; i++) {
            if (i)
                buf_putc(out, ',');
            buf_puts(out, f->def->labels[i]);
            buf_puts(out, "=\"");
            put_escaped(out, m->values[i], true);
            buf_putc(out, '"');
        }
        if (le) {
            buf_puts(out, f->n_labels ? ",le=\"" : "le=\"");
            put_double(out, *le);
            buf_putc(out, '"');
        }
        buf_putc(out, '}');
    }
    buf_putc(out, ' ');
}

static void put_histogram(struct buf *out, const struct metric *m)
{
    const struct metric_family *f = m->family;
    uint64_t buckets[64];
    ASSERT(f->n_buckets <= ARRAY_LEN(buckets));
    double sum = metric_histogram_sum(m, buckets);
    uint64_t count = 0;
    for (size_t b = 0; b < f->n_buckets; b++) {
        count += buckets[b];
        put_name(out, m, "_bucket", &f->def->buckets[b]);
        buf_put_u64(out, count);
        buf_putc(out, '\n');
    }
    put_name(out, m, "_sum", NULL);
    put_double(out, sum);
    buf_putc(out, '\n');
    put_name(out, m, "_count", NULL);
    buf_put_u64(out, count);
    buf_putc(out, '\n');
}

static void put_series(struct buf *out, const struct metric *m)
{
    if (m->family->def->kind == METRIC_HISTOGRAM) {
        put_histogram(out, m);
        return;
    }
    put_name(out, m, "", NULL);
    if (m->family->def->kind == METRIC_COUNTER && !m->fn)
        put_double(out, metric_counter_sum(m));
    else
        put_double(out, metric_from_bits(atomic_load_explicit(&m->gauge, memory_order_relaxed)));
    buf_putc(out, '\n');
}

static int series_by_values(const void *a, const void *b)
{
    const struct metric *x = *(struct metric *const *)a;
    const struct metric *y = *(struct metric *const *)b;
    for (size_t i = 0; i < x->family->n_labels; i++) {
        int c = slice_cmp(x->values[i], y->values[i]);
        if (c)
            return c;
    }
    return 0;
}

static void put_family(struct buf *out, struct metric_family *f)
{
    static const char *const types[] = {[METRIC_COUNTER] = "counter", [METRIC_GAUGE] = "gauge", [METRIC_HISTOGRAM] = "histogram"};
    pthread_mutex_lock(&f->lock);
    if (f->n_series) {
        if (!f->sorted)
            qsort(f->order, f->n_series, sizeof(struct metric *), series_by_values);
        f->sorted = true;
        buf_puts(out, "# HELP ");
        buf_puts(out, f->def->name);
        buf_putc(out, ' ');
        put_escaped(out, slice_of(f->def->help), false);
        buf_puts(out, "\n# TYPE ");
        buf_puts(out, f->def->name);
        buf_putc(out, ' ');
        buf_puts(out, types[f->def->kind]);
        buf_putc(out, '\n');
        for (size_t i = 0; i < f->n_series; i++)
            put_series(out, f->order[i]);
    }
    pthread_mutex_unlock(&f->lock);
}

static bool wanted(const struct metric_family *f, const struct slice *names, size_t n_names)
{
    struct slice name = slice_of(f->def->name);
    for (size_t i = 0; i < n_names; i++)
        if (slice_eq(names[i], name))
            return true;
    return n_names == 0;
}

void metrics_write_text(struct buf *out, const struct slice *names, size_t n_names)
{
    metrics_scrape_begin();
    size_t n;
    struct metric_family **all = metrics_families_by_name(&n);
    for (size_t i = 0; i < n; i++)
        if (wanted(all[i], names, n_names))
            put_family(out, all[i]);
    free(all);
    metrics_scrape_end();
}
