import pytest

from kafka_server import Kafka
from process import Brunn


def pytest_addoption(parser):
    parser.addoption("--rounds", type=int, default=30, help="rounds of the kill -9 test")
    parser.addoption("--scrape-seconds", type=int, default=120, help="how long the real Prometheus scrapes")
    parser.addoption("--differential-queries", type=int, default=2000, help="random queries of the differential test, of each of its seeds")
    parser.addoption("--differential-names-late", action="store_true", help="both sides drop metric names at the end of a query")
    parser.addoption("--differential-seed", default="1", help="its seeds: 7, or 1-10")
    parser.addoption("--long", action="store_true", help="the cluster's faults last for as long as the real ones do")
    parser.addoption("--cluster-of", default="brunn", choices=("brunn", "mimir"), help="what the cluster tests run: the harness is right when Mimir passes")


@pytest.fixture
def brunn(tmp_path):
    """A fresh single process; it must have ended cleanly, without a word from a sanitizer."""
    b = Brunn(tmp_path)
    yield b
    b.stop()


@pytest.fixture
def tenants(tmp_path):
    """The same with multitenancy."""
    b = Brunn(tmp_path, multitenancy=True)
    yield b
    b.stop()


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    """A real Apache Kafka of one broker, for the tests of one file."""
    k = Kafka(tmp_path_factory.mktemp("kafka"))
    yield k
    k.kill()
