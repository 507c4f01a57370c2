#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "app/tools/tools_int.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/dtoa.h"
#include "read/promql/engine.h"

/* --- blocks ------------------------------------------------------------------------------------------------------------------- */

const char *time_text(int64_t ms, char ret[static TIME_TEXT_MAX])
{
    _Static_assert(TIME_TEXT_MAX >= CLOCK_RFC3339_MAX, "room for a time");
    int64_t s = ms / 1000, rest = ms % 1000;
    if (rest < 0) {
        rest += 1000;
        s--;
    }
    if (!clock_rfc3339(s, (int32_t)rest * 1000000, CLOCK_AS_NEEDED, ret))
        snprintf(ret, TIME_TEXT_MAX, "%" PRId64, ms);
    return ret;
}

void print_blocks_head(void)
{
    printf("%-26s  %-24s  %-24s  %-9s  %12s  %10s  %10s  %12s  %5s  %-10s  %s\n", "BLOCK", "MIN TIME", "MAX TIME", "DURATION", "SAMPLES", "CHUNKS",
           "SERIES", "BYTES", "LEVEL", "SOURCE", "LABELS");
}

void print_block(const struct block_meta *m, uint64_t bytes)
{
    char min_text[TIME_TEXT_MAX], max_text[TIME_TEXT_MAX];
    struct buf duration, labels;
    buf_init(&duration, 0);
    buf_init(&labels, 0);
    duration_print((int64_t)((uint64_t)m->max_t - (uint64_t)m->min_t), &duration);
    for (size_t i = 0; i < m->n_labels; i++)
        buf_printf(&labels, "%s%.*s=%.*s", i ? "," : "", SL_FMT(m->labels[i].name), SL_FMT(m->labels[i].value));
    if (block_meta_is_out_of_order(m))
        buf_puts(&labels, labels.n ? ",(out of order)" : "(out of order)");
    printf("%-26s  %-24s  %-24s  %-9s  %12" PRIu64 "  %10" PRIu64 "  %10" PRIu64 "  %12" PRIu64 "  %5u  %-10.*s  %s\n", m->ulid.text,
           time_text(m->min_t, min_text), time_text(m->max_t, max_text), buf_cstr(&duration), m->stats.samples, m->stats.chunks, m->stats.series, bytes,
           m->level, SL_FMT(m->source), buf_cstr(&labels));
    buf_release(&duration);
    buf_release(&labels);
}

/* --- histograms --------------------------------------------------------------------------------------------------------------- */

/* Upper bound of bucket idx of the positive side. */
static double bound(const struct histogram *h, int64_t idx)
{
    if (h->schema == HISTOGRAM_CUSTOM_BUCKETS) {
        if (idx < 0)
            return -INFINITY;
        return (uint64_t)idx < h->n_custom_values ? h->custom_values[idx] : INFINITY;
    }
    int64_t exponent;
    double fraction = 1;
    if (h->schema <= 0) {
        exponent = idx * ((int64_t)1 << MIN(-h->schema, 20));
    } else {
        int64_t rest = idx & (((int64_t)1 << h->schema) - 1);
        exponent = idx >> h->schema;
        fraction = h->schema > HISTOGRAM_SCHEMA_MAX ? exp2((double)rest / (double)((int64_t)1 << h->schema)) : bucket_fraction_bound(h->schema, (int32_t)rest);
    }
    if (exponent == 1024 && fraction == 1)
        return DBL_MAX; /* the bucket after it is the one of infinity */
    return ldexp(fraction, (int)MIN(MAX(exponent, -4000), 4000));
}

static void put_number(double v, struct buf *out)
{
    char text[DTOA_MAX];
    buf_put(out, text, dtoa_g(v, text));
}

/* Integers are written in full, as Go does. */
static void put_count(const struct histogram *h, double v, struct buf *out)
{
    if (h->is_float)
        put_number(v, out);
    else
        buf_printf(out, "%.0f", v);
}

static void put_bucket(const struct histogram *h, double lower, double upper, bool with_lower, bool with_upper, double count, struct buf *out)
{
    if (count == 0)
        return;
    buf_puts(out, with_lower ? ", [" : ", (");
    put_number(lower, out);
    buf_putc(out, ',');
    put_number(upper, out);
    buf_puts(out, with_upper ? "]:" : "):");
    put_count(h, count, out);
}

/* Counts of one side's buckets, absolute; the array is in the arena. */
static const double *absolute(const struct histogram *h, bool negative, struct arena *arena)
{
    uint32_t n = negative ? h->n_negative : h->n_positive;
    double *counts = ARENA_ARRAY(arena, double, (size_t)n + 1);
    int64_t sum = 0;
    for (uint32_t i = 0; counts && i < n; i++) {
        if (h->is_float) {
            counts[i] = negative ? h->negative_counts[i] : h->positive_counts[i];
            continue;
        }
        sum = (int64_t)((uint64_t)sum + (uint64_t)(negative ? h->negative_deltas[i] : h->positive_deltas[i]));
        counts[i] = (double)sum;
    }
    return counts;
}

static void put_positive(const struct histogram *h, const double *counts, struct buf *out)
{
    int64_t idx = 0;
    uint32_t k = 0;
    for (uint32_t s = 0; s < h->n_positive_spans; s++) {
        idx += h->positive_spans[s].offset;
        for (uint32_t i = 0; i < h->positive_spans[s].length && k < h->n_positive; i++, idx++)
            put_bucket(h, bound(h, idx - 1), bound(h, idx), isinf(bound(h, idx - 1)), true, counts[k++], out);
    }
}

/* From the largest index down: the most negative bucket comes first. */
static void put_negative(const struct histogram *h, const double *counts, struct buf *out)
{
    int64_t idx = 0;
    uint32_t k = h->n_negative;
    for (uint32_t s = 0; s < h->n_negative_spans; s++)
        idx += (int64_t)h->negative_spans[s].offset + h->negative_spans[s].length;
    for (uint32_t s = h->n_negative_spans; s-- > 0;) {
        for (uint32_t i = 0; i < h->negative_spans[s].length && k > 0; i++) {
            idx--;
            put_bucket(h, -bound(h, idx), -bound(h, idx - 1), true, false, counts[--k], out);
        }
        idx -= h->negative_spans[s].offset;
    }
}

void put_histogram_text(const struct histogram *h, struct buf *out)
{
    struct arena arena;
    arena_init(&arena, 0);
    const double *negative = absolute(h, true, &arena), *positive = absolute(h, false, &arena);
    if (h->is_float) {
        buf_puts(out, "{count:");
        put_number(h->count, out);
    } else {
        buf_printf(out, "{count:%" PRIu64, h->count_int);
    }
    buf_puts(out, ", sum:");
    put_number(h->sum, out);
    if (negative)
        put_negative(h, negative, out);
    put_bucket(h, -h->zero_threshold, h->zero_threshold, true, true, h->is_float ? h->zero_count : (double)h->zero_count_int, out);
    if (positive)
        put_positive(h, positive, out);
    buf_putc(out, '}');
    arena_release(&arena);
}

/* --- progress ----------------------------------------------------------------------------------------------------------------- */

#define BAR_CELLS 40
#define DRAW_EVERY_MS 200

void progress_begin(struct progress *p, const char *label, uint64_t total)
{
    *p = (struct progress){.label = isatty(STDERR_FILENO) ? label : NULL, .total = total, .begun_ms = clock_mono_ms()};
}

static void draw(struct progress *p)
{
    char bar[BAR_CELLS + 1];
    uint64_t done = MIN(p->done, p->total);
    size_t cells = p->total ? (size_t)((double)done / (double)p->total * BAR_CELLS) : 0;
    memset(bar, '.', BAR_CELLS);
    memset(bar, '#', cells);
    bar[BAR_CELLS] = 0;
    int64_t spent_ms = clock_mono_ms() - p->begun_ms;
    if (p->total == 0) {
        fprintf(stderr, "\r%s %" PRIu64 "\033[K", p->label, p->done);
    } else {
        double part = (double)done / (double)p->total;
        int64_t left_s = part > 0 ? (int64_t)((double)spent_ms / 1e3 * (1 - part) / part) : 0;
        fprintf(stderr, "\r%s [%s] %3.0f %%, %" PRId64 ":%02" PRId64 " left\033[K", p->label, bar, part * 100, left_s / 60, left_s % 60);
    }
    p->drawn = true;
}

void progress_add(struct progress *p, uint64_t n)
{
    p->done += n;
    if (!p->label || clock_mono_ms() - p->drawn_ms < DRAW_EVERY_MS)
        return;
    p->drawn_ms = clock_mono_ms();
    draw(p);
}

void progress_end(struct progress *p)
{
    if (p->drawn)
        fputs("\r\033[K", stderr);
    *p = (struct progress){0};
}
