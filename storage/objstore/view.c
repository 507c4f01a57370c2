/*
 * A bucket as a component sees it: names get the storage prefix on their way in and lose it on their way out, and what is done is counted.
 *
 * Immutable once it is made, so there are no locks; the store beneath has its own, and its door tries again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/assert.h"
#include "base/clock.h"
#include "storage/objstore/objstore_int.h"

#define METRICS_ROOM objstore
#define METRICS_DEF "storage/objstore/objstore_metrics.def"
#define METRICS_DEFINE_ONLY
#include "base/metrics_table.h"

enum operation { OP_ITER, OP_GET, OP_GET_RANGE, OP_ATTRIBUTES, OP_UPLOAD, OP_DELETE, OP_N };

static const char *const operation_names[OP_N] = {"iter", "get", "get_range", "attributes", "upload", "delete"};

struct view {
    struct objstore objstore;
    struct objstore_ops ops; /* view_ops with the name of the store */
    struct objstore *store;
    bool owns_store;
    char *bucket; /* owned, as the others */
    char *prefix; /* "" or with a slash at its end */
    struct metric *operations[OP_N];
    struct metric *failures[OP_N];
    struct metric *durations[OP_N];
    struct metric *transferred[OP_N];
    struct metric *fetched[OP_N];
    struct metric *last_upload;
};

static struct view *view_of(struct objstore *s)
{
    return CONTAINER_OF(s, struct view, objstore);
}

/* The name in the store: freed with free(ret.p). */
static struct slice full_name(const struct view *v, struct slice name)
{
    size_t n = strlen(v->prefix);
    char *p = malloc(n + name.n + 1);
    ASSERT(p);
    memcpy(p, v->prefix, n);
    if (name.n)
        memcpy(p + n, name.p, name.n);
    return slice_make(p, n + name.n);
}

/* One operation that is being counted. */
struct counted {
    const struct view *v;
    enum operation op;
    int64_t start_ns;
    struct slice name;
};

static struct counted count_begin(struct objstore *s, enum operation op, struct slice name)
{
    struct view *v = view_of(s);
    metric_inc(v->operations[op]);
    return (struct counted){v, op, clock_mono_ns(), full_name(v, name)};
}

static bool count_end(struct counted *c, bool ok, const struct err *err)
{
    if (ok)
        metric_observe(c->v->durations[c->op], (double)(clock_mono_ns() - c->start_ns) / 1e9);
    else if (err->code != ERR_NOT_FOUND && err->code != ERR_CANCELED)
        metric_inc(c->v->failures[c->op]);
    free((char *)c->name.p);
    return ok;
}

static bool view_get(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out,
                     struct err *err)
{
    struct counted c = count_begin(s, offset == 0 && n == OBJSTORE_ALL ? OP_GET : OP_GET_RANGE, name);
    size_t before = out->n;
    bool ok = objstore_get(c.v->store, ctx, c.name, offset, n, out, err);
    if (ok) {
        metric_add(c.v->fetched[c.op], (double)(out->n - before));
        metric_observe(c.v->transferred[c.op], (double)(out->n - before));
    }
    return count_end(&c, ok, err);
}

static bool view_attributes(struct objstore *s, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret, struct err *err)
{
    struct counted c = count_begin(s, OP_ATTRIBUTES, name);
    return count_end(&c, objstore_attributes(c.v->store, ctx, c.name, ret, err), err);
}

static void count_upload(const struct view *v, uint64_t bytes)
{
    metric_observe(v->transferred[OP_UPLOAD], (double)bytes);
    metric_set(v->last_upload, (double)clock_wall_ms() / 1e3);
}

static bool view_put(struct objstore *s, const struct ctx *ctx, struct slice name, struct slice bytes, struct err *err)
{
    struct counted c = count_begin(s, OP_UPLOAD, name);
    bool ok = objstore_put(c.v->store, ctx, c.name, bytes, err);
    if (ok)
        count_upload(c.v, bytes.n);
    return count_end(&c, ok, err);
}

static bool view_put_file(struct objstore *s, const struct ctx *ctx, struct slice name, const char *path, struct err *err)
{
    struct counted c = count_begin(s, OP_UPLOAD, name);
    struct stat st;
    bool ok = objstore_put_file(c.v->store, ctx, c.name, path, err);
    if (ok && stat(path, &st) == 0)
        count_upload(c.v, (uint64_t)st.st_size);
    return count_end(&c, ok, err);
}

static bool view_remove(struct objstore *s, const struct ctx *ctx, struct slice name, struct err *err)
{
    struct counted c = count_begin(s, OP_DELETE, name);
    return count_end(&c, objstore_remove(c.v->store, ctx, c.name, err), err);
}

struct listing {
    size_t prefix_n;
    objstore_list_fn *fn;
    void *arg;
};

static bool list_one(void *arg, struct slice name, bool is_prefix, const struct objstore_attributes *attributes)
{
    struct listing *l = arg;
    return l->fn(l->arg, slice_make(name.p + l->prefix_n, name.n - l->prefix_n), is_prefix, attributes);
}

static bool view_list(struct objstore *s, const struct ctx *ctx, struct slice prefix, bool delimited, objstore_list_fn *fn, void *arg,
                      struct err *err)
{
    struct counted c = count_begin(s, OP_ITER, prefix);
    struct listing l = {strlen(c.v->prefix), fn, arg};
    return count_end(&c, objstore_list(c.v->store, ctx, c.name, delimited, list_one, &l, err), err);
}

static void view_free(struct objstore *s)
{
    struct view *v = view_of(s);
    if (v->owns_store)
        objstore_free(v->store);
    free(v->bucket);
    free(v->prefix);
    free(v);
}

static const struct objstore_ops view_ops = {
    .is_view = true,
    .get = view_get,
    .attributes = view_attributes,
    .put = view_put,
    .put_file = view_put_file,
    .remove = view_remove,
    .list = view_list,
    .free = view_free,
};

static void find_metrics(struct view *v, const char *component)
{
    objstore_metrics_register();
    struct slice bucket = slice_of(v->bucket), who = slice_of(component);
    for (int i = 0; i < OP_N; i++) {
        struct slice op = slice_of(operation_names[i]);
        v->operations[i] = METRIC_WITH(objstore_metrics[OBJSTORE_M_OPERATIONS], bucket, who, op);
        v->failures[i] = METRIC_WITH(objstore_metrics[OBJSTORE_M_FAILURES], bucket, who, op);
        v->durations[i] = METRIC_WITH(objstore_metrics[OBJSTORE_M_DURATION], bucket, who, op);
        if (i == OP_GET || i == OP_GET_RANGE || i == OP_UPLOAD)
            v->transferred[i] = METRIC_WITH(objstore_metrics[OBJSTORE_M_TRANSFERRED], bucket, who, op);
        if (i == OP_GET || i == OP_GET_RANGE)
            v->fetched[i] = METRIC_WITH(objstore_metrics[OBJSTORE_M_FETCHED], bucket, who, op);
    }
    v->last_upload = METRIC_WITH(objstore_metrics[OBJSTORE_M_LAST_UPLOAD], bucket, who);
}

static struct objstore *view_new(struct objstore *store, bool owns_store, const char *bucket, const char *prefix, const char *component)
{
    struct view *v = calloc(1, sizeof(*v));
    ASSERT(v);
    v->ops = view_ops;
    v->ops.name = store->ops->name;
    v->ops.request_bytes = store->ops->request_bytes;
    v->objstore.ops = &v->ops;
    v->store = store;
    v->owns_store = owns_store;
    v->bucket = slice_strdup(slice_of(bucket));
    v->prefix = slice_strdup(slice_of(prefix));
    find_metrics(v, component);
    return &v->objstore;
}

/* As Mimir: a prefix is one plain segment. */
static bool check_prefix(const char *prefix, const char *flag_prefix, struct err *err)
{
    size_t plain = strspn(prefix, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
    if (prefix[plain] == 0 && plain <= 255)
        return true;
    return err_set(err, ERR_CONFIG, "-%sstorage-prefix: \"%s\" has other characters than digits and English letters, or is too long", flag_prefix,
                   prefix);
}

struct objstore *objstore_open(const struct objstore_config *cfg, const char *flag_prefix, const char *default_dir, struct err *err)
{
    struct slice backend = slice_of(cfg->backend);
    if (!check_prefix(cfg->storage_prefix, flag_prefix, err))
        return NULL;
    struct objstore *store;
    const char *bucket;
    if (slice_eq(backend, SL("filesystem"))) {
        bucket = cfg->filesystem_dir[0] ? cfg->filesystem_dir : default_dir;
        store = objstore_filesystem_new(bucket, err);
        if (!store)
            err_prefix(err, "-%sfilesystem.dir: ", flag_prefix);
    } else if (slice_eq(backend, SL("s3"))) {
        bucket = cfg->s3_bucket_name;
        store = objstore_s3_new(cfg, flag_prefix, err);
    } else {
        bool known = slice_eq(backend, SL("gcs")) || slice_eq(backend, SL("azure")) || slice_eq(backend, SL("swift"));
        err_set(err, ERR_CONFIG, "-%sbackend: %s \"%s\"; the backends are filesystem and s3", flag_prefix,
                known ? "this build has no" : "there is no", cfg->backend);
        return NULL;
    }
    if (!store)
        return NULL;
    char prefix[260];
    snprintf(prefix, sizeof(prefix), "%s%s", cfg->storage_prefix, cfg->storage_prefix[0] ? "/" : "");
    return view_new(store, true, bucket, prefix, "");
}

struct objstore *objstore_as(struct objstore *s, const char *component)
{
    ASSERT(s->ops->is_view);
    struct view *v = view_of(s);
    return view_new(v->store, false, v->bucket, v->prefix, component);
}
