"""Models that choose columns by name: they are asked with data frames, as they were trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer

from converter.frontends import require_package
from edge_agent.arrays import F32


def framing(model: Any) -> Callable[[F32], Any]:
    """How rows float32 (n, inputs) are handed to a model: as they are, or as a data frame.

    Args:
        model: fitted, takes rows.

    Raises:
        ConfigError: it needs frames, and pandas is not installed.
    """
    names = getattr(model, "feature_names_in_", None)
    by_name = any(_is_named(choice) for part in _parts(model) for choice in _choices(part))
    if names is None or not by_name:
        return lambda rows: rows
    pandas = require_package("pandas", "frames")
    return lambda rows: pandas.DataFrame(rows, columns=names)


def _parts(value: Any) -> Iterator[Any]:
    """An estimator and all that it is made of."""
    if isinstance(value, BaseEstimator):
        yield value
        value = list(vars(value).values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _parts(inner)


def _choices(part: Any) -> list[Any]:
    """The columns of each member, if this is what chooses columns."""
    if not isinstance(part, ColumnTransformer):
        return []
    return [columns for _, _, columns in getattr(part, "transformers_", ())]


def _is_named(columns: Any) -> bool:
    """Whether a choice of columns is by name: one, several, or from one to another."""
    if isinstance(columns, slice):
        columns = (columns.start, columns.stop)
    return isinstance(columns, str) or any(isinstance(column, str) for column in columns)
