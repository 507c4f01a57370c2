/* A cleaner over a bucket in a folder, its clock in the test's hands, and blocks that are only names. */
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/json.h"
#include "base/metrics.h"
#include "storage/compactor/cleaner/cleaner.h"
#include "tests/storage/bucket/rig.h"

#define HOUR_MS ((int64_t)3600 * 1000)
#define MINUTE_MS ((int64_t)60 * 1000)
#define START_MS ((int64_t)1795200000 * 1000)

struct clean_rig {
    struct rig bucket;
    struct compactor_config cfg;
    struct limits limit_values;
    struct limits_provider limits;
    struct cleaner *cleaner;
    int64_t now_ms;
    bool owned;
};

/* A view that ends the process before its n-th operation, as kill -9 would. */
struct crashing {
    struct objstore objstore;
    struct objstore *store;
    _Atomic int left;
};

static inline struct objstore *crash_step(struct objstore *s)
{
    struct crashing *c = CONTAINER_OF(s, struct crashing, objstore);
    if (atomic_fetch_sub(&c->left, 1) == 0)
        _exit(9);
    return c->store;
}

static inline bool crash_get(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out, struct err *err)
{
    return objstore_get(crash_step(s), ctx, name, offset, n, out, err);
}

static inline bool crash_attributes(struct objstore *s, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret, struct err *err)
{
    return objstore_attributes(crash_step(s), ctx, name, ret, err);
}

static inline bool crash_put(struct objstore *s, const struct ctx *ctx, struct slice name, struct slice bytes, struct err *err)
{
    return objstore_put(crash_step(s), ctx, name, bytes, err);
}

static inline bool crash_put_file(struct objstore *s, const struct ctx *ctx, struct slice name, const char *path, struct err *err)
{
    return objstore_put_file(crash_step(s), ctx, name, path, err);
}

static inline bool crash_remove(struct objstore *s, const struct ctx *ctx, struct slice name, struct err *err)
{
    return objstore_remove(crash_step(s), ctx, name, err);
}

static inline bool crash_list(struct objstore *s, const struct ctx *ctx, struct slice prefix, bool delimited, objstore_list_fn *fn, void *arg, struct err *err)
{
    return objstore_list(crash_step(s), ctx, prefix, delimited, fn, arg, err);
}

static inline void crash_free(struct objstore *s)
{
    (void)s;
}

static const struct objstore_ops crash_ops = {
    .name = "crashing",
    .is_view = true,
    .get = crash_get,
    .attributes = crash_attributes,
    .put = crash_put,
    .put_file = crash_put_file,
    .remove = crash_remove,
    .list = crash_list,
    .free = crash_free,
};

/* --- life ---------------------------------------------------------------------------------------------------------------- */

static int n_marked_partial, n_marked_retention;

static inline void count_mark(const char *reason)
{
    strcmp(reason, "partial") == 0 ? n_marked_partial++ : n_marked_retention++;
}

static inline bool owns(void *arg, struct slice tenant)
{
    (void)tenant;
    return ((struct clean_rig *)arg)->owned;
}

static inline bool estimate(void *arg, struct slice tenant, const struct bucket_index *index, size_t *ret_split, size_t *ret_merge, struct err *err)
{
    (void)arg, (void)tenant, (void)err;
    *ret_split = index->n_blocks;
    *ret_merge = 7;
    return true;
}

static inline struct cleaner_parts clean_parts(struct clean_rig *c, struct objstore *store)
{
    return (struct cleaner_parts){.cfg = &c->cfg,
                                  .limits = &c->limits,
                                  .bucket = store,
                                  .owns = owns,
                                  .owns_arg = c,
                                  .count_mark = count_mark,
                                  .estimate = estimate};
}

static inline void clean_at(struct clean_rig *c, int64_t now_ms)
{
    c->now_ms = now_ms;
    clock_fake_wall_ms(now_ms);
}

static inline void clean_start(struct clean_rig *c)
{
    c->cfg = (struct compactor_config){.cleanup_interval = 15 * MINUTE_MS,
                                       .cleanup_concurrency = 4,
                                       .deletion_delay = 12 * HOUR_MS,
                                       .tenant_cleanup_delay = 6 * HOUR_MS,
                                       .update_blocks_concurrency = 1};
    c->limit_values = (struct limits){.compactor_partial_block_deletion_delay = 24 * HOUR_MS};
    c->limits.defaults = &c->limit_values;
    c->owned = true;
    struct cleaner_parts parts = clean_parts(c, c->bucket.s);
    c->cleaner = cleaner_new(&parts);
    clean_at(c, START_MS);
}

static inline void clean_new(struct clean_rig *c)
{
    *c = (struct clean_rig){0};
    rig_new(&c->bucket);
    clean_start(c);
}

static inline void clean_free(struct clean_rig *c)
{
    cleaner_free(c->cleaner);
    rig_free(&c->bucket);
    clock_fake_wall_ms(0);
}

static inline void clean_round(struct clean_rig *c)
{
    struct err err = ERR_NONE;
    cr_assert(cleaner_run(c->cleaner, &no_hurry, &err), "%s", err.text);
}

/* --- what lies in the bucket --------------------------------------------------------------------------------------------- */

/* Sets when the file was put: the filesystem knows only the real clock. */
static inline void put_at(struct clean_rig *c, const char *name, const char *bytes)
{
    char path[512];
    put_object(&c->bucket, name, slice_of(bytes));
    snprintf(path, sizeof(path), "%s/%s", c->bucket.bucket, name);
    struct timespec times[2] = {{.tv_sec = c->now_ms / 1000}, {.tv_sec = c->now_ms / 1000, .tv_nsec = c->now_ms % 1000 * 1000000}};
    cr_assert_eq(utimensat(AT_FDCWD, path, times, 0), 0, "%s", path);
}

static inline struct ulid nth_block(unsigned n)
{
    char text[ULID_TEXT_LEN + 1];
    snprintf(text, sizeof(text), "01M7Y7WR36RNAK3M75M%07u", n % 10000000);
    return ulid_from(text);
}

static inline const char *name_of(const char *tenant, unsigned n, const char *file)
{
    static char names[8][256];
    static unsigned at;
    char *name = names[at++ % 8];
    snprintf(name, 256, "%s/%s/%s", tenant, nth_block(n).text, file);
    return name;
}

static inline const char *global_of(const char *tenant, unsigned n, const char *mark)
{
    static char names[8][256];
    static unsigned at;
    char *name = names[at++ % 8];
    snprintf(name, 256, "%s/markers/%s-%s", tenant, nth_block(n).text, mark);
    return name;
}

static inline void put_files(struct clean_rig *c, const char *tenant, unsigned n)
{
    put_at(c, name_of(tenant, n, "chunks/000001"), "chunks");
    put_at(c, name_of(tenant, n, "index"), "index");
}

static inline void put_meta(struct clean_rig *c, const char *tenant, unsigned n, int64_t max_t, const char *source)
{
    char json[1024], id[ULID_TEXT_LEN + 1];
    strcpy(id, nth_block(n).text);
    snprintf(json, sizeof(json),
             "{\"ulid\":\"%s\",\"minTime\":%lld,\"maxTime\":%lld,\"stats\":{},\"compaction\":{\"level\":1,\"sources\":[\"%s\"]},\"version\":1,"
             "\"thanos\":{\"labels\":{},\"downsample\":{\"resolution\":0},\"source\":\"%s\",\"files\":[{\"rel_path\":\"chunks/000001\",\"size_bytes\":6},"
             "{\"rel_path\":\"index\",\"size_bytes\":5},{\"rel_path\":\"meta.json\"}]}}",
             id, (long long)(max_t - 2 * HOUR_MS), (long long)max_t, id, source);
    put_at(c, name_of(tenant, n, "meta.json"), json);
}

static inline void put_block(struct clean_rig *c, const char *tenant, unsigned n)
{
    put_files(c, tenant, n);
    put_meta(c, tenant, n, c->now_ms, "receive");
}

static inline void mark_with(struct clean_rig *c, const char *tenant, unsigned n, const char *details)
{
    struct err err = ERR_NONE;
    struct block_mark m = {.block = nth_block(n), .time_s = c->now_ms / 1000, .details = slice_of(details)};
    cr_assert(bucket_mark_block(c->bucket.store, &no_hurry, slice_of(tenant), BLOCK_MARK_DELETION, &m, NULL, &err), "%s", err.text);
}

static inline void mark_block(struct clean_rig *c, const char *tenant, unsigned n)
{
    mark_with(c, tenant, n, "source of compacted block");
}

static inline bool has(struct clean_rig *c, const char *name)
{
    return object(&c->bucket, name).p != NULL;
}

static inline bool has_block(struct clean_rig *c, const char *tenant, unsigned n)
{
    return has(c, name_of(tenant, n, "meta.json"));
}

/* The index in the bucket; false: there is none. Lies in the rig's arena. */
static inline bool index_now(struct clean_rig *c, const char *tenant, struct bucket_index *ret)
{
    struct err err = ERR_NONE;
    bool there = bucket_index_read(c->bucket.store, &no_hurry, slice_of(tenant), &c->bucket.arena, ret, &err);
    cr_assert(there || err.code == ERR_NOT_FOUND, "%s", err.text);
    return there;
}

static inline bool index_has(const struct bucket_index *index, unsigned n)
{
    struct ulid id = nth_block(n);
    for (size_t i = 0; i < index->n_blocks; i++)
        if (strcmp(index->blocks[i].id.text, id.text) == 0)
            return true;
    return false;
}

static inline bool index_marks(const struct bucket_index *index, unsigned n)
{
    struct ulid id = nth_block(n);
    return bucket_index_deletion(index, &id) != NULL;
}

static inline bool metrics_hold(const char *text)
{
    struct buf out = {0};
    metrics_write_text(&out, NULL, 0);
    bool found = strstr(buf_cstr(&out), text) != NULL;
    buf_release(&out);
    return found;
}
