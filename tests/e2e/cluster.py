"""A cluster on loopback: Kafka, distributors, ingesters in zones and queriers as processes of their own, nginx before them.

Every process has ports and a folder that it keeps through restarts. The same harness runs a real Mimir, whose flags ours are: what a test
asks of us can be asked of it.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess

from process import BRUNN, PEERS, ROOT, Brunn, Server, wait_until

# Quick gossip, heartbeats and partitions: a test waits for seconds where production waits for a minute.
HEARTBEAT_TIMEOUT_S = 10
OWNERS_DURATION_S = 1
RINGS = ("ingester.ring", "distributor.ring", "store-gateway.sharding-ring", "compactor.ring")


ports_given = set()
WORKERS, WORKER = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])


def fixed_port():
    """A port that outgoing connections do not take while its process is away: below the range that the kernel gives to them. Tests that run beside these have others."""
    while True:
        port = random.randrange(11000 + WORKER, 32000, WORKERS)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports_given:
            ports_given.add(port)
            return port


def common_flags(kafka, topic, partitions):
    return ["-auth.multitenancy-enabled=false", "-ingest-storage.enabled=true",
            f"-ingest-storage.kafka.address={kafka.address}", f"-ingest-storage.kafka.topic={topic}",
            f"-ingest-storage.kafka.auto-create-topic-default-partitions={partitions}", "-ingest-storage.kafka.write-timeout=5s",
            "-ingest-storage.kafka.last-produced-offset-poll-interval=200ms",
            "-memberlist.bind-addr=127.0.0.1", "-memberlist.advertise-addr=127.0.0.1",
            "-memberlist.leave-timeout=2s", "-memberlist.min-join-backoff=200ms", "-memberlist.pullpush-interval=5s",
            "-memberlist.rejoin-interval=10s",
            "-ingester.ring.replication-factor=1", "-ingester.ring.zone-awareness-enabled=true",
            "-ingester.ring.min-ready-duration=2s", "-ingester.ring.unregister-on-shutdown=false",
            f"-ingester.partition-ring.min-partition-owners-duration={OWNERS_DURATION_S}s",
            "-distributor.ingestion-rate-limit=1e9", "-distributor.ingestion-burst-size=1000000000",
            "-ingester.max-global-series-per-user=0", "-querier.minimize-ingester-requests-hedging-delay=500ms",
            *(f"-{ring}.store=memberlist" for ring in (*RINGS, "ingester.partition-ring")), *ring_flags(RINGS)]


def ring_flags(rings):
    return [f"-{ring}.{flag}" for ring in rings
            for flag in ("instance-addr=127.0.0.1", "heartbeat-period=1s", f"heartbeat-timeout={HEARTBEAT_TIMEOUT_S}s")]


def mimir_flags(folder):
    return ["-usage-stats.enabled=false", "-log.level=warn", "-common.storage.backend=filesystem", "-blocks-storage.backend=filesystem",
            f"-blocks-storage.filesystem.dir={folder}/blocks", f"-blocks-storage.tsdb.dir={folder}/tsdb",
            f"-blocks-storage.bucket-store.sync-dir={folder}/sync", f"-activity-tracker.filepath={folder}/activity",
            "-ingester.push-grpc-method-enabled=false", "-store-gateway.sharding-ring.instance-addr=127.0.0.1",
            *ring_flags(["querier.ring"])]


class Node(Brunn):
    """One process of a cluster."""

    def __init__(self, cluster, name, target, zone="", flags=(), mimir=False):
        self.cluster, self.name, self.target, self.zone = cluster, name, target, zone
        self.folder = os.path.join(cluster.folder, name)
        os.makedirs(self.folder)
        self.port, self.grpc_port, self.gossip_port = fixed_port(), fixed_port(), fixed_port()
        self.address = f"127.0.0.1:{self.port}"
        rings = {"distributor": ["distributor.ring"], "querier": ["querier.ring"] * mimir, "store-gateway": ["store-gateway.sharding-ring"],
                 "compactor": ["compactor.ring"], "all": RINGS}.get(target, ["ingester.ring"])
        self.command = [
            os.path.join(PEERS, "mimir") if mimir else BRUNN, f"-target={target}",
            f"-server.http-listen-port={self.port}", "-server.http-listen-address=127.0.0.1",
            f"-server.grpc-listen-port={self.grpc_port}", "-server.grpc-listen-address=127.0.0.1",
            f"-memberlist.bind-port={self.gossip_port}", f"-memberlist.advertise-port={self.gossip_port}", f"-memberlist.nodename={name}",
            *(f"-{ring}.instance-{flag}" for ring in rings for flag in (f"id={name}", f"port={self.grpc_port}")),
            *([f"-ingester.ring.instance-availability-zone={zone}"] if zone else []),
            *(mimir_flags(self.folder) if mimir else [f"-data-dir={self.folder}/data", f"-blocks-storage.filesystem.dir={cluster.folder}/blocks"]),
            *cluster.flags, *flags]
        self.log_path = os.path.join(self.folder, "log")
        self.is_mimir = mimir
        self.process = None

    def start(self, ready=True):
        """Joins whoever of the cluster is there now, as a list of seeds in a headless service would have it."""
        seeds = [f"-memberlist.join=127.0.0.1:{n.gossip_port}" for n in self.cluster.nodes.values() if n is not self and n.running()]
        Server.__init__(self, [*self.command, *seeds[:3]], self.log_path)
        if ready:
            self.wait_ready()
        return self

    def running(self):
        return self.process is not None and self.alive()

    def kill(self):
        super().kill()
        self.check_clean()

    def stop(self, timeout=60):
        """SIGTERM; it must end cleanly."""
        if self.is_mimir:
            return Server.stop(self, timeout)
        return super().stop(timeout)

    def restart(self):
        self.stop()
        return self.start()

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def json(self, path):
        status, text = self.get(path, {"Accept": "application/json"})
        assert status == 200, (self.name, path, status, text[:500])
        return json.loads(text)


class Nginx:
    """What clients talk to; the same configuration as deploy/local's."""

    def __init__(self, folder, distributors, queriers):
        self.port = fixed_port()
        self.url = f"http://127.0.0.1:{self.port}"
        with open(os.path.join(ROOT, "deploy", "local", "nginx.conf.in")) as f:
            text = f.read()
        servers = [" ".join(f"server {n.address} max_fails=0;" for n in nodes) for nodes in (distributors, queriers)]
        for word, value in {"FOLDER": folder, "PORT": str(self.port), "DISTRIBUTORS": servers[0], "QUERIERS": servers[1]}.items():
            text = text.replace(f"@{word}@", value)
        path = os.path.join(folder, "nginx.conf")
        with open(path, "w") as f:
            f.write(("user root;\n" if os.getuid() == 0 else "") + text)
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        self.server = Server([program, "-p", folder, "-e", f"{folder}/nginx-error.log", "-c", path, "-g", "daemon off;"],
                             os.path.join(folder, "nginx.log"))

    def stop(self):
        # SIGQUIT would wait for connections that clients keep open.
        self.server.stop()


class Cluster:
    def __init__(self, folder, kafka, topic="ingest", topic_partitions=4, flags=(), mimir=False):
        self.folder, self.kafka, self.topic, self.mimir = str(folder), kafka, topic, mimir
        os.makedirs(self.folder, exist_ok=True)
        self.flags = [*common_flags(kafka, topic, topic_partitions), *flags]
        self.nodes, self.nginx = {}, None

    def __getitem__(self, name):
        return self.nodes[name]

    def add(self, name, target, zone="", flags=(), mimir=None):
        self.nodes[name] = Node(self, name, target, zone, flags, self.mimir if mimir is None else mimir)
        return self.nodes[name]

    def of(self, target):
        return [n for n in self.nodes.values() if n.target == target]

    def ingesters(self, zone=None, partition=None):
        return [n for n in self.nodes.values() if n.target in ("ingester", "all") and zone in (None, n.zone)
                and partition in (None, int(n.name.rsplit("-", 1)[1]))]

    def start(self, distributors=2, zones=("zone-a", "zone-b"), partitions=2, queriers=2):
        """All of it; returns when every process is ready and every partition takes writes."""
        for i in range(distributors):
            self.add(f"distributor-{i}", "distributor")
        for i in range(queriers):
            self.add(f"querier-{i}", "querier")
        for zone in zones:
            for p in range(partitions):
                self.add(f"ingester-{zone}-{p}", "ingester", zone)
        return self.start_all({p: "ACTIVE" for p in range(partitions)})

    def start_all(self, partitions):
        """Whoever was added."""
        for node in self.nodes.values():
            node.start(ready=False)
        for node in self.nodes.values():
            node.wait_ready(90)
        alls = self.of("all")
        self.nginx = Nginx(self.folder, alls or self.of("distributor"), alls or self.of("querier"))
        self.wait_partitions(partitions)
        return self

    def stop(self):
        """Everything, each cleanly; the first fault is raised when all are down."""
        faults = []
        if self.nginx:
            self.nginx.stop()
        for node in self.nodes.values():
            if node.running():
                node.process.send_signal(signal.SIGCONT)
                node.process.send_signal(signal.SIGTERM)
        for node in self.nodes.values():
            if node.process is None:
                continue
            try:
                node.stop()
            except (AssertionError, subprocess.TimeoutExpired) as e:
                faults.append(f"{node.name}: {e!r}")
        assert not faults, "\n".join(faults)

    # --- the rings, as any process sees them ---

    # 0: gossip brought an owner before its partition; the page shows that, and it passes.
    STATES = {0: "UNKNOWN", 1: "PENDING", 2: "ACTIVE", 3: "INACTIVE"}

    def partitions(self, node=None):
        """{partition: state} as this node (default: any) has it."""
        return {p["id"]: self.STATES[p["state"]] for p in self.partition_rows(node)}

    def owners(self, node=None):
        return {p["id"]: sorted(p["owner_ids"] or []) for p in self.partition_rows(node)}

    def partition_rows(self, node=None):
        node = node or next(n for n in self.nodes.values() if n.running())
        return node.json("/ingester/partition-ring")["partitions"] or []

    def watchers(self):
        return [n for n in self.nodes.values() if n.running() and n.target in ("distributor", "querier", "all")]

    def wait_partitions(self, want, timeout=60):
        """Until all who send or ask by the partitions ring see these states, and no other partition."""
        try:
            wait_until(f"partitions {want}", timeout, lambda: all(self.partitions(n) == want for n in self.watchers()))
        except AssertionError as e:
            raise AssertionError(f"{e}; now {[(n.name, self.partitions(n)) for n in self.watchers()]}") from None

    def wait_instance(self, name, states, timeout=60):
        """Until every watcher sees this instance of the ring in one of these states (None: not at all)."""
        def seen(node):
            shards = node.json("/ingester/ring")["shards"] or []
            return next((s["state"] for s in shards if s["id"] == name), None)
        wait_until(f"{name} to be {states}", timeout, lambda: all(seen(n) in states for n in self.watchers()))

