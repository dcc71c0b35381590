"""The rules of the MQTT link that need no broker."""

from __future__ import annotations

import socket
import ssl
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.address import Address, parse_url, read_password
from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import ConfigError
from edge_agent.mqtt.reasons import describe
from edge_agent.mqtt.reconnect import LONGEST_S, Outcome, Reconnect


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://pi", Address("pi", 1883, tls=False)),
        ("mqtts://broker.example.org/", Address("broker.example.org", 8883, tls=True)),
        ("mqtt://10.0.0.1:11883", Address("10.0.0.1", 11883, tls=False)),
        ("mqtt://[::1]:1884", Address("::1", 1884, tls=False)),
    ],
)
def test_urls(url: str, expected: Address) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "pi",
        "pi:1883",
        "http://pi",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://pi:0",
        "mqtt://pi:70000",
        "mqtt://pi:x",
        "mqtt://pi/topic",
        "mqtt://pi?x=1",
        "mqtt://a b",
        "mqtt://[::1",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="mqtt://HOST"):
        parse_url(url)


@pytest.mark.parametrize("url", ["mqtt://me:secret@pi", "me:secret@pi", "mqtt://me:secret"])
def test_a_password_in_a_url_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


def test_passwords_come_from_files_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_bytes("schlüssel \r\nmore\n".encode())
    assert read_password(BrokerConfig(url="", password_file=str(file))) == "schlüssel "
    monkeypatch.setenv("TEST_BROKER_PASSWORD", "from the environment")
    config = BrokerConfig(url="", password_env="TEST_BROKER_PASSWORD")
    assert read_password(config) == "from the environment"
    monkeypatch.delenv("TEST_BROKER_PASSWORD")
    with pytest.raises(ConfigError, match="TEST_BROKER_PASSWORD is not set"):
        read_password(config)
    assert read_password(BrokerConfig(url="")) is None


@pytest.mark.parametrize("content", [None, b"", b"\nsecond", b"\xff\xfe"])
def test_password_files_that_cannot_be_used_are_named(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=str(file)):
        read_password(BrokerConfig(url="", password_file=str(file)))


def longest(low: float, high: float) -> float:
    assert low == 0.0
    return high


def test_pauses_double_up_to_the_longest_and_begin_anew_after_a_connection_that_held() -> None:
    rule = Reconnect("5", longest)
    pauses = [rule.pause_s(Outcome.UNREACHABLE, 0.0) for _ in range(9)]
    assert pauses == [0.5, 1, 2, 4, 8, *[LONGEST_S] * 4]
    assert rule.pause_s(Outcome.LOST, 1.0) == LONGEST_S  # taken over by another client, perhaps
    assert rule.pause_s(Outcome.LOST, 60.0) == 0.5


def test_auto_remembers_a_broker_that_said_so() -> None:
    rule = Reconnect("auto", longest)
    assert rule.protocol == 5
    assert rule.pause_s(Outcome.UNSUPPORTED, 0.0) is None
    for outcome in (Outcome.LOST, Outcome.UNREACHABLE, Outcome.REFUSED):
        assert rule.protocol == 4
        assert rule.pause_s(outcome, 0.0) is not None
    assert rule.pause_s(Outcome.UNSUPPORTED, 0.0) is not None
    assert rule.protocol == 5


def test_auto_forgets_a_mere_close() -> None:
    rule = Reconnect("auto", longest)
    assert rule.pause_s(Outcome.SILENT, 0.0) is None
    assert rule.protocol == 4
    assert rule.pause_s(Outcome.LOST, 60.0) is not None
    assert rule.protocol == 5


@given(st.sampled_from(["5", "3.1.1"]), st.lists(st.sampled_from(Outcome), max_size=20))
def test_a_forced_version_stays_and_never_skips_the_pause(
    protocol: str, outcomes: list[Outcome]
) -> None:
    rule = Reconnect(protocol, longest)
    first = rule.protocol
    assert all(rule.pause_s(outcome, 0.0) is not None for outcome in outcomes)
    assert rule.protocol == first == (5 if protocol == "5" else 4)


@given(st.lists(st.sampled_from(Outcome), min_size=2, max_size=30))
def test_auto_never_tries_more_than_twice_without_a_pause(outcomes: list[Outcome]) -> None:
    rule = Reconnect("auto", longest)
    pauses = [rule.pause_s(outcome, 0.0) for outcome in outcomes]
    assert all(one is not None or two is not None for one, two in pairwise(pauses))


@pytest.mark.parametrize(
    ("exc", "word"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "does the broker run"),
        (socket.gaierror(-2, "Name or service not known"), "DNS: pi cannot be resolved"),
        (TimeoutError("timed out"), "did not answer"),
        (ssl.SSLError(1, "[SSL] record layer failure"), "TLS"),
        (OSError(101, "Network is unreachable"), "pi:1883: Network is unreachable"),
        (UnicodeError("label too long"), "label too long"),
    ],
)
def test_reasons_say_what_to_look_at(exc: Exception, word: str) -> None:
    assert word in describe(exc, Address("pi", 1883, tls=False))
