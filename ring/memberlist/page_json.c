/* The page's facts as JSON, in the form that Go's encoder gives upstream's structs. */
#include <arpa/inet.h>
#include <stdio.h>

#include "base/assert.h"
#include "base/base64.h"
#include "base/clock.h"
#include "ring/desc.h"
#include "ring/memberlist/page_int.h"

/* RFC 3339 with as many digits as there are; Go's first day for 0. */
static void put_time(struct json *j, int64_t ns)
{
    char text[CLOCK_RFC3339_MAX] = CLOCK_NO_TIME;
    if (ns)
        clock_rfc3339(ns / 1000000000, (int32_t)(ns % 1000000000), CLOCK_AS_NEEDED, text);
    json_str(j, slice_of(text));
}

static void put_str(struct json *j, const char *key, const char *value)
{
    json_key(j, slice_of(key));
    json_str(j, slice_of(value));
}

static void put_int(struct json *j, const char *key, int64_t value)
{
    json_key(j, slice_of(key));
    json_i64(j, value);
}

/* As Go writes []byte. */
static void put_base64(struct json *j, const char *p, size_t n)
{
    struct buf out;
    buf_init(&out, 0);
    base64_encode(slice_make(p, n), true, &out);
    json_str(j, buf_slice(&out));
    buf_release(&out);
}

static void put_member(struct json *j, const struct node *n)
{
    static const char *const versions[] = {"PMin", "PMax", "PCur", "DMin", "DMax", "DCur"};
    char addr[64];
    addr_to_text(&n->addr, addr, sizeof addr);
    char *colon = strrchr(addr, ':');
    *colon = 0;
    bool is_v6 = addr[0] == '[';
    if (is_v6)
        colon[-1] = 0;
    json_obj(j);
    put_str(j, "Name", n->name);
    put_str(j, "Addr", addr + is_v6);
    put_int(j, "Port", n->addr.port);
    json_key(j, SL("Meta"));
    if (n->meta_nil)
        json_raw(j, SL("null"));
    else
        put_base64(j, n->meta, n->meta_n);
    put_int(j, "State", n->state);
    for (size_t i = 0; i < ARRAY_LEN(versions); i++)
        put_int(j, versions[i], n->vsn[i]);
    json_obj_end(j);
}

static void put_store(struct json *j, const struct snapshot *s)
{
    json_key(j, SL("Store"));
    json_obj(j);
    for (size_t i = 0; i < s->n_entries; i++) {
        const struct entry *e = &s->entries[i];
        json_key(j, slice_of(e->key));
        json_obj(j);
        json_key(j, SL("Version"));
        json_u64(j, e->version);
        put_str(j, "CodecID", e->codec->id);
        json_key(j, SL("Deleted"));
        json_bool(j, e->deleted);
        json_key(j, SL("UpdateTime"));
        put_time(j, e->update_time_ms * 1000000);
        json_obj_end(j);
    }
    json_obj_end(j);
}

static void put_sizes(struct json *j, const struct snapshot *s)
{
    size_t total = 0;
    json_key(j, SL("StoreSizes"));
    json_obj(j);
    for (size_t i = 0; i < s->n_entries; i++) {
        struct buf value;
        snapshot_encode(&s->entries[i], &value);
        put_int(j, s->entries[i].key, (int64_t)value.n);
        total += value.n;
        buf_release(&value);
    }
    json_obj_end(j);
    put_int(j, "TotalStoreSize", (int64_t)total);
}

void status_json(const struct snapshot *s, struct buf *out)
{
    struct json j;
    json_init(&j, out);
    json_obj(&j);
    json_key(&j, SL("Now"));
    put_time(&j, clock_wall_ns());
    json_key(&j, SL("Memberlist"));
    json_raw(&j, SL("{}"));
    json_key(&j, SL("SortedMembers"));
    json_arr(&j);
    for (size_t i = 0; i < s->n_nodes; i++)
        if (s->nodes[i].state <= NODE_SUSPECT)
            put_member(&j, &s->nodes[i]);
    json_arr_end(&j);
    put_store(&j, s);
    put_sizes(&j, s);
    put_int(&j, "MessageHistoryBufferBytes", 0);
    json_key(&j, SL("SentMessages"));
    json_raw(&j, SL("null"));
    json_key(&j, SL("ReceivedMessages"));
    json_raw(&j, SL("null"));
    json_key(&j, SL("ZoneAwareRouting"));
    json_obj(&j);
    json_key(&j, SL("Enabled"));
    json_bool(&j, s->cfg->role != MEMBERLIST_NO_ZONE);
    put_str(&j, "Zone", s->cfg->zone);
    put_str(&j, "Role", s->cfg->role == MEMBERLIST_BRIDGE ? "bridge" : "member");
    json_obj_end(&j);
    json_obj_end(&j);
    buf_putc(out, '\n');
}

/* --- values ------------------------------------------------------------------------------------------------------- */

static void put_instance(struct json *j, const struct ring_instance *in)
{
    static const char *const times[] = {"registered_timestamp", "read_only_updated_timestamp"};
    json_obj(j);
    if (in->addr[0])
        put_str(j, "addr", in->addr);
    if (in->timestamp_s)
        put_int(j, "timestamp", in->timestamp_s);
    if (in->state)
        put_int(j, "state", in->state);
    if (in->n_tokens) {
        json_key(j, SL("tokens"));
        json_arr(j);
        for (size_t i = 0; i < in->n_tokens; i++)
            json_u64(j, in->tokens[i]);
        json_arr_end(j);
    }
    if (in->zone[0])
        put_str(j, "zone", in->zone);
    if (in->registered_s)
        put_int(j, times[0], in->registered_s);
    if (in->name[0])
        put_str(j, "id", in->name);
    if (in->read_only_updated_s)
        put_int(j, times[1], in->read_only_updated_s);
    if (in->read_only) {
        json_key(j, SL("read_only"));
        json_bool(j, true);
    }
    if (in->n_versions) {
        char component[24];
        json_key(j, SL("versions"));
        json_obj(j);
        for (size_t i = 0; i < in->n_versions; i++) {
            snprintf(component, sizeof component, "%llu", (unsigned long long)in->versions[i].component);
            json_key(j, slice_of(component));
            json_u64(j, in->versions[i].version);
        }
        json_obj_end(j);
    }
    json_obj_end(j);
}

static void ring_json(const void *value, struct json *j)
{
    const struct ring_desc *d = value;
    json_obj(j);
    json_key(j, SL("ingesters"));
    json_obj(j);
    for (size_t i = 0; i < d->n; i++) {
        json_key(j, slice_of(d->instances[i].id));
        put_instance(j, &d->instances[i]);
    }
    json_obj_end(j);
    json_obj_end(j);
}

void view_json(const struct memberlist_page *page, const struct entry *e, struct json *j)
{
    if (e->codec == &ring_desc_codec) {
        ring_json(e->value, j);
        return;
    }
    for (size_t i = 0; i < page->n_views; i++) {
        if (page->views[i].codec != e->codec)
            continue;
        page->views[i].json(e->value, j);
        return;
    }
    json_raw(j, SL("null"));
}

/* --- indentation -------------------------------------------------------------------------------------------------- */

static void new_line(struct buf *out, int depth)
{
    buf_putc(out, '\n');
    for (int i = 0; i < depth; i++)
        buf_puts(out, "    ");
}

void json_indent(struct slice compact, struct buf *out)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < compact.n; i++) {
        char c = compact.p[i], next = i + 1 < compact.n ? compact.p[i + 1] : 0;
        bool opens = !in_string && (c == '{' || c == '['), closes = !in_string && (c == '}' || c == ']');
        bool was_empty = closes && i && (compact.p[i - 1] == '{' || compact.p[i - 1] == '[');
        if (closes && !was_empty)
            new_line(out, --depth);
        buf_putc(out, c);
        if (in_string && c == '\\' && i + 1 < compact.n)
            buf_putc(out, compact.p[++i]);
        else if (c == '"')
            in_string = !in_string;
        else if (opens && next != '}' && next != ']')
            new_line(out, ++depth);
        else if (!in_string && c == ',')
            new_line(out, depth);
        else if (!in_string && c == ':')
            buf_putc(out, ' ');
    }
}
