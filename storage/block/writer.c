/*
 * Writing a block: <dir>/<ULID>.tmp-for-creation/ with index and chunks/ as the series come, at finish the postings, tombstones and meta.json; then every file
 * and folder is synced and the folder renamed to <ULID>, and dir is synced. What a killed process leaves has the temporary name, which Prometheus passes over
 * as well; block_remove_unfinished clears it away.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "storage/block/block_int.h"
#include "storage/block/bytes.h"
#include "storage/block/index_writer_int.h"
#include "storage/block/segment_writer_int.h"
#include "storage/block/writer_int.h"

#define UNFINISHED ".tmp-for-creation"

struct block_writer {
    char *dir, *final, *temporary, *chunks_dir; /* owned */
    bool made;    /* the temporary folder exists */
    bool broken;  /* after an error nothing but free is left to do */
    struct arena arena; /* the strings of meta */
    struct block_meta meta;
    struct index_writer index;
    struct segment_writer segments;
    struct index_chunk *chunks; /* owned: of the series at hand */
    uint64_t *refs;             /* owned, likewise */
    size_t cap_chunks;
};

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory to write a block");
}

/* --- meta --- */

static void *copy_array(struct arena *arena, const void *items, size_t n, size_t size)
{
    void *p = arena_array(arena, n ? n : 1, size);
    if (p && n)
        memcpy(p, items, n * size);
    return p;
}

static bool copy_slice(struct arena *arena, struct slice *s)
{
    *s = arena_dup(arena, *s);
    return s->p != NULL;
}

/* A deep copy; false when the arena is used up. */
static bool meta_copy(struct arena *arena, const struct block_meta *from, struct block_meta *ret)
{
    struct block_meta m = *from;
    struct slice *hints = copy_array(arena, from->hints, from->n_hints, sizeof(*hints));
    struct block_label *labels = copy_array(arena, from->labels, from->n_labels, sizeof(*labels));
    struct block_file *files = copy_array(arena, from->files, from->n_files, sizeof(*files));
    m.sources = copy_array(arena, from->sources, from->n_sources, sizeof(*m.sources));
    m.parents = copy_array(arena, from->parents, from->n_parents, sizeof(*m.parents));
    bool good = hints && labels && files && m.sources && m.parents && copy_slice(arena, &m.source);
    for (size_t i = 0; good && i < m.n_hints; i++)
        good = copy_slice(arena, &hints[i]);
    for (size_t i = 0; good && i < m.n_labels; i++)
        good = copy_slice(arena, &labels[i].name) && copy_slice(arena, &labels[i].value);
    for (size_t i = 0; good && i < m.n_files; i++)
        good = copy_slice(arena, &files[i].path);
    m.hints = hints;
    m.labels = labels;
    m.files = files;
    *ret = m;
    return good;
}

/* --- new, free --- */

static bool make_paths(struct block_writer *w, const char *dir)
{
    bool good = (w->dir = strdup(dir)) != NULL;
    if (asprintf(&w->final, "%s/%s", dir, w->meta.ulid.text) < 0)
        w->final = NULL;
    if (asprintf(&w->temporary, "%s/%s" UNFINISHED, dir, w->meta.ulid.text) < 0)
        w->temporary = NULL;
    if (asprintf(&w->chunks_dir, "%s/%s" UNFINISHED "/chunks", dir, w->meta.ulid.text) < 0)
        w->chunks_dir = NULL;
    return good && w->final && w->temporary && w->chunks_dir;
}

static bool make_folders(struct block_writer *w, struct err *err)
{
    struct stat st;
    if (stat(w->final, &st) == 0)
        return err_set(err, ERR_CONFLICT, "%s is there already", w->final);
    if (!out_remove_tree(w->temporary, err))
        return false;
    if (mkdir(w->temporary, 0755) != 0)
        return err_errno(err, ERR_IO, errno, "making %s", w->temporary);
    w->made = true;
    if (mkdir(w->chunks_dir, 0755) != 0)
        return err_errno(err, ERR_IO, errno, "making %s", w->chunks_dir);
    return true;
}

struct block_writer *block_writer_new(const char *dir, const struct block_meta *meta, const struct slice *symbols, size_t n_symbols,
                                      struct err *err)
{
    struct ulid ulid;
    ASSERT(ulid_parse(slice_make(meta->ulid.text, ULID_TEXT_LEN), &ulid));
    struct block_writer *w = calloc(1, sizeof(*w));
    if (!w) {
        no_memory(err);
        return NULL;
    }
    arena_init(&w->arena, 0);
    w->index.out.fd = w->segments.out.fd = -1;
    if (!meta_copy(&w->arena, meta, &w->meta) || !make_paths(w, dir)) {
        no_memory(err);
        block_writer_free(w);
        return NULL;
    }
    segment_writer_init(&w->segments, w->chunks_dir);
    w->meta.stats = (struct block_stats){0};
    if (make_folders(w, err) && index_writer_open(&w->index, w->temporary, symbols, n_symbols, err))
        return w;
    block_writer_free(w);
    return NULL;
}

void block_writer_set_sizes(struct block_writer *w, uint64_t segment_bytes, size_t postings_buffer_bytes)
{
    w->segments.max_bytes = segment_bytes;
    w->index.postings_buffer = postings_buffer_bytes;
}

void block_writer_free(struct block_writer *w)
{
    if (!w)
        return;
    index_writer_release(&w->index);
    segment_writer_release(&w->segments);
    if (w->made)
        (void)out_remove_tree(w->temporary, NULL); /* block_remove_unfinished tries again at the next start */
    arena_release(&w->arena);
    free(w->chunks);
    free(w->refs);
    free(w->dir);
    free(w->final);
    free(w->temporary);
    free(w->chunks_dir);
    free(w);
}

/* --- series --- */

static bool reserve_chunks(struct block_writer *w, size_t n)
{
    if (n <= w->cap_chunks)
        return true;
    struct index_chunk *chunks = realloc(w->chunks, n * sizeof(*chunks));
    if (chunks)
        w->chunks = chunks;
    uint64_t *refs = realloc(w->refs, n * sizeof(*refs));
    if (refs)
        w->refs = refs;
    if (!chunks || !refs)
        return false;
    w->cap_chunks = n;
    return true;
}

static bool refuse_chunk(const struct block_writer *w, const char *what, const struct series_chunk *c, struct err *err)
{
    return err_set(err, ERR_INTERNAL, "%s: %s: a chunk of the times %lld to %lld", w->temporary, what, (long long)c->min_t, (long long)c->max_t);
}

/* Counts the samples, too. */
static bool check_chunks(struct block_writer *w, const struct series_chunk *chunks, size_t n, struct err *err)
{
    for (size_t i = 0; i < n; i++) {
        const struct series_chunk *c = &chunks[i];
        int samples = chunk_count(c->encoding, c->data);
        if (c->min_t > c->max_t || c->min_t < w->meta.min_t || c->max_t >= w->meta.max_t)
            return refuse_chunk(w, "out of the block's times", c, err);
        if (i && c->min_t <= c[-1].max_t)
            return refuse_chunk(w, "not after the one before", c, err);
        if (samples <= 0 || c->encoding == CHUNK_NONE || c->data.n > UINT32_MAX / 2)
            return refuse_chunk(w, "no samples", c, err);
        w->meta.stats.samples += (uint64_t)samples;
        *(c->encoding == CHUNK_XOR ? &w->meta.stats.float_samples : &w->meta.stats.histogram_samples) += (uint64_t)samples;
    }
    return n || err_set(err, ERR_INTERNAL, "%s: a series without chunks", w->temporary);
}

static bool add_series(struct block_writer *w, const struct labels *labels, const struct series_chunk *chunks, size_t n, struct err *err)
{
    if (!reserve_chunks(w, n))
        return no_memory(err);
    if (!check_chunks(w, chunks, n, err) || !segment_writer_add(&w->segments, chunks, n, w->refs, err))
        return false;
    for (size_t i = 0; i < n; i++)
        w->chunks[i] = (struct index_chunk){chunks[i].min_t, chunks[i].max_t, w->refs[i]};
    w->meta.stats.series++;
    w->meta.stats.chunks += n;
    return index_writer_add(&w->index, labels, w->chunks, n, err);
}

bool block_writer_add(struct block_writer *w, const struct labels *labels, const struct series_chunk *chunks, size_t n_chunks, struct err *err)
{
    if (w->broken)
        return err_set(err, ERR_INTERNAL, "%s: the block is spoilt by an error before", w->temporary);
    w->broken = !add_series(w, labels, chunks, n_chunks, err);
    return !w->broken;
}

/* --- finish --- */

static bool list_files(struct block_writer *w, uint64_t index_size, struct err *err)
{
    size_t n = w->segments.n;
    struct block_file *files = ARENA_ARRAY(&w->arena, struct block_file, n + 2);
    if (!files)
        return no_memory(err);
    for (size_t i = 0; i < n; i++) {
        const char *path = arena_printf(&w->arena, "chunks/%06zu", i + 1);
        if (!path)
            return no_memory(err);
        files[i] = (struct block_file){slice_of(path), w->segments.sizes[i]};
    }
    files[n] = (struct block_file){SL("index"), index_size};
    files[n + 1] = (struct block_file){SL("meta.json"), 0};
    w->meta.files = files;
    w->meta.n_files = n + 2;
    return true;
}

static bool write_meta(struct block_writer *w, struct err *err)
{
    struct buf json;
    buf_init(&json, BLOCK_META_MAX_BYTES);
    block_meta_encode(&w->meta, &json);
    bool good = json.failed ? no_memory(err) : out_write_file(w->temporary, "meta.json", json.p, json.n, err);
    buf_release(&json);
    return good;
}

static bool write_tombstones(struct block_writer *w, struct err *err)
{
    uint8_t none[TOMBSTONES_HEADER_BYTES + 4] = {[4] = 1}; /* the checksum of nothing is 0 */
    put_be32(none, TOMBSTONES_MAGIC);
    return out_write_file(w->temporary, "tombstones", none, sizeof(none), err);
}

static bool publish(struct block_writer *w, struct err *err)
{
    if (!out_sync_dir(w->chunks_dir, err) || !out_sync_dir(w->temporary, err))
        return false;
    if (rename(w->temporary, w->final) != 0)
        return err_errno(err, ERR_IO, errno, "renaming %s", w->temporary);
    w->made = false;
    return out_sync_dir(w->dir, err);
}

bool block_writer_finish(struct block_writer *w, struct arena *arena, struct block_meta *ret_meta, struct err *err)
{
    uint64_t index_size = 0;
    if (w->broken)
        return err_set(err, ERR_INTERNAL, "%s: the block is spoilt by an error before", w->temporary);
    w->broken = true; /* whatever comes of it, it was the last call */
    if (!segment_writer_finish(&w->segments, err) || !index_writer_finish(&w->index, &index_size, err))
        return false;
    if (!list_files(w, index_size, err) || (ret_meta && !meta_copy(arena, &w->meta, ret_meta) && !no_memory(err)))
        return false;
    return write_tombstones(w, err) && write_meta(w, err) && publish(w, err);
}

/* --- leftovers --- */

bool block_remove_unfinished(const char *dir, struct err *err)
{
    DIR *d = opendir(dir);
    if (!d)
        return errno == ENOENT || err_errno(err, ERR_IO, errno, "%s", dir);
    struct dirent *e;
    bool good = true;
    while (good && (e = readdir(d))) {
        struct slice name = slice_of(e->d_name);
        struct ulid ulid;
        char path[4096];
        if (!slice_has_suffix(name, SL(UNFINISHED)) || !ulid_parse(slice_make(name.p, name.n - strlen(UNFINISHED)), &ulid))
            continue;
        if (snprintf(path, sizeof(path), "%s/%s", dir, e->d_name) < (int)sizeof(path))
            good = out_remove_tree(path, err);
    }
    closedir(d);
    return good;
}
