"""The agent's side of a trust check: starts the child, hands it the files that it asks for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.update.trust.protocol import ABSENT, LENGTH, Answer, Ask
from edge_agent.update.ways.base import File

METADATA_BYTES_MAX: Final = 5_000_000
"""Largest file of metadata: what python-tuf allows for one."""

_FILES_MAX: Final = 600  # more than a root chain of 256 and every delegation
_BYTES_MAX: Final = 32 * 1024 * 1024  # of all files of one check
_LINE_BYTES_MAX: Final = 16 * 1024 * 1024
_CHILD: Final = "edge_agent.update.trust.child"
_MEMORY_BYTES: Final = 256 * 1024 * 1024


class TrustCheck:
    """A child at work; ``poll`` until it gives the result, and ``give`` what is ``wanted``.

    One thread; no call waits, but for the child's start.

    Args:
        folder: of this device's trust, on the disk.
        root: the root file that the device was provisioned with.
        device: id of the device.
        groups: that it belongs to.
        models: that it runs.
        seconds: longest time in all, downloads included.
        now: seconds since 1970 by the device's clock.

    Attributes:
        wanted: the file that the child waits for; None while it works.
    """

    def __init__(
        self,
        folder: Path,
        *,
        root: Path,
        device: str,
        groups: Sequence[str],
        models: Sequence[str],
        seconds: float,
        now: float,
    ) -> None:
        self.wanted: File | None = None
        self._seconds = seconds
        self._deadline_s = time.monotonic() + seconds
        self._left_n, self._left_bytes = _FILES_MAX, _BYTES_MAX
        self._line = bytearray()
        self._result: Answer | None = None
        ask = Ask(
            folder=str(folder),
            root=str(root),
            device=device,
            groups=tuple(groups),
            models=tuple(models),
            seconds=seconds,
            bytes_max=_MEMORY_BYTES,
            now=now,
        )
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", _CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
        except OSError as exc:
            self._child: subprocess.Popen[bytes] | None = None
            self._fail(f"the trust check cannot be started: {exc.strerror}", later=True)
            return
        self._child = child
        assert child.stdout is not None
        os.set_blocking(child.stdout.fileno(), False)
        self._write(msgspec.json.encode(ask) + b"\n")

    def give(self, name: str, data: bytes | None) -> None:
        """Hand over a file, or say that there is none; ignored unless it is wanted."""
        if self.wanted is None or name != self.wanted.file:
            return
        self.wanted = None
        if data is None:
            self._write(LENGTH.pack(ABSENT))
            return
        self._left_bytes -= len(data)
        if len(data) > METADATA_BYTES_MAX or self._left_bytes < 0:
            self._fail(f"{name} is larger than signed metadata may be")
            return
        self._write(LENGTH.pack(len(data)))
        self._write(data)

    def poll(self) -> Answer | None:
        """The result, or None while the child is at work; ends it when its time is up."""
        if self._child is not None:
            self._read(self._child)
        if self._child is not None and time.monotonic() >= self._deadline_s:
            waiting = f" (it waits for {self.wanted.file})" if self.wanted else ""
            self._fail(f"the trust check took more than {self._seconds:g} s{waiting}", later=True)
        return self._result

    def close(self) -> None:
        """End the child if it is still at work."""
        if self._child is not None:
            self._fail("the trust check was called off", later=True)

    def _read(self, child: subprocess.Popen[bytes]) -> None:
        """Take in what the child says: a want, or the result."""
        assert child.stdout is not None
        while self.wanted is None and self._child is not None:
            part = child.stdout.read(64 * 1024)
            if part is None:  # nothing now
                return
            self._line += part
            if b"\n" in self._line:
                line, _, rest = bytes(self._line).partition(b"\n")
                self._line = bytearray(rest)
                self._on_line(line)
            elif not part or len(self._line) > _LINE_BYTES_MAX:
                child.wait()
                self._fail(
                    f"the trust check ended with {child.returncode}: see the log", later=True
                )

    def _on_line(self, line: bytes) -> None:
        try:
            said = msgspec.json.decode(line)
            if "want" not in said:
                self._end(msgspec.convert(said, Answer))
                return
        except (msgspec.DecodeError, msgspec.ValidationError, TypeError) as exc:
            self._fail(f"the trust check answered with nonsense: {exc}")
            return
        self._left_n -= 1
        if self._left_n < 0:
            self._fail("the signed metadata have no end")
            return
        self.wanted = File(str(said["want"]), METADATA_BYTES_MAX)

    def _write(self, data: bytes) -> None:
        if self._child is None or self._child.stdin is None:
            return
        with suppress(BrokenPipeError):  # the child has ended: reading says how
            view = memoryview(data)
            while view:
                view = view[self._child.stdin.write(view) :]

    def _fail(self, reason: str, *, later: bool = False) -> None:
        self._end(Answer(ok=False, reason=reason, later=later))

    def _end(self, result: Answer) -> None:
        child, self._child, self.wanted = self._child, None, None
        self._result = result
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
