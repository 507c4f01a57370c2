/* The store in a folder, and what the door does for all stores. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>

#include "base/metrics.h"

#define CLAIM(cond, ...) cr_assert(cond, __VA_ARGS__)
#include "suite.h"

struct rig {
    char dir[64];
    struct objstore *store;
};

static struct rig rig_new(const char *prefix)
{
    struct rig r = {.dir = "/tmp/objstore-test-XXXXXX"};
    cr_assert(mkdtemp(r.dir));
    struct objstore_config cfg = plain_config();
    cfg.storage_prefix = prefix;
    r.store = store_open(&cfg, r.dir);
    return r;
}

static void rig_free(struct rig *r)
{
    objstore_free(r->store);
    remove_tree(r->dir);
}

Test(filesystem, keeps_every_claim)
{
    struct rig r = rig_new("");
    suite_run(r.store, false);
    rig_free(&r);
}

Test(filesystem, keeps_every_claim_behind_a_prefix)
{
    struct rig r = rig_new("pre");
    char path[128];
    struct stat st;
    suite_run(r.store, false);
    put(r.store, "a", "x");
    snprintf(path, sizeof(path), "%s/pre/a", r.dir);
    cr_assert(stat(path, &st) == 0);
    rig_free(&r);
}

Test(filesystem, refuses_names_that_a_folder_cannot_have)
{
    struct rig r = rig_new("");
    struct err err = ERR_NONE;
    char longer[300];
    memset(longer, 'x', sizeof(longer));
    longer[256] = 0;
    cr_assert(!objstore_put(r.store, &no_hurry, slice_of(longer), SL(""), &err) && err.code == ERR_BAD_DATA, "%s", err.text);
    longer[255] = 0;
    put(r.store, longer, "");
    put(r.store, "a", "");
    cr_assert(!objstore_put(r.store, &no_hurry, SL("a/b"), SL(""), &err) && err.code == ERR_BAD_DATA, "%s", err.text);
    put(r.store, "f/b", "");
    cr_assert(!objstore_put(r.store, &no_hurry, SL("f"), SL(""), &err) && err.code == ERR_BAD_DATA, "%s", err.text);
    cr_assert(!objstore_put(r.store, &no_hurry, SL(".brunn-tmp/x"), SL(""), &err) && err.code == ERR_BAD_DATA, "%s", err.text);
    expect(r.store, "a/b", 0, 1, "!NOT_FOUND");
    rig_free(&r);
}

/* What a killed process leaves: an old temporary file goes at the next start, a young one stays; neither is ever seen. */
Test(filesystem, leftovers_are_not_listed_and_old_ones_go)
{
    struct rig r = rig_new("");
    char old[128], young[128], command[400];
    struct stat st;
    put(r.store, "t/a", "x");
    snprintf(old, sizeof(old), "%s/.brunn-tmp/old", r.dir);
    snprintf(young, sizeof(young), "%s/.brunn-tmp/young", r.dir);
    snprintf(command, sizeof(command), "touch '%s'; touch -d '2 hours ago' '%s'; mkdir -p '%s/e/empty'", young, old, r.dir);
    cr_assert(system(command) == 0);
    expect_names(r.store, "", false, "t/a ");
    expect_names(r.store, "", true, "t/ ");
    struct objstore_config cfg = plain_config();
    objstore_free(r.store);
    r.store = store_open(&cfg, r.dir);
    cr_assert(stat(old, &st) != 0);
    cr_assert(stat(young, &st) == 0);
    rig_free(&r);
}

Test(filesystem, no_temporary_file_and_no_empty_folder_stays)
{
    struct rig r = rig_new("");
    char command[400];
    struct err err = ERR_NONE;
    suite_run(r.store, false);
    cr_assert(!objstore_put(r.store, &no_hurry, SL("t/a/b"), SL(""), &err));
    for (const char *const *name = (const char *const[]){"t/a", "t/empty", "t/sized", NULL}; *name; name++)
        cr_assert(objstore_remove(r.store, &no_hurry, slice_of(*name), &err), "%s", err.text);
    snprintf(command, sizeof(command), "test \"$(cd '%s' && find . | sort | tr '\\n' ' ')\" = '. ./.brunn-tmp '", r.dir);
    cr_assert(system(command) == 0);
    rig_free(&r);
}

/* --- files that are put -------------------------------------------------------------------------------------------------- */

static ino_t __attribute__((format(printf, 1, 2))) inode(const char *format, ...)
{
    char path[256];
    struct stat st;
    va_list ap;
    va_start(ap, format);
    vsnprintf(path, sizeof(path), format, ap);
    va_end(ap);
    cr_assert(stat(path, &st) == 0, "%s", path);
    return st.st_ino;
}

static void make_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    cr_assert(f && fputs(text, f) >= 0 && fclose(f) == 0, "%s", path);
}

static void put_path(struct rig *r, const char *name, const char *path)
{
    struct err err = ERR_NONE;
    cr_assert(objstore_put_file(r->store, &no_hurry, slice_of(name), path, &err), "%s", err.text);
}

static void expect_no_temporary(const struct rig *r)
{
    char command[128];
    snprintf(command, sizeof(command), "test -z \"$(ls %s/.brunn-tmp 2>/dev/null)\"", r->dir);
    cr_assert(system(command) == 0, "%s", command);
}

Test(filesystem, a_file_of_the_same_disk_is_linked_and_as_new_as_its_put)
{
    struct rig r = rig_new("");
    char path[] = "/tmp/objstore-file-XXXXXX";
    struct objstore_attributes a = {0};
    struct err err = ERR_NONE;
    int fd = mkstemp(path);
    make_text(path, "bytes");
    cr_assert(fd >= 0 && futimens(fd, (const struct timespec[]){{.tv_sec = 1000}, {.tv_sec = 1000}}) == 0);
    close(fd);
    put_path(&r, "t/b/file", path);
    cr_expect_eq(inode("%s/t/b/file", r.dir), inode("%s", path));
    cr_assert(objstore_attributes(r.store, &no_hurry, SL("t/b/file"), &a, &err), "%s", err.text);
    cr_expect(a.size == 5 && llabs(a.modified_ms - clock_wall_ms()) < 3600000);
    unlink(path);
    expect(r.store, "t/b/file", 0, OBJSTORE_ALL, ">bytes");
    rig_free(&r);
}

Test(filesystem, an_object_that_is_replaced_leaves_the_files_that_were_put_alone)
{
    struct rig r = rig_new("");
    char one[160], two[160];
    snprintf(one, sizeof(one), "%s-one", r.dir);
    snprintf(two, sizeof(two), "%s-two", r.dir);
    make_text(one, "one");
    make_text(two, "other");
    put_path(&r, "f", one);
    put_path(&r, "f", one);
    expect(r.store, "f", 0, OBJSTORE_ALL, ">one");
    put_path(&r, "f", two);
    expect(r.store, "f", 0, OBJSTORE_ALL, ">other");
    put_path(&r, "g", one);
    put(r.store, "g", "bytes");
    expect(r.store, "g", 0, OBJSTORE_ALL, ">bytes");
    objstore_remove(r.store, &no_hurry, SL("f"), &(struct err){0});
    char command[400];
    snprintf(command, sizeof(command), "test \"$(cat %s %s)\" = oneother", one, two);
    cr_expect(system(command) == 0);
    expect_no_temporary(&r);
    unlink(one);
    unlink(two);
    rig_free(&r);
}

Test(filesystem, a_file_of_another_disk_is_copied)
{
    struct rig r = rig_new("");
    char path[] = "/dev/shm/objstore-file-XXXXXX";
    struct stat there, here;
    int fd = mkstemp(path);
    if (fd < 0 || fstat(fd, &there) != 0 || stat(r.dir, &here) != 0 || there.st_dev == here.st_dev)
        cr_skip_test("/dev/shm is no other disk than /tmp");
    close(fd);
    make_file(path, 3 << 20);
    put_path(&r, "t/file", path);
    char command[256];
    snprintf(command, sizeof(command), "cmp %s %s/t/file", path, r.dir);
    cr_expect(system(command) == 0);
    expect_no_temporary(&r);
    unlink(path);
    rig_free(&r);
}

/* As an upload over HTTP is kept. */
Test(filesystem, a_file_without_a_name_is_copied)
{
    struct rig r = rig_new("");
    char path[] = "/tmp/objstore-file-XXXXXX", self[32];
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && unlink(path) == 0 && pwrite(fd, "first", 5, 0) == 5);
    snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
    put_path(&r, "t/file", self);
    cr_assert(pwrite(fd, "again", 5, 0) == 5);
    expect(r.store, "t/file", 0, OBJSTORE_ALL, ">first");
    close(fd);
    rig_free(&r);
}

/* --- the door -------------------------------------------------------------------------------------------------------- */

static void expect_no_config(const char *want, struct objstore_config *cfg)
{
    struct err err = ERR_NONE;
    cr_assert_null(objstore_open(cfg, "blocks-storage.", "/tmp", &err));
    cr_assert_eq(err.code, ERR_CONFIG);
    cr_assert(strstr(err.text, want), "%s does not say %s", err.text, want);
}

static struct objstore_config s3_config(void)
{
    struct objstore_config cfg = plain_config();
    cfg.backend = "s3";
    cfg.s3_endpoint = "127.0.0.1:1";
    cfg.s3_bucket_name = "b";
    cfg.s3_access_key_id = "k";
    cfg.s3_secret_access_key = "s";
    cfg.s3_insecure = true;
    return cfg;
}

Test(objstore, a_configuration_that_cannot_be_names_its_flag)
{
#define BAD(field, value, flag)                                                                                        \
    do {                                                                                                               \
        struct objstore_config c = s3_config();                                                                        \
        c.field = value;                                                                                               \
        expect_no_config("-blocks-storage." flag, &c);                                                                 \
    } while (0)
    BAD(backend, "gcs", "backend");
    BAD(backend, "floppy", "backend");
    BAD(storage_prefix, "a/b", "storage-prefix");
    BAD(s3_endpoint, "http://h", "s3.endpoint");
    BAD(s3_endpoint, "", "s3.endpoint");
    BAD(s3_bucket_name, "", "s3.bucket-name");
    BAD(s3_bucket_name, "a/b", "s3.bucket-name");
    BAD(s3_region, "a b", "s3.region");
    BAD(s3_signature_version, "v3", "s3.signature-version");
    BAD(s3_list_objects_version, "v3", "s3.list-objects-version");
    BAD(s3_bucket_lookup_type, "dns", "s3.bucket-lookup-type");
    BAD(s3_sse_type, "SSE-C", "s3.sse.type");
    BAD(s3_sse_type, "SSE-KMS", "s3.sse.kms-key-id");
    BAD(s3_secret_access_key, "", "s3.access-key-id");
    BAD(s3_part_size, 1000, "s3.part-size");
    BAD(s3_sts_endpoint, "x", "s3.sts-endpoint");
    BAD(s3_native_aws_auth_enabled, true, "s3.native-aws-auth-enabled");
    BAD(s3_tls_cert_path, "x", "s3.http.tls-cert-path");
    BAD(s3_max_connections_per_host, -1, "s3.max-connections-per-host");
#undef BAD
    struct objstore_config c = s3_config();
    c.s3_signature_version = "v2";
    c.s3_insecure = false;
    expect_no_config("-blocks-storage.s3.signature-version", &c);
    c = plain_config();
    c.filesystem_dir = "/proc/none";
    expect_no_config("-blocks-storage.filesystem.dir", &c);
}

/* A store that fails `failures` times in a row. */
struct failing {
    struct objstore store;
    int failures;
    int calls;
    enum err_code code;
};

static bool failing_get(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out,
                        struct err *err)
{
    struct failing *f = CONTAINER_OF(s, struct failing, store);
    (void)ctx, (void)name, (void)offset, (void)n;
    buf_puts(out, "ab");
    return ++f->calls > f->failures || err_set(err, f->code, "no");
}

static const struct objstore_ops failing_ops = {.name = "failing", .get = failing_get};

Test(objstore, what_may_go_away_is_tried_again_and_leaves_nothing_behind)
{
    struct failing f = {.store.ops = &failing_ops, .failures = 3, .code = ERR_UNAVAILABLE};
    expect(&f.store, "a", 0, 2, ">ab");
    cr_assert_eq(f.calls, 4);
}

Test(objstore, what_stays_wrong_is_tried_once)
{
    struct failing f = {.store.ops = &failing_ops, .failures = 3, .code = ERR_IO};
    expect(&f.store, "a", 0, 2, "!IO");
    cr_assert_eq(f.calls, 1);
}

Test(objstore, tries_end_with_the_deadline)
{
    struct failing f = {.store.ops = &failing_ops, .failures = 1000, .code = ERR_UNAVAILABLE};
    struct ctx ctx = {.deadline_ms = clock_mono_ms() + 300};
    struct err err = ERR_NONE;
    struct buf out = {0};
    cr_assert(!objstore_get(&f.store, &ctx, SL("a"), 0, 2, &out, &err) && err.code == ERR_TIMEOUT, "%s", err.text);
    cr_assert(clock_mono_ms() - ctx.deadline_ms < 100 && f.calls > 1);
    cr_assert_eq(out.n, 0);
    buf_release(&out);
}

Test(objstore, operations_are_counted_for_their_component)
{
    struct rig r = rig_new("");
    struct objstore *own = objstore_as(r.store, "compactor");
    struct buf text = {0};
    put(own, "a", "12345");
    expect(own, "a", 0, OBJSTORE_ALL, ">12345");
    expect(own, "a", 9, 5, "!OUT_OF_RANGE");
    expect(own, "b", 0, OBJSTORE_ALL, "!NOT_FOUND");
    metrics_write_text(&text, NULL, 0);
    static const struct {
        const char *name, *operation;
        int value;
    } rows[] = {
        {"operations_total", "upload", 1},
        {"operations_total", "get", 2},
        {"operation_failures_total", "get", 0},
        {"operation_failures_total", "get_range", 1},
        {"operation_fetched_bytes_total", "get", 5},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char row[256];
        snprintf(row, sizeof(row), "thanos_objstore_bucket_%s{bucket=\"%s\",component=\"compactor\",operation=\"%s\"} %d\n", rows[i].name, r.dir,
                 rows[i].operation, rows[i].value);
        cr_assert(strstr(buf_cstr(&text), row), "no %s", row);
    }
    buf_release(&text);
    objstore_free(own);
    rig_free(&r);
}
