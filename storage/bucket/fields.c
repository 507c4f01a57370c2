#include "storage/bucket/bucket_int.h"

void fields_fault(struct fields *f, const char *name, const char *wanted)
{
    if (!f->bad)
        err_set(f->err, ERR_CORRUPT, "%s: %s is no %s", f->what, name, wanted);
    f->bad = true;
}

/* NULL when it is missing or null. */
static const json_t *member(const json_t *o, const char *name)
{
    const json_t *v = json_object_get(o, name);
    return json_is_null(v) ? NULL : v;
}

int64_t fields_i64(struct fields *f, const json_t *o, const char *name)
{
    const json_t *v = member(o, name);
    if (v && !json_is_integer(v))
        fields_fault(f, name, "integer");
    return json_integer_value(v);
}

uint32_t fields_u32(struct fields *f, const json_t *o, const char *name)
{
    int64_t v = fields_i64(f, o, name);
    if (v >= 0 && v <= INT32_MAX)
        return (uint32_t)v;
    fields_fault(f, name, "count");
    return 0;
}

bool fields_bool(struct fields *f, const json_t *o, const char *name)
{
    const json_t *v = member(o, name);
    if (v && !json_is_boolean(v))
        fields_fault(f, name, "boolean");
    return json_is_true(v);
}

struct slice fields_copy(struct fields *f, struct slice s)
{
    struct slice c = s.n ? arena_dup(f->arena, s) : slice_make("", 0);
    if (!c.p && !f->bad) {
        f->bad = true;
        err_set(f->err, ERR_NO_MEMORY, "%s: no memory for its strings", f->what);
    }
    return c;
}

struct slice fields_str(struct fields *f, const json_t *o, const char *name)
{
    const json_t *v = member(o, name);
    if (v && !json_is_string(v)) {
        fields_fault(f, name, "string");
        v = NULL;
    }
    return v ? fields_copy(f, slice_make(json_string_value(v), json_string_length(v))) : slice_make("", 0);
}

struct ulid fields_ulid(struct fields *f, const json_t *o, const char *name)
{
    const json_t *v = member(o, name);
    struct ulid u = {{0}};
    if (!json_is_string(v) || !ulid_parse(slice_make(json_string_value(v), json_string_length(v)), &u))
        fields_fault(f, name, "ULID");
    return u;
}

json_t *fields_load(struct fields *f, struct slice json)
{
    json_error_t error;
    json_t *root = json_loadb(json.p ? json.p : "", json.n, 0, &error);
    if (json_is_object(root))
        return root;
    err_set(f->err, ERR_CORRUPT, "%s: no JSON object: %s", f->what, root ? "another value" : error.text);
    f->bad = true;
    json_decref(root);
    return NULL;
}

void json_put_escaped_html(struct slice json, struct buf *out)
{
    size_t from = 0;
    for (size_t i = 0; i < json.n; i++) {
        char c = json.p[i];
        if (c != '<' && c != '>' && c != '&')
            continue;
        buf_put(out, json.p + from, i - from);
        buf_printf(out, "\\u%04x", (unsigned)c);
        from = i + 1;
    }
    buf_put(out, json.p + from, json.n - from);
}
