#include "storage/messages/messages_int.h"

#include "base/assert.h"

bool reading_no_memory(const struct reading *m)
{
    return err_set(m->err, ERR_MAX_QUERY_MEMORY,
                   "the query exceeded the maximum allowed estimated amount of memory consumed by a single query "
                   "(limit: %zu bytes)",
                   m->arena->budget_bytes);
}

bool answer_corrupt(struct err *err)
{
    if (err && err->code == ERR_BAD_DATA)
        err->code = ERR_CORRUPT;
    return false;
}

bool reading_count(const struct reading *m, uint32_t field, size_t *ret)
{
    struct proto r = reading_cursor(m);
    size_t n = 0;
    while (proto_more(&r)) {
        uint32_t f, wire;
        if (!proto_tag(&r, &f, &wire) || !proto_skip(&r, wire))
            return false;
        n += f == field;
    }
    *ret = n;
    return true;
}

bool reading_strings(const struct reading *m, uint32_t field, const struct slice **ret, size_t *ret_n)
{
    size_t n = 0;
    if (!reading_count(m, field, &n))
        return false;
    struct slice *list = ARENA_ARRAY(m->arena, struct slice, n);
    if (n && !list)
        return reading_no_memory(m);
    size_t at = 0;
    struct proto r = reading_cursor(m);
    while (proto_more(&r)) {
        uint32_t f, wire;
        if (!proto_tag(&r, &f, &wire) ||
            !(f == field ? proto_bytes_field(&r, wire, "string", &list[at++]) : proto_skip(&r, wire)))
            return false;
    }
    *ret = n ? list : NULL;
    *ret_n = n;
    return true;
}

/* --- labels --- */

bool reading_pair(const struct reading *m, struct label *ret)
{
    struct proto r = reading_cursor(m);
    *ret = (struct label){SL(""), SL("")};
    while (proto_more(&r)) {
        uint32_t f, wire;
        if (!proto_tag(&r, &f, &wire))
            return false;
        bool ok = f == 1   ? proto_bytes_field(&r, wire, "Name", &ret->name)
                  : f == 2 ? proto_bytes_field(&r, wire, "Value", &ret->value)
                           : proto_skip(&r, wire);
        if (!ok)
            return false;
    }
    return true;
}

bool reading_labels(const struct reading *m, uint32_t field, bool sorted, struct labels *ret)
{
    size_t n = 0;
    if (!reading_count(m, field, &n))
        return false;
    struct label *items = ARENA_ARRAY(m->arena, struct label, n);
    if (n && !items)
        return reading_no_memory(m);
    size_t at = 0;
    struct proto r = reading_cursor(m);
    for (;;) {
        struct slice pair;
        bool found;
        if (!proto_find(&r, field, "Labels", &pair, &found))
            return false;
        if (!found)
            break;
        struct reading inside = reading_inside(m, pair, "LabelPair");
        if (!reading_pair(&inside, &items[at]))
            return false;
        if (sorted && (!items[at].value.n || (at > 0 && slice_cmp(items[at - 1].name, items[at].name) >= 0)))
            return err_set(m->err, ERR_BAD_DATA, "%s: labels out of order, or without a value", m->name);
        at++;
    }
    *ret = (struct labels){n ? items : NULL, n};
    return true;
}

void put_metric(struct buf *out, uint32_t field, const struct labels *l)
{
    size_t begin = proto_put_begin(out, field);
    labels_put_canonical(*l, out);
    proto_put_end(out, begin);
}

/* --- matchers --- */

static bool read_matcher(const struct reading *m, struct matcher_spec *ret)
{
    struct proto r = reading_cursor(m);
    uint64_t type = 0;
    *ret = (struct matcher_spec){MATCH_EQ, SL(""), SL("")};
    while (proto_more(&r)) {
        uint32_t f, wire;
        if (!proto_tag(&r, &f, &wire))
            return false;
        bool ok = f == 1   ? proto_varint_field(&r, wire, "Type", &type)
                  : f == 2 ? proto_bytes_field(&r, wire, "Name", &ret->name)
                  : f == 3 ? proto_bytes_field(&r, wire, "Value", &ret->value)
                           : proto_skip(&r, wire);
        if (!ok)
            return false;
    }
    if (type > MATCH_NRE)
        return err_set(m->err, ERR_BAD_DATA, "invalid matcher type");
    ret->type = (enum matcher_type)type; /* in the order of the wire's numbers */
    return true;
}

bool reading_matchers(const struct reading *m, uint32_t field, struct matcher_set *set)
{
    size_t n = 0;
    if (!reading_count(m, field, &n))
        return false;
    if (n > MESSAGE_MATCHERS_MAX - set->n)
        return err_set(m->err, ERR_BAD_DATA, "more than %d matchers", MESSAGE_MATCHERS_MAX);
    struct matcher_spec *all = ARENA_ARRAY(m->arena, struct matcher_spec, set->n + n);
    if (set->n + n && !all)
        return reading_no_memory(m);
    if (set->n)
        memcpy(all, set->matchers, set->n * sizeof(*all));
    size_t at = set->n;
    struct proto r = reading_cursor(m);
    for (;;) {
        struct slice matcher;
        bool found;
        if (!proto_find(&r, field, "Matchers", &matcher, &found))
            return false;
        if (!found)
            break;
        struct reading inside = reading_inside(m, matcher, "LabelMatcher");
        if (!read_matcher(&inside, &all[at++]))
            return false;
    }
    *set = (struct matcher_set){at ? all : NULL, at};
    return true;
}

bool reading_streamed_chunks(const struct reading *m, const char *name, reading_chunk_fn *read_chunk, struct streamed_chunks *ret)
{
    size_t n = 0;
    if (!reading_count(m, 2, &n))
        return false;
    struct series_chunk *chunks = ARENA_ARRAY(m->arena, struct series_chunk, n);
    if (n && !chunks)
        return reading_no_memory(m);
    *ret = (struct streamed_chunks){.chunks = n ? chunks : NULL};
    struct proto r = reading_cursor(m);
    while (proto_more(&r)) {
        uint32_t f, wire;
        struct slice bytes;
        if (!proto_tag(&r, &f, &wire))
            return false;
        if (f == 2) {
            if (!proto_bytes_field(&r, wire, "Chunks", &bytes))
                return false;
            struct reading inside = reading_inside(m, bytes, name);
            if (!read_chunk(&inside, &chunks[ret->n++]))
                return false;
        } else if (!(f == 1 ? proto_varint_field(&r, wire, "SeriesIndex", &ret->series_index) : proto_skip(&r, wire))) {
            return false;
        }
    }
    return true;
}

void put_matchers(struct buf *out, uint32_t field, const struct matcher_set *set)
{
    for (size_t i = 0; i < set->n; i++) {
        const struct matcher_spec *m = &set->matchers[i];
        size_t begin = proto_put_begin(out, field);
        proto_put_varint(out, 1, (uint64_t)m->type);
        proto_put_string(out, 2, m->name);
        proto_put_string(out, 3, m->value);
        proto_put_end(out, begin);
    }
}
