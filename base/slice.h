/*
 * A slice is a pointer and a length: bytes that somebody else owns. No NUL is assumed at the end.
 * {NULL, 0} and any pointer with length 0 are the same empty slice.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct slice {
    const char *p;
    size_t n;
};

/* A slice of a string literal. */
#define SL(lit) ((struct slice){"" lit, sizeof(lit) - 1})
/* For printf: "%.*s", SL_FMT(s). */
#define SL_FMT(s) ((int)(s).n), ((s).p)

static inline struct slice slice_make(const void *p, size_t n)
{
    return (struct slice){(const char *)p, n};
}

/* str may be NULL (gives the empty slice). */
static inline struct slice slice_of(const char *str)
{
    return (struct slice){str, str ? strlen(str) : 0};
}

static inline bool slice_eq(struct slice a, struct slice b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

/* Byte order, as Prometheus sorts label names and values. */
static inline int slice_cmp(struct slice a, struct slice b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int c = n ? memcmp(a.p, b.p, n) : 0;
    if (c)
        return c;
    return (a.n > b.n) - (a.n < b.n);
}

static inline bool slice_has_prefix(struct slice s, struct slice prefix)
{
    return s.n >= prefix.n && (prefix.n == 0 || memcmp(s.p, prefix.p, prefix.n) == 0);
}

static inline bool slice_has_suffix(struct slice s, struct slice suffix)
{
    return s.n >= suffix.n && (suffix.n == 0 || memcmp(s.p + s.n - suffix.n, suffix.p, suffix.n) == 0);
}

/* A copy with a NUL behind it, to be freed. */
char *slice_strdup(struct slice s);
