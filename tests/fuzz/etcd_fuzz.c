/*
 * What etcd answers: the first byte says which answer it is. Beside what the sanitizers see: slices lie within the message; damage is
 * always the same error.
 */
#include "base/assert.h"
#include "ring/kv_etcd_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_within(struct slice message, struct slice s)
{
    ASSERT(s.n == 0 || (s.p >= message.p && s.p + s.n <= message.p + message.n));
}

static void check_kv(void *arg, const struct etcd_kv *kv)
{
    check_within(*(struct slice *)arg, kv->key);
    check_within(*(struct slice *)arg, kv->value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0)
        return 0;
    struct slice message = slice_make(data + 1, n - 1), token = SL("");
    struct etcd_watch_answer answer;
    struct err err = ERR_NONE;
    uint64_t revision;
    bool succeeded, ok = true;
    switch (data[0] % 4) {
    case 0:
        ok = etcd_get_range(message, check_kv, &message, &revision, &err);
        break;
    case 1:
        ok = etcd_get_txn(message, &succeeded, &err);
        break;
    case 2:
        ok = etcd_get_watch(message, check_kv, &message, &answer, &err);
        if (ok)
            check_within(message, answer.cancel_reason);
        break;
    default:
        ok = etcd_get_token(message, &token, &err);
        if (ok)
            check_within(message, token);
    }
    ASSERT(ok || err.code == ERR_CORRUPT);
    return 0;
}
