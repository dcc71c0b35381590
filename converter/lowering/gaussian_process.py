"""Gaussian processes: kernels composed as in the original, in float64.

The formulas are those of Rasmussen and Williams, Gaussian Processes for Machine Learning: the
regressor's mean (algorithm 2.1), the classifier's mean and variance (algorithm 3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, factorial
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor, kernels

from converter.lowering.graph import Graph
from converter.lowering.heads import Head, both_sides, side_by_side
from converter.lowering.kernels import squared_distances
from edge_agent.contract.errors import ConfigError

F64 = NDArray[np.float64]

# Williams and Barber: a sigmoid as five error functions, as in sklearn.gaussian_process._gpc.
_LAMBDAS: Final = np.array([0.41, 0.4, 0.37, 0.44, 0.39])
_COEFFICIENTS: Final = np.array(
    [-1854.8214151, 3516.89893646, 221.29346712, 128.12323805, -2010.49422654]
)
_ERF_DEGREE: Final = 18
_TAYLOR_TERMS: Final = 14  # the next one is below the last bit for |x| < 0.5


class _Writer:
    """Writes a kernel between x float64 (N, features) and fixed samples."""

    def __init__(self, graph: Graph, x: str, samples: F64) -> None:
        self._graph = graph
        self._x = x
        self._samples = samples

    def number(self, value: Any) -> str:
        """A float64 constant."""
        return self._graph.constant(value, np.float64)

    def values(self, kernel: Any) -> str:
        """Kernel values (N, samples).

        Raises:
            ConfigError: a kernel without an ONNX form.
        """
        own = _KERNELS.get(type(kernel))
        if own is None:
            raise ConfigError(
                f"the kernel {type(kernel).__name__} has no ONNX form: use one of "
                + ", ".join(sorted(known.__name__ for known in _KERNELS))
            )
        return own(self, kernel)

    def squared(self, scale: Any) -> str:
        """Squared distances in units of ``scale``."""
        x = self._graph.add("Div", self._x, self.number(scale))
        return squared_distances(self._graph, x, self._samples / scale)

    def add(self, op: str, *values: str) -> str:
        """A node."""
        return self._graph.add(op, *values)

    def constant(self, kernel: Any) -> str:
        """The same value everywhere."""
        nothing = np.full((1, len(self._samples)), float(kernel.constant_value))
        zeros = np.zeros((self._samples.shape[1], 1))
        flat = self.add("MatMul", self._x, self.number(zeros))
        return self.add("Add", flat, self.number(nothing))

    def white(self, _: Any) -> str:
        """Noise is nothing between different rows."""
        zeros = np.zeros((self._samples.shape[1], len(self._samples)))
        return self.add("MatMul", self._x, self.number(zeros))

    def rbf(self, kernel: Any) -> str:
        """exp(-d**2 / 2)."""
        squared = self.squared(kernel.length_scale)
        return self.add("Exp", self.add("Mul", squared, self.number(-0.5)))

    def matern(self, kernel: Any) -> str:
        """For the smoothness 0.5, 1.5, 2.5 and infinity, which have closed forms."""
        if kernel.nu == np.inf:
            return self.rbf(kernel)
        if kernel.nu not in {0.5, 1.5, 2.5}:
            raise ConfigError("Matern has an ONNX form for nu of 0.5, 1.5, 2.5 and inf only")
        distance = self.add("Sqrt", self.squared(kernel.length_scale))
        k = self.add("Mul", distance, self.number(np.sqrt(2.0 * kernel.nu)))
        decay = self.add("Exp", self.add("Neg", k))
        if kernel.nu == 0.5:
            return decay
        factor = self.add("Add", k, self.number(1.0))
        if kernel.nu == 2.5:
            third = self.add("Mul", self.add("Mul", k, k), self.number(1.0 / 3.0))
            factor = self.add("Add", factor, third)
        return self.add("Mul", factor, decay)

    def rational(self, kernel: Any) -> str:
        """(1 + d**2 / (2 alpha l**2)) ** -alpha."""
        scaled = self.add("Mul", self.squared(kernel.length_scale), self.number(0.5 / kernel.alpha))
        return self.add(
            "Pow", self.add("Add", scaled, self.number(1.0)), self.number(-kernel.alpha)
        )

    def dot(self, kernel: Any) -> str:
        """X v + sigma_0**2."""
        product = self.add("MatMul", self._x, self.number(self._samples.T))
        return self.add("Add", product, self.number(float(kernel.sigma_0) ** 2))

    def both(self, kernel: Any) -> str:
        """A sum or a product."""
        op = "Add" if isinstance(kernel, kernels.Sum) else "Mul"
        return self.add(op, self.values(kernel.k1), self.values(kernel.k2))

    def power(self, kernel: Any) -> str:
        """A kernel to a power."""
        return self.add("Pow", self.values(kernel.kernel), self.number(float(kernel.exponent)))


_KERNELS: Final[dict[type, Callable[[_Writer, Any], str]]] = {
    kernels.ConstantKernel: _Writer.constant,
    kernels.DotProduct: _Writer.dot,
    kernels.Exponentiation: _Writer.power,
    kernels.Matern: _Writer.matern,
    kernels.Product: _Writer.both,
    kernels.RBF: _Writer.rbf,
    kernels.RationalQuadratic: _Writer.rational,
    kernels.Sum: _Writer.both,
    kernels.WhiteKernel: _Writer.white,
}


def _regressor(estimator: Any, graph: Graph, x: str) -> Head:
    samples = np.asarray(estimator.X_train_, dtype=np.float64)
    values = _Writer(graph, graph.cast(x, np.float64), samples).values(estimator.kernel_)
    alpha = np.asarray(estimator.alpha_, dtype=np.float64).reshape(len(samples), -1)
    # The normalisation of the targets is linear, and so are the weights.
    scale = np.ravel(estimator._y_train_std)  # noqa: SLF001 - there is no public form
    mean = np.ravel(estimator._y_train_mean)  # noqa: SLF001 - as above
    value = graph.add("MatMul", values, graph.constant(alpha * scale, np.float64))
    full = np.broadcast_to(mean, alpha.shape[1:])
    return Head(graph.cast(graph.add("Add", value, graph.constant(full, np.float64)), np.float32))


def _classifier(estimator: Any, graph: Graph, x: str) -> Head:
    base = estimator.base_estimator_
    if len(estimator.classes_) == 2:
        latent, share = _binary(base, graph, x)
        above = graph.add("Greater", latent, graph.constant(0.0, np.float64))
        label = graph.cast(graph.add("Squeeze", above, graph.constant([1], np.int64)), np.int64)
        return Head(both_sides(graph, graph.cast(share, np.float32)), label)
    shares = side_by_side(graph, [_binary(member, graph, x)[1] for member in base.estimators_])
    total = graph.add("ReduceSum", shares, graph.constant([1], np.int64))
    scores = graph.cast(graph.add("Div", shares, total), np.float32)
    return Head(scores, graph.add("ArgMax", shares, axis=1, keepdims=0))


def _binary(member: Any, graph: Graph, x: str) -> tuple[str, str]:
    """The latent mean and the probability of the second class, float64 (N, 1)."""
    samples = np.asarray(member.X_train_, dtype=np.float64)
    values = _Writer(graph, graph.cast(x, np.float64), samples).values(member.kernel_)
    slope = np.asarray(member.y_train_ - member.pi_, dtype=np.float64)[:, None]
    latent = graph.add("MatMul", values, graph.constant(slope, np.float64))
    whitening = np.linalg.solve(member.L_, np.diag(np.ravel(member.W_sr_)))
    white = graph.add("MatMul", values, graph.constant(whitening.T, np.float64))
    explained = graph.add("ReduceSumSquare", white, graph.constant([1], np.int64))
    own = graph.constant(_own_variance(member.kernel_, samples), np.float64)
    variance = graph.add("Sub", own, explained)
    return latent, _averaged_sigmoid(graph, latent, variance)


def _own_variance(kernel: Any, samples: F64) -> float:
    """The kernel of a row with itself.

    Raises:
        ConfigError: it depends on the row.
    """
    values = kernel.diag(samples)
    if np.ptp(values) > 0:
        raise ConfigError(
            "GaussianProcessClassifier with a kernel that is not stationary has no ONNX form: use "
            "RBF, Matern or RationalQuadratic"
        )
    return float(values[0])


def _averaged_sigmoid(graph: Graph, mean: str, variance: str) -> str:
    """The sigmoid's mean under a normal distribution, by five error functions.

    erf(l m sqrt(a / (a + l**2))) with a = 1 / (2 v), which is l m / sqrt(1 + 2 v l**2).
    """
    squares = graph.constant(2.0 * _LAMBDAS[None] ** 2, np.float64)
    spread = graph.add("Add", graph.add("Mul", variance, squares), graph.constant(1.0, np.float64))
    scaled = graph.add("Mul", mean, graph.constant(_LAMBDAS[None], np.float64))
    errors = _erf(graph, graph.add("Div", scaled, graph.add("Sqrt", spread)))
    halves = graph.constant(0.5 * _COEFFICIENTS[:, None], np.float64)
    total = graph.add("MatMul", errors, halves)
    return graph.add("Add", total, graph.constant(0.5 * _COEFFICIENTS.sum(), np.float64))


def _erf(graph: Graph, x: str) -> str:
    """The error function in float64 (N, K), to 1e-10: onnxruntime has it in float32 only.

    Near 0 the Taylor series, to the last bit, so that what ties in the original ties here; beyond,
    erfc(|x|) = t exp(-x**2 + p(t)) with t = 2 / (2 + |x|) and a fitted polynomial p (the form of
    Numerical Recipes, 6.2.2). The coefficients above nearly cancel: float32 would leave 1e-4.
    """
    nodes = np.cos(np.pi * (np.arange(200) + 0.5) / 200)
    t = 0.5 + 0.5 * nodes  # (0, 1): |x| from infinity to 0
    inside = t > 0.05  # beyond, erfc is 0 in float64
    wanted = np.log(erfcx(2.0 / t[inside] - 2.0) / t[inside])
    fitted = np.polynomial.Chebyshev.fit(nodes[inside], wanted, _ERF_DEGREE, domain=[-1, 1])
    power = fitted.convert(kind=np.polynomial.Polynomial).coef

    def number(value: Any) -> str:
        return graph.constant(value, np.float64)

    def polynomial(at: str, coefficients: NDArray[Any]) -> str:
        value = number(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            value = graph.add("Add", graph.add("Mul", value, at), number(coefficient))
        return value

    square = graph.add("Mul", x, x)
    orders = np.arange(_TAYLOR_TERMS, dtype=np.float64)
    taylor: F64 = (-1.0) ** orders / (factorial(orders) * (2 * orders + 1)) * 2.0 / np.sqrt(np.pi)
    near = graph.add("Mul", x, polynomial(square, taylor))
    size = graph.add("Abs", x)
    reach = graph.add("Div", number(2.0), graph.add("Add", size, number(2.0)))
    u = graph.add("Sub", graph.add("Mul", reach, number(2.0)), number(1.0))
    exponent = graph.add("Sub", polynomial(u, power), square)
    rest = graph.add("Mul", reach, graph.add("Exp", exponent))
    far = graph.add("Mul", graph.add("Sign", x), graph.add("Sub", number(1.0), rest))
    return graph.add("Where", graph.add("Less", size, number(0.5)), near, far)


GAUSSIAN: Final[dict[type, Callable[[Any, Graph, str], Head]]] = {
    GaussianProcessClassifier: _classifier,
    GaussianProcessRegressor: _regressor,
}
