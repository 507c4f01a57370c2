/* Private to storage/objstore/. */
#pragma once

#include "storage/objstore/objstore.h"

#define METRICS_ROOM objstore
#define METRICS_DEF "storage/objstore/objstore_metrics.def"
#include "base/metrics_table.h"

/* --- tries: what every store does about errors that may go away ------------------------------------------------------ */

/* Nine pauses, 16 s altogether: longer than a server's restart, shorter than what makes a query hopeless. */
#define OBJSTORE_TRIES 10
#define OBJSTORE_BACKOFF_MIN_MS 50
#define OBJSTORE_BACKOFF_MAX_MS 5000
/* How often a call that waits looks whether it is still wanted. */
#define OBJSTORE_LOOK_MS 40

/* The tries of one operation; {0} at its start. Owned by the caller's thread. */
struct objstore_tries {
    int failed;
    int64_t backoff_ms;
};

/*
 * After a try that failed with *err, which must not be NULL: true, after a pause, and *err is cleared, when there shall be another one. False: *err stays, with
 * the number of tries in front; or it says that ctx ended, and why the last try failed.
 */
bool objstore_try_again(struct objstore_tries *t, const struct ctx *ctx, struct err *err);
/* Sleeps, but no longer than ctx lives. */
bool objstore_sleep(const struct ctx *ctx, int64_t ms, struct err *err);

/* --- stores ------------------------------------------------------------------------------------------------------- */

/* ERR_BAD_DATA when no store may have an object of that name. */
bool objstore_name_check(struct slice name, struct err *err);

/* flag_prefix is of the errors: "blocks-storage.". All of cfg is copied. NULL: ERR_CONFIG. */
struct objstore *objstore_filesystem_new(const char *dir, struct err *err);
struct objstore *objstore_s3_new(const struct objstore_config *cfg, const char *flag_prefix, struct err *err);
