"""Starting, stopping, and what goes wrong at a start: one clear line and an exit status."""

import json
import os
import signal
import socket
import subprocess
import time

import pytest

import remote_write as rw
from process import BRUNN, Brunn, free_port, wait_until


def run(*args, **kwargs):
    return subprocess.run([BRUNN, *args], capture_output=True, text=True, timeout=60, **kwargs)


@pytest.mark.parametrize("args, text", [
    (["-nope"], "brunn: unknown flag -nope (see -help)"),
    (["-server.http-listen-port=x"], 'brunn: invalid value for flag -server.http-listen-port: not an integer: "x"'),
    (["-target=nope"], "brunn: -target=nope:"),
    (["-log.level=loud"], 'brunn: invalid value for flag -log.level: "loud" is not debug, info, warn or error'),
    (["-config.file=/does/not/exist"], "brunn: reading configuration file /does/not/exist: No such file or directory"),
])
def test_a_bad_flag_is_named(args, text):
    result = run(*args)
    assert result.returncode == 2
    assert result.stderr.startswith(text)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("yaml, text", [
    ("limits:\n  nope: 1\n", ":2: field limits.nope not found"),
    ("server:\n  http_listen_port: x\n", ":2: invalid value for server.http_listen_port"),
])
def test_a_bad_file_is_named(tmp_path, yaml, text):
    (tmp_path / "c.yaml").write_text(yaml)
    result = run(f"-config.file={tmp_path}/c.yaml")
    assert result.returncode == 2
    assert text in result.stderr


def test_printing_flags():
    assert run("-version").stdout.startswith("brunn, version ")
    assert "all" in run("-modules").stdout.split()
    basic, everything = run("-help").stdout, run("-help-all").stdout
    assert "\n  -data-dir string\n" in basic and "\n  -auth.no-auth-tenant" not in basic
    assert "\n  -auth.no-auth-tenant string\n" in everything
    assert "data_dir: \"./data\"\n" in run("-print.config").stdout


def test_a_taken_port_is_told(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        result = run(f"-data-dir={tmp_path}/d", "-server.http-listen-address=127.0.0.1", f"-server.http-listen-port={port}")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("brunn: ") and str(port) in last and "in use" in last


def test_a_taken_grpc_port_is_told(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        result = run(f"-data-dir={tmp_path}/d", f"-server.http-listen-port={free_port()}", "-server.http-listen-address=127.0.0.1",
                     "-server.grpc-listen-address=127.0.0.1", f"-server.grpc-listen-port={port}")
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1] == f"brunn: listen tcp 127.0.0.1:{port}: address already in use"


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    result = run(f"-data-dir={tmp_path}/file/data", f"-server.http-listen-port={free_port()}")
    assert result.returncode == 1
    assert f"{tmp_path}/file/data" in result.stderr


def test_a_disk_that_is_full_at_the_start_is_told(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(tmp_path)], check=True)
    try:
        (tmp_path / "filler").write_bytes(b"x" * 4096)
        result = run(f"-data-dir={tmp_path}/data", f"-server.http-listen-port={free_port()}", cwd="/")
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
    assert result.returncode == 1
    assert "No space left on device" in result.stderr and str(tmp_path) in result.stderr


def test_the_data_folder_is_locked(tmp_path, brunn):
    result = run(f"-data-dir={brunn.folder}/data", f"-server.http-listen-port={free_port()}")
    assert result.returncode == 1
    assert f"is in use by another process (pid {brunn.pid})" in result.stderr


def test_pages(brunn):
    status, page = brunn.get("/")
    assert status == 200 and "/explore" in page and "/prometheus/api/v1/query" in page
    assert brunn.get("/ready") == (200, "ready")
    assert "process_cpu_seconds_total" in brunn.get("/metrics")[1]
    only = brunn.get("/metrics?name[]=process_open_fds")[1]
    assert "process_open_fds" in only and "process_cpu_seconds_total" not in only
    assert "multitenancy_enabled: false" in brunn.get("/config?mode=diff")[1]
    assert "multitenancy_enabled: true" in brunn.get("/config?mode=defaults")[1]
    services = json.loads(brunn.get("/services", {"Accept": "application/json"})[1])["services"]
    assert {"name": "distributor-service", "status": "Running"} in services
    assert "Running" in brunn.get("/services")[1]
    for path in ("/api/v1/status/buildinfo", "/prometheus/api/v1/status/buildinfo"):
        assert json.loads(brunn.get(path)[1])["data"]["version"]
    assert brunn.get("/nope") == (404, "404 page not found\n")
    assert brunn.request("POST", "/config")[0] == 405


def test_yaml_and_environment_configure(tmp_path):
    (tmp_path / "c.yaml").write_text("server:\n  http_listen_address: ${ADDRESS:127.0.0.1}\nlimits:\n  max_label_names_per_series: 3\n")
    b = Brunn(tmp_path, f"-config.file={tmp_path}/c.yaml", "-config.expand-env")
    now = int(time.time() * 1000)
    status, text = b.push(rw.body(rw.series({"__name__": "m", "a": "1", "b": "2", "c": "3"}, [(now, 1)])))
    assert status == 400 and "actual: 4, limit: 3" in text
    b.stop()


def test_a_stop_keeps_everything(tmp_path):
    b = Brunn(tmp_path)
    now = int(time.time() * 1000)
    assert b.push(rw.body(rw.series({"__name__": "kept"}, [(now, 42)])))[0] == 200
    b.stop()
    b = Brunn(tmp_path)
    assert b.query("kept", now / 1000)[0]["value"][1] == "42"
    b.stop()


def test_shutdown_delay_says_not_ready_and_serves(tmp_path):
    b = Brunn(tmp_path, "-shutdown-delay=2s")
    os.kill(b.pid, signal.SIGTERM)
    wait_until("/ready to say no", 2, lambda: b.get("/ready") == (503, "Application is stopping"))
    assert b.get("/services")[0] == 200
    assert b.process.wait(30) == 0
    b.check_clean()


def test_a_full_disk_is_told_and_heals(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(data)], check=True)
    try:
        b = Brunn(tmp_path)
        filler = data / "filler"
        filler.write_bytes(b"x" * (10 << 20))
        labels = rw.labels_bytes({"__name__": "full", "pad": "x" * 1000})
        now, acknowledged, refused = int(time.time() * 1000) - 3_000_000, [], None
        for i in range(20000):
            # Text that snappy cannot shorten, so that the log fills.
            junk = os.urandom(700).hex()
            status, text = b.push(rw.body(rw.series(labels, [(now + i, i)]), rw.series({"__name__": "junk", "j": junk}, [(now + i, i)])))
            if status != 200:
                refused = status, text
                break
            acknowledged.append(i)
        assert refused and refused[0] == 503, refused
        assert "space" in refused[1]
        assert b.get("/prometheus/api/v1/labels")[0] == 200
        filler.unlink()
        wait_until("pushes to be taken again", 30, lambda: b.push(rw.body(rw.series({"__name__": "healed"}, [(now, 1)])))[0] == 200)
        kept = b.query("count_over_time(full[1h])", (now + 60_000) / 1000)
        assert int(kept[0]["value"][1]) >= len(acknowledged)
        b.stop()
    finally:
        subprocess.run(["umount", "-l", str(data)], check=True)
