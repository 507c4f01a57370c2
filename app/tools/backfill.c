/*
 * brunn tool backfill: OpenMetrics text becomes blocks of two hours, in a folder, or in a tenant's part of a bucket.
 *
 * One pass over the text: each sample goes to the file of its two hours (samples.c). Then range by range: its samples sorted by series and time, made into
 * chunks where Prometheus's head would cut them, written as a block; with -tenant it is uploaded and the local folder removed before the next one. Samples may
 * come in any order; of two of a series with one time the first is kept.
 *
 * Everything lies in <output>/backfill-XXXXXX until a block is complete; a text that is wrong anywhere makes no block at all.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/tools/openmetrics.h"
#include "app/tools/samples_int.h"
#include "app/tools/tools.h"
#include "app/tools/tools_int.h"
#include "base/assert.h"
#include "base/clock.h"
#include "model/tenant.h"
#include "storage/block/block.h"
#include "storage/chunk/chunk.h"

#define RANGE_MS INT64_C(7200000)
#define READ_STEP ((size_t)1 << 20)
#define LINE_MAX_BYTES ((size_t)16 << 20)

struct backfill_config {
    const char *output;
    const char *tenant;
    struct flag_list labels;
};

static const struct flag_def backfill_flags[] = {
    {FLAG_STRING, "output", "", "data", FLAG_CLASS_BASIC, "Folder for the blocks; with -tenant, for one block at a time on its way.", offsetof(struct backfill_config, output)},
    {FLAG_STRING, "tenant", "", "", FLAG_CLASS_BASIC, "Upload the blocks for this tenant into the bucket that -blocks-storage.* name.",
     offsetof(struct backfill_config, tenant)},
    {FLAG_LIST, "label", "", "", FLAG_CLASS_BASIC, "Labels to add to each series: name=value,...", offsetof(struct backfill_config, labels)},
};

struct backfill {
    struct backfill_config cfg;
    struct objstore *bucket; /* NULL: the blocks stay here */
    char *folder;            /* owned: <output>/backfill-XXXXXX */
    struct openmetrics text;
    struct samples samples;
    struct label labels[OPENMETRICS_LABELS_MAX];
    struct progress progress;
    uint64_t line;      /* number of the one at hand */
    bool ended;         /* # EOF was seen */
    uint64_t n_dropped; /* samples with the time of another one */
    size_t n_blocks;
};

/* --- reading the text ----------------------------------------------------------------------------------------------------------- */

/* Those of -label in place of the series' own of that name, as promtool does. */
static bool add_labels(struct backfill *b, struct labels *labels, struct err *err)
{
    size_t n = 0;
    if (b->cfg.labels.n == 0)
        return true;
    if (labels->n + b->cfg.labels.n > OPENMETRICS_LABELS_MAX)
        return err_set(err, ERR_BAD_DATA, "more labels than a series may have");
    for (size_t i = 0; i < b->cfg.labels.n; i++) {
        const char *text = b->cfg.labels.items[i], *equals = strchr(text, '=');
        ASSERT(equals); /* checked at the start */
        if (equals[1])
            b->labels[n++] = (struct label){slice_make(text, (size_t)(equals - text)), slice_of(equals + 1)};
    }
    size_t n_own = n;
    for (size_t i = 0; i < labels->n; i++) {
        bool replaced = false;
        for (size_t k = 0; k < n_own; k++)
            replaced |= slice_eq(b->labels[k].name, labels->items[i].name);
        if (!replaced)
            b->labels[n++] = labels->items[i];
    }
    if (!labels_sort(b->labels, n))
        return err_set(err, ERR_NO_MEMORY, "no memory for labels");
    *labels = (struct labels){b->labels, n};
    return true;
}

static bool check_labels(const struct backfill_config *cfg, struct err *err)
{
    for (size_t i = 0; i < cfg->labels.n; i++) {
        const char *text = cfg->labels.items[i], *equals = strchr(text, '=');
        if (!equals || equals == text)
            return err_set(err, ERR_CONFIG, "-label: \"%s\" is not name=value", text);
        for (size_t k = 0; k < i; k++)
            if (strncmp(cfg->labels.items[k], text, (size_t)(equals - text) + 1) == 0)
                return err_set(err, ERR_CONFIG, "-label: \"%s\" has a name that was there before", text);
    }
    return true;
}

static bool take_line(struct backfill *b, struct slice line, struct err *err)
{
    enum openmetrics_kind kind;
    struct openmetrics_sample s;
    b->line++;
    if (b->ended)
        return err_set(err, ERR_BAD_DATA, "line %" PRIu64 ": unexpected data after # EOF", b->line);
    if (!openmetrics_line(&b->text, line, &kind, &s, err))
        return err_prefix(err, "line %" PRIu64 ": ", b->line);
    b->ended = kind == OPENMETRICS_END;
    if (kind != OPENMETRICS_SAMPLE)
        return true;
    if (!s.has_time)
        return err_set(err, ERR_BAD_DATA, "line %" PRIu64 ": expected timestamp for series got none", b->line);
    return add_labels(b, &s.labels, err) && samples_add(&b->samples, s.labels, s.t, s.v, err);
}

/* Whole lines of buf; what is left of the last one moves to the front. */
static bool take_lines(struct backfill *b, struct buf *in, struct err *err)
{
    size_t from = 0;
    const char *end;
    while (from < in->n && (end = memchr(in->p + from, '\n', in->n - from))) {
        if (!take_line(b, slice_make(in->p + from, (size_t)(end - in->p) - from), err))
            return false;
        from = (size_t)(end - in->p) + 1;
    }
    memmove(in->p, in->p + from, in->n - from);
    in->n -= from;
    return in->n < LINE_MAX_BYTES || err_set(err, ERR_BAD_DATA, "line %" PRIu64 ": longer than %zu bytes", b->line + 1, LINE_MAX_BYTES);
}

static bool read_stream(struct backfill *b, FILE *f, struct err *err)
{
    struct buf in;
    bool good = true;
    size_t got = 1;
    buf_init(&in, LINE_MAX_BYTES + 2 * READ_STEP);
    while (good && got) {
        good = buf_reserve(&in, READ_STEP) || err_set(err, ERR_NO_MEMORY, "no memory to read the text");
        got = good ? fread(in.p + in.n, 1, READ_STEP, f) : 0;
        in.n += got;
        progress_add(&b->progress, got);
        good = good && take_lines(b, &in, err);
    }
    if (good && ferror(f))
        good = err_set(err, ERR_IO, "the text cannot be read");
    if (good && in.n) /* the last line may end without a line feed, if it is the end */
        good = take_line(b, buf_slice(&in), err);
    buf_release(&in);
    return good && (b->ended || err_set(err, ERR_BAD_DATA, "data does not end with # EOF"));
}

static bool read_text(struct backfill *b, const char *path, struct err *err)
{
    bool from_stdin = strcmp(path, "-") == 0;
    struct stat st;
    FILE *f = from_stdin ? stdin : fopen(path, "re");
    if (!f)
        return err_errno(err, ERR_IO, errno, "%s", path);
    bool sized = !from_stdin && fstat(fileno(f), &st) == 0 && S_ISREG(st.st_mode);
    progress_begin(&b->progress, "reading", sized ? (uint64_t)st.st_size : 0);
    bool good = read_stream(b, f, err) || err_prefix(err, "%s: ", path);
    progress_end(&b->progress);
    if (!from_stdin)
        fclose(f);
    return good;
}

/* --- writing blocks ------------------------------------------------------------------------------------------------------------- */

/* The chunks of one series, as they grow. */
struct encoder {
    struct buf bytes;  /* of all chunks; offsets in the chunks until the series is complete */
    struct buf chunks; /* struct series_chunk */
    struct xor_appender open;
    uint8_t open_bytes[CHUNK_MAX_BYTES + 2 * XOR_SAMPLE_MAX_BYTES];
    int64_t begun_t, last_t, next_at, range_end;
};

static void close_chunk(struct encoder *e)
{
    if (e->open.n == 0)
        return;
    size_t n = xor_size(&e->open);
    struct series_chunk c = {e->begun_t, e->last_t, CHUNK_XOR, {(const char *)(uintptr_t)e->bytes.n, n}};
    buf_put(&e->bytes, e->open_bytes, n);
    buf_put(&e->chunks, &c, sizeof(c));
    xor_appender_init(&e->open);
}

/* Cut as Prometheus's head cuts (docs/formats.md 6.7). */
static void encode(struct encoder *e, int64_t t, double v)
{
    if (e->open.n && (t >= e->next_at || e->open.n >= CHUNK_SAMPLES * 2 || xor_size(&e->open) > CHUNK_MAX_BYTES - XOR_SAMPLE_MAX_BYTES))
        close_chunk(e);
    if (e->open.n == 0) {
        e->begun_t = t;
        e->next_at = e->range_end;
    } else if (e->open.n == CHUNK_SAMPLES / 4) {
        e->next_at = chunk_end_time(e->begun_t, e->last_t, e->next_at, 4);
        if (t >= e->next_at) {
            close_chunk(e);
            e->begun_t = t;
            e->next_at = e->range_end;
        }
    }
    xor_append(&e->open, e->open_bytes, t, v);
    e->last_t = t;
}

static bool write_series(struct backfill *b, struct encoder *e, struct block_writer *w, uint32_t rank, struct err *err)
{
    close_chunk(e);
    if (e->bytes.failed || e->chunks.failed)
        return err_set(err, ERR_NO_MEMORY, "no memory for the chunks of a series");
    struct series_chunk *chunks = (struct series_chunk *)(void *)e->chunks.p;
    size_t n = e->chunks.n / sizeof(*chunks);
    for (size_t i = 0; i < n; i++)
        chunks[i].data.p = e->bytes.p + (uintptr_t)chunks[i].data.p;
    struct labels labels = samples_labels(&b->samples, rank, b->labels);
    bool good = block_writer_add(w, &labels, chunks, n, err);
    buf_clear(&e->bytes);
    buf_clear(&e->chunks);
    return good;
}

static bool write_samples(struct backfill *b, struct sorted *q, struct block_writer *w, struct encoder *e, struct err *err)
{
    struct record r, last = {0};
    bool any = false, more = true;
    while (more) {
        if (!sorted_next(q, &r, &more, err))
            return false;
        progress_add(&b->progress, more);
        if (any && (!more || r.series != last.series) && !write_series(b, e, w, last.series, err))
            return false;
        if (!more)
            break;
        if (any && r.series == last.series && r.t == last.t) {
            b->n_dropped++;
            continue;
        }
        encode(e, r.t, r.v);
        last = r;
        any = true;
    }
    return true;
}

/* Into `dir`; what the block says of itself is in the arena. */
static bool write_block(struct backfill *b, struct range *range, const char *dir, struct arena *arena, struct block_meta *ret, struct err *err)
{
    struct sorted q;
    struct encoder e = {.range_end = (range->number + 1) * RANGE_MS};
    struct block_writer *w = NULL;
    const struct slice *symbols;
    size_t n;
    struct block_meta meta = {.ulid = ulid_new(clock_wall_ms()), .level = 1, .n_sources = 1, .source = SL("")};
    meta.sources = &meta.ulid;
    xor_appender_init(&e.open);
    bool good = sorted_open(&q, &b->samples, range, err) && sorted_symbols(&q, arena, &symbols, &n, err);
    meta.min_t = q.min_t;
    meta.max_t = q.max_t + 1;
    good = good && (w = block_writer_new(dir, &meta, symbols, n, err)) && write_samples(b, &q, w, &e, err) && block_writer_finish(w, arena, ret, err);
    block_writer_free(w);
    sorted_close(&q);
    buf_release(&e.bytes);
    buf_release(&e.chunks);
    return good;
}

static bool upload(struct backfill *b, const struct ulid *block, struct err *err)
{
    static const struct ctx no_hurry = {.deadline_ms = 0};
    struct bucket_upload as = {.source = SL("upload")};
    struct buf path;
    buf_init(&path, 0);
    buf_printf(&path, "%s/%s", b->folder, block->text);
    bool good = bucket_upload_block(b->bucket, &no_hurry, slice_of(b->cfg.tenant), b->folder, block, &as, NULL, err);
    remove_folder(buf_cstr(&path));
    buf_release(&path);
    return good;
}

static bool make_block(struct backfill *b, struct range *range, struct err *err)
{
    struct arena arena;
    struct block_meta m;
    uint64_t bytes = 0;
    arena_init(&arena, 0);
    const char *dir = b->bucket ? b->folder : b->cfg.output;
    bool good = write_block(b, range, dir, &arena, &m, err);
    if (good) {
        char *path = arena_printf(&arena, "%s/%s", dir, m.ulid.text);
        ASSERT(path);
        good = read_block_folder(path, &arena, &m, &bytes, err) && (!b->bucket || upload(b, &m.ulid, err));
    }
    if (good) {
        if (b->progress.drawn)
            fputs("\r\033[K", stderr);
        if (b->n_blocks++ == 0)
            print_blocks_head();
        print_block(&m, bytes);
    }
    arena_release(&arena);
    return good;
}

static bool make_blocks(struct backfill *b, struct err *err)
{
    if (!samples_sort(&b->samples, err))
        return false;
    progress_begin(&b->progress, "writing", b->samples.n_samples);
    bool good = true;
    for (size_t i = 0; good && i < b->samples.n_ranges; i++)
        good = make_block(b, &b->samples.ranges[i], err);
    progress_end(&b->progress);
    if (b->n_dropped)
        fprintf(stderr, "brunn: %" PRIu64 " samples had the time of another one of their series and were left out\n", b->n_dropped);
    return good;
}

/* --- the tool -------------------------------------------------------------------------------------------------------------------- */

static bool make_folder(struct backfill *b, struct err *err)
{
    if (mkdir(b->cfg.output, 0777) != 0 && errno != EEXIST)
        return err_errno(err, ERR_IO, errno, "-output: %s", b->cfg.output);
    if (asprintf(&b->folder, "%s/backfill-XXXXXX", b->cfg.output) < 0)
        b->folder = NULL;
    ASSERT(b->folder);
    if (mkdtemp(b->folder))
        return true;
    free(b->folder);
    b->folder = NULL;
    return err_errno(err, ERR_IO, errno, "-output: %s", b->cfg.output);
}

static bool open_bucket(struct backfill *b, const struct objstore_config *cfg, struct err *err)
{
    if (!b->cfg.tenant[0])
        return true;
    if (!tenant_id_valid(slice_of(b->cfg.tenant), err))
        return err_prefix(err, "-tenant: ");
    b->bucket = tool_bucket_open(cfg, err);
    return b->bucket != NULL;
}

static bool backfill(struct backfill *b, const struct objstore_config *bucket, const char *path, struct err *err)
{
    if (!check_labels(&b->cfg, err) || !open_bucket(b, bucket, err) || !make_folder(b, err))
        return false;
    openmetrics_init(&b->text);
    samples_init(&b->samples, b->folder, RANGE_MS);
    bool good = read_text(b, path, err) && make_blocks(b, err);
    samples_release(&b->samples);
    openmetrics_release(&b->text);
    return good;
}

int tool_backfill(int argc, char **argv)
{
    static const char usage[] = "backfill [-output=DIR] [-label=NAME=VALUE,...] [-tenant=ID -blocks-storage.*=...] FILE";
    struct tool_args args;
    struct backfill *b = calloc(1, sizeof(*b));
    struct objstore_config bucket;
    struct err err = ERR_NONE;
    int status = TOOL_USAGE;
    ASSERT(b);
    tool_args_init(&args);
    flag_set_add(args.flags, "Backfill", backfill_flags, ARRAY_LEN(backfill_flags), &b->cfg);
    tool_bucket_flags(&args, &bucket);
    if (tool_args_parse(&args, argc, argv, usage) && args.n_words == 1)
        status = backfill(b, &bucket, args.words[0], &err) ? TOOL_OK : tool_fail(&err);
    else if (args.n_words != 1)
        fprintf(stderr, "usage: brunn tool %s\n", usage);
    if (b->folder)
        remove_folder(b->folder);
    objstore_free(b->bucket);
    free(b->folder);
    free(b);
    tool_args_release(&args);
    return status;
}
