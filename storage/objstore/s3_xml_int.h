/*
 * Private to storage/objstore/: answers of S3 servers, XML read by expat. A document with a DOCTYPE, more than 16 elements within each other, an
 * element of more than 16 KiB of text, or a page of more than 10,000 entries is refused: ERR_CORRUPT.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/slice.h"

#define S3_XML_DEPTH_MAX 16
#define S3_XML_TEXT_MAX ((size_t)16 << 10)
#define S3_PAGE_ENTRIES_MAX 10000

/* <Error><Code/><Message/><Region/></Error>; strings are cut where they do not fit, empty where there are none. */
struct s3_error {
    char code[64];
    char message[256];
    char region[64];
};
/* False, and all empty, when it is no such document. */
bool s3_error_parse(struct slice xml, struct s3_error *ret);

/* <InitiateMultipartUploadResult><UploadId/>: appended to ret. */
bool s3_upload_id_parse(struct slice xml, struct buf *ret, struct err *err);
/* What answers a completed upload, <CompleteMultipartUploadResult>. An error in it, which comes with status 200, is put into ret_error: false, ERR_OK untouched. */
bool s3_complete_parse(struct slice xml, struct s3_error *ret_error, struct err *err);

struct s3_page_entry {
    size_t name_offset; /* in names */
    size_t name_n;
    bool is_prefix;
    uint64_t size;
    int64_t modified_ms;
};

/* A page of a listing, <ListBucketResult>. */
struct s3_page {
    struct buf names;
    struct s3_page_entry *entries;
    size_t n;
    size_t cap;
    bool truncated;
    struct buf next; /* NextContinuationToken, or NextMarker, decoded */
};

/* Appends an entry. False: there are S3_PAGE_ENTRIES_MAX. */
bool s3_page_add(struct s3_page *p, const struct s3_page_entry *e);
bool s3_page_parse(struct slice xml, struct s3_page *ret, struct err *err);
void s3_page_release(struct s3_page *p);

/* "2009-10-12T17:50:30.000Z"; false when it is no time. */
bool s3_time_parse(struct slice text, int64_t *ret_ms);
