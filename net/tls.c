/*
 * Contexts: the options of Mimir in OpenSSL's terms, and files that are read again when they change.
 *
 * One SSL_CTX stands for one state of the files; it is immutable, and connections hold references to it. Connections
 * are in tls_conn.c.
 */
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/logger.h"
#include "base/slice.h"
#include "net/tls_int.h"

static const char *text(const char *s)
{
    return s ? s : "";
}

bool tls_server_wanted(const struct tls_server_config *cfg)
{
    return text(cfg->cert_path)[0] || text(cfg->key_path)[0];
}

/* --- options --------------------------------------------------------------------------------------------------- */

static bool parse_version(const char *name, int *ret, struct err *err)
{
    static const struct {
        const char *name;
        int version;
    } versions[] = {{"", TLS1_2_VERSION},
                    {"VersionTLS10", TLS1_VERSION},
                    {"VersionTLS11", TLS1_1_VERSION},
                    {"VersionTLS12", TLS1_2_VERSION},
                    {"VersionTLS13", TLS1_3_VERSION}};
    for (size_t i = 0; i < ARRAY_LEN(versions); i++)
        if (strcmp(name, versions[i].name) == 0) {
            *ret = versions[i].version;
            return true;
        }
    return err_set(err, ERR_CONFIG, "unknown TLS version: \"%s\"", name);
}

static bool parse_client_auth(const char *name, enum tls_client_auth *ret, struct err *err)
{
    static const struct {
        const char *name;
        enum tls_client_auth auth;
    } kinds[] = {{"", TLS_AUTH_NONE},
                 {"NoClientCert", TLS_AUTH_NONE},
                 {"RequestClientCert", TLS_AUTH_REQUEST},
                 {"RequireAnyClientCert", TLS_AUTH_REQUIRE_ANY},
                 {"RequireClientCert", TLS_AUTH_REQUIRE_ANY},
                 {"VerifyClientCertIfGiven", TLS_AUTH_VERIFY_IF_GIVEN},
                 {"RequireAndVerifyClientCert", TLS_AUTH_REQUIRE_AND_VERIFY}};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (strcmp(name, kinds[i].name) == 0) {
            *ret = kinds[i].auth;
            return true;
        }
    return err_set(err, ERR_CONFIG, "invalid TLS client auth type: \"%s\"", name);
}

/* OpenSSL's name of a suite of TLS 1.2, "" for one of TLS 1.3, NULL when it is not known. */
static const char *suite_name(struct slice iana)
{
    char name[96];
    snprintf(name, sizeof name, "%.*s", SL_FMT(iana));
    if (strncmp(name, "TLS_AES_", 8) == 0 || strncmp(name, "TLS_CHACHA20_", 13) == 0)
        return "";
    const char *found = OPENSSL_cipher_name(name);
    if (strcmp(found, "(NONE)") != 0)
        return found;
    snprintf(name, sizeof name, "%.*s_SHA256", SL_FMT(iana)); /* Go's old names of the ChaCha20 suites lack it */
    found = OPENSSL_cipher_name(name);
    return strcmp(found, "(NONE)") == 0 ? NULL : found;
}

static bool add_suite(struct slice item, struct buf *out, struct err *err)
{
    while (item.n && item.p[0] == ' ')
        item = slice_make(item.p + 1, item.n - 1);
    while (item.n && item.p[item.n - 1] == ' ')
        item.n--;
    if (item.n == 0)
        return true;
    const char *name = suite_name(item);
    if (!name)
        return err_set(err, ERR_CONFIG, "cipher suite \"%.*s\" not recognized", SL_FMT(item));
    if (name[0] && out->n)
        buf_putc(out, ':');
    buf_puts(out, name);
    return true;
}

static bool parse_suites(const char *list, struct buf *out, struct err *err)
{
    bool fine = true;
    while (fine && list[0]) {
        size_t n = strcspn(list, ",");
        fine = add_suite(slice_make(list, n), out, err);
        list += n + (list[n] == ',');
    }
    return fine;
}

/* --- files ----------------------------------------------------------------------------------------------------- */

static bool openssl_failed(struct err *err, const char *what, const char *path)
{
    unsigned long code = ERR_peek_last_error();
    const char *why = code ? ERR_reason_error_string(code) : NULL;
    err_set(err, ERR_CONFIG, "%s \"%s\": %s", what, path, why ? why : code ? strerror(ERR_GET_REASON(code)) : "unknown");
    ERR_clear_error();
    return false;
}

static bool load_files(struct tls_context *ctx, SSL_CTX *ssl, struct err *err)
{
    if (ctx->cert_path[0] && SSL_CTX_use_certificate_chain_file(ssl, ctx->cert_path) != 1)
        return openssl_failed(err, "cannot load the TLS certificate", ctx->cert_path);
    if (ctx->key_path[0] && SSL_CTX_use_PrivateKey_file(ssl, ctx->key_path, SSL_FILETYPE_PEM) != 1)
        return openssl_failed(err, "cannot load the TLS key", ctx->key_path);
    if (ctx->ca_path[0]) {
        STACK_OF(X509_NAME) *names = ctx->server ? SSL_load_client_CA_file(ctx->ca_path) : NULL;
        if (SSL_CTX_load_verify_file(ssl, ctx->ca_path) != 1 || (ctx->server && !names)) {
            sk_X509_NAME_pop_free(names, X509_NAME_free);
            return openssl_failed(err, "cannot load the TLS authorities", ctx->ca_path);
        }
        SSL_CTX_set_client_CA_list(ssl, names);
    } else {
        SSL_CTX_set_default_verify_paths(ssl);
    }
    return true;
}

/* Go's RequestClientCert and RequireAnyClientCert look at no authority. */
static int accept_any(int fine, X509_STORE_CTX *store)
{
    (void)fine;
    (void)store;
    return 1;
}

static void set_verification(struct tls_context *ctx, SSL_CTX *ssl)
{
    if (!ctx->server) {
        SSL_CTX_set_verify(ssl, ctx->skip_verify ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
        return;
    }
    bool asks = ctx->auth != TLS_AUTH_NONE;
    bool needs = ctx->auth == TLS_AUTH_REQUIRE_ANY || ctx->auth == TLS_AUTH_REQUIRE_AND_VERIFY;
    bool any = ctx->auth == TLS_AUTH_REQUEST || ctx->auth == TLS_AUTH_REQUIRE_ANY;
    SSL_CTX_set_verify(ssl, (asks ? SSL_VERIFY_PEER : SSL_VERIFY_NONE) | (needs ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
                       any ? accept_any : NULL);
}

/* arg: the protocol in ALPN's form. */
static int select_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_n, const unsigned char *in,
                           unsigned in_n, void *arg)
{
    (void)ssl;
    const unsigned char *own = arg;
    for (unsigned i = 0; i < in_n && i + 1u + in[i] <= in_n; i += 1u + in[i])
        if (in[i] == own[0] && memcmp(in + i + 1, own + 1, own[0]) == 0) {
            *out = in + i + 1;
            *out_n = in[i];
            return SSL_TLSEXT_ERR_OK;
        }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static SSL_CTX *build(struct tls_context *ctx, struct err *err)
{
    SSL_CTX *ssl = SSL_CTX_new(ctx->server ? TLS_server_method() : TLS_client_method());
    if (!ssl) {
        openssl_failed(err, "cannot make a TLS context", "");
        return NULL;
    }
    SSL_CTX_set_min_proto_version(ssl, ctx->min_version);
    SSL_CTX_set_options(ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET |
                                 SSL_OP_IGNORE_UNEXPECTED_EOF | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(ssl, 0);
    SSL_CTX_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    set_verification(ctx, ssl);
    if (ctx->server)
        SSL_CTX_set_alpn_select_cb(ssl, select_protocol, ctx->protocol);
    else
        SSL_CTX_set_alpn_protos(ssl, ctx->protocol, ctx->protocol[0] + 1u);
    bool fine = !ctx->suites.n || SSL_CTX_set_cipher_list(ssl, buf_cstr(&ctx->suites)) == 1 ||
                openssl_failed(err, "cannot use the cipher suites", buf_cstr(&ctx->suites));
    if (fine && load_files(ctx, ssl, err))
        return ssl;
    SSL_CTX_free(ssl);
    return NULL;
}

static struct tls_stamp stamp_of(const char *path)
{
    struct stat st;
    if (!path[0] || stat(path, &st) != 0)
        return (struct tls_stamp){0};
    return (struct tls_stamp){.ino = st.st_ino, .size = st.st_size, .mtime = st.st_mtim, .there = true};
}

static bool stamps_differ(const struct tls_stamp *a, const struct tls_stamp *b)
{
    return a->ino != b->ino || a->size != b->size || a->mtime.tv_sec != b->mtime.tv_sec ||
           a->mtime.tv_nsec != b->mtime.tv_nsec || a->there != b->there;
}

/* Whether the files are others than when they were looked at last. Needs ctx->lock, or the constructor. */
static bool take_stamps(struct tls_context *ctx)
{
    const char *const paths[] = {ctx->cert_path, ctx->key_path, ctx->ca_path};
    bool changed = false;
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        struct tls_stamp now = stamp_of(paths[i]);
        changed = changed || stamps_differ(&now, &ctx->stamps[i]);
        ctx->stamps[i] = now;
    }
    return changed;
}

SSL_CTX *tls_context_current(struct tls_context *ctx)
{
    struct err err = ERR_NONE;
    pthread_mutex_lock(&ctx->lock);
    if (take_stamps(ctx)) {
        SSL_CTX *fresh = build(ctx, &err);
        if (fresh) {
            SSL_CTX_free(ctx->ssl);
            ctx->ssl = fresh;
            LOG_INFO("TLS files changed and were read again", {"certificate", LOG_STR(ctx->cert_path)});
        } else {
            LOG_WARN("TLS files changed and cannot be used; the old ones stay", {"err", LOG_ERR(&err)});
        }
    }
    SSL_CTX *ssl = ctx->ssl;
    SSL_CTX_up_ref(ssl);
    pthread_mutex_unlock(&ctx->lock);
    return ssl;
}

/* --- life cycle ------------------------------------------------------------------------------------------------ */

static struct tls_context *context_new(const char *cert_path, const char *key_path, const char *ca_path, const char *protocol)
{
    struct tls_context *ctx = calloc(1, sizeof *ctx);
    ASSERT(ctx && strlen(protocol) < sizeof ctx->protocol);
    ctx->cert_path = text(cert_path);
    ctx->key_path = text(key_path);
    ctx->ca_path = text(ca_path);
    ctx->protocol[0] = (unsigned char)strlen(protocol);
    memcpy(ctx->protocol + 1, protocol, strlen(protocol));
    pthread_mutex_init(&ctx->lock, NULL);
    return ctx;
}

static struct tls_context *context_finish(struct tls_context *ctx, bool fine, struct err *err)
{
    take_stamps(ctx);
    ctx->ssl = fine ? build(ctx, err) : NULL;
    if (ctx->ssl)
        return ctx;
    tls_context_free(ctx);
    return NULL;
}

/* Only suites of TLS 1.3 were named, and those are always on: nothing is left for TLS 1.2. */
static bool set_choice(struct tls_context *ctx, const char *min_version, const char *suites, struct err *err)
{
    if (!parse_version(text(min_version), &ctx->min_version, err) || !parse_suites(text(suites), &ctx->suites, err))
        return false;
    if (text(suites)[0] && !ctx->suites.n)
        ctx->min_version = TLS1_3_VERSION;
    return true;
}

static bool both_or_none(const struct tls_context *ctx, struct err *err)
{
    if (ctx->cert_path[0] && !ctx->key_path[0])
        return err_set(err, ERR_CONFIG, "a TLS certificate is given without its key");
    if (!ctx->cert_path[0] && ctx->key_path[0])
        return err_set(err, ERR_CONFIG, "a TLS key is given without its certificate");
    return true;
}

struct tls_context *tls_client_new(const struct tls_client_config *cfg, const char *protocol, struct err *err)
{
    struct tls_context *ctx = context_new(cfg->cert_path, cfg->key_path, cfg->ca_path, protocol);
    ctx->server_name = text(cfg->server_name);
    ctx->skip_verify = cfg->insecure_skip_verify;
    return context_finish(ctx, both_or_none(ctx, err) && set_choice(ctx, cfg->min_version, cfg->cipher_suites, err), err);
}

struct tls_context *tls_server_new(const struct tls_server_config *cfg, const char *protocol, struct err *err)
{
    struct tls_context *ctx = context_new(cfg->cert_path, cfg->key_path, cfg->ca_path, protocol);
    ctx->server = true;
    ctx->server_name = "";
    bool fine = both_or_none(ctx, err) && parse_client_auth(text(cfg->client_auth), &ctx->auth, err) &&
                set_choice(ctx, cfg->min_version, cfg->cipher_suites, err);
    if (fine && ctx->ca_path[0] && ctx->auth == TLS_AUTH_NONE)
        fine = err_set(err, ERR_CONFIG, "client CA's have been configured without a Client Auth Policy");
    return context_finish(ctx, fine, err);
}

void tls_context_free(struct tls_context *ctx)
{
    if (!ctx)
        return;
    SSL_CTX_free(ctx->ssl);
    buf_release(&ctx->suites);
    pthread_mutex_destroy(&ctx->lock);
    free(ctx);
}
