"""A real Mimir of one process, without Kafka: shared/tools/mimir/classic.yaml beside the checkout, in a folder of its own."""

import http.client
import json
import os
import urllib.parse

from process import PEERS, ROOT, Server, free_port, wait_until


class Mimir(Server):
    def __init__(self, folder, *flags, multitenancy=False):
        self.folder, self.port = str(folder), free_port()
        os.makedirs(self.folder, exist_ok=True)
        with open(os.path.join(ROOT, "..", "shared", "tools", "mimir", "classic.yaml")) as f:
            config = f.read()
        for word, value in {"DATA": self.folder, "HTTP_PORT": str(self.port), "GRPC_PORT": str(free_port()), "GOSSIP_PORT": str(free_port())}.items():
            config = config.replace(word, value)
        config = config.replace("multitenancy_enabled: false", f"multitenancy_enabled: {str(multitenancy).lower()}")
        with open(os.path.join(self.folder, "mimir.yaml"), "w") as f:
            f.write(config)
        super().__init__([os.path.join(PEERS, "mimir"), f"-config.file={self.folder}/mimir.yaml", *flags], os.path.join(self.folder, "mimir.log"))
        try:
            wait_until("Mimir to be ready", 90, self.ready)
        except BaseException:
            self.kill()
            raise

    def ready(self):
        assert self.alive(), self.output()[-4000:]
        try:
            return self.request("GET", "/ready")[0] == 200
        except OSError:
            return False

    def request(self, method, path, body=None, headers=None):
        """(status, body bytes)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def push(self, body, headers=None):
        status, text = self.request("POST", "/api/v1/push", body, {"Content-Type": "application/x-protobuf", **(headers or {})})
        return status, text.decode(errors="replace")

    def query(self, expr, t):
        status, text = self.request("GET", "/prometheus/api/v1/query?" + urllib.parse.urlencode({"query": expr, "time": t}))
        answer = json.loads(text)
        assert status == 200 and answer["status"] == "success", answer
        return answer["data"]["result"]
