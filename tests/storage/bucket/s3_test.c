/* A block's whole life on an S3 server that answers badly one time in three, and lists late: nothing is lost, nothing half done is visible. */
#define CLAIM(cond, ...) cr_assert(cond, __VA_ARGS__)
#include "tests/storage/bucket/rig.h"

#include <curl/curl.h>

#include "tests/storage/objstore/server.h"

#define BLOCK "01M7Y7WV7BDAYD5T8JJ4H3V8N3"

/* Tells the server something: "_calm". */
static void tell(const struct server *s, const char *what)
{
    char url[256];
    CURL *h = curl_easy_init();
    snprintf(url, sizeof(url), "%s://%s/%s", s->scheme, s->endpoint, what);
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_FAILONERROR, 1L);
    FILE *nowhere = fopen("/dev/null", "w");
    curl_easy_setopt(h, CURLOPT_WRITEDATA, nowhere);
    cr_assert(curl_easy_perform(h) == CURLE_OK, "%s", url);
    curl_easy_cleanup(h);
    fclose(nowhere);
}

struct life {
    struct rig rig;
    struct server server;
    struct objstore *s3;
    struct ulid block;
};

static void life_new(struct life *l)
{
    struct err err = ERR_NONE;
    rig_real(&l->rig);
    l->server = server_start(NULL, NULL);
    struct flag_set *flags = flag_set_new();
    struct objstore_config c;
    flag_set_add(flags, "Blocks", rig_flags, ARRAY_LEN(rig_flags), &c);
    c.backend = "s3";
    c.s3_endpoint = l->server.endpoint;
    c.s3_access_key_id = "testkey";
    c.s3_secret_access_key = "testsecret";
    c.s3_bucket_name = "bkt";
    c.s3_insecure = true;
    l->s3 = objstore_open(&c, "blocks-storage.", "", &err);
    cr_assert(l->s3, "%s", err.text);
    flag_set_free(flags);
    l->block = ulid_from(BLOCK);
    cr_assert(bucket_download_block(l->rig.store, &no_hurry, TENANT, &l->block, l->rig.local, &err), "%s", err.text);
}

static void life_free(struct life *l)
{
    objstore_free(l->s3);
    server_stop(&l->server);
    rig_free(&l->rig);
}

static struct bucket_index update(struct life *l, const struct bucket_index *old, struct bucket_update *told)
{
    struct bucket_index index;
    struct err err = ERR_NONE;
    cr_assert(bucket_index_update(l->s3, &no_hurry, TENANT, old, 5, 1, &l->rig.arena, &index, told, &err), "%s", err.text);
    cr_assert(bucket_index_write(l->s3, &no_hurry, TENANT, &index, &err), "%s", err.text);
    cr_assert(bucket_index_read(l->s3, &no_hurry, TENANT, &l->rig.arena, &index, &err), "%s", err.text);
    return index;
}

Test(bucket_s3, a_blocks_life_with_30_percent_errors, .timeout = 120)
{
    struct life l;
    struct err err = ERR_NONE;
    struct bucket_update told;
    life_new(&l);
    tell(&l.server, "_fault?kind=status&percent=10&times=1000000&status=503");
    tell(&l.server, "_fault?kind=reset&percent=10&times=1000000");
    tell(&l.server, "_fault?kind=cut&percent=10&times=1000000");
    for (int i = 0; i < 3; i++)
        cr_assert(bucket_upload_block(l.s3, &no_hurry, TENANT, l.rig.local, &l.block, NULL, NULL, &err), "%s", err.text);
    struct bucket_index index = update(&l, NULL, &told);
    cr_expect(index.n_blocks == 1 && told.n_partial == 0 && told.n_new == 1 && index.blocks[0].segments_num == 1 && index.blocks[0].uploaded_at_s > 1700000000);
    shell("mkdir %s/again", l.rig.local);
    char dir[256];
    snprintf(dir, sizeof(dir), "%s/again", l.rig.local);
    cr_assert(bucket_download_block(l.s3, &no_hurry, TENANT, &l.block, dir, &err), "%s", err.text);
    shell("cmp %s/" BLOCK "/index %s/" BLOCK "/index && cmp %s/" BLOCK "/chunks/000001 %s/" BLOCK "/chunks/000001", l.rig.local, dir, l.rig.local, dir);
    struct block_mark mark = {.block = l.block, .time_s = 7, .details = SL("")};
    bool is_new = false;
    cr_assert(bucket_mark_block(l.s3, &no_hurry, TENANT, BLOCK_MARK_DELETION, &mark, &is_new, &err), "%s", err.text);
    index = update(&l, &index, &told);
    cr_expect(index.n_deletions == 1 && index.deletions[0].time_s == 7 && told.n_new == 0);
    cr_assert(bucket_delete_block(l.s3, &no_hurry, TENANT, &l.block, &err), "%s", err.text);
    index = update(&l, &index, &told);
    cr_expect(index.n_blocks == 0 && index.n_deletions == 0 && told.n_partial == 0);
    tell(&l.server, "_calm");
    life_free(&l);
}

Test(bucket_s3, a_late_listing_takes_no_block_out_of_the_index, .timeout = 60)
{
    struct life l;
    struct err err = ERR_NONE;
    struct bucket_update told;
    life_new(&l);
    cr_assert(bucket_upload_block(l.s3, &no_hurry, TENANT, l.rig.local, &l.block, NULL, NULL, &err), "%s", err.text);
    struct bucket_index index = update(&l, NULL, &told);
    cr_assert_eq(index.n_blocks, 1);
    tell(&l.server, "_fault?kind=stale&times=1000000");
    for (int i = 0; i < 5; i++) {
        index = update(&l, &index, &told);
        cr_expect(index.n_blocks == 1 && told.n_partial == 0);
    }
    life_free(&l);
}
