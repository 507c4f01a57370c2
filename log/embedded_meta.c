/*
 * meta.mdb: what outlives segments. Layout in embedded.c, section "meta.mdb".
 *
 * One LMDB environment without its lock file: meta.lock serialises all that touch it, readers too. It is small (tens of
 * KiB) and is written once a committed offset and twice a segment.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/assert.h"
#include "log/embedded_int.h"

#define META_MAP_BYTES (64 * 1024 * 1024)
#define META_FORMAT 1
#define META_KEY_MAX (8 + PLOG_GROUP_NAME_MAX)

struct meta_group {
    uint64_t sum;
    int64_t offset;
};

struct meta_segment {
    uint64_t sum; /* of all that follows, seeded with the id */
    uint32_t format;
    uint32_t n_partitions;
    uint64_t map_bytes;
    uint64_t file_bytes; /* 0 = not sealed */
    int64_t created_ms;
    int64_t last_ms;
    struct seg_part part[];
};

static MDB_val val_of(const void *p, size_t n)
{
    return (MDB_val){.mv_size = n, .mv_data = (void *)(uintptr_t)p};
}

/* Caller holds meta.lock, or is open. */
static bool env_open(struct embedded *e, struct err *err)
{
    struct meta_store *m = &e->meta;
    if (m->env)
        return true;
    struct stat st;
    if (stat(m->path, &st) == 0 && st.st_size > 0 && !embedded_check_file(m->path, true, err))
        return false;
    MDB_txn *txn = NULL;
    int rc = mdb_env_create(&m->env);
    if (rc == 0)
        rc = mdb_env_set_mapsize(m->env, META_MAP_BYTES);
    if (rc == 0)
        rc = mdb_env_open(m->env, m->path, MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOTLS, 0640);
    if (rc == 0)
        rc = mdb_txn_begin(m->env, NULL, 0, &txn);
    if (rc == 0)
        rc = mdb_dbi_open(txn, NULL, 0, &m->dbi);
    if (txn && rc == 0)
        rc = mdb_txn_commit(txn);
    else if (txn)
        mdb_txn_abort(txn);
    if (rc == 0)
        return true;
    if (m->env)
        mdb_env_close(m->env);
    m->env = NULL;
    embedded_mdb_err(e, err, rc, "opening meta.mdb");
    return err_prefix(err, "%s: ", e->dir);
}

bool meta_open(struct embedded *e, struct err *err)
{
    pthread_mutex_init(&e->meta.lock, NULL);
    if (asprintf(&e->meta.path, "%s/meta.mdb", e->dir) < 0)
        return e->meta.path = NULL, err_set(err, ERR_NO_MEMORY, "out of memory");
    if (env_open(e, err))
        return true;
    if (err && err->code == ERR_CORRUPT)
        err_prefix(err, "committed offsets cannot be read (moving the file away makes consumers start anew from their "
                        "own positions): ");
    return false;
}

void meta_close(struct embedded *e)
{
    if (e->meta.env)
        mdb_env_close(e->meta.env);
    free(e->meta.path);
    pthread_mutex_destroy(&e->meta.lock);
}

/* One durable change: put, or delete when value is NULL. */
static bool meta_change(struct embedded *e, MDB_val key, MDB_val *value, struct err *err)
{
    struct meta_store *m = &e->meta;
    pthread_mutex_lock(&m->lock);
    if (!env_open(e, err)) {
        pthread_mutex_unlock(&m->lock);
        return false;
    }
    MDB_txn *txn = NULL;
    int rc = embedded_fault(e, "meta");
    if (rc == 0)
        rc = mdb_txn_begin(m->env, NULL, 0, &txn);
    if (rc == 0)
        rc = value ? mdb_put(txn, m->dbi, &key, value, 0) : mdb_del(txn, m->dbi, &key, NULL);
    if (rc == MDB_NOTFOUND && !value)
        rc = 0;
    if (rc == 0)
        rc = mdb_txn_commit(txn);
    else if (txn)
        mdb_txn_abort(txn);
    if (rc && rc != MDB_MAP_FULL && rc != ENOSPC) { /* it may have fallen into MDB_FATAL_ERROR: begin again */
        mdb_env_close(m->env);
        m->env = NULL;
    }
    pthread_mutex_unlock(&m->lock);
    return rc == 0 || embedded_mdb_err(e, err, rc, "writing meta.mdb");
}

static size_t group_key(char *dst, struct slice group, int32_t partition)
{
    uint32_t be = htobe32((uint32_t)partition);
    dst[0] = 'c';
    memcpy(dst + 1, &be, sizeof(be));
    memcpy(dst + 5, group.p, group.n);
    return 5 + group.n;
}

static uint64_t group_sum(const char *key, size_t n, int64_t offset)
{
    return XXH3_64bits_withSeed(key, n, (uint64_t)offset);
}

bool meta_put_group(struct embedded *e, struct slice group, int32_t partition, int64_t offset, struct err *err)
{
    char key[META_KEY_MAX];
    size_t n = group_key(key, group, partition);
    struct meta_group row = {.sum = group_sum(key, n, offset), .offset = offset};
    MDB_val v = val_of(&row, sizeof(row));
    return meta_change(e, val_of(key, n), &v, err);
}

static bool group_row_read(MDB_val key, MDB_val v, int64_t *ret_offset)
{
    struct meta_group row;
    if (v.mv_size != sizeof(row))
        return false;
    memcpy(&row, v.mv_data, sizeof(row));
    *ret_offset = row.offset;
    return row.sum == group_sum(key.mv_data, key.mv_size, row.offset);
}

bool meta_get_group(struct embedded *e, struct slice group, int32_t partition, int64_t *ret_offset, struct err *err)
{
    struct meta_store *m = &e->meta;
    char key_bytes[META_KEY_MAX];
    MDB_val key = val_of(key_bytes, group_key(key_bytes, group, partition)), v;
    pthread_mutex_lock(&m->lock);
    if (!env_open(e, err)) {
        pthread_mutex_unlock(&m->lock);
        return false;
    }
    MDB_txn *txn = NULL;
    int64_t offset = -1;
    bool damaged = false;
    int rc = mdb_txn_begin(m->env, NULL, MDB_RDONLY, &txn);
    if (rc == 0)
        rc = mdb_get(txn, m->dbi, &key, &v);
    if (rc == 0)
        damaged = !group_row_read(key, v, &offset);
    if (txn)
        mdb_txn_abort(txn);
    pthread_mutex_unlock(&m->lock);
    if (damaged)
        return err_set(err, ERR_CORRUPT, "%s is damaged: the offset of group %.*s, partition %" PRId32, m->path,
                       SL_FMT(group), partition);
    if (rc && rc != MDB_NOTFOUND)
        return embedded_mdb_err(e, err, rc, "reading meta.mdb");
    *ret_offset = offset;
    return true;
}

static MDB_val segment_key(char dst[9], uint64_t id)
{
    uint64_t be = htobe64(id);
    dst[0] = 's';
    memcpy(dst + 1, &be, sizeof(be));
    return val_of(dst, 9);
}

static uint64_t segment_sum(const struct meta_segment *row, size_t n, uint64_t id)
{
    return XXH3_64bits_withSeed((const char *)row + sizeof(row->sum), n - sizeof(row->sum), id);
}

bool meta_put_segment(struct embedded *e, const struct segment *seg, struct err *err)
{
    size_t parts = (size_t)seg->n_partitions * sizeof(struct seg_part), n = sizeof(struct meta_segment) + parts;
    struct meta_segment *row = calloc(1, n);
    if (!row)
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    *row = (struct meta_segment){
        .format = META_FORMAT,
        .n_partitions = (uint32_t)seg->n_partitions,
        .map_bytes = seg->map_bytes,
        .file_bytes = seg->sealed ? seg->file_bytes : 0,
        .created_ms = seg->created_ms,
        .last_ms = seg->last_ms,
    };
    memcpy(row->part, seg->part, parts);
    row->sum = segment_sum(row, n, seg->id);
    char key[9];
    MDB_val v = val_of(row, n);
    bool ok = meta_change(e, segment_key(key, seg->id), &v, err);
    free(row);
    return ok;
}

bool meta_delete_segment(struct embedded *e, uint64_t id, struct err *err)
{
    char key[9];
    return meta_change(e, segment_key(key, id), NULL, err);
}

/* NULL when the row is damaged: the segment's file then speaks for itself. */
static struct segment *segment_row_read(MDB_val key, MDB_val v)
{
    uint64_t id;
    if (key.mv_size != 9 || v.mv_size < sizeof(struct meta_segment))
        return NULL;
    memcpy(&id, (const char *)key.mv_data + 1, sizeof(id));
    id = be64toh(id);
    struct meta_segment row;
    memcpy(&row, v.mv_data, sizeof(row));
    if (row.format != META_FORMAT || row.n_partitions > EMBEDDED_MAX_PARTITIONS ||
        v.mv_size != sizeof(row) + row.n_partitions * sizeof(struct seg_part) ||
        row.sum != segment_sum(v.mv_data, v.mv_size, id))
        return NULL;
    struct segment *seg = segment_new(id, (int32_t)row.n_partitions);
    seg->map_bytes = row.map_bytes;
    seg->file_bytes = row.file_bytes;
    seg->sealed = row.file_bytes != 0;
    seg->created_ms = row.created_ms;
    seg->last_ms = row.last_ms;
    memcpy(seg->part, (const char *)v.mv_data + sizeof(row), row.n_partitions * sizeof(struct seg_part));
    return seg;
}

static void visit_row(const struct meta_visitor *v, MDB_val key, MDB_val value)
{
    char kind = key.mv_size ? *(const char *)key.mv_data : 0;
    if (kind == 's') {
        struct segment *seg = segment_row_read(key, value);
        if (seg)
            v->segment(v->arg, seg);
    } else if (kind == 'c' && key.mv_size > 5) {
        uint32_t be;
        int64_t offset;
        memcpy(&be, (const char *)key.mv_data + 1, sizeof(be));
        if (group_row_read(key, value, &offset))
            v->committed(v->arg, (int32_t)be32toh(be), offset);
    }
}

bool meta_visit(struct embedded *e, const struct meta_visitor *v, struct err *err)
{
    MDB_txn *txn = NULL;
    MDB_cursor *cursor = NULL;
    MDB_val key, value;
    int rc = mdb_txn_begin(e->meta.env, NULL, MDB_RDONLY, &txn);
    if (rc == 0)
        rc = mdb_cursor_open(txn, e->meta.dbi, &cursor);
    while (rc == 0 && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0)
        visit_row(v, key, value);
    if (cursor)
        mdb_cursor_close(cursor);
    if (txn)
        mdb_txn_abort(txn);
    return rc == MDB_NOTFOUND || rc == 0 || embedded_mdb_err(e, err, rc, "reading meta.mdb");
}
