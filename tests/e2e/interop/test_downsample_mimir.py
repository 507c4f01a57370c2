"""A real Mimir on a bucket with downsampled blocks neither sees nor touches them."""

import time

from downsampled import AT_ONCE, DAY_MS, lacks
from history import COMPACTOR, QUICK, READERS, Bucket, History, push_all, settled
from mimir import Mimir
from process import Brunn, wait_until


def test_mimir_answers_cleans_and_compacts_as_if_they_were_not_there(tmp_path):
    now = int(time.time() * 1000)
    history, root = History(now), tmp_path / "data" / "blocks"
    over = now // DAY_MS * DAY_MS
    brunn = Brunn(tmp_path, *QUICK, *AT_ONCE)
    try:
        push_all(brunn, history.bodies())
        assert brunn.request("POST", "/ingester/flush")[0] == 204
        settled(Bucket(root), history.n_samples())
        wait_until("the rooms to be full", 120, lambda: not lacks(root, history, over))
    finally:
        brunn.stop()
    mimir = Mimir(tmp_path / "mimir", f"-blocks-storage.filesystem.dir={root}", *READERS, *COMPACTOR, "-querier.query-store-after=0s")
    try:
        history.check(mimir.query)
        time.sleep(10)  # five rounds of its compactor and ten of its cleaner
        settled(Bucket(root), history.n_samples())
        history.check(mimir.query)
    finally:
        mimir.stop()
    assert not lacks(root, history, over)
