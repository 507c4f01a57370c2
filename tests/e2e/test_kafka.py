"""The single process with its log in a real Apache Kafka: what was acknowledged is there, whoever dies."""

import itertools
import random
import subprocess
import time

import pytest
import snappy

import remote_write as rw
from kafka_server import PASSWORD, USER, Kafka
from process import BRUNN, Brunn, free_port, wait_until
from test_crash import WRITERS, Writer, verify

topics = (f"ingest-{n}" for n in itertools.count())


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    k = Kafka(tmp_path_factory.mktemp("kafka"))
    yield k
    k.kill()


def flags_of(kafka, *more):
    return [f"-ingest-storage.kafka.address={kafka.address}", f"-ingest-storage.kafka.topic={next(topics)}",
            "-ingest-storage.kafka.auto-create-topic-default-partitions=2", "-ingest-storage.kafka.write-timeout=3s",
            "-ingester.checkpoint-interval=300ms", *more]


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
    assert [len(r) > 0 for r in stored] == [True, True], "all series in one partition"
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
    kafka.kcat("-P", "-t", topic, "-p", "1", "-k", "anonymous", data=b"no request\n")
    kafka.kcat("-P", "-t", topic, "-p", "1", data=b"no key\n")
    kafka.kcat("-P", "-t", topic, "-p", "1", "-k", "anonymous", "-Z", data=b"\n")
    kafka.kcat("-P", "-t", topic, "-p", "1", "-k", "anonymous", "-H", "Version=short", str(good))
    kafka.kcat("-P", "-t", topic, "-p", "1", "-k", "anonymous", "-H", "version=any", "-X", "compression.codec=lz4", str(good))
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
            assert brunn.query("count(crash)", start_ms / 1000 + 1)
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


def test_flags_that_cannot_be(kafka, tmp_path):
    for flags, word in [([], "topic is empty"),
                        (["-ingest-storage.kafka.topic=t", "-ingest-storage.kafka.sasl-mechanism=OAUTHBEARER"], "sasl-mechanism"),
                        (["-ingest-storage.kafka.topic=t", "-ingest-storage.kafka.tls-enabled",
                          "-ingest-storage.kafka.tls-ca-path=/nowhere"], "/nowhere")]:
        done = subprocess.run([BRUNN, f"-server.http-listen-port={free_port()}", f"-data-dir={tmp_path}/data",
                               f"-ingest-storage.kafka.address={kafka.address}", *flags],
                              capture_output=True, text=True, timeout=30)
        assert done.returncode != 0 and word in done.stderr, done.stderr
