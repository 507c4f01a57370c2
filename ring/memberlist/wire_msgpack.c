/* The map of a message, to and from msgpack's old spec; a table says which field is of which kind. */
#include "ring/memberlist/wire_int.h"

#define BIT(name) (1U << WIRE_##name)
#define SOURCE_FIELDS (BIT(SourceAddr) | BIT(SourceNode) | BIT(SourcePort))
#define DEPTH_MAX 16

enum kind { BYTES, STR, UINT8, UINT16, UINT32, INT, BOOL };

static const struct {
    struct slice name;
    enum kind kind;
    size_t offset;
} fields[] = {
#define FIELD(name, kind) {SL(#name), kind, offsetof(struct wire_msg, name)},
#include "ring/memberlist/wire_fields.def"
#undef FIELD
};

uint32_t wire_fields_of(enum wire_type type)
{
    switch (type) {
    case WIRE_PING:
        return BIT(Node) | BIT(SeqNo) | SOURCE_FIELDS;
    case WIRE_INDIRECT_PING:
        return BIT(Nack) | BIT(Node) | BIT(Port) | BIT(SeqNo) | BIT(Target) | SOURCE_FIELDS;
    case WIRE_ACK:
        return BIT(Payload) | BIT(SeqNo);
    case WIRE_NACK:
        return BIT(SeqNo);
    case WIRE_SUSPECT:
    case WIRE_DEAD:
        return BIT(From) | BIT(Incarnation) | BIT(Node);
    case WIRE_ALIVE:
        return BIT(Addr) | BIT(Incarnation) | BIT(Meta) | BIT(Node) | BIT(Port) | BIT(Vsn);
    case WIRE_PUSH_PULL:
        return BIT(Join) | BIT(Nodes) | BIT(UserStateLen);
    case WIRE_USER:
        return BIT(UserMsgLen);
    case WIRE_COMPRESS:
        return BIT(Algo) | BIT(Buf);
    case WIRE_ERR:
        return BIT(Error);
    case WIRE_COMPOUND:
    case WIRE_ENCRYPT:
    case WIRE_CRC:
    case WIRE_LABEL:
        break;
    }
    return 0;
}

uint32_t wire_fields_of_node_state(void)
{
    return BIT(Addr) | BIT(Incarnation) | BIT(Meta) | BIT(Name) | BIT(Port) | BIT(State) | BIT(Vsn);
}

/* --- writing ---------------------------------------------------------------------------------------------------------
 */

static void put_big_endian(struct buf *out, uint8_t lead, uint64_t v, int n_bytes)
{
    buf_putc(out, (char)lead);
    for (int i = n_bytes - 1; i >= 0; i--)
        buf_putc(out, (char)(v >> (8 * i) & 0xff));
}

static void put_raw(struct buf *out, struct slice s)
{
    if (s.n < 32)
        buf_putc(out, (char)(0xa0 | s.n));
    else if (s.n <= 0xffff)
        put_big_endian(out, 0xda, s.n, 2);
    else
        put_big_endian(out, 0xdb, s.n, 4);
    buf_put_slice(out, s);
}

static void put_unsigned(struct buf *out, uint32_t v)
{
    if (v <= 0x7f)
        buf_putc(out, (char)v);
    else if (v <= 0xff)
        put_big_endian(out, 0xcc, v, 1);
    else if (v <= 0xffff)
        put_big_endian(out, 0xcd, v, 2);
    else
        put_big_endian(out, 0xce, v, 4);
}

/* Go's encoder goes straight from fixint to 16 bits for positive signed numbers. */
static void put_signed(struct buf *out, int32_t v)
{
    if (v >= -32 && v <= 0x7f)
        buf_putc(out, (char)v);
    else if (v < 0 && v >= INT8_MIN)
        put_big_endian(out, 0xd0, (uint64_t)v, 1);
    else if (v >= INT16_MIN && v <= INT16_MAX)
        put_big_endian(out, 0xd1, (uint64_t)v, 2);
    else
        put_big_endian(out, 0xd2, (uint64_t)v, 4);
}

static void put_field(struct buf *out, enum kind kind, const void *at)
{
    switch (kind) {
    case BYTES:
    case STR: {
        const struct slice *s = at;
        if (kind == BYTES && !s->p)
            buf_putc(out, (char)0xc0);
        else
            put_raw(out, *s);
        break;
    }
    case UINT8:
        put_unsigned(out, *(const uint8_t *)at);
        break;
    case UINT16:
        put_unsigned(out, *(const uint16_t *)at);
        break;
    case UINT32:
        put_unsigned(out, *(const uint32_t *)at);
        break;
    case INT:
        put_signed(out, *(const int32_t *)at);
        break;
    case BOOL:
        buf_putc(out, (char)(*(const bool *)at ? 0xc3 : 0xc2));
        break;
    }
}

void wire_put_map(struct buf *out, uint32_t set, const struct wire_msg *m)
{
    if (!m->SourceAddr.n)
        set &= ~BIT(SourceAddr);
    if (!m->SourceNode.n)
        set &= ~BIT(SourceNode);
    if (!m->SourcePort)
        set &= ~BIT(SourcePort);
    buf_putc(out, (char)(0x80 | __builtin_popcount(set)));
    for (uint32_t i = 0; i < WIRE_FIELDS; i++) {
        if (!(set >> i & 1))
            continue;
        put_raw(out, fields[i].name);
        put_field(out, fields[i].kind, (const char *)m + fields[i].offset);
    }
}

void wire_put(struct buf *out, enum wire_type type, const struct wire_msg *m)
{
    buf_putc(out, (char)type);
    wire_put_map(out, wire_fields_of(type), m);
}

/* --- reading ---------------------------------------------------------------------------------------------------------
 */

static enum wire_result take(struct wire_cursor *c, size_t n, const uint8_t **ret_p)
{
    if (n > c->in.n - c->pos) {
        c->need_bytes = c->pos + n;
        return WIRE_SHORT;
    }
    *ret_p = (const uint8_t *)c->in.p + c->pos;
    c->pos += n;
    return WIRE_OK;
}

static enum wire_result take_big_endian(struct wire_cursor *c, size_t n_bytes, uint64_t *ret_v)
{
    const uint8_t *p;
    enum wire_result r = take(c, n_bytes, &p);
    if (r != WIRE_OK)
        return r;
    *ret_v = 0;
    for (size_t i = 0; i < n_bytes; i++)
        *ret_v = *ret_v << 8 | p[i];
    return WIRE_OK;
}

/* One value of any kind, but for the items of maps and arrays, of which only the number is given. */
struct value {
    enum { NIL, TRUTH, NUMBER, TEXT, ARRAY, MAP, OTHER } kind;
    bool truth;
    bool huge; /* a number above INT64_MAX */
    int64_t number;
    uint64_t count;
    struct slice text;
};

static enum wire_result take_text(struct wire_cursor *c, uint64_t n, struct value *ret_v)
{
    const uint8_t *p;
    if (n > WIRE_PLAIN_MAX_BYTES)
        return WIRE_BAD;
    enum wire_result r = take(c, (size_t)n, &p);
    if (r == WIRE_OK)
        *ret_v = (struct value){.kind = TEXT, .text = {(const char *)p, (size_t)n}};
    return r;
}

static enum wire_result take_counted(struct wire_cursor *c, size_t n_bytes, int kind, struct value *ret_v)
{
    uint64_t n = 0;
    enum wire_result r = take_big_endian(c, n_bytes, &n);
    if (r != WIRE_OK)
        return r;
    if (kind == TEXT)
        return take_text(c, n, ret_v);
    ret_v->kind = kind == MAP ? MAP : ARRAY;
    ret_v->count = n;
    return WIRE_OK;
}

static enum wire_result take_number(struct wire_cursor *c, size_t n_bytes, bool is_signed, struct value *ret_v)
{
    uint64_t v = 0;
    enum wire_result r = take_big_endian(c, n_bytes, &v);
    unsigned shift = 64 - 8 * (unsigned)n_bytes;
    ret_v->kind = NUMBER;
    ret_v->huge = !is_signed && v > INT64_MAX;
    ret_v->number = is_signed ? (int64_t)(v << shift) >> shift : (int64_t)v;
    return r;
}

static enum wire_result take_value(struct wire_cursor *c, struct value *ret_v)
{
    const uint8_t *p;
    *ret_v = (struct value){.kind = OTHER};
    enum wire_result r = take(c, 1, &p);
    if (r != WIRE_OK)
        return r;
    uint8_t b = *p;
    if (b <= 0x7f || b >= 0xe0) {
        *ret_v = (struct value){.kind = NUMBER, .number = (int8_t)b};
        return WIRE_OK;
    }
    if (b <= 0x9f) {
        *ret_v = (struct value){.kind = b <= 0x8f ? MAP : ARRAY, .count = b & 0x0f};
        return WIRE_OK;
    }
    if (b <= 0xbf)
        return take_text(c, b & 0x1f, ret_v);
    switch (b) {
    case 0xc0:
        ret_v->kind = NIL;
        return WIRE_OK;
    case 0xc2:
    case 0xc3:
        *ret_v = (struct value){.kind = TRUTH, .truth = b == 0xc3};
        return WIRE_OK;
    case 0xc4:
    case 0xc5:
    case 0xc6:
        return take_counted(c, (size_t)1 << (b - 0xc4), TEXT, ret_v);
    case 0xca:
        return take(c, 4, &p);
    case 0xcb:
        return take(c, 8, &p);
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
        return take_number(c, (size_t)1 << (b - 0xcc), false, ret_v);
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        return take_number(c, (size_t)1 << (b - 0xd0), true, ret_v);
    case 0xd9:
    case 0xda:
    case 0xdb:
        return take_counted(c, (size_t)1 << (b - 0xd9), TEXT, ret_v);
    case 0xdc:
    case 0xdd:
        return take_counted(c, (size_t)2 << (b - 0xdc), ARRAY, ret_v);
    case 0xde:
    case 0xdf:
        return take_counted(c, (size_t)2 << (b - 0xde), MAP, ret_v);
    default:
        return WIRE_BAD; /* extensions, which the old spec has not */
    }
}

/* Passes over the items of a value whose head was read; every item is at least one byte, so the work is bounded by the
 * input. */
static enum wire_result skip_items(struct wire_cursor *c, const struct value *v, int depth)
{
    uint64_t n = v->kind == ARRAY ? v->count : v->kind == MAP ? 2 * v->count : 0;
    if (n && depth == DEPTH_MAX)
        return WIRE_BAD;
    for (; n; n--) {
        struct value item;
        enum wire_result r = take_value(c, &item);
        if (r == WIRE_OK)
            r = skip_items(c, &item, depth + 1);
        if (r != WIRE_OK)
            return r;
    }
    return WIRE_OK;
}

static bool store_number(enum kind kind, const struct value *v, void *at)
{
    static const int64_t max[] = {[UINT8] = UINT8_MAX, [UINT16] = UINT16_MAX, [UINT32] = UINT32_MAX, [INT] = INT32_MAX};
    int64_t n = v->kind == NIL ? 0 : v->number;
    if ((v->kind != NUMBER && v->kind != NIL) || v->huge || n > max[kind] || n < (kind == INT ? INT32_MIN : 0))
        return false;
    if (kind == UINT8)
        *(uint8_t *)at = (uint8_t)n;
    else if (kind == UINT16)
        *(uint16_t *)at = (uint16_t)n;
    else if (kind == UINT32)
        *(uint32_t *)at = (uint32_t)n;
    else
        *(int32_t *)at = (int32_t)n;
    return true;
}

static bool store(enum kind kind, const struct value *v, void *at)
{
    if (kind == BYTES || kind == STR) {
        *(struct slice *)at = v->text; /* nil leaves no pointer */
        return v->kind == TEXT || v->kind == NIL;
    }
    if (kind == BOOL) {
        *(bool *)at = v->truth;
        return v->kind == TRUTH || v->kind == NIL;
    }
    return store_number(kind, v, at);
}

static int field_of(struct slice name)
{
    for (int i = 0; i < WIRE_FIELDS; i++)
        if (slice_eq(fields[i].name, name))
            return i;
    return -1;
}

enum wire_result wire_get_map(struct wire_cursor *c, struct wire_msg *ret_m)
{
    struct value map, key, v;
    *ret_m = (struct wire_msg){0};
    enum wire_result r = take_value(c, &map);
    if (r != WIRE_OK)
        return r;
    if (map.kind != MAP)
        return WIRE_BAD;
    for (uint64_t i = 0; i < map.count; i++) {
        if ((r = take_value(c, &key)) != WIRE_OK)
            return r;
        if (key.kind != TEXT)
            return WIRE_BAD;
        if ((r = take_value(c, &v)) != WIRE_OK)
            return r;
        int f = field_of(key.text);
        if (f < 0) {
            if ((r = skip_items(c, &v, 0)) != WIRE_OK)
                return r;
            continue;
        }
        if (!store(fields[f].kind, &v, (char *)ret_m + fields[f].offset))
            return WIRE_BAD;
        ret_m->has |= 1U << f;
    }
    return WIRE_OK;
}

bool wire_get(struct slice map, struct wire_msg *ret_m)
{
    struct wire_cursor c = {.in = map};
    return wire_get_map(&c, ret_m) == WIRE_OK;
}
