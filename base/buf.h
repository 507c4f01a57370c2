/*
 * A growable byte buffer with a maximum. Owned by one thread at a time.
 *
 * Appending past the maximum (or out of memory) sets `failed`, drops the bytes, and every later append is a no-op: a
 * writer checks once at the end. The bytes are not NUL-terminated; buf_cstr adds one past the end.
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/slice.h"

#define BUF_MAX_DEFAULT ((size_t)1 << 30)

struct buf {
    char *p;
    size_t n;   /* used */
    size_t cap; /* allocated */
    size_t max; /* never more than this; 0 = BUF_MAX_DEFAULT */
    bool failed;
};

void buf_init(struct buf *b, size_t max);
void buf_release(struct buf *b); /* frees the bytes; b may be used again */
void buf_clear(struct buf *b);   /* keeps the allocation, n = 0, failed = false */

bool buf_grow(struct buf *b, size_t more); /* slow path: makes room for `more` bytes past n */

static inline bool buf_reserve(struct buf *b, size_t more)
{
    return __builtin_expect(b->cap - b->n >= more && !b->failed, 1) || buf_grow(b, more);
}

static inline void buf_put(struct buf *b, const void *p, size_t n)
{
    if (n && buf_reserve(b, n)) {
        memcpy(b->p + b->n, p, n);
        b->n += n;
    }
}

static inline void buf_put_slice(struct buf *b, struct slice s)
{
    buf_put(b, s.p, s.n);
}

static inline void buf_putc(struct buf *b, char c)
{
    if (buf_reserve(b, 1))
        b->p[b->n++] = c;
}

void buf_puts(struct buf *b, const char *str);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_vprintf(struct buf *b, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
void buf_put_u64(struct buf *b, uint64_t v); /* decimal */
void buf_put_i64(struct buf *b, int64_t v);
void buf_put_uvarint(struct buf *b, uint64_t v); /* LEB128 */

const char *buf_cstr(struct buf *b); /* NUL-terminated view, "" when failed or empty; valid until the next append */

static inline struct slice buf_slice(const struct buf *b)
{
    return (struct slice){b->p, b->n};
}

/* Hands the bytes to the caller, who frees them with free(); b is empty afterwards. */
char *buf_steal(struct buf *b, size_t *ret_n);
