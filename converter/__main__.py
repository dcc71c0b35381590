"""The ``edge-convert`` command: bundles from trained models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edge_agent import __version__
from edge_agent.contract.errors import EdgeError

if TYPE_CHECKING:
    from converter.convert import Built

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_OUTPUT = click.Path(dir_okay=False, path_type=Path, writable=True)


def main() -> None:
    """Run the command; errors that we raise on purpose become one line and an exit code."""
    try:
        cli.main(standalone_mode=False)
    except EdgeError as exc:
        click.echo(f"edge-convert: {exc}", err=True)
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-convert")
def cli() -> None:
    """Turn a trained model into a verified bundle that a device can run."""


@cli.command()
@click.argument("recipe", type=_FILE)
@click.option("--output", type=_FOLDER, help="Folder for the results, in place of the recipe's.")
@click.option("--measure", is_flag=True, help="Measure anew, although figures are kept.")
@click.option("--target", type=_FILE, help="Figures of the device that is to run the model.")
@click.option("--forms", type=_FOLDER, help="Put every form there, to be measured on the device.")
@click.option("--json", "json_file", type=_OUTPUT, help="Write the figures there.")
def build(
    recipe: Path,
    *,
    output: Path | None,
    measure: bool,
    target: Path | None,
    forms: Path | None,
    json_file: Path | None,
) -> None:
    """Build the bundle and the report that a recipe describes.

    Leaves NAME-VERSION.bundle, NAME-VERSION.html and NAME-VERSION.measured.json, or nothing. The
    last line is RESULT and the figures as JSON.

    The form that wins here need not win on the device. With --forms DIR take DIR to the device,
    run 'python -m converter.target DIR >device.json' there, and build with --target device.json.

    Example: edge-convert build motion.yaml --output build
    """
    from converter import build as run
    from converter.recipe import load_recipe
    from converter.target import read_target

    wanted = load_recipe(recipe)
    if output is not None:
        wanted = msgspec.structs.replace(wanted, output=str(output))
    built = run(
        wanted,
        measure_anew=measure,
        target=None if target is None else read_target(target),
        forms_folder=forms,
        progress=_progress,
    )
    for note in built.notes:
        click.echo(f"note: {note}")
    for variant in built.manifest.variants:
        click.echo(f"{variant.name}: {variant.why}")
    click.echo(f"bundle  {built.bundle}")
    click.echo(f"report  {built.report}")
    _result(_figures(built), json_file)


@cli.command()
@click.argument("bundle", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def inspect(bundle: Path, *, as_json: bool) -> None:
    """Say what a bundle holds. Every digest in it is checked.

    Example: edge-convert inspect motion-1.0.0.bundle
    """
    from converter.describe import describe
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
    """Check digests and golden vectors, and with data also the quality of the answers.

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
    _result(found, json_file)


def _progress(step: str) -> None:
    """Say what comes next, where a person is watching."""
    if sys.stderr.isatty():
        click.echo(f"… {step}", err=True)


def _figures(built: Built) -> dict[str, object]:
    """What a program wants to know of a build."""
    chosen = built.manifest.chosen
    return {
        "bundle": str(built.bundle),
        "report": str(built.report),
        "sha256": built.digest,
        "name": built.manifest.name,
        "version": built.manifest.version,
        "chosen": chosen.name,
        **msgspec.structs.asdict(chosen.parity),
        **msgspec.structs.asdict(chosen.figures),
    }


def _result(figures: object, json_file: Path | None) -> None:
    """The last line, and the file that was asked for."""
    data = msgspec.json.encode(figures)
    if json_file is not None:
        json_file.write_bytes(data + b"\n")
    click.echo(b"RESULT " + data)


if __name__ == "__main__":
    main()
