/*
 * Chunks that a real ingester made (golden/blocks.txt, written by golden/make.py) against ours: read, they hold the samples that were pushed;
 * and the same samples, appended and cut here, give the same bytes, headers included.
 */
#include <criterion/criterion.h>
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>

#include "tests/storage/chunk/compare.h"
#include "tests/storage/chunk/cut.h"

#define GOLDEN TEST_SOURCE_DIR "/tests/storage/chunk/golden/blocks.txt"
#define MAX_SAMPLES 1024
/*
 * Begin of the third block. No histogram chunk there knows of the chunk before it, of whatever series: the ingester had emptied its head, so its
 * series began anew. So do ours.
 */
#define NEW_HEAD_MS INT64_C(1763611200000)

struct golden {
    char name[256];
    struct sample samples[MAX_SAMPLES];
    size_t n_samples;
    struct cut_chunk chunks[CUT_MAX_CHUNKS];
    size_t n_chunks;
    struct arena arena;
};

static size_t unhex(const char *text, uint8_t *out)
{
    size_t n = 0;
    for (; isxdigit((unsigned char)text[0]); text += 2) {
        unsigned v;
        cr_assert_eq(sscanf(text, "%2x", &v), 1);
        out[n++] = (uint8_t)v;
    }
    return n;
}

static void parse_line(struct golden *g, const char *line)
{
    static uint8_t bytes[65536];
    struct sample *s = &g->samples[g->n_samples];
    struct err err = ERR_NONE;
    int at = 0;
    if (line[0] == 'c') {
        int enc;
        cr_assert_eq(sscanf(line, "c %d %n", &enc, &at), 1);
        size_t n = unhex(line + at, bytes);
        struct slice own = arena_dup(&g->arena, slice_make(bytes, n));
        g->chunks[g->n_chunks++] = (struct cut_chunk){(enum chunk_encoding)enc, (uint8_t *)own.p, n};
        return;
    }
    cr_assert_lt(g->n_samples, MAX_SAMPLES);
    cr_assert_eq(sscanf(line + 2, "%ld %n", &s->t, &at), 1);
    if (line[0] == 'f') {
        uint64_t bits;
        cr_assert_eq(sscanf(line + 2 + at, "%lx", &bits), 1);
        memcpy(&s->v, &bits, 8);
    } else {
        int64_t t;
        size_t n = unhex(line + 2 + at, bytes);
        s->is_histogram = true;
        cr_assert(histogram_decode_proto(slice_make(bytes, n), &g->arena, &s->h, &t, &err), "%s", err.text);
        cr_assert_eq(t, s->t);
        cr_assert(histogram_validate(&s->h, &err), "%s", err.text);
    }
    g->n_samples++;
}

/* Calls check with every series of the file. */
static void each_series(void (*check)(struct golden *))
{
    static struct golden g;
    static char line[1 << 17];
    FILE *f = fopen(GOLDEN, "r");
    cr_assert(f, "cannot open %s", GOLDEN);
    size_t n = 0;
    arena_init(&g.arena, 0);
    for (;;) {
        bool more = fgets(line, sizeof(line), f);
        if ((!more || strncmp(line, "series", 6) == 0) && g.n_samples) {
            check(&g);
            n++;
            arena_release(&g.arena);
            memset(&g, 0, sizeof(g));
            arena_init(&g.arena, 0);
        }
        if (!more)
            break;
        if (strncmp(line, "series", 6) == 0)
            snprintf(g.name, sizeof(g.name), "%.200s", line);
        else
            parse_line(&g, line);
    }
    arena_release(&g.arena);
    fclose(f);
    cr_assert_gt(n, 5);
}

static void decode_series(struct golden *g)
{
    size_t at = 0;
    for (size_t c = 0; c < g->n_chunks; c++) {
        struct chunk_columns cols;
        struct err err = ERR_NONE;
        struct slice data = slice_make(g->chunks[c].p, g->chunks[c].n);
        cr_assert(chunk_decode(g->chunks[c].enc, data, &g->arena, &cols, &err), "%s: %s", g->name, err.text);
        cr_assert_eq((int)cols.n, chunk_count(g->chunks[c].enc, data));
        for (size_t i = 0; i < cols.n; i++, at++) {
            struct sample got = {.t = cols.t[i], .is_histogram = cols.h != NULL};
            cr_assert_lt(at, g->n_samples);
            if (cols.h)
                got.h = cols.h[i];
            else
                got.v = cols.v[i];
            cr_assert(same_sample(&got, &g->samples[at]), "%s sample %zu in chunk %zu", g->name, at, c);
        }
    }
    cr_assert_eq(at, g->n_samples);
}

Test(chunk_golden, chunks_of_a_real_ingester_hold_the_samples_that_were_pushed)
{
    each_series(decode_series);
}

static void append_series(struct golden *g)
{
    static struct cut_series s;
    bool fresh = false;
    for (size_t i = 0; i < g->n_samples; i++) {
        if (g->samples[i].t >= NEW_HEAD_MS && !fresh) {
            cut_close(&s);
            fresh = true;
        }
        if (g->samples[i].is_histogram)
            cut_histogram(&s, g->samples[i].t, &g->samples[i].h);
        else
            cut_float(&s, g->samples[i].t, g->samples[i].v);
    }
    cut_close(&s);
    cr_assert_eq(s.n_done, g->n_chunks, "%s %zu chunks, not %zu", g->name, s.n_done, g->n_chunks);
    for (size_t c = 0; c < g->n_chunks; c++) {
        cr_assert_eq(s.done[c].enc, g->chunks[c].enc, "%s chunk %zu", g->name, c);
        cr_assert(slice_eq(slice_make(s.done[c].p, s.done[c].n), slice_make(g->chunks[c].p, g->chunks[c].n)),
                  "%s chunk %zu (of encoding %d, header %02x, theirs %02x)", g->name, c, s.done[c].enc, s.done[c].p[2],
                  g->chunks[c].p[2]);
    }
    cut_release(&s);
}

Test(chunk_golden, the_same_samples_give_the_same_bytes)
{
    each_series(append_series);
}

/* --- all chunk segments that are at hand ------------------------------------------------------------------------------------ */

static size_t n_checked;

/* Decodes the chunk, appends what it holds, and compares. The header of a chunk that is not the first of its series is taken over. */
static void check_chunk(enum chunk_encoding enc, struct slice data, const char *path)
{
    static uint8_t bytes[1 << 16];
    struct arena arena;
    struct chunk_columns cols;
    struct err err = ERR_NONE;
    struct slice again;
    struct histogram_appender *h = NULL;
    arena_init(&arena, 0);
    cr_assert(chunk_decode(enc, data, &arena, &cols, &err), "%s: %s", path, err.text);
    if (enc == CHUNK_XOR) {
        struct xor_appender a;
        xor_appender_init(&a);
        for (size_t i = 0; i < cols.n; i++)
            xor_append(&a, bytes, cols.t[i], cols.v[i]);
        again = slice_make(bytes, xor_size(&a));
    } else {
        h = histogram_appender_new(enc == CHUNK_FLOAT_HISTOGRAM);
        for (size_t i = 0; i < cols.n; i++)
            cr_assert_eq(histogram_append(h, cols.t[i], &cols.h[i]), HISTOGRAM_APPENDED);
        again = histogram_appender_bytes(h);
        memcpy(bytes, again.p, again.n);
        bytes[2] = (uint8_t)data.p[2];
        again.p = (char *)bytes;
    }
    cr_assert(slice_eq(again, data), "%s: %d", path, (int)enc);
    histogram_appender_free(h);
    arena_release(&arena);
    n_checked++;
}

static void check_segment(const char *path)
{
    static uint8_t b[1 << 20];
    FILE *f = fopen(path, "rb");
    cr_assert(f);
    size_t n = fread(b, 1, sizeof(b), f), i = 8;
    fclose(f);
    while (i < n) {
        size_t len = 0;
        for (unsigned shift = 0;; shift += 7) {
            len |= (size_t)(b[i] & 0x7F) << shift;
            if (b[i++] < 0x80)
                break;
        }
        cr_assert_leq(i + 1 + len + 4, n);
        check_chunk((enum chunk_encoding)b[i], slice_make(b + i + 1, len), path);
        i += 1 + len + 4;
    }
}

static void check_folder(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        char sub[4096];
        if (e->d_name[0] == '.')
            continue;
        snprintf(sub, sizeof(sub), "%s/%s", path, e->d_name);
        if (e->d_type == DT_DIR)
            check_folder(sub);
        else if (strstr(path, "/chunks") && isdigit((unsigned char)e->d_name[0]))
            check_segment(sub);
    }
    if (d)
        closedir(d);
}

Test(chunk_golden, every_chunk_of_real_blocks_decodes_and_encodes_to_itself)
{
    const char *blocks = TEST_SHARED_DIR "/mimir/blocks";
    DIR *d = opendir(blocks);
    if (!d)
        cr_skip_test("no blocks at %s", blocks);
    closedir(d);
    check_folder(blocks);
    cr_assert_gt(n_checked, 1000);
}
