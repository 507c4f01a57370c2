"""Queries of death: each ends with its named error or an answer, memory stays near the limit, and another tenant goes on meanwhile.

Nothing here is timed but the end of abandoned queries, and that generously: the machine may be busy and the build one with sanitizers.
"""

import json
import random
import socket
import threading
import time
import urllib.parse

import pytest

import remote_write as rw
from process import Brunn, memory, wait_until

LIMIT = 32 << 20
SERIES = 1000
METRICS = 10
SAMPLES = 240
MEMORY = "err-mimir-max-estimated-memory-consumption-per-query"
HEAVY = {"X-Scope-OrgID": "heavy"}
SMALL = {"X-Scope-OrgID": "small"}


class Load:
    """A process with some data of the tenant "heavy", four hours at a minute's distance, and a place for questions to it."""

    def __init__(self, folder, *flags):
        self.brunn = Brunn(folder, f"-querier.max-estimated-memory-consumption-per-query={LIMIT}", "-ingester.out-of-order-time-window=1d",
                           *flags, multitenancy=True)
        self.end = int(time.time())
        first = (self.end - SAMPLES * 60) * 1000
        for k in range(0, SERIES, 100):
            body = rw.body(*(rw.series({"__name__": f"m{i % METRICS}", "i": str(i), "job": f"j{i % 7}", "pod": "a" * (i % 50) + "b"},
                                       [(first + s * 60_000, float(i * s)) for s in range(SAMPLES)]) for i in range(k, k + 100)))
            status, text = self.brunn.push(body, HEAVY)
            assert status == 200, text

    def ask(self, expr, seconds=None, step="1s", tenant=HEAVY, **params):
        """(status, text): an instant query, or one over so many seconds."""
        form = {"query": expr, **params}
        if seconds:
            form.update(start=self.end - seconds, end=self.end, step=step)
        status, _, body = self.brunn.request("POST", "/prometheus/api/v1/" + ("query_range" if seconds else "query"), urllib.parse.urlencode(form),
                                             {**tenant, "Content-Type": "application/x-www-form-urlencoded"})
        return status, body.decode()


@pytest.fixture
def load(tmp_path):
    load = Load(tmp_path)
    yield load
    load.brunn.stop()


def balanced(items, op):
    """As deep as needed and no deeper: what has this many sides and still can be parsed."""
    items = list(items)
    while len(items) > 1:
        items = ["(" + op.join(items[i:i + 2]) + ")" for i in range(0, len(items), 2)]
    return items[0]


ALL = '{__name__=~".+"}'
LONG = 10_990

# What it is: text, seconds (None: an instant query), (status, a word of the error) or None for any answer.
DEATHS = {
    "all series at 1 s": (ALL, LONG, (422, MEMORY)),
    "quantile of all": (f"quantile(0.5, {ALL})", LONG, (422, MEMORY)),
    "quantile of windows": (f"sum(quantile_over_time(0.5, {ALL}[4h]))", 60, (200, "")),
    "many to many": ("m1 * on (job) m2", LONG, (422, "found duplicate series")),
    "group_left": ('{__name__=~"m[0-4]"} * on (i) group_left {__name__=~"m[0-4]"}', LONG, (422, MEMORY)),
    "topk": (f"topk(1000, {ALL})", LONG, (422, MEMORY)),
    "count_values": (f'count_values("v", {ALL})', LONG, (422, MEMORY)),
    "or, a chain of 10^4": (" or ".join(f"x{i}" for i in range(10_000)), 600, (400, "nested too deeply")),
    "or, a tree of 10^4": (balanced((f"x{i}" for i in range(10_000)), " or "), 600, (200, "")),
    "or, a tree of 10^5": (balanced((f"x{i}" for i in range(100_000)), " or "), 600, (400, "too large to be parsed")),
    "or, a tree of 5*10^4": (balanced((f"x{i}" for i in range(50_000)), " or "), 600, (422, MEMORY)),
    "or of what is there": (" or ".join(["m1"] * 900), LONG, (422, MEMORY)),
    "+, a tree of 5*10^4": (balanced(["1"] * 50_000, "+"), None, (200, "")),
    "+ over steps": (balanced(["time()"] * 10_000, "+"), LONG, (422, MEMORY)),
    "alternatives": ('{__name__=~"' + "|".join(f"x{i}" for i in range(50_000)) + '"}', None, (200, "")),
    "(a+)+$": ('{pod=~"(a+)+$"}', None, (200, "")),
    "(a|aa)+$": ('count({pod=~"(a|aa)+$"})', LONG, (200, "")),
    "counted repetition": ('{pod=~"((a{1,100}){1,100}){1,100}"}', None, (400, "invalid repeat count")),
    "label_replace": ('count(label_replace(m1, "x", "$1", "pod", "(a+)+(b*)+$"))', LONG, (200, "")),
    "10^5 regexes": ("m1{" + ",".join(f'l{i}=~"x.*y|z"' for i in range(50_000)) + "}", None, (400, "too large to be parsed")),
    "10^5 names": ("sum by (" + ",".join(f"l{i}" for i in range(50_000)) + ") (m1)", None, (200, "")),
    "subqueries in subqueries": ("sum_over_time(sum_over_time(sum_over_time(" + ALL + "[1h:1s])[1h:1s])[1h:1s])", None, (422, MEMORY)),
    "a subquery of 1 ms": ("max_over_time(vector(1)[1d:1ms])", None, (422, "too many samples")),
    "1 MB: a name": ("a" * (1 << 20), None, (200, "")),
    "1 MB: brackets": ("(" * 500_000 + "1" + ")" * 500_000, None, (400, "nested too deeply")),
    "1 MB: signs": ("-" * (1 << 20) + "1", None, (400, "nested too deeply")),
    "1 MB: a sum": ("+".join(["1"] * 500_000), None, (400, "nested too deeply")),
    "1 MB: no PromQL": ("\u00ff{" * 400_000, None, (400, "unexpected character")),
    "deep": ("abs(" * 100_000 + "m1" + ")" * 100_000, None, (400, "nested too deeply")),
    "nearly too deep": ("sum(" * 900 + "m1" + ")" * 900, LONG, None),
}


def check(name, expected, status, text):
    answer = json.loads(text)
    assert answer["status"] == ("success" if status == 200 else "error"), text[:500]
    if expected:
        assert status == expected[0] and (status == 200 or expected[1] in answer["error"]), (name, status, text[:500])
    else:
        assert status in (200, 422), (name, status, text[:500])


class Bystander(threading.Thread):
    """The other tenant: pushes and asks, one after the other, until told to stop."""

    def __init__(self, load):
        super().__init__()
        self.load, self.stopping, self.rounds, self.failure = load, False, 0, None

    def run(self):
        t = 0
        try:
            while not self.stopping:
                t = max(int(time.time() * 1000), t + 1)  # a round may take less than a millisecond
                status, text = self.load.brunn.push(rw.body(rw.series({"__name__": "alive"}, [(t, float(self.rounds))])), SMALL)
                assert status == 200, text
                status, text = self.load.ask("alive", tenant=SMALL, time=t / 1000)
                assert status == 200, text
                assert float(json.loads(text)["data"]["result"][0]["value"][1]) >= self.rounds, text
                self.rounds += 1
        except BaseException as e:  # handed to the test's thread
            self.failure = e

    def end(self):
        self.stopping = True
        self.join()
        if self.failure:
            raise self.failure
        assert self.rounds > 0


def test_each_query_of_death_ends_with_its_error_within_its_memory(load):
    bystander = Bystander(load)
    bystander.start()
    # The process, its other threads, the text of request and answer, and what the allocator has not given back yet.
    allowed = memory(load.brunn.pid) + 2 * LIMIT + (160 << 20)
    for name, (expr, seconds, expected) in DEATHS.items():
        check(name, expected, *load.ask(expr, seconds))
        assert memory(load.brunn.pid, "VmHWM") < allowed, name
    bystander.end()


def test_a_hundred_at_once(load):
    """As many queries run at a time as there are workers; the others wait, and none is forgotten."""
    bystander = Bystander(load)
    bystander.start()
    names = [n for n in DEATHS if not n.startswith("1 MB")] * 5
    random.Random(1).shuffle(names)
    failures, lock = [], threading.Lock()

    def ask_one(name):
        expr, seconds, expected = DEATHS[name]
        try:
            check(name, expected, *load.ask(expr, seconds))
        except BaseException as e:  # handed to the test's thread
            with lock:
                failures.append((name, e))

    threads = [threading.Thread(target=ask_one, args=(name,)) for name in names]
    assert len(threads) >= 100
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    bystander.end()
    assert not failures, failures[:3]
    assert load.brunn.alive()


def in_progress(brunn):
    return brunn.metric("cortex_query_frontend_queries_in_progress")


def send_and_leave(load, expr):
    """Asks and, once the query runs, closes the connection without having read an answer."""
    before = in_progress(load.brunn)
    form = urllib.parse.urlencode({"query": expr, "start": load.end - LONG, "end": load.end, "step": "1s"}).encode()
    with socket.create_connection(("127.0.0.1", load.brunn.port)) as s:
        s.sendall(b"POST /prometheus/api/v1/query_range HTTP/1.1\r\nHost: x\r\nX-Scope-OrgID: heavy\r\n"
                  b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n" % len(form) + form)
        wait_until("the query to run", 60, lambda: in_progress(load.brunn) > before)
        time.sleep(0.3)


# Each needs minutes when it is left alone, in loops of the engine that are quite different.
ENDLESS = {
    "windows of a few long series": "sum(quantile_over_time(0.5, dense[4h]))",
    "least squares": "sum(deriv(dense[4h]) + predict_linear(dense[4h], 60) + stddev_over_time(dense[4h]))",
    "windows of a subquery": "quantile_over_time(0.3, sum(dense)[4h:1s])",
}


@pytest.fixture
def dense(load):
    """Series with a sample a second."""
    first = (load.end - 14_400) * 1000
    for i in range(8):
        status, text = load.brunn.push(rw.body(rw.series({"__name__": "dense", "i": str(i)},
                                                         [(first + s * 1000, float(s * 7919 % 10_007)) for s in range(14_400)])), HEAVY)
        assert status == 200, text
    return load


@pytest.mark.parametrize("what", ENDLESS)
def test_a_query_ends_when_nobody_listens_any_more(dense, what):
    send_and_leave(dense, ENDLESS[what])
    wait_until("the abandoned query to end", 5, lambda: in_progress(dense.brunn) == 0)


@pytest.mark.parametrize("what", ENDLESS)
def test_a_query_ends_at_its_deadline(dense, what):
    began = time.monotonic()
    status, text = dense.ask(ENDLESS[what], LONG, timeout="300ms")
    assert status == 503 and json.loads(text)["errorType"] == "timeout", text[:500]
    assert time.monotonic() - began < 5
