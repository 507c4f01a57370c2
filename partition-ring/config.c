#include "partition-ring/config.h"

#include "base/assert.h"

const struct flag_def partition_ring_flags[] = {
#define FLAG(...) FLAG_ROW(partition_ring_config, __VA_ARGS__)
#include "partition-ring/partition_ring_flags.def"
#undef FLAG
};
const size_t partition_ring_flags_n = ARRAY_LEN(partition_ring_flags);

bool partition_rules_from_flags(const struct partition_ring_config *flags, struct partition_rules *ret, struct err *err)
{
    if (flags->min_partition_owners_count < 0 || flags->min_partition_owners_count > PARTITION_OWNERS_MAX)
        return err_set(err, ERR_CONFIG, "-ingester.partition-ring.min-partition-owners-count must be between 0 and %d", PARTITION_OWNERS_MAX);
    if (flags->min_partition_owners_duration < 0)
        return err_set(err, ERR_CONFIG, "-ingester.partition-ring.min-partition-owners-duration must not be negative");
    if (flags->delete_inactive_partition_after < 0)
        return err_set(err, ERR_CONFIG, "-ingester.partition-ring.delete-inactive-partition-after must not be negative");
    *ret = (struct partition_rules){.min_owners = (size_t)flags->min_partition_owners_count,
                                    .min_owners_ms = flags->min_partition_owners_duration,
                                    .delete_inactive_ms = flags->delete_inactive_partition_after};
    return true;
}
