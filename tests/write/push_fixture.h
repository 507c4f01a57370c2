/*
 * What the tests of the distributor share: a writer of remote write 1.0 messages, a distributor with the default limits and no log, and a push
 * run up to its records. Included by each test program.
 */
#pragma once

#include <criterion/criterion.h>
#include <snappy-c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/limits.h"
#include "tests/write/partitions.h"
#include "write/push.h"

#define NOW_MS 1700000000000LL

/* --- a protobuf writer -------------------------------------------------------------------------------------------------------- */

static inline void pb_bytes(struct buf *b, unsigned field, const void *p, size_t n)
{
    buf_put_uvarint(b, field << 3 | 2);
    buf_put_uvarint(b, n);
    buf_put(b, p, n);
}
static inline void pb_str(struct buf *b, unsigned field, const char *s)
{
    pb_bytes(b, field, s, strlen(s));
}
static inline void pb_sub(struct buf *b, unsigned field, struct buf *sub)
{
    pb_bytes(b, field, sub->p, sub->n);
    buf_release(sub);
}
static inline void pb_double(struct buf *b, unsigned field, double v)
{
    buf_put_uvarint(b, field << 3 | 1);
    buf_put(b, &v, 8);
}
static inline void pb_varint(struct buf *b, unsigned field, uint64_t v)
{
    buf_put_uvarint(b, field << 3);
    buf_put_uvarint(b, v);
}
static inline uint64_t zigzag(int64_t v)
{
    return (uint64_t)v << 1 ^ (uint64_t)(v >> 63);
}
static inline void pb_label(struct buf *b, const char *name, const char *value)
{
    struct buf l = {0};
    pb_str(&l, 1, name);
    pb_str(&l, 2, value);
    pb_sub(b, 1, &l);
}
static inline void pb_sample(struct buf *b, double v, int64_t t)
{
    struct buf s = {0};
    pb_double(&s, 1, v);
    pb_varint(&s, 2, (uint64_t)t);
    pb_sub(b, 2, &s);
}
/* labels: "name", "value", ..., NULL */
static inline void pb_labels(struct buf *b, const char *const *labels)
{
    for (size_t i = 0; labels[i]; i += 2)
        pb_label(b, labels[i], labels[i + 1]);
}
#define LABELS(...) ((const char *const[]){__VA_ARGS__, NULL})
/* A series with one sample at NOW_MS. */
static inline void pb_series(struct buf *request, const char *const *labels)
{
    struct buf s = {0};
    pb_labels(&s, labels);
    pb_sample(&s, 1, NOW_MS);
    pb_sub(request, 1, &s);
}
static inline void pb_metadata(struct buf *request, const char *family, const char *help, const char *unit)
{
    struct buf m = {0};
    pb_varint(&m, 1, 1);
    pb_str(&m, 2, family);
    pb_str(&m, 4, help);
    pb_str(&m, 5, unit);
    pb_sub(request, 3, &m);
}

/* --- a distributor -------------------------------------------------------------------------------------------------------------- */

struct fixture {
    struct flag_set *flags;
    struct write_config cfg;
    struct limits limits;
    struct limits_provider provider;
    struct partitions partitions;
    struct distributor *d;
};

static inline void fixture_start(struct fixture *f, int32_t partitions)
{
    clock_fake_wall_ms(NOW_MS);
    f->flags = flag_set_new();
    flag_set_add(f->flags, "write", write_flags, write_flags_n, &f->cfg);
    flag_set_add(f->flags, "limits", limits_flags, limits_flags_n, &f->limits);
    f->provider = (struct limits_provider){&f->limits};
    partitions_start(&f->partitions, partitions);
    f->d = distributor_new(&f->cfg, &f->provider, NULL, f->partitions.watcher, 12345);
}

static inline void fixture_stop(struct fixture *f)
{
    distributor_free(f->d);
    partitions_stop(&f->partitions);
    flag_set_free(f->flags);
}

/* Snappy of the message; the message is released. */
static inline struct buf compressed(struct buf *message)
{
    size_t n = snappy_max_compressed_length(message->n);
    struct buf out = {0};
    buf_reserve(&out, n);
    cr_assert_eq(snappy_compress(message->p ? message->p : "", message->n, out.p, &n), SNAPPY_OK);
    out.n = n;
    buf_release(message);
    return out;
}

static inline struct push *push_of_body(struct fixture *f, struct buf body, enum push_version version)
{
    struct push *p = push_new(f->d, write_tenants_get(f->d->tenants, SL("t"), clock_mono_ms()));
    p->version = version;
    p->body = body;
    push_prepare(p);
    push_count(p);
    return p;
}

/* The push of a message, prepared; the message is released. */
static inline struct push *push_of(struct fixture *f, struct buf *message)
{
    return push_of_body(f, compressed(message), PUSH_RW1);
}

static inline const char *push_text(struct push *p)
{
    return buf_cstr(&p->error.text);
}

static inline void push_done(struct fixture *f, struct push *p)
{
    atomic_fetch_sub(&f->d->inflight_bytes, p->inflight_bytes);
    push_free(p);
}

/* The value of a record, uncompressed, decoded as a consumer would. */
struct decoded {
    struct arena arena;
    struct write_request req;
};
static inline void decode_record(const struct plog_record *r, struct decoded *ret)
{
    struct err err = ERR_NONE;
    arena_init(&ret->arena, 0);
    cr_assert(record_decode(r, 12345, &ret->arena, &ret->req, &err), "%s", err.text);
}
