"""Downsampled blocks are made of days that are over, beside the others, which nobody sees the worse for."""

import os
import subprocess
import time

from downsampled import AGGREGATES, AT_ONCE, DAY_MS, RESOLUTIONS, lacks, room
from history import QUICK, Bucket, History, push_all, settled
from process import BRUNN, Brunn, wait_until


def test_days_that_are_over_are_downsampled_and_queries_stay_exact(tmp_path):
    now = int(time.time() * 1000)
    history, root = History(now), tmp_path / "data" / "blocks"
    brunn = Brunn(tmp_path, *QUICK, *AT_ONCE)
    try:
        push_all(brunn, history.bodies())
        assert brunn.request("POST", "/ingester/flush")[0] == 204
        settled(Bucket(root), history.n_samples())
        over = now // DAY_MS * DAY_MS
        wait_until("the rooms to be full", 120, lambda: not lacks(root, history, over))
        history.check(brunn.query)
        raw = {id for id, meta in Bucket(root).metas().items() if meta["maxTime"] <= over}
        for name, resolution_ms in RESOLUTIONS.items():
            for aggregate in AGGREGATES:
                metas = room(root, name, aggregate).metas()
                assert set(metas) == raw
                for meta in metas.values():
                    assert meta["thanos"]["downsample"]["resolution"] == resolution_ms
                    assert meta["thanos"]["labels"]["__downsample__"] == aggregate
                    assert meta["compaction"]["hints"] == ["histograms-left-out"]
    finally:
        brunn.stop()
    tool = subprocess.run([BRUNN, "tool", "bucket", "verify", "-deep", f"-blocks-storage.filesystem.dir={root}", "-blocks-storage.backend=filesystem"],
                          capture_output=True, text=True, timeout=120)
    assert tool.returncode == 0 and " 0 faults" in tool.stdout, tool.stdout + tool.stderr
    blocks = [os.path.join(room(root, name, aggregate).folder, id) for name in RESOLUTIONS for aggregate in AGGREGATES
              for id in room(root, name, aggregate).metas()]
    tool = subprocess.run([BRUNN, "tool", "block", "verify", *blocks], capture_output=True, text=True, timeout=120)
    assert tool.returncode == 0, tool.stdout + tool.stderr


def test_nothing_is_downsampled_unless_it_is_asked_for(tmp_path):
    history, root = History(int(time.time() * 1000), hours=48, floats=2, histograms=0), tmp_path / "data" / "blocks"
    brunn = Brunn(tmp_path, *QUICK)
    try:
        push_all(brunn, history.bodies())
        assert brunn.request("POST", "/ingester/flush")[0] == 204
        settled(Bucket(root), history.n_samples())
        assert not os.path.exists(root / "anonymous" / "downsampled")
    finally:
        brunn.stop()
