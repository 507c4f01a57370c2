"""The same pushes into Brunn and into a real Mimir: the same statuses and texts, but where docs/differences.md says otherwise."""

import os
import re
import time
import urllib.error
import urllib.request

import pytest
import snappy

import remote_write as rw
from process import PEERS, ROOT, Brunn, Server, free_port, wait_until
from test_push import BAD_BODIES, NOW, one

# Where we do what is right instead (docs/differences.md), or the row speaks of the classic path's ingester.
DIFFERENT = {"histogram count"}


@pytest.fixture(scope="module")
def mimir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mimir")
    port = free_port()
    with open(os.path.join(ROOT, "..", "shared", "tools", "mimir", "classic.yaml")) as f:
        config = f.read()
    for word, value in {"DATA": str(folder), "HTTP_PORT": str(port), "GRPC_PORT": str(free_port()), "GOSSIP_PORT": str(free_port())}.items():
        config = config.replace(word, value)
    config = config.replace("multitenancy_enabled: false", "multitenancy_enabled: true")
    (folder / "mimir.yaml").write_text(config)
    server = Server([os.path.join(PEERS, "mimir"), f"-config.file={folder}/mimir.yaml"], str(folder / "mimir.log"))

    def ready():
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2).status == 200
        except OSError:
            return False
    try:
        wait_until("Mimir to be ready", 90, ready)
        yield port
    finally:
        server.stop()


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    b = Brunn(tmp_path_factory.mktemp("brunn"), multitenancy=True)
    yield b
    b.stop()


def push(port, data, headers):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/v1/push", data, {"Content-Type": "application/x-protobuf", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode(errors="replace")


CASES = [(name, data) for name, data, _ in BAD_BODIES if name not in DIFFERENT] + [
    ("good", rw.body(one())),
    ("empty message", rw.body()),
    ("two bad, one good", rw.body(one("a-b"), one("ok"), rw.series({"x": "y"}, [(NOW, 1)]))),
    ("label named with a colon", rw.body(one(**{"a:b": "x"}))),
    ("empty label name", rw.body(rw.series(rw.label("__name__", "m") + rw.label("", "x"), [(NOW, 1)]))),
    ("non-ASCII metric name", rw.body(one("h\N{LATIN SMALL LETTER E WITH ACUTE}llo"))),
    ("invalid UTF-8 in a metric name", rw.body(rw.series(rw.label("__name__", b"a\xffb"), [(NOW, 1)]))),
    ("long series text", rw.body(one(**{f"l{i:02}": "x" * 40 for i in range(30)}))),
    ("long metric name", rw.body(one("m" * 3000))),
    ("info series over the limit", rw.body(one("x_info", **{f"l{i:02}": "x" for i in range(85)}))),
    ("schema -5", rw.body(rw.series({"__name__": "h"}, [], rw.int_histogram(NOW, 1, 1.0, -5, 0.0, 0, [(0, 1)], [1])))),
    ("metadata without a name", rw.body(rw.metadata(1, "", "help"))),
    ("metadata with a long name", rw.body(rw.metadata(1, "m" * 1025, "help"))),
    ("metadata with a long unit", rw.body(rw.metadata(1, "mu", "help", "u" * 1025))),
    ("bad metadata and a good series", rw.body(one("with_meta"), rw.metadata(1, "", "help"))),
    ("RW2 body as RW1", snappy.compress(rw.field(4, ""))),
    ("group wire type", snappy.compress(b"\x0c")),
    ("negative length", snappy.compress(b"\x0a" + b"\xff" * 9 + b"\x01")),
    ("overlong varint", snappy.compress(b"\x0a" + b"\xff" * 11)),
    ("cut label", snappy.compress(rw.field(1, b"\x0a\x05\x0a"))),
    ("wrong wire type in a sample", snappy.compress(rw.field(1, rw.label("__name__", "m") + rw.field(2, b"\x08\x01")))),
]


@pytest.mark.parametrize("data", [c[1] for c in CASES], ids=[c[0] for c in CASES])
def test_pushes_are_answered_alike(mimir, ours, data):
    headers = {"X-Scope-OrgID": f"t{time.monotonic_ns()}"}
    assert push(ours.port, data, headers) == push(mimir, data, headers)


@pytest.mark.parametrize("tenant", ["", "x" * 150, "x" * 151, ".", "..", "a/b", "a b", "a,b", "a%b", "a|b", "a|a", "a:k=v", "!._*'()-", "\xe9", "\xc3\xa4"])
def test_tenants_are_judged_alike(mimir, ours, tenant):
    headers = {"X-Scope-OrgID": tenant}
    assert push(ours.port, rw.body(one()), headers) == push(mimir, rw.body(one()), headers)


# But for what docs/differences.md names.
QUERIES = [
    ("query", "query="), ("query", "query=q_m%7B"), ("query", "query=sum(q_m"), ("query", "query=rate(q_m)"), ("query", "query=foo()"),
    ("query", "query=%7B%7D"), ("query", "query=q%7Ba%3D~%22(%22%7D"), ("query", "query=sort_by_label(up,%22a%22)"),
    ("query_range", "query=up&start=0&end=10"), ("query_range", "query=up&start=10&end=0&step=1"), ("query_range", "query=up&start=0&end=10&step=0"),
    ("query_range", "query=up&start=0&end=11001&step=1"), ("query_range", "query=%22a%22&start=0&end=1&step=1"), ("query_range", "query=up&end=1&step=1"),
    ("query_range", "query=up&start=foo&end=1&step=1"), ("query_range", "query=up&start=0&end=1&step=foo"),
    ("query", "query=vector(1e21)"), ("query", "query=vector(1%2F3)&time=1.5"), ("query", "query=%22a%3Cb%3E%22&time=1"), ("query", "query=quantile(2,vector(1))&time=1"),
    ("labels", ""), ("labels", "match%5B%5D=up%7B"), ("labels", "start=10&end=1"), ("labels", "limit=x"), ("label/a-b/values", ""),
    ("series", ""), ("series", "match%5B%5D=up%7B"), ("series", "match%5B%5D=%7B%7D"), ("metadata", ""),
    ("format_query", "query=sum(rate(x%5B5m%5D))by(a)"), ("format_query", "query=sum("),
]


def get(port, path):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/prometheus/api/v1/{path}", headers={"X-Scope-OrgID": "empty"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


@pytest.mark.parametrize("path, params", QUERIES)
def test_queries_are_answered_alike(mimir, ours, path, params):
    # An evaluation time that the request did not give is the moment of the call.
    now = re.compile(r"\b1[0-9]{9}(\.[0-9]+)?\b")
    mine, other = get(ours.port, f"{path}?{params}"), get(mimir, f"{path}?{params}")
    assert (mine[0], now.sub("NOW", mine[1])) == (other[0], now.sub("NOW", other[1]))
