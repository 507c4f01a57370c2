/* The parts of the service: service.c (calls and their ends), consistency.c, query_stream.c, labels.c, cardinality.c,
 * queryable.c. */
#pragma once

#include "base/assert.h"
#include "ingest/series_list.h"
#include "ingest/service/ingest_service.h"
#include "storage/messages/ingester_messages.h"

#define METRICS_ROOM ingest_service
#define METRICS_DEF "ingest/service/service_metrics.def"
#include "base/metrics_table.h"

/* Immutable after new. */
struct ingest_service {
    struct ingest_config cfg;
    struct ingester *ing;
    int32_t partition;
    struct last_produced *last_produced; /* may be NULL */
    struct queryable queryable;
    struct metric *strong_with_offset, *strong_without_offset, *strong_failures, *strong_seconds;
};

/*
 * May this read go on: is the ingester serving, and as fresh as the read's tags want it (log/read_consistency.h)? Waits
 * for a strong one. ERR_UNAVAILABLE, ERR_TIMEOUT, ERR_CANCELED, or the log's error.
 */
bool service_admit(struct ingest_service *s, struct ctx *ctx, struct err *err);

void service_queryable_init(struct ingest_service *s);

/* Matchers made for a call, released at its end. */
struct call_matchers {
    struct call_matchers *next;
    size_t n;
    struct matcher all[];
};

/* One call, on the stack of its handler. */
struct call {
    struct ingest_service *service;
    struct rpc_request *req;
    struct ctx *ctx;
    struct err err;
    struct buf out; /* of a unary call: the answer */
    struct call_matchers *matchers;
};

/* Always false: the bytes are no such request. */
bool call_unreadable(struct call *c);
/* The set as matchers; n == 0 without a set. */
bool call_matchers(struct call *c, const struct matcher_set *set, const struct matcher **ret, size_t *ret_n);
/* As call_matchers, but a matcher of query sharding (__query_shard__="2_of_16") goes to the filter. */
bool call_sharded_matchers(struct call *c, const struct matcher_set *set, struct series_filter *filter,
                           const struct matcher **ret, size_t *ret_n);
/* Sends c->out as one message of the stream, and empties it. */
bool call_send(struct call *c);
/* Messages of streams are sent when they have grown to this. */
#define CALL_MESSAGE_BYTES ((size_t)1 << 20)
/* Since when a series must have samples to be active now; at least 1. */
uint32_t call_active_since_s(const struct call *c);

/* The bodies of the methods: true: done, with the answer in c->out or sent; false: c->err. */
bool query_stream(struct call *c);
bool label_names(struct call *c);
bool label_values(struct call *c);
bool metrics_for_label_matchers(struct call *c);
bool metrics_metadata(struct call *c);
bool query_exemplars(struct call *c);
bool user_stats(struct call *c);
bool all_user_stats(struct call *c);
bool label_names_and_values(struct call *c);
bool label_values_cardinality(struct call *c);
bool active_series(struct call *c);
