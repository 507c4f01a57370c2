"""Days of data of which every sample is known, and processes that cut, ship, merge and expire it within seconds.

A series has floats or native histograms. Some samples come late, within the tenant's window. All of it is pushed in the order of arrival, so that any two
servers have the same chances; what must come back is in the History.
"""

import glob
import gzip
import json
import os
import random
import time

import remote_write as rw
from process import wait_until

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
LATE_WINDOW_S = 3600
SLICE_MS = 10 * MINUTE_MS  # of one push


class History:
    """samples: {labels as a sorted tuple: {t_ms: float, or (count, sum) of a histogram}}"""

    def __init__(self, end_ms, hours=72, floats=24, histograms=4, every_ms=MINUTE_MS, late=0.02, seed=1):
        self.random = random.Random(f"history {seed}")
        self.end_ms = end_ms // every_ms * every_ms
        self.begin_ms = self.end_ms - hours * HOUR_MS
        self.late, self.every_ms = late, every_ms
        self.samples, self.arrivals = {}, []  # (arrival, t, labels, float or bytes)
        self.arrived_until = None, None
        for i in range(floats):
            self.counter(dict(__name__="requests_total", job=f"job-{i % 4}", instance=str(i)))
            if i % 3 == 0:
                self.gauge(dict(__name__="temperature", room=str(i), zone="größe"))
        for i in range(histograms):
            self.histogram(dict(__name__="latency", job=f"job-{i % 2}", instance=str(i)))
        self.short_lived(hours)
        self.arrivals.sort(key=lambda a: a[:2])

    def add(self, labels, t, value, encoded=None):
        key = tuple(sorted(labels.items()))
        self.samples.setdefault(key, {})[t] = value
        is_late = self.random.random() < self.late and t > self.begin_ms + HOUR_MS
        arrival = t + self.random.randrange(2, LATE_WINDOW_S // 60 - 5) * MINUTE_MS if is_late else t
        self.arrivals.append((min(arrival, self.end_ms + MINUTE_MS), t, key, value if encoded is None else encoded))

    def times(self, begin, end, every):
        return range(begin, end, every)

    def counter(self, labels):
        v = 0.0
        for t in self.times(self.begin_ms, self.end_ms, self.every_ms):
            v = 0.0 if self.random.random() < 0.002 else v + self.random.randrange(40) / 8
            self.add(labels, t, v)

    def gauge(self, labels):
        for t in self.times(self.begin_ms + 30_000, self.end_ms, self.every_ms):
            if self.random.random() < 0.98:
                self.add(labels, t, self.random.randrange(-800, 800) / 8)

    def histogram(self, labels):
        positive, zero, total = {i: 1 for i in range(-2, 3)}, 0, 0.0
        for t in self.times(self.begin_ms, self.end_ms, 2 * self.every_ms):
            if self.random.random() < 0.005:
                positive, zero, total = {i: 1 for i in self.random.sample(range(-4, 8), 4)}, 0, 0.0
            positive[self.random.choice(list(positive))] += self.random.randrange(4)
            zero += self.random.randrange(2)
            total += self.random.randrange(32) / 8
            self.add(labels, t, (float(sum(positive.values()) + zero), total), rw.histogram(t, total, 1, positive, {}, zero, 0.001))

    def short_lived(self, hours):
        """Series that come and go, as pods do: blocks differ in their series."""
        for hour in range(0, hours, 3):
            begin = self.begin_ms + hour * HOUR_MS + self.random.randrange(60) * MINUTE_MS
            for t in self.times(begin, min(begin + self.random.randrange(5, 240) * MINUTE_MS, self.end_ms), self.every_ms):
                self.add(dict(__name__="up", pod=f"pod-{hour}"), t, 1.0)

    def n_samples(self):
        return sum(len(s) for s in self.samples.values())

    def bodies(self, begin_ms=0, end_ms=1 << 62):
        """What arrives in [begin_ms, end_ms), as bodies of pushes in that order."""
        batch, batch_end = {}, None
        for arrival, t, key, value in self.arrivals:
            if not begin_ms <= arrival < end_ms:
                continue
            if batch_end is not None and arrival >= batch_end:
                yield self.body(batch)
                batch, batch_end = {}, None
            batch_end = batch_end or (arrival // SLICE_MS + 1) * SLICE_MS
            batch.setdefault(key, []).append((t, value))
        if batch:
            yield self.body(batch)

    @staticmethod
    def body(batch):
        messages = []
        for key, points in batch.items():
            floats = [(t, v) for t, v in points if isinstance(v, float)]
            messages.append(rw.series(dict(key), floats, b"".join(v for _, v in points if isinstance(v, bytes))))
        return rw.body(*messages)

    # --- what comes back ---

    def check(self, ask, window_ms=6 * HOUR_MS, until_ms=1 << 62):
        """Every sample whose arrival is below until_ms, asked for in windows; ask(expr, t_s) gives the result of an instant query."""
        for name, end in self.windows(window_ms):
            want, got = self.want(name, end, window_ms, until_ms), self.got(ask, name, end, window_ms)
            assert got == want, f"{name} up to {end}: {first_difference(want, got)}"

    def windows(self, window_ms):
        """[(metric name, end)] that have all samples."""
        names = sorted({dict(key)["__name__"] for key in self.samples})
        return [(name, end) for end in range(self.begin_ms + window_ms, self.end_ms + window_ms, window_ms) for name in names]

    def want(self, name, end, window_ms, until_ms=1 << 62):
        """{series: {t: value}} of the window that ends there, of what arrives before until_ms."""
        arrived = self.arrived(until_ms)
        want = {}
        for key, samples in self.samples.items():
            if dict(key)["__name__"] == name:
                points = {t: v for t, v in samples.items() if end - window_ms < t <= end and (arrived is None or (key, t) in arrived)}
                if points:
                    want[key] = points
        return want

    def arrived(self, until_ms):
        """{(series, t)}; None: everything has."""
        if until_ms > self.end_ms + MINUTE_MS:
            return None
        if self.arrived_until[0] != until_ms:
            self.arrived_until = until_ms, {(key, t) for arrival, t, key, _ in self.arrivals if arrival < until_ms}
        return self.arrived_until[1]

    @staticmethod
    def got(ask, name, end, window_ms):
        return {tuple(sorted(s["metric"].items())): points_of(s) for s in ask(f"{name}[{window_ms - 1}ms]", end / 1000)}


def points_of(series):
    out = {round(float(t) * 1000): float(v) for t, v in series.get("values", [])}
    for t, h in series.get("histograms", []):
        out[round(float(t) * 1000)] = (float(h["count"]), float(h["sum"]))
    return out


def first_difference(want, got):
    for key in sorted(want.keys() | got.keys()):
        a, b = want.get(key, {}), got.get(key, {})
        lost, extra = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
        other = [t for t in a.keys() & b.keys() if a[t] != b[t]]
        if lost or extra or other:
            return f"{dict(key)}: {len(lost)} lost {lost[:3]}, {len(extra)} too many {extra[:3]}, {len(other)} others {[(t, a[t], b[t]) for t in other[:2]]}"
    return "none"


# All that takes minutes and hours in production takes seconds.
INGESTER = ["-blocks-storage.tsdb.head-compaction-interval=1s", "-blocks-storage.tsdb.ship-interval=1s", "-ingester.checkpoint-interval=2s",
            f"-ingester.out-of-order-time-window={LATE_WINDOW_S}s"]
COMPACTOR = ["-compactor.compaction-interval=2s", "-compactor.cleanup-interval=1s", "-compactor.first-level-compaction-wait-period=0s",
             "-compactor.first-level-compaction-ooo-wait-period=0s", "-compactor.deletion-delay=15s", "-compactor.ring.wait-stability-min-duration=0s"]
READERS = ["-blocks-storage.bucket-store.sync-interval=1s", "-blocks-storage.bucket-store.ignore-blocks-within=0s",
           "-blocks-storage.bucket-store.ignore-deletion-marks-delay=10s",
           "-blocks-storage.bucket-store.ignore-deletion-marks-while-querying-delay=5s", "-blocks-storage.bucket-store.bucket-index.max-stale-period=30s",
           "-blocks-storage.bucket-store.bucket-index.update-on-error-interval=1s"]
QUICK = [*INGESTER, *COMPACTOR, *READERS]


class Bucket:
    """A tenant's part of a filesystem bucket, as it lies there."""

    def __init__(self, folder, tenant="anonymous"):
        self.folder = os.path.join(str(folder), tenant)

    def metas(self, marked=False):
        """{ULID: meta.json} of the blocks that are there; without those marked for deletion unless asked for."""
        out = {}
        for path in glob.glob(os.path.join(self.folder, "*", "meta.json")):
            block = os.path.dirname(path)
            if not marked and os.path.exists(os.path.join(block, "deletion-mark.json")):
                continue
            try:
                with open(path) as f:
                    out[os.path.basename(block)] = json.load(f)
            except FileNotFoundError:
                continue  # removed in between
        return out

    def index_is_new(self):
        """Whether the bucket index tells what the bucket has, as queriers will see it."""
        try:
            with gzip.open(os.path.join(self.folder, "bucket-index.json.gz")) as f:
                index = json.load(f)
        except (FileNotFoundError, EOFError):
            return False
        marked = {m["block_id"] for m in index["block_deletion_marks"]}
        return {b["block_id"] for b in index["blocks"]} - marked == set(self.metas())

    def n_samples(self, before_ms=1 << 62):
        """Of the blocks that end by then."""
        return sum(m["stats"].get("numSamples", 0) for m in self.metas().values() if m["maxTime"] <= before_ms)

    def ranges(self):
        """[(hours, level, source)] of the blocks."""
        return sorted(((m["maxTime"] - m["minTime"]) / HOUR_MS, m["compaction"]["level"], m["thanos"].get("source", "")) for m in self.metas().values())


def settled(bucket, samples, timeout=120, before_ms=1 << 62):
    """Until the bucket has so many samples (in blocks that end by then), nothing more happens to its blocks, and the index knows them."""
    state = {"last": None, "since": time.monotonic()}

    def quiet():
        now = sorted(bucket.metas())
        if now != state["last"]:
            state.update(last=now, since=time.monotonic())
        return bucket.n_samples(before_ms) == samples and time.monotonic() - state["since"] > 6 and bucket.index_is_new()
    try:
        wait_until("the bucket to settle", timeout, quiet)
    except AssertionError as e:
        raise AssertionError(f"{e}: {bucket.n_samples(before_ms)} of {samples} samples, {bucket.ranges()}") from None


def push_all(server, bodies):
    for body in bodies:
        status, text = server.push(body)[:2]
        assert status == 200, (status, text)
