"""Load for a cluster, and the judgement of it: writers that know what was acknowledged, readers that know every right answer, an audit.

A writer's series have one sample a step, whose value says which series and step it is. It goes on to the next step only when the last one was
acknowledged, trying again as a Prometheus does, so that everything up to its last acknowledged step must be there: an answer about steps before
that has one right form, and what is more or less than it is wrong.
"""

import http.client
import json
import random
import threading
import time
import urllib.parse

import remote_write as rw

WRITERS = 4
SERIES = 50
STEP_MS = 100
READERS = 10
QUERIES_PER_SECOND = 20
# After this long whatever was acknowledged must be in every answer; those who cannot wait say X-Read-Consistency: strong.
SETTLED_S = 3.0
PUSH_HEADERS = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "0.1.0"}


class Connection:
    """A kept connection to host:port that is made anew when it broke."""

    def __init__(self, port, timeout):
        self.port, self.timeout, self.http, self.used_at = port, timeout, None, 0.0

    def request(self, method, path, body=None, headers=None):
        """(status, bytes); an OSError or HTTPException when there was no answer."""
        if time.monotonic() - self.used_at > 30:
            self.close()  # the server closes those that nobody uses
        self.used_at = time.monotonic()
        if self.http is None:
            self.http = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        try:
            self.http.request(method, path, body, headers or {})
            answer = self.http.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    def close(self):
        if self.http is not None:
            self.http.close()
            self.http = None


class Writer(threading.Thread):
    def __init__(self, port, run, number):
        super().__init__(name=f"writer {number}", daemon=True)
        self.connection = Connection(port, 30)
        self.run_name, self.number = run, number
        self.start_ms = int(time.time() * 1000) // STEP_MS * STEP_MS
        self.acknowledged_at = []  # by step: all steps below its length are acknowledged; monotonic seconds
        self.retries, self.refused, self.slowest_s = 0, [], 0.0
        self.stopping = threading.Event()
        self.labels = [rw.labels_bytes({"__name__": "load", "run": run, "w": str(number), "s": str(s)}) for s in range(SERIES)]

    def value(self, series, step):
        return step * 1000.0 + series

    def t_ms(self, step):
        return self.start_ms + step * STEP_MS

    def run(self):
        while not self.stopping.is_set():
            step = len(self.acknowledged_at)
            ahead_ms = self.t_ms(step) - time.time() * 1000
            if ahead_ms > 0:
                time.sleep(ahead_ms / 1000)
            self.push(rw.body(*(rw.series(l, [(self.t_ms(step), self.value(s, step))]) for s, l in enumerate(self.labels))))
        self.connection.close()

    def push(self, body):
        """Until it is acknowledged; also after the stop, so that nothing is sent and unknown."""
        begin, backoff_s = time.monotonic(), 0.05
        while True:
            try:
                status, answer = self.connection.request("POST", "/api/v1/push", body, PUSH_HEADERS)
            except (OSError, http.client.HTTPException):
                status, answer = 0, b""
            if status == 200:
                break
            if 400 <= status < 500:
                self.refused.append((status, answer))
                self.stopping.set()
                return
            self.retries += 1
            time.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, 1.0)
        self.slowest_s = max(self.slowest_s, time.monotonic() - begin)
        self.acknowledged_at.append(time.monotonic())


class Reader(threading.Thread):
    def __init__(self, port, load, number):
        super().__init__(name=f"reader {number}", daemon=True)
        self.connection, self.load = Connection(port, 130), load
        self.rng = random.Random(number)
        self.stopping = threading.Event()
        self.seconds, self.failed, self.wrong = [], [], []

    def run(self):
        period, next_at = READERS / QUERIES_PER_SECOND, time.monotonic()
        while not self.stopping.is_set():
            self.ask_one()
            next_at = max(next_at + period, time.monotonic() - 5)
            time.sleep(max(0.0, next_at - time.monotonic()))
        self.connection.close()

    def ask_one(self):
        writer = self.rng.choice(self.load.writers)
        strong = self.load.strong and self.rng.random() < 0.3
        last = self.load.settled_step(writer, strong)
        if last < 1:
            return
        if not self.load.recent_only and self.rng.random() < 0.2:
            last = self.rng.randint(1, last)
        question = self.rng.choice((ask_samples, ask_sum, ask_count, ask_range, ask_values))
        path, params, check = question(writer, last, 30 if self.load.recent_only else 600)
        begin, at = time.monotonic(), time.time()
        try:
            headers = {"X-Read-Consistency": "strong"} if strong else {}
            status, text = self.connection.request("GET", f"/prometheus/api/v1/{path}?{urllib.parse.urlencode(params)}", None, headers)
        except (OSError, http.client.HTTPException) as e:
            status, text = 0, repr(e).encode()
        self.seconds.append(time.monotonic() - begin)
        what = (round(at, 2), round(self.seconds[-1], 2), question.__name__, "strong" if strong else "eventual", params)
        if status != 200:
            self.failed.append((*what, status, text[:600].decode(errors="replace")))
            return
        fault = check(json.loads(text)["data"])
        if fault:
            self.wrong.append((*what, fault))


# --- questions: (path, parameters, what says how the answer is wrong) about a writer's steps up to `last`, reaching back `window` steps ---

def selector(writer):
    return f'load{{run="{writer.run_name}",w="{writer.number}"}}'


def seconds(t_ms):
    return f"{t_ms / 1000:.3f}"


def ask_samples(writer, last, window):
    n = min(last, window, 50)
    params = {"query": f"{selector(writer)}[{n * STEP_MS}ms]", "time": seconds(writer.t_ms(last))}
    return "query", params, lambda data: fault_of_samples(writer, data["result"], last - n, last)


def fault_of_samples(writer, result, after, last, series=SERIES):
    """Of a matrix that must hold the steps in (after, last] of each series."""
    stored = {int(r["metric"]["s"]): r["values"] for r in result}
    if len(stored) != series or len(result) != series:
        return f"{len(result)} series instead of {series}"
    for s, values in stored.items():
        want = [(writer.t_ms(k), writer.value(s, k)) for k in range(max(after + 1, 0), last + 1)]
        have = [(round(t * 1000), float(v)) for t, v in values]
        if have != want:
            lost, invented = sorted(set(want) - set(have)), sorted(set(have) - set(want))
            return f"series {s}: {len(have)} samples instead of {len(want)}, missing {lost[:3]}, too many {invented[:3]}"
    return None


def fault_of_points(result, want):
    """Of an answer of one series whose values are known."""
    have = [float(v) for r in result for _, v in (r.get("values") or [r["value"]])]
    return None if len(result) == 1 and have == want else f"{have} instead of {want}"


def ask_sum(writer, last, _):
    params = {"query": f"sum({selector(writer)})", "time": seconds(writer.t_ms(last))}
    want = [sum(writer.value(s, last) for s in range(SERIES))]
    return "query", params, lambda data: fault_of_points(data["result"], want)


def ask_count(writer, last, window):
    n = min(last, window)
    params = {"query": f"sum(count_over_time({selector(writer)}[{n * STEP_MS}ms]))", "time": seconds(writer.t_ms(last))}
    return "query", params, lambda data: fault_of_points(data["result"], [float(SERIES * n)])


def ask_range(writer, last, _):
    first = max(0, last - 20)
    params = {"query": f"max({selector(writer)})", "start": seconds(writer.t_ms(first)), "end": seconds(writer.t_ms(last)), "step": STEP_MS / 1000}
    want = [writer.value(SERIES - 1, k) for k in range(first, last + 1)]
    return "query_range", params, lambda data: fault_of_points(data["result"], want)


def ask_values(writer, last, window):
    params = {"match[]": selector(writer), "start": seconds(writer.t_ms(max(0, last - window))), "end": seconds(writer.t_ms(last))}
    want = sorted(str(s) for s in range(SERIES))
    return "label/s/values", params, lambda data: None if data == want else f"{len(data)} values instead of {len(want)}"


class Load:
    """`with Load(port, "name") as load:` writes and reads until the block ends, then judges: no failed query, no wrong answer, nothing lost."""

    def __init__(self, port, run, read_port=None, recent_only=False):
        """read_port: where to ask, if not where to write. recent_only: nothing older than some seconds is asked for."""
        self.port, self.run, self.recent_only = port, run, recent_only
        self.writers = [Writer(port, run, n) for n in range(WRITERS)]
        self.readers = [Reader(read_port or port, self, n) for n in range(READERS)]
        self.strong, self.horizon = True, None

    def settled_step(self, writer, strong):
        """The last step that every answer must hold."""
        now = time.monotonic()
        until = now if strong else now - SETTLED_S
        if self.horizon is not None:
            until = min(until, self.horizon)
        step = len(writer.acknowledged_at) - 1
        while step >= 0 and writer.acknowledged_at[step] > until:
            step -= 1
        return step

    def ask_only_before_now(self):
        """While the brokers are down nobody can read what was acknowledged last, and a strong read has nobody to ask how far it must go."""
        self.strong, self.horizon = False, time.monotonic() - SETTLED_S
        time.sleep(0.5)  # for those under way

    def ask_everything(self):
        self.strong, self.horizon = True, None

    def __enter__(self):
        for thread in self.writers + self.readers:
            thread.start()
        return self

    def __exit__(self, kind, error, trace):
        for thread in self.readers + self.writers:
            thread.stopping.set()
        for thread in self.readers:
            thread.join(140)
        for thread in self.writers:
            thread.join(120)
        if kind is None:
            self.judge()
        else:
            print(self.report())
        return False

    def steps(self):
        return [len(w.acknowledged_at) for w in self.writers]

    def wait_progress(self, seconds_of_steps=1.0, timeout=30):
        """Until every writer has had this much acknowledged from now on."""
        want = [n + seconds_of_steps * 1000 / STEP_MS for n in self.steps()]
        end = time.monotonic() + timeout
        while any(n < w for n, w in zip(self.steps(), want)):
            assert time.monotonic() < end, f"no progress of the writers within {timeout} s: {self.report()}"
            time.sleep(0.05)

    @property
    def failed(self):
        return sorted((f for r in self.readers for f in r.failed), key=lambda f: f[0])

    @property
    def wrong(self):
        return sorted((f for r in self.readers for f in r.wrong), key=lambda f: f[0])

    def report(self):
        took = sorted(s for r in self.readers for s in r.seconds) or [0.0]
        return (f"{self.run}: {sum(self.steps()) * SERIES} samples acknowledged after {sum(w.retries for w in self.writers)} retries, slowest push "
                f"{max(w.slowest_s for w in self.writers):.2f} s; {len(took)} queries, {len(self.failed)} failed, {len(self.wrong)} wrong, "
                f"p50 {took[len(took) // 2] * 1000:.0f} ms, p99 {took[len(took) * 99 // 100] * 1000:.0f} ms, slowest {took[-1]:.2f} s")

    def judge(self):
        print(self.report())
        refused = [r for w in self.writers for r in w.refused]
        assert not refused, f"pushes were refused: {refused[:3]}"
        assert not self.failed and not self.wrong, \
            f"{len(self.wrong)} wrong answers: {self.wrong[:3]}; {len(self.failed)} queries failed: {self.failed[:3]}"
        if not self.recent_only:
            audit(self.port, self)


def audit(port, load, chunk=600):
    """Every acknowledged sample is there exactly once, and no other one. The load may be running: what is acknowledged later is not looked at."""
    connection = Connection(port, 130)
    for writer in load.writers:
        steps = len(writer.acknowledged_at)
        running = writer.is_alive()
        for first in range(0, steps, chunk):
            n = min(chunk, steps - first)
            # The last one reaches beyond what was sent: nothing may be there.
            last = first + (n if running else chunk) - 1
            params = {"query": f"{selector(writer)}[{(last - first + 1) * STEP_MS}ms]", "time": seconds(writer.t_ms(last))}
            status, text = connection.request("GET", f"/prometheus/api/v1/query?{urllib.parse.urlencode(params)}", None,
                                              {"X-Read-Consistency": "strong"})
            assert status == 200, f"audit: {status} {text[:600]}"
            fault = fault_of_samples(writer, json.loads(text)["data"]["result"], first - 1, first + n - 1)
            assert not fault, f"audit of {load.run}, writer {writer.number}, steps {first} to {first + n - 1} of {steps}: {fault}"
    connection.close()
