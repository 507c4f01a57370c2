/*
 * Labels: name/value pairs, sorted by name in byte order, names unique, no empty values. Slices point into somebody
 * else's bytes.
 *
 * The canonical encoding of a label set is the one of remote write: for each label in order
 *     0A uvarint(len) { 0A uvarint(len) name  12 uvarint(len) value }
 * with shortest varints and no other fields. Equal label sets have equal canonical bytes; they are what series are
 * hashed and compared by everywhere (struct series_hash).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/slice.h"

#define METRIC_NAME_LABEL "__name__"
#define BUCKET_LABEL "le"

struct label {
    struct slice name;
    struct slice value;
};

struct labels {
    const struct label *items;
    size_t n;
};

/* The value of a label, or {NULL, 0}. */
struct slice labels_get(struct labels l, struct slice name);
/* Byte order, label by label, as Prometheus's labels.Compare. */
int labels_cmp(struct labels a, struct labels b);
static inline bool labels_eq(struct labels a, struct labels b)
{
    return labels_cmp(a, b) == 0;
}
/* XXH3-64 over name FF value FF: for hash tables of one process. */
uint64_t labels_hash(struct labels l);
/* The form of the write path's messages: name{a="b", c="d"}, {a="b"} without a __name__, name alone. Values quoted as
 * Go's %q, names as they are. */
void labels_print(struct labels l, struct buf *out);
/* Prometheus's Labels.String(), the form of query errors: {__name__="m", a="b"}. Values quoted as Go's %q, and so are
 * names that are no legacy names. */
void labels_print_set(struct labels l, struct buf *out);
/* A string as Go's %q (strconv.Quote) writes it. */
void labels_put_quoted(struct slice s, struct buf *out);

/* Size of a label's canonical entry and its bytes; the bytes go to out, which has room. Returns the end. */
size_t label_canonical_size(struct label l);
char *label_put_canonical(char *out, struct label l);
void labels_put_canonical(struct labels l, struct buf *out);
/* Decodes canonical bytes (or any sequence of label entries). False on bytes that are none. items come from the arena,
 * slices point into span. */
bool labels_from_span(struct slice span, struct arena *arena, struct labels *ret);
/* A deep copy into the arena. */
struct labels labels_dup(struct arena *arena, struct labels l);
/* Sorts by name in place; equal names keep their order. False when memory for a large set could not be had (items are
 * unchanged then). */
bool labels_sort(struct label *items, size_t n);

/* [a-zA-Z_:][a-zA-Z0-9_:]*  and  [a-zA-Z_][a-zA-Z0-9_]* */
bool metric_name_is_legacy(struct slice s);
bool label_name_is_legacy(struct slice s);

/*
 * 128-bit keyed hash (XXH3-128 with a secret seed made at the first start and kept in the data directory) of canonical
 * label bytes. Why equality of hashes is taken as equality of series: with a key an attacker does not know, two
 * different label sets collide with probability 2^-128 each pair; at 10^9 series that is 10^-21 for the whole
 * population.
 */
struct series_hash {
    uint64_t lo;
    uint64_t hi;
};
struct series_hash series_hash_of(struct slice canonical, uint64_t seed);
/*
 * The same for many: what the seed stands for is worked out once, which is a third of the cost of a hash. A value of
 * its owner's stack; immutable after init.
 */
struct series_hasher {
    _Alignas(64) unsigned char secret[192];
    uint64_t seed;
};
void series_hasher_init(struct series_hasher *h, uint64_t seed);
struct series_hash series_hasher_hash(const struct series_hasher *h, struct slice canonical);
static inline bool series_hash_eq(struct series_hash a, struct series_hash b)
{
    return a.lo == b.lo && a.hi == b.hi;
}
