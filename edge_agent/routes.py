"""Which port gets a message: exact topics in a dict, wildcard filters in a list."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

Owner = TypeVar("Owner")

_SHARE: Final = "$share/"


class Routes(Generic[Owner]):
    """Owners by topic filter. Not thread-safe: the caller holds its own lock."""

    def __init__(self) -> None:
        self._exact: dict[str, list[Owner]] = {}
        self._wild: dict[str, list[Owner]] = {}

    def add(self, topic_filter: str, owner: Owner) -> None:
        """Route what matches the filter to the owner; adding twice changes nothing."""
        owners = self._table(topic_filter).setdefault(topic_filter, [])
        if owner not in owners:
            owners.append(owner)

    def remove(self, topic_filter: str, owner: Owner) -> bool:
        """Forget one route; True when nobody holds the filter any more."""
        table = self._table(topic_filter)
        owners = table.get(topic_filter, [])
        if owner in owners:
            owners.remove(owner)
        if not owners:
            table.pop(topic_filter, None)
        return not owners

    def clear(self) -> None:
        """Forget every route."""
        self._exact.clear()
        self._wild.clear()

    def owners(self, topic: str) -> list[Owner]:
        """Everyone with a filter that matches, each once, in the order of subscribing."""
        found = list(self._exact.get(topic, ()))
        for topic_filter, owners in self._wild.items():
            if matches(topic_filter, topic):
                found += [owner for owner in owners if owner not in found]
        return found

    def holders(self, topic_filter: str) -> list[Owner]:
        """Everyone who added exactly this filter."""
        return list(self._table(topic_filter).get(topic_filter, ()))

    def _table(self, topic_filter: str) -> dict[str, list[Owner]]:
        return self._exact if is_exact(topic_filter) else self._wild


def is_exact(topic_filter: str) -> bool:
    """Whether a filter names one topic."""
    return not (topic_filter.startswith(_SHARE) or "+" in topic_filter or "#" in topic_filter)


def is_topic(topic: str) -> bool:
    """Whether one may publish to it (MQTT 5, 4.7.3)."""
    return bool(topic) and not any(letter in topic for letter in "+#\0")


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a topic filter, shared or not, covers a topic (MQTT 5, 4.7 and 4.8.2)."""
    wanted = unshared(topic_filter).split("/")
    levels = topic.split("/")
    if topic.startswith("$") and wanted[0] in {"+", "#"}:
        return False
    if wanted[-1] == "#":
        wanted.pop()
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(
        want in {"+", level} for want, level in zip(wanted, levels, strict=True)
    )


def unshared(topic_filter: str) -> str:
    """The filter proper of ``$share/GROUP/FILTER``."""
    if not topic_filter.startswith(_SHARE):
        return topic_filter
    return topic_filter.removeprefix(_SHARE).partition("/")[2]
