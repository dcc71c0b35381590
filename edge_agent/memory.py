"""How much memory this process may still take: of the machine, and of its control group."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_MEMINFO: Final = Path("/proc/meminfo")
_GROUPS: Final = Path("/proc/self/cgroup")
_V2: Final = Path("/sys/fs/cgroup")
_V1: Final = Path("/sys/fs/cgroup/memory")
_KIB: Final = 1024


def free_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that can be allocated before the kernel takes them back by force; None if unknown.

    The least of what ``/proc/meminfo`` calls available and what the limits of this process's
    control groups, of version 1 or 2, leave. Pages of files are counted as used there, although
    the kernel would give them back: the answer is on the safe side.

    Args:
        root: for tests, of a tree like that of the machine.
    """
    found = [_available(_below(root, _MEMINFO)), *_group_room(root)]
    known = [value for value in found if value is not None]
    return max(0, min(known)) if known else None


def _available(path: Path) -> int | None:
    for line in _text(path).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * _KIB
    return None


def _group_room(root: Path) -> list[int | None]:
    """What each group on the way from this process's own to the root leaves."""
    rooms: list[int | None] = []
    for line in _text(_below(root, _GROUPS)).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, usage = _V2, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, usage = _V1, "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        base = _below(root, base)
        group = base / path.strip("/")
        for folder in (group, *group.parents):
            rooms.append(_room(folder, limit, usage))
            if folder == base:
                break
    return rooms


def _room(folder: Path, limit: str, usage: str) -> int | None:
    bound, used = _text(folder / limit).strip(), _text(folder / usage).strip()
    return int(bound) - int(used) if bound.isdigit() and used.isdigit() else None


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _text(path: Path) -> str:
    """The content of a file that not every machine has."""
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""
