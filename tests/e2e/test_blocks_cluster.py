"""Long-term storage with each part as a process of its own: Kafka, two zones of ingesters, store-gateways that share the blocks, two compactors, one bucket.

Askers ask all the while, three queriers in turn: one that asks ingesters and the store for everything, one that has the store alone, one with a seam at 12 hours as
in production. Every answer is compared with the history, sample by sample: what was acknowledged must be there, and nothing else. No query may fail, whoever is
killed, frozen, restarted or added, since everything is there twice.
"""

import contextlib
import os
import random
import threading
import time

import pytest

import remote_write as rw
from cluster import Cluster
from history import HOUR_MS, MINUTE_MS, QUICK, Bucket, History, first_difference, points_of, settled
from process import wait_until

ZONES, PARTITIONS = ("zone-a", "zone-b"), 2
WINDOW_MS = 6 * HOUR_MS
ASKERS = 2
FLAGS = [*QUICK, "-auth.multitenancy-enabled=true", "-store-gateway.sharding-ring.replication-factor=2",
         # Local blocks of the ingesters stay, old as their samples are: a querier that asks for all of it in both places must find it all the time.
         "-blocks-storage.tsdb.retention-period=200h",
         # At the end all leave at once, and the last have nobody to tell.
         "-memberlist.broadcast-timeout-for-local-updates-on-shutdown=3s",
         "-querier.store-gateway-hedging-delay=1s", "-compactor.partial-block-deletion-delay=4h"]
QUERIERS = {"querier-both": ["-querier.query-ingesters-within=0s", "-querier.query-store-after=0s"],
            "querier-store": ["-querier.query-ingesters-within=1s", "-querier.query-store-after=0s"],
            "querier-seam": []}
SLOWEST_S = 20.0  # of any query, with ASan on a busy machine


class Tenant:
    """A tenant's history and how far it is in the cluster."""

    def __init__(self, name, **size):
        # It ends with a block's range: the newest blocks are not compacted before there are newer ones, so replicas would stay doubled.
        self.name, self.history = name, History(int(time.time() * 1000) // (2 * HOUR_MS) * 2 * HOUR_MS, **size)
        self.sent = self.whole = 0  # arrivals before this may be there; must be there
        self.headers = {"X-Scope-OrgID": name}

    def push(self, node, begin_ms, end_ms):
        """What arrives in that time; with a second try, as a client has it."""
        self.sent = end_ms
        for body in self.history.bodies(begin_ms, end_ms):
            for _ in range(3):
                status, text = node.push(body, self.headers)
                if status == 200:
                    break
            assert status == 200, (status, text)
        self.whole = end_ms

    def push_newer(self, node):
        """A sample of the range after the history's."""
        body = rw.body(rw.series({"__name__": "newer"}, [(self.history.end_ms + MINUTE_MS, 1.0)]))
        assert node.push(body, self.headers)[0] == 200

    def settled(self, cluster, timeout=120):
        """Flushed, shipped and compacted: each sample once, though every partition has two owners who have shipped it."""
        self.push_newer(cluster["distributor-0"])
        flush(cluster)
        settled(self.bucket(cluster), self.history.n_samples(), timeout, self.history.end_ms)

    def bucket(self, cluster):
        return Bucket(os.path.join(cluster.folder, "blocks"), self.name)

    def asked(self, node):
        """Asks this node, for History.check."""
        def ask(expr, t):
            answer = node.api("query", {"query": expr, "time": t}, {**self.headers, "X-Read-Consistency": "strong"})
            assert answer["status"] == "success", (node.name, answer)
            return answer["data"]["result"]
        return ask


class Asker(threading.Thread):
    def __init__(self, seed):
        super().__init__(daemon=True)
        self.random = random.Random(f"asker {seed}")
        self.stopping, self.busy = threading.Event(), threading.Lock()
        self.watched = []  # (node, tenant)
        self.failed, self.wrong, self.seconds = [], [], []

    def run(self):
        while not self.stopping.wait(0.02):
            with self.busy:
                if self.watched:
                    self.ask(*self.random.choice(self.watched))

    def ask(self, node, tenant):
        history, whole = tenant.history, tenant.whole
        name, end = self.random.choice(history.windows(WINDOW_MS))
        want = history.want(name, end, WINDOW_MS, whole)
        begin, at = time.monotonic(), time.time()
        try:
            answer = node.api("query", {"query": f"{name}[{WINDOW_MS - 1}ms]", "time": end / 1000}, {**tenant.headers, "X-Read-Consistency": "strong"})
        except OSError as e:
            answer = {"status": "error", "error": repr(e)}
        self.seconds.append(time.monotonic() - begin)
        what = (round(at, 2), round(self.seconds[-1], 2), node.name, tenant.name, name, end)
        if answer["status"] != "success":
            self.failed.append((*what, answer))
            return
        got = {tuple(sorted(s["metric"].items())): points_of(s) for s in answer["data"]["result"]}
        if got != want and self.differ(tenant, name, end, want, got):
            self.wrong.append((*what, first_difference(want, got)))

    @staticmethod
    def differ(tenant, name, end, want, got):
        """What was under way while it was asked may be there too."""
        most = tenant.history.want(name, end, WINDOW_MS, tenant.sent)
        return not (contains(got, want) and contains(most, got))


def contains(big, small):
    return all(key in big and points.items() <= big[key].items() for key, points in small.items())


class Asking:
    """`with Asking(...)`: questions all the while, judged at the end."""

    def __init__(self, *watched):
        self.askers = [Asker(i) for i in range(ASKERS)]
        for a in self.askers:
            a.watched = list(watched)

    def __enter__(self):
        for a in self.askers:
            a.start()
        return self

    def __exit__(self, kind, error, trace):
        for a in self.askers:
            a.stopping.set()
        for a in self.askers:
            a.join(130)
        took = sorted(s for a in self.askers for s in a.seconds) or [0.0]
        failed, wrong = ([x for a in self.askers for x in getattr(a, part)] for part in ("failed", "wrong"))
        print(f"{len(took)} queries, {len(failed)} failed, {len(wrong)} wrong, p50 {took[len(took) // 2]:.2f} s, slowest {took[-1]:.2f} s")
        if kind is None:
            assert not wrong and not failed, f"{len(wrong)} wrong: {wrong[:3]}; {len(failed)} failed: {failed[:3]}"
            assert took[-1] < SLOWEST_S
        return False

    @contextlib.contextmanager
    def without(self, node):
        """Nobody asks this one."""
        with contextlib.ExitStack() as all_idle:
            for a in self.askers:
                all_idle.enter_context(a.busy)
            before = [a.watched for a in self.askers]
            for a in self.askers:
                a.watched = [w for w in a.watched if w[0] is not node]
        yield
        for a, watched in zip(self.askers, before):
            a.watched = watched


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, kafka):
    c = Cluster(tmp_path_factory.mktemp("cluster"), kafka, flags=FLAGS)
    c.add("distributor-0", "distributor")
    for name, flags in QUERIERS.items():
        c.add(name, "querier", flags=flags)
    for zone in ZONES:
        for p in range(PARTITIONS):
            c.add(f"ingester-{zone}-{p}", "ingester", zone)
    for i in range(2):
        c.add(f"store-gateway-{i}", "store-gateway")
        c.add(f"compactor-{i}", "compactor")
    try:
        yield c.start_all({p: "ACTIVE" for p in range(PARTITIONS)})
    finally:
        c.stop()


def flush(cluster):
    for node in cluster.ingesters():
        status, _, text = node.request("POST", "/ingester/flush")
        assert status == 204, (node.name, status, text)


@pytest.fixture(scope="module")
def days(cluster):
    """A tenant with three days, all in the bucket and compacted. Asked from the first push on."""
    tenant = Tenant("days", floats=8, histograms=2)
    history = tenant.history
    with Asking((cluster["querier-both"], tenant)):
        for begin in range(history.begin_ms, history.end_ms + 2 * MINUTE_MS, 3 * HOUR_MS):
            tenant.push(cluster["distributor-0"], begin, begin + 3 * HOUR_MS)
        history.check(tenant.asked(cluster["querier-both"]))
        tenant.settled(cluster)
    return tenant


def everybody(cluster, tenant):
    return [(cluster[name], tenant) for name in QUERIERS]


def test_three_days_come_back_from_everywhere(cluster, days):
    assert max(hours for hours, _, _ in days.bucket(cluster).ranges()) >= 24
    for node, tenant in everybody(cluster, days):
        tenant.history.check(tenant.asked(node))
    for node in cluster.of("store-gateway"):
        assert node.metric("cortex_bucket_store_blocks_loaded") > 0, node.name
    compacted = [n.metric("cortex_compactor_blocks_marked_for_deletion_total", reason="compaction") for n in cluster.of("compactor")]
    print("blocks compacted by each:", compacted)


def test_store_gateways_and_compactors_come_and_go(cluster, days):
    with Asking(*everybody(cluster, days)):
        third = cluster.add("store-gateway-2", "store-gateway")
        third.start()
        wait_until("blocks to move", 30, lambda: third.metric("cortex_bucket_store_blocks_loaded") > 0)
        time.sleep(2)
        third.stop()
        cluster["compactor-1"].stop()
        time.sleep(2)
        cluster["compactor-1"].start()


def test_a_frozen_store_gateway(cluster, days):
    with Asking(*everybody(cluster, days)):
        victim = cluster["store-gateway-0"]
        victim.freeze()
        try:
            time.sleep(6)
        finally:
            victim.thaw()
        time.sleep(1)


def test_a_rolling_restart(cluster, days, request):
    """Of all; in ./check of both store-gateways and of one of each other kind."""
    nodes = [n for n in cluster.nodes.values() if n.running()]
    if not request.config.getoption("--long"):
        nodes = [*cluster.of("store-gateway")[:2], cluster["ingester-zone-b-1"], cluster["compactor-0"], cluster["querier-seam"]]
    with Asking(*everybody(cluster, days)) as asking:
        for node in nodes:
            with asking.without(node):
                node.restart()


def test_kill_9(cluster, days, request):
    """Nothing is lost, nothing doubled, and nothing is left that the cleaner does not remove."""
    rounds = max(request.config.getoption("--rounds") // 5, 4)
    dice = random.Random(11)
    tenant = Tenant("killed", hours=36, floats=3, histograms=1, seed=2)
    history, bucket = tenant.history, tenant.bucket(cluster)
    edges = [history.begin_ms + (history.end_ms + 2 * MINUTE_MS - history.begin_ms) * i // rounds for i in range(rounds + 1)]
    victims = [*cluster.ingesters(), *cluster.of("compactor"), *(n for n in cluster.of("store-gateway") if n.running())]
    order = []
    with Asking(*everybody(cluster, days), (cluster["querier-both"], tenant)):
        for begin, end in zip(edges, edges[1:]):
            order = order or dice.sample(victims, len(victims))
            victim = order.pop()
            tenant.push(cluster["distributor-0"], begin, end)
            flusher = dice.choice([victim] if victim.target == "ingester" else cluster.ingesters())
            flushing = threading.Thread(target=flush_until_killed, args=(flusher,))
            flushing.start()
            time.sleep(dice.random() * 1.5)
            victim.kill()
            flushing.join()
            victim.start()
        tenant.settled(cluster, 180)
        for node, _ in everybody(cluster, tenant):
            history.check(tenant.asked(node))
    age(bucket.folder)
    wait_until("blocks that were marked to be removed", 60, lambda: len(bucket.metas(marked=True)) == len(bucket.metas()))
    age(bucket.folder)  # what is left of those that were being removed when one was killed
    wait_until("leftovers to be removed", 60, lambda: not leftovers(bucket))


def flush_until_killed(node):
    with contextlib.suppress(OSError):
        node.request("POST", "/ingester/flush")


def age(folder):
    """Blocks that broke off are kept for four hours at least, in which their owner may come back."""
    then = time.time() - 5 * 3600
    for path, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                if not os.path.exists(os.path.join(path, "meta.json")) and not os.path.exists(os.path.join(path, "..", "meta.json")):
                    os.utime(os.path.join(path, name), (then, then))


def leftovers(bucket):
    known = {*bucket.metas(), "markers", "bucket-index.json.gz"}
    return [name for name in os.listdir(bucket.folder) if name not in known and any(files for _, _, files in os.walk(os.path.join(bucket.folder, name)))]
