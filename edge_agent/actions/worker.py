"""Runs the actions of one pipeline so that a slow one never delays a decision."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Final

from edge_agent.actions.base import Action
from edge_agent.contract.errors import EdgeError
from edge_agent.contract.messages import Decision

log = logging.getLogger(__name__)

_KILLED_S: Final = 2.0  # for a blocking action to return once it has been closed


class ActionWorker:
    """Fires actions: the quick ones at once, the blocking ones in order on one thread.

    A full queue drops its oldest entry: the newest decision says what holds now.

    Args:
        actions: of one pipeline; they are closed with the worker.
        stream: those among them, none blocking, that take decisions that did not fire, too.
        queue_n_max: firings of blocking actions that may wait.
        close_s: seconds that ``close`` lets them go on.
    """

    def __init__(
        self,
        actions: Sequence[Action],
        *,
        stream: Sequence[Action] = (),
        queue_n_max: int = 100,
        close_s: float = 5.0,
    ) -> None:
        self._actions = tuple(actions)
        self._stream = tuple(stream)
        self._quick = tuple(action for action in actions if not action.blocking)
        self._blocking = tuple(action for action in actions if action.blocking)
        self._queue: SimpleQueue[tuple[Action, Decision] | None] = SimpleQueue()
        self._queue_n_max = queue_n_max
        self._close_s = close_s
        self._thread: threading.Thread | None = None
        self._abandon = False
        self._lock = threading.Lock()
        self._counts = {"action_errors": 0, "dropped_actions": 0}

    @property
    def counts(self) -> dict[str, int]:
        """``action_errors`` and ``dropped_actions`` since the start, and ``waiting_actions`` now.

        Any thread.
        """
        with self._lock:
            return {**self._counts, "waiting_actions": self._queue.qsize()}

    @property
    def wants_all(self) -> bool:
        """Whether :meth:`dispatch` is to be called for decisions that did not fire, too."""
        return bool(self._stream)

    def dispatch(self, decision: Decision) -> None:
        """Fire every action, or only the streaming ones when the decision did not fire.

        The pipeline's thread; never waits, and no action's error comes out. Not to be called after
        :meth:`close`.
        """
        if not decision.fired:
            for action in self._stream:
                self._fire(action, decision)
            return
        for action in self._quick:
            self._fire(action, decision)
        for action in self._blocking:
            self._enqueue(action, decision)

    def close(self) -> None:
        """Finish what is queued within ``close_s``, drop the rest, and close the actions.

        May be called twice, by any thread, once nothing is dispatched any more.
        """
        deadline = time.monotonic() + self._close_s
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(max(0.0, deadline - time.monotonic()))
        self._abandon = True
        for action in self._actions:
            action.close()  # ends a firing that is still going on
        if self._thread is not None:
            self._thread.join(_KILLED_S)
            self._thread = None
        self._drop_rest()

    def _enqueue(self, action: Action, decision: Decision) -> None:
        if self._queue.qsize() >= self._queue_n_max:  # nobody else puts, so it cannot grow since
            self._drop_one()
        self._queue.put((action, decision))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="actions", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        """The thread: one firing after another until the end of the queue."""
        while not self._abandon and (item := self._queue.get()) is not None:
            self._fire(*item)

    def _fire(self, action: Action, decision: Decision) -> None:
        try:
            action.fire(decision)
        except EdgeError as exc:
            self._count("action_errors")
            log.warning("%s: action failed: %s", decision.pipeline, exc)
        except Exception:  # a mistake in somebody's action must not end decisions
            self._count("action_errors")
            log.exception("%s: action %s failed", decision.pipeline, type(action).__name__)

    def _drop_one(self) -> None:
        try:
            item = self._queue.get_nowait()
        except Empty:  # the thread has taken it meanwhile
            return
        if item is not None:
            self._count("dropped_actions")

    def _drop_rest(self) -> None:
        while not self._queue.empty():
            self._drop_one()

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1
