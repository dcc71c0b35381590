"""A TensorBoard run for each form of a model: the only importer of tensorboard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from converter.frontends import require_package
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import Manifest, Variant


def write_runs(folder: Path, manifest: Manifest) -> None:
    """Write the figures of every form as scalars, in a run ``NAME-VERSION/FORM`` of its own.

    Raises:
        ConfigError: tensorboard is not installed, or the folder cannot be written.
    """
    for variant in manifest.variants:
        run = folder / f"{manifest.name}-{manifest.version}" / variant.name
        try:
            _write(run, _scalars(variant))
        except OSError as exc:
            raise ConfigError(f"{run}: {exc.strerror}") from exc


def _write(run: Path, scalars: Mapping[str, float]) -> None:
    """One event file in place of those of earlier builds."""
    writer = require_package("tensorboard.summary.writer.event_file_writer", "tensorboard")
    events = require_package("tensorboard.compat.proto.event_pb2", "tensorboard")
    summaries = require_package("tensorboard.compat.proto.summary_pb2", "tensorboard")
    run.mkdir(parents=True, exist_ok=True)
    for old in run.glob("events.out.tfevents.*"):
        old.unlink()
    values = [summaries.Summary.Value(tag=tag, simple_value=v) for tag, v in scalars.items()]
    out = writer.EventFileWriter(str(run))
    out.add_event(events.Event(step=0, summary=summaries.Summary(value=values)))
    out.close()


def _scalars(variant: Variant) -> dict[str, float]:
    figures, parity = variant.figures, variant.parity
    return {
        "chosen": float(variant.chosen),
        "cost/file_bytes": figures.file_bytes,
        "cost/rss_bytes": figures.rss_bytes,
        "cost/load_ms": figures.load_ms,
        "cost/p50_us": figures.p50_us,
        "cost/p99_us": figures.p99_us,
        f"parity/{parity.metric}": parity.converted,
        "parity/label_flips": parity.label_flips,
        "parity/score_error_max": parity.score_error_max,
        "parity/score_error_mean": parity.score_error_mean,
    }
