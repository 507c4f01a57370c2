/*
 * Block upload: finished blocks that come in by HTTP (mimirtool backfill and the like), Mimir's API (docs/mimir-http.md 4.5).
 *
 *     POST /api/v1/upload/block/{block}/start              body: meta.json      -> uploading-meta.json in the block's folder
 *     POST /api/v1/upload/block/{block}/files?path=index   body: the file       -> the file, its size as that meta.json says
 *     POST /api/v1/upload/block/{block}/finish                                  -> validation.json, a check in the background, meta.json
 *     GET  /api/v1/upload/block/{block}/check              {"result":"uploading" | "validating" | "complete" | "failed"}
 *
 * The state of an upload is what lies in the bucket, so that any compactor may answer any call, and a restart loses nothing:
 *
 *     meta.json                        complete                                  (409 for all but check)
 *     validation.json with an Error    failed                                    (400)
 *     validation.json, LastUpdate < 5 min ago    validating                      (400); rewritten every minute while the check runs
 *     uploading-meta.json              uploading; also when a check died on its way: finish may be called again
 *     nothing                          not started
 *
 * The block becomes visible with meta.json, which is put last; what is left when the process ends between that and the removal of the two helpers is
 * removed by whoever sees the block complete next, or with the block. An upload that is never finished is a partial block of the cleaner's.
 *
 * Bodies of files go to an unnamed file in the data dir and from there to the bucket (net/http.h, HTTP_SPOOL): memory does not depend on their size. The
 * check downloads the whole block into the data dir and reads it (block_verify): disk for it must be there.
 *
 * Threads: UPLOAD_WORKERS for calls, a bounded queue before them (503 when it is full), one thread for each check that runs
 * (-compactor.max-block-upload-validation-concurrency), and one beside it that keeps its validation.json fresh. No lock is held across I/O.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/limits.h"
#include "net/http.h"
#include "storage/compactor/compactor.h"
#include "storage/objstore/objstore.h"

#define UPLOAD_WORKERS 8
#define UPLOAD_QUEUE 64

/* The state of an upload, in the block's folder. */
#define UPLOAD_META_FILE "uploading-meta.json"
#define UPLOAD_VALIDATION_FILE "validation.json"
#define UPLOAD_DIR "upload" /* below the data dir */

/* Everything must outlive the room. */
struct upload_parts {
    const struct compactor_config *cfg;
    const struct limits_provider *limits;
    struct objstore *bucket; /* as component "compactor" */
    const char *default_dir; /* of -compactor.data-dir when that is empty */
    int64_t heartbeat_ms;    /* how often a running check says so; 0: every minute */
};

struct upload;

/* Makes <data dir>/upload, and clears it of what a killed process left. ERR_CONFIG, ERR_IO, ... name the folder or flag. */
struct upload *upload_new(const struct upload_parts *parts, struct err *err);
/*
 * Breaks off running checks, whose uploads may be finished again in five minutes (validation.json grows stale), and ends the threads; a block that is on
 * disk already is read to its end. After the HTTP server has stopped.
 */
void upload_stop(struct upload *u);
void upload_free(struct upload *u); /* NULL is fine */

/* arg: the upload. Besides http_server_add they need http_server_on_spool(server, upload_routes, upload_spool). */
extern const struct http_route upload_routes[];
extern const size_t upload_routes_n;
http_spool_fn upload_spool;
