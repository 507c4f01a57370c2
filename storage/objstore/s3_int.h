/*
 * Private to storage/objstore/: the store on an S3 server with signature version 4: signed here, sent by libcurl.
 *
 * A request runs on its caller's thread, in a lane: a libcurl handle with its connections. Lanes are made when they are needed, at most max_lanes of them;
 * who finds none waits. The lock guards the list of idle lanes, their number, and the uploads that are still to be aborted; it is never held across I/O.
 * Everything else is immutable.
 */
#pragma once

#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>

#include "storage/objstore/objstore_int.h"
#include "storage/objstore/s3_xml_int.h"

#define S3_PART_MIN ((uint64_t)5 << 20)      /* S3's own limits */
#define S3_PART_MAX ((uint64_t)5 << 30)
#define S3_PARTS_MAX 10000
#define S3_PART_DEFAULT ((uint64_t)64 << 20)
#define S3_LANES_DEFAULT 256
#define S3_ORPHANS_MAX 64

struct s3_lane {
    struct s3_lane *next;
    CURLM *multi;
    CURL *easy;
};

/* Where and as whom; made out of the flags. */
struct s3_config {
    char *base_url; /* "https://host:port/bucket/" or "https://bucket.host/" */
    char *access_key;
    char *secret_key;
    char *endpoint; /* host[:port] as it is connected to */
    char *region;
    char *bucket;
    char *ca_path; /* "" = the system's; this and the next two */
    char *cert_path;
    char *key_path;
    struct curl_slist *headers;        /* of every request: the host, the token */
    struct curl_slist *object_headers; /* and those of requests that make an object: encryption, storage class */
    struct curl_slist *connect_to;     /* NULL = where the URL says */
    bool insecure;
    bool skip_verify;
    bool virtual_host;
    bool list_v1;
    bool send_md5;
    bool trace;
    bool sse;
    uint64_t part_size; /* bytes */
    size_t max_lanes;
    size_t max_idle;
    int64_t idle_ms;
    int64_t silence_ms; /* 0 = no limit */
    int64_t connect_ms; /* 0 = libcurl's */
    int64_t continue_ms;
};

/* False: ERR_CONFIG. Either way to be released. */
bool s3_config_init(struct s3_config *c, const struct objstore_config *cfg, const char *flag_prefix, struct err *err);
void s3_config_release(struct s3_config *c);

struct s3_orphan {
    char *name; /* owned, as the other */
    char *upload_id;
};

struct s3 {
    struct objstore objstore;
    struct s3_config cfg;
    atomic_bool bucket_seen; /* some answer has shown that the bucket exists; relaxed, any thread */
    pthread_mutex_t lock;
    pthread_cond_t lane_free;
    struct s3_lane *idle; /* guarded by lock, as the rest */
    size_t n_idle;
    size_t n_lanes;
    struct s3_orphan orphans[S3_ORPHANS_MAX];
    size_t n_orphans;
};

static inline struct s3 *s3_of(struct objstore *s)
{
    return (struct s3 *)((char *)s - offsetof(struct s3, objstore));
}

/* --- requests (s3_http.c) -------------------------------------------------------------------------------------------- */

/* One request. The body is `body`, or file_n bytes from file_offset of the file when fd >= 0. Its hash is made by the first try. */
struct s3_request {
    const char *method;
    struct slice name;       /* empty: the bucket itself */
    const char *query;       /* "" or "a=b&c=", sorted and escaped */
    const char *range;       /* NULL or "5-9" */
    bool makes_object;       /* sends the object headers */
    const char *content_type; /* NULL = none */
    struct slice body;
    int fd; /* -1 = none */
    uint64_t file_offset;
    uint64_t file_n;
    struct buf *out; /* of the body of a good answer; NULL: it goes into the answer's own */
    char sha256[65]; /* hexadecimal */
    char md5[25];    /* base64 */
    char md5_hex[33];
};

#define S3_ERROR_BODY_MAX ((size_t)64 << 10)
#define S3_ANSWER_MAX ((size_t)16 << 20) /* a page of a listing has 1000 names, each three bytes a byte at most */

struct s3_answer {
    long status;
    char etag[160]; /* without quotes */
    uint64_t length; /* Content-Length; UINT64_MAX: none */
    uint64_t range_first; /* Content-Range; UINT64_MAX: none, this and the next */
    uint64_t range_total;
    int64_t modified_ms; /* 0: none */
    char region[64];     /* x-amz-bucket-region */
    struct buf body;
    struct s3_error error; /* of the body of a bad answer */
};

void s3_answer_release(struct s3_answer *a);
/* One try. True: the status is 2xx. False with a.status 0: there was no answer. `a` is begun anew; release it at the end. */
bool s3_send(struct s3 *s, const struct ctx *ctx, struct s3_request *r, struct s3_answer *a, struct err *err);
/* All tries. */
bool s3_send_again(struct s3 *s, const struct ctx *ctx, struct s3_request *r, struct s3_answer *a, struct err *err);
/* NULL when ctx ended before a lane was free. */
struct s3_lane *s3_lane_take(struct s3 *s, const struct ctx *ctx, struct err *err);
void s3_lane_give(struct s3 *s, struct s3_lane *l);
void s3_lanes_release(struct s3 *s);
/* Makes sha256 and, if wanted, the md5s of the request. */
bool s3_hash_body(const struct s3 *s, const struct ctx *ctx, struct s3_request *r, struct err *err);
/* The headers with x-amz-date and Authorization at their end: list is all that is to be signed (s3_sign.c). */
struct curl_slist *s3_sign(const struct s3_config *c, const struct s3_request *r, struct curl_slist *list);
/* Appends s percent-encoded as signatures want it; slashes stay if keep_slashes. */
void s3_escape(struct buf *out, struct slice s, bool keep_slashes);

/* --- listings (s3_list.c) ------------------------------------------------------------------------------------------------ */

#define S3_PAGE_NAMES 1000
/* One try at one page; next: empty at the beginning. */
typedef bool s3_page_fn(struct objstore *o, const struct ctx *ctx, struct slice prefix, bool delimited, struct slice next, struct s3_page *ret,
                        struct err *err);
/* All pages. by_name: a page that does not name the next goes on behind its last name. */
bool s3_list_pages(struct objstore *o, s3_page_fn *get, bool by_name, const struct ctx *ctx, struct slice prefix, bool delimited,
                   objstore_list_fn *fn, void *arg, struct err *err);

/* --- operations that are more than one request -------------------------------------------------------------------------- */

bool s3_list(struct objstore *o, const struct ctx *ctx, struct slice prefix, bool delimited, objstore_list_fn *fn, void *arg, struct err *err);
bool s3_put(struct objstore *o, const struct ctx *ctx, struct slice name, struct slice bytes, struct err *err);
bool s3_put_file(struct objstore *o, const struct ctx *ctx, struct slice name, const char *path, struct err *err);
bool s3_attributes(struct objstore *o, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret, struct err *err);
/* Aborts what could not be aborted before, as long as ctx allows. */
void s3_abort_orphans(struct s3 *s, const struct ctx *ctx);
void s3_orphans_release(struct s3 *s);

/* --- signature version 2 (s3_v2.c) --------------------------------------------------------------------- */

/* The store by libs3; c is taken over, whatever is returned. NULL: ERR_CONFIG. */
struct objstore *s3_v2_new(struct s3_config *c, const char *flag_prefix, struct err *err);
