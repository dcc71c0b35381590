"""An order to build one recipe, as the command line gives it, and how it is carried out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from converter.recipe import load_recipe

if TYPE_CHECKING:
    from converter.convert import Built


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be built, and what becomes of it.

    Attributes:
        recipe: path of the file.
        output: folder for the results, in place of the recipe's.
        measure: measure anew, although figures are kept.
        target: files with the figures of another machine.
        forms: folder that receives every form of the model.
        tensorboard: folder that receives a run for each form.
        mlflow_log: log the bundle to MLflow.
    """

    recipe: str
    output: str | None = None
    measure: bool = False
    target: tuple[str, ...] = ()
    forms: str | None = None
    tensorboard: str | None = None
    mlflow_log: bool = False


@dataclass(frozen=True)
class Done:
    """A finished build, with where it was logged: an MLflow run, or empty."""

    built: Built
    mlflow_run: str = ""

    @property
    def figures(self) -> dict[str, Any]:
        """What a program wants to know of it."""
        chosen = self.built.manifest.chosen
        figures = {
            "bundle": str(self.built.bundle),
            "report": str(self.built.report),
            "sha256": self.built.digest,
            "name": self.built.manifest.name,
            "version": self.built.manifest.version,
            "chosen": chosen.name,
            **msgspec.structs.asdict(chosen.parity),
            **msgspec.structs.asdict(chosen.figures),
        }
        return figures | ({"mlflow_run": self.mlflow_run} if self.mlflow_run else {})


def carry_out(order: Order, progress: Callable[[str], None]) -> Done:
    """Build what an order says.

    Raises:
        EdgeError: as :func:`converter.build`.
    """
    # Only now: scikit-learn and onnx need seconds to import.
    from converter.convert import build  # noqa: PLC0415
    from converter.forms.target import read_target  # noqa: PLC0415
    from converter.registry import log_bundle  # noqa: PLC0415
    from converter.reports.tensorboard import write_runs  # noqa: PLC0415

    recipe = load_recipe(Path(order.recipe))
    if order.output is not None:
        recipe = msgspec.structs.replace(recipe, output=order.output)
    built = build(
        recipe,
        measure_anew=order.measure,
        target=read_target(*map(Path, order.target)) if order.target else None,
        forms_folder=None if order.forms is None else Path(order.forms),
        progress=progress,
    )
    if order.tensorboard is not None:
        write_runs(Path(order.tensorboard), built.manifest)
    if not order.mlflow_log:
        return Done(built)
    progress("logging to MLflow")
    return Done(built, log_bundle(built))
