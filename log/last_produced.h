/*
 * The last produced offsets of a log's partitions, asked for by one thread for all who want to know.
 *
 * Strong reads need the offset as it is after they began. One thread asks the log for a partition when somebody waits for it, and again each
 * -ingest-storage.kafka.last-produced-offset-poll-interval for partitions that were asked about lately; a waiter is given the result of a request that was
 * issued after it began to wait. So a thousand strong queries a second cost one request to the brokers, not a thousand.
 *
 * Any thread may call.
 */
#pragma once

#include <stdint.h>

#include "base/ctx.h"
#include "log/plog.h"
#include "log/read_consistency.h"

struct last_produced;

/* The log must outlive it. */
struct last_produced *last_produced_new(struct plog *log, const struct plog_config *cfg);
void last_produced_free(struct last_produced *lp); /* NULL is fine; nobody waits any more */

/* Fills ret[i].offset for each ret[i].partition (-1: empty). ERR_TIMEOUT and ERR_CANCELED by ctx, else the log's error. */
bool last_produced_wait(struct last_produced *lp, struct ctx *ctx, struct partition_offset *ret, size_t n, struct err *err);
