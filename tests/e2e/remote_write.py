"""Remote write 1.0 bodies, made by hand: what the tests send must not depend on what they test."""

import struct

import snappy


def uvarint(n):
    out = bytearray()
    n &= (1 << 64) - 1
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number, payload):
    if isinstance(payload, str):
        payload = payload.encode()
    return uvarint(number << 3 | 2) + uvarint(len(payload)) + payload


def label(name, value):
    return field(1, field(1, name) + field(2, value))


def labels_bytes(labels):
    return b"".join(label(n, v) for n, v in sorted(labels.items()))


def sample(value, t_ms):
    return field(2, b"\x09" + struct.pack("<d", value) + b"\x10" + uvarint(t_ms))


def series(labels, samples, extra=b""):
    """labels: dict, or bytes of label entries made before; samples: [(t_ms, value)]."""
    entries = labels if isinstance(labels, bytes) else labels_bytes(labels)
    return field(1, entries + b"".join(sample(v, t) for t, v in samples) + extra)


def metadata(kind, family, help_text="", unit=""):
    return field(3, b"\x08" + uvarint(kind) + field(2, family) + field(4, help_text) + field(5, unit))


def zigzag(n):
    return uvarint((n << 1) ^ (n >> 63))


def spans(number, pairs):
    return b"".join(field(number, b"\x08" + zigzag(o) + b"\x10" + uvarint(n)) for o, n in pairs)


def int_histogram(t_ms, count, total, schema, zero_threshold, zero_count, positive_spans, positive_deltas):
    """One entry of field 4 of a series."""
    body = b"\x08" + uvarint(count) + b"\x19" + struct.pack("<d", total) + b"\x20" + zigzag(schema)
    body += b"\x29" + struct.pack("<d", zero_threshold) + b"\x30" + uvarint(zero_count)
    body += spans(11, positive_spans) + field(12, b"".join(zigzag(d) for d in positive_deltas))
    return field(4, body + b"\x78" + uvarint(t_ms))


def runs(buckets):
    """Spans (offset, length) of {index: count}; an offset is from the end of the span before."""
    out, end = [], 0
    for i in sorted(buckets):
        if out and i == end:
            out[-1] = (out[-1][0], out[-1][1] + 1)
        else:
            out.append((i - end, 1))
        end = i + 1
    return out


def buckets_bytes(first_field, buckets, floats):
    """Spans and counts of one side; its fields are numbered spans, deltas, counts from first_field."""
    counts = [buckets[i] for i in sorted(buckets)]
    if floats:
        return spans(first_field, runs(buckets)) + field(first_field + 2, struct.pack(f"<{len(counts)}d", *counts))
    deltas = [n - before for n, before in zip(counts, [0] + counts)]
    return spans(first_field, runs(buckets)) + field(first_field + 1, b"".join(zigzag(d) for d in deltas))


def histogram(t_ms, total, schema, positive, negative, zero_count, zero_threshold, custom=(), floats=False, hint=0):
    """One entry of field 4 of a series; positive and negative are {index: count}. The count is the sum of the buckets."""
    count = sum(positive.values()) + sum(negative.values()) + zero_count
    body = b"\x11" + struct.pack("<d", count) if floats else b"\x08" + uvarint(count)
    body += b"\x19" + struct.pack("<d", total) + b"\x20" + zigzag(schema) + b"\x29" + struct.pack("<d", zero_threshold)
    body += b"\x39" + struct.pack("<d", zero_count) if floats else b"\x30" + uvarint(zero_count)
    body += buckets_bytes(8, negative, floats) + buckets_bytes(11, positive, floats) + b"\x70" + uvarint(hint) + b"\x78" + uvarint(t_ms)
    return field(4, body + (field(16, struct.pack(f"<{len(custom)}d", *custom)) if custom else b""))


def body(*messages):
    return snappy.compress(b"".join(messages))
