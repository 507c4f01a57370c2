"""A standard gRPC client (grpcio) against the test server of net/rpc."""

import os
import pathlib
import shutil
import subprocess
import threading

import grpc
import pytest

from process import Brunn, wait_until


def find_server():
    """Beside the program under test, where it is built when it is named."""
    build = pathlib.Path(os.environ["BRUNN_BIN"]).resolve().parent.parent
    program = build / "tests" / "rpc_test_server"
    subprocess.run(["cmake", "--build", str(build), "--target", "rpc_test_server"], check=True, stdout=subprocess.DEVNULL)
    return program


@pytest.fixture(scope="module")
def address():
    server = subprocess.Popen([find_server()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield "127.0.0.1:%d" % int(server.stdout.readline())
    server.stdin.close()
    assert server.wait(20) == 0


@pytest.fixture
def channel(address):
    options = [("grpc.max_receive_message_length", 100 << 20), ("grpc.max_send_message_length", 200 << 20)]
    with grpc.insecure_channel(address, options=options) as channel:
        yield channel


def status_of(call, *args, **kwargs):
    with pytest.raises(grpc.RpcError) as error:
        call(*args, **kwargs)
    return error.value


def test_health(channel):
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"", timeout=10) == b"\x08\x01"
    assert check(b"\x0a\x09test.Test", timeout=10) == b"\x08\x01"
    assert status_of(check, b"\x0a\x03xyz", timeout=10).code() == grpc.StatusCode.NOT_FOUND
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
    with pytest.raises(grpc.RpcError) as error:
        list(watch(b"", timeout=10))
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_unary(channel):
    echo = channel.unary_unary("/test.Test/Echo")
    for message in (b"", b"hello", os.urandom(3 << 20)):
        assert echo(message, timeout=20) == message


def test_gzip(channel):
    echo = channel.unary_unary("/test.Test/Echo")
    message = b"compressible " * 100000
    assert echo(message, timeout=20, compression=grpc.Compression.Gzip) == message
    status = status_of(echo, message, timeout=20, compression=grpc.Compression.Deflate)
    assert status.code() == grpc.StatusCode.UNIMPLEMENTED


def test_metadata(channel):
    tenant = channel.unary_unary("/test.Test/Tenant")
    assert tenant(b"", timeout=10, metadata=[("x-scope-orgid", "team-a"), ("other", "b")]) == b"team-a/b"


def test_stream(channel):
    count = channel.unary_stream("/test.Test/Count")
    n = 0
    for message in count(b"10000 300", timeout=25):
        assert len(message) == 300 and int(message.split()[0]) == n
        n += 1
    assert n == 10000
    assert list(count(b"0 0", timeout=10)) == []


def test_stream_is_canceled(channel):
    call = channel.unary_stream("/test.Test/Count")(b"1000000 100000", timeout=20)
    next(call)
    call.cancel()
    assert channel.unary_unary("/test.Test/Echo")(b"x", timeout=10) == b"x"


def test_errors(channel):
    status = status_of(channel.unary_unary("/test.Test/Refuse"), b"", timeout=10)
    assert status.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert status.details() == '100% "f\u00fcr"\nnothing'
    assert dict(status.trailing_metadata())["grpc-status-details-bin"] == b"\x08\x09\x00\xff"
    status = status_of(channel.unary_unary("/test.Test/Missing"), b"", timeout=10)
    assert status.code() == grpc.StatusCode.UNIMPLEMENTED
    assert status.details() == "unknown method /test.Test/Missing"
    status = status_of(channel.unary_unary("/test.Test/Echo"), bytes((100 << 20) + 1), timeout=20)
    assert status.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_deadline(channel):
    status = status_of(channel.unary_unary("/test.Test/Hang"), b"", timeout=0.2)
    assert status.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_many_at_once(channel):
    nap = channel.unary_unary("/test.Test/Nap")
    calls = [nap.future(b"%d" % i, timeout=20) for i in range(150)]
    assert [call.result() for call in calls] == [b"%d" % i for i in range(150)]


def test_the_process_serves_health(brunn):
    with grpc.insecure_channel(f"127.0.0.1:{brunn.grpc_port}") as own:
        assert own.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10) == b"\x08\x01"
    metrics = brunn.get("/metrics")[1]
    assert 'route="/grpc.health.v1.Health/Check",status_code="OK",ws="false"} 1' in metrics


def test_many_connections(address):
    failed = []

    def ask(i):
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as own:
            if own.unary_unary("/test.Test/Echo")(b"%d" % i, timeout=20) != b"%d" % i:
                failed.append(i)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def issue(folder, name, authority=None):
    """NAME.pem and NAME.key, signed by the authority, or by itself."""
    run = lambda *args: subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key", "-subj", f"/CN={name}"]
    if not authority:
        run("req", "-x509", *key, "-days", "2", "-out", f"{name}.pem")
        return
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    run("req", *key, "-out", f"{name}.csr")
    run("x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial",
        "-days", "2", "-extfile", "names", "-out", f"{name}.pem")


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certs")
    for authority in ("ca", "other"):
        issue(folder, authority)
    issue(folder, "server", "ca")
    issue(folder, "client", "ca")
    issue(folder, "stranger", "other")
    return folder


def credentials(certs, authority, client=None):
    read = lambda name: (certs / name).read_bytes()
    return grpc.ssl_channel_credentials(read(f"{authority}.pem"), read(f"{client}.key") if client else None,
                                        read(f"{client}.pem") if client else None)


def test_tls(certs):
    """Both ends prove who they are; nobody else is served."""
    server = subprocess.Popen([find_server(), certs / "server.pem", certs / "server.key", certs / "ca.pem"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    address = "localhost:%d" % int(server.stdout.readline())
    with grpc.secure_channel(address, credentials(certs, "ca", "client")) as channel:
        message = os.urandom(3 << 20)
        assert channel.unary_unary("/test.Test/Echo")(message, timeout=20) == message
        assert len(list(channel.unary_stream("/test.Test/Count")(b"2000 5000", timeout=20))) == 2000
    for strange in (credentials(certs, "ca"), credentials(certs, "ca", "stranger"), credentials(certs, "other", "client")):
        with grpc.secure_channel(address, strange) as channel:
            assert status_of(channel.unary_unary("/test.Test/Echo"), b"x", timeout=5).code() in (
                grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    with grpc.insecure_channel(address) as channel:
        assert status_of(channel.unary_unary("/test.Test/Echo"), b"x", timeout=5).code() in (
            grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    server.stdin.close()
    assert server.wait(20) == 0


def test_the_process_serves_tls(certs, tmp_path):
    """HTTP and gRPC of the one process, by its flags; a renewed certificate needs no restart."""
    own = tmp_path / "tls"
    own.mkdir()
    for name in ("server.pem", "server.key"):
        shutil.copy(certs / name, own)
    flags = [f"-server.{protocol}-tls-{part}-path={own}/server.{ending}"
             for protocol in ("http", "grpc") for part, ending in (("cert", "pem"), ("key", "key"))]
    brunn = Brunn(tmp_path / "brunn", *flags, "-server.tls-min-version=VersionTLS13", wait_ready=False)

    def curl(authority, *args):
        return subprocess.run(["curl", "-sf", "--cacert", certs / f"{authority}.pem", *args, f"https://localhost:{brunn.port}/ready"],
                              capture_output=True)

    wait_until("ready over TLS", 60, lambda: curl("ca").returncode == 0)
    assert curl("ca").stdout.strip() == b"ready"
    assert curl("other").returncode == 60
    assert curl("ca", "--tls-max", "1.2").returncode != 0
    with grpc.secure_channel(f"localhost:{brunn.grpc_port}", credentials(certs, "ca")) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10) == b"\x08\x01"
    shutil.copy(certs / "stranger.key", own / "server.key")
    shutil.copy(certs / "stranger.pem", own / "server.pem")
    assert curl("other").returncode == 0
    brunn.stop()
