/* The whole API over HTTP, with blocks that a real Mimir made. */
#include "tests/net/http_rig.h"

#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/assert.h"
#include "storage/block/block.h"
#include "storage/compactor/upload/upload.h"

#define REAL TEST_SHARED_DIR "/mimir/blocks/level1/tenant-a"
#define BLOCK "01M7Y7WQZRRT0NECXFY3DBGYZG"
#define NOW_MS ((int64_t)1795300000 * 1000)

static const struct flag_def bucket_flags[] = {
#define OBJSTORE_FLAG "blocks-storage."
#define OBJSTORE_YAML "blocks_storage."
#define FLAG(...) FLAG_ROW(objstore_config, __VA_ARGS__)
#include "storage/objstore/objstore_flags.def"
#undef FLAG
};

static struct rig rig;
static struct compactor_config cfg;
static struct limits limit_values;
static struct limits_provider limits = {&limit_values};
static struct objstore *store;
static struct upload *upload;
static char dir[64];
static const char *ranges[] = {"2h", "12h", "24h"};
/* The store, but objects of the block wait here while slow_ms is set: a check that takes its time. */
static struct objstore slow;
static _Atomic int slow_ms;
static _Atomic int n_faults; /* of reading the index, until it is well again */

static _Atomic int crash_left = INT_MAX; /* operations until the process ends, as kill -9 would end it */

static void step(void)
{
    if (atomic_fetch_sub(&crash_left, 1) == 0)
        _exit(9);
}

/* --- the store --------------------------------------------------------------------------------------------------------- */

static bool slow_get(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out, struct err *err)
{
    (void)s;
    step();
    if (slice_has_suffix(name, SL("/index")))
        for (int i = 0; i < slow_ms && ctx_check(ctx, NULL); i += 5)
            usleep(5000);
    if (slice_has_suffix(name, SL("/index")) && atomic_fetch_sub(&n_faults, 1) > 0)
        return err_set(err, ERR_UNAVAILABLE, "out of order");
    return ctx_check(ctx, err) && objstore_get(store, ctx, name, offset, n, out, err);
}

static bool slow_attributes(struct objstore *s, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret, struct err *err)
{
    (void)s;
    step();
    return objstore_attributes(store, ctx, name, ret, err);
}

static bool slow_put(struct objstore *s, const struct ctx *ctx, struct slice name, struct slice bytes, struct err *err)
{
    (void)s;
    step();
    return objstore_put(store, ctx, name, bytes, err);
}

static bool slow_put_file(struct objstore *s, const struct ctx *ctx, struct slice name, const char *path, struct err *err)
{
    (void)s;
    step();
    return objstore_put_file(store, ctx, name, path, err);
}

static bool slow_remove(struct objstore *s, const struct ctx *ctx, struct slice name, struct err *err)
{
    (void)s;
    step();
    return objstore_remove(store, ctx, name, err);
}

static bool slow_list(struct objstore *s, const struct ctx *ctx, struct slice prefix, bool delimited, objstore_list_fn *fn, void *arg, struct err *err)
{
    (void)s;
    return objstore_list(store, ctx, prefix, delimited, fn, arg, err);
}

static const struct objstore_ops slow_ops = {.name = "slow",
                                             .is_view = true,
                                             .get = slow_get,
                                             .attributes = slow_attributes,
                                             .put = slow_put,
                                             .put_file = slow_put_file,
                                             .remove = slow_remove,
                                             .list = slow_list};

/* --- life ---------------------------------------------------------------------------------------------------------------- */

static void open_upload(void)
{
    struct err err = ERR_NONE;
    struct upload_parts parts = {.cfg = &cfg, .limits = &limits, .bucket = &slow, .default_dir = "/nonexistent", .heartbeat_ms = 50};
    upload = upload_new(&parts, &err);
    cr_assert(upload, "%s", err.text);
    rig_new(&rig);
    rig.server = http_server_new(&rig.cfg, rig.limits, rig_tenant, NULL);
    http_server_add(rig.server, "", upload_routes, upload_routes_n, upload);
    http_server_on_spool(rig.server, upload_routes, upload_spool);
    cr_assert(http_server_start(rig.server, &err), "%s", err.text);
}

static void close_upload(void)
{
    rig_stop(&rig);
    upload_stop(upload);
    upload_free(upload);
}

static void setup(void)
{
    struct objstore_config bucket;
    struct flag_set *flags = flag_set_new();
    struct err err = ERR_NONE;
    static char data[96], objects[96];
    if (access(REAL, F_OK) != 0)
        cr_skip_test("no blocks at %s", REAL);
    strcpy(dir, "/tmp/upload-test-XXXXXX");
    cr_assert(mkdtemp(dir));
    snprintf(data, sizeof(data), "%s/data", dir);
    snprintf(objects, sizeof(objects), "%s/bucket", dir);
    flag_set_add(flags, "Blocks", bucket_flags, ARRAY_LEN(bucket_flags), &bucket);
    store = objstore_open(&bucket, "blocks-storage.", objects, &err);
    cr_assert(store, "%s", err.text);
    flag_set_free(flags);
    slow.ops = &slow_ops;
    slow_ms = n_faults = 0;
    cfg = (struct compactor_config){.data_dir = data, .max_block_upload_validation_concurrency = 1, .block_ranges = {ranges, 3}};
    limit_values = (struct limits){.compactor_block_upload_enabled = true,
                                   .compactor_block_upload_validation_enabled = true,
                                   .compactor_block_upload_verify_chunks = true};
    clock_fake_wall_ms(NOW_MS);
    open_upload();
}

static void teardown(void)
{
    char command[128];
    close_upload();
    objstore_free(store);
    clock_fake_wall_ms(0);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    cr_assert_eq(system(command), 0);
}

TestSuite(upload, .init = setup, .fini = teardown);

/* --- calls ----------------------------------------------------------------------------------------------------------------- */

static struct buf file_of(const char *path)
{
    struct buf b = {0};
    char part[65536];
    size_t n;
    FILE *f = fopen(path, "rb");
    cr_assert(f, "%s", path);
    while ((n = fread(part, 1, sizeof(part), f)) > 0)
        buf_put(&b, part, n);
    fclose(f);
    return b;
}

static bool there(const char *file)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/bucket/t/" BLOCK "/%s", dir, file);
    return access(path, F_OK) == 0;
}

/* Asks, and the answer must be this one; text NULL: any. */
static void expect_at(int line, const char *method, const char *path, struct slice body, int status, const char *text)
{
    char full[512];
    snprintf(full, sizeof(full), "/api/v1/upload/block/%s", path);
    struct reply r = rig_ask(&rig, method, full, "X-Scope-OrgID: t\r\n", body.p, body.n);
    cr_expect_eq(r.status, status, "line %d: %s: %d %s", line, path, r.status, r.body);
    if (text)
        cr_expect_str_eq(r.body, text, "line %d: %s: %s", line, path, r.body);
    reply_free(&r);
}
#define EXPECT(method, path, body, status, text) expect_at(__LINE__, method, path, body, status, text)
#define POST(path, body, status, text) EXPECT("POST", path, body, status, text)

static void start_with(int line, const char *json, int status, const char *text)
{
    expect_at(line, "POST", BLOCK "/start", slice_of(json), status, text);
}
#define START(json, status, text) start_with(__LINE__, json, status, text)

static void post_file(const char *file, int status, const char *text)
{
    char path[256], call[256];
    snprintf(path, sizeof(path), REAL "/" BLOCK "/%s", file);
    snprintf(call, sizeof(call), BLOCK "/files?path=%s", file);
    struct buf bytes = file_of(path);
    POST(call, buf_slice(&bytes), status, text);
    buf_release(&bytes);
}

static void start_real(void)
{
    struct buf meta = file_of(REAL "/" BLOCK "/meta.json");
    POST(BLOCK "/start", buf_slice(&meta), 200, "");
    buf_release(&meta);
}

/* The result that check answers. */
static struct reply state(void)
{
    return rig_ask(&rig, "GET", "/api/v1/upload/block/" BLOCK "/check", "X-Scope-OrgID: t\r\n", NULL, 0);
}

static bool is_state(const char *json)
{
    struct reply r = state();
    bool is = r.status == 200 && strcmp(r.body, json) == 0;
    reply_free(&r);
    return is;
}

static void upload_all(void)
{
    start_real();
    post_file("index", 200, "");
    post_file("chunks/000001", 200, "");
}

/* --- the way of a good block --------------------------------------------------------------------------------------------------- */

Test(upload, a_block_of_mimir_comes_in_whole)
{
    EXPECT("GET", BLOCK "/check", SL(""), 404, "block doesn't exist\n");
    start_real();
    EXPECT("GET", BLOCK "/check", SL(""), 200, "{\"result\":\"uploading\"}");
    start_real(); /* repeated */
    cr_expect(there("uploading-meta.json"));
    post_file("index", 200, "");
    post_file("chunks/000001", 200, "");
    post_file("chunks/000001", 200, "");
    cr_expect_not(there("meta.json"));
    POST(BLOCK "/finish", SL(""), 200, "");
    EVENTUALLY(is_state("{\"result\":\"complete\"}"));
    EVENTUALLY(!there("uploading-meta.json") && !there("validation.json"));
    struct err err = ERR_NONE;
    char path[256];
    snprintf(path, sizeof(path), "%s/bucket/t/" BLOCK, dir);
    struct block *b = block_open(path, &err);
    cr_assert(b, "%s", err.text);
    cr_expect(block_verify(b, &err), "%s", err.text);
    const struct block_meta *m = block_meta_of(b);
    cr_expect(slice_eq(m->source, SL("upload")));
    cr_expect_eq(m->n_labels, 0);
    cr_expect_eq(m->n_sources, 1);
    cr_expect_str_eq(m->sources[0].text, BLOCK);
    block_close(b);
    snprintf(path, sizeof(path), "%s/bucket/t/" BLOCK "/meta.json", dir);
    struct buf meta = file_of(path);
    cr_expect(strstr(buf_cstr(&meta), "\"source\":\"upload\"") && strstr(buf_cstr(&meta), "\"labels\":{}"), "%s", buf_cstr(&meta));
    cr_expect_eq(strcspn(buf_cstr(&meta), "\n"), meta.n - 1, "one line");
    buf_release(&meta);
    cr_expect(metrics_hold("cortex_block_upload_api_blocks_total{user=\"t\"} 1\n"));
    EVENTUALLY(metrics_hold("cortex_block_upload_validations_in_progress 0\n"));
    /* Nothing more may be done to it. */
    POST(BLOCK "/start", SL("{}"), 409, "block already exists\n");
    post_file("index", 409, "block already exists\n");
    POST(BLOCK "/finish", SL(""), 409, "block already exists\n");
    snprintf(path, sizeof(path), "rmdir %s/data/upload", dir);
    cr_expect_eq(system(path), 0, "nothing is left in the data dir");
}

Test(upload, without_validation_it_is_complete_at_once)
{
    limit_values.compactor_block_upload_validation_enabled = false;
    upload_all();
    POST(BLOCK "/finish", SL(""), 200, "");
    EXPECT("GET", BLOCK "/check", SL(""), 200, "{\"result\":\"complete\"}");
    cr_expect_not(there("uploading-meta.json") || there("validation.json"));
}

Test(upload, a_block_without_counts_gets_them)
{
    struct buf index = file_of(REAL "/" BLOCK "/index"), chunks = file_of(REAL "/" BLOCK "/chunks/000001");
    char json[512], path[256];
    snprintf(json, sizeof(json),
             "{\"version\":1,\"minTime\":1763604000000,\"maxTime\":1763611200000,\"thanos\":{\"files\":[{\"rel_path\":\"index\",\"size_bytes\":%zu},"
             "{\"rel_path\":\"chunks/000001\",\"size_bytes\":%zu},{\"rel_path\":\"meta.json\"}]}}",
             index.n, chunks.n);
    START(json, 200, "");
    POST(BLOCK "/files?path=index", buf_slice(&index), 200, "");
    POST(BLOCK "/files?path=chunks%2F000001", buf_slice(&chunks), 200, "");
    POST(BLOCK "/finish", SL(""), 200, "");
    EVENTUALLY(!is_state("{\"result\":\"validating\"}"));
    EXPECT("GET", BLOCK "/check", SL(""), 200, "{\"result\":\"complete\"}");
    buf_release(&index);
    buf_release(&chunks);
    struct err err = ERR_NONE;
    snprintf(path, sizeof(path), "%s/bucket/t/" BLOCK, dir);
    struct block *b = block_open(path, &err);
    cr_assert(b, "%s", err.text);
    cr_expect(block_verify(b, &err), "%s", err.text);
    cr_expect_gt(block_meta_of(b)->stats.samples, 0);
    block_close(b);
}

/* --- what is refused ----------------------------------------------------------------------------------------------------------- */

Test(upload, calls_are_refused_with_mimirs_words)
{
    POST("nonsense/start", SL("{}"), 400, "invalid block ID\n");
    POST(BLOCK "/finish", SL(""), 404, "block upload not started\n");
    post_file("index", 404, "block upload not started\n");
    EXPECT("POST", BLOCK "/check", SL(""), 405, NULL);
    start_real();
    POST(BLOCK "/files", SL("x"), 400, "missing or invalid file path\n");
    POST(BLOCK "/files?path=", SL("x"), 400, "missing or invalid file path\n");
    POST(BLOCK "/files?path=foo", SL("x"), 400, "invalid path: \"foo\"\n");
    POST(BLOCK "/files?path=chunks/..%2Findex", SL("x"), 400, "invalid path: \"chunks/../index\"\n");
    POST(BLOCK "/files?path=chunks/0000001", SL("x"), 400, "invalid path: \"chunks/0000001\"\n");
    POST(BLOCK "/files?path=meta.json", SL("x"), 400, "meta.json is not allowed\n");
    POST(BLOCK "/files?path=index", SL(""), 400, "file cannot be empty\n");
    POST(BLOCK "/files?path=index", SL("x"), 400, "file size doesn't match meta.json\n");
    POST(BLOCK "/files?path=chunks/000002", SL("x"), 400, "unexpected file\n");
    limit_values.compactor_block_upload_enabled = false;
    POST(BLOCK "/start", SL("{}"), 400, "block upload is disabled\n");
    POST(BLOCK "/files?path=index", SL("x"), 400, "block upload is disabled\n");
    POST(BLOCK "/finish", SL(""), 400, "block upload is disabled\n");
    EXPECT("GET", BLOCK "/check", SL(""), 400, "block upload is disabled\n");
    struct reply r = rig_ask(&rig, "POST", "/api/v1/upload/block/" BLOCK "/start", "", "{}", 2);
    cr_expect_eq(r.status, 401);
    reply_free(&r);
}

#define TIMES "\"minTime\":1763604000000,\"maxTime\":1763611200000"

static void start_thanos(int line, const char *thanos, int status, const char *text)
{
    char json[1024];
    snprintf(json, sizeof(json), "{\"version\":1," TIMES ",\"thanos\":{%s}}", thanos);
    start_with(line, json, status, text);
}
#define THANOS(thanos, status, text) start_thanos(__LINE__, thanos, status, text)

Test(upload, what_a_meta_json_must_say)
{
    START("", 400, "malformed request body\n");
    START("[]", 400, "malformed request body\n");
    START("{\"version\":\"1\"}", 400, "malformed request body\n");
    START("{\"version\":1," TIMES ",\"stats\":7}", 400, "malformed request body\n");
    START("{" TIMES "}", 400, "version must be 1\n");
    START("{\"version\":2," TIMES "}", 400, "version must be 1\n");
    START("{\"version\":1,\"minTime\":5,\"maxTime\":4}", 400, "invalid minTime/maxTime: minTime=5, maxTime=4\n");
    START("{\"version\":1,\"minTime\":-1,\"maxTime\":4}", 400, "invalid minTime/maxTime: minTime=-1, maxTime=4\n");
    START("{\"version\":1,\"minTime\":1795296600000,\"maxTime\":1795300000001}", 400,
          "block time(s) greater than the present: minTime=1795296600000 (2026-11-21T21:30:00Z), maxTime=1795300000001 (2026-11-21T22:26:40.001Z)\n");
    START("{\"version\":1,\"minTime\":1763596800000,\"maxTime\":1763683200001}", 422,
          "block time range crosses boundary of configured compactor time range (1d)\n");
    START("{\"version\":1," TIMES "}", 200, "");
    THANOS("\"files\":[{\"rel_path\":\"foo\",\"size_bytes\":1}]", 400, "file with invalid path: foo\n");
    THANOS("\"files\":[{\"rel_path\":\"chunks/../../x\",\"size_bytes\":1}]", 400, "file with invalid path: chunks/../../x\n");
    THANOS("\"files\":[{\"rel_path\":\"index\"}]", 400, "file with invalid size: index\n");
    THANOS("\"files\":[{\"rel_path\":\"index\",\"size_bytes\":-1}]", 400, "file with invalid size: index\n");
    THANOS("\"files\":[7]", 400, "malformed request body\n");
    THANOS("\"downsample\":{\"resolution\":300000}", 400, "block contains downsampled data\n");
    THANOS("\"labels\":{\"foo\":\"bar\"}", 400, "unsupported external label: foo\n");
    THANOS("\"labels\":{\"foo\":7}", 400, "malformed request body\n");
    THANOS("\"labels\":{\"__compactor_shard_id__\":\"x\"}", 400, "invalid __compactor_shard_id__ external label: \"x\"\n");
    THANOS("\"labels\":{\"__compactor_shard_id__\":\"0_of_3\"}", 400, "invalid __compactor_shard_id__ external label: \"0_of_3\"\n");
    THANOS("\"labels\":{\"__compactor_shard_id__\":\"4_of_3\"}", 400, "invalid __compactor_shard_id__ external label: \"4_of_3\"\n");
    THANOS("\"labels\":{\"__compactor_shard_id__\":\"2_of_3\",\"__org_id__\":\"x\",\"__ingester_id__\":\"y\",\"__shard_id__\":\"z\"}", 200, "");
    char path[256];
    snprintf(path, sizeof(path), "%s/bucket/t/" BLOCK "/uploading-meta.json", dir);
    struct buf meta = file_of(path);
    cr_expect(strstr(buf_cstr(&meta), "\"labels\":{\"__compactor_shard_id__\":\"2_of_3\"}"), "%s", buf_cstr(&meta));
    buf_release(&meta);
    THANOS("\"labels\":{\"__compactor_shard_id__\":\"\"}", 200, "");
}

Test(upload, limits_of_the_tenant_hold)
{
    limit_values.compactor_blocks_retention_period = (int64_t)3600 * 1000;
    START("{\"version\":1," TIMES "}", 422, "block max time (2025-11-20T04:00:00Z) older than retention period\n");
    limit_values.compactor_blocks_retention_period = 0;
    limit_values.compactor_block_upload_max_block_size_bytes = 1000;
    THANOS("\"files\":[{\"rel_path\":\"index\",\"size_bytes\":501},{\"rel_path\":\"chunks/000001\",\"size_bytes\":500}]", 400,
           "block exceeds the maximum block size limit of 1000 bytes\n");
    THANOS("\"files\":[{\"rel_path\":\"index\",\"size_bytes\":500},{\"rel_path\":\"chunks/000001\",\"size_bytes\":500}]", 200, "");
    char big[1001] = {0};
    POST(BLOCK "/files?path=index", slice_make(big, sizeof(big)), 413, NULL);
}

Test(upload, a_meta_json_of_more_than_a_mebibyte_is_refused)
{
    size_t n = (1 << 20) + 1;
    char *json = malloc(n);
    memset(json, ' ', n);
    POST(BLOCK "/start", slice_make(json, n), 413, NULL);
    free(json);
}

/* --- bad blocks ----------------------------------------------------------------------------------------------------------------- */

static void flip(const char *file, size_t at)
{
    char path[256], byte;
    snprintf(path, sizeof(path), "%s/bucket/t/" BLOCK "/%s", dir, file);
    int fd = open(path, O_RDWR);
    cr_assert(fd >= 0 && pread(fd, &byte, 1, (off_t)at) == 1);
    byte ^= 1;
    cr_assert(pwrite(fd, &byte, 1, (off_t)at) == 1);
    close(fd);
}

static void expect_failed(const char *why)
{
    POST(BLOCK "/finish", SL(""), 200, "");
    EVENTUALLY(!is_state("{\"result\":\"validating\"}"));
    struct reply r = state();
    cr_expect_eq(r.status, 200);
    cr_expect(strncmp(r.body, "{\"result\":\"failed\",\"error\":\"", 28) == 0 && strstr(r.body, why), "%s", r.body);
    reply_free(&r);
    cr_expect_not(there("meta.json"));
}

Test(upload, a_damaged_chunk_is_found_and_never_visible)
{
    upload_all();
    flip("chunks/000001", 100);
    expect_failed("chunks/000001");
    POST(BLOCK "/start", SL("{}"), 400, "block validation failed\n");
    post_file("index", 400, "block validation failed\n");
    POST(BLOCK "/finish", SL(""), 400, "block validation failed\n");
    cr_expect(metrics_hold("brunn_block_upload_failed_validations_total{user=\"t\"} 1\n"));
}

Test(upload, a_damaged_chunk_is_passed_over_when_chunks_are_not_to_be_checked)
{
    limit_values.compactor_block_upload_verify_chunks = false;
    upload_all();
    flip("chunks/000001", 100);
    POST(BLOCK "/finish", SL(""), 200, "");
    EVENTUALLY(is_state("{\"result\":\"complete\"}"));
}

Test(upload, a_damaged_index_is_found_without_chunks_too)
{
    limit_values.compactor_block_upload_verify_chunks = false;
    upload_all();
    flip("index", 300);
    expect_failed("index");
}

Test(upload, an_index_of_version_1_is_refused)
{
    upload_all();
    flip("index", 4); /* 2 -> 3 */
    expect_failed("only version 2 can be uploaded");
}

Test(upload, a_missing_file_is_found)
{
    start_real();
    post_file("index", 200, "");
    expect_failed("chunks/000001");
}

Test(upload, times_that_are_not_the_samples_are_found)
{
    struct buf index = file_of(REAL "/" BLOCK "/index"), chunks = file_of(REAL "/" BLOCK "/chunks/000001");
    char json[512];
    snprintf(json, sizeof(json),
             "{\"version\":1,\"minTime\":1763604000000,\"maxTime\":1763604000001,\"thanos\":{\"files\":[{\"rel_path\":\"index\",\"size_bytes\":%zu},"
             "{\"rel_path\":\"chunks/000001\",\"size_bytes\":%zu}]}}",
             index.n, chunks.n);
    START(json, 200, "");
    POST(BLOCK "/files?path=index", buf_slice(&index), 200, "");
    POST(BLOCK "/files?path=chunks/000001", buf_slice(&chunks), 200, "");
    buf_release(&index);
    buf_release(&chunks);
    expect_failed("out of the block's");
}

/* --- while a check runs ------------------------------------------------------------------------------------------------------------ */

Test(upload, nothing_moves_while_a_check_runs)
{
    upload_all();
    slow_ms = 600;
    POST(BLOCK "/finish", SL(""), 200, "");
    EXPECT("GET", BLOCK "/check", SL(""), 200, "{\"result\":\"validating\"}");
    POST(BLOCK "/start", SL("{}"), 400, "block validation in progress\n");
    post_file("index", 400, "block validation in progress\n");
    POST(BLOCK "/finish", SL(""), 400, NULL);
    /* Another block has to wait: one check at a time. */
    POST("01M7Y7WQZRRT0NECXFY3DBGYZH/start", SL("{\"version\":1," TIMES "}"), 200, "");
    POST("01M7Y7WQZRRT0NECXFY3DBGYZH/finish", SL(""), 429, "too many block upload validations in progress, limit is 1\n");
    EXPECT("GET", "01M7Y7WQZRRT0NECXFY3DBGYZH/check", SL(""), 200, "{\"result\":\"uploading\"}");
    EVENTUALLY(is_state("{\"result\":\"complete\"}"));
}

Test(upload, a_running_check_says_so_again_and_again)
{
    upload_all();
    slow_ms = 1000;
    POST(BLOCK "/finish", SL(""), 200, "");
    clock_fake_wall_ms(NOW_MS + 4 * 60 * 1000);
    usleep(300000);
    clock_fake_wall_ms(NOW_MS + 8 * 60 * 1000);
    cr_expect(is_state("{\"result\":\"validating\"}"));
    EVENTUALLY(is_state("{\"result\":\"complete\"}"));
    usleep(200000);
    cr_expect_not(there("validation.json"));
}

Test(upload, a_check_that_died_may_be_asked_for_again)
{
    upload_all();
    slow_ms = 60000;
    POST(BLOCK "/finish", SL(""), 200, "");
    int64_t before = clock_mono_ms();
    close_upload();
    cr_expect_lt(clock_mono_ms() - before, 3000);
    slow_ms = 0;
    open_upload();
    cr_expect(is_state("{\"result\":\"validating\"}"));
    clock_fake_wall_ms(NOW_MS + 5 * 60 * 1000);
    cr_expect(is_state("{\"result\":\"uploading\"}"));
    POST(BLOCK "/finish", SL(""), 200, "");
    EVENTUALLY(is_state("{\"result\":\"complete\"}"));
}

Test(upload, what_a_killed_process_left_is_cleared_away)
{
    char path[256];
    close_upload();
    snprintf(path, sizeof(path), "mkdir -p %s/data/upload/check-abc/x && touch %s/data/upload/check-abc/x/y", dir, dir);
    cr_assert_eq(system(path), 0);
    open_upload();
    snprintf(path, sizeof(path), "%s/data/upload/check-abc", dir);
    cr_expect_neq(access(path, F_OK), 0);
    snprintf(path, sizeof(path), "%s/data/upload", dir);
    cr_expect_eq(access(path, F_OK), 0);
}

Test(upload, a_bucket_that_is_away_for_a_moment_fails_no_block)
{
    upload_all();
    n_faults = 2;
    POST(BLOCK "/finish", SL(""), 200, "");
    EVENTUALLY(is_state("{\"result\":\"complete\"}"));
}

Test(upload, a_bucket_that_stays_away_fails_it_with_a_reason)
{
    upload_all();
    n_faults = 100;
    expect_failed("out of order");
}

/* As a client that begins anew does it; what is refused because it is done already is passed over. */
static void upload_again(void)
{
    static const char *const files[] = {"index", "chunks/000001"};
    struct buf meta = file_of(REAL "/" BLOCK "/meta.json");
    struct reply r = rig_ask(&rig, "POST", "/api/v1/upload/block/" BLOCK "/start", "X-Scope-OrgID: t\r\n", meta.p, meta.n);
    reply_free(&r);
    buf_release(&meta);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char path[256], call[256];
        snprintf(path, sizeof(path), REAL "/" BLOCK "/%s", files[i]);
        snprintf(call, sizeof(call), "/api/v1/upload/block/" BLOCK "/files?path=%s", files[i]);
        struct buf bytes = file_of(path);
        r = rig_ask(&rig, "POST", call, "X-Scope-OrgID: t\r\n", bytes.p, bytes.n);
        reply_free(&r);
        buf_release(&bytes);
    }
    r = rig_ask(&rig, "POST", "/api/v1/upload/block/" BLOCK "/finish", "X-Scope-OrgID: t\r\n", "", 0);
    reply_free(&r);
    for (int i = 0; i < 200 && !is_state("{\"result\":\"complete\"}"); i++)
        usleep(10000);
}

/* True: the child came to its end. */
static bool upload_and_crash(int at)
{
    fflush(NULL);
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        open_upload();
        crash_left = at;
        upload_again();
        close_upload();
        _exit(0);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 9), "status %x", status);
    return WEXITSTATUS(status) == 0;
}

Test(upload, an_end_at_any_operation_leaves_an_upload_that_can_be_finished)
{
    bool done = false;
    int n = 0;
    for (int at = 0; !done; at++, n++) {
        char path[256];
        close_upload();
        snprintf(path, sizeof(path), "rm -rf %s/bucket/t", dir);
        cr_assert_eq(system(path), 0);
        clock_fake_wall_ms(NOW_MS);
        done = upload_and_crash(at);
        open_upload();
        clock_fake_wall_ms(NOW_MS + 5 * 60 * 1000);
        upload_again();
        cr_assert(is_state("{\"result\":\"complete\"}"), "end at %d", at);
        struct err err = ERR_NONE;
        snprintf(path, sizeof(path), "%s/bucket/t/" BLOCK, dir);
        struct block *b = block_open(path, &err);
        cr_assert(b && block_verify(b, &err), "end at %d: %s", at, err.text);
        block_close(b);
    }
    cr_expect_gt(n, 20);
}

/* A file of 30 MiB, larger than any body that is held in memory. */
Test(upload, large_files_do_not_pass_through_memory)
{
    size_t n = (size_t)30 << 20;
    char json[256], *bytes = malloc(n);
    memset(bytes, 7, n);
    snprintf(json, sizeof(json), "{\"version\":1," TIMES ",\"thanos\":{\"files\":[{\"rel_path\":\"index\",\"size_bytes\":%zu}]}}", n);
    START(json, 200, "");
    POST(BLOCK "/files?path=index", slice_make(bytes, n), 200, "");
    char path[256];
    snprintf(path, sizeof(path), "%s/bucket/t/" BLOCK "/index", dir);
    struct buf got = file_of(path);
    cr_expect(slice_eq(buf_slice(&got), slice_make(bytes, n)));
    buf_release(&got);
    free(bytes);
}
