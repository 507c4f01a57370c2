/* Flags of an ingester's membership, and what they make. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "ingest/member/member_int.h"
#include "partition-ring/partition_ring.h"

const struct flag_def ingester_ring_flags[] = {
#define FLAG(...) FLAG_ROW(ingester_ring_config, __VA_ARGS__)
#include "ingest/member/ingester_ring_flags.def"
#undef FLAG
};
const size_t ingester_ring_flags_n = ARRAY_LEN(ingester_ring_flags);

const struct flag_def ingester_ring_member_flags[] = {
#define RING_FLAG "ingester.ring."
#define RING_YAML "ingester.ring."
#define FLAG(...) FLAG_ROW(ring_member_config, __VA_ARGS__)
#include "ring/member_flags.def"
#undef FLAG
#undef RING_FLAG
#undef RING_YAML
};
const size_t ingester_ring_member_flags_n = ARRAY_LEN(ingester_ring_member_flags);

bool member_partition_of(const char *instance_id, int32_t *ret_partition, struct err *err)
{
    const char *end = instance_id + strlen(instance_id), *digits = end;
    while (digits > instance_id && isdigit((unsigned char)digits[-1]))
        digits--;
    if (digits == end || digits == instance_id || digits[-1] != '-')
        return err_set(
            err, ERR_CONFIG,
            "-ingester.ring.instance-id: \"%s\" does not end in a hyphen and a number, which says what partition the "
            "ingester has",
            instance_id);
    long n = end - digits > 9 ? PARTITIONS_MAX : strtol(digits, NULL, 10);
    if (n >= PARTITIONS_MAX)
        return err_set(err, ERR_CONFIG, "-ingester.ring.instance-id: partition %s of \"%s\" is not below %d", digits,
                       instance_id, PARTITIONS_MAX);
    *ret_partition = (int32_t)n;
    return true;
}

static bool ring_config_check(const struct ingester_ring_config *c, struct err *err)
{
    if (c->replication_factor < 1)
        return err_set(err, ERR_CONFIG, "-ingester.ring.replication-factor must be at least 1");
    if (c->num_tokens < 1 || c->num_tokens > RING_TOKENS_MAX)
        return err_set(err, ERR_CONFIG, "-ingester.ring.num-tokens must be from 1 to %d", RING_TOKENS_MAX);
    if (c->min_ready_duration < 0 || c->final_sleep < 0 || c->observe_period < 0)
        return err_set(err, ERR_CONFIG,
                       "-ingester.ring.min-ready-duration, -ingester.ring.final-sleep and "
                       "-ingester.ring.observe-period must not be "
                       "negative");
    return true;
}

bool member_config_of(const struct ingester_ring_config *ring, const struct ring_member_config *shared,
                      const struct partition_ring_config *partitions, const struct ring_member_identity *self,
                      int32_t partition, const char *dir, struct member_config *ret, struct err *err)
{
    struct partition_rules rules;
    if (!ring_config_check(ring, err) || !partition_rules_from_flags(partitions, &rules, err))
        return false;
    if (shared->heartbeat_period <= 0)
        return err_set(err, ERR_CONFIG, "-ingester.ring.heartbeat-period must be more than 0");
    *ret = (struct member_config){
        .instance = {.key = RING_KEY_INGESTERS,
                     .id = self->id,
                     .addr = self->addr,
                     .zone = self->zone,
                     .n_tokens = (size_t)ring->num_tokens,
                     .heartbeat_period_ms = shared->heartbeat_period,
                     .unregister_on_stop = ring->unregister_on_shutdown},
        .partition = {.key = RING_KEY_INGESTER_PARTITIONS,
                      .owner = self->id,
                      .partition = partition,
                      .rules = rules,
                      .poll_ms = PARTITION_POLL_MS,
                      .create_on_start = true},
        .heartbeat_timeout_ms = shared->heartbeat_timeout,
        .min_ready_ms = ring->min_ready_duration,
        .observe_ms = ring->observe_period,
        .final_sleep_ms = ring->final_sleep,
        .tokens_file = ring->tokens_file_path,
        .dir = dir,
    };
    return true;
}
