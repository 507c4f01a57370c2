/*
 * Blocks that go: those whose mark is old enough, and what is left of blocks that never were whole.
 *
 * A partial block with a mark is one whose removal was broken off, or one that was given up. It goes at once, unless something below it is newer than its
 * mark: then somebody is uploading it again, and to remove what has arrived would make a block with holes as soon as its meta.json comes. So it stays until
 * that has grown old as well. meta.json is asked for by name right before anything is removed, whatever the listing said.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/logger.h"
#include "base/parallel.h"
#include "storage/compactor/cleaner/cleaner_int.h"

/* --- removal ----------------------------------------------------------------------------------------------------------- */

static bool has_meta(struct tenant_turn *t, const struct ulid *block)
{
    struct objstore_attributes attributes;
    struct err err = ERR_NONE;
    struct bucket_name name = bucket_block_file(t->tenant, block, BUCKET_META);
    return objstore_attributes(t->c->parts.bucket, t->ctx, bucket_name_slice(&name), &attributes, &err) || err.code != ERR_NOT_FOUND;
}

struct removals {
    struct tenant_turn *t;
    bool partial; /* only what has no meta.json even now */
    const struct ulid *blocks;
    bool *done;
    atomic_size_t n_failed;
};

/* One block's fault is no other's: never false. */
static bool remove_job(void *arg, size_t job, struct err *unused)
{
    (void)unused;
    struct removals *r = arg;
    struct tenant_turn *t = r->t;
    struct err err = ERR_NONE;
    if (r->partial && has_meta(t, &r->blocks[job]))
        return true;
    r->done[job] = ctx_check(t->ctx, &err) && bucket_delete_block(t->c->parts.bucket, t->ctx, t->tenant, &r->blocks[job], &err);
    if (r->done[job]) {
        metric_inc(metric_single(cleaner_metrics[CLEANER_BLOCKS_CLEANED]));
        LOG_INFO("removed a block", {"user", LOG_SLICE(t->tenant)}, {"block", LOG_STR(r->blocks[job].text)});
        return true;
    }
    atomic_fetch_add(&r->n_failed, 1);
    if (err.code == ERR_CANCELED)
        return true;
    metric_inc(metric_single(cleaner_metrics[CLEANER_BLOCKS_FAILED]));
    LOG_WARN("a block could not be removed", {"user", LOG_SLICE(t->tenant)}, {"block", LOG_STR(r->blocks[job].text)}, {"err", LOG_ERR(&err)});
    return true;
}

size_t cleaner_remove_blocks(struct tenant_turn *t, const struct ulid *blocks, size_t n)
{
    bool *done = calloc(n + 1, sizeof(*done));
    ASSERT(done);
    struct removals r = {.t = t, .blocks = blocks, .done = done};
    (void)parallel_run(n, CLEANER_REMOVERS, remove_job, &r, NULL);
    free(done);
    return atomic_load(&r.n_failed);
}

/* The index without these blocks and their marks. */
static bool forget(struct tenant_turn *t, const struct ulid_set *gone)
{
    struct index_block *blocks = ARENA_ARRAY(&t->arena, struct index_block, t->index.n_blocks + 1);
    struct index_deletion *deletions = ARENA_ARRAY(&t->arena, struct index_deletion, t->index.n_deletions + 1);
    struct partial_block *partial = ARENA_ARRAY(&t->arena, struct partial_block, t->found.n_partial + 1);
    size_t n_blocks = 0, n_deletions = 0, n_partial = 0;
    if (!blocks || !deletions || !partial)
        return false; /* what the index says too much the next round finds gone */
    for (size_t i = 0; i < t->index.n_blocks; i++)
        if (!ulid_set_has(gone, &t->index.blocks[i].id))
            blocks[n_blocks++] = t->index.blocks[i];
    for (size_t i = 0; i < t->index.n_deletions; i++)
        if (!ulid_set_has(gone, &t->index.deletions[i].block))
            deletions[n_deletions++] = t->index.deletions[i];
    for (size_t i = 0; i < t->found.n_partial; i++)
        if (!ulid_set_has(gone, &t->found.partial[i].id))
            partial[n_partial++] = t->found.partial[i];
    t->index.blocks = blocks;
    t->index.n_blocks = n_blocks;
    t->index.deletions = deletions;
    t->index.n_deletions = n_deletions;
    t->found.partial = partial;
    t->found.n_partial = n_partial;
    return true;
}

/* Removes these, and what went is forgotten. */
static void remove_and_forget(struct tenant_turn *t, struct ulid *blocks, size_t n, bool partial)
{
    bool *done = arena_zalloc(&t->arena, n + 1);
    struct removals r = {.t = t, .partial = partial, .blocks = blocks, .done = done};
    struct ulid_set gone = {blocks, 0};
    if (n == 0 || !done)
        return;
    (void)parallel_run(n, CLEANER_REMOVERS, remove_job, &r, NULL);
    for (size_t i = 0; i < n; i++)
        if (done[i])
            blocks[gone.n++] = blocks[i];
    ulid_set_sort(&gone);
    (void)forget(t, &gone);
}

void cleaner_remove_marked(struct tenant_turn *t)
{
    struct ulid_set published;
    struct ulid *blocks = ARENA_ARRAY(&t->arena, struct ulid, t->index.n_deletions + 1);
    size_t n = 0;
    int64_t delay_ms = t->c->parts.cfg->deletion_delay;
    if (!blocks || !ulid_set_of_deletions(&t->old, &t->arena, &published, NULL))
        return;
    for (size_t i = 0; i < t->index.n_deletions; i++) {
        const struct index_deletion *d = &t->index.deletions[i];
        if ((t->now_s - d->time_s) * 1000 >= delay_ms && ulid_set_has(&published, &d->block))
            blocks[n++] = d->block;
    }
    remove_and_forget(t, blocks, n, false);
}

/* --- partial blocks ------------------------------------------------------------------------------------------------------- */

/* When the newest of its objects, the deletion mark apart, was put; 0 when there is none. INT64_MAX when that cannot be said. */
static int64_t last_change_ms(struct tenant_turn *t, const struct ulid *block)
{
    const struct bucket_object *files;
    size_t n;
    int64_t last = 0;
    struct err err = ERR_NONE;
    if (!bucket_block_files(t->c->parts.bucket, t->ctx, t->tenant, block, &t->arena, &files, &n, &err)) {
        LOG_WARN("the objects of a partial block could not be listed", {"user", LOG_SLICE(t->tenant)}, {"err", LOG_ERR(&err)});
        return INT64_MAX;
    }
    for (size_t i = 0; i < n; i++)
        if (!slice_eq(files[i].name, SL(BUCKET_DELETION_MARK)))
            last = MAX(last, files[i].modified_ms);
    return last;
}

static void mark_given_up(struct tenant_turn *t, const struct ulid *block, int64_t last_ms)
{
    char when[CLOCK_RFC3339_MAX], details[128];
    clock_rfc3339(last_ms / 1000, 0, 0, when);
    snprintf(details, sizeof(details), CLEANER_GIVEN_UP ": last modified %s", when);
    struct block_mark mark = {.block = *block, .time_s = t->now_s, .details = slice_of(details)};
    struct err err = ERR_NONE;
    bool is_new = false;
    if (!bucket_mark_block(t->c->parts.bucket, t->ctx, t->tenant, BLOCK_MARK_DELETION, &mark, &is_new, &err))
        LOG_WARN("a partial block could not be marked for deletion", {"user", LOG_SLICE(t->tenant)}, {"err", LOG_ERR(&err)});
    if (!is_new)
        return;
    t->c->parts.count_mark("partial");
    LOG_INFO("marked a partial block for deletion", {"user", LOG_SLICE(t->tenant)}, {"block", LOG_STR(block->text)}, {"last_modified", LOG_STR(when)});
}

/* 0: partial blocks without a mark stay. */
static int64_t given_up_after_ms(struct tenant_turn *t)
{
    int64_t delay_ms = limits_of(t->c->parts.limits, t->user)->compactor_partial_block_deletion_delay;
    if (delay_ms <= 0 || delay_ms >= CLEANER_PARTIAL_DELAY_MIN_MS)
        return MAX(delay_ms, (int64_t)0);
    LOG_WARN("compactor_partial_block_deletion_delay is shorter than 4h: partial blocks stay", {"user", LOG_SLICE(t->tenant)});
    return 0;
}

/* PARTIAL_IS_NOTHING: it has no object; the listing that named it was late. */
enum verdict { PARTIAL_STAYS, PARTIAL_GOES, PARTIAL_IS_NOTHING };

static enum verdict judge_partial(struct tenant_turn *t, const struct ulid *block, int64_t give_up_ms)
{
    struct block_mark mark;
    struct err err = ERR_NONE;
    int64_t last_ms = last_change_ms(t, block);
    if (last_ms == INT64_MAX)
        return PARTIAL_STAYS;
    bool is_old = give_up_ms > 0 && last_ms <= t->now_s * 1000 - give_up_ms;
    if (bucket_read_mark(t->c->parts.bucket, t->ctx, t->tenant, block, BLOCK_MARK_DELETION, &t->arena, &mark, &err))
        return (is_old || last_ms <= mark.time_s * 1000) && !has_meta(t, block) ? PARTIAL_GOES : PARTIAL_STAYS;
    if (err.code != ERR_NOT_FOUND)
        LOG_WARN("the mark of a partial block could not be read", {"user", LOG_SLICE(t->tenant)}, {"err", LOG_ERR(&err)});
    else if (last_ms == 0)
        return PARTIAL_IS_NOTHING;
    else if (is_old && !has_meta(t, block))
        mark_given_up(t, block, last_ms); /* and removed in the next round */
    return PARTIAL_STAYS;
}

void cleaner_remove_partial(struct tenant_turn *t)
{
    struct ulid *blocks = ARENA_ARRAY(&t->arena, struct ulid, t->found.n_partial + 1);
    struct ulid_set nothing = {ARENA_ARRAY(&t->arena, struct ulid, t->found.n_partial + 1), 0};
    size_t n = 0;
    if (!blocks || !nothing.ids || t->found.n_partial == 0)
        return;
    int64_t give_up_ms = given_up_after_ms(t);
    for (size_t i = 0; i < t->found.n_partial && ctx_check(t->ctx, NULL); i++) {
        const struct partial_block *p = &t->found.partial[i];
        /* Only what has no meta.json at all: one that is damaged may be repaired. */
        if (p->mark.n || p->why.code != ERR_NOT_FOUND)
            continue;
        enum verdict verdict = judge_partial(t, &p->id, give_up_ms);
        if (verdict == PARTIAL_GOES)
            blocks[n++] = p->id;
        if (verdict == PARTIAL_IS_NOTHING)
            nothing.ids[nothing.n++] = p->id;
    }
    remove_and_forget(t, blocks, n, true);
    if (nothing.n) {
        ulid_set_sort(&nothing);
        (void)forget(t, &nothing);
    }
}

/* --- folders -------------------------------------------------------------------------------------------------------------- */

struct names {
    struct slice *items;
    size_t n, cap;
    struct arena *arena;
    struct slice kept;
    bool no_memory;
};

static bool add_name(void *arg, struct slice name, bool is_prefix, const struct objstore_attributes *attributes)
{
    (void)attributes;
    struct names *l = arg;
    if (is_prefix || slice_eq(name, l->kept))
        return true;
    if (l->n == l->cap) {
        l->cap = MAX(l->cap * 2, (size_t)64);
        l->items = realloc(l->items, l->cap * sizeof(*l->items));
        ASSERT(l->items);
    }
    l->items[l->n] = arena_dup(l->arena, name);
    l->no_memory |= !l->items[l->n++].p;
    return !l->no_memory;
}

bool cleaner_remove_folder(struct tenant_turn *t, const char *folder, struct err *err)
{
    struct bucket_name prefix = bucket_tenant_file(t->tenant, folder);
    struct bucket_name mark = bucket_tenant_file(t->tenant, BUCKET_MARKERS BUCKET_TENANT_DELETION_MARK);
    struct names l = {.arena = &t->arena, .kept = bucket_name_slice(&mark)};
    bool good = objstore_list(t->c->parts.bucket, t->ctx, bucket_name_slice(&prefix), false, add_name, &l, err);
    if (good && l.no_memory)
        good = err_set(err, ERR_NO_MEMORY, "too many objects below %s", prefix.text);
    for (size_t i = 0; good && i < l.n; i++)
        good = objstore_remove(t->c->parts.bucket, t->ctx, l.items[i], err);
    free(l.items);
    return good;
}
