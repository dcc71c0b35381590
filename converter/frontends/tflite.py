"""Float TFLite files: converted operator by operator, and judged by LiteRT's interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.frontends import Context, Imported, require_package
from converter.nets.net_graph import first_line
from converter.nets.network import Run, import_network
from converter.nets.tflite_file import TFLiteModel, read_tflite
from converter.nets.tflite_lower import lower_model, require_known
from edge_agent.contract.errors import ConfigError


def import_file(path: Path, context: Context) -> Imported:
    """Understand a ``.tflite`` file; see :func:`converter.frontends.import_model`.

    The original is the file as it is, run by LiteRT.

    Raises:
        ConfigError: LiteRT is not installed, a damaged or quantized file, operators without an
            ONNX form here, or something that the recipe's ``model_io`` must say.
    """
    model = read_tflite(path)
    require_known(model)
    network = lower_model(model)
    made_by = model.description.strip() or "TFLite model"
    run, notes = _original(path, model), _notes(model)
    return import_network(network, run, context, estimator=made_by, notes=notes)


def _notes(model: TFLiteModel) -> tuple[str, ...]:
    """What the graph leaves out."""
    limits = {getattr(op.options, "cellClip", 0) for op in model.ops} - {0}
    if not limits:
        return ()
    note = (
        f"Its LSTM keeps its cells within ±{max(limits):g}, which ONNX has no form for: windows on "
        "which a cell goes beyond show in the score error."
    )
    return (note,)


def _original(path: Path, model: TFLiteModel) -> Run:
    """The file as LiteRT runs it.

    Raises:
        ConfigError: it does not.
    """
    litert = require_package("ai_edge_litert.interpreter", "tflite")
    try:
        interpreter = litert.Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
    # LiteRT raises what its C++ says as one of these.
    except (RuntimeError, ValueError) as exc:
        raise ConfigError(f"LiteRT cannot load it: {first_line(exc)}") from exc
    names = {model.tensors[number].name: number for number in model.outputs}

    def run(feeds: dict[str, NDArray[Any]]) -> Mapping[str, Any]:
        # The cells of a recurrent layer would go on from the window before.
        interpreter.reset_all_variables()
        for number in model.inputs:
            interpreter.set_tensor(number, feeds[model.tensors[number].name])
        interpreter.invoke()
        return {name: np.array(interpreter.get_tensor(n)) for name, n in names.items()}

    return run
