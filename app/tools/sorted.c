/* One range's samples, read in pieces, each sorted; several pieces are runs in files, merged by a heap of their first records. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/tools/samples_int.h"
#include "base/assert.h"

#define RUN_RECORDS ((size_t)16 << 10) /* of a run in memory while runs are merged */

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory to sort samples");
}

static int compare(const void *a, const void *b)
{
    const struct record *x = a, *y = b;
    if (x->series != y->series)
        return x->series < y->series ? -1 : 1;
    if (x->t != y->t)
        return x->t < y->t ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

/* Ranks instead of numbers, the order in which they came, and what the range is known by. */
static void prepare(struct sorted *q, struct record *records, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct record *r = &records[i];
        r->series = q->s->series[r->series].rank;
        r->order = (uint32_t)i;
        q->used[r->series / 8] |= (uint8_t)(1u << r->series % 8);
        q->min_t = MIN(q->min_t, r->t);
        q->max_t = MAX(q->max_t, r->t);
    }
    qsort(records, n, sizeof(*records), compare);
}

/* --- runs ---------------------------------------------------------------------------------------------------------------------- */

static bool read_more(struct run *r, struct err *err)
{
    r->at = 0;
    r->n = r->file ? fread(r->records, sizeof(*r->records), RUN_RECORDS, r->file) : 0;
    return !r->file || !ferror(r->file) || err_set(err, ERR_IO, "reading sorted samples");
}

static struct run *add_run(struct sorted *q)
{
    struct run *runs = realloc(q->runs, (q->n_runs + 1) * sizeof(*runs));
    if (!runs)
        return NULL;
    q->runs = runs;
    runs[q->n_runs] = (struct run){0};
    return &runs[q->n_runs++];
}

/* A sorted piece goes into a file of its own, which has no name any more. */
static bool put_run(struct sorted *q, const struct record *records, size_t n, struct err *err)
{
    char path[4096];
    struct run *r = add_run(q);
    samples_path(q->s, q->range, (int)q->n_runs, path, sizeof(path));
    if (!r || !(r->records = malloc(RUN_RECORDS * sizeof(*records))))
        return no_memory(err);
    r->file = fopen(path, "w+e");
    if (!r->file)
        return err_errno(err, ERR_IO, errno, "%s", path);
    unlink(path);
    if (fwrite(records, sizeof(*records), n, r->file) != n || fflush(r->file) != 0 || fseek(r->file, 0, SEEK_SET) != 0)
        return err_errno(err, ERR_IO, errno, "writing %s", path);
    return read_more(r, err);
}

/* --- the range's file and what of it is still in memory --------------------------------------------------------------------------- */

struct input {
    FILE *file;
    const struct range *range;
    size_t pending_at; /* bytes */
};

static size_t read_records(struct input *in, struct record *out, size_t max)
{
    size_t n = in->file ? fread(out, sizeof(*out), max, in->file) : 0;
    size_t left = (in->range->pending.n - in->pending_at) / sizeof(*out), take = MIN(left, max - n);
    if (take) {
        memcpy(out + n, in->range->pending.p + in->pending_at, take * sizeof(*out));
        in->pending_at += take * sizeof(*out);
    }
    return n + take;
}

static bool read_pieces(struct sorted *q, struct input *in, struct err *err)
{
    size_t cap = (size_t)MIN((uint64_t)q->s->piece, q->range->n_records);
    struct record *piece = malloc((cap + 1) * sizeof(*piece));
    if (!piece)
        return no_memory(err);
    uint64_t seen = 0;
    bool good = true;
    while (good && seen < q->range->n_records) {
        size_t n = read_records(in, piece, cap);
        if (n == 0) {
            good = err_set(err, ERR_IO, "reading back the samples of a range");
            break;
        }
        seen += n;
        prepare(q, piece, n);
        if (seen < q->range->n_records || q->n_runs) {
            good = put_run(q, piece, n, err);
            continue;
        }
        struct run *only = add_run(q);
        if (!only) {
            good = no_memory(err);
            break;
        }
        *only = (struct run){.records = piece, .n = n};
        piece = NULL;
    }
    free(piece);
    return good;
}

/* --- the heap: the run whose first record is the lowest is on top; on equal times the earlier run ------------------------------------ */

static bool before(const struct sorted *q, size_t a, size_t b)
{
    const struct record *x = &q->runs[a].records[q->runs[a].at], *y = &q->runs[b].records[q->runs[b].at];
    if (x->series != y->series)
        return x->series < y->series;
    if (x->t != y->t)
        return x->t < y->t;
    return a < b;
}

static void sift_down(struct sorted *q, size_t at)
{
    for (;;) {
        size_t low = at, left = 2 * at + 1;
        for (size_t child = left; child < MIN(left + 2, q->n_heap); child++)
            if (before(q, q->heap[child], q->heap[low]))
                low = child;
        if (low == at)
            return;
        size_t kept = q->heap[at];
        q->heap[at] = q->heap[low];
        q->heap[low] = kept;
        at = low;
    }
}

static bool make_heap(struct sorted *q, struct err *err)
{
    q->heap = malloc((q->n_runs + 1) * sizeof(*q->heap));
    if (!q->heap)
        return no_memory(err);
    for (size_t i = 0; i < q->n_runs; i++)
        if (q->runs[i].n)
            q->heap[q->n_heap++] = i;
    for (size_t i = q->n_heap; i-- > 0;)
        sift_down(q, i);
    return true;
}

/* --- the door ------------------------------------------------------------------------------------------------------------------- */

bool sorted_open(struct sorted *q, struct samples *s, struct range *range, struct err *err)
{
    char path[4096];
    struct input in = {.range = range};
    *q = (struct sorted){.s = s, .range = range, .min_t = INT64_MAX, .max_t = INT64_MIN};
    q->used = calloc((size_t)s->n_series / 8 + 1, 1);
    if (!q->used)
        return no_memory(err);
    samples_path(s, range, -1, path, sizeof(path));
    if (range->on_disk && !(in.file = fopen(path, "re")))
        return err_errno(err, ERR_IO, errno, "%s", path);
    bool good = read_pieces(q, &in, err) && make_heap(q, err);
    if (in.file) {
        fclose(in.file);
        unlink(path);
    }
    buf_release(&range->pending);
    return good;
}

bool sorted_next(struct sorted *q, struct record *ret, bool *ret_more, struct err *err)
{
    *ret_more = q->n_heap > 0;
    if (q->n_heap == 0)
        return true;
    struct run *r = &q->runs[q->heap[0]];
    *ret = r->records[r->at++];
    if (r->at == r->n && !read_more(r, err))
        return false;
    if (r->n == 0)
        q->heap[0] = q->heap[--q->n_heap];
    sift_down(q, 0);
    return true;
}

bool sorted_symbols(const struct sorted *q, struct arena *arena, const struct slice **ret, size_t *ret_n, struct err *err)
{
    const struct samples *s = q->s;
    uint8_t *wanted = arena_zalloc(arena, (size_t)s->n_symbols / 8 + 1);
    struct slice *symbols = ARENA_ARRAY(arena, struct slice, (size_t)s->n_symbols + 1);
    if (!wanted || !symbols)
        return no_memory(err);
    for (uint32_t rank = 0; rank < s->n_series; rank++) {
        if (!(q->used[rank / 8] >> rank % 8 & 1))
            continue;
        const struct series_row *row = &s->series[s->series_by_rank[rank]];
        for (size_t i = 0; i < 2 * (size_t)row->n; i++) {
            uint32_t symbol = s->symbol_ranks[s->ids[row->first + i]];
            wanted[symbol / 8] |= (uint8_t)(1u << symbol % 8);
        }
    }
    size_t n = 0;
    for (uint32_t i = 0; i < s->n_symbols; i++)
        if (wanted[i / 8] >> i % 8 & 1)
            symbols[n++] = s->symbols[s->by_rank[i]];
    *ret = symbols;
    *ret_n = n;
    return true;
}

void sorted_close(struct sorted *q)
{
    for (size_t i = 0; i < q->n_runs; i++) {
        if (q->runs[i].file)
            fclose(q->runs[i].file);
        free(q->runs[i].records);
    }
    free(q->runs);
    free(q->heap);
    free(q->used);
    *q = (struct sorted){0};
}
