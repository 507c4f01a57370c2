"""The explorer in a real browser: what is typed is completed, asked, drawn, listed and kept in the URL; nothing of another host is asked."""

import json
import math
import time
import urllib.parse

import pytest

import remote_write as rw
from process import Brunn
from webdriver import Browser

MODES = {"idle": 1.4, "iowait": 0.1, "system": 0.3, "user": 0.8}
RATE = 'sum by (mode) (rate(explorer_cpu_seconds_total{job="web"}[1m]))'
SIZES = [(1280, 800), (390, 844)]


def push_an_hour(brunn, headers=None):
    now = int(time.time())
    times = range(now - 3600, now + 1, 15)
    body = [rw.series({"__name__": "explorer_cpu_seconds_total", "mode": mode, "instance": f"web-{i}:9100", "job": "web"},
                      [(t * 1000, (t - now + 4000) * v + 30 * math.sin(t / 300 + i)) for t in times])
            for mode, v in MODES.items() for i in range(2)]
    body += [rw.series({"__name__": "explorer_gaps", "value": 'a "quoted" <b>one</b>'},
                       [(t * 1000, math.nan if t // 300 % 3 == 0 else math.inf if t // 300 % 3 == 1 else t % 7) for t in times])]
    body += [rw.series({"__name__": "explorer_many", "n": f"{i:03}"}, [(t * 1000, i) for t in times]) for i in range(300)]
    histogram = rw.int_histogram(now * 1000, 10, 18.4, 1, 0.001, 2, [(0, 2), (1, 2)], [1, 1, -1, 3])
    body += [rw.series({"__name__": "explorer_native"}, [], histogram)]
    status, text = brunn.push(rw.body(*body), headers)
    assert status == 200, text
    return now


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(Brunn, the time of its newest sample)"""
    b = Brunn(tmp_path_factory.mktemp("explorer"), "-ingester.out-of-order-time-window=2h")
    yield b, push_an_hour(b)
    b.stop()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


class Page:
    """The explorer of a server in the browser."""

    def __init__(self, browser, brunn):
        self.browser, self.base = browser, f"http://127.0.0.1:{brunn.port}/"
        self.js, self.keys, self.click = browser.js, browser.keys, browser.click

    def open(self, **state):
        self.browser.open(f"{self.base}explore?{urllib.parse.urlencode(state)}")
        self.browser.wait("the page to have started", "return 'started' in document.querySelector('main').dataset")
        self.settled()

    def settled(self):
        self.browser.wait("the answer", "return document.querySelector('main').getAttribute('aria-busy') !== 'true'")

    def value(self, element):
        return self.js("return document.getElementById(arguments[0]).value", element)

    def status(self):
        return self.js("return document.getElementById('status').textContent")

    def error(self):
        return self.js("return document.querySelector('#status .error')?.textContent || ''")

    def state(self):
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.js("return location.href")).query))

    def rows(self):
        return self.js("return [...document.querySelectorAll('#table tr')].map(r => [...r.children].map(c => c.innerText))")

    def legend(self):
        return self.js("return [...document.querySelectorAll('#legend button')].map(b => b.textContent)")

    def offered(self, word):
        self.browser.wait(f"{word} to be offered", "return [...document.querySelectorAll('#completions li')].some(l => l.firstChild.data === arguments[0])", word)
        return self.js("return [...document.querySelectorAll('#completions li')].map(l => l.firstChild.data)")

    def coloured_pixels(self):
        """Of the plot: those of its lines; grid and labels are grey. Read from a copy: reading back changes how a canvas is drawn from then on."""
        return self.js("""const plot = document.getElementById('plot'), copy = Object.assign(document.createElement('canvas'), { width: plot.width, height: plot.height });
            const c = copy.getContext('2d', { willReadFrequently: true });
            c.drawImage(plot, 0, 0);
            const d = c.getImageData(0, 0, plot.width, plot.height).data;
            let n = 0;
            for (let i = 0; i < d.length; i += 4)
                if (d[i + 3] > 128 && Math.max(d[i], d[i + 1], d[i + 2]) - Math.min(d[i], d[i + 1], d[i + 2]) > 60) n++;
            return n;""")


@pytest.fixture
def page(chromium, served):
    chromium.size(*SIZES[0])
    chromium.scheme("light")
    yield from watched(chromium, served[0])


def watched(chromium, brunn):
    """The page, whose console must stay empty and which must ask its own server only."""
    chromium.open("about:blank")
    for kind in ("browser", "performance"):
        chromium.log(kind)
    page = Page(chromium, brunn)
    page.refusals = 0 # answers of 400 or 401 that the test provokes: the browser tells of them
    yield page
    console = [e["message"] for e in chromium.log("browser")]
    refused = [m for m in console if "/api/v1/" in m and ("400 (Bad Request)" in m or "401 (Unauthorized)" in m)]
    assert len(refused) == page.refusals and len(console) == page.refusals, console
    asked = []
    for entry in chromium.log("performance"):
        event = json.loads(entry["message"])["message"]
        if event["method"] == "Network.requestWillBeSent":
            asked.append(event["params"]["request"]["url"])
    foreign = [u for u in asked if not u.startswith((page.base, "data:", "about:"))]
    assert asked and not foreign, foreign


def test_a_query_is_completed_run_listed_and_drawn(page):
    page.open()
    assert "Type a PromQL query" in page.js("return document.getElementById('hint').textContent")
    page.keys("sum by (mo")
    page.offered("mode")
    page.keys("Tab", ") (rat")
    assert page.offered("rate")[0] == "rate"
    page.keys("ArrowDown", "Enter", "explorer_c")
    page.offered("explorer_cpu_seconds_total")
    page.keys("Tab", "{jo")
    assert page.offered("job") == ["job"]
    page.keys("Tab", '="')
    assert page.offered("web") == ["web"]
    page.keys("ArrowDown", "Enter", "}[1m]))")
    assert page.value("query") == RATE

    page.keys("Enter")
    page.browser.wait("the legend", "return document.querySelectorAll('#legend button').length")
    assert page.legend() == [f'{{mode="{m}"}}' for m in MODES]
    assert page.status().startswith("4 series, ")
    assert page.coloured_pixels() > 2000
    assert page.state()["expr"] == RATE and page.state()["tab"] == "graph"

    page.click("#tab-table")
    page.browser.wait("the table", "return document.querySelectorAll('#table tr').length === 4")
    rates = {label: float(value) for label, value in page.rows()}
    assert rates.keys() == {f'{{mode="{m}"}}' for m in MODES}
    for mode, v in MODES.items():
        assert abs(rates[f'{{mode="{mode}"}}'] - 2 * v) < 0.5, rates


def test_the_legend_chooses_what_is_drawn(page):
    page.open(expr=RATE)
    everything = page.coloured_pixels()
    page.click("#legend button:nth-child(2)")
    assert page.js("return [...document.querySelectorAll('#legend button')].map(b => b.ariaPressed)") == ["false", "true", "false", "false"]
    assert 300 < page.coloured_pixels() < everything / 2
    page.click("#legend button:nth-child(2)")
    assert page.coloured_pixels() == pytest.approx(everything, rel=0.02)


def test_an_error_is_shown_and_goes(page):
    page.open(expr="sum(rate(x)")
    page.refusals = 1
    assert "parse error: unclosed left parenthesis" in page.error()
    assert page.js("return document.getElementById('graph').hidden")
    page.open(expr=RATE, step="soon")
    assert "not a step: soon" in page.error()
    page.open(expr="explorer_nothing")
    assert not page.error()
    assert "No series match" in page.js("return document.getElementById('hint').textContent")
    page.open(expr=RATE)
    assert not page.error() and len(page.legend()) == len(MODES)


def test_the_url_tells_the_view(page, served):
    end = served[1] - 600
    state = {"expr": RATE, "tab": "graph", "range": "20m", "end": str(end), "step": "30s"}
    page.open(**state)
    shown = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(end))
    assert (page.value("range"), page.value("end"), page.value("step")) == ("20m", shown, "30s")
    drawn = page.js("return document.getElementById('plot').toDataURL()")

    # Half a range earlier is another view; back again, also by reloading, is the same one to the pixel.
    page.click("#earlier")
    page.browser.wait("the earlier end", "return document.getElementById('end').value !== arguments[0]", shown)
    page.settled()
    assert page.state() == {**state, "end": str(end - 600)}
    assert page.js("return document.getElementById('plot').toDataURL()") != drawn
    page.browser.call("POST", "/back", {})
    page.browser.wait("the end of before", "return document.getElementById('end').value === arguments[0]", shown)
    page.settled()
    assert page.state() == state
    page.open(**page.state())
    assert page.js("return document.getElementById('plot').toDataURL()") == drawn

    # A link pins an end that moves.
    page.open(expr=RATE)
    assert "end" not in page.state()
    page.js("""window.copied = null;
        Object.defineProperty(navigator, 'clipboard', { value: { writeText: async t => { window.copied = t; } } });""")
    page.click("#share")
    link = page.browser.wait("the link", "return window.copied")
    assert abs(int(dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(link).query))["end"]) - time.time()) < 30
    assert page.status() == "Link copied."


def test_dragging_over_the_plot_selects_a_part(page):
    page.open(expr=RATE)
    box = page.js("const r = document.getElementById('plot').getBoundingClientRect(); return [r.x, r.y, r.width, r.height]")
    x, y = int(box[0] + box[2] * 0.4), int(box[1] + box[3] * 0.5)
    page.browser.call("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [
        {"type": "pointerMove", "x": x, "y": y}, {"type": "pointerDown", "button": 0},
        {"type": "pointerMove", "x": x + int(box[2] * 0.2), "y": y + 10, "duration": 30}, {"type": "pointerUp", "button": 0}]}]})
    page.browser.wait("another range", "return document.getElementById('range').value !== '1h'")
    page.settled()
    minutes = int(page.state()["range"].partition("m")[0])
    assert 11 <= minutes <= 14 and len(page.legend()) == len(MODES)


def test_every_kind_of_answer_is_listed(page, served):
    at = {"tab": "table", "end": str(served[1])}
    page.open(expr="explorer_gaps", **at)
    assert page.rows()[0][0] == 'explorer_gaps{value="a \\"quoted\\" <b>one</b>"}'
    page.open(expr="1 / 4", **at)
    assert page.rows() == [["0.25"]] and page.status().startswith("scalar, ")
    page.open(expr='"text"', **at)
    assert page.rows() == [["text"]] and page.status().startswith("string, ")
    page.open(expr="vector(NaN) or explorer_nothing", **at)
    assert page.rows() == [["{}", "NaN"]]
    page.open(expr='explorer_many{n="007"}[30s]', **at)
    assert page.rows()[0][1].splitlines()[-1].split()[0] == "7"
    page.open(expr="explorer_native", **at)
    page.click("summary")
    assert page.rows()[0][1].splitlines()[:3] == ["count 10, sum 18.4", "5 buckets", "[-0.001, 0.001]: 2"]
    # What has no place on an axis is a gap of the plot; of many series some are drawn.
    page.open(expr="explorer_gaps", end=str(served[1]))
    assert page.coloured_pixels() > 100
    page.open(expr="explorer_many", end=str(served[1]))
    assert page.status().startswith("300 series, the first 200 are drawn") and len(page.legend()) == 200


@pytest.mark.parametrize("width, height", SIZES)
def test_it_fits_the_window_in_both_schemes(page, width, height):
    page.browser.size(width, height)
    grounds = {}
    for scheme in ("light", "dark"):
        page.browser.scheme(scheme)
        for tab in ("graph", "table"):
            page.open(expr="explorer_gaps or " + RATE, tab=tab)
            check_width(page, tab)
        for path in ("", "services"):
            page.browser.open(page.base + path)
            check_width(page, path)
        grounds[scheme] = page.js("return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert min(grounds["light"]) > 230 and max(grounds["dark"]) < 40


def check_width(page, what):
    scroll, inner = page.js("return [document.documentElement.scrollWidth, innerWidth]")
    assert scroll <= inner, (what, scroll, inner)


def test_a_change_of_scheme_draws_again(page):
    page.open(expr=RATE)
    before = page.js("return document.getElementById('plot').toDataURL()")
    page.browser.scheme("dark")
    page.browser.wait("another plot", "return document.getElementById('plot').toDataURL() !== arguments[0]", before)


def test_tenants_are_asked_for(chromium, tenants):
    push_an_hour(tenants, {"X-Scope-OrgID": "team-a"})
    pages = watched(chromium, tenants)
    page = next(pages)
    page.open(expr=RATE)
    page.refusals = 1
    assert "no org id: fill in the tenant above" in page.error()
    page.click("#tenant")
    page.keys("team-a", "Enter")
    page.browser.wait("the legend", "return document.querySelectorAll('#legend button').length")
    assert page.state()["tenant"] == "team-a" and not page.error()
    page.open(expr=RATE, tenant="team-b")
    assert "No series match" in page.js("return document.getElementById('hint').textContent")
    assert not list(pages)
