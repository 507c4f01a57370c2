"""Remote read as a real Mimir answers it: the same series and samples in both forms, and the same statuses and texts."""

import time

import pytest
import snappy

import remote_write as rw
from process import Brunn
from test_mimir import mimir  # noqa: F401
from test_remote_read import int_matcher_request, matcher, read_frames, read_samples, request, wire

TENANT = {"X-Scope-OrgID": "rr"}


class Peer:
    """What read_samples and read_frames want of a server."""

    def __init__(self, port):
        self.port = port

    def request(self, method, path, body=None):
        return wire(self.port, method, path, body, TENANT)


@pytest.fixture(scope="module")
def both(mimir, tmp_path_factory):  # noqa: F811
    """(Brunn, Mimir, first and last time) with the same data."""
    brunn = Brunn(tmp_path_factory.mktemp("brunn"), multitenancy=True)
    last = int(time.time()) * 1000 // 1000 * 1000
    first = last - 299 * 1000
    data = b"".join(rw.series({"__name__": "rr", "i": str(i)}, [(first + k * 1000, i + k * 17 % 13) for k in range(300)]) for i in range(20))
    data += rw.field(1, rw.labels_bytes({"__name__": "rr_hist"}) +
                     b"".join(rw.int_histogram(first + k * 1000, 3 + k, 10.5 + k, 1, 0.001, 1, [(0, 2)], [1 + k, -k]) for k in range(50)))
    headers = {**TENANT, "Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
    for port in (brunn.port, mimir):
        assert wire(port, "POST", "/api/v1/push", snappy.compress(data), headers)[0] == 200
    yield Peer(brunn.port), Peer(mimir), first, last
    brunn.stop()


def test_both_forms_have_the_same_data(both):
    brunn, peer, first, last = both
    for start, end, ms in ((first, last, [matcher("__name__", "rr")]), (first + 50500, first + 100500, [matcher("__name__", "rr.*", 2), matcher("i", "7", 1)])):
        ours, theirs = (read_samples(p, request(start, end, *ms)) for p in (brunn, peer))
        assert ours and ours == sorted(theirs, key=lambda s: sorted(s[0].items()))
    ours, theirs = (read_frames(p, request(first, last, matcher("__name__", "rr.*", 2), streamed=True)) for p in (brunn, peer))
    assert [labels for labels, _ in ours] == [labels for labels, _ in theirs]
    for (_, mine), (_, other) in zip(ours, theirs):
        assert (mine[0][0], mine[-1][1], {c[2] for c in mine}) == (other[0][0], other[-1][1], {c[2] for c in other})


@pytest.mark.parametrize("name,body", [
    ("no queries", snappy.compress(b"")),
    ("no matchers", snappy.compress(rw.field(1, b"\x08\x01\x10\x02"))),
    ("end before start", request(2000, 1000, matcher("__name__", "rr"))),
    ("unknown type", snappy.compress(b"\x10\x07")),
    ("no snappy", b"\xff\xff\xff"),
    ("no protobuf", snappy.compress(b"\x0a\x05")),
    ("bad regex", request(1, 2, matcher("a", "(", 2))),
    ("bad matcher type", int_matcher_request(9)),
    ("empty", b""),
])
def test_statuses_and_texts_are_the_same(both, name, body):
    brunn, peer, _, _ = both
    ours, theirs = (p.request("POST", "/prometheus/api/v1/read", body) for p in (brunn, peer))
    assert (ours[0], ours[2]) == (theirs[0], theirs[2]), name
    for header in ("Content-Type", "Content-Encoding"):
        assert ours[1].get(header) == theirs[1].get(header), name
