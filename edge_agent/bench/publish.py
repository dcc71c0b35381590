"""A result on its way to the broker, retained, by a connection of its own."""

from __future__ import annotations

import secrets
import time
from typing import Final

import msgspec

from edge_agent.config import BrokerConfig
from edge_agent.contract.bench import BenchResult
from edge_agent.contract.errors import LinkError
from edge_agent.contract.messages import encode
from edge_agent.contract.topics import CHUNK_BYTES, Topics
from edge_agent.link import Down, Link, Published, Refused, Up, take_events
from edge_agent.mqtt import MqttLink

_EVENTS_N: Final = 10
_TURN_S: Final = 0.1
_TOKEN: Final = 1


def payload_of(result: BenchResult, device: str) -> bytes:
    """The message.

    Raises:
        LinkError: it is larger than what every broker keeps.
    """
    payload = encode(msgspec.structs.replace(result, device=device))
    if len(payload) > CHUNK_BYTES:
        raise LinkError(
            f"the result has {len(payload)} bytes, {CHUNK_BYTES} can be published: "
            "measure fewer configurations by --threads and --provider"
        )
    return payload


def publish(broker: BrokerConfig, device: str, result: BenchResult, *, seconds: float) -> str:
    """Publish a result as this device's, in place of an earlier one of the same model.

    Args:
        broker: of the device's configuration.
        device: its id.
        result: to be published.
        seconds: how long the broker may take.

    Returns:
        The topic.

    Raises:
        ConfigError: the broker's address, password or TLS files cannot be used.
        LinkError: the broker cannot be reached or refuses it.
    """
    topic = Topics(broker.prefix).bench(device, result.model)
    payload = payload_of(result, device)
    link = MqttLink(broker, client_id=f"{device}-bench-{secrets.token_hex(4)}")
    try:
        _send(link, topic, payload, seconds)
    finally:
        link.stop()
    return topic


def _send(link: Link, topic: str, payload: bytes, seconds: float) -> None:
    """Connect, and publish until it is acknowledged; again after a lost connection."""
    port = link.port("bench")
    link.start()
    deadline, reason = time.monotonic() + seconds, "no answer"
    while time.monotonic() < deadline:
        for event in take_events(port.events, n_max=_EVENTS_N, wait_s=_TURN_S):
            match event:
                case Up():
                    port.publish(_TOKEN, topic, payload, retain=True)
                case Published():
                    return
                case Refused(_, refused):
                    raise LinkError(
                        f"the broker refuses {topic}: {refused}: check its access rules"
                    )
                case Down(down):
                    reason = down
                case _:
                    pass
    raise LinkError(
        f"not published within {seconds:g} s: {reason} (see broker in the configuration)"
    )
