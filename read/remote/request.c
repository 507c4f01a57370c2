/*
 * ReadRequest:
 *
 *     ReadRequest  1 queries rep Query   2 accepted_response_types rep enum, packed or not
 *     Query        1 start_timestamp_ms  2 end_timestamp_ms  3 matchers rep LabelMatcher  4 hints ReadHints
 *     LabelMatcher 1 type {EQ, NEQ, RE, NRE}  2 name  3 value
 *     ReadHints    1 step_ms  2 func  3 start_ms  4 end_ms  5 grouping  6 by  7 range_ms
 *
 * Repeated fields are counted first, so that arrays have exactly the room they need. A query's range is its hints' where those are above 0: Prometheus widens
 * the one to all that a PromQL query reads, and says in the other what this selector does.
 */
#include <snappy-c.h>
#include <stdio.h>
#include <string.h>

#include "model/proto.h"
#include "read/remote/remote.h"

#define TYPES_MAX 64

struct reader {
    struct arena *arena;
    struct err *err;
};

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_MAX_QUERY_MEMORY, "out of memory for the request");
}

/* How often a field is there. */
static bool count_field(const struct reader *r, struct slice msg, const char *name, uint32_t field, size_t max, size_t *ret)
{
    struct proto p = proto_of(msg, name, r->err);
    *ret = 0;
    while (proto_more(&p)) {
        uint32_t f, wire;
        if (!proto_tag(&p, &f, &wire) || !proto_skip(&p, wire))
            return false;
        *ret += f == field;
    }
    return *ret <= max || err_set(r->err, ERR_BAD_DATA, "more than %zu of %s in one message", max, name);
}

/* --- a query ----------------------------------------------------------------------------------------------------------------- */

static bool read_matcher(const struct reader *r, struct slice msg, struct matcher *ret)
{
    struct proto p = proto_of(msg, "LabelMatcher", r->err);
    uint64_t type = 0;
    struct slice name = SL(""), value = SL("");
    while (proto_more(&p)) {
        uint32_t f, wire;
        if (!proto_tag(&p, &f, &wire))
            return false;
        bool ok = f == 1   ? proto_varint_field(&p, wire, "Type", &type)
                  : f == 2 ? proto_bytes_field(&p, wire, "Name", &name)
                  : f == 3 ? proto_bytes_field(&p, wire, "Value", &value)
                           : proto_skip(&p, wire);
        if (!ok)
            return false;
    }
    static const enum matcher_type types[] = {MATCH_EQ, MATCH_NEQ, MATCH_RE, MATCH_NRE};
    if (type >= ARRAY_LEN(types))
        return err_set(r->err, ERR_BAD_DATA, "invalid matcher type");
    return matcher_init(ret, types[type], name, value, r->err);
}

static bool read_hints(const struct reader *r, struct slice msg, struct remote_query *q)
{
    struct proto p = proto_of(msg, "ReadHints", r->err);
    while (proto_more(&p)) {
        uint32_t f, wire;
        uint64_t v = 0;
        struct slice func;
        if (!proto_tag(&p, &f, &wire))
            return false;
        if (f == 2) {
            if (!proto_bytes_field(&p, wire, "Func", &func))
                return false;
            q->only_series = slice_eq(func, SL("series"));
        } else if (f == 3 || f == 4) {
            if (!proto_varint_field(&p, wire, f == 3 ? "StartMs" : "EndMs", &v))
                return false;
            if ((int64_t)v > 0)
                *(f == 3 ? &q->start_ms : &q->end_ms) = (int64_t)v;
        } else if (!proto_skip(&p, wire)) {
            return false;
        }
    }
    return true;
}

static bool read_query(const struct reader *r, struct slice msg, struct remote_query *q)
{
    struct proto p = proto_of(msg, "Query", r->err);
    struct slice hints = {0}, matcher;
    uint64_t start = 0, end = 0;
    size_t n;
    if (!count_field(r, msg, "Query", 3, REMOTE_MAX_MATCHERS, &n))
        return false;
    q->matchers = ARENA_ARRAY(r->arena, struct matcher, n);
    if (n && !q->matchers)
        return no_memory(r->err);
    while (proto_more(&p)) {
        uint32_t f, wire;
        if (!proto_tag(&p, &f, &wire))
            return false;
        bool ok = f == 1   ? proto_varint_field(&p, wire, "StartTimestampMs", &start)
                  : f == 2 ? proto_varint_field(&p, wire, "EndTimestampMs", &end)
                  : f == 3 ? proto_bytes_field(&p, wire, "Matchers", &matcher) && read_matcher(r, matcher, &q->matchers[q->n_matchers])
                  : f == 4 ? proto_bytes_field(&p, wire, "Hints", &hints)
                           : proto_skip(&p, wire);
        if (!ok)
            return false;
        q->n_matchers += f == 3;
    }
    q->start_ms = (int64_t)start;
    q->end_ms = (int64_t)end;
    return !hints.p || read_hints(r, hints, q);
}

/* --- the request --------------------------------------------------------------------------------------------------------------- */

/* One entry, or a packed list of them. */
static bool read_types(const struct reader *r, struct proto *p, uint32_t wire, int32_t *types, size_t *n)
{
    uint64_t v;
    struct slice packed;
    if (wire != PROTO_BYTES) {
        if (!proto_varint_field(p, wire, "AcceptedResponseTypes", &v))
            return false;
        types[(*n)++] = (int32_t)v;
    } else if (proto_bytes(p, &packed)) {
        struct proto inside = proto_of(packed, "ReadRequest", r->err);
        while (proto_more(&inside) && *n < TYPES_MAX) {
            if (!proto_varint(&inside, &v))
                return false;
            types[(*n)++] = (int32_t)v;
        }
        if (proto_more(&inside))
            return err_set(r->err, ERR_BAD_DATA, "more than %d response types", TYPES_MAX);
    } else {
        return false;
    }
    return true;
}

static bool read_request(const struct reader *r, struct slice msg, struct remote_request *ret)
{
    struct proto p = proto_of(msg, "ReadRequest", r->err);
    size_t n;
    if (!count_field(r, msg, "ReadRequest", 1, REMOTE_MAX_QUERIES, &n))
        return false;
    int32_t *types = ARENA_ARRAY(r->arena, int32_t, TYPES_MAX + 1);
    ret->queries = arena_zalloc(r->arena, (n + 1) * sizeof(*ret->queries));
    ret->types = types;
    if (!ret->queries || !types)
        return no_memory(r->err);
    while (proto_more(&p)) {
        uint32_t f, wire;
        struct slice query;
        if (!proto_tag(&p, &f, &wire))
            return false;
        bool ok;
        if (f == 1) /* counted before it is read, so that half of one is released too */
            ok = proto_bytes_field(&p, wire, "Queries", &query) && read_query(r, query, &ret->queries[ret->n_queries++]);
        else if (f == 2)
            ok = ret->n_types < TYPES_MAX ? read_types(r, &p, wire, types, &ret->n_types)
                                          : err_set(r->err, ERR_BAD_DATA, "more than %d response types", TYPES_MAX);
        else
            ok = proto_skip(&p, wire);
        if (!ok)
            return false;
    }
    return true;
}

bool remote_request_read(struct slice body, size_t max_bytes, struct arena *arena, struct remote_request *ret, struct err *err)
{
    size_t n;
    *ret = (struct remote_request){0};
    if (body.n == 0 || snappy_uncompressed_length(body.p, body.n, &n) != SNAPPY_OK)
        return err_set(err, ERR_BAD_DATA, "getting snappy decoded length: snappy: corrupt input");
    if (n > max_bytes)
        return err_set(err, ERR_TOO_LARGE, "the request has %zu bytes when it is decoded, the limit is %zu", n, max_bytes);
    char *plain = arena_alloc(arena, n + 1);
    if (!plain)
        return no_memory(err);
    if (snappy_uncompress(body.p, body.n, plain, &n) != SNAPPY_OK)
        return err_set(err, ERR_BAD_DATA, "snappy: corrupt input");
    return read_request(&(struct reader){arena, err}, slice_make(plain, n), ret);
}

void remote_request_release(struct remote_request *r)
{
    for (size_t i = 0; i < r->n_queries; i++)
        for (size_t k = 0; k < r->queries[i].n_matchers; k++)
            matcher_release(&r->queries[i].matchers[k]);
    *r = (struct remote_request){0};
}

bool remote_request_form(const struct remote_request *r, enum remote_form *ret, struct err *err)
{
    *ret = REMOTE_SAMPLES;
    if (r->n_types == 0)
        return true;
    char text[TYPES_MAX * 13];
    size_t at = 0;
    for (size_t i = 0; i < r->n_types; i++) {
        if (r->types[i] == REMOTE_SAMPLES || r->types[i] == REMOTE_CHUNKS) {
            *ret = r->types[i] == REMOTE_CHUNKS ? REMOTE_CHUNKS : REMOTE_SAMPLES;
            return true;
        }
        at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%d", i ? " " : "", r->types[i]);
    }
    return err_set(err, ERR_BAD_DATA,
                   "server does not support any of the requested response types: [%s]; supported: map[SAMPLES:{} STREAMED_XOR_CHUNKS:{}]", text);
}
