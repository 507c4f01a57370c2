/*
 * All messages of gatewaypb.StoreGateway. The first byte names the message, the rest are its bytes. What can be read is
 * written again; that must be readable, and be written the same a second time.
 */
#include <stdlib.h>

#include "base/assert.h"
#include "tests/storage/messages/storegateway_reencode.h"

#define ARENA_MAX ((size_t)64 << 20)

static bool run(storegateway_reencode *fn, struct slice message, struct buf *out)
{
    struct arena arena;
    struct err err = ERR_NONE;
    arena_init(&arena, ARENA_MAX);
    bool ok = fn(message, &arena, out, &err);
    if (ok == (err.code != ERR_OK))
        abort();
    arena_release(&arena);
    return ok;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0)
        return 0;
    size_t which = data[0] % (2 * ARRAY_LEN(storegateway_reencoders));
    const struct storegateway_reencoder *re = &storegateway_reencoders[which / 2];
    storegateway_reencode *fn = which % 2 ? re->response : re->request;
    struct buf once = {0}, twice = {0};
    if (run(fn, slice_make(data + 1, n - 1), &once)) {
        if (once.failed || !run(fn, buf_slice(&once), &twice))
            abort();
        if (!slice_eq(buf_slice(&once), buf_slice(&twice)))
            abort();
    }
    buf_release(&once);
    buf_release(&twice);
    return 0;
}
