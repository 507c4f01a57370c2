"""Downsampled blocks are made of days that are over, beside the others, which nobody sees the worse for; queries that are answered the same from them read them."""

import os
import subprocess
import time

from downsampled import AGGREGATES, AT_ONCE, DAY_MS, EXACT, RESOLUTIONS, Compared, lacks, room
from history import HOUR_MS, MINUTE_MS, QUICK, Bucket, History, push_all, settled
from process import BRUNN, Brunn, wait_until

QUERY_INGESTERS_WITHIN_MS = 13 * HOUR_MS


def downsampled(tmp_path, **size):
    """A process whose days that are over have their rooms, the history, and when they end."""
    now = int(time.time() * 1000)
    history, root = History(now, **size), tmp_path / "data" / "blocks"
    brunn = Brunn(tmp_path, *QUICK, *AT_ONCE)
    try:
        push_all(brunn, history.bodies())
        assert brunn.request("POST", "/ingester/flush")[0] == 204
        settled(Bucket(root), history.n_samples())
        over = now // DAY_MS * DAY_MS
        wait_until("the rooms to be full", 120, lambda: not lacks(root, history, over))
    except BaseException:
        brunn.kill()
        raise
    return brunn, history, root, over


def test_days_that_are_over_are_downsampled_and_queries_stay_exact(tmp_path):
    brunn, history, root, over = downsampled(tmp_path)
    try:
        history.check(brunn.query)
        raw = {id for id, meta in Bucket(root).metas().items() if meta["maxTime"] <= over}
        for name, resolution_ms in RESOLUTIONS.items():
            for aggregate in AGGREGATES:
                metas = room(root, name, aggregate).metas()
                assert set(metas) == raw
                for meta in metas.values():
                    assert meta["thanos"]["downsample"]["resolution"] == resolution_ms
                    assert meta["thanos"]["labels"]["__downsample__"] == aggregate
                    assert meta["thanos"]["labels"]["__downsample_histograms__"] == ",latency,"
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


def test_queries_read_downsampled_blocks_where_the_answer_is_the_same(tmp_path):
    brunn, history, root, _ = downsampled(tmp_path)
    over = (history.end_ms - QUERY_INGESTERS_WITHIN_MS) // DAY_MS * DAY_MS  # what ingesters are asked for as well comes as samples
    try:
        begin, end = history.begin_ms // HOUR_MS * HOUR_MS, history.end_ms // HOUR_MS * HOUR_MS + HOUR_MS
        compared = Compared(brunn)
        compared.wait_until_read(begin, end)
        # From the first day to the head, over the seam between what is downsampled and what is not.
        for name in ("requests_total", "temperature", "up"):
            for function in EXACT:
                for step, window in ((HOUR_MS, HOUR_MS), (2 * HOUR_MS, 6 * HOUR_MS), (30 * MINUTE_MS, 10 * MINUTE_MS)):
                    expr = function.replace("m[", f"{name}[").replace("d]", f"{window // MINUTE_MS}m]")
                    compared.range(expr, begin, end, step, {"1h", "5m"} if step % HOUR_MS == 0 else {"5m"})
        # Temperatures are no counters: of those these were asked of samples in the end.
        assert compared.refused() == 3 * len(("rate", "increase", "delta", "resets", "first_over_time", "last_over_time"))
        few, many = (brunn.api("query", {"query": f"sum(rate(requests_total[{(over - history.begin_ms) // HOUR_MS}h]))", "time": over / 1000, "stats": "1", **more})["data"]["stats"]["samples"]
                     ["peakSamples"] for more in ({}, {"max_source_resolution": "0s"}))
        assert few * 2 < many, (few, many)
        compared.range("sum by (job) (rate(requests_total[1h] offset 2h))", begin, end, HOUR_MS, {"1h", "5m"})
        compared.range(f"max_over_time(temperature[6h] @ {over // 1000})", begin, end, 7 * MINUTE_MS, {"1h", "5m"})
        compared.range("max_over_time(sum_over_time(up[1h])[1d:1h])", begin, end, HOUR_MS, {"1h", "5m"})
        compared.instant("count_over_time(requests_total[2d])", over, {"1h", "5m"})
        # Windows that are not made up of whole ones, and answers that aggregates do not have.
        for expr, step in (("sum_over_time(temperature[61m])", HOUR_MS), ("rate(requests_total[7m])", HOUR_MS), ("temperature", 6 * HOUR_MS),
                           ("sum_over_time(temperature[1h] offset 1m)", HOUR_MS), ("sum_over_time(temperature[1h])", 61 * MINUTE_MS),
                           ("irate(requests_total[1h])", HOUR_MS), ("quantile_over_time(0.5, temperature[1h])", HOUR_MS),
                           ("stddev_over_time(temperature[1h])", HOUR_MS), ("deriv(temperature[1h])", HOUR_MS)):
            compared.range(expr, begin, end, step, set())
        compared.range("sum_over_time(temperature[1h])", begin + 1000, end, HOUR_MS, set())
        # Histograms are in raw blocks alone: they are there, and so is everything that a selector may find which does not say its metric's name.
        compared.range("increase(latency[1h])", begin, end, HOUR_MS, set())
        compared.range("count_over_time(latency[1h])", begin, end, HOUR_MS, set())
        compared.range('last_over_time({job="job-1"}[1h])', begin, end, HOUR_MS, set())
        # What the request allows.
        compared.range("sum_over_time(temperature[1h])", begin, end, HOUR_MS, {"5m"}, max_source_resolution="5m")
        compared.range("sum_over_time(temperature[1h])", begin, end, HOUR_MS, set(), max_source_resolution="4m")
        compared.range("sum_over_time(temperature[1h])", begin, end, HOUR_MS, {"1h", "5m"}, max_source_resolution="auto")
        for bad in ("-1s", "coarse"):
            answer = brunn.api("query", {"query": "up", "max_source_resolution": bad})
            assert answer["http_status"] == 400 and 'invalid parameter "max_source_resolution"' in answer["error"], answer
        history.check(brunn.query)
    finally:
        brunn.stop()


def test_without_a_rooms_block_or_the_option_samples_answer(tmp_path):
    brunn, history, root, over = downsampled(tmp_path, floats=4, histograms=0)
    expr, step = "sum_over_time(temperature[1h])", HOUR_MS
    begin, end = history.begin_ms // HOUR_MS * HOUR_MS, history.end_ms // HOUR_MS * HOUR_MS
    try:
        compared = Compared(brunn)
        compared.wait_until_read(begin, end)
        compared.range(expr, begin, end, step, {"1h", "5m"})
        # A block whose bytes are gone while indexes have it: the store-gateway cannot read it, and samples answer.
        first = min(room(root, "1h", "sum").metas())
        for folder in (room(root, "1h", "sum").folder, room(root, "5m", "sum").folder):
            os.rename(os.path.join(folder, first), os.path.join(folder, "gone"))
        refused = compared.refused()
        for _ in range(20):
            compared.range(expr, begin, end, step, None)
        assert compared.refused() > refused
        # Without a selector's name; none of these blocks has histograms.
        compared.range('last_over_time({job="job-1"}[1h])', begin, end, step, {"1h", "5m"})
    finally:
        brunn.stop()
    for flags in (["-querier.max-source-resolution=0s"], ["-compactor.downsample-enabled=false"]):
        brunn = Brunn(tmp_path, *QUICK, *AT_ONCE, *flags)
        try:
            Compared(brunn).range("min_over_time(temperature[1h])", begin, end, step, set())
        finally:
            brunn.stop()
