from collections.abc import Callable, Iterator
from pathlib import Path

import brokers
import pytest
from brokers import Broker
from bundles import make_bundle

from edge_agent.config import BrokerConfig

from .ears import TOPICS, Ears
from .processes import Programs

_PROGRAMS: pytest.StashKey[Programs] = pytest.StashKey()


@pytest.fixture
def programs(request, tmp_path) -> Iterator[Programs]:
    """Starts programs; their logs stand in the report when the test fails."""
    folder = tmp_path / "logs"
    folder.mkdir()
    request.node.stash[_PROGRAMS] = found = Programs(folder)
    yield found
    found.discard()


@pytest.fixture
def broker(tmp_path) -> Iterator[Broker]:
    """A mosquitto that forgets everything when it is killed."""
    with brokers.mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def home(tmp_path) -> Path:
    """The folder of an agent's configuration, with a bundle that is installed first."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "motion.bundle").write_bytes(make_bundle(version="1.0.0"))
    return folder


@pytest.fixture
def listen() -> Iterator[Callable[..., Ears]]:
    """Makes clients that hear statuses, and the further topics that are named."""
    made: list[Ears] = []

    def make(broker: Broker, *filters: str, **settings: object) -> Ears:
        ears = Ears(BrokerConfig(url=broker.url, **settings), [TOPICS.status("+"), *filters])
        made.append(ears)
        return ears.__enter__()

    yield make
    for ears in made:
        ears.__exit__(None, None, None)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed and (programs := item.stash.get(_PROGRAMS, None)):
        report.sections += programs.logs()
