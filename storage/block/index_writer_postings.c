/*
 * Postings, their offset table and the TOC, made from what the series left behind: for each series its reference and its pairs.
 *
 * The lists are filled in rounds: as many of them as the buffer holds, by one pass over all series. With 10 labels a series the default buffer takes 1.6
 * million series in one round.
 */
#include "storage/block/index_writer_postings_int.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "storage/block/bytes.h"

/* A list of postings to be written, in the order of the file. */
struct list {
    uint64_t key; /* name << 32 | value: the order of symbols is that of their strings */
    uint32_t pair;
    uint64_t offset;
};

struct work {
    struct index_writer *w;
    struct list *lists;  /* owned, n_pairs */
    uint64_t *at;        /* owned, n_pairs: where in the buffer a pair's next reference goes, counted from 1; 0: not in this round */
    uint32_t *refs;      /* owned, cap_refs */
    size_t cap_refs;
    uint64_t all_offset; /* of the list of all series */
};

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory to write the postings of an index");
}

static struct slice symbol(const struct index_writer *w, uint32_t i)
{
    return slice_make(w->text + w->text_at[i], w->text_at[i + 1] - w->text_at[i]);
}

static int by_key(const void *a, const void *b)
{
    const struct list *x = a, *y = b;
    return (x->key > y->key) - (x->key < y->key);
}

static bool work_init(struct work *k, struct index_writer *w, struct err *err)
{
    size_t most = w->n_series;
    *k = (struct work){.w = w};
    k->cap_refs = MAX(most, MIN(w->postings_buffer / sizeof(*k->refs), w->n_ids));
    k->lists = malloc(((size_t)w->n_pairs + 1) * sizeof(*k->lists));
    k->at = calloc((size_t)w->n_pairs + 1, sizeof(*k->at));
    k->refs = malloc((k->cap_refs + 1) * sizeof(*k->refs));
    if (!k->lists || !k->at || !k->refs)
        return no_memory(err);
    for (uint32_t i = 0; i < w->n_pairs; i++)
        k->lists[i] = (struct list){(uint64_t)w->pairs[i].name << 32 | w->pairs[i].value, i, 0};
    qsort(k->lists, w->n_pairs, sizeof(*k->lists), by_key);
    return true;
}

static void work_release(struct work *k)
{
    free(k->lists);
    free(k->at);
    free(k->refs);
}

/* BE32 length, BE32 count, references, checksum; refs are turned round in place. */
static uint64_t put_list(struct index_writer *w, uint32_t *refs, size_t n)
{
    uint8_t count[4];
    uint32_t crc = 0;
    out_pad(&w->out, 4);
    uint64_t offset = w->out.offset;
    for (size_t i = 0; i < n; i++)
        refs[i] = __builtin_bswap32(refs[i]);
    _Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "references are turned from little to big endian");
    out_put_be32(&w->out, (uint32_t)(4 + 4 * n));
    put_be32(count, (uint32_t)n);
    out_put_crc(&w->out, &crc, count, 4);
    out_put_crc(&w->out, &crc, refs, 4 * n);
    out_put_be32(&w->out, crc);
    return offset;
}

static void put_all_series(struct work *k)
{
    for (size_t i = 0; i < k->w->n_series; i++)
        k->refs[i] = k->w->series[i].ref;
    k->all_offset = put_list(k->w, k->refs, k->w->n_series);
}

/* One pass over all series, for the pairs that have a place in the buffer. */
static void fill_round(struct work *k)
{
    const uint32_t *id = k->w->ids;
    for (size_t i = 0; i < k->w->n_series; i++) {
        const struct written_series *s = &k->w->series[i];
        for (uint32_t j = 0; j < s->n_labels; j++, id++)
            if (k->at[*id])
                k->refs[k->at[*id]++ - 1] = s->ref;
    }
}

static void put_lists(struct work *k)
{
    const struct index_writer *w = k->w;
    for (size_t from = 0, to; from < w->n_pairs; from = to) {
        size_t n = 0;
        for (to = from; to < w->n_pairs && n + w->pairs[k->lists[to].pair].n <= k->cap_refs; to++) {
            k->at[k->lists[to].pair] = n + 1;
            n += w->pairs[k->lists[to].pair].n;
        }
        ASSERT(to > from); /* no list is longer than that of all series, which the buffer holds */
        fill_round(k);
        n = 0;
        for (size_t i = from; i < to; i++) {
            uint32_t pair = k->lists[i].pair;
            k->lists[i].offset = put_list(k->w, k->refs + n, w->pairs[pair].n);
            n += w->pairs[pair].n;
            k->at[pair] = 0;
        }
    }
}

/* uvarint 2, name, value, uvarint offset of the list. */
static void put_entry(struct out *out, uint32_t *crc, struct slice name, struct slice value, uint64_t offset)
{
    uint8_t number[UVARINT_MAX_BYTES];
    out_put_crc(out, crc, "\x02", 1);
    out_put_crc(out, crc, number, put_uvarint(number, name.n));
    out_put_crc(out, crc, name.p, name.n);
    out_put_crc(out, crc, number, put_uvarint(number, value.n));
    out_put_crc(out, crc, value.p, value.n);
    out_put_crc(out, crc, number, put_uvarint(number, offset));
}

static uint64_t entry_size(struct slice name, struct slice value, uint64_t offset)
{
    return 1 + uvarint_size(name.n) + name.n + uvarint_size(value.n) + value.n + uvarint_size(offset);
}

static bool put_table(struct work *k, struct err *err)
{
    struct index_writer *w = k->w;
    struct slice none = {"", 0};
    uint64_t bytes = 4 + entry_size(none, none, k->all_offset);
    uint8_t count[4];
    uint32_t crc = 0;
    for (uint32_t i = 0; i < w->n_pairs; i++) {
        const struct index_pair *p = &w->pairs[k->lists[i].pair];
        bytes += entry_size(symbol(w, p->name), symbol(w, p->value), k->lists[i].offset);
    }
    if (bytes > UINT32_MAX)
        return err_set(err, ERR_TOO_LARGE, "%s: more labels than an index can have", w->out.path);
    out_put_be32(&w->out, (uint32_t)bytes);
    put_be32(count, w->n_pairs + 1);
    out_put_crc(&w->out, &crc, count, 4);
    put_entry(&w->out, &crc, none, none, k->all_offset);
    for (uint32_t i = 0; i < w->n_pairs; i++) {
        const struct index_pair *p = &w->pairs[k->lists[i].pair];
        put_entry(&w->out, &crc, symbol(w, p->name), symbol(w, p->value), k->lists[i].offset);
    }
    out_put_be32(&w->out, crc);
    return true;
}

/* Label indices are no longer written: their offsets are those of what follows them. */
static void put_toc(struct index_writer *w, uint64_t postings, uint64_t table)
{
    const uint64_t toc[] = {INDEX_HEADER_BYTES, w->series_from, postings, table, postings, table};
    uint32_t crc = 0;
    for (size_t i = 0; i < ARRAY_LEN(toc); i++) {
        uint8_t bytes[8];
        put_be32(bytes, (uint32_t)(toc[i] >> 32));
        put_be32(bytes + 4, (uint32_t)toc[i]);
        out_put_crc(&w->out, &crc, bytes, 8);
    }
    out_put_be32(&w->out, crc);
}

bool index_writer_put_postings(struct index_writer *w, struct err *err)
{
    struct work k;
    bool good = work_init(&k, w, err);
    if (good) {
        uint64_t postings = w->out.offset;
        put_all_series(&k);
        put_lists(&k);
        uint64_t table = w->out.offset;
        good = put_table(&k, err);
        put_toc(w, postings, table);
    }
    work_release(&k);
    return good && out_check(&w->out, err);
}
