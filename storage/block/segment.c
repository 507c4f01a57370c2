#include "storage/block/segment_int.h"

#include "storage/block/bytes.h"
#include "storage/block/crc32c.h"

static bool corrupt(const struct segment *s, uint64_t offset, const char *what, struct err *err)
{
    return err_set(err, ERR_CORRUPT, "%s: offset %llu: %s", s->path, (unsigned long long)offset, what);
}

bool segment_open(struct segment *s, const char *path, const void *p, size_t n, bool no_checksums, struct err *err)
{
    *s = (struct segment){path, p, n, no_checksums};
    if (n < SEGMENT_HEADER_BYTES)
        return corrupt(s, 0, "too short for a segment of chunks", err);
    if (get_be32(s->p) != SEGMENT_MAGIC)
        return corrupt(s, 0, "this is no segment of chunks", err);
    if (s->p[4] != 1)
        return corrupt(s, 4, "a version that is not known", err);
    return true;
}

bool segment_chunk(const struct segment *s, uint32_t offset, enum chunk_encoding *ret_encoding, struct slice *ret_data, struct err *err)
{
    if (offset < SEGMENT_HEADER_BYTES || offset >= s->n)
        return corrupt(s, offset, "a chunk that is out of its segment", err);
    struct dec d = dec_of(s->p + offset, s->n - offset);
    uint64_t n = dec_uvarint(&d);
    if (d.bad || dec_left(&d) < 5 || n > dec_left(&d) - 5)
        return corrupt(s, offset, "a chunk that is cut short", err);
    if (!s->no_checksums && crc32c(0, d.p, n + 1) != get_be32(d.p + n + 1))
        return corrupt(s, offset, "the checksum of a chunk does not fit", err);
    if (*d.p < CHUNK_XOR || *d.p > CHUNK_FLOAT_HISTOGRAM)
        return corrupt(s, offset, "an encoding that is not known", err);
    *ret_encoding = (enum chunk_encoding)*d.p;
    *ret_data = slice_make(d.p + 1, n);
    return true;
}
