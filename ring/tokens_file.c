#include "ring/tokens_file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/buf.h"
#include "ring/desc.h"

#define FILE_MAX_BYTES (RING_TOKENS_MAX * 16 + 64)

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
    return ok || err_set(err, ERR_CORRUPT, "%s cannot be read, or has more than %d bytes", path, FILE_MAX_BYTES);
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

bool tokens_file_read(const char *path, uint32_t **ret, size_t *ret_n, struct err *err)
{
    struct buf text;
    buf_init(&text, FILE_MAX_BYTES);
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

static bool put_text(int fd, const struct buf *text)
{
    size_t done = 0;
    while (done < text->n) {
        ssize_t n = write(fd, text->p + done, text->n - done);
        if (n < 0 && errno != EINTR)
            return false;
        done += n > 0 ? (size_t)n : 0;
    }
    return fsync(fd) == 0;
}

static bool replace(const char *path, const struct buf *text, struct err *err)
{
    char tmp[PATH_MAX];
    if ((size_t)snprintf(tmp, sizeof(tmp), "%s.%d.tmp", path, (int)gettid()) >= sizeof(tmp))
        return err_set(err, ERR_CONFIG, "the path %.200s... is too long", path);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return err_errno(err, ERR_IO, errno, "writing %s", tmp);
    bool ok = put_text(fd, text);
    int why = errno;
    ok = close(fd) == 0 && ok;
    if (ok && rename(tmp, path) == 0)
        return true;
    err_errno(err, ERR_IO, ok ? errno : why, "writing %s", path);
    unlink(tmp);
    return false;
}

bool tokens_file_write(const char *path, const uint32_t *tokens, size_t n, struct err *err)
{
    struct buf text;
    buf_init(&text, 0);
    buf_puts(&text, "{\"tokens\":[");
    for (size_t i = 0; i < n; i++)
        buf_printf(&text, "%s%u", i ? "," : "", tokens[i]);
    buf_puts(&text, "]}");
    bool ok = replace(path, &text, err);
    buf_release(&text);
    return ok;
}
