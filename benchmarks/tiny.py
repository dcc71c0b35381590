"""One inference on the agent's call path against plain ``session.run``, for small networks.

Three sides run the same ONNX file: ``bound`` is the agent's engine (bound buffers, one thread, no
spinning), ``defaults`` is ``run(None, ...)`` as people write it, ``one thread`` the same with
``intra_op_num_threads=1``. Each is a fresh process; the sides take turns, round after round, so
that no pool of threads spins beside another side.

Usage: python benchmarks/tiny.py [MODEL.onnx ...] [--rounds N] [--seconds S] [--write FOLDER]

A file that is given takes the place of the built networks: one float input whose axes are fixed
but for the batch; of its outputs the first of floats is asked for, on every side.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tiny_models import MODELS, parameters

from edge_agent.arrays import F32
from edge_agent.bench.steady import Runner, observe
from edge_agent.contract.manifest import Output
from edge_agent.infer import Engine

SIDES: Final = ("bound", "defaults", "one thread")
WINDOWS_N: Final = 64
CHILD_S_MAX: Final = 600.0
Figures = dict[str, float]


def main() -> int:
    """Measure every network on every side in turns; prints RESULT."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, help="ONNX files, in place of the built")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each side in each round")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="only write the networks")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(measure_here(given.models[0], given.side, given.seconds)))
        return 0
    with tempfile.TemporaryDirectory() as place:
        folder = given.write or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        networks = {path.stem: contract_form(onnx.load(path)) for path in given.models} or {
            name: make() for name, make in MODELS.items()
        }
        for name, network in networks.items():
            onnx.save(network, folder / f"{name}.onnx")
        if given.write:
            return 0
        figures = {
            name: {"parameters": parameters(network), **measure(folder / f"{name}.onnx", given)}
            for name, network in networks.items()
        }
    print("RESULT " + json.dumps(figures))
    return 0


def measure(path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """All sides of one network, medians over the rounds; ratios are of rounds."""
    rounds: dict[str, list[Figures]] = {side: [] for side in SIDES}
    for _ in range(given.rounds):
        for side in SIDES:
            rounds[side].append(_in_child(path, side, given.seconds))
    found: dict[str, Any] = {side: _medians(each) for side, each in rounds.items()}
    for side in SIDES[1:]:
        pairs = zip(rounds["bound"], rounds[side], strict=True)
        name = f"p50_ratio_vs_{side.replace(' ', '_')}"
        found[name] = round(statistics.median(a["p50_us"] / b["p50_us"] for a, b in pairs), 3)
    said = "  ".join(
        f"{side} p50 {found[side]['p50_us']:.1f} p99 {found[side]['p99_us']:.1f} us "
        f"{found[side]['rss_mib']:.1f} MiB"
        for side in SIDES
    )
    print(f"{path.stem:18} {said}", flush=True)
    return found


def measure_here(path: Path, side: str, seconds: float) -> Figures:
    """One side in this process."""
    model, output = path.read_bytes(), _only_output(path)
    window = [axis.dim_value for axis in _input(onnx.load(path)).type.tensor_type.shape.dim][1:]
    chance = np.random.default_rng(0)
    windows = chance.normal(size=(WINDOWS_N, *window)).astype(np.float32)
    gc.collect()  # what was read to ask for its shapes is no memory of the model
    makers: dict[str, Callable[[], Runner]] = {
        "bound": lambda: Engine(model, length=window[0], channels=window[1], outputs=(output,)),
        "defaults": lambda: Plain(model, None),
        "one thread": lambda: Plain(model, 1),
    }
    seen = observe(makers[side], windows, seconds=seconds)
    p50, p99 = (np.percentile(seen.took_ns, (50, 99)) / 1e3).tolist()
    return {
        "p50_us": round(p50, 2),
        "p99_us": round(p99, 2),
        "load_ms": round(seen.load_ns / 1e6, 2),
        "rss_mib": round((seen.rss[2] - seen.rss[0]) / 2**20, 2),
    }


class Plain:
    """``run(None, ...)``, as people write it."""

    def __init__(self, model: bytes, threads: int | None) -> None:
        options = ort.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, window: F32, /) -> None:
        """One window."""
        self._session.run(None, {"window": window[np.newaxis]})


def _only_output(path: Path) -> Output:
    scores = onnx.load(path).graph.output[0]
    width = scores.type.tensor_type.shape.dim[1].dim_value
    return Output(name=scores.name, role="scores", width=width)


def _in_child(path: Path, side: str, seconds: float) -> Figures:
    command = [sys.executable, __file__, str(path), "--side", side, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, timeout=CHILD_S_MAX, check=False, text=True)
    if done.returncode:
        sys.exit(f"{path.stem}, {side}: {done.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _medians(rounds: Sequence[Figures]) -> Figures:
    return {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}


# --- a file that somebody has --------------------------------------------------------------------


def contract_form(network: ModelProto) -> ModelProto:
    """The same network from ``window`` (N, length, channels) to one output (N, width).

    The last axis of its input becomes the channels, those between it and the batch the length.
    """
    given = _input(network)
    batch, shape = _shape(given)
    output, width = _output(network, given, shape)
    length = math.prod(shape[:-1])
    graph = network.graph
    target = numpy_helper.from_array(np.array([-1 if batch == "N" else 1, *shape]), "window_shape")
    nodes = [*graph.node, helper.make_node("Flatten", [output], ["scores_flat"], axis=1)]
    if given.name != "window":
        nodes.insert(0, helper.make_node("Reshape", ["window", "window_shape"], [given.name]))
    elif len(shape) != 2:
        sys.exit("an input called 'window' must have the axes (N, length, channels): rename it")
    window = helper.make_tensor_value_info("window", TensorProto.FLOAT, [batch, length, shape[-1]])
    scores = helper.make_tensor_value_info("scores_flat", TensorProto.FLOAT, [batch, width])
    changed = helper.make_graph(
        nodes, graph.name or "network", [window], [scores], [*graph.initializer, target]
    )
    return helper.make_model(
        changed,
        opset_imports=network.opset_import,
        ir_version=network.ir_version,
        functions=network.functions,
    )


def _input(network: ModelProto) -> onnx.ValueInfoProto:
    """The only input."""
    constants = {each.name for each in network.graph.initializer}
    found = [each for each in network.graph.input if each.name not in constants]
    if len(found) != 1 or found[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        names = ", ".join(each.name for each in found)
        sys.exit(f"one input of floats is needed; the network has: {names}")
    return found[0]


def _shape(given: onnx.ValueInfoProto) -> tuple[str | int, list[int]]:
    """Batch (``N`` or 1) and the other axes."""
    axes = given.type.tensor_type.shape.dim
    shape = [axis.dim_value for axis in axes[1:]]
    if not shape or not all(shape) or (axes[0].HasField("dim_value") and axes[0].dim_value != 1):
        sys.exit(f"the axes of {given.name} must be fixed, and the batch be free or 1")
    return (1 if axes[0].dim_value else "N"), shape


def _output(
    network: ModelProto, given: onnx.ValueInfoProto, shape: Sequence[int]
) -> tuple[str, int]:
    """The first output of floats, and how many values it has for one window."""
    session = ort.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    answers = session.run(None, {given.name: np.zeros((1, *shape), np.float32)})
    for node, answer in zip(session.get_outputs(), answers, strict=True):
        if node.type == "tensor(float)" and answer.ndim and answer.shape[0] == 1:
            return node.name, int(answer.size)
    sys.exit("no output of floats has an axis for the batch")


if __name__ == "__main__":
    sys.exit(main())
