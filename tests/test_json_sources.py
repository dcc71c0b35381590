"""Readings as JSON: from lines on standard input, and from MQTT messages."""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from readings import DEADLINE_S, NAN, assert_rows, rows_of, until

from edge_agent.clock import SystemClock
from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import ConfigError, SourceError
from edge_agent.link import Up
from edge_agent.mqtt import MqttLink
from edge_agent.sources import make_source
from edge_agent.sources.json_rows import Row, RowDecoder
from edge_agent.sources.jsonl import JsonlConfig, JsonlSource
from edge_agent.sources.mqtt import MqttConfig, MqttSource, line_to
from edge_agent.testing.broker import SimulatedBroker
from edge_agent.testing.line import SimulatedLine

if TYPE_CHECKING:
    from brokers import Broker

pytest_plugins = ("brokers",)


# --- JSON readings -------------------------------------------------------------------------------


def given_values(row: Row) -> list[float | None]:
    """A row with None for what was not given: NaN equals nothing."""
    return [None if math.isnan(value) else value for value in row]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (b"[1, 2.5]", [1.0, 2.5]),
        (b" [1,null] \r", [1.0, None]),
        (b"[NaN, -Infinity]", [None, None]),
        (b"[nan, 1e3]", [None, 1000.0]),
        (b'{"b": 2, "a": 1}', [1.0, 2.0]),
        (b'{"a": 1}', [1.0, None]),
        (b'{"a": null, "b": NaN}', [None, None]),
        (b'{"a": 1, "b": 2, "t": "now", "c": {"a": [3]}}', [1.0, 2.0]),
        (b"[123456789012345678901234567890, 0]", [1.2345678901234568e29, 0.0]),
    ],
)
def test_a_reading_as_json(text: bytes, want: list[float | None]) -> None:
    decoder = RowDecoder(("a", "b"))
    row = decoder.row(text)
    assert row is not None
    assert given_values(row) == want
    assert decoder.faults == {"torn": 0, "malformed": 0}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[1, 2", "torn"),
        (b"hello", "torn"),
        (b"", "torn"),
        (b"\xff\xfe", "torn"),
        (b"[1, 2] [3, 4]", "torn"),
        (b'[1, "2', "torn"),
        (b"[" * 100_000, "torn"),
        (b'{"z": ' * 100_000, "torn"),
        (b"[1]", "malformed"),
        (b"[1, 2, 3]", "malformed"),
        (b"[]", "malformed"),
        (b"[1, true]", "malformed"),
        (b'[1, "2"]', "malformed"),
        (b'{"a": "warm"}', "malformed"),
        (b'{"status": "ok"}', "malformed"),
        (b"{}", "malformed"),
        (b"7", "malformed"),
        (b"null", "malformed"),
    ],
)
def test_what_is_not_a_reading_is_counted(text: bytes, reason: str) -> None:
    decoder = RowDecoder(("a", "b"))
    assert decoder.row(text) is None
    assert decoder.faults == {"torn": 0, "malformed": 0, reason: 1}


@given(st.binary(max_size=60) | st.text('[]{},:"ab01. -einfNaN', max_size=40).map(str.encode))
def test_any_bytes_are_rows_or_counted(text: bytes) -> None:
    decoder = RowDecoder(("a", "b"))
    rows = decoder.rows(text)
    assert all(len(row) == 2 for row in rows)
    assert rows or sum(decoder.faults.values()) > 0


def test_several_readings_in_one_text_fail_one_by_one() -> None:
    decoder = RowDecoder(("a", "b"))
    rows = decoder.rows(b'[[1,2],{"b":3},[4],["x",1],[nan,5]]')
    assert [given_values(row) for row in rows] == [
        [1.0, 2.0],
        [None, 3.0],
        [None, 5.0],
    ]
    assert decoder.faults == {"torn": 0, "malformed": 2}


def test_a_channel_that_cannot_be_a_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="channel"):
        RowDecoder(('a"b',))


# --- jsonl ---------------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, list[int]]]:
    """The reading end, and a list with the writing end, from which a test may take it to close."""
    reading, writing = os.pipe()
    ends = [writing]
    yield reading, ends
    for end in (reading, *ends):
        os.close(end)


def test_jsonl_gives_whole_lines_and_waits_for_the_rest_of_one(
    pipe: tuple[int, list[int]],
) -> None:
    reading, ends = pipe
    source = JsonlSource(JsonlConfig(), ("a", "b"), descriptor=reading)
    source.open()
    out = np.empty((8, 2), np.float32)
    os.write(ends[0], b'[1,2]\n\n{"b":4}\r\n[5,')
    assert source.read(out) == 2
    assert_rows(out[:2].tolist(), [[1, 2], [NAN, 4]])
    os.write(ends[0], b"6]\n")
    assert source.read(out) == 1
    assert_rows(out[:1].tolist(), [[5, 6]])


def test_jsonl_returns_with_nothing_when_no_line_comes(pipe: tuple[int, list[int]]) -> None:
    source = JsonlSource(JsonlConfig(), ("a",), descriptor=pipe[0])
    source.open()
    assert source.read(np.empty((8, 1), np.float32)) == 0


def test_jsonl_keeps_what_does_not_fit_for_the_next_read(pipe: tuple[int, list[int]]) -> None:
    reading, ends = pipe
    os.write(ends[0], b"".join(b"[%d]\n" % number for number in range(10)))
    os.close(ends.pop())
    source = JsonlSource(JsonlConfig(), ("a",), descriptor=reading)
    source.open()
    assert [row[0] for row in rows_of(source, 1, block=3)] == list(range(10))


@pytest.mark.parametrize(
    ("end", "rows", "torn"), [(b"[3,4]", 2, 0), (b"[3,", 1, 1), (b"", 1, 0), (b"  ", 1, 0)]
)
def test_jsonl_ends_with_a_whole_or_a_torn_last_line(
    pipe: tuple[int, list[int]], end: bytes, rows: int, torn: int
) -> None:
    reading, ends = pipe
    os.write(ends[0], b"[1,2]\n" + end)
    os.close(ends.pop())
    source = JsonlSource(JsonlConfig(), ("a", "b"), descriptor=reading)
    source.open()
    assert len(rows_of(source, 2)) == rows
    assert source.faults == {"torn": torn, "malformed": 0}
    with pytest.raises(EOFError):
        source.read(np.empty((1, 2), np.float32))


def test_jsonl_survives_lines_of_any_length_and_counts_each_that_is_too_long(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lines"
    long = b"[" + b"1" * 50_000 + b"]\n"
    path.write_bytes(b"[1]\n" + long + b"[2]\n" + b"[" + b"1" * 200 + b"]\n" + long * 2 + b"[3]\n")
    with path.open("rb") as file:
        source = JsonlSource(JsonlConfig(line_bytes_max=100), ("a",), descriptor=file.fileno())
        source.open()
        assert [row[0] for row in rows_of(source, 1)] == [1.0, 2.0, 3.0]
    assert source.faults == {"torn": 4, "malformed": 0}


def test_jsonl_loses_nothing_to_a_fast_writer(pipe: tuple[int, list[int]]) -> None:
    reading, ends = pipe
    writing = ends.pop()

    def write_all() -> None:
        with os.fdopen(writing, "wb") as file:
            file.writelines(b"[%d,0.5]\n" % number for number in range(50_000))

    writer = threading.Thread(target=write_all)
    writer.start()
    source = JsonlSource(JsonlConfig(), ("a", "b"), descriptor=reading)
    source.open()
    rows = rows_of(source, 2, block=64, most=10**6)
    writer.join()
    assert [row[0] for row in rows] == list(range(50_000))


def test_jsonl_without_standard_input_says_so() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    with pytest.raises(SourceError, match="standard input is closed"):
        JsonlSource(JsonlConfig(), ("a",), descriptor=reading).open()


# --- mqtt ----------------------------------------------------------------------------------------


def mqtt(broker: SimulatedBroker, **options: object) -> MqttSource:
    config = msgspec.convert({"type": "mqtt", "topic": "s/+", **options}, MqttConfig)
    return MqttSource(config, ("a", "b"), line=SimulatedLine(broker))


def test_mqtt_takes_one_or_many_readings_a_message() -> None:
    broker = SimulatedBroker()
    source = mqtt(broker)
    source.open()
    out = np.empty((8, 2), np.float32)
    assert source.read(out) == 0  # it has come up, and subscribes
    broker.publish("s/1", b"[1,2]")
    broker.publish("other", b"[0,0]")
    broker.publish("s/2", b'[[3,4],{"a":5},[6]]')
    broker.publish("s/2", b"[7,")
    assert source.read(out) == 3
    assert_rows(out[:3].tolist(), [[1, 2], [3, 4], [5, NAN]])
    assert source.faults == {"torn": 1, "malformed": 1, "overrun": 0, "stale": 0}


def test_mqtt_drops_the_oldest_beyond_its_queue_and_counts_them() -> None:
    broker = SimulatedBroker()
    source = mqtt(broker, queue_n_max=3)
    source.open()
    out = np.empty((2, 2), np.float32)
    source.read(out)
    for number in range(4):
        broker.publish("s/1", b"[%d,0]" % number)
    assert source.read(out) == 2
    assert out[:, 0].tolist() == [1.0, 2.0]
    broker.publish("s/1", b"[[10,0],[11,0],[12,0],[13,0],[14,0]]")
    assert [source.read(out), out[:, 0].tolist()] == [2, [12.0, 13.0]]
    assert source.faults["overrun"] == 1 + 3


def test_mqtt_leaves_out_retained_readings_of_unknown_age() -> None:
    broker = SimulatedBroker()
    broker.publish("s/1", b"[1,1]", retain=True)
    source = mqtt(broker)
    source.open()
    out = np.empty((2, 2), np.float32)
    source.read(out)
    broker.publish("s/1", b"[2,2]", retain=True)  # we are there: this one is fresh
    assert source.read(out) == 1
    assert out[0].tolist() == [2.0, 2.0]
    assert source.faults["stale"] == 1


def test_mqtt_goes_on_after_the_broker_was_gone() -> None:
    broker = SimulatedBroker()
    broker.running = False
    source = mqtt(broker)
    source.open()
    out = np.empty((4, 2), np.float32)
    assert source.read(out) == 0
    for number in range(3):
        broker.start()
        source.read(out)
        broker.publish("s/1", b"[%d,1]" % number)
        assert source.read(out) == 1
        assert out[0, 0] == number
        broker.stop()
        source.read(out)
    assert broker.subscriptions == ["s/+"] * 3


def test_mqtt_readings_of_many_sensors_by_a_key() -> None:
    broker = SimulatedBroker()
    source = mqtt(broker, sensor_key="id", time_key="t")
    source.open()
    out = np.empty((8, 2), np.float32)
    source.read(out)
    broker.publish("s/1", b'{"id": "x", "t": 5, "a": 1}')
    broker.publish("s/1", b'[{"id": "y", "t": 6.5, "b": 2}, {"id": "z", "a": 3}, {"t": 1, "a": 4}]')
    assert source.read(out) == 2
    assert_rows(out[:2].tolist(), [[1, NAN], [NAN, 2]])
    assert (source.sensors, source.stamps) == (["x", "y"], [5.0, 6.5])
    assert source.faults["malformed"] == 2


def test_mqtt_readings_of_many_sensors_by_their_topic() -> None:
    broker = SimulatedBroker()
    source = mqtt(broker, topic="hall/+/values", sensor_topic=True)
    source.open()
    out = np.empty((8, 2), np.float32)
    source.read(out)
    broker.publish("hall/p 1/values", b"[[1,2],[3,4]]")
    broker.publish("hall//values", b"[0,0]")
    broker.publish(f"hall/{'x' * 65}/values", b"[0,0]")
    broker.publish("hall/p2/values", b'{"a": 5}')
    assert source.read(out[:2]) == 2
    assert source.sensors == ["p 1", "p 1"]
    assert source.read(out) == 1
    assert source.sensors == ["p2"]
    assert source.stamps == []
    assert source.faults["malformed"] == 2


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"topic": "a/b", "sensor_topic": True}, "one '+'"),
        ({"topic": "+/+", "sensor_topic": True}, "one '+'"),
        ({"topic": "a/+", "sensor_topic": True, "sensor_key": "id"}, "not both"),
    ],
)
def test_mqtt_sensors_that_cannot_be_told(options: dict[str, object], fault: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=re.escape(fault)):
        msgspec.convert({"type": "mqtt", **options}, MqttConfig)


@pytest.mark.parametrize("topic", ["lab/+/v", "$share/agents/lab/+/v"])
def test_mqtt_sensors_by_topic_against_a_real_broker(mosquitto_broker: Broker, topic: str) -> None:
    config = BrokerConfig(url=mosquitto_broker.url)
    source = MqttSource(
        MqttConfig(topic=topic, sensor_topic=True), ("a", "b"), line=line_to(config)
    )
    sender = MqttLink(config, client_id="sender")
    port = sender.port("sender")
    out = np.empty((4, 2), np.float32)

    def delivered() -> bool:
        port.publish(1, "lab/oven/v", b"[1.5,null]")
        return source.read(out) > 0

    source.open()
    sender.start()
    try:
        assert isinstance(port.events.get(timeout=DEADLINE_S), Up)
        until(delivered)
        assert set(source.sensors) == {"oven"}
    finally:
        source.close()
        sender.stop()


def test_mqtt_subscription_that_is_denied_fails_the_source() -> None:
    broker = SimulatedBroker()
    broker.deny("s/+")
    source = mqtt(broker)
    source.open()
    with pytest.raises(SourceError, match=r"denies the subscription to s/\+"):
        rows_of(source, 2)
    source.close()
    broker.allow("s/+")
    source.open()
    source.read(np.empty((1, 2), np.float32))
    broker.publish("s/1", b"[1,2]")
    assert source.read(np.empty((1, 2), np.float32)) == 1


def test_mqtt_reading_before_open_is_an_error() -> None:
    with pytest.raises(SourceError, match="open"):
        mqtt(SimulatedBroker()).read(np.empty((1, 2), np.float32))


@pytest.mark.parametrize("topic", ["", "a/#/b", "a+/b", "a/b#", "x" * 257])
def test_mqtt_topics_that_no_broker_takes_are_refused(topic: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"type": "mqtt", "topic": topic}, MqttConfig)


def test_mqtt_against_a_real_broker_over_its_restart(mosquitto_broker: Broker) -> None:
    config = BrokerConfig(url=mosquitto_broker.url)
    source = make_source(
        MqttConfig(topic="lab/+"),
        channels=("a", "b"),
        base=Path(),
        broker=config,
        clock=SystemClock(),
    )
    sender = MqttLink(config, client_id="sender")
    port = sender.port("sender")
    out = np.empty((4, 2), np.float32)

    def delivered() -> bool:
        port.publish(1, "lab/x", b"[1.5,null]")
        return source.read(out) > 0

    source.open()
    sender.start()
    try:
        assert isinstance(port.events.get(timeout=DEADLINE_S), Up)
        until(delivered)
        assert_rows(out[:1].tolist(), [[1.5, NAN]])
        mosquitto_broker.restart()
        until(lambda: port.connected and delivered())
    finally:
        source.close()
        sender.stop()


def test_mqtt_without_its_password_file_is_a_source_error(tmp_path: Path) -> None:
    broker = BrokerConfig(
        url="mqtt://127.0.0.1:1", username="me", password_file=str(tmp_path / "none")
    )
    source = MqttSource(MqttConfig(topic="t"), ("a",), line=line_to(broker))
    with pytest.raises(SourceError, match="none"):
        source.open()
    source.close()
