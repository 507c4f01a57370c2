/* Made-up sets of series for the tests of remote reads, and a reader of what comes out. */
#pragma once

#include <criterion/criterion.h>
#include <snappy-c.h>
#include <stdlib.h>
#include <string.h>

#include "model/proto.h"
#include "model/proto_put.h"
#include "read/remote/remote.h"
#include "storage/chunk/chunk.h"

#define UNUSED __attribute__((unused))

/* A set of series with chunks, in the order of the list. */
struct made_set {
    struct series_set base;
    const struct series *series;
    size_t n, at;
};

static bool made_next(struct series_set *s, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    (void)ctx;
    (void)err;
    struct made_set *m = (struct made_set *)s;
    for (*ret_n = 0; *ret_n < max && m->at < m->n; ++*ret_n)
        ret[*ret_n] = m->series[m->at++];
    return true;
}

static void made_release(struct series_set *s)
{
    (void)s;
}

static const struct series_set_ops made_ops = {made_next, made_release};

static struct arena made; /* all that is made up */
static struct err fault;
static struct ctx made_ctx = {.arena = &made};

/* n samples from t on, every step_ms, with the values v, v + 1, ... */
UNUSED static struct series_chunk floats(int64_t t, int64_t step_ms, size_t n, double v)
{
    struct xor_appender a;
    xor_appender_init(&a);
    uint8_t *bytes = arena_zalloc(&made, 2 + (n + 1) * XOR_SAMPLE_MAX_BYTES);
    for (size_t i = 0; i < n; i++)
        xor_append(&a, bytes, t + (int64_t)i * step_ms, v + (double)i);
    return (struct series_chunk){t, t + (int64_t)(n - 1) * step_ms, CHUNK_XOR, slice_make(bytes, xor_size(&a))};
}

UNUSED static struct series_chunk *chunks(size_t n)
{
    return arena_zalloc(&made, n * sizeof(struct series_chunk));
}

/* {__name__="m", i="<i>"} */
UNUSED static struct labels named(size_t i)
{
    struct label *l = arena_zalloc(&made, 2 * sizeof(*l));
    l[0] = (struct label){SL("__name__"), SL("m")};
    l[1] = (struct label){SL("i"), slice_of(arena_printf(&made, "%06zu", i))};
    return (struct labels){l, 2};
}

UNUSED static struct series series_of(size_t i, const struct series_chunk *c, size_t n)
{
    return (struct series){named(i), c, n};
}

/* The whole answer to one query for each list of series; pieces of piece_bytes. */
UNUSED static struct buf answer_to(enum remote_form form, const struct remote_limits *limits, const struct remote_query *queries, const struct series *const *series,
                                   const size_t *n_series, size_t n, size_t piece_bytes, struct remote_stats *ret)
{
    struct remote_answer *a = remote_answer_new(form, n, limits, "/tmp");
    for (size_t i = 0; i < n; i++) {
        struct made_set set = {{&made_ops, NULL}, series[i], n_series[i], 0};
        cr_assert(remote_answer_add(a, i, &queries[i], n_series[i] ? &set.base : NULL, &made_ctx, &fault), "%s", fault.text);
    }
    cr_assert(remote_answer_finish(a, &fault), "%s", fault.text);
    struct buf out = {0};
    for (size_t before = SIZE_MAX; out.n != before;) {
        before = out.n;
        cr_assert(remote_answer_next(a, piece_bytes, &out, &fault), "%s", fault.text);
        cr_expect_leq(out.n - before, piece_bytes + REMOTE_FRAME_BYTES + 65536);
    }
    if (ret)
        *ret = remote_answer_stats(a);
    remote_answer_free(a);
    return out;
}

/* --- reading protobuf ------------------------------------------------------------------------------------------------------ */

/* The next field of a message; false at its end. Numbers in *v, bytes in *s. */
UNUSED static bool field(struct proto *p, uint32_t *f, uint64_t *v, struct slice *s)
{
    uint32_t wire;
    if (!proto_more(p))
        return false;
    cr_assert(proto_tag(p, f, &wire));
    *s = (struct slice){0};
    if (wire == PROTO_VARINT) {
        cr_assert(proto_varint(p, v));
    } else if (wire == PROTO_FIXED64) {
        cr_assert_geq(proto_left(p), 8);
        memcpy(v, p->p, 8);
        p->p += 8;
    } else {
        cr_assert_eq(wire, PROTO_BYTES);
        cr_assert(proto_bytes(p, s));
    }
    return true;
}

UNUSED static struct proto message(struct slice s)
{
    return proto_of(s, "test", NULL);
}

/* The value of label i of a series message, whatever else it has. */
UNUSED static struct slice value_of_i(struct slice series)
{
    struct proto p = message(series);
    uint32_t f;
    uint64_t v;
    struct slice label, s, last = {0};
    while (field(&p, &f, &v, &label))
        if (f == 1) {
            struct proto l = message(label);
            while (field(&l, &f, &v, &s))
                last = s;
        }
    return last;
}
