"""Servers of the tests: started on loopback with ports and folders of their own, ended by their process id."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BRUNN = os.path.abspath(os.environ.get("BRUNN_BIN", os.path.join(ROOT, "build", "asan", "app", "brunn")))
# Peers that are slow to build, made once by interop/peers.sh.
PEERS = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "brunn-check")
# What a sanitizer prints when it finds something; a process that printed one of these has failed whatever its exit status.
SANITIZER_WORDS = ("AddressSanitizer", "LeakSanitizer", "ThreadSanitizer", "runtime error:", "assertion failed:")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until(what, timeout, check):
    """Calls check() until it gives something true; its value is returned."""
    end = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout} s for {what}")
        time.sleep(0.02)


# Freed memory that ASan keeps back would hide in what the tests say of memory.
os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "detect_leaks=1") + ":quarantine_size_mb=8"


class Server:
    def __init__(self, args, log_path):
        self.args, self.log_path = args, log_path
        self.log = open(log_path, "ab")
        self.process = subprocess.Popen(args, stdout=self.log, stderr=self.log, cwd=os.path.dirname(log_path))

    @property
    def pid(self):
        return self.process.pid

    def output(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def alive(self):
        return self.process.poll() is None

    def kill(self):
        if self.alive():
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def stop(self, timeout=60):
        """SIGTERM; the exit status."""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        finally:
            self.kill()


class Brunn(Server):
    """The single process. Multitenancy is off unless asked for."""

    def __init__(self, folder, *flags, port=None, multitenancy=False, wait_ready=True):
        self.folder = str(folder)
        os.makedirs(self.folder, exist_ok=True)
        self.port = port or free_port()
        self.grpc_port = free_port()
        super().__init__(
            [BRUNN, f"-server.http-listen-port={self.port}", "-server.http-listen-address=127.0.0.1",
             f"-server.grpc-listen-port={self.grpc_port}", "-server.grpc-listen-address=127.0.0.1",
             f"-data-dir={self.folder}/data", f"-blocks-storage.filesystem.dir={self.folder}/data/blocks", f"-auth.multitenancy-enabled={str(multitenancy).lower()}",
             "-distributor.ingestion-rate-limit=1e9", "-distributor.ingestion-burst-size=1000000000",
             "-ingester.max-global-series-per-user=0", *flags],
            os.path.join(self.folder, "brunn.log"))
        if wait_ready:
            self.wait_ready()

    def wait_ready(self, timeout=60):
        def ready():
            if not self.alive():
                raise AssertionError(f"brunn ended with {self.process.returncode}:\n{self.output()[-4000:]}")
            try:
                return self.get("/ready")[0] == 200
            except OSError:
                return False
        wait_until("brunn to be ready", timeout, ready)

    def check_clean(self):
        found = [w for w in SANITIZER_WORDS if w in self.output()]
        assert not found, self.output()[-8000:]

    def stop(self, timeout=60):
        status = super().stop(timeout)
        self.check_clean()
        assert status == 0, f"exit status {status}\n{self.output()[-4000:]}"

    # --- HTTP ---

    def request(self, method, path, body=None, headers=None):
        """(status, headers, body bytes)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def get(self, path, headers=None):
        status, _, data = self.request("GET", path, headers=headers)
        return status, data.decode()

    def push(self, data, headers=None):
        """(status, text) of a push of these bytes."""
        base = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "0.1.0"}
        status, _, answer = self.request("POST", "/api/v1/push", data, {**base, **(headers or {})})
        return status, answer.decode()

    def api(self, path, params=None, headers=None):
        """The parsed JSON of an API call, whatever its status."""
        query = urllib.parse.urlencode(params or {}, doseq=True)
        status, text = self.get(f"/prometheus/api/v1/{path}?{query}", headers)
        answer = json.loads(text)
        answer["http_status"] = status
        return answer

    def query(self, expr, t=None, **params):
        """The result of an instant query that must succeed."""
        if t is not None:
            params["time"] = t
        answer = self.api("query", {"query": expr, **params})
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def metric(self, name, **labels):
        """Sum of a metric's series with these labels, 0 when there is none."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(name) and line[len(name)] in " {" and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total


def memory(pid, key="VmRSS"):
    """Bytes, from /proc/PID/status."""
    with open(f"/proc/{pid}/status") as f:
        for line in f:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    raise KeyError(key)
