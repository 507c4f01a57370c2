/*
 * The gRPC service cortex.Ingester of one ingester: selects, labels, metadata, exemplars and statistics, for queriers
 * of other processes.
 *
 * The same queryable is given to a querier in this process: it waits as read consistency wants it (ctx tags) and
 * refuses with ERR_UNAVAILABLE as long as the ingester is not serving, just as the service does.
 *
 * A handler runs on the gRPC server's pool and streams from it; memory is that of one batch, for rpc_send waits while
 * the querier is slow.
 */
#pragma once

#include <stdbool.h>

#include "ingest/ingest.h"
#include "log/last_produced.h"
#include "net/rpc/rpc.h"
#include "storage/queryable.h"

struct ingest_service;

/* partition: the ingester's own. last_produced may be NULL: a strong read without an offset is then refused. All must
 * outlive the service. */
struct ingest_service *ingest_service_new(const struct ingest_config *cfg, struct ingester *ing, int32_t partition,
                                          struct last_produced *last_produced);
void ingest_service_free(struct ingest_service *s);

/* Owned by the service. Any thread. */
struct queryable *ingest_service_queryable(struct ingest_service *s);

/* rpc_server_add(server, ingest_service_methods, ingest_service_methods_n, service). */
extern const struct rpc_method ingest_service_methods[];
extern const size_t ingest_service_methods_n;
