"""One bucket, a real Mimir and we: what one wrote, indexed or compacted the other serves and compacts, and every sample comes back."""

import collections
import time

import pytest

from history import COMPACTOR, HOUR_MS, INGESTER, READERS, Bucket, History, push_all, settled
from mimir import Mimir
from process import Brunn, wait_until

# All of it is in the store; who asks has no ingester that would have the newest.
ALL_STORED = [*READERS, "-querier.query-store-after=0s"]
IDLE_COMPACTOR = ["-compactor.compaction-interval=1000h", "-compactor.cleanup-interval=1000h"]
INDEX_ONLY = ["-compactor.compaction-interval=1000h", "-compactor.cleanup-interval=1s", "-compactor.ring.wait-stability-min-duration=0s"]


@pytest.fixture(scope="module")
def history():
    return History(int(time.time() * 1000))


def fill(server, history):
    push_all(server, history.bodies())
    assert server.request("POST", "/ingester/flush")[0] == 204


def first_level(bucket):
    return all(m["compaction"]["level"] == 1 for m in bucket.metas().values())


def compacted(bucket):
    """But for a block that is alone in its day, when the history begins late in one."""
    metas = bucket.metas().values()
    days = collections.Counter(m["minTime"] // (24 * HOUR_MS) for m in metas)
    return all(m["compaction"]["level"] > 1 or days[m["minTime"] // (24 * HOUR_MS)] == 1 for m in metas)


def test_mimir_serves_our_blocks_and_compacts_them(history, tmp_path):
    bucket = Bucket(tmp_path / "data" / "blocks")
    shared = f"-blocks-storage.filesystem.dir={tmp_path}/data/blocks"
    brunn = Brunn(tmp_path, *INGESTER, *READERS, *INDEX_ONLY)
    try:
        fill(brunn, history)
        settled(bucket, history.n_samples())
        assert first_level(bucket)
        mimir = Mimir(tmp_path / "mimir", shared, *ALL_STORED, *IDLE_COMPACTOR)
        try:
            history.check(mimir.query)
        finally:
            mimir.stop()
        mimir = Mimir(tmp_path / "mimir", shared, *ALL_STORED, *COMPACTOR)
        try:
            wait_until("Mimir to compact", 120, lambda: compacted(bucket))
            settled(bucket, history.n_samples())
            assert max(hours for hours, _, _ in bucket.ranges()) == 24
            history.check(mimir.query)
            history.check(brunn.query)
        finally:
            mimir.stop()
        history.check(brunn.query)
    finally:
        brunn.stop()


def test_we_serve_mimirs_blocks_and_compact_them(history, tmp_path):
    bucket = Bucket(tmp_path / "mimir" / "blocks")
    mimir = Mimir(tmp_path / "mimir", *INGESTER[:2], *INGESTER[3:], *READERS, *INDEX_ONLY)
    try:
        fill(mimir, history)
        settled(bucket, history.n_samples())
        shared = f"-blocks-storage.filesystem.dir={tmp_path}/mimir/blocks"
        brunn = Brunn(tmp_path / "reader", shared, *ALL_STORED, *IDLE_COMPACTOR)
        try:
            history.check(brunn.query)
        finally:
            brunn.stop()
        brunn = Brunn(tmp_path / "compactor", shared, *ALL_STORED, *COMPACTOR)
        try:
            wait_until("our compaction", 120, lambda: compacted(bucket))
            settled(bucket, history.n_samples())
            assert max(hours for hours, _, _ in bucket.ranges()) == 24
            history.check(brunn.query)
            history.check(mimir.query)
        finally:
            brunn.stop()
    finally:
        mimir.stop()
