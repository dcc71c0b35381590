"""Inference on the device's call path: the runtime's only importer of onnxruntime.

The session has one thread and does not spin: with onnxruntime's defaults ten readings a second
through a 500-tree forest keep a fifth of a core busy. Inputs and outputs are bound once to
buffers that live as long as the session, so that a call allocates nothing. A model that carries
state has two bindings: what one writes, the other reads, and the runs take turns.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_agent.answers import Answer, Rule
from edge_agent.arrays import F32
from edge_agent.contract.bundle import Bundle
from edge_agent.contract.errors import BundleError, InferenceError
from edge_agent.contract.manifest import INPUT_NAME, Manifest, Output, Role, State

Tensor = NDArray[Any]
Binding: TypeAlias = ort.IOBinding

CPU: Final = "CPUExecutionProvider"

_BATCH_AXIS: Final = "N"
_STATE_TYPES: Final = {  # as onnxruntime calls them
    "float32": "tensor(float)",
    "float64": "tensor(double)",
    "float16": "tensor(float16)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
    "int8": "tensor(int8)",
    "uint8": "tensor(uint8)",
    "bool": "tensor(bool)",
}
_FATAL_ONLY: Final = 4  # onnxruntime's own log would repeat what we raise


class Engine:
    """One ONNX session, with bound buffers for one window. Used by one thread at a time.

    Args:
        model: an ONNX file; input ``window`` float32 (N, length, channels).
        length: readings in a window.
        channels: values in a reading.
        outputs: the output tensors to bind.
        states: tensors that every run hands to the next.
        threads: inside one operator; more than 1 pays only for large networks.
        provider: onnxruntime's name of what executes the nodes; those it cannot, the CPU does.
        trace: beginning of the path of a file with the time of every node, see :meth:`end_trace`.

    Attributes:
        outputs: the result of the last run by output name: float32 (1, width), or int64 (1,) for
            the role ``label``. The arrays are overwritten by the next run.

    Raises:
        InferenceError: onnxruntime cannot load the model, or its tensors are not those stated.
    """

    def __init__(
        self,
        model: bytes,
        *,
        length: int,
        channels: int,
        outputs: Sequence[Output],
        states: Sequence[State] = (),
        threads: int = 1,
        provider: str = CPU,
        trace: Path | None = None,
    ) -> None:
        self.input: F32 = np.zeros((1, length, channels), np.float32)
        self.outputs: dict[str, Tensor] = {}
        try:
            self._session = ort.InferenceSession(
                model,
                _options(threads, fixed=bool(states), trace=trace),
                providers=list(dict.fromkeys((provider, CPU))),
            )
            _require_tensors(self._session, self.input.shape, outputs, states)
            self.outputs = {output.name: output_buffer(output) for output in outputs}
            reads, writes = _state_buffers(states), _state_buffers(states)
            self._states = [*reads, *writes]
            self._binding = self._bind(states, reads, writes)
            self._other = self._bind(states, writes, reads) if states else None
        except InferenceError:
            raise
        except Exception as exc:  # onnxruntime's exceptions share no base class
            raise InferenceError(f"the model cannot be loaded: {_first_line(exc)}") from exc
        # The public run_with_iobinding() is a Python frame around exactly this call.
        self._run = self._session._sess.run_with_iobinding  # noqa: SLF001 (a third of a small call)
        self._row = self.input[0]
        self._bound = self._binding._iobinding  # noqa: SLF001 (its argument)
        self._next = self._other._iobinding if self._other else None  # noqa: SLF001 (the same)

    def run(self, window: F32) -> None:
        """Run one window; results are in ``outputs``.

        Args:
            window: float32 (length, channels).

        Raises:
            InferenceError: onnxruntime failed.
        """
        self._row[...] = window
        try:
            self._run(self._bound, None)
        except Exception as exc:
            raise InferenceError(f"the model failed on a window: {_first_line(exc)}") from exc
        if self._next is not None:
            self._bound, self._next = self._next, self._bound

    def reset(self) -> None:
        """Begin anew: the next window does not follow the one before. Idle without states."""
        for buffer in self._states:
            buffer[...] = 0

    def end_trace(self) -> Path:
        """Stop noting the time of every node; returns the file, JSON as Chrome's tracing has it."""
        return Path(self._session.end_profiling())

    @property
    def carried(self) -> list[Tensor]:
        """The states that the next run reads, as buffers that may be read and written."""
        half = len(self._states) // 2
        first = self._bound is self._binding._iobinding  # noqa: SLF001 (see the constructor)
        return self._states[:half] if first else self._states[half:]

    def bind(self, windows: F32, outputs: Mapping[str, Tensor]) -> Binding:
        """Bind buffers of a batch, for :meth:`run_bound`; only for models without states.

        Args:
            windows: float32 (n, length, channels).
            outputs: by name, with n rows each; the caller keeps them alive.
        """
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(INPUT_NAME, _wrap(windows))
        for name, buffer in outputs.items():
            binding.bind_ortvalue_output(name, _wrap(buffer))
        return binding

    def run_bound(self, binding: Binding) -> None:
        """Run a batch on its own buffers.

        Raises:
            InferenceError: onnxruntime failed.
        """
        try:
            self._session.run_with_iobinding(binding)
        except Exception as exc:
            raise InferenceError(f"the model failed on a batch: {_first_line(exc)}") from exc

    def _bind(
        self, states: Sequence[State], reads: Sequence[Tensor], writes: Sequence[Tensor]
    ) -> Binding:
        """All tensors on their buffers; ``reads`` and ``writes`` are those of the states."""
        binding = self.bind(self.input, self.outputs)
        for state, read, write in zip(states, reads, writes, strict=True):
            binding.bind_ortvalue_input(state.input, _wrap(read))
            binding.bind_ortvalue_output(state.output, _wrap(write))
        return binding


class Model:
    """A bundle, loaded and ready to answer. Used by one thread at a time.

    Attributes:
        manifest: of the bundle.
        digest: SHA-256 of the bundle file.
        engine: that runs it.
        reset: to be called when the next window does not follow the one before.
    """

    def __init__(self, manifest: Manifest, digest: str, engine: Engine) -> None:
        self.manifest = manifest
        self.digest = digest
        self.engine = engine
        self._run = engine.run
        self._rule = Rule(manifest).answer
        self.reset = engine.reset
        self._main: F32 = engine.outputs[main_output(manifest).name][0]
        label = manifest.output("label")
        self._label: NDArray[np.int64] | None = engine.outputs[label.name] if label else None

    @classmethod
    def load(cls, bundle: Bundle, *, threads: int = 1) -> Model:
        """Load a bundle that has been read and checked.

        Raises:
            InferenceError: onnxruntime cannot load it.
        """
        return cls(bundle.manifest, bundle.digest, engine_of(bundle, threads=threads))

    def answer(self, window: F32) -> Answer:
        """Decide one window.

        Args:
            window: float32 (length, channels).

        Raises:
            NotFiniteError: the score is not finite.
            InferenceError: onnxruntime failed.
        """
        self._run(window)
        label = self._label
        try:
            return self._rule(self._main.tolist(), None if label is None else int(label[0]))
        except InferenceError:
            self.reset()  # a state that holds such a number would spoil every later window
            raise

    def release(self) -> None:
        """Let onnxruntime's memory go; the model answers no more."""
        del self._run, self.reset


def providers() -> tuple[str, ...]:
    """What this onnxruntime was built with to execute nodes; the machine may lack what it needs."""
    return tuple(ort.get_available_providers())


def engine_of(
    bundle: Bundle, *, threads: int = 1, provider: str = CPU, trace: Path | None = None
) -> Engine:
    """The engine for a bundle's model; the arguments are those of :class:`Engine`.

    Raises:
        InferenceError: onnxruntime cannot load it.
    """
    manifest = bundle.manifest
    return Engine(
        bundle.model,
        length=manifest.window.length,
        channels=len(manifest.channels),
        outputs=manifest.outputs,
        states=manifest.states,
        threads=threads,
        provider=provider,
        trace=trace,
    )


def golden_windows(bundle: Bundle) -> F32:
    """The inputs of the golden vectors, float32 (n, length, channels).

    Raises:
        BundleError: the golden vectors do not fit the manifest.
    """
    windows: F32 = _golden_arrays(bundle)[INPUT_NAME]
    return windows


def golden_fault(bundle: Bundle, engine: Engine) -> str | None:
    """Run the golden vectors; None when the engine answers as the original model did.

    Raises:
        BundleError: the golden vectors do not fit the manifest.
        InferenceError: onnxruntime failed.
    """
    manifest = bundle.manifest
    golden = _golden_arrays(bundle)
    engine.reset()
    for number, window in enumerate(golden[INPUT_NAME]):
        engine.run(window)
        for output in manifest.outputs:
            got, want = engine.outputs[output.name][0], golden[output.name][number]
            if output.role == "label":
                if int(got) != int(want):
                    return f"golden vector {number}: label {int(got)}, expected {int(want)}"
                continue
            excess = np.abs(got - want) - manifest.golden.rtol * np.abs(want)
            if not (excess <= manifest.golden.atol).all():
                return (
                    f"golden vector {number}: output {output.name!r} differs by "
                    f"{np.abs(got - want).max():.3g}, allowed are {manifest.golden.atol:.3g} "
                    f"+ {manifest.golden.rtol:.3g} of the value"
                )
    return None


def _golden_arrays(bundle: Bundle) -> Mapping[str, NDArray[Any]]:
    """The arrays of ``golden.npz``, with the shapes that the manifest promises."""
    manifest = bundle.manifest
    count, spec = manifest.golden.count, manifest.window
    shapes: dict[str, tuple[int, ...]] = {INPUT_NAME: (count, spec.length, len(manifest.channels))}
    for output in manifest.outputs:
        shapes[output.name] = (count,) if output.role == "label" else (count, output.width)
    try:
        with np.load(io.BytesIO(bundle.golden), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in shapes}
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as exc:
        raise BundleError(f"golden.npz: {exc}") from exc
    for name, shape in shapes.items():
        if arrays[name].shape != shape or count < 1:
            raise BundleError(f"golden.npz: {name!r} is {arrays[name].shape}, expected {shape}")
    return arrays


def _options(threads: int, *, fixed: bool, trace: Path | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if fixed:  # states have the shapes of one window; else a fixed axis gains nothing
        options.add_free_dimension_override_by_name(_BATCH_AXIS, 1)
    if trace is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(trace)
    return options


def _require_tensors(
    session: ort.InferenceSession,
    shape: tuple[int, ...],
    outputs: Sequence[Output],
    states: Sequence[State],
) -> None:
    """Binding checks neither names nor shapes: a wrong one would fail, or worse, at every run."""
    inputs = {node.name: (node.type, tuple(node.shape)) for node in session.get_inputs()}
    made = {node.name: (node.type, tuple(node.shape)) for node in session.get_outputs()}
    for state in states:
        wanted = (_STATE_TYPES[state.dtype], state.shape)
        taken = inputs.pop(state.input, None)
        if taken != wanted or made.get(state.output) != wanted:
            raise InferenceError(
                f"the model takes {taken} and gives {made.get(state.output)}, not the state "
                f"{state.input!r} to {state.output!r} as {wanted}"
            )
    got = {name: (kind, axes[1:]) for name, (kind, axes) in inputs.items()}
    if got != {INPUT_NAME: ("tensor(float)", shape[1:])}:
        raise InferenceError(f"the model takes {got}, not one float {INPUT_NAME!r} {shape[1:]}")
    got = {name: (kind, axes[1:]) for name, (kind, axes) in made.items()}
    for output in outputs:
        wanted = ("tensor(int64)", ()) if output.role == "label" else _scores(output)
        if got.get(output.name) != wanted:
            raise InferenceError(f"the model gives {got}, not {output.name!r} as {wanted}")


def _scores(output: Output) -> tuple[str, tuple[int, ...]]:
    return "tensor(float)", (output.width,)


def output_buffer(output: Output, rows: int = 1) -> Tensor:
    """What an output of so many windows is written to."""
    if output.role == "label":
        return np.zeros(rows, np.int64)
    return np.zeros((rows, output.width), np.float32)


def _state_buffers(states: Sequence[State]) -> list[Tensor]:
    return [np.zeros(state.shape, state.dtype) for state in states]


def _wrap(array: NDArray[Any]) -> ort.OrtValue:
    """An OrtValue on the array's own memory; the caller keeps the array alive."""
    return ort.OrtValue.ortvalue_from_numpy(array)


def main_output(manifest: Manifest) -> Output:
    """The output that holds the scores or values."""
    role: Role = "value" if manifest.task == "regression" else "scores"
    output = manifest.output(role)
    if output is None:
        raise InferenceError(f"the model has no output with the role {role!r}")
    return output


def _first_line(exc: Exception) -> str:
    return str(exc).splitlines()[0] if str(exc) else type(exc).__name__
