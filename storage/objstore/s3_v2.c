/*
 * The store on an S3 server with signature version 2, by libs3, for servers that know no other.
 *
 * libs3 2.0 is an option of the build (BRUNN_LIBS3), since it is GPL-3; without it -s3.signature-version=v2 is an error at start. It has no session tokens, no
 * headers of our own, no uploads in parts that are signed this way and no say about certificates, so what needs those is an error at start, too: with HTTPS
 * the server's certificate would not be checked. A file is one request of at most 5 GiB.
 *
 * A call runs on its caller's thread in a request context of its own, which is driven here so that it can be given up at any time. libs3 keeps connections of
 * its own accord. Everything is immutable but bucket_seen.
 */
#include "storage/objstore/s3_int.h"

#ifdef BRUNN_LIBS3

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libs3.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"

#define KEY_CAP 1025

struct v2 {
    struct objstore objstore;
    struct s3_config cfg;
    S3BucketContext bucket; /* points into cfg */
    atomic_bool bucket_seen; /* relaxed; any thread */
};

/* One request; owned by the caller's thread. */
struct call {
    const struct v2 *v;
    const struct ctx *ctx;
    S3RequestContext *requests;
    S3Status status;
    char text[256];
    int64_t moved_ms;  /* when bytes came or went last */
    uint64_t length;   /* of the answer's body */
    int64_t modified_ms;
    struct buf *out;
    bool out_full;
    struct slice body; /* what is still to be sent of it */
    int fd;            /* -1 = none */
    uint64_t offset;   /* of the file: what was sent */
    struct s3_page *page;
};

/* libs3 dates and signs its requests with gmtime, whose answer all threads share; this one is taken before libc's. */
struct tm *gmtime(const time_t *t)
{
    static _Thread_local struct tm tm;
    return gmtime_r(t, &tm);
}

static struct v2 *v2_of(struct objstore *s)
{
    return CONTAINER_OF(s, struct v2, objstore);
}

/* --- what libs3 tells ------------------------------------------------------------------------------------------------- */

static S3Status on_properties(const S3ResponseProperties *p, void *arg)
{
    struct call *c = arg;
    c->length = p->contentLength;
    c->modified_ms = p->lastModified > 0 ? p->lastModified * 1000 : 0;
    c->moved_ms = clock_mono_ms();
    return S3StatusOK;
}

static void on_complete(S3Status status, const S3ErrorDetails *details, void *arg)
{
    struct call *c = arg;
    c->status = status;
    snprintf(c->text, sizeof(c->text), "%s%s%s", S3_get_status_name(status), details && details->message ? ": " : "",
             details && details->message ? details->message : "");
}

static S3Status on_data(int n, const char *p, void *arg)
{
    struct call *c = arg;
    size_t max = c->out->max ? c->out->max : BUF_MAX_DEFAULT;
    c->moved_ms = clock_mono_ms();
    c->out_full = (size_t)n > max - c->out->n || !buf_reserve(c->out, (size_t)n);
    if (c->out_full)
        return S3StatusAbortedByCallback;
    buf_put(c->out, p, (size_t)n);
    return S3StatusOK;
}

static int on_room(int room, char *p, void *arg)
{
    struct call *c = arg;
    c->moved_ms = clock_mono_ms();
    if (c->fd >= 0) {
        ssize_t n = pread(c->fd, p, (size_t)room, (off_t)c->offset);
        c->offset += n > 0 ? (uint64_t)n : 0;
        return n < 0 ? -1 : (int)n;
    }
    size_t n = MIN((size_t)room, c->body.n);
    if (n)
        memcpy(p, c->body.p, n);
    c->body = slice_make(c->body.p + n, c->body.n - n);
    return (int)n;
}

static bool add_name(struct s3_page *p, const char *name, struct s3_page_entry e)
{
    e.name_offset = p->names.n;
    buf_puts(&p->names, name);
    e.name_n = p->names.n - e.name_offset;
    return !p->names.failed && s3_page_add(p, &e);
}

static S3Status on_page(int truncated, const char *next, int n, const S3ListBucketContent *contents, int n_prefixes, const char **prefixes,
                        void *arg)
{
    struct call *c = arg;
    struct s3_page *p = c->page;
    bool ok = true;
    c->moved_ms = clock_mono_ms();
    (void)next; /* perhaps no plain name; the last name of the page does as well */
    p->truncated = truncated;
    for (int i = 0; ok && i < n; i++)
        ok = add_name(p, contents[i].key, (struct s3_page_entry){.size = contents[i].size, .modified_ms = contents[i].lastModified * 1000});
    for (int i = 0; ok && i < n_prefixes; i++)
        ok = add_name(p, prefixes[i], (struct s3_page_entry){.is_prefix = true});
    return ok ? S3StatusOK : S3StatusAbortedByCallback;
}

static const S3ResponseHandler response_handler = {on_properties, on_complete};

/* --- running a call -------------------------------------------------------------------------------------------------- */

static bool call_begin(struct call *c, const struct v2 *v, const struct ctx *ctx, struct err *err)
{
    *c = (struct call){.v = v, .ctx = ctx, .status = S3StatusInterrupted, .moved_ms = clock_mono_ms(), .length = UINT64_MAX, .fd = -1};
    if (S3_create_request_context(&c->requests) == S3StatusOK)
        return true;
    return err_set(err, ERR_UNAVAILABLE, "libs3 has no room for a request");
}

static enum err_code class_of(const struct call *c)
{
    switch (c->status) {
    case S3StatusErrorNoSuchKey:
    case S3StatusHttpErrorNotFound:
        return ERR_NOT_FOUND;
    case S3StatusErrorInvalidRange:
        return ERR_OUT_OF_RANGE;
    case S3StatusErrorAccessDenied:
    case S3StatusErrorInvalidAccessKeyId:
    case S3StatusErrorSignatureDoesNotMatch:
    case S3StatusErrorExpiredToken:
    case S3StatusErrorRequestTimeTooSkewed:
    case S3StatusHttpErrorForbidden:
        return ERR_PERMISSION;
    case S3StatusAbortedByCallback:
        return c->out_full ? ERR_TOO_LARGE : ERR_IO;
    case S3StatusErrorNoSuchBucket:
    case S3StatusErrorMethodNotAllowed:
    case S3StatusErrorNotImplemented:
    case S3StatusErrorInvalidArgument:
    case S3StatusErrorInvalidBucketName:
    case S3StatusErrorEntityTooLarge:
    case S3StatusErrorPermanentRedirect:
    case S3StatusHttpErrorMovedTemporarily:
    case S3StatusServerFailedVerification:
        return ERR_IO;
    case S3StatusErrorRequestTimeout:
        return ERR_TIMEOUT;
    default: /* connections, 5xx, answers that cannot be read */
        return ERR_UNAVAILABLE;
    }
}

/* Waits for a socket, some milliseconds at most. libcurl leaves descriptors out that an fd_set cannot have: then it is only the time. */
static void wait_for_sockets(struct call *c)
{
    fd_set in, out, other;
    int max = -1;
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_ZERO(&other);
    S3_get_request_context_fdsets(c->requests, &in, &out, &other, &max);
    struct timeval t = {.tv_usec = (max < 0 ? 2 : OBJSTORE_LOOK_MS) * 1000};
    select(max + 1, &in, &out, &other, &t);
}

/* Runs what was begun to its end, and ends it. */
static bool call_run(struct call *c, struct err *err)
{
    int left = 1;
    bool ok = true;
    int64_t silence_ms = c->v->cfg.silence_ms;
    while (S3_runonce_request_context(c->requests, &left) == S3StatusOK && left > 0) {
        ok = ctx_check(c->ctx, err);
        if (ok && silence_ms && clock_mono_ms() - c->moved_ms >= silence_ms)
            ok = err_set(err, ERR_TIMEOUT, "the server was silent for %" PRId64 " ms", silence_ms);
        if (!ok)
            break;
        wait_for_sockets(c);
    }
    S3_destroy_request_context(c->requests);
    if (!ok)
        return false;
    if (c->status == S3StatusOK)
        return true;
    return err_set(err, class_of(c), "%s", class_of(c) == ERR_NOT_FOUND ? "there is no such object" : c->text);
}

/*
 * False: libs3 cannot ask for it. It escapes other characters in a way of its own, so that a listing by such a prefix finds nothing. All names that Brunn
 * makes are plain: those of tenants, blocks and markers.
 */
static bool key_of(struct slice name, char ret[KEY_CAP], struct err *err)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!_.*'()-/";
    snprintf(ret, KEY_CAP, "%.*s", SL_FMT(name));
    return strspn(ret, plain) == name.n || err_set(err, ERR_BAD_DATA, "names with other characters than %s need signature version v4", plain);
}

/* --- operations -------------------------------------------------------------------------------------------------------- */

static bool v2_page(struct objstore *s, const struct ctx *ctx, struct slice prefix, bool delimited, struct slice next, struct s3_page *ret,
                    struct err *err)
{
    static const S3ListBucketHandler handler = {{on_properties, on_complete}, on_page};
    struct v2 *v = v2_of(s);
    struct call c;
    char key[KEY_CAP], marker[KEY_CAP];
    if (!key_of(prefix, key, err) || !key_of(next, marker, err) || !call_begin(&c, v, ctx, err))
        return false;
    c.page = ret;
    S3_list_bucket(&v->bucket, key, next.n ? marker : NULL, delimited ? "/" : NULL, S3_PAGE_NAMES, c.requests,
                   &handler, &c);
    if (!call_run(&c, err))
        return false;
    atomic_store_explicit(&v->bucket_seen, true, memory_order_relaxed);
    return true;
}

static bool v2_list(struct objstore *s, const struct ctx *ctx, struct slice prefix, bool delimited, objstore_list_fn *fn, void *arg,
                    struct err *err)
{
    return s3_list_pages(s, v2_page, true, ctx, prefix, delimited, fn, arg, err);
}

/* A missing bucket must not look like an object that is not there; a HEAD cannot tell them apart. */
static bool bucket_exists(struct objstore *s, const struct ctx *ctx, struct err *err)
{
    struct v2 *v = v2_of(s);
    struct s3_page page = {0};
    bool ok = atomic_load_explicit(&v->bucket_seen, memory_order_relaxed) ||
              v2_page(s, ctx, SL("none-is-so-named"), false, (struct slice){0}, &page, err) || err->code == ERR_PERMISSION;
    s3_page_release(&page);
    return ok;
}

static bool v2_attributes(struct objstore *s, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret, struct err *err)
{
    struct v2 *v = v2_of(s);
    struct call c;
    char key[KEY_CAP];
    if (!key_of(name, key, err) || !call_begin(&c, v, ctx, err))
        return false;
    S3_head_object(&v->bucket, key, c.requests, &response_handler, &c);
    if (!call_run(&c, err)) {
        if (err->code == ERR_NOT_FOUND && bucket_exists(s, ctx, err))
            err_set(err, ERR_NOT_FOUND, "there is no such object");
        return false;
    }
    if (c.length == UINT64_MAX)
        return err_set(err, ERR_IO, "the server does not tell its size");
    *ret = (struct objstore_attributes){.size = c.length, .modified_ms = c.modified_ms};
    return true;
}

/* libs3 does not tell which range came: when it is not as long as wanted, the object's size says whether it was cut or cannot be. */
static bool judge_range(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, uint64_t got, struct err *err)
{
    struct objstore_attributes a;
    if (!v2_attributes(s, ctx, name, &a, err))
        return false;
    if (offset > a.size || (n != OBJSTORE_ALL && n > a.size - offset))
        return err_set(err, ERR_OUT_OF_RANGE, "the range is not within its %" PRIu64 " bytes", a.size);
    if (n == OBJSTORE_ALL ? got == a.size - offset : got == n)
        return true;
    return err_set(err, ERR_UNAVAILABLE, "the server gave %" PRIu64 " bytes of a range, which is not what the object has", got);
}

static bool v2_get(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out, struct err *err)
{
    static const S3GetObjectHandler handler = {{on_properties, on_complete}, on_data};
    struct v2 *v = v2_of(s);
    struct call c;
    char key[KEY_CAP];
    size_t before = out->n;
    if (n == 0)
        return judge_range(s, ctx, name, offset, 0, 0, err);
    if (!key_of(name, key, err) || !call_begin(&c, v, ctx, err))
        return false;
    c.out = out;
    S3_get_object(&v->bucket, key, NULL, offset, n == OBJSTORE_ALL ? 0 : n, c.requests, &handler, &c);
    bool ok = call_run(&c, err);
    uint64_t got = out->n - before;
    if (!ok && err->code == ERR_OUT_OF_RANGE && n == OBJSTORE_ALL)
        return judge_range(s, ctx, name, offset, n, 0, err);
    if (!ok)
        return false;
    if (n == OBJSTORE_ALL)
        return c.length == UINT64_MAX || c.length == got || err_set(err, ERR_UNAVAILABLE, "the body was cut");
    return got == n || judge_range(s, ctx, name, offset, n, got, err);
}

static bool put(struct v2 *v, const struct ctx *ctx, struct slice name, struct slice body, int fd, uint64_t size, struct err *err)
{
    static const S3PutObjectHandler handler = {{on_properties, on_complete}, on_room};
    static const S3PutProperties properties = {.expires = -1};
    struct call c;
    char key[KEY_CAP];
    if (!key_of(name, key, err) || !call_begin(&c, v, ctx, err))
        return false;
    c.body = body;
    c.fd = fd;
    S3_put_object(&v->bucket, key, size, &properties, c.requests, &handler, &c);
    return call_run(&c, err);
}

static bool v2_put(struct objstore *s, const struct ctx *ctx, struct slice name, struct slice bytes, struct err *err)
{
    return put(v2_of(s), ctx, name, bytes, -1, bytes.n, err);
}

/* One try, with the size that arrived. */
static bool put_file(struct objstore *s, const struct ctx *ctx, struct slice name, int fd, uint64_t size, struct err *err)
{
    struct objstore_attributes a;
    if (!put(v2_of(s), ctx, name, (struct slice){0}, fd, size, err) || !v2_attributes(s, ctx, name, &a, err))
        return false;
    return a.size == size || err_set(err, ERR_UNAVAILABLE, "%" PRIu64 " bytes arrived of the %" PRIu64 " of the file", a.size, size);
}

static bool v2_put_file(struct objstore *s, const struct ctx *ctx, struct slice name, const char *path, struct err *err)
{
    struct objstore_tries t = {0};
    struct err why = ERR_NONE;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = fd >= 0 && fstat(fd, &st) == 0;
    if (!ok)
        err_errno(&why, ERR_IO, errno, "opening %s", path);
    else if ((uint64_t)st.st_size > S3_PART_MAX)
        ok = err_set(&why, ERR_IO, "files of more than 5 GiB need signature version v4");
    if (ok)
        do {
            ok = put_file(s, ctx, name, fd, (uint64_t)st.st_size, &why);
        } while (!ok && objstore_try_again(&t, ctx, &why));
    if (fd >= 0)
        close(fd);
    return ok || err_set(err, why.code, "%s", why.text);
}

static bool v2_remove(struct objstore *s, const struct ctx *ctx, struct slice name, struct err *err)
{
    struct v2 *v = v2_of(s);
    struct call c;
    char key[KEY_CAP];
    if (!key_of(name, key, err) || !call_begin(&c, v, ctx, err))
        return false;
    S3_delete_object(&v->bucket, key, c.requests, &response_handler, &c);
    return call_run(&c, err) || err->code == ERR_NOT_FOUND;
}

/* --- life cycle --------------------------------------------------------------------------------------------------------- */

static void v2_free(struct objstore *s)
{
    struct v2 *v = v2_of(s);
    s3_config_release(&v->cfg);
    free(v);
}

static const struct objstore_ops v2_ops = {
    .name = "s3",
    .get = v2_get,
    .attributes = v2_attributes,
    .put = v2_put,
    .put_file = v2_put_file,
    .remove = v2_remove,
    .list = v2_list,
    .free = v2_free,
};

static void init_libs3(void)
{
    S3Status status = S3_initialize("brunn", S3_INIT_ALL, NULL);
    ASSERT(status == S3StatusOK);
    /* libs3 leaves libxml2 to initialise itself at the first answer, which two threads may get at once. Looked up, as only libs3 needs its headers. */
    void (*init_xml)(void);
    *(void **)&init_xml = dlsym(RTLD_DEFAULT, "xmlInitParser");
    if (init_xml)
        init_xml();
}

static bool check_config(const struct s3_config *c, const char *flag_prefix, struct err *err)
{
    if (!c->insecure && !c->skip_verify)
        return err_set(err, ERR_CONFIG,
                       "-%ss3.signature-version=v2 cannot check the server's certificate; use v4, or -%ss3.http.insecure-skip-verify if that is meant",
                       flag_prefix, flag_prefix);
    if (c->headers->next || c->object_headers || c->send_md5 || c->ca_path[0] || c->cert_path[0])
        return err_set(err, ERR_CONFIG,
                       "-%ss3.signature-version=v2 goes without a session token, encryption, storage class, MD5 and TLS files", flag_prefix);
    return true;
}

struct objstore *s3_v2_new(struct s3_config *c, const char *flag_prefix, struct err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (!check_config(c, flag_prefix, err)) {
        s3_config_release(c);
        return NULL;
    }
    pthread_once(&once, init_libs3);
    struct v2 *v = calloc(1, sizeof(*v));
    ASSERT(v);
    v->objstore.ops = &v2_ops;
    v->cfg = *c;
    atomic_init(&v->bucket_seen, false);
    v->bucket = (S3BucketContext){
        .hostName = v->cfg.endpoint,
        .bucketName = v->cfg.bucket,
        .protocol = v->cfg.insecure ? S3ProtocolHTTP : S3ProtocolHTTPS,
        .uriStyle = v->cfg.virtual_host ? S3UriStyleVirtualHost : S3UriStylePath,
        .accessKeyId = v->cfg.access_key,
        .secretAccessKey = v->cfg.secret_key,
    };
    return &v->objstore;
}

#else

struct objstore *s3_v2_new(struct s3_config *c, const char *flag_prefix, struct err *err)
{
    err_set(err, ERR_CONFIG, "-%ss3.signature-version: this build has no v2 (it was made without libs3); use v4", flag_prefix);
    s3_config_release(c);
    return NULL;
}

#endif
