/* A select of what a head and local blocks have together. */
#pragma once

#include "ingest/blocks/local_blocks.h"
#include "ingest/head_int.h"
#include "storage/queryable.h"

/* Takes both over, also when it fails. head: of head_select, before its first next, NULL: there is none. p's matchers and labels must live as long as the set. */
struct series_set *union_set_new(struct series_set *head, const struct head *h, struct local_block_refs refs, struct ctx *ctx, const struct select_params *p,
                                 struct err *err);
