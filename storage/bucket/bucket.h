/*
 * The layout of tenants' blocks in an object store (docs/formats.md 7.1-7.3): names of objects, marks, the bucket index, and whole blocks going up, down and
 * away in the order that keeps readers safe.
 *
 *   1. A block exists when its meta.json does: that is put last and removed first. All other objects of a block never change once they are there.
 *   2. A deletion mark says that readers should go elsewhere; the block itself goes later. A mark is put below the block first and below markers/ second;
 *      both have the same bytes. Marks go last when a block is removed, so that a removal that was broken off is found again.
 *   3. The bucket index says what of this is to be queried. It has one writer, the compactor that owns the tenant.
 *
 * No state, no locks: every function may be called by any thread, and blocks as the store does. Errors are the store's (storage/objstore/objstore.h), those
 * named below, and ERR_NO_MEMORY when an arena is used up; each names the object. ctx says how long a call may take; its tenant and arena are not looked at.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/ctx.h"
#include "base/err.h"
#include "storage/block/meta.h"
#include "storage/objstore/objstore.h"

/* --- names ------------------------------------------------------------------------------------------------------------------ */

#define BUCKET_DELETION_MARK "deletion-mark.json"
#define BUCKET_NO_COMPACT_MARK "no-compact-mark.json"
#define BUCKET_TENANT_DELETION_MARK "tenant-deletion-mark.json" /* below markers/ */
#define BUCKET_INDEX "bucket-index.json.gz"
#define BUCKET_META "meta.json"
#define BUCKET_SPARSE_HEADER "sparse-index-header"
#define BUCKET_MARKERS "markers/"
#define BUCKET_INTERNAL "__mimir_cluster" /* a folder at the top that is no tenant */

/* The name of an object, NUL-terminated. Tenants have at most 150 bytes, files of blocks are short: a longer one is cut and finds nothing. */
#define BUCKET_NAME_MAX 512
struct bucket_name {
    char text[BUCKET_NAME_MAX];
    size_t n;
};
static inline struct slice bucket_name_slice(const struct bucket_name *name)
{
    return slice_make(name->text, name->n);
}
/* "<tenant>/<file>" */
struct bucket_name bucket_tenant_file(struct slice tenant, const char *file);
/* "<tenant>/<ulid>/<file>"; file "" gives the prefix of all of them. */
struct bucket_name bucket_block_file(struct slice tenant, const struct ulid *block, const char *file);
/* "<tenant>/markers/<ulid>-<mark>" */
struct bucket_name bucket_global_mark(struct slice tenant, const struct ulid *block, const char *mark);

/* --- marks ------------------------------------------------------------------------------------------------------------------ */

enum block_mark_kind { BLOCK_MARK_DELETION, BLOCK_MARK_NO_COMPACT };
#define BLOCK_MARK_KINDS 2

/* Reasons of no-compact marks, Mimir's. */
#define NO_COMPACT_MANUAL "manual"
#define NO_COMPACT_INDEX_SIZE "index-size-exceeding"
#define NO_COMPACT_OUT_OF_ORDER_CHUNK "block-index-out-of-order-chunk"
#define NO_COMPACT_CRITICAL "critical"

struct block_mark {
    struct ulid block;
    int64_t time_s;       /* deletion_time, no_compact_time: Unix */
    struct slice reason;  /* of no-compact marks; else empty */
    struct slice details; /* free text, or empty */
};
const char *block_mark_file(enum block_mark_kind kind); /* "deletion-mark.json" */
/* ERR_CORRUPT on another version, or what is no such mark. Strings go into the arena. */
bool block_mark_decode(enum block_mark_kind kind, struct slice json, struct arena *arena, struct block_mark *ret, struct err *err);
/* Mimir's bytes; out says when it failed. */
void block_mark_encode(enum block_mark_kind kind, const struct block_mark *m, struct buf *out);

struct tenant_mark {
    int64_t deletion_time_s;
    int64_t finished_time_s; /* 0: the cleaner has not yet removed everything */
};
bool tenant_mark_decode(struct slice json, struct tenant_mark *ret, struct err *err);
void tenant_mark_encode(const struct tenant_mark *m, struct buf *out);
/* ERR_NOT_FOUND: the tenant is not to be deleted. */
bool bucket_read_tenant_mark(struct objstore *s, const struct ctx *ctx, struct slice tenant, struct tenant_mark *ret, struct err *err);
bool bucket_write_tenant_mark(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct tenant_mark *m, struct err *err);

/* The mark below the block. ERR_NOT_FOUND: there is none. */
bool bucket_read_mark(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct ulid *block, enum block_mark_kind kind,
                      struct arena *arena, struct block_mark *ret, struct err *err);
/* The blocks that have a mark of this kind below markers/, by name; their marks are not read. */
bool bucket_list_marks(struct objstore *s, const struct ctx *ctx, struct slice tenant, enum block_mark_kind kind, struct arena *arena,
                       const struct ulid **ret, size_t *ret_n, struct err *err);
/*
 * Marks the block, below it and then below markers/. An existing mark stays as it is; only its copy is made if it lacks. ret_new (may be NULL): this call made
 * it. Nobody looks whether there is such a block.
 */
bool bucket_mark_block(struct objstore *s, const struct ctx *ctx, struct slice tenant, enum block_mark_kind kind, const struct block_mark *mark,
                       bool *ret_new, struct err *err);

/* --- the bucket index ------------------------------------------------------------------------------------------------------- */

struct index_block {
    struct ulid id;
    int64_t min_t, max_t;       /* ms; max exclusive */
    struct slice segments_format; /* "1b6d": files 000001, 000002, ...; "": unknown */
    uint32_t segments_num;
    uint32_t level;             /* of compaction; 0: not said */
    int64_t uploaded_at_s;      /* when meta.json was put */
    struct slice shard;         /* "1_of_2", or empty */
    struct slice source;        /* "receive", "compactor", ... or empty */
    const struct block_label *labels; /* all external labels, by name */
    size_t n_labels;
    bool out_of_order;
};
struct index_deletion {
    struct ulid block;
    int64_t time_s; /* when it was marked */
};
/* Slices and arrays lie in the arena that it was decoded into. Blocks that are marked for deletion are among the blocks. No order. */
struct bucket_index {
    const struct index_block *blocks;
    size_t n_blocks;
    const struct index_deletion *deletions;
    size_t n_deletions;
    int64_t updated_at_s;
};
#define BUCKET_INDEX_MAX_BYTES ((size_t)1 << 30) /* of the JSON and of the object */
#define BUCKET_INDEX_MAX_BLOCKS ((size_t)4 << 20)

/* The object's bytes, gzip and all; versions 1 and 2. ERR_CORRUPT, text "bucket index corrupted: ...". */
bool bucket_index_decode(struct slice gz, struct arena *arena, struct bucket_index *ret, struct err *err);
/* The JSON in it is Mimir's to the byte; out says when it failed. */
void bucket_index_encode(const struct bucket_index *index, struct buf *out);
/* ERR_NOT_FOUND: the tenant has none yet. */
bool bucket_index_read(struct objstore *s, const struct ctx *ctx, struct slice tenant, struct arena *arena, struct bucket_index *ret,
                       struct err *err);
bool bucket_index_write(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct bucket_index *index, struct err *err);

/* What an update found and could not put into the index. */
struct partial_block {
    struct ulid id;
    struct slice mark; /* file name of the mark that is to blame; empty: the block's meta.json */
    struct err why;    /* ERR_NOT_FOUND: there is none; ERR_CORRUPT: it cannot be read */
};
struct bucket_update {
    const struct partial_block *partial;
    size_t n_partial;
    size_t n_new; /* blocks that the old index did not have */
};
/*
 * The index as the bucket is at now_s. Lists global deletion marks, then blocks, takes over what `old` (NULL: nothing) says of those it knows, and reads the
 * meta.json and marks of the others. What old knows and the listing lacks is looked for by name before it is dropped, since lists may be stale: a block that
 * exists stays. Blocks whose meta.json is missing or cannot be read are partial: not in the index, but told; so are marks that cannot be read.
 * They are read by n_threads threads, the caller's among them.
 * The result's slices lie in the arena; old may be released afterwards. ret_update may be NULL. Any other fault fails it as a whole.
 */
bool bucket_index_update(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct bucket_index *old, int64_t now_s, size_t n_threads,
                         struct arena *arena, struct bucket_index *ret, struct bucket_update *ret_update, struct err *err);
/* What the index says of a block with this meta.json. Slices are those of meta. */
void index_block_of_meta(const struct block_meta *meta, int64_t uploaded_at_s, struct index_block *ret);
const struct index_deletion *bucket_index_deletion(const struct bucket_index *index, const struct ulid *block); /* NULL: not marked; linear */

/* --- whole blocks ----------------------------------------------------------------------------------------------------------- */

/* ERR_NOT_FOUND: there is no such block, or only parts of it. ERR_CORRUPT: its meta.json says nothing, or is another block's. */
bool bucket_read_meta(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct ulid *block, struct arena *arena,
                      struct block_meta *ret, struct err *err);

/* For local blocks, whose meta.json has no part of Thanos's: what it gets in the bucket. Blocks that have that part keep theirs. */
struct bucket_upload {
    struct slice source; /* "receive" */
    const struct block_label *labels; /* by name */
    size_t n_labels;
};
/*
 * Uploads <dir>/<ulid>: chunks, index, sparse-index-header if there is one, then meta.json with the list of files and their sizes. Each size is compared with
 * what meta.json says, and with what arrived; when meta.json is there all are looked at once more, and if one has gone meanwhile meta.json is taken away and the
 * block uploaded anew. Repeating it is fine and cheap: files that are there with their size are not sent again, and a block whose
 * meta.json is there is done. ret_done_before (may be NULL) says the latter. ERR_CORRUPT: the folder is no whole block; ERR_BAD_DATA: it has too many files.
 */
bool bucket_upload_block(struct objstore *s, const struct ctx *ctx, struct slice tenant, const char *dir, const struct ulid *block,
                         const struct bucket_upload *as, bool *ret_done_before, struct err *err);
/*
 * Downloads into <dir>/<ulid>, by way of a folder that block_remove_unfinished knows: checked against the sizes in meta.json, synced, renamed when complete.
 * ERR_CONFLICT: the folder is there already. ERR_CORRUPT: an object has not the size that meta.json says. Memory: 8 MiB.
 */
bool bucket_download_block(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct ulid *block, const char *dir,
                           struct err *err);
/* Removes the block: meta.json, all the rest, its marks, their copies. What is not there is fine: also for leftovers and marks of blocks that are gone. */
bool bucket_delete_block(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct ulid *block, struct err *err);

/* --- tenants and their blocks, as the bucket lists them ---------------------------------------------------------------------- */

/* By name; the folders at the top that may be tenants. ids lie in the arena. */
bool bucket_tenants(struct objstore *s, const struct ctx *ctx, struct arena *arena, const struct slice **ret, size_t *ret_n, struct err *err);
/* The same, with a look for each tenant's deletion mark. */
struct bucket_tenant {
    struct slice id;
    bool to_be_deleted;
};
bool bucket_tenants_marked(struct objstore *s, const struct ctx *ctx, struct arena *arena, const struct bucket_tenant **ret, size_t *ret_n,
                           struct err *err);
/* Folders that are named as blocks, partial ones too; by name. */
bool bucket_blocks(struct objstore *s, const struct ctx *ctx, struct slice tenant, struct arena *arena, const struct ulid **ret, size_t *ret_n,
                   struct err *err);
/* The objects of one block's folder, by name; names are relative to it. At most BUCKET_BLOCK_FILES_MAX, else ERR_BAD_DATA. */
#define BUCKET_BLOCK_FILES_MAX 10000
struct bucket_object {
    struct slice name;
    uint64_t size;
    int64_t modified_ms;
};
bool bucket_block_files(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct ulid *block, struct arena *arena,
                        const struct bucket_object **ret, size_t *ret_n, struct err *err);
