/*
 * The environment of one query: memory, errors, annotations; and what all operators share: batches, columns, label helpers.
 *
 * Memory: every arena of the query is in env->mems. Before an operator works on a batch env_tick gives each arena what is left of the
 * query's budget, so that an allocation past it fails at once; two arenas that grow in the same batch may together overshoot by what
 * one batch takes, which the next tick notices.
 */
#include "read/promql/crew_int.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/dtoa.h"
#include "base/regex.h"

#define ANNOTATIONS_SHOWN 10

static const char narrow_hint[] =
    " Consider reducing the time range and/or number of series selected by the query. One way to reduce the number of selected series is to add "
    "more label matchers to the query. Otherwise, to adjust the related per-tenant limit, configure "
    "-querier.max-estimated-memory-consumption-per-query, or contact your service administrator.";

bool env_fail(struct env *env, enum err_code code, const char *fmt, ...)
{
    va_list ap;
    char text[ERR_TEXT_MAX];
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return err_set(env->err, code, "%s", text);
}

bool env_memory_error(struct env *env)
{
    if (env->cfg->max_memory_bytes == 0)
        return env_fail(env, ERR_NO_MEMORY, "out of memory while evaluating the query");
    return env_fail(env, ERR_MAX_QUERY_MEMORY,
                    "the query exceeded the maximum allowed estimated amount of memory consumed by a single query (limit: %llu bytes) "
                    "(err-mimir-max-estimated-memory-consumption-per-query).%s",
                    (unsigned long long)env->cfg->max_memory_bytes, narrow_hint);
}

void *env_alloc(struct env *env, struct arena *a, size_t bytes)
{
    void *p = arena_alloc(a, bytes);
    if (!p)
        env_memory_error(env);
    return p;
}

void *env_zalloc(struct env *env, struct arena *a, size_t n, size_t size)
{
    void *p = arena_array(a, n ? n : 1, size);
    if (!p) {
        env_memory_error(env);
        return NULL;
    }
    memset(p, 0, (n ? n : 1) * size);
    return p;
}

struct arena *env_arena(struct env *env)
{
    struct mem *m = malloc(sizeof(*m));
    if (!m) {
        env_memory_error(env);
        return NULL;
    }
    arena_init(&m->arena, env->cfg->max_memory_bytes);
    m->prev = NULL;
    m->next = env->mems;
    if (m->next)
        m->next->prev = m;
    env->mems = m;
    return &m->arena;
}

void env_arena_end(struct env *env, struct arena *a)
{
    struct mem *m = (struct mem *)a;
    if (!m)
        return;
    if (m->prev)
        m->prev->next = m->next;
    else
        env->mems = m->next;
    if (m->next)
        m->next->prev = m->prev;
    arena_release(&m->arena);
    free(m);
}

bool env_tick(struct env *env)
{
    if (!ctx_check(env->ctx, env->err))
        return false;
    uint64_t max = env->cfg->max_memory_bytes;
    if (max == 0)
        return true;
    uint64_t used = env->outside_bytes + runs_used_bytes(env);
    if (env->ctx->arena)
        used += env->ctx->arena->used_bytes; /* the tree, the result and what the store has copied */
    for (struct mem *m = env->mems; m; m = m->next)
        used += m->arena.used_bytes;
    env->used_bytes = used;
    if (used > max)
        return env_memory_error(env);
    for (struct mem *m = env->mems; m; m = m->next)
        m->arena.budget_bytes = m->arena.used_bytes + (max - used) + 1; /* 0 would mean no limit */
    return true;
}

bool env_too_many_samples(struct env *env)
{
    return env_fail(env, ERR_EXECUTION, "query processing would load too many samples into memory in query execution");
}

bool env_hold_samples(struct env *env, uint64_t n)
{
    env->samples_held += n;
    return env->cfg->max_samples == 0 || env->samples_held <= env->cfg->max_samples || env_too_many_samples(env);
}

void env_release(struct env *env)
{
    runs_release(env);
    for (struct set_ref *s = env->sets; s; s = s->next)
        series_set_release(s->set);
    for (struct regex_ref *r = env->regexes; r; r = r->next)
        regex_free(r->regex);
    for (struct matcher_ref *m = env->matchers; m; m = m->next)
        matcher_release(&m->matcher);
    while (env->mems) {
        struct mem *next = env->mems->next;
        arena_release(&env->mems->arena);
        free(env->mems);
        env->mems = next;
    }
}

struct sorting {
    struct env *env;
    env_cmp_fn *cmp;
    const void *arg;
    bool stopped;
};

static int cmp_working(const void *a, const void *b, void *arg)
{
    struct sorting *s = arg;
    if (s->stopped)
        return 0;
    s->stopped = !env_work(s->env, 16);
    return s->cmp(a, b, s->arg);
}

bool env_sort(struct env *env, void *items, size_t n, size_t size, env_cmp_fn *cmp, const void *arg)
{
    struct sorting s = {.env = env, .cmp = cmp, .arg = arg};
    if (n > 1)
        qsort_r(items, n, size, cmp_working, &s);
    return !s.stopped;
}

/* --- annotations ------------------------------------------------------------------------------------------------------------ */

static uint64_t text_hash(const char *p, size_t n)
{
    uint64_t h = 1469598103934665603ULL;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)p[i]) * 1099511628211ULL;
    return h;
}

/* The annotation with this text, perhaps a new one, whose n is 0. NULL: there are too many, or there is no memory for one more. */
static struct annotation *annotation_of(struct env *env, bool info, const char *text, size_t n)
{
    uint64_t hash = text_hash(text, n);
    /* Usually the same one comes again for the next step: newest first. */
    for (size_t i = env->n_annotations; i-- > 0;)
        if (env->annotations[i].hash == hash && env->annotations[i].text.n == n)
            return &env->annotations[i];
    if (env->n_annotations == env->cap_annotations) {
        size_t cap = env->cap_annotations ? env->cap_annotations * 2 : 16;
        if (cap > 4096)
            return NULL; /* more are not counted: nobody reads them */
        struct annotation *a = arena_array(env->notes, cap, sizeof(*a));
        if (!a)
            return NULL;
        if (env->n_annotations)
            memcpy(a, env->annotations, env->n_annotations * sizeof(*a));
        env->annotations = a;
        env->cap_annotations = cap;
    }
    struct slice copy = arena_dup(env->notes, slice_make(text, n));
    if (!copy.p)
        return NULL;
    env->annotations[env->n_annotations] = (struct annotation){.text = copy, .info = info, .hash = hash};
    return &env->annotations[env->n_annotations++];
}

#define ANNOTATION_MAX 2048 /* bytes */
#define ANNOTATION_TAIL 256 /* of them left free for what is written behind a text */

/* Returns the length. */
static size_t annotation_text(bool info, const char *fmt, va_list ap, char text[static ANNOTATION_MAX]) __attribute__((format(printf, 2, 0)));
static size_t annotation_text(bool info, const char *fmt, va_list ap, char text[static ANNOTATION_MAX])
{
    int n = snprintf(text, ANNOTATION_MAX, "PromQL %s: ", info ? "info" : "warning");
    int m = vsnprintf(text + n, ANNOTATION_MAX - (size_t)n, fmt, ap);
    return (size_t)MIN(n + MAX(m, 0), ANNOTATION_MAX - ANNOTATION_TAIL);
}

static size_t annotation_position(const struct env *env, int32_t pos, char text[static ANNOTATION_MAX], size_t n)
{
    int line = 1, col = 1;
    if (pos < 0)
        return n;
    promql_position(env->query->text, pos, &line, &col);
    return n + (size_t)snprintf(text + n, ANNOTATION_MAX - n, " (%d:%d)", line, col);
}

void annotate(struct env *env, bool info, int32_t pos, const char *fmt, ...)
{
    char text[ANNOTATION_MAX];
    va_list ap;
    va_start(ap, fmt);
    size_t n = annotation_text(info, fmt, ap, text);
    va_end(ap);
    n = annotation_position(env, pos, text, n);
    (void)annotation_of(env, info, text, n);
}

static struct annotation *annotate_again(struct env *env, bool info, int32_t pos, const char *fmt, va_list ap) __attribute__((format(printf, 4, 0)));
static struct annotation *annotate_again(struct env *env, bool info, int32_t pos, const char *fmt, va_list ap)
{
    char text[ANNOTATION_MAX];
    size_t n = annotation_text(info, fmt, ap, text);
    struct annotation *a = annotation_of(env, info, text, n);
    if (a && a->n++ == 0)
        a->pos = pos;
    return a;
}

void annotate_count(struct env *env, int32_t pos, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)annotate_again(env, false, pos, fmt, ap);
    va_end(ap);
}

static struct annotation *info_again(struct env *env, int32_t pos, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static struct annotation *info_again(struct env *env, int32_t pos, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    struct annotation *a = annotate_again(env, true, pos, fmt, ap);
    va_end(ap);
    return a;
}

void annotate_forced(struct env *env, int32_t pos, const char *for_metric, int64_t t, const struct bucket_fix *fix)
{
    struct annotation *a = info_again(env, pos,
                                      "input to histogram_quantile needed to be fixed for monotonicity (see "
                                      "https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)%s",
                                      for_metric);
    if (!a)
        return;
    a->min_t = a->forced ? MIN(a->min_t, t) : t;
    a->max_t = a->forced ? MAX(a->max_t, t) : t;
    a->forced = true;
    bucket_fix_merge(&a->fix, fix);
}

void annotations_move(struct env *env, struct env *lane)
{
    for (size_t i = 0; i < lane->n_annotations; i++) {
        const struct annotation *from = &lane->annotations[i];
        struct annotation *to = annotation_of(env, from->info, from->text.p, from->text.n);
        ASSERT(!from->forced); /* histogram_quantile runs on the query's thread */
        if (to && from->n && to->n == 0)
            to->pos = from->pos;
        if (to)
            to->n += from->n;
    }
    if (lane->n_annotations)
        arena_clear(lane->notes);
    lane->annotations = NULL;
    lane->n_annotations = lane->cap_annotations = 0;
}

/* Two digits, as Go's %.2g. */
static void two_digits(double v, char out[static DTOA_MAX])
{
    if (isfinite(v))
        snprintf(out, DTOA_MAX, "%.2g", v);
    else
        out[dtoa_g(v, out)] = 0;
}

/* What is known only when all of the query has been seen. */
static struct slice annotation_finish(const struct env *env, const struct annotation *a, struct arena *mem)
{
    char text[ANNOTATION_MAX];
    size_t n = MIN(a->text.n, (size_t)(ANNOTATION_MAX - ANNOTATION_TAIL));
    if (a->n == 0)
        return arena_dup(mem, a->text);
    memcpy(text, a->text.p, n);
    if (a->forced) {
        char lo[DTOA_MAX], hi[DTOA_MAX], diff[DTOA_MAX], from[CLOCK_RFC3339_MAX], to[CLOCK_RFC3339_MAX];
        int n_lo = (int)dtoa_g(a->fix.min_bucket, lo), n_hi = (int)dtoa_g(a->fix.max_bucket, hi);
        two_digits(a->fix.max_diff, diff);
        (void)clock_rfc3339(a->min_t / 1000, 0, 0, from), (void)clock_rfc3339(a->max_t / 1000, 0, 0, to);
        n += (size_t)snprintf(text + n, ANNOTATION_MAX - n, ", from buckets %.*s to %.*s, with a max diff of %s, over %zu samples from %s to %s",
                              n_lo, lo, n_hi, hi, diff, a->n, from, to);
    } else if (a->n > 1) {
        n += (size_t)snprintf(text + n, ANNOTATION_MAX - n, " (%zu occurrences)", a->n);
    }
    return arena_dup(mem, slice_make(text, annotation_position(env, a->pos, text, n)));
}

static int cmp_slices(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

static bool finish_kind(struct env *env, bool info, const struct slice **ret, size_t *ret_n)
{
    struct arena *a = env->ctx->arena;
    struct slice *out = env_zalloc(env, a, env->n_annotations + 1, sizeof(*out));
    if (!out)
        return false;
    size_t n = 0;
    for (size_t i = 0; i < env->n_annotations; i++)
        if (env->annotations[i].info == info) {
            out[n] = annotation_finish(env, &env->annotations[i], a);
            if (!out[n++].p)
                return env_memory_error(env);
        }
    qsort(out, n, sizeof(*out), cmp_slices);
    if (n > ANNOTATIONS_SHOWN) {
        char *more = arena_printf(a, "%zu more %s annotations omitted", n - ANNOTATIONS_SHOWN, info ? "info" : "warning");
        if (!more)
            return env_memory_error(env);
        out[ANNOTATIONS_SHOWN] = slice_of(more);
        n = ANNOTATIONS_SHOWN + 1;
    }
    *ret = out;
    *ret_n = n;
    return true;
}

bool annotations_finish(struct env *env, struct engine_result *ret)
{
    return finish_kind(env, false, &ret->warnings, &ret->n_warnings) && finish_kind(env, true, &ret->infos, &ret->n_infos);
}

static bool same_slice(struct slice a, struct slice b)
{
    return a.p == b.p && a.n == b.n;
}

const char *quoted(struct env *env, struct slice s)
{
    if (env->quoted_text && same_slice(s, env->quoted_for))
        return env->quoted_text;
    struct buf b;
    buf_init(&b, 4096);
    /* Printing a label set of one label quotes its value; the braces and the name are cut off. */
    struct label l = {SL("q"), s};
    labels_print((struct labels){&l, 1}, &b);
    const char *out = "\"\"";
    if (!b.failed && b.n > 4) {
        char *copy = arena_printf(env->root, "%.*s", (int)(b.n - 4), b.p + 3);
        if (copy)
            out = copy;
    }
    buf_release(&b);
    env->quoted_for = s;
    env->quoted_text = out;
    return out;
}

struct slice metric_name(struct labels l)
{
    return labels_get(l, SL(METRIC_NAME_LABEL));
}

const char *for_metric(struct env *env, struct labels l)
{
    struct slice name = metric_name(l);
    if (name.n == 0 || !env->cfg->delayed_name_removal) /* else it is gone already upstream */
        return "";
    if (env->for_metric_text && same_slice(name, env->for_metric_name))
        return env->for_metric_text;
    char *s = arena_printf(env->root, " for metric name %s", quoted(env, name));
    env->for_metric_name = name;
    env->for_metric_text = s ? s : "";
    return env->for_metric_text;
}

/* --- batches and columns ------------------------------------------------------------------------------------------------------ */

size_t batch_cap_for(const struct grid *g)
{
    size_t cap = 65536 / (g->n ? g->n : 1); /* half a megabyte of doubles */
    return cap < 4 ? 4 : cap > BATCH_CAP_MAX ? BATCH_CAP_MAX : cap;
}

struct batch *batch_new(struct env *env, size_t cap)
{
    struct batch *b = ENV_NEW(env, struct batch);
    if (!b)
        return NULL;
    b->cap = cap;
    b->mem = env_arena(env);
    if (!b->mem || !(b->store = env_arena(env)))
        return NULL;
    b->cols = env_alloc(env, b->store, cap * sizeof(*b->cols)); /* written slot by slot */
    b->h_store = env_zalloc(env, b->store, cap, sizeof(*b->h_store));
    b->v_store = env_zalloc(env, b->store, cap, sizeof(*b->v_store));
    b->present_store = env_zalloc(env, b->store, cap, sizeof(*b->present_store));
    if (!b->cols || !b->h_store || !b->v_store || !b->present_store)
        return NULL;
    return b;
}

void batch_end(struct env *env, struct batch *b)
{
    if (!b)
        return;
    env_arena_end(env, b->mem);
    env_arena_end(env, b->store);
    *b = (struct batch){0};
}

bool batch_begin(struct env *env, struct batch *b)
{
    b->n = 0;
    arena_rewind(b->mem);
    return env_tick(env);
}

struct column *batch_slot(struct env *env, struct batch *b, const struct grid *g)
{
    ASSERT(b->n < b->cap);
    size_t i = b->n;
    struct column *c = &b->cols[i];
    if (!b->v_store[i]) {
        b->v_store[i] = env_zalloc(env, b->store, g->n, sizeof(double));
        b->present_store[i] = env_zalloc(env, b->store, grid_words(g), sizeof(uint64_t));
        if (!b->v_store[i] || !b->present_store[i])
            return NULL;
    }
    b->n++;
    *c = (struct column){.v = b->v_store[i], .present = b->present_store[i]};
    memset(c->present, 0, grid_words(g) * sizeof(uint64_t));
    return c;
}

bool column_need_hists(struct env *env, struct batch *b, size_t i, const struct grid *g)
{
    if (b->cols[i].h)
        return true;
    if (!b->h_store)
        return (b->cols[i].h = env_zalloc(env, b->mem, g->n, sizeof(*b->cols[i].h))) != NULL;
    if (!b->h_store[i]) {
        b->h_store[i] = env_zalloc(env, b->store, g->n, sizeof(*b->h_store[i]));
        if (!b->h_store[i])
            return false;
    }
    memset(b->h_store[i], 0, g->n * sizeof(*b->h_store[i]));
    b->cols[i].h = b->h_store[i];
    return true;
}

bool column_empty(const struct column *c, const struct grid *g)
{
    for (size_t w = 0; w < grid_words(g); w++)
        if (c->present[w])
            return false;
    return true;
}

bool column_alloc(struct env *env, struct arena *a, const struct grid *g, bool hists, struct column *ret)
{
    *ret = (struct column){0};
    ret->v = env_zalloc(env, a, g->n, sizeof(double));
    ret->present = env_zalloc(env, a, grid_words(g), sizeof(uint64_t));
    if (hists)
        ret->h = env_zalloc(env, a, g->n, sizeof(*ret->h));
    return ret->v && ret->present && (!hists || ret->h);
}

bool column_copy(struct env *env, struct arena *a, const struct grid *g, const struct column *from, struct column *ret)
{
    if (!column_alloc(env, a, g, from->h != NULL, ret))
        return false;
    memcpy(ret->v, from->v, g->n * sizeof(double));
    memcpy(ret->present, from->present, grid_words(g) * sizeof(uint64_t));
    ret->drop_name = from->drop_name;
    /* The items of the label set may lie in the batch; the strings live as long as the query. */
    struct label *items = env_zalloc(env, a, from->labels.n, sizeof(*items));
    if (!items)
        return false;
    if (from->labels.n)
        memcpy(items, from->labels.items, from->labels.n * sizeof(*items));
    ret->labels = (struct labels){items, from->labels.n};
    if (!from->h)
        return true;
    FOR_PRESENT (i, from, g) {
        if (from->h[i] && !(ret->h[i] = fhist_dup(from->h[i], a)))
            return env_memory_error(env);
    }
    return true;
}

bool columns_push(struct env *env, struct columns *cs, struct column **ret)
{
    if (cs->n == cs->cap) {
        size_t cap = cs->cap ? cs->cap * 2 : 16;
        struct column *p = ENV_ARRAY(env, struct column, cap);
        if (!p)
            return false;
        if (cs->n)
            memcpy(p, cs->cols, cs->n * sizeof(*p));
        cs->cols = p;
        cs->cap = cap;
    }
    *ret = &cs->cols[cs->n++];
    return true;
}

bool op_drain(struct op *op, struct columns *ret)
{
    *ret = (struct columns){0};
    for (;;) {
        struct batch *b;
        if (!op_next(op, &b))
            return false;
        if (!b || b->n == 0)
            return true;
        if (!env_hold_samples(op->env, b->n * op->grid.n))
            return false;
        for (size_t i = 0; i < b->n; i++) {
            struct column *c;
            if (!columns_push(op->env, ret, &c) || !column_copy(op->env, op->env->root, &op->grid, &b->cols[i], c))
                return false;
        }
    }
}
