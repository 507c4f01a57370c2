/* What the store-gateway answers, over blocks of our own. */
#include <criterion/criterion.h>

#define CLAIM(cond, ...) cr_assert(cond, __VA_ARGS__)
#include "tests/storage/gateway/gateway_rig.h"

static struct gw_rig rig;

static void setup(void)
{
    gw_new(&rig);
}

static void teardown(void)
{
    gw_free(&rig);
}

#define H 3600000

/* Three blocks: the second overlaps the first, the third comes later. */
static struct ulid ids[3];
static void three_blocks(void)
{
    static const struct gw_series first[] = {{"__name__=m,i=1", 0, 1000, 60, 1}, {"__name__=m,i=2", 0, 1000, 60, 2}, {"__name__=n,i=1", 5000, 1000, 10, 3}};
    static const struct gw_series second[] = {{"__name__=a,z=1", 0, 1000, 5, 9}, {"__name__=m,i=2", 30500, 1000, 60, 2}, {"__name__=m,i=3", 0, 1000, 60, 2}};
    static const struct gw_series third[] = {{"__name__=m,i=1", 2 * H, 1000, 60, 1}, {"__name__=m,i=2", 2 * H, 1000, 60, 2}};
    ids[0] = gw_block(&rig, "t", first, ARRAY_LEN(first), 0, 2 * H);
    ids[1] = gw_block(&rig, "t", second, ARRAY_LEN(second), 0, 2 * H);
    ids[2] = gw_block(&rig, "t", third, ARRAY_LEN(third), 2 * H, 4 * H);
    gw_index(&rig, "t");
}

static char *select_m(struct gateway *g, int64_t min_t, int64_t max_t, const struct block_hints *blocks, size_t batch, struct gateway_found *found)
{
    struct matcher m;
    struct err err = ERR_NONE;
    matcher_init(&m, MATCH_EQ, SL("__name__"), SL("m"), NULL);
    const struct select_params p = {.min_t = min_t, .max_t = max_t, .matchers = &m, .n_matchers = 1};
    char *text = gw_select(&rig, g, "t", &p, blocks, found, batch, &err);
    cr_assert(text, "%s", err.text);
    matcher_release(&m);
    return text;
}

Test(gateway, gives_each_series_once_with_the_chunks_of_all_blocks, .init = setup, .fini = teardown)
{
    struct gateway_found found;
    three_blocks();
    struct gateway *g = gw_start(&rig, 0);
    static const char want[] = "{__name__=\"m\", i=\"1\"} 0-59000 7200000-7259000\n"
                               "{__name__=\"m\", i=\"2\"} 0-59000 30500-89500 7200000-7259000\n"
                               "{__name__=\"m\", i=\"3\"} 0-59000\n";
    for (size_t batch = 1; batch < 5; batch++)
        cr_expect_str_eq(select_m(g, 0, 4 * H, &GW_ALL, batch, &found), want);
    cr_expect_eq(found.n, 3);
}

/* "name{labels} value" is in the metrics. */
static bool shows(const char *line)
{
    struct buf out = {0};
    metrics_write_text(&out, NULL, 0);
    buf_putc(&out, 0);
    bool found = strstr(out.p, line);
    buf_release(&out);
    return found;
}

Test(gateway, counts_what_requests_were_answered_from, .init = setup, .fini = teardown)
{
    struct gateway_found found;
    three_blocks();
    select_m(gw_start(&rig, 0), 0, 4 * H, &GW_ALL, 2, &found);
    cr_expect(shows("cortex_bucket_store_series_result_series_sum{component=\"store-gateway\"} 3\n"));
    cr_expect(shows("cortex_bucket_store_series_data_touched_sum{component=\"store-gateway\",data_type=\"series\",stage=\"\"} 6\n"));
    cr_expect(shows("cortex_bucket_store_series_data_touched_sum{component=\"store-gateway\",data_type=\"chunks\",stage=\"returned\"} 6\n"));
    cr_expect_not(shows("cortex_bucket_store_series_data_size_touched_bytes_sum{component=\"store-gateway\",data_type=\"chunks\",stage=\"returned\"} 0\n"));
    cr_expect(shows("cortex_bucket_store_series_data_fetched_count{component=\"store-gateway\",data_type=\"chunks\",stage=\"fetched\"} 1\n"));
    cr_expect(shows("cortex_bucket_store_series_data_size_fetched_bytes_count{component=\"store-gateway\",data_type=\"postings\",stage=\"\"} 1\n"));
    cr_expect(shows("cortex_bucket_store_series_request_stage_duration_seconds_count{component=\"store-gateway\",stage=\"expand_postings\"} 1\n"));
    cr_expect(shows("cortex_bucket_store_series_blocks_queried_count{component=\"store-gateway\""));
}

Test(gateway, reads_the_blocks_it_is_asked_for_and_says_which, .init = setup, .fini = teardown)
{
    struct gateway_found found;
    three_blocks();
    struct gateway *g = gw_start(&rig, 0);
    struct ulid unknown = ulid_new(1);
    const struct ulid asked[] = {ids[2], unknown, ids[1], ids[2]};
    const struct block_hints two = {.blocks = asked, .n = 4}, none = {0};
    cr_expect_str_eq(select_m(g, 0, 4 * H, &two, 3, &found),
                     "{__name__=\"m\", i=\"1\"} 7200000-7259000\n{__name__=\"m\", i=\"2\"} 30500-89500 7200000-7259000\n{__name__=\"m\", i=\"3\"} 0-59000\n");
    cr_expect(found.n == 2 && gw_has(&found, &ids[1]) && gw_has(&found, &ids[2]));
    cr_expect_str_eq(select_m(g, 0, 4 * H, &none, 3, &found), "");
    cr_expect_eq(found.n, 0);
    /* A block of another time has nothing to say, and has said so. */
    cr_expect_str_eq(select_m(g, 0, 1000, &two, 3, &found), "{__name__=\"m\", i=\"3\"} 0-59000\n");
    cr_expect_eq(found.n, 2);
    select_m(g, 0, 1000, &GW_ALL, 3, &found);
    cr_expect_eq(found.n, 2);
    cr_expect(!gw_has(&found, &ids[2]));
}

Test(gateway, gives_series_without_chunks_up_to_a_limit, .init = setup, .fini = teardown)
{
    struct gateway_found found;
    struct err err = ERR_NONE;
    three_blocks();
    struct gateway *g = gw_start(&rig, 0);
    const struct select_params p = {.min_t = 0, .max_t = 4 * H, .no_chunks = true, .limit = 3};
    const char *text = gw_select(&rig, g, "t", &p, &GW_ALL, &found, 2, &err);
    cr_assert(text, "%s", err.text);
    cr_expect_str_eq(text, "{__name__=\"a\", z=\"1\"}\n{__name__=\"m\", i=\"1\"}\n{__name__=\"m\", i=\"2\"}\n");
}

static void expect_strings(const struct slice *got, size_t n, const char *want)
{
    struct buf out = {0};
    for (size_t i = 0; i < n; i++) {
        buf_put_slice(&out, got[i]);
        buf_putc(&out, ' ');
    }
    buf_putc(&out, 0);
    cr_expect_str_eq(out.p, want);
    buf_release(&out);
}

Test(gateway, unites_names_and_values_of_its_blocks, .init = setup, .fini = teardown)
{
    struct gateway_found found;
    struct err err = ERR_NONE;
    const struct slice *got;
    size_t n;
    three_blocks();
    struct gateway *g = gw_start(&rig, 0);
    struct select_params p = {.min_t = 0, .max_t = 4 * H};
    rig.ctx.tenant = SL("t");
    cr_assert(gateway_label_names(g, &rig.ctx, &p, &GW_ALL, &found, &got, &n, &err), "%s", err.text);
    expect_strings(got, n, "__name__ i z ");
    cr_expect_eq(found.n, 3);
    cr_assert(gateway_label_values(g, &rig.ctx, SL("i"), &p, &GW_ALL, &found, &got, &n, &err), "%s", err.text);
    expect_strings(got, n, "1 2 3 ");
    p.limit = 2;
    cr_assert(gateway_label_values(g, &rig.ctx, SL("i"), &p, &GW_ALL, &found, &got, &n, &err), "%s", err.text);
    expect_strings(got, n, "1 2 ");
    p = (struct select_params){.min_t = 3 * H, .max_t = 4 * H};
    cr_assert(gateway_label_values(g, &rig.ctx, SL("i"), &p, &GW_ALL, &found, &got, &n, &err), "%s", err.text);
    expect_strings(got, n, "1 2 ");
    cr_expect_eq(found.n, 1);
}

Test(gateway, knows_nothing_of_other_tenants, .init = setup, .fini = teardown)
{
    struct gateway_found found;
    struct err err = ERR_NONE;
    three_blocks();
    struct gateway *g = gw_start(&rig, 0);
    const struct block_hints asked = {.blocks = ids, .n = 3};
    const struct select_params p = {.min_t = 0, .max_t = 4 * H};
    cr_expect_str_eq(gw_select(&rig, g, "other", &p, &asked, &found, 2, &err), "");
    cr_expect_eq(found.n, 0);
}

Test(gateway, of_this_process_looks_for_blocks_when_the_querier_knows_a_newer_index, .init = setup, .fini = teardown)
{
    struct gateway_found found;
    struct err err = ERR_NONE;
    three_blocks();
    struct gateway *g = gw_start(&rig, 0);
    struct gw_series s = {"__name__=m,i=new", 0, 1000, 5, 1};
    const struct ulid id = gw_block(&rig, "t", &s, 1, 0, 2 * H);
    struct block_hints asked = {.blocks = &id, .n = 1};
    const struct select_params p = {.min_t = 0, .max_t = 4 * H};
    gw_index(&rig, "t");
    cr_assert(gw_select(&rig, g, "t", &p, &asked, &found, 2, &err), "%s", err.text);
    cr_expect_eq(found.n, 0);
    asked.index_s = 9999999999;
    cr_assert(gw_select(&rig, g, "t", &p, &asked, &found, 2, &err), "%s", err.text);
    cr_expect_eq(found.n, 1);
}

Test(gateway, refuses_more_series_or_chunks_than_the_tenant_may_have, .init = setup, .fini = teardown)
{
    struct gateway_found found;
    struct err err = ERR_NONE;
    three_blocks();
    struct gateway *g = gw_start(&rig, 0);
    rig.limits.max_fetched_series_per_query = 4;
    cr_expect_null(gw_everything(&rig, g, "t", &found, &err));
    cr_expect_eq(err.code, ERR_MAX_SERIES_PER_QUERY);
    cr_expect(strstr(err.text, "the query exceeded the maximum number of series (limit: 4 series) (err-mimir-max-series-per-query). Consider reducing"), "%s", err.text);
    rig.limits.max_fetched_series_per_query = 5;
    rig.limits.max_fetched_chunks_per_query = 7;
    cr_expect_null(gw_everything(&rig, g, "t", &found, &err));
    cr_expect_eq(err.code, ERR_MAX_CHUNKS_PER_QUERY);
    cr_expect(strstr(err.text, "chunks (limit: 7 chunks) (err-mimir-max-chunks-per-query)"), "%s", err.text);
    rig.limits.max_fetched_chunks_per_query = 8;
    cr_expect(gw_everything(&rig, g, "t", &found, &err), "%s", err.text);
}

Test(gateway, gives_a_query_no_more_memory_than_it_may_have, .init = setup, .fini = teardown)
{
    struct gateway_found found;
    struct err err = ERR_NONE;
    struct arena small;
    three_blocks();
    struct gateway *g = gw_start(&rig, 0);
    arena_init(&small, 16 << 10);
    struct ctx ctx = {.arena = &small, .tenant = SL("t")};
    const struct select_params p = {.min_t = 0, .max_t = 4 * H};
    cr_expect_null(gateway_select(g, &ctx, &p, &GW_ALL, &found, &err));
    cr_expect_eq(err.code, ERR_MAX_QUERY_MEMORY, "%s", err.text);
    arena_release(&small);
}

Test(gateway, is_unavailable_before_its_start_and_after_its_stop, .init = setup, .fini = teardown)
{
    struct gateway_found found;
    struct err err = ERR_NONE;
    three_blocks();
    struct gw_node *n = gw_node(&rig, 0);
    const struct select_params p = {.min_t = 0, .max_t = 4 * H};
    cr_expect(!gateway_ready(n->gateway, NULL));
    cr_expect_null(gateway_select(n->gateway, &rig.ctx, &p, &GW_ALL, &found, &err));
    cr_expect_eq(err.code, ERR_UNAVAILABLE);
    cr_assert(gateway_start(n->gateway, &err));
    gw_wait_ready(n);
    cr_expect(gw_everything(&rig, n->gateway, "t", &found, &err));
    gateway_leave(n->gateway);
    cr_expect(!gateway_ready(n->gateway, NULL));
    cr_expect(gw_everything(&rig, n->gateway, "t", &found, &err), "answers go on until the stop");
    gateway_stop(n->gateway);
    cr_expect_null(gateway_select(n->gateway, &rig.ctx, &p, &GW_ALL, &found, &err));
    cr_expect_eq(err.code, ERR_UNAVAILABLE);
}

Test(gateway, sets_that_are_open_keep_nobody_out, .init = setup, .fini = teardown)
{
    struct series_set *sets[5];
    struct gateway_found found;
    struct err err = ERR_NONE;
    three_blocks();
    rig.cfg.max_concurrent = 1;
    rig.cfg.max_concurrent_queue_timeout = 50;
    struct gateway *g = gw_start(&rig, 0);
    const struct select_params p = {.min_t = 0, .max_t = 4 * H};
    rig.ctx.tenant = SL("t");
    for (size_t i = 0; i < ARRAY_LEN(sets); i++)
        cr_assert(sets[i] = gateway_select(g, &rig.ctx, &p, &GW_ALL, &found, &err), "%s", err.text);
    for (size_t i = 0; i < ARRAY_LEN(sets); i++)
        series_set_release(sets[i]);
}

/* --- damage --- */

static void damage(const struct ulid *id, const char *file, long offset)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/t/%s/%s", rig.bucket_dir, id->text, file);
    gw_shell("chmod u+w %s", path);
    FILE *f = fopen(path, "r+b");
    cr_assert(f, "%s", path);
    fseek(f, offset, offset < 0 ? SEEK_END : SEEK_SET);
    int c = fgetc(f);
    fseek(f, -1, SEEK_CUR);
    fputc(c ^ 0x40, f);
    fclose(f);
}

Test(gateway, names_a_damaged_block_and_answers_from_the_others, .init = setup, .fini = teardown)
{
    struct gateway_found found;
    struct err err = ERR_NONE;
    three_blocks();
    damage(&ids[0], "index", -3); /* its table of contents */
    damage(&ids[1], "chunks/000001", 20);
    struct gateway *g = gw_start(&rig, 0);
    const struct block_hints first = {.blocks = &ids[0], .n = 1}, second = {.blocks = &ids[1], .n = 1}, third = {.blocks = &ids[2], .n = 1};
    const struct select_params p = {.min_t = 0, .max_t = 4 * H};
    cr_expect_null(gw_select(&rig, g, "t", &p, &first, &found, 3, &err));
    cr_expect_eq(err.code, ERR_CORRUPT, "%s", err.text);
    cr_expect(strstr(err.text, ids[0].text), "%s", err.text);
    err = ERR_NONE;
    cr_expect_null(gw_select(&rig, g, "t", &p, &second, &found, 3, &err));
    cr_expect_eq(err.code, ERR_CORRUPT, "%s", err.text);
    cr_expect(strstr(err.text, ids[1].text), "%s", err.text);
    cr_expect_str_eq(gw_select(&rig, g, "t", &p, &third, &found, 3, &err), "{__name__=\"m\", i=\"1\"} 7200000-7259000\n{__name__=\"m\", i=\"2\"} 7200000-7259000\n");
}

Test(gateway, does_not_pretend_to_have_read_a_block_that_has_gone, .init = setup, .fini = teardown)
{
    struct gateway_found found;
    struct err err = ERR_NONE;
    three_blocks();
    struct gateway *g = gw_start(&rig, 0);
    gw_shell("rm -r %s/t/%s", rig.bucket_dir, ids[2].text);
    cr_expect_null(gw_everything(&rig, g, "t", &found, &err));
    cr_expect(strstr(err.text, ids[2].text), "%s", err.text);
}
