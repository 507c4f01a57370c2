/* One segment file: making, opening, reading what an earlier process left. Format in embedded.c, section "Segments". */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/assert.h"
#include "base/big_file.h"
#include "base/clock.h"
#include "base/logger.h"
#include "log/embedded_int.h"

#define SEGMENT_MAGIC 0x47455342u /* "BSEG" */
#define SEGMENT_FORMAT 1
#define SEGMENT_KEY "segment"
#define TREE_NAME_MAX 16
/* What a group takes beside its values: tree pages, copied at each commit and reused two commits later. */
#define SEGMENT_SLACK_BYTES (16 * 1024 * 1024)
#define SEGMENT_SLACK_PER_PARTITION (64 * 1024)

struct segment_header {
    uint64_t sum; /* of all that follows */
    uint32_t magic;
    uint32_t format;
    uint64_t id;
    int64_t created_ms;
    uint64_t map_bytes;
    uint32_t n_partitions;
    uint32_t zero;
    int64_t first[];
};

char *segment_path(const struct embedded *e, uint64_t id, const char *suffix)
{
    char *path = NULL;
    ASSERT(asprintf(&path, "%s/%020" PRIu64 "%s", e->dir, id, suffix) > 0);
    return path;
}

struct segment *segment_new(uint64_t id, int32_t n_partitions)
{
    struct segment *seg = calloc(1, sizeof(*seg) + (size_t)n_partitions * sizeof(struct seg_part));
    ASSERT(seg);
    seg->id = id;
    seg->n_partitions = n_partitions;
    seg->refs = 1;
    seg->remains = -1;
    for (int32_t p = 0; p < n_partitions; p++) {
        seg->part[p].min_ms = INT64_MAX;
        seg->part[p].max_ms = INT64_MIN;
    }
    return seg;
}

void segment_env_close(struct embedded *e, uint64_t id, struct seg_env *env)
{
    if (!env)
        return;
    mdb_env_close(env->env);
    if (env->writable) {
        char *lock = segment_path(e, id, ".seg-lock");
        unlink(lock);
        free(lock);
    }
    free(env);
}

void segment_free(struct embedded *e, struct segment *seg)
{
    if (!seg)
        return;
    segment_env_close(e, seg->id, seg->env);
    if (seg->remains >= 0)
        big_file_free_aside(seg->remains);
    free(seg);
}

static void tree_name(int32_t partition, char dst[TREE_NAME_MAX])
{
    snprintf(dst, TREE_NAME_MAX, "p%05" PRId32, partition);
}

/* Opens the trees of all partitions inside txn. */
static int open_trees(MDB_txn *txn, struct seg_env *env, unsigned flags)
{
    int rc = 0;
    for (int32_t p = 0; p < env->n_partitions && rc == 0; p++) {
        char name[TREE_NAME_MAX];
        tree_name(p, name);
        rc = mdb_dbi_open(txn, name, MDB_INTEGERKEY | flags, &env->dbi[p]);
    }
    return rc;
}

/* An environment that is opened, its trees not yet. map_bytes 0: as large as the file needs. */
static int env_open_raw(const char *path, int32_t n_partitions, uint64_t map_bytes, unsigned flags,
                        struct seg_env **ret)
{
    struct seg_env *env = calloc(1, sizeof(*env) + (size_t)n_partitions * sizeof(MDB_dbi));
    ASSERT(env);
    env->n_partitions = n_partitions;
    int rc = mdb_env_create(&env->env);
    if (rc == 0)
        rc = mdb_env_set_maxdbs(env->env, (MDB_dbi)n_partitions + 1);
    if (rc == 0)
        rc = mdb_env_set_mapsize(env->env, map_bytes ? map_bytes : 1);
    if (rc == 0 && !(flags & MDB_NOLOCK))
        rc = mdb_env_set_maxreaders(env->env, EMBEDDED_MAX_READERS);
    if (rc == 0)
        rc = mdb_env_open(env->env, path, MDB_NOSUBDIR | MDB_NOTLS | flags, 0640);
    if (rc) {
        if (env->env)
            mdb_env_close(env->env);
        free(env);
        return rc;
    }
    *ret = env;
    return 0;
}

struct seg_env *segment_env_open(struct embedded *e, const struct segment *seg, bool writable, struct err *err)
{
    char *path = segment_path(e, seg->id, ".seg");
    struct seg_env *env = NULL;
    MDB_txn *txn = NULL;
    if (!writable && !embedded_check_file(path, false, err)) {
        free(path);
        return NULL;
    }
    /* A sealed file never changes again: no reader table, no lock file. */
    int rc = embedded_fault(e, "segment-open");
    if (rc == 0)
        rc = env_open_raw(path, seg->n_partitions, writable ? seg->map_bytes : 0,
                          writable ? 0 : MDB_RDONLY | MDB_NOLOCK, &env);
    free(path);
    if (rc == 0)
        rc = mdb_txn_begin(env->env, NULL, MDB_RDONLY, &txn);
    if (rc == 0)
        rc = open_trees(txn, env, 0);
    if (txn && rc == 0)
        rc = mdb_txn_commit(txn); /* keeps the handles */
    else if (txn)
        mdb_txn_abort(txn);
    if (rc == 0) {
        env->writable = writable;
        return env;
    }
    if (env)
        env->writable = writable;
    segment_env_close(e, seg->id, env);
    embedded_mdb_err(e, err, rc == MDB_NOTFOUND ? MDB_CORRUPTED : rc, "opening a segment");
    return NULL;
}

/* --- making --- */

static int put_header(MDB_txn *txn, const struct embedded *e, const struct segment *seg)
{
    size_t n = sizeof(struct segment_header) + (size_t)seg->n_partitions * sizeof(int64_t);
    struct segment_header *h = calloc(1, n);
    if (!h)
        return ENOMEM;
    *h = (struct segment_header){
        .magic = SEGMENT_MAGIC,
        .format = SEGMENT_FORMAT,
        .id = seg->id,
        .created_ms = seg->created_ms,
        .map_bytes = seg->map_bytes,
        .n_partitions = (uint32_t)seg->n_partitions,
    };
    for (int32_t p = 0; p < seg->n_partitions; p++)
        h->first[p] = seg->part[p].first;
    h->sum = XXH3_64bits((const char *)h + sizeof(h->sum), n - sizeof(h->sum));
    MDB_dbi main_tree;
    MDB_val key = {sizeof(SEGMENT_KEY) - 1, (void *)(uintptr_t)SEGMENT_KEY}, value = {n, h};
    int rc = embedded_fault(e, "segment-header");
    if (rc == 0)
        rc = mdb_dbi_open(txn, NULL, 0, &main_tree);
    if (rc == 0)
        rc = mdb_put(txn, main_tree, &key, &value, 0);
    free(h);
    return rc;
}

/* Writes header and empty trees, durable, under a name that a start throws away. */
static int write_tmp(struct embedded *e, const struct segment *seg, const char *tmp)
{
    struct seg_env *env = NULL;
    MDB_txn *txn = NULL;
    int rc = env_open_raw(tmp, seg->n_partitions, seg->map_bytes, MDB_NOLOCK, &env);
    if (rc == 0)
        rc = mdb_txn_begin(env->env, NULL, 0, &txn);
    if (rc == 0)
        rc = put_header(txn, e, seg);
    if (rc == 0)
        rc = open_trees(txn, env, MDB_CREATE);
    if (txn && rc == 0)
        rc = mdb_txn_commit(txn);
    else if (txn)
        mdb_txn_abort(txn);
    segment_env_close(e, seg->id, env);
    return rc;
}

/* From here on the file counts: whatever happens, a start finds it whole. */
static int publish_file(struct embedded *e, const char *tmp, const char *path)
{
    int rc = embedded_fault(e, "segment-rename");
    if (rc == 0 && rename(tmp, path) != 0)
        rc = errno;
    if (rc == 0)
        rc = embedded_fault(e, "segment-dirsync");
    if (rc == 0 && fsync(e->dir_fd) != 0)
        rc = errno;
    return rc;
}

static bool create_files(struct embedded *e, struct segment *seg, struct err *err)
{
    char *tmp = segment_path(e, seg->id, ".tmp"), *path = segment_path(e, seg->id, ".seg");
    unlink(tmp);
    int rc = write_tmp(e, seg, tmp);
    if (rc == 0)
        rc = publish_file(e, tmp, path);
    bool ok = rc == 0 || embedded_mdb_err(e, err, rc, "making a segment");
    /* The row after the file: a row without a file then always means that the file was lost. */
    ok = ok && meta_put_segment(e, seg, err);
    if (ok) {
        seg->env = segment_env_open(e, seg, true, err);
        ok = seg->env != NULL;
        if (!ok)
            meta_delete_segment(e, seg->id, NULL);
    }
    if (!ok) {
        unlink(tmp);
        unlink(path);
    }
    free(tmp);
    free(path);
    return ok;
}

struct segment *segment_create(struct embedded *e, uint64_t need_bytes, struct err *err)
{
    struct segment *seg = segment_new(e->next_id, e->base.n_partitions);
    uint64_t slack = SEGMENT_SLACK_BYTES + (uint64_t)e->base.n_partitions * SEGMENT_SLACK_PER_PARTITION;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    seg->map_bytes = (MAX(e->cfg.embedded_segment_bytes, need_bytes) + slack + page - 1) / page * page;
    seg->created_ms = clock_wall_ms();
    for (int32_t p = 0; p < seg->n_partitions; p++)
        seg->part[p].first = seg->part[p].end = e->w_next[p];
    if (!create_files(e, seg, err)) {
        segment_free(e, seg);
        return NULL;
    }
    e->next_id++;
    return seg;
}

/* --- reading what another process left --- */

static struct segment *header_decode(uint64_t id, MDB_val v)
{
    struct segment_header h;
    if (v.mv_size < sizeof(h))
        return NULL;
    memcpy(&h, v.mv_data, sizeof(h));
    if (h.magic != SEGMENT_MAGIC || h.format != SEGMENT_FORMAT || h.id != id ||
        h.n_partitions > EMBEDDED_MAX_PARTITIONS || v.mv_size != sizeof(h) + h.n_partitions * sizeof(int64_t) ||
        h.sum != XXH3_64bits((const char *)v.mv_data + sizeof(h.sum), v.mv_size - sizeof(h.sum)))
        return NULL;
    struct segment *seg = segment_new(id, (int32_t)h.n_partitions);
    seg->map_bytes = h.map_bytes;
    seg->created_ms = h.created_ms;
    for (int32_t p = 0; p < seg->n_partitions; p++) {
        memcpy(&seg->part[p].first, (const char *)v.mv_data + sizeof(h) + (size_t)p * sizeof(int64_t), sizeof(int64_t));
        seg->part[p].end = seg->part[p].first;
    }
    return seg;
}

/* Opens the main tree alone, which holds the header and with it the number of partitions. */
static int header_read(const char *path, uint64_t id, struct segment **ret)
{
    struct seg_env *env = NULL;
    MDB_txn *txn = NULL;
    MDB_dbi main_tree;
    MDB_val key = {sizeof(SEGMENT_KEY) - 1, (void *)(uintptr_t)SEGMENT_KEY}, value;
    int rc = env_open_raw(path, 0, 0, MDB_RDONLY | MDB_NOLOCK, &env);
    if (rc)
        return rc;
    rc = mdb_txn_begin(env->env, NULL, MDB_RDONLY, &txn);
    if (rc == 0)
        rc = mdb_dbi_open(txn, NULL, 0, &main_tree);
    if (rc == 0)
        rc = mdb_get(txn, main_tree, &key, &value);
    if (rc == 0 && !(*ret = header_decode(id, value)))
        rc = MDB_CORRUPTED;
    if (txn)
        mdb_txn_abort(txn);
    mdb_env_close(env->env);
    free(env);
    return rc == MDB_NOTFOUND ? MDB_CORRUPTED : rc;
}

/* Offsets and times of one partition. A damaged record counts: its offset was given out. */
static int scan_partition(MDB_txn *txn, MDB_dbi dbi, int32_t partition, struct seg_part *part)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int rc = mdb_cursor_open(txn, dbi, &cursor);
    if (rc)
        return rc;
    while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        int64_t offset;
        struct plog_record r;
        memcpy(&offset, key.mv_data, sizeof(offset));
        if (offset < part->first) {
            rc = MDB_CORRUPTED;
            break;
        }
        part->end = offset + 1;
        if (!embedded_record_decode(slice_make(value.mv_data, value.mv_size), partition, offset, false, &r))
            continue;
        part->min_ms = MIN(part->min_ms, r.timestamp_ms);
        part->max_ms = MAX(part->max_ms, r.timestamp_ms);
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int scan_records(struct seg_env *env, struct segment *seg)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(env->env, NULL, MDB_RDONLY, &txn);
    if (rc)
        return rc;
    for (int32_t p = 0; p < seg->n_partitions && rc == 0; p++)
        rc = scan_partition(txn, env->dbi[p], p, &seg->part[p]);
    mdb_txn_abort(txn);
    return rc;
}

static void set_times(struct segment *seg, const struct stat *st)
{
    int64_t newest = INT64_MIN, modified_ms = (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000;
    for (int32_t p = 0; p < seg->n_partitions; p++)
        newest = MAX(newest, seg->part[p].max_ms);
    seg->last_ms = newest == INT64_MIN ? modified_ms : MIN(newest, modified_ms);
    seg->file_bytes = (uint64_t)st->st_size;
    seg->sealed = true;
}

struct segment *segment_scan(struct embedded *e, uint64_t id, struct err *err)
{
    char *path = segment_path(e, id, ".seg");
    struct segment *seg = NULL;
    struct seg_env *env = NULL;
    struct stat st;
    if (!embedded_check_file(path, false, err))
        goto out;
    int rc = header_read(path, id, &seg);
    if (rc == 0 && !(env = segment_env_open(e, seg, false, err)))
        goto fail;
    if (rc == 0)
        rc = scan_records(env, seg);
    if (rc == 0 && stat(path, &st) != 0)
        rc = errno;
    if (rc == 0) {
        set_times(seg, &st);
        goto out;
    }
    embedded_mdb_err(e, err, rc, "reading a segment");
    err_prefix(err, "%s: ", path);
fail:
    segment_free(e, seg);
    seg = NULL;
out:
    segment_env_close(e, id, env);
    free(path);
    return seg;
}
