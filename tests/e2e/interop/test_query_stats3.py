"""stats=all of a query, beside a current Prometheus 3 that holds the same data: the samples are counted as it counts them, in all and of each step."""

import os
import sys
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "differential"))

from data import SPAN_MS, Data  # noqa: E402
from sides import Pair  # noqa: E402

QUERIES = [
    "1", "time()", "temperature", "sum(temperature)", "temperature offset 7m", "flap", "latency_bucket", "nothing_of_that_name",
    "rate(requests_total[5m])", "sum by (job) (rate(requests_total[1m]))", "max_over_time(temperature[90s])", "quantile_over_time(0.5, temperature[3m] offset 2m)",
    "count_over_time(flap[5m])", "predict_linear(steady[10m], 60)", "absent_over_time(temperature[1m])", "absent(nothing_of_that_name)", "last_over_time(slow_total[4m])",
    # What does not depend on the step counts at each of them.
    "temperature @ {mid}", "sum(temperature @ {mid}) + temperature", "rate(requests_total[5m] @ {mid})", "temperature + scalar(limit{{zone='a'}} @ {mid})",
    "predict_linear(steady[10m] @ {mid}, 60)", "timestamp(temperature)", "timestamp(temperature @ {mid})", "vector(scalar(limit{{zone='a'}}))",
    # Subqueries: the points that the function above looks at.
    "max_over_time(temperature[10m:1m])", "max_over_time(rate(requests_total[5m])[10m:30s])", "avg_over_time(sum(temperature)[5m:1m] offset 3m)",
    "max_over_time(max_over_time(temperature[5m:1m])[10m:2m])", "sum_over_time(temperature[10m:1m] @ {mid})", "max_over_time((temperature @ {mid})[5m:1m])",
    "max_over_time(temperature[1m:10s])",
    # What comes twice is counted twice.
    "temperature / temperature", "sum(rate(requests_total[5m])) / sum(rate(requests_total[5m]))", "sum(temperature) + sum(temperature) + max(temperature)",
    "max_over_time(sum(temperature)[5m:1m]) + max_over_time(sum(temperature)[5m:1m])", "(temperature @ {mid}) - (temperature @ {mid})",
    "sum(rate(requests_total[5m]) / rate(requests_total[5m])) / sum(rate(requests_total[5m]) / rate(requests_total[5m]))",
    "topk(2, temperature)", "temperature > 20 and on (zone) limit", "temperature unless limit", "steady or ties", "label_replace(ties, 'a', '$1', 'job', '(.*)')",
    "rate(requests_total[5m] anchored)", "rate(requests_total[5m] smoothed)", "temperature smoothed",
    # Histograms count by their size.
    "{{__name__=~'.+'}}", "count({{__name__=~'.+'}})", "last_over_time({{__name__=~'.+'}}[5m])", "histogram_count({hist})", "histogram_quantile(0.9, rate({hist}[5m]))",
    "histogram_sum(rate({hist}[5m]))", "sum({hist})", "last_over_time({hist}[10m:1m])", "count_over_time(rate({hist}[5m])[10m:2m])",
]
INSTANT = ["temperature[5m]", "{{__name__=~'.+'}}[3m]", "temperature[10m:1m]", "rate(requests_total[5m])[10m:1m]", "(temperature @ {mid})[5m:1m]", "temperature[5m] @ {mid}", "'text'"]


@pytest.fixture(scope="module")
def base_ms():
    return (int(time.time()) - SPAN_MS // 1000 - 900) // 60 * 60_000


@pytest.fixture(scope="module")
def asked(tmp_path_factory, base_ms):
    pair = Pair(tmp_path_factory.mktemp("stats"), features=",promql-per-step-stats")
    try:
        data = Data(5, base_ms)
        pair.push(data.pushes())
        yield pair
    finally:
        pair.stop()


def samples(answer):
    assert answer["status"] == "success", answer
    found = answer["data"]["stats"]["samples"]
    del found["peakSamples"]
    return found


def compare(pair, base_ms, is_range, text, params):
    expr = text.format(mid=(base_ms + SPAN_MS // 2) // 1000, hist="native_changing")
    ours, theirs = pair.ask(is_range, {**params, "query": expr, "stats": "all"})
    a, b = samples(ours), samples(theirs)
    differing = [key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]
    return [(expr, key, str(a.get(key))[:300], str(b.get(key))[:300]) for key in differing]


def test_samples_are_counted_as_prometheus_counts_them(asked, base_ms):
    end = (base_ms + SPAN_MS) / 1000
    found = []
    for text in QUERIES:
        for step in (15, 60, 400):
            found += compare(asked, base_ms, True, text, {"start": end - 2400, "end": end - 17, "step": step})
    for text in QUERIES + INSTANT:
        found += compare(asked, base_ms, False, text, {"time": end - 600})
    for line in found:
        print(line)
    assert not found


def test_without_all_steps_are_left_out(asked, base_ms):
    ours, _ = asked.ask(True, {"query": "temperature", "start": base_ms / 1000, "end": base_ms / 1000 + 600, "step": 60, "stats": "true"})
    assert samples(ours).keys() == {"totalQueryableSamples", "samplesRead"}
