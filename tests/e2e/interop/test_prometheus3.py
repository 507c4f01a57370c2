"""As tests/e2e/test_prometheus.py, against a current Prometheus 3."""

import os

import pytest

import test_prometheus as debian
from process import PEERS
from test_prometheus import pair, test_label_apis_agree, test_metadata_agrees, test_prometheus_dropped_nothing, test_the_answers_agree  # noqa: F401


@pytest.fixture(scope="module", autouse=True)
def current_prometheus():
    debian.PROMETHEUS = os.path.join(PEERS, "prometheus", "prometheus")
