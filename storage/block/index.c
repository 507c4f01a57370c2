/* Opening an index: TOC, symbols, postings offset table; and looking things up in what was checked then. */
#include "storage/block/index.h"

#include <stdlib.h>

#include "base/assert.h"
#include "storage/block/bytes.h"
#include "storage/block/crc32c.h"

bool index_corrupt(const struct index *ix, uint64_t offset, const char *what, struct err *err)
{
    return err_set(err, ERR_CORRUPT, "%s: offset %llu: %s", ix->path, (unsigned long long)offset, what);
}

bool index_checksum(const struct index *ix, uint64_t offset, uint64_t n, struct err *err)
{
    if (ix->no_checksums || crc32c(0, ix->p + offset, n) == get_be32(ix->p + offset + n))
        return true;
    return index_corrupt(ix, offset, "the checksum does not fit", err);
}

/* A section of BE32 length, content, checksum, which must end by `end`. Gives its content. */
static bool open_section(const struct index *ix, uint64_t offset, uint64_t end, struct dec *ret, struct err *err)
{
    if (offset < INDEX_HEADER_BYTES || offset > end || end - offset < 8)
        return index_corrupt(ix, offset, "no room for a section", err);
    uint64_t n = get_be32(ix->p + offset);
    if (n > end - offset - 8 || n < 4)
        return index_corrupt(ix, offset, "a section of that length does not fit", err);
    if (!index_checksum(ix, offset + 4, n, err))
        return false;
    *ret = dec_of(ix->p + offset + 4, n);
    return true;
}

static uint32_t take_be32(struct dec *d)
{
    uint32_t v = get_be32(d->p);
    d->p += 4;
    return v;
}

/* count: of entries of at least min_bytes each, in what is left of the section. */
static bool room_for(const struct index *ix, const struct dec *d, uint32_t count, size_t min_bytes, uint32_t **ret, struct err *err)
{
    if (count > dec_left(d) / min_bytes)
        return index_corrupt(ix, (uint64_t)(d->p - ix->p), "more entries than bytes", err);
    *ret = malloc(((size_t)count + 1) * sizeof(**ret));
    return *ret || err_set(err, ERR_NO_MEMORY, "%s: no memory for its tables", ix->path);
}

bool index_open_symbols(struct index *ix, uint64_t offset, uint64_t end, struct err *err)
{
    struct dec d;
    struct slice before = {0};
    if (!open_section(ix, offset, end, &d, err))
        return false;
    ix->symbols_from = offset;
    uint32_t count = take_be32(&d);
    if (!room_for(ix, &d, count, 1, &ix->symbol_at, err))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t at = (uint64_t)(d.p - ix->p);
        struct slice s = dec_str(&d);
        if (d.bad || (i && slice_cmp(before, s) >= 0))
            return index_corrupt(ix, at, d.bad ? "a symbol that is cut short" : "symbols out of order", err);
        ix->symbol_at[i] = (uint32_t)(at - offset);
        before = s;
    }
    ix->n_symbols = count;
    return dec_left(&d) == 0 || index_corrupt(ix, (uint64_t)(d.p - ix->p), "bytes behind the last symbol", err);
}

struct slice index_symbol(const struct index *ix, uint32_t i)
{
    ASSERT(i < ix->n_symbols);
    uint64_t at = ix->symbols_from + ix->symbol_at[i];
    struct dec d = dec_of(ix->p + at, ix->n - at);
    return dec_str(&d);
}

bool index_symbol_of_ref(const struct index *ix, uint64_t ref, uint32_t *ret)
{
    if (ix->version != 1) {
        *ret = (uint32_t)ref;
        return ref < ix->n_symbols;
    }
    uint32_t low = 0, high = ix->n_symbols;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (ix->symbols_from + ix->symbol_at[mid] < ref)
            low = mid + 1;
        else
            high = mid;
    }
    *ret = low;
    return low < ix->n_symbols && ix->symbols_from + ix->symbol_at[low] == ref;
}

/* --- the postings offset table --- */

struct entry {
    struct slice name, value;
    uint64_t offset;
};

static bool read_entry(struct dec *d, struct entry *ret)
{
    if (dec_uvarint(d) != 2)
        return false;
    ret->name = dec_str(d);
    ret->value = dec_str(d);
    ret->offset = dec_uvarint(d);
    return !d->bad;
}

static bool add_name(struct index *ix, struct slice name, uint32_t first, struct err *err)
{
    if (ix->n_names == ix->cap_names) {
        size_t cap = ix->cap_names ? 2 * ix->cap_names : 32;
        struct index_name *names = realloc(ix->names, cap * sizeof(*names));
        if (!names)
            return err_set(err, ERR_NO_MEMORY, "%s: no memory for its label names", ix->path);
        ix->names = names;
        ix->cap_names = cap;
    }
    ix->names[ix->n_names++] = (struct index_name){name, first, 0};
    return true;
}

/* The first entry is the pair of empty strings, which stands for all series; no other may be empty. */
static bool take_entry(struct index *ix, uint32_t i, const struct entry *e, const struct entry *before, uint64_t at, struct err *err)
{
    if (e->offset < ix->postings_from || e->offset >= ix->postings_to || ix->postings_to - e->offset < 12)
        return index_corrupt(ix, at, "an entry points out of the postings", err);
    if (i == 0) {
        ix->all_postings = e->offset;
        return (e->name.n == 0 && e->value.n == 0) || index_corrupt(ix, at, "the first entry is not that of all series", err);
    }
    int c = slice_cmp(before->name, e->name);
    if (c > 0 || e->name.n == 0 || (c == 0 && slice_cmp(before->value, e->value) >= 0))
        return index_corrupt(ix, at, "entries out of order", err);
    if (c < 0 && !add_name(ix, e->name, i, err))
        return false;
    ix->names[ix->n_names - 1].n++;
    return true;
}

static bool open_entries(struct index *ix, uint64_t offset, struct err *err)
{
    struct dec d;
    struct entry e, before = {0};
    if (!open_section(ix, offset, ix->n - INDEX_TOC_BYTES, &d, err))
        return false;
    ix->entries_from = offset;
    uint32_t count = take_be32(&d);
    if (!room_for(ix, &d, count, 4, &ix->entry_at, err))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t at = (uint64_t)(d.p - ix->p);
        if (!read_entry(&d, &e))
            return index_corrupt(ix, at, "an entry of the postings table that is cut short", err);
        if (!take_entry(ix, i, &e, &before, at, err))
            return false;
        ix->entry_at[i] = (uint32_t)(at - offset);
        before = e;
    }
    ix->n_entries = count;
    if (count == 0)
        return index_corrupt(ix, offset, "no list of all series", err);
    return dec_left(&d) == 0 || index_corrupt(ix, (uint64_t)(d.p - ix->p), "bytes behind the last entry", err);
}

struct slice index_entry_value(const struct index *ix, uint32_t entry, uint64_t *ret_offset)
{
    ASSERT(entry < ix->n_entries);
    uint64_t at = ix->entries_from + ix->entry_at[entry];
    struct dec d = dec_of(ix->p + at, ix->n - at);
    struct entry e;
    bool good = read_entry(&d, &e);
    ASSERT(good); /* it was when the index was opened, and nobody writes to a block's files */
    *ret_offset = e.offset;
    return e.value;
}

const struct index_name *index_find_name(const struct index *ix, struct slice name)
{
    size_t low = 0, high = ix->n_names;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int c = slice_cmp(ix->names[mid].name, name);
        if (c == 0)
            return &ix->names[mid];
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

bool index_find_value(const struct index *ix, const struct index_name *name, struct slice value, uint32_t *ret_entry)
{
    uint32_t low = name->first, high = name->first + name->n;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        uint64_t offset;
        int c = slice_cmp(index_entry_value(ix, mid, &offset), value);
        if (c == 0) {
            *ret_entry = mid;
            return true;
        }
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return false;
}

/* --- open, release --- */

/* In all versions the sections lie in the order: symbols, series, label indices, postings, tables. */
bool index_decode_toc(struct index *ix, const uint8_t *toc, uint64_t index_bytes, struct index_toc *ret, struct err *err)
{
    uint64_t at = index_bytes - INDEX_TOC_BYTES;
    if (!ix->no_checksums && crc32c(0, toc, INDEX_TOC_BYTES - 4) != get_be32(toc + INDEX_TOC_BYTES - 4))
        return index_corrupt(ix, at, "the checksum does not fit", err);
    *ret = (struct index_toc){get_be64(toc), get_be64(toc + 8), get_be64(toc + 16), get_be64(toc + 24), get_be64(toc + 32), get_be64(toc + 40)};
    if (ret->symbols < INDEX_HEADER_BYTES || ret->series < ret->symbols || ret->postings < ret->series || ret->postings_table < ret->postings ||
        ret->postings_table > at)
        return index_corrupt(ix, at, "sections that are out of order or out of the file", err);
    ix->series_from = ret->series;
    ix->series_to = ret->postings;
    ix->postings_from = ret->postings;
    ix->postings_to = ret->postings_table;
    if (ret->label_indices > ret->series && ret->label_indices < ix->series_to)
        ix->series_to = ret->label_indices;
    return true;
}

static bool open_checked(struct index *ix, struct err *err)
{
    struct index_toc toc;
    if (ix->n < INDEX_HEADER_BYTES + INDEX_TOC_BYTES)
        return index_corrupt(ix, 0, "too short for an index", err);
    if (get_be32(ix->p) != INDEX_MAGIC)
        return index_corrupt(ix, 0, "this is no index", err);
    ix->version = ix->p[4];
    if (ix->version < 1 || ix->version > 3)
        return index_corrupt(ix, 4, "a version that is not known", err);
    uint64_t end = ix->n - INDEX_TOC_BYTES;
    return index_decode_toc(ix, ix->p + end, ix->n, &toc, err) && index_open_symbols(ix, toc.symbols, end, err) &&
           open_entries(ix, toc.postings_table, err);
}

bool index_open(struct index *ix, const char *path, const void *p, size_t n, bool no_checksums, struct err *err)
{
    *ix = (struct index){.path = path, .p = p, .n = n, .no_checksums = no_checksums};
    if (open_checked(ix, err))
        return true;
    index_release(ix);
    return false;
}

void index_release(struct index *ix)
{
    free(ix->symbol_at);
    free(ix->entry_at);
    free(ix->names);
    *ix = (struct index){0};
}
