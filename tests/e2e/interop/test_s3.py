"""The object store's unit tests beside real S3 servers: MinIO with both signatures, versitygw with the newer one."""

import os
import socket
import subprocess

import pytest

from process import BRUNN, PEERS, Server, free_port, wait_until

TESTS = os.path.join(os.path.dirname(os.path.dirname(BRUNN)), "tests", "storage_objstore_real_test")
KEY, SECRET = "testkey", "testsecret"


def answers(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def start(kind, port, folder):
    if kind == "minio":
        args = [os.path.join(PEERS, "minio"), "server", "--address", f"127.0.0.1:{port}", "--console-address", f"127.0.0.1:{free_port()}", str(folder)]
        names = "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"
    else:
        args = [os.path.join(PEERS, "versitygw"), "--port", f"127.0.0.1:{port}", "posix", str(folder)]
        names = "ROOT_ACCESS_KEY", "ROOT_SECRET_KEY"
    return Server(["env", f"{names[0]}={KEY}", f"{names[1]}={SECRET}", *args], str(folder) + ".log")


@pytest.mark.parametrize("kind,signature", [("minio", "v4"), ("minio", "v2"), ("versitygw", "v4")])
def test_a_real_server(kind, signature, tmp_path):
    port, folder = free_port(), tmp_path / kind
    (folder / "bkt").mkdir(parents=True)
    server = start(kind, port, folder)
    try:
        wait_until(f"{kind} to answer", 30, lambda: answers(port))
        env = {**os.environ, "OBJSTORE_TEST_ENDPOINT": f"127.0.0.1:{port}", "OBJSTORE_TEST_KEY": KEY, "OBJSTORE_TEST_SECRET": SECRET,
               "OBJSTORE_TEST_BUCKET": "bkt", "OBJSTORE_TEST_SIGNATURE": signature}
        ran = subprocess.run([TESTS, "-j1"], env=env, capture_output=True, text=True, timeout=300)
        output = ran.stdout + ran.stderr
        assert ran.returncode == 0 and "LeakSanitizer" not in output, output
        assert "Passing: 4" in output, output
    finally:
        server.kill()
