/*
 * Private to ring/ and its tests: the messages of etcd's API v3 that the store uses, as bytes.
 *
 *     etcdserverpb.KV/Range, /Txn, /DeleteRange; etcdserverpb.Watch/Watch; etcdserverpb.Auth/Authenticate
 *
 *     ResponseHeader       3 revision
 *     mvccpb.KeyValue      1 key  3 mod_revision  5 value
 *     RangeRequest         1 key  2 range_end  8 keys_only             RangeResponse    1 header  2 kvs
 *     TxnRequest           1 compare  2 success                        TxnResponse      2 succeeded
 *     Compare              1 result (0 equal)  2 target (2 mod)  3 key  6 mod_revision
 *     RequestOp            2 PutRequest {1 key  2 value}
 *     DeleteRangeRequest   1 key
 *     WatchRequest         1 WatchCreateRequest {1 key  2 range_end  3 start_revision}
 *     WatchResponse        1 header  3 created  4 canceled  5 compact_revision  6 cancel_reason  11 events
 *     mvccpb.Event         1 type (0 put, 1 delete)  2 kv
 *     AuthenticateRequest  1 name  2 password                          AuthenticateResponse  2 token
 *
 * All keys with a prefix are the range [prefix, prefix with its last byte one higher). Answers are only bytes from a network: each decoder gives false and
 * ERR_CORRUPT when they are damaged; unknown fields are passed over.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/slice.h"

struct etcd_kv {
    struct slice key;
    struct slice value;
    uint64_t mod_revision;
    bool deleted; /* of an event */
};
/* The slices live as long as the message. */
typedef void etcd_kv_fn(void *arg, const struct etcd_kv *kv);

void etcd_put_range(struct buf *out, struct slice key, bool is_prefix, bool keys_only);
bool etcd_get_range(struct slice message, etcd_kv_fn *fn, void *arg, uint64_t *ret_revision, struct err *err);

/* Puts the value if the key's mod_revision is `version` (0: there is no such key). */
void etcd_put_cas(struct buf *out, struct slice key, struct slice value, uint64_t version);
bool etcd_get_txn(struct slice message, bool *ret_succeeded, struct err *err);

void etcd_put_delete(struct buf *out, struct slice key);

struct etcd_watch_answer {
    bool canceled;
    uint64_t compact_revision; /* > 0: what was asked for is not there any more */
    struct slice cancel_reason;
};
void etcd_put_watch(struct buf *out, struct slice key, bool is_prefix, uint64_t start_revision);
bool etcd_get_watch(struct slice message, etcd_kv_fn *fn, void *arg, struct etcd_watch_answer *ret, struct err *err);

void etcd_put_auth(struct buf *out, struct slice name, struct slice password);
bool etcd_get_token(struct slice message, struct slice *ret_token, struct err *err);
