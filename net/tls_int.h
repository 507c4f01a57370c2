/* Private to net/tls*.c. */
#pragma once

#include <openssl/ssl.h>
#include <pthread.h>
#include <time.h>

#include "base/assert.h"
#include "base/buf.h"
#include "net/tls.h"

enum tls_client_auth {
    TLS_AUTH_NONE,
    TLS_AUTH_REQUEST,
    TLS_AUTH_REQUIRE_ANY,
    TLS_AUTH_VERIFY_IF_GIVEN,
    TLS_AUTH_REQUIRE_AND_VERIFY
};

/* A file as it was when it was read. */
struct tls_stamp {
    ino_t ino;
    off_t size;
    struct timespec mtime;
    bool there;
};

struct tls_context {
    /* Immutable after construction. */
    bool server;
    const char *cert_path, *key_path, *ca_path; /* "" when not given */
    const char *server_name;
    bool skip_verify;
    enum tls_client_auth auth;
    int min_version;
    struct buf suites; /* OpenSSL's names, with colons between */
    unsigned char protocol[16]; /* length, name; connections may outlive it only after their handshake */

    pthread_mutex_t lock;
    /* Guarded by lock. */
    struct tls_stamp stamps[3];
    SSL_CTX *ssl; /* a reference */
};

/* The files as they are now. The reference is the caller's. */
SSL_CTX *tls_context_current(struct tls_context *ctx);
