"""What this device is ordered to run, by signed metadata.

A retained desired state is a hint that there are new orders, and so is a change of the index of
the metadata; either starts a trust check. Without hints one is made from time to time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from edge_agent.update.trust.check import TrustCheck
from edge_agent.update.trust.protocol import Answer as Verdict
from edge_agent.update.ways.base import Answer, File, Way

log = logging.getLogger(__name__)

_NS: Final = 1_000_000_000
_PAUSES_S: Final = (1.0, 600.0)  # first and longest pause after a check that may succeed later


class Orders:
    """Leads trust checks. One thread; no call waits.

    Args:
        way: where metadata come from.
        make_check: begins a check.
        answer_s: seconds without an answer after which a file is asked for again.
        check_s: seconds between two checks when nothing hints at new orders.

    Attributes:
        fault: why the last check failed, or empty.
        checked: whether a check has ended since the start, well or with a fault.
    """

    def __init__(
        self, way: Way, make_check: Callable[[], TrustCheck], *, answer_s: float, check_s: float
    ) -> None:
        self._way, self._make_check = way, make_check
        self._answer_ns, self._check_ns = round(answer_s * _NS), round(check_s * _NS)
        self._check: TrustCheck | None = None
        self._asked: tuple[File, int] | None = None  # and when
        self._due_ns = 0  # of the next check
        self._pause_s = _PAUSES_S[0]
        self.fault, self.checked = "", False

    @property
    def busy(self) -> bool:
        """Whether a check is at work, rather than waiting for the network or for a hint."""
        return self._check is not None and self._check.wanted is None

    def hint(self) -> None:
        """There may be new orders."""
        self._due_ns, self._pause_s = 0, _PAUSES_S[0]

    def step(self, now_ns: int) -> Verdict | None:
        """Lead the check on; its verdict, once, when it could trust what it has seen."""
        if self._way.news():
            self.hint()
        if self._check is None:
            if now_ns < self._due_ns or not self._way.ready:
                return None
            self._check, self._due_ns = self._make_check(), now_ns + self._check_ns
        verdict = self._check.poll()
        if verdict is None:
            self._ask(now_ns)
            return None
        self._end()
        return self._judged(verdict, now_ns)

    def take(self, answer: Answer) -> None:
        """A file of the metadata has come, or is known to be absent."""
        if self._check is not None and isinstance(answer.want, File):
            self._check.give(answer.want.file, answer.data)
            self._asked = None

    def close(self) -> None:
        """End a check that is under way."""
        if self._check is not None:
            self._check.close()
            self._end()

    def _ask(self, now_ns: int) -> None:
        """Ask for the file that the check waits for; again when no answer comes."""
        want = self._check.wanted if self._check else None
        if want is None:
            return
        asked, when_ns = self._asked or (None, 0)
        if want != asked or now_ns - when_ns >= self._answer_ns:
            self._asked = want, now_ns
            self._way.ask([want])

    def _end(self) -> None:
        if self._asked is not None:
            self._way.drop([self._asked[0]])
        self._check = self._asked = None

    def _judged(self, verdict: Verdict, now_ns: int) -> Verdict | None:
        self.checked = True
        if verdict.ok:
            self.fault, self._pause_s = "", _PAUSES_S[0]
            return verdict
        if verdict.later:
            self._due_ns = min(self._due_ns, now_ns + round(self._pause_s * _NS))
            self._pause_s = min(2 * self._pause_s, _PAUSES_S[1])
        if verdict.reason != self.fault:
            log.error("no new orders are taken: %s", verdict.reason)
        self.fault = verdict.reason
        return None
