"""Are two answers the same?

What Prometheus itself leaves open is not compared: the order of series that nobody sorted, which of several equal values topk and bottomk take, and which
series limitk takes. Values may differ by 1e-9 of their size, as the order of a sum's terms and libraries' last bits differ.
"""

import math
import re

RELATIVE = 1e-9


def number(text):
    return float(text)


def same_number(a, b, exact=False):
    if a == b:
        return True
    x, y = float(a), float(b)
    if math.isnan(x) or math.isnan(y):
        return math.isnan(x) and math.isnan(y)
    if exact or math.isinf(x) or math.isinf(y):
        return x == y and math.copysign(1, x) == math.copysign(1, y)
    return abs(x - y) <= RELATIVE * max(abs(x), abs(y))


def same_histogram(a, b, exact=False):
    if not all(same_number(a[k], b[k], exact) for k in ("count", "sum")):
        return False
    x, y = a.get("buckets", []), b.get("buckets", [])
    return len(x) == len(y) and all(p[0] == q[0] and all(same_number(u, v, exact) for u, v in zip(p[1:], q[1:])) for p, q in zip(x, y))


def same_value(a, b, exact=False):
    if isinstance(a, dict) or isinstance(b, dict):
        return isinstance(a, dict) and isinstance(b, dict) and same_histogram(a, b, exact)
    return same_number(a, b, exact)


def points(series):
    """[(time, value)] of a series, floats and histograms together."""
    single = [series[k] for k in ("value", "histogram") if k in series]
    return sorted(((t, v) for t, v in single + series.get("values", []) + series.get("histograms", [])), key=lambda p: p[0])


def same_points(a, b, exact=False):
    return len(a) == len(b) and all(p[0] == q[0] and same_value(p[1], q[1], exact) for p, q in zip(a, b))


def by_labels(result):
    return {tuple(sorted(s["metric"].items())): points(s) for s in result}


def at_times(result):
    """{time: [value]}"""
    out = {}
    for s in result:
        for t, v in points(s):
            out.setdefault(t, []).append(v)
    return out


def sort_key(v):
    x = float(v["count"]) if isinstance(v, dict) else float(v)
    return (math.isnan(x), 0 if math.isnan(x) else x)


def same_chosen(ours, theirs, open_):
    """topk, bottomk: the same values at each time; limitk: as many."""
    a, b = at_times(ours), at_times(theirs)
    if a.keys() != b.keys() or any(len(a[t]) != len(b[t]) for t in a):
        return "other numbers of series"
    if open_ != "limitk" and not all(same_value(x, y) for t in a for x, y in zip(sorted(a[t], key=sort_key), sorted(b[t], key=sort_key))):
        return "other values were chosen"
    return ""


def difference_of_series(ours, theirs, exact):
    a, b = by_labels(ours), by_labels(theirs)
    if len(a) != len(ours):
        return "a label set comes twice"
    if a.keys() != b.keys():
        return f"label sets: only ours {sorted(a.keys() - b.keys())[:3]}, only theirs {sorted(b.keys() - a.keys())[:3]}"
    for labels in a:
        if not same_points(a[labels], b[labels], exact):
            pairs = [(p, q) for p, q in zip(a[labels], b[labels]) if p[0] != q[0] or not same_value(p[1], q[1], exact)]
            return f"{dict(labels)}: {len(a[labels])} and {len(b[labels])} points, first difference {pairs[:1]}"
    return ""


def difference_of_order(ours, theirs, open_):
    """Of an instant vector that was sorted. Among values of a label that is not everywhere Prometheus's order depends on the one before."""
    if open_.startswith("sort_by_label"):
        if any(label not in s["metric"] for s in theirs for label in open_.split()[1:]):
            return ""
        return "" if [s["metric"] for s in ours] == [s["metric"] for s in theirs] else "order of label sets"
    a, b = ([s["value"][1] for s in side if "value" in s] for side in (ours, theirs))
    return "" if all(same_number(x, y) for x, y in zip(a, b)) else "order of values"


def annotations(answer):
    """Without their positions: of one text at two places Prometheus keeps the place that it came to last, which depends on its order of work.

    And without how often they came: with each step Prometheus adds what it had counted before to itself. Nor with the types that a binary operator met: of a step
    it says those that it met last, which depends on the order of the series. Numbers are those of ten digits.
    """
    def whole(text):
        text = re.sub(r"over \d+ samples |\(\d+ occurrences\) ?| \(\d+:\d+\)$", "", text)
        text = re.sub(r"(for binary operator \".*\"): \w+ \S+ \w+$", r"\1", text)
        return re.sub(r"got (\S+?)(,|$)", lambda m: f"got {float(m[1]):.10g}{m[2]}", text)
    return {kind: {whole(text) for text in answer.get(kind, ())} for kind in ("warnings", "infos")}


def same_positions(ours, theirs):
    return all(set(ours.get(kind, ())) == set(theirs.get(kind, ())) for kind in ("warnings", "infos"))


def difference(ours, theirs, open_="", exact=False):
    """What differs, or "". Answers are parsed JSON with http_status."""
    for key in ("http_status", "status", "errorType"):
        if ours.get(key) != theirs.get(key):
            return f"{key}: {ours.get(key)} and {theirs.get(key)}: {ours.get('error')} / {theirs.get('error')}"
    if ours["status"] != "success":
        return ""
    a, b = ours["data"], theirs["data"]
    if a["resultType"] != b["resultType"]:
        return f"result types {a['resultType']} and {b['resultType']}"
    if a["resultType"] in ("scalar", "string"):
        (at, ours_value), (their_at, their_value) = a["result"], b["result"]
        same = same_number(ours_value, their_value, exact) if a["resultType"] == "scalar" else ours_value == their_value
        return "" if same and at == their_at else f"{a['result']} and {b['result']}"
    if open_ in ("topk", "bottomk", "limitk"):
        return same_chosen(a["result"], b["result"], open_)
    found = difference_of_series(a["result"], b["result"], exact)
    if not found and a["resultType"] == "vector" and open_:
        found = difference_of_order(a["result"], b["result"], open_)
    return found


def difference_of_counts(ours, theirs, expr):
    """Of stats=all: the samples that were looked at, and those that were read. predict_linear of a subquery with @ reads more of Prometheus than it looks at."""
    a, b = (side["data"]["stats"]["samples"] for side in (ours, theirs))
    keys = ["totalQueryableSamples"] + ["samplesRead"] * ("predict_linear" not in expr)
    return ", ".join(f"{key}: {a[key]} and {b[key]}" for key in keys if a[key] != b[key])


def difference_of_annotations(ours, theirs):
    """The API gives ten of a kind and says how many more there are; which ten is left open."""
    a, b = annotations(ours), annotations(theirs)
    for kind in a:
        if len(a[kind]) < 10 and len(b[kind]) < 10 and a[kind] != b[kind]:
            return f"{kind}: only ours {sorted(a[kind] - b[kind])[:3]}, only theirs {sorted(b[kind] - a[kind])[:3]}"
    return ""
