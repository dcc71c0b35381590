"""What the agent and the child that checks signed metadata say to each other, through pipes.

The child reads one :class:`Ask` as a line of JSON and writes lines of JSON: ``{"want": NAME}`` for
each file it needs, answered by eight bytes of length and the content (a length of all ones: there
is no such file), and last an :class:`Answer`.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from edge_agent.contract.messages import Desired

ABSENT: Final = (1 << 64) - 1
LENGTH: Final = struct.Struct(">Q")


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent wants to know.

    Attributes:
        folder: for the cache and the mark; made when absent.
        root: path of the root file that the device was provisioned with.
        device: id of the device.
        groups: that it belongs to.
        models: that it runs.
        seconds: of processor time.
        bytes_max: of private memory.
        now: seconds since 1970 by the device's clock.
    """

    folder: str
    root: str
    device: str
    groups: tuple[str, ...]
    models: tuple[str, ...]
    seconds: float
    bytes_max: int
    now: float


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What signed metadata say.

    Attributes:
        ok: they could be trusted.
        reason: why not, when not ok.
        later: the reason may pass by itself: something was missing, or has expired.
        desired: by model, what this device is to run; a model is left out when nothing is ordered.
        refused: by model, why what is ordered cannot be run.
    """

    ok: bool
    reason: str = ""
    later: bool = False
    desired: dict[str, Desired] = {}
    refused: dict[str, str] = {}
