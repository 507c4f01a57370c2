"""Remote read: both forms against what the query API says, a real Prometheus that reads through it, slow clients and clients that go away."""

import contextlib
import http.client
import os
import socket
import struct
import time

import pytest
import snappy

import remote_write as rw
import test_prometheus
from process import Brunn, Server, free_port, memory, wait_until
from test_prometheus import ask, by_labels, differences

SERIES, SAMPLES, STEP_MS = 300, 400, 15000


def matcher(name, value, kind=0):
    return rw.field(3, b"\x08" + rw.uvarint(kind) + rw.field(2, name) + rw.field(3, value))


def request(start_ms, end_ms, *matchers, streamed=False):
    query = b"\x08" + rw.uvarint(start_ms) + b"\x10" + rw.uvarint(end_ms) + b"".join(matchers)
    return snappy.compress(rw.field(1, query) + (b"\x12\x01\x01" if streamed else b""))


def int_matcher_request(kind):
    return request(1, 2, matcher("a", "b", kind))


def wire(port, method, path, body, headers):
    """(status, headers, body bytes) of any server here."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def fields(message):
    """[(number, value)] of a message: bytes, integers, doubles."""
    at, out = 0, []

    def varint():
        nonlocal at
        n = shift = 0
        while True:
            byte = message[at]
            at += 1
            n |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return n
    while at < len(message):
        tag = varint()
        if tag & 7 == 0:
            out.append((tag >> 3, varint()))
        elif tag & 7 == 1:
            out.append((tag >> 3, struct.unpack("<d", message[at:at + 8])[0]))
            at += 8
        else:
            n = varint()
            out.append((tag >> 3, message[at:at + n]))
            at += n
    return out


def labels_of(series):
    return {f[1].decode(): f[2].decode() for f in (dict(fields(v)) for k, v in series if k == 1)}


def read_samples(brunn, body):
    """[(labels, [(t, v)], number of histograms)] of a query's only result."""
    status, headers, data = brunn.request("POST", "/prometheus/api/v1/read", body)
    assert status == 200, data
    assert headers["Content-Encoding"] == "snappy"
    [(_, result)] = fields(snappy.decompress(data))
    out = []
    for _, message in fields(result):
        series = fields(message)
        points = [dict(fields(v)) for k, v in series if k == 2]
        out.append((labels_of(series), [(p.get(2, 0), p.get(1, 0.0)) for p in points], sum(k == 4 for k, _ in series)))
    return out


def read_frames(brunn, body):
    """[(labels, [(min, max, type, data)])] of a query, the frames of a series joined."""
    status, headers, data = brunn.request("POST", "/prometheus/api/v1/read", body)
    assert status == 200, data
    assert headers["Content-Type"] == "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"
    out, at = [], 0
    while at < len(data):
        n = shift = 0
        while True:
            byte = data[at]
            at += 1
            n |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        at += 4
        series = fields(dict(fields(data[at:at + n]))[1])
        at += n
        chunks = [tuple(dict(fields(v)).get(i, 0) for i in (1, 2, 3, 4)) for k, v in series if k == 2]
        labels = labels_of(series)
        if out and out[-1][0] == labels:
            out[-1][1].extend(chunks)
        else:
            out.append((labels, chunks))
    return out


def value(i, k):
    return i * 1000 + (k * 7919 % 1000) / 8


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """(Brunn, first and last time) with 300 series of 400 floats, and one of native histograms."""
    brunn = Brunn(tmp_path_factory.mktemp("remote-read"))
    last = int(time.time()) * 1000 // STEP_MS * STEP_MS
    first = last - (SAMPLES - 1) * STEP_MS
    # First, since a head takes nothing that is an hour older than the newest it has.
    histograms = b"".join(rw.int_histogram(first + k * STEP_MS, 3 + k, 10.5 + k, 1, 0.001, 1, [(0, 2)], [1 + k, -k]) for k in range(50))
    status, text = brunn.push(snappy.compress(rw.field(1, rw.labels_bytes({"__name__": "rr_hist"}) + histograms)))
    assert status == 200, text
    for at in range(0, SAMPLES, 100):
        body = b"".join(rw.series({"__name__": "rr", "i": f"{i:03d}", "zone": "ab"[i % 2]},
                                  [(first + k * STEP_MS, value(i, k)) for k in range(at, at + 100)]) for i in range(SERIES))
        assert brunn.push(snappy.compress(body))[0] == 200
    yield brunn, first, last
    brunn.stop()


def test_samples_are_what_was_written(filled):
    brunn, first, last = filled
    result = read_samples(brunn, request(first, last, matcher("__name__", "rr")))
    assert [labels["i"] for labels, _, _ in result] == [f"{i:03d}" for i in range(SERIES)]
    for i, (_, points, _) in enumerate(result):
        assert points == [(first + k * STEP_MS, value(i, k)) for k in range(SAMPLES)]
    part = read_samples(brunn, request(first + 10 * STEP_MS, first + 20 * STEP_MS - 1, matcher("__name__", "rr"), matcher("i", "01[0-4]", 2)))
    assert [points for _, points, _ in part] == [[(first + k * STEP_MS, value(i, k)) for k in range(10, 20)] for i in range(10, 15)]
    [(labels, points, histograms)] = read_samples(brunn, request(first, last, matcher("__name__", "rr_hist")))
    assert labels == {"__name__": "rr_hist"} and not points and histograms == 50


def test_chunks_come_in_order_of_labels_and_time(filled):
    brunn, first, last = filled
    result = read_frames(brunn, request(first, last, matcher("__name__", "rr.*", 2), streamed=True))
    assert [labels.get("i", "hist") for labels, _ in result] == [f"{i:03d}" for i in range(SERIES)] + ["hist"]
    for labels, chunks in result:
        assert chunks[0][0] == first and all(a[1] < b[0] for a, b in zip(chunks, chunks[1:]))
        assert {kind for _, _, kind, _ in chunks} == {1 if "i" in labels else 2}
        assert sum(struct.unpack(">H", data[:2])[0] for *_, data in chunks) == (SAMPLES if "i" in labels else 50)


CONFIG = """
global: {{scrape_interval: 1h}}
remote_read:
  - url: http://127.0.0.1:{port}/prometheus/api/v1/read
    read_recent: true
"""

QUERIES = [
    "rr",
    'sum by (zone) (rr{i=~"0.."})',
    'rate(rr{i="007"}[5m])',
    'max_over_time(rr{zone!="a",i=~".*5"}[10m] offset 5m)',
    "count(rr)",
]

# Prometheus 2.42, which Debian has, does not read histograms back.
HISTOGRAM_QUERIES = [
    "histogram_quantile(0.5, rr_hist)",
    "histogram_count(rate(rr_hist[5m]))",
    "histogram_sum(rr_hist) + histogram_count(rr_hist)",
]


@pytest.fixture(scope="module")
def reader(filled, tmp_path_factory):
    """A Prometheus with nothing of its own."""
    brunn, _, _ = filled
    folder = tmp_path_factory.mktemp("reader")
    (folder / "prometheus.yml").write_text(CONFIG.format(port=brunn.port))
    port = free_port()
    prometheus = Server([test_prometheus.PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
                         f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=native-histograms"], str(folder / "prometheus.log"))
    url = f"http://127.0.0.1:{port}"
    try:
        def ready():
            try:
                return ask(url, "query", {"query": "1"})["status"] == "success"
            except (OSError, ValueError):  # it says so in plain text
                return False
        wait_until("Prometheus to be ready", 60, ready)
        yield url
    finally:
        prometheus.stop()


def check_reader(filled, reader, query):
    brunn, first, _ = filled
    ours = f"http://127.0.0.1:{brunn.port}/prometheus"
    middle = (first + 30 * STEP_MS) / 1000 + 3.141  # between samples: before 3.0 a range began with a sample at its very beginning
    for path, params in (("query", {"query": query, "time": middle}),
                         ("query_range", {"query": query, "start": middle, "end": middle + 300, "step": 23})):
        mine, theirs = (ask(url, path, params) for url in (ours, reader))
        have, want = by_labels(mine), by_labels(theirs)
        assert have, query
        assert not differences(have, want)


@pytest.mark.parametrize("query", QUERIES)
def test_a_prometheus_that_reads_here_answers_the_same(filled, reader, query):
    check_reader(filled, reader, query)


def test_limits_are_400(tmp_path):
    brunn = Brunn(tmp_path, "-querier.max-fetched-series-per-query=2", "-querier.max-partial-query-length=1h")
    now = int(time.time() * 1000)
    assert brunn.push(snappy.compress(b"".join(rw.series({"__name__": "x", "i": str(i)}, [(now, 1)]) for i in range(3))))[0] == 200
    status, _, text = brunn.request("POST", "/prometheus/api/v1/read", request(now - 1000, now, matcher("__name__", "x")))
    assert status == 400 and b"err-mimir-max-series-per-query" in text
    status, _, text = brunn.request("POST", "/prometheus/api/v1/read", request(now - 7200000, now, matcher("__name__", "x")))
    assert status == 400 and b"err-mimir-max-query-length" in text
    brunn.stop()


def start_reading(brunn, body):
    """A connection that has asked, with a small buffer, and reads nothing."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    s.settimeout(60)
    s.connect(("127.0.0.1", brunn.port))
    s.sendall(b"POST /prometheus/api/v1/read HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return s


def open_files(brunn):
    n = 0
    for fd in os.listdir(f"/proc/{brunn.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since
            n += "(deleted)" in os.readlink(f"/proc/{brunn.pid}/fd/{fd}")
    return n


@pytest.mark.parametrize("streamed", (False, True))
def test_slow_clients_cost_little_memory_and_gone_ones_nothing(tmp_path, streamed):
    """Twenty clients ask for some 35 MB each (7 MB as chunks) and do not read on."""
    brunn = Brunn(tmp_path)
    last = int(time.time()) * 1000
    n_series, n_samples = 4000, 500
    for at in range(0, n_series, 500):
        body = b"".join(rw.series({"__name__": "big", "i": f"{i:05d}"}, [(last - (n_samples - k) * 1000, i / 7 + k * k % 97 / 3) for k in range(n_samples)])
                        for i in range(at, at + 500))
        assert brunn.push(snappy.compress(body))[0] == 200
    body = request(last - 10**6, last, matcher("__name__", "big"), streamed=streamed)
    warm = brunn.request("POST", "/prometheus/api/v1/read", body)
    assert warm[0] == 200
    before = memory(brunn.pid)
    clients = []
    for _ in range(20):
        s = start_reading(brunn, body)
        assert s.recv(4096, socket.MSG_PEEK).startswith(b"HTTP/1.1 200")
        clients.append(s)
    assert open_files(brunn) == 20
    grown = memory(brunn.pid) - before
    assert grown < (150 << 20), f"{grown >> 20} MiB for 20 clients, each of whom is to get {len(warm[2]) >> 20} MiB"
    # One of them goes on, slowly at first, and gets all.
    answer = http.client.HTTPResponse(clients[0])
    answer.begin()
    data = b""
    while piece := answer.read(1 << 16):
        data += piece
        if len(data) < 1 << 20:
            time.sleep(0.005)
    assert len(data) == len(warm[2])
    answer.close()
    for s in clients:
        s.close()
    wait_until("the answers to end", 30, lambda: open_files(brunn) == 0)
    assert brunn.query("count(big)", last / 1000)[0]["value"][1] == str(n_series)
    brunn.stop()
