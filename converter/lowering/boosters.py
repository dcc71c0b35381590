"""What models of the boosting libraries have in common: trees, links, sets of categories.

A library's own file becomes an estimator of scikit-learn's manners (:class:`BoosterClassifier`,
:class:`BoosterRegressor`) that asks the library itself and knows its ONNX form, so that window
features, labels and checks are the same as for every other estimator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier

from converter.frontends import Context, Imported
from converter.frontends.sklearn import import_estimator
from converter.lowering.graph import Graph
from converter.lowering.heads import Head, both_sides
from converter.lowering.trees import Tree, ensemble
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError

F64 = NDArray[np.float64]
CATEGORIES_MAX: Final = 1 << 16  # codes of one channel; a look-up row is kept for each
_TABLE_N_MAX: Final = 1 << 22  # entries of one channel's look-up table, 16 MiB
NAN_NOTE: Final = (
    "The device holds or skips missing values as each channel says, so the way of a missing value "
    "through the trees is kept but never taken."
)

ClassLink = Literal["logistic", "softmax", "one_vs_rest", "step", "decision"]
ValueLink = Literal["identity", "exp", "sigmoid", "square", "log1p_exp"]
Link = ClassLink | ValueLink
CLASS_LINKS: Final = frozenset({"logistic", "softmax", "one_vs_rest", "step", "decision"})


class Categories:
    """The sets of categories that trees ask about, each of them a further column of their input.

    A tree node compares such a column, 1 inside the set and 0 outside, with 0.5: whatever the
    number of categories, this is one look-up, and the trees remain plain.

    Args:
        inputs: columns without these.
        floor: codes between two whole numbers belong to the lower one; otherwise to the one
            nearer to zero.
    """

    def __init__(self, inputs: int, *, floor: bool = False) -> None:
        self._inputs = inputs
        self._floor = floor
        self._columns: dict[tuple[int, frozenset[int], bool], int] = {}

    def column(self, feature: int, members: Iterable[int], *, missing: bool = False) -> int:
        """The column that is 1 where a feature is in a set.

        Args:
            feature: column of the input.
            members: whole numbers from 0.
            missing: whether NaN counts as in the set.

        Raises:
            ConfigError: a category beyond :data:`CATEGORIES_MAX`.
        """
        chosen = frozenset(members)
        if chosen and max(chosen) >= CATEGORIES_MAX:
            raise ConfigError(
                f"column {feature} has the category {max(chosen)}: number the categories from 0 "
                f"to at most {CATEGORIES_MAX - 1}"
            )
        return self._columns.setdefault(
            (feature, chosen, missing), self._inputs + len(self._columns)
        )

    def extend(self, graph: Graph, x: str) -> str:
        """The input (N, inputs) with a column for each set, (N, inputs + sets).

        Raises:
            ConfigError: too many different sets of too many categories.
        """
        parts = [x]
        order = []
        for feature in sorted({key[0] for key in self._columns}):
            keys = [key for key in self._columns if key[0] == feature]
            parts.append(self._look_up(graph, x, feature, keys))
            order += [self._columns[key] - self._inputs for key in keys]
        if len(parts) == 1:
            return x
        if order != sorted(order):
            places = [*range(self._inputs), *(self._inputs + np.argsort(order))]
            joined = graph.add("Concat", *parts, axis=1)
            return graph.add("Gather", joined, graph.constant(places, np.int64), axis=1)
        return graph.add("Concat", *parts, axis=1)

    def _look_up(
        self, graph: Graph, x: str, feature: int, keys: Sequence[tuple[int, frozenset[int], bool]]
    ) -> str:
        """The columns of one feature: row ``code`` of a table that ends in (other, NaN, below 0).

        Negative indices count from the end, so that -1 and -2 are rows like the others.
        """
        beyond = 1 + max((max(members, default=0) for _, members, _ in keys), default=0)
        if (beyond + 3) * len(keys) > _TABLE_N_MAX:
            raise ConfigError(
                f"column {feature} has {beyond} categories in {len(keys)} different sets, too many "
                "for a device: merge rare categories, or train fewer trees"
            )
        table = np.zeros((beyond + 3, len(keys)), np.float32)
        for place, (_, members, missing) in enumerate(keys):
            table[list(members), place] = 1.0
            table[-2, place] = float(missing)
        code = graph.add("Gather", x, graph.constant(feature, np.int64), axis=1)
        empty = graph.add("IsNaN", code)
        code = graph.add("Floor", code) if self._floor else code
        code = graph.add("Clip", code, graph.constant(-1.0), graph.constant(float(beyond)))
        code = graph.add("Where", empty, graph.constant(-2.0), code)
        return graph.add("Gather", graph.constant(table), graph.cast(code, np.int64), axis=0)


@dataclass(frozen=True)
class Boosted:
    """A boosted model as it was read.

    Attributes:
        trees: with leaf values (nodes, K), shrinkage and weights of the trees included.
        base: (K,) what the sum starts from; empty for nothing.
        link: from the sum to scores or values.
        scale: the sum is multiplied by it before the link.
        average: the mean of the trees instead of their sum.
        categories: the columns that trees ask for beyond the input.
        blank_up_to: (inputs,) a value of at most this size is a missing one; None for none.
        notes: what a reader of the report should know.
    """

    trees: Sequence[Tree]
    base: Sequence[float]
    link: Link
    scale: float = 1.0
    average: bool = False
    categories: Categories | None = None
    blank_up_to: F64 | None = None
    notes: tuple[str, ...] = ()


def lower_boosted(model: Boosted, graph: Graph, x: str) -> Head:
    """The nodes of a boosted model: look-ups of categories, one tree ensemble, the link."""
    if model.blank_up_to is not None:
        blank = graph.add("LessOrEqual", graph.add("Abs", x), graph.constant(model.blank_up_to))
        x = graph.add("Where", blank, graph.constant(np.nan), x)
    if model.categories is not None:
        x = model.categories.extend(graph, x)
    raw = ensemble(graph, x, model.trees, average=model.average, base=model.base)
    if model.scale != 1.0:
        raw = graph.add("Mul", raw, graph.constant(model.scale))
    return Head(_LINKS[model.link](graph, raw), notes=(*model.notes, NAN_NOTE))


def link_of(estimator: Any, link: Link, objective: object) -> Link:
    """The link behind an estimator of a library, which may use an objective of the other kind.

    Raises:
        ConfigError: the objective does not make what the estimator predicts.
    """
    classifies = is_classifier(estimator)
    if link in {"logistic", "sigmoid"}:
        return "logistic" if classifies else "sigmoid"
    if classifies != (link in CLASS_LINKS) or link == "decision":
        kind = "probabilities of classes" if classifies else "values of a regression"
        raise ConfigError(
            f"{type(estimator).__name__} with objective {objective!r} gives no {kind}: fit it with "
            "its default objective"
        )
    return link


def _step(graph: Graph, raw: str) -> str:
    return both_sides(graph, graph.cast(graph.add("Greater", raw, graph.constant(0.0)), np.float32))


def _decision(graph: Graph, raw: str) -> str:
    return graph.add("Concat", graph.add("Neg", raw), raw, axis=1)


_LINKS: Final[dict[Link, Callable[[Graph, str], str]]] = {
    "logistic": lambda graph, raw: both_sides(graph, graph.add("Sigmoid", raw)),
    "softmax": lambda graph, raw: graph.add("Softmax", raw, axis=1),
    "one_vs_rest": lambda graph, raw: graph.add("Sigmoid", raw),
    "step": _step,
    "decision": _decision,
    "identity": lambda _, raw: raw,
    "exp": lambda graph, raw: graph.add("Exp", raw),
    "sigmoid": lambda graph, raw: graph.add("Sigmoid", raw),
    "square": lambda graph, raw: graph.add("Mul", raw, graph.add("Abs", raw)),
    "log1p_exp": lambda graph, raw: graph.add("Softplus", raw),
}


class _Booster(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A model file of a boosting library as a fitted estimator.

    Args:
        model: as it was read.
        ask: rows float32 (n, inputs) to what the library answers: scores (n, K) of a classifier,
            values (n, targets) of a regressor.
        inputs: columns.
        names: of the columns; empty where the file has none.
    """

    def __init__(
        self, model: Boosted, ask: Callable[[F32], F64], *, inputs: int, names: Sequence[str] = ()
    ) -> None:
        self.model = model
        self.ask = ask
        self.inputs = self.n_features_in_ = inputs
        self.names = names
        if names:
            self.feature_names_in_ = np.array(names, dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, *_: object) -> Self:
        """Nothing: it is fitted. scikit-learn takes nothing without it for an estimator."""
        return self

    def onnx_form(self, graph: Graph, x: str) -> str:
        """Scores or values; see :mod:`converter.lowering.lower`."""
        return lower_boosted(self.model, graph, x).scores


class BoosterClassifier(ClassifierMixin, _Booster):  # type: ignore[misc]  # as above
    """A classifier; ``classes`` are its labels in the order of the scores."""

    def __init__(
        self,
        model: Boosted,
        ask: Callable[[F32], F64],
        *,
        inputs: int,
        names: Sequence[str] = (),
        classes: NDArray[Any],
    ) -> None:
        super().__init__(model, ask, inputs=inputs, names=names)
        self.classes = self.classes_ = classes

    def predict_proba(self, x: F32) -> F64:
        """The library's scores (n, classes)."""
        return self.ask(x)

    def predict(self, x: F32) -> NDArray[Any]:
        """The class with the largest score; the first of equal ones, as the libraries do it."""
        return np.asarray(self.classes_[self.ask(x).argmax(axis=1)])


class BoosterRegressor(RegressorMixin, _Booster):  # type: ignore[misc]  # as above
    """A regression."""

    def predict(self, x: F32) -> F64:
        """The library's values (n, targets)."""
        return self.ask(x)


@contextmanager
def reading(library: str) -> Iterator[None]:
    """Whatever goes wrong while a model file is read, the file is to blame.

    Raises:
        ConfigError: instead of every other exception.
    """
    try:
        yield
    except ConfigError:
        raise
    # A damaged file makes the libraries raise almost anything.
    except Exception as exc:
        first = (str(exc).strip() or type(exc).__name__).splitlines()[0][:200]
        raise ConfigError(
            f"{library} cannot read it: {type(exc).__name__}: {first}; save it again by save_model"
        ) from exc


def import_booster(estimator: _Booster, context: Context) -> Imported:
    """Understand a model file like an estimator of scikit-learn.

    Raises:
        ConfigError: as :func:`converter.frontends.sklearn.import_estimator`.
    """
    return import_estimator(
        estimator,
        length=context.length,
        channels=context.channels,
        rate_hz=context.rate_hz,
        features=context.features,
        labels=context.labels,
        notes=(*estimator.model.notes, NAN_NOTE),
    )


def two_sided(second: NDArray[Any]) -> F64:
    """Scores (n, 2) from the probability of the second class."""
    p = np.asarray(second, dtype=np.float64).reshape(-1)
    return np.stack([1.0 - p, p], axis=1)


def softmax(raw: NDArray[Any]) -> F64:
    """Class probabilities from raw sums (n, K)."""
    wide = np.asarray(raw, dtype=np.float64)
    power = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(power / power.sum(axis=1, keepdims=True))
