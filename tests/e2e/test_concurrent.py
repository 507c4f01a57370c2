"""Writers, readers, scrapes and checkpoints at once: answers are right at every moment, and the sanitizers have nothing to say."""

import json
import threading
import time
import urllib.parse

import remote_write as rw
from process import Brunn

SERIES = 50


class Worker(threading.Thread):
    """Calls step(i) until told to stop; keeps the first exception."""

    def __init__(self, step):
        super().__init__()
        self.step, self.stopping, self.failure = step, False, None

    def run(self):
        i = 0
        try:
            while not self.stopping:
                self.step(i)
                i += 1
        except BaseException as e:  # handed to the test's thread
            self.failure = e


def test_everything_at_once(tmp_path):
    b = Brunn(tmp_path, "-ingester.checkpoint-interval=200ms", "-ingest-storage.embedded.partitions=3",
              "-ingest-storage.embedded.segment-size-bytes=8MiB", "-ingester.out-of-order-time-window=10m")
    base = int(time.time() * 1000) - 600_000
    acknowledged = [0] * 3  # steps of each writer that were answered 200

    def write(writer):
        def step(i):
            t = base + i * 50
            names = (rw.series({"__name__": "busy", "w": str(writer), "s": str(s), "churn": str(i // 40)}, [(t, float(i))]) for s in range(SERIES))
            status, text = b.push(rw.body(*names))
            assert status == 200, text
            acknowledged[writer] = i + 1
        return step

    def sees_what_was_acknowledged(_):
        before = list(acknowledged)
        result = b.query("sum by (w) (count_over_time(busy[20m]))", base / 1000 + 600)
        counts = {int(r["metric"]["w"]): float(r["value"][1]) for r in result}
        for writer, steps in enumerate(before):
            assert counts.get(writer, 0) >= steps * SERIES, (writer, steps, counts)

    def range_query(_):
        answer = b.api("query_range", {"query": "sum(rate(busy[1m])) / count(busy)", "start": base / 1000, "end": base / 1000 + 60, "step": "1s"})
        assert answer["status"] == "success", answer

    def labels(i):
        match = urllib.parse.quote('busy{churn=~"1.*"}')
        for path in ("labels", "label/churn/values", f"series?match[]={match}", f"label/s/values?match[]={match}")[i % 4:][:1]:
            status, text = b.get(f"/prometheus/api/v1/{path}")
            assert status == 200 and json.loads(text)["status"] == "success"

    def scrape(_):
        assert b.get("/metrics")[0] == 200
        assert b.get("/ready")[0] == 200

    workers = [Worker(step) for step in [write(0), write(1), write(2), sees_what_was_acknowledged, range_query, labels, scrape]]
    for w in workers:
        w.start()
    time.sleep(8)
    for w in workers:
        w.stopping = True
    for w in workers:
        w.join()
    for w in workers:
        if w.failure:
            raise w.failure
    assert min(acknowledged) > 10
    b.stop()
    # And the same is there after a restart.
    b = Brunn(tmp_path, "-ingest-storage.embedded.partitions=3")
    for w in range(3):
        result = b.query(f'sum(count_over_time(busy{{w="{w}"}}[20m]))', base / 1000 + 600)
        assert float(result[0]["value"][1]) == acknowledged[w] * SERIES
    b.stop()


def test_a_client_that_goes_cancels_its_query(brunn):
    import http.client
    now = int(time.time() * 1000)
    for k in range(20):
        brunn.push(rw.body(*(rw.series({"__name__": "wide", "s": str(s)}, [(now - 60_000 + k * 1000, s)]) for s in range(500))))
    slow = urllib.parse.urlencode({"query": "count(wide * on () group_left () scalar(wide) or max_over_time(sum by (s) (rate(wide[5m]))[1h:1s])) + "
                                   "sum(max_over_time(sum by (s) (rate(wide[5m]))[1h:1s]))", "start": now / 1000 - 11000, "end": now / 1000, "step": "1"})
    connection = http.client.HTTPConnection("127.0.0.1", brunn.port)
    connection.request("GET", f"/prometheus/api/v1/query_range?{slow}")
    time.sleep(0.5)
    connection.close()
    end = time.monotonic() + 10
    while brunn.metric("cortex_inflight_requests", route="prometheus_api_v1_query_range") and time.monotonic() < end:
        time.sleep(0.05)
    assert brunn.metric("cortex_inflight_requests", route="prometheus_api_v1_query_range") == 0
    assert brunn.query("count(wide)", now / 1000)[0]["value"][1] == "500"
