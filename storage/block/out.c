#include "storage/block/out_int.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/big_file.h"
#include "storage/block/bytes.h"
#include "storage/block/crc32c.h"

bool out_open(struct out *o, const char *dir, const char *name, struct err *err)
{
    *o = (struct out){.fd = -1};
    o->buffer = malloc(OUT_BUFFER_BYTES);
    if (asprintf(&o->path, "%s/%s", dir, name) < 0)
        o->path = NULL;
    if (!o->buffer || !o->path) {
        out_release(o);
        return err_set(err, ERR_NO_MEMORY, "no memory to write a file");
    }
    o->fd = open(o->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (o->fd >= 0)
        return true;
    err_errno(err, ERR_IO, errno, "making %s", o->path);
    out_release(o);
    return false;
}

static void write_all(struct out *o, const uint8_t *p, size_t n)
{
    while (n && !o->fault) {
        ssize_t done = write(o->fd, p, n);
        if (done < 0 && errno != EINTR)
            o->fault = errno;
        if (done > 0) {
            p += done;
            n -= (size_t)done;
            o->written += (uint64_t)done;
        }
    }
}

static void flush(struct out *o)
{
    write_all(o, o->buffer, o->n);
    o->n = 0;
    big_file_write_behind(o->fd, o->written, &o->behind);
}

void out_put(struct out *o, const void *p, size_t n)
{
    o->offset += n;
    if (n > OUT_BUFFER_BYTES - o->n)
        flush(o);
    if (n > OUT_BUFFER_BYTES) {
        write_all(o, p, n);
        return;
    }
    if (n)
        memcpy(o->buffer + o->n, p, n);
    o->n += n;
}

void out_put_crc(struct out *o, uint32_t *crc, const void *p, size_t n)
{
    *crc = crc32c(*crc, p, n);
    out_put(o, p, n);
}

void out_put_be32(struct out *o, uint32_t v)
{
    uint8_t bytes[4];
    put_be32(bytes, v);
    out_put(o, bytes, 4);
}

void out_pad(struct out *o, size_t align)
{
    static const uint8_t zeros[16];
    out_put(o, zeros, (align - o->offset % align) % align);
}

bool out_check(const struct out *o, struct err *err)
{
    return !o->fault || err_errno(err, ERR_IO, o->fault, "writing %s", o->path);
}

bool out_close(struct out *o, uint64_t *ret_size, struct err *err)
{
    flush(o);
    if (!o->fault && fsync(o->fd) != 0)
        o->fault = errno;
    if (close(o->fd) != 0 && !o->fault)
        o->fault = errno;
    o->fd = -1;
    bool good = out_check(o, err);
    if (good && ret_size)
        *ret_size = o->offset;
    out_release(o);
    return good;
}

void out_release(struct out *o)
{
    if (o->path && o->fd >= 0)
        close(o->fd);
    free(o->path);
    free(o->buffer);
    *o = (struct out){.fd = -1};
}

bool out_write_file(const char *dir, const char *name, const void *p, size_t n, struct err *err)
{
    struct out o;
    if (!out_open(&o, dir, name, err))
        return false;
    out_put(&o, p, n);
    return out_close(&o, NULL, err);
}

bool out_sync_dir(const char *dir, struct err *err)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = fd >= 0 && fsync(fd) == 0;
    if (!good)
        err_errno(err, ERR_IO, errno, "syncing %s", dir);
    if (fd >= 0)
        close(fd);
    return good;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path) == 0 || errno == ENOENT ? 0 : -1;
}

bool out_remove_tree(const char *dir, struct err *err)
{
    if (nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS) == 0 || errno == ENOENT)
        return true;
    return err_errno(err, ERR_IO, errno, "removing %s", dir);
}
