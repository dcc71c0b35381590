"""Readings as JSON: an array with a value for each channel, or an object with a key for each.

A value that is not known is ``null``, a missing key, or one of the literals ``NaN`` and
``Infinity`` that are not JSON but that many programs print.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Sequence
from functools import cache
from struct import Struct
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError

Row = Sequence[float]
"""A value for each channel; NaN where there is none."""

_FLOAT_BYTES: Final = 4
NAME_CHARS_MAX: Final = 64
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARS_MAX)]
_NOT_FINITE: Final = re.compile(rb"-?\b(?:nan|inf(?:inity)?)\b", re.IGNORECASE)
_MANY: Final = re.compile(rb"\s*\[\s*[\[{]")


class RowDecoder:
    """Turns JSON into rows, and counts what it cannot use. One thread; ``faults`` from any.

    Args:
        channels: names, in the order of a row.

    Raises:
        ConfigError: a channel's name holds a quote, a backslash or a control character.

    Attributes:
        faults: ``torn``, not JSON; ``malformed``, JSON but not a reading of these channels.
    """

    def __init__(self, channels: Sequence[str]) -> None:
        self._width = len(channels)
        # A reading as it should be takes a fifth of the time of one that may lack values.
        self._whole = msgspec.json.Decoder[Any](list[float] | _by_key(channels, float))
        self._one = msgspec.json.Decoder[Any](list[float | None] | _by_key(channels))
        self._many = msgspec.json.Decoder(list[msgspec.Raw])
        self.faults = {"torn": 0, "malformed": 0}

    def rows(self, text: bytes) -> list[Row]:
        """The readings in an array of several, or the one reading that ``text`` is.

        A reading that cannot be used is counted and left out; the others stay.
        """
        items = self.items(text)
        if len(items) == 1:  # as most messages are
            row = self.row(items[0])
            return [] if row is None else [row]
        rows = [self.row(item) for item in items]
        return [row for row in rows if row is not None]

    def items(self, text: bytes) -> Sequence[bytes | msgspec.Raw]:
        """The texts of the readings in an array of several, or the one text that it is."""
        if text[:1] == b"{" or not _MANY.match(text):
            return (text,)
        return self._decode(self._many, text) or ()

    def row(self, text: bytes | msgspec.Raw) -> Row | None:
        """One reading, or None if it was counted as a fault."""
        try:
            found = self._whole.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._row_with_gaps(text)
        if not isinstance(found, list):
            return msgspec.structs.astuple(found)
        if len(found) == self._width:
            return found
        self.faults["malformed"] += 1
        return None

    def _row_with_gaps(self, text: bytes | msgspec.Raw) -> Row | None:
        """One reading that lacks values, or is none at all."""
        found = self._decode(self._one, text)
        if found is None:
            return None
        if isinstance(found, list):
            row, fits = found, len(found) == self._width
        else:  # an object with none of the channels is something else, not a reading
            values = msgspec.structs.astuple(found)
            row = [None if value is UNSET else value for value in values]
            fits = any(value is not UNSET for value in values)
        if fits:
            return [math.nan if value is None else value for value in row]
        self.faults["malformed"] += 1
        return None

    def _decode(self, decoder: msgspec.json.Decoder[Any], text: bytes | msgspec.Raw) -> Any:
        """The decoded value, or None if it was counted as a fault."""
        try:
            return decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            text = _NOT_FINITE.sub(b"null", text)  # looked for only when something is wrong
        try:
            return decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.faults["malformed" if _is_json(text) else "torn"] += 1
            return None


class Tag(NamedTuple):
    """What a reading says of itself.

    Attributes:
        sensor: its name, of 1 to 64 characters; empty where none is asked for.
        stamp: when it was taken, seconds since 1970; 0 where none is asked for.
    """

    sensor: str = ""
    stamp: float = 0.0


class TagDecoder:
    """Finds in a JSON object which sensor it is of, and when it was taken. Used by one thread.

    Args:
        sensor_key: whose value is the sensor's name, a string of 1 to 64 characters, if asked for.
        time_key: whose value is the time in seconds since 1970, if asked for.

    Raises:
        ConfigError: a key holds a quote, a backslash or a control character.
    """

    def __init__(self, sensor_key: str | None, time_key: str | None) -> None:
        asked = [("sensor", Name, sensor_key), ("stamp", float, time_key)]
        fields = [(name, kind) for name, kind, key in asked if key]
        names = {name: key for name, _, key in asked if key}
        try:
            self._decoder = msgspec.json.Decoder[Any](
                msgspec.defstruct("Tagged", fields, rename=names)
            )
        except ValueError as exc:
            keys = " and ".join(map(repr, names.values()))
            raise ConfigError(f"{keys} cannot be keys of a JSON object: {exc}") from exc
        self._fields = tuple(names)

    def tag(self, text: bytes | msgspec.Raw) -> Tag | None:
        """What the reading says of itself; None when it lacks what is asked for."""
        for mended in (False, True):
            try:
                found = self._decoder.decode(_NOT_FINITE.sub(b"null", text) if mended else text)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            return Tag(**{name: getattr(found, name) for name in self._fields})
        return None


def _is_json(text: bytes) -> bool:
    """Whether the whole text is JSON: a typed decoder stops at the first wrong value."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _by_key(channels: Sequence[str], value: Any = None) -> type[msgspec.Struct]:
    """The struct that takes the channels' keys out of an object and ignores all others.

    Args:
        channels: the keys.
        value: type of every value; by default a number, ``null`` or nothing.
    """
    fields = [f"channel_{number}" for number in range(len(channels))]
    gap = (float | None | UnsetType, UNSET)
    try:
        return msgspec.defstruct(
            "Reading",
            [(field, value) if value else (field, *gap) for field in fields],
            rename=dict(zip(fields, channels, strict=True)),
        )
    except ValueError as exc:
        raise ConfigError(f"a channel's name cannot be the key of a JSON object: {exc}") from exc


def move(waiting: deque[Row], out: F32) -> int:
    """Move as many waiting rows into ``out`` as fit, oldest first."""
    count, width = min(len(waiting), len(out)), out.shape[1]
    pack_into = _floats(width).pack_into
    target: Any = out  # a buffer, which its type does not say before Python 3.12
    for number in range(count):
        row = waiting.popleft()
        try:
            pack_into(target, number * width * _FLOAT_BYTES, *row)  # half of what numpy takes
        except OverflowError:
            with np.errstate(over="ignore"):  # infinite in float32, which counts as missing later
                out[number] = row
    return count


@cache
def _floats(width: int) -> Struct:
    """So many float32 side by side, as in a row of a block."""
    return Struct(f"{width}f")
