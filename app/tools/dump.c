/*
 * brunn tool block dump: every sample of some blocks as `promtool tsdb dump` prints it, a line each:
 *
 *     {__name__="up", job="a"} 1 1763596800000
 *
 * Series by their labels, samples by time; what several blocks have of a series is merged, on equal times the first block that was named wins. Memory: one
 * series of each block.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/tools/tools_int.h"
#include "base/assert.h"
#include "base/dtoa.h"
#include "read/promql/ast.h"
#include "storage/block/block.h"

struct dump_config {
    int64_t min_time, max_time;
    const char *match;
};

static const struct flag_def dump_flags[] = {
    {FLAG_INT, "min-time", "", "-9223372036854775807", FLAG_CLASS_BASIC, "First time to print, ms.", offsetof(struct dump_config, min_time)},
    {FLAG_INT, "max-time", "", "9223372036854775807", FLAG_CLASS_BASIC, "Last time to print, ms.", offsetof(struct dump_config, max_time)},
    {FLAG_STRING, "match", "", "", FLAG_CLASS_BASIC, "Series selector; all series without one.", offsetof(struct dump_config, match)},
};

struct source {
    struct block *block;
    struct block_scan *scan;
    struct series series; /* of the scan */
    bool more;
};

struct dump {
    struct dump_config cfg;
    const struct matcher *matchers;
    size_t n_matchers;
    struct source *sources; /* owned */
    size_t n_sources;
    struct arena arena; /* of one series */
};

static bool next_series(struct source *s, struct err *err)
{
    return block_scan_next(s->scan, &s->series, &s->more, err);
}

static bool add_source(const char *dir, void *arg, struct err *err)
{
    struct dump *d = arg;
    d->sources = realloc(d->sources, (d->n_sources + 1) * sizeof(*d->sources));
    ASSERT(d->sources);
    struct source *s = &d->sources[d->n_sources++];
    *s = (struct source){.block = block_open(dir, err)};
    s->scan = s->block ? block_scan_new(s->block, err) : NULL;
    return s->scan && next_series(s, err);
}

static void dump_release(struct dump *d)
{
    for (size_t i = 0; i < d->n_sources; i++) {
        block_scan_free(d->sources[i].scan);
        block_close(d->sources[i].block);
    }
    free(d->sources);
    promql_release_matchers(d->matchers, d->n_matchers);
    arena_release(&d->arena);
}

/* NULL: the end. */
static const struct series *lowest(const struct dump *d)
{
    const struct series *low = NULL;
    for (size_t i = 0; i < d->n_sources; i++)
        if (d->sources[i].more && (!low || labels_cmp(d->sources[i].series.labels, low->labels) < 0))
            low = &d->sources[i].series;
    return low;
}

static void print_samples(const struct dump *d, struct slice labels, const struct chunk_samples *s)
{
    struct buf text;
    buf_init(&text, 0);
    for (size_t i = 0; i < s->n; i++) {
        if (s->t[i] < d->cfg.min_time || s->t[i] > d->cfg.max_time)
            continue;
        char number[DTOA_MAX];
        buf_clear(&text);
        if (s->h && s->h[i])
            put_histogram_text(s->h[i], &text);
        else
            buf_put(&text, number, dtoa_g(s->v[i], number));
        printf("%.*s %.*s %" PRId64 "\n", SL_FMT(labels), SL_FMT(buf_slice(&text)), s->t[i]);
    }
    buf_release(&text);
}

static size_t count_chunks(const struct dump *d, struct labels labels)
{
    size_t n = 0;
    for (size_t i = 0; i < d->n_sources; i++)
        if (d->sources[i].more && labels_eq(d->sources[i].series.labels, labels))
            n += d->sources[i].series.n_chunks;
    return n;
}

/* The chunks of all blocks in columns, in the order of the blocks. */
static bool decode(struct dump *d, struct labels labels, struct chunk_columns *ret, struct err *err)
{
    for (size_t i = 0; i < d->n_sources; i++) {
        const struct series *s = &d->sources[i].series;
        if (!d->sources[i].more || !labels_eq(s->labels, labels))
            continue;
        for (size_t k = 0; k < s->n_chunks; k++)
            if (!chunk_decode(s->chunks[k].encoding, s->chunks[k].data, &d->arena, ret++, err))
                return false;
    }
    return true;
}

static bool print_series(struct dump *d, struct labels labels, struct err *err)
{
    struct chunk_samples samples;
    struct buf text;
    size_t n = count_chunks(d, labels);
    struct chunk_columns *columns = ARENA_ARRAY(&d->arena, struct chunk_columns, n + 1);
    ASSERT(columns);
    buf_init(&text, 0);
    labels_print_set(labels, &text);
    bool good = decode(d, labels, columns, err) && chunk_columns_merge(columns, n, &d->arena, &samples, err);
    if (good)
        print_samples(d, buf_slice(&text), &samples);
    buf_release(&text);
    return good;
}

/* Those that stand at the series; its labels are the lowest source's, which goes last. */
static bool pass(struct dump *d, const struct series *low, struct err *err)
{
    struct source *last = NULL;
    for (size_t i = 0; i < d->n_sources; i++) {
        struct source *s = &d->sources[i];
        if (!s->more || !labels_eq(s->series.labels, low->labels))
            continue;
        if (&s->series == low)
            last = s;
        else if (!next_series(s, err))
            return false;
    }
    return next_series(last, err);
}

static bool dump_all(struct dump *d, struct err *err)
{
    const struct series *low;
    while ((low = lowest(d))) {
        arena_clear(&d->arena);
        if (matchers_match(d->matchers, d->n_matchers, low->labels) && !print_series(d, low->labels, err))
            return false;
        if (!pass(d, low, err))
            return false;
    }
    return fflush(stdout) == 0 || err_set(err, ERR_IO, "writing the samples");
}

int block_dump(int argc, char **argv)
{
    static const char usage[] = "block dump [-match=SELECTOR] [-min-time=MS] [-max-time=MS] DIR...";
    struct tool_args args;
    struct dump d = {0};
    struct arena selector;
    struct err err = ERR_NONE;
    int status = TOOL_USAGE;
    arena_init(&d.arena, 0);
    arena_init(&selector, 0);
    tool_args_init(&args);
    flag_set_add(args.flags, "Dump", dump_flags, ARRAY_LEN(dump_flags), &d.cfg);
    if (tool_args_parse(&args, argc, argv, usage) && args.n_words > 0) {
        bool good = !d.cfg.match[0] || promql_parse_selector(slice_of(d.cfg.match), &selector, &d.matchers, &d.n_matchers, &err);
        good = good && each_block_folder(args.words, args.n_words, add_source, &d, &err) && dump_all(&d, &err);
        status = good ? TOOL_OK : tool_fail(&err);
    } else if (args.n_words == 0) {
        fprintf(stderr, "usage: brunn tool %s\n", usage);
    }
    dump_release(&d);
    arena_release(&selector);
    tool_args_release(&args);
    return status;
}
