"""What the store knows of one model, as values: what runs, ran before, is on its way, was refused.

Format 2 added the journal of the update that is under way; a pointer of format 1 has none. Format
3 added the state ``comparing`` and how far it has come.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from edge_agent import __version__
from edge_agent.contract.errors import StorageError
from edge_agent.contract.messages import Desired, UpdateState
from edge_agent.update.disk import storage
from edge_agent.update.experiment import Progress

FORMAT: Final = 3
"""Of the store. It stands in its FORMAT file and in every pointer."""

_REFUSED_MAX: Final = 16  # refusals that a pointer remembers, the newest


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle of the store.

    Attributes:
        sha256: digest of the bundle file.
        version: from its manifest.
        revision: of the desired state that asked for it; 0 when installed by hand on a new store.
    """

    sha256: str
    version: str
    revision: int


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that was asked for and not taken; fields as in :class:`Installed`.

    Attributes:
        agent: version that refused it. Another one may judge otherwise: it is asked again.
        trial: whether it had passed every check and failed while it ran.
    """

    sha256: str
    version: str
    revision: int
    reason: str
    agent: str = __version__
    trial: bool = False


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """An update under way, as it is on disk before anything acts on it.

    Attributes:
        desired: the bundle.
        state: that was entered last.
        tries: how often the agent has begun this state, restarts included.
        failed: digests of payloads that did not give the bundle.
        progress: of its comparison with the incumbent, once that has begun.
    """

    desired: Desired
    state: UpdateState
    tries: int = 1
    failed: tuple[str, ...] = ()
    progress: Progress | None = None


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """The pointer of one model; every change gives a new one.

    Attributes:
        current: what runs, but for the bundle in ``update`` while that one is on trial.
        previous: what ran before, to fall back to.
        update: what is on its way.
        refused: at most 16, newest last.
    """

    format: int = FORMAT
    model: str
    current: Installed | None = None
    previous: Installed | None = None
    update: Journal | None = None
    refused: tuple[Refusal, ...] = ()

    @property
    def revision(self) -> int:
        """The highest revision that was decided on; desired states up to it are history."""
        settled = [r.revision for r in self.refused if r.agent == __version__]
        return max([self.current.revision if self.current else 0, *settled])

    @property
    def digests(self) -> set[str]:
        """The bundles that it needs on disk."""
        bundles = (self.current, self.previous, self.update.desired if self.update else None)
        return {bundle.sha256 for bundle in bundles if bundle}

    def committed(self, installed: Installed) -> Pointer:
        """With a new current bundle and no update; what was current becomes the previous one."""
        same = self.current is not None and self.current.sha256 == installed.sha256
        return msgspec.structs.replace(
            self,
            current=installed,
            previous=self.previous if same else self.current,
            update=None,
            refused=tuple(r for r in self.refused if r.sha256 != installed.sha256),
        )

    def refusing(self, refusal: Refusal) -> Pointer:
        """With one more refusal, and without the update that it refuses."""
        others = [r for r in self.refused if r.sha256 != refusal.sha256]
        update = self.update
        if update and update.desired.sha256 == refusal.sha256:
            update = None
        refused = (*others, refusal)[-_REFUSED_MAX:]
        return msgspec.structs.replace(self, refused=refused, update=update)

    def has_failed(self, sha256: str) -> bool:
        """Whether this agent has taken a bundle back after a trial: it is not tried again."""
        return any(r.trial and r.sha256 == sha256 and r.agent == __version__ for r in self.refused)

    def fallen_back(self) -> Pointer:
        """With the previous bundle, or none, as the current one."""
        return msgspec.structs.replace(self, current=self.previous, previous=None)


class DamagedError(StorageError):
    """A pointer file that is gone or says nothing."""


class _Format(msgspec.Struct):
    format: int


def read_pointer(path: Path) -> Pointer | None:
    """Read a pointer file; None when there is none.

    Raises:
        DamagedError: it says nothing.
        StorageError: it cannot be read, or it has a newer format.
    """
    try:
        with storage(path):
            data = path.read_bytes()
    except StorageError as exc:
        if isinstance(exc.__cause__, FileNotFoundError):
            return None
        raise
    try:
        require_known(path, msgspec.json.decode(data, type=_Format).format)
        return msgspec.structs.replace(msgspec.json.decode(data, type=Pointer), format=FORMAT)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise DamagedError(f"{path}: the pointer is damaged ({exc})") from exc


def require_known(path: Path, number: int) -> None:
    """Refuse a newer format.

    Raises:
        StorageError: ``number`` is above :data:`FORMAT`.
    """
    if number > FORMAT:
        raise StorageError(
            f"{path}: the store has format {number}, this agent knows {FORMAT}: "
            "update the agent, or give it another data_dir"
        )
