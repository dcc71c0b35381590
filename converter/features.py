"""Window features as scikit-learn transformers that also exist inside the exported graph.

A transformer here takes windows (n, length, channels) and gives float32 (n, features). Both forms,
numpy in training and ONNX on the device, compute in float64 and round once to float32: sums of
sensor values are then exact, a large offset costs no precision, and the two forms agree to the
last bit in all but rare cases.
"""

from __future__ import annotations

from typing import Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError

from converter.lowering.formulas import (
    F64,
    FORMULAS,
    GraphOps,
    NumpyOps,
    Ops,
    Series,
    T,
    band_powers,
)
from converter.lowering.graph import Graph
from edge_agent.arrays import F32

FEATURES: Final = tuple(FORMULAS)
DEFAULT_FEATURES: Final = ("mean", "std", "rms", "min", "max", "ptp")


# scikit-learn has no type information: its base classes are Any to the type checker.
class WindowTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Base of the transformers that take whole windows.

    A user's own window transformer derives from it and defines ``_compute(windows float64) ->
    float64 (n, features)``, ``_names(channel) -> names`` of one channel's features, and
    ``onnx_form(graph, x)``, see :mod:`converter.lowering.lower`.
    """

    takes_windows: Final = True

    def fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Remember the shape of a window; nothing is learned from the values."""
        del y
        self.window_shape_ = _windows(X).shape[1:]
        return self

    def transform(self, X: ArrayLike) -> F32:  # noqa: N803 - scikit-learn's name
        """Features of windows.

        Args:
            X: (n, length, channels), finite.

        Returns:
            float32 (n, features), channel by channel.

        Raises:
            ValueError: X does not have the shape of the windows in ``fit``.
        """
        windows = _windows(X)
        if windows.shape[1:] != self._shape():
            raise ValueError(
                f"windows have the shape {windows.shape[1:]}, {type(self).__name__} was fitted "
                f"on {self._shape()}"
            )
        return self._compute(windows).astype(np.float32)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Names of the features, ``channel.feature``.

        Args:
            input_features: names of the channels; default ``c0``, ``c1``, …
        """
        count = self._shape()[1]
        given = range(count) if input_features is None else np.asarray(input_features)
        names = [f"c{name}" if input_features is None else str(name) for name in given]
        return np.array([n for name in names for n in self._names(name)], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "window_shape_")

    def _shape(self) -> tuple[int, int]:
        """(length, channels) of the windows."""
        if not hasattr(self, "window_shape_"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit first")
        length, channels = self.window_shape_
        return int(length), int(channels)

    def _compute(self, windows: F64) -> F64:
        raise NotImplementedError

    def _names(self, channel: str) -> list[str]:
        raise NotImplementedError


class Flatten(WindowTransformer):
    """The readings themselves, one after the other: (n, length * channels), oldest first."""

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Names ``channel[reading]``, as in the flattened order."""
        length, count = self._shape()
        given = [f"c{i}" for i in range(count)] if input_features is None else input_features
        names = [f"{name}[{t}]" for t in range(length) for name in np.asarray(given)]
        return np.array(names, dtype=object)

    def onnx_form(self, graph: Graph, x: str) -> str:
        """The same in ONNX, see :mod:`converter.lowering.lower`."""
        return graph.add("Flatten", x, axis=1)

    def _compute(self, windows: F64) -> F64:
        return windows.reshape(len(windows), -1)


class WindowFeatures(WindowTransformer):
    """Statistics and band powers of every channel of a window.

    With x the n values of one channel and m their mean:

    - ``mean`` m; ``min``; ``max``; ``ptp`` max - min; ``mean_abs`` mean of abs(x)
    - ``std`` sqrt(mean((x - m)**2)), as ``numpy.std``: two passes, exactly 0 for a constant
    - ``rms`` sqrt(mean(x**2)); ``energy`` sum(x**2)
    - ``skew`` mean((x - m)**3) / std**3 and ``kurtosis`` mean((x - m)**4) / std**4 - 3 (as
      ``scipy.stats`` by default); both 0 for a constant
    - ``zero_crossings`` pairs of neighbours of which exactly one is > 0; ``mean_crossings`` the
      same for > m. A value exactly on the level counts as not above it.

    Args:
        features: names from the list above.
        bands: (low, high) in Hz; each adds the power of x - m in low <= f < high, in the squared
            unit of the channel (a band that ends at rate_hz / 2 includes it). It is the sum of
            the one-sided periodogram's bins times their width, ``scipy.signal.periodogram(...,
            scaling="density")``: c_k abs(sum(w_t x_t exp(-2 pi i k t / n)))**2 / (n sum(w**2)),
            c_k = 2 but 1 at rate_hz / 2 (Welch, IEEE Trans. Audio Electroacoust. 15(2), 1967).
        rate_hz: readings per second; needed for bands.
        taper: w: ``"hann"`` (periodic) or ``"boxcar"``, with which the bands from 0 to
            rate_hz / 2 sum up to std**2.
    """

    def __init__(
        self,
        features: tuple[str, ...] = DEFAULT_FEATURES,
        bands: tuple[tuple[float, float], ...] = (),
        rate_hz: float | None = None,
        taper: str = "hann",
    ) -> None:
        self.features = features
        self.bands = bands
        self.rate_hz = rate_hz
        self.taper = taper

    def fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Remember the shape of a window and check the settings against it.

        Raises:
            ValueError: an unknown feature, or a band that no frequency of the window falls into.
        """
        super().fit(X, y)
        unknown = sorted(set(self.features) - set(FEATURES))
        if unknown:
            raise ValueError(f"unknown features {unknown}: choose from {', '.join(FEATURES)}")
        if not self.features and not self.bands:
            raise ValueError("WindowFeatures computes nothing: name features or bands")
        if self.taper not in {"hann", "boxcar"}:
            raise ValueError(f"unknown taper {self.taper!r}: choose hann or boxcar")
        if self.bands:
            self._spectrum()  # says what is wrong with them
        return self

    def onnx_form(self, graph: Graph, x: str) -> str:
        """The same in ONNX, see :mod:`converter.lowering.lower`."""
        series = graph.cast(graph.add("Transpose", x, perm=[0, 2, 1]), np.float64)
        columns = self._columns(GraphOps(graph), series)
        joined = graph.add("Concat", *columns, axis=2) if len(columns) > 1 else columns[0]
        return graph.cast(graph.add("Flatten", joined, axis=1), np.float32)

    def _compute(self, windows: F64) -> F64:
        series = np.ascontiguousarray(windows.transpose(0, 2, 1))
        columns = self._columns(NumpyOps(), series)
        return np.concatenate(columns, axis=2).reshape(len(windows), -1)

    def _columns(self, ops: Ops[T], x: T) -> list[T]:
        """The features of all channels, each (n, channels, 1), and the bands together."""
        series = Series(ops, x, self._shape()[0])
        columns = [FORMULAS[name](series) for name in self.features]
        return [*columns, band_powers(series, *self._spectrum())] if self.bands else columns

    def _names(self, channel: str) -> list[str]:
        bands = [f"band_{low:g}_{high:g}" for low, high in self.bands]
        return [f"{channel}.{name}" for name in (*self.features, *bands)]

    def _spectrum(self) -> tuple[F64, F64]:
        """The tapered Fourier basis (length, 2 * bins) and what sums its squares (.., bands)."""
        length = self._shape()[0]
        if self.rate_hz is None or not self.rate_hz > 0:
            raise ValueError("bands need rate_hz, the readings per second")
        rate = self.rate_hz
        k = np.arange(1, length // 2 + 1)
        frequency = k * rate / length
        inside = [_inside(frequency, low, high, rate) for low, high in self.bands]
        used = np.any(inside, axis=0)
        t = np.arange(length)
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * t / length)
        taper = hann if self.taper == "hann" else np.ones(length)
        # The angle is reduced in integers, where k * t % length is exact.
        angle = 2 * np.pi / length * ((k[used] * t[:, None]) % length)
        basis = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) * taper[:, None]
        weight = np.where(2 * k[used] == length, 1.0, 2.0) / (length * np.sum(taper**2))
        gather = [np.where(mask[used], weight, 0.0) for mask in inside]
        return basis, np.concatenate([np.transpose(gather)] * 2)


def _inside(frequency: F64, low: float, high: float, rate: float) -> NDArray[np.bool_]:
    """Which frequencies lie in a band."""
    if not 0 <= low < high <= rate / 2:
        raise ValueError(f"the band {low:g} to {high:g} Hz is not within 0 to {rate / 2:g} Hz")
    inside = (frequency >= low) & ((frequency < high) | (high == rate / 2))
    if not inside.any():
        raise ValueError(
            f"no frequency of a window falls into the band {low:g} to {high:g} Hz: "
            f"they are {frequency[0] if len(frequency) else rate:g} Hz apart; widen the band or "
            "lengthen the window"
        )
    return np.asarray(inside)


def _windows(X: ArrayLike) -> F64:  # noqa: N803 - scikit-learn's name
    """Windows rounded to float32, as the device sees them, in float64."""
    windows = np.asarray(X, dtype=np.float32)
    if windows.ndim != 3:
        raise ValueError(
            f"expected windows (n, length, channels), got an array of the shape {windows.shape}"
        )
    return windows.astype(np.float64)
