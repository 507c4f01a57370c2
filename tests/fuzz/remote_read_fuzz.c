/*
 * A ReadRequest: as it comes (first byte 0: a snappy block) or before compression, which is where the decoder is. Beside what the sanitizers see: what was read is
 * within its limits, each matcher matches without harm, and a refused request has a text.
 */
#include <snappy-c.h>
#include <stdlib.h>

#include "base/assert.h"
#include "read/remote/remote.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void look(struct slice block)
{
    struct arena arena;
    struct remote_request r;
    struct err err = ERR_NONE;
    enum remote_form form;
    arena_init(&arena, 64 << 20);
    if (!remote_request_read(block, 1 << 20, &arena, &r, &err))
        ASSERT(err.code != ERR_OK && err.text[0]);
    ASSERT(r.n_queries <= REMOTE_MAX_QUERIES);
    for (size_t i = 0; i < r.n_queries; i++) {
        ASSERT(r.queries[i].n_matchers <= REMOTE_MAX_MATCHERS);
        for (size_t k = 0; k < r.queries[i].n_matchers; k++)
            (void)matcher_matches(&r.queries[i].matchers[k], SL("value"));
    }
    err = ERR_NONE;
    if (!remote_request_form(&r, &form, &err))
        ASSERT(err.code == ERR_BAD_DATA);
    remote_request_release(&r);
    arena_release(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0)
        return 0;
    struct slice rest = slice_make(data + 1, n - 1);
    if (data[0] == 0) {
        look(rest);
        return 0;
    }
    size_t room = snappy_max_compressed_length(rest.n);
    char *block = malloc(room);
    ASSERT(block);
    bool good = snappy_compress(rest.p, rest.n, block, &room) == SNAPPY_OK;
    ASSERT(good);
    look(slice_make(block, room));
    free(block);
    return 0;
}
