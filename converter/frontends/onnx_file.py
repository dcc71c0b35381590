"""ONNX files of anybody: what they are, and themselves, run by onnxruntime, as the original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import external_data_helper

from converter.frontends import Context, Imported
from converter.nets.net_graph import first_line
from converter.nets.network import import_network
from edge_agent.contract.errors import ConfigError

BYTES_MAX: Final = 2**31 - 1  # of a model with its weights: protobuf's own limit
_OPSET_OLDEST: Final = 7  # that onnxruntime runs
_KNOWN_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_FATAL_ONLY: Final = 4


def import_file(path: Path, context: Context) -> Imported:
    """Understand an ONNX file; see :func:`converter.frontends.import_model`.

    The original is the file as it is, run by onnxruntime with its default options.

    Raises:
        ConfigError: no ONNX file, damaged, too large, with operators that are not ONNX's, or
            leaving something open that the recipe's ``model_io`` must say.
    """
    network = _load(path)
    _require_operators(network)
    session = _session(path)
    names = [output.name for output in session.get_outputs()]

    def run(inputs: dict[str, NDArray[Any]]) -> Mapping[str, Any]:
        return dict(zip(names, session.run(names, inputs), strict=True))

    made_by = network.producer_name.strip() or "unnamed"
    return import_network(network, run, context, estimator=f"ONNX model by {made_by}")


def _load(path: Path) -> onnx.ModelProto:
    """The model with the weights that lie in files beside it.

    Raises:
        ConfigError: it cannot be read, or is too large.
    """
    _require_size(path.stat().st_size)
    try:
        network = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as exc:
        raise ConfigError(
            f"is no ONNX file, or a damaged one: {first_line(exc)}; export it again"
        ) from exc
    if not network.graph.node:
        raise ConfigError("is no ONNX file, or holds no model: export it again")
    try:
        beside = sum(_external_bytes(path.parent, network))
        _require_size(path.stat().st_size + beside)
        onnx.checker.check_model(path)
        external_data_helper.load_external_data_for_model(network, str(path.parent))
    except onnx.checker.ValidationError as exc:
        raise ConfigError(f"is no valid model: {first_line(exc)}") from exc
    except (OSError, ValueError) as exc:
        raise ConfigError(f"its external data cannot be read: {first_line(exc)}") from exc
    return network


def _external_bytes(folder: Path, network: onnx.ModelProto) -> Iterator[int]:
    """Sizes of the files beside the model that hold its weights, each once."""
    tensors = [t for t in network.graph.initializer if external_data_helper.uses_external_data(t)]
    for name in {external_data_helper.ExternalDataInfo(tensor).location for tensor in tensors}:
        file = folder / name
        if not file.is_file():
            raise ConfigError(f"its weights are in {name}, which is not beside it: copy that too")
        yield file.stat().st_size


def _require_size(size: int) -> None:
    if size > BYTES_MAX:
        raise ConfigError(
            f"is {size / 2**30:.1f} GiB with its weights, at most 2 GiB can be converted: no "
            "device of this kind would load it"
        )


def _require_operators(network: onnx.ModelProto) -> None:
    """Refuse what onnxruntime could not run, by name.

    Raises:
        ConfigError: operators that are not ONNX's, or too old a model.
    """
    own = {(function.domain, function.name) for function in network.functions}
    used = {(node.domain, node.op_type) for node in _nodes(network)} - own
    versions = {_plain(entry.domain): entry.version for entry in network.opset_import}
    foreign = sorted(
        f"{name} ({domain})" if domain else name
        for domain, name in used
        if domain not in _KNOWN_DOMAINS or (_plain(domain) == "" and not onnx.defs.has(name))
    )
    if foreign:
        raise ConfigError(
            f"uses operators that are not part of ONNX: {', '.join(foreign)}; export it with "
            "standard operators only"
        )
    if (version := versions.get("", _OPSET_OLDEST)) < _OPSET_OLDEST:
        raise ConfigError(
            f"is written in operator set {version}, onnxruntime runs {_OPSET_OLDEST} and newer: "
            "export it again with opset 13 or newer"
        )


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's exceptions share no base class
        raise ConfigError(f"onnxruntime cannot load it: {first_line(exc)}") from exc


def _nodes(network: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of functions and of inner graphs too."""
    waiting = [*network.graph.node, *(n for function in network.functions for n in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting += graph.node


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
