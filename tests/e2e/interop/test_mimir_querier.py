"""A real Mimir's querier reads cortex.Ingester of ours."""

import time

import remote_write as rw
from cluster import Cluster

QUERIES = ["count(m)", "sum by (odd) (rate(m[15s]))", "h", "histogram_quantile(0.9, rate(h[15s]))", 'm{n=~"00.*"}', "sum(count_over_time(m[1m]))",
           "nothing"]


def test_a_mimir_querier_reads_from_our_ingester(tmp_path, kafka):
    """Distributor and ingester are ours; what Mimir's querier answers is what ours does."""
    cluster = Cluster(tmp_path / "cluster", kafka, topic_partitions=1)
    try:
        distributor = cluster.add("distributor-0", "distributor")
        ingester = cluster.add("ingester-zone-a-0", "ingester", "zone-a")
        ours = cluster.add("querier-0", "querier")
        mimirs = cluster.add("querier-1", "querier", mimir=True, flags=["-querier.cardinality-analysis-enabled=true"])
        for node in cluster.nodes.values():
            node.start(ready=False)
        for node in cluster.nodes.values():
            node.wait_ready(90)
        cluster.wait_partitions({0: "ACTIVE"})
        now = int(time.time()) * 1000
        for k in range(20):
            t = now - 20000 + k * 1000
            series = [rw.series({"__name__": "m", "n": f"{n:03}", "odd": str(n % 2)}, [(t, n + k)]) for n in range(300)]
            histogram = rw.series({"__name__": "h"}, [], rw.histogram(t, 10.0 + k, 0, {0: 1 + k, 1: 2}, {}, 1, 0.001))
            assert distributor.push(rw.body(*series, histogram, rw.metadata(1, "m", "Help.")))[0] == 200
        strong = {"X-Read-Consistency": "strong"}
        times = {"start": now / 1000 - 60, "end": now / 1000}
        for path, params in [*(("query", {"query": q, "time": now / 1000}) for q in QUERIES),
                             ("query_range", {"query": "sum(m)", "step": 5, **times}), ("labels", times), ("label/n/values", times), ("metadata", {}),
                             ("series", {"match[]": ['m{n="001"}', 'm{odd="1",n=~"0.*"}'], **times})]:
            a, b = ours.api(path, params, strong), mimirs.api(path, params, strong)
            assert a["status"] == b["status"] == "success", (path, params, a, b)
            if isinstance(a["data"], list):
                a["data"], b["data"] = (sorted(x["data"], key=str) for x in (a, b))
            assert a["data"] == b["data"], (path, params)
        names = mimirs.api("cardinality/label_names", {"count_method": "inmemory"})
        assert {c["label_name"]: c["label_values_count"] for c in names["cardinality"]} == {"n": 300, "__name__": 2, "odd": 2}
        values = mimirs.api("cardinality/label_values", {"label_names[]": "odd"})
        assert values["labels"][0]["series_count"] == 300
        assert sorted(c["series_count"] for c in values["labels"][0]["cardinality"]) == [150, 150]
        assert mimirs.api("cardinality/active_series", {"selector": "h"})["data"] == [{"__name__": "h"}]
        native = mimirs.api("cardinality/active_native_histogram_metrics", {"selector": '{__name__=~".+"}'})
        assert [m["metric"] for m in native["data"]] == ["h"]
        route = "cortex_request_duration_seconds_count"
        for method in ("QueryStream", "LabelNames", "LabelValues", "MetricsForLabelMatchers", "MetricsMetadata", "UserStats", "LabelNamesAndValues",
                       "LabelValuesCardinality", "ActiveSeries"):
            assert ingester.metric(route, route="/cortex.Ingester/" + method, status_code="OK") > 0, method
    finally:
        cluster.stop()
