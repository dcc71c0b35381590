"""Weights stored as float16: half the file, the same computation in float32.

onnxruntime has no fast float16 arithmetic on most processors of edge devices. It widens the
weights once, when it loads the model, so that neither time nor memory change.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from converter.forms.absent import AbsentForm
from converter.forms.quantize import Layers

_VALUES_MIN: Final = 64  # a smaller constant weighs less than the node that widens it


def half_form(layers: Layers) -> bytes:
    """The graph with the weights of its layers in float16.

    Raises:
        AbsentForm: there are none of any size, or they do not fit float16.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(layers.graph)
    graph = copy.graph
    read = {name for node in graph.node if node.name in layers.names for name in node.input}
    widened = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name not in read or values.dtype != np.float32 or values.size < _VALUES_MIN:
            continue
        with np.errstate(over="ignore"):
            short = values.astype(np.float16)
        if not np.isfinite(short).all():
            raise AbsentForm("A weight is beyond 65504, the largest number of float16.")
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(short, f"{name}_half"))
        widen = helper.make_node("Cast", [tensor.name], [name], name=name, to=TensorProto.FLOAT)
        widened.append(widen)
    if not widened:
        raise AbsentForm("The model has no weights that are worth storing as float16.")
    nodes = [*widened, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    data: bytes = copy.SerializeToString(deterministic=True)
    return data
