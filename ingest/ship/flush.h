/*
 * Flushing on request: what the heads of this process have becomes blocks now, and the blocks go to the bucket.
 *
 *     GET, POST /ingester/flush[?tenant=a&tenant=b][&wait=true]    204, whatever comes of it; 503 when the ingester has stopped
 *
 * One thread does it; what is asked for meanwhile is done in its next turn. Of the tenants asked for FLUSH_TENANTS_MAX are remembered; with more it is all of them.
 */
#pragma once

#include "ingest/ingest.h"
#include "ingest/ship/ship.h"
#include "net/http.h"

#define FLUSH_TENANTS_MAX 1000

struct flusher;

/* Waits until what was acknowledged before the call is in the heads. */
typedef bool flush_catch_up_fn(void *arg, struct ctx *ctx, struct err *err);
/*
 * ingesters are copied; they, the shipper and catch_up's arg must outlive it. catch_up NULL: nobody here knows what was acknowledged, and what is flushed is what was
 * consumed.
 */
struct flusher *flusher_new(struct ingester *const *ingesters, size_t n, struct shipper *shipper, flush_catch_up_fn *catch_up, void *arg);
/* Ends with the turn that is under way: after the HTTP server has stopped, before the ingesters do. NULL is fine. */
void flusher_free(struct flusher *f);

/* Flushes these tenants, all of them where n is 0; wait: returns when it is done, whatever came of it (the log says). Any thread. */
void flusher_ask(struct flusher *f, const struct slice *tenants, size_t n, bool wait);

extern const struct http_route flush_routes[]; /* arg: the flusher */
extern const size_t flush_routes_n;
