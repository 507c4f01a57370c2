/* Calls with one answer: label names and values. The answers of all store-gateways are put together, sorted and without doubles. */
#include <stdlib.h>
#include <string.h>

#include "read/blocks/blocks_int.h"

static enum fetch_step strings_message(struct fetch *f, struct attempt *a, const struct buf *msg, struct err *err)
{
    struct arena *arena = f->ctx->arena;
    struct storegateway_strings answer;
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
    if (!storegateway_strings_decode(copy, arena, &answer, err))
        return FETCH_FAILED;
    a->strings = answer.strings;
    a->n_strings = answer.n;
    a->found = (struct gateway_found){answer.queried.blocks, answer.queried.n};
    return FETCH_MORE;
}

static enum fetch_step strings_end(struct fetch *f, struct attempt *a, struct err *err)
{
    (void)f;
    if (a->has_answer)
        return FETCH_COMPLETE;
    err_set(err, ERR_INTERNAL, "no answer to a unary call");
    return FETCH_FAILED;
}

static bool local_names(struct fetch *f, struct attempt *a, const struct block_hints *blocks, struct err *err)
{
    const struct local_gateway *g = &f->q->local;
    return g->ops->label_names(g->gateway, blocks_attempt_ctx(f, a), &f->params, blocks, &a->found, &a->strings, &a->n_strings, err);
}

static bool local_values(struct fetch *f, struct attempt *a, const struct block_hints *blocks, struct err *err)
{
    const struct local_gateway *g = &f->q->local;
    return g->ops->label_values(g->gateway, blocks_attempt_ctx(f, a), f->label_name, &f->params, blocks, &a->found, &a->strings, &a->n_strings, err);
}

static const struct fetch_ops names_ops = {
    .method = STOREGATEWAY_LABEL_NAMES,
    .unary = true,
    .put = storegateway_label_names_request_put,
    .message = strings_message,
    .end = strings_end,
    .local = local_names,
};
static const struct fetch_ops values_ops = {
    .method = STOREGATEWAY_LABEL_VALUES,
    .unary = true,
    .put = storegateway_label_values_request_put,
    .message = strings_message,
    .end = strings_end,
    .local = local_values,
};

/* All answers in one list. NULL: the arena is used up. */
static struct slice *join(const struct fetch *f, size_t *ret_n)
{
    size_t n = 0, k = 0;
    for (const struct attempt *a = f->answered; a; a = a->next)
        n += a->n_strings;
    struct slice *all = ARENA_ARRAY(f->ctx->arena, struct slice, n + 1);
    for (const struct attempt *a = f->answered; a && all; a = a->next) {
        if (a->n_strings)
            memcpy(all + k, a->strings, a->n_strings * sizeof(*all));
        k += a->n_strings;
    }
    *ret_n = n;
    return all;
}

struct label_call {
    struct fetch f;
    struct ctx *ctx;
    size_t limit;
};

static void call_free(struct label_call *c)
{
    blocks_fetch_release(&c->f);
    free(c);
}

struct label_call *blocks_label_begin(struct queryable *q, struct ctx *ctx, const struct slice *name, const struct select_params *p, struct err *err)
{
    struct label_call *c = calloc(1, sizeof(*c));
    ASSERT(c);
    c->ctx = ctx;
    c->limit = p->limit;
    bool ok = blocks_fetch_init(&c->f, blocks_of(q), ctx, name ? &values_ops : &names_ops, p, err);
    c->f.label_name = name ? *name : (struct slice){0};
    if (ok && blocks_fetch_start(&c->f, err))
        return c;
    call_free(c);
    return NULL;
}

bool blocks_label_end(struct label_call *c, const struct slice **ret, size_t *ret_n, struct err *err)
{
    size_t n = 0, limit = c->limit;
    struct slice *all = NULL;
    if (ret && blocks_fetch_finish(&c->f, c->ctx, err) && !(all = join(&c->f, &n)))
        query_over_memory(c->ctx, err);
    call_free(c);
    if (!all)
        return !ret;
    n = strings_sort_unique(all, n);
    *ret = all;
    *ret_n = limit ? MIN(n, limit) : n;
    return true;
}

bool blocks_label_names(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct slice **ret, size_t *ret_n, struct err *err)
{
    struct label_call *c = blocks_label_begin(q, ctx, NULL, p, err);
    return c && blocks_label_end(c, ret, ret_n, err);
}

bool blocks_label_values(struct queryable *q, struct ctx *ctx, struct slice name, const struct select_params *p, const struct slice **ret, size_t *ret_n,
                         struct err *err)
{
    struct label_call *c = blocks_label_begin(q, ctx, &name, p, err);
    return c && blocks_label_end(c, ret, ret_n, err);
}
