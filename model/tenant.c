/*
 * Tenant ids.
 *
 * The header's grammar:   header = part *( "|" part )     part = id *( ":" metadata )     metadata = "key=value"
 * Metadata does not name a tenant: "a:k=v" is the tenant a. It is cut off without a look at its grammar, as Mimir's
 * query path does; only control characters are refused, since nothing that is printed or logged may carry them.
 */
#include "model/tenant.h"

#include <string.h>

#include "base/utf8.h"

/* Tenants that a header is counted up to exactly; beyond it every part counts. It is only a number in an error text. */
#define TENANT_COUNT_MAX 64

static bool is_id_char(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c && strchr("!_.*'()-", c));
}

/* Names the first byte that is not allowed; one beyond ASCII as the character of that number, as Mimir does. */
static bool refuse_char(struct slice id, size_t at, struct err *err)
{
    unsigned char c = (unsigned char)id.p[at];
    char rune[4];
    size_t size = utf8_encode(c, rune);
    struct slice shown = utf8_cut(id, 4 * TENANT_ID_MAX);
    if (c < 0x20 || c == 0x7f)
        return err_set(err, ERR_UNAUTHENTICATED, "tenant ID contains an unsupported control character 0x%02x", c);
    return err_set(err, ERR_UNAUTHENTICATED, "tenant ID '%.*s' contains unsupported character '%.*s'", SL_FMT(shown),
                   (int)size, rune);
}

bool tenant_id_valid(struct slice id, struct err *err)
{
    if (id.n == 0)
        return err_set(err, ERR_UNAUTHENTICATED, "no org id");
    for (size_t i = 0; i < id.n; i++) {
        if (!is_id_char((unsigned char)id.p[i]))
            return refuse_char(id, i, err);
    }
    if (id.n > TENANT_ID_MAX)
        return err_set(err, ERR_UNAUTHENTICATED, "tenant ID is too long: max %d characters", TENANT_ID_MAX);
    if (slice_eq(id, SL(".")) || slice_eq(id, SL("..")))
        return err_set(err, ERR_UNAUTHENTICATED, "tenant ID is '.' or '..'");
    if (slice_eq(id, SL("__mimir_cluster"))) /* that prefix of the bucket holds the cluster's own files */
        return err_set(err, ERR_UNAUTHENTICATED, "tenant ID '__mimir_cluster' is reserved");
    return true;
}

/* Takes the next part off *rest. */
static struct slice next_part(struct slice *rest)
{
    const char *bar = memchr(rest->p, '|', rest->n);
    struct slice part = *rest;
    if (bar) {
        part.n = (size_t)(bar - rest->p);
        *rest = slice_make(bar + 1, rest->n - part.n - 1);
    } else {
        *rest = slice_make(NULL, 0);
    }
    return part;
}

static bool parse_part(struct slice part, struct slice *ret_id, struct err *err)
{
    struct slice id = part;
    const char *colon = part.n ? memchr(part.p, ':', part.n) : NULL;
    if (colon)
        id.n = (size_t)(colon - part.p);
    for (size_t i = id.n; i < part.n; i++) {
        unsigned char c = (unsigned char)part.p[i];
        if (c < 0x20 || c == 0x7f)
            return err_set(err, ERR_UNAUTHENTICATED, "tenant metadata contains an unsupported control character 0x%02x",
                           c);
    }
    if (id.n == 0) /* Mimir lets "|" and ":k=v" through as the tenant "", whose files lie at the root of the storage */
        return err_set(err, ERR_UNAUTHENTICATED, "tenant ID is empty");
    if (!tenant_id_valid(id, err))
        return false;
    *ret_id = id;
    return true;
}

bool tenant_parse(struct slice header, struct slice *ret_tenant, struct err *err)
{
    if (header.n == 0)
        return err_set(err, ERR_UNAUTHENTICATED, "no org id");
    struct slice seen[TENANT_COUNT_MAX];
    size_t n_seen = 0;
    size_t n_tenants = 0;
    struct slice rest = header;
    bool more = true;
    while (more) {
        more = memchr(rest.p ? rest.p : "", '|', rest.n) != NULL;
        struct slice id = {NULL, 0};
        if (!parse_part(next_part(&rest), &id, err))
            return false;
        size_t i = 0;
        while (i < n_seen && !slice_eq(seen[i], id))
            i++;
        if (i < n_seen)
            continue; /* "a|a" is a */
        n_tenants++;
        if (n_seen < TENANT_COUNT_MAX)
            seen[n_seen++] = id;
    }
    if (n_tenants > 1)
        return err_set(err, ERR_TOO_MANY_TENANTS, "too many tenant IDs present in the request. max: 1 actual: %zu",
                       n_tenants);
    *ret_tenant = seen[0];
    return true;
}
