/* Which blocks are read as aggregates: days 0 to 2 have them, day 3 has not; and what a select says when they cannot be read. */
#include <criterion/criterion.h>

#include "tests/read/blocks/blocks_rig.h"

#define H INT64_C(3600000)
#define DAYS 4
#define SAMPLES "0. 1. 2. 3. "
#define AGGREGATES "0c 0s 1c 1s 2c 2s 3. "

static struct rig rig;
static struct select_hints hints;
static struct select_downsampled said;
static atomic_bool refused;
static struct block_label labels[FAKE_BLOCKS_MAX];
static struct index_block made[DOWNSAMPLE_RESOLUTIONS][DOWNSAMPLE_AGGREGATES][FAKE_BLOCKS_MAX];
static struct index_deletion mark;

/* A day's block; without its aggregates. */
static size_t add_day(int day)
{
    size_t i = rig.n_blocks;
    rig_block(&rig, 0, 3, day * 24 * H + 1000 * (int64_t)i);
    rig.index_blocks[i].min_t = day * 24 * H;
    rig.index_blocks[i].max_t = (day + 1) * 24 * H;
    return i;
}

static struct bucket_index *room_of(enum downsample_resolution r, enum downsample_aggregate a)
{
    struct bucket_index *index = &rig.cache.rooms[r][a].index;
    index->blocks = made[r][a];
    index->updated_at_s = 1234567890;
    return index;
}

/* The aggregates of the block, in all rooms. */
static void make(size_t i)
{
    labels[i] = (struct block_label){SL(DOWNSAMPLE_HISTOGRAMS_LABEL), SL(",")};
    rig.index_blocks[i].labels = &labels[i];
    rig.index_blocks[i].n_labels = 1;
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++)
            made[r][a][room_of(r, a)->n_blocks++] = rig.index_blocks[i];
}

/* As if it had not been made. */
static void unmake(enum downsample_resolution r, enum downsample_aggregate a, size_t i)
{
    struct bucket_index *index = room_of(r, a);
    for (size_t k = 0; k < index->n_blocks; k++)
        if (strcmp(made[r][a][k].id.text, rig.blocks[i].id.text) == 0)
            made[r][a][k] = made[r][a][--index->n_blocks];
}

/* The tenant has it no more. */
static void expire(size_t i)
{
    size_t last = --rig.cache.snapshot.index.n_blocks;
    ASSERT(i <= last);
    memmove(&rig.index_blocks[i], &rig.index_blocks[i + 1], (last - i) * sizeof(rig.index_blocks[0]));
}

static void setup(void)
{
    rig_new(&rig);
    memset(made, 0, sizeof(made));
    for (int d = 0; d < DAYS; d++)
        add_day(d);
    for (size_t i = 0; i + 1 < DAYS; i++)
        make(i);
    rig.limits.compactor_downsample_enabled = true;
    said = (struct select_downsampled){.refused = &refused};
    hints = (struct select_hints){.aggregates = 1u << DOWNSAMPLE_COUNT | 1u << DOWNSAMPLE_SUM, .range_ms = H, .first_ms = H, .last_ms = DAYS * 24 * H, .step_ms = H,
                                  .max_resolution_ms = INT64_MAX, .before_ms = INT64_MAX, .ret = &said};
    rig.params.hints = &hints;
}

static void teardown(void)
{
    rig_stop(&rig);
}

TestSuite(blocks_downsampled, .init = setup, .fini = teardown, .timeout = 60);

static int by_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* What the first series has: "0c" for a chunk of counts of block 0, "3." for one of samples. Empty: the call failed. */
static const char *chunks(void)
{
    static char text[512];
    char words[64][4];
    struct series batch[8];
    size_t n_words = 0, n = 1;
    if (!rig.q) {
        for (int i = 0; i < 3; i++)
            rig_gateway(&rig, "a");
        rig_start(&rig);
    }
    text[0] = '\0';
    rig.err = ERR_NONE;
    atomic_store(&refused, false);
    struct series_set *set = rig.q->ops->select(rig.q, &rig.ctx, &rig.params, &rig.err);
    bool ok = set;
    for (bool first = true; ok && n; first = false) {
        ok = series_set_next(set, &rig.ctx, batch, ARRAY_LEN(batch), &n, &rig.err);
        for (size_t i = 0; ok && first && n && i < batch[0].n_chunks; i++) {
            const struct series_chunk *c = &batch[0].chunks[i];
            size_t block = (size_t)(c->min_t % H / 1000);
            snprintf(words[n_words++], sizeof(words[0]), "%zu%c", block % 10, chunk_is_aggregate(c->encoding) ? "csmxr"[(int)c->encoding - CHUNK_AGGREGATES] : '.');
        }
    }
    series_set_release(set);
    qsort(words, n_words, sizeof(words[0]), by_text);
    for (size_t i = 0; ok && i < n_words; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s ", words[i]);
    return text;
}

#define EXPECT(want)                                                                                                                                           \
    do {                                                                                                                                                       \
        const char *got_ = chunks();                                                                                                                           \
        cr_expect_str_eq(got_, want, "%s, not %s: %s", got_, want, rig.err.text);                                                                              \
    } while (0)

Test(blocks_downsampled, are_read_of_every_day_that_has_them)
{
    EXPECT(AGGREGATES);
    cr_assert_eq(said.n, 3);
    for (int i = 0; i < 3; i++)
        cr_expect(said.spans[i].min_t == i * 24 * H && said.spans[i].max_t == (i + 1) * 24 * H);
    hints.aggregates = 1u << DOWNSAMPLE_MAX;
    EXPECT("0x 1x 2x 3. ");
    rig.params.hints = NULL;
    EXPECT(SAMPLES);
}

Test(blocks_downsampled, are_read_only_where_windows_are_whole)
{
    hints.step_ms = H / 2;
    EXPECT(AGGREGATES); /* of 5 minutes */
    hints.step_ms = H + 1;
    EXPECT(SAMPLES);
    hints.step_ms = H;
    hints.first_ms = H + 60000;
    EXPECT(SAMPLES);
    hints.first_ms = H;
    hints.range_ms = 7 * 60000;
    EXPECT(SAMPLES);
    hints.range_ms = H;
    hints.step_ms = 0;
    EXPECT(AGGREGATES);
    for (size_t i = 0; i < 3; i++)
        unmake(DOWNSAMPLE_5M, DOWNSAMPLE_SUM, i);
    EXPECT(AGGREGATES);
    hints.range_ms = H / 2;
    EXPECT(SAMPLES);
}

Test(blocks_downsampled, are_read_up_to_the_resolution_that_tenant_and_request_allow)
{
    for (size_t i = 0; i < 3; i++)
        unmake(DOWNSAMPLE_5M, DOWNSAMPLE_SUM, i);
    hints.max_resolution_ms = H - 1;
    EXPECT(SAMPLES);
    hints.max_resolution_ms = H;
    EXPECT(AGGREGATES);
    rig.limits.querier_max_source_resolution = H - 1;
    EXPECT(SAMPLES);
    rig.limits.querier_max_source_resolution = H;
    rig.limits.compactor_downsample_enabled = false;
    EXPECT(SAMPLES);
}

Test(blocks_downsampled, that_are_not_all_there_leave_the_day_to_samples)
{
    unmake(DOWNSAMPLE_1H, DOWNSAMPLE_COUNT, 1);
    EXPECT(AGGREGATES); /* the day's are of 5 minutes */
    unmake(DOWNSAMPLE_5M, DOWNSAMPLE_SUM, 1);
    EXPECT("0c 0s 1. 2c 2s 3. ");
    rig.cache.rooms[DOWNSAMPLE_5M][DOWNSAMPLE_COUNT].index.updated_at_s = 0;
    EXPECT("0c 0s 1. 2c 2s 3. ");
    rig.cache.rooms[DOWNSAMPLE_1H][DOWNSAMPLE_SUM].index.updated_at_s = 0;
    EXPECT(SAMPLES);
}

Test(blocks_downsampled, of_blocks_that_are_being_replaced_are_not_read)
{
    mark = (struct index_deletion){rig.blocks[1].id, clock_wall_ms() / 1000};
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++) {
        room_of(r, DOWNSAMPLE_SUM)->deletions = &mark;
        room_of(r, DOWNSAMPLE_SUM)->n_deletions = 1;
    }
    EXPECT("0c 0s 1. 2c 2s 3. ");
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        room_of(r, DOWNSAMPLE_SUM)->n_deletions = 0;
    rig_mark(&rig, &rig.blocks[1], 1);
    EXPECT("0c 0s 1. 2c 2s 3. ");
}

Test(blocks_downsampled, of_which_store_gateways_may_not_know_are_not_read)
{
    rig.upload_grace_ms = 60000;
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        made[r][DOWNSAMPLE_COUNT][2].uploaded_at_s = clock_wall_ms() / 1000 - 30;
    EXPECT("0c 0s 1c 1s 2. 3. ");
}

Test(blocks_downsampled, that_left_histograms_out_are_read_of_other_metrics)
{
    static const struct {
        const char *label, *want;
    } cases[] = {{",", AGGREGATES}, {",other,", AGGREGATES}, {",m,", "0c 0s 1. 2c 2s 3. "}, {"*", "0c 0s 1. 2c 2s 3. "}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        labels[1].value = slice_of(cases[i].label);
        EXPECT(cases[i].want);
    }
    rig.params.n_matchers = 0;
    labels[1].value = SL(",other,");
    EXPECT("0c 0s 1. 2c 2s 3. ");
    labels[1].value = SL(",");
    EXPECT(AGGREGATES);
    labels[1].name = SL("another");
    EXPECT("0c 0s 1. 2c 2s 3. ");
}

Test(blocks_downsampled, end_where_ingesters_are_asked_too)
{
    hints.before_ms = 48 * H;
    EXPECT("0c 0s 1c 1s 2. 3. ");
    hints.before_ms = 48 * H - 1;
    EXPECT("0c 0s 1. 2. 3. ");
    hints.before_ms = INT64_MIN;
    EXPECT(SAMPLES);
}

Test(blocks_downsampled, of_several_blocks_of_a_time_are_those_of_shards)
{
    size_t other = add_day(1);
    make(other);
    EXPECT("0c 0s 1. 2c 2s 3. 4. "); /* the same samples may be in both */
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        unmake(r, DOWNSAMPLE_SUM, other);
    rig.index_blocks[1].shard = SL("1_of_2");
    rig.index_blocks[other].shard = SL("2_of_2");
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++) {
            unmake(r, a, 1);
            unmake(r, a, other);
        }
    make(1);
    EXPECT("0c 0s 1. 2c 2s 3. 4. ");
    make(other);
    EXPECT("0c 0s 1c 1s 2c 2s 3. 4c 4s ");
    rig.index_blocks[other].shard = SL("1_of_2");
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++)
            unmake(r, a, other);
    make(other);
    EXPECT("0c 0s 1. 2c 2s 3. 4. ");
}

/* A block that crosses the seam of two days holds both back. */
Test(blocks_downsampled, beside_a_block_that_has_none_are_not_read)
{
    size_t late = add_day(1);
    rig.index_blocks[late].min_t -= 1;
    EXPECT("0. 1. 2c 2s 3. 4. ");
}

Test(blocks_downsampled, outlive_samples)
{
    expire(0);
    EXPECT(AGGREGATES);
    size_t fresh = add_day(0);
    EXPECT("1c 1s 2c 2s 3. 4. "); /* what the old one was made of may be in the new one */
    (void)fresh;
}

Test(blocks_downsampled, that_nobody_has_are_refused_where_samples_would_do)
{
    EXPECT(AGGREGATES);
    for (size_t i = 0; i < rig.n; i++)
        atomic_store(&rig.fakes[i].roomless, true);
    EXPECT("");
    cr_expect(atomic_load(&refused));
    cr_expect_eq(rig.err.code, ERR_STORE_CONSISTENCY_CHECK_FAILED, "%s", rig.err.text);
    rig.params.hints = NULL;
    EXPECT(SAMPLES);
}

Test(blocks_downsampled, without_samples_are_an_error_when_nobody_has_them)
{
    expire(0);
    EXPECT(AGGREGATES);
    for (size_t i = 0; i < rig.n; i++)
        atomic_store(&rig.fakes[i].roomless, true);
    EXPECT("");
    cr_expect_not(atomic_load(&refused));
    cr_expect(strstr(rig.err.text, rig.blocks[0].id.text), "%s", rig.err.text);
}

Test(blocks_downsampled, are_not_blamed_for_blocks_of_samples)
{
    EXPECT(AGGREGATES);
    for (size_t i = 0; i < rig.n; i++)
        atomic_store(&rig.fakes[i].silent, true);
    EXPECT("");
    cr_expect_not(atomic_load(&refused));
}
