"""How the model of a pipeline is doing, for whoever judges it."""

from __future__ import annotations

import msgspec


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What one pipeline has seen since the model that it runs was taken over.

    Attributes:
        windows: that were complete.
        errors: windows on which the model failed, those in ``not_finite`` included.
        not_finite: windows on which it answered NaN or infinity.
        infer_p99_us: 99th percentile of an inference.
        compared: windows that a second model has answered too.
        disagreed: of those, how many got another label.
        fault: why the model that was handed over last does not run; empty when it does.
    """

    windows: int = 0
    errors: int = 0
    not_finite: int = 0
    infer_p99_us: float = 0.0
    compared: int = 0
    disagreed: int = 0
    fault: str = ""
