"""What the rooms of downsampled blocks should have: reckoned from a History, sample by sample."""

import os

from history import HOUR_MS, MINUTE_MS, Bucket

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
