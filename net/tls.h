/*
 * TLS over a connected, non-blocking socket (OpenSSL), for servers and clients of any protocol here.
 *
 * A context holds certificate, key and authorities; each new connection looks whether their files have changed, and
 * then reads them anew (when they cannot be read, the old ones stay, and a warning is logged). Sessions are not resumed:
 * each connection proves who it is by the files of its time.
 *
 * A connection never blocks: its functions say what they wait for. It does not own the socket. Names and values of the
 * options are Mimir's; TLS 1.2 is the lowest version unless said otherwise.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/flags.h"

/* Strings may be NULL, which is as good as empty; they must outlive the context. */
struct tls_client_config {
#define FLAG FLAG_FIELD
#include "net/tls_flags.def"
#undef FLAG
};

struct tls_server_config {
    const char *cert_path;
    const char *key_path;
    /* "" or NoClientCert, RequestClientCert, RequireAnyClientCert (also RequireClientCert), VerifyClientCertIfGiven,
     * RequireAndVerifyClientCert. */
    const char *client_auth;
    const char *ca_path; /* of the clients' certificates */
    const char *min_version;
    const char *cipher_suites;
};

/* Any thread. */
struct tls_context;
/* protocol: what is agreed upon by ALPN, "h2" or "http/1.1"; a peer that offers none is taken too. NULL: err names the
 * option or the file. */
struct tls_context *tls_client_new(const struct tls_client_config *cfg, const char *protocol, struct err *err);
struct tls_context *tls_server_new(const struct tls_server_config *cfg, const char *protocol, struct err *err);
/* Connections may live on. NULL is fine. */
void tls_context_free(struct tls_context *ctx);
/* Whether a server shall speak TLS: a certificate or a key is given. */
bool tls_server_wanted(const struct tls_server_config *cfg);

/* One connection; owned by one thread at a time. */
struct tls;
/* host: the name or number that the client connects to, unless the configuration names another; NULL on a server. */
struct tls *tls_new(struct tls_context *ctx, int fd, const char *host, struct err *err);
enum tls_result { TLS_DONE, TLS_WANT_READ, TLS_WANT_WRITE, TLS_FAILED };
/* To be called until it is done, each time the socket is readable or writable, as was wanted. */
enum tls_result tls_handshake(struct tls *t, struct err *err);
/* As recv and send on a non-blocking socket: -1 with EAGAIN, ... ; 0 is the peer's end. A write that got EAGAIN must be
 * repeated with the same bytes. */
ssize_t tls_read(struct tls *t, void *p, size_t n);
ssize_t tls_write(struct tls *t, const void *p, size_t n);
/* Why the last tls_read or tls_write failed with EPROTO, for people: "tlsv13 alert certificate required"; "" else. */
const char *tls_reason(const struct tls *t);
/* Says that we have sent all, as far as the socket takes it. */
void tls_end(struct tls *t);
/* NULL is fine. */
void tls_free(struct tls *t);

#define TLS_PEER_MAX 64
/* "10.0.0.7:51334" of a connected socket, for log lines. Writes into ret and returns it. */
const char *tls_peer(int fd, char ret[TLS_PEER_MAX]);
