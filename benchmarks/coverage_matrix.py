"""Convert every estimator of scikit-learn that sklearn-onnx covers, and count what comes of it.

Each case is fitted on half of a small data set, converted, and asked about all of it, one window
at a time on the device's call path. It is

- *equal*: the same label on every window, and every score within the case's tolerance of the
  original's, relative to the larger of 1 and the row's largest score;
- *refused*: with the reason that is given;
- *wrong*: anything else, a crash and more than ``CASE_S`` seconds included.

Usage: python benchmarks/coverage_matrix.py [--only NAME] [--table FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from itertools import groupby
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, Literal

import numpy as np
from coverage_cases import TOLERANCE, Case, cases, inputs, listed

from converter.frontends.sklearn import import_estimator
from converter.parity import answer_all
from edge_agent.contract.errors import ConfigError, InferenceError

Verdict = Literal["equal", "refused", "wrong"]

CASE_S: Final = 30.0
WORKERS: Final = 2
# What every child would import anew; this folder is not on the fork server's path.
_PRELOADED: Final = ("converter.frontends.sklearn", "converter.parity", "skl2onnx")
TABLE: Final = Path(__file__).with_name("COVERAGE.md")


@dataclass(frozen=True)
class Result:
    """What came of a case.

    Attributes:
        verdict: see the module.
        detail: why it was refused, or what is wrong.
        error: largest score error, relative to the larger of 1 and the row's largest score.
        by_skl2onnx: no own form: nodes are sklearn-onnx's.
    """

    verdict: Verdict
    detail: str = ""
    error: float = 0.0
    by_skl2onnx: bool = False


def main() -> int:
    """Run the matrix, write the table; 1 if a conversion is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="Only classes whose name contains this; no table.")
    parser.add_argument("--table", type=Path, default=TABLE)
    given = parser.parse_args()
    wanted = [case for case in cases() if not given.only or given.only in case.estimator]
    groups = [list(group) for _, group in groupby(wanted, key=lambda case: case.estimator)]
    results: dict[Case, Result] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for group, found in zip(groups, pool.map(_judge_all, groups), strict=True):
            results.update(zip(group, found, strict=True))
            if sys.stderr.isatty() or given.only:
                _show(group, found)
    figures = _three(Counter(result.verdict for result in results.values()))
    if not given.only:
        given.table.write_text(table(results))
    print("RESULT " + json.dumps({**figures, "total": len(results), **_shares(results)}))
    return 1 if figures["wrong"] else 0


def _judge_all(group: Sequence[Case]) -> list[Result]:
    """Judge cases in a child process, and in another one after a crash or a hang."""
    found: list[Result] = []
    while len(found) < len(group):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_PRELOADED))
        ours, theirs = context.Pipe(duplex=False)
        names = [case.title for case in group[len(found) :]]
        child = context.Process(target=_work, args=(names, theirs), daemon=True)
        child.start()
        theirs.close()
        with ours:
            found += _collect(ours, len(names))
        child.kill()
        child.join()
    return found


def _collect(results: Connection, count: int) -> Iterator[Result]:
    """What a child sends, and a verdict about the case on which it fell silent."""
    for _ in range(count):
        if not results.poll(CASE_S):
            yield Result("wrong", f"no answer after {CASE_S:g} s")
            return
        try:
            yield results.recv()
        except EOFError:
            yield Result("wrong", "the process died")
            return


def _work(titles: Sequence[str], results: Connection) -> None:
    """Judge the cases of these titles, in their order; runs in a child process."""
    warnings.simplefilter("ignore")
    known = {case.title: case for case in cases()}
    for title in titles:
        try:
            results.send(judge(known[title]))
        # Whatever escapes the converter is a fault of it, and a row of the table.
        except Exception as exc:  # noqa: BLE001 (see above)
            results.send(Result("wrong", f"{type(exc).__name__}: {exc}"))


def judge(case: Case) -> Result:
    """Fit, convert and compare one case."""
    x, y = inputs(case)
    try:
        model = case.make().fit(x[::2], y[::2])
    except (ValueError, TypeError, AttributeError) as exc:
        return Result("wrong", f"the case cannot be fitted: {exc}")
    names = tuple(f"c{number}" for number in range(x.shape[1]))
    windows = x.astype(np.float32)[:, None, :]
    try:
        imported = import_estimator(model, length=1, channels=names, rate_hz=1.0)
    except ConfigError as exc:
        return Result("refused", str(exc))
    want = imported.original(windows)
    try:
        got = answer_all(
            imported.graph.SerializeToString(), windows, imported.outputs, imported.task
        )
    except InferenceError as exc:
        return Result("wrong", str(exc))
    scale = np.maximum(1.0, np.abs(want.scores).max(axis=1, keepdims=True))
    error = float(np.max(np.abs(got.scores - want.scores) / scale))
    foreign = any("skl2onnx" in note for note in imported.notes)
    if want.labels is not None and got.labels is not None:
        flips = int((got.labels != want.labels).sum())
        if flips:
            detail = f"{flips} of {len(windows)} labels differ, scores by up to {error:.2g}"
            return Result("wrong", detail, error, foreign)
    if not error <= case.tolerance:
        return Result("wrong", f"scores differ by up to {error:.2g}", error, foreign)
    return Result("equal", "", error, foreign)


def _show(group: Sequence[Case], found: Sequence[Result]) -> None:
    """The verdicts of one class, for who is watching."""
    for case, result in zip(group, found, strict=True):
        mark = " (skl2onnx)" if result.by_skl2onnx else ""
        print(
            f"{result.verdict:8}{case.title}{mark} {result.error:.1e} {result.detail}",
            file=sys.stderr,
        )


def _shares(results: dict[Case, Result]) -> dict[str, float]:
    return {
        "equal_share": round(
            sum(result.verdict == "equal" for result in results.values()) / len(results), 4
        ),
        "equal_with_own_form": sum(
            result.verdict == "equal" and not result.by_skl2onnx for result in results.values()
        ),
    }


def table(results: dict[Case, Result]) -> str:
    """The matrix as a page: a row for each estimator and form, then every reason in full."""
    counts = Counter(result.verdict for result in results.values())
    lines = _PREFACE.format(
        versions=_versions(), tolerance=TOLERANCE, total=len(results), **_three(counts)
    ).splitlines()
    for kind in listed():
        of_kind = {case: result for case, result in results.items() if case.kind == kind}
        lines += ["", f"## {kind.capitalize()}s", "", _HEAD, "|---|---|---|---|---|---|"]
        for (name, form), group in groupby(of_kind, key=lambda case: (case.estimator, case.form)):
            lines.append(_row(name, form, [of_kind[case] for case in group]))
    lines += ["", "## Why not", ""]
    lines += [f"- {case.title}: **{result.verdict}**, {result.detail}" for case, result in
              results.items() if result.verdict != "equal"]  # fmt: skip
    return "\n".join(lines) + "\n"


def _three(counts: Counter[Verdict]) -> dict[str, int]:
    return {verdict: counts[verdict] for verdict in ("equal", "refused", "wrong")}


_PREFACE: Final = """\
# Coverage of scikit-learn

Written by `make coverage-matrix` with {versions}.
Every classifier, regressor, outlier detector and transformer that scikit-learn lists and
sklearn-onnx has a converter for, alone and in pipelines.

**{equal} equal, {refused} refused, {wrong} wrong, of {total} cases.**

A case is *equal* when the converted model, asked one window at a time on the device's call path,
gives the original's label on every window, and every score within {tolerance:g} of the original's,
relative to the larger of 1 and the row's largest score. For the probabilities of `SVC` and `NuSVC`
that is 2e-3: the original is itself an iteration that stops earlier. A star: nodes are
sklearn-onnx's. Not in the matrix: steps that never see what a device measures, such as encoders of
labels and of text.

What may still differ, on other data than these: a tree behind a projection, a kernel, a norm or a
power sees values that were computed in another order, and a value on the very edge of a split may
fall on the other side; behind scalers, imputers and encoders trees see the same bits. Neighbours
at equal distances are taken in any order by the original. Scores closer to each other than float32
can tell may swap their labels. A build counts every such flip on the validation data and says how
far from the border it was.
"""
_HEAD: Final = "| Estimator | Form | Equal | Refused | Wrong | Largest error |"


def _row(name: str, form: str, found: Sequence[Result]) -> str:
    """One line: verdicts in all places and tasks; a star where nodes are sklearn-onnx's."""
    counts = Counter(result.verdict for result in found)
    star = " *" if any(result.by_skl2onnx for result in found) else ""
    error = max((result.error for result in found if result.verdict == "equal"), default=None)
    cells = [str(counts[verdict] or "") for verdict in ("equal", "refused", "wrong")]
    shown = "" if error is None else f"{error:.0e}"
    return f"| {name}{star} | {form} | {' | '.join(cells)} | {shown} |"


def _versions() -> str:
    packages = ("scikit-learn", "skl2onnx", "onnxruntime")
    return ", ".join(f"{package} {metadata.version(package)}" for package in packages)


if __name__ == "__main__":
    sys.exit(main())
