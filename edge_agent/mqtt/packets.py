"""The packets of MQTT 5 and 3.1.1 that a data connection needs: bytes in, packets out, no I/O.

What the broker sends is never trusted: every length is checked before it is used, a packet is
bounded, and whatever breaks the rules is a :class:`MalformedError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from edge_agent.link import Received

CONNACK: Final = 2
PUBLISH: Final = 3
PUBACK: Final = 4
SUBACK: Final = 9
PINGRESP: Final = 13
DISCONNECT: Final = 14
HEADER_BYTES_MAX: Final = 10  # beside topic and payload, of a PUBLISH without properties
FAILURE: Final = 0x80  # reason codes from here on refuse

PINGREQ: Final = b"\xc0\0"
GOODBYE: Final = b"\xe0\0"

_MQTT_5: Final = 5
_VARINT_BYTES_MAX: Final = 4
_REQUEST_ID: Final = 1
_RECEIVE_MAX: Final = 0x21
_QOS_MAX: Final = 0x24
_PACKET_BYTES_MAX: Final = 0x27
_KEEPALIVE_S: Final = 0x13
_STRING: Final = -2
_PAIR: Final = -4
_WIDTHS: Final[Mapping[int, int]] = {  # bytes of each property of CONNACK (MQTT 5, 3.2.2.3)
    **dict.fromkeys((0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22), 2),
    **dict.fromkeys((0x11, 0x27), 4),
    **dict.fromkeys((0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F), _STRING),
    0x26: _PAIR,
}


class MalformedError(ValueError):
    """The broker sent what no broker may send."""


class Control(NamedTuple):
    """Any packet that is not a message: its type, and what follows the length."""

    kind: int
    body: bytes


Packet = Received | Control


class Limits(NamedTuple):
    """What a broker asks of its client in an accepting CONNACK."""

    receive_max: int = 65_000  # of the 65,535 ids, so that one is always free
    qos_max: int = 1
    packet_bytes_max: int = 268_435_455
    keepalive_s: int | None = None


class Splitter:
    """Cuts the stream of one connection into packets.

    Args:
        protocol: 5 or 4 (3.1.1).
        bytes_max: largest packet, without its first bytes.
    """

    def __init__(self, protocol: int, *, bytes_max: int) -> None:
        self._has_properties = protocol == _MQTT_5
        self._bytes_max = bytes_max
        self._rest = bytearray()
        self._need = 0

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that are complete with these bytes; the rest waits for the next call.

        Raises:
            MalformedError: the stream cannot be followed any further.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        found: list[Packet] = []
        at, end = 0, len(data)
        self._need = 2
        while end - at >= 2:
            length, body = data[at + 1], at + 2
            if length >= 0x80:
                varint = _varint(data, at + 1, end)
                if varint is None:
                    break
                length, body = varint
            if length > self._bytes_max:
                raise MalformedError(f"a packet of {length} bytes; at most {self._bytes_max}")
            stop = body + length
            if stop > end:
                self._need = stop - at
                break
            first = data[at]
            if first >> 4 == PUBLISH:
                found.append(self._publish(first, data, body, stop))
            else:
                found.append(Control(first >> 4, data[body:stop]))
            at = stop
        self._rest += data[at:]
        return found

    def _publish(self, first: int, data: bytes, at: int, stop: int) -> Received:
        """The message in ``data[at:stop]``; whether its topic is UTF-8 is not looked at."""
        if stop - at < 2:
            raise MalformedError("a message without a topic")
        begin = at + 2
        at = begin + (data[at] << 8 | data[at + 1])
        topic = data[begin:at]
        packet_id = 0
        if qos := first >> 1 & 3:
            if qos > 1 or stop - at < 2:
                raise MalformedError("a message of a QoS that nobody asked for, or without its id")
            packet_id = data[at] << 8 | data[at + 1]
            at += 2
        if self._has_properties:
            varint = _varint(data, at, stop)
            if varint is None:
                raise MalformedError("a message without its properties")
            at = sum(varint)
        if at > stop:
            raise MalformedError("a message that ends before its payload")
        return Received(data[at:stop], bool(first & 1), packet_id, topic)


# --- what a client sends -------------------------------------------------------------------------


def connect(
    client_id: str,
    *,
    protocol: int,
    keepalive_s: int,
    bytes_max: int,
    username: str | None,
    password: str | None,
) -> bytes:
    """CONNECT with a clean start and no will."""
    flags = 0x02 | (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    properties = b""
    if protocol == _MQTT_5:  # the largest packet that we take
        properties = b"\5\x27" + (bytes_max + 5).to_bytes(4, "big")
    head = _text("MQTT") + bytes((protocol, flags)) + keepalive_s.to_bytes(2, "big")
    login = b"".join(_text(part) for part in (username, password) if part is not None)
    return _packet(0x10, head + properties + _text(client_id) + login)


def subscribe(topic_filter: str, *, protocol: int) -> bytes:
    """SUBSCRIBE to one filter at QoS 1: the first and only one of a connection."""
    properties = b"\0" if protocol == _MQTT_5 else b""
    wanted = _text(topic_filter) + b"\1"
    return _packet(0x82, _REQUEST_ID.to_bytes(2, "big") + properties + wanted)


def publish(topic: bytes, payload: bytes, *, protocol: int, packet_id: int = 0) -> bytes:
    """PUBLISH, at QoS 0 without a ``packet_id`` and at QoS 1 with one."""
    head = len(topic).to_bytes(2, "big") + topic
    if packet_id:
        head += packet_id.to_bytes(2, "big")
    if protocol == _MQTT_5:
        head += b"\0"
    return _packet(0x32 if packet_id else 0x30, head + payload)


def puback(packet_id: int) -> bytes:
    """PUBACK of a message that was taken."""
    return b"\x40\2" + packet_id.to_bytes(2, "big")


# --- what a broker answers -----------------------------------------------------------------------


def connack(body: bytes, *, protocol: int) -> tuple[int, Limits]:
    """The reason code of a CONNACK, 0 for yes, and the broker's limits.

    Raises:
        MalformedError: it is none.
    """
    if len(body) < 2:
        raise MalformedError("a CONNACK that is too short")
    if protocol != _MQTT_5 or body[1]:
        return body[1], Limits()
    given = dict(_properties(body[2:]))
    default = Limits()
    return 0, Limits(
        max(1, min(default.receive_max, given.get(_RECEIVE_MAX, default.receive_max))),
        given.get(_QOS_MAX, default.qos_max),
        given.get(_PACKET_BYTES_MAX, default.packet_bytes_max),
        given.get(_KEEPALIVE_S),
    )


def suback(body: bytes) -> int:
    """The one reason code of a SUBACK: 0 or 1 for yes.

    Raises:
        MalformedError: it is none, or not for :func:`subscribe`.
    """
    if len(body) < 3 or int.from_bytes(body[:2], "big") != _REQUEST_ID:
        raise MalformedError("a SUBACK that nobody asked for")
    return body[-1]


def acknowledged(body: bytes) -> tuple[int, int]:
    """The packet id and the reason code of a PUBACK; 3.1.1 knows no other code than 0.

    Raises:
        MalformedError: it is none.
    """
    if len(body) < 2:
        raise MalformedError("a PUBACK that is too short")
    return int.from_bytes(body[:2], "big"), body[2] if len(body) > 2 else 0


def _properties(data: bytes) -> Iterator[tuple[int, int]]:
    """The properties of a CONNACK that are numbers; texts are passed over."""
    varint = _varint(data, 0, len(data))
    if varint is None or sum(varint) != len(data):
        raise MalformedError("properties that do not fill their packet")
    at = varint[1]
    while at < len(data):
        name, width = data[at], _WIDTHS.get(data[at])
        at += 1
        if width is None:
            raise MalformedError(f"an unknown property 0x{name:02x}")
        if width > 0:
            yield name, int.from_bytes(data[at : at + width], "big")
            at += width
        for _ in range(-width // 2):
            at += 2 + int.from_bytes(data[at : at + 2], "big")
    if at != len(data):
        raise MalformedError("a property that ends before its value")


def _varint(data: bytes, at: int, end: int) -> tuple[int, int] | None:
    """A variable byte integer and where it ends; None while bytes are missing (MQTT 5, 1.5.5)."""
    value = 0
    for number in range(_VARINT_BYTES_MAX):
        if at + number >= end:
            return None
        byte = data[at + number]
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, at + number + 1
    raise MalformedError("a length of more than four bytes")


def _packet(first: int, body: bytes) -> bytes:
    length = len(body)
    if length < 0x80:
        return bytes((first, length)) + body
    head = bytearray((first,))
    while length:
        length, low = length >> 7, length & 0x7F
        head.append(low | 0x80 if length else low)
    return bytes(head) + body


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data
