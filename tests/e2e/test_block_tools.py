"""brunn tool block, bucket and backfill, beside promtool: the same samples out of the same blocks, and blocks with the same samples out of the same text."""

import gzip
import json
import os
import random
import shutil
import subprocess

import pytest

from process import BRUNN, PEERS, ROOT

PROMTOOL = os.path.join(PEERS, "prometheus", "promtool")
REAL = os.path.join(ROOT, os.pardir, "shared", "mimir", "blocks")


def tool(*args, status=0, **more):
    done = subprocess.run([BRUNN, "tool", *map(str, args)], capture_output=True, text=True, timeout=300, **more)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
    return done.stdout if status == 0 else done.stdout + done.stderr


def promtool(*args, **more):
    return subprocess.run([PROMTOOL, "tsdb", *map(str, args)], capture_output=True, text=True, check=True, timeout=300, **more).stdout


def promtool_dump(folder):
    """Sorted lines; it wants a WAL beside the blocks."""
    os.makedirs(os.path.join(folder, "wal"), exist_ok=True)
    try:
        return sorted(promtool("dump", folder).splitlines())
    finally:
        shutil.rmtree(os.path.join(folder, "wal"))


def writable_copy(source, target):
    shutil.copytree(source, target)
    for path, folders, files in os.walk(target):
        for name in folders + files:
            os.chmod(os.path.join(path, name), 0o755)
    os.chmod(target, 0o755)
    return target


@pytest.fixture
def bucket(tmp_path):
    """What a real Mimir left in its bucket, to be spoilt."""
    return writable_copy(os.path.join(REAL, "compacted"), tmp_path / "bucket")


def flag(bucket):
    return f"-blocks-storage.filesystem.dir={bucket}"


def text_of(seed, n_series, n_samples):
    """OpenMetrics text over a few block ranges, series by series, times ascending."""
    rng = random.Random(seed)
    lines = ["# HELP load some text", "# TYPE load gauge"]
    for i in range(n_series):
        t = 1600000000 + rng.random() * 100
        for _ in range(n_samples):
            t += rng.choice([15, 15, 15, 60, 0.25, 3000])
            value = rng.choice([rng.random() * 1e6, rng.randrange(100), float(rng.randrange(10 ** 9)), "NaN", "+Inf", 1e-9])
            lines.append(f'load{{host="h{i:04}",zone="z{i % 3}"}} {value} {t:.3f}')
    lines += ["# TYPE lat histogram", 'lat_bucket{le="1"} 5 1600000000 # {trace_id="x"} 0.5', 'lat_bucket{le="+Inf"} 5 1600000000',
              '{"a name","a label"="\\"quoted\\" \\\\ \\n"} 1 1600000000', "# EOF", ""]
    return "\n".join(lines)


@pytest.mark.parametrize("tenant", ["tenant-a", "tenant-b"])
def test_dump_prints_what_promtool_prints(tmp_path, tenant):
    blocks = writable_copy(os.path.join(REAL, "level1", tenant), tmp_path / "blocks")
    expected = promtool_dump(blocks)
    assert len(expected) >= 500
    assert sorted(tool("block", "dump", blocks).splitlines()) == expected
    name = expected[0].split('"')[1]
    some = [line for line in expected if line.startswith(f'{{__name__="{name}"') and int(line.rsplit(" ", 1)[1]) >= 1763600000000]
    assert sorted(tool("block", "dump", f"-match={name}", "-min-time=1763600000000", blocks).splitlines()) == some and some


def test_blocks_are_listed_verified_and_shown(bucket):
    blocks = bucket / "tenant-a"
    listed = tool("block", "ls", blocks).splitlines()
    assert len(listed) == 14
    first = blocks / listed[1].split()[0]
    meta = json.loads((first / "meta.json").read_text())
    assert str(meta["stats"]["numSamples"]) in listed[1].split()
    assert tool("block", "verify", blocks).count(": good: ") == 13
    index = tool("block", "cat-index", first).splitlines()
    assert sum(line.startswith("series ") for line in index) == meta["stats"]["numSeries"]
    assert sum(line.startswith("  chunk ") for line in index) == meta["stats"]["numChunks"]
    with open(first / "index", "r+b") as f:
        f.seek(40)
        byte = f.read(1)
        f.seek(40)
        f.write(bytes([byte[0] ^ 1]))
    assert "BAD: " in tool("block", "verify", blocks, status=1)
    assert "no block" in tool("block", "ls", bucket, status=1)


def test_a_bucket_is_verified(bucket):
    assert "tenant-gone" in tool("bucket", "ls", flag(bucket))
    assert len(tool("bucket", "ls", flag(bucket), "-tenant=tenant-a").splitlines()) == 14
    assert ", 0 faults" in tool("bucket", "verify", flag(bucket), "-deep")
    unmarked = [b for b in os.listdir(bucket / "tenant-a") if len(b) == 26 and not (bucket / "tenant-a" / b / "deletion-mark.json").exists()]
    damages = {
        "bytes, and meta.json says": lambda: os.truncate(bucket / "tenant-a" / unmarked[0] / "index", 100),
        "its meta.json is not there": lambda: os.remove(bucket / "tenant-a" / unmarked[1] / "meta.json"),
        "it has no mark below markers/": lambda: os.remove(next((bucket / "tenant-b" / "markers").iterdir())),
        "bucket index corrupted": lambda: os.truncate(bucket / "tenant-b" / "bucket-index.json.gz", 100),
    }
    for text, damage in damages.items():
        damage()
        assert text in tool("bucket", "verify", flag(bucket), status=1)
    assert "partial: it has no meta.json" in tool("bucket", "verify", flag(bucket), status=1)
    assert "which folder" in tool("bucket", "ls", status=1)
    tool("bucket", "ls", "-no-such-flag=1", status=2)


def test_the_index_may_say_that_a_block_was_marked_when_the_cleaner_learned_of_it(bucket):
    """The cleaner holds marks back that it learns of late, and keeps what it has read while two mark a block at once."""
    path = bucket / "tenant-b" / "bucket-index.json.gz"
    index = json.loads(gzip.decompress(path.read_bytes()))
    entry = index["block_deletion_marks"][0]
    marked = entry["deletion_time"]
    assert marked < index["updated_at"] - 3
    for time, is_fault in (marked + 1, False), (index["updated_at"], False), (index["updated_at"] + 1, True), (marked - 1, False), (marked - 3600, True):
        entry["deletion_time"] = time
        path.write_bytes(gzip.compress(json.dumps(index).encode()))
        said = tool("bucket", "verify", flag(bucket), status=int(is_fault))
        assert (f"the index says that it was marked for deletion at {time}, its mark {marked}" in said) == is_fault, said


def test_backfill_makes_the_samples_that_promtool_makes(tmp_path):
    text = tmp_path / "text"
    text.write_text(text_of(1, 60, 400))
    promtool("create-blocks-from", "openmetrics", text, tmp_path / "theirs")
    listed = tool("backfill", f"-output={tmp_path}/ours", text).splitlines()
    expected = promtool_dump(tmp_path / "theirs")
    assert len(expected) > 20000
    assert promtool_dump(tmp_path / "ours") == expected, "as promtool reads ours"
    assert sorted(tool("block", "dump", tmp_path / "ours").splitlines()) == expected, "as we read ours"
    assert sorted(tool("block", "dump", tmp_path / "theirs").splitlines()) == expected, "as we read theirs"
    assert len(listed) - 1 == len(os.listdir(tmp_path / "theirs")), "a block of each two hours"
    assert tool("block", "verify", tmp_path / "ours").count(": good: ") == len(listed) - 1


def test_backfill_takes_samples_in_any_order(tmp_path):
    lines = text_of(2, 20, 200).splitlines()
    samples = [line for line in lines if line.startswith("load{")]
    (tmp_path / "sorted").write_text("\n".join([*samples, "# EOF"]))
    random.Random(3).shuffle(samples)
    (tmp_path / "shuffled").write_text("\n".join([*samples, *samples[:10], "# EOF"]))
    for name in ("sorted", "shuffled"):
        tool("backfill", f"-output={tmp_path}/blocks-{name}", tmp_path / name)
    assert tool("block", "dump", tmp_path / "blocks-sorted") == tool("block", "dump", tmp_path / "blocks-shuffled")


def test_backfill_uploads_for_a_tenant(tmp_path):
    os.mkdir(tmp_path / "bucket")
    text = text_of(4, 5, 100)
    out = tmp_path / "out"
    tool("backfill", f"-output={out}", "-label=cluster=c1", "-tenant=team-a", flag(tmp_path / "bucket"), "-", input=text)
    assert os.listdir(out) == [], "nothing stays behind"
    assert ", 0 faults" in tool("bucket", "verify", flag(tmp_path / "bucket"), "-deep")
    dump = tool("block", "dump", tmp_path / "bucket" / "team-a").splitlines()
    assert len(dump) == 5 * 100 + 3 and all('cluster="c1"' in line for line in dump)
    metas = [json.loads(p.read_text()) for p in (tmp_path / "bucket" / "team-a").glob("*/meta.json")]
    assert all(m["thanos"]["source"] == "upload" and m["thanos"]["files"] for m in metas)


@pytest.mark.parametrize("text, why", [
    ("m 1\n# EOF\n", "line 1: expected timestamp for series got none"),
    ("m 1 1\n", "data does not end with # EOF"),
    ("m 1 1\n# EOF\nm 1 1\n", "line 3: unexpected data after # EOF"),
    ("m 1 1\n\n# EOF\n", "line 2: expected a metric name"),
])
def test_a_text_that_is_wrong_makes_no_block(tmp_path, text, why):
    (tmp_path / "text").write_text(text)
    assert subprocess.run([PROMTOOL, "tsdb", "create-blocks-from", "openmetrics", tmp_path / "text", tmp_path / "theirs"], capture_output=True).returncode != 0
    assert why in tool("backfill", f"-output={tmp_path}/ours", tmp_path / "text", status=1)
    assert os.listdir(tmp_path / "ours") == []


def test_tools_take_the_servers_file_and_values_in_words_of_their_own(tmp_path, bucket):
    expected = tool("bucket", "ls", flag(bucket))
    (tmp_path / "common.yaml").write_text("target: ingester\nlimits: {ingestion_rate: 5, more: [a, {b: c}]}\n"
                                          f"common:\n  storage:\n    filesystem: {{dir: {bucket}}}\nruler_storage: {{s3: {{endpoint: x}}}}\n")
    (tmp_path / "own.yaml").write_text(f"common: {{storage: {{filesystem: {{dir: /does/not/exist}}}}}}\nblocks_storage:\n  filesystem:\n    dir: ${{BUCKET}}\n"
                                       "  tsdb: {dir: x}\n")
    assert tool("bucket", "ls", f"-config.file={tmp_path}/common.yaml") == expected
    assert tool("bucket", "ls", "-config.file", tmp_path / "own.yaml", "-config.expand-env", env={**os.environ, "BUCKET": str(bucket)}) == expected
    assert tool("bucket", "ls", "-common.storage.filesystem.dir", bucket, "-tenant", "tenant-a") == tool("bucket", "ls", flag(bucket), "-tenant=tenant-a")
    blocks = os.path.join(REAL, "level1", "tenant-a")
    assert tool("block", "dump", "-min-time", "0", blocks) == tool("block", "dump", "-min-time=0", blocks)
    assert "needs a value" in tool("bucket", "ls", "-tenant", status=2)
