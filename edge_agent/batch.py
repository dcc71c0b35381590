"""Windows that wait together, in one run of the model."""

from __future__ import annotations

import numpy as np

from edge_agent.answers import Answer, Rule
from edge_agent.arrays import F32
from edge_agent.contract.errors import InferenceError
from edge_agent.contract.manifest import Manifest
from edge_agent.infer import Binding, Engine, main_output, output_buffer


class Batch:
    """Many windows in one run of a loaded model. Used by the thread that uses the model.

    What a model with states carries belongs to one sequence of windows: it keeps one run each.

    Args:
        engine: of the model.
        manifest: of its bundle.
        n_max: most windows in a batch.

    Attributes:
        windows: float32 (n_max, length, channels), to be filled from the front before :meth:`run`.
    """

    def __init__(self, engine: Engine, manifest: Manifest, n_max: int) -> None:
        self.windows: F32 = np.zeros((n_max, *engine.input.shape[1:]), np.float32)
        self._engine = engine
        self._rule = Rule(manifest).answer
        self._outputs = {o.name: output_buffer(o, n_max) for o in manifest.outputs}
        self._main = self._outputs[main_output(manifest).name]
        label = manifest.output("label")
        self._labels = self._outputs[label.name] if label else None
        self._bound: dict[int, Binding] = {}  # by the size of the batch: n_max at most

    def run(self, count: int) -> list[Answer | InferenceError]:
        """Decide the first ``count`` windows.

        Returns:
            For each window its answer, or why it has none: one bad window does not spoil others.
        """
        try:
            self.run_only(count)
        except InferenceError as exc:
            return [exc] * count
        rows = self._main[:count].tolist()
        labels = [None] * count if self._labels is None else self._labels[:count].tolist()
        return [self._answer(row, label) for row, label in zip(rows, labels, strict=True)]

    def run_only(self, count: int) -> None:
        """Run the model on the first ``count`` windows, without asking what the answers mean.

        Raises:
            InferenceError: onnxruntime failed.
        """
        bound = self._bound.get(count)
        if bound is None:
            bound = self._bound[count] = self._engine.bind(
                self.windows[:count], {name: out[:count] for name, out in self._outputs.items()}
            )
        self._engine.run_bound(bound)

    def _answer(self, row: list[float], label: int | None) -> Answer | InferenceError:
        try:
            return self._rule(row, label)
        except InferenceError as exc:
            return exc
