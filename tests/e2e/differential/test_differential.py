"""Random queries, asked of Brunn and of a current Prometheus that hold the same data: the answers are the same.

A mismatch is printed as the smallest query that shows it, with both answers. A difference of values whose inputs differ in their last bits
only (sums in another order, another library's sine) and were then rounded or compared is counted, printed and not held against us; nor is one of
deviations that are too small beside their values for the order of the series not to show.
"""

import json
import random
import sys
import time
from collections import Counter

import pytest

from compare import by_labels, difference, difference_of_annotations, difference_of_counts, same_positions
from data import SPAN_MS, Data
from generate import Generator, mutate
from shrink import Shrinker
from sides import Pair

MALFORMED = 200
MOST_SHOWN = 25


def seeds_of(text):
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def is_known(node, shrinker):
    """Of numbers below 2^-1022 Go's logarithm on amd64 is some other number."""
    if shrinker.is_range or not str(node).startswith("ln("):
        return False
    inputs = [float(v) for points in by_labels(shrinker.ask(node.children()[0])[1]["data"]["result"]).values() for _, v in points if isinstance(v, str)]
    return any(0 < v < sys.float_info.min for v in inputs)


class Run:
    """The queries of one seed."""

    def __init__(self, pair, base_ms, seed):
        self.pair, self.seed, self.counts = pair, seed, Counter()
        self.random = random.Random(f"queries {seed}")
        self.generator = Generator(self.random, base_ms, SPAN_MS)

    def show(self, title, node, is_range, params, found):
        self.counts["shown"] += 1
        if self.counts["shown"] > MOST_SHOWN:
            return
        ours, theirs = self.pair.ask(is_range, {**params, "query": str(node)})
        print(f"\n--- {title} (seed {self.seed}, query {self.counts['queries']})\n{node}\n{params}\n{found}")
        for side, answer in (("ours", ours), ("theirs", theirs)):
            print(f"{side + ':':8}{json.dumps(answer, ensure_ascii=False)[:1500]}", flush=True)

    def mismatch(self, node, is_range, params, only_annotations, first):
        """first: what differed; asked again, nothing may."""
        small, shrinker = Shrinker(self.pair, is_range, params, only_annotations).shrink(node)
        kind = "annotations" if only_annotations else "mismatches"
        if not only_annotations and is_known(small, shrinker):
            self.counts["known"] += 1
            return
        if not only_annotations and not shrinker.inputs_are_exact(small):
            kind = "rounding"
        elif not only_annotations and shrinker.is_order_of_series(small):
            kind = "order"
        self.counts[kind] += 1
        if only_annotations:
            ours, theirs = shrinker.ask(small)
            found = difference_of_annotations(ours, theirs)
        else:
            found = difference(*shrinker.ask(small), small.open)
        self.show(kind, small, shrinker.is_range, shrinker.params, found or f"only at first, in {node}: {first}")

    def one(self):
        node = self.generator.root()
        is_range, params = self.generator.request()
        if is_range and node.kind in ("matrix", "string"):
            is_range, params = False, {"time": params["start"]}
        params["stats"] = "all"
        self.counts["queries"] += 1
        ours, theirs = self.pair.ask(is_range, {**params, "query": str(node)})
        self.counts["errors" if theirs["status"] == "error" else "success" if theirs["data"]["result"] else "empty"] += 1
        if found := difference(ours, theirs, node.open):
            self.mismatch(node, is_range, params, False, found)
        elif found := difference_of_annotations(ours, theirs):
            self.mismatch(node, is_range, params, True, found)
        else:
            self.counts["exact"] += not difference(ours, theirs, node.open, exact=True)
            self.counts["other positions"] += not same_positions(ours, theirs)
            if theirs["status"] == "success" and (found := difference_of_counts(ours, theirs, str(node))):
                self.show("counts", node, is_range, params, found)
                self.counts["other counts"] += 1

    def malformed(self):
        while self.counts["malformed"] < MALFORMED:
            text = mutate(self.random, str(self.generator.root()))
            ours, theirs = self.pair.ask(False, {"query": text, "time": 0})
            if theirs.get("errorType") == "bad_data":
                self.counts["malformed"] += 1
            if theirs["status"] == "error" or ours["status"] == "error":
                classes = [(a["http_status"], a["status"], a.get("errorType")) for a in (ours, theirs)]
                if classes[0] != classes[1]:
                    self.counts["malformed mismatches"] += 1
                    print(f"\n--- malformed: {text!r}\nours:   {ours}\ntheirs: {theirs}"[:3000], flush=True)
                elif ours.get("error") != theirs.get("error"):
                    self.counts["other texts"] += 1
                    print(f"\n--- text: {text!r}\nours:   {ours['error']}\ntheirs: {theirs['error']}", flush=True)


@pytest.fixture(scope="module")
def base_ms():
    return (int(time.time()) - SPAN_MS // 1000 - 900) // 60 * 60_000


def test_random_queries_have_prometheuss_answers(tmp_path_factory, base_ms, pytestconfig):
    total = Counter()
    for seed in seeds_of(pytestconfig.getoption("--differential-seed")):
        pair = Pair(tmp_path_factory.mktemp(f"seed{seed}"), pytestconfig.getoption("--differential-names-late"))
        try:
            pair.push(Data(seed, base_ms).pushes())
            run = Run(pair, base_ms, seed)
            for _ in range(pytestconfig.getoption("--differential-queries")):
                run.one()
            run.malformed()
        finally:
            pair.stop()
        print(f"seed {seed}: {dict(run.counts)}", flush=True)
        total += run.counts
    print(f"differential: {total['queries']} queries ({total['success']} with series, {total['empty']} without, "
          f"{total['errors']} errors): {total['mismatches']} mismatches, {total['annotations']} of annotations, "
          f"{total['other positions']} with other positions of annotations, {total['other counts']} with other counts of samples, "
          f"{total['rounding']} by rounding, {total['order']} by the order of series, {total['known']} known, {total['exact']} equal to the last bit; {total['malformed']} malformed: "
          f"{total['malformed mismatches']} mismatches, {total['other texts']} other texts")
    assert total["mismatches"] == total["malformed mismatches"] == total["other counts"] == 0
