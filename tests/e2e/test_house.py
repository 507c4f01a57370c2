"""The house keeps its own rules: includes go down the floors, private headers stay private, the reference is fresh."""

import os
import re
import subprocess

from process import BRUNN, ROOT

# Floors of docs/architecture.md. Siblings of a floor may not include each other unless ALLOWED_BESIDE says so.
FLOORS = {"base": 0, "model": 0, "net": 1, "ring": 2, "log": 3, "partition-ring": 3, "storage": 4, "write": 5, "ingest": 5, "read": 5, "app": 6}
ALLOWED_BESIDE = {("model", "base")}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def sources():
    for room in FLOORS:
        for folder, _, files in os.walk(os.path.join(ROOT, room)):
            for name in files:
                if name.endswith((".c", ".h", ".cc", ".def", ".re", ".y")):
                    yield os.path.relpath(os.path.join(folder, name), ROOT)


def includes():
    for path in sources():
        with open(os.path.join(ROOT, path)) as f:
            for target in INCLUDE.findall(f.read()):
                yield path, target


def test_includes_go_down_only():
    climbing = []
    for path, target in includes():
        room, other = path.split("/")[0], target.split("/")[0]
        if "/" not in target or other not in FLOORS or room == other or (room, other) in ALLOWED_BESIDE:
            continue
        if FLOORS[other] >= FLOORS[room]:
            climbing.append(f"{path} includes {target}")
    assert not climbing


def test_private_headers_stay_in_their_folder():
    crossing = [f"{path} includes {target}" for path, target in includes()
                if target.endswith("_int.h") and os.path.dirname(target) != os.path.dirname(path)]
    assert not crossing


def test_reference_is_fresh(tmp_path):
    subprocess.run([BRUNN, "tool", "reference", str(tmp_path)], check=True)
    stale = []
    for name in sorted(os.listdir(tmp_path)):
        with open(os.path.join(ROOT, "docs", "reference", name)) as kept:
            if kept.read() != (tmp_path / name).read_text():
                stale.append(name)
    assert not stale, "run: build/asan/app/brunn tool reference docs/reference"


def test_the_reference_has_the_metrics_of_every_room():
    shown = {target for path, target in includes() if path == "app/reference.c"}
    assert not [path for path in sources() if path.endswith("_metrics.def") and path not in shown]


def test_the_readmes_examples_work_as_printed(brunn):
    with open(os.path.join(ROOT, "README.md")) as f:
        commands = [line for line in f.read().splitlines() if line.startswith("curl ")]
    assert len(commands) >= 4
    for command in commands:
        subprocess.run(command.replace("127.0.0.1:8080", f"127.0.0.1:{brunn.port}"), shell=True, check=True, stdout=subprocess.DEVNULL)
