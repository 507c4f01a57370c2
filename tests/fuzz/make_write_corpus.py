#!/usr/bin/env python3
"""Writes the seeds of the push and record fuzz targets: small messages, made here field by field."""
import pathlib
import struct

CORPUS = pathlib.Path(__file__).parent / "corpus"


def uvarint(v):
    v &= (1 << 64) - 1
    out = bytearray()
    while v >= 0x80:
        out.append(v & 0x7F | 0x80)
        v >>= 7
    out.append(v)
    return bytes(out)


def field(number, value):
    if isinstance(value, float):
        return uvarint(number << 3 | 1) + struct.pack("<d", value)
    if isinstance(value, int):
        return uvarint(number << 3) + uvarint(value)
    value = value.encode() if isinstance(value, str) else value
    return uvarint(number << 3 | 2) + uvarint(len(value)) + value


def message(*fields):
    return b"".join(field(n, v) for n, v in fields)


def labels(**pairs):
    return b"".join(field(1, message((1, k), (2, v))) for k, v in pairs.items())


def sample(t, v):
    return field(2, message((1, v), (2, t)))


def zigzag(v):
    return v << 1 ^ v >> 63


def histogram(t):
    span = message((1, zigzag(-1)), (2, 2))
    return message((1, 12), (3, 18.4), (4, zigzag(3)), (5, 1e-128), (6, 2), (8, span), (9, uvarint(zigzag(3)) + uvarint(zigzag(-1))),
                   (11, span), (12, uvarint(zigzag(2)) + uvarint(zigzag(1))), (14, 2), (15, t))


def float_histogram(t):
    return message((2, 5.0), (3, 1.5), (4, zigzag(-53)), (7, 0.0), (11, message((2, 2))), (13, struct.pack("<2d", 2, 3)), (15, t),
                   (16, struct.pack("<2d", 0.5, 2.5)))


def refs(*r):
    return b"".join(uvarint(x) for x in r)


def symbol_form(first_own):
    s = first_own
    head = b"".join(field(4, t) for t in ("", "__name__", "m", "job", "x", "Help.", "s"))
    series = message((1, refs(s + 1, s + 2, s + 3, s + 4)), (6, 1700000000000)) + sample(1700000000015, -0.0) + \
        field(3, histogram(1)) + field(4, message((1, refs(s + 3, s + 4)), (2, 1.0), (3, 5))) + \
        field(5, message((1, 1), (3, s + 5), (4, s + 6)))
    family = message((1, refs(s + 1, s + 2)), (5, message((1, 3), (3, s + 5))))
    unpacked = field(1, s + 1) + field(1, s + 2) + sample(3, 4.0)
    return head + field(5, series) + field(5, family) + field(5, unpacked)


def snappy_literal(data):
    return uvarint(len(data)) + bytes([61 << 2]) + struct.pack("<H", len(data) - 1) + data


PLAIN = field(1, labels(__name__="up", instance="i", job="x") + sample(1700000000000, 1.0))
FULL = field(1, labels(__name__="m", a="b") + sample(1700000000000, 1.0) + sample(1700000015000, float("inf")) +
             field(3, labels(trace_id="abc") + message((2, 1.0), (3, 7))) + field(4, histogram(9)) + field(4, float_histogram(10)) +
             field(6, 1699999999999)) + field(3, message((1, 1), (2, "m"), (4, "Help."), (5, "s"))) + field(2, 1) + \
    field(1000, 1) + field(1001, 1)
UNTIDY = field(1, labels(z="1", a="", __name__="m") + sample(1, 1.0)) + field(1, labels(a="1") + sample(1, 2.0) + labels(a="2")) + \
    field(1, sample(1, 1.0)) + field(1, field(1, message((2, "v"), (1, "n"), (9, 1))) + b"\x3B\x40\x01\x3C")
TRUNCATED = FULL[:-30]

SEEDS = {
    "push": {"plain": b"\0" + PLAIN, "full": b"\0" + FULL, "untidy": b"\0" + UNTIDY, "truncated": b"\0" + TRUNCATED,
             "symbols": b"\1" + symbol_form(0), "record2": b"\2" + symbol_form(64)},
    "record": {"v0-full": b"\0" + FULL, "v1-untidy": b"\1" + UNTIDY, "v2": b"\2" + symbol_form(64), "v3": b"\3" + PLAIN,
               "v0-snappy": b"\x80" + snappy_literal(FULL), "v2-snappy": b"\x82" + snappy_literal(symbol_form(64))},
}

for target, files in SEEDS.items():
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (CORPUS / target / name).write_bytes(data)
