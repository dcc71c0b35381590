"""Where records wait between the threads that make them and the one that keeps them."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Final

from edge_agent.contract.messages import Record
from edge_agent.outbox import losses
from edge_agent.outbox.items import BODY_BYTES_MAX, Item, Kept, item_of

_PREPARE_N: Final = 1_000  # records that are handed over at once


class Intake:
    """A bounded queue that wakes its reader as rarely as possible.

    Args:
        n_max: records that may wait; more are dropped and counted.
        wake: called from any thread for the first record after a round of taking, and again when
            the queue is half full; never waits.
    """

    def __init__(self, n_max: int, wake: Callable[[], None]) -> None:
        self._n_max = n_max
        self._wake = wake
        self._queue: deque[Record | Item] = deque()
        self._ready: list[Kept] = []
        self._lost: Counter[str] = Counter()
        self._lock = threading.Lock()  # of the counter alone: putting takes none
        self._woken = self._pressed = False

    # --- any thread ---

    def put(self, thing: Record | Item) -> None:
        """Queue a record or a message; well under a microsecond."""
        waiting = len(self._queue)
        if waiting >= self._n_max:
            self.lose(losses.QUEUE_FULL, 1)
            return
        self._queue.append(thing)
        if not self._woken:
            self._woken = True
            self._wake()
        elif 2 * waiting >= self._n_max and not self._pressed:
            self._pressed = True
            self._wake()

    def lose(self, reason: str, count: int) -> None:
        """Count records that were dropped before the outbox had them."""
        with self._lock:
            self._lost[reason] += count

    @property
    def lost_n(self) -> int:
        """Records that were dropped and not yet handed over by :meth:`take_lost`."""
        return self._lost.total()

    def __len__(self) -> int:
        return len(self._queue) + len(self._ready)

    # --- the reader's thread ---

    @property
    def is_pressing(self) -> bool:
        """Whether the queue is at least half full."""
        return 2 * len(self._queue) >= self._n_max

    def drain(self, keep: Callable[[list[Kept]], int]) -> None:
        """Hand over everything that waits at this moment, in order.

        Args:
            keep: takes items from the front of a list and says how many; when it raises, what it
                was given waits here for the next time.
        """
        self._woken = self._pressed = False  # before counting: what comes later wakes again
        left = len(self._queue)
        while left or self._ready:
            while left and len(self._ready) < _PREPARE_N:
                self._prepare(self._queue.popleft())
                left -= 1
            if self._ready:
                del self._ready[: keep(self._ready)]

    def take_lost(self) -> Mapping[str, int]:
        """What was dropped, by reason, since the last time."""
        with self._lock:
            lost, self._lost = self._lost, Counter()
        return lost

    def _prepare(self, thing: Record | Item) -> None:
        item = thing if isinstance(thing, Item) else item_of(thing)
        if isinstance(item, Item) and len(item.body) > BODY_BYTES_MAX:
            self.lose(losses.TOO_LARGE, 1)
        else:
            self._ready.append(item)
