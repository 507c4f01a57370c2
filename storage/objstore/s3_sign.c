/*
 * AWS signature version 4 of one request, as AWS documents it ("Authenticating Requests: Using the Authorization Header").
 *
 *     canonical = method \n path \n query \n (name:value \n for each header, sorted by name) \n names joined by ; \n SHA-256 of the body
 *     signature = HMAC(HMAC(HMAC(HMAC("AWS4" secret, day), region), "s3"), "aws4_request") of ("AWS4-HMAC-SHA256" \n time \n scope \n SHA-256 of canonical)
 *
 * Not libcurl's own CURLOPT_AWS_SIGV4: libcurl 7.88 sorts "name:value", so that x-amz-server-side-encryption comes behind
 * x-amz-server-side-encryption-context, and a request with both is refused; and its versions differ in what they do to the query.
 */
#include <ctype.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "storage/objstore/s3_int.h"

#define HEADERS_MAX 24

struct header {
    char name[64]; /* lower case */
    struct slice value;
};

static void put_hex(struct buf *out, const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf_printf(out, "%02x", p[i]);
}

/* The next key of the chain; in place. */
static void chain(unsigned char key[32], size_t key_n, const unsigned char *from, struct slice text)
{
    unsigned char out[32];
    unsigned n = 0;
    HMAC(EVP_sha256(), from, (int)key_n, (const unsigned char *)text.p, text.n, out, &n);
    ASSERT(n == 32);
    memcpy(key, out, 32);
}

static int compare_headers(const void *a, const void *b)
{
    return strcmp(((const struct header *)a)->name, ((const struct header *)b)->name);
}

/* The headers of the list, sorted. They are all our own: without blanks before, behind, or twice in a row within. */
static size_t sort_headers(const struct curl_slist *list, struct header ret[HEADERS_MAX])
{
    size_t n = 0;
    for (; list; list = list->next) {
        const char *colon = strchr(list->data, ':');
        size_t name_n = (size_t)(colon - list->data);
        ASSERT(colon && n < HEADERS_MAX && name_n < sizeof(ret[0].name) && colon[1] == ' ');
        for (size_t i = 0; i < name_n; i++)
            ret[n].name[i] = (char)tolower((unsigned char)list->data[i]);
        ret[n].name[name_n] = 0;
        ret[n++].value = slice_of(colon + 2);
    }
    qsort(ret, n, sizeof(*ret), compare_headers);
    return n;
}

static void put_names(const struct header *h, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n; i++)
        buf_printf(out, "%s%s", i ? ";" : "", h[i].name);
}

static void put_canonical(const struct s3_config *c, const struct s3_request *r, const struct header *h, size_t n, struct buf *out)
{
    buf_printf(out, "%s\n/%s%s", r->method, c->virtual_host ? "" : c->bucket, c->virtual_host ? "" : "/");
    s3_escape(out, r->name, true);
    buf_printf(out, "\n%s\n", r->query);
    for (size_t i = 0; i < n; i++) {
        buf_printf(out, "%s:", h[i].name);
        buf_put_slice(out, h[i].value);
        buf_putc(out, '\n');
    }
    buf_putc(out, '\n');
    put_names(h, n, out);
    buf_printf(out, "\n%s", r->sha256);
}

static void put_signature(const struct s3_config *c, const char *day, struct slice text, struct buf *out)
{
    unsigned char key[32], secret[512];
    int n = snprintf((char *)secret, sizeof(secret), "AWS4%s", c->secret_key);
    ASSERT(n > 0 && (size_t)n < sizeof(secret));
    chain(key, (size_t)n, secret, slice_of(day));
    chain(key, 32, key, slice_of(c->region));
    chain(key, 32, key, SL("s3"));
    chain(key, 32, key, SL("aws4_request"));
    chain(key, 32, key, text);
    put_hex(out, key, 32);
}

struct curl_slist *s3_sign(const struct s3_config *c, const struct s3_request *r, struct curl_slist *list)
{
    struct header headers[HEADERS_MAX];
    struct buf canonical = {0}, text = {0}, line = {0};
    unsigned char digest[EVP_MAX_MD_SIZE];
    char when[32], day[16];
    time_t now = (time_t)(clock_wall_ms() / 1000);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(when, sizeof(when), "x-amz-date: %Y%m%dT%H%M%SZ", &tm);
    strftime(day, sizeof(day), "%Y%m%d", &tm);
    list = curl_slist_append(list, when);
    size_t n = sort_headers(list, headers);
    put_canonical(c, r, headers, n, &canonical);
    EVP_Digest(canonical.p, canonical.n, digest, NULL, EVP_sha256(), NULL);
    buf_printf(&text, "AWS4-HMAC-SHA256\n%s\n%s/%s/s3/aws4_request\n", when + strlen("x-amz-date: "), day, c->region);
    put_hex(&text, digest, 32);
    buf_printf(&line, "Authorization: AWS4-HMAC-SHA256 Credential=%s/%s/%s/s3/aws4_request, SignedHeaders=", c->access_key, day, c->region);
    put_names(headers, n, &line);
    buf_puts(&line, ", Signature=");
    put_signature(c, day, buf_slice(&text), &line);
    list = curl_slist_append(list, buf_cstr(&line));
    ASSERT(list && !canonical.failed && !line.failed);
    buf_release(&canonical);
    buf_release(&text);
    buf_release(&line);
    return list;
}
