"""What deploy/ says is what the program knows: its flags, its configuration, its libraries; and the local cluster starts and stops."""

import glob
import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request

import yaml

import remote_write as rw
from cluster import fixed_port
from process import BRUNN, ROOT, Server, wait_until

DEPLOY = os.path.join(ROOT, "deploy")


def known_flags():
    text = subprocess.run([BRUNN, "-help-all"], capture_output=True, text=True).stdout
    return set(re.findall(r"^ +-([\w.-]+)", text, re.M))


def manifests():
    out = []
    for path in sorted(glob.glob(os.path.join(DEPLOY, "kubernetes", "*.yaml"))):
        with open(path) as f:
            out += [(os.path.basename(path), d) for d in yaml.safe_load_all(f) if d]
    return out


def of_kind(*kinds):
    return [d for _, d in manifests() if d["kind"] in kinds]


def containers():
    return [(d, c) for d in of_kind("StatefulSet", "Deployment") for c in d["spec"]["template"]["spec"]["containers"]]


def test_flags_exist():
    with open(os.path.join(DEPLOY, "local", "start.sh")) as f:
        script = f.read()
    used = set(re.findall(r"(?<= )-([a-z][\w-]*\.[\w.-]+|target)=", script))
    for _, c in containers():
        assert all(a.startswith("-") for a in c["args"])
        used |= {a[1:].split("=")[0] for a in c["args"]}
    assert len(used) > 20
    assert not used - known_flags()


def test_the_configuration_is_accepted(tmp_path):
    config = of_kind("ConfigMap")[0]["data"]["mimir.yaml"]
    (tmp_path / "mimir.yaml").write_text(config)
    env = {**os.environ, "POD_NAME": "ingester-zone-a-3", "POD_IP": "127.0.0.1"}
    for d, c in containers():
        args = [re.sub(r"\$\((\w+)\)", lambda m: env[m[1]], a).replace("/etc/mimir", str(tmp_path)) for a in c["args"]]
        done = subprocess.run([BRUNN, *args, "-print.config"], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, (d["metadata"]["name"], done.stderr)
        shown = yaml.safe_load(done.stdout)
        assert shown["ingest_storage"]["kafka"]["topic"] == "ingest"


def test_manifests_fit_together():
    services = {s["metadata"]["name"]: s["spec"] for s in of_kind("Service")}
    for workload in of_kind("StatefulSet", "Deployment"):
        name, spec = workload["metadata"]["name"], workload["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert labels["name"] == name and labels["gossip_ring_member"] == "true"
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        assert services[name]["selector"].items() <= labels.items()
        ports = {p["name"]: p["containerPort"] for p in spec["template"]["spec"]["containers"][0]["ports"]}
        assert ports == {"http-metrics": 8080, "grpc": 9095, "gossip-ring": 7946}
        assert any(b["spec"]["selector"]["matchLabels"].items() <= labels.items() for b in of_kind("PodDisruptionBudget"))
    sets = {s["metadata"]["name"]: s for s in of_kind("StatefulSet")}
    assert set(sets) == {"ingester-zone-a", "ingester-zone-b", "store-gateway", "compactor"}
    zones = {name: s for name, s in sets.items() if "zone" in name}
    template = of_kind("ReplicaTemplate")[0]
    for name, s in zones.items():
        assert s["metadata"]["annotations"]["grafana.com/rollout-mirror-replicas-from-resource-name"] == template["metadata"]["name"]
        assert s["spec"]["replicas"] == template["spec"]["replicas"] and s["spec"]["updateStrategy"]["type"] == "OnDelete"
        zone = name[len("ingester-"):]
        assert f"-ingester.ring.instance-availability-zone={zone}" in s["spec"]["template"]["spec"]["containers"][0]["args"]
    # The two zones are alike but for their names.
    a, b = (json.dumps(zones[f"ingester-zone-{z}"]["spec"]).replace(f"zone-{z}", "zone") for z in "ab")
    assert a == b
    with open(os.path.join(DEPLOY, "kubernetes", "kustomization.yaml")) as f:
        listed = set(yaml.safe_load(f)["resources"])
    assert listed == {name for name, _ in manifests()} - {"kustomization.yaml", "servicemonitor.yaml"}


def test_the_image_has_the_libraries():
    """Of this build; but for the sanitizers' and those that every Debian has."""
    with open(os.path.join(DEPLOY, "Dockerfile")) as f:
        listed = set(f.read().split())
    needed = subprocess.run(["ldd", BRUNN], capture_output=True, text=True).stdout
    direct = subprocess.run(["objdump", "-p", BRUNN], capture_output=True, text=True).stdout
    packages = set()
    for library in re.findall(r"NEEDED\s+(\S+)", direct):
        path = os.path.realpath(re.search(rf"{re.escape(library)} => (\S+)", needed)[1])
        found = subprocess.run(["dpkg", "-S", path], capture_output=True, text=True).stdout
        if found:
            packages.add(found.split(":")[0])
    missing = {p for p in packages if p not in listed and not re.match(r"lib(asan|ubsan|tsan|c6|gcc-s1)", p)}
    assert packages and not missing


def get(port, path, headers=None):
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers or {}), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()
    except OSError as e:
        return 0, repr(e)


def test_the_local_cluster(tmp_path):
    port = fixed_port()
    env = {"PORT": str(port), "DATA": str(tmp_path / "data"), "BRUNN": BRUNN}
    script = Server(["env", *(f"{k}={v}" for k, v in env.items()), os.path.join(DEPLOY, "local", "start.sh")], str(tmp_path / "log"))
    try:
        def started():
            assert script.alive(), script.output()
            return "cluster is running" in script.output()
        wait_until("the local cluster", 120, started)
        now_ms = int(time.time() * 1000)
        body = rw.body(*(rw.series({"__name__": "m", "i": str(i)}, [(now_ms, 1.0)]) for i in range(100)))

        def push():
            request = urllib.request.Request(f"http://127.0.0.1:{port}/api/v1/push", body, {"Content-Type": "application/x-protobuf"})
            return urllib.request.urlopen(request, timeout=30).status
        wait_until("a push", 30, lambda: push() == 200)
        wait_until("its samples", 30, lambda: '"100"' in get(port, f"/prometheus/api/v1/query?query=count(m)&time={now_ms / 1000}")[1])
        shown = script.output()
        names = dict(re.findall(r"((?:ingester|distributor|querier|store-gateway|compactor)-[\w-]+):(\d+)", shown))
        assert len(names) == 11

        def owner_is_known(querier):
            """The other zone's ingester of the partition, in both rings, and that it serves."""
            def ring(page):
                status, text = get(names[querier], page, {"Accept": "application/json"})
                assert status == 200, (querier, page, status, text[:500])
                return json.loads(text)
            return (any(s["id"] == "ingester-zone-b-0" and s["state"] == "ACTIVE" for s in ring("/ingester/ring")["shards"] or []) and
                    any("ingester-zone-b-0" in (p["owner_ids"] or []) for p in ring("/ingester/partition-ring")["partitions"] or []))
        wait_until("the queriers to know another owner", 60, lambda: all(map(owner_is_known, ("querier-0", "querier-1"))))
        # One that dies is started again.
        pid = subprocess.run(["pgrep", "-f", f"^{re.escape(BRUNN)} .*{tmp_path}/data/ingester-zone-a-0/"], capture_output=True, text=True).stdout.split()
        assert len(pid) == 1
        os.kill(int(pid[0]), signal.SIGKILL)
        wait_until("word of it", 10, lambda: "ingester-zone-a-0 has ended" in script.output())
        answer = get(port, f"/prometheus/api/v1/query?query=count(m)&time={now_ms / 1000}")
        assert '"100"' in answer[1], answer
        wait_until("its return", 60, lambda: get(names["ingester-zone-a-0"], "/ready")[0] == 200)
    finally:
        script.stop(120)
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout.split()
    assert not left, "processes were left behind"
    for log in glob.glob(f"{tmp_path}/data/*/log"):
        with open(log, errors="replace") as f:
            assert "AddressSanitizer" not in f.read(), log
