"""Our gossip beside a real dskit process (dskit-node/): both directions of joining, members, both rings' values, changes, leaving."""

import os
import re
import subprocess
import time

import pytest

from process import PEERS, free_port

DSKIT_NODE = os.path.join(PEERS, "dskit-gossip")
SECONDS = 30


@pytest.fixture(scope="module")
def our_program():
    build = os.path.dirname(os.path.dirname(os.path.abspath(os.environ["BRUNN_BIN"])))
    subprocess.run(["cmake", "--build", build, "--target", "memberlist_node"], check=True)
    return os.path.join(build, "tests", "memberlist_node")


class Node:
    """A process whose output goes to a file that can be read while it runs."""

    def __init__(self, path, args):
        self.path = path
        self.out = open(path, "wb")
        self.process = subprocess.Popen(args, stdout=self.out, stderr=subprocess.STDOUT)

    def text(self):
        with open(self.path, errors="replace") as f:
            return f.read()

    def wait_for(self, pattern):
        end = time.monotonic() + SECONDS
        while not re.search(pattern, self.text(), re.M):
            assert time.monotonic() < end, f"no {pattern} in:\n{self.text()[-4000:]}"
            time.sleep(0.1)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.out.close()


@pytest.fixture
def nodes(tmp_path, our_program):
    started = []

    def ours(name, port, seed, seconds=SECONDS, *more):
        started.append(Node(tmp_path / name, [our_program, name, str(port), f"127.0.0.1:{seed}" if seed else "-", str(seconds), *more]))
        return started[-1]

    def theirs(seed, seconds=SECONDS, *more):
        port = free_port()
        join = ["-join", f"127.0.0.1:{seed}"] if seed else []
        args = ["-name", "go-7", "-port", str(port), "-partition", "7", "-for", f"{seconds}s", *join, *more]
        started.append(Node(tmp_path / "go-7", [DSKIT_NODE, *args]))
        started[-1].port = port
        return started[-1]

    yield ours, theirs
    for node in started:
        node.stop()


def check_both(our, their):
    our.wait_for(r"^member go-7\S* alive")
    for node in (our, their):
        node.wait_for(r"^instance go-7 ACTIVE")
        node.wait_for(r"^instance brunn-1 ACTIVE")
        node.wait_for(r"^partition 7 Active tokens 512")
        node.wait_for(r"^partition 1 Pending tokens 512")
        node.wait_for(r"^owner go-7 of 7")
        node.wait_for(r"^owner brunn-1 of 1")


def test_dskit_joins_us(nodes):
    ours, theirs = nodes
    port = free_port()
    our = ours("brunn-1", port, None)
    our.wait_for("^member")
    check_both(our, theirs(port))


def test_we_join_dskit(nodes):
    ours, theirs = nodes
    their = theirs(None)
    their.wait_for("^instance go-7")
    check_both(ours("brunn-1", free_port(), their.port), their)


def test_each_changes_the_others_partition(nodes):
    ours, theirs = nodes
    their = theirs(None, SECONDS, "-activate", "1")
    their.wait_for("^instance go-7")
    our = ours("brunn-1", free_port(), their.port, SECONDS, "inactivate=7")
    for node in (our, their):
        node.wait_for(r"^partition 1 Active tokens 512")
        node.wait_for(r"^partition 7 Inactive tokens 512")


def test_leaving_is_seen_by_both(nodes):
    ours, theirs = nodes
    port = free_port()
    our = ours("brunn-1", port, None, 60)
    our.wait_for("^member")
    theirs(port, 8)
    ours("brunn-2", free_port(), port, 5, "leave")
    our.wait_for(r"^member brunn-2 alive")
    our.wait_for(r"^member brunn-2 left")
    our.wait_for(r"^member go-7\S* alive")
    our.wait_for(r"^member go-7\S* left")


def test_nobody_is_suspected_in_a_mixed_cluster(nodes):
    ours, theirs = nodes
    port = free_port()
    their = theirs(None, 60)
    their.wait_for("^instance go-7")
    first = ours("brunn-1", port, their.port, 60)
    second = ours("brunn-2", free_port(), port, 60)
    for our in (first, second):
        for name in ("brunn-1", "brunn-2", "go-7"):
            our.wait_for(rf"^instance {name} ACTIVE")
            our.wait_for(rf"^member {name}\S* alive")
    for name in ("brunn-1", "brunn-2"):
        their.wait_for(rf"^instance {name} ACTIVE")
    time.sleep(20)
    for node in (first, second, their):
        assert not re.search(r"suspect| dead|conflict|timeout reached", node.text(), re.I), node.text()[-4000:]
