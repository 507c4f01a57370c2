/*
 * Connections. OpenSSL reads and writes through a BIO of ours, because its own one for sockets raises SIGPIPE when the
 * peer has gone.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "net/tls_int.h"

struct tls {
    SSL *ssl;
    SSL_CTX *ctx; /* a reference */
    int fd;
    const char *reason; /* static; "" */
};

/* --- the BIO ------------------------------------------------------------------------------------------------------ */

static int bio_write(BIO *bio, const char *p, int n)
{
    const struct tls *t = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    ssize_t rc = send(t->fd, p, (size_t)n, MSG_NOSIGNAL);
    if (rc < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        BIO_set_retry_write(bio);
    return (int)rc;
}

static int bio_read(BIO *bio, char *p, int n)
{
    const struct tls *t = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    ssize_t rc = recv(t->fd, p, (size_t)n, 0);
    if (rc < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        BIO_set_retry_read(bio);
    if (rc == 0)
        BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
    return (int)rc;
}

static long bio_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
    (void)num;
    (void)ptr;
    if (cmd == BIO_CTRL_EOF)
        return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
    return cmd == BIO_CTRL_FLUSH || cmd == BIO_CTRL_DUP;
}

static BIO_METHOD *bio_method;

static void make_method(void)
{
    bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket without SIGPIPE");
    ASSERT(bio_method);
    BIO_meth_set_write(bio_method, bio_write);
    BIO_meth_set_read(bio_method, bio_read);
    BIO_meth_set_ctrl(bio_method, bio_ctrl);
}

static bool attach(struct tls *t)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_method);
    BIO *bio = BIO_new(bio_method);
    if (!bio)
        return false;
    BIO_set_data(bio, t);
    BIO_set_init(bio, 1);
    SSL_set_bio(t->ssl, bio, bio); /* takes the reference */
    return true;
}

/* --- life cycle ------------------------------------------------------------------------------------------------ */

static bool is_number(const char *host)
{
    struct in6_addr six;
    struct in_addr four;
    return inet_pton(AF_INET, host, &four) == 1 || inet_pton(AF_INET6, host, &six) == 1;
}

/* The peer's certificate must be of this name or address; a name is also told to the server. */
static bool set_host(struct tls *t, const char *host)
{
    if (is_number(host))
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(t->ssl), host) == 1;
    return SSL_set1_host(t->ssl, host) == 1 && SSL_set_tlsext_host_name(t->ssl, host) == 1;
}

struct tls *tls_new(struct tls_context *ctx, int fd, const char *host, struct err *err)
{
    struct tls *t = calloc(1, sizeof *t);
    ASSERT(t);
    t->fd = fd;
    t->reason = "";
    t->ctx = tls_context_current(ctx);
    t->ssl = SSL_new(t->ctx);
    bool fine = t->ssl && attach(t);
    if (fine && ctx->server)
        SSL_set_accept_state(t->ssl);
    if (fine && !ctx->server) {
        SSL_set_connect_state(t->ssl);
        fine = set_host(t, ctx->server_name[0] ? ctx->server_name : host);
    }
    if (fine)
        return t;
    tls_free(t);
    ERR_clear_error();
    err_set(err, ERR_UNAVAILABLE, "cannot begin a TLS connection");
    return NULL;
}

void tls_free(struct tls *t)
{
    if (!t)
        return;
    SSL_free(t->ssl);
    SSL_CTX_free(t->ctx);
    free(t);
}

/* --- handshake, bytes ---------------------------------------------------------------------------------------------- */

static bool handshake_failed(struct tls *t, int why, struct err *err)
{
    unsigned long code = ERR_peek_error();
    long verdict = SSL_get_verify_result(t->ssl);
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    if (!reason)
        reason = why == SSL_ERROR_SYSCALL && errno ? strerror(errno) : "the peer closed the connection";
    bool verify = verdict != X509_V_OK && code && ERR_GET_REASON(code) == SSL_R_CERTIFICATE_VERIFY_FAILED;
    err_set(err, ERR_UNAVAILABLE, "TLS handshake: %s%s%s", reason, verify ? ": " : "",
            verify ? X509_verify_cert_error_string(verdict) : "");
    ERR_clear_error();
    return false;
}

enum tls_result tls_handshake(struct tls *t, struct err *err)
{
    ERR_clear_error();
    errno = 0;
    int rc = SSL_do_handshake(t->ssl);
    if (rc == 1)
        return TLS_DONE;
    int why = SSL_get_error(t->ssl, rc);
    if (why == SSL_ERROR_WANT_READ)
        return TLS_WANT_READ;
    if (why == SSL_ERROR_WANT_WRITE)
        return TLS_WANT_WRITE;
    handshake_failed(t, why, err);
    return TLS_FAILED;
}

static ssize_t result_of(struct tls *t, int rc, size_t n)
{
    if (rc == 1)
        return (ssize_t)n;
    int saved = errno;
    int why = SSL_get_error(t->ssl, rc);
    const char *reason = why == SSL_ERROR_SSL ? ERR_reason_error_string(ERR_peek_error()) : NULL;
    t->reason = reason ? reason : "";
    ERR_clear_error();
    if (why == SSL_ERROR_ZERO_RETURN)
        return 0;
    errno = why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? EAGAIN
            : why == SSL_ERROR_SYSCALL && saved                        ? saved
                                                                        : EPROTO;
    return -1;
}

ssize_t tls_read(struct tls *t, void *p, size_t n)
{
    size_t got = 0;
    ERR_clear_error();
    errno = 0;
    int rc = SSL_read_ex(t->ssl, p, n, &got);
    return result_of(t, rc, got);
}

ssize_t tls_write(struct tls *t, const void *p, size_t n)
{
    size_t sent = 0;
    ERR_clear_error();
    errno = 0;
    int rc = SSL_write_ex(t->ssl, p, n, &sent);
    ssize_t result = result_of(t, rc, sent);
    if (result != 0 || n == 0)
        return result;
    errno = EPIPE; /* the peer has ended; to a sender that is an error */
    return -1;
}

const char *tls_reason(const struct tls *t)
{
    return t->reason;
}

void tls_end(struct tls *t)
{
    ERR_clear_error();
    if (SSL_is_init_finished(t->ssl))
        SSL_shutdown(t->ssl);
    ERR_clear_error();
}

const char *tls_peer(int fd, char ret[TLS_PEER_MAX])
{
    struct sockaddr_storage addr = {0};
    socklen_t n = sizeof addr;
    char host[48] = "?";
    char port[8] = "?";
    if (getpeername(fd, (struct sockaddr *)&addr, &n) == 0)
        getnameinfo((struct sockaddr *)&addr, n, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(ret, TLS_PEER_MAX, "%s:%s", host, port);
    return ret;
}
