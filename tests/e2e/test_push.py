"""Pushes: statuses and texts as Mimir's, bad bodies, partial writes, what is stored."""

import struct
import time

import pytest
import snappy

import remote_write as rw
from process import memory

NOW = int(time.time() * 1000)


def one(name="m", value=1.0, t=None, **labels):
    return rw.series({"__name__": name, **labels}, [(t or NOW, value)])


def declared(size):
    """A snappy block that declares this many bytes and holds none."""
    return rw.uvarint(size) + b"\x00a"


BAD_BODIES = [
    ("empty", b"", "snappy: corrupt input"),
    ("text", b"hello", "snappy: corrupt input"),
    ("truncated", rw.body(one())[:-3], "snappy: corrupt input"),
    ("length too small", b"\x01" + rw.body(one())[1:], "snappy: corrupt input"),
    ("4 GiB declared", declared((1 << 32) - 1), "err-mimir-distributor-max-write-message-size"),
    ("1 GiB declared", declared(1 << 30), "larger than the allowed limit of 104857600 bytes"),
    ("more than 32 bits declared", declared(1 << 40), "snappy: corrupt input"),
    ("cut protobuf", snappy.compress(one()[:-2]), "unexpected EOF"),
    ("wrong wire type", snappy.compress(b"\x0b\x00"), "wrong wireType = 3"),
    ("illegal tag", snappy.compress(b"\x00\x00"), "illegal tag 0"),
    ("no metric name", rw.body(rw.series({"a": "b"}, [(NOW, 1)])), "received series has no metric name (err-mimir-missing-metric-name)"),
    ("bad metric name", rw.body(one("a-b")), "received a series with invalid metric name: 'a-b' (err-mimir-metric-name-invalid)"),
    ("bad label name", rw.body(rw.series({"__name__": "m", "a-b": "c"}, [(NOW, 1)])), "(err-mimir-label-invalid)"),
    ("invalid UTF-8", rw.body(rw.series(rw.label("__name__", "m") + rw.label("a", b"x\xffy"), [(NOW, 1)])),
     "received a series with invalid value in label 'a': 'x\N{REPLACEMENT CHARACTER}y' metric: 'm' (err-mimir-label-value-invalid)"),
    ("duplicate label", rw.body(rw.series(rw.label("__name__", "m") + rw.label("a", "1") + rw.label("a", "2"), [(NOW, 1)])),
     "(err-mimir-duplicate-label-names)"),
    ("31 labels", rw.body(one(**{f"l{i:02}": "x" for i in range(30)})), "(actual: 31, limit: 30)"),
    ("10^6 labels", rw.body(rw.series(b"".join(rw.label(f"l{i:07}", "x") for i in range(1_000_000)), [(NOW, 1)])), "(err-mimir-"),
    ("long label name", rw.body(one(**{"n" * 1025: "x"})), "(err-mimir-label-name-too-long)"),
    ("long label value", rw.body(one(a="v" * 2049)), "received a series whose label value length of 2049 exceeds the limit of 2048"),
    ("future", rw.body(one(t=NOW + 3_600_000)), "(err-mimir-too-far-in-future)"),
    ("schema 9", rw.body(rw.series({"__name__": "h"}, [], rw.int_histogram(NOW, 1, 1.0, 9, 0.0, 0, [(0, 1)], [1]))),
     "received a native histogram sample with an invalid schema: 9 (err-mimir-invalid-native-histogram-schema)"),
    ("histogram count", rw.body(rw.series({"__name__": "h"}, [], rw.int_histogram(NOW, 4, 1.0, 0, 0.0, 0, [(0, 1)], [3]))),
     "(err-mimir-native-histogram-count-mismatch)"),
]


@pytest.mark.parametrize("data, text", [case[1:] for case in BAD_BODIES], ids=[case[0] for case in BAD_BODIES])
def test_a_bad_body_is_refused_with_a_reason(shared_brunn, data, text):
    status, answer = shared_brunn.push(data)
    assert status == 400, answer
    assert text in answer
    assert answer.endswith("\n")


@pytest.fixture(scope="module")
def shared_brunn(tmp_path_factory):
    from process import Brunn
    b = Brunn(tmp_path_factory.mktemp("push"))
    yield b
    b.stop()


def test_bad_bodies_leave_memory_flat_and_others_alone(tenants):
    good = {"X-Scope-OrgID": "good"}
    bad = {"X-Scope-OrgID": "bad"}
    tenants.push(rw.body(one("before")), good)
    for _, data, _ in BAD_BODIES:
        tenants.push(data, bad)
    before = memory(tenants.pid)
    for _ in range(20):
        for _, data, _ in BAD_BODIES:
            assert tenants.push(data, bad)[0] == 400
    assert memory(tenants.pid) - before < 64 << 20
    assert tenants.push(rw.body(one("after")), good)[0] == 200
    names = tenants.api("label/__name__/values", headers=good)["data"]
    assert names == ["after", "before"]
    assert tenants.api("label/__name__/values", headers=bad)["data"] == []


def test_valid_series_of_a_bad_request_are_kept(brunn):
    status, text = brunn.push(rw.body(one("ok1"), one("a-b"), one("ok2"), rw.series({"x": "y"}, [(NOW, 1)])))
    assert status == 400 and "'a-b'" in text and "has no metric name" not in text
    assert brunn.api("label/__name__/values")["data"] == ["ok1", "ok2"]
    for reason in ("metric_name_invalid", "missing_metric_name"):
        assert brunn.metric("cortex_discarded_samples_total", reason=reason, user="anonymous") == 1


@pytest.mark.parametrize("header, status, text", [
    (None, 401, "no org id\n"),
    ("", 401, "no org id\n"),
    ("x" * 150, 200, ""),
    ("x" * 151, 401, "tenant ID is too long: max 150 characters\n"),
    (".", 401, "tenant ID is '.' or '..'\n"),
    ("..", 401, "tenant ID is '.' or '..'\n"),
    ("a/b", 401, "tenant ID 'a/b' contains unsupported character '/'\n"),
    ("a b", 401, "tenant ID 'a b' contains unsupported character ' '\n"),
    ("a|b", 422, "too many tenant IDs present in the request. max: 1 actual: 2\n"),
    ("a|a", 200, ""),
    ("a:k=v", 200, ""),
    ("!._*'()-09azAZ", 200, ""),
    ("__mimir_cluster", 401, None),
    ("|", 401, None),
    (":k=v", 401, None),
])
def test_tenants(shared_tenants, header, status, text):
    got = shared_tenants.push(rw.body(one()), {} if header is None else {"X-Scope-OrgID": header})
    assert got[0] == status, got
    if text is not None:
        assert got[1] == text


@pytest.fixture(scope="module")
def shared_tenants(tmp_path_factory):
    from process import Brunn
    b = Brunn(tmp_path_factory.mktemp("tenants"), multitenancy=True)
    yield b
    b.stop()


def test_odd_but_good_pushes(brunn):
    unsorted = rw.field(1, rw.label("z", "1") + rw.label("__name__", "unsorted") + rw.label("a", "") + rw.sample(7, NOW))
    for data, headers in [
        (rw.body(), {}),
        (rw.body(unsorted), {}),
        (rw.body(one("ct")), {"Content-Type": "text/plain"}),
        (rw.body(one("ce")), {"Content-Encoding": "gzip"}),
        (rw.body(one("unknown") + rw.field(99, "x")), {}),
        (rw.body(rw.series({"__name__": "dup"}, [(NOW, 1), (NOW, 2)])), {}),
    ]:
        assert brunn.push(data, headers) == (200, "")
    assert brunn.query('unsorted{z="1",a=""}', NOW / 1000)[0]["metric"] == {"__name__": "unsorted", "z": "1"}
    assert brunn.query("dup", NOW / 1000)[0]["value"][1] == "1"


def test_wrong_content_types_and_methods(brunn):
    status, text = brunn.push(rw.body(one("wrong")), {"Content-Type": "application/x-protobuf;proto=foo.Bar"})
    assert status == 400 and "expected prometheus.WriteRequest or io.prometheus.write.v2.Request" in text
    assert brunn.query("wrong", NOW / 1000) == []
    status, headers, _ = brunn.request("GET", "/api/v1/push")
    assert status == 405 and headers["Allow"] == "POST"


def test_values_survive_to_the_bit(brunn):
    values = [0.0, -0.0, 1.5, -1e300, 5e-324, 1 / 3, float("inf"), float("-inf"), float("nan"), 2**53 + 2.0]
    brunn.push(rw.body(rw.series({"__name__": "bits"}, [(NOW + i * 1000 - 20_000, v) for i, v in enumerate(values)])))
    got = [v for _, v in brunn.query("bits[1m]", NOW / 1000)[0]["values"]]
    for text, value in zip(got, values, strict=True):
        assert struct.pack("<d", float(text)) == struct.pack("<d", value) or (value != value and text == "NaN")


def test_stale_markers_metadata_exemplars_histograms(brunn):
    stale = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
    brunn.push(rw.body(
        rw.series({"__name__": "gone"}, [(NOW - 2000, 1), (NOW - 1000, stale)]),
        rw.series({"__name__": "h"}, [], rw.int_histogram(NOW - 1000, 6, 10.5, 0, 0.001, 2, [(0, 2)], [1, 2])),
        rw.metadata(1, "requests_total", "Requests.", "requests")))
    assert brunn.query("gone", NOW / 1000) == []
    assert brunn.query("gone", (NOW - 1500) / 1000)[0]["value"][1] == "1"
    assert brunn.api("metadata")["data"] == {"requests_total": [{"type": "counter", "help": "Requests.", "unit": "requests"}]}
    histogram = brunn.query("h", NOW / 1000)[0]["histogram"][1]
    assert histogram["count"] == "6" and histogram["sum"] == "10.5"
    assert brunn.query("histogram_count(h)", NOW / 1000)[0]["value"][1] == "6"


def test_rate_limit(tmp_path):
    from process import Brunn
    b = Brunn(tmp_path, "-distributor.ingestion-rate-limit=1", "-distributor.ingestion-burst-size=3")
    status, headers, text = b.request("POST", "/api/v1/push", rw.body(*(one(f"m{i}") for i in range(4))))
    assert status == 429 and int(headers["Retry-After"]) >= 6
    assert "the ingestion burst size limit, set to 3, with 4 items" in text.decode()
    assert b.push(rw.body(one("a"), one("b"), one("c")))[0] == 200
    assert b.push(rw.body(one("d")))[0] == 429
    b.stop()
