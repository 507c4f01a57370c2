/* What the two files of store-gateways' messages share. */
#pragma once

#include "storage/messages/messages_int.h"
#include "storage/messages/storegateway_messages.h"

/* The hints of an answer, as they are and inside an Any. */
bool reading_queried(const struct reading *m, struct block_hints *ret);
bool reading_queried_any(const struct reading *m, struct slice any, struct block_hints *ret);
void put_queried_any(uint32_t field, struct slice type, const struct block_hints *h, struct buf *out);
