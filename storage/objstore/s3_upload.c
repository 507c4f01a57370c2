/*
 * Uploads to an S3 server: whole, or in parts.
 *
 *     POST ?uploads=                      an upload id
 *     PUT  ?partNumber=N&uploadId=ID      the ETag of each part
 *     POST ?uploadId=ID                   the list of them: only now the object is there
 *     DELETE ?uploadId=ID                 instead of that, when something failed
 *
 * Each request is tried again by itself. What arrived is signed by its SHA-256, which the server checks; the size of a file is asked for at the end. A
 * canceled upload has little time to be aborted: what could not be stays with the store, which tries again before the next file and at its end. A process that
 * is killed leaves its parts behind: a rule of the bucket (AbortIncompleteMultipartUpload) removes those.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "storage/objstore/s3_int.h"

#define ABORT_MS 5000
#define ABORT_CANCELED_MS 40

/* A server that answers with an MD5 must have the one that was sent. Encrypted objects have other ETags. */
static bool check_etag(const struct s3 *s, const struct s3_request *r, const struct s3_answer *a, struct err *err)
{
    if (!r->md5[0] || s->cfg.sse || strlen(a->etag) != 32 || strcasecmp(a->etag, r->md5_hex) == 0)
        return true;
    return err_set(err, ERR_UNAVAILABLE, "the server's ETag %s is not the MD5 %s of what was sent", a->etag, r->md5_hex);
}

bool s3_put(struct objstore *o, const struct ctx *ctx, struct slice name, struct slice bytes, struct err *err)
{
    struct s3 *s = s3_of(o);
    struct s3_request r = {.method = "PUT", .name = name, .query = "", .makes_object = true, .body = bytes, .fd = -1};
    struct s3_answer a = {0};
    bool ok = s3_send(s, ctx, &r, &a, err) && check_etag(s, &r, &a, err);
    s3_answer_release(&a);
    return ok;
}

/* --- parts --------------------------------------------------------------------------------------------------------- */

struct upload {
    struct s3 *s;
    const struct ctx *ctx;
    struct slice name;
    int fd;
    uint64_t size;
    uint64_t part_size;
    struct buf id;
    struct buf parts; /* the body of the last request */
    size_t n_parts;
    struct buf digests; /* of the parts, the MD5s that their ETags are; fewer than n_parts of them: some are none */
};

static bool begin(struct upload *u, struct err *err)
{
    struct s3_request r = {.method = "POST", .name = u->name, .query = "uploads=", .content_type = "application/octet-stream", .makes_object = true, .fd = -1};
    struct s3_answer a = {0};
    bool ok = s3_send_again(u->s, u->ctx, &r, &a, err) && s3_upload_id_parse(buf_slice(&a.body), &u->id, err);
    s3_answer_release(&a);
    return ok;
}

/* Text of XML. */
static void put_text(struct buf *out, const char *s)
{
    for (; *s; s++) {
        if (strchr("<>&\"'", *s))
            buf_printf(out, "&#%d;", *s);
        else
            buf_putc(out, *s);
    }
}

/* Nothing, when it is no MD5. */
static void put_digest(struct buf *out, const char *etag)
{
    unsigned char md5[16];
    if (strlen(etag) != 32 || strspn(etag, "0123456789abcdefABCDEF") != 32)
        return;
    for (size_t i = 0; i < 16; i++)
        sscanf(etag + 2 * i, "%2hhx", &md5[i]);
    buf_put(out, md5, sizeof(md5));
}

static bool put_part(struct upload *u, uint64_t offset, struct err *err)
{
    struct buf query;
    struct s3_answer a = {0};
    buf_init(&query, 0);
    buf_printf(&query, "partNumber=%zu&uploadId=", u->n_parts + 1);
    s3_escape(&query, buf_slice(&u->id), false);
    struct s3_request r = {.method = "PUT", .name = u->name, .query = buf_cstr(&query), .fd = u->fd, .file_offset = offset,
                           .file_n = MIN(u->part_size, u->size - offset)};
    bool ok = s3_send_again(u->s, u->ctx, &r, &a, err);
    if (!ok && err->code == ERR_NOT_FOUND)
        err_set(err, ERR_IO, "the server has forgotten the upload");
    if (ok && !a.etag[0])
        ok = err_set(err, ERR_IO, "the server gave no ETag for a part");
    if (ok) {
        buf_printf(&u->parts, "<Part><PartNumber>%zu</PartNumber><ETag>&quot;", ++u->n_parts);
        put_text(&u->parts, a.etag);
        buf_puts(&u->parts, "&quot;</ETag></Part>");
        put_digest(&u->digests, a.etag);
    }
    s3_answer_release(&a);
    buf_release(&query);
    return ok;
}

/* The MD5 of the parts' MD5s and their number, as servers make it; only the number when the parts' ETags were no MD5s. */
static void etag_of_parts(const struct upload *u, char ret[64])
{
    unsigned char md5[EVP_MAX_MD_SIZE];
    size_t n = 0;
    if (!u->s->cfg.sse && u->digests.n == u->n_parts * 16) {
        EVP_Digest(u->digests.p, u->digests.n, md5, NULL, EVP_md5(), NULL);
        for (size_t i = 0; i < 16; i++)
            n += (size_t)snprintf(ret + n, 64 - n, "%02x", md5[i]);
    }
    snprintf(ret + n, 64 - n, "-%zu", u->n_parts);
}

/*
 * An earlier try at completing may have been done although its answer was lost (libcurl, too, sends a request again by itself when a kept connection
 * breaks): then the object is there, made of these parts.
 */
static bool was_completed(struct upload *u)
{
    struct s3_request r = {.method = "HEAD", .name = u->name, .query = "", .fd = -1};
    struct s3_answer a = {0};
    char want[64];
    etag_of_parts(u, want);
    bool ok = s3_send_again(u->s, u->ctx, &r, &a, NULL) && a.length == u->size && slice_has_suffix(slice_of(a.etag), slice_of(want));
    s3_answer_release(&a);
    return ok;
}

/* One try. An error may come with status 200, since the server answers before it is done. */
static bool complete(struct upload *u, const char *query, struct err *err)
{
    struct s3_request r = {.method = "POST", .name = u->name, .query = query, .content_type = "application/xml", .body = buf_slice(&u->parts), .fd = -1};
    struct s3_answer a = {0};
    struct s3_error why = {0};
    bool ok = s3_send(u->s, u->ctx, &r, &a, err);
    if (ok && !s3_complete_parse(buf_slice(&a.body), &why, err)) {
        /* Unreadable, or an error with 200: all of those that S3 documents are of the moment. */
        ok = err_set(err, ERR_UNAVAILABLE, "completing the upload: %s %s", why.code[0] ? why.code : "the answer cannot be read", why.message);
    } else if (!ok && a.status == 404) {
        ok = was_completed(u);
        if (!ok)
            err_set(err, ERR_IO, "the server has forgotten the upload");
    }
    s3_answer_release(&a);
    return ok;
}

static void put_upload_query(struct slice id, struct buf *out)
{
    buf_puts(out, "uploadId=");
    s3_escape(out, id, false);
}

static bool complete_again(struct upload *u, struct err *err)
{
    struct objstore_tries t = {0};
    struct err why = ERR_NONE;
    struct buf query;
    bool ok;
    buf_init(&query, 0);
    put_upload_query(buf_slice(&u->id), &query);
    do {
        ok = complete(u, buf_cstr(&query), &why);
    } while (!ok && objstore_try_again(&t, u->ctx, &why));
    buf_release(&query);
    return ok || err_set(err, why.code, "%s", why.text);
}

/* --- aborting --------------------------------------------------------------------------------------------------------- */

/* True when the server has no such upload any more. */
static bool abort_upload(struct s3 *s, const struct ctx *ctx, struct slice name, struct slice id)
{
    struct buf query;
    struct s3_answer a = {0};
    buf_init(&query, 0);
    put_upload_query(id, &query);
    struct s3_request r = {.method = "DELETE", .name = name, .query = buf_cstr(&query), .fd = -1};
    bool ok = s3_send_again(s, ctx, &r, &a, NULL) || a.status == 404;
    s3_answer_release(&a);
    buf_release(&query);
    return ok;
}

/* More than S3_ORPHANS_MAX are left to the bucket's rule. */
static void remember_orphan(struct s3 *s, struct slice name, struct slice id)
{
    pthread_mutex_lock(&s->lock);
    if (s->n_orphans < S3_ORPHANS_MAX)
        s->orphans[s->n_orphans++] = (struct s3_orphan){slice_strdup(name), slice_strdup(id)};
    pthread_mutex_unlock(&s->lock);
}

static bool take_orphan(struct s3 *s, struct s3_orphan *ret)
{
    pthread_mutex_lock(&s->lock);
    bool any = s->n_orphans > 0;
    if (any)
        *ret = s->orphans[--s->n_orphans];
    pthread_mutex_unlock(&s->lock);
    return any;
}

void s3_abort_orphans(struct s3 *s, const struct ctx *ctx)
{
    struct s3_orphan o;
    bool ok = true;
    while (ok && take_orphan(s, &o)) {
        ok = abort_upload(s, ctx, slice_of(o.name), slice_of(o.upload_id));
        if (!ok)
            remember_orphan(s, slice_of(o.name), slice_of(o.upload_id));
        free(o.name);
        free(o.upload_id);
    }
}

void s3_orphans_release(struct s3 *s)
{
    struct s3_orphan o;
    while (take_orphan(s, &o)) {
        free(o.name);
        free(o.upload_id);
    }
}

/* The caller's ctx may have ended; the server shall not keep the parts for that. */
static void give_up(struct upload *u)
{
    bool alive = ctx_check(u->ctx, NULL);
    struct ctx ctx = {.deadline_ms = clock_mono_ms() + (alive ? ABORT_MS : ABORT_CANCELED_MS), .canceled = alive ? u->ctx->canceled : NULL};
    if (alive && u->ctx->deadline_ms)
        ctx.deadline_ms = MIN(ctx.deadline_ms, u->ctx->deadline_ms);
    if (u->id.n && !abort_upload(u->s, &ctx, u->name, buf_slice(&u->id)))
        remember_orphan(u->s, u->name, buf_slice(&u->id));
}

/* --- files ------------------------------------------------------------------------------------------------------------ */

static bool put_parts(struct upload *u, struct err *err)
{
    while (u->size / u->part_size >= S3_PARTS_MAX)
        u->part_size *= 2;
    buf_puts(&u->parts, "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    bool ok = begin(u, err);
    for (uint64_t offset = 0; ok && offset < u->size; offset += u->part_size)
        ok = put_part(u, offset, err);
    buf_puts(&u->parts, "</CompleteMultipartUpload>");
    ok = ok && complete_again(u, err);
    if (!ok)
        give_up(u);
    return ok;
}

static bool put_whole(struct upload *u, struct err *err)
{
    struct objstore_tries t = {0};
    struct err why = ERR_NONE;
    struct s3_request r = {.method = "PUT", .name = u->name, .query = "", .makes_object = true, .fd = u->fd, .file_n = u->size};
    struct s3_answer a = {0};
    bool ok;
    do {
        ok = s3_send(u->s, u->ctx, &r, &a, &why) && check_etag(u->s, &r, &a, &why);
    } while (!ok && objstore_try_again(&t, u->ctx, &why));
    s3_answer_release(&a);
    return ok || err_set(err, why.code, "%s", why.text);
}

/* The size that arrived. */
static bool check_size(struct upload *u, struct err *err)
{
    struct objstore_tries t = {0};
    struct objstore_attributes a = {0};
    struct err why = ERR_NONE;
    bool ok;
    do {
        ok = s3_attributes(&u->s->objstore, u->ctx, u->name, &a, &why);
    } while (!ok && objstore_try_again(&t, u->ctx, &why));
    if (ok && a.size != u->size)
        ok = err_set(&why, ERR_IO, "%" PRIu64 " bytes arrived of the %" PRIu64 " of the file", a.size, u->size);
    return ok || err_set(err, why.code == ERR_NOT_FOUND ? ERR_IO : why.code, "after the upload: %s", why.text);
}

bool s3_put_file(struct objstore *o, const struct ctx *ctx, struct slice name, const char *path, struct err *err)
{
    struct s3 *s = s3_of(o);
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        err_errno(err, ERR_IO, errno, "opening %s", path);
        if (fd >= 0)
            close(fd);
        return false;
    }
    s3_abort_orphans(s, ctx);
    struct upload u = {.s = s, .ctx = ctx, .name = name, .fd = fd, .size = (uint64_t)st.st_size, .part_size = s->cfg.part_size};
    bool ok = (u.size <= u.part_size ? put_whole(&u, err) : put_parts(&u, err)) && check_size(&u, err);
    buf_release(&u.id);
    buf_release(&u.parts);
    buf_release(&u.digests);
    close(fd);
    return ok;
}
