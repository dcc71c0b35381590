"""What the validation data say is right, in terms of the model's labels or targets."""

from __future__ import annotations

from collections.abc import Sequence
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
        validation: its truth is compared as text, then as a number, then by its class names.
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
    codes = _codes(texts.tolist(), labels, own, validation.classes)
    if task == "anomaly" and None in codes:
        codes = next(
            ([code[text] for text in texts] for code in _ANOMALY_CODES if set(texts) == set(code)),
            codes,
        )
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
    texts: Sequence[str], labels: Sequence[str], own: Sequence[str], classes: Sequence[str]
) -> list[int | None]:
    """The index of each text in the model's labels, None where it is unknown."""
    known: dict[str | float, int] = {}
    for names in (own, labels):  # a name in `labels` wins over the model's own
        known |= {key: index for index, name in enumerate(names) for key in _keys(name)}

    def code(text: str) -> int | None:
        for key in _keys(text):
            if key in known:
                return known[key]
        number = _number(text)
        if number is not None and number.is_integer() and 0 <= number < len(classes):
            return known.get(classes[int(number)])
        return None

    return [code(text) for text in texts]


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
