"""The topics that say which bundle is wanted, and when to ask for each again.

A granted subscription proves nothing: a broker may answer the first exact subscription after its
restart with silence. So a topic is asked for again until it has answered, ever more rarely,
since most devices are asked nothing on most of their topics.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edge_agent.contract.errors import BundleError, LinkError
from edge_agent.contract.messages import Desired, decode

_NS: Final = 1_000_000_000
_PAUSES_S: Final = (10.0, 30.0, 300.0)  # after the second, third and every further subscription


class Wanted:
    """The desired topics of one device. One thread.

    Args:
        topics: topic -> model.
        answer_s: seconds after the first subscription at which the second is made.
    """

    def __init__(self, topics: Mapping[str, str], *, answer_s: float) -> None:
        self._topics = topics
        self._pauses_s = (answer_s, *_PAUSES_S)
        self._due: dict[str, tuple[int, int]] = {}  # topic -> (when, subscriptions so far)

    def connected(self) -> None:
        """Nothing is subscribed on a new connection: ask for everything."""
        self._due = dict.fromkeys(self._topics, (0, 0))

    def due(self, now_ns: int) -> list[str]:
        """The topics to subscribe, for the first time or again, at this moment."""
        topics = [topic for topic, (when, _) in self._due.items() if when <= now_ns]
        for topic in topics:
            count = self._due[topic][1]
            pause_s = self._pauses_s[min(count, len(self._pauses_s) - 1)]
            self._due[topic] = (now_ns + round(pause_s * _NS), count + 1)
        return topics

    def model(self, topic: str) -> str | None:
        """The model that a topic speaks of; None for a topic of something else."""
        return self._topics.get(topic)

    def read(self, topic: str, payload: bytes) -> Desired | None:
        """Take the answer of one of the topics; None when it says that nothing is wanted.

        Raises:
            BundleError: it is malformed; the message says how.
        """
        self._due.pop(topic, None)
        if not payload:  # how a retained message is taken away
            return None
        model = self._topics[topic]
        try:
            desired = decode(payload, Desired)
        except LinkError as exc:
            raise BundleError(f"{exc}: publish the bundle again") from exc
        if fault := desired.fault:
            raise BundleError(f"{fault}: publish the bundle again")
        if desired.model != model:
            raise BundleError(f"{topic} speaks of the model {desired.model}: publish it again")
        return desired
