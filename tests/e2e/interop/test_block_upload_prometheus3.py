"""As tests/e2e/test_block_upload.py, with native histograms, in blocks that a current Prometheus makes of what was pushed to it."""

import os
import shutil
import time
import urllib.request

from history import HOUR_MS, Bucket, History, settled
from process import PEERS, Brunn
from test_block_upload import FLAGS, blocks_in, prometheus, same_answers, upload

PROMETHEUS = os.path.join(PEERS, "prometheus", "prometheus")


def post(url, data=b"", headers=None):
    with urllib.request.urlopen(urllib.request.Request(url, data, headers or {}, method="POST"), timeout=60) as answer:
        return answer.read()


def test_blocks_with_native_histograms(tmp_path):
    # Of one day: what the head has is one block, which must not cross midnight.
    history = History(int(time.time() * 1000) // (24 * HOUR_MS) * 24 * HOUR_MS, hours=20, floats=6, histograms=4, late=0)
    folder = tmp_path / "prometheus"
    theirs, base, asked = prometheus(PROMETHEUS, str(folder), "--enable-feature=native-histograms", "--web.enable-remote-write-receiver", "--web.enable-admin-api")
    brunn = Brunn(tmp_path / "brunn", *FLAGS)
    try:
        for body in history.bodies():
            post(f"{base}/api/v1/write", body, {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "0.1.0"})
        history.check(asked)
        post(f"{base}/api/v1/admin/tsdb/snapshot")
        snapshots = folder / "tsdb" / "snapshots"
        source = shutil.copytree(snapshots / os.listdir(snapshots)[0], tmp_path / "blocks")
        for name in blocks_in(source):
            upload(brunn, os.path.join(source, name))
        settled(Bucket(tmp_path / "brunn" / "data" / "blocks"), history.n_samples())
        history.check(brunn.query)
        same_answers(base, brunn, history, ("histogram_quantile(0.9, sum by (job) (rate(latency[10m])))", "histogram_count(latency)",
                                            "histogram_avg(increase(latency[1h]))", "sum by (job) (rate(requests_total[10m]))"))
    finally:
        theirs.stop()
        brunn.stop()
