/*
 * The bytes of memberlist: messages, their layers, and the frames of dskit's TCP transport (docs/formats.md section 5).
 *
 * A packet, from outside in:   01 len(addr) addr [F4 len label] [0C crc32] [09 compress] [07 compound] message MD5
 * A stream:                    02 [F4 len label] [09 compress] message
 *
 * A message is one byte of type and a map in msgpack's old spec: keys are Go field names in the order of their bytes,
 * strings and bytes alike are A0|n, DA or DB, unsigned numbers shortest, signed ones positive fixint or D1..D3. Reading
 * also takes the newer forms (D9, C4..C6), keys that we do not know, and numbers of any form that fit the field.
 *
 * Everything here is pure: slices point into the input or into scratch. Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/slice.h"

enum wire_type {
    WIRE_PING,
    WIRE_INDIRECT_PING,
    WIRE_ACK,
    WIRE_SUSPECT,
    WIRE_ALIVE,
    WIRE_DEAD,
    WIRE_PUSH_PULL,
    WIRE_COMPOUND,
    WIRE_USER,
    WIRE_COMPRESS,
    WIRE_ENCRYPT,
    WIRE_NACK,
    WIRE_CRC,
    WIRE_ERR,
    WIRE_LABEL = 244,
};

enum { WIRE_FRAME_PACKET = 1, WIRE_FRAME_STREAM = 2 };
enum { WIRE_ALGO_LZW = 0, WIRE_ALGO_SNAPPY = 1 };
enum node_state { NODE_ALIVE, NODE_SUSPECT, NODE_DEAD, NODE_LEFT };

#define WIRE_PLAIN_MAX_BYTES                                                                                           \
    ((size_t)20 << 20) /* what one compressed layer may unfold to, and the state of a push/pull */
#define WIRE_NAME_MAX_BYTES 255
#define WIRE_META_MAX_BYTES 512
#define WIRE_COMPOUND_MAX 255
#define WIRE_COMPOUND_ITEM_MAX_BYTES 65535
#define WIRE_VSN_BYTES 6

enum wire_field {
#define FIELD(name, kind) WIRE_##name,
#include "ring/memberlist/wire_fields.def"
#undef FIELD
    WIRE_FIELDS
};

/* All fields that a message can have; has = bits of those that were there. Kept as Go names them, because the name is
 * the format. */
struct wire_msg {
    uint32_t has;
#define WIRE_CTYPE_BYTES struct slice
#define WIRE_CTYPE_STR struct slice
#define WIRE_CTYPE_UINT8 uint8_t
#define WIRE_CTYPE_UINT16 uint16_t
#define WIRE_CTYPE_UINT32 uint32_t
#define WIRE_CTYPE_INT int32_t
#define WIRE_CTYPE_BOOL bool
#define FIELD(name, kind) WIRE_CTYPE_##kind name;
#include "ring/memberlist/wire_fields.def"
#undef FIELD
};

/* --- messages: the map after the byte of type -----------------------------------------------------------------------
 */

/* Which fields a message of this type has on the wire; 0 for types without a map. */
uint32_t wire_fields_of(enum wire_type type);
/* The fields of one node in a push/pull. */
uint32_t wire_fields_of_node_state(void);
/* Appends type and map with the fields of the type; those that Go leaves out when empty (Source*) are left out. */
void wire_put(struct buf *out, enum wire_type type, const struct wire_msg *m);
/* Appends a map with exactly these fields, but for empty Source*. */
void wire_put_map(struct buf *out, uint32_t fields, const struct wire_msg *m);

/* need_bytes is set when the input is good as far as it goes but too short: ask again with at least so many. */
enum wire_result { WIRE_OK, WIRE_BAD, WIRE_SHORT };
struct wire_cursor {
    struct slice in;
    size_t pos;
    size_t need_bytes;
};
enum wire_result wire_get_map(struct wire_cursor *c, struct wire_msg *ret_m);
/* A whole map that must be there in full. What follows it is left alone, as Go's decoder does. */
bool wire_get(struct slice map, struct wire_msg *ret_m);

/* --- layers ---------------------------------------------------------------------------------------------------------
 */

/* Puts several messages into one: count (1..255), lengths, messages. Each is at most WIRE_COMPOUND_ITEM_MAX_BYTES. */
void wire_put_compound(struct buf *out, const struct slice *messages, size_t n);
/* Calls fn for each message; false when the lengths do not fit (messages before the bad one were given out, as upstream
 * does). */
bool wire_each_of_compound(struct slice body, void (*fn)(void *arg, struct slice message), void *arg);

void wire_put_compressed(struct buf *out, struct slice plain);
/* body = what follows the byte 09. Appends to plain. */
bool wire_decompress(struct slice body, struct buf *plain);

/* What a packet or stream is wrapped in on the way out. */
struct wire_wrap {
    struct slice label;
    bool compress;
    bool crc;
};
/* Compression is kept only if it is smaller. */
void wire_wrap_packet(struct buf *out, const struct wire_wrap *w, struct slice message);
/* Compression is always used when it is on; the label comes once for each direction that has one. */
void wire_wrap_stream(struct buf *out, const struct wire_wrap *w, struct slice message);

/* Takes the label off; false for a malformed or doubled one. No label at all is the empty one. */
bool wire_take_label(struct slice in, struct slice *ret_label, struct slice *ret_rest);
/* Takes the CRC off if there is one; false when it does not match. */
bool wire_take_crc(struct slice in, struct slice *ret_rest);

/* The packet's frame: all but its first byte 01. digest_ok false: counted by the receiver, and processed all the same,
 * as upstream does. */
bool wire_frame_parse(struct slice in, struct slice *ret_addr, struct slice *ret_payload, bool *ret_digest_ok);
void wire_frame_put(struct buf *out, struct slice addr, struct slice payload);

/* --- push/pull ------------------------------------------------------------------------------------------------------
 */

/* The body after the byte 06: header, nodes, user state. fn gets each node. SHORT: need_bytes says how much must be
 * there at least. */
typedef bool wire_node_fn(void *arg, const struct wire_msg *node);
enum wire_result wire_push_pull_parse(struct wire_cursor *c, size_t max_nodes, struct wire_msg *ret_header,
                                      wire_node_fn *fn, void *arg, struct slice *ret_user_state);

/* --- dskit's KeyValuePair -------------------------------------------------------------------------------------------
 */

struct wire_pair {
    struct slice key;
    struct slice value;
    struct slice codec;
    bool deleted;
    int64_t update_time_ms;
};
void wire_put_pair(struct buf *out, const struct wire_pair *pair);
bool wire_get_pair(struct slice in, struct wire_pair *ret_pair);
/* The user state of a push/pull: BE32 length and pair, again and again. */
void wire_put_state_pair(struct buf *out, const struct wire_pair *pair);
bool wire_each_state_pair(struct slice state, void (*fn)(void *arg, struct slice pair), void *arg);
