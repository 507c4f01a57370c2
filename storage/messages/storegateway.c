/*
 * Requests to store-gateways, hints, and the answers of unary calls (docs/formats.md 8.3).
 *
 *     SeriesRequest                 1 min_time  2 max_time  3 matchers  8 skip_chunks  9 hints  14 request_hints  100 batch
 *     LabelNamesRequest             3 start     4 end       6 matchers                 5 hints   8 request_hints    7 limit
 *     LabelValuesRequest  1 label   4 start     5 end       7 matchers                 6 hints   9 request_hints    8 limit
 *     the hints of a request        1 block_matchers: one, name __block_id, value "ULID|ULID|..."
 *     the hints of an answer        1 queried_blocks {1 id}
 *     LabelNames-, LabelValuesResponse  1 strings  2 warnings  3 hints  4 response_hints
 *     Any                           1 type_url  2 value
 */
#include "base/assert.h"
#include "storage/messages/storegateway_int.h"

#define BLOCK_ID_LABEL "__block_id"
#define TYPE_PREFIX "type.googleapis.com/hintspb."

/* --- hints --- */

static bool read_any(const struct reading *m, struct slice *ret)
{
    struct slice url = SL(""), value = SL("");
    struct proto r = reading_cursor(m);
    while (proto_more(&r)) {
        uint32_t f, wire;
        if (!proto_tag(&r, &f, &wire))
            return false;
        bool ok = f == 1   ? proto_bytes_field(&r, wire, "TypeUrl", &url)
                  : f == 2 ? proto_bytes_field(&r, wire, "Value", &value)
                           : proto_skip(&r, wire);
        if (!ok)
            return false;
    }
    if (!slice_has_prefix(url, SL(TYPE_PREFIX)))
        return err_set(m->err, ERR_BAD_DATA, "%s: hints of an unknown type \"%.*s\"", m->name, SL_FMT(url));
    *ret = value;
    return true;
}

/* "A|B|C", and "" for none. */
static bool read_block_list(const struct reading *m, struct slice text, struct block_hints *ret)
{
    size_t n = text.n ? (text.n + 1) / (ULID_TEXT_LEN + 1) : 0;
    struct ulid *blocks = ARENA_ARRAY(m->arena, struct ulid, n);
    if (n && !blocks)
        return reading_no_memory(m);
    bool ok = text.n == 0 || (text.n + 1) % (ULID_TEXT_LEN + 1) == 0;
    for (size_t i = 0; ok && i < n; i++) {
        size_t at = i * (ULID_TEXT_LEN + 1);
        ok = ulid_parse(slice_make(text.p + at, ULID_TEXT_LEN), &blocks[i]) &&
             (i + 1 == n || text.p[at + ULID_TEXT_LEN] == '|');
    }
    if (!ok)
        return err_set(m->err, ERR_BAD_DATA, "%s: hints that are no list of block ids", m->name);
    *ret = (struct block_hints){.blocks = n ? blocks : NULL, .n = n};
    return true;
}

/* {1 block_matchers}: without one there is no choice of blocks. */
static bool read_request_hints(const struct reading *m, struct block_hints *ret)
{
    struct matcher_set set = {0};
    if (!reading_matchers(m, 1, &set))
        return false;
    if (set.n == 0)
        return true;
    const struct matcher_spec *one = &set.matchers[0];
    if (set.n > 1 || !slice_eq(one->name, SL(BLOCK_ID_LABEL)) || (one->type != MATCH_EQ && one->type != MATCH_RE))
        return err_set(m->err, ERR_BAD_DATA, "%s: hints that are no list of block ids", m->name);
    return read_block_list(m, one->value, ret);
}

static void put_block_matcher(const struct block_hints *h, struct buf *out)
{
    size_t matcher = proto_put_begin(out, 1);
    proto_put_varint(out, 1, MATCH_RE);
    proto_put_string(out, 2, SL(BLOCK_ID_LABEL));
    if (h->n) {
        size_t value = proto_put_begin(out, 3);
        for (size_t i = 0; i < h->n; i++) {
            if (i > 0)
                buf_putc(out, '|');
            buf_put(out, h->blocks[i].text, ULID_TEXT_LEN);
        }
        proto_put_end(out, value);
    }
    proto_put_end(out, matcher);
}

bool reading_queried(const struct reading *m, struct block_hints *ret)
{
    size_t n = 0;
    if (!reading_count(m, 1, &n))
        return false;
    struct ulid *blocks = ARENA_ARRAY(m->arena, struct ulid, n);
    if (n && !blocks)
        return reading_no_memory(m);
    *ret = (struct block_hints){.blocks = n ? blocks : NULL, .n = n};
    struct proto r = reading_cursor(m);
    for (size_t i = 0;; i++) {
        struct slice block, id = SL("");
        bool found;
        if (!proto_find(&r, 1, "QueriedBlocks", &block, &found))
            return false;
        if (!found)
            return true;
        struct proto inside = proto_of(block, "Block", m->err);
        if (!proto_find(&inside, 1, "Id", &id, &found))
            return false;
        if (!found || !ulid_parse(id, &blocks[i]))
            return err_set(m->err, ERR_BAD_DATA, "%s: a queried block that is no block id", m->name);
    }
}

bool reading_queried_any(const struct reading *m, struct slice any, struct block_hints *ret)
{
    struct reading outer = reading_inside(m, any, m->name);
    struct slice value;
    if (!read_any(&outer, &value))
        return false;
    struct reading inside = reading_inside(m, value, m->name);
    return reading_queried(&inside, ret);
}

static void put_queried(const struct block_hints *h, struct buf *out)
{
    for (size_t i = 0; i < h->n; i++) {
        size_t block = proto_put_begin(out, 1);
        proto_put_element(out, 1, slice_make(h->blocks[i].text, ULID_TEXT_LEN));
        proto_put_end(out, block);
    }
}

void put_queried_any(uint32_t field, struct slice type, const struct block_hints *h, struct buf *out)
{
    size_t any = proto_put_begin(out, field);
    proto_put_element(out, 1, type);
    if (h->n) {
        size_t value = proto_put_begin(out, 2);
        put_queried(h, out);
        proto_put_end(out, value);
    }
    proto_put_end(out, any);
}

/* --- requests --- */

/* Field numbers; 0: the message has none. */
struct layout {
    const char *name;
    const char *hints_type;
    uint32_t label, min_t, max_t, matchers, skip_chunks, hints, request_hints, limit, batch;
};

static const struct layout series = {.name = "SeriesRequest",
                                     .hints_type = TYPE_PREFIX "SeriesRequestHints",
                                     .min_t = 1,
                                     .max_t = 2,
                                     .matchers = 3,
                                     .skip_chunks = 8,
                                     .hints = 9,
                                     .request_hints = 14,
                                     .batch = 100};
static const struct layout label_names = {.name = "LabelNamesRequest",
                                          .hints_type = TYPE_PREFIX "LabelNamesRequestHints",
                                          .min_t = 3,
                                          .max_t = 4,
                                          .hints = 5,
                                          .matchers = 6,
                                          .limit = 7,
                                          .request_hints = 8};
static const struct layout label_values = {.name = "LabelValuesRequest",
                                           .hints_type = TYPE_PREFIX "LabelValuesRequestHints",
                                           .label = 1,
                                           .min_t = 4,
                                           .max_t = 5,
                                           .hints = 6,
                                           .matchers = 7,
                                           .limit = 8,
                                           .request_hints = 9};

static bool read_number(struct proto *r, const struct layout *l, uint32_t f, uint32_t wire,
                        struct storegateway_request *ret)
{
    uint64_t v;
    if (!proto_varint_field(r, wire, "number", &v))
        return false;
    if (f == l->min_t)
        ret->min_t = (int64_t)v;
    else if (f == l->max_t)
        ret->max_t = (int64_t)v;
    else if (f == l->limit)
        ret->limit = (int64_t)v;
    else if (f == l->batch)
        ret->chunks_batch = v;
    else
        ret->skip_chunks = v != 0;
    return true;
}

/* The bytes of hints, the newer form first. */
struct request_hints {
    struct slice any, own;
    bool has_any, has_own;
};

static bool read_fields(const struct reading *m, const struct layout *l, struct storegateway_request *ret,
                        struct request_hints *hints)
{
    struct proto r = reading_cursor(m);
    while (proto_more(&r)) {
        uint32_t f, wire;
        if (!proto_tag(&r, &f, &wire))
            return false;
        bool ok = true;
        if (f == l->min_t || f == l->max_t || f == l->limit || f == l->batch || f == l->skip_chunks)
            ok = read_number(&r, l, f, wire, ret);
        else if (f == l->label)
            ok = proto_bytes_field(&r, wire, "Label", &ret->label_name);
        else if (f == l->hints)
            ok = hints->has_any = proto_bytes_field(&r, wire, "Hints", &hints->any);
        else if (f == l->request_hints)
            ok = hints->has_own = proto_bytes_field(&r, wire, "RequestHints", &hints->own);
        else
            ok = proto_skip(&r, wire);
        if (!ok)
            return false;
    }
    return true;
}

static bool read_hints(const struct reading *m, const struct request_hints *hints, struct block_hints *ret)
{
    struct slice bytes = hints->own;
    *ret = (struct block_hints){.all = true};
    if (!hints->has_own) {
        if (!hints->has_any)
            return true;
        struct reading any = reading_inside(m, hints->any, m->name);
        if (!read_any(&any, &bytes))
            return false;
    }
    struct reading inside = reading_inside(m, bytes, m->name);
    return read_request_hints(&inside, ret);
}

static bool request_decode(const struct layout *l, struct slice message, struct arena *arena,
                           struct storegateway_request *ret, struct err *err)
{
    struct reading m = {message, l->name, arena, err};
    struct storegateway_request r = {.label_name = SL("")};
    struct request_hints hints = {0};
    if (!read_fields(&m, l, &r, &hints) || !reading_matchers(&m, l->matchers, &r.matchers) ||
        !read_hints(&m, &hints, &r.blocks))
        return false;
    *ret = r;
    return true;
}

static void put_hints(const struct layout *l, const struct block_hints *h, struct buf *out)
{
    size_t any = proto_put_begin(out, l->hints);
    proto_put_element(out, 1, slice_of(l->hints_type));
    size_t value = proto_put_begin(out, 2);
    put_block_matcher(h, out);
    proto_put_end(out, value);
    proto_put_end(out, any);
}

static void put_request_hints(const struct layout *l, const struct block_hints *h, struct buf *out)
{
    size_t own = proto_put_begin(out, l->request_hints);
    put_block_matcher(h, out);
    proto_put_end(out, own);
}

/* Fields in the order of their numbers, which differs: the hints stand before the matchers of the label requests. */
static void request_put(const struct layout *l, const struct storegateway_request *r, struct buf *out)
{
    bool hints_first = l->hints < l->matchers;
    if (l->label)
        proto_put_string(out, l->label, r->label_name);
    proto_put_varint(out, l->min_t, (uint64_t)r->min_t);
    proto_put_varint(out, l->max_t, (uint64_t)r->max_t);
    if (!r->blocks.all && hints_first)
        put_hints(l, &r->blocks, out);
    put_matchers(out, l->matchers, &r->matchers);
    if (l->skip_chunks)
        proto_put_varint(out, l->skip_chunks, r->skip_chunks);
    if (!r->blocks.all && !hints_first)
        put_hints(l, &r->blocks, out);
    if (l->limit)
        proto_put_varint(out, l->limit, (uint64_t)r->limit);
    if (!r->blocks.all)
        put_request_hints(l, &r->blocks, out);
    if (l->batch)
        proto_put_varint(out, l->batch, r->chunks_batch);
}

#define REQUEST(layout_name)                                                                                           \
    bool storegateway_##layout_name##_request_decode(struct slice message, struct arena *arena,                        \
                                                     struct storegateway_request *ret, struct err *err)                \
    {                                                                                                                  \
        return request_decode(&layout_name, message, arena, ret, err);                                                 \
    }                                                                                                                  \
    void storegateway_##layout_name##_request_put(const struct storegateway_request *r, struct buf *out)               \
    {                                                                                                                  \
        request_put(&layout_name, r, out);                                                                             \
    }

REQUEST(series)
REQUEST(label_names)
REQUEST(label_values)

/* --- strings --- */

static bool read_strings_hints(const struct reading *m, struct block_hints *ret)
{
    struct proto r = reading_cursor(m);
    bool has_own = false;
    *ret = (struct block_hints){0};
    while (proto_more(&r)) {
        uint32_t f, wire;
        struct slice bytes;
        if (!proto_tag(&r, &f, &wire))
            return false;
        bool ok = true;
        if (f == 3 || f == 4) {
            ok = proto_bytes_field(&r, wire, "Hints", &bytes);
            struct reading own = reading_inside(m, ok ? bytes : SL(""), m->name);
            if (f == 4)
                ok = has_own = ok && reading_queried(&own, ret);
            else if (!has_own)
                ok = ok && reading_queried_any(m, bytes, ret);
        } else {
            ok = proto_skip(&r, wire);
        }
        if (!ok)
            return false;
    }
    return true;
}

bool storegateway_strings_decode(struct slice message, struct arena *arena, struct storegateway_strings *ret,
                                 struct err *err)
{
    struct reading m = {message, "LabelValuesResponse", arena, err};
    struct storegateway_strings s = {0};
    if (!reading_strings(&m, 1, &s.strings, &s.n) || !reading_strings(&m, 2, &s.warnings, &s.n_warnings) ||
        !read_strings_hints(&m, &s.queried))
        return answer_corrupt(err);
    *ret = s;
    return true;
}

static void put_strings(const struct storegateway_strings *s, struct slice type, struct buf *out)
{
    for (size_t i = 0; i < s->n; i++)
        proto_put_element(out, 1, s->strings[i]);
    for (size_t i = 0; i < s->n_warnings; i++)
        proto_put_element(out, 2, s->warnings[i]);
    put_queried_any(3, type, &s->queried, out);
    size_t own = proto_put_begin(out, 4);
    put_queried(&s->queried, out);
    proto_put_end(out, own);
}

void storegateway_label_names_put(const struct storegateway_strings *s, struct buf *out)
{
    put_strings(s, SL(TYPE_PREFIX "LabelNamesResponseHints"), out);
}

void storegateway_label_values_put(const struct storegateway_strings *s, struct buf *out)
{
    put_strings(s, SL(TYPE_PREFIX "LabelValuesResponseHints"), out);
}
