"""A standard gRPC client (grpcio) against the test server of net/rpc."""

import os
import pathlib
import subprocess
import threading

import grpc
import pytest


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
