"""A form of the model against the original one on every validation window, and which form wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from converter.case import Case
from converter.frontends import Answers
from converter.recipe import Aim, QuantizeRecipe
from converter.truth import Classes, Targets, Truth
from edge_agent.arrays import F32
from edge_agent.contract.errors import BundleError, InferenceError
from edge_agent.contract.manifest import Figures, Output, Parity, State, Task, Variant
from edge_agent.infer import Engine

FLOAT32: Final = "float32"
GAIN_MIN: Final = 0.2  # another form answers a little differently on every window: it must pay
TIE: Final = 0.1  # timings differ that much from one measurement to the next

Metric = Literal["accuracy", "r2", "agreement"]


class Flip(msgspec.Struct, frozen=True, kw_only=True):
    """A window on which two forms of the model give different labels.

    Attributes:
        window: number of the window, from 0.
        original: label of the original model.
        converted: label of the converted one.
        distance: how far the original's score was from the decision border: its lead over the
            second-best label, or the size of the anomaly score.
    """

    window: int
    original: str
    converted: str
    distance: float


@dataclass(frozen=True)
class Judged:
    """A form with what it answered.

    Attributes:
        model: ONNX bytes.
        answers: on every validation window.
        parity: against the original model.
    """

    model: bytes
    answers: Answers
    parity: Parity


@dataclass(frozen=True)
class Outcome:
    """Which form goes into the bundle, and all that is known of the others.

    Attributes:
        judged: the forms that run, by name.
        absent: by name, why forms do not exist.
        variants: of every judged form, what the manifest says.
        machine: what the figures were measured on.
    """

    judged: Mapping[str, Judged]
    absent: Mapping[str, str]
    variants: tuple[Variant, ...]
    machine: str

    @property
    def winner(self) -> Judged:
        """The chosen form."""
        return self.judged[next(variant.name for variant in self.variants if variant.chosen)]


def judge(case: Case, model: bytes) -> Judged:
    """Ask a form of the model about every validation window.

    Raises:
        InferenceError: it cannot be loaded or run, or a score is not finite.
    """
    imported = case.imported
    answers = answer_all(
        model,
        case.windows,
        imported.outputs,
        imported.task,
        states=imported.states,
        begins=case.validation.begins,
    )
    parity = compare(case.original, answers, case.truth, case.imported.task)
    return Judged(model, answers, parity)


def answer_all(
    model: bytes,
    windows: F32,
    outputs: Sequence[Output],
    task: Task,
    *,
    states: Sequence[State] = (),
    begins: Classes | None = None,
) -> Answers:
    """What an ONNX model answers, one window at a time as on the device.

    Args:
        model: ONNX bytes.
        windows: (n, length, channels).
        outputs: the tensors that hold the answer.
        task: what it answers.
        states: what it hands from one window to the next.
        begins: the windows before which the states are zeros; by default the first.

    Raises:
        InferenceError: it cannot be loaded or run, or a score is not finite.
    """
    count, length, channels = windows.shape
    engine = Engine(model, length=length, channels=channels, outputs=outputs, states=states)
    anew = frozenset() if begins is None else frozenset(begins.tolist())
    by_role = {output.role: output for output in outputs}
    main = by_role["value" if task == "regression" else "scores"]
    scores = np.empty((count, main.width), np.float64)
    labels = np.empty(count, np.int64) if "label" in by_role else None
    for number, window in enumerate(windows):
        if number in anew:
            engine.reset()
        engine.run(window)
        scores[number] = engine.outputs[main.name][0]
        if labels is not None:
            labels[number] = engine.outputs[by_role["label"].name][0]
    if (bad := np.flatnonzero(~np.isfinite(scores).all(axis=1))).size:
        raise InferenceError(f"the model's scores are not finite on window {bad[0]}")
    return Answers(labels_of(scores, task) if labels is None else labels, scores)


def labels_of(scores: NDArray[np.float64], task: Task) -> Classes | None:
    """The labels that the agent derives from scores where the model has no output for them."""
    if task == "regression":
        return None
    return (scores[:, 0] > 0).astype(np.int64) if task == "anomaly" else scores.argmax(axis=1)


def compare(original: Answers, converted: Answers, truth: Truth, task: Task) -> Parity:
    """Figures of a converted model; for anomaly the original model is the truth."""
    error = np.abs(original.scores - converted.scores)
    flips = 0
    if original.labels is not None and converted.labels is not None:
        flips = int((original.labels != converted.labels).sum())
    metric, before, after = _metric(original, converted, truth, task)
    return Parity(
        windows=len(error),
        metric=metric,
        original=round(before, 6),
        converted=round(after, 6),
        label_flips=flips,
        score_error_max=float(error.max()),
        score_error_mean=float(error.mean()),
    )


def flips(original: Answers, converted: Answers, labels: Sequence[str]) -> list[Flip]:
    """Every window whose label differs, those farthest from the border first."""
    if original.labels is None or converted.labels is None:
        return []
    found = np.flatnonzero(original.labels != converted.labels)
    distances = border_distance(original.scores)[found]
    return [
        Flip(
            window=int(found[at]),
            original=labels[original.labels[found[at]]],
            converted=labels[converted.labels[found[at]]],
            distance=float(distances[at]),
        )
        for at in np.argsort(-distances, kind="stable")
    ]


def border_distance(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each row of scores from the nearest change of label, in units of the score."""
    if scores.shape[1] == 1:
        return np.abs(scores[:, 0])
    ranked = np.sort(scores, axis=1)
    lead: NDArray[np.float64] = ranked[:, -1] - ranked[:, -2]
    return lead


def require_float32(parity: Parity, loss_max: float) -> None:
    """Refuse a model whose float32 form already loses more than the budget.

    Raises:
        BundleError: it does.
    """
    if (loss := parity.original - parity.converted) > loss_max:
        raise BundleError(
            f"the float32 form loses {loss:.4f} {parity.metric} ({parity.original:.4f} to "
            f"{parity.converted:.4f}, {parity.label_flips} of {parity.windows} labels differ); "
            f"quantize.accuracy_loss_max allows {loss_max:g}: the model cannot be converted "
            "faithfully, or the budget is too tight"
        )


def choose(
    judged: Mapping[str, Judged], figures: Mapping[str, Figures], settings: QuantizeRecipe
) -> tuple[Variant, ...]:
    """Say of each form whether it goes into the bundle, and why.

    float32 stays unless another form saves at least a fifth at the aim. Of several that are within
    a tenth of the best of them the most faithful one is taken. The budget of such a form also
    bounds the share of labels that change: an accuracy can stay while answers change both ways.

    Args:
        judged: by name of the form; :data:`FLOAT32` is one of them.
        figures: of each.
        settings: the aim and the accuracy budget.
    """
    aim = settings.aim
    costs = {name: _cost(figures[name], aim) for name in judged}
    base = costs[FLOAT32]
    over = {name: excess(form.parity, settings) for name, form in judged.items()}
    better = [name for name in judged if not over[name] and costs[name] < base * (1 - GAIN_MIN)]
    least = min((costs[name] for name in better), default=base)
    close = [name for name in better if costs[name] <= least * (1 + TIE)]
    winner = min(close, key=lambda name: _unfaithful(judged[name].parity), default=FLOAT32)

    def why(name: str) -> str:
        figure, best = _said(costs[name], aim), _said(costs[winner], aim)
        if name == winner == FLOAT32:
            return "Chosen: no other form is better." if len(judged) > 1 else "The only form."
        if name == winner:
            return f"Chosen: {figure} where float32 {_said(base, aim)}, within the accuracy budget."
        if name in close:
            return f"Not chosen: {figure}, as good as {winner}, which is more faithful."
        if name == FLOAT32 or name in better:
            return f"Not chosen: {figure}, {winner} {best}."
        if over[name]:
            return f"Not chosen: {over[name]}"
        return f"Not chosen: {figure}, float32 {_said(base, aim)}: no gain of {GAIN_MIN:.0%}."

    return tuple(
        Variant(
            name=name,
            chosen=name == winner,
            why=why(name),
            figures=figures[name],
            parity=form.parity,
        )
        for name, form in judged.items()
    )


def contenders(
    judged: Mapping[str, Judged], figures: Mapping[str, Figures], settings: QuantizeRecipe
) -> frozenset[str]:
    """float32, and the forms that might still be chosen when their figures are measured again."""
    limit = _cost(figures[FLOAT32], settings.aim) * (1 + TIE)
    return frozenset(
        name
        for name, form in judged.items()
        if name == FLOAT32
        or (_cost(figures[name], settings.aim) <= limit and not excess(form.parity, settings))
    )


def _unfaithful(parity: Parity) -> tuple[int, float]:
    return parity.label_flips, parity.score_error_mean


def excess(parity: Parity, settings: QuantizeRecipe) -> str:
    """How a form exceeds the accuracy budget; empty when it does not."""
    loss, loss_max = parity.original - parity.converted, settings.accuracy_loss_max
    if loss > loss_max:
        return f"it loses {loss:.4f} {parity.metric}, the budget is {loss_max:g}."
    if parity.label_flips > loss_max * parity.windows:
        return f"it changes {parity.label_flips} of {parity.windows} labels, beyond {loss_max:.1%}."
    return ""


def _said(cost: float, aim: Aim) -> str:
    """A cost in words."""
    if aim == "latency":
        return f"takes {cost:.1f} µs"
    noun = "memory" if aim == "memory" else "file"
    return f"needs {cost / 1024:.1f} KiB of {noun}"


def _cost(figures: Figures, aim: Aim) -> float:
    costs: dict[Aim, float] = {
        "latency": figures.p50_us,
        "size": figures.file_bytes,
        "memory": figures.rss_bytes,
    }
    return costs[aim]


def _metric(
    original: Answers, converted: Answers, truth: Truth, task: Task
) -> tuple[Metric, float, float]:
    """Name of the metric, and its value before and after."""
    if task == "anomaly":
        assert original.labels is not None
        assert converted.labels is not None
        return "agreement", 1.0, float(np.mean(converted.labels == original.labels))
    assert truth is not None
    name: Metric = "r2" if task == "regression" else "accuracy"
    return name, quality(original, truth), quality(converted, truth)


def quality(answers: Answers, truth: Classes | Targets) -> float:
    """Share of right labels; of a regression the coefficient of determination."""
    if answers.labels is None:
        return _r2(answers.scores, truth)
    return float(np.mean(answers.labels == truth))


def _r2(values: NDArray[np.float64], truth: Classes | Targets) -> float:
    """Coefficient of determination, 1 - SSE/SST, the mean over the targets."""
    residual = ((values - truth) ** 2).sum(axis=0)
    total = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    return float((1 - residual / total).mean())
