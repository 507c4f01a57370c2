/* The query API over a small store of made-up series, behind a real server. */
#pragma once

#include <stdatomic.h>
#include <unistd.h>

#include "model/matcher.h"
#include "read/api/api.h"
#include "storage/chunk/chunk.h"
#include "tests/net/http_rig.h"

#define STORE_SERIES 6
#define STORE_SAMPLES 41

/*
 * q_m{g="0".."2", i="0".."3"} (6 series): sample k at 15 s * k has the value k * (series + 1), the last at 600 s.
 */
struct store {
    struct queryable base;
    struct label labels[STORE_SERIES][3];
    struct series_chunk chunks[STORE_SERIES];
    uint8_t bytes[STORE_SERIES][2048];
    struct exemplar exemplar;
    struct label exemplar_label;
    struct exemplar_series exemplar_series;
    /* The queries of a remote read select on threads of their own. */
    atomic_int open_sets, most_open;
    int meet; /* a select waits, not for ever, until so many sets have been open at once */
};

struct store_set {
    struct series_set base;
    struct store *store;
    struct select_params params;
    size_t at;
};

static struct labels store_labels(const struct store *s, size_t i)
{
    return (struct labels){s->labels[i], 3};
}

static bool store_selects(const struct store *s, size_t i, const struct select_params *p)
{
    return p->min_t <= 600000 && p->max_t >= 0 && matchers_match(p->matchers, p->n_matchers, store_labels(s, i));
}

static bool store_next(struct series_set *set, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct store_set *x = (struct store_set *)set;
    (void)ctx;
    (void)err;
    *ret_n = 0;
    for (; x->at < STORE_SERIES && *ret_n < max; x->at++)
        if (store_selects(x->store, x->at, &x->params))
            ret[(*ret_n)++] = (struct series){store_labels(x->store, x->at), &x->store->chunks[x->at], x->params.no_chunks ? 0 : 1};
    return true;
}

static void store_release(struct series_set *set)
{
    ((struct store_set *)set)->store->open_sets--;
    free(set);
}

static const struct series_set_ops store_set_ops = {store_next, store_release};

static struct series_set *store_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    (void)ctx;
    (void)err;
    struct store_set *x = calloc(1, sizeof(*x));
    *x = (struct store_set){.base = {.ops = &store_set_ops}, .store = (struct store *)q, .params = *p};
    struct store *s = x->store;
    int open = atomic_fetch_add(&s->open_sets, 1) + 1, most = s->most_open;
    while (open > most && !atomic_compare_exchange_weak(&s->most_open, &most, open))
        ;
    for (int ms = 0; s->most_open < s->meet && ms < 20000; ms++)
        usleep(1000);
    return &x->base;
}

static bool store_names(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct slice **ret, size_t *ret_n,
                        struct err *err)
{
    static const struct slice names[] = {{"__name__", 8}, {"g", 1}, {"i", 1}};
    (void)ctx;
    (void)err;
    *ret_n = 0;
    *ret = names;
    for (size_t i = 0; i < STORE_SERIES; i++)
        if (store_selects((struct store *)q, i, p))
            *ret_n = 3;
    return true;
}

static bool store_values(struct queryable *q, struct ctx *ctx, struct slice name, const struct select_params *p, const struct slice **ret,
                         size_t *ret_n, struct err *err)
{
    struct store *s = (struct store *)q;
    struct slice *values = ARENA_ARRAY(ctx->arena, struct slice, STORE_SERIES);
    (void)err;
    *ret_n = 0;
    *ret = values;
    for (size_t i = 0; i < STORE_SERIES; i++) {
        struct slice v = labels_get(store_labels(s, i), name);
        bool known = !v.n || !store_selects(s, i, p);
        for (size_t k = 0; k < *ret_n; k++)
            known = known || slice_eq(values[k], v);
        if (!known)
            values[(*ret_n)++] = v;
    }
    return true;
}

static bool store_metadata(struct queryable *q, struct ctx *ctx, const struct metric_metadata **ret, size_t *ret_n, struct err *err)
{
    static const struct metric_metadata m[] = {{{"a", 1}, "counter", {"help \"a\"", 8}, {"s", 1}},
                                               {{"a", 1}, "gauge", {"", 0}, {"", 0}},
                                               {{"b", 1}, "unknown", {"b", 1}, {"", 0}}};
    (void)q;
    (void)ctx;
    (void)err;
    *ret = m;
    *ret_n = 3;
    return true;
}

static bool store_exemplars(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct exemplar_series **ret,
                            size_t *ret_n, struct err *err)
{
    struct store *s = (struct store *)q;
    (void)ctx;
    (void)err;
    *ret = &s->exemplar_series;
    *ret_n = store_selects(s, 0, p);
    return true;
}

static const struct queryable_ops store_ops = {
    .select = store_select, .label_names = store_names, .label_values = store_values, .metadata = store_metadata, .exemplars = store_exemplars};

static void store_init(struct store *s)
{
    static const char digits[] = "0123456789";
    *s = (struct store){.base = {&store_ops}};
    for (size_t i = 0; i < STORE_SERIES; i++) {
        s->labels[i][0] = (struct label){SL("__name__"), SL("q_m")};
        s->labels[i][1] = (struct label){SL("g"), slice_make(digits + i % 2, 1)};
        s->labels[i][2] = (struct label){SL("i"), slice_make(digits + i, 1)};
        struct xor_appender a;
        xor_appender_init(&a);
        for (int64_t k = 0; k < STORE_SAMPLES; k++)
            xor_append(&a, s->bytes[i], k * 15000, (double)k * (double)(i + 1));
        s->chunks[i] = (struct series_chunk){0, 600000, CHUNK_XOR, slice_make(s->bytes[i], xor_size(&a))};
    }
    s->exemplar_label = (struct label){SL("trace"), SL("t1")};
    s->exemplar = (struct exemplar){{&s->exemplar_label, 1}, 1.5, 1795237073500};
    s->exemplar_series = (struct exemplar_series){store_labels(s, 0), &s->exemplar, 1};
}

struct api_rig {
    struct rig http;
    struct store store;
    struct read_config cfg;
    struct limits limits;
    struct limits_provider provider;
    struct query_api *api;
    atomic_int barriers;
    bool barrier_fails;
    pthread_mutex_t lock;
    char tags[512]; /* guarded by lock: of the last request, "name=value;..." */
};

static bool api_rig_barrier(void *arg, struct ctx *ctx, struct err *err)
{
    struct api_rig *r = arg;
    atomic_fetch_add(&r->barriers, 1);
    pthread_mutex_lock(&r->lock);
    r->tags[0] = '\0';
    for (size_t i = 0, n = 0; i < ctx->n_tags && n < sizeof(r->tags); i++)
        n += (size_t)snprintf(r->tags + n, sizeof(r->tags) - n, "%.*s=%.*s;", SL_FMT(ctx->tags[i].name), SL_FMT(ctx->tags[i].value));
    pthread_mutex_unlock(&r->lock);
    return !r->barrier_fails || err_set(err, ERR_TIMEOUT, "timed out waiting for the log");
}

static void api_rig_new(struct api_rig *r)
{
    memset(r, 0, sizeof(*r));
    pthread_mutex_init(&r->lock, NULL);
    rig_new(&r->http);
    flag_set_add(r->http.flags, "Querier", read_flags, read_flags_n, &r->cfg);
    flag_set_add(r->http.flags, "Limits", limits_flags, limits_flags_n, &r->limits);
    store_init(&r->store);
    r->provider.defaults = &r->limits;
}

static void api_rig_start(struct api_rig *r)
{
    r->api = query_api_new(&r->cfg, &r->provider, &r->store.base, api_rig_barrier, r);
    rig_start(&r->http, read_routes, read_routes_n, r->api);
}

static void api_rig_stop(struct api_rig *r)
{
    rig_stop(&r->http);
    query_api_free(r->api);
    cr_assert_eq(r->store.open_sets, 0);
}

UNUSED static struct reply api_ask(struct api_rig *r, const char *path_and_query)
{
    char path[4096];
    snprintf(path, sizeof(path), "/prometheus/api/v1/%s", path_and_query);
    return rig_ask(&r->http, "GET", path, "X-Scope-OrgID: t\r\n", NULL, 0);
}

struct api_case {
    const char *path;
    int status;
    const char *body; /* "" = not compared */
};

UNUSED static void api_check(struct api_rig *r, const struct api_case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct reply a = api_ask(r, cases[i].path);
        cr_expect_eq(a.status, cases[i].status, "%s: %d %s", cases[i].path, a.status, a.body);
        cr_expect(!*cases[i].body || strcmp(a.body, cases[i].body) == 0, "%s:\n have %s\n want %s", cases[i].path, a.body, cases[i].body);
        reply_free(&a);
    }
}
#define API_CHECK(rig, cases) api_check((rig), (cases), sizeof(cases) / sizeof(*(cases)))

#define BAD(text) "{\"status\":\"error\",\"errorType\":\"bad_data\",\"error\":\"" text "\"}"
#define EXEC(text) "{\"status\":\"error\",\"errorType\":\"execution\",\"error\":\"" text "\"}"
