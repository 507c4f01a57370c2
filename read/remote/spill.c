/*
 * A spill: up to SPILL_MEMORY_BYTES in memory, more in a file without a name (O_TMPFILE; where the file system has none, one that is unlinked at once), which goes
 * with its descriptor whatever becomes of the process. It is written from front to back and read in pieces, mostly out of the page cache.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/assert.h"
#include "read/remote/remote_int.h"

void spill_init(struct spill *s, const char *dir, uint64_t max_bytes)
{
    *s = (struct spill){.dir = dir, .fd = -1, .max_bytes = max_bytes};
    buf_init(&s->tail, 0);
}

void spill_release(struct spill *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    buf_release(&s->tail);
}

static int open_unnamed(const char *dir)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL))
        return fd;
    char path[4096];
    if ((size_t)snprintf(path, sizeof(path), "%s/brunn-read-XXXXXX", dir) >= sizeof(path))
        return -1;
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

static bool write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

bool spill_flush(struct spill *s, struct err *err)
{
    if (s->tail.failed)
        return err_set(err, ERR_NO_MEMORY, "no memory for the series of a remote read");
    if (s->max_bytes && spill_size(s) > s->max_bytes)
        return err_set(err, ERR_EXECUTION, "the answer is larger than %llu bytes. Ask for fewer series or samples, or raise -querier.max-response-bytes",
                       (unsigned long long)s->max_bytes);
    if (s->tail.n < SPILL_MEMORY_BYTES)
        return true;
    if (s->fd < 0) {
        s->fd = open_unnamed(s->dir);
        if (s->fd < 0)
            return err_errno(err, ERR_IO, errno, "making a file for a large remote read in %s", s->dir);
    }
    if (!write_all(s->fd, s->tail.p, s->tail.n))
        return err_errno(err, ERR_IO, errno, "writing a large remote read to a file in %s", s->dir);
    s->n_filed += s->tail.n;
    if (s->tail.cap > 4 * SPILL_MEMORY_BYTES) /* there was a long series */
        buf_release(&s->tail);
    else
        buf_clear(&s->tail);
    return true;
}

void spill_finish(struct spill *s)
{
    char *exact = s->tail.n ? realloc(s->tail.p, s->tail.n) : NULL;
    if (exact) {
        s->tail.p = exact;
        s->tail.cap = s->tail.n;
    }
}

bool spill_read(const struct spill *s, uint64_t at, size_t n, struct buf *out, struct err *err)
{
    ASSERT(at + n <= spill_size(s));
    if (!buf_reserve(out, n))
        return err_set(err, ERR_NO_MEMORY, "no memory for a piece of a remote read");
    while (n > 0 && at < s->n_filed) {
        ssize_t k = pread(s->fd, out->p + out->n, (size_t)MIN((uint64_t)n, s->n_filed - at), (off_t)at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return err_errno(err, ERR_IO, k < 0 ? errno : EIO, "reading a large remote read back from its file in %s", s->dir);
        out->n += (size_t)k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    buf_put(out, n ? s->tail.p + (at - s->n_filed) : "", n);
    return true;
}
