"""As tests/e2e/test_remote_read.py, with a current Prometheus 3 as the reader: it asks for streamed chunks, and reads native histograms."""

import os
import urllib.request

import pytest

import test_prometheus
from process import PEERS
from test_remote_read import HISTOGRAM_QUERIES, check_reader, filled, reader, test_a_prometheus_that_reads_here_answers_the_same  # noqa: F401


@pytest.fixture(scope="module", autouse=True)
def current_prometheus():
    test_prometheus.PROMETHEUS = os.path.join(PEERS, "prometheus", "prometheus")


@pytest.mark.parametrize("query", HISTOGRAM_QUERIES)
def test_histograms_too(filled, reader, query):  # noqa: F811
    check_reader(filled, reader, query)


def test_it_asked_for_chunks(reader):  # noqa: F811
    check = urllib.request.urlopen(f"{reader}/metrics", timeout=30).read().decode()
    counted = [line for line in check.splitlines() if line.startswith("prometheus_remote_read_client_queries_total{")]
    print(counted)
    assert counted and all('response_type="chunked"' in line and 'code="200"' in line for line in counted), counted
