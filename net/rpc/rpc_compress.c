/*
 * Compressed messages. gzip (RFC 1952, one member), and snappy, which for gRPC in Go is the framing format of snappy:
 *
 *     chunk = type 1 | length 3, little-endian | data
 *     0xff  stream identifier "sNaPpY", first of all; may come again
 *     0x00  masked CRC-32C of the plain bytes, 4, little-endian | snappy block of at most 65536 plain bytes
 *     0x01  the same CRC | plain bytes, at most 65536
 *     0x80-0xfe  skipped; 0x02-0x7f are errors
 *
 * Source: google/snappy, framing_format.txt. What comes out is never more than the message's maximum, whatever a sender
 * promises.
 */
#include <snappy-c.h>
#include <zlib.h>

#include "net/rpc/rpc_int.h"

#define CHUNK_BYTES 65536
#define IDENTIFIER "\xff\x06\x00\x00sNaPpY"

enum rpc_codec rpc_codec_of(struct slice name)
{
    if (name.n == 0 || slice_eq(name, SL("identity")))
        return RPC_CODEC_NONE;
    if (slice_eq(name, SL("gzip")))
        return RPC_CODEC_GZIP;
    return slice_eq(name, SL("snappy")) ? RPC_CODEC_SNAPPY : RPC_CODEC_UNKNOWN;
}

const char *rpc_codec_name(enum rpc_codec codec)
{
    return codec == RPC_CODEC_GZIP ? "gzip" : codec == RPC_CODEC_SNAPPY ? "snappy" : "identity";
}

/* --- CRC-32C ------------------------------------------------------------------------------------------------------ */

static uint32_t crc_table[256];

static void make_crc_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++)
            c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
        crc_table[i] = c;
    }
}

static uint32_t masked_crc(const char *p, size_t n)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_crc_table);
    uint32_t c = ~0u;
    for (size_t i = 0; i < n; i++)
        c = c >> 8 ^ crc_table[(c ^ (unsigned char)p[i]) & 255];
    c = ~c;
    return (c >> 15 | c << 17) + 0xa282ead8u;
}

static uint32_t read_le(const char *p, int n)
{
    uint32_t v = 0;
    for (int i = 0; i < n; i++)
        v |= (uint32_t)(unsigned char)p[i] << 8 * i;
    return v;
}

static void put_le(struct buf *out, uint32_t v, int n)
{
    for (int i = 0; i < n; i++)
        buf_putc(out, (char)(v >> 8 * i & 255));
}

/* --- snappy ------------------------------------------------------------------------------------------------------- */

/* Data of a chunk 0x00 or 0x01, its CRC checked. */
static bool unpack_chunk(int type, struct slice data, struct buf *out)
{
    char plain[CHUNK_BYTES];
    size_t n = sizeof plain;
    if (data.n < 4)
        return false;
    uint32_t crc = read_le(data.p, 4);
    data = slice_make(data.p + 4, data.n - 4);
    if (type == 0) {
        size_t promised;
        if (snappy_uncompressed_length(data.p, data.n, &promised) != SNAPPY_OK || promised > sizeof plain ||
            snappy_uncompress(data.p, data.n, plain, &n) != SNAPPY_OK)
            return false;
        data = slice_make(plain, n);
    }
    if (data.n > CHUNK_BYTES || masked_crc(data.p, data.n) != crc)
        return false;
    buf_put_slice(out, data);
    return true;
}

static bool unsnappy(struct slice in, struct buf *out)
{
    if (in.n && !slice_has_prefix(in, slice_make(IDENTIFIER, 10)))
        return false;
    while (in.n && !out->failed) {
        if (in.n < 4)
            return false;
        int type = (unsigned char)in.p[0];
        size_t n = read_le(in.p + 1, 3);
        if (n > in.n - 4 || (type > 1 && type < 0x80))
            return false;
        struct slice data = slice_make(in.p + 4, n);
        if (type == 0xff && !slice_eq(data, SL("sNaPpY")))
            return false;
        if (type <= 1 && !unpack_chunk(type, data, out))
            return false;
        in = slice_make(data.p + n, in.n - 4 - n);
    }
    return true;
}

static void snappy(struct slice in, struct buf *out)
{
    buf_put(out, IDENTIFIER, 10);
    while (in.n && !out->failed) {
        char packed[CHUNK_BYTES + CHUNK_BYTES / 6 + 32]; /* snappy_max_compressed_length of a chunk */
        size_t n_packed = sizeof packed;
        size_t n = MIN(in.n, (size_t)CHUNK_BYTES);
        snappy_status rc = snappy_compress(in.p, n, packed, &n_packed);
        ASSERT(rc == SNAPPY_OK);
        bool smaller = n_packed < n;
        struct slice data = smaller ? slice_make(packed, n_packed) : slice_make(in.p, n);
        buf_putc(out, smaller ? 0 : 1);
        put_le(out, (uint32_t)data.n + 4, 3);
        put_le(out, masked_crc(in.p, n), 4);
        buf_put_slice(out, data);
        in = slice_make(in.p + n, in.n - n);
    }
}

/* --- gzip --------------------------------------------------------------------------------------------------------- */

static bool gunzip(struct slice in, struct buf *out)
{
    z_stream z = {0};
    char piece[16384];
    int rc = inflateInit2(&z, 15 + 16) == Z_OK ? Z_OK : Z_MEM_ERROR;
    z.next_in = (Bytef *)(uintptr_t)(in.p ? in.p : piece);
    z.avail_in = (uInt)in.n;
    while (rc == Z_OK && !out->failed) {
        z.next_out = (Bytef *)piece;
        z.avail_out = sizeof piece;
        rc = inflate(&z, Z_NO_FLUSH);
        buf_put(out, piece, sizeof piece - z.avail_out);
    }
    bool whole = rc == Z_STREAM_END && z.avail_in == 0;
    inflateEnd(&z);
    return whole;
}

static void gzip(struct slice in, struct buf *out)
{
    z_stream z = {0};
    int rc = deflateInit2(&z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
    ASSERT(rc == Z_OK && in.n <= UINT32_MAX);
    uLong bound = deflateBound(&z, (uLong)in.n);
    if (buf_reserve(out, bound)) {
        z.next_in = (Bytef *)(uintptr_t)(in.p ? in.p : "");
        z.avail_in = (uInt)in.n;
        z.next_out = (Bytef *)out->p + out->n;
        z.avail_out = (uInt)bound;
        rc = deflate(&z, Z_FINISH);
        ASSERT(rc == Z_STREAM_END);
        out->n += bound - z.avail_out;
    }
    deflateEnd(&z);
}

/* --- both --------------------------------------------------------------------------------------------------------- */

bool rpc_decompress(enum rpc_codec codec, struct slice in, struct buf *out)
{
    bool whole = codec == RPC_CODEC_GZIP ? gunzip(in, out) : codec == RPC_CODEC_SNAPPY && unsnappy(in, out);
    return whole && !out->failed;
}

void rpc_compress(enum rpc_codec codec, struct slice in, struct buf *out)
{
    if (codec == RPC_CODEC_GZIP)
        gzip(in, out);
    else
        snappy(in, out);
}
