/* Hashes of what a request sends, of memory or of a part of a file. See s3_int.h. */
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "storage/objstore/s3_int.h"

#define HASH_STEP_BYTES ((size_t)1 << 20)

struct hashes {
    EVP_MD_CTX *sha256;
    EVP_MD_CTX *md5; /* NULL = not wanted */
};

static void hash_step(struct hashes *h, const void *p, size_t n)
{
    int ok = EVP_DigestUpdate(h->sha256, p, n) && (!h->md5 || EVP_DigestUpdate(h->md5, p, n));
    ASSERT(ok);
}

/* A file is read here once more than it must be sent: a signature stands before the bytes, and the page cache is near. */
static bool hash_file(struct hashes *h, const struct ctx *ctx, const struct s3_request *r, struct err *err)
{
    char *step = malloc(HASH_STEP_BYTES);
    ASSERT(step);
    bool ok = true;
    for (uint64_t done = 0; ok && done < r->file_n;) {
        size_t want = (size_t)MIN(r->file_n - done, (uint64_t)HASH_STEP_BYTES);
        ssize_t n = pread(r->fd, step, want, (off_t)(r->file_offset + done));
        ok = ctx_check(ctx, err);
        if (ok && n <= 0)
            ok = n < 0 ? err_errno(err, ERR_IO, errno, "reading the local file") : err_set(err, ERR_IO, "the local file became shorter");
        else if (ok)
            hash_step(h, step, (size_t)n);
        done += n > 0 ? (uint64_t)n : 0;
    }
    free(step);
    return ok;
}

static void put_hex(char *ret, const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        snprintf(ret + 2 * i, 3, "%02x", p[i]);
}

bool s3_hash_body(const struct s3 *s, const struct ctx *ctx, struct s3_request *r, struct err *err)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    struct hashes h = {.sha256 = EVP_MD_CTX_new(), .md5 = s->cfg.send_md5 && r->makes_object ? EVP_MD_CTX_new() : NULL};
    int started = EVP_DigestInit_ex(h.sha256, EVP_sha256(), NULL) && (!h.md5 || EVP_DigestInit_ex(h.md5, EVP_md5(), NULL));
    ASSERT(started);
    bool ok = true;
    if (r->fd >= 0)
        ok = hash_file(&h, ctx, r, err);
    else
        hash_step(&h, r->body.p, r->body.n);
    if (ok) {
        EVP_DigestFinal_ex(h.sha256, digest, NULL);
        put_hex(r->sha256, digest, 32);
        if (h.md5) {
            EVP_DigestFinal_ex(h.md5, digest, NULL);
            put_hex(r->md5_hex, digest, 16);
            EVP_EncodeBlock((unsigned char *)r->md5, digest, 16);
        }
    }
    EVP_MD_CTX_free(h.sha256);
    EVP_MD_CTX_free(h.md5);
    return ok;
}
