/* A select: its candidates, the series that are being read, and the chunks that are still to be read. Owned by its thread. */
#pragma once

#include "model/query_shard.h"
#include "storage/store/store_int.h"

struct store_select {
    struct store_block *b; /* a reference */
    struct select_params params;
    struct query_shard shard;
    struct candidates found;
    struct store_stats stats;

    /* Phase 1: series.c. */
    size_t at;     /* next candidate */
    size_t loaded; /* candidates before this are in window */
    size_t given;
    struct fetch window;
    size_t guess_bytes; /* of an entry */
    struct fetch_place window_at; /* of the candidate at hand */
    struct buf refetched;
    struct index_series series;
    uint64_t next_chunk; /* reference of the first chunk of the entry behind this one; 0: not known */

    /* Between the phases: of each series that was given and whose chunks were not, what chunks.c writes and reads. */
    struct buf ahead;
    size_t ahead_at, ahead_series;
    uint64_t ahead_ref; /* end of the chunk written last */
    uint64_t done_ref; /* end of the chunk read last */

    /* Phase 2: chunks.c. */
    struct fetch fetched;
    struct chunk_wanted *wanted; /* owned, cap_wanted */
    size_t n_wanted, cap_wanted;
    struct series_chunk *chunks; /* owned, cap_chunks */
    size_t cap_chunks;
    struct series *ready; /* owned, cap_ready; [ready_at, n_ready) were not handed out yet */
    size_t ready_at, n_ready, cap_ready;
    struct arena larger; /* chunks that were larger than guessed; cleared batch by batch */
};

/* The next candidate that is a match, whatever its times: decoded into s->series. *ret_more false: the end. */
bool select_next(struct store_select *s, struct ctx *ctx, bool *ret_more, struct err *err);
static inline bool select_touches(const struct store_select *s, const struct index_chunk *c)
{
    return c->min_t <= s->params.max_t && c->max_t >= s->params.min_t;
}
/* Notes the chunks of s->series for phase 2. */
bool select_note_chunks(struct store_select *s, size_t n, struct err *err);
void select_release_chunks(struct store_select *s);
