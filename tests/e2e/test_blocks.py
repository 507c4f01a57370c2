"""Days of data go the whole way: heads, local blocks, the bucket, compaction, the store-gateway; and come back sample by sample, from each and over the seams.

The whole of it is one process here; test_blocks_cluster.py has each part as a process of its own.
"""

import glob
import json
import os
import random
import shutil
import subprocess
import time

import pytest

from history import HOUR_MS, QUICK, Bucket, History, push_all, settled
from process import Brunn, Server, free_port, wait_until


def start(folder, *flags, **more):
    return Brunn(folder, *QUICK, *flags, **more)


def bucket_of(folder):
    return Bucket(os.path.join(str(folder), "data", "blocks"))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """(folder, history) of a stopped process whose bucket has all of three days, compacted."""
    folder, history = tmp_path_factory.mktemp("stored"), History(int(time.time() * 1000))
    brunn = start(folder)
    try:
        push_all(brunn, history.bodies())
        wait_until("blocks in the bucket", 60, lambda: len(bucket_of(folder).metas()) > 3)
        assert brunn.request("POST", "/ingester/flush")[0] == 204
        settled(bucket_of(folder), history.n_samples())
        history.check(brunn.query)
    finally:
        brunn.stop()
    return folder, history


@pytest.fixture
def copy(stored, tmp_path):
    """The same, to be spoilt."""
    shutil.copytree(stored[0], tmp_path / "copy")
    return tmp_path / "copy", stored[1]


def test_three_days_are_compacted_and_survive_a_restart(copy):
    folder, history = copy
    assert max(hours for hours, _, _ in bucket_of(folder).ranges()) >= 24
    brunn = start(folder)
    try:
        history.check(brunn.query)
        names = brunn.api("label/__name__/values", {"start": history.begin_ms / 1000, "end": history.end_ms / 1000})["data"]
        assert names == sorted({dict(key)["__name__"] for key in history.samples})
        old = {"start": history.begin_ms / 1000, "end": (history.begin_ms + 24 * HOUR_MS) / 1000}
        pods = {dict(key)["pod"]: min(samples) for key, samples in history.samples.items() if "pod" in dict(key)}
        got = set(brunn.api("label/pod/values", old)["data"])
        # Labels are those of whole blocks that the time touches.
        assert {p for p, first in pods.items() if first <= history.begin_ms + 24 * HOUR_MS} <= got < set(pods)
        assert len(brunn.api("series", {**old, "match[]": "requests_total"})["data"]) == 24
        # One query over all of it, store and ingester.
        names = ["latency", "requests_total", "temperature", "up"]
        expr = " + ".join(f"sum(count_over_time({name}[80h]))" for name in names)
        assert float(brunn.query(expr, history.end_ms / 1000)[0]["value"][1]) == history.n_samples()
    finally:
        brunn.stop()


def test_recent_and_stored_data_meet_without_a_seam(tmp_path):
    """Asked all the while, heads, local blocks and the store, which have much of it twice."""
    history = History(int(time.time() * 1000), hours=12, floats=6, histograms=2)
    brunn = start(tmp_path, "-querier.query-ingesters-within=0s", "-querier.query-store-after=0s")
    try:
        for i in range(6):
            begin, end = history.begin_ms + i * 2 * HOUR_MS, history.begin_ms + (i + 1) * 2 * HOUR_MS if i < 5 else 1 << 62
            push_all(brunn, history.bodies(begin, end))
            history.check(brunn.query, until_ms=end)
            if i >= 2:  # a range is cut when the newest sample is three hours beyond its beginning
                wait_until("a cut", 30, lambda: brunn.metric("cortex_ingester_tsdb_compactions_total") >= i - 1)
                history.check(brunn.query, until_ms=end)
    finally:
        brunn.stop()


def is_something(path):
    return not os.path.isdir(path) or any(files for _, _, files in os.walk(path))


def test_kill_9(tmp_path, request):
    """Nothing is lost, nothing doubled, and nothing is left that the cleaner does not remove."""
    rounds = max(request.config.getoption("--rounds") // 5, 4)
    dice = random.Random(7)
    history = History(int(time.time() * 1000), hours=48, floats=6, histograms=2)
    bodies = list(history.bodies())
    bucket = bucket_of(tmp_path)
    brunn = start(tmp_path)
    try:
        for i in range(rounds):
            mine = bodies[len(bodies) * i // rounds:len(bodies) * (i + 1) // rounds]
            at, delay = dice.randrange(len(mine)), dice.random() * 2
            push_all(brunn, mine[:at])
            time.sleep(delay)
            brunn.kill()
            brunn.check_clean()
            brunn = start(tmp_path, port=brunn.port)
            push_all(brunn, mine[at:])
        assert brunn.request("POST", "/ingester/flush")[0] == 204
        settled(bucket, history.n_samples(), 180)
        history.check(brunn.query)
        wait_until("blocks that were marked to be removed", 60, lambda: len(bucket.metas(marked=True)) == len(bucket.metas()))
        known = set(bucket.metas()) | {"markers", "bucket-index.json.gz"}
        wait_until("leftovers to be removed", 60, lambda: {name for name in os.listdir(bucket.folder) if is_something(os.path.join(bucket.folder, name))} <= known)
    finally:
        brunn.stop()


# --- damage ---


def damage(path, every=97):
    """Bits flipped all over the file, but for its head."""
    with open(path, "r+b") as f:
        data = bytearray(f.read())
        for i in range(8 + every // 2, len(data), every):
            data[i] ^= 0x55
        f.seek(0)
        f.write(data)


def oldest(bucket):
    metas = bucket.metas()
    return min(metas, key=lambda u: metas[u]["minTime"]), metas


@pytest.mark.parametrize("file", ["index", "chunks/000001", "bucket-index.json.gz"])
def test_damage_is_a_named_error(copy, file):
    folder, history = copy
    bucket = bucket_of(folder)
    block, metas = oldest(bucket)
    where = os.path.join(bucket.folder, file) if file.startswith("bucket-index") else os.path.join(bucket.folder, block, file)
    damage(where)
    # Index-headers that were made when the block was whole would know better.
    shutil.rmtree(os.path.join(str(folder), "data", "tsdb-sync"), ignore_errors=True)
    brunn = Brunn(folder, *[f for f in QUICK if "compactor" not in f], "-compactor.compaction-interval=1000h", "-compactor.cleanup-interval=1000h")
    try:
        old = max(metas[block]["minTime"], history.begin_ms) / 1000 + 3600

        def ask():
            return brunn.api("query", {"query": "requests_total[1h]", "time": old})
        if file == "bucket-index.json.gz":
            wait_until("the cleaner to have mended the index at its first round", 30, lambda: ask()["status"] == "success")
        else:
            wait_until("the cleaner to have renewed the index, which may be too old by now", 30, lambda: "bucket-index-too-old" not in ask().get("error", ""))
            answer = ask()
            assert answer["status"] == "error" and answer["http_status"] >= 500, answer
            assert block in answer["error"], answer
        # Other blocks answer.
        t = history.end_ms - HOUR_MS
        assert len(brunn.query("requests_total[1h]", t / 1000)) == 24
    finally:
        brunn.stop()


def test_a_bad_block_is_set_aside_by_the_compactor(copy):
    folder, history = copy
    bucket = bucket_of(folder)
    # Two blocks of one day: the compactor would merge them.
    block, metas = oldest(bucket)
    twin = block[:-1] + ("0" if block[-1] != "0" else "1")
    shutil.copytree(os.path.join(bucket.folder, block), os.path.join(bucket.folder, twin))
    meta = dict(metas[block], ulid=twin)
    meta["compaction"] = {"level": 1, "sources": [twin]}
    with open(os.path.join(bucket.folder, twin, "meta.json"), "w") as f:
        json.dump(meta, f)
    damage(os.path.join(bucket.folder, twin, "index"))
    brunn = start(folder)
    try:
        mark = os.path.join(bucket.folder, twin, "no-compact-mark.json")
        wait_until("a no-compact mark", 60, lambda: os.path.exists(mark))
        wait_until("it to be counted", 10, lambda: brunn.metric("cortex_compactor_blocks_marked_for_no_compaction_total") >= 1)
        assert twin in brunn.get("/compactor/tenant/anonymous/planned_jobs")[1]
    finally:
        brunn.stop()


# --- Prometheus ---


def test_promtool_and_prometheus_read_our_blocks(copy, tmp_path):
    folder, history = copy
    ours = bucket_of(folder).folder
    listed = subprocess.run(["promtool", "tsdb", "list", ours], capture_output=True, text=True, timeout=120)
    assert listed.returncode == 0 and not listed.stderr, listed
    assert len(listed.stdout.splitlines()) == len(bucket_of(folder).metas(marked=True)) + 1
    analyzed = subprocess.run(["promtool", "tsdb", "analyze", ours], capture_output=True, text=True, timeout=120)
    assert analyzed.returncode == 0, analyzed
    port = free_port()
    (tmp_path / "prometheus.yml").write_text("global: {}\n")
    shutil.copytree(ours, tmp_path / "tsdb", ignore=shutil.ignore_patterns("markers", "bucket-index*"))
    server = Server(["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb", "--enable-feature=native-histograms",
                     "--storage.tsdb.retention.time=10d", f"--web.listen-address=127.0.0.1:{port}"], str(tmp_path / "prometheus.log"))
    brunn = start(folder)
    try:
        from test_prometheus import ask
        base = f"http://127.0.0.1:{port}"

        def ready():
            try:
                return ask(base, "query", {"query": "1", "time": 1})["status"] == "success"
            except (OSError, ValueError):
                return False
        wait_until("Prometheus", 60, ready)

        def asked(expr, t):
            answer = ask(base, "query", {"query": expr, "time": t})
            assert answer["status"] == "success", answer
            return answer["data"]["result"]
        floats = {k: s for k, s in history.samples.items() if dict(k)["__name__"] != "latency"}
        everything, history.samples = history.samples, floats  # Debian's Prometheus shows native histograms otherwise
        try:
            history.check(asked)
        finally:
            history.samples = everything
        for expr in ("sum by (job) (rate(requests_total[10m]))", "max_over_time(temperature[2h])", "count(up)", "resets(requests_total[6h])"):
            # No sample lies on the edge of a window, of which Prometheus 2 and 3 think differently.
            params = {"query": expr, "start": history.begin_ms / 1000 + 7, "end": history.end_ms / 1000, "step": 1200}
            theirs, mine = ask(base, "query_range", params)["data"]["result"], brunn.api("query_range", params)["data"]["result"]
            assert comparable(theirs) == comparable(mine), expr
    finally:
        server.stop()
        brunn.stop()


def comparable(result):
    return {tuple(sorted(s["metric"].items())): [(t, round(float(v), 6)) for t, v in s["values"]] for s in result}
