/*
 * The sparse-index-header (docs/formats.md 7.5): gzip of a protobuf message with the places of every 32nd symbol, and for each label name of its first, every
 * 32nd and last entry in the postings offset table. Mimir's writes names in no order; ours in the table's.
 *
 * What is read is checked against the table itself (header.c says why that is enough), so that one from the bucket is as good as our own. Symbols are only
 * written: the table of all of them is made at the first select, from the mapping.
 */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/assert.h"
#include "model/proto_put.h"
#include "storage/block/bytes.h"
#include "storage/store/store_int.h"

#define SPARSE_BYTES_MAX ((size_t)1 << 30)

/* --- gzip --- */

static bool deflate_all(struct slice in, struct buf *out, struct err *err)
{
    z_stream z = {0};
    if (in.n > UINT32_MAX || deflateInit2(&z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return err_set(err, ERR_NO_MEMORY, "no memory to write a sparse index-header");
    size_t bound = deflateBound(&z, in.n);
    bool good = buf_reserve(out, bound);
    if (good) {
        z.next_in = (Bytef *)(uintptr_t)in.p;
        z.avail_in = (uInt)in.n;
        z.next_out = (Bytef *)out->p + out->n;
        z.avail_out = (uInt)bound;
        good = deflate(&z, Z_FINISH) == Z_STREAM_END;
        out->n += z.total_out;
    }
    deflateEnd(&z);
    return good || err_set(err, ERR_NO_MEMORY, "no memory to write a sparse index-header");
}

static bool inflate_all(struct slice in, struct buf *out)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)in.p, .avail_in = (uInt)in.n};
    int rc = Z_OK;
    if (in.n > UINT32_MAX || inflateInit2(&z, 15 + 16) != Z_OK)
        return false;
    while (rc == Z_OK && buf_reserve(out, MAX(out->n, (size_t)64 << 10))) {
        size_t room = MIN(out->cap - out->n, (size_t)UINT32_MAX);
        z.next_out = (Bytef *)out->p + out->n;
        z.avail_out = (uInt)room;
        rc = inflate(&z, Z_NO_FLUSH);
        out->n += room - z.avail_out;
    }
    inflateEnd(&z);
    return rc == Z_STREAM_END && z.avail_in == 0;
}

/* --- writing --- */

static void put_symbols(const struct header *h, struct buf *out)
{
    struct dec d = dec_of(h->p + HEADER_FIXED_BYTES + 8, (size_t)(h->table - h->p) - HEADER_FIXED_BYTES - 8);
    uint32_t n = get_be32(h->p + HEADER_FIXED_BYTES + 4);
    size_t message = proto_put_begin(out, 1);
    size_t offsets = proto_put_begin(out, 1);
    for (uint32_t i = 0; i < n && !d.bad; i++) {
        if (i % HEADER_SYMBOL_SAMPLING == 0)
            buf_put_uvarint(out, (uint64_t)(d.p - h->p) - HEADER_FIXED_BYTES);
        dec_str(&d);
    }
    proto_put_end(out, offsets);
    proto_put_varint(out, 2, n);
    proto_put_end(out, message);
}

/* A name with n entries of the table: the first, ..., the last one. */
static bool put_name(const struct header *h, struct slice name, const uint32_t *at, size_t n, struct buf *out, struct err *err)
{
    struct header_entry e;
    struct header_range range;
    size_t pair = proto_put_begin(out, 1);
    proto_put_element(out, 1, name);
    size_t value = proto_put_begin(out, 2);
    for (size_t i = 0; i < n; i++) {
        bool good = header_entry_at(h, at[i], &e);
        ASSERT(good);
        size_t offset = proto_put_begin(out, 1);
        proto_put_string(out, 1, e.value);
        proto_put_varint(out, 2, at[i]);
        proto_put_end(out, offset);
    }
    if (!header_range_of(h, &e, &range, err))
        return false;
    proto_put_varint(out, 2, range.end - 4);
    proto_put_end(out, value);
    proto_put_end(out, pair);
    return true;
}

bool header_encode_sparse(const struct header *h, struct buf *out, struct err *err)
{
    struct buf plain;
    buf_init(&plain, SPARSE_BYTES_MAX);
    put_symbols(h, &plain);
    size_t table = proto_put_begin(&plain, 2);
    bool good = put_name(h, slice_make(NULL, 0), &h->table_from, 1, &plain, err);
    for (size_t i = 0; good && i < h->n_names; i++)
        good = put_name(h, h->names[i].name, &h->sample_at[h->names[i].first], h->names[i].n, &plain, err);
    proto_put_varint(&plain, 2, h->sampling);
    proto_put_end(&plain, table);
    if (good && plain.failed)
        good = err_set(err, ERR_NO_MEMORY, "%s: no memory for its sparse index-header", h->path);
    good = good && deflate_all(buf_slice(&plain), out, err);
    buf_release(&plain);
    return good;
}

/* --- reading --- */

struct sparse {
    struct header *h;
    size_t cap_samples, cap_names;
    bool has_all_postings;
};

static bool add_sample(struct sparse *s, uint64_t at)
{
    struct header *h = s->h;
    if (at > UINT32_MAX)
        return false;
    if (h->n_samples == s->cap_samples) {
        s->cap_samples = s->cap_samples ? 2 * s->cap_samples : 256;
        h->sample_at = realloc(h->sample_at, s->cap_samples * sizeof(*h->sample_at));
        ASSERT(h->sample_at);
    }
    h->sample_at[h->n_samples++] = (uint32_t)at;
    return true;
}

/* PostingOffset; its value must be the one that stands in the table. */
static bool read_sample(struct sparse *s, struct slice name, struct slice message, struct slice *ret_name)
{
    struct proto r = proto_of(message, "PostingOffset", NULL);
    struct header_entry e;
    struct slice value = {0};
    uint64_t at = 0;
    uint32_t field, wire;
    while (proto_more(&r)) {
        bool good = proto_tag(&r, &field, &wire);
        if (good && field == 1)
            good = proto_bytes_field(&r, wire, "value", &value);
        else if (good && field == 2)
            good = proto_varint_field(&r, wire, "table_off", &at);
        else if (good)
            good = proto_skip(&r, wire);
        if (!good)
            return false;
    }
    if (at > UINT32_MAX || !header_entry_at(s->h, (uint32_t)at, &e) || !slice_eq(e.name, name) || !slice_eq(e.value, value))
        return false;
    *ret_name = e.name;
    return add_sample(s, at);
}

static bool read_samples(struct sparse *s, struct slice name, struct slice values)
{
    struct header *h = s->h;
    struct proto r = proto_of(values, "PostingValueOffsets", NULL);
    uint32_t first = (uint32_t)h->n_samples;
    struct slice message, mapped = {0};
    bool found;
    while (proto_find(&r, 1, "offsets", &message, &found) && found)
        if (!read_sample(s, name, message, &mapped))
            return false;
    if (found || h->n_samples == first)
        return false;
    if (name.n == 0) {
        s->has_all_postings = h->n_samples == first + 1 && h->sample_at[first] == h->table_from;
        h->n_samples = first;
        return s->has_all_postings;
    }
    if (h->n_names == s->cap_names) {
        s->cap_names = s->cap_names ? 2 * s->cap_names : 32;
        h->names = realloc(h->names, s->cap_names * sizeof(*h->names));
        ASSERT(h->names);
    }
    h->names[h->n_names++] = (struct header_name){mapped, first, (uint32_t)h->n_samples - first};
    return true;
}

static bool read_name(struct sparse *s, struct slice pair)
{
    struct proto r = proto_of(pair, "names", NULL);
    struct slice name = {0}, values = {0};
    uint32_t field, wire;
    while (proto_more(&r)) {
        bool good = proto_tag(&r, &field, &wire);
        if (good && field == 1)
            good = proto_bytes_field(&r, wire, "key", &name);
        else if (good && field == 2)
            good = proto_bytes_field(&r, wire, "value", &values);
        else if (good)
            good = proto_skip(&r, wire);
        if (!good)
            return false;
    }
    return read_samples(s, name, values);
}

static bool read_table(struct sparse *s, struct slice message)
{
    struct proto r = proto_of(message, "PostingOffsetTable", NULL);
    struct slice pair;
    uint32_t field, wire;
    while (proto_more(&r)) {
        uint64_t sampling = s->h->sampling;
        bool good = proto_tag(&r, &field, &wire);
        if (good && field == 1)
            good = proto_bytes_field(&r, wire, "postings", &pair) && read_name(s, pair);
        else if (good && field == 2)
            good = proto_varint_field(&r, wire, "sampling", &sampling) && sampling <= UINT32_MAX;
        else if (good)
            good = proto_skip(&r, wire);
        if (!good)
            return false;
        s->h->sampling = (uint32_t)sampling;
    }
    return true;
}

static int by_name(const void *a, const void *b)
{
    const struct header_name *x = a, *y = b;
    return slice_cmp(x->name, y->name);
}

/* Names and samples follow each other through the table, from the entry behind that of all series to its end. */
static bool is_whole(const struct header *h)
{
    struct header_entry e;
    if (!header_entry_at(h, h->table_from, &e))
        return false;
    for (size_t i = 0; i < h->n_names; i++) {
        const struct header_name *name = &h->names[i];
        if (h->sample_at[name->first] != e.next)
            return false;
        for (uint32_t k = 1; k < name->n; k++)
            if (h->sample_at[name->first + k] <= h->sample_at[name->first + k - 1])
                return false;
        if (!header_entry_at(h, h->sample_at[name->first + name->n - 1], &e))
            return false;
    }
    return e.next == h->table_end;
}

bool header_load_sparse(struct header *h, struct slice file, struct err *err)
{
    struct sparse s = {.h = h};
    struct buf plain;
    struct slice table = {0};
    bool found = false;
    buf_init(&plain, SPARSE_BYTES_MAX);
    h->sampling = 0;
    bool good = inflate_all(file, &plain);
    if (good) {
        struct proto r = proto_of(buf_slice(&plain), "Sparse", NULL);
        good = proto_find(&r, 2, "postings_offset_table", &table, &found) && found && read_table(&s, table) && s.has_all_postings;
    }
    buf_release(&plain);
    if (good && h->n_names)
        qsort(h->names, h->n_names, sizeof(*h->names), by_name);
    if (good && is_whole(h))
        return true;
    free(h->names);
    free(h->sample_at);
    h->names = NULL;
    h->sample_at = NULL;
    h->n_names = h->n_samples = 0;
    return err_set(err, ERR_CORRUPT, "%s: its sparse header does not fit it", h->path);
}
