/*
 * A file written once from start to end, through a buffer. The first fault is kept and everything after it dropped: a writer checks when it closes, or where it
 * would otherwise go on for long.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define OUT_BUFFER_BYTES ((size_t)256 << 10)

struct out {
    int fd;          /* -1: not open */
    char *path;      /* owned */
    uint8_t *buffer; /* owned */
    size_t n;        /* bytes in it */
    uint64_t offset; /* where the next byte goes */
    uint64_t written; /* handed to the kernel */
    uint64_t behind;  /* of these on the disk, but not durable */
    int fault;       /* errno of the first fault */
};

/* The file must not exist. */
bool out_open(struct out *o, const char *dir, const char *name, struct err *err);
void out_put(struct out *o, const void *p, size_t n);
void out_put_crc(struct out *o, uint32_t *crc, const void *p, size_t n); /* the same, with a checksum that goes on */
void out_put_be32(struct out *o, uint32_t v);
void out_pad(struct out *o, size_t align);
bool out_check(const struct out *o, struct err *err);
/* Flushed, synced, closed; the size. */
bool out_close(struct out *o, uint64_t *ret_size, struct err *err);
void out_release(struct out *o); /* without keeping anything */

bool out_write_file(const char *dir, const char *name, const void *p, size_t n, struct err *err); /* synced */
bool out_sync_dir(const char *dir, struct err *err);
bool out_remove_tree(const char *dir, struct err *err); /* no such folder is fine */
