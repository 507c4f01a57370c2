"""A real Apache Kafka for the tests: one process (KRaft), on loopback, its jars fetched once by Maven."""

import os
import shutil
import signal
import subprocess

from process import PEERS, Server, free_port, wait_until

VERSION = "4.1.0"
LIB = os.path.join(PEERS, "kafka", VERSION)
POM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kafka", "pom.xml")
USER, PASSWORD = "brunn", "secret-of-the-tests"


def fetch_jars():
    """The folder of jars; made once, whole or not at all."""
    if os.path.isdir(LIB):
        return LIB
    making = f"{LIB}.{os.getpid()}"
    os.makedirs(making)
    try:
        subprocess.run(["mvn", "-q", "-B", "-f", POM, f"-Dkafka.version={VERSION}", "dependency:copy-dependencies",
                        f"-DoutputDirectory={making}"], check=True, stdin=subprocess.DEVNULL)
        os.rename(making, LIB)
    except OSError:
        assert os.path.isdir(LIB)  # another run was faster
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return LIB


class Kafka:
    """The broker; plain, and with SASL over TLS and without TLS on ports of their own. May be stopped and started again."""

    def __init__(self, folder):
        self.folder, self.server = str(folder), None
        os.makedirs(self.folder, exist_ok=True)
        self.port, self.sasl_port, self.tls_port, controller = (free_port() for _ in range(4))
        self.address = f"127.0.0.1:{self.port}"
        self.classpath = os.path.join(fetch_jars(), "*")
        self.make_certificate()
        self.write_properties(controller)
        self.java("kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", self.properties)
        self.start()

    def make_certificate(self):
        self.ca = os.path.join(self.folder, "certificate.pem")
        key, both = os.path.join(self.folder, "key.pem"), os.path.join(self.folder, "both.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", self.ca, "-days", "2",
                        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
                       check=True, capture_output=True)
        with open(both, "w") as out:
            for path in (key, self.ca):
                with open(path) as f:
                    out.write(f.read())
        self.keystore = both

    def write_properties(self, controller):
        login = "org.apache.kafka.common.security.plain.PlainLoginModule"
        lines = {
            "process.roles": "broker,controller", "node.id": "1", "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},SASL_PLAINTEXT://127.0.0.1:{self.sasl_port},"
                         f"SASL_SSL://127.0.0.1:{self.tls_port},CONTROLLER://127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER", "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN,OAUTHBEARER",
            "ssl.keystore.type": "PEM", "ssl.keystore.location": self.keystore,
            "log.dirs": os.path.join(self.folder, "data"), "message.max.bytes": "16000000",
            "offsets.topic.replication.factor": "1", "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1", "transaction.state.log.min.isr": "1",
        }
        for listener in ("sasl_plaintext", "sasl_ssl"):
            lines[f"listener.name.{listener}.plain.sasl.jaas.config"] = \
                f'{login} required user_{USER}="{PASSWORD}";'
            # Tokens that nobody has signed: Kafka takes them when it is told of no way to check them.
            lines[f"listener.name.{listener}.oauthbearer.sasl.jaas.config"] = \
                f'org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="{USER}";'
        self.properties = os.path.join(self.folder, "server.properties")
        with open(self.properties, "w") as f:
            f.writelines(f"{name}={value}\n" for name, value in lines.items())

    def java(self, *args):
        done = subprocess.run(["java", "-cp", self.classpath, *args], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self):
        self.server = Server(["java", "-Xmx384m", "-cp", self.classpath, "kafka.Kafka", self.properties],
                             os.path.join(self.folder, "kafka.log"))
        wait_until("Kafka to answer", 60, self.answers)

    def answers(self):
        assert self.server.alive(), self.server.output()[-4000:]
        return subprocess.run(["kcat", "-b", self.address, "-L", "-m", "2"], capture_output=True).returncode == 0

    def kill(self):
        self.server.kill()

    def freeze(self):
        self.server.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.server.process.send_signal(signal.SIGCONT)

    def grow(self, topic, partitions):
        self.java("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", self.address, "--alter", "--topic", topic,
                  "--partitions", str(partitions))

    # --- what is in it, by a client that is not ours ---

    def kcat(self, *args, data=None):
        done = subprocess.run(["kcat", "-b", self.address, *args], input=data, capture_output=True, timeout=30)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def records(self, topic, partition):
        """[(offset, key, headers, timestamp_ms, value)]"""
        lines = self.kcat("-C", "-t", topic, "-p", str(partition), "-o", "beginning", "-e", "-q", "-f", "%o|%k|%h|%T|%S\\n")
        out = []
        for line in lines.decode().splitlines():
            offset, key, headers, t_ms, size = line.split("|")
            value = self.kcat("-C", "-t", topic, "-p", str(partition), "-o", offset, "-c", "1", "-e", "-q", "-D", "")
            assert len(value) == int(size)
            out.append((int(offset), key, headers, int(t_ms), value))
        return out
