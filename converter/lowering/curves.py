"""Piecewise functions of single columns: steps, lines between knots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from converter.lowering.graph import Graph

F64 = NDArray[np.float64]


def reached(graph: Graph, x: str, edges: Sequence[ArrayLike], *, inclusive: bool = True) -> str:
    """How many of its column's edges each value has reached, int64 (N, columns).

    Args:
        graph: receives the nodes.
        x: float64 (N, columns).
        edges: for each column ascending numbers; float64.
        inclusive: an edge counts when x >= edge, else when x > edge.
    """
    longest = max(len(np.asarray(column)) for column in edges)
    table = np.full((1, len(edges), max(longest, 1)), np.inf)
    for number, column in enumerate(edges):
        table[0, number, : len(np.asarray(column))] = column
    apart = graph.add("Unsqueeze", x, graph.constant([2], np.int64))
    op = "GreaterOrEqual" if inclusive else "Greater"
    over = graph.cast(graph.add(op, apart, graph.constant(table, np.float64)), np.int64)
    return graph.add("ReduceSum", over, graph.constant([2], np.int64), keepdims=0)


def looked_up(graph: Graph, places: str, tables: Sequence[ArrayLike]) -> str:
    """For each column the value at a place of its own table, float64 (N, columns).

    Args:
        graph: receives the nodes.
        places: int64 (N, columns), each within its column's table.
        tables: for each column its values.
    """
    longest = max(len(np.asarray(column)) for column in tables)
    flat = np.zeros((len(tables), longest))
    for number, column in enumerate(tables):
        flat[number, : len(np.asarray(column))] = column
    starts = graph.constant(np.arange(len(tables)) * longest, np.int64)
    return graph.add(
        "Gather", graph.constant(flat.ravel(), np.float64), graph.add("Add", places, starts), axis=0
    )


def interpolated(
    graph: Graph, x: str, knots: Sequence[ArrayLike], values: Sequence[ArrayLike]
) -> str:
    """``numpy.interp`` of each column of x float64 (N, columns), float64.

    Between two equal knots the later one holds, as there.
    """
    bases, heights, slopes = [], [], []
    for knot, value in zip(knots, values, strict=True):
        at, height = np.asarray(knot, np.float64), np.asarray(value, np.float64)
        steps = np.diff(at)
        rise = np.divide(np.diff(height), steps, out=np.zeros_like(steps), where=steps > 0)
        bases.append(np.concatenate([at[:1], at]))
        heights.append(np.concatenate([height[:1], height]))
        slopes.append(np.concatenate([[0.0], rise, [0.0]]))
    place = reached(graph, x, knots)
    away = graph.add("Sub", x, looked_up(graph, place, bases))
    risen = graph.add("Mul", away, looked_up(graph, place, slopes))
    return graph.add("Add", looked_up(graph, place, heights), risen)
