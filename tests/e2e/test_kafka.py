"""One process with its log in a real Apache Kafka: what was acknowledged is there, whoever dies."""

import base64
import itertools
import json
import random
import subprocess
import threading
import time

import pytest
import snappy

import remote_write as rw
from kafka_brokers import Brokers
from kafka_server import PASSWORD, USER
from process import BRUNN, Brunn, free_port, wait_until
from test_crash import WRITERS, Writer, verify

topics = (f"ingest-{n}" for n in itertools.count())


# One process is a whole cluster: it owns the partition that its instance id's number says, and keeps the rings to itself. Who asks what was just acknowledged
# wants a strong read; while brokers are away there are eventual ones only.
ALONE_RINGS = ("ingester.ring", "distributor.ring", "store-gateway.sharding-ring", "compactor.ring")
ALONE = ["-ingester.ring.instance-id=ingester-0", "-ingester.ring.min-ready-duration=0s", "-ingester.partition-ring.min-partition-owners-duration=0s",
         "-ingester.partition-ring.store=inmemory", "-ingest-storage.read-consistency=strong",
         *(f"-{ring}.{flag}" for ring in ALONE_RINGS for flag in ("store=inmemory", "instance-addr=127.0.0.1"))]


def flags_of(kafka, *more):
    return [f"-ingest-storage.kafka.address={kafka.address}", f"-ingest-storage.kafka.topic={next(topics)}",
            "-ingest-storage.kafka.auto-create-topic-default-partitions=2", "-ingest-storage.kafka.write-timeout=3s",
            "-ingester.checkpoint-interval=300ms", *ALONE, *more]


def topic_of(flags):
    return flags[1].split("=")[1]


def one_sample(i, t_ms):
    return rw.series({"__name__": "x", "i": str(i * 7919)}, [(t_ms, float(i))])


def test_records_are_what_mimir_writes(kafka, tmp_path):
    flags = flags_of(kafka)
    now_ms = int(time.time() * 1000)
    brunn = Brunn(tmp_path, *flags, multitenancy=True)
    sent = {}
    for i in range(16):
        plain = one_sample(i, now_ms)
        assert brunn.push(snappy.compress(plain), {"X-Scope-OrgID": "tenant-a"}) == (200, "")
        sent[plain] = i
    # A query sees what was acknowledged before it.
    result = brunn.api("query", {"query": "sum(x)", "time": now_ms / 1000}, {"X-Scope-OrgID": "tenant-a"})
    assert result["data"]["result"][0]["value"][1] == "120"
    brunn.stop()
    stored = [kafka.records(topic_of(flags), p) for p in (0, 1)]
    assert [len(r) > 0 for r in stored] == [True, False], "the process owns partition 0 only"
    for records in stored:
        assert [r[0] for r in records] == list(range(len(records)))
        for _, key, headers, t_ms, value in records:
            assert key == "tenant-a" and headers == ""
            assert abs(t_ms - now_ms) < 30_000
            del sent[value]  # the client's message, byte for byte
    assert not sent


def test_restarts_go_on_where_they_were(kafka, tmp_path):
    flags = flags_of(kafka)
    now_ms = int(time.time() * 1000)
    for i in range(4):
        brunn = Brunn(tmp_path, *flags)
        assert brunn.push(rw.body(one_sample(i, now_ms)))[0] == 200
        assert brunn.query("count(x)", now_ms / 1000)[0]["value"][1] == str(i + 1)
        (brunn.kill if i % 2 else brunn.stop)()
    # Without its data folder it reads everything again.
    brunn = Brunn(tmp_path / "other", *flags)
    assert brunn.query("count(x)", now_ms / 1000)[0]["value"][1] == "4"
    brunn.stop()


def test_records_of_other_writers(kafka, tmp_path):
    """One without a key, one that is no request and an empty one are passed over; the next one is there."""
    flags = flags_of(kafka)
    now_ms = int(time.time() * 1000)
    brunn = Brunn(tmp_path, *flags)
    topic, good = topic_of(flags), tmp_path / "good"
    good.write_bytes(one_sample(7, now_ms))
    kafka.kcat("-P", "-t", topic, "-p", "0", "-k", "anonymous", data=b"no request\n")
    kafka.kcat("-P", "-t", topic, "-p", "0", data=b"no key\n")
    kafka.kcat("-P", "-t", topic, "-p", "0", "-k", "anonymous", "-Z", data=b"\n")
    kafka.kcat("-P", "-t", topic, "-p", "0", "-k", "anonymous", "-H", "Version=short", str(good))
    kafka.kcat("-P", "-t", topic, "-p", "0", "-k", "anonymous", "-H", "version=any", "-X", "compression.codec=lz4", str(good))
    wait_until("the good record", 10, lambda: brunn.query("x", now_ms / 1000))
    brunn.stop()


def test_kill_9_loses_nothing(kafka, tmp_path):
    rng = random.Random(11)
    flags = flags_of(kafka)
    start_ms = int(time.time() * 1000) - 3_500_000
    next_step = [0] * WRITERS
    brunn = Brunn(tmp_path, *flags)
    for _ in range(4):
        writers = [Writer(brunn.port, w, next_step[w], start_ms) for w in range(WRITERS)]
        for w in writers:
            w.start()
        time.sleep(rng.uniform(0.3, 1.2))
        brunn.kill()
        for w in writers:
            w.join()
        brunn.check_clean()
        assert all(w.acknowledged for w in writers)
        brunn = Brunn(tmp_path, *flags)
        for w in writers:
            verify(brunn, w, next_step[w.number])
            next_step[w.number] = w.sent
    brunn.stop()


def ask_eventual(brunn, t):
    answer = brunn.api("query", {"query": "count(crash)", "time": t}, {"X-Read-Consistency": "eventual"})
    assert answer["http_status"] == 200, answer
    return answer["data"]["result"]


def under_load(kafka, tmp_path, break_it, heal_it):
    """Pushes all the while. While it is broken they fail with 503 in bounded time and queries go on; then everything heals."""
    flags = flags_of(kafka)
    start_ms = int(time.time() * 1000) - 3_500_000
    brunn = Brunn(tmp_path, *flags)
    writers = [Writer(brunn.port, w, 0, start_ms) for w in range(WRITERS)]
    for w in writers:
        w.start()
    time.sleep(1)
    before = [len(w.acknowledged) for w in writers]
    assert all(before)
    break_it()
    try:
        begin = time.monotonic()
        status, headers, text = brunn.request("POST", "/api/v1/push", writers[0].body(0), {"Content-Type": "application/x-protobuf"})
        assert status == 503 and headers["Retry-After"], (status, text)
        assert time.monotonic() - begin < 8
        during = [len(w.acknowledged) for w in writers]
        for _ in range(10):
            assert ask_eventual(brunn, start_ms / 1000 + 1)
        time.sleep(1)
        assert during == [len(w.acknowledged) for w in writers], "acknowledged without a broker"
    finally:
        heal_it()
    wait_until("pushes to succeed again", 30, lambda: all(len(w.acknowledged) > n for w, n in zip(writers, during)))
    time.sleep(1)
    brunn.kill()
    for w in writers:
        w.join()
    brunn.check_clean()
    # From Kafka alone, and from the checkpoint and Kafka.
    for folder in (tmp_path / "fresh", tmp_path):
        brunn = Brunn(folder, *flags)
        for w in writers:
            verify(brunn, w, 0)
        brunn.stop()


def test_the_broker_is_killed_under_load(kafka, tmp_path):
    under_load(kafka, tmp_path, kafka.kill, kafka.start)


def test_the_broker_stands_still_under_load(kafka, tmp_path):
    under_load(kafka, tmp_path, kafka.freeze, kafka.thaw)


# SCRAM is not here: see log/README.md.
@pytest.mark.parametrize("tls", [False, True])
def test_sasl_and_tls(kafka, tmp_path, tls):
    flags = flags_of(kafka, f"-ingest-storage.kafka.sasl-username={USER}", f"-ingest-storage.kafka.sasl-password={PASSWORD}")
    flags[0] = f"-ingest-storage.kafka.address=127.0.0.1:{kafka.tls_port if tls else kafka.sasl_port}"
    if tls:
        flags += ["-ingest-storage.kafka.tls-enabled", f"-ingest-storage.kafka.tls-ca-path={kafka.ca}"]
    brunn = Brunn(tmp_path, *flags)
    now_ms = int(time.time() * 1000)
    assert brunn.push(rw.body(one_sample(3, now_ms)))[0] == 200
    assert brunn.query("x", now_ms / 1000)
    assert PASSWORD not in brunn.get("/config")[1]
    brunn.stop()


def token():
    """One that nobody has signed."""
    def part(content):
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")
    now = int(time.time())
    return part({"alg": "none"}) + "." + part({"sub": USER, "iat": now, "exp": now + 3600}) + "."


@pytest.mark.parametrize("how", ["token", "file"])
def test_oauthbearer(kafka, tmp_path, how):
    flags = flags_of(kafka, "-ingest-storage.kafka.sasl-mechanism=OAUTHBEARER")
    flags[0] = f"-ingest-storage.kafka.address=127.0.0.1:{kafka.sasl_port}"
    if how == "token":
        flags.append(f"-ingest-storage.kafka.sasl-oauthbearer-token={token()}")
    else:
        (tmp_path / "token").write_text(json.dumps({"token": token()}))
        flags.append(f"-ingest-storage.kafka.sasl-oauthbearer-file-path={tmp_path}/token")
    brunn = Brunn(tmp_path, *flags)
    now_ms = int(time.time() * 1000)
    assert brunn.push(rw.body(one_sample(3, now_ms)))[0] == 200
    assert brunn.query("x", now_ms / 1000)
    assert "eyJ" not in brunn.get("/config")[1]
    brunn.stop()


def test_the_name_in_the_certificate(kafka, tmp_path):
    def flags(name):
        return [f"-ingest-storage.kafka.address=127.0.0.1:{kafka.tls_port}", f"-ingest-storage.kafka.topic={next(topics)}",
                *ALONE, f"-ingest-storage.kafka.sasl-username={USER}", f"-ingest-storage.kafka.sasl-password={PASSWORD}",
                "-ingest-storage.kafka.tls-enabled", f"-ingest-storage.kafka.tls-ca-path={kafka.ca}",
                f"-ingest-storage.kafka.tls-server-name={name}",
                "-ingest-storage.kafka.tls-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]
    Brunn(tmp_path, *flags("localhost")).stop()
    brunn = Brunn(tmp_path / "other", *flags("elsewhere"), wait_ready=False)
    wait_until("the name to be refused", 20, lambda: "is not for elsewhere" in brunn.output())
    brunn.kill()


def test_a_topic_that_grows(kafka, tmp_path):
    flags = flags_of(kafka)
    brunn = Brunn(tmp_path, *flags)
    kafka.grow(topic_of(flags), 5)
    wait_until("the topic's growth to be seen", 20, lambda: "the topic has grown" in brunn.output())
    now_ms = int(time.time() * 1000)
    assert brunn.push(rw.body(one_sample(3, now_ms)))[0] == 200
    begin = time.monotonic()
    brunn.stop()
    assert time.monotonic() - begin < 10


class Reader(threading.Thread):
    """Asks all the time; every answer must be one."""

    def __init__(self, brunn, t):
        super().__init__()
        self.brunn, self.t, self.ended, self.faults, self.n, self.longest = brunn, t, False, [], 0, 0.0

    def run(self):
        while not self.ended:
            begin = time.monotonic()
            try:
                if not ask_eventual(self.brunn, self.t):
                    self.faults.append("no result")
            except AssertionError as e:
                self.faults.append(e)
            self.n, self.longest = self.n + 1, max(self.longest, time.monotonic() - begin)
            time.sleep(0.1)

    def end(self):
        self.ended = True
        self.join()
        assert not self.faults, self.faults[:3]
        print(f"{self.n} queries, the longest {self.longest:.1f} s")


def progress(writers, what):
    before = [len(w.acknowledged) for w in writers]
    wait_until(f"pushes to succeed {what}", 30, lambda: all(len(w.acknowledged) > n + 2 for w, n in zip(writers, before)))


def elect_preferred(brokers):
    done = subprocess.run(["java", "-cp", brokers.brokers[1].classpath, "org.apache.kafka.tools.LeaderElectionCommand",
                           "--bootstrap-server", brokers.address, "--election-type", "preferred", "--all-topic-partitions"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_three_brokers(tmp_path, request):
    """A leader dies, comes back, becomes leader again by Kafka's tool, goes in order; all are away. 0 lost, and reads go on."""
    away_s = 60 if request.config.getoption("--long") else 15  # and some five more until the answer that says so
    brokers = Brokers(tmp_path / "kafka")
    topic = next(topics)
    flags = [f"-ingest-storage.kafka.address={brokers.address}", f"-ingest-storage.kafka.topic={topic}",
             "-ingest-storage.kafka.auto-create-topic-default-partitions=1", "-ingest-storage.kafka.write-timeout=3s", *ALONE]
    start_ms = int(time.time() * 1000) - 3_500_000
    brunn = Brunn(tmp_path / "brunn", *flags)
    writers = [Writer(brunn.port, w, 0, start_ms) for w in range(WRITERS)]
    for w in writers:
        w.start()
    progress(writers, "at first")
    reader = Reader(brunn, start_ms / 1000 + 1)
    reader.start()
    try:
        first = brokers.leader(topic, 0)
        for end in ("kill", "stop"):
            leader = brokers.leader(topic, 0)
            getattr(leader, end)()
            brokers.wait_other_leader(topic, 0, leader)
            progress(writers, f"after {end} of a leader")
            leader.start()
            brokers.wait_whole()
        elect_preferred(brokers)
        wait_until("the old leader again", 20, lambda: brokers.leader(topic, 0) is first)
        progress(writers, "with the old leader")
        brokers.kill()
        status, headers, text = brunn.request("POST", "/api/v1/push", writers[0].body(0), {"Content-Type": "application/x-protobuf"})
        assert status == 503 and headers["Retry-After"], (status, text)
        during = [len(w.acknowledged) for w in writers]
        time.sleep(away_s)
        assert during == [len(w.acknowledged) for w in writers], "acknowledged without a broker"
        brokers.start()
        progress(writers, "when the brokers are back")
    finally:
        reader.ended = True
    reader.end()
    brunn.kill()
    for w in writers:
        w.join()
    brunn.check_clean()
    for folder in (tmp_path / "fresh", tmp_path / "brunn"):
        brunn = Brunn(folder, *flags)
        for w in writers:
            verify(brunn, w, 0)
        brunn.stop()
    brokers.kill()


def test_flags_that_cannot_be(kafka, tmp_path):
    for flags, word in [([], "topic is empty"),
                        (["-ingest-storage.kafka.topic=t", "-ingest-storage.kafka.sasl-mechanism=AWS_MSK_IAM"], "sasl-mechanism"),
                        (["-ingest-storage.kafka.topic=t", "-ingest-storage.enabled=false"], "ingest-storage.enabled"),
                        (["-ingest-storage.kafka.topic=t", "-ingest-storage.kafka.tls-enabled",
                          "-ingest-storage.kafka.tls-ca-path=/nowhere"], "/nowhere")]:
        done = subprocess.run([BRUNN, f"-server.http-listen-port={free_port()}", f"-data-dir={tmp_path}/data", f"-blocks-storage.filesystem.dir={tmp_path}",
                               f"-ingest-storage.kafka.address={kafka.address}", *ALONE, *flags],
                              capture_output=True, text=True, timeout=30)
        assert done.returncode != 0 and word in done.stderr, done.stderr
