/* The rare branches of model/proto.h. */
#include "model/proto.h"

static bool fail_eof(struct proto *r)
{
    return err_set(r->err, ERR_BAD_DATA, "unexpected EOF");
}

bool proto_varint_slow(struct proto *r, uint64_t *ret)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (r->p == r->end)
            return fail_eof(r);
        unsigned char c = (unsigned char)*r->p++;
        v |= (uint64_t)(c & 0x7f) << shift;
        if (c < 0x80) {
            *ret = v;
            return true;
        }
    }
    return err_set(r->err, ERR_BAD_DATA, "proto: integer overflow");
}

bool proto_tag_slow(struct proto *r, uint32_t *ret_field, uint32_t *ret_wire)
{
    uint64_t tag;
    if (!proto_varint_slow(r, &tag))
        return false;
    /* Go keeps the low 32 bits of the number, as a signed one, and prints the whole tag as the "wire type". */
    int32_t field = (int32_t)(uint32_t)(tag >> 3);
    uint32_t wire = tag & 7;
    if (wire == PROTO_GROUP_END)
        return err_set(r->err, ERR_BAD_DATA, "proto: %s: wiretype end group for non-group", r->message);
    if (field <= 0)
        return err_set(r->err, ERR_BAD_DATA, "proto: %s: illegal tag %d (wire type %llu)", r->message, field,
                       (unsigned long long)tag);
    *ret_field = (uint32_t)field;
    *ret_wire = wire;
    return true;
}

void proto_set_length_error(struct proto *r, uint64_t length)
{
    if (length > INT64_MAX) /* Go's int */
        err_set(r->err, ERR_BAD_DATA, "proto: negative length found during unmarshaling");
    else
        fail_eof(r);
}

void proto_set_wire_error(struct proto *r, uint32_t wire, const char *field)
{
    err_set(r->err, ERR_BAD_DATA, "proto: wrong wireType = %u for field %s", wire, field);
}

/* Passes over n bytes. */
static bool skip_bytes(struct proto *r, uint64_t n)
{
    if (n > proto_left(r))
        return proto_fail_length(r, n);
    r->p += n;
    return true;
}

static bool skip_scalar(struct proto *r, uint32_t wire)
{
    uint64_t n;
    switch (wire) {
    case PROTO_VARINT:
        return proto_varint(r, &n);
    case PROTO_FIXED64:
        return skip_bytes(r, 8);
    case PROTO_BYTES:
        return proto_varint(r, &n) && skip_bytes(r, n);
    case PROTO_FIXED32:
        return skip_bytes(r, 4);
    default:
        return err_set(r->err, ERR_BAD_DATA, "proto: illegal wireType %u", wire);
    }
}

bool proto_skip(struct proto *r, uint32_t wire)
{
    if (LIKELY(wire != PROTO_GROUP))
        return skip_scalar(r, wire);
    /* A counter, not recursion: a message of nothing but group starts must not eat the stack. */
    size_t depth = 1;
    while (depth) {
        uint64_t tag;
        if (!proto_varint(r, &tag))
            return false;
        if ((tag & 7) == PROTO_GROUP)
            depth++;
        else if ((tag & 7) == PROTO_GROUP_END)
            depth--;
        else if (!skip_scalar(r, tag & 7))
            return false;
    }
    return true;
}

bool proto_find(struct proto *r, uint32_t field, const char *name, struct slice *ret, bool *ret_found)
{
    *ret_found = false;
    while (proto_more(r)) {
        uint32_t f, wire;
        if (!proto_tag(r, &f, &wire))
            return false;
        if (f == field) {
            *ret_found = true;
            return proto_bytes_field(r, wire, name, ret);
        }
        if (!proto_skip(r, wire))
            return false;
    }
    return true;
}
