/*
 * Pieces that the messages are made of.
 *
 * A repeated field is read in two passes: its elements are counted first, so that an array in the arena has exactly the
 * room it needs and bytes from outside cannot ask for more than some twenty times their own size.
 */
#pragma once

#include "model/proto.h"
#include "model/proto_put.h"
#include "storage/messages/ingester_messages.h"

/* A message on its way: its bytes, its name for texts, and where what is read goes. */
struct reading {
    struct slice bytes;
    const char *name;
    struct arena *arena;
    struct err *err;
};

static inline struct proto reading_cursor(const struct reading *m)
{
    return proto_of(m->bytes, m->name, m->err);
}
/* A message inside m. */
static inline struct reading reading_inside(const struct reading *m, struct slice bytes, const char *name)
{
    return (struct reading){bytes, name, m->arena, m->err};
}

/* Always false. */
bool reading_no_memory(const struct reading *m);
/* Always false: what an answer holds cannot be, which is nobody's bad request. err may be NULL. */
bool answer_corrupt(struct err *err);

/* How often a field is there; also checks that the message can be read to its end. */
bool reading_count(const struct reading *m, uint32_t field, size_t *ret);
/* The values of a field of bytes, one after the other; NULL in *ret when there are none. */
bool reading_strings(const struct reading *m, uint32_t field, const struct slice **ret, size_t *ret_n);
bool reading_pair(const struct reading *m, struct label *ret);
/* The pairs of a field. sorted: they are a series', in order of their names and without empty values, or it is an
 * error. */
bool reading_labels(const struct reading *m, uint32_t field, bool sorted, struct labels *ret);
/* The matchers of a field, added to those in set. */
bool reading_matchers(const struct reading *m, uint32_t field, struct matcher_set *set);
/* {1 SeriesIndex, 2 repeated Chunks}: the chunks of one series, each a message of this name that read_chunk reads. */
typedef bool reading_chunk_fn(const struct reading *m, struct series_chunk *ret);
bool reading_streamed_chunks(const struct reading *m, const char *name, reading_chunk_fn *read_chunk, struct streamed_chunks *ret);

void put_matchers(struct buf *out, uint32_t field, const struct matcher_set *set);
/* A message {1 labels}. */
void put_metric(struct buf *out, uint32_t field, const struct labels *l);
