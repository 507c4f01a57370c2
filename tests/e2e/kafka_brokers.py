"""Three Kafka brokers, each also a controller: every record on all three, acknowledged when two have it."""

import json
import os
import subprocess

from cluster import fixed_port
from kafka_server import fetch_jars
from process import Server, wait_until

BROKERS = (1, 2, 3)


class Broker:
    def __init__(self, folder, number, port, controllers):
        self.folder, self.number, self.port, self.server = os.path.join(folder, str(number)), number, port, None
        os.makedirs(self.folder)
        self.classpath = os.path.join(fetch_jars(), "*")
        lines = {
            "process.roles": "broker,controller", "node.id": number,
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{p}" for n, p in controllers.items()),
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controllers[number]}",
            "controller.listener.names": "CONTROLLER", "log.dirs": os.path.join(self.folder, "data"),
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "message.max.bytes": 16000000, "default.replication.factor": 3, "min.insync.replicas": 2,
            "offsets.topic.replication.factor": 3, "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 3, "transaction.state.log.min.isr": 2,
            # A dead broker is found out quickly.
            "broker.session.timeout.ms": 3000, "broker.heartbeat.interval.ms": 500, "controller.quorum.election.timeout.ms": 500,
            "controller.quorum.fetch.timeout.ms": 1500,
        }
        self.properties = os.path.join(self.folder, "server.properties")
        with open(self.properties, "w") as f:
            f.writelines(f"{name}={value}\n" for name, value in lines.items())
        subprocess.run(["java", "-cp", self.classpath, "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", self.properties],
                       check=True, capture_output=True)

    def start(self):
        self.server = Server(["java", "-Xmx300m", "-cp", self.classpath, "kafka.Kafka", self.properties], os.path.join(self.folder, "log"))

    def kill(self):
        self.server.kill()

    def stop(self):
        """SIGTERM: it hands its partitions over first."""
        self.server.stop()


class Brokers:
    def __init__(self, folder):
        controllers = {n: fixed_port() for n in BROKERS}
        self.brokers = {n: Broker(str(folder), n, fixed_port(), controllers) for n in BROKERS}
        self.address = ",".join(f"127.0.0.1:{b.port}" for b in self.brokers.values())
        self.start()

    def start(self):
        for b in self.brokers.values():
            b.start()
        self.wait_whole()

    def kill(self):
        for b in self.brokers.values():
            b.kill()

    def state(self):
        """What the brokers say of themselves, or None."""
        done = subprocess.run(["kcat", "-b", self.address, "-L", "-J", "-m", "2"], capture_output=True, text=True)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def wait_whole(self):
        """All three are there and have every record."""
        def whole():
            state = self.state()
            return state and len(state["brokers"]) == len(BROKERS) and \
                all(len(p["isrs"]) == len(BROKERS) for t in state["topics"] for p in t["partitions"])
        wait_until("three brokers in step", 90, whole)

    def leader(self, topic, partition):
        """The broker that leads this partition, None when nobody does."""
        rows = [p["leader"] for t in self.state()["topics"] if t["topic"] == topic for p in t["partitions"] if p["partition"] == partition]
        return self.brokers.get(rows[0]) if rows else None

    def wait_other_leader(self, topic, partition, than):
        wait_until(f"another leader than {than.number}", 30,
                   lambda: (self.leader(topic, partition) or than) is not than)
