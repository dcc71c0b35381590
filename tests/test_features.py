"""Window features: against other implementations, and numpy against the exported graph."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import scipy.stats
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx_runs import as_graph, run
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from converter.features import FEATURES, Flatten, WindowFeatures


def windows(count=20, length=100, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, length, channels)).astype(np.float32)


def column(features, x, name):
    index = list(features.get_feature_names_out()).index(name)
    return features.transform(x)[:, index]


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("mean", lambda x: x.mean(axis=1)),
        ("std", lambda x: x.std(axis=1)),
        ("rms", lambda x: np.sqrt((x**2).mean(axis=1))),
        ("min", lambda x: x.min(axis=1)),
        ("max", lambda x: x.max(axis=1)),
        ("ptp", lambda x: np.ptp(x, axis=1)),
        ("mean_abs", lambda x: np.abs(x).mean(axis=1)),
        ("energy", lambda x: (x**2).sum(axis=1)),
        ("skew", lambda x: scipy.stats.skew(x, axis=1)),
        ("kurtosis", lambda x: scipy.stats.kurtosis(x, axis=1)),
    ],
)
def test_features_equal_a_reference(name, reference):
    x = windows()
    features = WindowFeatures(features=(name,)).fit(x)
    np.testing.assert_allclose(features.transform(x), reference(x.astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("length", [100, 101])
@pytest.mark.parametrize("taper", ["hann", "boxcar"])
def test_band_powers_equal_scipys_periodogram(length, taper):
    x, bands = windows(length=length), ((0.0, 7.5), (7.5, 25.0))
    features = WindowFeatures(features=(), bands=bands, rate_hz=50.0, taper=taper).fit(x)
    frequency, density = scipy.signal.periodogram(
        x.astype(np.float64), 50.0, window=taper, detrend="constant", scaling="density", axis=1
    )
    inside = [(frequency > 0) & (frequency < 7.5), frequency >= 7.5]
    power = [density[:, mask].sum(axis=1) * 50.0 / length for mask in inside]
    want = np.stack(power, axis=2).reshape(len(x), -1)
    np.testing.assert_allclose(features.transform(x), want, rtol=1e-5)


def test_bands_without_taper_sum_up_to_the_variance():
    x = windows(length=64)
    features = WindowFeatures(
        features=("std",), bands=((0.0, 10.0), (10.0, 32.0)), rate_hz=64.0, taper="boxcar"
    ).fit(x)
    std, low, high = features.transform(x)[:, :3].T
    np.testing.assert_allclose(low + high, std.astype(np.float64) ** 2, rtol=1e-5)


def test_a_tone_falls_into_its_band():
    t = np.arange(200) / 100.0
    tone = (3.0 * np.sin(2 * np.pi * 12.0 * t) + 1000.0).astype(np.float32)[None, :, None]
    features = WindowFeatures(
        features=(), bands=((1.0, 8.0), (8.0, 16.0), (16.0, 50.0)), rate_hz=100.0
    ).fit(tone)
    low, mid, high = features.transform(tone)[0]
    assert mid == pytest.approx(4.5, rel=0.01)  # amplitude**2 / 2
    assert max(low, high) < 0.01


def test_crossings_count_changes_of_side_and_a_value_on_the_level_is_not_above():
    series = np.array([-1, 1, 0, 0, 2, 2, -3, 5], dtype=np.float32)[None, :, None]
    features = WindowFeatures(features=("zero_crossings", "mean_crossings")).fit(series)
    np.testing.assert_array_equal(features.transform(series), [[5, 5]])
    shifted = series + 100
    np.testing.assert_array_equal(features.transform(shifted), [[0, 5]])


@pytest.mark.parametrize("value", [0.0, 5.1, -1e6, 1e-30, 3e37])
def test_a_constant_channel_has_no_spread(value):
    x = np.full((1, 37, 1), value, dtype=np.float32)
    features = WindowFeatures(
        features=("mean", "std", "ptp", "skew", "kurtosis", "mean_crossings"),
        bands=((0.0, 5.0),),
        rate_hz=10.0,
    ).fit(x)
    np.testing.assert_array_equal(features.transform(x)[0], [np.float32(value), 0, 0, 0, 0, 0, 0])


def test_a_large_offset_does_not_cancel():
    x = windows(channels=1)
    # Only what float32 itself rounds off the shifted readings may differ.
    shifted = (np.round(x * 64) / 64).astype(np.float32)
    features = WindowFeatures(features=("std", "skew", "kurtosis")).fit(x)
    np.testing.assert_array_equal(
        features.transform(shifted + np.float32(65536)), features.transform(shifted)
    )


# Readings as a converter delivers them: whole steps, any offset.
READINGS = st.integers(-(2**30), 2**30) | st.integers(-4, 4) | st.integers(2**30 - 4, 2**30)


@settings(max_examples=40, deadline=None)
@given(arrays(np.int64, (3, 16, 2), elements=READINGS))
def test_the_graph_computes_what_numpy_computes(steps):
    x = (steps / 1024).astype(np.float32)
    exact = ("mean", "min", "max", "ptp", "mean_abs", "zero_crossings", "mean_crossings")
    rounded, ratios = ("std", "rms", "energy"), ("skew", "kurtosis")
    bands = ((0.0, 2.0), (2.0, 8.0))
    features = WindowFeatures((*exact, *rounded, *ratios), bands, rate_hz=16.0).fit(x)
    want = features.transform(x)
    got = run(as_graph(features, x.shape[1:], want.shape[1]), x)["value"]
    want, got = (np.split(v.reshape(3, 2, -1), [7, 10, 12], axis=2) for v in (want, got))
    np.testing.assert_array_equal(got[0], want[0])
    # float64 sums in another order, rounded once: at most one unit in the last place.
    np.testing.assert_array_max_ulp(got[1], want[1], maxulp=1)
    np.testing.assert_allclose(got[2], want[2], rtol=1e-6, atol=1e-6)
    variance = want[1][:, :, :1].astype(np.float64) ** 2
    assert np.all(np.abs(got[3] - want[3]) <= 1e-6 * want[3] + 1e-12 * variance)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_short_windows(length):
    x = windows(length=length)
    features = WindowFeatures(features=FEATURES).fit(x)
    want = features.transform(x)
    got = run(as_graph(features, x.shape[1:], want.shape[1]), x)["value"]
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(got, want)


def test_names_are_channel_dot_feature_in_the_order_of_the_columns():
    x = windows(channels=2)
    features = WindowFeatures(features=("min", "max"), bands=((0.5, 3.0),), rate_hz=50.0).fit(x)
    names = list(features.get_feature_names_out(["ax", "ay"]))
    assert names == ["ax.min", "ax.max", "ax.band_0.5_3", "ay.min", "ay.max", "ay.band_0.5_3"]
    np.testing.assert_array_equal(features.transform(x)[:, 4], x[:, :, 1].max(axis=1))


def test_flatten_keeps_readings_in_order():
    x = windows(length=4, channels=2)
    flat = Flatten().fit(x)
    np.testing.assert_array_equal(flat.transform(x), x.reshape(len(x), 8))
    np.testing.assert_array_equal(run(as_graph(flat, (4, 2), 8), x)["value"], flat.transform(x))
    assert list(flat.get_feature_names_out(["a", "b"]))[:3] == ["a[0]", "b[0]", "a[1]"]


def test_it_clones_and_survives_a_skops_file():
    features = WindowFeatures(features=("std",), bands=((1.0, 5.0),), rate_hz=50.0)
    assert clone(features).get_params() == features.get_params()
    x = windows()
    data = skops.io.dumps(features.fit(x))
    named = skops.io.get_untrusted_types(data=data)
    assert named == ["converter.features.WindowFeatures"]
    np.testing.assert_array_equal(
        skops.io.loads(data, trusted=named).transform(x), features.transform(x)
    )


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        ({"features": ("men",)}, "unknown features"),
        ({"features": ()}, "computes nothing"),
        ({"taper": "hamming"}, "unknown taper"),
        ({"bands": ((1.0, 2.0),)}, "rate_hz"),
        ({"bands": ((1.0, 30.0),), "rate_hz": 50.0}, "not within 0 to 25"),
        ({"bands": ((3.0, 2.0),), "rate_hz": 50.0}, "not within"),
        ({"bands": ((0.1, 0.2),), "rate_hz": 50.0}, "no frequency of a window"),
    ],
)
def test_wrong_settings_are_named(settings_, says):
    with pytest.raises(ValueError, match=says):
        WindowFeatures(**settings_).fit(windows())


def test_wrong_shapes_are_named():
    with pytest.raises(NotFittedError):
        WindowFeatures().transform(windows())
    features = WindowFeatures().fit(windows())
    with pytest.raises(ValueError, match=r"\(n, length, channels\)"):
        features.transform(np.zeros((3, 100)))
    with pytest.raises(ValueError, match=r"\(50, 3\).*\(100, 3\)"):
        features.transform(windows(length=50))
