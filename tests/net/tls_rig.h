/* Certificates for the tests of TLS, made anew by the program openssl in a folder of the test's own. */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "net/tls.h"

struct certs {
    char dir[64];
    char *paths[16]; /* handed out by certs_path */
    size_t n_paths;
};

/* The file of this name; good for the life of the rig. */
__attribute__((unused)) static const char *certs_path(struct certs *c, const char *name)
{
    ASSERT(c->n_paths < ARRAY_LEN(c->paths));
    char *path;
    int rc = asprintf(&path, "%s/%s", c->dir, name);
    ASSERT(rc > 0);
    c->paths[c->n_paths++] = path;
    return path;
}

static void certs_run(struct certs *c, const char *script)
{
    char command[2048];
    snprintf(command, sizeof command, "cd %s && { %s; } >log 2>&1", c->dir, script);
    int rc = system(command);
    if (rc != 0)
        fprintf(stderr, "%s: %d\n", command, rc);
    ASSERT(rc == 0);
}

/* NAME.pem and NAME.key, signed by CA.pem, good for `days` from now (negative: since long). */
static void certs_issue(struct certs *c, const char *ca, const char *name, int days)
{
    char script[1024];
    snprintf(script, sizeof script,
             "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout %s.key -out %s.csr -subj /CN=%s && "
             "openssl x509 -req -in %s.csr -CA %s.pem -CAkey %s.key -CAcreateserial -days %d -extfile names -out %s.pem",
             name, name, name, name, ca, ca, days, name);
    certs_run(c, script);
}

/* ca, server and client (of ca), late (of ca, expired), other (another authority), stranger (of other). */
__attribute__((unused)) static void certs_new(struct certs *c)
{
    *c = (struct certs){.dir = "/tmp/brunn-certs-XXXXXX"};
    char *made = mkdtemp(c->dir);
    ASSERT(made);
    certs_run(c, "echo 'subjectAltName=DNS:localhost,IP:127.0.0.1' >names; for ca in ca other; do openssl req -x509 -newkey ec -pkeyopt "
                 "ec_paramgen_curve:P-256 -nodes -keyout $ca.key -out $ca.pem -days 2 -subj /CN=$ca || exit 1; done");
    certs_issue(c, "ca", "server", 2);
    certs_issue(c, "ca", "client", 2);
    certs_issue(c, "ca", "late", -1);
    certs_issue(c, "other", "stranger", 2);
}

__attribute__((unused)) static void certs_free(struct certs *c)
{
    char command[96];
    snprintf(command, sizeof command, "rm -r %s", c->dir);
    int rc = system(command);
    ASSERT(rc == 0);
    for (size_t i = 0; i < c->n_paths; i++)
        free(c->paths[i]);
}
