/*
 * brunn tool bucket verify: does a bucket agree with itself? Of each tenant:
 *
 *   the bucket index can be read; what it says of each block is what its meta.json says; it has every block that is older than it, and none that is gone;
 *   the same of deletion marks; marks below the blocks have their copies below markers/; of each block every file is there with the size that meta.json says;
 *   with -deep each block is downloaded and everything in it read once.
 * The same of the rooms of its downsampled blocks (storage/downsample), each of which is laid out as a tenant is.
 *
 * A line a fault: "<tenant>/<block>: FAULT: ...". Blocks without a meta.json are told, and are none: they may be on their way.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/tools/tools_int.h"
#include "base/assert.h"
#include "base/clock.h"
#include "storage/block/block.h"
#include "storage/downsample/downsample.h"

#define READERS 8 /* meta.json at a time */
#define MARKED_AT_ONCE_S 60 /* two that mark the same block do it within this of each other, clocks that differ included */

struct verify_config {
    const char *tenant;
    const char *tmp_dir;
    bool deep;
};

static const struct flag_def verify_flags[] = {
    {FLAG_STRING, "tenant", "", "", FLAG_CLASS_BASIC, "Look at this tenant alone.", offsetof(struct verify_config, tenant)},
    {FLAG_BOOL, "deep", "", "false", FLAG_CLASS_BASIC, "Download each block and read everything in it.", offsetof(struct verify_config, deep)},
    {FLAG_STRING, "tmp-dir", "", "/tmp", FLAG_CLASS_BASIC, "Folder that -deep downloads one block at a time into.", offsetof(struct verify_config, tmp_dir)},
};

static const struct ctx no_hurry = {.deadline_ms = 0};

struct verify {
    struct verify_config cfg;
    struct objstore *s;
    struct slice tenant;
    struct bucket_index index; /* as it lies there */
    bool has_index;
    struct bucket_index is; /* as the bucket is */
    struct arena arena;     /* of the tenant */
    struct arena scratch;   /* of a block */
    const char *folder;     /* of -deep */
    struct progress progress;
    size_t n_tenants, n_blocks, n_partial, n_faults;
    uint64_t n_bytes;
};

static void tell(struct verify *v, const struct ulid *block, const char *kind, const char *text)
{
    if (v->progress.drawn)
        fputs("\r\033[K", stderr);
    printf("%.*s/%s: %s: %s\n", SL_FMT(v->tenant), block ? block->text : "", kind, text);
}

static void fault(struct verify *v, const struct ulid *block, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void fault(struct verify *v, const struct ulid *block, const char *format, ...)
{
    char text[ERR_TEXT_MAX + 256];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    tell(v, block, "FAULT", text);
    v->n_faults++;
}

/* --- the index against the bucket ----------------------------------------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    return memcmp(((const struct index_block *)a)->id.text, ((const struct index_block *)b)->id.text, ULID_TEXT_LEN);
}

static struct index_block *sorted_blocks(struct verify *v, const struct bucket_index *index)
{
    struct index_block *blocks = ARENA_ARRAY(&v->arena, struct index_block, index->n_blocks + 1);
    ASSERT(blocks);
    if (index->n_blocks)
        memcpy(blocks, index->blocks, index->n_blocks * sizeof(*blocks));
    qsort(blocks, index->n_blocks, sizeof(*blocks), by_id);
    return blocks;
}

static bool same_labels(const struct index_block *a, const struct index_block *b)
{
    bool same = a->n_labels == b->n_labels;
    for (size_t i = 0; same && i < a->n_labels; i++)
        same = slice_eq(a->labels[i].name, b->labels[i].name) && slice_eq(a->labels[i].value, b->labels[i].value);
    return same;
}

/* What readers go by must be right; source, level and labels came with later versions of the index, and may be missing in entries of before. */
static void compare_block(struct verify *v, const struct index_block *said, const struct index_block *is)
{
    if (said->min_t != is->min_t || said->max_t != is->max_t)
        fault(v, &is->id, "the index says times %" PRId64 " to %" PRId64 ", its meta.json %" PRId64 " to %" PRId64, said->min_t, said->max_t, is->min_t, is->max_t);
    if (said->segments_num != is->segments_num)
        fault(v, &is->id, "the index says %u segments, its meta.json %u", said->segments_num, is->segments_num);
    if (!slice_eq(said->shard, is->shard))
        fault(v, &is->id, "the index says shard \"%.*s\", its meta.json \"%.*s\"", SL_FMT(said->shard), SL_FMT(is->shard));
    if (said->level && said->level != is->level)
        fault(v, &is->id, "the index says level %u, its meta.json %u", said->level, is->level);
    if (said->n_labels && !same_labels(said, is))
        fault(v, &is->id, "the index says other labels than its meta.json");
}

static void compare_blocks(struct verify *v, const struct bucket_update *found)
{
    const struct index_block *said = sorted_blocks(v, &v->index), *is = sorted_blocks(v, &v->is);
    for (size_t i = 0; i < v->is.n_blocks; i++) {
        const struct index_block *known = v->index.n_blocks ? bsearch(&is[i], said, v->index.n_blocks, sizeof(*said), by_id) : NULL;
        if (known)
            compare_block(v, known, &is[i]);
        else if (is[i].uploaded_at_s < v->index.updated_at_s)
            fault(v, &is[i].id, "the index does not have it, and is younger");
    }
    for (size_t i = 0; i < v->index.n_blocks; i++) {
        bool there = v->is.n_blocks && bsearch(&said[i], is, v->is.n_blocks, sizeof(*is), by_id);
        for (size_t k = 0; !there && k < found->n_partial; k++)
            there = memcmp(found->partial[k].id.text, said[i].id.text, ULID_TEXT_LEN) == 0 && found->partial[k].why.code != ERR_NOT_FOUND;
        if (!there)
            fault(v, &said[i].id, "the index has it, and its meta.json is not there");
    }
}

/*
 * The index may say a later time than the mark, but none after its own: the cleaner holds back a mark that it learns of late, so that readers learn of it first.
 * It may say an earlier one by what passes while two mark a block at once: it keeps what it has read, and the later of them may have been put after that.
 */
static bool is_time_of_mark(const struct verify *v, const struct index_deletion *said, const struct index_deletion *is)
{
    return said->time_s > is->time_s ? said->time_s <= v->index.updated_at_s : is->time_s - said->time_s <= MARKED_AT_ONCE_S;
}

static void compare_marks(struct verify *v)
{
    for (size_t i = 0; i < v->is.n_deletions; i++) {
        const struct index_deletion *is = &v->is.deletions[i], *said = bucket_index_deletion(&v->index, &is->block);
        if (!said && is->time_s < v->index.updated_at_s)
            fault(v, &is->block, "it is marked for deletion, the index does not say so, and is younger");
        else if (said && !is_time_of_mark(v, said, is))
            fault(v, &is->block, "the index says that it was marked for deletion at %" PRId64 ", its mark %" PRId64, said->time_s, is->time_s);
    }
    for (size_t i = 0; i < v->index.n_deletions; i++)
        if (!bucket_index_deletion(&v->is, &v->index.deletions[i].block))
            fault(v, &v->index.deletions[i].block, "the index says that it is marked for deletion, and it has no mark below " BUCKET_MARKERS);
}

/* --- a block -------------------------------------------------------------------------------------------------------------------- */

static const struct bucket_object *find_object(const struct bucket_object *objects, size_t n, struct slice name)
{
    for (size_t i = 0; i < n; i++)
        if (slice_eq(objects[i].name, name))
            return &objects[i];
    return NULL;
}

static void check_files(struct verify *v, const struct block_meta *m, const struct bucket_object *objects, size_t n)
{
    for (size_t i = 0; i < m->n_files; i++) {
        const struct block_file *said = &m->files[i];
        const struct bucket_object *is = find_object(objects, n, said->path);
        if (!is)
            fault(v, &m->ulid, "%.*s is not there", SL_FMT(said->path));
        else if (said->size && said->size != is->size)
            fault(v, &m->ulid, "%.*s has %" PRIu64 " bytes, and meta.json says %" PRIu64, SL_FMT(said->path), is->size, said->size);
    }
    if (!find_object(objects, n, SL("index")))
        fault(v, &m->ulid, "it has no index");
    for (size_t i = 0; i < n; i++)
        v->n_bytes += objects[i].size;
}

/* A mark below the block that has no copy is seen by nobody. */
static bool check_marks(struct verify *v, const struct ulid *block, const struct bucket_object *objects, size_t n, struct err *err)
{
    for (int kind = 0; kind < BLOCK_MARK_KINDS; kind++) {
        const char *file = block_mark_file((enum block_mark_kind)kind);
        struct bucket_name copy = bucket_global_mark(v->tenant, block, file);
        struct objstore_attributes attributes;
        struct err why = ERR_NONE;
        if (!find_object(objects, n, slice_of(file)) || objstore_attributes(v->s, &no_hurry, bucket_name_slice(&copy), &attributes, &why))
            continue;
        if (why.code != ERR_NOT_FOUND)
            return err_set(err, why.code, "%s", why.text);
        fault(v, block, "its %s has no copy below " BUCKET_MARKERS, file);
    }
    return true;
}

static void check_deep(struct verify *v, const struct ulid *block)
{
    struct err why = ERR_NONE;
    char *dir = arena_printf(&v->scratch, "%s/%s", v->folder, block->text);
    ASSERT(dir);
    struct block *b = NULL;
    bool good = bucket_download_block(v->s, &no_hurry, v->tenant, block, v->folder, &why) && (b = block_open(dir, &why)) && block_verify(b, &why);
    block_close(b);
    if (!good)
        fault(v, block, "%s", why.text);
    remove_folder(dir);
}

static bool verify_block(struct verify *v, const struct ulid *block, struct err *err)
{
    struct block_meta m;
    const struct bucket_object *objects;
    struct err why = ERR_NONE;
    size_t n;
    arena_clear(&v->scratch);
    v->n_blocks++;
    if (!bucket_read_meta(v->s, &no_hurry, v->tenant, block, &v->scratch, &m, &why)) {
        if (why.code != ERR_CORRUPT && why.code != ERR_NOT_FOUND)
            return err_set(err, why.code, "%s", why.text);
        if (why.code == ERR_CORRUPT)
            fault(v, block, "%s", why.text);
        return true; /* gone since it was listed */
    }
    if (!bucket_block_files(v->s, &no_hurry, v->tenant, block, &v->scratch, &objects, &n, err))
        return false;
    check_files(v, &m, objects, n);
    if (!check_marks(v, block, objects, n, err))
        return false;
    if (v->cfg.deep)
        check_deep(v, block);
    progress_add(&v->progress, 1);
    return true;
}

/* --- a tenant ------------------------------------------------------------------------------------------------------------------- */

static bool read_index(struct verify *v, struct err *err)
{
    struct err why = ERR_NONE;
    v->index = (struct bucket_index){0};
    v->has_index = bucket_index_read(v->s, &no_hurry, v->tenant, &v->arena, &v->index, &why);
    if (v->has_index)
        return true;
    if (why.code != ERR_NOT_FOUND && why.code != ERR_CORRUPT)
        return err_set(err, why.code, "%s", why.text);
    if (why.code == ERR_CORRUPT)
        fault(v, NULL, "%s", why.text);
    return true;
}

static void tell_partial(struct verify *v, const struct bucket_update *found)
{
    for (size_t i = 0; i < found->n_partial; i++) {
        const struct partial_block *p = &found->partial[i];
        if (p->why.code == ERR_NOT_FOUND) {
            v->n_partial++;
            tell(v, &p->id, "partial", "it has no " BUCKET_META);
        } else {
            fault(v, &p->id, "%s", p->why.text);
        }
    }
}

/* place: a tenant, or one of its rooms. */
static bool verify_place(struct verify *v, struct slice place, bool to_be_deleted, struct err *err)
{
    struct bucket_update found;
    arena_clear(&v->arena);
    v->tenant = place;
    /* The index first: what comes between is younger than it. */
    if (!read_index(v, err) || !bucket_index_update(v->s, &no_hurry, place, NULL, clock_wall_ms() / 1000, READERS, &v->arena, &v->is, &found, err))
        return false;
    tell_partial(v, &found);
    if (!v->has_index && v->is.n_blocks && !to_be_deleted)
        tell(v, NULL, "note", "it has blocks and no bucket index: queriers do not see them");
    if (v->has_index) {
        compare_blocks(v, &found);
        compare_marks(v);
    }
    progress_begin(&v->progress, "verifying blocks", v->is.n_blocks);
    bool good = true;
    for (size_t i = 0; good && i < v->is.n_blocks; i++)
        good = verify_block(v, &v->is.blocks[i].id, err);
    progress_end(&v->progress);
    return good;
}

static bool verify_tenant(struct verify *v, const struct bucket_tenant *t, struct err *err)
{
    struct downsample_rooms rooms;
    v->n_tenants++;
    bool good = verify_place(v, t->id, t->to_be_deleted, err) && downsample_rooms_list(v->s, &no_hurry, t->id, &rooms, err);
    for (unsigned r = 0; good && r < DOWNSAMPLE_RESOLUTIONS; r++)
        for (unsigned a = 0; good && a < DOWNSAMPLE_AGGREGATES; a++) {
            struct bucket_name room = downsample_room(t->id, r, a);
            good = !rooms.there[r][a] || verify_place(v, bucket_name_slice(&room), t->to_be_deleted, err);
        }
    return good;
}

static bool verify_tenants(struct verify *v, struct err *err)
{
    struct arena arena;
    const struct bucket_tenant *tenants;
    size_t n;
    arena_init(&arena, 0);
    bool good = bucket_tenants_marked(v->s, &no_hurry, &arena, &tenants, &n, err);
    for (size_t i = 0; good && i < n; i++)
        if (!v->cfg.tenant[0] || slice_eq(tenants[i].id, slice_of(v->cfg.tenant)))
            good = verify_tenant(v, &tenants[i], err);
    arena_release(&arena);
    if (good)
        printf("%zu tenants, %zu blocks, %" PRIu64 " bytes, %zu partial, %zu faults\n", v->n_tenants, v->n_blocks, v->n_bytes, v->n_partial, v->n_faults);
    return good;
}

static bool verify(struct verify *v, const struct objstore_config *bucket, struct err *err)
{
    struct buf folder;
    buf_init(&folder, 0);
    arena_init(&v->arena, 0);
    arena_init(&v->scratch, 0);
    buf_printf(&folder, "%s/brunn-verify-XXXXXX", v->cfg.tmp_dir);
    v->folder = buf_cstr(&folder);
    v->s = tool_bucket_open(bucket, err);
    bool made = v->s && v->cfg.deep && mkdtemp((char *)(uintptr_t)v->folder);
    bool good = v->s && (made || !v->cfg.deep || err_set(err, ERR_IO, "-tmp-dir: no folder can be made in %s", v->cfg.tmp_dir));
    good = good && verify_tenants(v, err);
    if (made)
        remove_folder(v->folder);
    objstore_free(v->s);
    arena_release(&v->arena);
    arena_release(&v->scratch);
    buf_release(&folder);
    return good;
}

int bucket_verify(int argc, char **argv)
{
    static const char usage[] = "bucket verify [-config.file=FILE] [-blocks-storage.*=...] [-tenant=ID] [-deep] [-tmp-dir=DIR]";
    struct tool_args args;
    struct verify v = {0};
    struct objstore_config bucket;
    struct err err = ERR_NONE;
    int status = TOOL_USAGE;
    tool_args_init(&args);
    flag_set_add(args.flags, "Verify", verify_flags, ARRAY_LEN(verify_flags), &v.cfg);
    tool_bucket_flags(&args, &bucket);
    if (tool_args_parse(&args, argc, argv, usage) && args.n_words == 0)
        status = !verify(&v, &bucket, &err) ? tool_fail(&err) : v.n_faults ? TOOL_FAILED : TOOL_OK;
    else if (args.n_words)
        fprintf(stderr, "usage: brunn tool %s\n", usage);
    tool_args_release(&args);
    return status;
}
