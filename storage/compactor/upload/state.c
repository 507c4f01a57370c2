/* What the bucket says of an upload. Every call reads it anew: another compactor may have answered the one before. */
#include <jansson.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/logger.h"
#include "storage/compactor/upload/upload_int.h"

#define VALIDATION_MAX_BYTES ((size_t)64 << 10)

/* An object that may be missing: *ret_there false then. */
static bool read_small(struct upload *u, const struct ctx *ctx, struct slice tenant, const struct ulid *block, const char *file, size_t max_bytes,
                       struct arena *arena, struct slice *ret, bool *ret_there, struct err *err)
{
    struct bucket_name name = bucket_block_file(tenant, block, file);
    struct buf bytes = {.max = max_bytes};
    struct err why = ERR_NONE;
    *ret_there = objstore_get(u->parts.bucket, ctx, bucket_name_slice(&name), 0, OBJSTORE_ALL, &bytes, &why);
    if (*ret_there)
        *ret = arena_dup(arena, buf_slice(&bytes));
    buf_release(&bytes);
    if (*ret_there && !ret->p)
        return err_set(err, ERR_NO_MEMORY, "no memory for %s", name.text);
    return *ret_there || why.code == ERR_NOT_FOUND || err_set(err, why.code, "%s", why.text);
}

/* One that cannot be read says nothing: as if the check had died. */
static void judge_validation(struct slice json, struct arena *arena, struct upload_status *ret)
{
    json_t *root = json_loadb(json.p, json.n, 0, NULL);
    const json_t *text = json_object_get(root, "Error");
    const char *error = json_is_string(text) ? json_string_value(text) : "";
    int64_t updated_ms = json_integer_value(json_object_get(root, "LastUpdate"));
    if (error[0]) {
        ret->state = UPLOAD_FAILED;
        ret->error = arena_dup(arena, slice_of(error));
    } else if (clock_wall_ms() - updated_ms < UPLOAD_STALE_MS) {
        ret->state = UPLOAD_VALIDATING;
    }
    json_decref(root);
}

bool upload_read_status(struct upload *u, const struct ctx *ctx, struct slice tenant, const struct ulid *block, struct arena *arena,
                        struct upload_status *ret, struct err *err)
{
    struct bucket_name meta = bucket_block_file(tenant, block, BUCKET_META);
    struct objstore_attributes attributes;
    struct err why = ERR_NONE;
    struct slice validation;
    bool there;
    *ret = (struct upload_status){.state = UPLOAD_COMPLETE};
    if (objstore_attributes(u->parts.bucket, ctx, bucket_name_slice(&meta), &attributes, &why))
        return true;
    if (why.code != ERR_NOT_FOUND)
        return err_set(err, why.code, "%s", why.text);
    ret->state = UPLOAD_NOT_STARTED;
    if (!read_small(u, ctx, tenant, block, UPLOAD_META_FILE, UPLOAD_META_MAX_BYTES * 2, arena, &ret->meta, &there, err))
        return false;
    if (!there)
        return true;
    ret->state = UPLOAD_UPLOADING;
    if (!read_small(u, ctx, tenant, block, UPLOAD_VALIDATION_FILE, VALIDATION_MAX_BYTES, arena, &validation, &there, err))
        return false;
    if (there)
        judge_validation(validation, arena, ret);
    return true;
}

bool upload_admit(struct upload_call *call, bool started, struct upload_status *ret)
{
    struct err err = ERR_NONE;
    if (!upload_read_status(call->u, call->ctx, call->tenant, &call->block, call->arena, ret, &err))
        return upload_fail(call, "the state of an upload could not be read", &err);
    switch (ret->state) {
    case UPLOAD_COMPLETE:
        return upload_refuse(call, 409, "block already exists");
    case UPLOAD_VALIDATING:
        return upload_refuse(call, 400, "block validation in progress");
    case UPLOAD_FAILED:
        return upload_refuse(call, 400, "block validation failed");
    case UPLOAD_NOT_STARTED:
        return !started || upload_refuse(call, 404, "block upload not started");
    case UPLOAD_UPLOADING:
        break;
    }
    return true;
}

bool upload_put(struct upload *u, const struct ctx *ctx, struct slice tenant, const struct ulid *block, const char *file, struct slice bytes, struct err *err)
{
    struct bucket_name name = bucket_block_file(tenant, block, file);
    return objstore_put(u->parts.bucket, ctx, bucket_name_slice(&name), bytes, err);
}

bool upload_write_validation(struct upload *u, const struct ctx *ctx, struct slice tenant, const struct ulid *block, const char *error, struct err *err)
{
    struct buf out = {0};
    struct json j;
    json_init(&j, &out);
    json_obj(&j);
    json_key(&j, SL("LastUpdate"));
    json_i64(&j, clock_wall_ms());
    json_key(&j, SL("Error"));
    json_str(&j, slice_of(error));
    json_obj_end(&j);
    buf_putc(&out, '\n');
    bool good = upload_put(u, ctx, tenant, block, UPLOAD_VALIDATION_FILE, buf_slice(&out), err);
    buf_release(&out);
    return good;
}

static void count(struct slice tenant, const struct block_meta *meta)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < meta->n_files; i++)
        bytes += meta->files[i].size;
    metric_inc(METRIC_WITH(upload_metrics[UPLOAD_BLOCKS], tenant));
    metric_add(METRIC_WITH(upload_metrics[UPLOAD_BYTES], tenant), (double)bytes);
    metric_add(METRIC_WITH(upload_metrics[UPLOAD_FILES], tenant), (double)meta->n_files);
}

bool upload_complete(struct upload *u, const struct ctx *ctx, struct slice tenant, const struct block_meta *meta, struct err *err)
{
    static const char *const helpers[] = {UPLOAD_META_FILE, UPLOAD_VALIDATION_FILE};
    struct buf out = {.max = UPLOAD_META_MAX_BYTES * 2};
    upload_meta_encode(meta, &out);
    bool good = out.failed ? err_set(err, ERR_NO_MEMORY, "no memory for a meta.json")
                           : upload_put(u, ctx, tenant, &meta->ulid, BUCKET_META, buf_slice(&out), err);
    buf_release(&out);
    if (!good)
        return false;
    count(tenant, meta);
    LOG_INFO("a block was uploaded", {"user", LOG_SLICE(tenant)}, {"block", LOG_STR(meta->ulid.text)}, {"series", LOG_U64(meta->stats.series)});
    for (size_t i = 0; i < ARRAY_LEN(helpers); i++) {
        struct bucket_name name = bucket_block_file(tenant, &meta->ulid, helpers[i]);
        (void)objstore_remove(u->parts.bucket, ctx, bucket_name_slice(&name), NULL); /* the cleaner looks for them too */
    }
    return true;
}
