"""A small S3 server that misbehaves when told to; for the unit tests. It checks signatures (v4 and v2) by itself, from the documented algorithms.

usage: s3_server.py [CERTIFICATE KEY]     prints its port. Bucket "bkt"; keys "testkey", "testsecret".

Faults come by GET /_fault?kind=KIND&method=GET&match=TEXT&times=N&status=503&percent=30, and go by GET /_calm. Kinds:
  status   answers `status` and does nothing       reset   closes without an answer        slow    sleeps 5 s before it answers
  cut      closes in the midst of the body         trickle sends a byte, and then is silent short  a range that is one byte short, honest in its length
  lie      a longer Content-Range than what comes  whole   answers 200 with all to a range  broken XML that ends early
  stale    listings lack the newest object         lost    does it, and closes without an answer    late   200 with an error document within
  other    a wrong ETag
GET /_stats: requests, open uploads, connections, and the headers of the last request that made an object.
"""

import base64
import hashlib
import hmac
import json
import random
import re
import ssl
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

KEY, SECRET, BUCKET = "testkey", "testsecret", "bkt"
lock = threading.Lock()
objects, uploads, faults = {}, {}, []
stats = {"requests": 0, "connections": 0, "headers": {}}
random.seed(1)


def iso(t):
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(t))


def etag(data):
    return hashlib.md5(data).hexdigest()


def hmac256(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class Refused(Exception):
    def __init__(self, status, code):
        super().__init__(code)
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        stats["connections"] += 1

    def log_message(self, *_):
        pass

    # --- signatures

    def check_v4(self, auth, body):
        m = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, SignedHeaders=([^,]+), Signature=([0-9a-f]{64})", auth)
        if not m or m[1] != KEY:
            raise Refused(403, "InvalidAccessKeyId")
        day, region, names, signature = m[2], m[3], m[4].split(";"), m[5]
        sent = self.headers["x-amz-content-sha256"]
        if sent != hashlib.sha256(body).hexdigest():
            raise Refused(400, "XAmzContentSHA256Mismatch")
        must = {"host", "x-amz-date", "x-amz-content-sha256"} | {h.lower() for h in self.headers if h.lower().startswith("x-amz-")}
        if names != sorted(names) or not must <= set(names):
            raise Refused(403, "AccessDenied")
        path, _, query = self.path.partition("?")
        pairs = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in parse_qsl(query, keep_blank_values=True))
        canonical = "\n".join([self.command, quote(unquote(path), safe="/-_.~"), "&".join(f"{k}={v}" for k, v in pairs),
                               *(f"{n}:{' '.join(self.headers[n].split())}" for n in names), "", ";".join(names), sent])
        date = self.headers["x-amz-date"]
        scope = f"{day}/{region}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = hmac256(("AWS4" + SECRET).encode(), day)
        for part in (region, "s3", "aws4_request"):
            key = hmac256(key, part)
        if not hmac.compare_digest(hmac256(key, text).hex(), signature):
            raise Refused(403, "SignatureDoesNotMatch")
        if not date.startswith(day):
            raise Refused(403, "AccessDenied")

    def check_v2(self, auth):
        key, _, signature = auth[4:].partition(":")
        amz = sorted((k.lower(), v) for k, v in self.headers.items() if k.lower().startswith("x-amz-"))
        date = "" if "x-amz-date" in dict(amz) else self.headers.get("Date", "")
        text = "\n".join([self.command, self.headers.get("Content-MD5", ""), self.headers.get("Content-Type", ""), date,
                          "".join(f"{k}:{v}\n" for k, v in amz) + self.path.partition("?")[0]])
        want = base64.b64encode(hmac.new(SECRET.encode(), text.encode(), hashlib.sha1).digest()).decode()
        if key != KEY or want != signature:
            raise Refused(403, "SignatureDoesNotMatch")

    # --- faults

    def fault(self):
        with lock:
            for f in faults:
                if (f.get("method", self.command) == self.command and f.get("match", "") in self.path and int(f["times"]) > 0 and
                        random.random() * 100 < int(f.get("percent", 100))):
                    f["times"] = int(f["times"]) - 1
                    return f["kind"], int(f.get("status", 503))
        return "", 0

    def control(self, url):
        args = dict(parse_qsl(url.query))
        with lock:
            if url.path == "/_fault":
                faults.append({"times": 1, **args})
            elif url.path == "/_calm":
                faults.clear()
            text = json.dumps({**stats, "uploads": len(uploads)}).encode()
        self.answer(200, text)

    # --- answers

    def answer(self, status, body=b"", headers=None, length=None):
        self.send_response(status)
        for k, v in (headers or {}).items():
            self.send_header(k, v)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.kind == "cut":
            self.wfile.write(body[:len(body) // 2])
            self.end()
        elif self.kind == "trickle":
            self.wfile.write(body[:1])
            self.wfile.flush()
            time.sleep(5)
            self.end()
        else:
            self.wfile.write(body)

    def end(self):
        self.wfile.flush()
        self.close_connection = True
        self.connection.close()

    def error(self, status, code):
        self.answer(status, f"<Error><Code>{code}</Code><Message>told so</Message></Error>".encode())

    def do_GET(self):
        self.kind = ""
        url = urlsplit(self.path)
        if url.path.startswith("/_"):
            return self.control(url)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        stats["requests"] += 1
        self.kind, status = self.fault()
        try:
            auth = self.headers.get("Authorization", "")
            self.check_v2(auth) if auth.startswith("AWS ") else self.check_v4(auth, body)
            if self.kind == "status":
                raise Refused(status, "SlowDown")
            if self.kind == "reset":
                return self.end()
            if self.kind == "slow":
                time.sleep(5)
            self.serve(url, dict(parse_qsl(url.query, keep_blank_values=True)), body)
        except Refused as r:
            self.error(r.status, r.code)
        except (BrokenPipeError, ConnectionResetError, ValueError):
            self.close_connection = True

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    # --- the store

    def serve(self, url, query, body):
        host, name = self.headers["Host"], unquote(url.path)[1:]
        if host.startswith(BUCKET + "."):
            name = BUCKET + "/" + name
        bucket, _, name = name.partition("/")
        if bucket != BUCKET:
            raise Refused(404, "NoSuchBucket")
        if not name:
            return self.answer(200) if self.command == "HEAD" else self.listing(query)
        if "uploads" in query or "uploadId" in query:
            return self.part(name, query, body)
        if self.command == "PUT":
            return self.store(name, body, {"ETag": f'"{"0" * 32 if self.kind == "other" else etag(body)}"'})
        if self.command == "DELETE":
            with lock:
                objects.pop(name, None)
            return self.answer(204)
        with lock:
            if name not in objects:
                raise Refused(404, "NoSuchKey")
            data, t, tag = objects[name]
        headers = {"ETag": f'"{tag}"', "Last-Modified": formatdate(t, usegmt=True)}
        if self.command == "HEAD":
            return self.answer(200, b"", headers, len(data))
        self.read(data, headers)

    def read(self, data, headers):
        m = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not m or self.kind == "whole":
            return self.answer(200, data, headers)
        first, last = int(m[1]), min(int(m[2]) if m[2] else len(data) - 1, len(data) - 1)
        if first >= len(data):
            raise Refused(416, "InvalidRange")
        part = data[first:last + 1]
        if self.kind in ("short", "lie"):
            part = part[:-1]
        if self.kind == "short":
            last -= 1
        self.answer(206, part, {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def store(self, name, data, headers, answer=b"", tag=None):
        with lock:
            objects[name] = (data, time.time(), tag or etag(data))
            if self.command == "PUT":
                stats["headers"] = {k.lower(): v for k, v in self.headers.items()}
        if self.kind == "lost":
            return self.end()
        self.answer(200, answer, headers)

    def part(self, name, query, body):
        if "uploads" in query:
            with lock:
                n = f"id/{len(uploads)}+{random.random()}"
                uploads[n] = {}
                stats["headers"] = {k.lower(): v for k, v in self.headers.items()}
            return self.answer(200, f"<InitiateMultipartUploadResult><UploadId>{n}</UploadId></InitiateMultipartUploadResult>".encode())
        with lock:
            if query["uploadId"] not in uploads:
                raise Refused(404, "NoSuchUpload")
            parts = uploads[query["uploadId"]]
            if self.command == "DELETE":
                del uploads[query["uploadId"]]
        if self.command == "DELETE":
            return self.answer(204)
        if self.command == "PUT":
            parts[int(query["partNumber"])] = body
            return self.answer(200, b"", {"ETag": f'"{etag(body)}"'})
        if self.kind == "late":
            return self.answer(200, b"<Error><Code>InternalError</Code><Message>told so</Message></Error>")
        listed = re.findall(r"<PartNumber>(\d+)</PartNumber><ETag>&quot;([0-9a-f]+)&quot;</ETag>", body.decode())
        if [(int(n), t) for n, t in listed] != [(n, etag(p)) for n, p in sorted(parts.items())]:
            raise Refused(400, "InvalidPart")
        with lock:
            uploads.pop(query["uploadId"], None)
        data = b"".join(p for _, p in sorted(parts.items()))
        tag = etag(b"".join(hashlib.md5(p).digest() for _, p in sorted(parts.items())))
        self.store(name, data, {}, b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>", f"{tag}-{len(parts)}")

    def listing(self, query):
        with lock:
            newest = max(objects, key=lambda n: objects[n][1], default="")
            held = {n: o for n, o in objects.items() if not (self.kind == "stale" and n == newest)}
        prefix, delimiter, v2 = query.get("prefix", ""), query.get("delimiter", ""), query.get("list-type") == "2"
        after = base64.b64decode(query.get("continuation-token", "")).decode() if v2 else query.get("marker", "")
        rows = {}
        for n in sorted(held):
            if n.startswith(prefix):
                cut = n.find(delimiter, len(prefix)) if delimiter else -1
                rows.setdefault(n if cut < 0 else n[:cut + 1], cut >= 0)
        names = [n for n in sorted(rows) if n > after]
        page = names[:min(int(query.get("max-keys", 1000)), 7)]  # few, so that listings have pages
        enc = (lambda n: quote(n, safe="/")) if query.get("encoding-type") == "url" else escape
        text = "<ListBucketResult>" + f"<IsTruncated>{'true' if len(page) < len(names) else 'false'}</IsTruncated>"
        if len(page) < len(names):
            text += f"<NextContinuationToken>{base64.b64encode(page[-1].encode()).decode()}</NextContinuationToken>" if v2 else \
                f"<NextMarker>{enc(page[-1])}</NextMarker>" if delimiter else ""
        for n in page:
            text += f"<CommonPrefixes><Prefix>{enc(n)}</Prefix></CommonPrefixes>" if rows[n] else \
                (f"<Contents><Key>{enc(n)}</Key><LastModified>{iso(held[n][1])}</LastModified><ETag>&quot;{held[n][2]}&quot;</ETag>"
                 f"<Size>{len(held[n][0])}</Size></Contents>")
        if query.get("encoding-type") == "url":
            text += "<EncodingType>url</EncodingType>"
        text += "</ListBucketResult>"
        self.answer(200, (text[:-30] if self.kind == "broken" else text).encode())


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass


server = Server(("127.0.0.1", 0), Handler)
if len(sys.argv) > 2:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(sys.argv[1], sys.argv[2])
    server.socket = tls.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
