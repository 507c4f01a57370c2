"""A bad network before an S3 server: errors, late answers, bodies that are cut short, lists of a while ago.

A proxy that hands requests on as they came, with their Host, so that signatures hold. What it does to them is decided by dice of a seed.
"""

import http.client
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"}


class Faults:
    """Shares of requests: errors 5xx, late (by late_s), cut (answers whose body ends halfway), stale (lists as they were up to stale_s ago)."""

    def __init__(self, errors=0.0, late=0.0, late_s=5.0, cut=0.0, stale=0.0, stale_s=3.0, seed=1):
        self.errors, self.late, self.late_s, self.cut, self.stale, self.stale_s = errors, late, late_s, cut, stale, stale_s
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.counts = {"requests": 0, "errors": 0, "late": 0, "cut": 0, "stale": 0}

    def falls(self, what):
        with self.lock:
            hit = self.random.random() < getattr(self, what)
            self.counts[what] += hit
            return hit


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def body(self):
        """Of the request, as it is on the wire."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        out = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            out += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return out

    def refuse(self):
        text = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
        self.send_response(503)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def ask(self, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP | {"expect", "content-length"}:
                    connection.putheader(name, value)
            if body or self.command in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def answer_of(self, body):
        """From behind, or for a list perhaps what it was a while ago."""
        faults, is_list = self.server.faults, self.command == "GET" and ("list-type=" in self.path or "prefix=" in self.path)
        if not is_list:
            return self.ask(body)
        now, old = time.monotonic(), self.server.lists.get(self.path)
        if old and now - old[0] < faults.stale_s and faults.falls("stale"):
            return old[1]
        answer = self.ask(body)
        if not old or now - old[0] >= faults.stale_s:
            self.server.lists[self.path] = (now, answer)
        return answer

    def handle_any(self):
        try:
            self.one()
        except ConnectionError:  # of a client that had waited for long enough
            self.close_connection = True

    def one(self):
        faults = self.server.faults
        with faults.lock:
            faults.counts["requests"] += 1
        body = self.body()
        if faults.falls("errors"):
            self.refuse()
            return
        if faults.falls("late"):
            time.sleep(faults.late_s)
        status, headers, data = self.answer_of(body)
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.close_connection = len(data) > 1 and faults.falls("cut")
        self.wfile.write(data[:len(data) // 2] if self.close_connection else data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # with the default of 5 a burst of connections waits seconds for its packets to be sent again


class FaultyNetwork:
    """faults may be exchanged while it runs."""

    def __init__(self, behind, faults):
        self.server = Listener(("127.0.0.1", 0), Handler)
        self.server.behind, self.server.faults, self.server.lists = behind, faults, {}
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def faults(self):
        return self.server.faults

    @faults.setter
    def faults(self, faults):
        self.server.faults = faults

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
