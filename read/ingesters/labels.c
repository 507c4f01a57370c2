/* Calls with one answer: label names and values, metadata, exemplars. Every partition's answer is put together with the others', sorted and without doubles. */
#include <stdlib.h>
#include <string.h>

#include "read/ingesters/ingesters_int.h"

/* --- any unary call ------------------------------------------------------------------------------------------------------------------ */

/* Decodes the answer, which lies in the arena and stays, into a->items. */
typedef bool decode_fn(struct slice message, struct arena *arena, const void **ret, size_t *ret_n, struct err *err);

static enum fetch_step take_answer(struct fetch *f, struct attempt *a, const struct buf *msg, decode_fn *decode, struct err *err)
{
    struct arena *arena = f->ctx->arena;
    if (a->has_answer) {
        err_set(err, ERR_INTERNAL, "a second answer to a unary call");
        return FETCH_FAILED;
    }
    a->has_answer = true;
    struct slice copy = arena_dup(arena, buf_slice(msg));
    if (!copy.p) {
        query_over_memory(f->ctx, err);
        return FETCH_FAILED;
    }
    if (decode(copy, arena, &a->items, &a->n_items, err))
        return FETCH_MORE;
    if (arena->overflow)
        query_over_memory(f->ctx, err);
    return FETCH_FAILED;
}

static enum fetch_step answer_end(struct fetch *f, struct attempt *a, struct err *err)
{
    (void)f;
    if (a->has_answer)
        return FETCH_COMPLETE;
    err_set(err, ERR_INTERNAL, "no answer to a unary call");
    return FETCH_FAILED;
}

/* All answers in one array of their elements of this size. */
static void *join(struct fetch *f, size_t size, size_t *ret_n)
{
    size_t n = 0;
    for (size_t i = 0; i < f->n_parts; i++)
        n += f->parts[i].answered->n_items;
    char *all = arena_array(f->ctx->arena, n + 1, size);
    *ret_n = 0;
    for (size_t i = 0; i < f->n_parts && all; i++) {
        const struct attempt *a = f->parts[i].answered;
        if (a->n_items)
            memcpy(all + *ret_n * size, a->items, a->n_items * size);
        *ret_n += a->n_items;
    }
    return all;
}

typedef int compare_fn(const void *a, const void *b);

/* Sorts and keeps the first of equals. Returns how many are left. */
static size_t sort_unique(void *items, size_t n, size_t size, compare_fn *compare)
{
    char *p = items;
    size_t k = 0;
    qsort(p, n, size, compare);
    for (size_t i = 0; i < n; i++) {
        if (k && compare(p + (k - 1) * size, p + i * size) == 0)
            continue;
        if (k != i)
            memcpy(p + k * size, p + i * size, size);
        k++;
    }
    return k;
}

/* The whole call. The request is in f. NULL on error; f is released in any case, and local answers lie in the arena. */
static void *run(struct fetch *f, struct ctx *ctx, bool ok, size_t size, size_t *ret_n, struct err *err)
{
    void *all = NULL;
    ok = ok && (!f->request.failed || err_set(err, ERR_NO_MEMORY, "out of memory"));
    if (ok) {
        ingesters_fetch_start(f);
        if (ingesters_fetch_finish(f, ctx, err) && !(all = join(f, size, ret_n)))
            query_over_memory(ctx, err);
    }
    ingesters_fetch_release(f);
    return all;
}

bool request_matchers(struct ctx *ctx, const struct select_params *p, struct ingester_request *ret)
{
    struct matcher_spec *specs = ARENA_ARRAY(ctx->arena, struct matcher_spec, p->n_matchers + 1);
    ret->sets = ARENA_NEW(ctx->arena, struct matcher_set);
    if (!specs || !ret->sets)
        return false;
    for (size_t i = 0; i < p->n_matchers; i++)
        specs[i] = (struct matcher_spec){p->matchers[i].type, p->matchers[i].name, p->matchers[i].value};
    *ret->sets = (struct matcher_set){specs, p->n_matchers};
    ret->n_sets = 1;
    ret->start_ms = p->min_t;
    ret->end_ms = p->max_t;
    return true;
}

/* --- names and values ------------------------------------------------------------------------------------------------------------------ */

static bool decode_strings(struct slice message, struct arena *arena, const void **ret, size_t *ret_n, struct err *err)
{
    const struct slice *strings = NULL;
    bool ok = strings_response_decode(message, arena, &strings, ret_n, err);
    *ret = strings;
    return ok;
}

static enum fetch_step strings_message(struct fetch *f, struct attempt *a, struct buf *msg, struct err *err)
{
    return take_answer(f, a, msg, decode_strings, err);
}

static bool local_names(struct fetch *f, struct attempt *a, struct err *err)
{
    const struct slice *strings = NULL;
    struct queryable *q = a->owner->local;
    bool ok = q->ops->label_names(q, f->ctx, &f->params, &strings, &a->n_items, err);
    a->items = strings;
    return ok;
}

static bool local_values(struct fetch *f, struct attempt *a, struct err *err)
{
    const struct slice *strings = NULL;
    struct queryable *q = a->owner->local;
    bool ok = q->ops->label_values(q, f->ctx, f->label_name, &f->params, &strings, &a->n_items, err);
    a->items = strings;
    return ok;
}

static const struct fetch_ops names_ops = {INGESTER_LABEL_NAMES, true, strings_message, answer_end, local_names};
static const struct fetch_ops values_ops = {INGESTER_LABEL_VALUES, true, strings_message, answer_end, local_values};

static bool strings_call(struct queryable *q, struct ctx *ctx, const struct fetch_ops *ops, struct slice name, const struct select_params *p,
                         const struct slice **ret, size_t *ret_n, struct err *err)
{
    struct fetch f;
    struct ingester_request r = {.label_name = name, .limit = p->limit > INT64_MAX ? INT64_MAX : (int64_t)p->limit};
    bool ok = ingesters_fetch_init(&f, ingesters_of(q), ctx, ops, p, err) && (request_matchers(ctx, p, &r) || query_over_memory(ctx, err));
    f.label_name = name;
    if (ok && ops == &values_ops)
        label_values_request_put(&r, &f.request);
    else if (ok)
        label_names_request_put(&r, &f.request);
    size_t n = 0;
    struct slice *all = run(&f, ctx, ok, sizeof(*all), &n, err);
    if (!all)
        return false;
    n = strings_sort_unique(all, n);
    *ret_n = p->limit ? MIN(n, p->limit) : n;
    *ret = all;
    return true;
}

bool ingesters_label_names(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct slice **ret, size_t *ret_n, struct err *err)
{
    return strings_call(q, ctx, &names_ops, (struct slice){0}, p, ret, ret_n, err);
}

bool ingesters_label_values(struct queryable *q, struct ctx *ctx, struct slice name, const struct select_params *p, const struct slice **ret, size_t *ret_n,
                            struct err *err)
{
    return strings_call(q, ctx, &values_ops, name, p, ret, ret_n, err);
}

/* --- metadata ---------------------------------------------------------------------------------------------------------------------------- */

static bool decode_metadata(struct slice message, struct arena *arena, const void **ret, size_t *ret_n, struct err *err)
{
    const struct metric_metadata *items = NULL;
    bool ok = metadata_response_decode(message, arena, &items, ret_n, err);
    *ret = items;
    return ok;
}

static enum fetch_step metadata_message(struct fetch *f, struct attempt *a, struct buf *msg, struct err *err)
{
    return take_answer(f, a, msg, decode_metadata, err);
}

static bool local_metadata(struct fetch *f, struct attempt *a, struct err *err)
{
    const struct metric_metadata *items = NULL;
    struct queryable *q = a->owner->local;
    bool ok = q->ops->metadata(q, f->ctx, &items, &a->n_items, err);
    a->items = items;
    return ok;
}

static const struct fetch_ops metadata_ops = {INGESTER_METRICS_METADATA, true, metadata_message, answer_end, local_metadata};

static int compare_metadata(const void *a, const void *b)
{
    const struct metric_metadata *x = a, *y = b;
    int c = slice_cmp(x->family, y->family);
    c = c ? c : strcmp(x->type, y->type);
    c = c ? c : slice_cmp(x->help, y->help);
    return c ? c : slice_cmp(x->unit, y->unit);
}

bool ingesters_metadata(struct queryable *q, struct ctx *ctx, const struct metric_metadata **ret, size_t *ret_n, struct err *err)
{
    struct fetch f;
    bool ok = ingesters_fetch_init(&f, ingesters_of(q), ctx, &metadata_ops, NULL, err);
    if (ok)
        metadata_request_put(&(struct metadata_request){.limit = -1, .limit_per_metric = -1, .metric = SL("")}, &f.request);
    size_t n = 0;
    struct metric_metadata *all = run(&f, ctx, ok, sizeof(*all), &n, err);
    if (!all)
        return false;
    *ret_n = sort_unique(all, n, sizeof(*all), compare_metadata);
    *ret = all;
    return true;
}

/* --- exemplars ----------------------------------------------------------------------------------------------------------------------------- */

static bool decode_exemplars(struct slice message, struct arena *arena, const void **ret, size_t *ret_n, struct err *err)
{
    const struct exemplar_series *items = NULL;
    bool ok = exemplar_response_decode(message, arena, &items, ret_n, err);
    *ret = items;
    return ok;
}

static enum fetch_step exemplars_message(struct fetch *f, struct attempt *a, struct buf *msg, struct err *err)
{
    return take_answer(f, a, msg, decode_exemplars, err);
}

static bool local_exemplars(struct fetch *f, struct attempt *a, struct err *err)
{
    const struct exemplar_series *items = NULL;
    struct queryable *q = a->owner->local;
    bool ok = q->ops->exemplars(q, f->ctx, &f->params, &items, &a->n_items, err);
    a->items = items;
    return ok;
}

static const struct fetch_ops exemplars_ops = {INGESTER_QUERY_EXEMPLARS, true, exemplars_message, answer_end, local_exemplars};

static int compare_exemplar_series(const void *a, const void *b)
{
    return labels_cmp(((const struct exemplar_series *)a)->labels, ((const struct exemplar_series *)b)->labels);
}

/* By time; equal ones side by side. */
static int compare_exemplars(const void *a, const void *b)
{
    const struct exemplar *x = a, *y = b;
    if (x->t != y->t)
        return x->t < y->t ? -1 : 1;
    int c = memcmp(&x->v, &y->v, sizeof(x->v)); /* NaNs are equal to themselves here */
    if (c)
        return c;
    return labels_cmp(x->labels, y->labels);
}

/* One series out of n of the same labels. False: the arena is used up. */
static bool merge_exemplars(struct arena *arena, const struct exemplar_series *same, size_t n, struct exemplar_series *ret)
{
    size_t n_all = 0, k = 0;
    *ret = same[0];
    if (n == 1)
        return true;
    for (size_t i = 0; i < n; i++)
        n_all += same[i].n;
    struct exemplar *all = ARENA_ARRAY(arena, struct exemplar, n_all + 1);
    if (!all)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (same[i].n)
            memcpy(all + k, same[i].exemplars, same[i].n * sizeof(*all));
        k += same[i].n;
    }
    ret->exemplars = all;
    ret->n = sort_unique(all, n_all, sizeof(*all), compare_exemplars);
    return true;
}

bool ingesters_exemplars(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct exemplar_series **ret, size_t *ret_n, struct err *err)
{
    struct fetch f;
    struct ingester_request r = {0};
    bool ok = ingesters_fetch_init(&f, ingesters_of(q), ctx, &exemplars_ops, p, err) && (request_matchers(ctx, p, &r) || query_over_memory(ctx, err));
    if (ok)
        exemplar_request_put(&r, &f.request);
    size_t n = 0, k = 0;
    struct exemplar_series *all = run(&f, ctx, ok, sizeof(*all), &n, err);
    if (!all)
        return false;
    qsort(all, n, sizeof(*all), compare_exemplar_series);
    for (size_t i = 0, end; i < n; i = end) {
        struct exemplar_series merged;
        for (end = i + 1; end < n && labels_eq(all[i].labels, all[end].labels); end++)
            ;
        if (!merge_exemplars(ctx->arena, all + i, end - i, &merged))
            return query_over_memory(ctx, err);
        all[k++] = merged;
    }
    *ret = all;
    *ret_n = k;
    return true;
}
