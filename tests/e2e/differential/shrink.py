"""From a query whose answers differ to the smallest one that can be found."""

import math
import sys

from compare import by_labels, difference, difference_of_annotations
from generate import MATRIX

MOST_QUESTIONS = 300


class Shrinker:
    def __init__(self, pair, is_range, params, only_annotations):
        self.pair, self.is_range, self.params, self.only_annotations, self.asked = pair, is_range, params, only_annotations, 0

    def ask(self, node):
        return self.pair.ask(self.is_range, {**self.params, "query": str(node)})

    def differs(self, node):
        if self.asked >= MOST_QUESTIONS or self.is_range and node.kind in (MATRIX, "string"):
            return ""
        self.asked += 1
        ours, theirs = self.ask(node)
        return difference_of_annotations(ours, theirs) if self.only_annotations else difference(ours, theirs, node.open)

    def at_one_time(self, node):
        """Does an instant query at one of the steps differ too?"""
        params = {k: v for k, v in self.params.items() if k not in ("start", "end", "step")}
        start, end, step = (float(self.params[k]) for k in ("start", "end", "step"))
        for i in range(min(int((end - start) / step) + 1, 80)):
            other = Shrinker(self.pair, False, {**params, "time": f"{start + i * step:.3f}"}, self.only_annotations)
            if other.differs(node):
                return other
        return self

    def shrink(self, node):
        """(the smallest differing tree, the shrinker that knows its time)"""
        alone = next((d for d in sorted(node.descendants(), key=lambda d: len(str(d))) if self.differs(d)), node)
        if self.is_range:
            other = self.at_one_time(alone)
            if other is not self:
                return other.shrink(alone)
        while True:
            smaller = next((v for v in alone.variants() if len(str(v)) < len(str(alone)) and self.differs(v)), None)
            if smaller is None:
                return alone, self
            alone = smaller

    def is_order_of_series(self, node):
        """Are these deviations of values that are close together, which differ by no more than what the order of n terms may make of their last bits?

        Both sides add up distances from a running mean (Welford), which is off by some n * epsilon * |mean| in any order; the series come in another.
        """
        kind = str(node)[:6]
        if self.is_range or kind not in ("stddev", "stdvar"):
            return False
        ours, theirs = (by_labels(a["data"]["result"]) for a in self.ask(node) if a["status"] == "success")
        inputs = [abs(float(v)) for points in by_labels(self.ask(node.children()[-1])[1]["data"]["result"]).values() for _, v in points
                  if isinstance(v, str)]
        if ours.keys() != theirs.keys() or not inputs or not all(map(math.isfinite, inputs)):
            return False
        off = 2 * len(inputs) * sys.float_info.epsilon * max(inputs)

        def deviation(points):
            return math.sqrt(float(points[0][1])) if kind == "stdvar" else float(points[0][1])
        return all(abs(deviation(ours[k]) - deviation(theirs[k])) <= off for k in ours)

    def inputs_are_exact(self, node):
        """Are the answers of all children the same to the last bit? If not, a step like floor() or == may have made much of little."""
        for child in node.children():
            if self.is_range and child.kind == MATRIX:
                if not self.inputs_are_exact(child):
                    return False
                continue
            ours, theirs = self.ask(child)
            if difference(ours, theirs, child.open, exact=True):
                return False
        return True
