/*
 * A sparse-index-header of any bytes beside a good index-header, which LLVMFuzzerInitialize makes: it is refused, or every name and value of the table is found
 * with it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "base/assert.h"
#include "storage/block/bytes.h"
#include "storage/block/crc32c.h"
#include "storage/store/store_int.h"

#define NAMES 3
#define VALUES 9

static char header_path[64];

static void put32(struct buf *b, uint32_t v)
{
    uint8_t p[4];
    put_be32(p, v);
    buf_put(b, p, 4);
}

static void put64(struct buf *b, uint64_t v)
{
    put32(b, (uint32_t)(v >> 32));
    put32(b, (uint32_t)v);
}

static void put_entry(struct buf *b, struct slice name, struct slice value, uint64_t offset)
{
    buf_putc(b, 2);
    buf_put_uvarint(b, name.n);
    buf_put_slice(b, name);
    buf_put_uvarint(b, value.n);
    buf_put_slice(b, value);
    buf_put_uvarint(b, offset);
}

static void put_section(struct buf *b, const struct buf *content)
{
    put32(b, (uint32_t)content->n);
    buf_put_slice(b, buf_slice(content));
    put32(b, crc32c(0, content->p, content->n));
}

/* Names a, b, c with values 0 ... 8 each; lists of 16 bytes at 100, 116 ... */
static void make_header(struct buf *out)
{
    struct buf symbols, table, toc;
    uint64_t offset = 100;
    buf_init(&symbols, 0);
    buf_init(&table, 0);
    buf_init(&toc, 0);
    put32(&symbols, 1);
    buf_put(&symbols, "\1x", 2);
    put32(&table, NAMES * VALUES + 1);
    put_entry(&table, SL(""), SL(""), offset);
    for (int i = 0; i < NAMES * VALUES; i++) {
        char name = (char)('a' + i / VALUES), value = (char)('0' + i % VALUES);
        put_entry(&table, slice_make(&name, 1), slice_make(&value, 1), offset += 16);
    }
    uint64_t end = offset + 16, series = 5 + symbols.n + 8;
    uint64_t offsets[] = {5, series, 100, end, 100, end};
    for (size_t i = 0; i < ARRAY_LEN(offsets); i++)
        put64(&toc, offsets[i]);
    put32(out, HEADER_MAGIC);
    buf_put(out, "\1\2", 2);
    put64(out, end);
    put_section(out, &symbols);
    uint64_t table_at = out->n;
    put_section(out, &table);
    buf_put_slice(out, buf_slice(&toc));
    put32(out, crc32c(0, toc.p, toc.n));
    buf_clear(&toc);
    put64(&toc, HEADER_FIXED_BYTES);
    put64(&toc, table_at);
    buf_put_slice(out, buf_slice(&toc));
    put32(out, crc32c(0, toc.p, toc.n));
    buf_release(&symbols);
    buf_release(&table);
    buf_release(&toc);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct buf header;
    int fd = memfd_create("header", MFD_CLOEXEC);
    buf_init(&header, 0);
    make_header(&header);
    ASSERT(fd >= 0 && write(fd, header.p, header.n) == (ssize_t)header.n);
    snprintf(header_path, sizeof(header_path), "/proc/self/fd/%d", fd);
    buf_release(&header);
    (void)argc, (void)argv;
    return 0;
}

static size_t zip(const uint8_t *data, size_t size, uint8_t *out, size_t cap)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)data, .avail_in = (uInt)size, .next_out = out, .avail_out = (uInt)cap};
    ASSERT(deflateInit2(&z, 0, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) == Z_OK && deflate(&z, Z_FINISH) == Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct header h;
    struct err err = ERR_NONE;
    size_t cap = size + 1000;
    uint8_t *zipped = malloc(cap);
    ASSERT(zipped && header_open(&h, header_path, "index", &err));
    /* As it is, and as what gzip has packed. */
    if (!header_load_sparse(&h, slice_make(data, size), &err) && !header_load_sparse(&h, slice_make(zipped, zip(data, size, zipped, cap)), &err)) {
        ASSERT(err.code == ERR_CORRUPT && h.n_names == 0);
    } else {
        ASSERT(h.n_names == NAMES);
        for (int i = 0; i < NAMES * VALUES; i++) {
            char name = (char)('a' + i / VALUES), value = (char)('0' + i % VALUES);
            const struct header_name *found = header_find_name(&h, slice_make(&name, 1));
            uint32_t at;
            ASSERT(found && header_find_value(&h, found, slice_make(&value, 1), &at, &err) && at);
        }
    }
    header_release(&h);
    free(zipped);
    return 0;
}
