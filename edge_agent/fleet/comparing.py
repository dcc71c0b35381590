"""How ``publish`` is told to compare a bundle before it decides."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from edge_agent.contract.errors import ConfigError
from edge_agent.contract.experiment import WHOLE_PPM, Experiment
from edge_agent.settings import load_settings

_PERCENT: Final = 100


def _share(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """``10%`` in millionths."""
    if value is None:
        return None
    try:
        share_ppm = round(float(value.removesuffix("%")) * WHOLE_PPM / _PERCENT)
    except (OverflowError, ValueError):
        share_ppm = 0
    if not (value.endswith("%") and 0 < share_ppm < WHOLE_PPM):
        raise click.BadParameter(f"{value!r} is no share between 0% and 100%")
    return share_ppm


_OPTIONS: Final = (
    click.option("--shadow", is_flag=True, help="First compare it: it runs and does not act."),
    click.option(
        "--ab",
        "share_ppm",
        callback=_share,
        metavar="SHARE%",
        help="First compare it: it decides in a share of the time, judged by labels.",
    ),
    click.option(
        "--rule",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="YAML file with the rule of the comparison, where it is not the default.",
    ),
)


def compare_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options above; it takes them as ``experiment: Experiment | None``."""

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        fields = {name: values.pop(name) for name in ("shadow", "share_ppm", "rule")}
        command(experiment=experiment_of(**fields), **values)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def experiment_of(*, shadow: bool, share_ppm: int | None, rule: Path | None) -> Experiment | None:
    """The rule of a comparison; None for no comparison.

    Args:
        shadow: the candidate does not act, whatever the file says.
        share_ppm: it acts in this share of the slots or sensors, whatever the file says.
        rule: file with fields of an :class:`Experiment`.

    Raises:
        ConfigError: the options or the fields contradict each other.
    """
    if shadow and share_ppm is not None:
        raise ConfigError("--shadow and --ab do not go together: choose one")
    if not shadow and share_ppm is None and rule is None:
        return None
    said = load_settings(rule, Experiment) if rule else Experiment()
    if shadow:
        said = msgspec.structs.replace(said, kind="shadow")
    if share_ppm is not None:
        said = msgspec.structs.replace(said, kind="ab", judge="accuracy", share_ppm=share_ppm)
    if fault := said.fault:
        raise ConfigError(f"{rule or 'the comparison'}: {fault}")
    return said
