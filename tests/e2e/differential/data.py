"""The data that both sides are asked about: an hour of it, made from a seed, pushed to both as the same bytes.

Values are mostly multiples of 1/8, so that sums do not depend on the order of their terms. Times are mostly round, so that samples lie
exactly on the edges of windows.
"""

import math
import random
import struct

import remote_write as rw

SPAN_MS = 3_600_000
SLICE_MS = 300_000  # of one push; a series has floats or histograms in a slice, never both: a receiver appends floats first
STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
NAN = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000001))[0]

ZONES = ("a", "b", "größe", "日本")
CLASSIC_BOUNDS = ("0.1", "0.5", "1", "2.5", "+Inf")


class Data:
    """series: {labels as a sorted tuple: [(t_ms, float or histogram bytes)]}"""

    def __init__(self, seed, base_ms):
        self.random = random.Random(f"data {seed}")
        self.base_ms = base_ms
        self.series = {}
        self.counters()
        self.gauges()
        self.flapping()
        self.classic_histograms()
        self.native_histograms()
        self.custom_histograms()
        self.mixed()
        self.odd()

    def add(self, name, samples, **labels):
        labels["__name__"] = name
        self.series[tuple(sorted(labels.items()))] = [(self.base_ms + t, v) for t, v in samples]

    def times(self, every_ms, jitter_ms=0, start=0, end=SPAN_MS, lost=0.0):
        t = start
        while t <= end:
            if self.random.random() >= lost:
                yield max(t + self.random.randint(-jitter_ms, jitter_ms), 0)
            t += every_ms

    # --- floats ---

    def counter(self, times, reset=0.02, top=40):
        v = self.random.randrange(1000) / 8
        for t in times:
            v = 0.0 if self.random.random() < reset else v + self.random.randrange(top) / 8
            yield t, v

    def counters(self):
        for job in ("api", "db"):
            for instance in ("1", "2"):
                for code in ("200", "500"):
                    self.add("requests_total", self.counter(self.times(15_000)), job=job, instance=instance, code=code)
            self.add("slow_total", self.counter(self.times(60_000, jitter_ms=7_321, lost=0.1), reset=0.1), job=job)
            self.add("starts_total", self.counter(self.times(30_000, start=600_000 + 1)), job=job, instance="1")

    def gauge_value(self):
        r = self.random.random()
        special = ((0.02, NAN), (0.03, math.inf), (0.04, -math.inf), (0.06, -0.0), (0.08, 0.0), (0.1, STALE))
        return next((v for limit, v in special if r < limit), self.random.randrange(-800, 800) / 8)

    def gauges(self):
        for zone in ZONES:
            for room in ("x", "y"):
                self.add("temperature", ((t, self.gauge_value()) for t in self.times(30_000, lost=0.1)), zone=zone, room=room)
            self.add("limit", ((t, self.random.randrange(100) / 4) for t in self.times(60_000)), zone=zone)
        for instance in ("1", "2"):
            self.add("steady", ((t, t / 60_000) for t in self.times(60_000)), instance=instance)
            self.add("ties", ((t, float(self.random.randrange(3))) for t in self.times(60_000)), instance=instance, job="api")

    def flapping(self):
        for i in range(8):
            t, samples = self.random.randrange(0, 600) * 1000, []
            while t < SPAN_MS:
                end = t + self.random.randrange(60, 900) * 1000
                samples += [(u, self.random.randrange(-40, 40) / 4) for u in self.times(20_000, start=t, end=min(end, SPAN_MS))]
                t = samples[-1][0] + 20_000
                if self.random.random() < 0.6 and t < SPAN_MS:
                    samples.append((t, STALE))
                t = end + self.random.randrange(60, 900) * 1000
            self.add("flap", samples, i=str(i), kind="odd" if i % 2 else "even")

    def classic_histograms(self):
        for job in ("api", "db"):
            total, counts = 0.0, [0] * len(CLASSIC_BOUNDS)
            columns = [[] for _ in CLASSIC_BOUNDS]
            sums = []
            for t in self.times(30_000, lost=0.02):
                if self.random.random() < 0.02:
                    total, counts = 0.0, [0] * len(CLASSIC_BOUNDS)
                for _ in range(self.random.randrange(6)):
                    first = self.random.randrange(len(CLASSIC_BOUNDS))
                    total += first / 2
                    for b in range(first, len(counts)):
                        counts[b] += 1
                for b, column in enumerate(columns):
                    column.append((t, float(counts[b])))
                sums.append((t, total))
            for bound, column in zip(CLASSIC_BOUNDS, columns):
                self.add("latency_bucket", column, job=job, le=bound)
            self.add("latency_sum", sums, job=job)
            self.add("latency_count", columns[-1], job=job)

    # --- histograms ---

    def exponential(self, times, schema, gauge=False, floats=False, negative=True, reset=0.03, rescale=0.0):
        """Buckets around 1, chosen anew at a reset and at a change of the schema, all of them populated.

        They stay populated until then: Prometheus gives older samples of a chunk the buckets that newer ones filled, empty, and their being there
        is seen in places (equality, NaN times a histogram, the zero bucket's bounds), so that answers would depend on where its chunks end.
        """
        sides = (1, -1) if negative else (1,)
        keys, buckets, zero, total = [], {}, 0, 0.0
        for t in times:
            rescaled = self.random.random() < rescale
            if rescaled:
                schema = self.random.randrange(-1, 4)
            if not keys or rescaled or not gauge and self.random.random() < reset:
                keys = [(s, i) for s in sides for i in sorted(self.random.sample(range(-4, 8), self.random.randrange(1, 7)))]
                buckets, zero, total = {k: self.random.randrange(1, 3) for k in keys}, self.random.randrange(3), 0.0
            if gauge:
                buckets, total = {k: self.random.randrange(1, 9) for k in keys}, 0.0
            for _ in range(self.random.randrange(1, 6)):
                side, i = self.random.choice(keys)
                buckets[side, i] += self.random.randrange(1, 4)
                total += side * self.random.randrange(1, 32) / 8
            zero += self.random.randrange(2)
            scale = 0.5 if floats else 1
            positive, negatives = ({i: n * scale for (s, i), n in sorted(buckets.items()) if s == side} for side in (1, -1))
            yield t, rw.histogram(self.base_ms + t, total, schema, positive, negatives, zero * scale, 0.001, floats=floats, hint=3 if gauge else 0)
            if self.random.random() < 0.02:
                yield t + 5_000, rw.histogram(self.base_ms + t + 5_000, STALE, 0, {}, {}, 0, 0.0)

    def native_histograms(self):
        for job in ("api", "db"):
            for instance, schema in (("1", 0), ("2", 3)):
                self.add("native", self.exponential(self.times(30_000, lost=0.03), schema), job=job, instance=instance)
            self.add("native_changing", self.exponential(self.times(30_000), 1, negative=False, rescale=0.1), job=job)
            self.add("native_floats", self.exponential(self.times(30_000), 2, floats=True), job=job)
            self.add("native_gauge", self.exponential(self.times(30_000), 1, gauge=True), job=job)

    def custom(self, times, layouts):
        bounds, counts, total = (), [], 0.0
        for t in times:
            if not bounds or self.random.random() < 0.05:
                bounds = self.random.choice(layouts) if bounds else layouts[0]
                counts, total = [self.random.randrange(1, 3) for _ in range(len(bounds) + 1)], 0.0
            for _ in range(self.random.randrange(1, 6)):
                counts[self.random.randrange(len(counts))] += 1
                total += self.random.randrange(1, 80) / 8
            yield t, rw.histogram(self.base_ms + t, total, -53, dict(enumerate(counts)), {}, 0, 0.0, custom=bounds)

    def custom_histograms(self):
        self.add("custom", self.custom(self.times(30_000), [(1.0, 2.5, 5.0)]), job="api")
        self.add("custom", self.custom(self.times(30_000), [(1.0, 2.5, 5.0), (1.0, 5.0), (0.5, 2.5)]), job="db")

    def mixed(self):
        """Series that are floats in some slices and histograms in others."""
        for job in ("api", "db"):
            samples = []
            for start in range(0, SPAN_MS, SLICE_MS):
                times = list(self.times(30_000, start=start, end=start + SLICE_MS - 1))
                samples += self.exponential(times, 1) if self.random.random() < 0.5 else self.counter(times)
            self.add("mixed", samples, job=job)

    # --- the rest ---

    def odd(self):
        for job in ("api", "db"):
            for instance in ("1", "2"):
                version = self.random.choice(("1.0", "1.1"))
                half = SPAN_MS // 2
                self.add("target_info", ((t, 1.0) for t in self.times(60_000, end=half)), job=job, instance=instance, version=version, env="test")
                self.add("target_info", ((t, 1.0) for t in self.times(60_000, start=half + 60_000)), job=job, instance=instance, version="2.0", env="test")
                self.add("build_info", ((t, 1.0) for t in self.times(60_000)), job=job, instance=instance, revision=f"r{instance}", le="é")
        self.add("grö.ße", self.counter(self.times(60_000)), **{"läbel": "ü\n\"x\"", "job": "api"})
        self.add("single", [(1_800_000, 42.0)], job="api")
        self.add("huge", ((t, self.random.choice((1e300, -1e300, 1e-300, 5e-324, 1.7e308))) for t in self.times(60_000)), job="api")

    def pushes(self):
        """The bodies in the order of their times: a receiver may refuse what is older than an hour."""
        for start in range(0, SPAN_MS + SLICE_MS, SLICE_MS):
            lo = self.base_ms + start
            messages = []
            for labels, samples in self.series.items():
                part = [(t, v) for t, v in samples if lo <= t < lo + SLICE_MS]
                floats = [(t, v) for t, v in part if isinstance(v, float)]
                histograms = b"".join(v for _, v in part if isinstance(v, bytes))
                if part:
                    messages.append(rw.series(dict(labels), floats, histograms))
            if messages:
                yield rw.body(*messages)
