#include "app/tools/samples_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/assert.h"

#define FIRST_SLOTS 1024

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory for the series");
}

void samples_init(struct samples *s, const char *dir, int64_t range_ms)
{
    *s = (struct samples){.dir = dir, .range_ms = range_ms, .buffer_bytes = SAMPLES_BUFFER_BYTES, .piece = SAMPLES_PIECE};
    arena_init(&s->text, 0);
    s->symbol_slots = calloc(FIRST_SLOTS, sizeof(uint32_t));
    s->series_slots = calloc(FIRST_SLOTS, sizeof(uint32_t));
    ASSERT(s->symbol_slots && s->series_slots);
    s->symbol_mask = s->series_mask = FIRST_SLOTS - 1;
}

void samples_release(struct samples *s)
{
    for (size_t i = 0; i < s->n_ranges; i++)
        buf_release(&s->ranges[i].pending);
    free(s->ranges);
    free(s->ids);
    free(s->series_by_rank);
    free(s->series_slots);
    free(s->series);
    free(s->by_rank);
    free(s->symbol_ranks);
    free(s->symbol_slots);
    free(s->symbols);
    arena_release(&s->text);
}

/* Room for one more of n; *items may move. */
static bool reserve(void *items_of, uint32_t n, uint32_t *cap, size_t size)
{
    void *items;
    memcpy(&items, items_of, sizeof(items));
    if (n < *cap)
        return true;
    size_t more = *cap ? (size_t)*cap * 2 : 256;
    items = n < SAMPLES_LIMIT ? realloc(items, more * size) : NULL;
    if (!items)
        return false;
    memcpy(items_of, &items, sizeof(items));
    *cap = (uint32_t)more;
    return true;
}

/* --- symbols ------------------------------------------------------------------------------------------------------------------- */

static uint32_t hash_text(struct slice s)
{
    return (uint32_t)XXH3_64bits(s.p, s.n);
}

static bool grow_symbols(struct samples *s)
{
    uint32_t mask = s->symbol_mask * 2 + 1;
    uint32_t *slots = calloc((size_t)mask + 1, sizeof(*slots));
    if (!slots)
        return false;
    for (uint32_t i = 0; i < s->n_symbols; i++) {
        uint32_t at = hash_text(s->symbols[i]) & mask;
        while (slots[at])
            at = (at + 1) & mask;
        slots[at] = i + 1;
    }
    free(s->symbol_slots);
    s->symbol_slots = slots;
    s->symbol_mask = mask;
    return true;
}

static bool intern(struct samples *s, struct slice text, uint32_t *ret)
{
    uint32_t at = hash_text(text) & s->symbol_mask;
    for (; s->symbol_slots[at]; at = (at + 1) & s->symbol_mask)
        if (slice_eq(s->symbols[s->symbol_slots[at] - 1], text)) {
            *ret = s->symbol_slots[at] - 1;
            return true;
        }
    struct slice copy = arena_dup(&s->text, text);
    if (!copy.p || !reserve(&s->symbols, s->n_symbols, &s->cap_symbols, sizeof(*s->symbols)))
        return false;
    s->symbols[s->n_symbols++] = copy;
    s->symbol_slots[at] = s->n_symbols;
    *ret = s->n_symbols - 1;
    return s->n_symbols < s->symbol_mask / 2 || grow_symbols(s);
}

/* --- series -------------------------------------------------------------------------------------------------------------------- */

static uint32_t hash_ids(const uint32_t *ids, size_t n_labels)
{
    return (uint32_t)XXH3_64bits(ids, n_labels * 2 * sizeof(*ids));
}

static bool grow_series(struct samples *s)
{
    uint32_t mask = s->series_mask * 2 + 1;
    uint32_t *slots = calloc((size_t)mask + 1, sizeof(*slots));
    if (!slots)
        return false;
    for (uint32_t i = 0; i < s->n_series; i++) {
        uint32_t at = hash_ids(s->ids + s->series[i].first, s->series[i].n) & mask;
        while (slots[at])
            at = (at + 1) & mask;
        slots[at] = i + 1;
    }
    free(s->series_slots);
    s->series_slots = slots;
    s->series_mask = mask;
    return true;
}

/* The symbols of the labels at the end of ids, where they stay if the series is new. */
static bool put_ids(struct samples *s, struct labels labels)
{
    if (s->cap_ids - s->n_ids < labels.n * 2) {
        size_t cap = MAX(s->cap_ids * 2, s->n_ids + labels.n * 2 + 1024);
        uint32_t *ids = realloc(s->ids, cap * sizeof(*ids));
        if (!ids)
            return false;
        s->ids = ids;
        s->cap_ids = cap;
    }
    for (size_t i = 0; i < labels.n; i++)
        if (!intern(s, labels.items[i].name, &s->ids[s->n_ids + i * 2]) || !intern(s, labels.items[i].value, &s->ids[s->n_ids + i * 2 + 1]))
            return false;
    return true;
}

static bool find_or_add(struct samples *s, struct labels labels, uint32_t *ret)
{
    if (!put_ids(s, labels))
        return false;
    const uint32_t *ids = s->ids + s->n_ids;
    uint32_t at = hash_ids(ids, labels.n) & s->series_mask;
    for (; s->series_slots[at]; at = (at + 1) & s->series_mask) {
        const struct series_row *row = &s->series[s->series_slots[at] - 1];
        if (row->n == labels.n && memcmp(s->ids + row->first, ids, labels.n * 2 * sizeof(*ids)) == 0) {
            *ret = s->series_slots[at] - 1;
            return true;
        }
    }
    if (!reserve(&s->series, s->n_series, &s->cap_series, sizeof(*s->series)))
        return false;
    s->series[s->n_series++] = (struct series_row){s->n_ids, (uint32_t)labels.n, 0};
    s->n_ids += labels.n * 2;
    s->series_slots[at] = s->n_series;
    *ret = s->n_series - 1;
    return s->n_series < s->series_mask / 2 || grow_series(s);
}

/* --- ranges -------------------------------------------------------------------------------------------------------------------- */

void samples_path(const struct samples *s, const struct range *range, int run, char *out, size_t cap)
{
    if (run < 0)
        snprintf(out, cap, "%s/%" PRId64, s->dir, range->number);
    else
        snprintf(out, cap, "%s/%" PRId64 ".%d", s->dir, range->number, run);
}

static bool write_pending(struct samples *s, struct range *r, struct err *err)
{
    char path[4096];
    samples_path(s, r, -1, path, sizeof(path));
    FILE *f = r->pending.n ? fopen(path, "ae") : NULL;
    if (r->pending.n && !f)
        return err_errno(err, ERR_IO, errno, "%s", path);
    bool good = !f || fwrite(r->pending.p, 1, r->pending.n, f) == r->pending.n;
    if (f && fclose(f) != 0)
        good = false;
    if (!good)
        return err_errno(err, ERR_IO, errno, "writing %s", path);
    r->on_disk |= f != NULL;
    buf_release(&r->pending);
    return true;
}

static bool write_all_pending(struct samples *s, struct err *err)
{
    for (size_t i = 0; i < s->n_ranges; i++)
        if (!write_pending(s, &s->ranges[i], err))
            return false;
    s->pending_bytes = 0;
    return true;
}

static bool find_range(struct samples *s, int64_t number, struct range **ret, struct err *err)
{
    if (s->n_ranges && s->ranges[s->last_range].number == number) {
        *ret = &s->ranges[s->last_range];
        return true;
    }
    size_t low = 0, high = s->n_ranges;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (s->ranges[mid].number < number)
            low = mid + 1;
        else
            high = mid;
    }
    if (low == s->n_ranges || s->ranges[low].number != number) {
        if (s->n_ranges == SAMPLES_RANGES_MAX)
            return err_set(err, ERR_TOO_LARGE, "the samples lie in more than %d different blocks: are the times in seconds?", SAMPLES_RANGES_MAX);
        if (s->n_ranges == s->cap_ranges) {
            size_t cap = s->cap_ranges ? s->cap_ranges * 2 : 64;
            struct range *ranges = realloc(s->ranges, cap * sizeof(*ranges));
            if (!ranges)
                return no_memory(err);
            s->ranges = ranges;
            s->cap_ranges = cap;
        }
        memmove(s->ranges + low + 1, s->ranges + low, (s->n_ranges - low) * sizeof(*s->ranges));
        s->ranges[low] = (struct range){.number = number};
        s->n_ranges++;
    }
    s->last_range = low;
    *ret = &s->ranges[low];
    return true;
}

bool samples_add(struct samples *s, struct labels labels, int64_t t, double v, struct err *err)
{
    struct record r = {.t = t, .v = v};
    struct range *range = NULL;
    if (!find_or_add(s, labels, &r.series))
        return no_memory(err);
    if (!find_range(s, t / s->range_ms - (t % s->range_ms < 0), &range, err))
        return false;
    buf_put(&range->pending, &r, sizeof(r));
    if (range->pending.failed)
        return no_memory(err);
    range->n_records++;
    s->n_samples++;
    s->pending_bytes += sizeof(r);
    return s->pending_bytes < s->buffer_bytes || write_all_pending(s, err);
}

/* --- ranks --------------------------------------------------------------------------------------------------------------------- */

static int compare_symbols(const void *a, const void *b, void *arg)
{
    const struct slice *symbols = arg;
    return slice_cmp(symbols[*(const uint32_t *)a], symbols[*(const uint32_t *)b]);
}

/* By their labels: symbols compare as their ranks do. */
static int compare_series(const void *a, const void *b, void *arg)
{
    const struct samples *s = arg;
    const struct series_row *x = &s->series[*(const uint32_t *)a], *y = &s->series[*(const uint32_t *)b];
    for (size_t i = 0; i < 2 * (size_t)MIN(x->n, y->n); i++) {
        uint32_t p = s->symbol_ranks[s->ids[x->first + i]], q = s->symbol_ranks[s->ids[y->first + i]];
        if (p != q)
            return p < q ? -1 : 1;
    }
    return (x->n > y->n) - (x->n < y->n);
}

bool samples_sort(struct samples *s, struct err *err)
{
    s->by_rank = malloc(((size_t)s->n_symbols + 1) * sizeof(uint32_t));
    s->symbol_ranks = malloc(((size_t)s->n_symbols + 1) * sizeof(uint32_t));
    s->series_by_rank = malloc(((size_t)s->n_series + 1) * sizeof(uint32_t));
    if (!s->by_rank || !s->symbol_ranks || !s->series_by_rank)
        return no_memory(err);
    for (uint32_t i = 0; i < s->n_symbols; i++)
        s->by_rank[i] = i;
    qsort_r(s->by_rank, s->n_symbols, sizeof(uint32_t), compare_symbols, s->symbols);
    for (uint32_t i = 0; i < s->n_symbols; i++)
        s->symbol_ranks[s->by_rank[i]] = i;
    for (uint32_t i = 0; i < s->n_series; i++)
        s->series_by_rank[i] = i;
    qsort_r(s->series_by_rank, s->n_series, sizeof(uint32_t), compare_series, s);
    for (uint32_t i = 0; i < s->n_series; i++)
        s->series[s->series_by_rank[i]].rank = i;
    return true;
}

struct labels samples_labels(const struct samples *s, uint32_t rank, struct label *room)
{
    const struct series_row *row = &s->series[s->series_by_rank[rank]];
    for (uint32_t i = 0; i < row->n; i++)
        room[i] = (struct label){s->symbols[s->ids[row->first + i * 2]], s->symbols[s->ids[row->first + i * 2 + 1]]};
    return (struct labels){room, row->n};
}
