"""kill -9 at random moments under full-rate writes: every acknowledged sample is there exactly once, none that was never sent."""

import http.client
import random
import threading
import time

import remote_write as rw
from process import Brunn

SERIES_PER_WRITER = 40
WRITERS = 4
STEP_MS = 10


class Writer(threading.Thread):
    """Pushes one sample of each of its series after the other, as fast as they are acknowledged, until the server goes."""

    def __init__(self, port, number, first_step, start_ms):
        super().__init__()
        self.port, self.number, self.start_ms = port, number, start_ms
        self.step = first_step
        self.acknowledged = []  # steps answered with 200
        self.sent = first_step  # every step below this was sent
        self.labels = [rw.labels_bytes({"__name__": "crash", "w": str(number), "s": str(s), "pad": "x" * 60})
                       for s in range(SERIES_PER_WRITER)]

    def value(self, series, step):
        return step * 1000.0 + series

    def body(self, step):
        t = self.start_ms + step * STEP_MS
        return rw.body(*(rw.series(labels, [(t, self.value(s, step))]) for s, labels in enumerate(self.labels)))

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            while True:
                step, self.sent = self.sent, self.sent + 1
                connection.request("POST", "/api/v1/push", self.body(step), {"Content-Type": "application/x-protobuf"})
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    self.acknowledged.append(step)
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()


def verify(brunn, writer, first_step):
    """What the store holds of this writer's steps from first_step on, against what was acknowledged and sent."""
    first_ms = writer.start_ms + first_step * STEP_MS
    last_ms = writer.start_ms + writer.sent * STEP_MS
    window = last_ms - first_ms + STEP_MS  # left-open: one step more
    result = brunn.query(f'crash{{w="{writer.number}"}}[{window}ms]', last_ms / 1000)
    stored = {int(r["metric"]["s"]): r["values"] for r in result}
    for s in range(SERIES_PER_WRITER):
        steps = [round((t * 1000 - writer.start_ms) / STEP_MS) for t, _ in stored.get(s, [])]
        assert len(steps) == len(set(steps)), "a sample is there twice"
        lost = set(writer.acknowledged) - set(steps)
        assert not lost, f"writer {writer.number} series {s}: lost {sorted(lost)[:5]} of {len(writer.acknowledged)} acknowledged"
        invented = [k for k in steps if not first_step <= k < writer.sent]
        assert not invented, f"writer {writer.number} series {s}: never sent {invented[:5]}"
        for (_, text), step in zip(stored.get(s, []), steps):
            assert float(text) == writer.value(s, step)
    return len(writer.acknowledged) * SERIES_PER_WRITER


def test_kill_9_loses_nothing(tmp_path, request):
    rounds = request.config.getoption("--rounds")
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    start_ms = int(time.time() * 1000) - 3_500_000
    # Small segments and frequent checkpoints, so that kills hit rolls and checkpoints too.
    flags = ["-ingest-storage.embedded.segment-size-bytes=16MiB", "-ingester.checkpoint-interval=300ms"]
    brunn = Brunn(tmp_path, *flags)
    next_step, kept, totals = [0] * WRITERS, 0, [0] * WRITERS
    for _ in range(rounds):
        writers = [Writer(brunn.port, w, next_step[w], start_ms) for w in range(WRITERS)]
        for w in writers:
            w.start()
        time.sleep(rng.uniform(0.05, 0.9))
        brunn.kill()
        for w in writers:
            w.join()
        brunn.check_clean()
        brunn = Brunn(tmp_path, *flags)
        for w in writers:
            kept += verify(brunn, w, next_step[w.number])
            totals[w.number] += len(w.acknowledged)
            next_step[w.number] = w.sent
    # And over all rounds: nothing of an earlier one went later.
    for w in range(WRITERS):
        counts = brunn.query(f'count_over_time(crash{{w="{w}"}}[2h])', (start_ms + next_step[w] * STEP_MS) / 1000)
        assert len(counts) == SERIES_PER_WRITER
        assert all(totals[w] <= int(c["value"][1]) <= next_step[w] for c in counts)
    brunn.stop()
    print(f"{rounds} rounds, {kept} acknowledged samples, 0 lost")


def test_kill_9_during_a_stop(tmp_path):
    """SIGTERM, and SIGKILL in the middle of the last checkpoint."""
    start_ms = int(time.time() * 1000) - 3_500_000
    rng = random.Random(7)
    step = 0
    brunn = Brunn(tmp_path)
    for _ in range(5):
        writer = Writer(brunn.port, 0, step, start_ms)
        writer.start()
        time.sleep(0.3)
        brunn.process.terminate()
        time.sleep(rng.uniform(0, 0.3))
        brunn.kill()
        writer.join()
        brunn = Brunn(tmp_path)
        verify(brunn, writer, step)
        step = writer.sent
    brunn.stop()
