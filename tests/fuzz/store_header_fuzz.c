/*
 * An index-header of any bytes, its checksums made right (else nothing would get past them): opened, sampled, every name, value and symbol looked up, its sparse
 * header written and read back to the same. Each step ends in an answer or in a named error.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "storage/block/bytes.h"
#include "storage/block/crc32c.h"
#include "storage/store/store_int.h"

static void check_result(bool good, const struct err *err)
{
    ASSERT(good || (err->code != ERR_OK && err->text[0]));
}

static void mend(uint8_t *p, uint64_t at, uint64_t n, uint64_t size)
{
    if (at <= size && n <= size - at && size - at - n >= 4)
        put_be32(p + at + n, crc32c(0, p + at, n));
}

static void mend_section(uint8_t *p, uint64_t at, uint64_t size)
{
    if (at <= size && size - at >= 4)
        mend(p, at + 4, get_be32(p + at), size);
}

static void mend_all(uint8_t *p, size_t n)
{
    if (n < HEADER_FIXED_BYTES + INDEX_TOC_BYTES + HEADER_TOC_BYTES)
        return;
    mend_section(p, HEADER_FIXED_BYTES, n);
    mend_section(p, get_be64(p + n - HEADER_TOC_BYTES + 8), n);
    mend(p, n - HEADER_TOC_BYTES - INDEX_TOC_BYTES, INDEX_TOC_BYTES - 4, n);
    mend(p, n - HEADER_TOC_BYTES, 16, n);
}

struct looking {
    const struct header *h;
    const struct header_name *name;
};

static bool look_up(void *arg, const struct header_entry *e, struct err *err)
{
    struct looking *l = arg;
    struct header_range range;
    uint32_t at;
    header_range_of(l->h, e, &range, NULL);
    ASSERT(header_find_value(l->h, l->name, e->value, &at, err) && at);
    ASSERT(header_find_name(l->h, e->name) == l->name);
    return true;
}

static void read_all(struct header *h)
{
    struct err err = ERR_NONE;
    for (size_t i = 0; i < h->n_names; i++) {
        struct looking l = {h, &h->names[i]};
        check_result(header_each_value(h, l.name, look_up, &l, &err), &err);
    }
    bool good = header_need_symbols(h, &err);
    check_result(good, &err);
    for (uint32_t i = 1; good && i < h->index.n_symbols; i++)
        ASSERT(slice_cmp(index_symbol(&h->index, i - 1), index_symbol(&h->index, i)) < 0);
}

static void there_and_back(const struct header *h, const char *path)
{
    struct header other;
    struct buf sparse;
    struct err err = ERR_NONE;
    buf_init(&sparse, 0);
    bool good = header_encode_sparse(h, &sparse, &err);
    check_result(good, &err);
    if (good) {
        ASSERT(header_open(&other, path, "index", &err));
        ASSERT(header_load_sparse(&other, buf_slice(&sparse), &err));
        ASSERT(other.n_names == h->n_names && other.n_samples == h->n_samples && other.sampling == h->sampling);
        ASSERT(h->n_samples == 0 || memcmp(other.sample_at, h->sample_at, h->n_samples * sizeof(*h->sample_at)) == 0);
        header_release(&other);
    }
    buf_release(&sparse);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct header h;
    struct err err = ERR_NONE;
    char path[64];
    uint8_t *bytes = malloc(size + 1);
    int fd = memfd_create("header", MFD_CLOEXEC);
    ASSERT(bytes && fd >= 0);
    memcpy(bytes, data, size);
    mend_all(bytes, size);
    ASSERT(write(fd, bytes, size) == (ssize_t)size);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    bool good = header_open(&h, path, "index", &err);
    check_result(good, &err);
    if (good) {
        uint32_t sampling = 1 + (size ? data[size / 2] % 4 : 0);
        good = header_find_samples(&h, sampling, &err);
        check_result(good, &err);
        if (good) {
            read_all(&h);
            there_and_back(&h, path);
        }
        header_release(&h);
    }
    close(fd);
    free(bytes);
    return 0;
}
