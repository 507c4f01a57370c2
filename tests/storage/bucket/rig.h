/* A bucket in a folder of its own, seen through a view that counts operations and makes them fail. */
#pragma once

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "storage/bucket/bucket.h"

#define REAL TEST_SHARED_DIR "/mimir/blocks"
#define TENANT SL("tenant-a")

static const struct flag_def rig_flags[] = {
#define OBJSTORE_FLAG "blocks-storage."
#define OBJSTORE_YAML "blocks_storage."
#define FLAG(...) FLAG_ROW(objstore_config, __VA_ARGS__)
#include "storage/objstore/objstore_flags.def"
#undef FLAG
};

static const struct ctx no_hurry = {.deadline_ms = 0};

struct faulty {
    struct objstore objstore;
    struct objstore *store;
    _Atomic int left;       /* operations until all fail; -1: none does */
    _Atomic int n_gets, n_attributes, n_puts, n_lists;
    const char *hidden;     /* names with this in them are not listed */
    const char *at_meta;    /* a command that is run before a meta.json is put ... */
    int n_at_meta;          /* so many times */
    const char *after_list; /* a command that is run once, after the first list */
    _Atomic int slow_ms;    /* of a get */
    _Atomic int meet;       /* gets wait for each other until so many are there at once */
    _Atomic int n_inside, max_inside; /* gets that run; the most at once */
};

static inline struct faulty *faulty_of(struct objstore *s)
{
    return CONTAINER_OF(s, struct faulty, objstore);
}

static inline bool trip(struct objstore *s, _Atomic int *count, struct err *err)
{
    struct faulty *f = faulty_of(s);
    (*count)++;
    int left = f->left;
    while (left > 0 && !atomic_compare_exchange_weak(&f->left, &left, left - 1))
        ;
    return left != 0 || err_set(err, ERR_UNAVAILABLE, "out of order");
}

static inline bool faulty_get(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out, struct err *err)
{
    struct faulty *f = faulty_of(s);
    int inside = ++f->n_inside;
    for (int max = f->max_inside; inside > max && !atomic_compare_exchange_weak(&f->max_inside, &max, inside);)
        ;
    for (int i = 0; f->max_inside < f->meet && i < 10000; i++)
        usleep(1000);
    if (f->slow_ms)
        usleep((useconds_t)f->slow_ms * 1000);
    bool good = ctx_check(ctx, err) && trip(s, &f->n_gets, err) && objstore_get(f->store, ctx, name, offset, n, out, err);
    f->n_inside--;
    return good;
}

static inline bool faulty_attributes(struct objstore *s, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret, struct err *err)
{
    return trip(s, &faulty_of(s)->n_attributes, err) && objstore_attributes(faulty_of(s)->store, ctx, name, ret, err);
}

static inline void shell(const char *format, ...) __attribute__((format(printf, 1, 2)));

static inline bool faulty_put(struct objstore *s, const struct ctx *ctx, struct slice name, struct slice bytes, struct err *err)
{
    struct faulty *f = faulty_of(s);
    if (f->n_at_meta && slice_has_suffix(name, SL("/meta.json"))) {
        f->n_at_meta--;
        shell("%s", f->at_meta);
    }
    return trip(s, &f->n_puts, err) && objstore_put(f->store, ctx, name, bytes, err);
}

static inline bool faulty_put_file(struct objstore *s, const struct ctx *ctx, struct slice name, const char *path, struct err *err)
{
    return trip(s, &faulty_of(s)->n_puts, err) && objstore_put_file(faulty_of(s)->store, ctx, name, path, err);
}

static inline bool faulty_remove(struct objstore *s, const struct ctx *ctx, struct slice name, struct err *err)
{
    return trip(s, &faulty_of(s)->n_puts, err) && objstore_remove(faulty_of(s)->store, ctx, name, err);
}

struct passing {
    struct faulty *f;
    objstore_list_fn *fn;
    void *arg;
};

static inline bool pass(void *arg, struct slice name, bool is_prefix, const struct objstore_attributes *attributes)
{
    struct passing *p = arg;
    if (p->f->hidden && memmem(name.p, name.n, p->f->hidden, strlen(p->f->hidden)))
        return true;
    return p->fn(p->arg, name, is_prefix, attributes);
}

static inline bool faulty_list(struct objstore *s, const struct ctx *ctx, struct slice prefix, bool delimited, objstore_list_fn *fn, void *arg,
                               struct err *err)
{
    struct passing p = {faulty_of(s), fn, arg};
    bool good = trip(s, &p.f->n_lists, err) && objstore_list(p.f->store, ctx, prefix, delimited, pass, &p, err);
    if (p.f->after_list)
        shell("%s", p.f->after_list);
    p.f->after_list = NULL;
    return good;
}

static inline void faulty_free(struct objstore *s)
{
    (void)s;
}

static const struct objstore_ops faulty_ops = {
    .name = "faulty",
    .is_view = true,
    .get = faulty_get,
    .attributes = faulty_attributes,
    .put = faulty_put,
    .put_file = faulty_put_file,
    .remove = faulty_remove,
    .list = faulty_list,
    .free = faulty_free,
};

struct rig {
    char dir[64];        /* bucket/ and local/ */
    char bucket[96], local[96];
    struct objstore *store;
    struct faulty faulty;
    struct objstore *s; /* the faulty view */
    struct arena arena;
};

static inline void shell(const char *format, ...)
{
    char command[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof(command), format, ap);
    va_end(ap);
    cr_assert(system(command) == 0, "%s", command);
}

static inline void rig_new(struct rig *r)
{
    struct objstore_config cfg;
    struct flag_set *flags = flag_set_new();
    struct err err = ERR_NONE;
    *r = (struct rig){.dir = "/tmp/bucket-test-XXXXXX"};
    cr_assert(mkdtemp(r->dir));
    snprintf(r->bucket, sizeof(r->bucket), "%s/bucket", r->dir);
    snprintf(r->local, sizeof(r->local), "%s/local", r->dir);
    shell("mkdir %s %s", r->bucket, r->local);
    flag_set_add(flags, "Blocks", rig_flags, ARRAY_LEN(rig_flags), &cfg);
    r->store = objstore_open(&cfg, "blocks-storage.", r->bucket, &err);
    cr_assert(r->store, "%s", err.text);
    flag_set_free(flags);
    r->faulty = (struct faulty){.objstore = {&faulty_ops}, .store = r->store, .left = -1};
    r->s = &r->faulty.objstore;
    arena_init(&r->arena, 0);
}

/* With what a real Mimir left behind: its bucket after the compactor. */
static inline void rig_real(struct rig *r)
{
    if (access(REAL, F_OK) != 0)
        cr_skip_test("no blocks at %s", REAL);
    rig_new(r);
    shell("cp -r %s/compacted/. %s/ && chmod -R u+w %s", REAL, r->bucket, r->bucket);
}

static inline void rig_free(struct rig *r)
{
    objstore_free(r->store);
    arena_release(&r->arena);
    shell("rm -rf %s", r->dir);
}

/* The object's bytes, in the arena; p == NULL: there is none. */
static inline struct slice object(struct rig *r, const char *name)
{
    struct buf b = {0};
    struct err err = ERR_NONE;
    struct slice bytes = {0};
    if (objstore_get(r->store, &no_hurry, slice_of(name), 0, OBJSTORE_ALL, &b, &err))
        bytes = arena_dup(&r->arena, buf_slice(&b));
    else
        cr_assert(err.code == ERR_NOT_FOUND, "%s", err.text);
    buf_release(&b);
    return bytes;
}

static inline void put_object(struct rig *r, const char *name, struct slice bytes)
{
    struct err err = ERR_NONE;
    cr_assert(objstore_put(r->store, &no_hurry, slice_of(name), bytes, &err), "%s", err.text);
}

static inline struct slice file_bytes(struct rig *r, const char *path)
{
    FILE *f = fopen(path, "r");
    cr_assert(f, "%s", path);
    char *p = arena_alloc(&r->arena, 1 << 20);
    size_t n = fread(p, 1, 1 << 20, f);
    fclose(f);
    return slice_make(p, n);
}

static inline bool exists(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline bool exists(const char *format, ...)
{
    char path[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(path, sizeof(path), format, ap);
    va_end(ap);
    return access(path, F_OK) == 0;
}

static inline struct ulid ulid_from(const char *text)
{
    struct ulid u;
    cr_assert(ulid_parse(slice_of(text), &u));
    return u;
}
