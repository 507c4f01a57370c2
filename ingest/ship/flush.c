/* See flush.h. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "ingest/ship/flush.h"

#define CATCH_UP_MS 60000

/* What a turn is to flush. */
struct flush_order {
    bool all;
    char *tenants[FLUSH_TENANTS_MAX]; /* owned */
    size_t n;
};

struct flusher {
    struct ingester **ingesters;
    size_t n;
    struct shipper *shipper;
    flush_catch_up_fn *catch_up;
    void *catch_up_arg;
    pthread_t thread;
    atomic_bool stop; /* also cancels the shipping */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under lock */
    struct flush_order next;
    uint64_t asked; /* requests so far */
    uint64_t done;  /* of these */
};

/* --- the thread ------------------------------------------------------------------------------------------------------------ */

static void flush_tenant(struct flusher *f, struct slice tenant)
{
    struct err err = ERR_NONE;
    struct ctx ctx = {.tenant = tenant, .canceled = &f->stop};
    for (size_t i = 0; i < f->n; i++)
        if (!ingester_flush(f->ingesters[i], tenant, &err))
            LOG_WARN("the heads could not be flushed as asked for", {"tenant", LOG_SLICE(tenant)}, {"err", LOG_ERR(&err)});
    if (!shipper_ship(f->shipper, &ctx, tenant, &err))
        LOG_WARN("blocks could not be shipped as asked for", {"tenant", LOG_SLICE(tenant)}, {"err", LOG_ERR(&err)});
}

static void carry_out(struct flusher *f, struct flush_order *order)
{
    struct err err = ERR_NONE;
    struct ctx ctx = {.canceled = &f->stop, .deadline_ms = clock_mono_ms() + CATCH_UP_MS};
    if (f->catch_up && !f->catch_up(f->catch_up_arg, &ctx, &err))
        LOG_WARN("what is flushed may not be all that was acknowledged", {"err", LOG_ERR(&err)});
    if (order->all)
        flush_tenant(f, (struct slice){NULL, 0});
    for (size_t i = 0; i < order->n; i++) {
        if (!order->all && !atomic_load(&f->stop))
            flush_tenant(f, slice_of(order->tenants[i]));
        free(order->tenants[i]);
    }
}

static void *flush_main(void *arg)
{
    struct flusher *f = arg;
    struct flush_order *order = malloc(sizeof(*order));
    ASSERT(order);
    pthread_mutex_lock(&f->lock);
    for (;;) {
        while (!atomic_load(&f->stop) && f->done == f->asked)
            pthread_cond_wait(&f->changed, &f->lock);
        if (atomic_load(&f->stop))
            break;
        uint64_t upto = f->asked;
        *order = f->next;
        f->next = (struct flush_order){0};
        pthread_mutex_unlock(&f->lock);
        carry_out(f, order);
        pthread_mutex_lock(&f->lock);
        f->done = upto;
        pthread_cond_broadcast(&f->changed);
    }
    pthread_mutex_unlock(&f->lock);
    free(order);
    return NULL;
}

struct flusher *flusher_new(struct ingester *const *ingesters, size_t n, struct shipper *shipper, flush_catch_up_fn *catch_up, void *arg)
{
    struct flusher *f = calloc(1, sizeof(*f));
    ASSERT(f && (f->ingesters = calloc(n, sizeof(f->ingesters[0]))));
    memcpy(f->ingesters, ingesters, n * sizeof(f->ingesters[0]));
    f->n = n;
    f->shipper = shipper;
    f->catch_up = catch_up;
    f->catch_up_arg = arg;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    int rc = pthread_create(&f->thread, NULL, flush_main, f);
    ASSERT(rc == 0);
    return f;
}

void flusher_free(struct flusher *f)
{
    if (!f)
        return;
    pthread_mutex_lock(&f->lock);
    atomic_store(&f->stop, true);
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    pthread_join(f->thread, NULL);
    for (size_t i = 0; i < f->next.n; i++)
        free(f->next.tenants[i]);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->changed);
    free(f->ingesters);
    free(f);
}

/* --- HTTP ------------------------------------------------------------------------------------------------------------------ */

/* Under lock. */
static void order_tenants(struct flush_order *o, const struct slice *tenants, size_t n)
{
    o->all |= n == 0 || n > FLUSH_TENANTS_MAX - o->n;
    for (size_t i = 0; i < n && !o->all; i++)
        o->tenants[o->n++] = slice_strdup(tenants[i]);
}

void flusher_ask(struct flusher *f, const struct slice *tenants, size_t n, bool wait)
{
    pthread_mutex_lock(&f->lock);
    uint64_t mine = ++f->asked;
    order_tenants(&f->next, tenants, n);
    pthread_cond_broadcast(&f->changed);
    while (wait && f->done < mine && !atomic_load(&f->stop))
        pthread_cond_wait(&f->changed, &f->lock);
    pthread_mutex_unlock(&f->lock);
}

static void flush_handler(struct http_request *req, void *arg)
{
    struct flusher *f = arg;
    struct err err = ERR_NONE;
    for (size_t i = 0; i < f->n; i++) {
        if (ingester_stopped(f->ingesters[i], &err)) {
            http_respond_text_error(req, 503, err.text);
            return;
        }
    }
    const struct slice *tenants;
    size_t n = http_params(req, "tenant", &tenants);
    flusher_ask(f, tenants, n, slice_eq(http_param(req, "wait"), SL("true")));
    http_respond_status(req, 204);
}

const struct http_route flush_routes[] = {
    {HTTP_GET | HTTP_POST, "/ingester/flush", HTTP_POOL_QUERY, 0, flush_handler,
     "Cut what the heads have into blocks and ship them; ?tenant= only of these, ?wait=true answers when it is done"},
};
const size_t flush_routes_n = ARRAY_LEN(flush_routes);
