"""A folder with the files of a repository: a USB stick, or a mounted share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edge_agent.link import Event
from edge_agent.update.ways.base import Answer, Want

_LOOK_S: Final = 5.0  # between two looks whether something has changed


class FolderWay:
    """See :class:`.base.Way`. Reads at once: a local file is no wait.

    Args:
        path: of the folder, as ``edge-fleet export`` writes it; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._answers: list[Answer] = []
        self._stamp: int | None = None
        self._looked_s = 0.0

    @property
    def ready(self) -> bool:
        """Whether the folder is there."""
        return (self._path / "trust").is_dir()

    def ask(self, wants: Sequence[Want]) -> None:
        """Read what is wanted."""
        self._answers += [Answer(want, self._read(want)) for want in wants]

    def drop(self, wants: Sequence[Want]) -> None:
        """Nothing is on its way."""

    def take(self, event: Event) -> bool:
        """It knows no link."""
        del event
        return False

    def answers(self) -> list[Answer]:
        """What was read."""
        answers, self._answers = self._answers, []
        return answers

    def news(self) -> bool:
        """Whether the timestamp in the folder is another one, or the folder has come back."""
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_S:
            return False
        self._looked_s = now_s
        try:
            stamp = (self._path / "trust" / "timestamp.json").stat().st_mtime_ns
        except OSError:  # the stick is out, or being changed: looked at again
            stamp = None
        changed = stamp is not None and stamp != self._stamp
        self._stamp = stamp
        return changed

    def close(self) -> None:
        """Nothing is held."""

    def _read(self, want: Want) -> bytes | None:
        """One byte more than may be there, so that whoever checks sees it."""
        try:
            with (self._path / want.name).open("rb") as file:
                return file.read(want.bytes + 1)
        except OSError:  # absent or unreadable is one: asked for again later
            return None
