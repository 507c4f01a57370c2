"""A cluster around a real Kafka under load: processes die, freeze, restart and come and go. No query fails, no answer is wrong, nothing
acknowledged is lost or there twice (cluster_load.py says how that is known).

One cluster for all: 2 distributors, 2 zones of 2 ingesters, 2 queriers, behind nginx. A real Prometheus writes through it all the while.
"""

import math
import random
import re
import time
from datetime import datetime

import pytest

from cluster import Cluster
from cluster_load import SETTLED_S, Load, audit
from process import Server, free_port, wait_until
from test_prometheus import CONFIG, PROMETHEUS, QUERIES, ask, by_labels, differences, newest

ZONES = ("zone-a", "zone-b")
# The querier of the scaling test asks ingesters for no more than this, so that a partition's last owner may go after it.
QUERY_INGESTERS_WITHIN_S = 15


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, kafka, request):
    c = Cluster(tmp_path_factory.mktemp("cluster"), kafka, flags=["-ingester.partition-ring.delete-inactive-partition-after=25s"],
                mimir=request.config.getoption("--cluster-of") == "mimir")
    c.loads = []
    try:
        yield c.start(zones=ZONES)
    finally:
        c.stop()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory, cluster):
    """(base URL, when it began): it scrapes itself and a node_exporter each second and writes to the cluster."""
    folder = tmp_path_factory.mktemp("prometheus")
    ports = {"prometheus": free_port(), "node": free_port(), "brunn": cluster.nginx.port}
    (folder / "prometheus.yml").write_text(CONFIG.format(**ports))
    node = Server(["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{ports['node']}"], str(folder / "node.log"))
    server = Server([PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
                     f"--web.listen-address=127.0.0.1:{ports['prometheus']}"], str(folder / "prometheus.log"))
    yield f"http://127.0.0.1:{ports['prometheus']}", time.time()
    server.stop()
    node.stop()


@pytest.fixture
def long(request):
    return request.config.getoption("--long")


@pytest.fixture
def load(cluster, prometheus, request):
    """Runs while the test does; judged after it."""
    load = Load(cluster.nginx.port, request.node.name)
    with load:
        time.sleep(2)
        yield load
        time.sleep(SETTLED_S + 1)
    cluster.loads.append(load)


def replay_s(node):
    """From having its heads to serving, at its last start; 0 for what does not say so in its log."""
    times = [[datetime.fromisoformat(t) for t in re.findall(rf'ts=([\d:T.-]+)Z [^\n]*msg="the ingester {said}"', node.output())]
             for said in ("has its heads", "serves")]
    return (times[1][-1] - times[0][-1]).total_seconds() if all(times) else 0.0


def test_kill_9_of_an_ingester(cluster, load, long):
    names = [n.name for n in cluster.ingesters()]
    random.shuffle(names)
    down_s = 30 if long else 4
    for name in names if long else names[:2]:
        victim = cluster[name]
        victim.kill()
        time.sleep(down_s)
        victim.start()
        took = max(replay_s(victim), 0.001)
        print(f"{name}: {down_s} s of records caught up with in {took:.3f} s, {down_s / took:.0f} times as fast as they came")


def test_a_whole_zone_stops(cluster, load, long):
    """Each zone in turn, one softly and one with kill -9; what earlier tests wrote is whole in the zone that is left."""
    for zone, end in zip(ZONES, ("stop", "kill")):
        for node in cluster.ingesters(zone):
            getattr(node, end)()
        time.sleep(60 if long else 5)
        for earlier in cluster.loads:
            audit(cluster.nginx.port, earlier)
        for node in cluster.ingesters(zone):
            node.start(ready=False)
        for node in cluster.ingesters(zone):
            node.wait_ready()


def test_a_frozen_ingester(cluster, load, long):
    """For longer than its heartbeat may be away."""
    victim = cluster["ingester-zone-a-1"]
    victim.freeze()
    try:
        time.sleep(30 if long else 13)
    finally:
        victim.thaw()
    time.sleep(5)


def test_a_short_freeze(cluster, load):
    """Shorter than that: it stays healthy in the ring all the time, and is asked before it has caught up."""
    for name in ("ingester-zone-b-0", "ingester-zone-a-1", "ingester-zone-b-1"):
        victim = cluster[name]
        victim.freeze()
        try:
            time.sleep(5)
        finally:
            victim.thaw()
        time.sleep(1)


def brokers_go(kafka, load, end, down_s):
    time.sleep(SETTLED_S + 2)  # there must be something to ask for
    load.ask_only_before_now()
    end()
    time.sleep(down_s)
    kafka.start()
    load.wait_progress(3, timeout=60)
    time.sleep(SETTLED_S)
    load.ask_everything()


def test_the_broker_restarts(kafka, load):
    brokers_go(kafka, load, kafka.server.stop, 0)


def test_the_brokers_are_away(kafka, load, long):
    brokers_go(kafka, load, kafka.kill, 60 if long else 15)


def test_rolling_restart(cluster, load):
    """Every process, one after the other, as soon as the one before is ready."""
    for node in list(cluster.nodes.values()):
        node.restart()


def answers_agree(cluster, prometheus):
    """Of all queries, on each querier, with Prometheus's own."""
    theirs, start = prometheus
    end = math.floor(time.time()) - 3 + 0.137
    wait_until("the remote write to pass the end", 60, lambda: newest(f"{cluster.nginx.url}/prometheus") > end)
    time.sleep(SETTLED_S)
    for querier in cluster.of("querier"):
        ours = f"http://{querier.address}/prometheus"
        for query in QUERIES:
            ranged = {"query": query, "start": f"{max(end - 300, min(start + 50, end - 30)):.3f}", "end": f"{end:.3f}", "step": "7"}
            for path, params in (("query", {"query": query, "time": f"{end:.3f}"}), ("query_range", ranged)):
                found = differences(by_labels(ask(ours, path, params)), by_labels(ask(theirs, path, params)))
                assert not found, f"{querier.name}: {query}: {path}: {len(found)} differences, first: {found[:3]}"


def test_prometheus_agrees(cluster, prometheus):
    """About all the time in which the tests above broke things."""
    answers_agree(cluster, prometheus)
    url, _ = prometheus
    for metric in ("prometheus_remote_storage_samples_failed_total", "prometheus_remote_storage_samples_dropped_total"):
        for series in ask(url, "query", {"query": metric})["data"]["result"]:
            assert series["value"][1] == "0", series


def post(node, path, method="POST", want=(200, 204)):
    status, _, text = node.request(method, path)
    assert status in want, (node.name, method, path, status, text)
    return text


def end_offset(cluster, partition):
    return int(cluster.kafka.kcat("-Q", "-t", f"{cluster.topic}:{partition}:-1").decode().split()[-1])


def test_scale_out_and_in(cluster, prometheus):
    """2 -> 4 -> 2 partitions. In as the rollout-operator does it: per zone prepare-partition-downscale on those that go and DELETE of it on
    those that stay, a wait, prepare-shutdown, SIGTERM."""
    flags = [f"-querier.query-ingesters-within={QUERY_INGESTERS_WITHIN_S}s", "-querier.query-store-after=0s"]
    reader = cluster.add("querier-recent", "querier", flags=flags + ["-querier.query-store-after=10s"] * cluster.mimir).start()
    old, new = {0: "ACTIVE", 1: "ACTIVE"}, (2, 3)
    seen = []
    with Load(cluster.nginx.port, "scale", read_port=reader.port, recent_only=True) as load:
        time.sleep(2)
        for zone in ZONES:
            for p in new:
                cluster.add(f"ingester-{zone}-{p}", "ingester", zone).start(ready=False)
        cluster.wait_partitions({**old, **{p: "PENDING" for p in new}})
        seen.append("PENDING")
        going = [n for p in new for n in cluster.ingesters(partition=p)]
        for node in going:
            node.wait_ready()
        cluster.wait_partitions({**old, **{p: "ACTIVE" for p in new}})
        seen.append("ACTIVE")
        assert cluster.owners()[2] == ["ingester-zone-a-2", "ingester-zone-b-2"]
        load.wait_progress(5)
        assert all(end_offset(cluster, p) > 0 for p in new), "the new partitions were not written to"
        # Taken back at once: nothing has happened.
        assert b'"timestamp":0' not in post(going[0], "/ingester/prepare-partition-downscale")
        cluster.wait_partitions({**old, 2: "INACTIVE", 3: "ACTIVE"})
        assert b'"timestamp":0' in post(going[0], "/ingester/prepare-partition-downscale", "DELETE")
        cluster.wait_partitions({**old, **{p: "ACTIVE" for p in new}})
        load.wait_progress(2)
        for zone in ZONES:
            for node in cluster.ingesters(zone):
                post(node, "/ingester/prepare-partition-downscale", "POST" if node in going else "DELETE")
        cluster.wait_partitions({**old, **{p: "INACTIVE" for p in new}})
        seen.append("INACTIVE")
        inactive_since = time.monotonic()
        ends = [end_offset(cluster, p) for p in new]
        load.wait_progress(5)
        assert ends == [end_offset(cluster, p) for p in new], "an INACTIVE partition was written to"
        audit(cluster.nginx.port, load)  # with what the old and what the new partitions got
        time.sleep(max(0, inactive_since + QUERY_INGESTERS_WITHIN_S + 1 - time.monotonic()))
        for zone in ZONES:
            leaving = [n for n in cluster.ingesters(zone) if n in going]
            for node in leaving:
                post(node, "/ingester/prepare-shutdown")
            for node in sorted(leaving, key=lambda n: n.name, reverse=True):
                node.stop()
        cluster.wait_partitions(old)
        seen.append("gone")
        load.wait_progress(3)
    print(seen)
    for node in going:
        cluster.wait_instance(node.name, (None, "LEFT"))
