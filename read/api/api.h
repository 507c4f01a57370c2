/*
 * The query API under <prefix>/api/v1: query, query_range, series, labels, label values, metadata, format_query, remote read, as Prometheus and Mimir's
 * query-frontend answer. Runs on the query pool.
 */
#pragma once

#include "base/flags.h"
#include "model/limits.h"
#include "net/http.h"
#include "read/promql/engine.h"
#include "storage/queryable.h"

struct read_config {
#define FLAG FLAG_FIELD
#include "read/read_flags.def"
#undef FLAG
};
extern const struct flag_def read_flags[];
extern const size_t read_flags_n;
bool read_config_validate(const struct read_config *cfg, struct err *err);

/*
 * Called before a request reads. The ctx's tags say how fresh the answer must be (log/read_consistency.h: from the request's headers, else the tenant's limit). Given by app,
 * NULL: nothing is to be done. In the single process it waits until the store holds everything that was acknowledged before now, whatever the tags; in a cluster it adds the
 * offsets for which the ingesters shall wait to the tags of strong reads (read/ingesters/ingesters.h). Tags that it adds lie in ctx->arena.
 */
typedef bool read_barrier_fn(void *arg, struct ctx *ctx, struct err *err);

struct query_api;
struct query_api *query_api_new(const struct read_config *cfg, const struct limits_provider *limits, struct queryable *q,
                                read_barrier_fn *barrier, void *barrier_arg);
void query_api_free(struct query_api *api);
/* Where large remote reads keep what is not sent yet, in files without names. /tmp when nobody says so, or NULL; dir must outlive the api. Before the first request. */
void query_api_spill_to(struct query_api *api, const char *dir);

/* Refusals of the server, as this API words them: http_server_on_refusal(server, read_routes, query_api_refuse). */
http_refuse_fn query_api_refuse;

/* Routes; the handlers' arg is the struct query_api. */
extern const struct http_route read_routes[];
extern const size_t read_routes_n;
