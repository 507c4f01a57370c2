/*
 * A block from a local folder into the bucket. The files go first, each only if the bucket does not have it with its size (an upload that was broken off
 * goes on where it was), then meta.json, which makes the block exist. Then all of them are looked at once more: a cleaner may have taken the parts of a block for
 * given up, and removed what was found there before, after it was found. Such a block is taken away and uploaded anew. Its list of files is made here, out of what is in the folder; where the local
 * meta.json has such a list already, the two must agree.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/assert.h"
#include "storage/bucket/bucket_int.h"

#define ATTEMPTS 3 /* whoever finds parts missing so often has something else in the way */

struct upload {
    struct objstore *s;
    const struct ctx *ctx;
    struct slice tenant;
    const struct ulid *block;
    const char *folder; /* <dir>/<ulid>, in the arena */
    struct arena arena;
    struct block_meta meta;
    struct block_file *files; /* in the arena; by path */
    size_t n_files, cap_files;
};

/* --- what is in the folder --------------------------------------------------------------------------------------------------- */

static bool file_size(const char *path, uint64_t *ret, struct err *err)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return err_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, errno, "%s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERR_CORRUPT, "%s: no regular file", path);
    *ret = (uint64_t)st.st_size;
    return true;
}

static bool add_file(struct upload *u, const char *name, uint64_t size, struct err *err)
{
    if (u->n_files == u->cap_files)
        return err_set(err, ERR_BAD_DATA, "%s: more files than a block may have", u->folder);
    struct slice path = arena_dup(&u->arena, slice_of(name));
    if (!path.p)
        return bucket_no_memory(err);
    u->files[u->n_files++] = (struct block_file){path, size};
    return true;
}

/* Adds a file of the folder with its size. *ret_there NULL: it must be there. */
static bool add_local(struct upload *u, const char *name, bool *ret_there, struct err *err)
{
    struct err why = ERR_NONE;
    uint64_t size;
    char *path = arena_printf(&u->arena, "%s/%s", u->folder, name);
    if (!path)
        return bucket_no_memory(err);
    if (file_size(path, &size, &why)) {
        if (ret_there)
            *ret_there = true;
        return (size || err_set(err, ERR_CORRUPT, "%s: an empty file", path)) && add_file(u, name, size, err);
    }
    if (why.code != ERR_NOT_FOUND)
        return err_set(err, why.code, "%s", why.text);
    if (!ret_there)
        return err_set(err, ERR_CORRUPT, "%s: no whole block: there is no %s", u->folder, name);
    *ret_there = false;
    return true;
}

/* chunks/000001, 000002, ...: as many as there are without a gap. A block without series has none. */
static bool add_segments(struct upload *u, struct err *err)
{
    bool there = true;
    for (unsigned i = 1; there; i++) {
        char name[32];
        snprintf(name, sizeof(name), "chunks/%06u", i);
        if (!add_local(u, name, &there, err))
            return false;
    }
    return true;
}

static bool read_local_meta(struct upload *u, struct err *err)
{
    char *path = arena_printf(&u->arena, "%s/" BUCKET_META, u->folder);
    uint64_t size;
    if (!path)
        return bucket_no_memory(err);
    if (!file_size(path, &size, err))
        return false;
    if (size > BLOCK_META_MAX_BYTES)
        return err_set(err, ERR_CORRUPT, "%s: %" PRIu64 " bytes are more than any block has", path, size);
    char *json = arena_alloc(&u->arena, (size_t)size + 1);
    if (!json)
        return bucket_no_memory(err);
    FILE *file = fopen(path, "re");
    bool read = file && fread(json, 1, (size_t)size, file) == size;
    if (file)
        fclose(file);
    if (!read)
        return err_set(err, ERR_IO, "%s: cannot be read", path);
    if (!block_meta_decode(slice_make(json, (size_t)size), &u->arena, &u->meta, err))
        return err_prefix(err, "%s: ", path);
    return ulid_cmp(&u->meta.ulid, u->block) == 0 || err_set(err, ERR_CORRUPT, "%s: it is the meta.json of block %s", path, u->meta.ulid.text);
}

static const struct block_file *find_file(const struct block_file *files, size_t n, struct slice path)
{
    for (size_t i = 0; i < n; i++)
        if (slice_eq(files[i].path, path))
            return &files[i];
    return NULL;
}

/* What the writer of the block wrote down must be there, with that size. */
static bool compare_files(const struct upload *u, struct err *err)
{
    for (size_t i = 0; i < u->meta.n_files; i++) {
        const struct block_file *said = &u->meta.files[i], *is = find_file(u->files, u->n_files, said->path);
        if (is ? said->size && said->size != is->size : slice_eq(said->path, SL("index")) || slice_has_prefix(said->path, SL("chunks/")))
            return err_set(err, ERR_CORRUPT, "%s/%.*s: %" PRIu64 " bytes, and meta.json says %" PRIu64, u->folder, SL_FMT(said->path),
                           is ? is->size : 0, said->size);
    }
    return true;
}

static bool describe(struct upload *u, const struct bucket_upload *as, struct err *err)
{
    u->cap_files = BUCKET_BLOCK_FILES_MAX;
    u->files = ARENA_ARRAY(&u->arena, struct block_file, u->cap_files);
    if (!u->files)
        return bucket_no_memory(err);
    bool sparse = false;
    if (!read_local_meta(u, err) || !add_segments(u, err) || !add_local(u, "index", NULL, err) || !add_file(u, BUCKET_META, 0, err) ||
        !add_local(u, BUCKET_SPARSE_HEADER, &sparse, err) || !compare_files(u, err))
        return false;
    if (!u->meta.has_thanos) {
        u->meta.has_thanos = true;
        u->meta.source = as ? as->source : SL("");
        u->meta.labels = as ? as->labels : NULL;
        u->meta.n_labels = as ? as->n_labels : 0;
    }
    u->meta.files = u->files;
    u->meta.n_files = u->n_files;
    return true;
}

/* --- on its way -------------------------------------------------------------------------------------------------------------- */

/* Whether the bucket has it, with its size where that is known: meta.json's is not. */
static bool has_file(struct upload *u, const struct block_file *f, const struct bucket_name *name, bool *ret, struct err *err)
{
    struct objstore_attributes there;
    struct err why = ERR_NONE;
    *ret = objstore_attributes(u->s, u->ctx, bucket_name_slice(name), &there, &why);
    if (!*ret && why.code != ERR_NOT_FOUND)
        return err_set(err, why.code, "%s", why.text);
    *ret = *ret && (f->size == 0 || there.size == f->size);
    return true;
}

static bool put_one(struct upload *u, const struct block_file *f, struct err *err)
{
    struct bucket_name name = bucket_block_file(u->tenant, u->block, f->path.p); /* NUL-terminated by the arena */
    bool found;
    if (!has_file(u, f, &name, &found, err) || found)
        return found;
    char *path = arena_printf(&u->arena, "%s/%.*s", u->folder, SL_FMT(f->path));
    return path ? objstore_put_file(u->s, u->ctx, bucket_name_slice(&name), path, err) : bucket_no_memory(err);
}

static bool put_meta(struct upload *u, const struct bucket_name *name, struct err *err)
{
    struct buf json;
    buf_init(&json, BLOCK_META_MAX_BYTES);
    block_meta_encode(&u->meta, &json);
    bool good = json.failed ? bucket_no_memory(err) : objstore_put(u->s, u->ctx, bucket_name_slice(name), buf_slice(&json), err);
    buf_release(&json);
    return good;
}

static bool put_all(struct upload *u, const struct bucket_name *meta, struct err *err)
{
    for (size_t i = 0; i < u->n_files; i++)
        if (!slice_eq(u->files[i].path, SL(BUCKET_META)) && !put_one(u, &u->files[i], err))
            return false;
    return put_meta(u, meta, err);
}

/* *ret_missing: the file that is not there, or has another size; NULL: none. Whoever removes a block begins with meta.json: it is among them. */
static bool look_again(struct upload *u, const struct block_file **ret_missing, struct err *err)
{
    *ret_missing = NULL;
    for (size_t i = 0; i < u->n_files && !*ret_missing; i++) {
        struct bucket_name name = bucket_block_file(u->tenant, u->block, u->files[i].path.p);
        bool found;
        if (!has_file(u, &u->files[i], &name, &found, err))
            return false;
        if (!found)
            *ret_missing = &u->files[i];
    }
    return true;
}

static bool send(struct upload *u, const struct bucket_upload *as, const struct bucket_name *meta, struct err *err)
{
    const struct block_file *missing = NULL;
    if (!describe(u, as, err))
        return false;
    for (int i = 0; i < ATTEMPTS; i++) {
        if (!put_all(u, meta, err) || !look_again(u, &missing, err))
            return false;
        if (!missing)
            return true;
        if (!objstore_remove(u->s, u->ctx, bucket_name_slice(meta), err))
            return false;
    }
    return err_set(err, ERR_UNAVAILABLE, "%.*s was there and is gone, each time it was uploaded", SL_FMT(missing->path));
}

bool bucket_upload_block(struct objstore *s, const struct ctx *ctx, struct slice tenant, const char *dir, const struct ulid *block,
                         const struct bucket_upload *as, bool *ret_done_before, struct err *err)
{
    struct upload u = {.s = s, .ctx = ctx, .tenant = tenant, .block = block};
    struct bucket_name meta = bucket_block_file(tenant, block, BUCKET_META);
    bool done = false;
    arena_init(&u.arena, 0);
    u.folder = arena_printf(&u.arena, "%s/%s", dir, block->text);
    bool good = u.folder ? bucket_exists(s, ctx, &meta, &done, err) : bucket_no_memory(err);
    good = good && (done || send(&u, as, &meta, err));
    arena_release(&u.arena);
    if (good && ret_done_before)
        *ret_done_before = done;
    return good;
}
