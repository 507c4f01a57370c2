/*
 * The endpoints with which an operator takes an ingester out of its rings; methods, bodies and statuses are those of
 * Mimir (the rollout-operator calls them), but for what docs/differences.md names.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/json.h"
#include "base/logger.h"
#include "ingest/member/member_int.h"
#include "partition-ring/page.h"

static http_handler shutdown_handler, prepare_shutdown_handler, prepare_partition_handler,
    prepare_instance_handler, unregister_handler;

const struct http_route member_routes[] = {
#define ROUTE(methods, path, pool, flags, handler, help) {methods, path, HTTP_POOL_##pool, flags, handler, help},
#include "ingest/member/member_routes.def"
#undef ROUTE
};
const size_t member_routes_n = ARRAY_LEN(member_routes);

static void respond_json_field(struct http_request *req, const char *name, struct slice value)
{
    struct buf out;
    struct json j;
    buf_init(&out, 0);
    json_init(&j, &out);
    json_obj(&j);
    json_key(&j, slice_of(name));
    json_raw(&j, value);
    json_obj_end(&j);
    http_respond(req, 200, "application/json", &out);
}

/* Whether it is stopping or stopped: nothing is prepared any more then. Under act. */
static bool is_going(struct member *m)
{
    return member_phase(m) >= MEMBER_LEAVING;
}

/* --- shutdown --- */

static void shutdown_handler(struct http_request *req, void *arg)
{
    struct member *m = arg;
    struct err err = ERR_NONE;
    LOG_INFO("shutting the ingester down on request", {"id", LOG_STR(m->id)});
    if (member_shut_down(m, &err)) {
        http_respond_status(req, 204);
        return;
    }
    LOG_ERROR("the rings could not be left", {"id", LOG_STR(m->id)}, {"err", LOG_ERR(&err)});
    http_respond_err(req, &err);
}

/* --- prepare-shutdown --- */

static void respond_prepared(struct http_request *req, struct member *m)
{
    struct buf out;
    buf_init(&out, 0);
    pthread_mutex_lock(&m->lock);
    buf_puts(&out, m->prepared ? "set\n" : "unset\n");
    pthread_mutex_unlock(&m->lock);
    http_respond(req, 200, "text/plain", &out);
}

/* The disk first: a promise that a crash would forget is none. */
static bool change_prepared(struct member *m, bool prepared, struct err *err)
{
    if (is_going(m))
        return err_set(err, ERR_UNAVAILABLE, "the ingester is not running");
    if (!(prepared ? marker_write(m->dir, m->env.now_ms(m->env.arg), err) : marker_remove(m->dir, err)))
        return false;
    member_set_prepared(m, prepared);
    return true;
}

static void prepare_shutdown_handler(struct http_request *req, void *arg)
{
    struct member *m = arg;
    struct err err = ERR_NONE;
    if (http_method(req) == HTTP_GET) {
        respond_prepared(req, m);
        return;
    }
    bool prepared = http_method(req) == HTTP_POST;
    pthread_mutex_lock(&m->act);
    bool ok = change_prepared(m, prepared, &err);
    pthread_mutex_unlock(&m->act);
    LOG_INFO(prepared ? "a stop for good was requested" : "no stop for good is requested any more",
             {"id", LOG_STR(m->id)}, {"ok", LOG_I64(ok)}, {"err", LOG_ERR(&err)});
    if (ok)
        http_respond_status(req, 204);
    else
        http_respond_err(req, &err);
}

/* --- prepare-partition-downscale --- */

/*
 * A PENDING partition is not made INACTIVE: if the downscale were called off, nobody would know what to go back to.
 * DELETE lets go what is not INACTIVE: PENDING becomes ACTIVE by itself.
 */
static bool change_partition(struct member *m, enum http_method method, enum partition_state state, struct err *err)
{
    if (method == HTTP_POST && state == PARTITION_PENDING)
        return err_set(err, ERR_CONFLICT, "partition %d is PENDING: it can be prepared when it is ACTIVE",
                       m->partition);
    enum partition_state to = method == HTTP_POST                                    ? PARTITION_INACTIVE
                              : method == HTTP_DELETE && state == PARTITION_INACTIVE ? PARTITION_ACTIVE
                                                                                     : state;
    if (to == state || partition_lifecycler_change_state(m->owner, to, err))
        return true;
    /* What the ring refuses (a lock) is no matter of this state: 500, as callers know it. */
    if (err->code == ERR_CONFLICT) {
        partition_ring_wrap_error(m->partition_shown_key, err);
        err->code = ERR_INTERNAL;
    }
    return false;
}

static void prepare_partition_handler(struct http_request *req, void *arg)
{
    struct member *m = arg;
    struct err err = ERR_NONE;
    enum partition_state state;
    int64_t changed_s;
    pthread_mutex_lock(&m->act);
    bool known = partition_lifecycler_state(m->owner, &state, &changed_s, &err);
    bool ok = known && change_partition(m, http_method(req), state, &err) &&
              (http_method(req) == HTTP_GET || partition_lifecycler_state(m->owner, &state, &changed_s, &err));
    pthread_mutex_unlock(&m->act);
    if (!ok) {
        LOG_WARN("the partition could not be prepared", {"partition", LOG_I64(m->partition)}, {"err", LOG_ERR(&err)});
        http_respond_text_error(req, err.code == ERR_CONFLICT ? 409 : 500, err.text);
        return;
    }
    char text[32];
    snprintf(text, sizeof(text), "%lld", state == PARTITION_INACTIVE ? (long long)changed_s : 0);
    respond_json_field(req, "timestamp", slice_of(text));
}

/*
 * Read-only in the instance ring keeps writes away where they go by that ring. Here they go by partitions: a yes would
 * be a lie. A 405 must say what is allowed, and libmicrohttpd sends no empty header: so there is one method.
 */
static void prepare_instance_handler(struct http_request *req, void *arg)
{
    (void)arg;
    http_set_header(req, "Allow", "OPTIONS");
    if (http_method(req) == HTTP_OPTIONS) {
        http_respond_status(req, 204);
        return;
    }
    http_respond_text_error(
        req, 405, "writes go by partitions, not by the instance ring: use /ingester/prepare-partition-downscale");
}

/* --- unregister-on-shutdown --- */

/* {"unregister": true} */
static bool parse_unregister(struct slice body, bool *ret, struct err *err)
{
    json_t *doc = json_loadb(body.p ? body.p : "", body.n, 0, NULL);
    const json_t *v = json_object_get(doc, "unregister");
    bool ok = json_is_boolean(v);
    *ret = json_is_true(v);
    json_decref(doc);
    return ok || err_set(err, ERR_BAD_DATA, "the body must be {\"unregister\": true} or {\"unregister\": false}");
}

static bool change_unregister(struct member *m, struct http_request *req, struct err *err)
{
    bool unregister = m->unregister_by_flag;
    if (http_method(req) == HTTP_GET)
        return true;
    if (is_going(m))
        return err_set(err, ERR_UNAVAILABLE, "the ingester is not running");
    if (http_method(req) == HTTP_PUT && !parse_unregister(http_body(req), &unregister, err))
        return false;
    member_set_unregister(m, unregister);
    return true;
}

static void unregister_handler(struct http_request *req, void *arg)
{
    struct member *m = arg;
    struct err err = ERR_NONE;
    pthread_mutex_lock(&m->act);
    bool ok = change_unregister(m, req, &err);
    pthread_mutex_unlock(&m->act);
    if (!ok) {
        http_respond_err(req, &err);
        return;
    }
    pthread_mutex_lock(&m->lock);
    bool unregister = m->unregister;
    pthread_mutex_unlock(&m->lock);
    respond_json_field(req, "unregister", unregister ? SL("true") : SL("false"));
}
