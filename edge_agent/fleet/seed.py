"""Puts blobs on the broker, and makes sure that they are there.

An acknowledged publish proves nothing about what a broker keeps, so every blob is read back by
its exact topic, and what is not there is published again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from edge_agent.contract.errors import LinkError
from edge_agent.contract.messages import encode
from edge_agent.contract.requests import TrustIndex
from edge_agent.contract.topics import Topics
from edge_agent.fleet.session import FILTERS_MAX, Session

_FIRST_S: Final = 1.0  # an answer that comes later only costs an upload
_GROUP: Final = 64  # blobs between two steps of the progress
_ROUNDS: Final = 5

Progress = Callable[[int, int], None]
"""Called with (blobs known to be on the broker, blobs in all)."""


class Seeded(msgspec.Struct, frozen=True):
    """How the blobs came onto the broker.

    Attributes:
        held: blobs that the broker had already.
        uploaded: blobs that it had not.
        repeated: publishes that had to be repeated, because nothing could be read back.
    """

    held: int
    uploaded: int
    repeated: int


def seed(
    session: Session,
    topics: Topics,
    named: dict[str, bytes],
    *,
    answer_s: float,
    progress: Progress,
) -> Seeded:
    """Make the broker hold every blob. May be called again at any time.

    Args:
        session: connected.
        topics: names of the topics.
        named: the blobs, by digest.
        answer_s: how long the broker may take to answer for a window of blobs.
        progress: for people who wait.

    Raises:
        ConnectionLostError: connect and call again.
        LinkError: the broker refuses blobs, or acknowledges and does not keep them.
    """
    blobs = {topics.blob(digest): data for digest, data in named.items()}
    held = _held(session, blobs, min(_FIRST_S, answer_s))
    todo = [topic for topic in blobs if topic not in held]
    done, repeated = len(held), 0
    progress(done, len(blobs))
    for at in range(0, len(todo), _GROUP):
        group = {topic: blobs[topic] for topic in todo[at : at + _GROUP]}
        repeated += _put(session, group, answer_s)
        done += len(group)
        progress(done, len(blobs))
    return Seeded(held=len(held), uploaded=len(todo), repeated=repeated)


def put_index(session: Session, topics: Topics, index: TrustIndex, answer_s: float) -> None:
    """Put the index of the signed metadata on the broker, last of all, and read it back.

    Raises:
        ConnectionLostError: connect and call again.
        LinkError: the broker refuses it, or does not keep it.
    """
    topic, payload = topics.trust_index(), encode(index)
    for _ in range(_ROUNDS):
        session.publish([(topic, payload)], retain=True)
        if session.ask([topic], answer_s).get(topic) == payload:
            return
    raise LinkError(
        f"the broker acknowledges {topic} and does not keep it: check its access rules and its "
        "limit on retained messages"
    )


def _held(session: Session, blobs: dict[str, bytes], answer_s: float) -> set[str]:
    """What the broker holds already, up to the first window of which it holds nothing.

    Blobs are uploaded in order, so after that window there is hardly anything to save.
    """
    held: set[str] = set()
    order = list(blobs)
    for at in range(0, len(order), FILTERS_MAX):
        window = order[at : at + FILTERS_MAX]
        found = _intact(session, {topic: blobs[topic] for topic in window}, answer_s)
        if not found:
            break
        held |= found
    return held


def _put(session: Session, blobs: dict[str, bytes], answer_s: float) -> int:
    """Publish blobs until all can be read back; how many publishes had to be repeated."""
    missing = dict(blobs)
    sent = 0
    for _ in range(_ROUNDS):
        session.publish(missing.items(), retain=True)
        sent += len(missing)
        found = _intact(session, missing, answer_s)
        missing = {topic: data for topic, data in missing.items() if topic not in found}
        if not missing:
            return sent - len(blobs)
    raise LinkError(
        f"the broker acknowledges blobs of {max(map(len, missing.values()))} bytes and does not "
        f"keep them ({len(missing)} missing after {_ROUNDS} attempts): check its limits on "
        "message size and retained messages, and its access rules"
    )


def _intact(session: Session, blobs: dict[str, bytes], answer_s: float) -> set[str]:
    """Those of the blobs that the broker gives back as they should be."""
    answers = session.ask(list(blobs), answer_s)
    return {topic for topic, data in answers.items() if data == blobs[topic]}
