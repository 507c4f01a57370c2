/* meta.json: what Mimir wrote comes back byte for byte; what is no meta.json is refused by name. */
#include "tests/storage/block/block_util.h"

static size_t n_metas;

static void check_meta(const char *path)
{
    struct err err = ERR_NONE;
    struct block_meta m;
    struct slice json = read_file(path);
    struct buf out = {0};
    cr_assert(block_meta_decode(json, &arena, &m, &err), "%s: %s", path, err.text);
    block_meta_encode(&m, &out);
    cr_expect(slice_eq(json, buf_slice(&out)), "%s: written as %.*s", path, SL_FMT(buf_slice(&out)));
    buf_release(&out);
    n_metas++;
}

static int visit(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type;
    if (strcmp(path + ftw->base, "meta.json") == 0)
        check_meta(path);
    return 0;
}

Test(block_meta, of_mimir_is_written_again_with_the_same_bytes, .init = setup, .fini = teardown)
{
    if (nftw(REAL_BLOCKS, visit, 8, FTW_PHYS) != 0)
        cr_skip_test("no blocks at %s", REAL_BLOCKS);
    cr_assert_gt(n_metas, 20);
}

#define HEAD "{\"ulid\":\"01M7Y7WR36RNAK3M75MGY89WZT\",\"minTime\":1,\"maxTime\":5,\"version\":1"

Test(block_meta, tells_what_a_block_is, .init = setup, .fini = teardown)
{
    struct err err = ERR_NONE;
    struct block_meta m;
    struct slice json = SL(HEAD ",\"unknown\":[{}],\"compaction\":{\"level\":2,\"hints\":[\"from-out-of-order\"],\"deletable\":true},"
                                "\"thanos\":{\"labels\":{\"b\":\"2\",\"a\":\"1<\"},\"source\":\"compactor\",\"downsample\":{\"resolution\":300000}}}");
    cr_assert(block_meta_decode(json, &arena, &m, &err), "%s", err.text);
    cr_expect(block_meta_is_out_of_order(&m) && m.deletable && m.level == 2 && m.has_thanos && m.resolution_ms == 300000);
    cr_expect(slice_eq(block_meta_label(&m, SL("a")), SL("1<")) && slice_eq(m.labels[0].name, SL("a")));
    cr_expect_null(block_meta_label(&m, SL("c")).p);
    struct buf out = {0};
    block_meta_encode(&m, &out);
    cr_expect(memmem(out.p, out.n, SL("\"a\": \"1\\u003c\"").p, SL("\"a\": \"1\\u003c\"").n), "%.*s", SL_FMT(buf_slice(&out)));
    cr_expect(slice_has_suffix(buf_slice(&out), SL("}\n")));
    buf_release(&out);
}

Test(block_meta, that_is_wrong_is_an_error_that_names_the_field, .init = setup, .fini = teardown)
{
    static const struct {
        const char *json, *text;
    } cases[] = {
        {"", "no JSON object"},
        {"[]", "no JSON object: another value"},
        {"{}", "version"},
        {"{\"version\":2}", "version"},
        {"{\"version\":1,\"ulid\":\"x\"}", "ulid is no ULID"},
        {"{\"version\":1,\"ulid\":\"01M7Y7WR36RNAK3M75MGY89WZT\",\"minTime\":\"1\"}", "minTime is no integer"},
        {"{\"version\":1,\"ulid\":\"01M7Y7WR36RNAK3M75MGY89WZT\",\"minTime\":1}", "maxTime"},
        {HEAD ",\"stats\":{\"numSamples\":-1}}", "numSamples is no count"},
        {HEAD ",\"compaction\":{\"sources\":{}}}", "sources is no array"},
        {HEAD ",\"compaction\":{\"sources\":[1]}}", "a source is no ULID"},
        {HEAD ",\"compaction\":{\"parents\":[7]}}", "a parent is no ULID"},
        {HEAD ",\"compaction\":{\"level\":9999999999}}", "level"},
        {HEAD ",\"thanos\":[]}", "thanos is no object"},
        {HEAD ",\"thanos\":{\"labels\":{\"a\":1}}}", "a label is no string"},
        {HEAD ",\"thanos\":{\"files\":[{\"rel_path\":7}]}}", "rel_path is no string"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_NONE;
        struct block_meta m;
        cr_expect(!block_meta_decode(slice_of(cases[i].json), &arena, &m, &err), "%s", cases[i].json);
        cr_expect_eq(err.code, ERR_CORRUPT);
        cr_expect(strstr(err.text, cases[i].text), "%s: %s", cases[i].json, err.text);
    }
}

Test(block_meta, that_outgrows_its_memory_is_an_error)
{
    struct arena small;
    struct err err = ERR_NONE;
    struct block_meta m;
    arena_init(&small, 4096);
    char json[20000];
    int n = snprintf(json, sizeof(json), HEAD ",\"thanos\":{\"source\":\"");
    memset(json + n, 'x', 15000);
    strcpy(json + n + 15000, "\"}}");
    cr_expect(!block_meta_decode(slice_of(json), &small, &m, &err));
    cr_expect_eq(err.code, ERR_NO_MEMORY);
    arena_release(&small);
}
