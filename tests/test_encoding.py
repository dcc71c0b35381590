"""The forms in which a bundle travels: exact, bounded, and worth it."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.contract.errors import BundleError
from edge_agent.encoding import DELTA_SHARE_MAX, compress, smallest_delta, unpack

NOISE = random.Random(1).randbytes(200_000)


def unpacked(tmp_path, encoding, payload, size, base=None):
    source, before = tmp_path / "data", tmp_path / "base"
    source.write_bytes(payload)
    if base is not None:
        before.write_bytes(base)
    pieces = unpack(encoding, source, base=before if base is not None else None, size=size)
    return b"".join(pieces)


@settings(max_examples=30)
@given(data=st.binary(min_size=1, max_size=5000), repeat=st.integers(1, 400))
def test_what_is_compressed_comes_back(tmp_path_factory, data, repeat):
    whole = data * repeat
    folder = tmp_path_factory.mktemp("whole")
    assert unpacked(folder, "zstd", compress(whole), len(whole)) == whole
    assert unpacked(folder, "raw", whole, len(whole)) == whole


@pytest.mark.parametrize("grown", [0, 7])
def test_a_small_change_travels_as_a_delta(tmp_path, grown):
    changed = bytearray(NOISE + bytes(grown))
    changed[5000:5100] = bytes(100)
    encoding, payload = smallest_delta(bytes(changed), NOISE, len(compress(bytes(changed))))
    assert len(payload) < 5_000
    assert encoding == ("zstd-prefix" if grown else encoding)
    assert unpacked(tmp_path, encoding, payload, len(changed), NOISE) == bytes(changed)


def test_many_small_changes_travel_as_a_difference(tmp_path):
    """As after a fine-tuning: every value a little different."""
    steps = random.Random(3)
    changed = bytes((value + steps.choice((-1, 0, 0, 1))) % 256 for value in NOISE)
    encoding, payload = smallest_delta(changed, NOISE, len(compress(changed)))
    assert encoding == "subtract"
    assert unpacked(tmp_path, encoding, payload, len(changed), NOISE) == changed


def test_a_delta_that_saves_too_little_is_not_made():
    other = random.Random(2).randbytes(len(NOISE))
    assert smallest_delta(other, NOISE, len(compress(other))) is None
    half = NOISE[: len(NOISE) // 2] + other[: len(NOISE) // 2]
    encoding, payload = smallest_delta(half, NOISE, len(compress(half)))
    assert len(payload) < DELTA_SHARE_MAX * len(compress(half)), encoding


@pytest.mark.parametrize("encoding", ["zstd", "zstd-prefix", "subtract"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[:-5], "ends in the middle"),
        (lambda data: data + b"x", "goes on after its end"),
        (lambda data: b"rubbish" + data, "cannot be unpacked"),
        (lambda data: data[:60] + bytes([data[60] ^ 255]) + data[61:], ""),
    ],
)
def test_damaged_payloads_are_refused(tmp_path, encoding, damage, says):
    base = None if encoding == "zstd" else NOISE
    payload = {
        "zstd": compress(NOISE),
        "subtract": compress(bytes(len(NOISE))),
        "zstd-prefix": smallest_delta(NOISE + b"x", NOISE, 10**9)[1] + bytes(0),
    }[encoding]
    size = len(NOISE) + (encoding == "zstd-prefix")
    if encoding != "zstd" and not says:
        payload += bytes(64)  # they are too small to be damaged in the middle
    with pytest.raises(BundleError, match=says):
        unpacked(tmp_path, encoding, damage(payload), size, base)


def test_a_bomb_ends_at_the_announced_size(tmp_path):
    bomb = compress(bytes(100_000_000))
    assert len(bomb) < 20_000
    source, given = tmp_path / "data", []
    source.write_bytes(bomb)
    with pytest.raises(BundleError, match="more than the 5000 bytes announced"):
        given.extend(unpack("zstd", source, base=None, size=5000))
    assert sum(map(len, given)) <= 5000


def test_less_than_announced_is_refused(tmp_path):
    with pytest.raises(BundleError, match="unpacks to 200000 bytes, 200001 are announced"):
        unpacked(tmp_path, "zstd", compress(NOISE), len(NOISE) + 1)


def test_a_window_that_a_small_device_cannot_hold_is_refused(tmp_path):
    from edge_agent.encoding import zstd  # noqa: PLC0415

    options = {zstd.CompressionParameter.window_log: 27}
    frame = zstd.compress(NOISE * 60, options=options)
    with pytest.raises(BundleError, match="cannot be unpacked"):
        unpacked(tmp_path, "zstd", frame, len(NOISE) * 60)


def test_a_base_of_another_length_is_refused(tmp_path):
    with pytest.raises(BundleError, match="is shorter than it"):
        unpacked(tmp_path, "subtract", compress(bytes(1000)), 1000, NOISE[:900])
