"""Several -target=all processes are a cluster too."""

import time

import pytest

from cluster import HEARTBEAT_TIMEOUT_S, Cluster
from cluster_load import SERIES, WRITERS, Load
from process import wait_until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, kafka):
    """Two processes, a partition each; everyone takes writes for both and answers about both."""
    c = Cluster(tmp_path_factory.mktemp("cluster"), kafka, topic_partitions=2)
    try:
        for i in range(2):
            c.add(f"brunn-{i}", "all")
        yield c.start_all({0: "ACTIVE", 1: "ACTIVE"})
    finally:
        c.stop()


def count(node, load):
    """(HTTP status, the count of its series or the error)"""
    answer = node.api("query", {"query": f'count(load{{run="{load.run}"}})', "time": load.writers[0].t_ms(10) / 1000})
    if answer["status"] == "error":
        return answer["http_status"], answer["error"]
    return 200, [r["value"][1] for r in answer["data"]["result"]]


def test_everyone_takes_writes_and_answers_about_all(cluster):
    with Load(cluster.nginx.port, "both") as load:
        time.sleep(5)
    for node in cluster.of("all"):
        assert count(node, load) == (200, [str(WRITERS * SERIES)])
        assert node.metric("cortex_ingester_memory_series") < WRITERS * SERIES, "one ingester has everything"


def test_a_partition_without_an_owner_fails_queries(cluster):
    """There is one owner a partition here. Without it a query fails and says so; it never leaves the partition out."""
    with Load(cluster.nginx.port, "whole") as load:
        time.sleep(4)
    first, second = cluster["brunn-0"], cluster["brunn-1"]
    second.kill()
    try:
        end = time.monotonic() + HEARTBEAT_TIMEOUT_S + 3  # also when its heartbeat has become too old
        while time.monotonic() < end:
            status, error = count(first, load)
            assert status in (500, 503) and "partition 1" in error, (status, error)
            time.sleep(0.5)
    finally:
        second.start()
    for node in (first, second):
        wait_until("a whole answer", 20, lambda: count(node, load) == (200, [str(WRITERS * SERIES)]))
