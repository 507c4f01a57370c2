/*
 * The store on etcd, over its API v3 (gRPC). A document's version is its key's mod_revision, which etcd never uses twice, also when the key is deleted
 * and made again; a compare-and-swap is a transaction that puts the value if the mod_revision is still the one that was read.
 *
 * A watch reads its keys and follows from the revision after that read, so nothing is missed; when the connection, the server's leader or the revision (by
 * compaction) is lost it begins anew. Reads are linearizable: a server that lags behind never answers with less than was told before.
 *
 * Servers take turns: a call goes to the one that answered last, and to the next when that does not answer. With a user name each call carries
 * a token, which is asked for anew when etcd does not take it any more.
 *
 * Threads: callers' threads and those of the watches; `lock` guards the token. One I/O thread of net/rpc for all connections.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "net/rpc/rpc.h"
#include "ring/kv_etcd_int.h"
#include "ring/kv_remote_int.h"

#define CALL_TIMEOUT_MS 10000
#define KEEPALIVE_MS 10000
#define ENDPOINTS_MAX 64

struct etcd {
    struct remote remote;
    struct rpc_clients *clients;
    struct rpc_client *endpoints[ENDPOINTS_MAX];
    size_t n_endpoints;
    atomic_size_t current; /* the endpoint that answered last; relaxed, a wrong one costs a try */
    char *username, *password; /* owned; immutable */
    char *tls[6];              /* owned; the strings of the TLS settings */
    pthread_mutex_t lock;
    char *token; /* owned; "" before the first authentication. Guarded by lock */
};

static struct etcd *etcd_of(struct remote *r)
{
    return CONTAINER_OF(r, struct etcd, remote);
}

/* --- calls ------------------------------------------------------------------------------------------------------------ */

static bool set_status(const struct rpc_status *st, struct err *err)
{
    enum err_code code = st->code == RPC_UNAVAILABLE                                              ? ERR_UNAVAILABLE
                         : st->code == RPC_DEADLINE_EXCEEDED                                      ? ERR_TIMEOUT
                         : st->code == RPC_CANCELED                                               ? ERR_CANCELED
                         : st->code == RPC_UNAUTHENTICATED || st->code == RPC_PERMISSION_DENIED ? ERR_UNAUTHENTICATED
                                                                                                  : ERR_INTERNAL;
    char name[RPC_CODE_NAME_MAX];
    return err_set(err, code, "etcd: %s: %s", rpc_code_name(st->code, name), st->text);
}

static bool worth_another_server(int code)
{
    return code == RPC_UNAVAILABLE || code == RPC_DEADLINE_EXCEEDED;
}

/* One call, on each server in turn until one answers. */
static bool call_servers(struct etcd *e, const struct rpc_args *args, struct buf *answer, struct rpc_status *st)
{
    size_t first = atomic_load_explicit(&e->current, memory_order_relaxed);
    for (size_t i = 0; i < e->n_endpoints; i++) {
        size_t at = (first + i) % e->n_endpoints;
        struct ctx ctx = {.deadline_ms = clock_mono_ms() + CALL_TIMEOUT_MS};
        struct rpc_args one = *args;
        one.ctx = &ctx;
        bool ok = rpc_call(e->endpoints[at], &one, answer, st);
        if (!ok && worth_another_server(st->code))
            continue;
        atomic_store_explicit(&e->current, at, memory_order_relaxed);
        return ok;
    }
    return false;
}

/* Asks for a new token, unless another thread has got one since `used` was taken. */
static bool authenticate(struct etcd *e, const char *used, struct err *err)
{
    pthread_mutex_lock(&e->lock);
    bool fresh = strcmp(used, e->token) != 0;
    pthread_mutex_unlock(&e->lock);
    if (fresh)
        return true;
    struct buf request = {0}, answer = {0};
    etcd_put_auth(&request, slice_of(e->username), slice_of(e->password));
    struct rpc_args args = {.method = "/etcdserverpb.Auth/Authenticate", .request = buf_slice(&request)};
    struct rpc_status st = RPC_STATUS_NONE;
    struct slice token;
    bool ok = call_servers(e, &args, &answer, &st) ? etcd_get_token(buf_slice(&answer), &token, err) : set_status(&st, err);
    if (ok) {
        char *copy = slice_strdup(token);
        pthread_mutex_lock(&e->lock);
        free(e->token);
        e->token = copy;
        pthread_mutex_unlock(&e->lock);
    }
    rpc_status_release(&st);
    buf_release(&request);
    buf_release(&answer);
    return ok;
}

/* A copy for the caller; NULL without a user name. A first one is asked for. */
static bool take_token(struct etcd *e, char **ret, struct err *err)
{
    *ret = NULL;
    if (!e->username[0])
        return true;
    pthread_mutex_lock(&e->lock);
    bool none = !e->token[0];
    pthread_mutex_unlock(&e->lock);
    if (none && !authenticate(e, "", err))
        return false;
    pthread_mutex_lock(&e->lock);
    *ret = slice_strdup(slice_of(e->token));
    pthread_mutex_unlock(&e->lock);
    return true;
}

/* One call with the token there is. *ret_stale: the token is not taken any more. */
static bool call_once(struct etcd *e, const char *method, struct slice request, const char *token, struct buf *answer, bool *ret_stale,
                      struct err *err)
{
    struct rpc_kv metadata = {SL("token"), slice_of(token)};
    struct rpc_args args = {.method = method, .request = request, .metadata = &metadata, .n_metadata = token ? 1 : 0};
    struct rpc_status st = RPC_STATUS_NONE;
    bool ok = call_servers(e, &args, answer, &st);
    *ret_stale = !ok && token && st.code == RPC_UNAUTHENTICATED;
    if (!ok)
        set_status(&st, err);
    rpc_status_release(&st);
    return ok;
}

/* Releases request. */
static bool call(struct etcd *e, const char *method, struct buf *request, struct buf *answer, struct err *err)
{
    bool ok = false, stale = true;
    if (request->failed)
        stale = err_set(err, ERR_TOO_LARGE, "the document is too large for a request");
    for (int i = 0; stale && i < 2; i++) {
        char *token;
        stale = false;
        if (!take_token(e, &token, err))
            break;
        ok = call_once(e, method, buf_slice(request), token, answer, &stale, err);
        if (stale && !authenticate(e, token, err))
            stale = false;
        free(token);
    }
    buf_release(request);
    return ok;
}

/* --- operations ------------------------------------------------------------------------------------------------------- */

static void take_document(void *arg, const struct etcd_kv *kv)
{
    struct remote_document *doc = arg;
    buf_clear(&doc->bytes);
    buf_put_slice(&doc->bytes, kv->value);
    doc->version = kv->mod_revision;
}

static bool etcd_read(struct remote *r, struct slice key, struct remote_document *ret, struct err *err)
{
    struct buf request = {0}, answer = {0};
    uint64_t revision;
    etcd_put_range(&request, key, false, false);
    bool ok = call(etcd_of(r), "/etcdserverpb.KV/Range", &request, &answer, err) &&
              etcd_get_range(buf_slice(&answer), take_document, ret, &revision, err);
    buf_release(&answer);
    return ok;
}

static bool etcd_write(struct remote *r, struct slice key, struct slice bytes, uint64_t version, bool *ret_conflict, struct err *err)
{
    struct buf request = {0}, answer = {0};
    bool succeeded = false;
    etcd_put_cas(&request, key, bytes, version);
    bool ok = call(etcd_of(r), "/etcdserverpb.KV/Txn", &request, &answer, err) && etcd_get_txn(buf_slice(&answer), &succeeded, err);
    *ret_conflict = !succeeded;
    buf_release(&answer);
    return ok;
}

static bool etcd_remove(struct remote *r, struct slice key, struct err *err)
{
    struct buf request = {0}, answer = {0};
    etcd_put_delete(&request, key);
    bool ok = call(etcd_of(r), "/etcdserverpb.KV/DeleteRange", &request, &answer, err);
    buf_release(&answer);
    return ok;
}

struct listing {
    kv_name_fn *fn;
    void *arg;
};

static void list_one(void *arg, const struct etcd_kv *kv)
{
    struct listing *l = arg;
    l->fn(l->arg, kv->key);
}

static bool etcd_list(struct remote *r, struct slice prefix, kv_name_fn *fn, void *arg, struct err *err)
{
    struct buf request = {0}, answer = {0};
    struct listing l = {fn, arg};
    uint64_t revision;
    etcd_put_range(&request, prefix, true, true);
    bool ok = call(etcd_of(r), "/etcdserverpb.KV/Range", &request, &answer, err) &&
              etcd_get_range(buf_slice(&answer), list_one, &l, &revision, err);
    buf_release(&answer);
    return ok;
}

/* --- watches ---------------------------------------------------------------------------------------------------------- */

static void tell_kv(void *arg, const struct etcd_kv *kv)
{
    struct kv_watch *w = arg;
    if (kv->deleted)
        watch_tell_gone(w, kv->key);
    else
        watch_tell(w, kv->key, kv->value, kv->mod_revision);
}

static bool tell_snapshot(struct etcd *e, struct kv_watch *w, uint64_t *ret_revision, struct err *err)
{
    struct buf request = {0}, answer = {0};
    etcd_put_range(&request, watch_key(w), w->is_prefix, false);
    bool ok = call(e, "/etcdserverpb.KV/Range", &request, &answer, err);
    if (ok) {
        watch_snapshot_begin(w);
        ok = etcd_get_range(buf_slice(&answer), tell_kv, w, ret_revision, err);
        if (ok)
            watch_snapshot_end(w);
    }
    buf_release(&answer);
    return ok;
}

/* Until the stream ends. A watch that is canceled by the server is damaged: its reason is an error. */
static void tell_changes(struct kv_watch *w, struct rpc_stream *stream, struct err *err)
{
    struct buf message = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    bool ok = true;
    while (ok && rpc_stream_next(stream, &message, &st) == RPC_NEXT_MESSAGE) {
        struct etcd_watch_answer answer;
        ok = etcd_get_watch(buf_slice(&message), tell_kv, w, &answer, err);
        if (ok && (answer.canceled || answer.compact_revision))
            ok = err_set(err, ERR_UNAVAILABLE, "etcd canceled the watch: %.*s", SL_FMT(answer.cancel_reason));
        buf_release(&message);
    }
    if (ok)
        set_status(&st, err);
    rpc_status_release(&st);
}

static bool etcd_follow(struct remote *r, struct kv_watch *w, struct err *err)
{
    struct etcd *e = etcd_of(r);
    uint64_t revision;
    char *token;
    if (!tell_snapshot(e, w, &revision, err) || !take_token(e, &token, err))
        return false;
    struct buf request = {0};
    etcd_put_watch(&request, watch_key(w), w->is_prefix, revision + 1);
    /* With hasleader a server that has lost its cluster ends the watch instead of being silent. */
    struct rpc_kv metadata[] = {{SL("hasleader"), SL("true")}, {SL("token"), slice_of(token)}};
    struct ctx ctx = {.canceled = &w->stopping};
    struct rpc_args args = {.method = "/etcdserverpb.Watch/Watch",
                            .request = buf_slice(&request),
                            .metadata = metadata,
                            .n_metadata = token ? 2 : 1,
                            .ctx = &ctx,
                            .keep_open = true};
    struct rpc_stream *stream = rpc_stream_open(e->endpoints[atomic_load_explicit(&e->current, memory_order_relaxed)], &args);
    tell_changes(w, stream, err);
    rpc_stream_close(stream);
    buf_release(&request);
    free(token);
    return false;
}

/* --- life cycle ------------------------------------------------------------------------------------------------------- */

static void etcd_free(struct remote *r)
{
    struct etcd *e = etcd_of(r);
    for (size_t i = 0; i < e->n_endpoints; i++)
        rpc_client_free(e->endpoints[i]);
    rpc_clients_free(e->clients);
    for (size_t i = 0; i < ARRAY_LEN(e->tls); i++)
        free(e->tls[i]);
    free(e->username);
    free(e->password);
    free(e->token);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

static const struct remote_ops etcd_ops = {
    .name = "etcd",
    .read = etcd_read,
    .write = etcd_write,
    .remove = etcd_remove,
    .list = etcd_list,
    .follow = etcd_follow,
    .free = etcd_free,
};

/* "http://host:port" is fine, too; "https://" without TLS is not. */
static bool add_endpoint(struct etcd *e, const char *address, bool tls, const char *flag, struct err *err)
{
    struct slice a = slice_of(address);
    if (slice_has_prefix(a, SL("https://")) && !tls)
        return err_set(err, ERR_CONFIG, "-%setcd.endpoints has %s, which needs -%setcd.tls-enabled", flag, address, flag);
    const char *rest = strstr(address, "://");
    if (e->n_endpoints == ENDPOINTS_MAX)
        return err_set(err, ERR_CONFIG, "-%setcd.endpoints has more than %d addresses", flag, ENDPOINTS_MAX);
    e->endpoints[e->n_endpoints++] = rpc_client_new(e->clients, rest ? rest + 3 : address);
    return true;
}

static bool check_config(const struct kv_config *cfg, const char *flag, struct err *err)
{
    if (cfg->etcd_endpoints.n == 0)
        return err_set(err, ERR_CONFIG, "-%setcd.endpoints is empty; the store etcd needs an address", flag);
    if (cfg->etcd_dial_timeout <= 0)
        return err_set(err, ERR_CONFIG, "-%setcd.dial-timeout must be greater than 0", flag);
    if (cfg->etcd_max_retries < 1 || cfg->etcd_max_retries > 1000)
        return err_set(err, ERR_CONFIG, "-%setcd.max-retries must be between 1 and 1000", flag);
    return true;
}

/* The strings are copied: net/rpc wants them to live as long as its clients. */
static struct tls_client_config copy_tls(struct etcd *e, const struct kv_config *cfg)
{
    const char *all[] = {cfg->etcd_tls_cert_path,   cfg->etcd_tls_key_path,      cfg->etcd_tls_ca_path,
                         cfg->etcd_tls_server_name, cfg->etcd_tls_cipher_suites, cfg->etcd_tls_min_version};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        e->tls[i] = slice_strdup(slice_of(all[i]));
    return (struct tls_client_config){.enabled = cfg->etcd_tls_enabled,
                                      .cert_path = e->tls[0],
                                      .key_path = e->tls[1],
                                      .ca_path = e->tls[2],
                                      .server_name = e->tls[3],
                                      .insecure_skip_verify = cfg->etcd_tls_insecure_skip_verify,
                                      .cipher_suites = e->tls[4],
                                      .min_version = e->tls[5]};
}

static bool connect_all(struct etcd *e, const struct kv_config *cfg, const char *flag, struct err *err)
{
    struct rpc_client_config rpc = {
        .max_recv_msg_bytes = KV_DOCUMENT_MAX * 2,
        .connect_timeout_ms = cfg->etcd_dial_timeout,
        .backoff_max_ms = 1000,
        .keepalive_time_ms = KEEPALIVE_MS,
        .keepalive_timeout_ms = KEEPALIVE_MS,
        .tls = copy_tls(e, cfg),
    };
    if (!rpc_client_config_check(&rpc, err))
        return err_prefix(err, "-%setcd.tls-...: ", flag);
    e->clients = rpc_clients_new(&rpc);
    for (size_t i = 0; i < cfg->etcd_endpoints.n; i++)
        if (!add_endpoint(e, cfg->etcd_endpoints.items[i], cfg->etcd_tls_enabled, flag, err))
            return false;
    return true;
}

struct kv *kv_etcd_new(const struct kv_config *cfg, const char *flag, struct err *err)
{
    if (!check_config(cfg, flag, err))
        return NULL;
    struct etcd *e = calloc(1, sizeof(*e));
    ASSERT(e);
    remote_init(&e->remote, &etcd_ops, (int)cfg->etcd_max_retries, 100);
    pthread_mutex_init(&e->lock, NULL);
    e->username = slice_strdup(slice_of(cfg->etcd_username));
    e->password = slice_strdup(slice_of(cfg->etcd_password));
    e->token = slice_strdup(SL(""));
    if (!connect_all(e, cfg, flag, err)) {
        etcd_free(&e->remote);
        return NULL;
    }
    return &e->remote.kv;
}
