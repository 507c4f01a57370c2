"""The two servers, asked the same at once."""

import http.client
import json
import os
import socket
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

from process import PEERS, Brunn, Server, free_port, wait_until

PROMETHEUS = os.path.join(PEERS, "prometheus", "prometheus")
FEATURES = ("native-histograms,promql-experimental-functions,exemplar-storage,promql-duration-expr,promql-extended-range-selectors,"
            "promql-binop-fill-modifiers")


class Side:
    """One connection that is kept."""

    def __init__(self, port, prefix, push_path):
        self.port, self.prefix, self.push_path, self.connection = port, prefix, push_path, None

    def post(self, path, body, headers):
        for attempt in (1, 2):
            if not self.connection:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
                self.connection.connect()
                self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                self.connection.request("POST", path, body, headers)
                answer = self.connection.getresponse()
                return answer.status, answer.read()
            except (http.client.HTTPException, ConnectionError):
                self.connection.close()
                self.connection = None
                if attempt == 2:
                    raise

    def push(self, body):
        headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "0.1.0"}
        status, text = self.post(self.push_path, body, headers)
        assert status in (200, 204), (status, text)

    def ask(self, is_range, params):
        status, text = self.post(f"{self.prefix}/api/v1/{'query_range' if is_range else 'query'}", urllib.parse.urlencode(params),
                                 {"Content-Type": "application/x-www-form-urlencoded"})
        answer = json.loads(text)
        answer["http_status"] = status
        return answer


class Pair:
    def __init__(self, folder, names_late=False, features=""):
        port = free_port()
        features, flags = FEATURES + features, []
        if names_late:
            features += ",promql-delayed-name-removal"
            flags = ["-querier.enable-delayed-name-removal=true"]
        config = folder / "prometheus.yml"
        config.write_text("global: {}\n")
        self.prometheus = Server(
            [PROMETHEUS, f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder}/prometheus",
             "--web.enable-remote-write-receiver", f"--enable-feature={features}", "--log.level=warn"], str(folder / "prometheus.log"))
        try:
            self.brunn = Brunn(folder / "brunn", "-query-frontend.enabled-promql-experimental-functions=all",
                               "-query-frontend.enabled-promql-extended-range-selectors=all", "-validation.name-validation-scheme=utf8", *flags)
        except BaseException:
            self.prometheus.kill()
            raise
        self.ours = Side(self.brunn.port, "/prometheus", "/api/v1/push")
        self.theirs = Side(port, "", "/api/v1/write")
        self.pool = ThreadPoolExecutor(2)
        wait_until("Prometheus to be ready", 60, self.prometheus_ready)

    def prometheus_ready(self):
        assert self.prometheus.alive(), self.prometheus.output()[-2000:]
        try:
            return self.theirs.ask(False, {"query": "1"})["status"] == "success"
        except (OSError, ValueError, KeyError):
            return False

    def push(self, bodies):
        for body in bodies:
            self.ours.push(body)
            self.theirs.push(body)

    def ask(self, is_range, params):
        """(our answer, Prometheus's)"""
        a, b = self.pool.submit(self.ours.ask, is_range, params), self.pool.submit(self.theirs.ask, is_range, params)
        return a.result(), b.result()

    def stop(self):
        self.pool.shutdown()
        self.prometheus.stop()
        self.brunn.stop()
