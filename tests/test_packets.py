"""The framing of a data connection: whatever a broker sends, packets or one kind of error."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.link import Received
from edge_agent.mqtt import packets
from edge_agent.mqtt.packets import Control, Limits, MalformedError, Splitter

BYTES_MAX = 1000
PROTOCOLS = st.sampled_from((4, 5))
MESSAGES = st.lists(
    st.tuples(
        st.binary(min_size=1, max_size=20),
        st.one_of(st.binary(max_size=40), st.binary(min_size=100, max_size=300)),
        st.integers(0, 65_535),
    ),
    max_size=12,
)


@given(messages=MESSAGES, protocol=PROTOCOLS, data=st.data())
def test_messages_come_out_as_they_went_in_wherever_the_stream_is_cut(messages, protocol, data):
    stream = b"".join(
        packets.publish(topic, payload, protocol=protocol, packet_id=packet_id)
        for topic, payload, packet_id in messages
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    splitter = Splitter(protocol, bytes_max=BYTES_MAX)
    found = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += splitter.feed(stream[start:stop])
    assert found == [
        Received(payload, retained=False, packet_id=number, topic=topic)
        for topic, payload, number in messages
    ]


@given(pieces=st.lists(st.binary(max_size=60), max_size=20), protocol=PROTOCOLS)
def test_any_bytes_give_packets_or_a_malformed_error_and_bounded_memory(pieces, protocol):
    splitter = Splitter(protocol, bytes_max=50)
    with contextlib.suppress(MalformedError):
        for piece in pieces:
            for packet in splitter.feed(piece):
                assert len(packet[0] if isinstance(packet, Received) else packet.body) <= 50
            assert len(splitter._rest) < 50 + 5


@given(body=st.binary(max_size=60), protocol=PROTOCOLS)
def test_any_answer_is_read_or_malformed(body, protocol):
    for read in (
        lambda: packets.connack(body, protocol=protocol)[0],
        lambda: packets.suback(body),
        lambda: packets.acknowledged(body)[1],
    ):
        with contextlib.suppress(MalformedError):
            assert 0 <= read() <= 255


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"\x30\xff\xff\xff\xff\x01", "more than four bytes"),
        (b"\x30\xe9\x07", "at most 1000"),
        (b"\x30\x00", "without a topic"),
        (b"\x30\x03\x00\x09a", "properties"),
        (b"\x32\x03\x00\x01a", "without its id"),
        (b"\x34\x06\x00\x01a\x00\x01\x00", "QoS"),
        (b"\x30\x03\x00\x01a", "properties"),
        (b"\x30\x04\x00\x01a\x05", "before its payload"),
    ],
)
def test_what_breaks_the_rules_is_named(stream, why):
    with pytest.raises(MalformedError, match=why):
        Splitter(5, bytes_max=BYTES_MAX).feed(stream)


def test_other_packets_come_out_with_their_body():
    splitter = Splitter(4, bytes_max=BYTES_MAX)
    assert splitter.feed(b"\xd0\x00\x40") == [Control(packets.PINGRESP, b"")]
    assert splitter.feed(b"\x02\x00\x07") == [Control(packets.PUBACK, b"\x00\x07")]


def test_a_connack_of_version_5_tells_the_limits():
    text = b"\x12\x00\x02id\x26\x00\x01k\x00\x01v"  # an assigned id and a user property
    numbers = b"\x21\x00\x14\x24\x00\x27\x00\x00\x10\x00\x13\x00\x3c"
    body = b"\x00\x00" + bytes([len(text + numbers)]) + text + numbers
    assert packets.connack(body, protocol=5) == (0, Limits(20, 0, 4096, 60))
    assert packets.connack(b"\x00\x87", protocol=5) == (0x87, Limits())
    assert packets.connack(b"\x00\x05", protocol=4) == (5, Limits())


@pytest.mark.parametrize("tail", [b"", b"\x05\x21", b"\x02\x21\x00", b"\x01\x7f", b"\x00\x00"])
def test_a_connack_with_broken_properties_is_malformed(tail):
    with pytest.raises(MalformedError):
        packets.connack(b"\x00\x00" + tail, protocol=5)
