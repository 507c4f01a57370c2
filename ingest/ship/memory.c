#include "ingest/ship/memory_int.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VERSION 1
#define MS_MAX 9e15 /* more than any calendar has, and exact in a double */

static int compare(const void *a, const void *b)
{
    return memcmp(((const struct shipped *)a)->ulid.text, ((const struct shipped *)b)->ulid.text, ULID_TEXT_LEN);
}

static const struct shipped *memory_find(const struct memory *m, const struct ulid *u)
{
    struct shipped key = {.ulid = *u};
    return m->n ? bsearch(&key, m->items, m->n, sizeof(key), compare) : NULL;
}

/* ULIDs come in order, but for those of a second ingester's clock: the place is looked for from the end. */
bool memory_add(struct memory *m, const struct ulid *u, int64_t at_ms)
{
    struct shipped item = {*u, at_ms};
    if (memory_find(m, u))
        return true;
    if (m->n == m->cap) {
        size_t cap = m->cap ? m->cap * 2 : 16;
        struct shipped *items = realloc(m->items, cap * sizeof(*items));
        if (!items)
            return false;
        m->items = items;
        m->cap = cap;
    }
    size_t at = m->n;
    while (at > 0 && compare(&m->items[at - 1], &item) > 0)
        at--;
    memmove(m->items + at + 1, m->items + at, (m->n - at) * sizeof(item));
    m->items[at] = item;
    m->n++;
    return true;
}

void memory_release(struct memory *m)
{
    free(m->items);
    *m = (struct memory){0};
}

static bool add_all(struct memory *m, json_t *shipped, struct err *err)
{
    const char *name;
    json_t *at;
    json_object_foreach(shipped, name, at) {
        struct ulid u;
        double seconds = json_number_value(at);
        if (!json_is_number(at) || !(fabs(seconds * 1e3) < MS_MAX) || !ulid_parse(slice_of(name), &u))
            return err_set(err, ERR_CORRUPT, MEMORY_FILE ": \"%.40s\" is no block with its time", name);
        if (!memory_add(m, &u, (int64_t)llround(seconds * 1e3)))
            return err_set(err, ERR_NO_MEMORY, MEMORY_FILE ": no memory for its blocks");
    }
    return true;
}

bool memory_decode(struct memory *m, struct slice json, struct err *err)
{
    json_error_t error;
    json_t *root = json_loadb(json.p, json.n, 0, &error);
    json_t *shipped = json_object_get(root, "shipped");
    bool good;
    if (!json_is_object(root))
        good = err_set(err, ERR_CORRUPT, MEMORY_FILE ": no JSON object: %s", root ? "another value" : error.text);
    else if (json_integer_value(json_object_get(root, "version")) != VERSION)
        good = err_set(err, ERR_CORRUPT, MEMORY_FILE ": version is no version that is known");
    else if (shipped && !json_is_null(shipped) && !json_is_object(shipped))
        good = err_set(err, ERR_CORRUPT, MEMORY_FILE ": shipped is no object");
    else
        good = add_all(m, shipped, err);
    json_decref(root);
    return good;
}

/* As Go writes a float: no zeros at the end of the fraction. */
static void put_seconds(struct buf *out, int64_t ms)
{
    char text[32];
    int n = snprintf(text, sizeof(text), "%s%lld.%03lld", ms < 0 ? "-" : "", llabs(ms / 1000), llabs(ms % 1000));
    while (text[n - 1] == '0')
        n--;
    if (text[n - 1] == '.')
        n--;
    buf_put(out, text, (size_t)n);
}

void memory_encode(const struct memory *m, struct buf *out)
{
    buf_printf(out, "{\n\t\"version\": %d,\n\t\"shipped\": {", VERSION);
    for (size_t i = 0; i < m->n; i++) {
        buf_printf(out, "%s\n\t\t\"%s\": ", i ? "," : "", m->items[i].ulid.text);
        put_seconds(out, m->items[i].at_ms);
    }
    buf_puts(out, m->n ? "\n\t}\n}\n" : "}\n}\n");
}

/* --- the file ---------------------------------------------------------------------------------------------------------------- */

static bool read_file(const char *path, struct buf *out, bool *ret_there, struct err *err)
{
    FILE *f = fopen(path, "re");
    *ret_there = f != NULL;
    if (!f)
        return errno == ENOENT || err_errno(err, ERR_IO, errno, "%s", path);
    size_t got = 1;
    while (got && buf_reserve(out, 65536)) {
        got = fread(out->p + out->n, 1, 65536, f);
        out->n += got;
    }
    bool good = !ferror(f) || err_set(err, ERR_IO, "%s: cannot be read", path);
    fclose(f);
    return good && (!out->failed || err_set(err, ERR_CORRUPT, "%s: it is too large", path));
}

bool memory_read(struct memory *m, const char *dir, struct err *err)
{
    char path[1024];
    struct buf json;
    bool there = false;
    snprintf(path, sizeof(path), "%s/" MEMORY_FILE, dir);
    buf_init(&json, MEMORY_MAX_BYTES);
    bool good = read_file(path, &json, &there, err) && (!there || memory_decode(m, buf_slice(&json), err));
    buf_release(&json);
    return good;
}

static bool write_file(const char *path, struct slice bytes, struct err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_errno(err, ERR_IO, errno, "making %s", path);
    bool good = true;
    while (good && bytes.n) {
        ssize_t n = write(fd, bytes.p, bytes.n);
        if (n < 0 && errno != EINTR)
            good = err_errno(err, ERR_IO, errno, "writing %s", path);
        if (n > 0) {
            bytes.p += n;
            bytes.n -= (size_t)n;
        }
    }
    good = good && (fsync(fd) == 0 || err_errno(err, ERR_IO, errno, "syncing %s", path));
    if (close(fd) != 0 && good)
        good = err_errno(err, ERR_IO, errno, "closing %s", path);
    return good;
}

bool memory_write(const struct memory *m, const char *dir, struct err *err)
{
    char path[1024], temporary[1040];
    struct buf json;
    snprintf(path, sizeof(path), "%s/" MEMORY_FILE, dir);
    snprintf(temporary, sizeof(temporary), "%s.tmp", path);
    buf_init(&json, MEMORY_MAX_BYTES);
    memory_encode(m, &json);
    bool good = !json.failed ? write_file(temporary, buf_slice(&json), err) : err_set(err, ERR_NO_MEMORY, "%s: no memory to write it", path);
    if (good && rename(temporary, path) != 0)
        good = err_errno(err, ERR_IO, errno, "renaming %s", temporary);
    if (!good)
        unlink(temporary);
    buf_release(&json);
    return good;
}
