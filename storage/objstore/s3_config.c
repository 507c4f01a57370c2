/* Where the S3 server is and what is sent along, out of the flags. See s3_int.h. */
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "storage/objstore/s3_int.h"

struct making {
    struct s3_config *c;
    const struct objstore_config *cfg;
    const char *flag; /* "blocks-storage." */
};

static bool one_of(const char *value, const char *a, const char *b, const char *c)
{
    return strcmp(value, a) == 0 || strcmp(value, b) == 0 || strcmp(value, c) == 0;
}

/* What would end a header or a URL in its midst. */
static bool is_plain(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s <= ' ' || (unsigned char)*s >= 0x7f)
            return false;
    return true;
}

static bool check_words(const struct making *m, struct err *err)
{
    const struct objstore_config *cfg = m->cfg;
    if (!one_of(cfg->s3_signature_version, "v4", "v2", "v4"))
        return err_set(err, ERR_CONFIG, "-%ss3.signature-version: there is no \"%s\"; v4 or v2", m->flag, cfg->s3_signature_version);
    if (!one_of(cfg->s3_list_objects_version, "", "v1", "v2"))
        return err_set(err, ERR_CONFIG, "-%ss3.list-objects-version: there is no \"%s\"; v1 or v2", m->flag, cfg->s3_list_objects_version);
    if (!one_of(cfg->s3_bucket_lookup_type, "auto", "path", "virtual-hosted"))
        return err_set(err, ERR_CONFIG, "-%ss3.bucket-lookup-type: there is no \"%s\"; auto, path or virtual-hosted", m->flag,
                       cfg->s3_bucket_lookup_type);
    if (!one_of(cfg->s3_sse_type, "", "SSE-S3", "SSE-KMS"))
        return err_set(err, ERR_CONFIG, "-%ss3.sse.type: there is no \"%s\"; SSE-S3 or SSE-KMS", m->flag, cfg->s3_sse_type);
    if (cfg->s3_native_aws_auth_enabled)
        return err_set(err, ERR_CONFIG, "-%ss3.native-aws-auth-enabled is not supported; keys come from flags or the environment", m->flag);
    if (cfg->s3_sts_endpoint[0])
        return err_set(err, ERR_CONFIG, "-%ss3.sts-endpoint is not supported; give keys and -%ss3.session-token", m->flag, m->flag);
    return true;
}

static bool check_address(const struct making *m, struct err *err)
{
    const struct objstore_config *cfg = m->cfg;
    if (!cfg->s3_bucket_name[0] || strspn(cfg->s3_bucket_name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") !=
                                       strlen(cfg->s3_bucket_name) || cfg->s3_bucket_name[0] == '.')
        return err_set(err, ERR_CONFIG, "-%ss3.bucket-name: \"%s\" is no bucket's name", m->flag, cfg->s3_bucket_name);
    if (!cfg->s3_endpoint[0] || strchr(cfg->s3_endpoint, '/') || strchr(cfg->s3_endpoint, '@') || !is_plain(cfg->s3_endpoint))
        return err_set(err, ERR_CONFIG, "-%ss3.endpoint: \"%s\" is not host[:port]; no scheme and no path", m->flag, cfg->s3_endpoint);
    if (!is_plain(cfg->s3_region) || strchr(cfg->s3_region, ':') || strlen(cfg->s3_region) > 60)
        return err_set(err, ERR_CONFIG, "-%ss3.region: \"%s\" is no region's name", m->flag, cfg->s3_region);
    if (!is_plain(cfg->s3_storage_class))
        return err_set(err, ERR_CONFIG, "-%ss3.storage-class: \"%s\" is no storage class", m->flag, cfg->s3_storage_class);
    return true;
}

static bool check_numbers(const struct making *m, struct err *err)
{
    const struct objstore_config *cfg = m->cfg;
    if (cfg->s3_part_size && (cfg->s3_part_size < S3_PART_MIN || cfg->s3_part_size > S3_PART_MAX))
        return err_set(err, ERR_CONFIG, "-%ss3.part-size: S3 takes parts of 5 MiB to 5 GiB", m->flag);
    if (cfg->s3_max_connections_per_host < 0 || cfg->s3_max_idle_connections < 0 || cfg->s3_max_idle_connections_per_host < 0 ||
        cfg->s3_max_connections_per_host > 100000)
        return err_set(err, ERR_CONFIG, "-%ss3.max-connections-per-host, -%ss3.max-idle-connections, -%ss3.max-idle-connections-per-host: out of range",
                       m->flag, m->flag, m->flag);
    if (!cfg->s3_tls_cert_path[0] != !cfg->s3_tls_key_path[0])
        return err_set(err, ERR_CONFIG, "-%ss3.http.tls-cert-path and -%ss3.http.tls-key-path need each other", m->flag, m->flag);
    return true;
}

/* --- the address ----------------------------------------------------------------------------------------------------- */

static bool ends_with(const char *s, const char *end)
{
    return slice_has_suffix(slice_of(s), slice_of(end));
}

static bool is_aws(const char *host)
{
    return ends_with(host, ".amazonaws.com") || ends_with(host, ".amazonaws.com.cn");
}

/* "s3.eu-west-1.amazonaws.com" names its region. */
static char *region_of(const struct objstore_config *cfg)
{
    char region[64];
    if (cfg->s3_region[0])
        return slice_strdup(slice_of(cfg->s3_region));
    if (sscanf(cfg->s3_endpoint, "s3.dualstack.%63[a-z0-9-].amazonaws.com", region) == 1 ||
        (sscanf(cfg->s3_endpoint, "s3.%63[a-z0-9-].amazonaws.com", region) == 1 && strcmp(region, "amazonaws") != 0 &&
         strcmp(region, "dualstack") != 0))
        return slice_strdup(slice_of(region));
    return slice_strdup(SL("us-east-1"));
}

static char *endpoint_of(const struct objstore_config *cfg, const char *region)
{
    char plain[160], name[200];
    snprintf(plain, sizeof(plain), "s3.%s.amazonaws.com", region);
    if (!cfg->s3_dualstack_enabled || (strcmp(cfg->s3_endpoint, plain) != 0 && strcmp(cfg->s3_endpoint, "s3.amazonaws.com") != 0))
        return slice_strdup(slice_of(cfg->s3_endpoint));
    snprintf(name, sizeof(name), "s3.dualstack.%s.amazonaws.com", region);
    return slice_strdup(slice_of(name));
}

/* A wildcard certificate holds for one label: a bucket with dots in its name must be in the path. */
static bool wants_virtual_host(const struct objstore_config *cfg, const char *endpoint)
{
    if (strcmp(cfg->s3_bucket_lookup_type, "virtual-hosted") == 0)
        return true;
    return strcmp(cfg->s3_bucket_lookup_type, "auto") == 0 && is_aws(endpoint) && (cfg->s3_insecure || !strchr(cfg->s3_bucket_name, '.'));
}

static void add_header(struct curl_slist **list, const char *name, const char *value)
{
    size_t n = strlen(name) + strlen(value) + 3;
    char *line = malloc(n);
    ASSERT(line);
    snprintf(line, n, "%s: %s", name, value);
    *list = curl_slist_append(*list, line);
    ASSERT(*list);
    free(line);
}

/*
 * The certificate must have another name than the endpoint: the URL has that name, so that it is asked for (SNI) and checked; the connection and the Host
 * header are the endpoint's.
 */
static void set_server_name(struct s3_config *c, const char *server_name, const char *host)
{
    char *to = NULL;
    const char *colon = strrchr(host, ':');
    int n = asprintf(&to, "%s::%s%s", server_name, host, colon && !strchr(colon, ']') ? "" : ":443");
    ASSERT(n > 0);
    c->connect_to = curl_slist_append(NULL, to);
    free(to);
}

static void set_address(struct making *m)
{
    struct s3_config *c = m->c;
    const struct objstore_config *cfg = m->cfg;
    char *host = NULL;
    c->region = region_of(cfg);
    c->endpoint = endpoint_of(cfg, c->region);
    c->bucket = slice_strdup(slice_of(cfg->s3_bucket_name));
    c->virtual_host = wants_virtual_host(cfg, c->endpoint);
    int n = c->virtual_host ? asprintf(&host, "%s.%s", c->bucket, c->endpoint) : asprintf(&host, "%s", c->endpoint);
    ASSERT(n > 0);
    bool renamed = cfg->s3_tls_server_name[0] && !cfg->s3_insecure;
    n = asprintf(&c->base_url, "%s://%s/%s%s", cfg->s3_insecure ? "http" : "https", renamed ? cfg->s3_tls_server_name : host,
                 c->virtual_host ? "" : c->bucket, c->virtual_host ? "" : "/");
    ASSERT(n > 0);
    if (renamed)
        set_server_name(c, cfg->s3_tls_server_name, host);
    add_header(&c->headers, "Host", host); /* signed, so it must be said rather than left to libcurl, which leaves ":443" out */
    free(host);
}

/* --- who asks, and what is sent along ------------------------------------------------------------------------------------ */

static const char *from_environment(const char *name)
{
    const char *v = getenv(name);
    return v ? v : "";
}

static bool set_keys(struct making *m, struct err *err)
{
    const char *key = m->cfg->s3_access_key_id, *secret = m->cfg->s3_secret_access_key, *token = m->cfg->s3_session_token;
    if (!key[0] && !secret[0]) {
        key = from_environment("AWS_ACCESS_KEY_ID");
        secret = from_environment("AWS_SECRET_ACCESS_KEY");
        token = from_environment("AWS_SESSION_TOKEN");
    }
    if (!key[0] || !secret[0])
        return err_set(err, ERR_CONFIG,
                       "-%ss3.access-key-id and -%ss3.secret-access-key are needed, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
                       m->flag, m->flag);
    if (!is_plain(key) || !is_plain(secret) || !is_plain(token) || strlen(secret) > 400)
        return err_set(err, ERR_CONFIG, "-%ss3.access-key-id, its secret or its token: there are blanks or line ends in it, or it is too long", m->flag);
    m->c->access_key = slice_strdup(slice_of(key));
    m->c->secret_key = slice_strdup(slice_of(secret));
    if (token[0])
        add_header(&m->c->headers, "x-amz-security-token", token);
    return true;
}

static void add_encryption_context(struct s3_config *c, const char *context)
{
    size_t n = strlen(context);
    unsigned char *text = malloc(n / 3 * 4 + 5);
    ASSERT(text);
    EVP_EncodeBlock(text, (const unsigned char *)context, (int)n);
    add_header(&c->object_headers, "x-amz-server-side-encryption-context", (const char *)text);
    free(text);
}

static bool set_object_headers(struct making *m, struct err *err)
{
    struct s3_config *c = m->c;
    const struct objstore_config *cfg = m->cfg;
    c->sse = cfg->s3_sse_type[0];
    if (strlen(cfg->s3_sse_kms_encryption_context) > 4096 || !is_plain(cfg->s3_sse_kms_key_id))
        return err_set(err, ERR_CONFIG, "-%ss3.sse.kms-key-id has blanks, or -%ss3.sse.kms-encryption-context is too long", m->flag, m->flag);
    if (strcmp(cfg->s3_sse_type, "SSE-S3") == 0)
        add_header(&c->object_headers, "x-amz-server-side-encryption", "AES256");
    if (strcmp(cfg->s3_sse_type, "SSE-KMS") == 0) {
        if (!cfg->s3_sse_kms_key_id[0])
            return err_set(err, ERR_CONFIG, "-%ss3.sse.kms-key-id is needed with SSE-KMS", m->flag);
        add_header(&c->object_headers, "x-amz-server-side-encryption", "aws:kms");
        add_header(&c->object_headers, "x-amz-server-side-encryption-aws-kms-key-id", cfg->s3_sse_kms_key_id);
        if (cfg->s3_sse_kms_encryption_context[0])
            add_encryption_context(c, cfg->s3_sse_kms_encryption_context);
    }
    if (cfg->s3_storage_class[0])
        add_header(&c->object_headers, "x-amz-storage-class", cfg->s3_storage_class);
    return true;
}

static void set_limits(struct making *m)
{
    struct s3_config *c = m->c;
    const struct objstore_config *cfg = m->cfg;
    size_t idle = cfg->s3_max_idle_connections ? (size_t)cfg->s3_max_idle_connections : SIZE_MAX;
    size_t idle_host = cfg->s3_max_idle_connections_per_host ? (size_t)cfg->s3_max_idle_connections_per_host : 2;
    c->max_lanes = cfg->s3_max_connections_per_host ? (size_t)cfg->s3_max_connections_per_host : S3_LANES_DEFAULT;
    c->max_idle = MIN(idle, idle_host);
    c->idle_ms = cfg->s3_idle_conn_timeout;
    c->silence_ms = cfg->s3_response_header_timeout;
    c->connect_ms = cfg->s3_tls_handshake_timeout;
    c->continue_ms = cfg->s3_expect_continue_timeout;
    c->part_size = cfg->s3_part_size ? cfg->s3_part_size : S3_PART_DEFAULT;
    c->insecure = cfg->s3_insecure;
    c->skip_verify = cfg->s3_insecure_skip_verify;
    c->list_v1 = strcmp(cfg->s3_list_objects_version, "v1") == 0;
    c->send_md5 = cfg->s3_send_content_md5;
    c->trace = cfg->s3_trace_enabled;
    c->ca_path = slice_strdup(slice_of(cfg->s3_tls_ca_path));
    c->cert_path = slice_strdup(slice_of(cfg->s3_tls_cert_path));
    c->key_path = slice_strdup(slice_of(cfg->s3_tls_key_path));
}

bool s3_config_init(struct s3_config *c, const struct objstore_config *cfg, const char *flag_prefix, struct err *err)
{
    struct making m = {.c = c, .cfg = cfg, .flag = flag_prefix};
    *c = (struct s3_config){0};
    if (!check_words(&m, err) || !check_address(&m, err) || !check_numbers(&m, err))
        return false;
    set_address(&m);
    set_limits(&m);
    return set_keys(&m, err) && set_object_headers(&m, err);
}

void s3_config_release(struct s3_config *c)
{
    char *strings[] = {c->base_url, c->access_key, c->secret_key, c->endpoint, c->region, c->bucket, c->ca_path, c->cert_path, c->key_path};
    for (size_t i = 0; i < ARRAY_LEN(strings); i++)
        free(strings[i]);
    curl_slist_free_all(c->headers);
    curl_slist_free_all(c->object_headers);
    curl_slist_free_all(c->connect_to);
    *c = (struct s3_config){0};
}
