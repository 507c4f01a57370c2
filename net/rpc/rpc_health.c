/*
 * grpc.health.v1.Health: Check answers SERVING (1) or NOT_SERVING (2) for the server as a whole ("") and for each
 * service that it has; NOT_FOUND for others. HealthCheckRequest {1 service string}, HealthCheckResponse {1 status
 * enum}. Watch is not served.
 */
#include "net/rpc/rpc_int.h"

/* The last field 1; false: malformed. Only this message is read, so that the room needs no decoder of its own. */
static bool read_service(struct slice in, struct slice *ret)
{
    *ret = SL("");
    while (in.n) {
        if (in.n < 2 || in.p[0] != 0x0a || (unsigned char)in.p[1] > 127 || (size_t)in.p[1] > in.n - 2)
            return false;
        *ret = slice_make(in.p + 2, (size_t)in.p[1]);
        in = slice_make(ret->p + ret->n, in.n - 2 - ret->n);
    }
    return true;
}

static bool has_service(const struct rpc_server *s, struct slice service)
{
    if (service.n == 0)
        return true;
    for (size_t i = 0; i < s->n_entries; i++) {
        struct slice name = s->entries[i].label;
        name = slice_make(name.p + 1, name.n - 1);
        if (slice_has_prefix(name, service) && name.n > service.n && name.p[service.n] == '/')
            return true;
    }
    return false;
}

static void check(struct rpc_request *req, void *arg)
{
    const struct rpc_server *s = arg;
    struct slice service;
    if (!read_service(rpc_body(req), &service)) {
        rpc_finish(req, RPC_INTERNAL, SL("malformed HealthCheckRequest"), SL(""));
        return;
    }
    if (!has_service(s, service)) {
        rpc_finish(req, RPC_NOT_FOUND, SL("unknown service"), SL(""));
        return;
    }
    struct buf answer = {0};
    buf_putc(&answer, 0x08);
    buf_putc(&answer, atomic_load(&s->serving) ? 1 : 2);
    rpc_respond(req, &answer);
}

static void watch(struct rpc_request *req, void *arg)
{
    (void)arg;
    rpc_finish(req, RPC_UNIMPLEMENTED, SL("Watch is not served"), SL(""));
}

const struct rpc_method rpc_health_methods[] = {
    {"/grpc.health.v1.Health/Check", check, false},
    {"/grpc.health.v1.Health/Watch", watch, true},
};
const size_t rpc_health_methods_n = ARRAY_LEN(rpc_health_methods);
