/* Whole blocks up, down, marked and away, with the store failing at each of the steps. */
#include "storage/block/block.h"
#include "tests/storage/bucket/rig.h"

#define BLOCK "01M7Y7WV7BDAYD5T8JJ4H3V8N3" /* of the compactor, with a sparse index-header */
#define MARKED "01M7Y7WR36RNAK3M75MGY89WZT"

static void download(struct rig *r, const struct ulid *u)
{
    struct err err = ERR_NONE;
    cr_assert(bucket_download_block(r->s, &no_hurry, TENANT, u, r->local, &err), "%s", err.text);
}

Test(bucket_blocks, a_downloaded_block_is_whole)
{
    struct rig r;
    rig_real(&r);
    struct ulid u = ulid_from(BLOCK);
    struct err err = ERR_NONE;
    download(&r, &u);
    shell("cmp %s/tenant-a/" BLOCK "/meta.json %s/" BLOCK "/meta.json && cmp %s/tenant-a/" BLOCK "/chunks/000001 %s/" BLOCK "/chunks/000001", r.bucket, r.local,
          r.bucket, r.local);
    char path[256];
    snprintf(path, sizeof(path), "%s/" BLOCK, r.local);
    struct block *b = block_open(path, &err);
    cr_assert(b && block_verify(b, &err), "%s", err.text);
    block_close(b);
    cr_expect(!bucket_download_block(r.s, &no_hurry, TENANT, &u, r.local, &err) && err.code == ERR_CONFLICT, "%s", err.text);
    rig_free(&r);
}

Test(bucket_blocks, a_download_that_fails_leaves_nothing)
{
    struct rig r;
    rig_real(&r);
    struct ulid u = ulid_from(BLOCK);
    bool done = false;
    for (int n = 0; !done; n++) {
        struct err err = ERR_NONE;
        r.faulty.left = n;
        done = bucket_download_block(r.s, &no_hurry, TENANT, &u, r.local, &err);
        cr_expect(done || err.code == ERR_UNAVAILABLE, "%s", err.text);
        cr_expect_eq(exists("%s/" BLOCK, r.local), done);
        cr_expect(!exists("%s/" BLOCK ".tmp-for-creation", r.local));
    }
    rig_free(&r);
}

Test(bucket_blocks, an_object_of_another_size_is_told)
{
    struct rig r;
    rig_real(&r);
    struct ulid u = ulid_from(BLOCK);
    struct err err = ERR_NONE;
    shell("truncate -s -1 %s/tenant-a/" BLOCK "/index", r.bucket);
    cr_expect(!bucket_download_block(r.s, &no_hurry, TENANT, &u, r.local, &err) && err.code == ERR_CORRUPT, "%s", err.text);
    cr_expect(strstr(err.text, "index") && strstr(err.text, "meta.json says"), "%s", err.text);
    shell("rm %s/tenant-a/" BLOCK "/index", r.bucket);
    cr_expect(!bucket_download_block(r.s, &no_hurry, TENANT, &u, r.local, &err) && err.code == ERR_CORRUPT, "%s", err.text);
    shell("rm %s/tenant-a/" BLOCK "/meta.json", r.bucket);
    cr_expect(!bucket_download_block(r.s, &no_hurry, TENANT, &u, r.local, &err) && err.code == ERR_NOT_FOUND, "%s", err.text);
    cr_expect(!exists("%s/" BLOCK, r.local) && !exists("%s/" BLOCK ".tmp-for-creation", r.local));
    rig_free(&r);
}

Test(bucket_blocks, names_of_files_that_lead_elsewhere_are_passed_over)
{
    struct rig r;
    rig_real(&r);
    struct ulid u = ulid_from(BLOCK);
    shell("sed -i 's#\"sparse-index-header\"#\"../../stolen\"#' %s/tenant-a/" BLOCK "/meta.json && echo x > %s/tenant-a/stolen", r.bucket, r.bucket);
    download(&r, &u);
    cr_expect(!exists("%s/stolen", r.dir) && !exists("%s/stolen", r.local) && exists("%s/" BLOCK "/index", r.local));
    rig_free(&r);
}

/* The block as the ingester has it, without the part of meta.json that says whose it is, and what the real one became in the bucket. */
Test(bucket_blocks, an_uploaded_block_has_the_meta_of_mimirs)
{
    struct rig r;
    rig_real(&r);
    struct ulid u = ulid_from(MARKED);
    struct bucket_upload as = {.source = SL("receive")};
    struct err err = ERR_NONE;
    bool before = true;
    download(&r, &u);
    shell("cp %s/ingester-local/after-flush/tenant-a/" MARKED "/meta.json %s/" MARKED "/", REAL, r.local);
    cr_assert(bucket_upload_block(r.s, &no_hurry, SL("other"), r.local, &u, &as, &before, &err), "%s", err.text);
    cr_expect(!before);
    shell("diff %s/tenant-a/" MARKED "/meta.json %s/other/" MARKED "/meta.json", r.bucket, r.bucket);
    shell("cmp %s/tenant-a/" MARKED "/index %s/other/" MARKED "/index", r.bucket, r.bucket);
    int puts = r.faulty.n_puts;
    cr_assert(bucket_upload_block(r.s, &no_hurry, SL("other"), r.local, &u, &as, &before, &err), "%s", err.text);
    cr_expect(before && r.faulty.n_puts == puts);
    rig_free(&r);
}

Test(bucket_blocks, an_upload_that_fails_shows_nothing_and_goes_on_where_it_was)
{
    struct rig r;
    rig_real(&r);
    struct ulid u = ulid_from(BLOCK);
    bool done = false;
    download(&r, &u);
    shell("cp %s/tenant-a/" BLOCK "/sparse-index-header %s/" BLOCK "/", r.bucket, r.local);
    int tries = 0;
    for (; !done; tries++) {
        struct err err = ERR_NONE;
        r.faulty.left = tries;
        done = bucket_upload_block(r.s, &no_hurry, SL("other"), r.local, &u, NULL, NULL, &err);
        cr_expect(done || err.code == ERR_UNAVAILABLE, "%s", err.text);
        bool shown = exists("%s/other/" BLOCK "/meta.json", r.bucket);
        cr_expect(shown || !done);
        if (shown)
            shell("diff -r %s/tenant-a/" BLOCK " %s/other/" BLOCK, r.bucket, r.bucket);
    }
    cr_expect(tries > 5 && r.faulty.n_puts <= tries);
    rig_free(&r);
}

/* As a cleaner does that looked before the upload went on: it takes the block for given up, and whatever is there goes. */
Test(bucket_blocks, a_block_whose_parts_go_while_it_is_uploaded_is_uploaded_anew)
{
    static const char *const what[] = {"index", "chunks/000001", "index chunks/000001"};
    for (size_t i = 0; i < ARRAY_LEN(what); i++)
        for (int times = 1; times <= 3; times += 2) {
            struct rig r;
            rig_real(&r);
            struct ulid u = ulid_from(BLOCK);
            struct err err = ERR_NONE;
            download(&r, &u);
            shell("mkdir -p %s/other && cp -r %s/" BLOCK " %s/other/ && rm %s/other/" BLOCK "/meta.json", r.bucket, r.local, r.bucket, r.bucket);
            char command[256];
            snprintf(command, sizeof(command), "cd %s/other/" BLOCK " && rm -f %s", r.bucket, what[i]);
            r.faulty.at_meta = command;
            r.faulty.n_at_meta = times;
            bool done = bucket_upload_block(r.s, &no_hurry, SL("other"), r.local, &u, NULL, NULL, &err);
            cr_expect_eq(done, times == 1, "%s: %s", what[i], err.text);
            cr_expect_eq(exists("%s/other/" BLOCK "/meta.json", r.bucket), done);
            if (done)
                shell("diff -r -x meta.json %s/" BLOCK " %s/other/" BLOCK, r.local, r.bucket);
            rig_free(&r);
        }
}

Test(bucket_blocks, half_a_block_is_not_uploaded)
{
    static const struct {
        const char *damage, *text;
    } cases[] = {
        {"truncate -s -1 index", "meta.json says"},
        {"truncate -s 0 chunks/000001", "an empty file"},
        {"rm chunks/000001", "meta.json says"},
        {"rm index", "no whole block"},
        {"echo > meta.json", "no JSON"},
        {"sed -i s/" BLOCK "/" MARKED "/ meta.json", "the meta.json of block"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct rig r;
        rig_real(&r);
        struct ulid u = ulid_from(BLOCK);
        struct err err = ERR_NONE;
        download(&r, &u);
        shell("cd %s/" BLOCK " && %s", r.local, cases[i].damage);
        cr_expect(!bucket_upload_block(r.s, &no_hurry, SL("other"), r.local, &u, NULL, NULL, &err) && err.code == ERR_CORRUPT, "%s", cases[i].damage);
        cr_expect(strstr(err.text, cases[i].text), "%s: %s", cases[i].damage, err.text);
        cr_expect(!exists("%s/other", r.bucket));
        rig_free(&r);
    }
}

Test(bucket_blocks, a_mark_is_made_once_and_its_copy_is_the_same)
{
    struct rig r;
    rig_real(&r);
    struct block_mark m = {ulid_from(BLOCK), 77, SL(""), SL("first")}, got;
    struct err err = ERR_NONE;
    bool is_new = false;
    r.faulty.left = 2;
    cr_assert(!bucket_mark_block(r.s, &no_hurry, TENANT, BLOCK_MARK_DELETION, &m, &is_new, &err) && !is_new);
    cr_expect(exists("%s/tenant-a/" BLOCK "/deletion-mark.json", r.bucket) && !exists("%s/tenant-a/markers/" BLOCK "-deletion-mark.json", r.bucket));
    r.faulty.left = -1;
    m.details = SL("second");
    cr_assert(bucket_mark_block(r.s, &no_hurry, TENANT, BLOCK_MARK_DELETION, &m, &is_new, &err) && !is_new, "%s", err.text);
    shell("cmp %s/tenant-a/" BLOCK "/deletion-mark.json %s/tenant-a/markers/" BLOCK "-deletion-mark.json", r.bucket, r.bucket);
    cr_assert(bucket_read_mark(r.s, &no_hurry, TENANT, &m.block, BLOCK_MARK_DELETION, &r.arena, &got, &err), "%s", err.text);
    cr_expect(slice_eq(got.details, SL("first")) && got.time_s == 77);
    m.reason = SL(NO_COMPACT_MANUAL);
    cr_assert(bucket_mark_block(r.s, &no_hurry, TENANT, BLOCK_MARK_NO_COMPACT, &m, &is_new, &err) && is_new, "%s", err.text);
    const struct ulid *marked;
    size_t n;
    cr_assert(bucket_list_marks(r.s, &no_hurry, TENANT, BLOCK_MARK_NO_COMPACT, &r.arena, &marked, &n, &err), "%s", err.text);
    cr_expect(n == 1 && strcmp(marked[0].text, BLOCK) == 0);
    rig_free(&r);
}

/* After each fault: the block is whole, or it has no meta.json; and as long as anything of it is left so is its mark. */
Test(bucket_blocks, a_removal_that_fails_can_be_found_and_finished)
{
    struct rig r;
    rig_real(&r);
    struct ulid u = ulid_from(MARKED);
    bool done = false;
    int n = 0;
    for (; !done; n++) {
        struct err err = ERR_NONE;
        r.faulty.left = n;
        done = bucket_delete_block(r.s, &no_hurry, TENANT, &u, &err);
        cr_expect(done || err.code == ERR_UNAVAILABLE, "%s", err.text);
        bool rest = exists("%s/tenant-a/" MARKED, r.bucket), mark = exists("%s/tenant-a/markers/" MARKED "-deletion-mark.json", r.bucket);
        cr_expect_eq(exists("%s/tenant-a/" MARKED "/meta.json", r.bucket), n == 0);
        cr_expect(done ? !rest && !mark : mark);
        if (exists("%s/tenant-a/" MARKED "/index", r.bucket))
            cr_expect(exists("%s/tenant-a/" MARKED "/deletion-mark.json", r.bucket));
    }
    cr_expect_gt(n, 3);
    rig_free(&r);
}

Test(bucket_blocks, tenants_and_blocks_are_listed_in_order)
{
    struct rig r;
    rig_real(&r);
    const struct bucket_tenant *tenants;
    const struct ulid *blocks;
    const struct bucket_object *files;
    struct err err = ERR_NONE;
    size_t n;
    put_object(&r, "__mimir_cluster/mimir_cluster_seed.json", SL("{}"));
    put_object(&r, "a file", SL("{}"));
    cr_assert(bucket_tenants_marked(r.s, &no_hurry, &r.arena, &tenants, &n, &err), "%s", err.text);
    cr_assert_eq(n, 3);
    cr_expect(slice_eq(tenants[0].id, SL("tenant-a")) && slice_eq(tenants[1].id, SL("tenant-b")) && slice_eq(tenants[2].id, SL("tenant-gone")));
    cr_expect(!tenants[0].to_be_deleted && !tenants[1].to_be_deleted && tenants[2].to_be_deleted);
    cr_assert(bucket_blocks(r.s, &no_hurry, TENANT, &r.arena, &blocks, &n, &err), "%s", err.text);
    cr_expect(n == 13 && strcmp(blocks[0].text, "01M7Y7WQZ6W52WESYWPWAEGF8P") == 0);
    struct ulid u = ulid_from(BLOCK);
    cr_assert(bucket_block_files(r.s, &no_hurry, TENANT, &u, &r.arena, &files, &n, &err), "%s", err.text);
    cr_expect(n == 4 && slice_eq(files[0].name, SL("chunks/000001")) && files[0].size > 8 && slice_eq(files[3].name, SL("sparse-index-header")));
    rig_free(&r);
}
