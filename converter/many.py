"""Many builds at once, each in a process of its own, so that each fails alone.

Run as ``python -m converter.many``, the module is such a process: it reads an order from stdin
and writes events to stdout, one JSON object a line.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import IO, Any, Final, Self

import msgspec

from converter.order import Order, carry_out
from converter.recipe import load_recipe
from edge_agent.contract.errors import ConfigError, EdgeError

EXIT_CODE_MAX: Final = 100  # beyond 125 the shell uses exit codes of its own
_ERROR_TAIL_BYTES: Final = 4096


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a build ended.

    Attributes:
        recipe: path of its recipe.
        error: why there is no bundle; empty when there is one.
        exit_code: what the build would have ended with alone.
        figures: what a program wants to know of it; empty after an error.
    """

    recipe: str
    error: str = ""
    exit_code: int = 0
    figures: Mapping[str, Any] = {}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What a process says: the next step, or at last its ending."""

    step: str = ""
    ending: Ending | None = None


Tell = Callable[[int, Event], None]


def build_many(orders: Sequence[Order], *, jobs: int, tell: Tell) -> list[Ending]:
    """Carry out all orders and wait for them.

    Args:
        orders: one for each recipe.
        jobs: how many at once.
        tell: told the number of an order and what happens to it, from several threads.

    Returns:
        One ending for each order, in their order. An interrupt ends all processes.
    """
    clashes = _clashes(orders)
    with _Processes() as processes, ThreadPoolExecutor(jobs) as pool:

        def one(number: int) -> Ending:
            order = orders[number]
            if clash := clashes.get(number):
                ending = Ending(recipe=order.recipe, error=clash, exit_code=ConfigError.exit_code)
            else:
                ending = processes.run(order, lambda step: tell(number, Event(step=step)))
            tell(number, Event(ending=ending))
            return ending

        futures = [pool.submit(one, number) for number in range(len(orders))]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end()
            raise


def exit_code(endings: Sequence[Ending]) -> int:
    """How many failed, at most :data:`EXIT_CODE_MAX`."""
    return min(sum(bool(ending.error) for ending in endings), EXIT_CODE_MAX)


def results(endings: Sequence[Ending]) -> list[dict[str, Any]]:
    """What a program wants to know of all builds: their figures, or why there are none."""
    return [
        {"recipe": ending.recipe, "error": ending.error, "exit_code": ending.exit_code}
        | dict(ending.figures)
        for ending in endings
    ]


def main() -> None:
    """The process of one build: an order from stdin, events to stdout."""
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no event

    def say(event: Event) -> None:
        events.write(msgspec.json.encode(event) + b"\n")
        events.flush()

    try:
        figures = carry_out(order, lambda step: say(Event(step=step))).figures
        ending = Ending(recipe=order.recipe, figures=figures)
    except EdgeError as exc:
        ending = Ending(recipe=order.recipe, error=str(exc), exit_code=exc.exit_code)
    say(Event(ending=ending))


class _Processes:
    """The running builds; ``end`` may be called from another thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def run(self, order: Order, step: Callable[[str], None]) -> Ending:
        """Carry out one order in a process; a crash is an ending like any other."""
        with tempfile.TemporaryFile() as errors:
            process = self._start(errors)
            if process is None:
                return Ending(recipe=order.recipe, error="interrupted", exit_code=130)
            try:
                found = _listen(process, order, step)
                process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)
            return found or Ending(
                recipe=order.recipe,
                error=f"the build {_fate(process.returncode)}: {_last_line(errors)}",
                exit_code=EdgeError.exit_code,
            )

    def end(self) -> None:
        """End every process with all that it has started, and start no more."""
        with self._lock:
            self._ended = True
            for process in self._running:
                with suppress(ProcessLookupError):  # it has just ended by itself
                    os.killpg(process.pid, signal.SIGTERM)

    def _start(self, errors: IO[bytes]) -> subprocess.Popen[bytes] | None:
        command = [sys.executable, "-m", "converter.many"]
        with self._lock:
            if self._ended:
                return None
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # so that a group can be ended, measuring included
            )
            self._running.add(process)
        return process


def _listen(
    process: subprocess.Popen[bytes], order: Order, step: Callable[[str], None]
) -> Ending | None:
    """Hand an order over and follow its events; None when they end without an ending."""
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdout as events:
        with suppress(BrokenPipeError), process.stdin as stdin:  # it died: its events say nothing
            stdin.write(msgspec.json.encode(order) + b"\n")
        for line in events:
            event = msgspec.json.decode(line, type=Event)
            if event.ending is not None:
                return event.ending
            step(event.step)
    return None


def _clashes(orders: Sequence[Order]) -> dict[int, str]:
    """By number, why an order would overwrite the files of one before it."""
    first: dict[tuple[Path, str, str], str] = {}
    clashes = {}
    for number, order in enumerate(orders):
        try:
            recipe = load_recipe(Path(order.recipe))
        except EdgeError:
            continue  # its own build will say so
        folder = Path(order.output or recipe.output).resolve()
        other = first.setdefault((folder, recipe.name, recipe.version), order.recipe)
        if other != order.recipe or number != _first_of(orders, order.recipe):
            clashes[number] = (
                f"writes the same {recipe.name}-{recipe.version}.bundle as {other}: change name, "
                "version or output"
            )
    return clashes


def _first_of(orders: Sequence[Order], recipe: str) -> int:
    return next(number for number, order in enumerate(orders) if order.recipe == recipe)


def _fate(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"crashed with exit code {code}"


def _last_line(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _ERROR_TAIL_BYTES))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing; perhaps memory ran out: try fewer --jobs"


if __name__ == "__main__":
    main()
