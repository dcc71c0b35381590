"""scikit-learn: a fitted estimator or pipeline as a float graph and as its own reference."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils.validation import check_is_fitted

from converter.features import WindowFeatures
from converter.frontends import Answers, Context, FeatureSpec, Imported
from converter.frontends.files import load_estimator
from converter.frontends.frames import framing
from converter.lowering.graph import Graph
from converter.lowering.heads import Head, class_index, class_scores, task_of
from converter.lowering.lower import lower_head
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import INPUT_NAME, Output, Task

ANOMALY_LABELS = ("normal", "anomaly")


@dataclass(frozen=True)
class _Shape:
    """What the device delivers."""

    length: int
    channels: tuple[str, ...]
    rate_hz: float


def import_file(path: Path, context: Context) -> Imported:
    """Read a fitted estimator from a ``.skops`` file, or with consent from a pickle.

    Raises:
        ConfigError: see :func:`converter.frontends.import_model`.
    """
    estimator, notes = load_estimator(
        path, trust=context.trust, consent_pickle=context.consent_pickle
    )
    return import_estimator(
        estimator,
        length=context.length,
        channels=context.channels,
        rate_hz=context.rate_hz,
        features=context.features,
        labels=context.labels,
        notes=notes,
    )


def import_estimator(
    estimator: Any,
    *,
    length: int,
    channels: tuple[str, ...],
    rate_hz: float,
    features: FeatureSpec | None = None,
    labels: tuple[str, ...] | None = None,
    notes: tuple[str, ...] = (),
) -> Imported:
    """Understand a fitted estimator; arguments as in :func:`converter.frontends.import_model`.

    A pipeline that starts with a window transformer is given windows (n, length, channels);
    everything else (n, length * channels), oldest reading first.

    Raises:
        ConfigError: not fitted, of another input size, or without an ONNX form.
    """
    shape = _Shape(length, channels, rate_hz)
    task = task_of(estimator)
    _require_fitted(estimator)
    if isinstance(estimator, BaseSearchCV):
        estimator = estimator.best_estimator_
    model = _prepend(estimator, features, shape)
    _require_fit(model, shape)
    original = _original(model, task)
    width = _probe(original, model, task, shape)
    graph = Graph()
    head = _lower(model, graph)
    outputs = _outputs(task, head, width)
    proto = graph.finish(outputs, length=length, channels=len(channels))
    names, compute = _estimator_inputs(model, shape)
    return Imported(
        graph=proto,
        task=task,
        labels=_labels(model, task, labels),
        outputs=tuple(output for output, _ in outputs),
        original=original,
        estimator=_describe(model),
        feature_names=names,
        features=compute,
        notes=(*notes, *head.notes),
        keep_float=tuple(n.name for n in proto.graph.node if n.name not in graph.dense),
    )


def _prepend(estimator: Any, features: FeatureSpec | None, shape: _Shape) -> Any:
    """The estimator behind the window features that the recipe names."""
    if features is None:
        return estimator
    if _takes_windows(estimator):
        raise ConfigError(
            f"{_describe(estimator)} computes its own features: leave 'features' out of the recipe"
        )
    if isinstance(features, WindowFeatures):
        step = clone(features)
    else:
        step = WindowFeatures(features=tuple(features), rate_hz=shape.rate_hz)
    try:
        step.fit(np.zeros((1, shape.length, len(shape.channels)), dtype=np.float32))
    except ValueError as exc:
        raise ConfigError(f"features: {exc}") from exc
    expected = getattr(estimator, "n_features_in_", None)
    given = len(step.get_feature_names_out())
    if expected is not None and expected != given:
        raise ConfigError(
            f"{_describe(estimator)} expects {expected} inputs, the features of "
            f"{len(shape.channels)} channels are {given}: name those that it was trained on"
        )
    _require_order(estimator, step.get_feature_names_out(list(shape.channels)), "features")
    return Pipeline([("features", step), ("model", estimator)])


def _require_fitted(estimator: Any) -> None:
    try:
        # scikit-learn lets an unfitted Gaussian process pass, which answers from its prior.
        names = ["n_features_in_"] if isinstance(estimator, GaussianProcessRegressor) else None
        check_is_fitted(estimator, names)
    except NotFittedError as exc:
        raise ConfigError(
            f"{_describe(estimator)} is not fitted: call fit before you save it"
        ) from exc


def _require_fit(model: Any, shape: _Shape) -> None:
    """Refuse a model that expects other inputs than the device delivers."""
    count = len(shape.channels)
    if _takes_windows(model):
        for step in _window_steps(model):
            _require_same_windows(step, shape)
        return
    expected = getattr(model, "n_features_in_", None)
    given = shape.length * count
    if expected is not None and expected != given:
        raise ConfigError(
            f"{_describe(model)} expects {expected} inputs, a window of {shape.length} readings "
            f"of {count} channels has {given}: correct channels or window.length, or name the "
            "'features' that the model was trained on"
        )
    if shape.length == 1:
        _require_order(model, shape.channels, "channels")


def _require_order(model: Any, given: Iterable[str], what: str) -> None:
    """Refuse a model that was trained on a data frame with the same columns in another order."""
    names = [str(name) for name in getattr(model, "feature_names_in_", ())]
    if sorted(names) == sorted(given) and names != list(given):
        raise ConfigError(
            f"{_describe(model)} was trained on the columns {', '.join(names)}: list the {what} "
            "in this order"
        )


def _require_same_windows(step: Any, shape: _Shape) -> None:
    """Refuse a window transformer that was fitted on other windows."""
    fitted = getattr(step, "window_shape_", None)
    given = (shape.length, len(shape.channels))
    if fitted is not None and tuple(fitted) != given:
        raise ConfigError(
            f"{type(step).__name__} was fitted on windows of {fitted[0]} readings of {fitted[1]} "
            f"channels, the recipe gives {given[0]} of {given[1]}"
        )
    rate = getattr(step, "rate_hz", None)
    if rate is not None and rate != shape.rate_hz:
        raise ConfigError(
            f"{type(step).__name__} was made for {rate:g} readings per second, the recipe says "
            f"{shape.rate_hz:g}"
        )


def _takes_windows(step: Any) -> bool:
    """Whether an estimator wants (n, length, channels)."""
    if isinstance(step, Pipeline):
        return _takes_windows(step.steps[0][1])
    if isinstance(step, FeatureUnion):
        return any(_takes_windows(member) for _, member in step.transformer_list)
    return bool(getattr(step, "takes_windows", False))


def _window_steps(step: Any) -> list[Any]:
    """The window transformers at the start of a model."""
    if isinstance(step, Pipeline):
        return _window_steps(step.steps[0][1])
    if isinstance(step, FeatureUnion):
        return [found for _, member in step.transformer_list for found in _window_steps(member)]
    return [step] if _takes_windows(step) else []


def _original(model: Any, task: Task) -> Callable[[F32], Answers]:
    """The original model as a function of windows."""
    windows = _takes_windows(model)
    framed = framing(model)

    def answer(batch: F32) -> Answers:
        rows = np.asarray(batch, dtype=np.float32)
        rows = rows if windows else framed(rows.reshape(len(rows), -1))
        with _unnamed_inputs():
            return _ask(model, task, rows)

    return answer


def _ask(model: Any, task: Task, rows: Any) -> Answers:
    """Labels and scores of the original model."""
    if task == "classification":
        return Answers(class_index(model, rows), class_scores(model, rows))
    if task == "anomaly":
        labels = (np.asarray(model.predict(rows)) == -1).astype(np.int64)
        score = -np.asarray(model.decision_function(rows), dtype=np.float64)
        return Answers(labels, score.reshape(len(rows), 1))
    values = np.asarray(model.predict(rows), dtype=np.float64)
    return Answers(None, values.reshape(len(rows), -1))


def _probe(original: Callable[[F32], Answers], model: Any, task: Task, shape: _Shape) -> int:
    """The number of scores, from one window.

    Raises:
        ConfigError: the model cannot be asked, or is of a kind that the contract does not know.
    """
    try:
        answers = original(_ordinary(model, shape))
    # An estimator of another library raises that library's own errors.
    except Exception as exc:
        raise ConfigError(
            f"{_describe(model)} cannot answer a window of {shape.length} readings of "
            f"{len(shape.channels)} channels: {exc}"
        ) from exc
    width = int(answers.scores.shape[1])
    classes = len(model.classes_) if task == "classification" else width
    if classes != width:
        raise ConfigError(
            f"{_describe(model)} gives {width} scores for {classes} classes: for a support vector "
            "machine set decision_function_shape='ovr'"
        )
    if task == "classification" and classes < 2:
        raise ConfigError(f"{_describe(model)} was fitted on one class only: fit it on two or more")
    return width


def _ordinary(model: Any, shape: _Shape) -> F32:
    """A window that any model can answer: ones, or where only some values are known, those."""
    windows = np.ones((1, shape.length, len(shape.channels)), dtype=np.float32)
    if not _takes_windows(model):
        row = windows.reshape(-1)
        row[:] = _known_values(model, row)
    return windows


def _known_values(step: Any, row: F32) -> F32:
    """A row with values that an encoder at the start of a model was fitted on."""
    if isinstance(step, Pipeline):
        return _known_values(step.steps[0][1], row)
    row = row.copy()
    if isinstance(step, ColumnTransformer):
        # The columns as numbers, whichever way they were named; there is no public form.
        columns = step._transformer_to_input_indices  # noqa: SLF001
        for name, member, _ in step.transformers_:
            chosen = list(columns[name])
            row[chosen] = _known_values(member, row[chosen])
        return row
    for number, values in enumerate(getattr(step, "categories_", ())):
        if np.asarray(values).dtype.kind in "iuf":
            row[number] = values[0]
    return row


def _lower(model: Any, graph: Graph) -> Head:
    """The nodes of the whole model."""
    x = INPUT_NAME if _takes_windows(model) else graph.add("Flatten", INPUT_NAME, axis=1)
    with _unnamed_inputs():
        return lower_head(model, graph, x)


@contextmanager
def _unnamed_inputs() -> Iterator[None]:
    """Ask with arrays what was trained on a data frame; the order is checked on import."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        yield


def _outputs(task: Task, head: Head, width: int) -> list[tuple[Output, str]]:
    """The outputs, each with the tensor that it takes its value from."""
    if task == "regression":
        return [(Output(name="value", role="value", width=width), head.scores)]
    outputs = [(Output(name="scores", role="scores", width=width), head.scores)]
    if head.label is not None:
        outputs.append((Output(name="label", role="label", width=1), head.label))
    return outputs


def _labels(model: Any, task: Task, names: tuple[str, ...] | None) -> tuple[str, ...]:
    """The names of the classes."""
    if task == "regression":
        if names:
            raise ConfigError("a regression has no labels: leave 'labels' out of the recipe")
        return ()
    own: tuple[str, ...] = ANOMALY_LABELS
    if task == "classification":
        own = tuple(str(value) for value in np.asarray(model.classes_).tolist())
    if names is not None and len(names) != len(own):
        raise ConfigError(
            f"{_describe(model)} has {len(own)} classes ({', '.join(own)}), labels names "
            f"{len(names)}"
        )
    return names or own


def _estimator_inputs(
    model: Any, shape: _Shape
) -> tuple[tuple[str, ...], Callable[[F32], NDArray[np.float64]]]:
    """Names and values of what the estimator proper is given."""
    first = model.steps[0][1] if isinstance(model, Pipeline) else None
    if _takes_windows(model) and first is not None:

        def transform(windows: F32) -> NDArray[np.float64]:
            return np.asarray(first.transform(windows), dtype=np.float64)

        if hasattr(first, "get_feature_names_out"):
            names = first.get_feature_names_out(list(shape.channels))
            return tuple(str(name) for name in names), transform
        blank = np.ones((1, shape.length, len(shape.channels)), dtype=np.float32)
        return tuple(f"f{i}" for i in range(transform(blank).shape[1])), transform

    def flatten(windows: F32) -> NDArray[np.float64]:
        return np.asarray(windows, dtype=np.float64).reshape(len(windows), -1)

    if shape.length == 1:
        return shape.channels, flatten
    return tuple(f"{c}[{t}]" for t in range(shape.length) for c in shape.channels), flatten


def _describe(model: Any) -> str:
    """The steps of a model by class name."""
    if isinstance(model, Pipeline):
        return " > ".join(_describe(step) for _, step in model.steps)
    return model if isinstance(model, str) else type(model).__name__
