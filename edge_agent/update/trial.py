"""Whether a new model does as well in the field as it did in the checks. Pure."""

from __future__ import annotations

from edge_agent.config import TrialConfig
from edge_agent.health import Health


def illness(health: Health, config: TrialConfig) -> str | None:
    """Why a model must go back; None while it may stay."""
    if health.fault:
        return health.fault
    if health.not_finite > config.not_finite_max:
        return f"{health.not_finite} answers were not finite, {config.not_finite_max} are allowed"
    errors = health.errors - health.not_finite
    if errors > config.errors_max:
        return f"it failed on {errors} windows, {config.errors_max} are allowed"
    decided = health.windows - health.errors
    if decided >= config.windows_min and health.infer_p99_us > config.latency_us_max:
        return (
            f"an inference takes {health.infer_p99_us:.0f} µs at the 99th percentile, "
            f"{config.latency_us_max:g} are allowed"
        )
    share_max = config.disagreement_max
    if share_max is not None and health.compared >= config.windows_min:
        share = health.disagreed / health.compared
        if share > share_max:
            return (
                f"it disagrees with the model before on {share:.1%} of {health.compared} windows, "
                f"{share_max:.1%} are allowed"
            )
    return None


def is_over(health: Health, config: TrialConfig, lasted_s: float) -> bool:
    """Whether a healthy model has been watched for long enough."""
    enough = lasted_s >= config.seconds and health.windows >= config.windows_min
    return enough or lasted_s >= config.longest_s
