#include "ingest/checkpoint_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"
#include "ingest/files_int.h"
#include "ingest/ingest_metrics_int.h"

#define MAX_SECTIONS (HEAD_MAX_SHARDS * CKPT_KINDS + CKPT_KINDS)

static bool corrupt(struct err *err, const char *what)
{
    return err_set(err, ERR_CORRUPT, "%s", what);
}

/* --- sections --- */

bool ckpt_read_table(const struct ckpt_source *src, uint64_t seed, struct ckpt_section **ret, uint32_t *ret_n,
                     struct err *err)
{
    struct ckpt_footer f;
    if (src->size < sizeof(f) || !src->read(src->arg, &f, sizeof(f), src->size - sizeof(f)) ||
        memcmp(f.magic, "BRNHEAD1", 8) != 0)
        return corrupt(err, "no checkpoint, or its end is missing");
    if (f.version != CKPT_VERSION || f.layout != CKPT_LAYOUT)
        return corrupt(err, "written by another version");
    if (!src->skip_sums && f.seed_check != ckpt_seed_check(seed))
        return corrupt(err, "made with another hash seed");
    uint64_t table_end = src->size - sizeof(f);
    size_t bytes = f.n_sections * sizeof(struct ckpt_section);
    if (f.n_sections > MAX_SECTIONS || f.table_off > table_end || table_end - f.table_off != bytes)
        return corrupt(err, "wrong table of sections");
    struct ckpt_section *table = xmalloc(bytes);
    bool ok =
        src->read(src->arg, table, bytes, f.table_off) && (src->skip_sums || XXH3_64bits(table, bytes) == f.table_sum);
    for (uint32_t i = 0; ok && i < f.n_sections; i++)
        ok = table[i].off <= f.table_off && table[i].len <= f.table_off - table[i].off;
    if (!ok) {
        free(table);
        return corrupt(err, "wrong checksum of the table of sections");
    }
    *ret = table;
    *ret_n = f.n_sections;
    return true;
}

struct ckpt_reader {
    const struct ckpt_source *src;
    const struct ckpt_section *sections;
    uint32_t n;
    struct err *err;
};

static const struct ckpt_section *find(const struct ckpt_reader *r, enum ckpt_kind kind, uint32_t shard)
{
    for (uint32_t i = 0; i < r->n; i++)
        if (r->sections[i].kind == kind && r->sections[i].shard == shard)
            return &r->sections[i];
    corrupt(r->err, "a section is missing");
    return NULL;
}

static bool read_into(const struct ckpt_reader *r, const struct ckpt_section *s, void *p)
{
    if (!r->src->read(r->src->arg, p, (size_t)s->len, s->off))
        return err_errno(r->err, ERR_IO, errno, "reading");
    return r->src->skip_sums || XXH3_64bits(p, (size_t)s->len) == s->sum || corrupt(r->err, "wrong checksum");
}

static bool read_fixed(const struct ckpt_reader *r, enum ckpt_kind kind, uint32_t shard, void *p, size_t n)
{
    const struct ckpt_section *s = find(r, kind, shard);
    return s && (s->len == n || corrupt(r->err, "a section of wrong length")) && read_into(r, s, p);
}

static bool read_region(const struct ckpt_reader *r, enum ckpt_kind kind, uint32_t shard, struct region *ret)
{
    const struct ckpt_section *s = find(r, kind, shard);
    return s && (s->len == 0 || read_into(r, s, region_extend(ret, (size_t)s->len)));
}

/* malloc'ed. */
static bool read_bytes(const struct ckpt_reader *r, enum ckpt_kind kind, uint32_t shard, char **ret, size_t *ret_n)
{
    const struct ckpt_section *s = find(r, kind, shard);
    if (!s)
        return false;
    char *p = xmalloc((size_t)s->len);
    if (!read_into(r, s, p)) {
        free(p);
        return false;
    }
    *ret = p;
    *ret_n = (size_t)s->len;
    return true;
}

/* --- a shard --- */

/* The pages, made in the runs that they had. Sums of parts: the section is read run by run. */
static bool fill_strings(const struct ckpt_reader *r, const struct ckpt_section *s, const uint32_t *runs, size_t n_runs,
                         struct strings *st)
{
    XXH3_state_t *sum = XXH3_createState();
    if (!sum)
        memory_exhausted(sizeof(*sum));
    XXH3_64bits_reset(sum);
    uint64_t off = 0;
    bool ok = true;
    for (size_t i = 0; ok && i < n_runs; i++) {
        uint64_t bytes = (uint64_t)runs[i] * STRING_PAGE;
        uint64_t have = MIN(bytes, s->len - MIN(off, s->len));
        char *p = xmalloc((size_t)bytes);
        st->pages[st->n_pages] = p;
        for (uint32_t k = 1; k < runs[i]; k++)
            st->pages[st->n_pages + k] = NULL;
        st->n_pages += runs[i];
        ok = r->src->read(r->src->arg, p, (size_t)have, s->off + off);
        XXH3_64bits_update(sum, p, ok ? (size_t)have : 0);
        memset(p + have, 0, (size_t)(bytes - have));
        off += bytes;
    }
    bool same = r->src->skip_sums || XXH3_64bits_digest(sum) == s->sum;
    XXH3_freeState(sum);
    return ok ? same || corrupt(r->err, "wrong checksum") : err_errno(r->err, ERR_IO, errno, "reading");
}

static bool read_strings(const struct ckpt_reader *r, uint32_t shard, uint64_t used, struct strings *st)
{
    const struct ckpt_section *s = find(r, CKPT_STRINGS, shard);
    char *bytes;
    size_t n;
    if (!s || !read_bytes(r, CKPT_STRING_RUNS, shard, &bytes, &n))
        return false;
    const uint32_t *runs = (const uint32_t *)(const void *)bytes;
    size_t n_runs = n / sizeof(*runs);
    uint64_t n_pages = 0;
    bool ok = n % sizeof(*runs) == 0;
    for (size_t i = 0; ok && i < n_runs; i++) {
        n_pages += runs[i];
        ok = runs[i] > 0;
    }
    /* The last page is cut; pages without any bytes would be made for nothing. */
    ok = ok && used == s->len && used <= n_pages * STRING_PAGE && n_pages <= used / STRING_PAGE + 1;
    if (ok) {
        st->cap_pages = (size_t)n_pages;
        st->pages = xcalloc((size_t)n_pages, sizeof(*st->pages));
        st->used = used;
        ok = fill_strings(r, s, runs, n_runs, st);
    } else {
        corrupt(r->err, "wrong string pages");
    }
    free(bytes);
    return ok;
}

static bool read_histograms(const struct ckpt_reader *r, uint32_t shard, uint32_t n_hists, struct shard_data *d)
{
    char *bytes;
    size_t n;
    if (!read_bytes(r, CKPT_HISTOGRAMS, shard, &bytes, &n))
        return false;
    const char *p = bytes;
    bool ok = n_hists <= n / 8;
    if (ok) {
        d->hists = xcalloc(n_hists, sizeof(*d->hists));
        d->cap_hists = n_hists;
    }
    for (uint32_t i = 0; ok && i < n_hists; i++) {
        uint32_t head[2];
        ok = (size_t)(bytes + n - p) >= sizeof(head);
        if (!ok)
            break;
        memcpy(head, p, sizeof(head));
        p += sizeof(head);
        d->n_hists = i + 1;
        if (head[0] == 0)
            continue;
        ok = head[0] <= (size_t)(bytes + n - p) && (head[1] == CHUNK_HISTOGRAM || head[1] == CHUNK_FLOAT_HISTOGRAM) &&
             (d->hists[i] = histogram_appender_resume((enum chunk_encoding)head[1], slice_make(p, head[0])));
        p += head[0];
    }
    ok = ok && p == bytes + n;
    free(bytes);
    return ok || corrupt(r->err, "wrong open histogram chunks");
}

static bool read_parts(const struct ckpt_reader *r, uint32_t shard, struct shard_data *d, int64_t *ret_applied)
{
    struct ckpt_shard meta;
    if (!read_fixed(r, CKPT_SHARD, shard, &meta, sizeof(meta)))
        return false;
    d->n_series = meta.n_series;
    d->n_symbols = meta.n_symbols;
    d->n_names = meta.n_names;
    d->n_full_chunks = meta.n_full_chunks;
    d->n_ooo_blocks = meta.n_ooo_blocks;
    *ret_applied = meta.applied;
    return read_region(r, CKPT_HOT, shard, &d->hot) && read_region(r, CKPT_COLD, shard, &d->cold) &&
           read_region(r, CKPT_LABELS, shard, &d->labels) && read_region(r, CKPT_SYMBOLS, shard, &d->symbols) &&
           read_strings(r, shard, meta.strings_used, &d->strings) &&
           read_fixed(r, CKPT_SLAB_STATE, shard, &d->slabs.state, sizeof(d->slabs.state)) &&
           read_region(r, CKPT_SLAB_PAGES, shard, &d->slabs.pages) &&
           read_region(r, CKPT_SLAB_BYTES, shard, &d->slabs.mem) && read_histograms(r, shard, meta.n_hists, d);
}

struct shard_data *ckpt_read_shard(const struct ckpt_source *src, const struct ckpt_section *sections, uint32_t n,
                                   uint32_t shard, uint64_t seed, int64_t *ret_applied, struct err *err)
{
    struct ckpt_reader r = {src, sections, n, err};
    struct shard_data *d = shard_data_new(seed);
    if (!read_parts(&r, shard, d, ret_applied)) {
        shard_data_unref(d);
        return NULL;
    }
    if (!shard_data_verify(d) || !shard_data_index(d)) {
        corrupt(err, "its parts do not fit together");
        shard_data_unref(d);
        return NULL;
    }
    return d;
}

/* --- a head --- */

static bool file_source_read(void *arg, void *p, size_t n, uint64_t off)
{
    return read_at(*(const int *)arg, p, n, (off_t)off);
}

/* One shard on a thread of its own. */
struct load_job {
    pthread_t thread;
    const struct ckpt_reader *r;
    uint32_t shard;
    uint64_t seed;
    struct shard_data *data;
    int64_t applied;
    struct err err;
};

static void *load_job_run(void *arg)
{
    struct load_job *j = arg;
    j->data = ckpt_read_shard(j->r->src, j->r->sections, j->r->n, j->shard, j->seed, &j->applied, &j->err);
    return NULL;
}

/* Small heads are not worth threads. */
#define PARALLEL_BYTES (16u << 20)

static void run_jobs(struct load_job *jobs, uint32_t n, bool parallel)
{
    uint32_t at_once = parallel ? 4 : 1;
    for (uint32_t from = 0; from < n; from += at_once) {
        uint32_t k = MIN(at_once, n - from);
        bool started[4] = {false};
        for (uint32_t i = 1; i < k; i++)
            started[i] = pthread_create(&jobs[from + i].thread, NULL, load_job_run, &jobs[from + i]) == 0;
        load_job_run(&jobs[from]);
        for (uint32_t i = 1; i < k; i++) {
            if (started[i])
                pthread_join(jobs[from + i].thread, NULL);
            else
                load_job_run(&jobs[from + i]);
        }
    }
}

static void count_metrics(struct head *h, const struct shard_data *d)
{
    uint32_t name = symbol_find(d, SYMBOL_IS_NAME, SL(METRIC_NAME_LABEL));
    uint64_t named = 0;
    for (uint32_t i = 0; name != SYMBOL_NONE && i < symbol_at(d, name)->n; i++) {
        uint32_t value = symbol_list(d, symbol_at(d, name))[i];
        metric_counts_add(&h->metrics_counts, symbol_text(d, value), symbol_at(d, value)->n);
        named += symbol_at(d, value)->n;
    }
    if (d->n_series > named)
        metric_counts_add(&h->metrics_counts, SL(""), (int64_t)(d->n_series - named));
}

static bool load_shards(const struct ckpt_reader *r, struct head *h, int64_t floor)
{
    struct load_job *jobs = xcalloc(h->n_shards, sizeof(*jobs));
    for (uint32_t i = 0; i < h->n_shards; i++)
        jobs[i] = (struct load_job){.r = r, .shard = i, .seed = h->seed};
    run_jobs(jobs, h->n_shards, r->src->size > PARALLEL_BYTES);
    bool ok = true;
    uint64_t n_series = 0;
    for (uint32_t i = 0; i < h->n_shards; i++) {
        if (!jobs[i].data) {
            if (ok && r->err)
                *r->err = jobs[i].err;
            ok = false;
            continue;
        }
        shard_data_unref(h->shards[i].data);
        h->shards[i].data = jobs[i].data;
        h->shards[i].applied = MAX(jobs[i].applied, floor);
        h->enforce_from = MAX(h->enforce_from, jobs[i].applied);
        n_series += jobs[i].data->n_series;
        count_metrics(h, jobs[i].data);
    }
    free(jobs);
    atomic_store(&h->n_series, n_series);
    atomic_fetch_add(&h->totals->n_series, n_series);
    metric_add(metric_single(ingest_metrics[INGESTER_MEMORY_SERIES]), (double)n_series);
    return ok;
}

static bool load_extras(const struct ckpt_reader *r, struct head *h)
{
    char *bytes;
    size_t n;
    if (!read_bytes(r, CKPT_EXEMPLARS, 0, &bytes, &n))
        return false;
    bool ok = exemplars_load(&h->exemplars, slice_make(bytes, n));
    free(bytes);
    if (!ok)
        return corrupt(r->err, "wrong exemplars");
    if (!read_bytes(r, CKPT_METADATA, 0, &bytes, &n))
        return false;
    ok = metadata_load(&h->metadata, slice_make(bytes, n));
    free(bytes);
    return ok || corrupt(r->err, "wrong metadata");
}

static bool load_cut(const struct ckpt_reader *r, struct head *h)
{
    char *bytes;
    size_t n;
    bool there = false;
    for (uint32_t i = 0; i < r->n; i++)
        there |= r->sections[i].kind == CKPT_CUT;
    if (!there)
        return true;
    if (!read_bytes(r, CKPT_CUT, 0, &bytes, &n))
        return false;
    struct ckpt_cut cut = {0};
    bool ok = n >= sizeof(cut);
    memcpy(&cut, bytes, ok ? sizeof(cut) : 0);
    ok = ok && cut.n_blocks == (n - sizeof(cut)) / sizeof(struct ulid) && (n - sizeof(cut)) % sizeof(struct ulid) == 0;
    h->cuts.until = cut.until;
    h->cuts.names = xcalloc(ok ? (size_t)cut.n_blocks : 0, sizeof(struct ulid));
    for (size_t i = 0; ok && i < cut.n_blocks; i++) {
        const char *text = bytes + sizeof(cut) + i * sizeof(struct ulid);
        ok = ulid_parse(slice_make(text, ULID_TEXT_LEN), &h->cuts.names[i]);
        h->cuts.n_names += ok;
    }
    free(bytes);
    return ok || corrupt(r->err, "wrong list of blocks");
}

static struct chunk_store *load_chunks(const struct ckpt_reader *r, const char *dir)
{
    char chunks_dir[4096];
    char *bytes;
    size_t n;
    snprintf(chunks_dir, sizeof(chunks_dir), "%s/chunks", dir);
    if (!read_bytes(r, CKPT_CHUNK_FILES, 0, &bytes, &n))
        return NULL;
    struct chunk_store *cs = NULL;
    if (n % sizeof(struct chunk_file_state) == 0)
        cs = chunk_store_open(chunks_dir, (const struct chunk_file_state *)(const void *)bytes,
                              n / sizeof(struct chunk_file_state), r->err);
    else
        corrupt(r->err, "wrong list of chunk files");
    free(bytes);
    return cs;
}

static struct head *load_head(const struct ckpt_reader *r, struct slice tenant, const char *dir, uint64_t seed,
                              int64_t floor, struct head_totals *totals)
{
    struct ckpt_head meta;
    if (!read_fixed(r, CKPT_HEAD, 0, &meta, sizeof(meta)))
        return NULL;
    if (meta.n_shards < 1 || meta.n_shards > HEAD_MAX_SHARDS || (meta.n_shards & (meta.n_shards - 1))) {
        corrupt(r->err, "wrong number of shards");
        return NULL;
    }
    struct chunk_store *cs = load_chunks(r, dir);
    if (!cs)
        return NULL;
    struct head *h = head_new(tenant, dir, seed, meta.n_shards, cs, totals);
    atomic_store(&h->max_t, meta.max_t);
    atomic_store(&h->min_t, meta.min_t);
    atomic_store(&h->min_valid, meta.min_valid);
    h->has_checkpoint = true;
    atomic_store(&h->settled_t, meta.max_t);
    if (load_shards(r, h, floor) && load_extras(r, h) && load_cut(r, h))
        return h;
    head_free(h);
    return NULL;
}

struct head *head_load(struct slice tenant, const char *dir, uint64_t seed, int64_t floor, struct head_totals *totals,
                       struct err *err)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/head.ckpt", dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        err_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, errno, "opening %s", path);
        return NULL;
    }
    struct stat sb;
    struct ckpt_source src = {.read = file_source_read, .arg = &fd};
    struct ckpt_section *sections = NULL;
    struct head *h = NULL;
    if (fstat(fd, &sb) == 0) {
        src.size = (uint64_t)sb.st_size;
        uint32_t n;
        if (ckpt_read_table(&src, seed, &sections, &n, err)) {
            struct ckpt_reader r = {&src, sections, n, err};
            h = load_head(&r, tenant, dir, seed, floor, totals);
        }
    } else {
        err_errno(err, ERR_IO, errno, "reading");
    }
    free(sections);
    close(fd);
    if (!h)
        err_prefix(err, "%s: ", path);
    return h;
}
