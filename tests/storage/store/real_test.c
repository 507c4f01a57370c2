/* Blocks of a real Mimir (shared/mimir/blocks): its store-gateway's files are ours byte for byte, and what a select gives is what the block has. */
#include <zlib.h>

#include "model/proto.h"
#include "tests/storage/store/store_util.h"

static struct test_store t;
static size_t compared;

static void begin(void)
{
    setup();
    store_setup(&t, open_bucket(REAL_BLOCKS "/compacted"));
}

static void end(void)
{
    store_end(&t);
    objstore_free(t.bucket);
    teardown();
}

static struct slice unzip(struct slice s)
{
    size_t cap = 1 << 20;
    char *out = arena_alloc(&arena, cap);
    z_stream z = {.next_in = (Bytef *)(uintptr_t)s.p, .avail_in = (uInt)s.n, .next_out = (Bytef *)out, .avail_out = (uInt)cap};
    cr_assert_eq(inflateInit2(&z, 31), Z_OK);
    cr_assert_eq(inflate(&z, Z_FINISH), Z_STREAM_END);
    inflateEnd(&z);
    return slice_make(out, z.total_out);
}

/* The message in an order of our own: maps come in any. */
static struct slice *parts_of(struct slice bytes, size_t *ret_n)
{
    struct slice *parts = ARENA_ARRAY(&arena, struct slice, 4096), table = {0};
    struct proto r = proto_of(bytes, "Sparse", NULL);
    size_t n = 0;
    bool found;
    cr_assert(proto_find(&r, 1, "symbols", &parts[n++], &found) && found);
    cr_assert(proto_find(&r, 2, "table", &table, &found) && found && !proto_more(&r));
    r = proto_of(table, "table", NULL);
    while (proto_more(&r)) {
        uint32_t field, wire;
        const char *from = r.p;
        cr_assert(proto_tag(&r, &field, &wire) && proto_skip(&r, wire));
        parts[n++] = slice_make(from, (size_t)(r.p - from));
    }
    qsort(parts, n, sizeof(*parts), util_cmp_slices);
    *ret_n = n;
    return parts;
}

static void same_sparse(const char *ours, const char *theirs)
{
    size_t n, m;
    struct slice *a = parts_of(unzip(read_file(ours)), &n), *b = parts_of(unzip(read_file(theirs)), &m);
    cr_assert_eq(n, m, "%s: %zu parts, not %zu", theirs, n, m);
    for (size_t i = 0; i < n; i++)
        cr_assert(slice_eq(a[i], b[i]), "%s: part %zu", theirs, i);
}

/* fn for each block of the store-gateway's folder. */
static void each(void (*fn)(struct slice tenant, const char *id, const char *theirs))
{
    const char *const tenants[] = {"tenant-a", "tenant-b"};
    for (size_t i = 0; i < ARRAY_LEN(tenants); i++) {
        const char *dir = arena_printf(&arena, REAL_BLOCKS "/store-gateway/%s", tenants[i]);
        DIR *d = opendir(dir);
        cr_assert(d, "%s", dir);
        for (struct dirent *e; (e = readdir(d));)
            if (e->d_name[0] != '.' && access(arena_printf(&arena, REAL_BLOCKS "/compacted/%s/%s/index", tenants[i], e->d_name), R_OK) == 0)
                fn(slice_of(tenants[i]), arena_printf(&arena, "%s", e->d_name), arena_printf(&arena, "%s/%s", dir, e->d_name));
        closedir(d);
    }
}

static void compare_files(struct slice tenant, const char *id, const char *theirs)
{
    const char *ours = dir_of(&t, tenant, id);
    store_block_unref(remote_block(&t, tenant, id));
    cr_assert(slice_eq(read_file(path_of(ours, "index-header")), read_file(path_of(theirs, "index-header"))), "%s", theirs);
    same_sparse(path_of(ours, "sparse-index-header"), path_of(theirs, "sparse-index-header"));
    compared++;
}

Test(store_real, index_headers_are_mimirs, .init = begin, .fini = end)
{
    store_begin(&t, NO_CACHES);
    each(compare_files);
    cr_assert_gt(compared, 10);
}

static void take_theirs(struct slice tenant, const char *id, const char *theirs)
{
    struct err err = ERR_NONE;
    struct header h;
    cr_assert(header_open(&h, path_of(theirs, "index-header"), "x/index", &err), "%s", err.text);
    cr_assert(header_load_sparse(&h, read_file(path_of(theirs, "sparse-index-header")), &err), "%s: %s", theirs, err.text);
    cr_assert_eq(h.sampling, 32);
    header_release(&h);
    (void)tenant, (void)id;
    compared++;
}

Test(store_real, sparse_headers_of_mimir_are_read, .init = begin, .fini = end)
{
    store_begin(&t, NO_CACHES);
    each(take_theirs);
    cr_assert_gt(compared, 10);
}

/* The bucket's own sparse header is taken as it is: our file has its bytes. */
static void from_bucket(struct slice tenant, const char *id, const char *theirs)
{
    const char *object = arena_printf(&arena, REAL_BLOCKS "/compacted/%.*s/%s/sparse-index-header", SL_FMT(tenant), id);
    (void)theirs;
    if (access(object, R_OK) != 0)
        return;
    store_block_unref(remote_block(&t, tenant, id));
    cr_assert(slice_eq(read_file(path_of(dir_of(&t, tenant, id), "sparse-index-header")), read_file(object)));
    compared++;
}

Test(store_real, large_indexes_take_the_sparse_header_of_the_bucket, .init = begin, .fini = end)
{
    store_begin(&t, NO_CACHES);
    t.store->ask_bucket_bytes = 0;
    each(from_bucket);
    cr_assert_gt(compared, 3);
}

static void compare_answers(struct slice tenant, const char *id, const char *theirs)
{
    struct err err = ERR_NONE;
    struct matcher m[2];
    struct block *local = open_block(arena_printf(&arena, REAL_BLOCKS "/compacted/%.*s/%s", SL_FMT(tenant), id));
    struct store_block *b = remote_block(&t, tenant, id);
    struct select_params p = EVERYTHING;
    expect_same(local, b, &p, theirs);
    expect_same_labels(local, b, &p, theirs);
    cr_assert(matcher_init(&m[0], MATCH_RE, SL("__name__"), SL("wave|flat|.*stale.*"), &err));
    cr_assert(matcher_init(&m[1], MATCH_NEQ, SL("zone"), SL("\xc3\xb8-0"), &err));
    p.matchers = m;
    p.n_matchers = 2;
    expect_same(local, b, &p, theirs);
    expect_same_labels(local, b, &p, theirs);
    p.min_t = block_meta_of(local)->min_t + 600000;
    p.max_t = p.min_t + 600000;
    expect_same(local, b, &p, theirs);
    matcher_release(&m[0]);
    matcher_release(&m[1]);
    store_block_unref(b);
    block_close(local);
    compared++;
}

Test(store_real, answers_are_those_of_the_local_block, .init = begin, .fini = end)
{
    store_begin(&t, NO_CACHES);
    each(compare_answers);
    cr_assert_gt(compared, 10);
}

Test(store_real, answers_with_caches_are_those_of_the_local_block, .init = begin, .fini = end)
{
    store_begin(&t, CACHES);
    each(compare_answers);
    each(compare_answers);
    cr_assert_gt(compared, 20);
}
