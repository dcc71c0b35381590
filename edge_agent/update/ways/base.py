"""What the updater needs of a way to get bytes. A way checks nothing: whoever asks does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from edge_agent.link import Event


class Blob(msgspec.Struct, frozen=True):
    """A blob to get, by its digest.

    Attributes:
        sha256: of the blob.
        payload: digest of the payload that it is a chunk of; empty for an index blob.
        offset: where in the payload it begins.
        bytes: its size, at most 48 KiB.
    """

    sha256: str
    payload: str
    offset: int
    bytes: int

    @property
    def name(self) -> str:
        """Its path below a repository, and its topic below the prefix."""
        return f"blob/{self.sha256}"


class File(msgspec.Struct, frozen=True):
    """A file of the signed metadata to get, such as ``3.root.json``.

    Attributes:
        file: its name.
        bytes: at most so many.
    """

    file: str
    bytes: int

    @property
    def name(self) -> str:
        """Its path below a repository."""
        return f"trust/{self.file}"


Want = Blob | File


class Answer(msgspec.Struct, frozen=True):
    """What came of a want.

    Attributes:
        data: unchecked; None when the way is sure that there is no such thing now.
    """

    want: Want
    data: bytes | None


class Way(Protocol):
    """One way to the operator's bytes. Used by one thread; no call waits.

    A want that is neither answered nor dropped stays asked; an answer may come more than once.
    """

    @property
    def ready(self) -> bool:
        """Whether it makes sense to ask now."""
        ...

    def ask(self, wants: Sequence[Want]) -> None:
        """Ask for these; asking again for what is asked already asks the other side again."""
        ...

    def drop(self, wants: Sequence[Want]) -> None:
        """Nobody waits for these any more."""
        ...

    def take(self, event: Event) -> bool:
        """Look at an event of the link; whether it was a message for this way."""
        ...

    def answers(self) -> list[Answer]:
        """What has come since the last call."""
        ...

    def news(self) -> bool:
        """Whether there may be new metadata, as far as this way can tell, since the last call."""
        ...

    def close(self) -> None:
        """Let everything go. May be called twice."""
        ...
