"""Who may read and write what on the broker; ``device_configs/mosquitto.acl`` says the same.

A device is its user name, or the common name of its certificate. The operators are known by theirs.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from edge_agent.contract.topics import Topics

Operator = Literal["publisher", "collector", "viewer"]
OPERATORS: Final[tuple[Operator, ...]] = ("publisher", "collector", "viewer")
BROKER: Final = "broker"
"""Has a certificate to be known by, and is nobody's client."""

_ANY: Final = "+"


class Rights(NamedTuple):
    """Topic filters that a user may publish to and subscribe to."""

    write: tuple[str, ...]
    read: tuple[str, ...]


def rights_of(user: str, topics: Topics) -> Rights:
    """What a user may do: one of the operators by name, or else the device of that id."""
    match user:
        case "publisher":
            return _publisher(topics)
        case "collector":
            return Rights(
                write=(topics.ack(_ANY), f"{topics.prefix}/probe/+"),
                read=(
                    topics.records(_ANY, "+"),
                    topics.status(_ANY),
                    f"{topics.prefix}/probe/+",
                ),
            )
        case "viewer":
            return Rights(
                write=(),
                read=(
                    topics.records(_ANY, "+"),
                    topics.status(_ANY),
                    topics.bench(_ANY, _ANY),
                ),
            )
    return _device(user, topics)


def _device(device: str, topics: Topics) -> Rights:
    return Rights(
        write=(
            topics.status(device),
            topics.records(device, "live"),
            topics.records(device, "backlog"),
            topics.request(device),
            topics.bench(device, _ANY),
        ),
        read=(
            topics.status(device),  # a clone of this device shows itself there
            topics.ack(device),
            topics.response(device),
            topics.truth(device),
            topics.desired_for_device(device, _ANY),
            topics.desired_for_group(_ANY, _ANY),
            topics.blob(_ANY),
            topics.trust_index(),
        ),
    )


def _publisher(topics: Topics) -> Rights:
    out = (
        topics.desired_for_device(_ANY, _ANY),
        topics.desired_for_group(_ANY, _ANY),
        topics.blob(_ANY),
        topics.trust_index(),
    )
    return Rights(
        write=(*out, topics.response(_ANY), topics.truth(_ANY)),
        read=(*out, topics.status(_ANY), topics.records(_ANY, "+"), topics.request(_ANY)),
    )
