/* What a head is after a restart, and what comes of damaged files. Slabs, chunk store and truncation beside it. */
#include <criterion/criterion.h>
#include <fcntl.h>

#include "ingest/files_int.h"
#include "tests/ingest/head_rig.h"

TestSuite(checkpoint);

static void fill(struct rig *r)
{
    static const struct histogram_span span = {0, 2};
    r->limits.out_of_order_time_window = HOUR_MS;
    r->limits.max_global_exemplars_per_user = 10;
    for (int k = 0; k < 300; k++) {
        for (int i = 0; i < 5; i++) {
            char text[64];
            snprintf(text, sizeof(text), "m,i=%d,pod=p%d", i, i % 2);
            rig_series(r, text);
            rig_sample(r, T0 + k * 15000, i * k);
            if (k % 7 == 3)
                rig_sample(r, T0 + k * 15000 - 9000, 0.25 * k);
        }
        int64_t deltas[2] = {k, 1};
        struct histogram h = {.schema = 1,
                              .count_int = 2 * (uint64_t)k + 1,
                              .sum = k,
                              .positive_spans = &span,
                              .n_positive_spans = 1,
                              .positive_deltas = deltas,
                              .n_positive = 2};
        rig_series(r, "h,x=1");
        rig_histogram(r, T0 + k * 15000, &h);
        if (k == 100)
            rig_exemplar(r, "trace_id=x", T0, 7);
        rig_apply(r);
    }
    struct write_metadata md = {.type = 1, .family = SL("m"), .help = SL("help")};
    metadata_add(&r->head->metadata, NULL, &md, 1);
}

Test(checkpoint, everything_is_there_after_a_restart)
{
    struct rig *r = rig_new(4);
    struct err err = ERR_NONE;
    fill(r);
    char *before = strdup(ASK_ALL(r));
    cr_expect_null(strstr(before, "wrong-range"));
    cr_expect_null(strstr(before, "undecodable"));
    cr_assert(rig_restart(r, &err), "%s", err.text);
    cr_expect_str_eq(ASK_ALL(r), before);
    cr_expect_eq(atomic_load(&r->head->n_series), 6);
    cr_expect_eq(atomic_load(&r->totals.n_series), 6);
    cr_expect_eq(metadata_count(&r->head->metadata), 1);
    cr_expect_str_eq(rig_ask(r, (struct rig_ask){.min_t = T0, .max_t = T0 + 9, .exemplars = true}),
                     "h,x=1: 0=7{,trace_id=x}\n");
    cr_expect_eq(metric_counts_get(&r->head->metrics_counts, SL("m")), 5);
    free(before);
    rig_free(r);
}

Test(checkpoint, a_restarted_head_goes_on_as_the_first_one_would)
{
    struct rig *a = rig_new(4);
    struct rig *b = rig_new(4);
    struct err err = ERR_NONE;
    for (int k = 0; k < 400; k++) {
        struct rig *both[] = {a, b};
        for (int x = 0; x < 2; x++) {
            for (int i = 0; i < 3; i++) {
                char text[64];
                snprintf(text, sizeof(text), "m,i=%d", i + k / 100);
                rig_series(both[x], text);
                rig_sample(both[x], T0 + k * 15000, i * k * 0.1);
            }
            rig_apply(both[x]);
        }
        if (k % 37 == 5)
            cr_assert(rig_restart(b, &err), "%s", err.text);
    }
    char *expected = strdup(ASK_ALL(a));
    cr_expect_str_eq(ASK_ALL(b), expected);
    free(expected);
    rig_free(a);
    rig_free(b);
}

Test(checkpoint, records_that_a_shard_has_are_passed_over)
{
    struct rig *r = rig_new(2);
    struct err err = ERR_NONE;
    rig_push(r, "a", T0, 1);
    rig_push(r, "a", T0 + 1, 2);
    cr_assert(rig_restart(r, &err), "%s", err.text);
    rig_series(r, "a");
    rig_sample(r, T0 + 5, 9);
    rig_apply_at(r, 1);
    cr_expect_eq(r->counts.samples, 0);
    rig_series(r, "a");
    rig_sample(r, T0 + 5, 9);
    rig_apply_at(r, 2);
    cr_expect_str_eq(ASK_ALL(r), "a: 0=1 1=2 5=9\n");
    rig_free(r);
}

Test(checkpoint, limits_do_not_refuse_what_was_taken_before_the_restart)
{
    struct rig *r = rig_new(2);
    struct err err = ERR_NONE;
    r->limits.max_global_series_per_user = 1;
    rig_push(r, "a", T0, 1);
    r->offset = 10;
    cr_assert(rig_restart(r, &err), "%s", err.text);
    /* As if the shard of b had been written before this record: its own offset is lower than the head's. */
    for (uint32_t i = 0; i < 2; i++)
        r->head->shards[i].applied = 0;
    rig_series(r, "b");
    rig_sample(r, T0, 1);
    rig_apply_at(r, 5);
    cr_expect_eq(r->counts.created, 1);
    rig_series(r, "c");
    rig_sample(r, T0, 1);
    rig_apply_at(r, 10);
    cr_expect_eq(r->counts.refused[REFUSAL_USER_LIMIT], 1);
    rig_free(r);
}

static char *ckpt_path(const struct rig *r)
{
    static char path[256];
    snprintf(path, sizeof(path), "%s/tenants/t/head.ckpt", r->dir);
    return path;
}

Test(checkpoint, any_changed_byte_is_found)
{
    struct rig *r = rig_new(2);
    struct err err = ERR_NONE;
    uint64_t size;
    fill(r);
    cr_assert(head_checkpoint(r->head, 5, &size, &err), "%s", err.text);
    int fd = open(ckpt_path(r), O_RDWR);
    struct head_totals totals = {0};
    char dir[128];
    snprintf(dir, sizeof(dir), "%s/tenants/t", r->dir);
    struct ckpt_footer footer;
    cr_assert(read_at(fd, &footer, sizeof(footer), (off_t)(size - sizeof(footer))));
    struct ckpt_section *table = calloc(footer.n_sections, sizeof(*table));
    cr_assert(read_at(fd, table, footer.n_sections * sizeof(*table), (off_t)footer.table_off));
    for (uint32_t i = 0; i < footer.n_sections; i++) {
        if (table[i].len == 0)
            continue;
        off_t at = (off_t)(table[i].off + table[i].len / 2);
        char c;
        cr_assert(read_at(fd, &c, 1, at));
        char changed = (char)(c ^ 0x10);
        cr_assert(write_at(fd, &changed, 1, at));
        struct head *h = head_load(SL("t"), dir, RIG_SEED, -1, &totals, &err);
        cr_expect_null(h, "section %u of kind %u", i, table[i].kind);
        cr_expect_eq(err.code, ERR_CORRUPT, "%s", err.text);
        cr_expect(strstr(err.text, "head.ckpt: "), "%s", err.text);
        cr_assert(write_at(fd, &c, 1, at));
    }
    for (uint64_t cut = 0; cut < size; cut += size / 13 + 1) {
        char short_path[300];
        snprintf(short_path, sizeof(short_path), "%s", ckpt_path(r));
        char *bytes;
        size_t n;
        cr_assert(file_read(short_path, SIZE_MAX / 2, &bytes, &n, &err));
        cr_assert_eq(truncate(short_path, (off_t)cut), 0);
        cr_expect_null(head_load(SL("t"), dir, RIG_SEED, -1, &totals, &err));
        cr_expect_eq(err.code, ERR_CORRUPT, "%s", err.text);
        cr_assert(write_at(fd, bytes, n, 0));
        free(bytes);
    }
    cr_expect_null(head_load(SL("t"), dir, RIG_SEED + 1, -1, &totals, &err));
    cr_expect(strstr(err.text, "hash seed"), "%s", err.text);
    cr_expect_eq(atomic_load(&totals.n_series), 0);
    free(table);
    close(fd);
    rig_free(r);
}

static struct stat stat_of(const struct rig *r, const char *name)
{
    char path[4096];
    struct stat st;
    snprintf(path, sizeof(path), "%s/tenants/t/%s", r->dir, name);
    cr_assert_eq(stat(path, &st), 0, "%s", path);
    return st;
}

/* Of the rest of a longer spare: a hole that is not in the way, or cut off. */
Test(checkpoint, the_one_before_is_written_over_by_the_next)
{
    static const struct {
        off_t more;
        bool stays;
    } cases[] = {{0, true}, {10000, true}, {64 << 20, false}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct rig *r = rig_new(4);
        struct err err = ERR_NONE;
        char path[4096];
        fill(r);
        cr_assert(rig_restart(r, &err) && rig_restart(r, &err), "%s", err.text);
        struct stat first = stat_of(r, "head.ckpt.tmp"), second = stat_of(r, "head.ckpt");
        off_t longer = first.st_size + cases[i].more;
        snprintf(path, sizeof(path), "%s/tenants/t/head.ckpt.tmp", r->dir);
        cr_assert_eq(truncate(path, longer), 0);
        char *before = strdup(ASK_ALL(r));
        cr_assert(rig_restart(r, &err), "%s", err.text);
        struct stat third = stat_of(r, "head.ckpt");
        cr_expect(third.st_ino == first.st_ino && stat_of(r, "head.ckpt.tmp").st_ino == second.st_ino);
        cr_expect_eq(third.st_size, cases[i].stays ? longer : second.st_size, "%lld", (long long)third.st_size);
        cr_expect_str_eq(ASK_ALL(r), before);
        free(before);
        rig_free(r);
    }
}

Test(checkpoint, long_strings_and_many_symbols)
{
    struct rig *r = rig_new(1);
    struct err err = ERR_NONE;
    char *text = malloc(300000);
    memcpy(text, "m,x=", 4);
    for (int n = 1000; n < 290000; n = n * 5 / 2) {
        memset(text + 4, 'a' + n % 7, (size_t)n);
        text[4 + n] = 0;
        rig_push(r, text, T0, n);
        rig_push(r, "m,y=short", T0 + n, n);
    }
    char *before = strdup(ASK_ALL(r));
    cr_assert(rig_restart(r, &err), "%s", err.text);
    cr_expect_str_eq(ASK_ALL(r), before);
    free(before);
    free(text);
    rig_free(r);
}

Test(checkpoint, manifest_says_what_is_wrong)
{
    struct rig *r = rig_new(1);
    struct err err = ERR_NONE;
    int64_t offset;
    cr_expect_not(manifest_read(r->dir, 3, 7, &offset, &err));
    cr_expect_eq(err.code, ERR_NOT_FOUND);
    cr_assert(manifest_write(r->dir, 3, 7, 42, &err));
    cr_assert(manifest_read(r->dir, 3, 7, &offset, &err));
    cr_expect_eq(offset, 42);
    cr_expect_not(manifest_read(r->dir, 4, 7, &offset, &err));
    cr_expect_eq(err.code, ERR_CONFIG);
    cr_expect_not(manifest_read(r->dir, 3, 8, &offset, &err));
    cr_expect_eq(err.code, ERR_CONFIG);
    cr_assert(file_replace(r->dir, "manifest", SL("nonsense"), &err));
    cr_expect_not(manifest_read(r->dir, 3, 7, &offset, &err));
    cr_expect_eq(err.code, ERR_CORRUPT);
    rig_free(r);
}

/* --- chunk store --- */

Test(checkpoint, chunks_are_read_from_the_tail_and_from_the_file)
{
    struct rig *r = rig_new(1);
    struct err err = ERR_NONE;
    for (int i = 0; i < 300; i++)
        rig_push(r, "a", T0 + i * 15000, i);
    char *before = strdup(ASK_ALL(r));
    cr_expect_gt(atomic_load(&r->head->chunks->tail_bytes), 0);
    cr_assert(chunk_store_flush(r->head->chunks, true, &err));
    cr_expect_eq(atomic_load(&r->head->chunks->tail_bytes), 0);
    cr_expect_str_eq(ASK_ALL(r), before);
    free(before);
    rig_free(r);
}

Test(checkpoint, a_damaged_chunk_is_left_out_of_the_answer)
{
    struct rig *r = rig_new(1);
    struct err err = ERR_NONE;
    for (int i = 0; i < 300; i++)
        rig_push(r, "a", T0 + i * 15000, i);
    cr_assert(chunk_store_flush(r->head->chunks, true, &err));
    char path[256];
    snprintf(path, sizeof(path), "%s/tenants/t/chunks/000001", r->dir);
    int fd = open(path, O_RDWR);
    cr_assert(write_at(fd, "\xFF", 1, CHUNK_FILE_HEADER + CHUNK_HEADER + 20));
    close(fd);
    const char *all = ASK_ALL(r);
    cr_expect_eq(strncmp(all, "a: 1800000=120 ", 15), 0, "%.40s", all);
    rig_free(r);
}

Test(checkpoint, a_disk_that_takes_nothing_leaves_chunks_in_memory)
{
    struct rig *r = rig_new(1);
    struct err err = ERR_NONE;
    char dir[128];
    char away[160];
    snprintf(dir, sizeof(dir), "%s/tenants/t/chunks", r->dir);
    snprintf(away, sizeof(away), "%s.away", dir);
    cr_assert_eq(rename(dir, away), 0);
    for (int i = 0; i < 300; i++)
        rig_push(r, "a", T0 + i * 15000, i);
    char *before = strdup(ASK_ALL(r));
    uint64_t bytes;
    cr_expect_not(chunk_store_flush(r->head->chunks, true, &err));
    cr_expect_not(head_checkpoint(r->head, 5, &bytes, &err));
    cr_expect(strstr(err.text, "000001"), "%s", err.text);
    cr_expect_neq(access(ckpt_path(r), F_OK), 0);
    cr_expect_str_eq(ASK_ALL(r), before);
    cr_assert_eq(rename(away, dir), 0);
    cr_assert(rig_restart(r, &err), "%s", err.text);
    cr_expect_str_eq(ASK_ALL(r), before, "it heals");
    free(before);
    rig_free(r);
}

/* --- truncation --- */

Test(checkpoint, truncation_drops_old_series_and_chunks_and_nothing_else)
{
    struct rig *r = rig_new(2);
    struct err err = ERR_NONE;
    r->limits.max_global_series_per_user = 2;
    rig_push(r, "old,x=1", T0, 1);
    for (int i = 0; i < 500; i++)
        rig_push(r, "a,x=2", T0 + i * 15000, i);
    rig_push(r, "late", T0 + 480 * 15000, 1);
    cr_expect_eq(r->counts.refused[REFUSAL_USER_LIMIT], 1);
    cr_expect_eq(rig_truncate(r, T0 + HOUR_MS), 1);
    const char *all = ASK_ALL(r);
    cr_expect_eq(strncmp(all, "a,x=2: 3600000=240 ", 19), 0, "%.40s", all);
    cr_expect(strstr(all, "7485000=499\n"));
    const struct rig_matcher *none = NULL;
    cr_expect_str_eq(
        rig_ask(r, (struct rig_ask){.m = none, .min_t = T0, .max_t = T0 + 9 * HOUR_MS, .values_of = "__name__"}), "a");
    cr_expect_eq(metric_counts_get(&r->head->metrics_counts, SL("old")), 0);
    rig_push(r, "late", T0 + 500 * 15000, 1);
    cr_expect_eq(r->counts.created, 1, "there is room again");
    rig_push(r, "a,x=2", T0 + 500 * 15000, 500);
    char *before = strdup(ASK_ALL(r));
    cr_assert(rig_restart(r, &err), "%s", err.text);
    cr_expect_str_eq(ASK_ALL(r), before);
    free(before);
    rig_free(r);
}

Test(checkpoint, truncation_keeps_histograms_and_late_samples)
{
    struct rig *r = rig_new(4);
    fill(r);
    char *before = strdup(ASK_RANGE(r, T0 + HOUR_MS, T0 + 2 * HOUR_MS));
    rig_push(r, "dead", T0 + 200 * 15000, 1);
    rig_truncate(r, T0 + 220 * 15000);
    char *after = strdup(ASK_RANGE(r, T0 + HOUR_MS, T0 + 2 * HOUR_MS));
    cr_expect_str_eq(after, before);
    free(before);
    free(after);
    rig_free(r);
}

Test(checkpoint, chunk_files_go_after_the_checkpoint_that_does_not_name_them)
{
    struct rig *r = rig_new(1);
    struct err err = ERR_NONE;
    uint64_t bytes;
    for (int i = 0; i < 300; i++)
        rig_push(r, "a", T0 + i * 15000, i);
    cr_assert(head_checkpoint(r->head, r->offset - 1, &bytes, &err));
    rig_push(r, "a", T0 + 6 * HOUR_MS, 1);
    cr_assert(chunk_store_flush(r->head->chunks, true, &err));
    char path[256];
    snprintf(path, sizeof(path), "%s/tenants/t/chunks/000001", r->dir);
    struct matcher m;
    cr_assert(matcher_init(&m, MATCH_EQ, SL("__name__"), SL("a"), &err));
    struct arena arena;
    arena_init(&arena, 0);
    struct ctx ctx = {.tenant = SL("t"), .arena = &arena};
    struct select_params p = {.min_t = T0, .max_t = T0 + HOUR_MS, .matchers = &m, .n_matchers = 1};
    struct series_set *set = head_select(r->head, &ctx, &p, &err);
    cr_assert(set);

    rig_truncate(r, T0 + 6 * HOUR_MS);
    cr_expect_eq(access(path, F_OK), 0, "a restart would still need it");
    cr_assert(head_checkpoint(r->head, r->offset - 1, &bytes, &err));
    cr_expect_neq(access(path, F_OK), 0);

    struct series s;
    size_t n;
    cr_assert(series_set_next(set, &ctx, &s, 1, &n, &err));
    cr_assert_eq(n, 1, "a query that began before reads on");
    cr_expect_eq(s.n_chunks, 3);
    struct chunk_columns cols;
    cr_assert(chunk_decode(s.chunks[0].encoding, s.chunks[0].data, &arena, &cols, &err));
    cr_expect_eq(cols.n, 120);
    series_set_release(set);
    arena_release(&arena);
    matcher_release(&m);

    rig_push(r, "a", T0 + 6 * HOUR_MS + 1, 2);
    cr_assert(rig_restart(r, &err), "%s", err.text);
    cr_expect_str_eq(ASK_ALL(r), "a: 21600000=1 21600001=2\n");
    rig_free(r);
}

/* --- slabs --- */

Test(checkpoint, slabs_keep_what_is_in_them_and_reuse_what_is_freed)
{
    struct slabs s = {0};
    enum { N = 3000 };
    static uint32_t handles[N];
    static size_t sizes[N];
    uint64_t x = 1;
    for (int round = 0; round < 30; round++) {
        for (int i = 0; i < N; i++) {
            x = x * 6364136223846793005ULL + 1442695040888963407ULL;
            if (handles[i]) {
                const unsigned char *p = slab_ptr(&s, handles[i]);
                cr_assert(p[0] == (unsigned char)i && p[sizes[i] - 1] == (unsigned char)i);
            }
            if (x >> 62 == 0 && handles[i]) {
                slab_free(&s, handles[i]);
                handles[i] = 0;
            } else if (!handles[i] || x >> 62 == 1) {
                size_t n = 1 + (x >> 40) % ((x >> 33) % 8 == 0 ? 30000 : 900);
                handles[i] = handles[i] ? slab_move(&s, handles[i], n, MIN(n, sizes[i])) : slab_alloc(&s, n);
                sizes[i] = n;
                cr_assert_geq(slab_size(&s, handles[i]), n);
                memset(slab_ptr(&s, handles[i]), i, n);
            }
        }
        cr_assert(slabs_verify(&s), "round %d", round);
    }
    for (int i = 0; i < N; i++)
        if (handles[i])
            slab_free(&s, handles[i]);
    cr_assert(slabs_verify(&s));
    cr_expect_eq(slab_pages(&s)[0].pages, s.pages.n / sizeof(struct slab_page), "all of it is one free run");
    slabs_release(&s);
}

Test(checkpoint, slabs_that_grow_in_step_do_not_leave_their_smaller_sizes_behind)
{
    struct slabs s = {0};
    enum { N = 20000 };
    static uint32_t handles[N];
    for (int i = 0; i < N; i++)
        handles[i] = slab_alloc(&s, 48);
    for (size_t n = 64; n <= 256; n += 16)
        for (int i = 0; i < N; i++)
            handles[i] = slab_move(&s, handles[i], n, 16);
    cr_expect_lt(s.mem.n, (size_t)N * 256 * 3 / 2, "%zu", s.mem.n / N);
    slabs_release(&s);
}
