/* meta.json read, with jansson: small documents. Every field is checked for its kind; what is missing has Go's zero value. */
#include "storage/block/meta.h"

#include <jansson.h>
#include <stdlib.h>

/* A decode at work: the first fault is kept, later reads give zeros. */
struct reading {
    struct arena *arena;
    struct err *err;
    bool bad;
};

static void fault(struct reading *r, const char *name, const char *wanted)
{
    if (!r->bad)
        err_set(r->err, ERR_CORRUPT, "meta.json: %s is no %s", name, wanted);
    r->bad = true;
}

static void no_memory(struct reading *r)
{
    if (!r->bad)
        err_set(r->err, ERR_NO_MEMORY, "meta.json: no memory for its strings");
    r->bad = true;
}

/* NULL when it is missing or null. */
static const json_t *member(const json_t *o, const char *name)
{
    const json_t *v = json_object_get(o, name);
    return json_is_null(v) ? NULL : v;
}

static int64_t integer(struct reading *r, const json_t *o, const char *name)
{
    const json_t *v = member(o, name);
    if (v && !json_is_integer(v))
        fault(r, name, "integer");
    return json_integer_value(v);
}

static uint64_t count(struct reading *r, const json_t *o, const char *name)
{
    int64_t v = integer(r, o, name);
    if (v < 0)
        fault(r, name, "count");
    return v < 0 ? 0 : (uint64_t)v;
}

static bool boolean(struct reading *r, const json_t *o, const char *name)
{
    const json_t *v = member(o, name);
    if (v && !json_is_boolean(v))
        fault(r, name, "boolean");
    return json_is_true(v);
}

static struct slice copy(struct reading *r, struct slice s)
{
    struct slice c = arena_dup(r->arena, s);
    if (!c.p)
        no_memory(r);
    return c;
}

static struct slice string(struct reading *r, const json_t *v, const char *name)
{
    if (v && !json_is_string(v)) {
        fault(r, name, "string");
        v = NULL;
    }
    return v ? copy(r, slice_make(json_string_value(v), json_string_length(v))) : slice_make("", 0);
}

static struct ulid ulid(struct reading *r, const json_t *v, const char *name)
{
    struct ulid u = {{0}};
    if (!json_is_string(v) || !ulid_parse(slice_make(json_string_value(v), json_string_length(v)), &u))
        fault(r, name, "ULID");
    return u;
}

/* NULL when it is missing; a fault when it is something else. */
static const json_t *object(struct reading *r, const json_t *o, const char *name)
{
    const json_t *v = member(o, name);
    if (v && !json_is_object(v))
        fault(r, name, "object");
    return json_is_object(v) ? v : NULL;
}

/* The array and room for its items; n 0 when it is missing. */
static const json_t *array(struct reading *r, const json_t *o, const char *name, size_t item_size, void **ret_items, size_t *ret_n)
{
    const json_t *v = member(o, name);
    if (v && !json_is_array(v))
        fault(r, name, "array");
    *ret_items = NULL;
    *ret_n = json_is_array(v) ? json_array_size(v) : 0;
    if (*ret_n == 0)
        return NULL;
    *ret_items = arena_array(r->arena, *ret_n, item_size);
    if (!*ret_items) {
        no_memory(r);
        *ret_n = 0;
    }
    return v;
}

static void read_stats(struct reading *r, const json_t *root, struct block_stats *s)
{
    const json_t *o = object(r, root, "stats");
    s->samples = count(r, o, "numSamples");
    s->float_samples = count(r, o, "numFloatSamples");
    s->histogram_samples = count(r, o, "numHistogramSamples");
    s->series = count(r, o, "numSeries");
    s->chunks = count(r, o, "numChunks");
    s->tombstones = count(r, o, "numTombstones");
}

static void read_compaction(struct reading *r, const json_t *root, struct block_meta *m)
{
    const json_t *o = object(r, root, "compaction"), *list;
    void *items;
    uint64_t level = count(r, o, "level");
    if (level > UINT32_MAX)
        fault(r, "level", "level");
    m->level = (uint32_t)level;
    m->deletable = boolean(r, o, "deletable");
    m->failed = boolean(r, o, "failed");
    list = array(r, o, "sources", sizeof(struct ulid), &items, &m->n_sources);
    m->sources = items;
    for (size_t i = 0; i < m->n_sources; i++)
        ((struct ulid *)items)[i] = ulid(r, json_array_get(list, i), "a source");
    list = array(r, o, "parents", sizeof(struct block_parent), &items, &m->n_parents);
    m->parents = items;
    for (size_t i = 0; i < m->n_parents; i++) {
        const json_t *p = json_array_get(list, i);
        ((struct block_parent *)items)[i] = (struct block_parent){ulid(r, json_object_get(p, "ulid"), "a parent"),
                                                                  integer(r, p, "minTime"), integer(r, p, "maxTime")};
    }
    list = array(r, o, "hints", sizeof(struct slice), &items, &m->n_hints);
    m->hints = items;
    for (size_t i = 0; i < m->n_hints; i++)
        ((struct slice *)items)[i] = string(r, json_array_get(list, i), "a hint");
}

static int by_name(const void *a, const void *b)
{
    const struct block_label *x = a, *y = b;
    return slice_cmp(x->name, y->name);
}

static void read_labels(struct reading *r, const json_t *thanos, struct block_meta *m)
{
    json_t *o = json_object_get(thanos, "labels");
    m->labels_null = json_is_null(o);
    if (o && !m->labels_null && !json_is_object(o))
        fault(r, "labels", "object");
    size_t n = json_object_size(o);
    struct block_label *labels = n ? ARENA_ARRAY(r->arena, struct block_label, n) : NULL;
    if (n && !labels)
        no_memory(r);
    if (!labels)
        return;
    size_t i = 0;
    const char *name;
    json_t *value;
    json_object_foreach(o, name, value)
        labels[i++] = (struct block_label){copy(r, slice_of(name)), string(r, value, "a label")};
    qsort(labels, n, sizeof(*labels), by_name);
    m->labels = labels;
    m->n_labels = n;
}

static void read_thanos(struct reading *r, const json_t *root, struct block_meta *m)
{
    const json_t *o = object(r, root, "thanos"), *list;
    void *items;
    m->has_thanos = o != NULL;
    if (!o)
        return;
    read_labels(r, o, m);
    m->resolution_ms = integer(r, object(r, o, "downsample"), "resolution");
    m->source = string(r, member(o, "source"), "source");
    list = array(r, o, "files", sizeof(struct block_file), &items, &m->n_files);
    m->files = items;
    for (size_t i = 0; i < m->n_files; i++) {
        const json_t *f = json_array_get(list, i);
        ((struct block_file *)items)[i] = (struct block_file){string(r, member(f, "rel_path"), "rel_path"), count(r, f, "size_bytes")};
    }
}

static void read_root(struct reading *r, const json_t *root, struct block_meta *m)
{
    if (integer(r, root, "version") != 1)
        fault(r, "version", "version that is known");
    m->ulid = ulid(r, json_object_get(root, "ulid"), "ulid");
    m->min_t = integer(r, root, "minTime");
    m->max_t = integer(r, root, "maxTime");
    if (m->min_t > m->max_t)
        fault(r, "maxTime", "time after minTime");
    m->out_of_order = boolean(r, root, "out_of_order");
    read_stats(r, root, &m->stats);
    read_compaction(r, root, m);
    read_thanos(r, root, m);
}

bool block_meta_decode(struct slice json, struct arena *arena, struct block_meta *ret, struct err *err)
{
    if (json.n > BLOCK_META_MAX_BYTES)
        return err_set(err, ERR_CORRUPT, "meta.json: %zu bytes are more than any block has", json.n);
    json_error_t error;
    json_t *root = json_loadb(json.p, json.n, 0, &error);
    if (!json_is_object(root)) {
        err_set(err, ERR_CORRUPT, "meta.json: no JSON object: %s", root ? "another value" : error.text);
        json_decref(root);
        return false;
    }
    struct reading r = {arena, err, false};
    struct block_meta m = {.source = slice_make("", 0)};
    read_root(&r, root, &m);
    json_decref(root);
    if (!r.bad)
        *ret = m;
    return !r.bad;
}

bool block_meta_is_out_of_order(const struct block_meta *m)
{
    for (size_t i = 0; i < m->n_hints; i++)
        if (slice_eq(m->hints[i], SL(BLOCK_HINT_OUT_OF_ORDER)))
            return true;
    return false;
}

struct slice block_meta_label(const struct block_meta *m, struct slice name)
{
    for (size_t i = 0; i < m->n_labels; i++)
        if (slice_eq(m->labels[i].name, name))
            return m->labels[i].value;
    return slice_make(NULL, 0);
}
