"""Keras files: converted from their settings and weights, without Keras, and judged by Keras."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from converter.frontends import Context, Imported
from converter.nets.keras_file import KerasFile, read_keras
from converter.nets.keras_lower import lower_model, require_known
from converter.nets.keras_model import Call, KerasModel, foreign_classes, parse_model
from converter.nets.keras_reference import evaluate
from converter.nets.net_graph import first_line
from converter.nets.network import Run, import_network
from edge_agent.contract.errors import ConfigError

_BACKENDS: Final = ("tensorflow", "jax", "torch")


def import_file(path: Path, context: Context) -> Imported:
    """Understand a ``.keras`` or ``.h5`` file; see :func:`converter.frontends.import_model`.

    Nothing of the file is run. The original is Keras itself where it is installed and reads the
    file, else the same layers as float64 formulas, which a note says.

    Raises:
        ConfigError: h5py is not installed, a damaged file, layers that are code or have no form
            here, or something that the recipe's ``model_io`` must say.
    """
    file = read_keras(path)
    model = parse_model(file)
    require_known(model)
    network = lower_model(model, _shapes(model, context))
    run, notes = _original(path, file, model)
    made_by = f"Keras {model.version}".strip()
    return import_network(network, run, context, estimator=f"model by {made_by}", notes=notes)


def _shapes(model: KerasModel, context: Context) -> dict[str, tuple[int, ...]]:
    """The shapes of the inputs, what the file leaves open taken from the recipe.

    Raises:
        ConfigError: the recipe does not tell either.
    """
    said = context.model_io.shapes
    shapes = {}
    for name, shape in model.inputs.items():
        given = said[name][1:] if name in said else _filled(shape, context)
        agrees = len(given) == len(shape) and all(
            own in {None, axis} for own, axis in zip(shape, given, strict=True)
        )
        if not agrees:
            raise ConfigError(f"model_io.shapes.{name}: the file says {['?', *shape]}")
        shapes[name] = given
    return shapes


def _filled(shape: tuple[int | None, ...], context: Context) -> tuple[int, ...]:
    """A shape with one open axis, which is the length of a window."""
    if shape.count(None) > 1:
        raise ConfigError(
            f"its input leaves {list(shape)} open: write the whole shape under model_io.shapes"
        )
    return tuple(context.length if axis is None else int(axis) for axis in shape)


def _original(path: Path, file: KerasFile, model: KerasModel) -> tuple[Run, tuple[str, ...]]:
    """What to compare with, and a note when it is not Keras."""
    try:
        return _keras_run(path, file, model), ()
    # The fallback: Keras is absent, or of a version that does not read this file.
    except Exception as exc:  # noqa: BLE001  (whatever a backend raises while it is imported)
        note = (
            "The original was computed from the file by float64 formulas, because Keras was not "
            f"used: {first_line(exc).rstrip('.')}."
        )
    return lambda feeds: evaluate(model, feeds), (note,)


def _keras_run(path: Path, file: KerasFile, model: KerasModel) -> Run:
    """The model run by Keras."""
    if foreign := foreign_classes(file):
        # They do not change what the model answers, but Keras would import them.
        raise ConfigError(f"the file names {', '.join(foreign)}, which is not Keras's own")
    if "keras" not in sys.modules and "KERAS_BACKEND" not in os.environ:
        # Keras takes TensorFlow by default, installed or not.
        present = [name for name in _BACKENDS if importlib.util.find_spec(name)]
        if not present:
            raise ImportError(f"it needs one of {', '.join(_BACKENDS)}")
        os.environ["KERAS_BACKEND"] = present[0]
    import keras  # noqa: PLC0415  (takes seconds, and only this function needs it)

    if keras.backend.backend() == "torch" and any(_pads_a_mean(call) for call in model.calls):
        raise ConfigError(
            "its backend torch repeats the border in AveragePooling with padding='same', where "
            "those of TensorFlow and JAX leave it out"
        )
    loaded = keras.saving.load_model(path, compile=False, safe_mode=True)
    names = list(model.outputs)

    def run(feeds: dict[str, NDArray[Any]]) -> Mapping[str, Any]:
        given = [feeds[name] for name in model.inputs]
        made = loaded(given if len(given) > 1 else given[0], training=False)
        values = made if isinstance(made, (list, tuple)) else [made]
        arrays = [keras.ops.convert_to_numpy(value) for value in values]
        return dict(zip(names, arrays, strict=True))

    return run


def _pads_a_mean(call: Call) -> bool:
    return call.kind.startswith("AveragePooling") and call.config.get("padding") == "same"
