"""Frames of sound, from a microphone or a WAV file; a channel of sound is a channel."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
from msgspec import Meta

from edge_agent.arrays import F32
from edge_agent.clock import Clock
from edge_agent.contract.errors import SourceError
from edge_agent.settings import Kind
from edge_agent.sources.pace import Pace

if TYPE_CHECKING:
    import wave

_WAIT_MS: Final = 1000
_SAMPLE_BYTES: Final = 2
_SAID_BYTES: Final = 4096  # kept of what arecord says
_KILLED_S: Final = 2.0
_MISSED: Final = re.compile(rb"overrun!!! \(at least ([\d.]+) ms long\)")
_FULL_SCALE: Final = {1: 2.0**7, 2: 2.0**15, 4: 2.0**31}  # by bytes of a sample


class AudioConfig(Kind, frozen=True, kw_only=True, tag="audio"):
    """Frames of an ALSA device or of a WAV file, -1 to 1; each channel of sound is one channel.

    Attributes:
        rate_hz: frames per second; a device or a file with another rate is refused.
        device: to record from, as ``arecord -L`` names it; ``plughw:`` converts rates.
        path: WAV file of 8, 16 or 32 bits to read instead, from the folder of the configuration.
        paced: give a file at its own speed, not as fast as it is taken.
    """

    rate_hz: Annotated[int, Meta(ge=1000, le=384_000)] = 16_000
    device: Annotated[str, Meta(pattern=r"^[^-\s]\S*$")] = "default"
    path: str | None = None
    paced: bool = True


def audio_source(
    config: AudioConfig, channels: Sequence[str], *, base: Path, clock: Clock
) -> WavSource | AlsaSource:
    """The source that a configuration asks for: a file, or else a device."""
    if config.path is not None:
        return WavSource(config, channels, path=base / config.path, clock=clock)
    return AlsaSource(config, channels)


class AlsaSource:
    """Reads what ``arecord`` of the package alsa-utils records, as 16 bits.

    A program instead of a library: pyalsaaudio has no wheels for aarch64 and would be compiled on
    the device, and sounddevice needs PortAudio of the system; arecord is part of Pi OS.

    Args:
        config: what the configuration file says.
        channels: names, one for each channel of sound.
    """

    def __init__(self, config: AudioConfig, channels: Sequence[str]) -> None:
        self._config = config
        self._width = len(channels)
        self._process: subprocess.Popen[bytes] | None = None
        self._partial = b""
        self._said = b""
        self._missed = 0

    def open(self) -> None:
        """Begin to record.

        Raises:
            SourceError: arecord is not installed.
        """
        self.close()
        command = ["arecord", "-D", self._config.device, "-t", "raw", "-f", "S16_LE"]
        command += ["-c", str(self._width), "-r", str(self._config.rate_hz)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "LC_ALL": "C"},
            )
        except OSError as exc:
            raise SourceError(f"arecord: {exc.strerror}: sudo apt install alsa-utils") from exc
        self._partial, self._said = b"", b""

    def read(self, out: F32) -> int:
        """Give what has been recorded, at most 1 s of it; wait for it at most 1 s."""
        process = self._process
        if process is None or process.stdout is None or process.stderr is None:
            raise SourceError("the source is not open: call open() first")
        frame_bytes = self._width * _SAMPLE_BYTES
        most = min(len(out), self._config.rate_hz) * frame_bytes
        poll = select.poll()
        for pipe in (process.stdout, process.stderr):
            poll.register(pipe, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(_WAIT_MS)}
        if process.stderr.fileno() in ready:
            self._listen(process.stderr.fileno())
        if process.stdout.fileno() not in ready:
            return 0
        chunk = os.read(process.stdout.fileno(), most - len(self._partial))
        if not chunk:
            raise SourceError(f"{self._config.device}: {self._last_words(process)}")
        data = self._partial + chunk
        count = len(data) // frame_bytes
        self._partial = data[count * frame_bytes :]
        out[:count] = _frames(data[: count * frame_bytes], self._width, _SAMPLE_BYTES)
        return count

    def close(self) -> None:
        """End the recording."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        process.wait(_KILLED_S)

    @property
    def faults(self) -> dict[str, int]:
        """``overrun``: frames that were lost because nobody took them in time."""
        return {"overrun": self._missed}

    def _listen(self, descriptor: int) -> None:
        """Take what arecord says: frames that it lost, and that the rate is another."""
        lines = (self._said + os.read(descriptor, _SAID_BYTES)).split(b"\n")
        self._said = lines.pop()[-_SAID_BYTES:]
        for line in lines:
            if found := _MISSED.search(line):
                self._missed += round(float(found[1]) / 1000 * self._config.rate_hz)
            elif b"rate is not accurate" in line:
                raise SourceError(
                    f"{self._config.device}: does not record at {self._config.rate_hz} Hz: give "
                    "another rate_hz, or a plughw: device, which converts"
                )
            elif b"error" in line:
                self._said = line

    def _last_words(self, process: subprocess.Popen[bytes]) -> str:
        """Why there is no more sound; arecord has closed its output."""
        assert process.stderr is not None
        said = self._said + process.stderr.read(_SAID_BYTES)
        lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
        faults = [line for line in lines if "error" in line] or lines or ["no more sound"]
        return f"{faults[0]}: check the device with `arecord -L`, and the group audio"


class WavSource:
    """Reads a WAV file.

    Args:
        config: what the configuration file says.
        channels: names, one for each channel of sound.
        path: of the file.
        clock: for the pace.
        sleep: waits for a number of seconds.
    """

    def __init__(
        self,
        config: AudioConfig,
        channels: Sequence[str],
        *,
        path: Path,
        clock: Clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._config = config
        self._width = len(channels)
        self._path = path
        self._clock = clock
        self._sleep = sleep
        self._file: wave.Wave_read | None = None
        self._left = 0
        self._pace = Pace(None, clock)

    def open(self) -> None:
        """Open the file; its first frame is due at once.

        Raises:
            SourceError: it is not there, no WAV file of this kind, or has another rate.
        """
        import wave  # noqa: PLC0415 - few need it

        self.close()
        try:
            self._file = wave.open(str(self._path), "rb")  # noqa: SIM115 - closed by close()
        except (OSError, EOFError, wave.Error) as exc:
            raise SourceError(f"{self._path}: cannot be read as a WAV file: {exc}") from exc
        found = self._file.getparams()
        fault = ""
        if found.sampwidth not in _FULL_SCALE:
            fault = f"has samples of {8 * found.sampwidth} bits: 8, 16 and 32 are read"
        elif found.nchannels != self._width:
            fault = f"has {found.nchannels} channels of sound, but {self._width} are named"
        elif found.framerate != self._config.rate_hz:
            fault = f"has {found.framerate} frames a second, rate_hz is {self._config.rate_hz}"
        if fault:
            self.close()
            raise SourceError(f"{self._path}: {fault}")
        self._left = found.nframes
        rate = self._config.rate_hz if self._config.paced else None
        self._pace = Pace(rate, self._clock, sleep=self._sleep)

    def read(self, out: F32) -> int:
        """Give the frames that are due, at most 1 s of them."""
        if self._file is None:
            raise SourceError("the source is not open: call open() first")
        if self._left == 0:
            raise EOFError(f"{self._path}: the recording has ended")
        count = self._pace.take(min(len(out), self._left, self._config.rate_hz))
        if count == 0:
            return 0
        data = self._file.readframes(count)
        width = self._file.getsampwidth()
        given = len(data) // (width * self._width)  # fewer in a file that was cut off
        self._left = self._left - given if given == count else 0
        out[:given] = _frames(data[: given * width * self._width], self._width, width)
        return given

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def faults(self) -> dict[str, int]:
        """None: a file does not lose frames."""
        return {}


def _frames(data: bytes, channels: int, width: int) -> Any:
    """Samples of so many bytes as float32 of -1 to 1, shape (frames, channels)."""
    kind: Any = {1: np.uint8, 2: "<i2", 4: "<i4"}[width]
    samples = np.frombuffer(data, kind).astype(np.float64)
    if width == 1:  # the only width that WAV stores without a sign
        samples -= 128
    return (samples / _FULL_SCALE[width]).astype(np.float32).reshape(-1, channels)
