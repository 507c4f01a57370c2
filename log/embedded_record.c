/* The bytes of one record inside LMDB. Layout in embedded.c, section "Records". Any thread. */
#include <endian.h>
#include <string.h>
#include <xxhash.h>

#include "log/embedded_int.h"

#define RECORD_FORMAT 1

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "LMDB files are in host order; this format is little-endian");

struct record_header {
    uint64_t header_sum;
    uint64_t value_sum;
    int64_t timestamp_ms;
    uint32_t version;
    uint32_t value_len;
    uint16_t tenant_len;
    uint8_t form;
    uint8_t format;
    uint32_t zero;
};
_Static_assert(sizeof(struct record_header) == RECORD_HEADER_BYTES, "layout");

size_t embedded_record_size(const struct plog_record *r)
{
    return RECORD_HEADER_BYTES + r->tenant.n + r->value.n;
}

uint64_t embedded_value_sum(struct slice value)
{
    return XXH3_64bits(value.p ? value.p : "", value.n);
}

/*
 * Over header and tenant; the seed is the place, so that a record found at a wrong offset does not pass for the right
 * one.
 */
static uint64_t header_sum(const char *raw, size_t tenant_len, int32_t partition, int64_t offset)
{
    uint64_t seed = (uint64_t)offset ^ ((uint64_t)(uint32_t)partition << 48);
    return XXH3_64bits_withSeed(raw + sizeof(uint64_t), RECORD_HEADER_BYTES - sizeof(uint64_t) + tenant_len, seed);
}

void embedded_record_encode(char *dst, const struct plog_record *r)
{
    struct record_header h = {
        .value_sum = r->value_sum,
        .timestamp_ms = r->timestamp_ms,
        .version = r->version,
        .value_len = (uint32_t)r->value.n,
        .tenant_len = (uint16_t)r->tenant.n,
        .form = (uint8_t)r->form,
        .format = RECORD_FORMAT,
    };
    memcpy(dst, &h, sizeof(h));
    if (r->tenant.n)
        memcpy(dst + sizeof(h), r->tenant.p, r->tenant.n);
    if (r->value.n)
        memcpy(dst + sizeof(h) + r->tenant.n, r->value.p, r->value.n);
    h.header_sum = header_sum(dst, r->tenant.n, r->partition, r->offset);
    memcpy(dst, &h.header_sum, sizeof(h.header_sum));
}

bool embedded_record_decode(struct slice raw, int32_t partition, int64_t offset, bool check_value,
                            struct plog_record *ret)
{
    struct record_header h;
    if (raw.n < sizeof(h))
        return false;
    memcpy(&h, raw.p, sizeof(h));
    if (h.format != RECORD_FORMAT || h.form > PLOG_SNAPPY || raw.n != sizeof(h) + (size_t)h.tenant_len + h.value_len)
        return false;
    if (h.header_sum != header_sum(raw.p, h.tenant_len, partition, offset))
        return false;
    struct slice value = {raw.p + sizeof(h) + h.tenant_len, h.value_len};
    if (check_value && h.value_sum != embedded_value_sum(value))
        return false;
    *ret = (struct plog_record){
        .partition = partition,
        .offset = offset,
        .timestamp_ms = h.timestamp_ms,
        .tenant = {raw.p + sizeof(h), h.tenant_len},
        .version = h.version,
        .form = (enum plog_value_form)h.form,
        .value = value,
        .value_sum = h.value_sum,
    };
    return true;
}
