"""Label APIs with answers of many pieces: whole and in order, compressed or not, and for a client that goes away in the middle."""

import gzip
import json
import socket
import time

import pytest
import snappy

import remote_write as rw
from process import Brunn, wait_until

N = 20000


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    brunn = Brunn(tmp_path_factory.mktemp("labels"))
    now = int(time.time() * 1000)
    for at in range(0, N, 5000):
        body = b"".join(rw.series({"__name__": "wide", "number": f"the number {i:06d}"}, [(now, i)]) for i in range(at, at + 5000))
        assert brunn.push(snappy.compress(body))[0] == 200
    yield brunn
    brunn.stop()


WANT = [f"the number {i:06d}" for i in range(N)]


@pytest.mark.parametrize("compressed", (False, True))
def test_long_answers_are_whole(filled, compressed):
    for path, want in (("series?match[]=wide", [{"__name__": "wide", "number": n} for n in WANT]), ("label/number/values", WANT)):
        status, headers, data = filled.request("GET", f"/prometheus/api/v1/{path}", headers={"Accept-Encoding": "gzip"} if compressed else {})
        assert status == 200 and headers["Transfer-Encoding"] == "chunked" and headers["Content-Type"] == "application/json"
        assert headers.get("Content-Encoding") == ("gzip" if compressed else None)
        assert json.loads(gzip.decompress(data) if compressed else data) == {"status": "success", "data": want}


def test_clients_that_go_away_leave_nothing_open(filled):
    for _ in range(20):
        s = socket.create_connection(("127.0.0.1", filled.port))
        s.sendall(b"GET /prometheus/api/v1/series?match[]=wide HTTP/1.1\r\nHost: x\r\n\r\n")
        assert s.recv(4096).startswith(b"HTTP/1.1 200")
        s.close()
    assert filled.query("count(wide)")[0]["value"][1] == str(N)
    wait_until("the answers to end", 30, lambda: filled.metric("cortex_inflight_requests", route="prometheus_api_v1_series") == 0)
