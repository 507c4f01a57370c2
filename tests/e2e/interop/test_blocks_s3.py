"""The way of three days through a real S3 server, over a good network and over a bad one: late, cut, refused, stale. No answer is wrong or short, no bad block is there."""

import os
import subprocess
import time

import pytest

from history import QUICK, Bucket, History, push_all, settled
from process import BRUNN, Brunn, free_port, wait_until
from s3_faults import Faults, FaultyNetwork
from test_s3 import KEY, SECRET, answers, start


@pytest.fixture
def s3(tmp_path):
    """(port, the bucket's folder) of a versitygw, whose objects are files."""
    folder, port = tmp_path / "versitygw", free_port()
    (folder / "bkt").mkdir(parents=True)
    server = start("versitygw", port, folder)
    wait_until("versitygw to answer", 30, lambda: answers(port))
    yield port, folder / "bkt"
    server.kill()


def flags(port):
    return ["-common.storage.backend=s3", f"-common.storage.s3.endpoint=127.0.0.1:{port}", "-common.storage.s3.insecure=true",
            "-common.storage.s3.bucket-name=bkt", f"-common.storage.s3.access-key-id={KEY}", f"-common.storage.s3.secret-access-key={SECRET}"]


# With a bad network an index is written less often than every half minute, and what it names must be there for as long as it is read.
PATIENT = ["-blocks-storage.bucket-store.bucket-index.max-stale-period=10m", "-compactor.deletion-delay=1m"]
NETWORKS = {
    "good": Faults(),
    "bad": Faults(errors=0.3, late=0.01, late_s=5, cut=0.05, stale=0.3),
}


def verify(port, tmp_path):
    return subprocess.run([BRUNN, "tool", "bucket", "verify", "-deep", *(f.replace("-common.storage.", "-blocks-storage.") for f in flags(port))],
                          capture_output=True, text=True, timeout=300, cwd=tmp_path)


@pytest.mark.parametrize("network", NETWORKS)
def test_three_days(s3, network, tmp_path):
    port, folder = s3
    history, bucket = History(int(time.time() * 1000), hours=72, floats=12, histograms=2), Bucket(folder)
    between = FaultyNetwork(port, NETWORKS[network])
    brunn = Brunn(tmp_path, *QUICK, *PATIENT, *flags(between.port))
    try:
        push_all(brunn, history.bodies())
        assert brunn.request("POST", "/ingester/flush?wait=true")[0] == 204
        settled(bucket, history.n_samples(), 300)
        history.check(brunn.query)
        # Once more with nothing at hand: index-headers, indexes and caches come over the same network.
        brunn.stop()
        subprocess.run(["rm", "-r", str(tmp_path / "data" / "tsdb-sync")], check=True)
        brunn = Brunn(tmp_path, *QUICK, *PATIENT, *flags(between.port))
        history.check(brunn.query)
        print(between.faults.counts)
        # What the cleaner is removing just then is half there; with a good network nothing of it stays.
        between.faults = Faults()
        wait_until("the bucket to be without a fault", 60, lambda: verify(port, tmp_path).returncode == 0)
    finally:
        brunn.stop()
        between.stop()
    assert os.listdir(folder)
