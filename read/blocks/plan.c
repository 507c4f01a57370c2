/*
 * Which blocks a call needs, and who is asked for each. Mimir's rules:
 *
 *   - A block counts when its time range touches the call's. Its deletion mark takes it out only when that is older than ignore_deletion_marks: until then whoever knows
 *     an older bucket index may know no block that replaces it.
 *   - Sources of a compacted block and the block itself are both asked while both count; equal chunks come out once, overlapping ones are merged by the reader.
 *   - With a query shard, blocks of a compactor's shard that shares no series with it are passed over.
 *   - The replicas of a block are the ACTIVE owners of its token in the tenant's part of the ring, however few are left.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/query_shard.h"
#include "read/blocks/blocks_int.h"

/* --- blocks ----------------------------------------------------------------------------------------------------------------------------- */

static int compare_ids(const void *a, const void *b)
{
    return memcmp(a, b, ULID_TEXT_LEN);
}

struct ulid *blocks_plan_deleted(struct arena *arena, const struct bucket_index *index, int64_t before_s, size_t *ret_n)
{
    struct ulid *ids = ARENA_ARRAY(arena, struct ulid, index->n_deletions + 1);
    size_t n = 0;
    for (size_t i = 0; ids && i < index->n_deletions; i++)
        if (index->deletions[i].time_s < before_s)
            ids[n++] = index->deletions[i].block;
    if (n)
        qsort(ids, n, sizeof(*ids), compare_ids);
    *ret_n = n;
    return ids;
}

static struct query_shard shard_of(const struct select_params *p)
{
    struct query_shard shard = {0, 0};
    for (size_t i = 0; i < p->n_matchers; i++)
        if (p->matchers[i].type == MATCH_EQ && slice_eq(p->matchers[i].name, SL(QUERY_SHARD_LABEL)))
            query_shard_parse(p->matchers[i].value, &shard);
    return shard;
}

/*
 * Both divide series by the same hash: those of the query have hash mod n == i, those of the block hash mod m == j. Some number is both when i and j are equal modulo
 * the greatest common divisor of n and m, and only then. With a divisor of 1 the block's shard says nothing.
 */
static bool shares_series(const struct query_shard *query, const struct index_block *b)
{
    struct query_shard block;
    if (!query->count || !query_shard_parse(b->shard, &block))
        return true;
    uint64_t x = query->count, y = block.count;
    while (y) {
        uint64_t rest = x % y;
        x = y;
        y = rest;
    }
    if (x == 1 && query->count > 1 && block.count > 1)
        metric_inc(metric_single(blocks_metrics[BLOCKS_M_INCOMPATIBLE]));
    return query->index % x == block.index % x;
}

bool blocks_plan_is_in(const struct ulid *sorted, size_t n, const struct ulid *id)
{
    return n && bsearch(id, sorted, n, sizeof(*sorted), compare_ids);
}

bool blocks_plan_touches(const struct select_params *p, const struct index_block *b)
{
    struct query_shard shard = shard_of(p);
    return b->min_t <= p->max_t && b->max_t > p->min_t && shares_series(&shard, b);
}

bool blocks_plan_is_young(const struct blocks *q, const struct index_block *b, int64_t now_ms)
{
    return q->upload_grace_ms > 0 && now_ms - b->uploaded_at_s * 1000 < q->upload_grace_ms;
}

bool blocks_plan(struct fetch *f, const struct select_params *p)
{
    const struct bucket_index *index = index_snapshot_index(f->places[0].index);
    struct arena *arena = f->ctx->arena;
    int64_t now_ms = clock_wall_ms();
    size_t n_deleted;
    struct ulid *deleted = blocks_plan_deleted(arena, index, (now_ms - f->q->cfg->ignore_deletion_marks) / 1000, &n_deleted);
    size_t n = 0;
    for (size_t i = 0; i < index->n_blocks; i++)
        n += index->blocks[i].min_t <= p->max_t && index->blocks[i].max_t > p->min_t;
    f->blocks = arena_zalloc(arena, (n + 1) * sizeof(*f->blocks));
    if (!deleted || !f->blocks)
        return false;
    for (size_t i = 0; i < index->n_blocks; i++) {
        const struct index_block *b = &index->blocks[i];
        if (blocks_plan_touches(p, b) && !blocks_plan_is_in(deleted, n_deleted, &b->id))
            f->blocks[f->n_blocks++] = (struct block){.in_index = b, .place = &f->places[0], .dispensable = blocks_plan_is_young(f->q, b, now_ms)};
    }
    metric_add(metric_single(blocks_metrics[BLOCKS_M_FOUND]), (double)f->n_blocks);
    return true;
}

/* --- replicas ---------------------------------------------------------------------------------------------------------------------------- */

enum { RANK_LOCAL, RANK_ZONE, RANK_OTHER, RANK_SILENT, RANK_NONE };

static int rank_of(struct blocks *q, const struct ring_instance *in)
{
    if (q->local.ops && strcmp(q->local.id, in->id) == 0)
        return RANK_LOCAL;
    if (peers_is_silent(&q->peers, in->addr, clock_mono_ms()))
        return RANK_SILENT;
    return peer_zone_is_preferred(q->preferred_zones, q->zone, in->zone) ? RANK_ZONE : RANK_OTHER;
}

static bool was_tried(const struct block *b, const struct ring_instance *in)
{
    for (size_t i = 0; i < b->n_tried; i++)
        if (b->tried[i].gateway == in)
            return true;
    return false;
}

/* Of those of the best rank any, each as likely. */
static const struct ring_instance *best_of(struct fetch *f, const struct block *b, const struct replication_set *set)
{
    const struct ring_instance *best = NULL;
    int best_rank = RANK_NONE;
    uint64_t n_equal = 0;
    for (size_t i = 0; i < set->n; i++) {
        const struct ring_instance *in = set->instances[i];
        int rank = was_tried(b, in) ? RANK_NONE : rank_of(f->q, in);
        if (rank > best_rank || rank == RANK_NONE)
            continue;
        n_equal = rank < best_rank ? 1 : n_equal + 1;
        best_rank = rank;
        if (peer_random(&f->random) % n_equal == 0)
            best = in;
    }
    return best;
}

bool blocks_plan_has_other(struct fetch *f, const struct block *b, const struct ring_instance *slow)
{
    struct replication_set set;
    struct err err = ERR_NONE;
    bool has = false;
    for (size_t i = 0; i < b->n_tried; i++)
        has |= b->tried[i].gateway != slow && (b->tried[i].outrun || b->tried[i].given_up);
    if (has || b->n_tried == BLOCK_TRIES_MAX ||
        !ring_snapshot_get_healthy(f->ring, ulid_ring_token(&b->in_index->id), &ring_op_blocks_read, clock_wall_ms(), &set, &err))
        return has;
    for (size_t i = 0; i < set.n; i++)
        has |= !was_tried(b, set.instances[i]);
    replication_set_release(&set);
    return has;
}

/* Among those that were asked before: who was outrun comes first, then who was given up, the first of them first, then who could not be reached. */
static int rank_again(const struct block *b, size_t i)
{
    if (b->tried[i].outrun)
        return 0;
    if (b->tried[i].given_up)
        return b->tried[i].given_up;
    return b->tried[i].unavailable && b->tries < BLOCK_TRIES_MAX ? INT_MAX - 1 : INT_MAX;
}

static const struct ring_instance *try_again(struct block *b, bool *ret_renew)
{
    size_t best = 0;
    for (size_t i = 1; i < b->n_tried; i++)
        if (rank_again(b, i) < rank_again(b, best))
            best = i;
    if (b->n_tried == 0 || rank_again(b, best) == INT_MAX)
        return NULL;
    *ret_renew = b->tried[best].unavailable;
    b->tried[best].unavailable = b->tried[best].outrun = false;
    b->tried[best].given_up = 0;
    b->tries++;
    return b->tried[best].gateway;
}

const struct ring_instance *blocks_plan_replica(struct fetch *f, struct block *b, bool *ret_renew, struct err *why)
{
    struct replication_set set;
    const struct ring_instance *in = NULL;
    *ret_renew = false;
    if (b->tries < BLOCK_TRIES_MAX && b->n_tried < BLOCK_TRIES_MAX &&
        ring_snapshot_get_healthy(f->ring, ulid_ring_token(&b->in_index->id), &ring_op_blocks_read, clock_wall_ms(), &set, why)) {
        in = best_of(f, b, &set);
        replication_set_release(&set);
    }
    if (!in)
        return try_again(b, ret_renew);
    b->tries++;
    b->tried[b->n_tried].gateway = in;
    b->tried[b->n_tried].outrun = false;
    b->tried[b->n_tried].given_up = 0;
    b->tried[b->n_tried++].unavailable = false;
    return in;
}
