"""Several ways as one: what one does not answer, the next one is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.link import Event
from edge_agent.update.ways.base import Answer, Want, Way


class SeveralWays:
    """See :class:`.base.Way`.

    Args:
        ways: in the order in which they are tried, at least one.
    """

    def __init__(self, ways: Sequence[Way]) -> None:
        self._ways = tuple(ways)
        self._asked: dict[str, int] = {}  # name -> number of the way that was asked last
        self._absent: dict[str, set[int]] = {}  # name -> ways that are sure to have none
        self._answers: list[Answer] = []

    @property
    def ready(self) -> bool:
        """Whether any of them is."""
        return any(way.ready for way in self._ways)

    def ask(self, wants: Sequence[Want]) -> None:
        """Ask the first way that is ready, and for what is asked again the next one."""
        shares: dict[int, list[Want]] = {}
        for want in wants:
            number = self._next(self._asked.get(want.name, -1))
            if number is not None:
                self._asked[want.name] = number
                shares.setdefault(number, []).append(want)
        for number, share in shares.items():
            self._ways[number].ask(share)

    def drop(self, wants: Sequence[Want]) -> None:
        """Nobody waits for these any more."""
        for want in wants:
            self._asked.pop(want.name, None)
            self._absent.pop(want.name, None)
        for way in self._ways:
            way.drop(wants)

    def take(self, event: Event) -> bool:
        """Show the event to each."""
        return sum(way.take(event) for way in self._ways) > 0  # not any(): all must see it

    def answers(self) -> list[Answer]:
        """What has come; an absence counts when every way that is ready has said so."""
        found: list[Answer] = []
        for number, way in enumerate(self._ways):
            for answer in way.answers():
                name = answer.want.name
                if answer.data is None and self._ask_another(number, answer.want):
                    continue
                self._asked.pop(name, None)
                self._absent.pop(name, None)
                found.append(answer)
        return found

    def news(self) -> bool:
        """Whether any of them has some."""
        return sum(way.news() for way in self._ways) > 0  # not any(): all must be asked

    def close(self) -> None:
        """Close each."""
        for way in self._ways:
            way.close()

    def _next(self, number: int) -> int | None:
        """The way after one, of those that are ready, round and round."""
        count = len(self._ways)
        order = ((number + 1 + step) % count for step in range(count))
        return next((at for at in order if self._ways[at].ready), None)

    def _ask_another(self, number: int, want: Want) -> bool:
        absent = self._absent.setdefault(want.name, set())
        absent.add(number)
        ready = (at for at, way in enumerate(self._ways) if way.ready and at not in absent)
        if (other := next(ready, None)) is None:
            return False
        self._asked[want.name] = other
        self._ways[other].ask([want])
        return True
