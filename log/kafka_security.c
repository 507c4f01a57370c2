/*
 * SASL and TLS of the connections to Kafka: Mimir's flags to librdkafka's properties, and what librdkafka asks for while it runs.
 *
 * OAUTHBEARER: a thread of librdkafka's asks for a token when a handle is made, and again before it is TOKEN_LIFE_MS old. It is taken from the flag, or read
 * from the file, which somebody else keeps fresh; when that fails librdkafka asks again in ten seconds, and connections wait meanwhile.
 *
 * librdkafka 2.0 has no setting for the name in the brokers' certificates. So with one its own check of the name is off, and a callback compares the name
 * with the leaf of each chain that was verified.
 */
#include <errno.h>
#include <jansson.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "log/kafka_int.h"

#define TOKEN_LIFE_MS 300000
#define TOKEN_MAX 65536
#define EXTENSIONS_MAX 32

static bool is_scram(const struct plog_config *cfg)
{
    return strncmp(cfg->kafka_sasl_mechanism, "SCRAM-", 6) == 0;
}

static bool is_oauth(const struct plog_config *cfg)
{
    return strcmp(cfg->kafka_sasl_mechanism, "OAUTHBEARER") == 0;
}

/* As in Mimir, PLAIN without a user means no SASL. */
static bool wants_sasl(const struct plog_config *cfg)
{
    return cfg->kafka_sasl_username[0] || is_scram(cfg) || is_oauth(cfg);
}

/* --- OAUTHBEARER ------------------------------------------------------------------------------------------------------ */

/* The object of the flag; the caller's reference. NULL: it is none, or a value is no text. */
static json_t *parse_extensions(const char *text)
{
    json_t *all = json_loads(text[0] ? text : "{}", JSON_REJECT_DUPLICATES, NULL);
    const char *name;
    json_t *value;
    bool ok = json_is_object(all) && json_object_size(all) <= EXTENSIONS_MAX;
    if (ok)
        json_object_foreach (all, name, value)
            ok = ok && json_is_string(value);
    if (ok)
        return all;
    json_decref(all);
    return NULL;
}

static bool check_oauth(const struct plog_config *cfg, struct err *err)
{
    if (cfg->kafka_oauth_zid[0] || cfg->kafka_oauth_socket_path[0])
        return err_set(err, ERR_CONFIG, "-ingest-storage.kafka.sasl-oauthbearer-%s cannot be used: the Kafka client has no such thing",
                       cfg->kafka_oauth_zid[0] ? "zid" : "http-socket-path");
    if (!cfg->kafka_oauth_token[0] == !cfg->kafka_oauth_file_path[0])
        return err_set(err, ERR_CONFIG,
                       "-ingest-storage.kafka.sasl-mechanism=OAUTHBEARER needs one of -ingest-storage.kafka.sasl-oauthbearer-token and "
                       "-ingest-storage.kafka.sasl-oauthbearer-file-path");
    json_t *extensions = parse_extensions(cfg->kafka_oauth_extensions);
    if (!extensions)
        return err_set(err, ERR_CONFIG,
                       "-ingest-storage.kafka.sasl-oauthbearer-extensions is no JSON object of at most %d texts", EXTENSIONS_MAX);
    json_decref(extensions);
    return true;
}

/* The token in a file's text: the member of a JSON object, or all of it. Points into text or *ret_json. */
static struct slice token_in(struct slice text, json_t **ret_json)
{
    *ret_json = text.n && text.p[0] == '{' ? json_loadb(text.p, text.n, 0, NULL) : NULL;
    if (*ret_json)
        return slice_of(json_string_value(json_object_get(*ret_json, "token")));
    while (text.n && strchr(" \t\r\n", text.p[text.n - 1]))
        text.n--;
    return text;
}

/* The token as a string that the caller frees; NULL: err says why. */
static char *load_token(const struct plog_config *cfg, struct err *err)
{
    if (cfg->kafka_oauth_token[0])
        return strdup(cfg->kafka_oauth_token);
    FILE *f = fopen(cfg->kafka_oauth_file_path, "re");
    if (!f) {
        err_errno(err, ERR_CONFIG, errno, "opening %s", cfg->kafka_oauth_file_path);
        return NULL;
    }
    char *text = malloc(TOKEN_MAX), *token = NULL;
    ASSERT(text);
    size_t n = fread(text, 1, TOKEN_MAX, f);
    json_t *json;
    struct slice found = token_in(slice_make(text, n), &json);
    if (found.n && n < TOKEN_MAX)
        token = strndup(found.p, found.n);
    else
        err_set(err, ERR_CONFIG, "%s holds no token", cfg->kafka_oauth_file_path);
    json_decref(json);
    free(text);
    fclose(f);
    return token;
}

static void give_token(rd_kafka_t *rk, const struct plog_config *cfg, const char *token)
{
    const char *pairs[2 * EXTENSIONS_MAX], *name;
    size_t n = 0;
    json_t *extensions = parse_extensions(cfg->kafka_oauth_extensions), *value;
    json_object_foreach (extensions, name, value) {
        pairs[n++] = name;
        pairs[n++] = json_string_value(value);
    }
    char text[512];
    if (rd_kafka_oauthbearer_set_token(rk, token, clock_wall_ms() + TOKEN_LIFE_MS, "brunn", pairs, n, text, sizeof(text)))
        rd_kafka_oauthbearer_set_token_failure(rk, text);
    json_decref(extensions);
}

/* On a thread of librdkafka's. */
static void refresh_token(rd_kafka_t *rk, const char *config, void *opaque)
{
    (void)config;
    const struct kafka *k = opaque;
    struct err err = ERR_NONE;
    char *token = load_token(&k->cfg, &err);
    if (token)
        give_token(rk, &k->cfg, token);
    else
        rd_kafka_oauthbearer_set_token_failure(rk, err.text); /* it logs it */
    free(token);
}

/* --- TLS ---------------------------------------------------------------------------------------------------------------- */

/* The lowest version that the system allows, which is what librdkafka's connections have. 0: any. */
static int system_min_version(void)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    int version = ctx ? (int)SSL_CTX_get_min_proto_version(ctx) : 0;
    SSL_CTX_free(ctx);
    return version;
}

static bool check_min_version(const char *name, struct err *err)
{
    static const struct {
        const char *name;
        int version;
    } versions[] = {{"", 0},
                    {"VersionTLS10", TLS1_VERSION},
                    {"VersionTLS11", TLS1_1_VERSION},
                    {"VersionTLS12", TLS1_2_VERSION},
                    {"VersionTLS13", TLS1_3_VERSION}};
    for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
        if (strcmp(name, versions[i].name) != 0)
            continue;
        if (versions[i].version <= system_min_version())
            return true;
        return err_set(err, ERR_CONFIG,
                       "-ingest-storage.kafka.tls-min-version=%s: the Kafka client has no such setting, and the system's configuration of "
                       "OpenSSL allows lower versions",
                       name);
    }
    return err_set(err, ERR_CONFIG,
                   "invalid value for flag -ingest-storage.kafka.tls-min-version: \"%s\" is not VersionTLS10, VersionTLS11, VersionTLS12 "
                   "or VersionTLS13",
                   name);
}

/* OpenSSL's names of the suites, separated by colons, which librdkafka wants. */
static bool put_cipher_suites(const char *names, struct buf *out, struct err *err)
{
    for (const char *at = names; *at;) {
        size_t n = strcspn(at, ",");
        char name[64];
        snprintf(name, sizeof(name), "%.*s", (int)MIN(n, sizeof(name) - 1), at);
        const char *openssl_name = OPENSSL_cipher_name(name);
        if (strcmp(openssl_name, "(NONE)") == 0)
            return err_set(err, ERR_CONFIG, "-ingest-storage.kafka.tls-cipher-suites: unknown cipher suite %s", name);
        buf_printf(out, "%s%s", out->n ? ":" : "", openssl_name);
        at += n + (at[n] == ',');
    }
    return true;
}

/* On a thread of librdkafka's, for each certificate of a chain; depth 0 is the broker's own. */
static int check_certificate(rd_kafka_t *rk, const char *broker_name, int32_t broker_id, int *x509_error, int depth, const char *bytes,
                             size_t n, char *text, size_t text_size, void *opaque)
{
    (void)rk, (void)broker_id;
    const struct kafka *k = opaque;
    if (*x509_error)
        return 0;
    if (depth > 0)
        return 1;
    const unsigned char *der = (const unsigned char *)bytes;
    X509 *certificate = d2i_X509(NULL, &der, (long)n);
    int same = certificate && X509_check_host(certificate, k->cfg.kafka_tls_server_name, 0, 0, NULL) == 1;
    X509_free(certificate);
    if (!same) {
        *x509_error = X509_V_ERR_HOSTNAME_MISMATCH;
        snprintf(text, text_size, "the certificate of %s is not for %s", broker_name, k->cfg.kafka_tls_server_name);
    }
    return same;
}

static void set_tls(struct kafka_props *p, const struct plog_config *cfg)
{
    struct buf suites;
    buf_init(&suites, 0);
    p->ok = p->ok && put_cipher_suites(cfg->kafka_tls_cipher_suites, &suites, p->err);
    kafka_prop_set_unless_empty(p, "ssl.cipher.suites", buf_cstr(&suites));
    buf_release(&suites);
    kafka_prop_set_unless_empty(p, "ssl.ca.location", cfg->kafka_tls_ca_path);
    kafka_prop_set_unless_empty(p, "ssl.certificate.location", cfg->kafka_tls_cert_path);
    kafka_prop_set_unless_empty(p, "ssl.key.location", cfg->kafka_tls_key_path);
    if (cfg->kafka_tls_insecure_skip_verify) {
        kafka_prop_set(p, "enable.ssl.certificate.verification", "false");
        kafka_prop_set(p, "ssl.endpoint.identification.algorithm", "none");
    } else if (cfg->kafka_tls_server_name[0]) {
        kafka_prop_set(p, "ssl.endpoint.identification.algorithm", "none");
        rd_kafka_conf_set_ssl_cert_verify_cb(p->conf, check_certificate);
    }
}

/* --- all of it ------------------------------------------------------------------------------------------------------------ */

bool kafka_security_check(const struct plog_config *cfg, struct err *err)
{
    static const char *const mechanisms[] = {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"};
    bool known = false;
    for (size_t i = 0; i < ARRAY_LEN(mechanisms); i++)
        known |= strcmp(cfg->kafka_sasl_mechanism, mechanisms[i]) == 0;
    if (!known)
        return err_set(err, ERR_CONFIG,
                       "invalid value for flag -ingest-storage.kafka.sasl-mechanism: \"%s\" is not PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or "
                       "OAUTHBEARER",
                       cfg->kafka_sasl_mechanism);
    if (is_scram(cfg) && !cfg->kafka_sasl_username[0])
        return err_set(err, ERR_CONFIG, "-ingest-storage.kafka.sasl-mechanism=%s needs -ingest-storage.kafka.sasl-username",
                       cfg->kafka_sasl_mechanism);
    if (is_oauth(cfg) && !check_oauth(cfg, err))
        return false;
    return !cfg->kafka_tls_enabled || check_min_version(cfg->kafka_tls_min_version, err);
}

void kafka_security_set(struct kafka_props *p, const struct plog_config *cfg)
{
    bool sasl = wants_sasl(cfg), tls = cfg->kafka_tls_enabled;
    kafka_prop_set(p, "security.protocol", sasl ? tls ? "sasl_ssl" : "sasl_plaintext" : tls ? "ssl" : "plaintext");
    if (sasl)
        kafka_prop_set(p, "sasl.mechanism", cfg->kafka_sasl_mechanism);
    if (is_oauth(cfg)) {
        rd_kafka_conf_set_oauthbearer_token_refresh_cb(p->conf, refresh_token);
        rd_kafka_conf_enable_sasl_queue(p->conf, 1);
    } else if (sasl) {
        kafka_prop_set(p, "sasl.username", cfg->kafka_sasl_username);
        kafka_prop_set(p, "sasl.password", cfg->kafka_sasl_password);
    }
    if (tls)
        set_tls(p, cfg);
}

bool kafka_security_start(rd_kafka_t *rk, const struct plog_config *cfg, struct err *err)
{
    rd_kafka_error_t *error = is_oauth(cfg) ? rd_kafka_sasl_background_callbacks_enable(rk) : NULL;
    if (!error)
        return true;
    err_set(err, ERR_INTERNAL, "Kafka client: %s", rd_kafka_error_string(error));
    rd_kafka_error_destroy(error);
    return false;
}
