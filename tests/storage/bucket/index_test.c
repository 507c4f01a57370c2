/* The bucket index and the marks: what Mimir wrote comes back byte for byte, what is none is refused by name, and an update finds what is there. */
#include <dirent.h>
#include <zlib.h>

#include "tests/storage/bucket/rig.h"

static struct slice unzipped(struct rig *r, struct slice gz)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)gz.p, .avail_in = (uInt)gz.n};
    char *p = arena_alloc(&r->arena, 1 << 20);
    cr_assert(inflateInit2(&z, 31) == Z_OK);
    z.next_out = (Bytef *)p;
    z.avail_out = 1 << 20;
    cr_assert(inflate(&z, Z_FINISH) == Z_STREAM_END && z.avail_in == 0);
    inflateEnd(&z);
    return slice_make(p, z.total_out);
}

static struct slice zipped(struct rig *r, struct slice plain)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)plain.p, .avail_in = (uInt)plain.n};
    char *p = arena_alloc(&r->arena, plain.n + 1000);
    cr_assert(deflateInit2(&z, 6, Z_DEFLATED, 31, 8, 0) == Z_OK);
    z.next_out = (Bytef *)p;
    z.avail_out = (uInt)plain.n + 1000;
    cr_assert(deflate(&z, Z_FINISH) == Z_STREAM_END);
    size_t n = z.total_out;
    deflateEnd(&z);
    return slice_make(p, n);
}

static struct bucket_index decoded(struct rig *r, struct slice gz)
{
    struct bucket_index index;
    struct err err = ERR_NONE;
    cr_assert(bucket_index_decode(gz, &r->arena, &index, &err), "%s", err.text);
    return index;
}

Test(bucket_index, of_mimir_is_written_again_with_the_same_bytes_within_gzip)
{
    struct rig r;
    rig_real(&r);
    static const char *const names[] = {"tenant-a/" BUCKET_INDEX, "tenant-b/" BUCKET_INDEX};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct slice gz = object(&r, names[i]);
        struct bucket_index index = decoded(&r, gz);
        struct buf out = {0};
        cr_expect_eq(index.n_blocks, 13);
        bucket_index_encode(&index, &out);
        cr_assert(!out.failed);
        cr_expect(slice_eq(unzipped(&r, gz), unzipped(&r, buf_slice(&out))), "%.*s", SL_FMT(unzipped(&r, buf_slice(&out))));
        cr_expect(memcmp(gz.p, out.p, 28) == 0, "the gzip header with its name");
        buf_release(&out);
    }
    rig_free(&r);
}

Test(bucket_index, tells_what_a_block_is)
{
    struct rig r;
    rig_new(&r);
    struct slice json = SL(" {\"unknown\":[{\"a\":[]}], \"version\" : 2 ,\"blocks\":[{\"block_id\":\"01M7Y7WR36RNAK3M75MGY89WZT\",\"min_time\":-5,\"max_time\":7,"
                           "\"uploaded_at\":9,\"labels\":{\"b\":\"<2\",\"a\":\"1\"},\"out_of_order\":true,\"more\":{}},"
                           "{\"block_id\":\"01M7Y7WQZ6W52WESYWPWAEGF8P\",\"compactor_shard_id\":\"1_of_2\",\"segments_format\":\"1b6d\",\"segments_num\":3,"
                           "\"source\":\"compactor\",\"compaction_level\":4,\"labels\":null}],\"block_deletion_marks\":null,\"updated_at\":12}\n");
    struct bucket_index index = decoded(&r, zipped(&r, json));
    const struct index_block *b = index.blocks;
    cr_assert(index.n_blocks == 2 && index.n_deletions == 0 && index.updated_at_s == 12);
    cr_expect(b[0].min_t == -5 && b[0].max_t == 7 && b[0].uploaded_at_s == 9 && b[0].out_of_order && b[0].n_labels == 2 && b[0].level == 0);
    cr_expect(slice_eq(b[0].labels[0].name, SL("a")) && slice_eq(b[0].labels[1].value, SL("<2")));
    cr_expect(slice_eq(b[1].shard, SL("1_of_2")) && b[1].segments_num == 3 && b[1].level == 4 && slice_eq(b[1].source, SL("compactor")));
    struct buf out = {0};
    bucket_index_encode(&index, &out);
    struct slice text = unzipped(&r, buf_slice(&out));
    cr_expect(memmem(text.p, text.n, "\"labels\":{\"a\":\"1\",\"b\":\"\\u003c2\"}", 31), "%.*s", SL_FMT(text));
    cr_expect(slice_has_suffix(text, SL("],\"block_deletion_marks\":[],\"updated_at\":12}")), "%.*s", SL_FMT(text));
    buf_release(&out);
    rig_free(&r);
}

Test(bucket_index, that_is_wrong_is_an_error_that_says_why)
{
    static const struct {
        const char *json, *text;
    } cases[] = {
        {"", "unexpected EOF"},
        {"[]", "no such JSON"},
        {"{", "it is no such JSON"},
        {"{}", "version"},
        {"{\"version\":3}", "version is no version that is known"},
        {"{\"version\":\"2\"}", "version is no integer"},
        {"{\"version\":2}x", "something follows"},
        {"{\"version\":2,\"blocks\":[", "unexpected EOF"},
        {"{\"version\":2,\"blocks\":[{}]}", "block_id is no ULID"},
        {"{\"version\":2,\"blocks\":[7]}", "blocks is no array of objects"},
        {"{\"version\":2,\"blocks\":{}}", "blocks is no array"},
        {"{\"version\":2,\"blocks\":[{\"block_id\":\"01M7Y7WR36RNAK3M75MGY89WZT\",\"min_time\":1.5}]}", "min_time is no integer"},
        {"{\"version\":2,\"blocks\":[{\"block_id\":\"01M7Y7WR36RNAK3M75MGY89WZT\",\"segments_num\":-1}]}", "segments_num is no count"},
        {"{\"version\":2,\"blocks\":[{\"block_id\":\"01M7Y7WR36RNAK3M75MGY89WZT\",\"labels\":[]}]}", "labels is no object"},
        {"{\"version\":2,\"blocks\":[{\"block_id\":\"01M7Y7WR36RNAK3M75MGY89WZT\",\"labels\":{\"a\":1}}]}", "a is no string"},
        {"{\"version\":2,\"block_deletion_marks\":[{\"deletion_time\":1}]}", "block_id is no ULID"},
        {"{\"version\":2 \"blocks\":[]}", "no such JSON"},
    };
    struct rig r;
    rig_new(&r);
    struct bucket_index index;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_NONE;
        cr_expect(!bucket_index_decode(zipped(&r, slice_of(cases[i].json)), &r.arena, &index, &err), "%s", cases[i].json);
        cr_expect(err.code == ERR_CORRUPT && strstr(err.text, "bucket index corrupted: ") == err.text && strstr(err.text, cases[i].text), "%s: %s",
                  cases[i].json, err.text);
    }
    struct slice good = zipped(&r, SL("{\"version\":2,\"blocks\":[],\"updated_at\":5}"));
    for (size_t n = 0; n < good.n; n++) {
        struct err err = ERR_NONE;
        cr_expect(!bucket_index_decode(slice_make(good.p, n), &r.arena, &index, &err) && err.code == ERR_CORRUPT, "cut at %zu", n);
    }
    for (size_t i = 0; i < good.n * 8; i++) {
        struct err err = ERR_NONE;
        char *flipped = arena_alloc(&r.arena, good.n);
        memcpy(flipped, good.p, good.n);
        flipped[i / 8] ^= (char)(1 << i % 8);
        if (bucket_index_decode(slice_make(flipped, good.n), &r.arena, &index, &err))
            cr_expect(index.updated_at_s == 5 && index.n_blocks == 0, "bit %zu", i); /* of gzip's header, or between the data and its checksum */
        else
            cr_expect_eq(err.code, ERR_CORRUPT);
    }
    rig_free(&r);
}

Test(block_mark, of_mimir_is_written_again_with_the_same_bytes)
{
    struct rig r;
    rig_real(&r);
    static const char *const blocks[] = {"01M7Y7WR36RNAK3M75MGY89WZT", "01M7Y7WQZ6W52WESYWPWAEGF8P"};
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++) {
        struct ulid u = ulid_from(blocks[i]);
        struct bucket_name name = bucket_block_file(TENANT, &u, BUCKET_DELETION_MARK);
        struct slice json = object(&r, name.text);
        struct block_mark m;
        struct err err = ERR_NONE;
        struct buf out = {0};
        cr_assert(block_mark_decode(BLOCK_MARK_DELETION, json, &r.arena, &m, &err), "%s", err.text);
        block_mark_encode(BLOCK_MARK_DELETION, &m, &out);
        cr_expect(slice_eq(json, buf_slice(&out)));
        buf_release(&out);
    }
    struct tenant_mark t;
    struct err err = ERR_NONE;
    struct buf out = {0};
    struct slice json = object(&r, "tenant-gone/markers/tenant-deletion-mark.json");
    cr_assert(bucket_read_tenant_mark(r.s, &no_hurry, SL("tenant-gone"), &t, &err), "%s", err.text);
    tenant_mark_encode(&t, &out);
    cr_expect(slice_eq(json, buf_slice(&out)), "%.*s", SL_FMT(buf_slice(&out)));
    buf_release(&out);
    rig_free(&r);
}

Test(block_mark, of_no_compaction_has_its_reason)
{
    struct rig r;
    rig_new(&r);
    struct block_mark m = {ulid_from("01M7Y7WR36RNAK3M75MGY89WZT"), 7, SL(NO_COMPACT_CRITICAL), SL("a<b")}, again;
    struct buf out = {0};
    struct err err = ERR_NONE;
    block_mark_encode(BLOCK_MARK_NO_COMPACT, &m, &out);
    cr_expect_str_eq(buf_cstr(&out), "{\"id\":\"01M7Y7WR36RNAK3M75MGY89WZT\",\"version\":1,\"details\":\"a\\u003cb\",\"no_compact_time\":7,\"reason\":\"critical\"}");
    cr_assert(block_mark_decode(BLOCK_MARK_NO_COMPACT, buf_slice(&out), &r.arena, &again, &err), "%s", err.text);
    cr_expect(slice_eq(again.details, m.details) && slice_eq(again.reason, m.reason) && again.time_s == 7);
    static const struct {
        const char *json, *text;
    } cases[] = {
        {"", "no JSON object"},
        {"{\"id\":\"x\"}", "id is no ULID"},
        {"{\"id\":\"01M7Y7WR36RNAK3M75MGY89WZT\",\"version\":2}", "version"},
        {"{\"id\":\"01M7Y7WR36RNAK3M75MGY89WZT\",\"version\":1,\"deletion_time\":\"1\"}", "deletion_time is no integer"},
        {"{\"id\":\"01M7Y7WR36RNAK3M75MGY89WZT\",\"version\":1,\"details\":7}", "details is no string"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        err = ERR_NONE;
        cr_expect(!block_mark_decode(BLOCK_MARK_DELETION, slice_of(cases[i].json), &r.arena, &again, &err));
        cr_expect(err.code == ERR_CORRUPT && strstr(err.text, cases[i].text), "%s: %s", cases[i].json, err.text);
    }
    buf_release(&out);
    rig_free(&r);
}

/* --- update ------------------------------------------------------------------------------------------------------------------ */

static int by_id(const void *a, const void *b)
{
    return strcmp(((const struct index_block *)a)->id.text, ((const struct index_block *)b)->id.text);
}

/* The JSON of the index with its blocks in order, and without what a copy of the files changes. */
static struct slice normal(struct rig *r, const struct bucket_index *index, bool with_upload_times)
{
    struct bucket_index copy = *index;
    struct index_block *blocks = ARENA_ARRAY(&r->arena, struct index_block, index->n_blocks + 1);
    struct buf out = {0};
    for (size_t i = 0; i < index->n_blocks; i++) {
        blocks[i] = index->blocks[i];
        if (!with_upload_times)
            blocks[i].uploaded_at_s = 0;
    }
    qsort(blocks, index->n_blocks, sizeof(*blocks), by_id);
    copy.blocks = blocks;
    copy.n_deletions = 0;
    bucket_index_encode(&copy, &out);
    struct slice text = unzipped(r, buf_slice(&out));
    buf_release(&out);
    return text;
}

static struct bucket_index updated(struct rig *r, const struct bucket_index *old, struct bucket_update *ret)
{
    struct bucket_index index;
    struct err err = ERR_NONE;
    cr_assert(bucket_index_update(r->s, &no_hurry, TENANT, old, 1795237548, 3, &r->arena, &index, ret, &err), "%s", err.text);
    return index;
}

Test(bucket_index_update, out_of_nothing_says_what_mimir_says)
{
    struct rig r;
    rig_real(&r);
    struct bucket_index theirs = decoded(&r, object(&r, "tenant-a/" BUCKET_INDEX));
    struct bucket_update told;
    struct bucket_index ours = updated(&r, NULL, &told);
    cr_expect(told.n_new == 13 && told.n_partial == 0);
    cr_expect(slice_eq(normal(&r, &theirs, false), normal(&r, &ours, false)), "%.*s\n%.*s", SL_FMT(normal(&r, &theirs, false)), SL_FMT(normal(&r, &ours, false)));
    cr_expect(ours.n_deletions == theirs.n_deletions && ours.n_deletions > 0);
    for (size_t i = 0; i < theirs.n_deletions; i++) {
        const struct index_deletion *d = bucket_index_deletion(&ours, &theirs.deletions[i].block);
        cr_expect(d && d->time_s == theirs.deletions[i].time_s);
    }
    rig_free(&r);
}

Test(bucket_index_update, reads_nothing_of_what_is_known)
{
    struct rig r;
    rig_real(&r);
    struct bucket_index theirs = decoded(&r, object(&r, "tenant-a/" BUCKET_INDEX));
    struct bucket_update told;
    struct bucket_index ours = updated(&r, &theirs, &told);
    cr_expect(slice_eq(normal(&r, &theirs, true), normal(&r, &ours, true)));
    cr_expect(r.faulty.n_gets == 0 && r.faulty.n_attributes == 0 && r.faulty.n_lists == 2 && told.n_new == 0);
    rig_free(&r);
}

Test(bucket_index_update, keeps_what_a_late_listing_lacks_and_drops_what_is_gone)
{
    struct rig r;
    rig_real(&r);
    struct ulid gone = ulid_from("01M7Y7WV59RD7Q1R4WJZAYQXG3"), hidden = ulid_from("01M7Y7WR36RNAK3M75MGY89WZT");
    struct bucket_index theirs = decoded(&r, object(&r, "tenant-a/" BUCKET_INDEX));
    struct err err = ERR_NONE;
    r.faulty.hidden = hidden.text;
    cr_assert(bucket_delete_block(r.s, &no_hurry, TENANT, &gone, &err), "%s", err.text);
    struct bucket_index ours = updated(&r, &theirs, NULL);
    bool has_gone = false, has_hidden = false;
    for (size_t i = 0; i < ours.n_blocks; i++) {
        has_gone |= strcmp(ours.blocks[i].id.text, gone.text) == 0;
        has_hidden |= strcmp(ours.blocks[i].id.text, hidden.text) == 0;
    }
    cr_expect(!has_gone && has_hidden && ours.n_blocks == 12);
    cr_expect(bucket_index_deletion(&ours, &hidden) && !bucket_index_deletion(&ours, &gone));
    rig_free(&r);
}

Test(bucket_index_update, that_meets_a_compaction_never_has_a_mark_without_the_block_that_replaces_it)
{
    struct rig r;
    rig_real(&r);
    struct ulid source = ulid_from("01M7Y7WV59RD7Q1R4WJZAYQXG3"), result = ulid_from("01M7Y7WR36RNAK3M75MGY89WZT");
    char later[1024];
    shell("cd %s && mv tenant-a/%s later && rm -f tenant-a/markers/%s* tenant-a/markers/%s*", r.bucket, result.text, result.text, source.text);
    snprintf(later, sizeof(later), "cd %s && mv later tenant-a/%s && echo '{\"id\":\"%s\",\"deletion_time\":1795237540,\"version\":1}' > tenant-a/markers/%s-deletion-mark.json",
             r.bucket, result.text, source.text, source.text);
    r.faulty.after_list = later;
    struct bucket_index first = updated(&r, NULL, NULL), second = updated(&r, &first, NULL);
    bool has_result = false;
    for (size_t i = 0; i < first.n_blocks; i++)
        has_result |= strcmp(first.blocks[i].id.text, result.text) == 0;
    cr_expect(has_result || !bucket_index_deletion(&first, &source));
    cr_expect(bucket_index_deletion(&second, &source));
    rig_free(&r);
}

Test(bucket_index_update, tells_partial_blocks_and_bad_marks)
{
    struct rig r;
    rig_real(&r);
    shell("rm %s/tenant-a/01M7Y7WV59RD7Q1R4WJZAYQXG3/meta.json; echo '{' > %s/tenant-a/01M7Y7WR36RNAK3M75MGY89WZT/meta.json", r.bucket, r.bucket);
    shell("cp %s/tenant-a/01M7Y7WV1VTFGMRDMERCB75ERP/meta.json %s/tenant-a/01M7Y7WV8DSG1FW9JSPE6ZPX48/", r.bucket, r.bucket);
    shell("echo '{' > %s/tenant-a/markers/01M7Y7WQZ6W52WESYWPWAEGF8P-deletion-mark.json", r.bucket);
    struct bucket_update told;
    struct bucket_index ours = updated(&r, NULL, &told);
    cr_assert(told.n_partial == 4 && ours.n_blocks == 10, "%zu %zu", told.n_partial, ours.n_blocks);
    for (size_t i = 0; i < told.n_partial; i++) {
        const struct partial_block *p = &told.partial[i];
        bool missing = strcmp(p->id.text, "01M7Y7WV59RD7Q1R4WJZAYQXG3") == 0;
        cr_expect_eq(p->why.code, missing ? ERR_NOT_FOUND : ERR_CORRUPT, "%s", p->why.text);
        cr_expect_eq(p->mark.n > 0, strcmp(p->id.text, "01M7Y7WQZ6W52WESYWPWAEGF8P") == 0);
    }
    rig_free(&r);
}

Test(bucket_index_update, reads_as_many_at_a_time_as_it_may_and_gives_the_same)
{
    struct rig r;
    rig_real(&r);
    r.faulty.meet = 3; /* as many as updated() allows */
    struct bucket_index ours = updated(&r, NULL, NULL);
    cr_expect_eq(r.faulty.max_inside, 3);
    for (size_t i = 1; i < ours.n_blocks; i++)
        cr_expect_lt(strcmp(ours.blocks[i - 1].id.text, ours.blocks[i].id.text), 0);
    for (size_t i = 1; i < ours.n_deletions; i++)
        cr_expect_lt(strcmp(ours.deletions[i - 1].block.text, ours.deletions[i].block.text), 0);
    rig_free(&r);
}

Test(bucket_index_update, fails_as_a_whole_when_the_store_does)
{
    struct rig r;
    rig_real(&r);
    bool done = false;
    int n = 0;
    for (; !done; n++) {
        struct bucket_index index = {0};
        struct err err = ERR_NONE;
        r.faulty.left = n;
        done = bucket_index_update(r.s, &no_hurry, TENANT, NULL, 1, 1 + (size_t)n % 3, &r.arena, &index, NULL, &err);
        cr_expect(done ? index.n_blocks == 13 : err.code == ERR_UNAVAILABLE && index.n_blocks == 0, "%d: %s", n, err.text);
    }
    cr_expect_gt(n, 20);
    rig_free(&r);
}

Test(bucket_index, is_written_and_read)
{
    struct rig r;
    rig_real(&r);
    struct bucket_index ours = updated(&r, NULL, NULL), again;
    struct err err = ERR_NONE;
    cr_expect(!bucket_index_read(r.s, &no_hurry, SL("nobody"), &r.arena, &again, &err) && err.code == ERR_NOT_FOUND, "%s", err.text);
    cr_assert(bucket_index_write(r.s, &no_hurry, SL("nobody"), &ours, &err), "%s", err.text);
    cr_assert(bucket_index_read(r.s, &no_hurry, SL("nobody"), &r.arena, &again, &err), "%s", err.text);
    cr_expect(slice_eq(normal(&r, &ours, true), normal(&r, &again, true)));
    rig_free(&r);
}
