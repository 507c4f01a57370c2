/*
 * Messages out of the bytes of DATA frames. A message: one byte (1 = compressed), its length as 4 bytes big-endian, its
 * bytes. Memory grows with what has come, not with what the length promises.
 */
#include "net/rpc/rpc_int.h"

static bool fail(int *ret_code, int code)
{
    *ret_code = code;
    return false;
}

static bool begin_message(struct rpc_frames *f, int *ret_code, struct err *err)
{
    f->want_bytes = (uint32_t)f->head[1] << 24 | (uint32_t)f->head[2] << 16 | (uint32_t)f->head[3] << 8 | f->head[4];
    if (f->head[0] > 1 || (f->head[0] == 1 && f->codec == RPC_CODEC_NONE)) {
        err_set(err, ERR_BAD_DATA, "grpc: compressed flag set with identity or empty encoding");
        return fail(ret_code, RPC_INTERNAL);
    }
    if (f->want_bytes > f->max_bytes) {
        err_set(err, ERR_TOO_LARGE, "grpc: received message larger than max (%u vs. %llu)", f->want_bytes,
                (unsigned long long)f->max_bytes);
        return fail(ret_code, RPC_RESOURCE_EXHAUSTED);
    }
    buf_init(&f->body, MAX(f->want_bytes, (uint32_t)1));
    return true;
}

static bool charge(struct rpc_frames *f, uint64_t n, int *ret_code, struct err *err)
{
    if (!f->memory)
        return true;
    uint64_t now = atomic_fetch_add_explicit(&f->memory->used_bytes, n, memory_order_relaxed) + n;
    f->charged_bytes += n;
    if (f->memory->max_bytes == 0 || now <= f->memory->max_bytes)
        return true;
    err_set(err, ERR_TOO_MANY_REQUESTS, "the requests at hand take all of -server.grpc-max-request-memory-bytes");
    return fail(ret_code, RPC_RESOURCE_EXHAUSTED);
}

/* Replaces the body by what it was compressed from, never more than max_bytes; that much may be held while it is made. */
static bool unpack_body(struct rpc_frames *f, int *ret_code, struct err *err)
{
    struct buf plain;
    buf_init(&plain, MAX(f->max_bytes, (uint64_t)1));
    bool fine = rpc_decompress(f->codec, buf_slice(&f->body), &plain);
    bool large = plain.failed;
    if (fine && charge(f, plain.n, ret_code, err)) {
        buf_release(&f->body);
        f->body = plain;
        return true;
    }
    buf_release(&plain);
    if (fine)
        return false;
    if (large) {
        err_set(err, ERR_TOO_LARGE, "grpc: received message after decompression larger than max (%llu)",
                (unsigned long long)f->max_bytes);
        return fail(ret_code, RPC_RESOURCE_EXHAUSTED);
    }
    err_set(err, ERR_BAD_DATA, "grpc: failed to decompress the received message");
    return fail(ret_code, RPC_INTERNAL);
}

bool rpc_frames_feed(struct rpc_frames *f, struct slice *in, bool *ret_done, int *ret_code, struct err *err)
{
    *ret_done = false;
    while (f->n_head < RPC_HEAD_BYTES) {
        if (in->n == 0)
            return true;
        f->head[f->n_head++] = (uint8_t)*in->p;
        *in = slice_make(in->p + 1, in->n - 1);
        if (f->n_head == RPC_HEAD_BYTES && !begin_message(f, ret_code, err))
            return false;
    }
    size_t n = MIN(in->n, (size_t)f->want_bytes - f->body.n);
    if (!charge(f, n, ret_code, err))
        return false;
    buf_put(&f->body, in->p, n);
    if (f->body.failed) {
        err_set(err, ERR_NO_MEMORY, "no memory for a message of %u bytes", f->want_bytes);
        return fail(ret_code, RPC_RESOURCE_EXHAUSTED);
    }
    *in = slice_make(in->p + n, in->n - n);
    if (f->body.n < f->want_bytes)
        return true;
    if (f->head[0] == 1 && !unpack_body(f, ret_code, err))
        return false;
    *ret_done = true;
    return true;
}

struct buf rpc_frames_take(struct rpc_frames *f)
{
    struct buf body = f->body;
    buf_init(&f->body, 0);
    f->n_head = 0;
    f->want_bytes = 0;
    return body;
}

bool rpc_frames_between(const struct rpc_frames *f)
{
    return f->n_head == 0;
}

void rpc_frames_release(struct rpc_frames *f)
{
    buf_release(&f->body);
    if (f->memory)
        atomic_fetch_sub_explicit(&f->memory->used_bytes, f->charged_bytes, memory_order_relaxed);
    f->charged_bytes = 0;
}
