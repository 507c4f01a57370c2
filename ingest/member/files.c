/*
 * What a membership keeps on disk.
 *
 * shutdown-requested.txt: the time of the request (RFC 3339, UTC); that it is there is what counts.
 * The tokens' file, as dskit writes it: {"tokens":[1,2,3]}.
 * Both are written beside, synced and renamed.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "ingest/member/member_int.h"

#define TOKENS_FILE_MAX (RING_TOKENS_MAX * 16 + 64)

static bool write_all(int fd, struct slice bytes)
{
    while (bytes.n > 0) {
        ssize_t n = write(fd, bytes.p, bytes.n);
        if (n < 0 && errno != EINTR)
            return false;
        if (n > 0)
            bytes = slice_make((const char *)bytes.p + n, bytes.n - (size_t)n);
    }
    return true;
}

/* Makes names in the folder of the path durable. */
static bool sync_folder_of(const char *path, struct err *err)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof(copy), "%s", path);
    const char *dir = dirname(copy);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (!ok)
        err_errno(err, ERR_IO, errno, "syncing folder %s", dir);
    if (fd >= 0)
        close(fd);
    return ok;
}

static bool replace(const char *path, struct slice bytes, struct err *err)
{
    char tmp[PATH_MAX];
    if ((size_t)snprintf(tmp, sizeof(tmp), "%s.tmp", path) >= sizeof(tmp))
        return err_set(err, ERR_CONFIG, "the path %.200s... is too long", path);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return err_errno(err, ERR_IO, errno, "writing %s", tmp);
    bool ok = write_all(fd, bytes) && fsync(fd) == 0;
    int why = errno;
    ok = close(fd) == 0 && ok;
    if (!ok || rename(tmp, path) != 0) {
        err_errno(err, ERR_IO, ok ? errno : why, "writing %s", path);
        unlink(tmp);
        return false;
    }
    return sync_folder_of(path, err);
}

/* --- marker --- */

static bool marker_path(const char *dir, char *ret, size_t cap, struct err *err)
{
    return (size_t)snprintf(ret, cap, "%s/" MEMBER_MARKER, dir) < cap ||
           err_set(err, ERR_CONFIG, "the path %.200s... is too long", dir);
}

bool marker_write(const char *dir, int64_t now_ms, struct err *err)
{
    char path[PATH_MAX], text[CLOCK_RFC3339_MAX];
    clock_rfc3339(now_ms / 1000, 0, 0, text);
    return marker_path(dir, path, sizeof(path), err) && replace(path, slice_of(text), err);
}

bool marker_there(const char *dir, bool *ret, struct err *err)
{
    char path[PATH_MAX];
    struct stat st;
    if (!marker_path(dir, path, sizeof(path), err))
        return false;
    *ret = stat(path, &st) == 0;
    return *ret || errno == ENOENT || err_errno(err, ERR_IO, errno, "looking for %s", path);
}

bool marker_remove(const char *dir, struct err *err)
{
    char path[PATH_MAX];
    if (!marker_path(dir, path, sizeof(path), err))
        return false;
    if (unlink(path) == 0)
        return sync_folder_of(path, err);
    return errno == ENOENT || err_errno(err, ERR_IO, errno, "removing %s", path);
}

/* --- tokens --- */

static bool read_file(const char *path, struct buf *out, struct err *err)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return err_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, errno, "reading %s", path);
    char part[4096];
    for (size_t n; (n = fread(part, 1, sizeof(part), f)) > 0;)
        buf_put(out, part, n);
    bool ok = !ferror(f) && !out->failed;
    fclose(f);
    return ok || err_set(err, ERR_CORRUPT, "%s cannot be read, or has more than %d bytes", path, TOKENS_FILE_MAX);
}

static bool take_tokens(const json_t *list, uint32_t *ret)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > UINT32_MAX)
            return false;
        ret[i] = (uint32_t)json_integer_value(v);
    }
    return true;
}

bool tokens_read(const char *path, uint32_t **ret, size_t *ret_n, struct err *err)
{
    struct buf text;
    buf_init(&text, TOKENS_FILE_MAX);
    if (!read_file(path, &text, err)) {
        buf_release(&text);
        return false;
    }
    json_t *doc = json_loadb(text.p ? text.p : "", text.n, JSON_REJECT_DUPLICATES, NULL);
    const json_t *list = json_object_get(doc, "tokens");
    size_t n = json_array_size(list);
    uint32_t *tokens = malloc((n + 1) * sizeof(*tokens));
    ASSERT(tokens);
    bool ok = json_is_array(list) && n <= RING_TOKENS_MAX && take_tokens(list, tokens);
    json_decref(doc);
    buf_release(&text);
    if (!ok) {
        free(tokens);
        return err_set(err, ERR_CORRUPT, "%s is not {\"tokens\":[...]} with at most %d tokens", path, RING_TOKENS_MAX);
    }
    *ret = tokens;
    *ret_n = n;
    return true;
}

bool tokens_write(const char *path, const uint32_t *tokens, size_t n, struct err *err)
{
    struct buf text;
    buf_init(&text, 0);
    buf_puts(&text, "{\"tokens\":[");
    for (size_t i = 0; i < n; i++)
        buf_printf(&text, "%s%u", i ? "," : "", tokens[i]);
    buf_puts(&text, "]}");
    bool ok = replace(path, buf_slice(&text), err);
    buf_release(&text);
    return ok;
}
