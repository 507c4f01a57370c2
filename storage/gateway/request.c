/*
 * One request: the gate, its blocks, and what is done with all of them at once.
 *
 * A block of the request is a part with an arena of its own, since several threads work on a request, each on one part. An arena may grow to what the request's own may;
 * after each step all of them together must not be larger than that.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/logger.h"
#include "storage/gateway/gateway_int.h"

/* --- which blocks --- */

static bool touches(const struct served_block *b, const struct select_params *p)
{
    return b->min_t <= p->max_t && b->max_t > p->min_t;
}

static int compare_ulids(const void *a, const void *b)
{
    return strcmp(((const struct ulid *)a)->text, ((const struct ulid *)b)->text);
}

static void add_part(struct request *r, struct served_block *b)
{
    b->refs++;
    b->used_ms = clock_mono_ms(); /* so that it is not closed between two requests that both need it */
    r->parts[r->n++].block = b;
}

/* All that touch the time. Under the lock; found and parts have the room. */
static void take_all(struct request *r, const struct served_tenant *t, struct ulid *found, size_t *ret_found)
{
    for (size_t i = 0; i < t->n; i++)
        if (touches(t->blocks[i], &r->p)) {
            found[(*ret_found)++] = t->blocks[i]->id;
            add_part(r, t->blocks[i]);
        }
}

/* Those that are asked for (sorted) and here. Those of another time have nothing to say, which is an answer as well. Under the lock. */
static void take_asked(struct request *r, const struct served_tenant *t, const struct ulid *asked, size_t n, struct ulid *found, size_t *ret_found)
{
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && compare_ulids(&asked[i - 1], &asked[i]) == 0)
            continue;
        struct served_block *b = t ? served_find(t, &asked[i]) : NULL;
        if (!b) {
            r->g->wants_sync = true;
            continue;
        }
        found[(*ret_found)++] = b->id;
        if (touches(b, &r->p))
            add_part(r, b);
    }
}

static bool sort_asked(struct arena *arena, const struct block_hints *blocks, struct ulid **ret)
{
    *ret = ARENA_ARRAY(arena, struct ulid, blocks->n + 1);
    if (!*ret)
        return false;
    if (blocks->n) {
        memcpy(*ret, blocks->blocks, blocks->n * sizeof(**ret));
        qsort(*ret, blocks->n, sizeof(**ret), compare_ulids);
    }
    return true;
}

/* A tenant's blocks may have become more when the lock is taken the second time: then it is tried again. */
static bool find_blocks(struct request *r, const struct block_hints *blocks, struct gateway_found *ret, struct err *err)
{
    struct gateway *g = r->g;
    struct arena *arena = r->ctx->arena;
    struct ulid *asked = NULL;
    if (!blocks->all && !sort_asked(arena, blocks, &asked))
        return gateway_no_memory(err);
    for (size_t room = blocks->all ? 64 : blocks->n;; room *= 2) {
        struct ulid *found = ARENA_ARRAY(arena, struct ulid, room + 1);
        r->parts = arena_zalloc(arena, (room + 1) * sizeof(*r->parts));
        if (!found || !r->parts)
            return gateway_no_memory(err);
        size_t n_found = 0;
        pthread_mutex_lock(&g->lock);
        bool serving = g->serving;
        const struct served_tenant *t = table_find(&g->table, r->ctx->tenant);
        bool fits = !blocks->all || !t || t->n <= room;
        r->known = t != NULL;
        if (serving && fits && blocks->all && t)
            take_all(r, t, found, &n_found);
        else if (serving && !blocks->all)
            take_asked(r, t, asked, blocks->n, found, &n_found);
        pthread_mutex_unlock(&g->lock);
        if (!serving)
            return err_set(err, ERR_UNAVAILABLE, "the store-gateway is not serving");
        *ret = (struct gateway_found){found, n_found};
        if (fits)
            return true;
    }
}

static int compare_parts(const void *a, const void *b)
{
    const struct served_block *x = ((const struct part *)a)->block, *y = ((const struct part *)b)->block;
    if (x->min_t != y->min_t)
        return x->min_t < y->min_t ? -1 : 1;
    return strcmp(x->id.text, y->id.text);
}

/* By time, so that chunks of one part after the other are mostly in order. */
static void init_parts(struct request *r)
{
    if (r->n)
        qsort(r->parts, r->n, sizeof(*r->parts), compare_parts);
    for (size_t i = 0; i < r->n; i++) {
        struct part *p = &r->parts[i];
        arena_init(&p->arena, r->ctx->arena->budget_bytes);
        p->ctx = *r->ctx;
        p->ctx.arena = &p->arena;
        p->err = ERR_NONE;
    }
}

/* --- all at once --- */

static bool check_memory(const struct request *r, struct err *err)
{
    size_t used = r->ctx->arena->used_bytes, budget = r->ctx->arena->budget_bytes;
    for (size_t i = 0; i < r->n; i++)
        used += r->parts[i].arena.used_bytes + r->parts[i].cap_members * sizeof(r->parts[i].members[0]);
    return budget == 0 || used <= budget || gateway_no_memory(err);
}

static bool is_of_the_block(enum err_code code)
{
    return code != ERR_CANCELED && code != ERR_TIMEOUT && code != ERR_UNAVAILABLE && code != ERR_MAX_QUERY_MEMORY && code != ERR_BAD_DATA;
}

/* The first error. Those that are a block's own name it, and are told to whoever runs this: other replicas may hide them from queries. */
static bool take_errors(const struct request *r, struct err *err)
{
    for (size_t i = 0; i < r->n; i++) {
        const struct part *p = &r->parts[i];
        if (p->err.code == ERR_OK)
            continue;
        if (err)
            *err = p->err;
        if (is_of_the_block(p->err.code)) {
            err_prefix(err, "block %s: ", p->block->id.text);
            LOG_WARN("a block could not be read", {"tenant", LOG_STR(p->block->tenant)}, {"block", LOG_STR(p->block->id.text)}, {"err", LOG_ERR(&p->err)});
        }
        return false;
    }
    return check_memory(r, err);
}

bool request_each(struct request *r, void (*fn)(void *request, size_t part), struct err *err)
{
    together(r->g->helpers, r->g->alone_us, r->n, fn, r);
    return take_errors(r, err);
}

struct chosen {
    struct request *r;
    void (*fn)(void *request, size_t part);
};

static void do_chosen(void *arg, size_t i)
{
    const struct chosen *c = arg;
    c->fn(c->r, c->r->chosen[i]);
}

bool request_some(struct request *r, bool (*needs)(const struct request *r, const struct part *p), void (*fn)(void *request, size_t part), struct err *err)
{
    struct chosen c = {r, fn};
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++)
        if (needs(r, &r->parts[i]))
            r->chosen[n++] = i;
    together(r->g->helpers, r->g->alone_us, n, do_chosen, &c);
    return n == 0 || take_errors(r, err);
}

static void open_part(void *request, size_t i)
{
    struct request *r = request;
    struct part *p = &r->parts[i];
    p->open = served_open(r->g, p->block, &p->ctx, &p->err);
}

bool request_begin(struct request *r, struct gateway *g, struct ctx *ctx, const struct select_params *p, const struct block_hints *blocks, struct gateway_found *ret_found,
                   struct err *err)
{
    *r = (struct request){.g = g, .ctx = ctx, .p = *p};
    arena_init(&r->scratch, ctx->arena->budget_bytes);
    if (!catch_up_wait(g, ctx, blocks, err) || !gate_enter(&g->queries, ctx, err))
        return false;
    r->gated = true;
    if (!find_blocks(r, blocks, ret_found, err))
        return false;
    init_parts(r);
    metric_add(metric_single(gateway_metrics[GATEWAY_BLOCKS_QUERIED]), (double)r->n);
    return request_each(r, open_part, err);
}

void request_leave_gate(struct request *r)
{
    if (r->gated)
        gate_leave(&r->g->queries);
    r->gated = false;
}

void request_end(struct request *r)
{
    request_observe(r);
    for (size_t i = 0; i < r->n; i++) {
        struct part *p = &r->parts[i];
        store_select_free(p->select);
        store_block_unref(p->open);
        served_unref(r->g, p->block);
        free(p->members);
        arena_release(&p->arena);
    }
    r->n = 0;
    arena_release(&r->scratch);
    request_leave_gate(r);
}

/* --- names and values --- */

static void ask_names(void *request, size_t i)
{
    struct request *r = request;
    struct part *p = &r->parts[i];
    store_block_label_names(p->open, &p->ctx, &r->p, &p->strings, &p->n_strings, &p->label_stats, &p->err);
}

static void ask_values(void *request, size_t i)
{
    struct request *r = request;
    struct part *p = &r->parts[i];
    store_block_label_values(p->open, &p->ctx, r->label_name, &r->p, &p->strings, &p->n_strings, &p->label_stats, &p->err);
}

static int compare_slices(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

/* Copied to the request's arena: the parts' go with the request. */
static bool unite(struct request *r, const struct slice **ret, size_t *ret_n, struct err *err)
{
    size_t total = 0, n = 0, kept = 0;
    for (size_t i = 0; i < r->n; i++)
        total += r->parts[i].n_strings;
    struct slice *all = ARENA_ARRAY(r->ctx->arena, struct slice, total + 1);
    if (!all)
        return gateway_no_memory(err);
    for (size_t i = 0; i < r->n; i++)
        for (size_t k = 0; k < r->parts[i].n_strings; k++)
            all[n++] = r->parts[i].strings[k];
    if (r->n > 1 && n)
        qsort(all, n, sizeof(*all), compare_slices);
    for (size_t i = 0; i < n && (r->p.limit == 0 || kept < r->p.limit); i++)
        if (i == 0 || !slice_eq(all[kept - 1], all[i]))
            all[kept++] = all[i];
    for (size_t i = 0; i < kept; i++)
        all[i] = arena_dup(r->ctx->arena, all[i]);
    if (r->ctx->arena->overflow)
        return gateway_no_memory(err);
    *ret = all;
    *ret_n = kept;
    return true;
}

bool request_strings(struct request *r, enum gateway_strings what, struct slice name, const struct slice **ret, size_t *ret_n, struct err *err)
{
    r->label_name = name;
    return request_each(r, what == GATEWAY_LABEL_NAMES ? ask_names : ask_values, err) && unite(r, ret, ret_n, err);
}
