/*
 * The bucket index, an object <tenant>/bucket-index.json.gz: gzip of compact JSON (docs/formats.md 7.3), keys in this order, [x] left out when zero or empty:
 *
 *   {"version":2,
 *    "blocks":[{"block_id","min_time","max_time",["segments_format"],["segments_num"],"uploaded_at",["compactor_shard_id"],["source"],["compaction_level"],
 *               ["out_of_order"],["labels":{}]}, ...],
 *    "block_deletion_marks":[{"block_id","deletion_time"}, ...],
 *    "updated_at"}
 *
 * Decoded item by item: the tree of a JSON parser is twenty times the text, and would be the largest thing of the process for a tenant of a million blocks. The
 * frame around the items is read here, each item by jansson.
 */
#include <zlib.h>

#include "base/assert.h"
#include "storage/bucket/bucket_int.h"

#define INDEX_VERSION 2
#define ITEM_MAX_BYTES ((size_t)1 << 20)
#define CORRUPTED "bucket index corrupted"
#define INFLATE_STEP ((size_t)256 << 10)
#define GO_OS_UNKNOWN 255

/* --- gzip -------------------------------------------------------------------------------------------------------------------- */

static bool corrupted(struct err *err, const char *why)
{
    return err_set(err, ERR_CORRUPT, CORRUPTED ": %s", why);
}

/* One step of output; *ret_end: the last member ended with the input. */
static bool inflate_step(z_stream *z, struct buf *out, bool *ret_end, struct err *err)
{
    if (out->n >= BUCKET_INDEX_MAX_BYTES)
        return corrupted(err, "it is larger than any index");
    if (!buf_reserve(out, INFLATE_STEP))
        return bucket_no_memory(err);
    z->next_out = (Bytef *)(out->p + out->n);
    z->avail_out = (uInt)INFLATE_STEP;
    int status = inflate(z, Z_NO_FLUSH);
    out->n += INFLATE_STEP - z->avail_out;
    if (status == Z_MEM_ERROR)
        return bucket_no_memory(err);
    if (status == Z_BUF_ERROR || (status == Z_OK && z->avail_in == 0 && z->avail_out > 0))
        return corrupted(err, "unexpected EOF");
    if (status != Z_OK && status != Z_STREAM_END)
        return corrupted(err, z->msg ? z->msg : "it is not compressed by gzip");
    *ret_end = status == Z_STREAM_END && z->avail_in == 0;
    if (status == Z_STREAM_END && !*ret_end && inflateReset(z) != Z_OK)
        return corrupted(err, "what follows the first part is not compressed by gzip");
    return true;
}

static bool gunzip(struct slice gz, struct buf *out, struct err *err)
{
    z_stream z = {0};
    if (gz.n == 0)
        return corrupted(err, "EOF");
    if (gz.n > BUCKET_INDEX_MAX_BYTES)
        return corrupted(err, "it is larger than any index");
    if (inflateInit2(&z, 15 + 16) != Z_OK)
        return bucket_no_memory(err);
    z.next_in = (Bytef *)(uintptr_t)gz.p;
    z.avail_in = (uInt)gz.n;
    bool end = false, good = true;
    while (good && !end)
        good = inflate_step(&z, out, &end, err);
    inflateEnd(&z);
    return good;
}

/* With Go's header: the name, no time, no system. */
static void gzip(struct slice plain, struct buf *out)
{
    z_stream z = {0};
    gz_header header = {.name = (Bytef *)"bucket-index.json", .os = GO_OS_UNKNOWN};
    if (plain.n > BUCKET_INDEX_MAX_BYTES || deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
        out->failed = true;
        return;
    }
    size_t bound = deflateBound(&z, plain.n) + 64;
    if (deflateSetHeader(&z, &header) == Z_OK && buf_reserve(out, bound)) {
        z.next_in = (Bytef *)(uintptr_t)plain.p;
        z.avail_in = (uInt)plain.n;
        z.next_out = (Bytef *)(out->p + out->n);
        z.avail_out = (uInt)bound;
        int status = deflate(&z, Z_FINISH);
        ASSERT(status == Z_STREAM_END);
        out->n += bound - z.avail_out;
    }
    deflateEnd(&z);
}

/* --- decoding: the frame ----------------------------------------------------------------------------------------------------- */

struct reader {
    struct fields f;
    const char *p, *end;
    struct buf blocks, deletions; /* items, before it is known how many there are */
};

static void bad_frame(struct reader *r, const char *why)
{
    if (!r->f.bad)
        corrupted(r->f.err, why);
    r->f.bad = true;
}

/* The next byte that is no blank; 0 at the end. */
static char peek(struct reader *r)
{
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\t' || *r->p == '\r'))
        r->p++;
    return r->p < r->end ? *r->p : '\0';
}

static bool take(struct reader *r, char c)
{
    if (peek(r) != c)
        return false;
    r->p++;
    return true;
}

static void need(struct reader *r, char c)
{
    if (!take(r, c))
        bad_frame(r, peek(r) ? "it is no such JSON" : "unexpected EOF");
}

/* Whatever value stands here; NULL, and a fault. */
static json_t *value(struct reader *r)
{
    json_error_t error;
    size_t n = MIN((size_t)(r->end - r->p), ITEM_MAX_BYTES);
    json_t *v = r->f.bad ? NULL : json_loadb(r->p, n, JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK, &error);
    if (v) {
        ASSERT(error.position >= 0 && (size_t)error.position <= n);
        r->p += error.position;
    } else if (!r->f.bad) {
        bad_frame(r, peek(r) ? error.text : "unexpected EOF");
    }
    return v;
}

/* --- decoding: the items ----------------------------------------------------------------------------------------------------- */

static int by_label_name(const void *a, const void *b)
{
    return slice_cmp(((const struct block_label *)a)->name, ((const struct block_label *)b)->name);
}

static void read_labels(struct reader *r, const json_t *o, struct index_block *b)
{
    json_t *map = json_object_get(o, "labels"), *text;
    if (map && !json_is_null(map) && !json_is_object(map))
        fields_fault(&r->f, "labels", "object");
    size_t n = json_object_size(map);
    struct block_label *labels = n ? ARENA_ARRAY(r->f.arena, struct block_label, n) : NULL;
    if (n && !labels) {
        bucket_no_memory(r->f.err);
        r->f.bad = true;
    }
    if (!labels)
        return;
    const char *name;
    json_object_foreach(map, name, text)
        labels[b->n_labels++] = (struct block_label){fields_copy(&r->f, slice_of(name)), fields_str(&r->f, map, name)};
    qsort(labels, n, sizeof(*labels), by_label_name);
    b->labels = labels;
}

/* Most blocks say the same as the one before: the same bytes then serve both. */
static struct slice text_like(struct reader *r, const json_t *o, const char *name, struct slice before)
{
    const json_t *v = json_object_get(o, name);
    if (json_is_string(v) && slice_eq(slice_make(json_string_value(v), json_string_length(v)), before))
        return before;
    return fields_str(&r->f, o, name);
}

static void read_block(struct reader *r, const json_t *o)
{
    static const struct index_block none;
    size_t n = r->blocks.n / sizeof(struct index_block);
    const struct index_block *before = n ? (const struct index_block *)(void *)r->blocks.p + (n - 1) : &none;
    struct index_block b = {
        .id = fields_ulid(&r->f, o, "block_id"),
        .min_t = fields_i64(&r->f, o, "min_time"),
        .max_t = fields_i64(&r->f, o, "max_time"),
        .segments_format = text_like(r, o, "segments_format", before->segments_format),
        .segments_num = fields_u32(&r->f, o, "segments_num"),
        .level = fields_u32(&r->f, o, "compaction_level"),
        .uploaded_at_s = fields_i64(&r->f, o, "uploaded_at"),
        .shard = text_like(r, o, "compactor_shard_id", before->shard),
        .source = text_like(r, o, "source", before->source),
        .out_of_order = fields_bool(&r->f, o, "out_of_order"),
    };
    read_labels(r, o, &b);
    if (n >= BUCKET_INDEX_MAX_BLOCKS)
        bad_frame(r, "it has more blocks than any index");
    buf_put(&r->blocks, &b, sizeof(b));
}

static void read_deletion(struct reader *r, const json_t *o)
{
    struct index_deletion d = {fields_ulid(&r->f, o, "block_id"), fields_i64(&r->f, o, "deletion_time")};
    if (r->deletions.n / sizeof(d) >= BUCKET_INDEX_MAX_BLOCKS)
        bad_frame(r, "it has more deletion marks than any index");
    buf_put(&r->deletions, &d, sizeof(d));
}

static void read_items(struct reader *r, const char *name, void (*read)(struct reader *, const json_t *))
{
    if (peek(r) != '[') {
        json_t *v = value(r);
        if (v && !json_is_null(v))
            fields_fault(&r->f, name, "array");
        json_decref(v);
        return;
    }
    r->p++;
    if (take(r, ']'))
        return;
    do {
        json_t *item = value(r);
        if (item && !json_is_object(item))
            fields_fault(&r->f, name, "array of objects");
        else if (item)
            read(r, item);
        json_decref(item);
    } while (!r->f.bad && take(r, ','));
    need(r, ']');
}

/* --- decoding: all of it ----------------------------------------------------------------------------------------------------- */

struct head {
    int64_t version, updated_at_s;
};

static int64_t integer(struct reader *r, const char *name, const json_t *v)
{
    if (v && !json_is_integer(v))
        fields_fault(&r->f, name, "integer");
    return json_integer_value(v);
}

static void read_member(struct reader *r, struct head *h)
{
    json_t *name = peek(r) == '"' ? value(r) : NULL, *v = NULL;
    if (!name)
        bad_frame(r, "it is no such JSON");
    need(r, ':');
    const char *key = name ? json_string_value(name) : "";
    if (strcmp(key, "blocks") == 0)
        read_items(r, key, read_block);
    else if (strcmp(key, "block_deletion_marks") == 0)
        read_items(r, key, read_deletion);
    else
        v = value(r);
    if (v && strcmp(key, "version") == 0)
        h->version = integer(r, key, v);
    if (v && strcmp(key, "updated_at") == 0)
        h->updated_at_s = integer(r, key, v);
    json_decref(v);
    json_decref(name);
}

static void read_all(struct reader *r, struct head *h)
{
    need(r, '{');
    if (!r->f.bad && !take(r, '}')) {
        do
            read_member(r, h);
        while (!r->f.bad && take(r, ','));
        need(r, '}');
    }
    if (!r->f.bad && peek(r))
        bad_frame(r, "something follows the JSON");
    if (!r->f.bad && h->version != 1 && h->version != INDEX_VERSION)
        fields_fault(&r->f, "version", "version that is known");
}

static const void *moved(struct reader *r, const struct buf *items, size_t item_size, size_t *ret_n)
{
    void *copy = arena_array(r->f.arena, items->n / item_size + 1, item_size);
    if (items->failed || !copy) {
        r->f.bad = true;
        bucket_no_memory(r->f.err);
        return NULL;
    }
    if (items->n)
        memcpy(copy, items->p, items->n);
    *ret_n = items->n / item_size;
    return copy;
}

static bool decode_json(struct slice json, struct arena *arena, struct bucket_index *ret, struct err *err)
{
    struct reader r = {.f = {CORRUPTED, arena, err, false}, .p = json.p, .end = json.p + json.n};
    struct head h = {0};
    struct bucket_index index = {0};
    r.blocks.max = r.deletions.max = SIZE_MAX;
    read_all(&r, &h);
    if (!r.f.bad) {
        index.blocks = moved(&r, &r.blocks, sizeof(*index.blocks), &index.n_blocks);
        index.deletions = moved(&r, &r.deletions, sizeof(*index.deletions), &index.n_deletions);
        index.updated_at_s = h.updated_at_s;
    }
    buf_release(&r.blocks);
    buf_release(&r.deletions);
    if (!r.f.bad)
        *ret = index;
    return !r.f.bad;
}

bool bucket_index_decode(struct slice gz, struct arena *arena, struct bucket_index *ret, struct err *err)
{
    struct buf json;
    buf_init(&json, BUCKET_INDEX_MAX_BYTES + 2 * INFLATE_STEP);
    bool good = gunzip(gz, &json, err) && decode_json(buf_slice(&json), arena, ret, err);
    buf_release(&json);
    return good;
}

/* --- encoding ---------------------------------------------------------------------------------------------------------------- */

static void put_i64(struct json *j, struct slice key, int64_t v)
{
    json_key(j, key);
    json_i64(j, v);
}

static void put_count(struct json *j, struct slice key, uint32_t v)
{
    if (v)
        put_i64(j, key, v);
}

static void put_text(struct json *j, struct slice key, struct slice text)
{
    if (text.n == 0)
        return;
    json_key(j, key);
    json_str(j, text);
}

static void put_labels(struct json *j, const struct index_block *b)
{
    if (b->n_labels == 0)
        return;
    json_key(j, SL("labels"));
    json_obj(j);
    for (size_t i = 0; i < b->n_labels; i++) {
        json_key(j, b->labels[i].name);
        json_str(j, b->labels[i].value);
    }
    json_obj_end(j);
}

static void put_block(struct json *j, const struct index_block *b)
{
    json_obj(j);
    json_key(j, SL("block_id"));
    json_str(j, slice_of(b->id.text));
    put_i64(j, SL("min_time"), b->min_t);
    put_i64(j, SL("max_time"), b->max_t);
    put_text(j, SL("segments_format"), b->segments_format);
    put_count(j, SL("segments_num"), b->segments_num);
    put_i64(j, SL("uploaded_at"), b->uploaded_at_s);
    put_text(j, SL("compactor_shard_id"), b->shard);
    put_text(j, SL("source"), b->source);
    put_count(j, SL("compaction_level"), b->level);
    if (b->out_of_order) {
        json_key(j, SL("out_of_order"));
        json_bool(j, true);
    }
    put_labels(j, b);
    json_obj_end(j);
}

static void put_index(struct json *j, const struct bucket_index *index)
{
    json_obj(j);
    put_i64(j, SL("version"), INDEX_VERSION);
    json_key(j, SL("blocks"));
    json_arr(j);
    for (size_t i = 0; i < index->n_blocks; i++)
        put_block(j, &index->blocks[i]);
    json_arr_end(j);
    json_key(j, SL("block_deletion_marks"));
    json_arr(j);
    for (size_t i = 0; i < index->n_deletions; i++) {
        json_obj(j);
        json_key(j, SL("block_id"));
        json_str(j, slice_of(index->deletions[i].block.text));
        put_i64(j, SL("deletion_time"), index->deletions[i].time_s);
        json_obj_end(j);
    }
    json_arr_end(j);
    put_i64(j, SL("updated_at"), index->updated_at_s);
    json_obj_end(j);
}

void bucket_index_encode(const struct bucket_index *index, struct buf *out)
{
    struct buf plain, escaped;
    struct json j;
    buf_init(&plain, BUCKET_INDEX_MAX_BYTES);
    buf_init(&escaped, BUCKET_INDEX_MAX_BYTES);
    json_init(&j, &plain);
    put_index(&j, index);
    json_put_escaped_html(buf_slice(&plain), &escaped);
    escaped.failed |= plain.failed;
    buf_release(&plain);
    if (!escaped.failed)
        gzip(buf_slice(&escaped), out);
    out->failed |= escaped.failed;
    buf_release(&escaped);
}

/* --- in the bucket ----------------------------------------------------------------------------------------------------------- */

bool bucket_index_read(struct objstore *s, const struct ctx *ctx, struct slice tenant, struct arena *arena, struct bucket_index *ret,
                       struct err *err)
{
    struct bucket_name name = bucket_tenant_file(tenant, BUCKET_INDEX);
    struct buf gz;
    bool good = bucket_get_small(s, ctx, &name, BUCKET_INDEX_MAX_BYTES, &gz, err) && bucket_index_decode(buf_slice(&gz), arena, ret, err);
    buf_release(&gz);
    return good;
}

bool bucket_index_write(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct bucket_index *index, struct err *err)
{
    struct bucket_name name = bucket_tenant_file(tenant, BUCKET_INDEX);
    struct buf gz;
    buf_init(&gz, BUCKET_INDEX_MAX_BYTES);
    bucket_index_encode(index, &gz);
    bool good = !gz.failed ? objstore_put(s, ctx, bucket_name_slice(&name), buf_slice(&gz), err)
                           : err_set(err, ERR_TOO_LARGE, "%s: no room to write an index of %zu blocks", name.text, index->n_blocks);
    buf_release(&gz);
    return good;
}

const struct index_deletion *bucket_index_deletion(const struct bucket_index *index, const struct ulid *block)
{
    for (size_t i = 0; i < index->n_deletions; i++)
        if (ulid_cmp(&index->deletions[i].block, block) == 0)
            return &index->deletions[i];
    return NULL;
}
