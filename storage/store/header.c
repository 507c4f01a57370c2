/*
 * The index-header v1 of a block (docs/formats.md 7.4), mapped: a copy of the index's symbols and of its end.
 *
 *   0      BE32 BAAAD792
 *   4      version 1, version of the index (2 or 3: in version 1 references are of another kind, and Mimir reads none either)
 *   6      BE64 end of the last list of postings in the index: its TOC's table of label indices
 *   14     symbols: BE32 length, BE32 count, ...; CRC-32C: bytes [symbols, series) of the index
 *   x      postings offset table: BE32 length, BE32 count, entries; CRC-32C; then the index's TOC: the index from the table to its end
 *   -20    BE64 14, BE64 x, CRC-32C of both
 *
 * Entries are found by samples: for each label name the places of its first entry, of every 32nd after that, and of its last one. They come out of the sparse
 * header, which is believed only where the table bears it out: each sample is an entry of its name with the value said, names follow each other without a
 * gap from the table's first entry to its last. So no name can be missing, and what lies between two samples is walked over.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "storage/block/bytes.h"
#include "storage/block/crc32c.h"
#include "storage/store/store_int.h"

bool header_corrupt(const struct header *h, uint64_t offset, const char *what, struct err *err)
{
    return err_set(err, ERR_CORRUPT, "%s: offset %llu: %s", h->path, (unsigned long long)offset, what);
}

/* --- opening --- */

static bool map_file(struct header *h, struct err *err)
{
    struct stat st;
    int fd = open(h->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, errno, "%s", h->path);
    bool good = fstat(fd, &st) == 0 || err_errno(err, ERR_IO, errno, "%s", h->path);
    if (good && (!S_ISREG(st.st_mode) || st.st_size < HEADER_FIXED_BYTES + 16 + INDEX_TOC_BYTES + HEADER_TOC_BYTES))
        good = header_corrupt(h, 0, "too short for an index-header", err);
    if (good) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        good = p != MAP_FAILED || err_errno(err, ERR_IO, errno, "mapping %s", h->path);
        if (good) {
            h->p = p;
            h->n = (size_t)st.st_size;
        }
    }
    close(fd);
    return good;
}

/* BE32 length, content, CRC-32C at offset, which must end by `end`. */
static bool check_section(const struct header *h, uint64_t offset, uint64_t end, uint64_t *ret_content_end, struct err *err)
{
    if (offset > end || end - offset < 12)
        return header_corrupt(h, offset, "no room for a section", err);
    uint64_t n = get_be32(h->p + offset);
    if (n < 4 || n > end - offset - 8)
        return header_corrupt(h, offset, "a section of that length does not fit", err);
    if (crc32c(0, h->p + offset + 4, n) != get_be32(h->p + offset + 4 + n))
        return header_corrupt(h, offset + 4, "the checksum does not fit", err);
    *ret_content_end = offset + 4 + n;
    return true;
}

/* The index's own TOC, which is the end of what was copied. */
static bool check_index_toc(struct header *h, uint64_t table_at, struct err *err)
{
    struct index_toc toc;
    struct err why = ERR_NONE;
    uint64_t at = h->n - HEADER_TOC_BYTES - INDEX_TOC_BYTES;
    uint64_t table_in_index = get_be64(h->p + at + 40), copied = h->n - HEADER_TOC_BYTES - table_at;
    if (table_in_index > INT64_MAX)
        return header_corrupt(h, at + 40, "sections that are out of order or out of the file", err);
    h->index_bytes = table_in_index + copied;
    if (!index_decode_toc(&h->index, h->p + at, h->index_bytes, &toc, &why))
        return err_set(err, ERR_CORRUPT, "%s: offset %llu: of the index: %s", h->path, (unsigned long long)at, why.text);
    if (toc.series - toc.symbols != table_at - HEADER_FIXED_BYTES)
        return header_corrupt(h, at, "symbols of another length than the index says", err);
    h->postings_end = get_be64(h->p + 6);
    if (h->postings_end != toc.label_indices_table || h->postings_end <= toc.postings || h->postings_end > toc.postings_table)
        return header_corrupt(h, 6, "an end of the postings that the index does not say", err);
    return true;
}

static bool check(struct header *h, struct err *err)
{
    uint64_t end = h->n - HEADER_TOC_BYTES, content_end;
    const uint8_t *toc = h->p + end;
    if (get_be32(h->p) != HEADER_MAGIC || h->p[4] != 1)
        return header_corrupt(h, 0, "this is no index-header of version 1", err);
    if (h->p[5] != 2 && h->p[5] != 3)
        return header_corrupt(h, 5, "a version of the index that is not known", err);
    if (crc32c(0, toc, 16) != get_be32(toc + 16))
        return header_corrupt(h, end, "the checksum does not fit", err);
    uint64_t table_at = get_be64(toc + 8);
    if (get_be64(toc) != HEADER_FIXED_BYTES || table_at < HEADER_FIXED_BYTES || table_at > end - INDEX_TOC_BYTES)
        return header_corrupt(h, end, "sections that are out of order or out of the file", err);
    h->index.version = h->p[5];
    if (!check_index_toc(h, table_at, err) || !check_section(h, HEADER_FIXED_BYTES, table_at, &content_end, err) ||
        !check_section(h, table_at, end - INDEX_TOC_BYTES, &content_end, err))
        return false;
    h->table = h->p + table_at;
    h->table_from = 8;
    h->table_end = (uint32_t)(content_end - table_at);
    return true;
}

bool header_open(struct header *h, const char *path, const char *index_name, struct err *err)
{
    *h = (struct header){.path = strdup(path)};
    h->index.path = strdup(index_name);
    ASSERT(h->path && h->index.path);
    pthread_mutex_init(&h->symbols_lock, NULL);
    if (map_file(h, err) && check(h, err)) {
        h->index.p = h->p;
        h->index.n = h->n;
        h->index.symbols_from = HEADER_FIXED_BYTES;
        h->index.n_symbols = get_be32(h->p + HEADER_FIXED_BYTES + 4);
        return true;
    }
    header_release(h);
    return false;
}

void header_release(struct header *h)
{
    if (!h->path)
        return;
    if (h->p)
        munmap((void *)(uintptr_t)h->p, h->n);
    free((char *)(uintptr_t)h->index.path);
    index_release(&h->index);
    free(h->path);
    free(h->names);
    free(h->sample_at);
    pthread_mutex_destroy(&h->symbols_lock);
    *h = (struct header){0};
}

bool header_need_symbols(struct header *h, struct err *err)
{
    if (atomic_load_explicit(&h->has_symbols, memory_order_acquire))
        return true;
    pthread_mutex_lock(&h->symbols_lock);
    bool good = atomic_load_explicit(&h->has_symbols, memory_order_relaxed);
    if (!good) {
        struct index symbols = {.path = h->path, .p = h->p, .n = h->n, .no_checksums = true}; /* the section's was verified at open */
        good = index_open_symbols(&symbols, HEADER_FIXED_BYTES, (uint64_t)(h->table - h->p), err);
        if (good) {
            h->index.symbol_at = symbols.symbol_at;
            h->index.n_symbols = symbols.n_symbols;
            atomic_store_explicit(&h->has_symbols, true, memory_order_release);
        } else {
            free(symbols.symbol_at);
        }
    }
    pthread_mutex_unlock(&h->symbols_lock);
    return good;
}

/* --- entries --- */

bool header_entry_at(const struct header *h, uint32_t at, struct header_entry *ret)
{
    if (at < h->table_from || at >= h->table_end)
        return false;
    struct dec d = dec_of(h->table + at, h->table_end - at);
    bool good = dec_uvarint(&d) == 2;
    ret->name = dec_str(&d);
    ret->value = dec_str(&d);
    ret->offset = dec_uvarint(&d);
    ret->next = (uint32_t)(d.p - h->table);
    return good && !d.bad;
}

static bool bad_entry(const struct header *h, uint32_t at, struct err *err)
{
    return header_corrupt(h, (uint64_t)(h->table - h->p) + at, "an entry of the postings table that cannot be", err);
}

bool header_range_of(const struct header *h, const struct header_entry *e, struct header_range *ret, struct err *err)
{
    struct header_entry next;
    ret->offset = e->offset;
    ret->end = h->postings_end;
    if (e->next < h->table_end) {
        if (!header_entry_at(h, e->next, &next))
            return bad_entry(h, e->next, err);
        /* Lists lie in the order of the entries in all that is written today; elsewhere the list's own length will say where it ends. */
        ret->end = next.offset > e->offset ? next.offset : e->offset + 12;
    }
    uint64_t at = (uint64_t)(h->table - h->p) + e->next;
    if (e->offset < h->index.postings_from || ret->end > h->index.postings_to || e->offset > ret->end || ret->end - e->offset < 12)
        return header_corrupt(h, at, "an entry points out of the postings", err);
    return true;
}

const struct header_name *header_find_name(const struct header *h, struct slice name)
{
    size_t low = 0, high = h->n_names;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int c = slice_cmp(h->names[mid].name, name);
        if (c == 0)
            return &h->names[mid];
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

bool header_find_value(const struct header *h, const struct header_name *name, struct slice value, uint32_t *ret_at, struct err *err)
{
    uint32_t low = name->first, high = name->first + name->n; /* the last sample that is not behind the value is in [low, high) */
    struct header_entry e;
    *ret_at = 0;
    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;
        if (!header_entry_at(h, h->sample_at[mid], &e))
            return bad_entry(h, h->sample_at[mid], err);
        if (slice_cmp(e.value, value) <= 0)
            low = mid;
        else
            high = mid;
    }
    uint32_t last = h->sample_at[name->first + name->n - 1];
    for (uint32_t at = h->sample_at[low]; at <= last; at = e.next) {
        if (!header_entry_at(h, at, &e) || !slice_eq(e.name, name->name))
            return bad_entry(h, at, err);
        int c = slice_cmp(e.value, value);
        if (c == 0)
            *ret_at = at;
        if (c >= 0)
            break;
    }
    return true;
}

bool header_each_value(const struct header *h, const struct header_name *name, header_value_fn *fn, void *arg, struct err *err)
{
    uint32_t last = h->sample_at[name->first + name->n - 1];
    struct header_entry e, before = {0};
    for (uint32_t at = h->sample_at[name->first]; at <= last; at = e.next) {
        if (!header_entry_at(h, at, &e) || !slice_eq(e.name, name->name) || (before.name.p && slice_cmp(before.value, e.value) >= 0))
            return bad_entry(h, at, err);
        if (!fn(arg, &e, err))
            return false;
        before = e;
    }
    return true;
}

/* --- samples --- */

static void add_sample(struct header *h, size_t *cap, uint32_t at)
{
    if (h->n_samples == *cap) {
        *cap = *cap ? 2 * *cap : 256;
        h->sample_at = realloc(h->sample_at, *cap * sizeof(*h->sample_at));
        ASSERT(h->sample_at);
    }
    h->sample_at[h->n_samples++] = at;
}

static void add_name(struct header *h, size_t *cap, struct slice name)
{
    if (h->n_names == *cap) {
        *cap = *cap ? 2 * *cap : 32;
        h->names = realloc(h->names, *cap * sizeof(*h->names));
        ASSERT(h->names);
    }
    h->names[h->n_names++] = (struct header_name){name, (uint32_t)h->n_samples, 0};
}

/* The table's first entry, which is that of all series. */
static bool skip_all_postings(const struct header *h, struct header_entry *ret, struct err *err)
{
    if (!header_entry_at(h, h->table_from, ret) || ret->name.n || ret->value.n)
        return header_corrupt(h, (uint64_t)(h->table - h->p) + h->table_from, "the first entry is not that of all series", err);
    return true;
}

bool header_find_samples(struct header *h, uint32_t sampling, struct err *err)
{
    struct header_entry e, before;
    size_t cap_names = 0, cap_samples = 0;
    uint32_t n = 0, count = 1, before_at = h->table_from;
    if (!skip_all_postings(h, &before, err))
        return false;
    h->sampling = sampling;
    for (uint32_t at = before.next; at < h->table_end; before_at = at, at = e.next, before = e, count++) {
        if (!header_entry_at(h, at, &e))
            return bad_entry(h, at, err);
        int c = slice_cmp(before.name, e.name);
        if (c > 0 || e.name.n == 0 || (c == 0 && slice_cmp(before.value, e.value) >= 0))
            return header_corrupt(h, (uint64_t)(h->table - h->p) + at, "entries out of order", err);
        if (c < 0) {
            if (h->n_names && h->sample_at[h->n_samples - 1] != before_at)
                add_sample(h, &cap_samples, before_at);
            add_name(h, &cap_names, e.name);
            n = 0;
        }
        if (n++ % sampling == 0)
            add_sample(h, &cap_samples, at);
    }
    if (h->n_names && h->sample_at[h->n_samples - 1] != before_at)
        add_sample(h, &cap_samples, before_at);
    for (size_t i = 0; i < h->n_names; i++)
        h->names[i].n = (i + 1 < h->n_names ? h->names[i + 1].first : (uint32_t)h->n_samples) - h->names[i].first;
    if (count != get_be32(h->table + 4))
        return header_corrupt(h, (uint64_t)(h->table - h->p) + 4, "more or fewer entries than the table says", err);
    return true;
}
