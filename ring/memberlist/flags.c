/* From flags to the configuration of a member. */
#include <string.h>

#include "base/assert.h"
#include "ring/memberlist/memberlist.h"

const struct flag_def memberlist_flags[] = {
#define FLAG(...) FLAG_ROW(memberlist_flags_config, __VA_ARGS__)
#include "ring/memberlist/memberlist_flags.def"
#undef FLAG
};
const size_t memberlist_flags_n = ARRAY_LEN(memberlist_flags);

static bool number(const char *flag, int64_t value, int64_t min, int64_t max, struct err *err)
{
    if (value >= min && value <= max)
        return true;
    return err_set(err, ERR_CONFIG, "-memberlist.%s must be between %lld and %lld, not %lld", flag, (long long)min,
                   (long long)max, (long long)value);
}

static bool check(const struct memberlist_flags_config *f, struct err *err)
{
    if (f->bind_addr.n > 1)
        return err_set(err, ERR_CONFIG, "-memberlist.bind-addr: one address at most");
    if (strcmp(f->zone_aware_routing_role, "member") != 0 && strcmp(f->zone_aware_routing_role, "bridge") != 0)
        return err_set(err, ERR_CONFIG, "-memberlist.zone-aware-routing.role must be member or bridge, not \"%s\"",
                       f->zone_aware_routing_role);
    if (f->zone_aware_routing_enabled && !f->zone_aware_routing_zone[0])
        return err_set(err, ERR_CONFIG,
                       "-memberlist.zone-aware-routing.enabled needs a zone "
                       "(-memberlist.zone-aware-routing.instance-availability-zone)");
    return number("bind-port", f->bind_port, 0, UINT16_MAX, err) &&
           number("advertise-port", f->advertise_port, 0, UINT16_MAX, err) &&
           number("gossip-nodes", f->gossip_nodes, 1, MEMBERLIST_GOSSIP_NODES_MAX, err) &&
           number("retransmit-factor", f->retransmit_factor, 1, 1000, err) &&
           number("max-join-retries", f->max_join_retries, 0, INT32_MAX, err) &&
           number("abort-if-fast-join-fails-min-nodes", f->abort_if_fast_join_fails_min_nodes, 1, INT32_MAX, err);
}

static enum memberlist_role role_of(const struct memberlist_flags_config *f)
{
    if (!f->zone_aware_routing_enabled)
        return MEMBERLIST_NO_ZONE;
    return strcmp(f->zone_aware_routing_role, "bridge") == 0 ? MEMBERLIST_BRIDGE : MEMBERLIST_MEMBER;
}

bool memberlist_config_from_flags(const struct memberlist_flags_config *f, struct memberlist_config *ret,
                                  struct err *err)
{
    if (!check(f, err))
        return false;
    struct memberlist_config cfg;
    memberlist_config_default(&cfg);
    cfg.node_name = f->nodename;
    cfg.randomize_node_name = f->randomize_node_name;
    cfg.bind_addr = f->bind_addr.n ? f->bind_addr.items[0] : "";
    cfg.bind_port = (uint16_t)f->bind_port;
    cfg.advertise_addr = f->advertise_addr;
    /* Upstream's way: the port's default is told even when another one is listened on, but only with an address. */
    cfg.advertise_port = f->advertise_addr[0] ? (uint16_t)f->advertise_port : 0;
    cfg.cluster_label = f->cluster_label;
    cfg.cluster_label_verification_disabled = f->cluster_label_verification_disabled;
    cfg.compression_enabled = f->compression_enabled;
    cfg.zone = f->zone_aware_routing_zone;
    cfg.role = role_of(f);
    cfg.join = f->join.items;
    cfg.n_join = f->join.n;
    cfg.rejoin_seeds = f->rejoin_seed_nodes.items;
    cfg.n_rejoin_seeds = f->rejoin_seed_nodes.n;
    cfg.min_join_backoff_ms = f->min_join_backoff;
    cfg.max_join_backoff_ms = f->max_join_backoff;
    cfg.max_join_retries = (int)f->max_join_retries;
    cfg.rejoin_interval_ms = f->rejoin_interval;
    cfg.fast_join_min_nodes = f->abort_if_fast_join_fails ? (size_t)f->abort_if_fast_join_fails_min_nodes : 0;
    cfg.abort_if_join_fails = f->abort_if_join_fails;
    cfg.gossip_interval_ms = f->gossip_interval;
    cfg.gossip_nodes = (size_t)f->gossip_nodes;
    cfg.gossip_to_dead_ms = f->gossip_to_dead_nodes_time;
    cfg.push_pull_interval_ms = f->pullpush_interval;
    cfg.retransmit_factor = (int)f->retransmit_factor;
    cfg.notify_interval_ms = f->notify_interval;
    cfg.stream_timeout_ms = f->stream_timeout;
    cfg.packet_dial_timeout_ms = f->packet_dial_timeout;
    cfg.packet_write_timeout_ms = f->packet_write_timeout;
    cfg.broadcast_timeout_ms = f->broadcast_timeout_on_shutdown;
    cfg.leave_timeout_ms = f->leave_timeout;
    cfg.dead_node_reclaim_ms = f->dead_node_reclaim_time;
    cfg.left_ingesters_timeout_ms = f->left_ingesters_timeout;
    cfg.obsolete_entries_timeout_ms = f->obsolete_entries_timeout;
    *ret = cfg;
    return true;
}
