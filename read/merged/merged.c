/* Which side is asked for what. */
#include "read/merged/merged.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "read/merged/merged_int.h"

#define METRICS_ROOM merged
#define METRICS_DEF "read/merged/merged_metrics.def"
#define METRICS_DEFINE
#include "base/metrics_table.h"

const struct flag_def merged_flags[] = {
#define FLAG(...) FLAG_ROW(merged_config, __VA_ARGS__)
#include "read/merged/merged_flags.def"
#undef FLAG
};
const size_t merged_flags_n = ARRAY_LEN(merged_flags);

struct merged {
    struct queryable base;
    struct merged_parts parts; /* immutable, as the rest */
    struct metric *asked_recent, *asked_stored;
};

static const struct merged_parts *parts_of(struct queryable *q)
{
    return &CONTAINER_OF(q, struct merged, base)->parts;
}

bool merged_config_check(const struct merged_config *cfg, const struct limits *limits, struct err *err)
{
    if (cfg->query_store_after <= 0 || limits->query_ingesters_within <= 0 || cfg->query_store_after < limits->query_ingesters_within)
        return true;
    return err_set(err, ERR_CONFIG,
                   "-querier.query-ingesters-within must be longer than -querier.query-store-after: what is younger than one and older than the other would not be found");
}

/* --- the two sides of a call ------------------------------------------------------------------------------------------------------------- */

struct sides {
    struct select_params recent, stored;
    bool ask_recent, ask_stored; /* at least one */
};

/* Mimir's rules: each side is asked for its own part of the range; ends and limits are inclusive. */
static struct sides sides_of(const struct merged_parts *parts, const struct ctx *ctx, const struct select_params *p)
{
    struct sides s = {.recent = *p, .stored = *p, .ask_recent = true, .ask_stored = true};
    int64_t now_ms = clock_wall_ms();
    int64_t within_ms = limits_of(parts->limits, ctx->tenant)->query_ingesters_within;
    int64_t after_ms = parts->cfg->query_store_after;
    if (within_ms > 0) {
        s.ask_recent = p->max_t >= now_ms - within_ms;
        s.recent.min_t = MAX(p->min_t, now_ms - within_ms);
    }
    if (after_ms > 0) {
        s.ask_stored = p->min_t <= now_ms - after_ms;
        s.stored.max_t = MIN(p->max_t, now_ms - after_ms);
    }
    if (!s.ask_recent && !s.ask_stored)
        s.ask_stored = true; /* only when the flags leave a gap; then nothing is found there */
    return s;
}

/* --- select ---------------------------------------------------------------------------------------------------------------------------------- */

static struct series_set *select_both(const struct merged_parts *parts, struct ctx *ctx, struct sides *s, size_t limit, struct err *err)
{
    /* With chunks a limit is for the union: a series that one side has left out would come out short. */
    if (!s->recent.no_chunks)
        s->recent.limit = s->stored.limit = 0;
    /* Of what both may have the aggregates would say what samples say once more. */
    struct select_hints of_stored;
    if (s->stored.hints) {
        of_stored = *s->stored.hints;
        of_stored.before_ms = MIN(of_stored.before_ms, s->recent.min_t);
        s->stored.hints = &of_stored;
        s->recent.hints = NULL;
    }
    s->recent.labels = s->stored.labels = NULL; /* all of them say which series are the same */
    struct series_set *stored = parts->stored->ops->select(parts->stored, ctx, &s->stored, err);
    if (!stored)
        return NULL;
    struct series_set *recent = parts->recent->ops->select(parts->recent, ctx, &s->recent, err);
    if (recent)
        return merged_set_new(ctx, recent, stored, limit);
    series_set_release(stored);
    return NULL;
}

static struct series_set *merged_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    const struct merged_parts *parts = parts_of(q);
    struct sides s = sides_of(parts, ctx, p);
    const struct merged *m = CONTAINER_OF(q, struct merged, base);
    if (s.ask_recent)
        metric_inc(m->asked_recent);
    if (s.ask_stored)
        metric_inc(m->asked_stored);
    if (!s.ask_stored)
        return parts->recent->ops->select(parts->recent, ctx, &s.recent, err);
    if (!s.ask_recent)
        return parts->stored->ops->select(parts->stored, ctx, &s.stored, err);
    return select_both(parts, ctx, &s, p->limit, err);
}

/* --- names and values -------------------------------------------------------------------------------------------------------------------------- */

/* Both sorted and unique. */
static bool join(struct ctx *ctx, const struct slice *a, size_t n_a, const struct slice *b, size_t n_b, size_t limit, const struct slice **ret, size_t *ret_n,
                 struct err *err)
{
    struct slice *all = ARENA_ARRAY(ctx->arena, struct slice, n_a + n_b + 1);
    size_t i = 0, j = 0, k = 0;
    if (!all)
        return query_over_memory(ctx, err);
    while (i < n_a || j < n_b) {
        int c = i == n_a ? 1 : j == n_b ? -1 : slice_cmp(a[i], b[j]);
        all[k++] = c <= 0 ? a[i] : b[j];
        i += c <= 0;
        j += c >= 0;
    }
    *ret = all;
    *ret_n = limit ? MIN(k, limit) : k;
    return true;
}

static bool ask(struct queryable *q, struct ctx *ctx, const struct slice *name, const struct select_params *p, const struct slice **ret, size_t *ret_n, struct err *err)
{
    return name ? q->ops->label_values(q, ctx, *name, p, ret, ret_n, err) : q->ops->label_names(q, ctx, p, ret, ret_n, err);
}

/* Store-gateways work while ingesters are asked. */
static bool ask_both(const struct merged_parts *parts, struct ctx *ctx, const struct slice *name, const struct select_params *p, const struct slice **ret, size_t *ret_n,
                     struct err *err)
{
    struct sides s = sides_of(parts, ctx, p);
    struct queryable *stored = parts->stored;
    const struct slice *of_recent = NULL, *of_stored = NULL;
    size_t n_recent = 0, n_stored = 0;
    struct label_call *call = NULL;
    bool early = s.ask_stored && stored->ops->label_begin;
    if (early && !(call = stored->ops->label_begin(stored, ctx, name, &s.stored, err)))
        return false;
    if (s.ask_recent && !ask(parts->recent, ctx, name, &s.recent, &of_recent, &n_recent, err)) {
        if (call)
            (void)stored->ops->label_end(call, NULL, NULL, NULL);
        return false;
    }
    if (call && !stored->ops->label_end(call, &of_stored, &n_stored, err))
        return false;
    if (s.ask_stored && !early && !ask(stored, ctx, name, &s.stored, &of_stored, &n_stored, err))
        return false;
    return join(ctx, of_recent, n_recent, of_stored, n_stored, p->limit, ret, ret_n, err);
}

static bool merged_label_names(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct slice **ret, size_t *ret_n, struct err *err)
{
    return ask_both(parts_of(q), ctx, NULL, p, ret, ret_n, err);
}

static bool merged_label_values(struct queryable *q, struct ctx *ctx, struct slice name, const struct select_params *p, const struct slice **ret, size_t *ret_n,
                                struct err *err)
{
    return ask_both(parts_of(q), ctx, &name, p, ret, ret_n, err);
}

/* --- what only ingesters have -------------------------------------------------------------------------------------------------------------------- */

static bool merged_metadata(struct queryable *q, struct ctx *ctx, const struct metric_metadata **ret, size_t *ret_n, struct err *err)
{
    struct queryable *recent = parts_of(q)->recent;
    return recent->ops->metadata(recent, ctx, ret, ret_n, err);
}

static bool merged_exemplars(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct exemplar_series **ret, size_t *ret_n, struct err *err)
{
    struct queryable *recent = parts_of(q)->recent;
    return recent->ops->exemplars(recent, ctx, p, ret, ret_n, err);
}

/* --- life ------------------------------------------------------------------------------------------------------------------------------------------ */

struct queryable *merged_queryable_new(const struct merged_parts *parts)
{
    static const struct queryable_ops ops = {
        .select = merged_select,
        .label_names = merged_label_names,
        .label_values = merged_label_values,
        .metadata = merged_metadata,
        .exemplars = merged_exemplars,
    };
    merged_metrics_register();
    struct merged *q = calloc(1, sizeof(*q));
    ASSERT(q);
    q->base.ops = &ops;
    q->parts = *parts;
    q->asked_recent = METRIC_WITH(merged_metrics[MERGED_M_STORAGE], SL("brunn"), SL("ingester"));
    q->asked_stored = METRIC_WITH(merged_metrics[MERGED_M_STORAGE], SL("brunn"), SL("store-gateway"));
    return &q->base;
}

void merged_queryable_free(struct queryable *q)
{
    if (q)
        free(CONTAINER_OF(q, struct merged, base));
}
