#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"
#include "storage/bucket/bucket_int.h"

static struct bucket_name __attribute__((format(printf, 1, 2))) name_of(const char *format, ...)
{
    struct bucket_name name;
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(name.text, sizeof(name.text), format, ap);
    va_end(ap);
    ASSERT(n >= 0);
    name.n = MIN((size_t)n, sizeof(name.text) - 1);
    return name;
}

struct bucket_name bucket_tenant_file(struct slice tenant, const char *file)
{
    return name_of("%.*s/%s", SL_FMT(tenant), file);
}

struct bucket_name bucket_block_file(struct slice tenant, const struct ulid *block, const char *file)
{
    return name_of("%.*s/%s/%s", SL_FMT(tenant), block->text, file);
}

struct bucket_name bucket_global_mark(struct slice tenant, const struct ulid *block, const char *mark)
{
    return name_of("%.*s/" BUCKET_MARKERS "%s-%s", SL_FMT(tenant), block->text, mark);
}

bool ulid_of_folder(struct slice name, struct ulid *ret)
{
    return ulid_parse(name, ret) && memcmp(ret->text, name.p, ULID_TEXT_LEN) == 0;
}

int ulid_cmp(const void *a, const void *b)
{
    return memcmp(((const struct ulid *)a)->text, ((const struct ulid *)b)->text, ULID_TEXT_LEN);
}

size_t ulid_find(const struct ulid *sorted, size_t n, const struct ulid *u)
{
    const struct ulid *found = n ? bsearch(u, sorted, n, sizeof(*u), ulid_cmp) : NULL;
    return found ? (size_t)(found - sorted) : n;
}

bool bucket_no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory for what the bucket says");
}

bool bucket_get_small(struct objstore *s, const struct ctx *ctx, const struct bucket_name *name, size_t max, struct buf *out, struct err *err)
{
    struct err why = ERR_NONE;
    buf_init(out, max);
    if (objstore_get(s, ctx, bucket_name_slice(name), 0, OBJSTORE_ALL, out, &why))
        return true;
    if (why.code == ERR_TOO_LARGE)
        return err_set(err, ERR_CORRUPT, "%s: more than %zu bytes, which no such object has", name->text, max);
    return err_set(err, why.code, "%s", why.text);
}

bool bucket_exists(struct objstore *s, const struct ctx *ctx, const struct bucket_name *name, bool *ret_there, struct err *err)
{
    struct err why = ERR_NONE;
    struct objstore_attributes attributes;
    bool there = objstore_attributes(s, ctx, bucket_name_slice(name), &attributes, &why);
    if (!there && why.code != ERR_NOT_FOUND)
        return err_set(err, why.code, "%s", why.text);
    *ret_there = there;
    return true;
}
