/*
 * Partitions ring documents: the first byte says whether the rest is a snappy block or the bare message.
 *
 * Beside what the sanitizers see: what is decoded is in order; written and read again it is the same; merged twice it changes nothing more.
 */
#include "base/assert.h"
#include "partition-ring/partition_desc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_order(const struct partition_desc *d)
{
    for (size_t i = 0; i < d->n_partitions; i++) {
        ASSERT(i == 0 || d->partitions[i - 1].id < d->partitions[i].id);
        for (size_t t = 1; t < d->partitions[i].n_tokens; t++)
            ASSERT(d->partitions[i].tokens[t - 1] < d->partitions[i].tokens[t]);
    }
    for (size_t i = 1; i < d->n_owners; i++)
        ASSERT(strcmp(d->owners[i - 1].id, d->owners[i].id) < 0);
}

static void check_again(const struct partition_desc *d)
{
    struct buf out = {0};
    partition_desc_codec.encode(d, &out);
    ASSERT(!out.failed);
    struct partition_desc *again = partition_desc_codec.decode(buf_slice(&out), NULL);
    ASSERT(again && partition_desc_eq(d, again));
    partition_desc_free(again);
    buf_release(&out);
}

static void check_merge(const struct partition_desc *d)
{
    struct partition_desc *local = partition_desc_new();
    struct partition_desc *change = partition_desc_merge(local, d, false, 0);
    check_order(local);
    ASSERT(!change || partition_desc_eq(change, local));
    ASSERT(!partition_desc_merge(local, d, false, 0));
    partition_desc_free(change);
    size_t left;
    partition_desc_remove_tombstones(local, 1000, NULL, NULL);
    partition_desc_remove_tombstones(local, INT64_MAX, NULL, &left);
    ASSERT(left == 0);
    partition_desc_free(local);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0)
        return 0;
    struct slice bytes = slice_make(data + 1, n - 1);
    struct err err = ERR_NONE;
    struct partition_desc *d = data[0] & 1 ? partition_desc_codec.decode(bytes, &err) : partition_desc_decode(bytes, &err);
    ASSERT(!d == (err.code == ERR_CORRUPT));
    if (d) {
        check_order(d);
        check_again(d);
        check_merge(d);
    }
    partition_desc_free(d);
    return 0;
}
