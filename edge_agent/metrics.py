"""Counters and latency histograms of one pipeline. Written by its thread, read from any.

A histogram has eight buckets for each power of two, so that a percentile, given as the middle of
its bucket, is within 1/16 (6.25 %) of the true one; recording is two shifts and two additions.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.contract.errors import StorageError
from edge_agent.contract.messages import Latency

STAGES: Final = ("read", "window", "infer", "decide", "offer", "total")
STAGES_EVERY: Final = 8  # windows; recording every one would take a tenth of the way's own time
_SUB_BITS: Final = 3  # eight buckets for each power of two
_NS_MAX: Final = (1 << 44) - 1  # 4.9 hours; what takes longer counts as this
_NS_PER_US: Final = 1000.0
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Counters(msgspec.Struct, kw_only=True):
    """Totals since the start; each field has one writing thread.

    Attributes:
        readings: rows that the source gave, those that were skipped included.
        crowded: readings of sensors beyond a pipeline's ``sensors_n_max``.
        skipped: readings left out of the window, by a channel's policy.
        missing: values that were NaN or infinite.
        out_of_range: values outside their channel's bounds.
        windows: windows that were complete, whether the model could answer or not.
        infer_errors: windows on which the model failed; those in ``not_finite`` included.
        not_finite: windows on which the model answered NaN or infinity.
        recorded: decisions offered as records.
        fired: decisions that fired.
        swaps: models taken over while running.
        source_errors: times that the source failed and was opened again.
    """

    readings: int = 0
    crowded: int = 0
    skipped: int = 0
    missing: int = 0
    out_of_range: int = 0
    windows: int = 0
    infer_errors: int = 0
    not_finite: int = 0
    recorded: int = 0
    fired: int = 0
    swaps: int = 0
    source_errors: int = 0


class Histogram:
    """Durations in logarithmic buckets. One thread records; any thread may read."""

    def __init__(self) -> None:
        self._counts = [0] * (_bucket(_NS_MAX) + 1)
        self._max = 0

    def record(self, ns: int) -> None:
        """Count one duration of ``ns`` nanoseconds, at least 0."""
        if ns > self._max:  # noqa: PLR1730 - a call of max() costs more than all the rest
            self._max = ns
        shift = ns.bit_length() - 1 - _SUB_BITS  # as _bucket(), without the call
        if shift > 0:
            self._counts[(shift << _SUB_BITS) + (ns >> shift) if ns <= _NS_MAX else -1] += 1
        else:
            self._counts[ns] += 1

    def counts(self) -> list[int]:
        """How often each bucket was hit so far, for :meth:`since`."""
        return self._counts.copy()  # one bytecode: what is recorded meanwhile is in or out

    def latency(self) -> Latency:
        """Count and percentiles so far, in microseconds; all 0 when nothing was recorded."""
        return self._latency(self.counts())

    def since(self, earlier: list[int]) -> Latency:
        """The same of what was recorded after ``earlier`` was counted; ``max`` is of all."""
        pairs = zip(self.counts(), earlier, strict=True)
        return self._latency([now - before for now, before in pairs])

    def _latency(self, counts: list[int]) -> Latency:
        total, largest = sum(counts), self._max
        p50, p99, p999 = (
            min(_quantile_ns(counts, total, share), largest) / _NS_PER_US
            for share in (0.5, 0.99, 0.999)
        )
        return Latency(n=total, p50=p50, p99=p99, p999=p999, max=largest / _NS_PER_US)


class Meters:
    """The counters of a pipeline, and one histogram for each stage of a decided window.

    Attributes:
        counters: totals.
        stages: by the names in :data:`STAGES`, of decided windows only: ``total`` of every one, the
            others of every eighth, the first included. ``read``: from the source
            giving the reading that completed the window to that reading's turn (checks, and the
            readings before it in the same block). ``window``, ``infer``, ``decide``, ``offer``:
            the steps of :mod:`edge_agent.pipeline`. ``total``: all of them together.
    """

    def __init__(self) -> None:
        self.counters = Counters()
        self.stages = {name: Histogram() for name in STAGES}

    def counts(self) -> dict[str, int]:
        """The counters by name."""
        return msgspec.structs.asdict(self.counters)

    def latency_us(self) -> dict[str, Latency]:
        """Percentiles by stage."""
        return {name: histogram.latency() for name, histogram in self.stages.items()}


def rss_bytes() -> int:
    """Resident memory of this process.

    Raises:
        StorageError: ``/proc`` cannot be read.
    """
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except OSError as exc:
        raise StorageError(f"/proc/self/statm: {exc.strerror}: mount /proc") from exc


def _bucket(ns: int) -> int:
    """Below 16 the number itself; above, eight buckets for each power of two, without a gap."""
    shift = max(0, ns.bit_length() - 1 - _SUB_BITS)
    return (shift << _SUB_BITS) + (ns >> shift)


def _middle_ns(bucket: int) -> float:
    """The middle of the durations that fall into a bucket; the inverse of :func:`_bucket`."""
    shift = max(0, (bucket >> _SUB_BITS) - 1)
    low = (bucket - (shift << _SUB_BITS)) << shift
    return low + ((1 << shift) - 1) / 2


def _quantile_ns(counts: list[int], total: int, share: float) -> float:
    """The middle of the bucket that holds the value of this rank."""
    rank, seen = share * total, 0
    for bucket, count in enumerate(counts):
        seen += count
        if count and seen >= rank:
            return _middle_ns(bucket)
    return 0.0
