"""How much memory this process may still take, and what of its own it can do without."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

_MEMINFO: Final = "proc/meminfo"
_GROUPS: Final = "proc/self/cgroup"
_MOUNTS: Final = "proc/self/mountinfo"
_MAPS: Final = "/proc/self/maps"
_KIB: Final = 1024
_MADV_DONTNEED: Final = 4  # linux/mman-common.h


class _Version(NamedTuple):
    """The files of one version of control groups.

    Attributes:
        limits: upper bounds, in bytes.
        usage: bytes in use, pages of files included.
        idle: in ``memory.stat``, bytes of files that nobody has used lately.
    """

    limits: tuple[str, ...]
    usage: str
    idle: str


_V1: Final = _Version(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
_V2: Final = _Version(("memory.max", "memory.high"), "memory.current", "inactive_file")


def free_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that can be allocated before the kernel takes them back by force; None if unknown.

    The least of what ``/proc/meminfo`` calls available and what the limits of this process's
    control groups, of version 1 or 2 or both, leave. Pages of files that nobody has used lately
    count as free in both: the kernel drops them first, and a group that writes files fills up
    with them.

    Args:
        root: for tests, of a tree like that of the machine.
    """
    found = [_available(root / _MEMINFO), *_group_room(root)]
    known = [value for value in found if value is not None]
    return max(0, min(known)) if known else None


def release_code() -> int:
    """Let go of the pages of program code that are mapped; those in use come back at once.

    Starting, and loading a model, run through 20 MiB of libraries, mostly onnxruntime's, of which
    deciding needs a fraction. The pages stay in the kernel's cache, as the first that it drops
    when memory is short. Code alone is let go: nobody writes to it, so the file has all of it.

    Returns:
        Bytes of the mappings, resident or not; 0 where there is no ``/proc``.
    """
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    released = 0
    for line in _text(Path(_MAPS)).splitlines():
        span, rights, _, _, _, *path = line.split(maxsplit=5)
        if rights == "r-xp" and path and path[0].startswith("/"):
            start, end = (int(address, 16) for address in span.split("-"))
            if madvise(start, end - start, _MADV_DONTNEED) == 0:
                released += end - start
    return released


def _available(path: Path) -> int | None:
    return next((size * _KIB for size in _numbers(path, "MemAvailable:")), None)


def _group_room(root: Path) -> Iterator[int | None]:
    """What each group on the way from this process's own to the root leaves."""
    own = dict(_own_groups(root))
    for line in _text(root / _MOUNTS).splitlines():
        # 31 23 0:28 ROOT POINT OPTIONS [...] - TYPE DEVICE SUPER_OPTIONS, see proc(5)
        mount, _, kind = line.partition(" - ")
        top, point = mount.split()[3:5]
        name, _, options = kind.split(" ", 2)
        if name == "cgroup2":
            version, group = _V2, own.get("")
        elif name == "cgroup" and "memory" in options.split(","):
            version, group = _V1, own.get("memory")
        else:
            continue
        base = root / point.lstrip("/")
        for folder in _upwards(group, top) if group else ():
            yield _room(base / folder, version)


def _own_groups(root: Path) -> Iterator[tuple[str, str]]:
    """(controller, path) of the groups that this process is in; "" is version 2."""
    for line in _text(root / _GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        yield from ((controller, path) for controller in controllers.split(","))


def _upwards(group: str, top: str) -> Iterator[PurePosixPath]:
    """A group and those above it, below the folder that is mounted, which shows ``top``.

    In a container the path may be that of the host: then the mounted folder is the group.
    """
    path = PurePosixPath(group)
    below = path.relative_to(top) if path.is_relative_to(top) else PurePosixPath()
    yield from (below, *below.parents) if ".." not in below.parts else (PurePosixPath(),)


def _room(folder: Path, version: _Version) -> int | None:
    bounds = [_text(folder / name).strip() for name in version.limits]
    used = _text(folder / version.usage).strip()
    limits = [int(bound) for bound in bounds if bound.isdigit()]  # not "max"
    if not limits or not used.isdigit():
        return None
    idle = sum(_numbers(folder / "memory.stat", version.idle))
    return min(limits) - max(0, int(used) - idle)


def _numbers(path: Path, name: str) -> Iterator[int]:
    """The numbers behind a name in a file of such lines: one, or none."""
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name and words[1].isdigit():
            yield int(words[1])


def _text(path: Path) -> str:
    """The content of a file that not every machine has."""
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""
