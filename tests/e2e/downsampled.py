"""What the rooms of downsampled blocks should have, reckoned from a History, sample by sample; and queries that may read them, compared with those that do not."""

import math
import os

from history import HOUR_MS, MINUTE_MS, Bucket
from process import wait_until

DAY_MS = 24 * HOUR_MS
RESOLUTIONS = {"5m": 5 * MINUTE_MS, "1h": HOUR_MS}
AGGREGATES = ["count", "sum", "min", "max", "counter"]
# Days are downsampled as soon as they are over.
AT_ONCE = ["-compactor.downsample-enabled", "-compactor.downsample-5m-after=0s", "-compactor.downsample-1h-after=0s"]


def room(root, resolution, aggregate, tenant="anonymous"):
    return Bucket(os.path.join(str(root), tenant, "downsampled"), f"{resolution}-{aggregate}")


def windows(history, resolution_ms, end_ms):
    """How many windows of how many series have a float, of days that end by end_ms: those of each day's block apart."""
    n = 0
    for samples in history.samples.values():
        n += len({(t // DAY_MS, -(-t // resolution_ms)) for t, v in samples.items() if isinstance(v, float) and (t // DAY_MS + 1) * DAY_MS <= end_ms})
    return n


def lacks(root, history, end_ms):
    """{} when every room has all that it should and nothing else."""
    out = {}
    for name, resolution_ms in RESOLUTIONS.items():
        want = windows(history, resolution_ms, end_ms)
        for aggregate in AGGREGATES[:-1]:
            got = room(root, name, aggregate).n_samples()
            if got != want:
                out[f"{name}-{aggregate}"] = (got, want)
    return out


# Over a range d of a metric m.
EXACT = [f"{f}(m[d])" for f in ("count_over_time", "present_over_time", "absent_over_time", "min_over_time", "max_over_time", "sum_over_time", "avg_over_time",
                                "rate", "increase", "delta", "resets", "first_over_time", "last_over_time")]


class Compared:
    """Asks each query twice, with downsampled blocks and without."""

    def __init__(self, server, headers=None):
        self.server, self.headers = server, headers

    def read(self):
        return {r: self.server.metric("brunn_querier_downsampled_blocks_total", resolution=r) for r in RESOLUTIONS}

    def refused(self):
        return self.server.metric("brunn_query_downsampled_refused_total")

    def ask(self, path, params):
        answer = self.server.api(path, params, self.headers)
        assert answer["status"] == "success", (params, answer)
        return {tuple(sorted(s["metric"].items())): dict(s["values"] if "values" in s else [s["value"]]) if "histograms" not in s and "histogram" not in s else s
                for s in answer["data"]["result"]}

    def compare(self, path, params, resolutions, **more):
        """resolutions: those of which one must have been read, and no other; empty: none; None: any or none."""
        before = self.read()
        got = self.ask(path, {**params, **more})
        seen = {r for r, n in self.read().items() if n > before[r]}
        want = self.ask(path, {**params, "max_source_resolution": "0s"})
        assert got.keys() == want.keys(), (params, sorted(got.keys() ^ want.keys())[:3])
        for key, values in want.items():
            assert same(values, got[key]), (params, key, [(t, v, got[key].get(t)) for t, v in values.items() if v != got[key].get(t)][:3])
        assert resolutions is None or (seen and seen <= resolutions) or not (seen or resolutions), (params, seen, resolutions)
        return seen

    def range(self, expr, begin_ms, end_ms, step_ms, resolutions, **more):
        params = {"query": expr, "start": begin_ms / 1000, "end": end_ms / 1000, "step": step_ms / 1000}
        return self.compare("query_range", params, resolutions, **more)

    def instant(self, expr, t_ms, resolutions, **more):
        return self.compare("query", {"query": expr, "time": t_ms / 1000}, resolutions, **more)

    def wait_until_read(self, begin_ms, end_ms):
        """Until indexes and store-gateways know the rooms, and their blocks are older than the time in which a gateway may not know them."""
        wait_until("queries to read the rooms", 60, lambda: "1h" in self.range("sum_over_time(up[1h])", begin_ms, end_ms, HOUR_MS, None))


def same(want, got):
    if "histograms" in want or "histogram" in want:
        return want == got
    return want.keys() == got.keys() and all(math.isclose(float(v), float(got[t]), rel_tol=1e-9, abs_tol=1e-9) or v == got[t] for t, v in want.items())
