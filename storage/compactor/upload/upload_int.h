/* Private to storage/compactor/upload/. */
#pragma once

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/arena.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/pool.h"
#include "storage/bucket/bucket.h"
#include "storage/compactor/upload/upload.h"

#define METRICS_ROOM upload
#define METRICS_DEF "storage/compactor/upload/upload_metrics.def"
#include "base/metrics_table.h"

/* Without a limit of the flags there is this one: each check takes a thread and the disk of a block. */
#define UPLOAD_CHECKS_MAX 16
#define UPLOAD_META_MAX_BYTES ((size_t)1 << 20) /* Mimir's */
#define UPLOAD_FILE_MAX_BYTES ((uint64_t)64 << 30) /* an index cannot be larger */
#define UPLOAD_STALE_MS ((int64_t)5 * 60 * 1000)
#define UPLOAD_HEARTBEAT_MS ((int64_t)60 * 1000)

struct upload {
    struct upload_parts parts; /* immutable */
    char dir[PATH_MAX];        /* immutable; <data dir>/upload */
    struct ctx ctx;            /* of the checks; immutable */
    atomic_bool canceled;
    atomic_size_t n_checks; /* running, or about to */
    struct pool *workers, *checks; /* the owner's */

    pthread_mutex_t lock;
    struct upload_seat *seats; /* what this process is doing with blocks; guarded by lock */
};

/* --- what a call is about ------------------------------------------------------------------------------------------------- */

/*
 * One call, on a worker. What it answers is kept until nothing is held any more: a client that calls finish as soon as its last file is answered must not
 * find that file's seat taken.
 */
struct upload_call {
    struct upload *u;
    struct http_request *req;
    struct arena *arena;
    const struct ctx *ctx;
    struct slice tenant;
    struct ulid block;

    int status;
    char text[ERR_TEXT_MAX]; /* of an error */
    struct buf json;         /* of what is none; may be empty */
};

/* Sets the answer; returns false. */
bool upload_refuse(struct upload_call *call, int status, const char *text);
/* 500 with an id that the log has too. */
bool upload_fail(struct upload_call *call, const char *what, const struct err *err);

/*
 * Files being put and blocks being checked, in this process: a block whose files still move is not checked, and nothing is put into one that is. (Of
 * other processes the state in the bucket tells.)
 */
enum upload_seat_kind { UPLOAD_SEAT_FILE, UPLOAD_SEAT_CHECK };
struct upload_seat {
    struct upload_seat *next;
    enum upload_seat_kind kind;
    struct ulid block;
    char tenant[160];
};
/* NULL: another kind, or another check, has the block. */
struct upload_seat *upload_seat_take(struct upload *u, enum upload_seat_kind kind, struct slice tenant, const struct ulid *block);
void upload_seat_leave(struct upload *u, struct upload_seat *seat);

/* --- state.c: what lies in the bucket --------------------------------------------------------------------------------------- */

enum upload_state { UPLOAD_NOT_STARTED, UPLOAD_UPLOADING, UPLOAD_VALIDATING, UPLOAD_FAILED, UPLOAD_COMPLETE };

struct upload_status {
    enum upload_state state;
    struct slice meta;  /* uploading-meta.json, where there is one */
    struct slice error; /* UPLOAD_FAILED */
};
/* Strings lie in the arena. */
bool upload_read_status(struct upload *u, const struct ctx *ctx, struct slice tenant, const struct ulid *block, struct arena *arena,
                        struct upload_status *ret, struct err *err);
/* Whether the call may go on, which needs an upload that is under way, or for start: one that has not gone further. False: refused. */
bool upload_admit(struct upload_call *call, bool started, struct upload_status *ret);
bool upload_write_validation(struct upload *u, const struct ctx *ctx, struct slice tenant, const struct ulid *block, const char *error, struct err *err);
bool upload_put(struct upload *u, const struct ctx *ctx, struct slice tenant, const struct ulid *block, const char *file, struct slice bytes, struct err *err);
/* meta.json is put, what told of the upload goes. */
bool upload_complete(struct upload *u, const struct ctx *ctx, struct slice tenant, const struct block_meta *meta, struct err *err);

/* --- meta.c ---------------------------------------------------------------------------------------------------------------- */

/*
 * The meta.json of a client as the bucket gets it: ULID, sources and source ours, parents gone, labels and files checked. *ret_status is the HTTP status
 * where it fails; err has the text.
 */
bool upload_meta_clean(struct upload *u, struct slice tenant, const struct ulid *block, struct slice json, struct arena *arena, struct block_meta *ret,
                       int *ret_status, struct err *err);
/* Mimir's form here: one line. */
void upload_meta_encode(const struct block_meta *meta, struct buf *out);
bool upload_path_valid(struct slice path); /* "index", "chunks/NNNNNN" */
/* False: more than the tenant may upload at once; err has the text. */
bool upload_size_allowed(struct upload *u, struct slice tenant, const struct block_meta *meta, struct err *err);

/* --- check.c --------------------------------------------------------------------------------------------------------------- */

/* Begins the check in the background; takes over the seat. False: refused (429 when too many run), and the seat is the caller's. */
bool upload_start_check(struct upload_call *call, struct slice meta, struct upload_seat *seat);
