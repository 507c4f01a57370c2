#include "storage/block/segment_writer_int.h"

#include <stdio.h>
#include <stdlib.h>

#include "storage/block/bytes.h"
#include "storage/block/crc32c.h"

void segment_writer_init(struct segment_writer *w, const char *dir)
{
    *w = (struct segment_writer){.dir = dir, .out.fd = -1, .max_bytes = SEGMENT_MAX_BYTES};
}

void segment_writer_release(struct segment_writer *w)
{
    out_release(&w->out);
    free(w->sizes);
    *w = (struct segment_writer){.out.fd = -1};
}

static bool is_open(const struct segment_writer *w)
{
    return w->out.fd >= 0;
}

static bool close_segment(struct segment_writer *w, struct err *err)
{
    if (w->n == w->cap) {
        size_t cap = w->cap ? 2 * w->cap : 8;
        uint64_t *sizes = realloc(w->sizes, cap * sizeof(*sizes));
        if (!sizes)
            return err_set(err, ERR_NO_MEMORY, "no memory to write chunks");
        w->sizes = sizes;
        w->cap = cap;
    }
    return out_close(&w->out, &w->sizes[w->n++], err);
}

static bool next_segment(struct segment_writer *w, struct err *err)
{
    static const uint8_t version[4] = {1, 0, 0, 0};
    char name[32];
    if (is_open(w) && !close_segment(w, err))
        return false;
    snprintf(name, sizeof(name), "%06zu", w->n + 1);
    if (!out_open(&w->out, w->dir, name, err))
        return false;
    out_put_be32(&w->out, SEGMENT_MAGIC);
    out_put(&w->out, version, sizeof(version));
    return true;
}

static void put_chunk(struct out *out, const struct series_chunk *c)
{
    uint8_t head[UVARINT_MAX_BYTES + 1];
    size_t n = put_uvarint(head, c->data.n);
    head[n] = (uint8_t)c->encoding;
    out_put(out, head, n + 1);
    out_put(out, c->data.p, c->data.n);
    out_put_be32(out, crc32c(crc32c(0, head + n, 1), c->data.p, c->data.n));
}

/*
 * Prometheus decides by sizes that count 5 bytes for each length, added up over the chunks of one call: following it makes segments equal byte for byte. A
 * segment has one chunk at least, however long that is.
 */
bool segment_writer_add(struct segment_writer *w, const struct series_chunk *chunks, size_t n, uint64_t *ret_refs, struct err *err)
{
    uint64_t counted = 0;
    if (!is_open(w) && !next_segment(w, err))
        return false;
    counted = w->out.offset;
    for (size_t i = 0; i < n; i++) {
        uint64_t size = 5 + 1 + chunks[i].data.n + 4;
        if (counted + size > w->max_bytes && w->out.offset > SEGMENT_HEADER_BYTES) {
            if (!next_segment(w, err))
                return false;
            counted = w->out.offset;
        }
        counted += size;
        ret_refs[i] = (uint64_t)w->n << 32 | w->out.offset;
        put_chunk(&w->out, &chunks[i]);
    }
    return out_check(&w->out, err);
}

bool segment_writer_finish(struct segment_writer *w, struct err *err)
{
    return !is_open(w) || close_segment(w, err);
}
