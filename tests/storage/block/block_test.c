/* Writing and reading blocks: what is asked for comes back, what is wrong is refused, nothing half-made is seen. */
#include <signal.h>
#include <sys/resource.h>

#include "storage/block/writer_int.h"
#include "tests/storage/block/block_util.h"

#define TIMES 0, 7200000

/* A dozen series over two jobs, one chunk in each hour. */
static size_t make_series(struct series **ret)
{
    struct series *s = ARENA_ARRAY(&arena, struct series, 12);
    for (int i = 0; i < 12; i++) {
        struct series_chunk *chunks = ARENA_ARRAY(&arena, struct series_chunk, 2);
        char text[128];
        snprintf(text, sizeof(text), "__name__=m%d,instance=i%02d,job=%s%s", i / 6, i, i % 2 ? "odd" : "even", i % 3 ? "" : ",third=yes");
        chunks[0] = float_chunk(i, 60000, 30, i);
        chunks[1] = float_chunk(3600000 + i, 60000, 30, i);
        s[i] = (struct series){labels_of(text), chunks, 2};
    }
    *ret = s;
    return 12;
}

static struct block *dozen(void)
{
    struct series *s;
    size_t n = make_series(&s);
    return open_block(write_block(s, n, meta_of_times(TIMES)));
}

/* "i01 i02 ...": the instances that the matchers find. */
static const char *instances(struct block *b, const struct matcher *ms, size_t n_ms)
{
    struct ctx ctx = test_ctx();
    struct err err = ERR_NONE;
    struct select_params p = {.min_t = INT64_MIN, .max_t = INT64_MAX, .matchers = ms, .n_matchers = n_ms, .no_chunks = true};
    struct series_set *set = block_select(b, &ctx, &p, &err);
    struct series s;
    size_t n;
    char *out = arena_printf(&arena, "%s", "");
    cr_assert(set, "%s", err.text);
    while (series_set_next(set, &ctx, &s, 1, &n, &err) && n)
        out = arena_printf(&arena, "%s%s%.*s", out, *out ? " " : "", SL_FMT(labels_get(s.labels, SL("instance"))));
    cr_assert_eq(err.code, ERR_OK, "%s", err.text);
    series_set_release(set);
    return out;
}

Test(block, matchers_find_what_they_find_by_trying_every_series, .init = setup, .fini = teardown)
{
    static const struct {
        enum matcher_type type;
        const char *name, *value;
    } all[] = {
        {MATCH_EQ, "job", "odd"}, {MATCH_EQ, "job", ""}, {MATCH_EQ, "job", "none"}, {MATCH_EQ, "nothing", ""}, {MATCH_EQ, "nothing", "x"},
        {MATCH_NEQ, "job", "odd"}, {MATCH_NEQ, "third", ""}, {MATCH_NEQ, "third", "yes"}, {MATCH_NEQ, "nothing", "x"},
        {MATCH_RE, "instance", "i0.*"}, {MATCH_RE, "instance", "i01|i02|i11|i99"}, {MATCH_RE, "third", "|yes"}, {MATCH_RE, "third", ".*"},
        {MATCH_RE, "third", ".+"}, {MATCH_RE, "instance", "i01|"}, {MATCH_NRE, "instance", "i0[1-3]"}, {MATCH_NRE, "third", ".+"},
        {MATCH_NRE, "instance", "i01|i02"}, {MATCH_NRE, "third", "|no"}, {MATCH_NRE, "third", ".*"}, {MATCH_RE, "__name__", "m[01]"},
    };
    struct series *s;
    size_t n = make_series(&s);
    struct block *b = dozen();
    struct matcher ms[ARRAY_LEN(all)];
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        cr_assert(matcher_init(&ms[i], all[i].type, slice_of(all[i].name), slice_of(all[i].value), NULL));
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        for (size_t j = 0; j < ARRAY_LEN(all); j++) {
            struct matcher two[] = {ms[i], ms[j]};
            char *want = arena_printf(&arena, "%s", "");
            for (size_t k = 0; k < n; k++)
                if (matchers_match(two, 2, s[k].labels))
                    want = arena_printf(&arena, "%s%s%.*s", want, *want ? " " : "", SL_FMT(labels_get(s[k].labels, SL("instance"))));
            cr_expect_str_eq(instances(b, two, 2), want, "%zu and %zu", i, j);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        matcher_release(&ms[i]);
    block_close(b);
}

Test(block, gives_the_chunks_that_touch_the_time_and_no_others, .init = setup, .fini = teardown)
{
    struct block *b = dozen();
    static const struct {
        int64_t min_t, max_t;
        size_t n_series, n_chunks;
    } cases[] = {{INT64_MIN, -1, 0, 0}, {0, 0, 1, 1}, {0, 11, 12, 12}, {29 * 60000 + 11, 29 * 60000 + 11, 1, 1}, {29 * 60000 + 12, 3599999, 0, 0},
                 {0, 3600000, 12, 13}, {0, INT64_MAX, 12, 24}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct ctx ctx = test_ctx();
        struct err err = ERR_NONE;
        struct select_params p = {.min_t = cases[i].min_t, .max_t = cases[i].max_t};
        struct series_set *set = block_select(b, &ctx, &p, &err);
        struct series batch[20];
        size_t n, n_chunks = 0;
        cr_assert(set && series_set_next(set, &ctx, batch, 20, &n, &err), "%s", err.text);
        for (size_t k = 0; k < n; k++)
            n_chunks += batch[k].n_chunks;
        cr_expect(n == cases[i].n_series && n_chunks == cases[i].n_chunks, "%zu: %zu series, %zu chunks", i, n, n_chunks);
        series_set_release(set);
    }
    block_close(b);
}

Test(block, a_limit_ends_the_series, .init = setup, .fini = teardown)
{
    struct block *b = dozen();
    struct ctx ctx = test_ctx();
    struct select_params p = EVERYTHING;
    struct series batch[4];
    size_t n, total = 0;
    p.limit = 6;
    struct series_set *set = block_select(b, &ctx, &p, NULL);
    while (series_set_next(set, &ctx, batch, 4, &n, NULL) && n)
        total += n;
    cr_expect_eq(total, 6);
    series_set_release(set);
    block_close(b);
}

static const char *joined(const struct slice *s, size_t n)
{
    char *out = arena_printf(&arena, "%s", "");
    for (size_t i = 0; i < n; i++)
        out = arena_printf(&arena, "%s%s%.*s", out, i ? " " : "", SL_FMT(s[i]));
    return out;
}

Test(block, names_and_values_of_all_and_of_matching_series, .init = setup, .fini = teardown)
{
    struct block *b = dozen();
    struct ctx ctx = test_ctx();
    struct select_params all = EVERYTHING, some = EVERYTHING;
    struct matcher m;
    const struct slice *list;
    size_t n;
    cr_assert(matcher_init(&m, MATCH_RE, SL("instance"), SL("i0[1-2]"), NULL));
    some.matchers = &m;
    some.n_matchers = 1;
    cr_assert(block_label_names(b, &ctx, &all, &list, &n, NULL));
    cr_expect_str_eq(joined(list, n), "__name__ instance job third");
    cr_assert(block_label_names(b, &ctx, &some, &list, &n, NULL));
    cr_expect_str_eq(joined(list, n), "__name__ instance job");
    cr_assert(block_label_values(b, &ctx, SL("job"), &all, &list, &n, NULL));
    cr_expect_str_eq(joined(list, n), "even odd");
    cr_assert(block_label_values(b, &ctx, SL("instance"), &some, &list, &n, NULL));
    cr_expect_str_eq(joined(list, n), "i01 i02");
    cr_assert(block_label_values(b, &ctx, SL("third"), &some, &list, &n, NULL));
    cr_expect_eq(n, 0);
    cr_assert(block_label_values(b, &ctx, SL("nothing"), &all, &list, &n, NULL));
    cr_expect_eq(n, 0);
    all.limit = 3;
    cr_assert(block_label_names(b, &ctx, &all, &list, &n, NULL));
    cr_expect_str_eq(joined(list, n), "__name__ instance job");
    matcher_release(&m);
    block_close(b);
}

Test(block, that_needs_more_memory_than_the_query_has_is_an_error, .init = setup, .fini = teardown)
{
    struct block *b = dozen();
    struct arena small;
    struct err err = ERR_NONE;
    struct select_params p = EVERYTHING;
    struct series batch[12];
    size_t n;
    arena_init(&small, 4096);
    (void)arena_alloc(&small, 3500);
    struct ctx ctx = {.arena = &small};
    struct series_set *set = block_select(b, &ctx, &p, &err);
    cr_expect(!set || !series_set_next(set, &ctx, batch, 12, &n, &err));
    cr_expect_eq(err.code, ERR_MAX_QUERY_MEMORY, "%s", err.text);
    series_set_release(set);
    arena_release(&small);
    block_close(b);
}

Test(block, a_canceled_query_ends, .init = setup, .fini = teardown)
{
    struct block *b = dozen();
    atomic_bool canceled = true;
    struct err err = ERR_NONE;
    struct ctx ctx = {.arena = &arena, .canceled = &canceled};
    struct select_params p = EVERYTHING;
    struct series batch[12];
    size_t n;
    struct series_set *set = block_select(b, &ctx, &p, &err);
    cr_expect(!series_set_next(set, &ctx, batch, 12, &n, &err) && err.code == ERR_CANCELED);
    series_set_release(set);
    block_close(b);
}

/* --- the writer --- */

static size_t n_entries(const char *dir)
{
    size_t n = 0;
    DIR *d = opendir(dir);
    struct dirent *e;
    while (d && (e = readdir(d)))
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

Test(block_writer, that_is_dropped_leaves_nothing, .init = setup, .fini = teardown)
{
    struct series *s;
    size_t n = make_series(&s);
    struct block_meta meta = meta_of_times(TIMES);
    struct block_writer *w = writer_for(s, n, &meta);
    cr_assert(block_writer_add(w, &s[0].labels, s[0].chunks, s[0].n_chunks, NULL));
    cr_expect_eq(n_entries(folder), 1);
    cr_expect_null(block_open(path_of(folder, meta.ulid.text), NULL));
    block_writer_free(w);
    cr_expect_eq(n_entries(folder), 0);
}

Test(block_writer, what_a_killed_process_left_is_cleared_away_and_blocks_stay, .init = setup, .fini = teardown)
{
    struct series *s;
    size_t n = make_series(&s);
    write_block(s, n, meta_of_times(TIMES));
    const char *left = path_of(folder, "01M7Y7WR36RNAK3M75MGY89WZT.tmp-for-creation");
    cr_assert(mkdir(left, 0755) == 0 && mkdir(path_of(left, "chunks"), 0755) == 0 && mkdir(path_of(folder, "else.tmp-for-creation"), 0755) == 0);
    write_file(path_of(left, "chunks/000001"), SL("x"));
    cr_assert(block_remove_unfinished(folder, NULL));
    cr_expect_eq(n_entries(folder), 2);
    cr_expect(block_remove_unfinished(path_of(folder, "missing"), NULL));
}

Test(block_writer, a_block_that_is_there_is_not_written_over, .init = setup, .fini = teardown)
{
    struct series *s;
    size_t n = make_series(&s);
    struct err err = ERR_NONE;
    struct block_meta meta = meta_of_times(TIMES);
    write_block(s, n, meta);
    cr_expect_null(block_writer_new(folder, &meta, NULL, 0, &err));
    cr_expect_eq(err.code, ERR_CONFLICT);
}

static void expect_refused(struct labels labels, const struct series_chunk *chunks, size_t n_chunks, const char *text)
{
    struct series first = {labels_of("a=1,b=2"), (struct series_chunk[]){float_chunk(5, 1, 2, 0)}, 1};
    struct series known[] = {first, {labels_of("a=2,b=1,c=2"), NULL, 0}};
    struct block_meta meta = meta_of_times(0, 100);
    struct err err = ERR_NONE;
    struct block_writer *w = writer_for(known, 2, &meta);
    cr_assert(block_writer_add(w, &first.labels, first.chunks, 1, &err), "%s", err.text);
    cr_expect(!block_writer_add(w, &labels, chunks, n_chunks, &err), "%s", text);
    cr_expect(err.code == ERR_INTERNAL && strstr(err.text, text), "%s: %s", text, err.text);
    cr_expect(!block_writer_finish(w, &arena, NULL, NULL), "%s: finished", text);
    block_writer_free(w);
    cr_expect_eq(n_entries(folder), 0);
}

Test(block_writer, what_no_block_may_have_is_refused, .init = setup, .fini = teardown)
{
    struct series_chunk good = float_chunk(10, 1, 5, 0), early = float_chunk(-1, 1, 5, 0), late = float_chunk(96, 1, 5, 0), empty = good;
    struct series_chunk overlap[] = {good, float_chunk(14, 1, 2, 0)};
    empty.data = slice_make("\0\0", 2);
    expect_refused(labels_of("a=1,b=2"), &good, 1, "out of order");
    expect_refused(labels_of("a=1,b=1"), &good, 1, "out of order");
    expect_refused(labels_of("a=1"), &good, 1, "out of order");
    expect_refused((struct labels){NULL, 0}, &good, 1, "out of order");
    expect_refused(labels_of("a=2,b=3"), &good, 1, "no symbol");
    expect_refused(labels_of("a=2,c=1,b=1"), &good, 1, "out of order");
    expect_refused(labels_of("a=2,b=2"), NULL, 0, "without chunks");
    expect_refused(labels_of("a=2,b=2"), &early, 1, "out of the block's times");
    expect_refused(labels_of("a=2,b=2"), &late, 1, "out of the block's times");
    expect_refused(labels_of("a=2,b=2"), &empty, 1, "no samples");
    expect_refused(labels_of("a=2,b=2"), overlap, 2, "not after");
}

Test(block_writer, a_folder_that_is_missing_is_an_error, .init = setup, .fini = teardown)
{
    struct err err = ERR_NONE;
    struct block_meta meta = meta_of_times(TIMES);
    cr_expect_null(block_writer_new(path_of(folder, "missing"), &meta, NULL, 0, &err));
    cr_expect(err.code == ERR_IO && strstr(err.text, "missing"), "%s", err.text);
}

/* A limit on the size of files stands for a full disk: the first n bytes of index or chunks can be written, the next cannot. */
Test(block_writer, that_cannot_write_says_so_and_leaves_nothing, .init = setup, .fini = teardown)
{
    struct series *s;
    size_t n = make_series(&s);
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t bytes = 0; bytes < 1200; bytes += 100) {
        struct err err = ERR_NONE;
        struct block_meta meta = meta_of_times(TIMES);
        struct block_writer *w = writer_for(s, n, &meta);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){bytes, RLIM_INFINITY});
        bool good = true;
        for (size_t i = 0; good && i < n; i++)
            good = block_writer_add(w, &s[i].labels, s[i].chunks, s[i].n_chunks, &err);
        good = good && block_writer_finish(w, &arena, NULL, &err);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY});
        cr_expect(!good && err.code == ERR_IO && strstr(err.text, "writing"), "%d bytes: %s", (int)bytes, err.text);
        block_writer_free(w);
        cr_expect_eq(n_entries(folder), 0);
    }
}

Test(block_writer, small_segments_and_rounds_of_postings_give_the_same_block, .init = setup, .fini = teardown)
{
    struct series *s;
    size_t n = make_series(&s);
    struct err err = ERR_NONE;
    struct block_meta meta = meta_of_times(TIMES);
    const char *one = write_block(s, n, meta_of_times(TIMES));
    struct block_writer *w = writer_for(s, n, &meta);
    block_writer_set_sizes(w, 256, 16);
    for (size_t i = 0; i < n; i++)
        cr_assert(block_writer_add(w, &s[i].labels, s[i].chunks, s[i].n_chunks, &err));
    struct block_meta written;
    cr_assert(block_writer_finish(w, &arena, &written, &err), "%s", err.text);
    block_writer_free(w);
    cr_expect_gt(written.n_files, 6);
    for (size_t i = 0; i + 2 < written.n_files; i++)
        cr_expect_leq(written.files[i].size, 256);
    struct block *a = open_block(one), *b = open_block(path_of(folder, meta.ulid.text));
    struct buf x = {0}, y = {0};
    struct select_params p = EVERYTHING;
    cr_expect(select_text(a, &p, &x, &err) && select_text(b, &p, &y, &err) && slice_eq(buf_slice(&x), buf_slice(&y)), "%s", err.text);
    cr_expect(block_verify(b, &err), "%s", err.text);
    buf_release(&x);
    buf_release(&y);
    block_close(a);
    block_close(b);
}

Test(block_writer, a_block_without_series_can_be_read, .init = setup, .fini = teardown)
{
    struct err err = ERR_NONE;
    struct block *b = open_block(write_block(NULL, 0, meta_of_times(TIMES)));
    cr_expect(block_verify(b, &err), "%s", err.text);
    cr_expect_str_eq(instances(b, NULL, 0), "");
    block_close(b);
}
