"""What the validation data say is right, in terms of the model's labels or targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from converter.data import Validation
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import Task

Classes = NDArray[np.int64]
Targets = NDArray[np.float64]
Truth = Classes | Targets | None

_ANOMALY_CODES: Final = ({"1": 0, "-1": 1}, {"0": 0, "1": 1})  # scikit-learn's, and the usual one


def true_classes(
    validation: Validation, task: Task, labels: Sequence[str], own: Sequence[str] = ()
) -> Classes | None:
    """The true label of each window as an index into ``labels``; None when there is no truth.

    Args:
        validation: its truth may hold indices into its class names, labels, the model's own
            class names, or for anomaly 1 and -1 or 0 and 1.
        task: classification must have a truth; anomaly need not.
        labels: of the model, renamed or not.
        own: the model's own class names where ``labels`` renames them.

    Raises:
        ConfigError: no label column, several, or an unknown label.
    """
    truth = validation.truth
    if truth is None and task == "anomaly":
        return None
    if truth is None or truth.shape[1] != 1:
        raise ConfigError(f"data.label: {task} needs one label column or array")
    texts, which = np.unique(truth[:, 0], return_inverse=True)
    codes = _codes(texts.tolist(), task, labels, own, validation.classes)
    if None in codes:
        number = codes.index(None)
        first = int(np.flatnonzero(which == number)[0])
        raise ConfigError(
            f"data.label: {str(texts[number])!r} ({validation.unit} {validation.ends[first]}) is "
            f"no label of the model; those are {', '.join(labels)}"
        )
    return np.asarray(codes, np.int64)[which]


def require_every(classes: Classes, labels: Sequence[str]) -> None:
    """Refuse validation data that leave a class out.

    Raises:
        ConfigError: they do.
    """
    counts = np.bincount(classes, minlength=len(labels))
    if (missing := np.flatnonzero(counts == 0)).size:
        names = ", ".join(repr(labels[index]) for index in missing.tolist())
        raise ConfigError(
            f"data.label: no validation window has the label {names}: add recordings of it, or "
            "nothing proves that its answers survive the conversion"
        )


def agreement(answered: Truth, truth: Truth, count: int) -> tuple[float, float]:
    """How often labels are right, and how often they would be if they knew nothing of the truth.

    Args:
        answered: labels (n,).
        truth: labels (n,).
        count: of classes.
    """
    said, right = np.asarray(answered, np.int64), np.asarray(truth, np.int64)
    shares = [np.bincount(labels, minlength=count) / len(labels) for labels in (said, right)]
    return float(np.mean(said == right)), float(shares[0] @ shares[1])


def true_targets(validation: Validation, targets: int) -> Targets:
    """The true values of each window, float64 (n, targets).

    Raises:
        ConfigError: not as many label columns as targets, or a value that is no finite number.
    """
    truth = validation.truth
    if truth is None or truth.shape[1] != targets:
        found = 0 if truth is None else truth.shape[1]
        raise ConfigError(
            f"data.label: names {found} columns, this regression has {targets} targets"
        )
    values = np.empty(truth.shape, np.float64)
    for at, text in np.ndenumerate(truth):
        number = _number(str(text))
        if number is None:
            raise ConfigError(
                f"data.label: {str(text)!r} ({validation.unit} {validation.ends[at[0]]}) is not a "
                "finite number"
            )
        values[at] = number
    if (constant := np.flatnonzero(np.ptp(values, axis=0) == 0)).size:
        raise ConfigError(
            f"data.label: target {constant[0]} is {values[0, constant[0]]:g} in every window, so "
            "R2 is undefined: give more varied recordings"
        )
    return values


def _codes(
    texts: Sequence[str],
    task: Task,
    labels: Sequence[str],
    own: Sequence[str],
    classes: Sequence[str],
) -> list[int | None]:
    """The index of each text in the model's labels, None where it is unknown.

    The first way to read the labels under which all of them are known holds for all of them.
    """
    by_label = _numbered(labels)
    named = {str(index): by_label[name] for index, name in enumerate(classes) if name in by_label}
    ways: list[Mapping[str | float, int]] = [_with_numbers(named), by_label, _numbered(own)]
    if task == "anomaly" and len(texts) == 2:  # 1 alone is normal in one code, not in the other
        ways += [_with_numbers(code) for code in _ANOMALY_CODES]
    for way in ways:
        found = [_look_up(way, text) for text in texts]
        if None not in found:
            return found
    return [_look_up(by_label, text) for text in texts]


def _look_up(way: Mapping[str | float, int], text: str) -> int | None:
    return next((way[key] for key in _keys(text) if key in way), None)


def _numbered(names: Sequence[str]) -> Mapping[str | float, int]:
    return _with_numbers({name: index for index, name in enumerate(names)})


def _with_numbers(indices: Mapping[str, int]) -> Mapping[str | float, int]:
    """The same indices under every key of each name."""
    return {key: index for name, index in indices.items() for key in _keys(name)}


def _keys(text: str) -> list[str | float]:
    """A label as written, and as a number where it is one: ``1`` is ``1.0``."""
    number = _number(text)
    return [text] if number is None else [text, number]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
