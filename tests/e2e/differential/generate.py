"""Random valid queries over the data of data.py, as trees that can be cut smaller."""

VECTOR, SCALAR, MATRIX, STRING = "vector", "scalar", "matrix", "string"


class Node:
    """A piece of a query: text and child nodes in their order. `simpler` are smaller nodes that may stand in its place.

    `open` names what Prometheus leaves open in the answer when this node is the whole query; see compare.py.
    """

    def __init__(self, kind, *parts, simpler=(), open=""):
        self.kind, self.parts, self.simpler, self.open = kind, parts, simpler, open

    def __str__(self):
        return "".join(map(str, self.parts))

    def children(self):
        return [p for p in self.parts if isinstance(p, Node)]

    def descendants(self):
        for child in self.children():
            yield child
            yield from child.descendants()

    def variants(self, root=True):
        """This tree with one thing simplified. Nothing whose answer is open comes to stand where it was not."""
        for child in self.children():
            if child.kind == self.kind and (root or not child.open):
                yield child
        for s in self.simpler:
            yield Node(s.kind, *s.parts, simpler=s.simpler, open=self.open or s.open)
        for i, part in enumerate(self.parts):
            if isinstance(part, Node):
                for v in part.variants(False):
                    yield Node(self.kind, *self.parts[:i], v, *self.parts[i + 1:], open=self.open)


METRICS = {  # name: its labels
    "requests_total": ("job", "instance", "code"), "slow_total": ("job",), "starts_total": ("job", "instance"),
    "temperature": ("zone", "room"), "limit": ("zone",), "steady": ("instance",), "ties": ("job", "instance"), "flap": ("i", "kind"),
    "latency_bucket": ("job", "le"), "latency_sum": ("job",), "latency_count": ("job",),
    "native": ("job", "instance"), "native_changing": ("job",), "native_floats": ("job",), "native_gauge": ("job",), "custom": ("job",),
    "mixed": ("job",), "target_info": ("job", "instance", "version", "env"), "build_info": ("job", "instance", "revision"),
    "single": ("job",), "huge": ("job",), "grö.ße": ("job", "läbel"), "nothing": ("job",),
}
HISTOGRAMS = ("native", "native", "native_changing", "native_floats", "native_gauge", "custom", "mixed")
FLOATS = tuple(m for m in METRICS if m not in HISTOGRAMS and m not in ("nothing", "huge"))
MATCHERS = {
    "job": ('job="api"', 'job!="api"', 'job=~"a.*|x"', 'job!~"d."', 'job=""', 'job!=""', 'job=~".*"', 'job=~".+"'),
    "instance": ('instance="1"', 'instance!="1"', 'instance=~"[12]"', 'instance=~"1|2|"', 'instance!~"1"'),
    "code": ('code="200"', 'code=~"5.."', 'code!~"5.."', 'code=~"200|500"'),
    "zone": ('zone="a"', 'zone="größe"', 'zone=~"日."', 'zone=~"a|b"', 'zone=~"(?i)A"', 'zone!~"[ab]"', "zone=`b`"),
    "room": ('room="x"', 'room!="x"'), "i": ('i=~"[0-3]"', 'i="5"', 'i!~"1|2|3"'), "kind": ('kind="odd"', 'kind!="odd"'),
    "le": ('le="+Inf"', 'le!="0.5"', 'le=~"1|2.5"'), "version": ('version="2.0"', 'version=~"1.*"'), "revision": ('revision="r1"',),
    "läbel": ('"läbel"=~"ü.*"', '"läbel"!=""'), "env": ('env="test"',),
}
ANY_MATCHERS = ('no_such=""', 'no_such=~".*"', 'no_such!="x"', '__name__!="x"', '"job"!="y"')
NAME_MATCHERS = ('__name__=~"requests_total|slow_total"', '__name__=~"native.*"', '__name__=~"temp.+|limit"', '__name__=~"latency_(sum|count)"',
                 '__name__="flap"', '__name__=~"mixed|custom"', '__name__=~".*_total"', '__name__=~"steady|ties|single"')
GROUP_LABELS = ("job", "instance", "code", "zone", "room", "kind", "i", "le", "version", "no_such", '"läbel"', "__name__")

DURATIONS = ("1m", "5m", "2m30s", "7m", "30s", "15s", "1s", "20m", "3m20s", "90", "1ms", "61s", "10m", "1h")
DURATION_EXPRESSIONS = ("step()", "step()*2", "range()", "1m+step()", "max_of(step(),1m)", "min_of(range(),5m)", "(2m)", "2m+30s", "5m/2", "2*1m", "2^6", "5m%7",
                        "-(-2m)", "range()/2")
OFFSETS = ("1m", "-1m", "15s", "7s500ms", "10m", "-5m", "1h", "30", "0s", "1ms", "-1ms")
OFFSET_EXPRESSIONS = ("step()", "-step()", "(1m+30s)", "-(range()/4)", "range()", "(step()*2)", "max_of(step(),1m)")
NUMBERS = ("0", "1", "2", "-1", "0.5", "3", "10", "-0.25", "0.9", "100", "1e3", "0x1F", "NaN", "Inf", "-Inf", "1_000", "5m", ".5", "1.", "-0", "1e300", "60")
SMALL = ("0", "1", "2", "3", "5", "-1", "0.5", "100", "1.9")
QUANTILES = ("0", "0.5", "0.9", "1", "0.25", "-1", "2", "NaN", "0.999")

MAPS = ("abs", "ceil", "floor", "exp", "sqrt", "ln", "log2", "log10", "sgn", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh",
        "acosh", "atanh", "deg", "rad", "timestamp", "absent", "round", "scalar_vector")
DATES = ("minute", "hour", "day_of_week", "day_of_month", "day_of_year", "days_in_month", "month", "year")
HISTOGRAM_MAPS = ("histogram_count", "histogram_sum", "histogram_avg", "histogram_stddev", "histogram_stdvar")
RANGE_FUNCTIONS = ("rate", "rate", "increase", "delta", "irate", "idelta", "resets", "changes", "deriv", "avg_over_time", "sum_over_time", "min_over_time",
                   "max_over_time", "count_over_time", "last_over_time", "first_over_time", "stddev_over_time", "stdvar_over_time", "present_over_time",
                   "mad_over_time", "ts_of_first_over_time", "ts_of_last_over_time", "ts_of_max_over_time", "ts_of_min_over_time", "absent_over_time",
                   "quantile_over_time", "predict_linear", "double_exponential_smoothing")
EXTENDED = {"anchored": ("rate", "increase", "delta", "resets", "changes"), "smoothed": ("rate", "increase", "delta")}
AGGREGATES = ("sum", "sum", "avg", "avg", "min", "max", "count", "group", "stddev", "stdvar", "quantile", "count_values")
ARITHMETIC = ("+", "-", "*", "/", "%", "^", "atan2")
COMPARISONS = ("==", "!=", "<", ">", "<=", ">=")
SETS = ("and", "or", "unless")


class Generator:
    def __init__(self, rng, base_ms, span_ms):
        self.random, self.base_ms, self.span_ms = rng, base_ms, span_ms

    def pick(self, *choices):
        return self.random.choice(choices[0] if len(choices) == 1 else choices)

    def chance(self, p):
        return self.random.random() < p

    def weighted(self, *pairs):
        return self.random.choices([p[1] for p in pairs], [p[0] for p in pairs])[0]

    # --- selectors ---

    def bare_selector(self, hint=None):
        name = hint or self.weighted((5, self.pick(FLOATS)), (3, self.pick(HISTOGRAMS)), (0.3, "nothing"), (0.15, "huge"))
        matchers = [self.pick(MATCHERS[label]) for label in METRICS[name] if self.chance(0.25)]
        if self.chance(0.06):
            matchers.append(self.pick(ANY_MATCHERS))
        if not hint and self.chance(0.06):
            return "{" + ",".join([self.pick(NAME_MATCHERS)] + (matchers if self.chance(0.3) else [])) + "}"
        if not name.isascii():
            return '{"' + name + '"' + "".join("," + m for m in matchers) + "}"
        if self.chance(0.03):
            return '{__name__="' + name + '"' + "".join("," + m for m in matchers) + "}"
        return name + ("{" + ",".join(matchers) + (",}" if self.chance(0.1) else "}") if matchers or self.chance(0.03) else "")

    def shift(self):
        """offset and @, in either order."""
        out = []
        if self.chance(0.15):
            out.append(" offset " + (self.pick(OFFSET_EXPRESSIONS) if self.chance(0.2) else self.pick(OFFSETS)))
        if self.chance(0.08):
            at = self.base_ms + self.random.choice((0, self.span_ms, self.random.randrange(0, self.span_ms, 15_000), self.random.randrange(self.span_ms)))
            out.append(" @ " + self.pick("start()", "end()", f"{at / 1000:.3f}", f"{at // 1000}"))
        self.random.shuffle(out)
        return "".join(out)

    def selector(self, hint=None):
        bare, shift = self.bare_selector(hint), self.shift()
        simpler = (Node(VECTOR, bare),) if shift else ()
        return Node(VECTOR, bare, shift, simpler=simpler)

    def duration(self):
        return self.pick(DURATION_EXPRESSIONS) if self.chance(0.08) else self.pick(DURATIONS)

    def matrix(self, depth, hint=None, function=""):
        if depth > 0 and self.chance(0.3):
            step = self.pick("", "", "30s", "1m", "15s", "17s", "2m", "step()", "3m")
            inner = self.vector(depth - 1, hint)
            range_ = self.pick(("1m", "5m", "10m", "2m30s", "7m", "30s", "15m", "step()", "range()"))
            shift = self.shift()
            return Node(MATRIX, self.parens(inner), f"[{range_}:{step}]", shift,
                        simpler=(Node(MATRIX, self.parens(inner), f"[{range_}:{step}]"),) if shift else ())
        bare, duration, shift = self.bare_selector(hint), self.duration(), self.shift()
        extended = ""
        if self.chance(0.12):
            extended = self.weighted((1, "anchored"), (1, "smoothed"))
            if function not in EXTENDED[extended] and not self.chance(0.1):
                extended = ""
        mode = " " + extended if extended else ""
        simpler = [Node(MATRIX, bare, f"[{duration}]", mode)] if shift else []
        simpler += [Node(MATRIX, bare, "[5m]", mode)] if duration != "5m" else []
        return Node(MATRIX, bare, f"[{duration}]", mode, shift, simpler=simpler)

    # --- scalars ---

    def scalar(self, depth):
        simple = (Node(SCALAR, "1"), Node(SCALAR, "2"))
        if depth <= 0 or self.chance(0.6):
            return Node(SCALAR, self.weighted((8, self.pick(NUMBERS)), (1, "time()"), (0.5, "pi()"), (0.3, "start()"), (0.3, "end()"), (0.3, "step()"), (0.3, "range()")))
        what = self.pick("binary", "binary", "scalar", "negative", "of", "paren")
        if what == "binary":
            op = self.pick(ARITHMETIC + tuple(c + " bool" for c in COMPARISONS))
            return Node(SCALAR, self.parens(self.scalar(depth - 1)), f" {op} ", self.parens(self.scalar(depth - 1)), simpler=simple)
        if what == "scalar":
            return Node(SCALAR, "scalar(", self.vector(depth - 1), ")", simpler=simple)
        if what == "of":
            return Node(SCALAR, self.pick("max_of(", "min_of("), self.scalar(depth - 1), ", ", self.scalar(depth - 1), ")", simpler=simple)
        if what == "negative":
            return Node(SCALAR, "-(", self.scalar(depth - 1), ")", simpler=simple)
        return Node(SCALAR, "(", self.scalar(depth - 1), ")", simpler=simple)

    def number(self, choices, depth):
        """A parameter: mostly one of the choices."""
        return Node(SCALAR, self.pick(choices)) if self.chance(0.9) else self.scalar(min(depth - 1, 1))

    # --- vectors ---

    def parens(self, node):
        """Mostly in parentheses; else precedence is at work, and the tree is not what it looks like."""
        text = str(node)
        plain = text.isidentifier() or (text.endswith((")", "}")) and not any(f" {op} " in text for op in SETS + COMPARISONS + ARITHMETIC))
        return node if plain and self.chance(0.8) or self.chance(0.1) else Node(node.kind, "(", node, ")")

    def vector(self, depth, hint=None):
        if depth <= 0:
            return self.selector(hint)
        kind = self.weighted((3, self.selector_at), (6, self.range_call), (3, self.map_call), (5, self.aggregate), (5, self.binary), (2, self.set_binary),
                             (2.5, self.histogram_call), (1.5, self.label_call), (0.7, self.of_scalar), (0.7, self.unary), (0.5, self.sort), (0.7, self.of_open),
                             (0.5, self.limit_ratio), (0.6, self.date))
        return kind(depth, hint)

    def selector_at(self, depth, hint):
        return self.selector(hint)

    def range_call(self, depth, hint):
        f = self.pick(RANGE_FUNCTIONS)
        m = self.matrix(depth, hint, f)
        if f == "quantile_over_time":
            return Node(VECTOR, f + "(", self.number(QUANTILES, depth), ", ", m, ")")
        if f == "predict_linear":
            return Node(VECTOR, f + "(", m, ", ", self.number(("60", "-60", "0", "3600", "1m"), depth), ")")
        if f == "double_exponential_smoothing":
            return Node(VECTOR, f + "(", m, ", ", self.number(("0.5", "0.1", "0.9"), depth), ", ", self.number(("0.5", "0.25"), depth), ")")
        return Node(VECTOR, f + "(", m, ")")

    def map_call(self, depth, hint):
        f = self.pick(MAPS + ("clamp", "clamp_min", "clamp_max"))
        v = self.vector(depth - 1, hint)
        if f == "timestamp" and v.simpler and " @ " in str(v):
            v = v.simpler[0]  # upstream forgets the offset of a selector that has an @ too
        if f == "clamp":
            return Node(VECTOR, "clamp(", v, ", ", self.number(NUMBERS, depth), ", ", self.number(NUMBERS, depth), ")")
        if f.startswith("clamp"):
            return Node(VECTOR, f + "(", v, ", ", self.number(NUMBERS, depth), ")")
        if f == "scalar_vector":
            return Node(VECTOR, "vector(scalar(", v, "))")
        if f == "round" and self.chance(0.5):
            return Node(VECTOR, "round(", v, ", ", self.number(("1", "0.1", "5", "0.5", "10", "0.01"), depth), ")")
        return Node(VECTOR, f + "(", v, ")")

    def date(self, depth, hint):
        if self.chance(0.1):
            return Node(VECTOR, self.pick(DATES), "()")
        return Node(VECTOR, self.pick(DATES), "(", self.vector(depth - 1, hint), ")")

    def histogram_call(self, depth, hint):
        f = self.pick(HISTOGRAM_MAPS + ("histogram_quantile", "histogram_quantile", "histogram_fraction", "histogram_quantiles"))
        hint = self.weighted((6, self.pick(HISTOGRAMS)), (3, "latency_bucket"), (1, hint))
        v = self.vector(depth - 1, hint) if self.chance(0.7) else Node(VECTOR, "rate(", self.matrix(0, hint, "rate"), ")")
        if hint == "latency_bucket" and self.chance(0.4):
            v = Node(VECTOR, "sum by (", self.pick("le", "le,job", "job"), ") (", v, ")", simpler=(v,))
        if f == "histogram_quantile":
            return Node(VECTOR, f + "(", self.number(QUANTILES, depth), ", ", v, ")")
        if f == "histogram_fraction":
            return Node(VECTOR, f + "(", self.number(("0", "-Inf", "0.5", "-1", "NaN"), depth), ", ", self.number(("1", "Inf", "2.5", "0.7", "-2"), depth), ", ", v, ")")
        if f == "histogram_quantiles":
            return Node(VECTOR, f + "(", v, ', "q", ', self.number(QUANTILES, depth), ", ", self.number(QUANTILES, depth), ")")
        return Node(VECTOR, f + "(", v, ")")

    def names(self, hint, most=2):
        pool = METRICS[hint] if hint and self.chance(0.7) else GROUP_LABELS
        names = self.random.sample(pool, min(len(pool), self.random.randrange(most + 1)))
        return ", ".join(n if n.isascii() or n.startswith('"') else f'"{n}"' for n in names)

    def grouping(self, hint):
        return self.weighted((3, ""), (5, f"by ({self.names(hint)})"), (3, f"without ({self.names(hint)})"))

    def aggregated(self, op, grouping, parameter, inner, **more):
        arguments = (parameter, ", ", inner) if parameter else (inner,)
        plain = Node(VECTOR, f"{op}(", *arguments, ")")
        if not grouping:
            return Node(VECTOR, f"{op}(", *arguments, ")", **more)
        if self.chance(0.3):
            return Node(VECTOR, f"{op}(", *arguments, f") {grouping}", simpler=(plain,), **more)
        return Node(VECTOR, f"{op} {grouping} (", *arguments, ")", simpler=(plain,), **more)

    def aggregate(self, depth, hint):
        op = self.pick(AGGREGATES)
        hint = hint or self.pick(FLOATS + HISTOGRAMS)
        parameter = None
        if op == "quantile":
            parameter = self.number(QUANTILES, depth)
        elif op == "count_values":
            parameter = Node(STRING, self.pick('"v"', '"job"', "'v'"))
        return self.aggregated(op, self.grouping(hint), parameter, self.vector(depth - 1, hint))

    def chosen(self, op, grouping, depth, hint, parameter=None):
        hint = hint or self.pick(FLOATS + HISTOGRAMS)
        return self.aggregated(op, grouping, parameter or self.number(SMALL, depth), self.vector(depth - 1, hint), open=op)

    def of_open(self, depth, hint):
        """What does not depend on which of several equal series was chosen, or, with limitk, on which were chosen at all."""
        if self.chance(0.3):
            return Node(VECTOR, "count(", self.chosen("limitk", "", depth, hint), ")")
        return Node(VECTOR, self.pick("count", "sum", "min", "max"), "(", self.chosen(self.pick("topk", "bottomk"), "", depth, hint), ")")

    def limit_ratio(self, depth, hint):
        return self.aggregated("limit_ratio", self.grouping(hint), self.number(("0.5", "-0.5", "1", "-1", "0", "0.3", "-0.7", "2"), depth), self.vector(depth - 1, hint))

    def binary(self, depth, hint):
        comparison = self.chance(0.35)
        op = self.pick(COMPARISONS if comparison else ARITHMETIC)
        if not comparison and self.chance(0.06):
            op = self.pick("</", ">/")
        if comparison and self.chance(0.4):
            op += " bool"
        shape = self.weighted((3, "scalar"), (2, "left scalar"), (6, "vectors"))
        if shape == "scalar":
            return Node(VECTOR, self.parens(self.vector(depth - 1, hint)), f" {op} ", self.parens(self.scalar(depth - 1)))
        if shape == "left scalar":
            return Node(VECTOR, self.parens(self.scalar(depth - 1)), f" {op} ", self.parens(self.vector(depth - 1, hint)))
        return self.matched(depth, hint, op, fill=True)

    def matched(self, depth, hint, op, fill=False):
        """Mostly two vectors over the same metric, which match; or many series beside one."""
        same = hint or self.pick(FLOATS + HISTOGRAMS)
        left, right = self.vector(depth - 1, same), self.vector(depth - 1, same if self.chance(0.8) else None)
        matching = self.weighted((4, ""), (3, f" on ({self.names(same)})"), (2, f" ignoring ({self.names(same, 1)})"))
        plain = (Node(VECTOR, self.parens(left), f" {op} ", self.parens(right)),)
        if fill and self.chance(0.35):
            label = self.pick(METRICS[same] + ("job",))
            label = label if label.isascii() else f'"{label}"'
            matching = f" on ({label})" if self.chance(0.7) else matching
            if matching:
                side = self.pick("left", "right")
                matching += f" group_{side}" + self.weighted((3, ""), (2, f" ({self.names(None, 1)})"))
                one = Node(VECTOR, f"{self.pick('sum', 'max', 'count', 'avg')} by ({label}) (", self.vector(depth - 1, same), ")")
                left, right = (one, right) if side == "right" else (left, one)
        if fill and self.chance(0.1):
            matching += self.pick(" fill (0)", " fill_left (1)", " fill_right (NaN)", " fill_left (2) fill_right (-3)", " fill_right (0) fill_left (0)")
        return Node(VECTOR, self.parens(left), f" {op}{matching} ", self.parens(right), simpler=plain if matching else ())

    def set_binary(self, depth, hint):
        return self.matched(depth, hint, self.pick(SETS))

    def label_call(self, depth, hint):
        v = self.vector(depth - 1, hint)
        if self.chance(0.6):
            destination = self.pick("dst", "job", "instance", "__name__", "dst")
            replacement = self.pick("$1", "x-$1", "", "${1}y", "$0", "$name", "$2")
            source = self.pick("job", "instance", "zone", "__name__", "no_such", "i")
            regex = self.pick("(.*)", "(a.*)", "(?P<name>.).*", "", "nope", "(.)(.*)", "x|(.+)")
            return Node(VECTOR, "label_replace(", v, f', "{destination}", "{replacement}", "{source}", "{regex}")')
        sources = "".join(f', "{s}"' for s in self.random.sample(("job", "instance", "zone", "room", "__name__", "no_such"), self.random.randrange(4)))
        return Node(VECTOR, "label_join(", v, f', "{self.pick("dst", "job", "__name__")}", "{self.pick("-", "", ", ")}"{sources})')

    def of_scalar(self, depth, hint):
        return Node(VECTOR, "vector(", self.scalar(depth - 1), ")")

    def unary(self, depth, hint):
        return Node(VECTOR, self.pick("-", "-", "+"), self.parens(self.vector(depth - 1, hint)))

    def sort(self, depth, hint):
        v = self.vector(depth - 1, hint)
        if self.chance(0.4):
            by = self.random.sample(("job", "instance", "zone", "room", "i"), self.random.randrange(1, 3))
            labels = "".join(f', "{s}"' for s in by)
            return Node(VECTOR, self.pick("sort_by_label(", "sort_by_label_desc("), v, labels, ")", open=" ".join(("sort_by_label", *by)))
        return Node(VECTOR, self.pick("sort(", "sort_desc("), v, ")", open="sort")

    # --- whole queries ---

    def root(self):
        depth = self.random.choice((1, 2, 2, 3, 3, 4))
        what = self.weighted((30, "vector"), (2, SCALAR), (1.5, MATRIX), (0.3, STRING), (2, "topk"), (1, "limitk"))
        if what == SCALAR:
            return self.scalar(depth)
        if what == MATRIX:
            return self.matrix(depth)
        if what == STRING:
            return Node(STRING, self.pick('"a string"', "'größe \\n'", "`raw \\n`"))
        if what == "topk":
            return self.chosen(self.pick("topk", "bottomk"), self.grouping(None), depth, None)
        if what == "limitk":
            return self.chosen("limitk", self.grouping(None), depth, None)
        return self.vector(depth)

    def instant_time(self):
        around = self.random.choice((0, 0, 0, 1, -1, self.random.randrange(-8_000, 8_000)))
        return self.base_ms + self.random.randrange(-120_000, self.span_ms + 600_000, 15_000) + around

    def request(self):
        """(is a range query, parameters without the query)"""
        lookback = {"lookback_delta": self.pick("1m", "30s", "10m", "1", "15s")} if self.chance(0.06) else {}
        if self.chance(0.4):
            return False, {"time": seconds(self.instant_time()), **lookback}
        start = self.instant_time()
        step = self.random.choice((15_000, 30_000, 60_000, 60_000, 120_000, 300_000, 7_000, 33_333, 1_000, 61_000))
        end = start + self.random.choice((0, 1, step * self.random.randrange(60), self.random.randrange(step * 30 + 1)))
        return True, {"start": seconds(start), "end": seconds(end), "step": seconds(step), **lookback}


def seconds(ms):
    return f"{ms // 1000}.{ms % 1000:03d}"


def mutate(rng, text):
    """A text that is probably no query any more."""
    i, j = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
    piece = rng.choice(("(", ")", "{", "}", "[", "]", ",", "by", "5m", '"', "=", "=~", "offset", "@", "bool", "é", "\\", "on", "fill", "{}", "[5m]", "[5m:]",
                        "::", "!", "1x", "'", " sum ", "group_left", " and ", "#", "\x00", "-", "rate(", "1.2.3", "start()", "anchored", "$"))
    return rng.choice((text[:i] + text[i + 1:], text[:i] + piece + text[i:], text[:i] + text[j:], text[:i], text[i:], text[:i] + text[i:i + 4] + text[i:]))
