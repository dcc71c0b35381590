"""Every form of a model that is worth measuring, each compared with the original.

The first is always float32, made lean: scalers folded into layers, trees in their smallest
encoding. The others give up some exactness for size or speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
import onnx

from converter.case import Case
from converter.forms.absent import AbsentForm
from converter.forms.compact import compact, forests_of
from converter.forms.fold import fold_scalers
from converter.forms.half import half_form
from converter.forms.prune import fewer_trees, shallower_trees
from converter.forms.quantize import INT8_FORMS, Layers, int8_form
from converter.parity import FLOAT32, Judged, excess, judge, require_float32
from edge_agent.contract.errors import InferenceError

_SAME: Final = 1e-5  # of the largest score, at least 1: rounding of float32
_SAME_TIMES: Final = 2.0

Progress = Callable[[str], None]


@dataclass
class Allowance:
    """Time to build and compare forms in; the same forms again when a build is repeated.

    Args:
        seconds: wall time from now.
        untried: forms that an earlier build left out; it then decides, and no clock does.
        clock: seconds, monotonic.
    """

    seconds: float
    untried: frozenset[str] | None = None
    clock: Callable[[], float] = time.monotonic
    _end: float = field(init=False)

    def __post_init__(self) -> None:
        self._end = self.clock() + self.seconds

    def is_over(self, form: str) -> bool:
        """Whether a form has to be left out."""
        if self.untried is not None:
            return form in self.untried
        return self.clock() > self._end


@dataclass(frozen=True)
class Forms:
    """What became of all candidates.

    Attributes:
        judged: the forms that run, by name, float32 first.
        absent: by name, why others do not exist.
        untried: the names of those that time did not allow.
    """

    judged: dict[str, Judged]
    absent: dict[str, str]
    untried: frozenset[str]

    @property
    def models(self) -> dict[str, bytes]:
        """The ONNX file of each form that runs."""
        return {name: form.model for name, form in self.judged.items()}


def judge_forms(case: Case, allowance: Allowance, progress: Progress) -> Forms:
    """Build and compare every candidate.

    Raises:
        BundleError: float32 loses more than the budget.
        InferenceError: onnxruntime cannot run float32.
    """
    progress(f"comparing {FLOAT32} with the original")
    base, absent = _float32(case)
    judged, untried = {FLOAT32: base}, set[str]()
    if not case.recipe.quantize.int8:
        return Forms(judged, absent | {"int8": "The recipe asks for float32 only."}, frozenset())
    for name, make in _makers(case, base, absent):
        if allowance.is_over(name):
            untried.add(name)
            absent[name] = (
                f"Not tried: the {allowance.seconds:g} s of quantize.build_s_max were over."
            )
            continue
        progress(f"building {name} and comparing it with the original")
        try:
            model = make()
            if (twin := _same_file(judged, model)) is not None:
                absent[name] = f"It comes out as the same file as {twin}."
                continue
            judged[name] = judge(case, model)
        except AbsentForm as exc:
            absent[name] = str(exc)
        except InferenceError as exc:
            absent[name] = f"onnxruntime cannot run this form: {exc}"
    return Forms(judged, absent, frozenset(untried))


def _same_file(judged: Mapping[str, Judged], model: bytes) -> str | None:
    return next((name for name, form in judged.items() if form.model == model), None)


def _float32(case: Case) -> tuple[Judged, dict[str, str]]:
    """The lean float32 form, or the plain one where leaning shows in the answers."""
    graph = case.imported.graph
    plain = judge(case, _bytes(graph))
    require_float32(plain.parity, case.recipe.quantize.accuracy_loss_max)
    small = compact(graph)
    found = judge(case, _bytes(small)) if small is not graph else plain
    folded = fold_scalers(small)
    if folded is small:
        return found, {}
    lean = judge(case, _bytes(folded))
    if _as_exact(lean, found):
        return lean, {}
    why = (
        f"With the scaler folded into the first layer {lean.parity.label_flips} labels change and "
        f"scores differ by up to {lean.parity.score_error_max:.2g}; apart from it, "
        f"{found.parity.label_flips} and {found.parity.score_error_max:.2g}."
    )
    return found, {"float32-folded": why}


def _as_exact(form: Judged, other: Judged) -> bool:
    scale = max(1.0, float(np.abs(other.answers.scores).max()))
    error_max = max(_SAME * scale, _SAME_TIMES * other.parity.score_error_max)
    fewer = form.parity.label_flips <= other.parity.label_flips
    return fewer and form.parity.score_error_max <= error_max


def _makers(
    case: Case, base: Judged, absent: dict[str, str]
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Names and builders of the forms that this kind of model can have."""
    graph = case.imported.graph
    layers = Layers.of(graph, case.imported.keep_float, case.windows)
    if layers.names:
        for name in INT8_FORMS:
            yield name, partial(int8_form, layers, name)
        yield "float16", partial(half_form, layers)
    else:
        absent["int8"] = layers.why_none()
    if forests_of(graph):
        keeps = partial(_keeps, case, base)
        yield "trees-fewer", partial(fewer_trees, graph, keeps)
        yield "trees-shallower", partial(shallower_trees, graph, keeps)


def _keeps(case: Case, base: Judged, model: bytes) -> bool:
    """Whether a thinner forest stays in the budget and changes no label more than float32 does.

    Thinning can always go further. So it ends where labels begin to change, and not where the
    budget, which allows for that, is used up.
    """
    parity = judge(case, model).parity
    faithful = parity.label_flips <= base.parity.label_flips
    return faithful and not excess(parity, case.recipe.quantize)


def _bytes(graph: onnx.ModelProto) -> bytes:
    data: bytes = graph.SerializeToString(deterministic=True)
    return data
