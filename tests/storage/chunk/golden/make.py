#!/usr/bin/env python3
"""Writes blocks.txt: series with their samples as pushed, and the chunks that a real ingester made of them.

    python3 make.py <blocks>/level1/tenant-a <blocks>/expected.json tenant-a > blocks.txt

<blocks> holds Prometheus TSDB blocks made by remote-writing the series of expected.json to a real Mimir (see its README). The index is read here,
independently of the project's code, to learn which chunks belong to which series. Only in-order blocks are used, and of a series only the
samples that were pushed in order (they are on a grid of one minute), so that the chunks are what an ingester cuts from exactly these.

Lines: "series <labels>"; "f <ms> <hex of the double's bits>"; "h <ms> <hex of the proto message Histogram>"; "c <encoding> <hex>".
Standard library only.
"""
import collections
import glob
import json
import os
import struct
import sys

WANTED = {"up", "temp_celsius", "resets_total", "lat_seconds", "nhcb_seconds", "mixed"}


def uvarint(b, i):
    v = shift = 0
    while True:
        x = b[i]
        i += 1
        v |= (x & 127) << shift
        shift += 7
        if x < 128:
            return v, i


def varint(b, i):
    v, i = uvarint(b, i)
    return (v >> 1) ^ -(v & 1), i


def read_symbols(b):
    i = 5
    n = struct.unpack(">I", b[i + 4:i + 8])[0]
    i += 8
    out = []
    for _ in range(n):
        length, i = uvarint(b, i)
        out.append(b[i:i + length].decode())
        i += length
    return out


def read_index(path):
    """[(labels, [chunk ref])]"""
    b = open(path, "rb").read()
    symbols = read_symbols(b)
    toc = struct.unpack(">6Q", b[-52:-4])
    i, end = toc[1], toc[2]
    out = []
    while i < end:
        i = (i + 15) // 16 * 16
        if i >= end:
            break
        length, i = uvarint(b, i)
        stop = i + length + 4
        n, i = uvarint(b, i)
        labels = {}
        for _ in range(n):
            name, i = uvarint(b, i)
            value, i = uvarint(b, i)
            labels[symbols[name]] = symbols[value]
        n, i = uvarint(b, i)
        refs, ref = [], 0
        for k in range(n):
            _, i = varint(b, i) if k == 0 else uvarint(b, i)
            _, i = uvarint(b, i)
            d, i = uvarint(b, i) if k == 0 else varint(b, i)
            ref += d
            refs.append(ref)
        out.append((labels, refs))
        i = stop
    return out


def read_chunk(block, ref):
    b = open(os.path.join(block, "chunks", "%06d" % ((ref >> 32) + 1)), "rb").read()
    length, i = uvarint(b, ref & 0xFFFFFFFF)
    return b[i], b[i + 1:i + 1 + length]


def put_uvarint(v):
    v &= (1 << 64) - 1
    out = b""
    while v >= 128:
        out += bytes([v & 127 | 128])
        v >>= 7
    return out + bytes([v])


def zigzag(v):
    return v << 1 if v >= 0 else (-v << 1) - 1


def field(number, value, wire):
    if wire == 2:
        return put_uvarint(number << 3 | 2) + put_uvarint(len(value)) + value
    return put_uvarint(number << 3 | wire) + value


def number(v):
    """The bits of a float in expected.json."""
    if isinstance(v, str):
        if v == "stale":
            return bytes.fromhex("020000000000f07f")
        if v.startswith("NaN:"):
            return struct.pack("<Q", int(v[4:], 16))
        return struct.pack("<d", float(v))
    return struct.pack("<d", v)


def proto(h):
    """All fields are written, zero or not: the decoder must not mind."""
    out = b""
    if "count_int" in h:
        out += field(1, put_uvarint(h["count_int"]), 0)
    else:
        out += field(2, number(h["count_float"]), 1)
    out += field(3, number(h["sum"]), 1) + field(4, put_uvarint(zigzag(h["schema"])), 0)
    out += field(5, number(h["zero_threshold"]), 1)
    if "zero_count_int" in h:
        out += field(6, put_uvarint(h["zero_count_int"]), 0)
    elif "zero_count_float" in h:
        out += field(7, number(h["zero_count_float"]), 1)
    for base, side in ((8, "negative"), (11, "positive")):
        for offset, length in h.get(side + "_spans", []):
            span = field(1, put_uvarint(zigzag(offset)), 0) + field(2, put_uvarint(length), 0)
            out += field(base, span, 2)
        if h.get(side + "_deltas"):
            out += field(base + 1, b"".join(put_uvarint(zigzag(d)) for d in h[side + "_deltas"]), 2)
        if h.get(side + "_counts"):
            out += field(base + 2, b"".join(number(c) for c in h[side + "_counts"]), 2)
    out += field(14, put_uvarint(h.get("reset_hint", 0)), 0) + field(15, put_uvarint(h["timestamp"]), 0)
    if h.get("custom_values"):
        out += field(16, b"".join(number(c) for c in h["custom_values"]), 2)
    return out


def main():
    folder, expected, tenant = sys.argv[1:4]
    chunks = {}
    for meta in sorted(glob.glob(os.path.join(folder, "*", "meta.json"))):
        m = json.load(open(meta))
        if "out-of-order" in json.dumps(m.get("compaction", {})) or m.get("thanos", {}).get("labels", {}).get("__out_of_order__"):
            continue
        block = os.path.dirname(meta)
        for labels, refs in read_index(os.path.join(block, "index")):
            key = tuple(sorted(labels.items()))
            chunks.setdefault(key, []).append((m["minTime"], [read_chunk(block, r) for r in refs]))
    for s in json.load(open(expected))[tenant]:
        key = tuple(sorted(s["labels"].items()))
        own = [c for _, part in sorted(chunks.get(key, [])) for c in part]
        samples = [(t, "f %d %s" % (t, number(v)[::-1].hex())) for t, v in s.get("floats") or []]
        samples += [(t, "h %d %s" % (t, proto(h).hex())) for t, h in s.get("histograms") or []]
        samples.sort()
        held = sum(struct.unpack(">H", c[:2])[0] for _, c in own)
        if s["labels"]["__name__"] not in WANTED:
            continue
        if held != len(samples):
            phase = collections.Counter(t % 60000 for t, _ in samples).most_common(1)[0][0]
            samples = [x for x in samples if x[0] % 60000 == phase]
        if held != len(samples):
            sys.stderr.write("left out: %s (%d samples, %d in chunks)\n" % (s["labels"], len(samples), held))
            continue
        print("series", json.dumps(s["labels"], sort_keys=True, ensure_ascii=False))
        for _, line in samples:
            print(line)
        for encoding, data in own:
            print("c", encoding, data.hex())


main()
