/*
 * Marks of blocks and tenants, as Mimir's encoder writes them: compact, in this order, without a newline.
 *
 *   deletion   {"id":ULID,"version":1,"details":text,"deletion_time":s}         details: only if there are any
 *   no-compact {"id":ULID,"version":1,"details":text,"no_compact_time":s,"reason":text}
 *   tenant     {"deletion_time":s,"finished_time":s}                             finished_time: only if not 0
 */
#include "base/assert.h"
#include "storage/bucket/bucket_int.h"

#define MARK_VERSION 1

static const struct {
    const char *file, *time;
} kinds[BLOCK_MARK_KINDS] = {
    [BLOCK_MARK_DELETION] = {BUCKET_DELETION_MARK, "deletion_time"},
    [BLOCK_MARK_NO_COMPACT] = {BUCKET_NO_COMPACT_MARK, "no_compact_time"},
};

const char *block_mark_file(enum block_mark_kind kind)
{
    return kinds[kind].file;
}

bool block_mark_decode(enum block_mark_kind kind, struct slice json, struct arena *arena, struct block_mark *ret, struct err *err)
{
    struct fields f = {kinds[kind].file, arena, err, false};
    json_t *root = fields_load(&f, json);
    if (!root)
        return false;
    struct block_mark m = {.block = fields_ulid(&f, root, "id")};
    if (fields_i64(&f, root, "version") != MARK_VERSION)
        fields_fault(&f, "version", "version that is known");
    m.details = fields_str(&f, root, "details");
    m.time_s = fields_i64(&f, root, kinds[kind].time);
    m.reason = kind == BLOCK_MARK_NO_COMPACT ? fields_str(&f, root, "reason") : slice_make("", 0);
    json_decref(root);
    if (!f.bad)
        *ret = m;
    return !f.bad;
}

void block_mark_encode(enum block_mark_kind kind, const struct block_mark *m, struct buf *out)
{
    struct buf plain = {0};
    struct json j;
    json_init(&j, &plain);
    json_obj(&j);
    json_key(&j, SL("id"));
    json_str(&j, slice_of(m->block.text));
    json_key(&j, SL("version"));
    json_i64(&j, MARK_VERSION);
    if (m->details.n) {
        json_key(&j, SL("details"));
        json_str(&j, m->details);
    }
    json_key(&j, slice_of(kinds[kind].time));
    json_i64(&j, m->time_s);
    if (kind == BLOCK_MARK_NO_COMPACT) {
        json_key(&j, SL("reason"));
        json_str(&j, m->reason);
    }
    json_obj_end(&j);
    json_put_escaped_html(buf_slice(&plain), out);
    out->failed |= plain.failed;
    buf_release(&plain);
}

bool tenant_mark_decode(struct slice json, struct tenant_mark *ret, struct err *err)
{
    struct fields f = {BUCKET_TENANT_DELETION_MARK, NULL, err, false};
    json_t *root = fields_load(&f, json);
    if (!root)
        return false;
    struct tenant_mark m = {fields_i64(&f, root, "deletion_time"), fields_i64(&f, root, "finished_time")};
    json_decref(root);
    if (!f.bad)
        *ret = m;
    return !f.bad;
}

void tenant_mark_encode(const struct tenant_mark *m, struct buf *out)
{
    buf_printf(out, "{\"deletion_time\":%lld", (long long)m->deletion_time_s);
    if (m->finished_time_s)
        buf_printf(out, ",\"finished_time\":%lld", (long long)m->finished_time_s);
    buf_putc(out, '}');
}

/* --- in the bucket ----------------------------------------------------------------------------------------------------------- */

static struct bucket_name tenant_mark_name(struct slice tenant)
{
    return bucket_tenant_file(tenant, BUCKET_MARKERS BUCKET_TENANT_DELETION_MARK);
}

bool bucket_read_tenant_mark(struct objstore *s, const struct ctx *ctx, struct slice tenant, struct tenant_mark *ret, struct err *err)
{
    struct bucket_name name = tenant_mark_name(tenant);
    struct buf json;
    bool good = bucket_get_small(s, ctx, &name, BUCKET_MARK_MAX_BYTES, &json, err);
    if (good && !tenant_mark_decode(buf_slice(&json), ret, err))
        good = err_prefix(err, "%s: ", name.text);
    buf_release(&json);
    return good;
}

bool bucket_write_tenant_mark(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct tenant_mark *m, struct err *err)
{
    struct bucket_name name = tenant_mark_name(tenant);
    struct buf json;
    buf_init(&json, 0);
    tenant_mark_encode(m, &json);
    bool good = json.failed ? bucket_no_memory(err) : objstore_put(s, ctx, bucket_name_slice(&name), buf_slice(&json), err);
    buf_release(&json);
    return good;
}

static bool read_mark(struct objstore *s, const struct ctx *ctx, const struct bucket_name *name, const struct ulid *block,
                      enum block_mark_kind kind, struct arena *arena, struct block_mark *ret, struct err *err)
{
    struct buf json;
    struct block_mark m;
    bool good = bucket_get_small(s, ctx, name, BUCKET_MARK_MAX_BYTES, &json, err);
    if (good && !block_mark_decode(kind, buf_slice(&json), arena, &m, err))
        good = err_prefix(err, "%s: ", name->text);
    buf_release(&json);
    if (good && ulid_cmp(&m.block, block) != 0)
        good = err_set(err, ERR_CORRUPT, "%s: it is the mark of block %s", name->text, m.block.text);
    if (good)
        *ret = m;
    return good;
}

bool bucket_read_mark(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct ulid *block, enum block_mark_kind kind,
                      struct arena *arena, struct block_mark *ret, struct err *err)
{
    struct bucket_name name = bucket_block_file(tenant, block, kinds[kind].file);
    return read_mark(s, ctx, &name, block, kind, arena, ret, err);
}

bool bucket_read_global_mark(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct ulid *block, enum block_mark_kind kind,
                             struct arena *arena, struct block_mark *ret, struct err *err)
{
    struct bucket_name name = bucket_global_mark(tenant, block, kinds[kind].file);
    return read_mark(s, ctx, &name, block, kind, arena, ret, err);
}

/* Puts the mark where there is none yet. Bytes that are there already are what the copy gets: they replace those in json. */
static bool put_first(struct objstore *s, const struct ctx *ctx, const struct bucket_name *name, struct buf *json, bool *ret_new, struct err *err)
{
    struct buf before;
    struct err why = ERR_NONE;
    bool there = bucket_get_small(s, ctx, name, BUCKET_MARK_MAX_BYTES, &before, &why);
    *ret_new = !there;
    if (there) {
        buf_clear(json);
        buf_put_slice(json, buf_slice(&before));
    }
    buf_release(&before);
    if (!there && why.code != ERR_NOT_FOUND)
        return err_set(err, why.code, "%s", why.text);
    if (json->failed)
        return bucket_no_memory(err);
    return there || objstore_put(s, ctx, bucket_name_slice(name), buf_slice(json), err);
}

bool bucket_mark_block(struct objstore *s, const struct ctx *ctx, struct slice tenant, enum block_mark_kind kind, const struct block_mark *mark,
                       bool *ret_new, struct err *err)
{
    struct bucket_name local = bucket_block_file(tenant, &mark->block, kinds[kind].file);
    struct bucket_name global = bucket_global_mark(tenant, &mark->block, kinds[kind].file);
    struct buf json;
    bool is_new = false, there = false;
    buf_init(&json, BUCKET_MARK_MAX_BYTES);
    block_mark_encode(kind, mark, &json);
    bool good = put_first(s, ctx, &local, &json, &is_new, err) && bucket_exists(s, ctx, &global, &there, err) &&
                (there || objstore_put(s, ctx, bucket_name_slice(&global), buf_slice(&json), err));
    buf_release(&json);
    if (good && ret_new)
        *ret_new = is_new;
    return good;
}
