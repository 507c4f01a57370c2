#include "ingest/checkpoint_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"
#include "base/big_file.h"
#include "ingest/files_int.h"

#define WRITE_STEP ((size_t)1 << 20)
#define SPARE_RATIO 4 /* a spare that is more times as long as what is in it is cut short */

struct ckpt_writer {
    int fd;
    const char *path;
    uint64_t spare_bytes; /* length of the file that is written over */
    uint64_t off;
    uint64_t behind; /* of these on the disk, but not durable */
    struct ckpt_section *sections;
    uint32_t n;
    uint32_t cap;
    XXH3_state_t *sum; /* of the open section */
    bool failed;
    struct err *err;
};

uint64_t ckpt_seed_check(uint64_t seed)
{
    return XXH3_64bits(&seed, sizeof(seed));
}

static void put(struct ckpt_writer *w, const void *p, size_t n)
{
    const char *at = p;
    while (n > 0 && !w->failed) {
        /* In steps, so that the bytes are still in the cache when they are copied. */
        size_t step = MIN(n, WRITE_STEP);
        XXH3_64bits_update(w->sum, at, step);
        if (!write_at(w->fd, at, step, (off_t)w->off)) {
            w->failed = true;
            err_errno(w->err, ERR_IO, errno, "writing %s", w->path);
        }
        at += step;
        n -= step;
        w->off += step;
    }
}

static void section_begin(struct ckpt_writer *w, enum ckpt_kind kind, uint32_t shard)
{
    if (w->n == w->cap) {
        w->cap = MAX(64u, w->cap * 2);
        w->sections = xrealloc(w->sections, w->cap * sizeof(*w->sections));
    }
    w->off = (w->off + 63) & ~63ULL;
    w->sections[w->n++] = (struct ckpt_section){.kind = kind, .shard = shard, .off = w->off};
    XXH3_64bits_reset(w->sum);
}

static void section_end(struct ckpt_writer *w)
{
    struct ckpt_section *s = &w->sections[w->n - 1];
    s->len = w->off - s->off;
    s->sum = XXH3_64bits_digest(w->sum);
}

static void section(struct ckpt_writer *w, enum ckpt_kind kind, uint32_t shard, const void *p, size_t n)
{
    section_begin(w, kind, shard);
    put(w, p, n);
    section_end(w);
}

/* --- shards --- */

static void put_strings(struct ckpt_writer *w, const struct strings *s, uint32_t shard)
{
    section_begin(w, CKPT_STRING_RUNS, shard);
    for (size_t i = 0; i < s->n_pages;) {
        uint32_t run = 1;
        while (i + run < s->n_pages && !s->pages[i + run])
            run++;
        put(w, &run, sizeof(run));
        i += run;
    }
    section_end(w);
    section_begin(w, CKPT_STRINGS, shard);
    for (size_t i = 0; i < s->n_pages;) {
        size_t run = 1;
        while (i + run < s->n_pages && !s->pages[i + run])
            run++;
        put(w, s->pages[i], (size_t)MIN(run * STRING_PAGE, s->used - i * STRING_PAGE));
        i += run;
    }
    section_end(w);
}

static void put_histograms(struct ckpt_writer *w, const struct shard_data *d, uint32_t shard)
{
    section_begin(w, CKPT_HISTOGRAMS, shard);
    for (uint32_t i = 0; i < d->n_hists; i++) {
        uint32_t head[2] = {0, 0};
        struct slice bytes = {NULL, 0};
        if (d->hists[i]) {
            bytes = histogram_appender_bytes(d->hists[i]);
            head[0] = (uint32_t)bytes.n;
            head[1] = histogram_appender_is_float(d->hists[i]) ? CHUNK_FLOAT_HISTOGRAM : CHUNK_HISTOGRAM;
        }
        put(w, head, sizeof(head));
        put(w, bytes.p, bytes.n);
    }
    section_end(w);
}

/* The caller holds the shard's writer mutex: nothing changes, and readers go on. */
static void put_shard(struct ckpt_writer *w, const struct shard *s, uint32_t i, int64_t consumed)
{
    const struct shard_data *d = s->data;
    struct ckpt_shard meta = {.n_series = d->n_series,
                              .n_symbols = d->n_symbols,
                              .n_names = d->n_names,
                              .n_hists = d->n_hists,
                              .n_full_chunks = d->n_full_chunks,
                              .n_ooo_blocks = d->n_ooo_blocks,
                              .strings_used = d->strings.used,
                              .applied = MAX(s->applied, consumed)};
    section(w, CKPT_SHARD, i, &meta, sizeof(meta));
    section(w, CKPT_HOT, i, d->hot.p, d->hot.n);
    section(w, CKPT_COLD, i, d->cold.p, d->cold.n);
    section(w, CKPT_LABELS, i, d->labels.p, d->labels.n);
    section(w, CKPT_SYMBOLS, i, d->symbols.p, d->symbols.n);
    put_strings(w, &d->strings, i);
    section(w, CKPT_SLAB_STATE, i, &d->slabs.state, sizeof(d->slabs.state));
    section(w, CKPT_SLAB_PAGES, i, d->slabs.pages.p, d->slabs.pages.n);
    section(w, CKPT_SLAB_BYTES, i, d->slabs.mem.p, d->slabs.mem.n);
    put_histograms(w, d, i);
}

/* --- the file --- */

/* After the shards: what they refer to in chunk files is then in the files. */
static bool put_head(struct ckpt_writer *w, struct head *h, const struct ckpt_head *meta)
{
    section(w, CKPT_HEAD, 0, meta, sizeof(*meta));
    struct ckpt_cut cut = {h->cuts.until, h->cuts.n_names};
    section_begin(w, CKPT_CUT, 0);
    put(w, &cut, sizeof(cut));
    put(w, h->cuts.names, h->cuts.n_names * sizeof(*h->cuts.names));
    section_end(w);
    struct chunk_file_state *files;
    size_t n_files;
    if (w->failed || !chunk_store_sync(h->chunks, &files, &n_files, w->err))
        return false;
    section(w, CKPT_CHUNK_FILES, 0, files, n_files * sizeof(*files));
    free(files);
    struct buf b;
    buf_init(&b, SIZE_MAX / 2);
    exemplars_save(&h->exemplars, &b);
    section(w, CKPT_EXEMPLARS, 0, b.p, b.n);
    bool ok = !b.failed;
    buf_clear(&b);
    metadata_save(&h->metadata, &b);
    section(w, CKPT_METADATA, 0, b.p, b.n);
    ok = ok && !b.failed;
    buf_release(&b);
    return ok || err_set(w->err, ERR_NO_MEMORY, "no memory for the exemplars and metadata of %s", w->path);
}

/* Right behind the sections, or, so that the footer ends the file, at the end of a longer spare: to cut it off would free blocks. */
static uint64_t table_place(struct ckpt_writer *w, size_t table_bytes)
{
    uint64_t place = (w->off + 63) & ~63ULL, end = place + table_bytes + sizeof(struct ckpt_footer);
    if (w->spare_bytes <= end)
        return place;
    if (w->spare_bytes <= SPARE_RATIO * end)
        return place + (w->spare_bytes - end);
    if (ftruncate(w->fd, (off_t)end) != 0) {
        w->failed = true;
        err_errno(w->err, ERR_IO, errno, "truncating %s", w->path);
    }
    return place;
}

static bool put_end(struct ckpt_writer *w, uint64_t seed)
{
    struct ckpt_footer f = {
        .n_sections = w->n, .version = CKPT_VERSION, .layout = CKPT_LAYOUT, .seed_check = ckpt_seed_check(seed)};
    memcpy(f.magic, "BRNHEAD1", sizeof(f.magic));
    f.table_off = table_place(w, w->n * sizeof(*w->sections));
    f.table_sum = XXH3_64bits(w->sections, w->n * sizeof(*w->sections));
    big_file_write_behind(w->fd, w->off, &w->behind);
    w->off = f.table_off;
    put(w, w->sections, w->n * sizeof(*w->sections));
    put(w, &f, sizeof(f));
    return !w->failed && (fsync(w->fd) == 0 || err_errno(w->err, ERR_IO, errno, "syncing %s", w->path));
}

static bool write_file(struct ckpt_writer *w, struct head *h, int64_t consumed)
{
    /*
     * The newest time first, of records that all shards have: the replay starts with it, and decides of the records after those as the
     * first run did.
     */
    struct ckpt_head meta = {.max_t = atomic_load(&h->settled_t),
                             .min_t = atomic_load(&h->min_t),
                             .min_valid = atomic_load(&h->min_valid),
                             .n_shards = h->n_shards};
    for (uint32_t i = 0; i < h->n_shards && !w->failed; i++) {
        pthread_mutex_lock(&h->shards[i].writer);
        put_shard(w, &h->shards[i], i, consumed);
        pthread_mutex_unlock(&h->shards[i].writer);
        /* Not before: the consumer waits for that lock. */
        big_file_write_behind(w->fd, w->off, &w->behind);
    }
    return put_head(w, h, &meta) && put_end(w, h->seed);
}

/* What a cut takes out of the shards is missing in all of them or in none, and its blocks are named or not. */
static bool write_file_between_cuts(struct ckpt_writer *w, struct head *h, int64_t consumed)
{
    pthread_mutex_lock(&h->cuts.lock);
    bool ok = write_file(w, h, consumed);
    pthread_mutex_unlock(&h->cuts.lock);
    return ok;
}

/* The one before becomes the spare that the next is written over: blocks that are freed hold up the log's syncs (base/big_file.h). */
static bool replace(const char *tmp, const char *path, struct err *err)
{
    return renameat2(AT_FDCWD, tmp, AT_FDCWD, path, RENAME_EXCHANGE) == 0 || rename(tmp, path) == 0 || err_errno(err, ERR_IO, errno, "renaming %s", tmp);
}

bool head_checkpoint(struct head *h, int64_t consumed, uint64_t *ret_bytes, struct err *err)
{
    char tmp[4096];
    char path[4096];
    if ((size_t)snprintf(tmp, sizeof(tmp), "%s/head.ckpt.tmp", h->dir) >= sizeof(tmp))
        return err_set(err, ERR_IO, "the path %.200s... is too long", h->dir);
    snprintf(path, sizeof(path), "%s/head.ckpt", h->dir);
    struct ckpt_writer w = {.path = tmp, .err = err};
    w.fd = open(tmp, O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
    if (w.fd < 0)
        return err_errno(err, ERR_IO, errno, "making %s", tmp);
    w.spare_bytes = big_file_blank(w.fd);
    w.sum = XXH3_createState();
    if (!w.sum)
        memory_exhausted(sizeof(*w.sum));
    bool ok = write_file_between_cuts(&w, h, consumed);
    close(w.fd);
    XXH3_freeState(w.sum);
    free(w.sections);
    ok = ok && replace(tmp, path, err) && dir_sync(h->dir, err);
    if (!ok) {
        unlink(tmp); /* a start may still find by the other name what it is now: it must not be written over */
        return false;
    }
    *ret_bytes = w.off;
    chunk_store_unlink_dead(h->chunks);
    return true;
}

/* --- manifest --- */

struct manifest {
    char magic[8];
    uint32_t version;
    int32_t partition;
    int64_t offset;
    uint64_t seed_check;
    uint64_t unused;
    uint64_t sum;
};

bool manifest_write(const char *dir, int32_t partition, uint64_t seed, int64_t offset, struct err *err)
{
    struct manifest m = {.magic = "BRNMANI",
                         .version = CKPT_VERSION,
                         .partition = partition,
                         .offset = offset,
                         .seed_check = ckpt_seed_check(seed)};
    m.magic[7] = 'F';
    m.sum = XXH3_64bits(&m, offsetof(struct manifest, sum));
    return file_replace(dir, "manifest", slice_make(&m, sizeof(m)), err);
}

bool manifest_read(const char *dir, int32_t partition, uint64_t seed, int64_t *ret_offset, struct err *err)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/manifest", dir);
    char *bytes;
    size_t n;
    if (!file_read(path, 4096, &bytes, &n, err))
        return false;
    struct manifest m = {0};
    memcpy(&m, bytes, MIN(n, sizeof(m)));
    free(bytes);
    if (n != sizeof(m) || memcmp(m.magic, "BRNMANIF", 8) != 0 || m.version != CKPT_VERSION ||
        m.sum != XXH3_64bits(&m, offsetof(struct manifest, sum)))
        return err_set(err, ERR_CORRUPT, "%s is damaged", path);
    if (m.partition != partition)
        return err_set(err, ERR_CONFIG, "%s is of partition %d, not of %d", path, m.partition, partition);
    if (m.seed_check != ckpt_seed_check(seed))
        return err_set(err, ERR_CONFIG, "%s was made with another hash seed", path);
    *ret_offset = m.offset;
    return true;
}
