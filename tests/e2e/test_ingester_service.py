"""cortex.Ingester of a whole process, asked by a standard gRPC client (grpcio). Messages are made and read by hand, so that nothing is tested with itself."""

import struct
import threading
import time

import grpc
import pytest

import remote_write as rw
from process import Brunn

NOW = int(time.time() * 1000) // 1000 * 1000
SERVICE = "/cortex.Ingester/"
TENANT = (("x-scope-orgid", "t"),)
XOR, FLOAT_HISTOGRAM, EQUAL, REGEX = 4, 6, 0, 2


def after(pushes):
    """Metadata of a read that wants to see this many pushes: each is a record of the only partition."""
    return TENANT + (("__consistency_level__", "strong"), ("__consistency_offsets__", f"v1=0:{pushes - 1}"))


# --- protobuf ---

def varint_field(number, value):
    return rw.uvarint(number << 3) + rw.uvarint(value)


def parse(data):
    """[(field, value)]: ints of varints, bytes of the rest."""
    at, out = 0, []

    def uvarint():
        nonlocal at
        value = shift = 0
        while True:
            value |= (data[at] & 0x7F) << shift
            shift += 7
            at += 1
            if data[at - 1] < 0x80:
                return value

    while at < len(data):
        tag = uvarint()
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            out.append((number, uvarint()))
            continue
        size = uvarint() if wire == 2 else {1: 8, 5: 4}[wire]
        assert at + size <= len(data)
        out.append((number, data[at:at + size]))
        at += size
    return out


def all_of(data, number):
    return [v for n, v in parse(data) if n == number]


def one_of(data, number, default=0):
    return ([default] + all_of(data, number))[-1]


def labels_of(data):
    return {one_of(pair, 1).decode(): one_of(pair, 2).decode() for pair in all_of(data, 1)}


def matcher(kind, name, value):
    return varint_field(1, kind) + rw.field(2, name) + rw.field(3, value)


def query_request(*matchers, start=NOW - 3600000, end=NOW + 3600000, batch=256):
    return (varint_field(1, start) + varint_field(2, end) + b"".join(rw.field(3, m) for m in matchers) +
            rw.uvarint(100 << 3) + rw.uvarint(batch))


# --- calls ---

class Ingester:
    def __init__(self, brunn):
        self.channel = grpc.insecure_channel(f"127.0.0.1:{brunn.grpc_port}")

    def stream(self, method, request, metadata=TENANT, timeout=30):
        return self.channel.unary_stream(SERVICE + method)(request, metadata=metadata, timeout=timeout)

    def unary(self, method, request, metadata=TENANT, timeout=30):
        return self.channel.unary_unary(SERVICE + method)(request, metadata=metadata, timeout=timeout)

    def query(self, *matchers, metadata=TENANT, **params):
        """{labels as sorted tuple: [(encoding, samples)]}, after a look at the stream's order."""
        series, chunks, ended = [], [], False
        for message in self.stream("QueryStream", query_request(*matchers, **params), metadata):
            if not ended:
                batch = all_of(message, 3)
                assert len(batch) <= 128 and not all_of(message, 5)
                series += batch
                ended = bool(one_of(message, 4))
                assert ended or len(batch) == 128
                continue
            assert not all_of(message, 3)
            assert len(all_of(message, 5)) <= params.get("batch", 256)
            for entry in all_of(message, 5):
                assert one_of(entry, 1) == len(chunks)
                chunks.append([(one_of(c, 3), struct.unpack(">H", one_of(c, 4)[:2])[0]) for c in all_of(entry, 2)])
        assert len(series) == len(chunks)
        labels = [tuple(sorted(labels_of(s).items())) for s in series]
        assert labels == sorted(labels)
        assert [one_of(s, 2) for s in series] == [len(c) for c in chunks]
        return dict(zip(labels, chunks))


@pytest.fixture
def strict(tmp_path):
    """Multitenancy, and little patience."""
    b = Brunn(tmp_path, "-ingest-storage.kafka.wait-strong-read-consistency-timeout=500ms", "-ingester.max-global-exemplars-per-user=100",
              multitenancy=True)
    yield b
    b.stop()


def push(brunn, *messages, tenant="t"):
    assert brunn.push(rw.body(*messages), {"X-Scope-OrgID": tenant}) == (200, "")


def error_of(call):
    with pytest.raises(grpc.RpcError) as error:
        call() if not hasattr(call, "__iter__") else list(call)
    return error.value


# --- what is served ---

def test_query_stream(strict):
    for k in range(4):
        push(strict, *(rw.series({"__name__": "wide", "n": f"{i:03}", "odd": str(i % 2)}, [(NOW + k * 1000, i)]) for i in range(300)))
    ingester = Ingester(strict)
    everything = ingester.query(matcher(EQUAL, "__name__", "wide"), metadata=after(4))
    assert len(everything) == 300
    assert set(map(tuple, everything.values())) == {((XOR, 4),)}
    odd = ingester.query(matcher(EQUAL, "__name__", "wide"), matcher(REGEX, "odd", "[13]"), batch=7)
    assert len(odd) == 150 and odd.keys() <= everything.keys()
    shards = [ingester.query(matcher(EQUAL, "__name__", "wide"), matcher(EQUAL, "__query_shard__", f"{i}_of_4")) for i in (1, 2, 3, 4)]
    assert sum(map(len, shards)) == 300
    assert set().union(*shards) == everything.keys()
    assert ingester.query(matcher(EQUAL, "__name__", "nothing")) == {}
    assert ingester.query(matcher(EQUAL, "__name__", "wide"), start=NOW + 4000) == {}
    assert list(ingester.stream("QueryStream", query_request(), (("x-scope-orgid", "nobody"),))) == []
    http = strict.api("query", {"query": "count(wide)", "time": NOW / 1000 + 3}, {"X-Scope-OrgID": "t"})
    assert http["data"]["result"][0]["value"][1] == "300"


def test_histograms_have_an_encoding_of_their_own(strict):
    push(strict, rw.series({"__name__": "h"}, [], rw.histogram(NOW, 10.0, 0, {0: 1, 1: 2}, {}, 1, 0.001, floats=True)))
    assert Ingester(strict).query(matcher(EQUAL, "__name__", "h"), metadata=after(1)) == {(("__name__", "h"),): [(FLOAT_HISTOGRAM, 1)]}


def test_names_values_series_metadata_and_statistics(strict):
    push(strict, rw.series({"__name__": "a_total", "x": "1"}, [(NOW, 1)]), rw.series({"__name__": "b", "y": "2"}, [(NOW, 1)]),
         rw.metadata(1, "a_total", "Help.", "things"))
    ingester = Ingester(strict)
    times = varint_field(1, NOW - 1000) + varint_field(2, NOW + 1000)
    assert all_of(ingester.unary("LabelNames", times, after(1)), 1) == [b"__name__", b"x", b"y"]
    a = rw.field(1, matcher(EQUAL, "__name__", "a_total"))
    b = rw.field(1, matcher(EQUAL, "__name__", "b"))
    assert all_of(ingester.unary("LabelNames", times + rw.field(3, a)), 1) == [b"__name__", b"x"]
    values = rw.field(1, "__name__") + varint_field(2, NOW - 1000) + varint_field(3, NOW + 1000)
    assert all_of(ingester.unary("LabelValues", values), 1) == [b"a_total", b"b"]
    assert all_of(ingester.unary("LabelValues", values + varint_field(5, 1)), 1) == [b"a_total"]
    series = [labels_of(m) for m in all_of(ingester.unary("MetricsForLabelMatchers", times + rw.field(3, b) + rw.field(3, a) + rw.field(3, b)), 1)]
    assert series == [{"__name__": "a_total", "x": "1"}, {"__name__": "b", "y": "2"}]
    metadata = all_of(ingester.unary("MetricsMetadata", b"\x08\x01\x10\x01"), 1)
    assert [parse(m) for m in metadata] == [[(1, 1), (2, b"a_total"), (4, b"Help."), (5, b"things")]]
    assert one_of(ingester.unary("UserStats", b""), 2) == 2
    assert ingester.unary("UserStats", b"", (("x-scope-orgid", "nobody"),)) == b""
    assert [one_of(s, 1) for s in all_of(ingester.unary("AllUserStats", b""), 1)] == [b"t"]
    items = [i for m in ingester.stream("LabelNamesAndValues", b"") for i in all_of(m, 1)]
    assert {one_of(i, 1): all_of(i, 2) for i in items} == {b"__name__": [b"a_total", b"b"], b"x": [b"1"], b"y": [b"2"]}
    items = [i for m in ingester.stream("LabelValuesCardinality", rw.field(1, "__name__")) for i in all_of(m, 1)]
    assert [(one_of(v, 1), one_of(v, 2)) for i in items for v in all_of(i, 2)] == [(b"a_total", 1), (b"b", 1)]
    active = [labels_of(s) for m in ingester.stream("ActiveSeries", rw.field(1, matcher(REGEX, "y", ".+"))) for s in all_of(m, 1)]
    assert active == [{"__name__": "b", "y": "2"}]


# --- who is served, and how fresh ---

def test_refusals(strict):
    ingester = Ingester(strict)
    request = query_request(matcher(EQUAL, "__name__", "up"))
    cases = [
        ("QueryStream", request, (), grpc.StatusCode.UNKNOWN, "no org id"),
        ("QueryStream", request, (("x-scope-orgid", "a|b"),), grpc.StatusCode.INTERNAL, None),
        ("QueryStream", query_request(matcher(REGEX, "a", "a(")), TENANT, grpc.StatusCode.INTERNAL, "error parsing regexp: missing closing ): `a(`"),
        ("QueryStream", b"\x1a\x7f", TENANT, grpc.StatusCode.INTERNAL, "grpc: error unmarshalling request: unexpected EOF"),
        ("Push", b"", TENANT, grpc.StatusCode.UNIMPLEMENTED, "ingester is configured with Push gRPC method disabled"),
    ]
    for method, message, metadata, code, text in cases:
        error = error_of(ingester.stream(method, message, metadata))
        assert error.code() == code, (method, error)
        assert text is None or error.details() == text
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    details_any = one_of(details, 3)
    assert one_of(details_any, 1) == b"type.googleapis.com/cortexpb.ErrorDetails"
    assert parse(one_of(details_any, 2)) == [(1, 11)]


def test_a_strong_read_sees_every_push_before_it(strict):
    ingester = Ingester(strict)
    for i in range(30):
        push(strict, rw.series({"__name__": "s", "i": f"{i:02}"}, [(NOW, 1)]))
        assert len(ingester.query(matcher(EQUAL, "__name__", "s"), metadata=after(i + 1))) == i + 1


def test_a_strong_read_of_an_offset_that_never_comes_ends(strict):
    begin = time.monotonic()
    error = error_of(Ingester(strict).stream("QueryStream", query_request(), after(1000000)))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.details() == "wait for read consistency: wait strong read consistency timeout exceeded: context deadline exceeded"
    assert 0.4 < time.monotonic() - begin < 10


def test_clients_that_go_in_the_middle_leave_nothing_behind(strict):
    push(strict, *(rw.series({"__name__": "wide", "n": str(i)}, [(NOW, i)]) for i in range(2000)))
    ingester = Ingester(strict)
    assert len(ingester.query(matcher(EQUAL, "__name__", "wide"), metadata=after(1))) == 2000

    def go():
        for _ in range(20):
            call = ingester.stream("QueryStream", query_request(matcher(EQUAL, "__name__", "wide"), batch=1))
            next(call)
            call.cancel()

    threads = [threading.Thread(target=go) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(ingester.query(matcher(EQUAL, "__name__", "wide"))) == 2000
    assert strict.metric("cortex_ingester_queries_total") >= 81
