/* What requests have read, for the metrics. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "storage/gateway/gateway_int.h"

#define KINDS_MAX 32

void observe_stage_ns(const char *stage, int64_t ns)
{
    metric_observe(METRIC_WITH(gateway_metrics[GATEWAY_STAGE_SECONDS], GATEWAY_COMPONENT, slice_of(stage)), (double)ns / 1e9);
}

void observe_stage(const char *stage, int64_t *since_ns)
{
    int64_t now_ns = clock_mono_ns();
    observe_stage_ns(stage, now_ns - *since_ns);
    *since_ns = now_ns;
}

/* --- blocks --- */

struct kind {
    const struct block_origin *origin;
    size_t n;
};

static bool same_origin(const struct block_origin *a, const struct block_origin *b)
{
    return a->level == b->level && a->out_of_order == b->out_of_order && strcmp(a->source, b->source) == 0;
}

static void observe_kind(const struct kind *k)
{
    char level[16];
    snprintf(level, sizeof(level), "%u", k->origin->level);
    metric_observe(METRIC_WITH(gateway_metrics[GATEWAY_BLOCKS_OF_REQUEST], GATEWAY_COMPONENT, slice_of(k->origin->source), slice_of(level),
                               slice_of(k->origin->out_of_order ? "true" : "false")),
                   (double)k->n);
}

/* A bucket has few kinds; what there might be beyond is added to the last one. */
static void observe_blocks(const struct request *r)
{
    struct kind kinds[KINDS_MAX];
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) {
        const struct block_origin *origin = &r->parts[i].block->origin;
        size_t k = 0;
        while (k < n && !same_origin(kinds[k].origin, origin))
            k++;
        if (k == n && n < KINDS_MAX)
            kinds[n++] = (struct kind){origin, 0};
        kinds[MIN(k, (size_t)KINDS_MAX - 1)].n++;
    }
    for (size_t k = 0; k < n; k++)
        observe_kind(&kinds[k]);
}

/* --- bytes --- */

static void observe(enum gateway_metric_id id, const char *data_type, const char *stage, uint64_t v)
{
    metric_observe(METRIC_WITH(gateway_metrics[id], GATEWAY_COMPONENT, slice_of(data_type), slice_of(stage)), (double)v);
}

/* Stages are Mimir's, of which dashboards take some: chunks are what a block's chunks are read for, all that were looked at are returned. */
static void observe_data(const struct store_stats *s)
{
    observe(GATEWAY_DATA_TOUCHED, "postings", "", s->postings_touched);
    observe(GATEWAY_DATA_TOUCHED, "series", "", s->series_touched);
    observe(GATEWAY_DATA_TOUCHED, "chunks", "returned", s->chunks_touched);
    observe(GATEWAY_BYTES_TOUCHED, "postings", "", s->postings_touched_bytes);
    observe(GATEWAY_BYTES_TOUCHED, "series", "", s->series_touched_bytes);
    observe(GATEWAY_BYTES_TOUCHED, "chunks", "returned", s->chunks_touched_bytes);
    observe(GATEWAY_DATA_FETCHED, "postings", "", s->postings_fetched);
    observe(GATEWAY_DATA_FETCHED, "series", "", s->series_fetched);
    observe(GATEWAY_DATA_FETCHED, "chunks", "fetched", s->chunks_fetched);
    observe(GATEWAY_BYTES_FETCHED, "postings", "", s->postings_fetched_bytes);
    observe(GATEWAY_BYTES_FETCHED, "series", "", s->series_fetched_bytes);
    observe(GATEWAY_BYTES_FETCHED, "chunks", "fetched", s->chunks_fetched_bytes);
}

void request_observe(const struct request *r)
{
    if (r->n == 0)
        return;
    struct store_stats sum = {0};
    bool of_series = false;
    for (size_t i = 0; i < r->n; i++) {
        const struct part *p = &r->parts[i];
        store_stats_add(&sum, p->select ? store_select_stats(p->select) : &p->label_stats);
        of_series |= p->select != NULL;
    }
    observe_blocks(r);
    observe_data(&sum);
    if (of_series)
        metric_observe(gateway_metric(GATEWAY_RESULT_SERIES), (double)r->n_series);
}
