/*
 * A block in a bucket whose index is any bytes (checksums of its sections made right, those of series and lists not looked at) with a good segment of chunks:
 * opened, which makes an index-header of it, and read by matchers in small ranges with and without caches. Each step ends in an answer or in a named error.
 */
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "storage/block/bytes.h"
#include "storage/block/crc32c.h"
#include "storage/store/store_int.h"

static struct slice index_bytes, segment_bytes;
static struct store *stores[2];
static struct flag_set *fs; /* owns the strings of both configurations */
static char folder[] = "/dev/shm/brunn-store-fuzz-XXXXXX";

static struct slice object_of(struct slice name)
{
    return slice_has_suffix(name, SL("/index")) ? index_bytes : slice_has_suffix(name, SL("/000001")) ? segment_bytes : (struct slice){0};
}

static bool get(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out, struct err *err)
{
    struct slice o = object_of(name);
    (void)s, (void)ctx;
    if (!o.p)
        return err_set(err, ERR_NOT_FOUND, "no such object");
    if (n == OBJSTORE_ALL)
        n = offset <= o.n ? o.n - offset : 0;
    if (offset > o.n || n > o.n - offset)
        return err_set(err, ERR_OUT_OF_RANGE, "beyond the end");
    buf_put(out, o.p + offset, n);
    return !out->failed || err_set(err, ERR_TOO_LARGE, "too large");
}

static bool attributes(struct objstore *s, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret, struct err *err)
{
    (void)s, (void)ctx;
    *ret = (struct objstore_attributes){object_of(name).n, 0};
    return object_of(name).p || err_set(err, ERR_NOT_FOUND, "no such object");
}

static const struct objstore_ops ops = {.name = "memory", .is_view = true, .get = get, .attributes = attributes};
static struct objstore bucket = {&ops};

static void make_segment(void)
{
    static uint8_t segment[4096];
    size_t n = 8;
    put_be32(segment, 0x85BD40DD);
    segment[4] = 1;
    for (int i = 0; i < 50; i++) {
        size_t data = 20 + (size_t)i;
        n += put_uvarint(segment + n, data);
        segment[n] = CHUNK_XOR;
        put_be32(segment + n + 1 + data, crc32c(0, segment + n, data + 1));
        n += data + 5;
    }
    segment_bytes = slice_make(segment, n);
}

static void remove_folder(void)
{
    rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static struct store_config cfg;
    static struct cache_config cache_cfg;
    struct cache *cache;
    fs = flag_set_new();
    flag_set_add(fs, "store", store_flags, store_flags_n, &cfg);
    flag_set_add(fs, "cache", store_index_cache_flags, store_cache_flags_n, &cache_cfg);
    cache_cfg.inmemory_max_size_bytes = 1 << 20;
    cfg.max_gap_bytes = 16;
    cfg.postings_sampling = 2;
    ASSERT(cache_open(&cache_cfg, "x", "fuzz", "fuzz", &cache, NULL) && mkdtemp(folder));
    stores[0] = store_new(&cfg, &(struct store_deps){&bucket, NULL, NULL});
    stores[1] = store_new(&cfg, &(struct store_deps){&bucket, cache, cache});
    make_segment();
    atexit(remove_folder);
    (void)argc, (void)argv;
    return 0;
}

static void mend_section(uint8_t *p, uint64_t at, uint64_t size)
{
    if (at <= size && size - at >= 8 && get_be32(p + at) <= size - at - 8)
        put_be32(p + at + 4 + get_be32(p + at), crc32c(0, p + at + 4, get_be32(p + at)));
}

static void mend(uint8_t *p, size_t n)
{
    if (n < INDEX_TOC_BYTES)
        return;
    uint8_t *toc = p + n - INDEX_TOC_BYTES;
    mend_section(p, get_be64(toc), n);
    mend_section(p, get_be64(toc + 40), n);
    put_be32(toc + INDEX_TOC_BYTES - 4, crc32c(0, toc, INDEX_TOC_BYTES - 4));
}

static void read_block(struct store_block *b, struct arena *arena)
{
    static const struct {
        enum matcher_type type;
        const char *name, *value;
    } asked[] = {{MATCH_EQ, "__name__", "a"}, {MATCH_RE, "x", "1|2|"}, {MATCH_NEQ, "x", "1"}, {MATCH_RE, "y", ".+"}, {MATCH_EQ, "__query_shard__", "1_of_2"}};
    for (size_t i = 0; i < ARRAY_LEN(asked); i++) {
        struct matcher m;
        struct err err = ERR_NONE;
        struct ctx ctx = {.arena = arena};
        struct series batch[16];
        const struct slice *list;
        size_t n = 0;
        ASSERT(matcher_init(&m, asked[i].type, slice_of(asked[i].name), slice_of(asked[i].value), NULL));
        struct select_params p = {.min_t = i == 1 ? 0 : INT64_MIN, .max_t = INT64_MAX, .matchers = &m, .n_matchers = 1, .limit = i == 3 ? 1 : 0};
        struct series_set *set = store_block_select(b, &ctx, &p, NULL, &err);
        bool good = set != NULL;
        while (good && (good = series_set_next(set, &ctx, batch, ARRAY_LEN(batch), &n, &err)) && n)
            ;
        ASSERT(good || (err.code != ERR_OK && err.text[0]));
        series_set_release(set);
        store_block_label_names(b, &ctx, &p, &list, &n, NULL, NULL);
        store_block_label_values(b, &ctx, SL("x"), &p, &list, &n, NULL, NULL);
        p.n_matchers = 0;
        store_block_label_values(b, &ctx, SL("x"), &p, &list, &n, NULL, NULL);
        matcher_release(&m);
    }
}

static int drop(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *bytes = malloc(size + 1);
    char dir[128];
    ASSERT(bytes);
    memcpy(bytes, data, size);
    mend(bytes, size);
    index_bytes = slice_make(bytes, size);
    snprintf(dir, sizeof(dir), "%s/x", folder);
    for (size_t i = 0; i < ARRAY_LEN(stores); i++) {
        struct err err = ERR_NONE;
        struct arena arena;
        struct ctx ctx = {.arena = &arena};
        struct ulid id = ulid_new(1000); /* another one each time: caches know blocks by it */
        arena_init(&arena, (size_t)64 << 20);
        struct store_block *b = store_block_open(stores[i], &ctx, SL("t"), &id, dir, &err);
        ASSERT(b || (err.code != ERR_OK && err.text[0]));
        if (b) {
            b->header.index.no_checksums = true;
            read_block(b, &arena);
        }
        store_block_unref(b);
        arena_release(&arena);
        nftw(dir, drop, 8, FTW_DEPTH | FTW_PHYS);
    }
    index_bytes = (struct slice){0};
    free(bytes);
    return 0;
}
