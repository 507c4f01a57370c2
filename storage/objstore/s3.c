/* The store on an S3 server: single requests, and its life cycle. See s3_int.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "storage/objstore/s3_int.h"

/*
 * Whether an answer 404 to a HEAD, which has no body, means the object or the bucket: a missing bucket must not look like an object that is not there. True: the
 * bucket exists, or may not be asked for. Asked until an answer has shown it once.
 */
static bool bucket_exists(struct s3 *s, const struct ctx *ctx, struct err *err)
{
    if (atomic_load_explicit(&s->bucket_seen, memory_order_relaxed))
        return true;
    struct s3_request r = {.method = "HEAD", .query = "", .fd = -1};
    struct s3_answer a = {0};
    bool ok = s3_send(s, ctx, &r, &a, err) || err->code == ERR_PERMISSION;
    if (!ok && a.status == 404)
        err_set(err, ERR_IO, "there is no bucket \"%s\"", s->cfg.bucket);
    s3_answer_release(&a);
    return ok;
}

bool s3_attributes(struct objstore *o, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret, struct err *err)
{
    struct s3 *s = s3_of(o);
    struct s3_request r = {.method = "HEAD", .name = name, .query = "", .fd = -1};
    struct s3_answer a = {0};
    struct err why = ERR_NONE;
    bool ok = s3_send(s, ctx, &r, &a, &why);
    if (ok && a.length == UINT64_MAX)
        ok = err_set(&why, ERR_IO, "the server does not tell its size");
    if (ok)
        *ret = (struct objstore_attributes){.size = a.length, .modified_ms = a.modified_ms};
    else if (why.code == ERR_NOT_FOUND && !bucket_exists(s, ctx, err)) {
        s3_answer_release(&a);
        return false;
    }
    s3_answer_release(&a);
    return ok || err_set(err, why.code, "%s", why.text);
}

/* What a good answer to a range must be. */
static bool check_range(const struct s3_answer *a, uint64_t offset, uint64_t n, uint64_t got, struct err *err)
{
    if (a->range_first != offset || a->range_total == UINT64_MAX)
        return err_set(err, ERR_IO, "the server did not say which range it gave, or gave another one");
    if (offset + got > a->range_total || (n == OBJSTORE_ALL && offset + got != a->range_total))
        return err_set(err, ERR_UNAVAILABLE, "the server gave %" PRIu64 " bytes of a range, which is not what the object has", got);
    if (n == OBJSTORE_ALL || got == n)
        return true;
    if (a->range_total < offset + n)
        return err_set(err, ERR_OUT_OF_RANGE, "the range is not within its %" PRIu64 " bytes", a->range_total);
    return err_set(err, ERR_UNAVAILABLE, "the server gave %" PRIu64 " of the %" PRIu64 " bytes of a range", got, n);
}

/* An empty range has no form in HTTP: only whether it could be is looked at. */
static bool get_nothing(struct objstore *o, const struct ctx *ctx, struct slice name, uint64_t offset, struct err *err)
{
    struct objstore_attributes a;
    if (!s3_attributes(o, ctx, name, &a, err))
        return false;
    return offset <= a.size || err_set(err, ERR_OUT_OF_RANGE, "the range is not within its %" PRIu64 " bytes", a.size);
}

static bool s3_get(struct objstore *o, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out, struct err *err)
{
    struct s3 *s = s3_of(o);
    struct s3_request r = {.method = "GET", .name = name, .query = "", .fd = -1, .out = out};
    struct s3_answer a = {0};
    char range[64];
    size_t before = out->n, max = out->max ? out->max : BUF_MAX_DEFAULT;
    if (n == 0)
        return get_nothing(o, ctx, name, offset, err);
    if (n != OBJSTORE_ALL && n > max - out->n)
        return err_set(err, ERR_TOO_LARGE, "its %" PRIu64 " bytes are more than there is room for", n);
    if (n != OBJSTORE_ALL)
        snprintf(range, sizeof(range), "%" PRIu64 "-%" PRIu64, offset, offset + n - 1);
    else
        snprintf(range, sizeof(range), "%" PRIu64 "-", offset);
    if (offset || n != OBJSTORE_ALL)
        r.range = range;
    struct err why = ERR_NONE;
    bool ok = s3_send(s, ctx, &r, &a, &why);
    uint64_t got = out->n - before;
    if (ok && r.range)
        ok = check_range(&a, offset, n, got, &why);
    else if (ok && a.length != UINT64_MAX && a.length != got)
        ok = err_set(&why, ERR_UNAVAILABLE, "the server gave %" PRIu64 " of %" PRIu64 " bytes", got, a.length);
    s3_answer_release(&a);
    /* From the very end on there is nothing, which is fine; most servers do not say with the error where the end is. */
    if (!ok && why.code == ERR_OUT_OF_RANGE && n == OBJSTORE_ALL)
        return get_nothing(o, ctx, name, offset, err);
    return ok || err_set(err, why.code, "%s", why.text);
}

static bool s3_remove(struct objstore *o, const struct ctx *ctx, struct slice name, struct err *err)
{
    struct s3_request r = {.method = "DELETE", .name = name, .query = "", .fd = -1};
    struct s3_answer a = {0};
    struct err why = ERR_NONE;
    bool ok = s3_send(s3_of(o), ctx, &r, &a, &why) || why.code == ERR_NOT_FOUND;
    s3_answer_release(&a);
    return ok || err_set(err, why.code, "%s", why.text);
}

/* --- life cycle ------------------------------------------------------------------------------------------------------ */

#define FREE_PATIENCE_MS 1000

static void s3_free(struct objstore *o)
{
    struct s3 *s = s3_of(o);
    struct ctx ctx = {.deadline_ms = clock_mono_ms() + FREE_PATIENCE_MS};
    s3_abort_orphans(s, &ctx);
    s3_orphans_release(s);
    s3_lanes_release(s);
    pthread_cond_destroy(&s->lane_free);
    pthread_mutex_destroy(&s->lock);
    s3_config_release(&s->cfg);
    free(s);
}

static const struct objstore_ops s3_ops = {
    .name = "s3",
    .get = s3_get,
    .attributes = s3_attributes,
    .put = s3_put,
    .put_file = s3_put_file,
    .remove = s3_remove,
    .list = s3_list,
    .free = s3_free,
};

static void init_curl(void)
{
    CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);
    ASSERT(code == CURLE_OK);
}

struct objstore *objstore_s3_new(const struct objstore_config *cfg, const char *flag_prefix, struct err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct s3_config c;
    if (!s3_config_init(&c, cfg, flag_prefix, err)) {
        s3_config_release(&c);
        return NULL;
    }
    pthread_once(&once, init_curl);
    if (strcmp(cfg->s3_signature_version, "v2") == 0)
        return s3_v2_new(&c, flag_prefix, err);
    struct s3 *s = calloc(1, sizeof(*s));
    ASSERT(s);
    s->objstore.ops = &s3_ops;
    s->cfg = c;
    atomic_init(&s->bucket_seen, false);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->lane_free, &attr);
    pthread_condattr_destroy(&attr);
    return &s->objstore;
}
