/*
 * Tenants whose newest blocks somebody knows already and we do not.
 *
 * A querier says how new its bucket index is. When it asks for a block that is not here and its index is newer than the one we have looked at, we may just not have seen the
 * block yet: to say that it is not here would fail the query on all replicas that are as late. So the thread that keeps up reads that tenant's index, and the request waits for it,
 * before it enters the gate. With an index of the same age the block is others', or gone: nothing would change.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "storage/gateway/gateway_int.h"

#define PATIENCE_MS 10000 /* a look at all tenants may be under way, over a bad network; who is not waited for is an error of the query */
#define WAIT_MS 100       /* between looks whether the request was given up */

/* Under the lock. */
static bool is_behind(const struct gateway *g, struct slice tenant, const struct block_hints *blocks)
{
    const struct served_tenant *t = table_find(&g->table, tenant);
    if (!g->serving || !g->has_caller || blocks->all || blocks->index_s <= (t ? t->index_s : 0))
        return false;
    for (size_t i = 0; i < blocks->n; i++)
        if (!t || !served_find(t, &blocks->blocks[i]))
            return true;
    return false;
}

/* False: there are too many. Under the lock. */
static bool call_for(struct gateway *g, struct slice tenant)
{
    for (size_t i = 0; i < g->n_behind; i++)
        if (slice_eq(slice_of(g->behind[i]), tenant))
            return true;
    if (g->n_behind == ARRAY_LEN(g->behind))
        return false;
    g->behind[g->n_behind++] = slice_strdup(tenant);
    pthread_cond_broadcast(&g->changed);
    return true;
}

bool catch_up_wait(struct gateway *g, const struct ctx *ctx, const struct block_hints *blocks, struct err *err)
{
    bool ok = true;
    int64_t until_ms = clock_mono_ms() + PATIENCE_MS;
    pthread_mutex_lock(&g->lock);
    if (is_behind(g, ctx->tenant, blocks) && call_for(g, ctx->tenant))
        for (uint64_t mine = g->catch_ups_begun + 1; ok && g->catch_ups_done < mine && clock_mono_ms() < until_ms && !gateway_stopping(g);) {
            gateway_wait(&g->changed, &g->lock, WAIT_MS);
            ok = ctx_check(ctx, err);
        }
    pthread_mutex_unlock(&g->lock);
    return ok;
}

bool catch_up_is_called(struct gateway *g, int64_t wait_ms)
{
    int64_t until_ms = clock_mono_ms() + wait_ms, left_ms;
    pthread_mutex_lock(&g->lock);
    while (!gateway_stopping(g) && g->n_behind == 0 && (left_ms = until_ms - clock_mono_ms()) > 0)
        gateway_wait(&g->changed, &g->lock, left_ms);
    bool called = g->n_behind > 0;
    pthread_mutex_unlock(&g->lock);
    return called;
}

void catch_up(struct gateway *g)
{
    char *names[CATCH_UP_MAX];
    struct slice tenants[CATCH_UP_MAX];
    pthread_mutex_lock(&g->lock);
    size_t n = g->n_behind;
    memcpy(names, g->behind, n * sizeof(*names));
    g->n_behind = 0;
    uint64_t mine = ++g->catch_ups_begun;
    pthread_mutex_unlock(&g->lock);
    for (size_t i = 0; i < n; i++)
        tenants[i] = slice_of(names[i]);
    gateway_sync_tenants(g, tenants, n);
    pthread_mutex_lock(&g->lock);
    g->catch_ups_done = mine;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
    for (size_t i = 0; i < n; i++)
        free(names[i]);
}

void catch_up_free(struct gateway *g)
{
    for (size_t i = 0; i < g->n_behind; i++)
        free(g->behind[i]);
}
