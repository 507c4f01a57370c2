/* Private to storage/compactor/cleaner/. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/arena.h"
#include "base/assert.h"
#include "base/pool.h"
#include "storage/compactor/cleaner/cleaner.h"

#define METRICS_ROOM cleaner
#define METRICS_DEF "storage/compactor/cleaner/cleaner_metrics.def"
#include "base/metrics_table.h"

/* Two indexes of BUCKET_INDEX_MAX_BYTES, decoded. */
#define CLEANER_TURN_BYTES ((size_t)4 << 30)

/* How the details of a mark begin that was made because the block seemed to have been given up. */
#define CLEANER_GIVEN_UP "stale partial block"

struct cleaner {
    struct cleaner_parts parts; /* immutable */
    struct pool *http;          /* one thread for the routes */
    atomic_bool canceled;
    struct ctx ctx; /* of the rounds; immutable */

    /* The rounds' thread. */
    pthread_t thread;
    bool running; /* the owner's */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping; /* guarded by lock */

    /* The tenants that have series of metrics, by name; owned by the rounds' thread. */
    char **known;
    size_t n_known;
};

/* One tenant's turn. Owned by the thread that has it. */
struct tenant_turn {
    struct cleaner *c;
    const struct ctx *ctx;
    struct slice tenant;  /* or a room of its downsampled blocks (rooms.c): where the blocks lie */
    struct slice user;    /* the tenant: whose limits are asked */
    bool is_room;         /* nothing is told about it but in the log */
    int64_t retention_ms; /* 0: none */
    struct arena arena; /* indexes, lists, names */
    int64_t now_s;
    struct bucket_index old, index; /* as read (empty when there was none); as it will be written */
    bool has_old;
    struct bucket_update found;
};

/* The tenant's series go. */
void cleaner_forget_metrics(struct slice tenant);

/* clean.c: a living tenant. */
bool cleaner_clean(struct tenant_turn *t, struct err *err);

/* marks.c: marks made, copied and taken away. What they cannot do is logged; the next round tries again. */
/* Before an index is made anew: marks below blocks get their copies below markers/. */
bool cleaner_copy_marks(struct tenant_turn *t, struct err *err);
/* Marks of blocks that seemed to be given up and were completed all the same. */
void cleaner_drop_void_marks(struct tenant_turn *t);
/*
 * A mark that comes into the index late counts there as one of which readers have CLEANER_READERS_STALE_MS left to learn. The index keeps that time: the next
 * round takes it over from there.
 */
void cleaner_hold_late_marks(struct tenant_turn *t);
/* Copies of no-compact marks whose block is gone. */
void cleaner_drop_orphan_marks(struct tenant_turn *t);
/* The blocks that are older than the tenant's retention period are marked, in the index too. */
void cleaner_apply_retention(struct tenant_turn *t);

/* remove.c: blocks removed, and taken out of the index. */
void cleaner_remove_marked(struct tenant_turn *t);
void cleaner_remove_partial(struct tenant_turn *t);
/* All of these; counted. Returns how many could not be removed. */
size_t cleaner_remove_blocks(struct tenant_turn *t, const struct ulid *blocks, size_t n);
/* Removes all objects below "<tenant>/<folder>", but the tenant's deletion mark. */
bool cleaner_remove_folder(struct tenant_turn *t, const char *folder, struct err *err);

/* rooms.c: downsampled blocks. The turn is the tenant's, when its own blocks are done. */
bool cleaner_clean_rooms(struct tenant_turn *t, struct err *err);
/* Of a tenant that is to be deleted: the indexes, then all of them. */
bool cleaner_delete_rooms(struct tenant_turn *t, struct err *err);

/* deleted.c: a tenant that is to be deleted. */
bool cleaner_delete_tenant(struct tenant_turn *t, const struct tenant_mark *mark, struct err *err);

/* Blocks and marks in arrays sorted by block, for lookups. */
struct ulid_set {
    struct ulid *ids;
    size_t n;
};
bool ulid_set_has(const struct ulid_set *s, const struct ulid *id);
/* Sorts what is there. */
void ulid_set_sort(struct ulid_set *s);
bool ulid_set_of_blocks(const struct bucket_index *index, struct arena *arena, struct ulid_set *ret, struct err *err);
bool ulid_set_of_deletions(const struct bucket_index *index, struct arena *arena, struct ulid_set *ret, struct err *err);
