"""The ``edge-convert`` command: bundles from trained models."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edge_agent import __version__
from edge_agent.command import run_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converter.order import Order

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_OUTPUT = click.Path(dir_okay=False, path_type=Path, writable=True)


def main() -> None:
    """Run the command."""
    run_command("edge-convert", cli)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-convert")
def cli() -> None:
    """Turn a trained model into a verified bundle that a device can run."""


@cli.command()
@click.argument("recipes", type=_FILE, nargs=-1, required=True, metavar="RECIPE...")
@click.option("--output", type=_FOLDER, help="Folder for the results, in place of the recipe's.")
@click.option("--jobs", type=click.IntRange(1), help="So many at once; by default a core less.")
@click.option("--measure", is_flag=True, help="Measure anew, although figures are kept.")
@click.option(
    "--target",
    type=_FILE,
    multiple=True,
    help="Figures of the device that is to run the model; several files: again.",
)
@click.option("--forms", type=_FOLDER, help="Put every form there, to be measured on the device.")
@click.option("--tensorboard", type=_FOLDER, help="Put a TensorBoard run of every form there.")
@click.option("--mlflow-log", is_flag=True, help="Log the bundle to MLflow, with tags.")
@click.option("--json", "json_file", type=_OUTPUT, help="Write the figures there.")
def build(
    recipes: tuple[Path, ...],
    *,
    output: Path | None,
    jobs: int | None,
    measure: bool,
    target: tuple[Path, ...],
    forms: Path | None,
    tensorboard: Path | None,
    mlflow_log: bool,
    json_file: Path | None,
) -> None:
    """Build the bundles and the reports that recipes describe.

    Leaves NAME-VERSION with the ends .bundle, .html, .report.json and .measured.json, or nothing.
    The last line is RESULT and the figures as JSON.

    Several recipes are built at once, each in a process of its own; one that fails leaves the
    others alone. The exit code is then how many failed, and RESULT a list.

    The form that wins here need not win on the device. With --forms DIR take DIR to the device,
    run 'python -m converter.forms.target DIR >device.json' there, and build with
    --target device.json. What 'edge-agent bench BUNDLE --json FILE' wrote there fits as well.

    Example: edge-convert build motion.yaml --output build
    """
    from converter.order import Order, carry_out

    if forms is not None and len(recipes) > 1:
        raise click.UsageError("--forms takes one recipe: the forms of several would mix")
    orders = [
        Order(
            recipe=str(recipe),
            output=_text(output),
            measure=measure,
            target=tuple(map(str, target)),
            forms=_text(forms),
            tensorboard=_text(tensorboard),
            mlflow_log=mlflow_log,
        )
        for recipe in recipes
    ]
    if len(orders) > 1:
        _build_many(orders, jobs or max(1, (os.cpu_count() or 2) - 1), json_file)
        return
    done = carry_out(orders[0], _progress)
    for note in done.built.notes:
        click.echo(f"note: {note}")
    for variant in done.built.manifest.variants:
        click.echo(f"{variant.name}: {variant.why}")
    click.echo(f"bundle  {done.built.bundle}")
    click.echo(f"report  {done.built.report}")
    _result(done.figures, json_file)


def _build_many(orders: Sequence[Order], jobs: int, json_file: Path | None) -> None:
    """Several recipes under one display; the exit code is how many failed."""
    from converter.display import make_display
    from converter.many import build_many, exit_code, results

    with make_display([order.recipe for order in orders]) as display:
        endings = build_many(orders, jobs=jobs, tell=display.tell)
    _result(results(endings), json_file)
    sys.exit(exit_code(endings))


@cli.command()
@click.argument("bundle", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def inspect(bundle: Path, *, as_json: bool) -> None:
    """Say what a bundle holds. Every digest in it is checked.

    Example: edge-convert inspect motion-1.0.0.bundle
    """
    from converter.reports.describe import describe
    from edge_agent.contract.bundle import read_bundle
    from edge_agent.contract.manifest import encode_manifest

    found = read_bundle(bundle)
    click.echo(encode_manifest(found.manifest).decode() if as_json else describe(found))


@cli.command()
@click.argument("bundle", type=_FILE)
@click.option("--data", type=_FILE, help="CSV or NPZ file to measure the bundle's quality on.")
@click.option("--label", multiple=True, help="Its label column or array; several targets: again.")
@click.option("--recording", help="CSV column that separates recordings.")
@click.option("--json", "json_file", type=_OUTPUT, help="Write the figures there.")
def verify(
    bundle: Path,
    *,
    data: Path | None,
    label: tuple[str, ...],
    recording: str | None,
    json_file: Path | None,
) -> None:
    """Repeat every check of a bundle on this machine, and measure it here.

    Digests, golden vectors, that its parts agree, and with data the quality of the answers: on the
    data that it was built with, they must be those that it states, within its accuracy budget.

    Example: edge-convert verify motion-1.0.0.bundle --data unseen.csv --label exercise
    """
    from converter.recipe import DataRecipe
    from converter.verify import verify as run

    given = None
    if data is not None:
        given = DataRecipe(path=str(data), label=label or None, recording=recording)
    found = run(bundle, given)
    click.echo(f"{found.name} {found.version}: intact, {found.golden} golden vectors answered")
    if found.metric:
        click.echo(
            f"{found.metric} {found.value:.4f} on {found.windows} windows; the bundle states "
            f"{found.stated_metric} {found.stated:.4f} on its own"
        )
    if found.same_data:
        click.echo(f"these are its own: {found.moved} labels differ from those at the build")
    here, there = found.figures, found.stated_figures
    click.echo(
        f"one answer takes {here.p50_us:.1f} µs (stated {there.p50_us:.1f}), loading "
        f"{here.load_ms:.1f} ms ({there.load_ms:.1f}) and {here.rss_bytes / 2**20:.1f} MiB "
        f"({there.rss_bytes / 2**20:.1f}), on {found.machine}"
    )
    _result(found, json_file)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _progress(step: str) -> None:
    """Say what comes next, where a person is watching."""
    if sys.stderr.isatty():
        click.echo(f"… {step}", err=True)


def _result(figures: object, json_file: Path | None) -> None:
    """The last line, and the file that was asked for."""
    data = msgspec.json.encode(figures)
    if json_file is not None:
        json_file.write_bytes(data + b"\n")
    click.echo(b"RESULT " + data)


if __name__ == "__main__":
    main()
