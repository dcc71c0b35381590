"""What a power cut may leave on a disk: every state, from a log of what was done to it.

The log is cut after every operation, and of what was not synced then every combination is built:

- *Content.* Each write to a file that was not synced may be there, be absent (the old content, or
  nothing), be torn (its first half), or have reserved its place and left zeros; each by itself. A
  change of size is there or not. ``sync`` of the file makes all of it durable.
- *Names.* Each name that was made, moved or removed may be so or not, each by itself. A rename is
  either done or not; it may be there before the content of the file that it names. ``sync`` of the
  folder makes its names durable; of a move between two folders each side by itself.
- What is durable stays. A file whose folder did not survive is gone with it.

States that look the same to whoever reads them are one: where many files are torn at once, a
scenario says which contents nobody can tell apart (``same``), and why. Nothing is sampled.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edge_agent.update.disk import Disk, DiskFile

Operation = tuple[Any, ...]
"""The kind of an operation, the path, and more."""

Change = tuple[str, int, bytes]
"""A change of a file: ``write`` at an offset, or ``size``."""

FOLDER: Final = "folder"


@dataclass(frozen=True)
class Link:
    """A symbolic link; it is made whole."""

    to: str


Seen = bytes | str | Link
"""What a name leads to: a file's content, :data:`FOLDER` or a link."""

State = dict[Path, Seen]
"""A file tree."""

Left = Callable[[Path, "File"], Iterable[bytes]]
"""The contents that may be left of a file; by default every combination, see :meth:`File.all`."""

Same = Callable[[Path, bytes], object]
"""What of a content can be told apart; :data:`UNREAD` for a file that nobody reads."""

UNREAD: Final = "unread"


# --- writing down ---------------------------------------------------------------------------------


class RecordingFile(DiskFile):
    def __init__(self, path: Path, flags: int, log: list[Operation]) -> None:
        is_new = not path.exists()
        super().__init__(path, flags)
        self._log = log
        if is_new or flags & os.O_TRUNC:
            log.append(("create", path))

    def write(self, offset: int, data: bytes) -> None:
        super().write(offset, data)
        self._log.append(("write", self._path, offset, bytes(data)))

    def reserve(self, size: int) -> None:
        super().reserve(size)
        self._log.append(("size", self._path, size))

    def sync(self) -> None:
        super().sync()
        self._log.append(("sync", self._path))


class RecordingDisk(Disk):
    """Does what is asked and writes it down."""

    def __init__(self, log: list[Operation] | None = None) -> None:
        self.log: list[Operation] = [] if log is None else log

    def create(self, path: Path) -> DiskFile:
        return RecordingFile(path, os.O_CREAT | os.O_TRUNC, self.log)

    def open(self, path: Path) -> DiskFile:
        return RecordingFile(path, os.O_CREAT, self.log)

    def sync(self, path: Path) -> None:
        super().sync(path)
        self.log.append(("sync", path))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.log.append(("rename", source, target))

    def remove(self, path: Path) -> None:
        there = path.exists()
        super().remove(path)
        if there:
            self.log.append(("remove", path))

    def make_folder(self, path: Path) -> None:
        there = path.exists()
        super().make_folder(path)
        if not there:
            self.log.append(("folder", path))

    def remove_folder(self, path: Path) -> None:
        super().remove_folder(path)
        self.log.append(("remove", path))


_watched: list[tuple[Path, list[Operation]]] = []


def _on_audit(event: str, arguments: tuple[Any, ...]) -> None:
    for folder, log in _watched:
        if event == "os.rename" and folder in Path(arguments[1]).parents:
            source, target = map(Path, arguments[:2])
            log.append(("place", target, source.read_bytes()))
        elif event == "os.symlink" and folder in Path(arguments[1]).parents:
            log.append(("link", Path(arguments[1]), str(arguments[0])))
        elif event == "os.remove" and folder in Path(arguments[0]).parents:
            if os.path.lexists(arguments[0]):
                log.append(("remove", Path(arguments[0])))
        elif (
            event == "os.mkdir"
            and folder in Path(arguments[0]).parents
            and not Path(arguments[0]).exists()
        ):
            log.append(("folder", Path(arguments[0])))


@contextmanager
def watched(folder: Path, log: list[Operation]) -> Iterator[None]:
    """Write down what a library does below a folder, by Python's audit events.

    It must write files under names that nobody reads and move them to their place.
    """
    if _on_audit not in _hooks:
        sys.addaudithook(_on_audit)  # for the life of the process
        _hooks.append(_on_audit)
    _watched.append((folder, log))
    try:
        yield
    finally:
        _watched.pop()


_hooks: list[object] = []


# --- building what may be left --------------------------------------------------------------------


@dataclass(eq=False)
class File:
    """The content of a file: what is durable, and what was done since."""

    durable: bytes = b""
    since: list[Change] = field(default_factory=list)

    def synced(self) -> None:
        for change in self.since:
            self.durable = _changed(self.durable, change)
        self.since = []

    def all(self) -> Iterator[bytes]:
        """Every combination of what may have become of each change."""
        return map(self.after, itertools.product(*map(fates, self.since)))

    def after(self, changes: Iterable[Change | None]) -> bytes:
        """What is durable with these changes."""
        content = self.durable
        for change in filter(None, changes):
            content = _changed(content, change)
        return content


def fates(change: Change) -> list[Change | None]:
    """What may become of a change: it is there, absent, torn, or zeros."""
    kind, at, data = change
    if kind == "size":
        return [change, None]
    return [change, None, (kind, at, data[: len(data) // 2]), (kind, at, bytes(len(data)))]


def _changed(content: bytes, change: Change) -> bytes:
    kind, at, data = change
    if kind == "size":
        return content[:at].ljust(at, b"\0")
    return content[:at].ljust(at, b"\0") + data + content[at + len(data) :]


Thing = File | Link | str | None
Effect = tuple[Path, Thing]


class Model:
    """A disk: what its names lead to, what of that is durable, and what is not yet.

    Args:
        before: a tree that is durable; its topmost folder cannot be lost.
    """

    def __init__(self, before: Mapping[Path, Seen]) -> None:
        self._durable: dict[Path, Thing] = {
            path: File(seen) if isinstance(seen, bytes) else seen for path, seen in before.items()
        }
        self._live = dict(self._durable)
        self._top = min(before)
        self._since: list[list[Effect]] = []  # changes of names

    def do(self, operation: Operation) -> None:
        """Take over one operation of the log."""
        kind, path, *rest = operation
        match kind:
            case "create":
                if isinstance(there := self._live.get(path), File):
                    there.since.append(("size", 0, b""))
                else:
                    self._name((path, File()))
            case "write" | "size":
                file = self._live[path]
                assert isinstance(file, File)
                data = rest[1] if kind == "write" else b""
                file.since.append((kind, rest[0], data))
            case "place":
                self._name((path, File(b"", [("write", 0, rest[0])])))
            case "link":
                self._name((path, Link(rest[0])))
            case "folder":
                self._name((path, FOLDER))
            case "remove":
                self._name((path, None))
            case "rename":
                self._name((path, None), (rest[0], self._live[path]))
            case "sync":
                self._sync(path)

    def states(self, same: Same, left: Left) -> Iterator[State]:
        """Everything that a power cut now may leave."""
        seen = set()
        for done in itertools.product((True, False), repeat=len(self._since)):
            names = dict(self._durable)
            for effects in itertools.compress(self._since, done):
                names.update(effects)
            there = {path: thing for path, thing in names.items() if self._reachable(path, names)}
            if (look := frozenset(there.items())) in seen:
                continue
            seen.add(look)
            choices = [
                list({same(path, content): content for content in left(path, thing)}.values())
                if isinstance(thing, File)
                else [thing]
                for path, thing in there.items()
            ]
            for contents in itertools.product(*choices):
                yield dict(zip(there, contents, strict=True))

    def _reachable(self, path: Path, names: Mapping[Path, Thing]) -> bool:
        """Whether a name is there, and all the folders above it."""
        if names[path] is None:
            return False
        above = (folder for folder in path.parents if folder.is_relative_to(self._top))
        return all(names.get(folder) == FOLDER for folder in above)

    def _name(self, *effects: Effect) -> None:
        self._since.append(list(effects))
        self._live.update(effects)

    def _sync(self, path: Path) -> None:
        if isinstance(file := self._live.get(path), File):
            file.synced()
            return
        for effects in self._since:
            here = [effect for effect in effects if effect[0].parent == path]
            self._durable.update(here)
            effects[:] = [effect for effect in effects if effect not in here]
        self._since = [effects for effects in self._since if effects]


def exactly(path: Path, content: bytes) -> object:
    """Every content is told apart."""
    return content


def everything(_: Path, file: File) -> Iterator[bytes]:
    """Every combination of what was not synced."""
    return file.all()


def power_cuts(
    before: Mapping[Path, Seen],
    log: list[Operation],
    *,
    same: Same = exactly,
    left: Left = everything,
) -> Iterator[tuple[Any, State]]:
    """Every state that a power cut may leave, once, with what had been promised until then.

    Args:
        before: the tree in the beginning, durable.
        log: what was done; ``("promise", value)`` stands where something was acknowledged.
        same: which contents cannot be told apart.
        left: the contents that may be left of a file.
    """
    model, promise = Model(before), None
    seen: set[object] = set()
    for operation in (("start", None), *log):
        if operation[0] == "promise":
            promise = operation[1]
        else:
            model.do(operation)
        if operation[0] == "sync":
            continue  # what may be left after it might have been left before it
        for state in model.states(same, left):
            look = (
                (path, same(path, thing) if isinstance(thing, bytes) else thing)
                for path, thing in state.items()
            )
            key = promise, frozenset(part for part in look if part[1] is not UNREAD)
            if key not in seen:
                seen.add(key)
                yield promise, state


def tree(folder: Path) -> State:
    """A folder and everything below it."""
    found: State = {folder: FOLDER}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[path] = Link(str(path.readlink()))
        else:
            found[path] = FOLDER if path.is_dir() else path.read_bytes()
    return found


def put(state: State, folder: Path, place: Path) -> Path:
    """Build what was left of ``folder`` at ``place``, which is emptied first."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for path in sorted(state):
        thing, target = state[path], place / path.relative_to(folder)
        if isinstance(thing, bytes):
            target.write_bytes(thing)
        elif isinstance(thing, Link):
            target.symlink_to(thing.to)
        else:
            target.mkdir(exist_ok=True)
    return place
