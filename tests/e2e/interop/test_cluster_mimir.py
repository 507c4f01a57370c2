"""One cluster of both: zone-a's ingesters, a distributor and a querier are a real Mimir's, zone-b's and another of each are ours, around one Kafka and
in one gossip. Each partition has an owner of either kind, so that stopping a zone says who answers."""

import json
import time
import urllib.parse

import pytest

import remote_write as rw
from cluster import Cluster
from process import wait_until
from test_prometheus import by_labels, differences

KINDS = {"mimir": "zone-a", "brunn": "zone-b"}
VERSIONS = {"mimir": (0, 1, 2), "brunn": (0, 1)}  # of records that each writes; all three are read by both
STRONG = {"X-Read-Consistency": "strong"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, kafka):
    c = Cluster(tmp_path_factory.mktemp("cluster"), kafka, flags=[
        "-ingester.native-histograms-ingestion-enabled=true", "-ingester.max-global-exemplars-per-user=1000"])
    for kind, zone in KINDS.items():
        for p in range(2):
            c.add(f"ingester-{zone}-{p}", "ingester", zone, mimir=kind == "mimir")
        c.add(f"querier-{kind}", "querier", mimir=kind == "mimir")
        for v in VERSIONS[kind]:
            # Mimir places series by another hash than we do on our own.
            flags = [f"-ingest-storage.kafka.producer-record-version={v}", *(["-distributor.sharding-hash=fnv32"] if kind == "brunn" else [])]
            c.add(f"distributor-{kind}-v{v}", "distributor", flags=flags, mimir=kind == "mimir")
    try:
        yield c.start_all({0: "ACTIVE", 1: "ACTIVE"})
    finally:
        c.stop()


def test_pages_show_the_others(cluster):
    """Each one's pages show everyone, in the same states."""
    queriers = [cluster[f"querier-{kind}"] for kind in KINDS]
    ingesters = {n.name: ("ACTIVE", n.zone, f"127.0.0.1:{n.grpc_port}") for n in cluster.ingesters()}
    distributors = {n.name for n in cluster.of("distributor")}

    def rows(node, page):
        return node.json(page)["shards"] or []
    for node in queriers:
        wait_until(f"the ring of {node.name}", 30, lambda: {
            s["id"]: (s["state"], s["zone"], s["address"]) for s in rows(node, "/ingester/ring")} == ingesters)
        members = {m["Name"] for m in node.json("/memberlist")["SortedMembers"]}
        assert {name for name in cluster.nodes if any(m.startswith(name) for m in members)} == set(cluster.nodes)
        keys = node.json("/memberlist")["Store"]
        assert {"collectors/ring", "collectors/ingester-partitions", "collectors/distributor"} <= set(keys)
    for kind in KINDS:
        node = cluster[f"distributor-{kind}-v0"]
        wait_until(f"distributors as {node.name} sees them", 30, lambda: {s["id"] for s in rows(node, "/distributor/ring")} == distributors)
        assert {s["state"] for s in rows(node, "/distributor/ring")} == {"ACTIVE"}
    first, second = (cluster.partition_rows(node) for node in queriers)
    for a, b in zip(first, second):
        for row in (a, b):
            row["owner_ids"] = sorted(row["owner_ids"])
            row["tokens"] = sorted(row["tokens"])
        assert a == b
    assert cluster.owners(queriers[0]) == {p: [f"ingester-{zone}-{p}" for zone in ("zone-a", "zone-b")] for p in range(2)}


def everything(now_ms, **labels):
    """Floats, both kinds of native histograms, stale markers, exemplars, metadata."""
    out = []
    for i in range(60):
        samples = [(now_ms - 60_000 + k * 15_000, i * 10.0 + k * 0.25) for k in range(4)]
        out.append(rw.series({"__name__": "mixed_total", "i": str(i), **labels}, samples))
    out.append(rw.series({"__name__": "mixed_odd", **labels}, [(now_ms - 30_000, float("inf")), (now_ms - 15_000, -1e-300), (now_ms, 5e-324)]))
    for k, floats in enumerate((False, True)):
        histograms = b"".join(rw.histogram(now_ms - 60_000 + t * 15_000, 12.5 + t, 3, {-2: 1 + t, 0: 2 + t, 7: 3}, {1: 2}, 1 + t, 2e-128, floats=floats)
                              for t in range(4))
        out.append(rw.series({"__name__": "mixed_histogram", "k": str(k), **labels}, [], histograms))
    out.append(rw.metadata(1, "mixed_total", "Of both kinds."))
    return rw.body(*out)


QUESTIONS = [
    "mixed_total{%s}", "sum(rate(mixed_total{%s}[1m]))", "count_over_time(mixed_total{%s}[2m])", "mixed_odd{%s}", "mixed_histogram{%s}",
    "histogram_quantile(0.9, rate(mixed_histogram{%s}[1m]))", "sum by (k) (histogram_count(mixed_histogram{%s}))", "mixed_total{%s}[2m]", "mixed_histogram{%s}[2m]",
]


def answer(node, question, now_ms):
    query = urllib.parse.urlencode({"query": question, "time": f"{now_ms / 1000:.3f}"})
    status, text = node.get(f"/prometheus/api/v1/query?{query}", STRONG)
    assert status == 200, (node.name, question, status, text[:600])
    return by_values(json.loads(text))


def by_values(parsed):
    out = by_labels({**parsed, "data": {**parsed["data"], "result": [r for r in parsed["data"]["result"] if "value" in r or "values" in r]}})
    for r in parsed["data"]["result"]:
        for name in ("histogram", "histograms"):
            if name in r:
                out[(name, *sorted(r["metric"].items()))] = [json.dumps(r[name], sort_keys=True)]
    return out


def same(mine, other):
    plain, histograms = ({k: v for k, v in x.items() if not k or k[0] not in ("histogram", "histograms")} for x in (mine, other)), [
        {k: v for k, v in x.items() if k and k[0] in ("histogram", "histograms")} for x in (mine, other)]
    return differences(*plain) or ([] if histograms[0] == histograms[1] else [f"histograms: {histograms}"])


@pytest.fixture(scope="module")
def pushed(cluster):
    """What both kinds of distributors wrote in each version: ([labels], when)."""
    now_ms = int(time.time() * 1000)
    selectors = []
    for kind in KINDS:
        for v in VERSIONS[kind]:
            status, text = cluster[f"distributor-{kind}-v{v}"].push(everything(now_ms, by=kind, v=str(v)))
            assert status == 200, (kind, v, text)
            selectors.append(f'by="{kind}",v="{v}"')
    return selectors, now_ms


def test_records_lie_in_both_partitions(cluster, kafka, pushed):
    for p in range(2):
        versions = {headers for _, _, headers, _, _ in kafka.records(cluster.topic, p)}
        assert len(versions) >= 2, versions  # kcat shows a binary version as an empty one


@pytest.fixture(scope="module")
def answers(cluster, pushed):
    """{(who ingested, who was asked, question): answer}, each kind of ingester having been alone."""
    selectors, now_ms = pushed
    out = {}
    for alone, zone in KINDS.items():
        away = [n for n in cluster.ingesters() if n.zone != zone]
        for node in away:
            node.stop()
        for asked in KINDS:
            for selector in selectors:
                for question in QUESTIONS:
                    out[alone, asked, selector, question] = answer(cluster[f"querier-{asked}"], question % selector, now_ms)
        for node in away:
            node.start()
        for node in away:
            cluster.wait_instance(node.name, ("ACTIVE",))
    return out


@pytest.mark.parametrize("asked", KINDS)
@pytest.mark.parametrize("ingested", KINDS)
def test_answers_are_equal(answers, pushed, ingested, asked):
    """Whoever wrote, in whichever version, whoever ingested, whoever is asked: as Mimir of what Mimir ingested."""
    for selector in pushed[0]:
        for question in QUESTIONS:
            want, have = answers["mimir", "mimir", selector, question], answers[ingested, asked, selector, question]
            assert want, (selector, question)
            assert not same(have, want), (selector, question, same(have, want)[:3])


def test_versions_say_the_same(answers, pushed):
    def without(labels):
        return {tuple(x for x in k if not isinstance(x, tuple) or x[0] not in ("by", "v")): v for k, v in labels.items()}
    for question in QUESTIONS:
        first = without(answers["brunn", "brunn", pushed[0][0], question])
        for selector in pushed[0][1:]:
            assert not same(without(answers["brunn", "brunn", selector, question]), first), (selector, question)


def test_each_shards_over_the_others_partitions(cluster, kafka):
    """Partition 2 is ours alone, partition 3 is Mimir's alone: both kinds of distributors write to both, both queriers read both."""
    cluster.add("ingester-zone-b-2", "ingester", "zone-b", mimir=False).start()
    cluster.add("ingester-zone-a-3", "ingester", "zone-a", mimir=True).start()
    cluster.wait_partitions({p: "ACTIVE" for p in range(4)})
    time.sleep(2)  # a Mimir's page is ahead of what it does
    start_ms = int(time.time() * 1000)
    sizes = {}
    for n, kind in enumerate(KINDS):
        now_ms = start_ms + n
        # fnv32, which Mimir computes, leaves what differs only in the last bytes beside each other: hence the label z.
        before = [len(kafka.records(cluster.topic, p)) for p in range(4)]
        body = rw.body(*(rw.series({"__name__": "sharded", "i": str(i), "z": "long enough"}, [(now_ms, float(i))]) for i in range(200)))
        assert cluster[f"distributor-{kind}-v0"].push(body)[0] == 200
        records = [kafka.records(cluster.topic, p) for p in range(4)]
        assert [len(r) for r in records] == [b + 1 for b in before], kind
        sizes[kind] = [len(r[-1][4]) for r in records]
        for querier in (cluster[f"querier-{k}"] for k in KINDS):
            assert answer(querier, f"count(timestamp(sharded) == {now_ms / 1000:.3f})", now_ms)[()][0][1] == "200"
    # The same series in the same places: records of the same number of series, but for a few bytes that only one kind writes.
    assert all(abs(a - b) < 40 for a, b in zip(*sizes.values())), sizes
