/*
 * The last produced offsets of a log's partitions, asked for by one thread for all who want to know.
 *
 * Strong reads need the offset as it is after they began. A waiter is given the result of a question that was put to the log after it began to wait. One
 * thread asks: at once when nothing was asked lately, for all partitions that are waited for together (one request a broker). Whoever comes meanwhile waits for
 * the next question, and two questions begin at least a hundredth of -ingest-storage.kafka.last-produced-offset-poll-interval apart (10 ms by default). So a
 * thousand strong queries a second cost a hundred requests, and none of them waits for the next poll, as it would in Mimir.
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
