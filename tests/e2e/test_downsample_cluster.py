"""Downsampled blocks in a cluster: made of the shards of split blocks, shared among store-gateways by the ring, read by a querier of another process."""

import time

import pytest

from cluster import Cluster
from downsampled import AT_ONCE, DAY_MS, Compared, lacks
from history import HOUR_MS, QUICK, Bucket, History, push_all, settled
from process import wait_until

FLAGS = [*QUICK, *AT_ONCE, "-store-gateway.sharding-ring.replication-factor=2", "-querier.store-gateway-hedging-delay=1s", "-compactor.split-and-merge-shards=2"]
QUERIES = ["count_over_time(requests_total[1h])", "avg_over_time(temperature[2h])", "increase(requests_total[6h])", "max_over_time(up[1h])"]


@pytest.fixture
def cluster(tmp_path, kafka):
    c = Cluster(tmp_path, kafka, topic="downsampled", topic_partitions=1, flags=FLAGS)
    for name, target, zone in (("distributor-0", "distributor", ""), ("querier-0", "querier", ""), ("ingester-zone-a-0", "ingester", "zone-a"), ("compactor-0", "compactor", ""),
                               ("store-gateway-0", "store-gateway", ""), ("store-gateway-1", "store-gateway", ""), ("store-gateway-2", "store-gateway", "")):
        c.add(name, target, zone)
    try:
        yield c.start_all({0: "ACTIVE"})
    finally:
        c.stop()


def test_a_querier_reads_them_from_store_gateways(cluster, tmp_path):
    now = int(time.time() * 1000)
    history, root = History(now, floats=8, histograms=2), tmp_path / "blocks"
    push_all(cluster["distributor-0"], history.bodies())
    wait_until("the ingester to have it all", 60, lambda: cluster["ingester-zone-a-0"].request("POST", "/ingester/flush?wait=true")[0] == 204
               and Bucket(root).n_samples() == history.n_samples())
    settled(Bucket(root), history.n_samples())
    over = now // DAY_MS * DAY_MS
    wait_until("the rooms to be full", 120, lambda: not lacks(root, history, over))
    assert any("__compactor_shard_id__" in m["thanos"]["labels"] for m in Bucket(root).metas().values())
    begin, end = history.begin_ms // HOUR_MS * HOUR_MS, history.end_ms // HOUR_MS * HOUR_MS + HOUR_MS
    compared = Compared(cluster["querier-0"])
    compared.wait_until_read(begin, end)

    def ask_all():
        for expr in QUERIES:
            compared.range(expr, begin, end, HOUR_MS, {"1h", "5m"})
    ask_all()
    compared.range("increase(latency[1h])", begin, end, HOUR_MS, set())
    # Each block has two store-gateways of the three: any one of them may be away.
    for node in cluster.of("store-gateway"):
        node.kill()
        ask_all()
        node.start()
        ask_all()
    history.check(cluster["querier-0"].query)
