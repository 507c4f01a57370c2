/* The second half of index_writer.c: all that follows the series. */
#pragma once

#include "storage/block/index_writer_int.h"

bool index_writer_put_postings(struct index_writer *w, struct err *err);
