/* The calls, and the room's life. A handler only looks at what is in the request and leaves the rest to a worker: everything else asks the bucket. */
#include "storage/compactor/upload/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/logger.h"
#include "storage/compactor/upload/upload_int.h"

#define METRICS_ROOM upload
#define METRICS_DEF "storage/compactor/upload/upload_metrics.def"
#define METRICS_DEFINE_ONLY
#include "base/metrics_table.h"

/* --- answers --------------------------------------------------------------------------------------------------------------- */

bool upload_refuse(struct upload_call *call, int status, const char *text)
{
    call->status = status;
    snprintf(call->text, sizeof(call->text), "%s", text);
    return false;
}

bool upload_fail(struct upload_call *call, const char *what, const struct err *err)
{
    unsigned long long id = (unsigned long long)clock_wall_ns();
    call->status = 500;
    snprintf(call->text, sizeof(call->text), "internal server error (id %016llx)", id);
    LOG_WARN("block upload", {"reason", LOG_STR(what)}, {"user", LOG_SLICE(call->tenant)}, {"block", LOG_STR(call->block.text)},
             {"answer", LOG_STR(call->text)}, {"err", LOG_ERR(err)});
    return false;
}

static void answer(struct upload_call *call)
{
    if (call->status != 200)
        http_respond_text_error(call->req, call->status, call->text);
    else if (call->json.n)
        http_respond(call->req, 200, "application/json", &call->json);
    else
        http_respond_status(call->req, 200);
}

/* --- seats ----------------------------------------------------------------------------------------------------------------- */

struct upload_seat *upload_seat_take(struct upload *u, enum upload_seat_kind kind, struct slice tenant, const struct ulid *block)
{
    struct upload_seat *seat = calloc(1, sizeof(*seat));
    ASSERT(seat && tenant.n < sizeof(seat->tenant));
    seat->kind = kind;
    seat->block = *block;
    memcpy(seat->tenant, tenant.p, tenant.n);
    bool free_seat = true;
    pthread_mutex_lock(&u->lock);
    for (const struct upload_seat *other = u->seats; other; other = other->next)
        if (strcmp(other->block.text, block->text) == 0 && strcmp(other->tenant, seat->tenant) == 0)
            free_seat &= kind == UPLOAD_SEAT_FILE && other->kind == UPLOAD_SEAT_FILE;
    if (free_seat) {
        seat->next = u->seats;
        u->seats = seat;
    }
    pthread_mutex_unlock(&u->lock);
    if (free_seat)
        return seat;
    free(seat);
    return NULL;
}

void upload_seat_leave(struct upload *u, struct upload_seat *seat)
{
    pthread_mutex_lock(&u->lock);
    struct upload_seat **at = &u->seats;
    while (*at != seat)
        at = &(*at)->next;
    *at = seat->next;
    pthread_mutex_unlock(&u->lock);
    free(seat);
}

/* --- what the request itself says -------------------------------------------------------------------------------------------- */

/* Any thread. */
static bool parse_call(struct upload *u, struct http_request *req, struct upload_call *ret)
{
    *ret = (struct upload_call){.u = u, .req = req, .ctx = http_ctx(req), .tenant = http_ctx(req)->tenant, .status = 200};
    if (!ulid_parse(http_path_var(req, "block"), &ret->block))
        return upload_refuse(ret, 400, "invalid block ID");
    return limits_of(u->parts.limits, ret->tenant)->compactor_block_upload_enabled || upload_refuse(ret, 400, "block upload is disabled");
}

static bool check_path(struct upload_call *call, struct slice path)
{
    const char *slash = path.n ? memrchr(path.p, '/', path.n) : NULL;
    struct slice base = slash ? slice_make(slash + 1, (size_t)(path.p + path.n - slash - 1)) : path;
    char text[256];
    if (path.n == 0)
        return upload_refuse(call, 400, "missing or invalid file path");
    if (slice_eq(base, SL(BUCKET_META)))
        return upload_refuse(call, 400, BUCKET_META " is not allowed");
    snprintf(text, sizeof(text), "invalid path: \"%.*s\"", (int)MIN(path.n, (size_t)200), path.p);
    return upload_path_valid(path) || upload_refuse(call, 400, text);
}

static bool check_admission(struct upload *u, struct http_request *req, struct upload_call *ret)
{
    uint64_t declared;
    if (!parse_call(u, req, ret) || !check_path(ret, http_param(req, "path")))
        return false;
    return !http_content_length(req, &declared) || declared > 0 || upload_refuse(ret, 400, "file cannot be empty");
}

bool upload_spool(struct http_request *req, void *arg, struct http_spool_place *ret)
{
    struct upload *u = arg;
    struct upload_call call;
    if (!check_admission(u, req, &call)) {
        answer(&call);
        return false;
    }
    int64_t max_bytes = limits_of(u->parts.limits, call.tenant)->compactor_block_upload_max_block_size_bytes;
    *ret = (struct http_spool_place){u->dir, max_bytes > 0 ? MIN((uint64_t)max_bytes, UPLOAD_FILE_MAX_BYTES) : UPLOAD_FILE_MAX_BYTES};
    return true;
}

/* --- the four calls ---------------------------------------------------------------------------------------------------------- */

static bool start(struct upload_call *call)
{
    struct upload_status status;
    struct block_meta meta;
    struct err err = ERR_NONE;
    int refused;
    if (!upload_admit(call, false, &status))
        return false;
    if (http_body(call->req).n > UPLOAD_META_MAX_BYTES)
        return upload_refuse(call, 413, "The block metadata was too large (maximum size allowed is 1048576 bytes)");
    if (!upload_meta_clean(call->u, call->tenant, &call->block, http_body(call->req), call->arena, &meta, &refused, &err))
        return upload_refuse(call, refused, err.text);
    struct buf out = {.max = UPLOAD_META_MAX_BYTES * 2};
    upload_meta_encode(&meta, &out);
    bool good = out.failed ? err_set(&err, ERR_NO_MEMORY, "no memory for a meta.json")
                           : upload_put(call->u, call->ctx, call->tenant, &call->block, UPLOAD_META_FILE, buf_slice(&out), &err);
    buf_release(&out);
    if (!good)
        return upload_fail(call, "the upload's meta.json could not be put", &err);
    LOG_INFO("a block upload has begun", {"user", LOG_SLICE(call->tenant)}, {"block", LOG_STR(call->block.text)}, {"files", LOG_U64(meta.n_files)});
    return true;
}

static bool check_size(struct upload_call *call, struct slice meta_json, struct slice path, uint64_t bytes)
{
    struct block_meta meta;
    struct err err = ERR_NONE;
    if (!block_meta_decode(meta_json, call->arena, &meta, &err))
        return upload_fail(call, "the upload's meta.json cannot be read", &err);
    for (size_t i = 0; i < meta.n_files; i++)
        if (slice_eq(meta.files[i].path, path))
            return meta.files[i].size == bytes || upload_refuse(call, 400, "file size doesn't match meta.json");
    return upload_refuse(call, 400, "unexpected file");
}

static bool put_file(struct upload_call *call, int fd, uint64_t bytes)
{
    struct slice path = http_param(call->req, "path");
    struct upload_status status;
    struct err err = ERR_NONE;
    char spooled[64], file_name[32];
    if (!upload_admit(call, true, &status) || !check_size(call, status.meta, path, bytes))
        return false;
    snprintf(file_name, sizeof(file_name), "%.*s", SL_FMT(path)); /* "chunks/NNNNNN" at most */
    struct bucket_name name = bucket_block_file(call->tenant, &call->block, file_name);
    snprintf(spooled, sizeof(spooled), "/proc/self/fd/%d", fd);
    return objstore_put_file(call->u->parts.bucket, call->ctx, bucket_name_slice(&name), spooled, &err) ||
           upload_fail(call, "a file could not be put", &err);
}

/* A seat could not be had: why, as far as the bucket knows. */
static bool refuse_seat(struct upload_call *call, const char *text)
{
    struct upload_status status;
    return upload_admit(call, true, &status) && upload_refuse(call, 400, text);
}

static bool file(struct upload_call *call)
{
    uint64_t bytes;
    int fd = http_body_file(call->req, &bytes);
    if (bytes == 0)
        return upload_refuse(call, 400, "file cannot be empty");
    struct upload_seat *seat = upload_seat_take(call->u, UPLOAD_SEAT_FILE, call->tenant, &call->block);
    if (!seat)
        return refuse_seat(call, "block validation in progress");
    bool good = put_file(call, fd, bytes);
    upload_seat_leave(call->u, seat);
    return good;
}

/* Without a check: what the client says is believed. */
static bool complete_unchecked(struct upload_call *call, struct slice meta_json)
{
    struct block_meta meta;
    struct err err = ERR_NONE;
    return (block_meta_decode(meta_json, call->arena, &meta, &err) && upload_complete(call->u, call->ctx, call->tenant, &meta, &err)) ||
           upload_fail(call, "a block could not be completed", &err);
}

static bool finish(struct upload_call *call)
{
    struct upload *u = call->u;
    struct upload_status status;
    struct upload_seat *seat = upload_seat_take(u, UPLOAD_SEAT_CHECK, call->tenant, &call->block);
    if (!seat)
        return refuse_seat(call, "block validation in progress, or files of the block are still being uploaded");
    bool good = upload_admit(call, true, &status);
    bool checked = limits_of(u->parts.limits, call->tenant)->compactor_block_upload_validation_enabled;
    if (good && checked && upload_start_check(call, status.meta, seat))
        return true;
    if (good)
        good = !checked && complete_unchecked(call, status.meta);
    upload_seat_leave(u, seat);
    return good;
}

static bool check(struct upload_call *call)
{
    static const char *const names[] = {
        [UPLOAD_UPLOADING] = "uploading", [UPLOAD_VALIDATING] = "validating", [UPLOAD_FAILED] = "failed", [UPLOAD_COMPLETE] = "complete"};
    struct upload_status status;
    struct err err = ERR_NONE;
    if (!upload_read_status(call->u, call->ctx, call->tenant, &call->block, call->arena, &status, &err))
        return upload_fail(call, "the state of an upload could not be read", &err);
    if (status.state == UPLOAD_NOT_STARTED)
        return upload_refuse(call, 404, "block doesn't exist");
    struct json j;
    json_init(&j, &call->json);
    json_obj(&j);
    json_key(&j, SL("result"));
    json_str(&j, slice_of(names[status.state]));
    if (status.state == UPLOAD_FAILED) {
        json_key(&j, SL("error"));
        json_str(&j, status.error);
    }
    json_obj_end(&j);
    return true;
}

/* --- routes ------------------------------------------------------------------------------------------------------------------ */

struct job {
    struct upload_call call;
    bool (*fn)(struct upload_call *call);
};

static void run_job(void *arg, struct arena *arena)
{
    struct job *job = arg;
    job->call.arena = arena;
    bool good = job->fn(&job->call);
    ASSERT(good == (job->call.status == 200));
    answer(&job->call);
    free(job);
}

static void later(struct upload *u, struct http_request *req, bool (*fn)(struct upload_call *call))
{
    struct job *job = malloc(sizeof(*job));
    ASSERT(job);
    job->fn = fn;
    if (!parse_call(u, req, &job->call)) {
        answer(&job->call);
    } else if (pool_submit(u->workers, run_job, job)) {
        return;
    } else {
        http_set_header(req, "Retry-After", "1");
        http_respond_text_error(req, 503, "too many block uploads are waiting, try again later");
    }
    free(job);
}

static void handle_start(struct http_request *req, void *arg)
{
    later(arg, req, start);
}

static void handle_file(struct http_request *req, void *arg)
{
    later(arg, req, file);
}

static void handle_finish(struct http_request *req, void *arg)
{
    later(arg, req, finish);
}

static void handle_check(struct http_request *req, void *arg)
{
    later(arg, req, check);
}

const struct http_route upload_routes[] = {
#define ROUTE(methods, path, pool, flags, handler, help) {methods, path, HTTP_POOL_##pool, flags, handler, help},
#include "storage/compactor/upload/upload_routes.def"
#undef ROUTE
};
const size_t upload_routes_n = ARRAY_LEN(upload_routes);

/* --- life -------------------------------------------------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path) == 0 || errno == ENOENT ? 0 : -1;
}

/* Each folder of the path. */
static bool make_folders(const char *dir, struct err *err)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s", dir);
    for (char *p = path + 1;; p++) {
        if (*p && *p != '/')
            continue;
        char kept = *p;
        *p = 0;
        if (mkdir(path, 0755) != 0 && errno != EEXIST)
            return err_errno(err, ERR_IO, errno, "making %s", path);
        *p = kept;
        if (!kept)
            return true;
    }
}

static bool prepare_dir(struct upload *u, struct err *err)
{
    const char *base = u->parts.cfg->data_dir[0] ? u->parts.cfg->data_dir : u->parts.default_dir;
    if (snprintf(u->dir, sizeof(u->dir), "%s/" UPLOAD_DIR, base) >= (int)sizeof(u->dir))
        return err_set(err, ERR_CONFIG, "-compactor.data-dir is too long");
    if (nftw(u->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT)
        return err_errno(err, ERR_IO, errno, "clearing %s", u->dir);
    return make_folders(u->dir, err);
}

struct upload *upload_new(const struct upload_parts *parts, struct err *err)
{
    struct upload *u = calloc(1, sizeof(*u));
    ASSERT(u && parts->cfg && parts->limits && parts->bucket);
    upload_metrics_register();
    u->parts = *parts;
    u->ctx.canceled = &u->canceled;
    if (!prepare_dir(u, err)) {
        free(u);
        return NULL;
    }
    int64_t n_checks = parts->cfg->max_block_upload_validation_concurrency;
    size_t threads = n_checks > 0 ? (size_t)MIN(n_checks, (int64_t)UPLOAD_CHECKS_MAX) : UPLOAD_CHECKS_MAX;
    pthread_mutex_init(&u->lock, NULL);
    u->workers = pool_new("block-upload", UPLOAD_WORKERS, UPLOAD_QUEUE, 0);
    u->checks = pool_new("block-check", threads, threads, 0);
    return u;
}

void upload_stop(struct upload *u)
{
    atomic_store(&u->canceled, true);
    pool_stop(u->workers);
    pool_stop(u->checks);
    u->workers = u->checks = NULL;
}

void upload_free(struct upload *u)
{
    if (!u)
        return;
    upload_stop(u);
    ASSERT(!u->seats);
    pthread_mutex_destroy(&u->lock);
    free(u);
}
