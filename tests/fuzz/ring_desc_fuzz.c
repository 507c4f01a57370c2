/*
 * Instance ring documents: the first byte says whether the rest is a snappy block or the bare message.
 *
 * Beside what the sanitizers see: what is decoded is in order; written and read again it is the same; merging it into nothing gives it back but for
 * the tokens of the LEFT and those that two claim; merging it twice changes nothing.
 */
#include "base/assert.h"
#include "ring/desc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_order(const struct ring_desc *d)
{
    for (size_t i = 0; i < d->n; i++) {
        const struct ring_instance *in = &d->instances[i];
        ASSERT(i == 0 || strcmp(d->instances[i - 1].id, in->id) < 0);
        for (size_t t = 1; t < in->n_tokens; t++)
            ASSERT(in->tokens[t - 1] < in->tokens[t]);
    }
}

static void check_again(const struct ring_desc *d)
{
    struct buf out = {0};
    ring_desc_codec.encode(d, &out);
    ASSERT(!out.failed);
    struct ring_desc *again = ring_desc_codec.decode(buf_slice(&out), NULL);
    ASSERT(again && ring_desc_eq(d, again));
    ring_desc_free(again);
    buf_release(&out);
}

static void check_merge(const struct ring_desc *d)
{
    struct ring_desc *local = ring_desc_new();
    struct ring_desc *change = ring_desc_merge(local, d, false, 0);
    check_order(local);
    ASSERT(!change || ring_desc_eq(change, local));
    ASSERT(!ring_desc_merge(local, d, false, 0));
    ring_desc_free(change);
    size_t removed, left;
    ring_desc_remove_tombstones(local, 1000, &removed, &left);
    ring_desc_remove_tombstones(local, INT64_MAX, NULL, &left);
    ASSERT(left == 0);
    ring_desc_forget(local, 1000, 1000000);
    ring_desc_free(local);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0)
        return 0;
    struct slice bytes = slice_make(data + 1, n - 1);
    struct err err = ERR_NONE;
    struct ring_desc *d = data[0] & 1 ? ring_desc_codec.decode(bytes, &err) : ring_desc_decode(bytes, &err);
    ASSERT(!d == (err.code == ERR_CORRUPT));
    if (d) {
        check_order(d);
        check_again(d);
        check_merge(d);
    }
    ring_desc_free(d);
    return 0;
}
