/*
 * Every claim against a server that others made, when OBJSTORE_TEST_ENDPOINT names one (tests/e2e/interop/test_s3.py starts MinIO and versitygw);
 * nothing is claimed without it.
 */
#include <criterion/criterion.h>

#define CLAIM(cond, ...) cr_assert(cond, __VA_ARGS__)
#include "suite.h"

Test(real, keeps_every_claim, .timeout = 120)
{
    struct objstore_config cfg;
    if (!store_of_environment(&cfg))
        return;
    cfg.storage_prefix = "suite";
    struct objstore *s = store_open(&cfg, "");
    suite_run(s, strcmp(cfg.s3_signature_version, "v2") == 0);
    objstore_free(s);
}

Test(real, lists_the_first_way, .timeout = 60)
{
    struct objstore_config cfg;
    if (!store_of_environment(&cfg))
        return;
    cfg.storage_prefix = "first";
    cfg.s3_list_objects_version = "v1";
    struct objstore *s = store_open(&cfg, "");
    check_listing(s);
    objstore_free(s);
}

Test(real, goes_on_with_a_long_listing, .timeout = 120)
{
    struct objstore_config cfg;
    struct err err = ERR_NONE;
    if (!store_of_environment(&cfg))
        return;
    cfg.storage_prefix = "long";
    for (int v = 1; v <= 2; v++) {
        char name[32];
        size_t n = 0;
        cfg.s3_list_objects_version = v == 1 ? "v1" : "v2";
        struct objstore *s = store_open(&cfg, "");
        for (int i = 0; v == 1 && i < 2100; i++) {
            snprintf(name, sizeof(name), "a/%d", i);
            put(s, name, "");
        }
        cr_assert(objstore_list(s, &no_hurry, SL("a/"), false, count_name, &n, &err), "%s", err.text);
        cr_assert_eq(n, 2100, "%zu", n);
        objstore_free(s);
    }
}

Test(real, other_keys_and_buckets_are_no_missing_objects, .timeout = 60)
{
    struct objstore_config cfg;
    if (!store_of_environment(&cfg))
        return;
    struct objstore_attributes a;
    struct err err = ERR_NONE;
    const char *secret = cfg.s3_secret_access_key;
    cfg.s3_secret_access_key = "another";
    struct objstore *s = store_open(&cfg, "");
    cr_assert(!objstore_attributes(s, &no_hurry, SL("x"), &a, &err) && err.code == ERR_PERMISSION, "%s", err.text);
    expect(s, "x", 0, OBJSTORE_ALL, "!PERMISSION");
    objstore_free(s);
    cfg.s3_secret_access_key = secret;
    cfg.s3_bucket_name = "no-such-bucket";
    s = store_open(&cfg, "");
    cr_assert(!objstore_attributes(s, &no_hurry, SL("x"), &a, &err) && err.code == ERR_IO, "%s", err.text);
    expect(s, "x", 0, OBJSTORE_ALL, "!IO");
    objstore_free(s);
}
