/* For tests: a writer with small segments and a small buffer for postings takes the paths that only large blocks take. */
#pragma once

#include "storage/block/block.h"

void block_writer_set_sizes(struct block_writer *w, uint64_t segment_bytes, size_t postings_buffer_bytes);
