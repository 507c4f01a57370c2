/*
 * The door: checks names, tries again what may go away, and makes sure of what every store promises. See objstore.h.
 *
 * Reads, attributes, small uploads and removals are repeated here. Listings and uploads of files are not: some of their work is done when an error
 * comes, so stores repeat their single requests with the same objstore_try_again.
 */
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/utf8.h"
#include "storage/objstore/objstore_int.h"

#define NAME_MAX_BYTES 1024 /* of S3 */

/* --- names -------------------------------------------------------------------------------------------------------- */

static bool segment_is_good(struct slice s)
{
    return s.n > 0 && !slice_eq(s, SL(".")) && !slice_eq(s, SL(".."));
}

/* Slashes, dots and control characters of a name or of the beginning of one, whose last segment may be anything. */
static bool shape_is_good(struct slice name, bool is_prefix)
{
    size_t start = 0;
    for (size_t i = 0; i < name.n; i++) {
        unsigned char c = (unsigned char)name.p[i];
        if (c < 0x20 || c == 0x7f)
            return false;
        if (c == '/') {
            if (!segment_is_good(slice_make(name.p + start, i - start)))
                return false;
            start = i + 1;
        }
    }
    return is_prefix || segment_is_good(slice_make(name.p + start, name.n - start));
}

static bool check(struct slice name, bool is_prefix, struct err *err)
{
    if (name.n <= NAME_MAX_BYTES && shape_is_good(name, is_prefix) && utf8_valid(name))
        return true;
    return err_set(err, ERR_BAD_DATA, "object store: \"%.*s\" is not a name that an object can have", (int)MIN(name.n, (size_t)200),
                   name.p ? name.p : "");
}

bool objstore_name_check(struct slice name, struct err *err)
{
    return check(name, false, err);
}

/* --- tries --------------------------------------------------------------------------------------------------------- */

bool objstore_sleep(const struct ctx *ctx, int64_t ms, struct err *err)
{
    int64_t end_ms = clock_mono_ms() + ms;
    for (;;) {
        if (!ctx_check(ctx, err))
            return false;
        int64_t left_ms = MIN(end_ms - clock_mono_ms(), OBJSTORE_LOOK_MS);
        if (left_ms <= 0)
            return true;
        struct timespec t = {.tv_nsec = left_ms * 1000000};
        nanosleep(&t, NULL);
    }
}

static bool may_go_away(enum err_code code)
{
    return code == ERR_UNAVAILABLE || code == ERR_TIMEOUT || code == ERR_TOO_MANY_REQUESTS;
}

/* Between half of it and all of it, so that callers that failed together do not come back together. */
static int64_t jitter(int64_t ms)
{
    uint32_t v = 0;
    ssize_t n = getrandom(&v, sizeof(v), 0);
    ASSERT(n == (ssize_t)sizeof(v));
    return ms / 2 + (int64_t)(v % (uint64_t)(ms / 2 + 1));
}

bool objstore_try_again(struct objstore_tries *t, const struct ctx *ctx, struct err *err)
{
    struct err end = ERR_NONE;
    if (!may_go_away(err->code))
        return false;
    t->failed++;
    t->backoff_ms = t->backoff_ms ? MIN(t->backoff_ms * 2, OBJSTORE_BACKOFF_MAX_MS) : OBJSTORE_BACKOFF_MIN_MS;
    if (!ctx_check(ctx, &end) || (t->failed < OBJSTORE_TRIES && !objstore_sleep(ctx, jitter(t->backoff_ms), &end))) {
        /* A canceled try says so itself. */
        if (err->code != end.code || t->failed > 1) {
            struct err last = *err;
            err_set(err, end.code, "%s, after %d tries: %s", end.text, t->failed, last.text);
        }
        return false;
    }
    if (t->failed < OBJSTORE_TRIES) {
        *err = ERR_NONE;
        return true;
    }
    if (err->code == ERR_TOO_MANY_REQUESTS)
        err->code = ERR_UNAVAILABLE;
    return err_prefix(err, "given up after %d tries: ", t->failed);
}

/* --- the door ------------------------------------------------------------------------------------------------------ */

/* The last word on an operation: which, on what, and why. Returns ok. */
static bool told(bool ok, const struct objstore *s, const char *operation, struct slice name, const struct err *why, struct err *err)
{
    if (!ok && s->ops->is_view)
        err_set(err, why->code, "%s", why->text);
    else if (!ok)
        err_set(err, why->code, "%s: %s %.*s: %s", s->ops->name, operation, SL_FMT(name), why->text);
    return ok;
}

static bool another_try(const struct objstore *s, struct objstore_tries *t, const struct ctx *ctx, struct err *why)
{
    return !s->ops->is_view && objstore_try_again(t, ctx, why);
}

bool objstore_get(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out,
                  struct err *err)
{
    struct objstore_tries t = {0};
    struct err why = ERR_NONE;
    size_t before = out->n;
    if (!check(name, false, err) || !ctx_check(ctx, err))
        return false;
    if (out->failed || (n != OBJSTORE_ALL && n > UINT64_MAX - 1 - offset))
        return err_set(err, out->failed ? ERR_TOO_LARGE : ERR_OUT_OF_RANGE, "object store: getting %.*s: the range or its buffer is no good", SL_FMT(name));
    bool ok;
    do {
        out->n = before; /* of a try that was cut short */
        ok = s->ops->get(s, ctx, name, offset, n, out, &why);
    } while (!ok && another_try(s, &t, ctx, &why));
    if (!ok)
        out->n = before;
    ASSERT(!ok || n == OBJSTORE_ALL || out->n - before == n);
    return told(ok, s, "getting", name, &why, err);
}

uint64_t objstore_request_bytes(const struct objstore *s)
{
    return s->ops->request_bytes ? s->ops->request_bytes : UINT64_MAX;
}

bool objstore_attributes(struct objstore *s, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret, struct err *err)
{
    struct objstore_tries t = {0};
    struct err why = ERR_NONE;
    if (!check(name, false, err) || !ctx_check(ctx, err))
        return false;
    bool ok;
    do {
        ok = s->ops->attributes(s, ctx, name, ret, &why);
    } while (!ok && another_try(s, &t, ctx, &why));
    return told(ok, s, "attributes of", name, &why, err);
}

bool objstore_put(struct objstore *s, const struct ctx *ctx, struct slice name, struct slice bytes, struct err *err)
{
    struct objstore_tries t = {0};
    struct err why = ERR_NONE;
    if (!check(name, false, err) || !ctx_check(ctx, err))
        return false;
    bool ok;
    do {
        ok = s->ops->put(s, ctx, name, bytes, &why);
    } while (!ok && another_try(s, &t, ctx, &why));
    return told(ok, s, "putting", name, &why, err);
}

bool objstore_put_file(struct objstore *s, const struct ctx *ctx, struct slice name, const char *path, struct err *err)
{
    struct err why = ERR_NONE;
    if (!check(name, false, err) || !ctx_check(ctx, err))
        return false;
    return told(s->ops->put_file(s, ctx, name, path, &why), s, "putting", name, &why, err);
}

bool objstore_remove(struct objstore *s, const struct ctx *ctx, struct slice name, struct err *err)
{
    struct objstore_tries t = {0};
    struct err why = ERR_NONE;
    if (!check(name, false, err) || !ctx_check(ctx, err))
        return false;
    bool ok;
    do {
        ok = s->ops->remove(s, ctx, name, &why);
    } while (!ok && another_try(s, &t, ctx, &why));
    return told(ok, s, "removing", name, &why, err);
}

bool objstore_list(struct objstore *s, const struct ctx *ctx, struct slice prefix, bool delimited, objstore_list_fn *fn, void *arg,
                   struct err *err)
{
    struct err why = ERR_NONE;
    if (!check(prefix, true, err) || !ctx_check(ctx, err))
        return false;
    return told(s->ops->list(s, ctx, prefix, delimited, fn, arg, &why), s, "listing", prefix, &why, err);
}

void objstore_free(struct objstore *s)
{
    if (s)
        s->ops->free(s);
}
