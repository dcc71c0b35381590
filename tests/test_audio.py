"""Sound: WAV files that the tests write, and arecord itself on an ALSA device that reads a file."""

from __future__ import annotations

import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
from readings import assert_rows, rows_of, until

from edge_agent.clock import SystemClock
from edge_agent.contract.errors import SourceError
from edge_agent.sources.audio import AlsaSource, AudioConfig, audio_source
from edge_agent.testing.conformance import check_source

RATE_HZ = 8000
SHAPES = {1: np.uint8, 2: np.dtype("<i2"), 4: np.dtype("<i4")}


def write_wav(path: Path, samples: np.ndarray, width: int = 2, rate_hz: int = RATE_HZ) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate_hz)
        file.writeframes(samples.astype(SHAPES[width]).tobytes())
    return path


def wav(path: Path, channels: int = 2, **config: object):
    settings = AudioConfig(path=path.name, **{"rate_hz": RATE_HZ, "paced": False} | config)
    names = [f"c{number}" for number in range(channels)]
    return audio_source(settings, names, base=path.parent, clock=SystemClock())


@pytest.mark.parametrize(
    ("width", "samples"),
    [
        (1, [[0, 128], [192, 255]]),
        (2, [[-32768, 0], [16384, 32767]]),
        (4, [[-(2**31), 0], [2**30, 2**31 - 1]]),
    ],
)
def test_samples_of_every_width_are_minus_one_to_one(tmp_path, width, samples) -> None:
    source = wav(write_wav(tmp_path / "a.wav", np.array(samples), width))
    source.open()
    full = 2.0 ** (8 * width - 1)
    assert_rows(rows_of(source, 2), [[-1, 0], [0.5, (full - 1) / full]])
    source.close()


def test_a_wav_file_is_a_source(tmp_path) -> None:
    path = write_wav(tmp_path / "a.wav", np.arange(40).reshape(-1, 2))
    for paced in (False, True):
        check_source(lambda paced=paced: wav(path, paced=paced), channels=2)


def test_a_read_gives_at_most_a_second(tmp_path) -> None:
    source = wav(write_wav(tmp_path / "a.wav", np.zeros((3 * RATE_HZ, 1))), channels=1)
    source.open()
    assert source.read(np.empty((3 * RATE_HZ, 1), np.float32)) == RATE_HZ
    source.close()


def test_a_file_that_was_cut_off_ends_with_its_last_frame(tmp_path) -> None:
    path = write_wav(tmp_path / "a.wav", np.arange(40).reshape(-1, 2))
    path.write_bytes(path.read_bytes()[:-6])
    source = wav(path)
    source.open()
    assert len(rows_of(source, 2)) == 18
    source.close()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"rate_hz": 16_000}, "has 8000 frames a second, rate_hz is 16000"),
        ({"channels": 1}, "has 2 channels of sound, but 1 are named"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, change, fault) -> None:
    path = write_wav(tmp_path / "a.wav", np.zeros((4, 2)))
    with pytest.raises(SourceError, match=fault):
        wav(path, **change).open()


def test_no_wav_file(tmp_path) -> None:
    (tmp_path / "a.wav").write_bytes(b"hello")
    with pytest.raises(SourceError, match="cannot be read as a WAV file"):
        wav(tmp_path / "a.wav").open()
    with pytest.raises(SourceError, match="cannot be read as a WAV file"):
        wav(tmp_path / "b.wav").open()


@pytest.fixture
def microphone(tmp_path, monkeypatch) -> str:
    """An ALSA device that plays a file again and again: 16 bits, two channels, frame k is k, -k.

    ALSA's own `file` plugin over its `null` device; there is no sound card here.
    """
    if shutil.which("arecord") is None:
        pytest.skip("arecord (alsa-utils) is not installed")
    frames = np.arange(20_000, dtype="<i2")[:, np.newaxis] * np.array([1, -1], "<i2")
    (tmp_path / "in.raw").write_bytes(frames.tobytes())
    (tmp_path / "asound.conf").write_text(
        f'pcm.!default {{ type file slave.pcm "null" file "/dev/null" format "raw" '
        f'infile "{tmp_path / "in.raw"}" }}\n'
    )
    monkeypatch.setenv("ALSA_CONFIG_PATH", f"/usr/share/alsa/alsa.conf:{tmp_path / 'asound.conf'}")
    return "default"


def test_arecord_gives_frames_in_order(microphone) -> None:
    source = AlsaSource(AudioConfig(device=microphone, rate_hz=RATE_HZ), ("left", "right"))
    source.open()
    rows = rows_of(source, 2, most=1000, block=100)[:1000]
    source.close()
    assert_rows(rows, [[k / 32768, -k / 32768] for k in range(1000)])


def test_arecord_is_a_source(microphone) -> None:
    config = AudioConfig(device=microphone, rate_hz=RATE_HZ)
    check_source(lambda: AlsaSource(config, ("left", "right")), channels=2)


def test_a_device_that_is_not_there() -> None:
    if shutil.which("arecord") is None:
        pytest.skip("arecord (alsa-utils) is not installed")
    source = AlsaSource(AudioConfig(device="hw:7"), ("a",))
    source.open()
    with pytest.raises(SourceError, match=r"hw:7: .*error.*: check the device"):
        until(lambda: source.read(np.empty((1, 1), np.float32)) > 0)
    source.close()


@pytest.fixture
def talker(tmp_path, monkeypatch):
    """A program in arecord's place, for what ALSA's null device never does."""

    def install(script: str) -> None:
        (tmp_path / "arecord").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "arecord").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return install


def test_frames_that_the_card_lost_are_counted(talker) -> None:
    talker('echo "overrun!!! (at least 250.000 ms long)" >&2; exec sleep 60')
    source = AlsaSource(AudioConfig(rate_hz=RATE_HZ), ("a",))
    source.open()
    until(lambda: source.read(np.empty((1, 1), np.float32)) == 0 and source.faults["overrun"] > 0)
    source.close()
    assert source.faults == {"overrun": 2000}


def test_another_rate_is_refused(talker) -> None:
    warning = "Warning: rate is not accurate (requested = 8000Hz, got = 44100Hz)"
    talker(f'echo "{warning}" >&2; exec sleep 60')
    source = AlsaSource(AudioConfig(rate_hz=RATE_HZ), ("a",))
    source.open()
    with pytest.raises(SourceError, match="does not record at 8000 Hz"):
        until(lambda: source.read(np.empty((1, 1), np.float32)) > 0)
    source.close()


def test_without_arecord(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="apt install alsa-utils"):
        AlsaSource(AudioConfig(), ("a",)).open()
