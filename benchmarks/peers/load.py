"""Load and subscriber in one: readings in, decisions out, each timed, on one raw socket.

A process with one thread and its own framing, paced by absolute time, so that it costs its core a
few microseconds a reading: :attr:`Load.busy` says how much of the time it worked.
"""

from __future__ import annotations

import json
import re
import select
import socket
from collections.abc import Sequence
from time import perf_counter

import numpy as np

from edge_agent.link import Received
from edge_agent.mqtt import packets
from edge_agent.mqtt.packets import Control, Splitter

_PROTOCOL = 4
_ROWS_N = 512  # readings that are encoded beforehand, and repeat
_READING = re.compile(rb'"reading":\s*(\d+)')
_TURN_S = 1e-3  # at high rates what has become due within a millisecond leaves together


class Load:
    """One connection for one contender: publishes at QoS 0, subscribes, keeps both times.

    Args:
        port: of the broker on this machine.
        topic_in: readings go here.
        topic_out: decisions come from here.
        channels: keys of a reading.
        length: readings in a window: the first decision is on this one.

    Attributes:
        sent: readings published since the start.
        decided: decisions that came, each reading's once.
    """

    def __init__(
        self, port: int, topic_in: str, topic_out: str, channels: Sequence[str], length: int
    ) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._splitter = Splitter(_PROTOCOL, bytes_max=1 << 20)
        hello = packets.connect(
            "load",
            protocol=_PROTOCOL,
            keepalive_s=0,
            bytes_max=1 << 20,
            username=None,
            password=None,
        )
        self._ask(hello, packets.CONNACK)
        self._ask(packets.subscribe(topic_out, protocol=_PROTOCOL), packets.SUBACK)
        self._sock.settimeout(0)
        rows = np.random.default_rng(2).normal(size=(_ROWS_N, len(channels))).round(4).tolist()
        self._messages = [
            packets.publish(
                topic_in.encode(),
                json.dumps(dict(zip(channels, row, strict=True))).encode(),
                protocol=_PROTOCOL,
            )
            for row in rows
        ]
        self._length = length
        self._out = bytearray()
        self.sent = 0
        self.decided = 0
        self.busy_s = 0.0
        self.sent_at: list[float] = [0.0]  # by the number of the reading, from 1
        self.delays: list[tuple[int, float]] = []

    @property
    def waiting(self) -> int:
        """Readings without their decision."""
        return max(0, self.sent - self._length + 1) - self.decided

    def at_rate(self, rate: float, seconds: float, late_s: float = 1.0) -> list[tuple[float, int]]:
        """Publish at a rate, on time whatever comes back.

        It ends early when the readings of ``late_s`` wait: what is hopeless needs no more proof,
        and no queue on the way is to overflow.

        Returns:
            (seconds since the start, readings without their decision), every 100 ms.
        """
        begin = perf_counter()
        first, backlog = self.sent, []
        while (passed := perf_counter() - begin) < seconds and self.waiting <= max(
            100, late_s * rate
        ):
            due = int(passed * rate) + 1 - (self.sent - first)
            if due > 0:
                self._send(due)
            if passed >= len(backlog) * 0.1:
                backlog.append((passed, self.waiting))
            next_s = max((self.sent - first) / rate, passed + (_TURN_S if rate > 2000 else 0.0))
            self._receive(begin + next_s)
        return backlog

    def in_turn(self, ahead: int, seconds: float) -> float:
        """Keep so many readings ahead of the decisions; the rate at which they came."""
        begin, before = perf_counter(), self.decided
        while (now := perf_counter()) < begin + seconds:
            if (room := ahead - self.waiting) > 0:
                self._send(room)
            self._receive(now + 0.05)
        return (self.decided - before) / (now - begin)

    def settle(self, seconds: float) -> bool:
        """Wait for what waits; whether all came."""
        until = perf_counter() + seconds
        while self.waiting and perf_counter() < until:
            self._receive(perf_counter() + 0.05)
        return not self.waiting

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def _send(self, count: int) -> None:
        begin = perf_counter()
        for number in range(self.sent, self.sent + count):
            self._out += self._messages[number % _ROWS_N]
        self.sent += count
        self.sent_at.extend([begin] * count)
        self._flush()
        self.busy_s += perf_counter() - begin

    def _flush(self) -> None:
        try:
            del self._out[: self._sock.send(self._out)]
        except BlockingIOError:
            return

    def _receive(self, until: float) -> None:
        """Wait for decisions until a moment, and take those that have come."""
        ready = select.select(
            [self._sock], [self._sock] if self._out else [], [], max(0.0, until - perf_counter())
        )
        now = perf_counter()
        if ready[1]:
            self._flush()
        if ready[0]:
            for packet in self._splitter.feed(self._sock.recv(1 << 18)):
                if isinstance(packet, Received):
                    self._count(packet.payload, now)
            self.busy_s += perf_counter() - now

    def _count(self, payload: bytes, now: float) -> None:
        self.decided += 1
        found = _READING.search(payload)
        assert found is not None, payload
        number = int(found[1])
        assert number == self.decided + self._length - 1, "a decision is lost, or out of order"
        self.delays.append((number, now - self.sent_at[number]))

    def _ask(self, question: bytes, kind: int) -> None:
        self._sock.sendall(question)
        answer = self._splitter.feed(self._sock.recv(1 << 16))
        assert [p.kind for p in answer if isinstance(p, Control)] == [kind], answer
