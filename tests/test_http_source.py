"""Readings by HTTP POST, from a real client on this machine."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from bundles import make_bundle
from readings import NAN, assert_rows, rows_of, until

from edge_agent.contract.errors import SourceError
from edge_agent.sources.http import HttpConfig, HttpSource
from edge_agent.testing.conformance import check_source


@contextlib.contextmanager
def listening(tmp_path: Path, **config: object):
    source = HttpSource(HttpConfig(**{"port": 0} | config), ("a", "b"), base=tmp_path)
    source.open()
    try:
        yield source
    finally:
        source.close()


def post(source: HttpSource, body: object, **headers: str) -> tuple[int, str]:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", source.port)) as client:
        client.request("POST", "/any/path", text, headers)
        answer = client.getresponse()
        return answer.status, answer.read().decode().strip()


def test_readings_are_taken_in_order(tmp_path) -> None:
    with listening(tmp_path) as source:
        assert post(source, [1, 2]) == (204, "")
        assert post(source, {"a": 3}) == (204, "")
        assert post(source, [[4, 5], {"b": 6}]) == (204, "")
        assert_rows(rows_of(source, 2, most=4), [[1, 2], [3, NAN], [4, 5], [NAN, 6]])


def test_a_connection_may_be_kept(tmp_path) -> None:
    with (
        listening(tmp_path) as source,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", source.port)) as client,
    ):
        for number in range(3):
            client.request("POST", "/", f"[{number}, 0]")
            assert client.getresponse().read() == b""
        assert_rows(rows_of(source, 2, most=3), [[0, 0], [1, 0], [2, 0]])


@pytest.mark.parametrize(
    ("body", "reason", "fault"),
    [
        (b"[1, 2", "not JSON", "torn"),
        (b"[1, 2, 3]", "not a reading of these channels", "malformed"),
        (b'[[1, 2], ["x", 1]]', "not a reading of these channels", "malformed"),
    ],
)
def test_of_a_bad_body_nothing_is_taken_and_the_reason_is_told(
    tmp_path, body, reason, fault
) -> None:
    with listening(tmp_path) as source:
        status, text = post(source, body)
        assert status == 400
        assert reason in text
        assert source.faults == {"torn": 0, "malformed": 0, "overrun": 0} | {fault: 1}
        assert post(source, [7, 8])[0] == 204
        assert_rows(rows_of(source, 2, most=1), [[7, 8]])


def test_an_empty_array_is_no_reading(tmp_path) -> None:
    with listening(tmp_path) as source:
        assert post(source, [])[0] == 400


def test_when_too_many_wait_the_sender_is_told_to_come_again(tmp_path) -> None:
    with listening(tmp_path, queue_n_max=2) as source:
        assert post(source, [[1, 1], [2, 2]])[0] == 204
        assert post(source, [3, 3])[0] == 503
        assert post(source, [[0, 0]] * 3)[0] == 413
        assert_rows(rows_of(source, 2, most=2), [[1, 1], [2, 2]])
        assert post(source, [3, 3])[0] == 204
        assert source.faults["overrun"] == 1


@pytest.mark.parametrize("length", ["", "-1", "x", "0" * 30 + "9" * 30])
def test_a_length_that_is_none(tmp_path, length) -> None:
    with listening(tmp_path) as source:
        with socket.create_connection(("127.0.0.1", source.port)) as raw:
            raw.sendall(f"POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode())
            assert b" 411 " in raw.recv(100)
        assert post(source, [1, 2])[0] == 204


def test_a_body_has_a_bound(tmp_path) -> None:
    with listening(tmp_path, body_bytes_max=64) as source:
        assert post(source, b"[" + b" " * 100 + b"1, 2]") == (413, "at most 64 bytes")


@pytest.mark.parametrize("where", ["file", "env"])
def test_a_token(tmp_path, monkeypatch, where) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    monkeypatch.setenv("READINGS_TOKEN", "s3cret")
    config = {"token_file": "token"} if where == "file" else {"token_env": "READINGS_TOKEN"}
    with listening(tmp_path, **config) as source:
        for given in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "s3cret"}):
            status, text = post(source, [1, 2], **given)
            assert status == 401
            assert "s3cret" not in text
        assert post(source, [1, 2], Authorization="Bearer s3cret")[0] == 204
        assert_rows(rows_of(source, 2, most=1), [[1, 2]])


def test_a_token_that_is_not_there(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("READINGS_TOKEN", raising=False)
    for config in ({"token_file": "none"}, {"token_env": "READINGS_TOKEN"}):
        with pytest.raises(SourceError, match="token"), listening(tmp_path, **config):
            pass


def test_readings_of_many_sensors_with_their_time(tmp_path) -> None:
    with listening(tmp_path, sensor_key="id", time_key="t") as source:
        assert post(source, [{"id": "p", "t": 5, "a": 1}, {"id": "q", "t": 6, "b": 2}])[0] == 204
        status, text = post(source, {"a": 1})
        assert status == 400
        assert "with 'id'" in text
        out = np.empty((4, 2), np.float32)
        assert source.read(out) == 2
        assert source.sensors == ["p", "q"]
        assert source.stamps == [5.0, 6.0]


def test_a_port_that_is_taken(tmp_path) -> None:
    with listening(tmp_path) as source:
        other = HttpSource(HttpConfig(port=source.port), ("a", "b"), base=tmp_path)
        with pytest.raises(SourceError, match="nothing else listens"):
            other.open()


def test_a_sender_that_hangs_holds_nobody_up(tmp_path) -> None:
    with listening(tmp_path) as source:
        hanging = [socket.create_connection(("127.0.0.1", source.port)) for _ in range(5)]
        for sender in hanging:
            sender.sendall(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n[1")
        assert post(source, [1, 2])[0] == 204
        assert_rows(rows_of(source, 2, most=1), [[1, 2]])
        for sender in hanging:
            sender.close()


def test_what_is_not_a_post(tmp_path) -> None:
    with (
        listening(tmp_path) as source,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", source.port)) as client,
    ):
        client.request("GET", "/")
        assert client.getresponse().status == 501
    with listening(tmp_path) as source, socket.create_connection(("127.0.0.1", source.port)) as raw:
        raw.sendall(b"POST / HTTP/1.1\r\n\r\n")
        assert b" 411 " in raw.recv(100)


def test_http_is_a_source(tmp_path) -> None:
    ended = threading.Event()
    sources: list[HttpSource] = []

    def make() -> HttpSource:
        sources.append(HttpSource(HttpConfig(port=0), ("a", "b"), base=tmp_path))
        return sources[-1]

    def talk() -> None:
        while not ended.wait(0.01):
            with contextlib.suppress(OSError, IndexError, http.client.HTTPException):
                post(sources[-1], [[1, 2]] * 4)

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        check_source(make, channels=2)
    finally:
        ended.set()
        talker.join()


AGENT = """
device: d
data_dir: data
update: {{enabled: false}}
pipelines:
  - name: p
    model: motion
    channels: [a, b]
    bundle: m.bundle
    source: {{type: http, port: {port}, sensor_key: id}}
    sensors: {{}}
    actions: [{{type: file, path: fired.jsonl}}]
"""


def test_an_agent_decides_for_sensors_that_send_by_http(tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "m.bundle").write_bytes(make_bundle(length=1))
    config, fired = tmp_path / "agent.yaml", tmp_path / "fired.jsonl"
    config.write_text(AGENT.format(port=port))
    sender = HttpSource(HttpConfig(port=port), ("a", "b"), base=tmp_path)  # never opened: a port
    readings = [{"id": f"s{number}", "a": number % 2, "b": number % 2} for number in range(10)]

    def sent() -> bool:
        with contextlib.suppress(OSError):
            return post(sender, readings)[0] == 204
        return False

    agent = subprocess.Popen([sys.executable, "-m", "edge_agent", "run", str(config)])
    try:
        until(sent)
        until(lambda: fired.exists() and fired.read_bytes().count(b"\n") == 10)
    finally:
        agent.terminate()
        assert agent.wait(60) == 0
    decisions = [json.loads(line) for line in fired.read_text().splitlines()]
    assert [(it["sensor"], it["label"]) for it in decisions] == [
        (f"s{number}", "move" if number % 2 else "rest") for number in range(10)
    ]
