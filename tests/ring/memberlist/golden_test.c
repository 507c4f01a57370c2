/*
 * Every connection that was captured between real processes (shared mimir/rings): our decoding equals the decoding that
 * was kept beside the bytes, and our encoding of what we decoded gives the same bytes again, layer by layer.
 */
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "ring/memberlist/lzw_int.h"
#include "ring/memberlist/wire_int.h"

#define RINGS TEST_SHARED_DIR "/mimir/rings/"

static const char *const type_names[] = {"ping",    "indirectPing", "ackResp",  "suspect", "alive",
                                         "dead",    "pushPull",     "compound", "user",    "compress",
                                         "encrypt", "nackResp",     "hasCrc",   "err"};

static struct slice slurp(const char *dir, const char *file)
{
    char path[512];
    snprintf(path, sizeof path, RINGS "%s/%s", dir, file);
    FILE *f = fopen(path, "rb");
    cr_assert(f, "%s", path);
    char *p = malloc(1 << 20);
    size_t n = fread(p, 1, 1 << 20, f);
    fclose(f);
    return (struct slice){p, n};
}

static void is_int(const json_t *object, const char *key, int64_t v)
{
    cr_assert_eq(json_integer_value(json_object_get(object, key)), v, "%s: %ld", key, (long)v);
}

static void is_str(const json_t *object, const char *key, struct slice s)
{
    const json_t *want = json_object_get(object, key);
    if (want && json_is_object(want)) {
        char hex[2048] = "";
        for (size_t i = 0; i < s.n; i++)
            snprintf(hex + 2 * i, 3, "%02x", (uint8_t)s.p[i]);
        cr_assert_str_eq(json_string_value(json_object_get(want, "hex")), hex);
    } else if (want && json_is_null(want)) {
        cr_assert(!s.p && !s.n, "%s", key);
    } else if (want) {
        cr_assert(slice_eq(slice_of(json_string_value(want)), s), "%s", key);
    } else {
        cr_assert_eq(s.n, 0, "%s", key);
    }
}

/* Each field of the map against the JSON object of the same names. */
static void is_map(const json_t *body, const struct wire_msg *m)
{
#define CHECK_BYTES(name) is_str(body, #name, m->name)
#define CHECK_STR CHECK_BYTES
#define CHECK_UINT8(name) is_int(body, #name, m->name)
#define CHECK_UINT16 CHECK_UINT8
#define CHECK_UINT32 CHECK_UINT8
#define CHECK_INT CHECK_UINT8
#define CHECK_BOOL(name) cr_assert_eq(json_is_true(json_object_get(body, #name)), m->name)
#define FIELD(name, kind) CHECK_##kind(name);
#include "ring/memberlist/wire_fields.def"
#undef FIELD
    cr_assert_eq((size_t)__builtin_popcount(m->has), json_object_size(body));
}

static void same(struct slice want, const struct buf *got)
{
    cr_assert(!got->failed);
    cr_assert(slice_eq(want, buf_slice(got)), "%zu bytes, not the %zu that were read", got->n, want.n);
}

static void check_pair(const json_t *want, struct slice bytes)
{
    struct wire_pair pair;
    cr_assert(wire_get_pair(bytes, &pair));
    is_str(want, "key", pair.key);
    is_str(want, "codec", pair.codec);
    is_int(want, "value_bytes", (int64_t)pair.value.n);
    is_int(want, "update_time_millis", pair.update_time_ms);
    cr_assert_eq(json_is_true(json_object_get(want, "deleted")), pair.deleted);
    struct buf again = {0};
    wire_put_pair(&again, &pair);
    same(bytes, &again);
    buf_release(&again);
}

struct list {
    const json_t *want;
    size_t i;
    struct slice items[WIRE_COMPOUND_MAX];
    struct buf again;
};

static void check_message(const json_t *want, struct slice message);

static void on_message(void *arg, struct slice message)
{
    struct list *l = arg;
    l->items[l->i] = message;
    check_message(json_array_get(l->want, l->i++), message);
}

static void check_compound(const json_t *want, struct slice message)
{
    struct list l = {.want = json_object_get(want, "messages")};
    cr_assert(wire_each_of_compound((struct slice){message.p + 1, message.n - 1}, on_message, &l));
    cr_assert_eq(l.i, json_array_size(l.want));
    wire_put_compound(&l.again, l.items, l.i);
    same(message, &l.again);
    buf_release(&l.again);
}

static void check_compressed(const json_t *want, struct slice message)
{
    struct buf plain = {0}, again = {0};
    cr_assert(wire_decompress((struct slice){message.p + 1, message.n - 1}, &plain));
    is_int(want, "plain", (int64_t)plain.n);
    wire_put_compressed(&again, buf_slice(&plain));
    same(message, &again);
    check_message(json_object_get(want, "inner"), buf_slice(&plain));
    buf_release(&plain);
    buf_release(&again);
}

static bool on_node(void *arg, const struct wire_msg *node)
{
    struct list *l = arg;
    is_map(json_array_get(l->want, l->i++), node);
    wire_put_map(&l->again, wire_fields_of_node_state(), node);
    return true;
}

static void on_pair(void *arg, struct slice bytes)
{
    struct list *l = arg;
    struct wire_pair pair;
    check_pair(json_array_get(l->want, l->i++), bytes);
    cr_assert(wire_get_pair(bytes, &pair));
    wire_put_state_pair(&l->again, &pair);
}

static void check_push_pull(const json_t *want, struct slice message)
{
    struct wire_cursor c = {.in = {message.p + 1, message.n - 1}};
    struct wire_msg header;
    struct slice state;
    struct list nodes = {.want = json_object_get(want, "nodes")}, pairs = {.want = json_object_get(want, "user_state")};
    cr_assert_eq(wire_push_pull_parse(&c, 100, &header, on_node, &nodes, &state), WIRE_OK);
    is_map(json_object_get(want, "header"), &header);
    cr_assert(wire_each_state_pair(state, on_pair, &pairs));
    cr_assert_eq(nodes.i, json_array_size(nodes.want));
    cr_assert_eq(pairs.i, json_array_size(pairs.want));
    struct buf again = {0};
    wire_put(&again, WIRE_PUSH_PULL, &header);
    buf_put_slice(&again, buf_slice(&nodes.again));
    buf_put_slice(&again, buf_slice(&pairs.again));
    same(message, &again);
    /* Every prefix is short, and says so without reading past its end. */
    for (size_t n = 0; n < message.n - 1; n += 1 + n / 20) {
        char *part = malloc(n + 1);
        memcpy(part, message.p + 1, n);
        struct wire_cursor cut = {.in = {part, n}};
        cr_assert_eq(wire_push_pull_parse(&cut, 100, &header, NULL, NULL, &state), WIRE_SHORT);
        cr_assert(cut.need_bytes > n && cut.need_bytes <= message.n - 1);
        free(part);
    }
    buf_release(&again);
    buf_release(&nodes.again);
    buf_release(&pairs.again);
}

static void check_body(const json_t *want, struct slice message)
{
    struct wire_msg m;
    struct buf again = {0};
    cr_assert(wire_get((struct slice){message.p + 1, message.n - 1}, &m));
    is_map(json_object_get(want, "body"), &m);
    wire_put(&again, (enum wire_type)(uint8_t)message.p[0], &m);
    same(message, &again);
    buf_release(&again);
}

static void check_crc(const json_t *want, struct slice message)
{
    struct slice rest;
    cr_assert(wire_take_crc(message, &rest));
    check_message(json_object_get(want, "inner"), rest);
    struct buf again = {0};
    wire_wrap_packet(&again, &(struct wire_wrap){.crc = true}, rest);
    same(message, &again);
    buf_release(&again);
}

static void check_label(const json_t *want, struct slice message)
{
    struct slice label, rest;
    cr_assert(wire_take_label(message, &label, &rest));
    is_str(want, "label", label);
    check_message(json_object_get(want, "inner"), rest);
    struct buf again = {0};
    wire_wrap_packet(&again, &(struct wire_wrap){.label = label}, rest);
    same(message, &again);
    buf_release(&again);
}

static void check_message(const json_t *want, struct slice message)
{
    cr_assert(message.n > 0);
    uint8_t type = (uint8_t)message.p[0];
    const char *name = json_string_value(json_object_get(want, "type"));
    cr_assert_str_eq(name, type == WIRE_LABEL ? "hasLabel" : type_names[type]);
    switch (type) {
    case WIRE_LABEL:
        check_label(want, message);
        break;
    case WIRE_CRC:
        check_crc(want, message);
        break;
    case WIRE_COMPRESS:
        check_compressed(want, message);
        break;
    case WIRE_COMPOUND:
        check_compound(want, message);
        break;
    case WIRE_PUSH_PULL:
        check_push_pull(want, message);
        break;
    case WIRE_USER:
        check_pair(json_object_get(want, "kv"), (struct slice){message.p + 1, message.n - 1});
        break;
    default:
        check_body(want, message);
    }
}

static void check_packet(const json_t *want, struct slice in)
{
    struct slice addr, payload;
    bool digest_ok;
    cr_assert(wire_frame_parse((struct slice){in.p + 1, in.n - 1}, &addr, &payload, &digest_ok));
    cr_assert(digest_ok);
    is_str(want, "addr", addr);
    check_message(json_object_get(want, "payload"), payload);
    struct buf again = {0};
    wire_frame_put(&again, addr, payload);
    same(in, &again);
    buf_release(&again);
}

static void check_all(const char *dir, size_t n_samples)
{
    char path[512];
    snprintf(path, sizeof path, RINGS "%s/index.json", dir);
    json_error_t error;
    json_t *index = json_load_file(path, 0, &error);
    cr_assert(index, "%s", error.text);
    size_t i;
    json_t *sample;
    json_array_foreach(json_object_get(index, "samples"), i, sample)
    {
        struct slice in = slurp(dir, json_string_value(json_object_get(sample, "file")));
        const json_t *want = json_object_get(sample, "decoded");
        if (in.p[0] == WIRE_FRAME_PACKET)
            check_packet(want, in);
        else
            check_message(json_object_get(want, "payload"), (struct slice){in.p + 1, in.n - 1});
        free((char *)in.p);
        const json_t *reply = json_object_get(sample, "reply_decoded");
        if (!reply)
            continue;
        in = slurp(dir, json_string_value(json_object_get(sample, "reply_file")));
        check_message(reply, in);
        free((char *)in.p);
    }
    cr_assert_eq(i, n_samples);
    json_decref(index);
}

Test(memberlist_golden, compressed_connections_decode_and_encode_to_the_same_bytes)
{
    check_all("gossip", 26);
}

Test(memberlist_golden, labelled_connections_decode_and_encode_to_the_same_bytes)
{
    check_all("gossip-label-zones", 14);
}

Test(memberlist_golden, lzw_round_trips_what_fills_its_table)
{
    struct buf in = {0}, packed = {0}, plain = {0};
    uint32_t x = 1;
    for (int i = 0; i < 300000; i++) {
        x = x * 1664525 + 1013904223;
        buf_putc(&in, (char)(i < 150000 ? x >> 24 : x >> 31));
    }
    for (size_t n = 0; n <= in.n; n = n * 3 / 2 + 1) {
        buf_clear(&packed);
        buf_clear(&plain);
        lzw_encode((struct slice){in.p, n}, &packed);
        cr_assert(lzw_decode(buf_slice(&packed), &plain));
        same((struct slice){in.p, n}, &plain);
    }
    struct buf small;
    buf_init(&small, 1000);
    cr_assert_not(lzw_decode(buf_slice(&packed), &small));
    cr_assert_not(lzw_decode((struct slice){packed.p, packed.n - 2}, &plain));
    buf_release(&in);
    buf_release(&packed);
    buf_release(&plain);
    buf_release(&small);
}

Test(memberlist_golden, ping_written_by_hand)
{
    static const char addr[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (char)0xff, (char)0xff, 10, 0, 0, 1};
    struct wire_msg m = {
        .Node = SL("n1"), .SeqNo = 1, .SourceAddr = {addr, 16}, .SourcePort = 7946, .SourceNode = SL("n2")};
    struct buf out = {0};
    wire_put(&out, WIRE_PING, &m);
    static const char want[] =
        "\x00\x85\xa4Node\xa2n1\xa5SeqNo\x01\xaaSourceAddr\xb0\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\x00\x00\x01"
        "\xaaSourceNode\xa2n2\xaaSourcePort\xcd\x1f\x0a";
    same((struct slice){want, sizeof want - 1}, &out);
    buf_release(&out);
}

Test(memberlist_golden, numbers_that_do_not_fit_are_refused)
{
    struct wire_msg m;
    cr_assert(wire_get(SL("\x81\xa4Port\xcd\xff\xff"), &m));
    cr_assert_eq(m.Port, 65535);
    cr_assert_not(wire_get(SL("\x81\xa4Port\xce\0\1\0\0"), &m));
    cr_assert_not(wire_get(SL("\x81\xa4Port\xff"), &m));
    cr_assert_not(wire_get(SL("\x81\xa5Nodes\xcf\xff\xff\xff\xff\xff\xff\xff\xff"), &m));
    cr_assert_not(wire_get(SL("\x81\xa4Node\x05"), &m));
    cr_assert(wire_get(SL("\x82\xa3New\x92\x01\x81\xa1x\xc0\xa4Node\xd9\x02n1"), &m));
    cr_assert(slice_eq(m.Node, SL("n1")));
}

Test(memberlist_golden, labels_and_checksums_that_are_wrong_are_refused)
{
    struct slice label, rest;
    cr_assert(wire_take_label(SL("\xf4\x01xrest"), &label, &rest));
    cr_assert_not(wire_take_label(SL("\xf4\x01x\xf4\x01xrest"), &label, &rest));
    cr_assert_not(wire_take_label(SL("\xf4\x00rest"), &label, &rest));
    cr_assert_not(wire_take_label(SL("\xf4\x09rest"), &label, &rest));
    cr_assert_not(wire_take_crc(SL("\x0c\0\0\0\1rest"), &rest));
    cr_assert_not(wire_take_crc(SL("\x0c\0\0"), &rest));
}
