"""Configurations of Grafana Mimir 3 start here, or are refused for a reason that is in the table (app/accepted_flags.def)."""

import csv
import os
import re
import subprocess

import pytest

from process import BRUNN, ROOT, Brunn

MIMIR = os.path.join(ROOT, os.pardir, "shared", "mimir")
TOOLS = os.path.join(ROOT, os.pardir, "shared", "tools", "mimir")


def run(*args):
    return subprocess.run([BRUNN, *args], capture_output=True, text=True, timeout=60)


def mimir_flags():
    with open(os.path.join(MIMIR, "flags.tsv")) as f:
        return list(csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE))


def table():
    """Rows of docs/reference: flag or pattern -> (what is accepted)."""
    rows = {}
    with open(os.path.join(ROOT, "docs", "reference", "accepted-flags.md")) as f:
        for line in f:
            cells = [c.strip().strip("`") for c in line.split(" | ")]
            if line.startswith("| `-"):
                rows[cells[0].lstrip("| `").lstrip("-").rstrip("`")] = cells[4]
    return rows


def test_every_flag_of_mimir_is_known():
    shown = set(re.findall(r"^  -(\S+)", run("-help-all").stdout, re.M))
    prefixes = tuple(name[:-1] for name in shown if name.endswith("*"))
    unknown = [row["flag"] for row in mimir_flags() if row["flag"] not in shown and not row["flag"].startswith(prefixes)]
    assert unknown == ["h"]


def test_no_flag_is_both_ours_and_without_effect():
    help_all = run("-help-all").stdout
    names = re.findall(r"^  -(\S+)", help_all, re.M)
    assert len(names) == len(set(names)), sorted(n for n in set(names) if names.count(n) > 1)


def test_all_of_mimirs_defaults_start(tmp_path):
    """The file is what a Mimir prints: every key it has, at its default. Ours is always with a log."""
    b = Brunn(tmp_path, f"-config.file={MIMIR}/defaults.yaml", "-ingest-storage.enabled=true", f"-blocks-storage.tsdb.dir={tmp_path}/tsdb/deep")
    warnings = [line for line in b.output().splitlines() if "have no effect here" in line]
    assert len(warnings) == 1
    # What differs there is whole components only.
    named = re.search(r'flags="([^"]*)"', warnings[0])[1].split(", ")
    assert all(name.endswith("*") for name in named), named
    assert os.listdir(tmp_path / "tsdb" / "deep")
    b.stop()


def test_a_configuration_of_mimirs_single_process_starts(tmp_path):
    with open(os.path.join(TOOLS, "classic.yaml")) as f:
        text = f.read().lstrip().replace("DATA", str(tmp_path / "m"))
    for port in ("HTTP_PORT", "GRPC_PORT", "GOSSIP_PORT"):
        text = text.replace(port, "0")
    (tmp_path / "mimir.yaml").write_text(text)
    b = Brunn(tmp_path, f"-config.file={tmp_path}/mimir.yaml")
    assert "ruler" in b.output() and os.path.isdir(tmp_path / "m" / "tsdb")
    b.stop()


def other_value(row):
    return {"bool": "true" if row["default"] == "false" else "false", "int": "17", "uint": "17", "float": "0.17", "duration": "17s", "bytes": "17KiB"}.get(
        row["type"], "seventeen")


def test_what_protects_is_refused_and_the_rest_is_accepted():
    rows = table()
    given = [(row["flag"], rows.get(row["flag"]), other_value(row)) for row in mimir_flags() if "durations" not in row["type"]]
    harmless = [f"-{flag}={value}" for flag, accepts, value in given if accepts == "any value"]
    protecting = [(flag, value) for flag, accepts, value in given if accepts == "default only"]
    assert len(harmless) > 200 and len(protecting) > 20
    result = run(*harmless, "-version")
    assert result.returncode == 0, result.stderr
    for flag, value in protecting:
        result = run(f"-{flag}={value}", "-version")
        assert result.returncode == 2 and f"-{flag}: only its default" in result.stderr, (flag, result.stderr)


@pytest.mark.parametrize("target", ["ruler", "alertmanager", "query-frontend", "all,query-scheduler"])
def test_a_component_that_is_not_there_is_named(target):
    result = run(f"-target={target}")
    assert result.returncode == 2
    assert f"there is no {target.split(',')[-1]} here" in result.stderr
