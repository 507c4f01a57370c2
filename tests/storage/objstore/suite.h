/*
 * The claims that hold for every store, whatever is behind it. Whoever includes this defines CLAIM(cond, format, ...) before, and calls suite_run with a store of
 * its own that is empty.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "storage/objstore/objstore.h"

static const struct flag_def objstore_test_flags[] = {
#define OBJSTORE_FLAG "blocks-storage."
#define OBJSTORE_YAML "blocks_storage."
#define FLAG(...) FLAG_ROW(objstore_config, __VA_ARGS__)
#include "storage/objstore/objstore_flags.def"
#undef FLAG
};

/* All defaults. */
static inline struct objstore_config plain_config(void)
{
    static struct flag_set *flags; /* has the strings */
    static struct objstore_config defaults;
    if (!flags) {
        flags = flag_set_new();
        flag_set_add(flags, "Blocks", objstore_test_flags, ARRAY_LEN(objstore_test_flags), &defaults);
    }
    return defaults;
}

/* OBJSTORE_TEST_ENDPOINT, _KEY, _SECRET, _BUCKET, _SIGNATURE (v4), _CA ("" = plain HTTP). False: there is none. */
static inline bool store_of_environment(struct objstore_config *cfg)
{
    const char *signature = getenv("OBJSTORE_TEST_SIGNATURE"), *ca = getenv("OBJSTORE_TEST_CA");
    *cfg = plain_config();
    if (!getenv("OBJSTORE_TEST_ENDPOINT"))
        return false;
    cfg->backend = "s3";
    cfg->s3_endpoint = getenv("OBJSTORE_TEST_ENDPOINT");
    cfg->s3_access_key_id = getenv("OBJSTORE_TEST_KEY");
    cfg->s3_secret_access_key = getenv("OBJSTORE_TEST_SECRET");
    cfg->s3_bucket_name = getenv("OBJSTORE_TEST_BUCKET");
    cfg->s3_signature_version = signature ? signature : "v4";
    cfg->s3_insecure = !ca || !ca[0];
    cfg->s3_tls_ca_path = ca ? ca : "";
    cfg->s3_part_size = (uint64_t)5 << 20;
    return true;
}

static inline struct objstore *store_open(struct objstore_config *cfg, const char *dir)
{
    struct err err = ERR_NONE;
    struct objstore *s = objstore_open(cfg, "blocks-storage.", dir, &err);
    CLAIM(s, "%s", err.text);
    return s;
}

static inline void remove_tree(const char *dir)
{
    char command[256];
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    CLAIM(system(command) == 0, "%s", command);
}

/* --- tools ----------------------------------------------------------------------------------------------------------- */

static const struct ctx no_hurry = {0};

static inline void put(struct objstore *s, const char *name, const char *text)
{
    struct err err = ERR_NONE;
    CLAIM(objstore_put(s, &no_hurry, slice_of(name), slice_of(text), &err), "%s", err.text);
}

/* The range's text, or the name of the error: "!NOT_FOUND". Static. */
static inline const char *get(struct objstore *s, const char *name, uint64_t offset, uint64_t n)
{
    static _Thread_local char text[4096];
    struct err err = ERR_NONE;
    struct buf out;
    buf_init(&out, sizeof(text) - 1);
    buf_puts(&out, ">"); /* what stands before stays */
    if (objstore_get(s, &no_hurry, slice_of(name), offset, n, &out, &err))
        snprintf(text, sizeof(text), "%.*s", SL_FMT(buf_slice(&out)));
    else
        snprintf(text, sizeof(text), "!%s", err_name(err.code));
    CLAIM(err.code == ERR_OK || (out.n == 1 && strstr(err.text, name)), "%s: %zu bytes", err.text, out.n);
    buf_release(&out);
    return text;
}

static inline void expect(struct objstore *s, const char *name, uint64_t offset, uint64_t n, const char *want)
{
    const char *got = get(s, name, offset, n);
    CLAIM(strcmp(got, want) == 0, "%s from %llu, %llu bytes: %.80s, not %s", name, (unsigned long long)offset, (unsigned long long)n, got, want);
}

struct names {
    char text[256][64];
    size_t n;
    size_t max; /* after so many the listing is ended */
    uint64_t bytes;
};

static inline int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

static inline bool add_name(void *arg, struct slice name, bool is_prefix, const struct objstore_attributes *a)
{
    struct names *l = arg;
    CLAIM(is_prefix == slice_has_suffix(name, SL("/")), "%.*s", SL_FMT(name));
    CLAIM(l->n < ARRAY_LEN(l->text), "too many names");
    snprintf(l->text[l->n++], sizeof(l->text[0]), "%.*s", SL_FMT(name));
    l->bytes += a->size;
    if (!is_prefix && a->modified_ms)
        CLAIM(llabs(a->modified_ms - clock_wall_ms()) < 3600000, "%.*s is of %lld", SL_FMT(name), (long long)a->modified_ms);
    return l->n < l->max;
}

static inline bool count_name(void *arg, struct slice name, bool is_prefix, const struct objstore_attributes *a)
{
    size_t *n = arg;
    (void)name, (void)is_prefix, (void)a;
    ++*n;
    return true;
}

/* Sorted and with a blank behind each. */
static inline void expect_names(struct objstore *s, const char *prefix, bool delimited, const char *want)
{
    struct err err = ERR_NONE;
    struct names *l = calloc(1, sizeof(*l));
    char got[4096] = "";
    l->max = SIZE_MAX;
    CLAIM(objstore_list(s, &no_hurry, slice_of(prefix), delimited, add_name, l, &err), "%s", err.text);
    qsort(l->text, l->n, sizeof(l->text[0]), compare_names);
    for (size_t i = 0; i < l->n; i++)
        snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s ", l->text[i]);
    CLAIM(strcmp(got, want) == 0, "listing of %s: %s, not %s", prefix, got, want);
    free(l);
}

/* --- claims ------------------------------------------------------------------------------------------------------------- */

static inline void check_reading(struct objstore *s)
{
    expect(s, "t/none", 0, OBJSTORE_ALL, "!NOT_FOUND");
    put(s, "t/a", "0123456789");
    expect(s, "t/a", 0, OBJSTORE_ALL, ">0123456789");
    expect(s, "t/a", 3, OBJSTORE_ALL, ">3456789");
    expect(s, "t/a", 3, 4, ">3456");
    expect(s, "t/a", 9, 1, ">9");
    expect(s, "t/a", 0, 10, ">0123456789");
    expect(s, "t/a", 10, OBJSTORE_ALL, ">");
    expect(s, "t/a", 10, 0, ">");
    expect(s, "t/a", 0, 0, ">");
    expect(s, "t/a", 11, OBJSTORE_ALL, "!OUT_OF_RANGE");
    expect(s, "t/a", 11, 0, "!OUT_OF_RANGE");
    expect(s, "t/a", 10, 1, "!OUT_OF_RANGE");
    expect(s, "t/a", 5, 6, "!OUT_OF_RANGE");
    expect(s, "t/a", UINT64_MAX - 3, 100, "!OUT_OF_RANGE");
    expect(s, "t/none", 3, 4, "!NOT_FOUND");
    expect(s, "t/none", 0, 0, "!NOT_FOUND");
    put(s, "t/empty", "");
    expect(s, "t/empty", 0, OBJSTORE_ALL, ">");
    expect(s, "t/empty", 0, 1, "!OUT_OF_RANGE");
    put(s, "t/a", "new");
    expect(s, "t/a", 0, OBJSTORE_ALL, ">new");
}

static inline void check_attributes(struct objstore *s)
{
    struct err err = ERR_NONE;
    struct objstore_attributes a = {0};
    put(s, "t/sized", "12345");
    CLAIM(objstore_attributes(s, &no_hurry, SL("t/sized"), &a, &err), "%s", err.text);
    CLAIM(a.size == 5 && llabs(a.modified_ms - clock_wall_ms()) < 3600000, "%llu bytes", (unsigned long long)a.size);
    CLAIM(!objstore_attributes(s, &no_hurry, SL("t/no"), &a, &err) && err.code == ERR_NOT_FOUND, "%s", err.text);
    CLAIM(!objstore_attributes(s, &no_hurry, SL("t"), &a, &err) && err.code == ERR_NOT_FOUND, "a folder is no object: %s", err.text);
}

/* plain_only: the store has only names like those of tenants and blocks. */
static inline void check_names(struct objstore *s, bool plain_only)
{
    static const char *const bad[] = {"", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\nb", "a\x7f", "\xff"};
    static const char *const good[] = {"n/!*'()-_.", "n/...", "n/.x", "n/sp ace", "n/plus+", "n/per%41cent", "n/q?=&", "n/t\xc3\xb6", "n/~", "n/:@,;$", "n/a=b"};
    struct err err = ERR_NONE;
    struct buf out = {0};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        CLAIM(!objstore_put(s, &no_hurry, slice_of(bad[i]), SL("x"), &err) && err.code == ERR_BAD_DATA, "\"%s\": %s", bad[i], err.text);
        CLAIM(!objstore_get(s, &no_hurry, slice_of(bad[i]), 0, 1, &out, &err) && err.code == ERR_BAD_DATA, "\"%s\": %s", bad[i], err.text);
    }
    CLAIM(!objstore_list(s, &no_hurry, SL("../"), true, add_name, NULL, &err) && err.code == ERR_BAD_DATA, "%s", err.text);
    for (size_t i = 0; i < (plain_only ? 3 : ARRAY_LEN(good)); i++) {
        char want[64];
        put(s, good[i], good[i]);
        snprintf(want, sizeof(want), ">%s", good[i]);
        expect(s, good[i], 0, OBJSTORE_ALL, want);
        snprintf(want, sizeof(want), "%s ", good[i]);
        expect_names(s, good[i], false, want);
        CLAIM(objstore_remove(s, &no_hurry, slice_of(good[i]), &err), "%s", err.text);
    }
    expect_names(s, "n/", false, "");
}

static inline void check_listing(struct objstore *s)
{
    struct err err = ERR_NONE;
    static const char *const names[] = {"l/x/1", "l/x/2", "l/x/deep/3", "l/y/1", "l/z", "l/xy"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        put(s, names[i], "abc");
    expect_names(s, "l/", false, "l/x/1 l/x/2 l/x/deep/3 l/xy l/y/1 l/z ");
    expect_names(s, "l/", true, "l/x/ l/xy l/y/ l/z ");
    expect_names(s, "l/x", true, "l/x/ l/xy ");
    expect_names(s, "l/x", false, "l/x/1 l/x/2 l/x/deep/3 l/xy ");
    expect_names(s, "l/x/", true, "l/x/1 l/x/2 l/x/deep/ ");
    expect_names(s, "l/none/", true, "");
    struct names *l = calloc(1, sizeof(*l));
    l->max = 2;
    CLAIM(objstore_list(s, &no_hurry, SL("l/"), false, add_name, l, &err) && l->n == 2 && l->bytes == 6, "%s", err.text);
    free(l);
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        CLAIM(objstore_remove(s, &no_hurry, slice_of(names[i]), &err), "%s", err.text);
    expect_names(s, "l/", true, "");
    CLAIM(objstore_remove(s, &no_hurry, SL("l/z"), &err), "what is not there is fine: %s", err.text);
}

/* n bytes that are no repetition, at path. */
static inline void make_file(const char *path, size_t n)
{
    FILE *f = fopen(path, "w");
    CLAIM(f, "%s", path);
    for (uint32_t i = 0; i < n / 4; i++) {
        uint32_t v = i * 2654435761U;
        fwrite(&v, 4, 1, f);
    }
    CLAIM(fclose(f) == 0, "%s", path);
}

static inline void check_file(struct objstore *s, size_t n)
{
    char path[] = "/tmp/objstore-file-XXXXXX";
    struct err err = ERR_NONE;
    int fd = mkstemp(path);
    CLAIM(fd >= 0, "no file");
    close(fd);
    make_file(path, n);
    CLAIM(objstore_put_file(s, &no_hurry, SL("f/file"), path, &err), "%s", err.text);
    struct buf got, want;
    buf_init(&got, 0);
    buf_init(&want, 0);
    CLAIM(objstore_get(s, &no_hurry, SL("f/file"), 0, OBJSTORE_ALL, &got, &err), "%s", err.text);
    FILE *f = fopen(path, "r");
    buf_reserve(&want, n + 1);
    want.n = fread(want.p, 1, n, f);
    fclose(f);
    CLAIM(got.n == n && slice_eq(buf_slice(&got), buf_slice(&want)), "%zu bytes of %zu", got.n, n);
    buf_clear(&got);
    got.max = 100;
    if (n > 100) {
        CLAIM(!objstore_get(s, &no_hurry, SL("f/file"), 0, OBJSTORE_ALL, &got, &err) && err.code == ERR_TOO_LARGE && got.n == 0, "%s", err.text);
        CLAIM(objstore_get(s, &no_hurry, SL("f/file"), n - 100, 100, &got, &err), "%s", err.text);
        CLAIM(memcmp(got.p, want.p + n - 100, 100) == 0, "the end is another");
    }
    CLAIM(objstore_remove(s, &no_hurry, SL("f/file"), &err), "%s", err.text);
    CLAIM(!objstore_put_file(s, &no_hurry, SL("f/none"), "/tmp/objstore-none", &err) && err.code == ERR_IO, "%s", err.text);
    buf_release(&got);
    buf_release(&want);
    unlink(path);
}

static inline void check_canceled(struct objstore *s)
{
    struct err err = ERR_NONE;
    atomic_bool yes = true;
    struct ctx canceled = {.canceled = &yes}, late = {.deadline_ms = 1};
    CLAIM(!objstore_put(s, &canceled, SL("c"), SL("x"), &err) && err.code == ERR_CANCELED, "%s", err.text);
    CLAIM(!objstore_put(s, &late, SL("c"), SL("x"), &err) && err.code == ERR_TIMEOUT, "%s", err.text);
    expect(s, "c", 0, 1, "!NOT_FOUND");
}

static inline void suite_run(struct objstore *s, bool plain_only)
{
    check_reading(s);
    check_attributes(s);
    check_names(s, plain_only);
    check_listing(s);
    check_file(s, 1000);
    check_file(s, 0);
    check_file(s, 12 << 20); /* three parts of 5 MiB */
    check_canceled(s);
}
