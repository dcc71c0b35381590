"""Every source: made from its configuration, and conforming to what a source must do."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from readings import assert_rows, rows_of

from edge_agent.clock import SystemClock
from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import ConfigError
from edge_agent.sources import SourceConfig, make_source
from edge_agent.sources.base import Source
from edge_agent.sources.jsonl import JsonlConfig, JsonlSource
from edge_agent.sources.mqtt import MqttConfig, MqttSource
from edge_agent.sources.replay import ReplayConfig, ReplaySource
from edge_agent.sources.simulated import SimulatedConfig, SimulatedSource
from edge_agent.testing.broker import SimulatedBroker
from edge_agent.testing.clock import FakeClock
from edge_agent.testing.conformance import check_source
from edge_agent.testing.line import SimulatedLine


def test_every_source_is_made_from_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("b,a\n2,1\n")
    kinds: list[tuple[SourceConfig, type]] = [
        (ReplayConfig(path="r.csv"), ReplaySource),
        (JsonlConfig(), JsonlSource),
        (MqttConfig(topic="t"), MqttSource),
        (SimulatedConfig(), SimulatedSource),
    ]
    for config, kind in kinds:
        source = make_source(
            config,
            channels=("a", "b"),
            base=tmp_path,
            broker=BrokerConfig(url="mqtt://127.0.0.1:1"),
            clock=FakeClock(),
        )
        assert isinstance(source, kind)
    replayed = make_source(
        ReplayConfig(path="r.csv"),
        channels=("a", "b"),
        base=tmp_path,
        broker=None,
        clock=FakeClock(),
    )
    replayed.open()
    assert_rows(rows_of(replayed, 2), [[1, 2]])


def test_an_mqtt_source_without_a_broker_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a broker"):
        make_source(
            MqttConfig(topic="t"), channels=("a",), base=tmp_path, broker=None, clock=FakeClock()
        )


def test_replay_conforms(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("a,b\n" + "1,\n" * 20)
    np.savez(tmp_path / "r.npz", signal=np.ones((3, 2)))
    for name, options in (("r.csv", {}), ("r.csv", {"rate_hz": 500.0}), ("r.npz", {"loop": True})):
        config = msgspec.convert({"type": "replay", "path": name, **options}, ReplayConfig)

        def make(config: ReplayConfig = config) -> Source:
            return ReplaySource(config, ("a", "b"), base=tmp_path, clock=SystemClock())

        check_source(make, 2)


def test_simulated_conforms() -> None:
    for config in (SimulatedConfig(rate_hz=200.0), SimulatedConfig(rate_hz=None, readings=3)):

        def make(config: SimulatedConfig = config) -> Source:
            return SimulatedSource(config, ("a", "b", "c"), clock=SystemClock())

        check_source(make, 3)


def test_jsonl_conforms(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'[1,2]\n{"a":1}\nnot json\n' * 5)
    opened = []

    def make() -> Source:
        opened.append(path.open("rb"))
        return JsonlSource(JsonlConfig(), ("a", "b"), descriptor=opened[-1].fileno())

    check_source(make, 2)
    for file in opened:
        file.close()


def test_mqtt_conforms() -> None:
    broker, config = SimulatedBroker(), MqttConfig(topic="s/+")
    enough = threading.Event()

    def feed() -> None:
        while not enough.wait(0.01):
            broker.publish("s/1", b"[[1,2],[3,4]]")

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        check_source(lambda: MqttSource(config, ("a", "b"), line=SimulatedLine(broker)), 2)
    finally:
        enough.set()
        feeder.join()


class BadSource(SimulatedSource):
    """Breaks the contract in the way that ``mistake`` names."""

    def __init__(self, mistake: str) -> None:
        super().__init__(
            SimulatedConfig(rate_hz=None, readings=20), ("a", "b"), clock=SystemClock()
        )
        self.mistake = mistake
        self.reads = 0

    def read(self, out: np.ndarray) -> int:
        self.reads += 1
        if self.mistake == "writes beyond":
            out[:] = 1
            return min(1, len(out) - 1)
        if self.mistake == "leaves gaps":
            out[:, 0] = 1
            return len(out)
        count = super().read(out)
        return {"numpy count": np.int64(count), "too many": count + 1}.get(self.mistake, count)

    def close(self) -> None:
        if self.mistake == "close needs open" and self.reads == 0:
            raise AttributeError("handle")

    @property
    def faults(self) -> dict[str, int]:
        wrong = {
            "fault text": {"torn": "many"},
            "negative": {"torn": -1},
            "falling": {"torn": 100 - self.reads},
        }
        return wrong.get(self.mistake, {})


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ("writes beyond", "outside"),
        ("leaves gaps", "as they were"),
        ("numpy count", "int64"),
        ("too many", "rows"),
        ("fault text", "not an int"),
        ("negative", "negative"),
        ("falling", "went down"),
    ],
)
def test_the_check_finds_what_a_source_does_wrong(mistake: str, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_source(lambda: BadSource(mistake), 2)


def test_the_check_passes_a_source_without_mistakes_and_not_one_that_cannot_close() -> None:
    check_source(lambda: BadSource("none"), 2)
    with pytest.raises(AttributeError):
        check_source(lambda: BadSource("close needs open"), 2)
