"""PyTorch: exported programs (``.pt2``) and live modules, as ONNX and as their own reference."""

from __future__ import annotations

import copy
import logging
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.frontends import Context, Imported, require_package
from converter.frontends.pt2 import clean_archive
from converter.model_io import NOTHING_SAID, ModelIO
from converter.nets.net_graph import first_line
from converter.nets.network import Run, import_network
from edge_agent.contract.errors import ConfigError

torch: Any = require_package("torch", "torch")
require_package("onnxscript", "torch")

OPSET: Final = 18
_SAVE: Final = (
    "save it by torch.export.save(torch.export.export(model.eval(), (window,)), 'model.pt2'), "
    "window being the model's input for one window"
)


def import_file(path: Path, context: Context) -> Imported:
    """Understand a ``.pt2`` file, or with consent a pickled module in ``.pt`` or ``.pth``.

    ``torch.export.load`` would run code that a hostile ``.pt2`` file holds (pickles, and text that
    is evaluated); it is given a copy without any, see :mod:`converter.frontends.pt2`.

    Raises:
        ConfigError: damaged, hostile, without an architecture, or with operators of its own.
    """
    if path.suffix.lower() != ".pt2":
        return _import(_unpickle(path, consent=context.consent_pickle), context, None)
    with clean_archive(path, torch) as archive:
        try:
            program = torch.export.load(archive)
        except Exception as exc:  # a damaged file makes torch raise almost anything
            raise ConfigError(
                f"torch cannot load it: {first_line(exc)}; {_SAVE}, with torch {torch.__version__}"
            ) from exc
    return _understand(program, program.module(check_guards=False), context, "exported program")


def import_module(
    module: Any,
    *,
    length: int,
    channels: tuple[str, ...],
    rate_hz: float,
    example: tuple[Any, ...] | None = None,
    model_io: ModelIO = NOTHING_SAID,
) -> Imported:
    """Understand a live ``torch.nn.Module``.

    Args:
        module: trained; a copy of it is put into evaluation mode on the CPU.
        length: readings in a window.
        channels: names of the columns of a reading.
        rate_hz: readings per second.
        example: its inputs for one window, as tensors; needed where it has several, or where
            (1, length, channels), (1, channels, length) and (1, length * channels) do not tell.
        model_io: what the module leaves open. Inputs have the names that ``forward`` gives them,
            outputs are ``output``, or ``output_0``, ``output_1``, … where there are several.

    Raises:
        ConfigError: it cannot be exported, or does not fit.
    """
    context = Context(length=length, channels=channels, rate_hz=rate_hz, model_io=model_io)
    return _import(module, context, example)


def _import(module: Any, context: Context, example: tuple[Any, ...] | None) -> Imported:
    """A module, which is exported here."""
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(f"holds a {type(module).__name__}, no torch.nn.Module: {_SAVE}")
    module = copy.deepcopy(module).cpu().eval()
    example = example or (_fitting(module, context),)
    program = _exported(module, example)
    return _understand(program, module, context, type(module).__name__)


def _understand(program: Any, module: Any, context: Context, kind: str) -> Imported:
    """An exported program, whose original is ``module``."""
    network = _as_onnx(program)
    names = [info.name for info in network.graph.input]
    made = [info.name for info in network.graph.output]

    def run(inputs: dict[str, NDArray[Any]]) -> Mapping[str, Any]:
        tensors = [torch.from_numpy(np.array(inputs[name])) for name in names]
        with torch.no_grad():
            leaves = _leaves(module(*tensors))
            return {name: leaf.numpy() for name, leaf in zip(made, leaves, strict=True)}

    return import_network(
        network,
        _in_one_thread(run),
        context,
        estimator=f"PyTorch {kind}",
        packages=("torch", "onnxscript"),
    )


def _in_one_thread(run: Run) -> Run:
    """A function that is run in one thread, so that it gives the same bits each time."""

    def once(inputs: dict[str, NDArray[Any]]) -> Mapping[str, Any]:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return run(inputs)
        finally:
            torch.set_num_threads(before)

    return once


def _as_onnx(program: Any) -> onnx.ModelProto:
    """The program as ONNX, constants folded."""
    with _quiet():
        try:
            exported = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, verbose=False, external_data=False
            )
        except Exception as exc:  # the exporter's errors share no base class
            raise ConfigError(f"torch cannot write it as ONNX: {_reason(exc)}") from exc
    network: onnx.ModelProto = exported.model_proto
    return _named_outputs(network)


def _named_outputs(network: onnx.ModelProto) -> onnx.ModelProto:
    """The same with outputs called ``output``, or ``output_0``, ``output_1``, … in their order.

    The exporter's names come from the operators before them and change with every edit.
    """
    outputs = network.graph.output
    for number, output in enumerate(outputs):
        name = f"output_{number}" if len(outputs) > 1 else "output"
        network.graph.node.add(op_type="Identity", input=[output.name], output=[name])
        output.name = name
    return network


def _exported(module: Any, example: tuple[Any, ...]) -> Any:
    """The module as a program, its batch open where it allows that."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    faults = []
    for shapes in (tuple({0: batch} for _ in example), None):
        # Two windows: a batch of 1 would be taken for a fixed size.
        given = [torch.cat([x, x]) if shapes and x.ndim else x for x in example]
        with _quiet():
            try:
                return torch.export.export(module, tuple(given), dynamic_shapes=shapes)
            except Exception as exc:  # noqa: BLE001 - the exporter's errors share no base class
                faults.append(_reason(exc))
    raise ConfigError(f"torch.export cannot follow it: {faults[-1]}")


def _fitting(module: Any, context: Context) -> Any:
    """One window in the only form that the module takes."""
    length, count = context.length, len(context.channels)
    io = context.model_io
    forms = {
        "readings_first": (1, length, count),
        "channels_first": (1, count, length),
        "flat": (1, length * count),
    }
    if io.shapes:
        (forms,) = ({name: shape} for name, shape in io.shapes.items())
    elif io.layout is not None and length > 1 and count > 1:
        del forms[{"readings_first": "channels_first"}.get(io.layout, "readings_first")]
    taken = {}
    for shape in forms.values():
        window = torch.zeros(shape)
        try:
            with torch.no_grad():
                module(window)
        except Exception as exc:  # noqa: BLE001 - a module may raise anything on a wrong shape
            fault = first_line(exc)
        else:
            taken[shape] = window
    if not taken:
        raise ConfigError(
            f"the module takes none of the inputs {list(forms.values())}: {fault}; correct "
            "channels and window.length, or give 'example'"
        )
    # A module that flattens takes a window as it is, too.
    several = {shape for shape in taken if len(shape) > 2} or set(taken)
    if len(several) > 1:
        raise ConfigError(
            f"the module takes {' and '.join(map(str, sorted(several)))}: write under model_io "
            "'layout: readings_first' or 'layout: channels_first', as it was trained"
        )
    return taken[several.pop()]


def _unpickle(path: Path, *, consent: bool) -> Any:
    """The module in a pickle whose author is trusted."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise ConfigError(f"is TorchScript, which torch.export does not read: {_SAVE}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # the restricted unpickler raises many kinds
        if not consent:
            raise ConfigError(
                "unpickling it runs any code that it contains. "
                + _SAVE[0].upper()
                + _SAVE[1:]
                + ", or, for a file of your own, set 'allow_pickle: true' in the recipe"
            ) from exc
        try:
            return torch.load(path, map_location="cpu", weights_only=False)
        except Exception as again:
            raise ConfigError(f"cannot be unpickled: {first_line(again)}") from again
    kind = "a state_dict" if isinstance(found, dict) else f"a {type(found).__name__}"
    raise ConfigError(f"holds {kind}, weights without the architecture: {_SAVE}")


def _leaves(outputs: Any) -> Iterator[Any]:
    """The tensors in what a module returns, in the exporter's order."""
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, Sequence):
        for output in outputs:
            yield from _leaves(output)
    elif outputs is not None:
        yield outputs


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's talk of its own deprecations and of packages that nobody needs."""
    talk = logging.getLogger("torch.onnx")
    before = talk.level
    talk.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talk.setLevel(before)


def _reason(exc: BaseException) -> str:
    """The innermost cause of an exporter's error, in one line."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return first_line(Exception(str(exc)))
