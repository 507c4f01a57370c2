"""A real Prometheus scrapes itself and a node_exporter and remote-writes to Brunn: the same questions give the same answers."""

import json
import math
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from process import Brunn, Server, free_port, wait_until

PROMETHEUS = "prometheus"
CONFIG = """
global:
  scrape_interval: 1s
  evaluation_interval: 1s
scrape_configs:
  - job_name: prometheus
    static_configs: [{{targets: ["127.0.0.1:{prometheus}"]}}]
  - job_name: node
    static_configs: [{{targets: ["127.0.0.1:{node}"], labels: {{zone: "a"}}}}]
remote_write:
  - url: http://127.0.0.1:{brunn}/api/v1/push
    queue_config: {{batch_send_deadline: 1s}}
    metadata_config: {{send_interval: 2s}}
"""

# What dashboards really ask: node exporter full, Prometheus's own dashboard, and the usual shapes.
QUERIES = [
    "up",
    "scrape_duration_seconds",
    "sum(up) by (job)",
    "node_load1",
    'rate(node_cpu_seconds_total{mode="user"}[30s])',
    'sum by (mode) (irate(node_cpu_seconds_total[20s]))',
    '100 * (1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[30s])))',
    '(sum by (instance) (rate(node_cpu_seconds_total{mode!="idle"}[30s])) / on (instance) group_left sum by (instance) (rate(node_cpu_seconds_total[30s]))) * 100',
    "node_memory_MemTotal_bytes - node_memory_MemFree_bytes - node_memory_Buffers_bytes - node_memory_Cached_bytes",
    "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes",
    'node_filesystem_avail_bytes{fstype!~"tmpfs|ramfs"} / node_filesystem_size_bytes * 100',
    "rate(node_network_receive_bytes_total[30s]) * 8",
    "max by (device) (rate(node_disk_io_time_seconds_total[30s]))",
    "rate(node_context_switches_total[30s])",
    "node_time_seconds - node_boot_time_seconds",
    "topk(5, scrape_samples_scraped)",
    "bottomk(3, node_cpu_seconds_total)",
    'histogram_quantile(0.9, sum by (le) (rate(prometheus_http_request_duration_seconds_bucket[30s])))',
    'histogram_quantile(0.99, rate(prometheus_http_response_size_bytes_bucket[30s]))',
    "sum by (handler) (rate(prometheus_http_request_duration_seconds_sum[30s])) / sum by (handler) (rate(prometheus_http_request_duration_seconds_count[30s]))",
    "rate(prometheus_tsdb_head_samples_appended_total[30s])",
    "prometheus_tsdb_head_series",
    "increase(prometheus_http_requests_total[40s])",
    "sum without (handler, code) (prometheus_http_requests_total)",
    "process_resident_memory_bytes{job=~\"prom.*\"}",
    "max_over_time(process_resident_memory_bytes[30s])",
    "avg_over_time(node_load1[30s])",
    "quantile_over_time(0.5, scrape_duration_seconds[30s])",
    "stddev_over_time(scrape_duration_seconds[30s])",
    "deriv(process_resident_memory_bytes[30s])",
    "predict_linear(node_memory_MemFree_bytes[30s], 3600)",
    "changes(process_start_time_seconds[30s]) == 0",
    "resets(node_cpu_seconds_total[30s])",
    "delta(node_memory_MemFree_bytes[20s])",
    'label_replace(up, "host", "$1", "instance", "(.*):.*")',
    "count by (job) ({__name__=~\"node_.+\"})",
    "count_values(\"value\", up)",
    "absent(nonexistent_metric{job=\"x\"})",
    "max_over_time(sum(rate(node_cpu_seconds_total[10s]))[20s:3s])",
    "node_load1 offset 10s",
    "up == 1 and on (job) scrape_duration_seconds < 5",
    'sum(rate(node_cpu_seconds_total{mode="system"}[30s])) by (cpu) or vector(0)',
    "sort_desc(sum by (mode) (node_cpu_seconds_total))",
    "time() - process_start_time_seconds",
    "clamp_max(node_load1, 0.5) + ceil(node_load5) - floor(node_load15) ^ 2",
    "sum(go_gc_duration_seconds{quantile=\"1\"}) by (job)",
    "quantile(0.75, node_cpu_seconds_total)",
    "minute() + hour(vector(time())) * 60",
]


def ask(url, path, params):
    try:
        with urllib.request.urlopen(f"{url}/api/v1/{path}?{urllib.parse.urlencode(params)}", timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as e:
        return json.load(e)


def close(a, b):
    a, b = float(a), float(b)
    return a == b or (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def by_labels(answer):
    assert answer["status"] == "success", answer
    data = answer["data"]
    if data["resultType"] == "scalar":
        return {(): [data["result"]]}
    return {tuple(sorted(r["metric"].items())): r.get("values") or [r["value"]] for r in data["result"]}


def differences(ours, theirs):
    if ours.keys() != theirs.keys():
        return [f"series differ: only ours {list(ours.keys() - theirs.keys())[:3]}, only theirs {list(theirs.keys() - ours.keys())[:3]}"]
    out = []
    for labels, points in theirs.items():
        mine = ours[labels]
        if [p[0] for p in mine] != [p[0] for p in points]:
            out.append(f"{labels}: times differ")
        out += [f"{labels} at {t}: ours {v}, theirs {w}" for (t, v), (_, w) in zip(mine, points) if not close(v, w)]
    return out


@pytest.fixture(scope="module")
def pair(tmp_path_factory, request):
    """(base URL of Brunn, base URL of Prometheus, start, end) after some minutes of scraping."""
    folder = tmp_path_factory.mktemp("prometheus")
    for program in (PROMETHEUS, "prometheus-node-exporter"):
        assert shutil.which(program), f"{program} is not installed"
    brunn = Brunn(folder / "brunn")
    ports = {"prometheus": free_port(), "node": free_port(), "brunn": brunn.port}
    (folder / "prometheus.yml").write_text(CONFIG.format(**ports))
    node = Server(["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{ports['node']}"], str(folder / "node.log"))
    prometheus = Server([PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
                         f"--web.listen-address=127.0.0.1:{ports['prometheus']}"], str(folder / "prometheus.log"))
    url = f"http://127.0.0.1:{ports['prometheus']}"
    start = time.time()
    try:
        seconds = request.config.getoption("--scrape-seconds")
        while time.time() < start + seconds:
            time.sleep(1)
            # A little traffic of its own, so that request histograms move, on each path that the tests ask: a path's series begin with its first request.
            if int(time.time()) % 3 == 0:
                query = {"query": "sum(rate(node_cpu_seconds_total[30s]))"}
                for path, params in (("query", query), ("query_range", {**query, "start": start, "end": start + 1, "step": 1}), ("labels", {}),
                                     ("label/job/values", {}), ("series", {"match[]": "up"}), ("metadata", {})):
                    ask(url, path, params)
        # An end that is no multiple of any step, behind what the remote write queue may still hold.
        end = math.floor(time.time()) - 6 + 0.137
        wait_until("the remote write to pass the end", 60, lambda: newest(f"http://127.0.0.1:{brunn.port}/prometheus") > end)
        yield brunn, f"http://127.0.0.1:{brunn.port}/prometheus", url, start, end
    finally:
        prometheus.stop()
        node.stop()
        brunn.stop()


def newest(url):
    result = ask(url, "query", {"query": "min(timestamp(up))"})["data"]["result"]
    return float(result[0]["value"][1]) if result else 0


@pytest.mark.parametrize("query", QUERIES)
def test_the_answers_agree(pair, query):
    _, ours, theirs, start, end = pair
    instant = {"query": query, "time": f"{end:.3f}"}
    # Not so early that a window reaches back to a series' first sample: before 3.0 Prometheus extrapolated otherwise there.
    ranged = {"query": query, "start": f"{max(end - 60, start + 50):.3f}", "end": f"{end:.3f}", "step": "7"}
    for path, params in (("query", instant), ("query_range", ranged)):
        found = differences(by_labels(ask(ours, path, params)), by_labels(ask(theirs, path, params)))
        assert not found, f"{path}: {len(found)} differences, first: {found[:3]}"


def test_label_apis_agree(pair):
    _, ours, theirs, start, end = pair
    window = {"start": f"{start:.3f}", "end": f"{end:.3f}"}
    assert ask(ours, "labels", window)["data"] == ask(theirs, "labels", window)["data"]
    for name in ("__name__", "job", "mode", "le", "handler"):
        assert ask(ours, f"label/{name}/values", window)["data"] == ask(theirs, f"label/{name}/values", window)["data"]
    params = {**window, "match[]": '{job="node",__name__=~"node_cpu.*"}'}
    both = [sorted(tuple(sorted(s.items())) for s in ask(url, "series", params)["data"]) for url in (ours, theirs)]
    assert both[0] == both[1] and both[0]


def test_metadata_agrees(pair):
    _, ours, theirs, _, _ = pair
    mine, other = ask(ours, "metadata", {})["data"], ask(theirs, "metadata", {})["data"]
    for family, entries in other.items():
        assert mine[family][0]["type"] == entries[0]["type"], family


def test_prometheus_dropped_nothing(pair):
    _, _, theirs, _, _ = pair
    for metric in ("prometheus_remote_storage_samples_failed_total", "prometheus_remote_storage_samples_dropped_total"):
        for series in ask(theirs, "query", {"query": metric})["data"]["result"]:
            assert series["value"][1] == "0", series
    sent = ask(theirs, "query", {"query": "prometheus_remote_storage_samples_total"})["data"]["result"]
    assert float(sent[0]["value"][1]) > 1000
