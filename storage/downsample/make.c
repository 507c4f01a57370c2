/*
 * Blocks of aggregates out of a block: one pass over the source, series by series in the order of their labels, and a writer for each result. The results have the
 * source's labels, and so its order and its symbols.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/assert.h"
#include "storage/downsample/downsample_int.h"
#include "storage/join/join.h"

#define CHECK_EVERY 128                         /* series between two looks at the deadline */
#define FORGET_BYTES ((size_t)32 << 20)         /* of chunks read, until the source's pages are let go */
#define SERIES_BYTES_MAX ((size_t)1 << 30)      /* of one series decoded: far more than a day has */
#define COUNT_MAX 0x1p40                        /* samples in one window */
#define NAMES_MAX 1024                          /* bytes of DOWNSAMPLE_HISTOGRAMS_LABEL */

struct make {
    const struct downsample_params *p;
    struct downsample_stats *stats;
    struct block_writer *writers[DOWNSAMPLE_AGGREGATES]; /* owned; NULL: not made */
    struct join join;    /* of the series at hand */
    struct arena arena;  /* likewise */
    struct arena kept;   /* metas, symbols */
    bool has_histograms;
    bool too_many_names;
    char names[NAMES_MAX]; /* of metrics that have some: as DOWNSAMPLE_HISTOGRAMS_LABEL */
    size_t names_n;
};

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory to downsample a block");
}

static bool is_made(const struct downsample_params *p, enum downsample_aggregate a)
{
    return !p->again || p->only == a;
}

/* --- what is known before ----------------------------------------------------------------------------------------------------- */

/* Series come in the order of their labels: all of one name, as a rule, one after the other. */
static void add_name(struct make *m, struct slice name)
{
    if (downsample_lists(slice_make(m->names, m->names_n), name))
        return;
    m->too_many_names |= name.n == 0 || memchr(name.p, ',', name.n) || m->names_n + name.n + 1 > NAMES_MAX;
    if (m->too_many_names)
        return;
    memcpy(m->names + m->names_n, name.p, name.n);
    m->names_n += name.n;
    m->names[m->names_n++] = ',';
}

static void look_at_series(struct make *m, const struct series *s)
{
    for (size_t i = 0; i < s->n_chunks; i++) {
        if (s->chunks[i].encoding == CHUNK_XOR)
            continue;
        m->has_histograms = true;
        add_name(m, labels_get(s->labels, SL(METRIC_NAME_LABEL)));
        return;
    }
}

/* Which series have chunks of histograms: a result says so in its meta.json, which is begun before the source is read. */
static bool look_for_histograms(struct make *m, const struct ctx *ctx, struct err *err)
{
    struct series s;
    struct block_scan *scan = block_scan_new(m->p->source, err);
    bool good = scan != NULL, more = true;
    for (size_t n = 0; good && !m->too_many_names; n++) {
        good = (n % CHECK_EVERY || ctx_check(ctx, err)) && block_scan_next(scan, &s, &more, err);
        if (!good || !more)
            break;
        look_at_series(m, &s);
    }
    block_scan_free(scan);
    block_forget_pages(m->p->source);
    return good;
}

static int by_name(const void *a, const void *b)
{
    return slice_cmp(((const struct block_label *)a)->name, ((const struct block_label *)b)->name);
}

static bool make_labels(struct make *m, enum downsample_aggregate a, struct block_meta *meta, struct err *err)
{
    size_t n = 0;
    struct block_label *labels = ARENA_ARRAY(&m->kept, struct block_label, meta->n_labels + 2);
    if (!labels)
        return no_memory(err);
    for (size_t i = 0; i < meta->n_labels; i++)
        if (!slice_eq(meta->labels[i].name, SL(DOWNSAMPLE_LABEL)))
            labels[n++] = meta->labels[i];
    labels[n++] = (struct block_label){SL(DOWNSAMPLE_LABEL), slice_of(downsample_aggregate_name(a))};
    if (!m->p->again)
        labels[n++] = (struct block_label){SL(DOWNSAMPLE_HISTOGRAMS_LABEL), m->too_many_names ? SL(DOWNSAMPLE_ANY) : slice_make(m->names, m->names_n)};
    qsort(labels, n, sizeof(*labels), by_name);
    meta->labels = labels;
    meta->n_labels = n;
    return true;
}

/* Everything that says where the samples come from is the source's; a source that is an aggregate itself hands on what it was made of. */
static bool make_meta(struct make *m, enum downsample_aggregate a, struct block_meta *ret, struct err *err)
{
    static const struct slice hint = {DOWNSAMPLE_HINT_HISTOGRAMS, sizeof(DOWNSAMPLE_HINT_HISTOGRAMS) - 1};
    const struct block_meta *from = block_meta_of(m->p->source);
    struct block_parent *parent = ARENA_NEW(&m->kept, struct block_parent);
    if (!parent)
        return no_memory(err);
    *parent = (struct block_parent){from->ulid, from->min_t, from->max_t};
    *ret = (struct block_meta){.ulid = from->ulid,
                               .min_t = from->min_t,
                               .max_t = from->max_t,
                               .level = from->level,
                               .sources = from->sources,
                               .n_sources = from->n_sources,
                               .parents = m->p->again ? from->parents : parent,
                               .n_parents = m->p->again ? from->n_parents : 1,
                               .has_thanos = true,
                               .labels = from->labels,
                               .n_labels = from->n_labels,
                               .resolution_ms = downsample_resolution_ms(m->p->resolution),
                               .source = SL("compactor")};
    if (m->p->again) {
        ret->hints = from->hints;
        ret->n_hints = from->n_hints;
    } else if (m->has_histograms) {
        ret->hints = &hint;
        ret->n_hints = 1;
    }
    return make_labels(m, a, ret, err);
}

static bool open_writer(struct make *m, enum downsample_aggregate a, const struct slice *symbols, size_t n_symbols, struct err *err)
{
    struct block_meta meta;
    char *dir = arena_printf(&m->kept, "%s/%s", m->p->dir, downsample_aggregate_name(a));
    if (!dir)
        return no_memory(err);
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return err_errno(err, ERR_IO, errno, "%s", dir);
    if (!make_meta(m, a, &meta, err))
        return false;
    m->writers[a] = block_writer_new(dir, &meta, symbols, n_symbols, err);
    return m->writers[a] != NULL;
}

static bool open_writers(struct make *m, struct err *err)
{
    const struct slice *symbols;
    size_t n = block_symbols(m->p->source, &symbols, &m->kept);
    if (!symbols)
        return no_memory(err);
    for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++)
        if (is_made(m->p, a) && !open_writer(m, a, symbols, n, err))
            return false;
    return true;
}

/* --- one series ------------------------------------------------------------------------------------------------------------------ */

/* The floats of the joined chunks in one column, without stale markers. */
static bool read_floats(struct make *m, struct downsample_column *ret, struct err *err)
{
    size_t cap = 0, n = 0;
    for (size_t i = 0; i < m->join.n_out; i++)
        cap += (size_t)MAX(chunk_count(m->join.out[i].encoding, m->join.out[i].data), 0);
    int64_t *t = ARENA_ARRAY(&m->arena, int64_t, cap + 1);
    double *v = ARENA_ARRAY(&m->arena, double, cap + 1);
    if (!t || !v)
        return no_memory(err);
    for (size_t i = 0; i < m->join.n_out; i++) {
        const struct series_chunk *chunk = &m->join.out[i];
        int count = chunk_count(chunk->encoding, chunk->data);
        if (chunk->encoding != CHUNK_XOR) {
            m->stats->histograms += (uint64_t)MAX(count, 0);
            continue;
        }
        int got = xor_decode(chunk->data, t + n, v + n, cap - n);
        if (got < 0 || got != count)
            return err_set(err, ERR_CORRUPT, "block %s: a chunk that is none", block_meta_of(m->p->source)->ulid.text);
        for (size_t k = n, end = n + (size_t)got; k < end; k++) {
            if (is_stale_nan(v[k]))
                continue;
            if (n && t[k] <= t[n - 1])
                return err_set(err, ERR_CORRUPT, "block %s: a chunk with samples out of order", block_meta_of(m->p->source)->ulid.text);
            t[n] = t[k];
            v[n++] = v[k];
        }
    }
    *ret = (struct downsample_column){n, t, v};
    return true;
}

/* As chunks of at most CHUNK_SAMPLES, in the arena. */
static bool encode(struct make *m, const struct downsample_column *c, struct series_chunk **ret, size_t *ret_n, struct err *err)
{
    size_t n_chunks = (c->n + CHUNK_SAMPLES - 1) / CHUNK_SAMPLES;
    struct series_chunk *chunks = ARENA_ARRAY(&m->arena, struct series_chunk, n_chunks + 1);
    if (!chunks)
        return no_memory(err);
    for (size_t i = 0; i < n_chunks; i++) {
        struct xor_appender a;
        size_t from = i * CHUNK_SAMPLES, to = MIN(from + CHUNK_SAMPLES, c->n);
        uint8_t *bytes = arena_alloc(&m->arena, (to - from + 1) * XOR_SAMPLE_MAX_BYTES + 8);
        if (!bytes)
            return no_memory(err);
        xor_appender_init(&a);
        for (size_t k = from; k < to; k++)
            xor_append(&a, bytes, c->t[k], c->v[k]);
        chunks[i] = (struct series_chunk){c->t[from], c->t[to - 1], CHUNK_XOR, slice_make(bytes, xor_size(&a))};
    }
    *ret = chunks;
    *ret_n = n_chunks;
    return true;
}

static bool put_aggregate(struct make *m, enum downsample_aggregate a, const struct labels *labels, const struct downsample_column *in, struct err *err)
{
    struct downsample_column out;
    struct series_chunk *chunks = NULL;
    size_t n = 0;
    if (!downsample_column(a, m->p->again, downsample_resolution_ms(m->p->resolution), in, &m->arena, &out))
        return no_memory(err);
    m->stats->samples_out[a] += out.n;
    return encode(m, &out, &chunks, &n, err) && block_writer_add(m->writers[a], labels, chunks, n, err);
}

/* Adds samples of "count", which come from a file: whole numbers from 1. */
static bool add_counts(const double *v, size_t n, uint64_t *total, struct err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (!(v[i] >= 1 && v[i] <= COUNT_MAX && v[i] == floor(v[i])))
            return err_set(err, ERR_CORRUPT, "a count that is none: %g", v[i]);
        *total += (uint64_t)v[i];
    }
    return true;
}

/* What the counts of the result must add up to. */
static bool count_samples(struct make *m, const struct downsample_column *c, struct err *err)
{
    m->stats->series++;
    if (m->p->again && m->p->only == DOWNSAMPLE_COUNT)
        return add_counts(c->v, c->n, &m->stats->samples, err);
    m->stats->samples += c->n;
    return true;
}

static bool put_series(struct make *m, const struct series *s, struct err *err)
{
    struct downsample_column column;
    arena_clear(&m->arena);
    join_start(&m->join);
    if (!join_put(&m->join, 0, s->chunks, s->n_chunks, err) || !join_finish(&m->join, err))
        return err_prefix(err, "block %s: ", block_meta_of(m->p->source)->ulid.text);
    if (!read_floats(m, &column, err))
        return false;
    if (column.n == 0)
        return true;
    if (!count_samples(m, &column, err))
        return err_prefix(err, "block %s: ", block_meta_of(m->p->source)->ulid.text);
    for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++) {
        bool wanted = is_made(m->p, a) && (a != DOWNSAMPLE_COUNTER || m->p->again || downsample_is_counter(&column));
        if (wanted && !put_aggregate(m, a, &s->labels, &column, err))
            return false;
    }
    return true;
}

/* --- the whole -------------------------------------------------------------------------------------------------------------------- */

static bool put_all(struct make *m, const struct ctx *ctx, struct err *err)
{
    struct series s;
    struct block_scan *scan = block_scan_new(m->p->source, err);
    bool good = scan != NULL, more = true;
    for (size_t n = 0; good; n++) {
        good = (n % CHECK_EVERY || ctx_check(ctx, err)) && block_scan_next(scan, &s, &more, err);
        if (!good || !more)
            break;
        good = put_series(m, &s, err);
        if (m->join.n_bytes < FORGET_BYTES)
            continue;
        block_forget_pages(m->p->source);
        m->join.n_bytes = 0;
    }
    block_scan_free(scan);
    block_forget_pages(m->p->source);
    return good;
}

static bool finish_all(struct make *m, const struct ctx *ctx, struct err *err)
{
    for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++)
        if (m->writers[a] && (!ctx_check(ctx, err) || !block_writer_finish(m->writers[a], &m->kept, NULL, err)))
            return false;
    return true;
}

bool downsample_block(const struct downsample_params *p, const struct ctx *ctx, struct downsample_stats *ret, struct err *err)
{
    struct make m = {.p = p, .stats = ret, .names = {','}, .names_n = 1};
    *ret = (struct downsample_stats){0};
    arena_init(&m.arena, SERIES_BYTES_MAX);
    arena_init(&m.kept, 0);
    join_init(&m.join, SERIES_BYTES_MAX);
    bool good = (p->again || look_for_histograms(&m, ctx, err)) && open_writers(&m, err) && put_all(&m, ctx, err) && finish_all(&m, ctx, err);
    for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++)
        block_writer_free(m.writers[a]);
    join_release(&m.join);
    arena_release(&m.arena);
    arena_release(&m.kept);
    return good;
}

/* --- a look at the results --------------------------------------------------------------------------------------------------------- */

/* The values of all samples together: those of "count" are whole numbers. */
static bool add_up(struct block *b, const struct ctx *ctx, uint64_t *ret, struct err *err)
{
    struct series s;
    struct arena arena;
    struct block_scan *scan = block_scan_new(b, err);
    bool good = scan != NULL, more = true;
    arena_init(&arena, SERIES_BYTES_MAX);
    *ret = 0;
    for (size_t n = 0; good; n++) {
        good = (n % CHECK_EVERY || ctx_check(ctx, err)) && block_scan_next(scan, &s, &more, err);
        if (!good || !more)
            break;
        arena_clear(&arena);
        for (size_t i = 0; good && i < s.n_chunks; i++) {
            struct chunk_columns c;
            good = chunk_decode(s.chunks[i].encoding, s.chunks[i].data, &arena, &c, err) &&
                   (c.v || err_set(err, ERR_CORRUPT, "a chunk of histograms among counts")) && add_counts(c.v, c.n, ret, err);
        }
    }
    block_scan_free(scan);
    arena_release(&arena);
    return good;
}

static bool verify_one(const struct downsample_params *p, const struct downsample_stats *stats, enum downsample_aggregate a, struct block *b,
                       const struct ctx *ctx, struct err *err)
{
    uint64_t counted;
    const struct block_meta *meta = block_meta_of(b);
    if (!block_verify_within(b, ctx, err))
        return false;
    if (meta->stats.samples != stats->samples_out[a] || (a != DOWNSAMPLE_COUNTER && meta->stats.series != stats->series))
        return err_set(err, ERR_INTERNAL, "it has not the samples that were written");
    if (a != DOWNSAMPLE_COUNTER && !p->again && stats->samples_out[a] != stats->samples_out[DOWNSAMPLE_COUNT])
        return err_set(err, ERR_INTERNAL, "it has other windows than the counts");
    if (a != DOWNSAMPLE_COUNT)
        return true;
    return add_up(b, ctx, &counted, err) && (counted == stats->samples || err_set(err, ERR_INTERNAL, "the counts do not add up to the samples"));
}

bool downsample_verify(const struct downsample_params *p, const struct downsample_stats *stats, const struct ctx *ctx, struct err *err)
{
    const char *id = block_meta_of(p->source)->ulid.text;
    for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++) {
        char *path;
        if (!is_made(p, a))
            continue;
        int n = asprintf(&path, "%s/%s/%s", p->dir, downsample_aggregate_name(a), id);
        ASSERT(n > 0);
        struct block *b = block_open(path, err);
        bool good = b && verify_one(p, stats, a, b, ctx, err);
        block_close(b);
        free(path);
        if (!good)
            return err_prefix(err, "the %s of block %s: ", downsample_aggregate_name(a), id);
    }
    return true;
}
