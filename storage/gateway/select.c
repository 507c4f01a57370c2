/*
 * The store-gateway asked in its own process: series as a series_set, names and values as slices, nothing put into messages.
 *
 * A set holds no place in the gate of requests: a query may have many open at once, and would wait for itself.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "storage/gateway/gateway_int.h"

#define BATCH 256u

struct gateway_set {
    struct series_set set;
    struct request request;
    /* Labels of phase 1 whose chunks have not been given. */
    struct labels labels[BATCH];
    size_t labels_at, n_labels;
    int64_t reading_ns; /* spent within set_next */
};

static struct gateway_set *set_of(struct series_set *s)
{
    return CONTAINER_OF(s, struct gateway_set, set);
}

static bool read_batch(struct gateway_set *set, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct request *r = &set->request;
    size_t n = 0;
    *ret_n = 0;
    if (max == 0 || !ctx_check(ctx, err))
        return max == 0;
    if (set->labels_at == set->n_labels) {
        set->labels_at = set->n_labels = 0;
        if (!merge_series(r, set->labels, MIN(max, (size_t)BATCH), &set->n_labels, err))
            return false;
    }
    n = MIN(max, set->n_labels - set->labels_at);
    if (r->p.no_chunks)
        memset(ret, 0, n * sizeof(*ret));
    else if (!merge_chunks(r, ret, n, &n, err))
        return false;
    for (size_t i = 0; i < n; i++)
        ret[i].labels = set->labels[set->labels_at++];
    *ret_n = n;
    metric_add(metric_single(gateway_metrics[GATEWAY_SERIES_SENT]), (double)n);
    return true;
}

static bool set_next(struct series_set *s, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct gateway_set *set = set_of(s);
    int64_t start_ns = clock_mono_ns();
    bool ok = read_batch(set, ctx, ret, max, ret_n, err);
    set->reading_ns += clock_mono_ns() - start_ns;
    return ok;
}

static void set_release(struct series_set *s)
{
    struct gateway_set *set = set_of(s);
    if (set->reading_ns)
        observe_stage_ns("fetch_series_and_chunks", set->reading_ns);
    request_end(&set->request);
    free(set);
}

struct series_set *gateway_select(struct gateway *g, struct ctx *ctx, const struct select_params *p, const struct block_hints *blocks, struct gateway_found *ret_found,
                                  struct err *err)
{
    static const struct series_set_ops ops = {set_next, set_release};
    struct gateway_set *set = calloc(1, sizeof(*set));
    ASSERT(set);
    set->set.ops = &ops;
    int64_t since_ns = clock_mono_ns();
    bool ok = request_begin(&set->request, g, ctx, p, blocks, ret_found, err) && merge_begin(&set->request, err);
    request_leave_gate(&set->request);
    if (ok)
        observe_stage("expand_postings", &since_ns);
    if (ok)
        return &set->set;
    set_release(&set->set);
    return NULL;
}

static bool strings(struct gateway *g, struct ctx *ctx, enum gateway_strings what, struct slice name, const struct select_params *p, const struct block_hints *blocks,
                    struct gateway_found *ret_found, const struct slice **ret, size_t *ret_n, struct err *err)
{
    struct request r;
    bool ok = request_begin(&r, g, ctx, p, blocks, ret_found, err) && request_strings(&r, what, name, ret, ret_n, err);
    request_end(&r);
    return ok;
}

bool gateway_label_names(struct gateway *g, struct ctx *ctx, const struct select_params *p, const struct block_hints *blocks, struct gateway_found *ret_found,
                         const struct slice **ret, size_t *ret_n, struct err *err)
{
    return strings(g, ctx, GATEWAY_LABEL_NAMES, SL(""), p, blocks, ret_found, ret, ret_n, err);
}

bool gateway_label_values(struct gateway *g, struct ctx *ctx, struct slice name, const struct select_params *p, const struct block_hints *blocks,
                          struct gateway_found *ret_found, const struct slice **ret, size_t *ret_n, struct err *err)
{
    return strings(g, ctx, GATEWAY_LABEL_VALUES, name, p, blocks, ret_found, ret, ret_n, err);
}
