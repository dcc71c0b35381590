"""Which metrics say nothing that a later one does not say again: pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from edge_agent.outbox.boots import Boots


class _Head(msgspec.Struct):
    kind: str = ""
    pipeline: str = ""


def superseded(rows: Sequence[tuple[int, bytes]], boots: Boots) -> list[int]:
    """Positions of every other one of a pipeline's metrics, but the first and last of a boot.

    Counters and histograms are totals since the agent started, so what is left is the same
    record at a coarser interval.

    Args:
        rows: (position, body) of metrics, rising.
        boots: which positions belong to one start of the agent.
    """
    groups: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
    for position, body in rows:
        metrics = msgspec.json.decode(body, type=_Head)
        if metrics.kind == "metrics":
            groups[boots.at(position).base, metrics.pipeline].append(position)
    return sorted(position for group in groups.values() for position in group[1:-1:2])
