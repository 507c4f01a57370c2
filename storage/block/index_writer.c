/* Symbols and series of an index that is being written; postings are in index_writer_postings.c. */
#include "storage/block/index_writer_int.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"
#include "storage/block/bytes.h"
#include "storage/block/crc32c.h"
#include "storage/block/index_writer_postings_int.h"

#define PAIRS_MAX (UINT32_C(1) << 30)

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory to write an index");
}

static bool too_large(const struct index_writer *w, const char *what, struct err *err)
{
    return err_set(err, ERR_TOO_LARGE, "%s: %s are more than an index can have", w->out.path, what);
}

/* Room for one more item of an array that doubles. */
static bool grow(void **items, size_t n, size_t *cap, size_t item_size)
{
    if (n < *cap)
        return true;
    size_t more = *cap ? 2 * *cap : 64;
    void *p = realloc(*items, more * item_size);
    if (!p)
        return false;
    *items = p;
    *cap = more;
    return true;
}

/* --- symbols --- */

static struct slice symbol(const struct index_writer *w, uint32_t i)
{
    return slice_make(w->text + w->text_at[i], w->text_at[i + 1] - w->text_at[i]);
}

static bool symbol_find(const struct index_writer *w, struct slice s, uint32_t *ret)
{
    for (uint32_t slot = (uint32_t)XXH3_64bits(s.p, s.n) & w->symbol_mask; w->symbol_slots[slot]; slot = (slot + 1) & w->symbol_mask) {
        *ret = w->symbol_slots[slot] - 1;
        if (slice_eq(symbol(w, *ret), s))
            return true;
    }
    return false;
}

static bool alloc_symbols(struct index_writer *w, const struct slice *symbols, size_t n, struct err *err)
{
    uint64_t bytes = 0;
    uint32_t slots = 16;
    if (n > PAIRS_MAX)
        return too_large(w, "symbols", err);
    for (size_t i = 0; i < n; i++)
        bytes += symbols[i].n;
    while (slots < 2 * n)
        slots *= 2;
    w->text = malloc(bytes + 1);
    w->text_at = malloc((n + 1) * sizeof(*w->text_at));
    w->symbol_slots = calloc(slots, sizeof(*w->symbol_slots));
    w->symbol_mask = slots - 1;
    return (w->text && w->text_at && w->symbol_slots) || no_memory(err);
}

static bool keep_symbols(struct index_writer *w, const struct slice *symbols, size_t n, struct err *err)
{
    if (!alloc_symbols(w, symbols, n, err))
        return false;
    w->text_at[0] = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct slice s = symbols[i];
        if (i && slice_cmp(symbols[i - 1], s) >= 0)
            return err_set(err, ERR_INTERNAL, "%s: symbols out of order", w->out.path);
        if (s.n)
            memcpy(w->text + w->text_at[i], s.p, s.n);
        w->text_at[i + 1] = w->text_at[i] + s.n;
        uint32_t slot = (uint32_t)XXH3_64bits(s.p, s.n) & w->symbol_mask;
        while (w->symbol_slots[slot])
            slot = (slot + 1) & w->symbol_mask;
        w->symbol_slots[slot] = i + 1;
    }
    w->n_symbols = (uint32_t)n;
    return true;
}

static bool write_symbols(struct index_writer *w, struct err *err)
{
    uint64_t bytes = 4 + w->text_at[w->n_symbols];
    uint32_t crc = 0;
    uint8_t number[UVARINT_MAX_BYTES];
    for (uint32_t i = 0; i < w->n_symbols; i++)
        bytes += uvarint_size(symbol(w, i).n);
    if (bytes > UINT32_MAX)
        return too_large(w, "symbols", err);
    out_put_be32(&w->out, (uint32_t)bytes);
    put_be32(number, w->n_symbols);
    out_put_crc(&w->out, &crc, number, 4);
    for (uint32_t i = 0; i < w->n_symbols; i++) {
        struct slice s = symbol(w, i);
        out_put_crc(&w->out, &crc, number, put_uvarint(number, s.n));
        out_put_crc(&w->out, &crc, s.p, s.n);
    }
    out_put_be32(&w->out, crc);
    return out_check(&w->out, err);
}

bool index_writer_open(struct index_writer *w, const char *dir, const struct slice *symbols, size_t n_symbols, struct err *err)
{
    static const uint8_t version = 2;
    *w = (struct index_writer){.out.fd = -1, .postings_buffer = INDEX_POSTINGS_BUFFER};
    w->pair_slots = calloc(1024, sizeof(*w->pair_slots));
    w->pair_mask = 1023;
    if (!w->pair_slots)
        return no_memory(err);
    if (!out_open(&w->out, dir, "index", err) || !keep_symbols(w, symbols, n_symbols, err))
        return false;
    out_put_be32(&w->out, INDEX_MAGIC);
    out_put(&w->out, &version, 1);
    if (!write_symbols(w, err))
        return false;
    w->series_from = w->out.offset;
    return true;
}

void index_writer_release(struct index_writer *w)
{
    out_release(&w->out);
    free(w->text);
    free(w->text_at);
    free(w->symbol_slots);
    free(w->pairs);
    free(w->pair_slots);
    free(w->series);
    free(w->ids);
    free(w->current);
    buf_release(&w->entry);
    *w = (struct index_writer){.out.fd = -1};
}

/* --- pairs of name and value --- */

static uint32_t pair_slot(const struct index_writer *w, uint32_t name, uint32_t value)
{
    uint64_t h = ((uint64_t)name << 32 | value) * UINT64_C(0x9E3779B97F4A7C15);
    return (uint32_t)(h >> 32) & w->pair_mask;
}

static void pair_place(struct index_writer *w, uint32_t i)
{
    uint32_t slot = pair_slot(w, w->pairs[i].name, w->pairs[i].value);
    while (w->pair_slots[slot])
        slot = (slot + 1) & w->pair_mask;
    w->pair_slots[slot] = i + 1;
}

static bool pairs_rehash(struct index_writer *w)
{
    uint32_t *slots = calloc(2 * ((size_t)w->pair_mask + 1), sizeof(*slots));
    if (!slots)
        return false;
    free(w->pair_slots);
    w->pair_slots = slots;
    w->pair_mask = 2 * w->pair_mask + 1;
    for (uint32_t i = 0; i < w->n_pairs; i++)
        pair_place(w, i);
    return true;
}

static bool pair_id(struct index_writer *w, uint32_t name, uint32_t value, uint32_t *ret, struct err *err)
{
    for (uint32_t slot = pair_slot(w, name, value); w->pair_slots[slot]; slot = (slot + 1) & w->pair_mask) {
        *ret = w->pair_slots[slot] - 1;
        if (w->pairs[*ret].name == name && w->pairs[*ret].value == value)
            return true;
    }
    size_t cap = w->cap_pairs;
    if (w->n_pairs == PAIRS_MAX)
        return too_large(w, "labels", err);
    if ((w->n_pairs >= w->pair_mask / 2 && !pairs_rehash(w)) || !grow((void **)&w->pairs, w->n_pairs, &cap, sizeof(*w->pairs)))
        return no_memory(err);
    w->cap_pairs = (uint32_t)cap;
    *ret = w->n_pairs++;
    w->pairs[*ret] = (struct index_pair){name, value, 0};
    pair_place(w, *ret);
    return true;
}

/* --- series --- */

static struct label pair_label(const struct index_writer *w, uint32_t id)
{
    return (struct label){symbol(w, w->pairs[id].name), symbol(w, w->pairs[id].value)};
}

static const uint32_t *last_ids(const struct index_writer *w, size_t *ret_n)
{
    *ret_n = w->n_series ? w->series[w->n_series - 1].n_labels : 0;
    return w->ids + w->n_ids - *ret_n;
}

static bool label_is(const struct index_writer *w, uint32_t id, struct label l)
{
    struct label known = pair_label(w, id);
    return slice_eq(known.value, l.value) && slice_eq(known.name, l.name);
}

/*
 * The pairs of a series. Neighbours in the order of labels share most of them, at the same place: comparing is then cheaper than looking both symbols up.
 */
static bool find_ids(struct index_writer *w, const struct labels *l, struct err *err)
{
    size_t n_last;
    const uint32_t *last = last_ids(w, &n_last);
    for (size_t i = 0; i < l->n; i++) {
        struct label label = l->items[i];
        uint32_t name, value;
        if (i < n_last && label_is(w, last[i], label)) {
            w->current[i] = last[i];
        } else {
            if (!symbol_find(w, label.name, &name) || !symbol_find(w, label.value, &value))
                return err_set(err, ERR_INTERNAL, "%s: a series with a label that is no symbol", w->out.path);
            if (!pair_id(w, name, value, &w->current[i], err))
                return false;
        }
        if (label.value.n == 0 || label.name.n == 0 || (i && w->pairs[w->current[i - 1]].name >= w->pairs[w->current[i]].name))
            return err_set(err, ERR_INTERNAL, "%s: a series with labels that are empty or out of order", w->out.path);
    }
    return true;
}

/* Is the series at hand behind the last one? Symbols compare as their positions do. */
static bool ascends(const struct index_writer *w, size_t n)
{
    size_t n_last;
    const uint32_t *last = last_ids(w, &n_last);
    if (w->n_series == 0)
        return true;
    for (size_t i = 0; i < MIN(n, n_last); i++) {
        const struct index_pair *a = &w->pairs[last[i]], *b = &w->pairs[w->current[i]];
        if (a->name != b->name)
            return a->name < b->name;
        if (a->value != b->value)
            return a->value < b->value;
    }
    return n_last < n;
}

static void encode_series(struct index_writer *w, size_t n_labels, const struct index_chunk *chunks, size_t n_chunks)
{
    struct buf *e = &w->entry;
    buf_clear(e);
    buf_put_uvarint(e, n_labels);
    for (size_t i = 0; i < n_labels; i++) {
        buf_put_uvarint(e, w->pairs[w->current[i]].name);
        buf_put_uvarint(e, w->pairs[w->current[i]].value);
    }
    buf_put_uvarint(e, n_chunks);
    for (size_t i = 0; i < n_chunks; i++) {
        const struct index_chunk *c = &chunks[i];
        buf_put_uvarint(e, i ? (uint64_t)c->min_t - (uint64_t)c[-1].max_t : zigzag(c->min_t));
        buf_put_uvarint(e, (uint64_t)c->max_t - (uint64_t)c->min_t);
        buf_put_uvarint(e, i ? zigzag((int64_t)(c->ref - c[-1].ref)) : c->ref);
    }
}

static bool remember_series(struct index_writer *w, uint32_t ref, size_t n_labels, struct err *err)
{
    if (!grow((void **)&w->series, w->n_series, &w->cap_series, sizeof(*w->series)))
        return no_memory(err);
    for (size_t i = 0; i < n_labels; i++) {
        if (!grow((void **)&w->ids, w->n_ids, &w->cap_ids, sizeof(*w->ids)))
            return no_memory(err);
        w->ids[w->n_ids++] = w->current[i];
        w->pairs[w->current[i]].n++;
    }
    w->series[w->n_series++] = (struct written_series){ref, (uint32_t)n_labels};
    return true;
}

bool index_writer_add(struct index_writer *w, const struct labels *labels, const struct index_chunk *chunks, size_t n_chunks, struct err *err)
{
    uint8_t number[UVARINT_MAX_BYTES];
    uint64_t ref = (w->out.offset + INDEX_SERIES_ALIGN - 1) / INDEX_SERIES_ALIGN;
    while (w->cap_current < labels->n)
        if (!grow((void **)&w->current, w->cap_current, &w->cap_current, sizeof(*w->current)))
            return no_memory(err);
    if (!find_ids(w, labels, err))
        return false;
    if (labels->n == 0 || !ascends(w, labels->n))
        return err_set(err, ERR_INTERNAL, "%s: series out of order", w->out.path);
    if (ref > UINT32_MAX || w->n_series == UINT32_MAX / 4 - 1)
        return too_large(w, "series", err);
    encode_series(w, labels->n, chunks, n_chunks);
    if (w->entry.failed)
        return no_memory(err);
    out_pad(&w->out, INDEX_SERIES_ALIGN);
    out_put(&w->out, number, put_uvarint(number, w->entry.n));
    out_put(&w->out, w->entry.p, w->entry.n);
    out_put_be32(&w->out, crc32c(0, w->entry.p, w->entry.n));
    return remember_series(w, (uint32_t)ref, labels->n, err) && out_check(&w->out, err);
}

bool index_writer_finish(struct index_writer *w, uint64_t *ret_size, struct err *err)
{
    return index_writer_put_postings(w, err) && out_close(&w->out, ret_size, err);
}
