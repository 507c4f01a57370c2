"""Blocks that a Prometheus made are uploaded through the API, served by the store-gateway and compacted: the same answers as that Prometheus gives."""

import json
import os
import shutil
import subprocess
import time

from history import COMPACTOR, HOUR_MS, READERS, Bucket, History, settled
from process import Brunn, Server, free_port, wait_until
from test_blocks import comparable
from test_prometheus import ask

# A process that has nothing but what is uploaded.
FLAGS = [*COMPACTOR, *READERS, "-querier.query-store-after=0s", "-compactor.block-upload-enabled=true"]
UPLOAD = "/api/v1/upload/block"


def openmetrics(history):
    """The floats of a history as text; the metric names one after the other, as the format wants it."""
    lines = []
    for key in sorted(history.samples, key=lambda k: dict(k)["__name__"]):
        labels = dict(key)
        name = labels.pop("__name__")
        text = ",".join(f'{k}="{v}"' for k, v in labels.items())
        lines += [f"{name}{{{text}}} {v} {t / 1000:.3f}" for t, v in sorted(history.samples[key].items()) if isinstance(v, float)]
    return "\n".join([*lines, "# EOF", ""])


def blocks_in(folder):
    return sorted(name for name in os.listdir(folder) if os.path.exists(os.path.join(folder, name, "meta.json")))


def files_of(block):
    """{path within the block: bytes}, but for meta.json."""
    out = {}
    for folder in ("", "chunks"):
        for name in os.listdir(os.path.join(block, folder)):
            path = os.path.join(folder, name)
            if name != "chunks" and name != "meta.json":
                with open(os.path.join(block, path), "rb") as f:
                    out[path] = f.read()
    return out


def post(server, path, body=b""):
    status, _, text = server.request("POST", path, body)
    assert status == 200, (path, status, text)


def upload(server, block):
    """As mimirtool backfill does it; returns when the block is complete."""
    ulid = os.path.basename(block)
    with open(os.path.join(block, "meta.json")) as f:
        meta = json.load(f)
    # tombstones are no part of what Mimir takes.
    files = {path: data for path, data in files_of(block).items() if path == "index" or path.startswith("chunks/")}
    meta["thanos"] = {"files": [{"rel_path": p, "size_bytes": len(d)} for p, d in files.items()] + [{"rel_path": "meta.json"}]}
    post(server, f"{UPLOAD}/{ulid}/start", json.dumps(meta).encode())
    for path, data in files.items():
        post(server, f"{UPLOAD}/{ulid}/files?path={path.replace('/', '%2F')}", data)
    post(server, f"{UPLOAD}/{ulid}/finish")

    def complete():
        answer = json.loads(server.get(f"{UPLOAD}/{ulid}/check")[1])
        assert answer["result"] in ("validating", "complete"), answer
        return answer["result"] == "complete"
    wait_until("the block to be complete", 30, complete)


def prometheus(program, folder, *flags):
    """(server, base URL, what asks it for History.check)"""
    port = free_port()
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "prometheus.yml"), "w") as f:
        f.write("global: {}\n")
    server = Server([program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb", "--storage.tsdb.retention.time=30d",
                     f"--web.listen-address=127.0.0.1:{port}", *flags], os.path.join(folder, "prometheus.log"))
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
    return server, base, asked


def same_answers(base, brunn, history, queries):
    for expr in queries:
        # No sample lies on the edge of a window, of which Prometheus 2 and 3 think differently.
        params = {"query": expr, "start": history.begin_ms / 1000 + 7, "end": history.end_ms / 1000, "step": 600}
        theirs, ours = ask(base, "query_range", params)["data"]["result"], brunn.api("query_range", params)["data"]["result"]
        assert comparable(theirs) and comparable(theirs) == comparable(ours), expr


def test_blocks_of_promtool(tmp_path):
    # A day of blocks ends with the day, so that all of it can be compacted.
    history = History(int(time.time() * 1000) // (24 * HOUR_MS) * 24 * HOUR_MS, hours=26, floats=6, histograms=0)
    (tmp_path / "text").write_text(openmetrics(history))
    made = tmp_path / "prometheus" / "tsdb"
    subprocess.run(["promtool", "tsdb", "create-blocks-from", "openmetrics", tmp_path / "text", made], check=True, capture_output=True, timeout=120)
    theirs, base, asked = prometheus("prometheus", str(tmp_path / "prometheus"))
    brunn = Brunn(tmp_path / "brunn", *FLAGS)
    try:
        history.check(asked)
        source = shutil.copytree(made, tmp_path / "blocks", ignore=shutil.ignore_patterns("wal", "chunks_head", "lock", "queries.active"))
        for name in blocks_in(source):
            upload(brunn, os.path.join(source, name))
        bucket = Bucket(tmp_path / "brunn" / "data" / "blocks")
        settled(bucket, history.n_samples())
        assert max(hours for hours, _, _ in bucket.ranges()) > 23
        history.check(brunn.query)
        same_answers(base, brunn, history, ("sum by (job) (rate(requests_total[10m]))", "max_over_time(temperature[2h])", "count(up)", "resets(requests_total[6h])"))
    finally:
        theirs.stop()
        brunn.stop()
