/*
 * Cutting a head into blocks, below the ingester: which samples are where, at every step, and after a kill at every step. The samples pushed are kept as a
 * list; a head and its blocks on disk are counted against it.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <sys/wait.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "ingest/files_int.h"
#include "tests/ingest/cut_rig.h"

/* --- what a block is --- */

Test(cut, an_hour_after_its_end_a_range_is_ready_and_not_before)
{
    struct cut_world *w = cut_world_new(2);
    cut_push(w, "a", 0, 1);
    cut_push(w, "a", 3 * HOUR_MS - 1, 2);
    cr_expect_eq(head_cut_ready(w->rig->head), INT64_MIN);
    cut_push(w, "a", 3 * HOUR_MS, 3);
    cr_expect_eq(head_cut_ready(w->rig->head), T0 + 2 * HOUR_MS);
    cr_assert(cut_all_steps(w, T0 + 2 * HOUR_MS));
    cr_expect_eq(head_cut_ready(w->rig->head), INT64_MIN);
    cr_expect_eq(w->result.n_blocks, 1);
    cr_expect_eq(w->result.n_samples, 1);
    cut_world_free(w);
}

Test(cut, a_block_has_the_range_and_the_meta_of_an_ingester)
{
    struct cut_world *w = cut_world_new(4);
    cut_fill(w);
    cr_assert(cut_all_steps(w, T0 + 2 * HOUR_MS));
    size_t n;
    struct local_block_info *list = local_blocks_list(w->blocks, SL("t"), &n);
    cr_assert_eq(n, 1);
    cr_expect_eq(list[0].min_t, T0);
    cr_expect_eq(list[0].max_t, T0 + 2 * HOUR_MS);
    struct err err = ERR_NONE;
    struct block *b = block_open(list[0].path, &err);
    cr_assert(b, "%s", err.text);
    cr_expect(block_verify(b, &err), "%s", err.text);
    const struct block_meta *m = block_meta_of(b);
    cr_expect_eq(m->level, 1);
    cr_expect_eq(m->n_sources, 1);
    cr_expect_str_eq(m->sources[0].text, list[0].ulid.text);
    cr_expect(slice_eq(m->source, SL("receive")));
    cr_expect_eq(m->n_hints + m->n_parents + m->n_labels, 0);
    cr_expect_eq(m->stats.samples, w->result.n_samples);
    cr_expect_gt(m->stats.histogram_samples, 0);
    block_close(b);
    free(list);
    cut_expect_each_once(w, "after the cut");
    cut_world_free(w);
}

Test(cut, late_samples_of_a_range_cut_before_make_a_block_of_their_own)
{
    struct cut_world *w = cut_world_new(2);
    w->rig->limits.out_of_order_time_window = 24 * HOUR_MS;
    for (int64_t t = 0; t <= 5 * HOUR_MS; t += 60000)
        cut_push(w, "a", t, (double)t);
    cr_assert(cut_all_steps(w, T0 + 4 * HOUR_MS));
    cr_expect_eq(w->result.n_blocks, 2);
    for (int64_t t = 30000; t < 3 * HOUR_MS; t += 60000)
        cut_push(w, "a", t, (double)t);
    cut_push(w, "a", 5 * HOUR_MS + 30000, 1);
    cut_push(w, "a", 7 * HOUR_MS, 1);
    cut_expect_each_once(w, "before");
    w->label = true;
    cr_assert(cut_all_steps(w, T0 + 6 * HOUR_MS));
    cr_expect_eq(w->result.n_blocks, 3);
    size_t n;
    struct local_block_info *list = local_blocks_list(w->blocks, SL("t"), &n);
    cr_assert_eq(n, 5);
    int late = 0;
    for (size_t i = 0; i < n; i++) {
        struct block *b = block_open(list[i].path, NULL);
        const struct block_meta *m = block_meta_of(b);
        late += list[i].out_of_order;
        if (list[i].out_of_order) {
            cr_expect_eq(m->n_parents, 1);
            cr_expect_str_eq(m->parents[0].ulid.text, "00000000000000000000000000");
            cr_expect(slice_eq(block_meta_label(m, SL(BLOCK_LABEL_OUT_OF_ORDER)), SL("true")));
            cr_expect_lt(m->min_t, T0 + 4 * HOUR_MS);
            cr_expect_eq(m->max_t - m->min_t, 2 * HOUR_MS);
        }
        block_close(b);
    }
    cr_expect_eq(late, 2);
    free(list);
    cut_expect_each_once(w, "after");
    cut_world_free(w);
}

Test(cut, late_samples_within_the_range_are_merged_into_its_block)
{
    struct cut_world *w = cut_world_new(1);
    w->rig->limits.out_of_order_time_window = HOUR_MS;
    for (int64_t t = 0; t <= 3 * HOUR_MS; t += 15000) {
        cut_push(w, "a", t, (double)t);
        if (t % 45000 == 0 && t > 0)
            cut_push(w, "a", t - 7000, 0.5);
        /* The same time twice: one of them stays, wherever they are asked. */
        if (t % 600000 == 0 && t > 0)
            rig_push(w->rig, "a", T0 + t - 15000, -1);
    }
    char *before = strdup(cut_ask(w, T0, T0 + 2 * HOUR_MS - 1));
    cr_assert(cut_all_steps(w, T0 + 2 * HOUR_MS));
    cr_expect_eq(w->result.n_blocks, 1);
    size_t n;
    struct local_block_info *list = local_blocks_list(w->blocks, SL("t"), &n);
    struct err err = ERR_NONE;
    struct block *b = block_open(list[0].path, &err);
    cr_expect(block_verify(b, &err), "%s", err.text);
    block_close(b);
    free(list);
    cr_expect_str_eq(cut_ask(w, T0, T0 + 2 * HOUR_MS - 1), before);
    free(before);
    cut_world_free(w);
}

/* --- overlaps of every kind --- */

static struct slice xor_chunk(struct arena *arena, const int64_t *t, const double *v, size_t n)
{
    uint8_t *bytes = arena_alloc(arena, (n + 1) * XOR_SAMPLE_MAX_BYTES);
    struct xor_appender x;
    xor_appender_init(&x);
    for (size_t i = 0; i < n; i++)
        xor_append(&x, bytes, t[i], v[i]);
    return slice_make(bytes, xor_size(&x));
}

Test(cut, overlapping_chunks_of_a_series_become_ones_that_do_not)
{
    struct arena arena;
    arena_init(&arena, 0);
    int64_t t[3][200];
    double v[3][200];
    struct series_chunk in[3];
    for (int c = 0; c < 3; c++) {
        for (int i = 0; i < 200; i++) {
            t[c][i] = 10 * i + 3 * c;
            v[c][i] = 1000 * c + i;
        }
        in[c] = (struct series_chunk){t[c][0], t[c][199], CHUNK_XOR, xor_chunk(&arena, t[c], v[c], 200)};
    }
    const struct series_chunk *out;
    size_t n;
    uint64_t damaged = 0;
    cr_assert(cut_series(in, 3, 5, 1500, &arena, &out, &n, &damaged));
    cr_expect_eq(n, 2, "%zu: some 448 samples in chunks of 120, three of which are packed", n);
    int64_t last = 4;
    size_t total = 0;
    for (size_t i = 0; i < n; i++) {
        struct chunk_columns cols;
        cr_assert(chunk_decode(out[i].encoding, out[i].data, &arena, &cols, NULL));
        cr_expect_eq(cols.t[0], out[i].min_t);
        cr_expect_eq(cols.t[cols.n - 1], out[i].max_t);
        for (size_t k = 0; k < cols.n; k++) {
            cr_expect_gt(cols.t[k], last);
            last = cols.t[k];
        }
        total += cols.n;
    }
    cr_expect_lt(last, 1500);
    cr_expect_eq(total, 149 + 150 + 150 - 1 - 0, "%zu", total);
    in[1].data = SL("\x01");
    cr_assert(cut_series(in, 3, 0, 5000, &arena, &out, &n, &damaged));
    cr_expect_eq(damaged, 1, "what is no chunk is counted");
    arena_release(&arena);
}

Test(cut, a_chunk_that_overlaps_nothing_is_passed_on_as_it_is)
{
    struct arena arena;
    arena_init(&arena, 0);
    int64_t t[2] = {10, 20};
    double v[2] = {1, 2};
    struct series_chunk in[2] = {{10, 20, CHUNK_XOR, xor_chunk(&arena, t, v, 2)}, {30, 40, CHUNK_HISTOGRAM, SL("opaque")}};
    const struct series_chunk *out;
    size_t n;
    uint64_t damaged = 0;
    cr_assert(cut_series(in, 2, 0, 100, &arena, &out, &n, &damaged));
    cr_assert_eq(n, 2);
    cr_expect_eq(out[0].data.p, in[0].data.p);
    cr_expect_eq(out[1].data.p, in[1].data.p);
    arena_release(&arena);
}

/* --- flush --- */

Test(cut, a_flush_takes_everything_and_order_goes_on)
{
    struct cut_world *w = cut_world_new(2);
    w->rig->limits.out_of_order_time_window = HOUR_MS;
    for (int64_t t = 0; t <= 150 * 60000; t += 60000)
        cut_push(w, "a", t, (double)t);
    cr_assert(cut_all_steps(w, CUT_ALL));
    cr_expect_eq(w->result.n_blocks, 2);
    size_t n;
    struct local_block_info *list = local_blocks_list(w->blocks, SL("t"), &n);
    cr_assert_eq(n, 2);
    cr_expect_eq(list[0].max_t + list[1].max_t, 2 * T0 + 2 * HOUR_MS + 150 * 60000 + 1, "the newest ends at its last sample");
    free(list);
    cut_expect_each_once(w, "flushed");
    cr_expect_str_eq(ASK_ALL(w->rig), "");
    rig_push(w->rig, "a", T0 + 150 * 60000, (double)(150 * 60000));
    cr_expect_str_eq(ASK_ALL(w->rig), "", "the same sample once more is not stored once more");
    rig_push(w->rig, "a", T0 + 150 * 60000, 7);
    cr_expect_eq(w->rig->counts.refused[REFUSAL_NEW_VALUE], 1);
    cut_push(w, "a", 151 * 60000, 1);
    cr_expect_eq(w->rig->counts.ooo_samples, 0);
    cut_push(w, "a", 149 * 60000 + 1, 1);
    cr_expect_eq(w->rig->counts.ooo_samples, 1);
    cut_expect_each_once(w, "after more");
    cr_assert(cut_restart(w));
    cut_expect_each_once(w, "after a restart");
    cr_assert(cut_all_steps(w, CUT_ALL));
    cut_expect_each_once(w, "flushed again");
    cut_world_free(w);
}

Test(cut, what_comes_while_a_block_is_written_stays_in_the_head)
{
    struct cut_world *w = cut_world_new(2);
    w->rig->limits.out_of_order_time_window = 12 * HOUR_MS;
    cut_fill(w);
    w->push_at = "sealed";
    cr_assert(cut_all_steps(w, T0 + 2 * HOUR_MS));
    cut_expect_each_once(w, "pushed after the seal");
    w->push_at = "added";
    cr_assert(cut_all_steps(w, T0 + 2 * HOUR_MS));
    cut_expect_each_once(w, "pushed before the truncation");
    cr_assert(cut_restart(w));
    cut_expect_each_once(w, "after a restart");
    w->push_at = NULL;
    cr_assert(cut_all_steps(w, CUT_ALL));
    cut_expect_each_once(w, "all of it");
    cut_world_free(w);
}

Test(cut, series_without_samples_leave_when_they_are_old)
{
    struct cut_world *w = cut_world_new(1);
    cut_push(w, "old", 0, 1);
    cut_push(w, "a", 0, 1);
    cut_push(w, "a", 5 * HOUR_MS, 1);
    cr_assert(cut_all_steps(w, T0 + 4 * HOUR_MS));
    cr_expect_eq(w->result.n_removed, 1);
    cr_expect_eq(atomic_load(&w->rig->head->n_series), 1);
    cr_expect_eq(atomic_load(&w->rig->head->min_t), T0 + 5 * HOUR_MS);
    cut_expect_each_once(w, "");
    cut_world_free(w);
}

/* --- failures --- */

Test(cut, a_cut_that_cannot_write_leaves_all_in_the_head)
{
    struct cut_world *w = cut_world_new(2);
    cut_fill(w);
    char path[128];
    snprintf(path, sizeof(path), "%s/blocks/t", w->rig->dir);
    cr_assert_eq(mkdir(path, 0755), 0);
    snprintf(path, sizeof(path), "%s/blocks/t/pending", w->rig->dir);
    fclose(fopen(path, "w")); /* no folder */
    cr_expect_not(cut_all_steps(w, T0 + 2 * HOUR_MS));
    cut_expect_each_once(w, "after the failure");
    cr_assert_eq(unlink(path), 0);
    cr_assert(cut_all_steps(w, T0 + 2 * HOUR_MS));
    cut_expect_each_once(w, "after the next try");
    cut_world_free(w);
}

Test(cut, a_cut_that_is_stopped_leaves_nothing_behind)
{
    struct cut_world *w = cut_world_new(2);
    cut_fill(w);
    atomic_bool stop = true;
    w->stop = &stop;
    cr_expect_not(cut_all_steps(w, T0 + 2 * HOUR_MS));
    w->stop = NULL;
    cut_expect_each_once(w, "stopped");
    cr_assert(cut_all_steps(w, T0 + 2 * HOUR_MS));
    cut_expect_each_once(w, "in the end");
    cut_world_free(w);
}

/* --- checkpoints --- */

/* Makes the section of cuts one that nobody knows: so a file of an earlier version looks. */
static void hide_section(const char *path)
{
    char *bytes;
    size_t n;
    struct ckpt_footer f;
    cr_assert(file_read(path, SIZE_MAX / 2, &bytes, &n, NULL));
    memcpy(&f, bytes + n - sizeof(f), sizeof(f));
    struct ckpt_section *table = malloc(f.n_sections * sizeof(*table));
    memcpy(table, bytes + f.table_off, f.n_sections * sizeof(*table));
    int hidden = 0;
    for (uint32_t i = 0; i < f.n_sections; i++)
        if (table[i].kind == CKPT_CUT) {
            table[i].kind = 1000;
            hidden++;
        }
    cr_assert_eq(hidden, 1);
    f.table_sum = XXH3_64bits(table, f.n_sections * sizeof(*table));
    memcpy(bytes + f.table_off, table, f.n_sections * sizeof(*table));
    memcpy(bytes + n - sizeof(f), &f, sizeof(f));
    FILE *out = fopen(path, "w");
    cr_assert_eq(fwrite(bytes, 1, n, out), n);
    fclose(out);
    free(table);
    free(bytes);
}

Test(cut, a_checkpoint_from_before_there_were_cuts_is_read)
{
    struct cut_world *w = cut_world_new(2);
    struct err err = ERR_NONE;
    uint64_t bytes;
    char path[128];
    cut_fill(w);
    cr_assert(head_checkpoint(w->rig->head, w->rig->offset - 1, &bytes, &err));
    snprintf(path, sizeof(path), "%s/tenants/t/head.ckpt", w->rig->dir);
    hide_section(path);
    cr_assert(cut_reload(w));
    cr_expect_eq(w->rig->head->cuts.until, INT64_MIN);
    cut_expect_each_once(w, "from an old file");
    cr_assert(cut_all_steps(w, T0 + 2 * HOUR_MS));
    cr_assert(cut_restart(w));
    cr_expect_eq(w->rig->head->cuts.until, T0 + 2 * HOUR_MS);
    cut_expect_each_once(w, "cut");
    cut_world_free(w);
}

/* --- kill -9 --- */

/* A child cuts and dies at the n-th time that it comes to the point; then all that was pushed is there once. */
static void kill_at(const char *point, int nth, int64_t cut, bool twice)
{
    struct cut_world *w = cut_world_new(4);
    w->rig->limits.out_of_order_time_window = 12 * HOUR_MS;
    cut_fill(w);
    uint64_t bytes;
    struct err err = ERR_NONE;
    cr_assert(head_checkpoint(w->rig->head, w->rig->offset - 1, &bytes, &err));
    cut_fill_late(w); /* in the log only */
    pid_t pid = fork();
    if (pid == 0) {
        if (twice)
            cut_all_steps(w, T0 + 2 * HOUR_MS);
        w->die_at = point;
        w->die_nth = nth;
        cut_all_steps(w, cut);
        _exit(1);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 42, "the child did not come to %s: %d", point, status);
    cr_assert(cut_reload(w));
    cut_expect_each_once(w, point);
    /* And what was interrupted can be done. */
    cr_assert(cut_all_steps(w, cut));
    cut_expect_each_once(w, point);
    cr_assert(cut_restart(w));
    cut_expect_each_once(w, point);
    cut_world_free(w);
}

Test(cut, a_kill_at_any_step_loses_nothing_and_doubles_nothing)
{
    static const struct {
        const char *point;
        int nth;
    } cases[] = {{"sealed", 1},     {"written", 1},    {"added", 1}, {"truncating", 1}, {"truncating", 3},
                 {"truncated", 1}, {"saved", 1}, {"published", 1}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (int k = 0; k < 4; k++)
            kill_at(cases[i].point, cases[i].nth, k % 2 ? CUT_ALL : T0 + 4 * HOUR_MS, k / 2);
}
