"""Which blobs of a payload to ask for now: rules over a :class:`Partial`, without network or clock.

Blobs are asked for a window at a time. The first silence is asked again at once, because a broker
may answer the first subscription after its restart with nothing. The second means "later": the
blob leaves the window so that others go on, and comes back after a pause that doubles up to a
minute, for ever: a broker that lost what it retained is seeded again some day. What comes is held
to a rate, so that an update leaves the link to others.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from edge_agent.contract.errors import BundleError
from edge_agent.update.partial import Partial, WrongBlobError
from edge_agent.update.ways.base import Blob

SYNC_S: Final = 1.0
"""Seconds between two syncs: a power cut costs at most what was loaded in so long."""

WRONG_MAX: Final = 5
"""Wrong answers for one blob after which the bundle is refused."""

_NS: Final = 1_000_000_000
_PAUSE_S_MAX: Final = 60.0
_BURST_NS: Final = _NS // 2  # of the rate that may be made up for: steps are a quarter apart
_LATER: Final = 2  # silences after which a blob leaves the window


class Plan(msgspec.Struct, frozen=True):
    """What to ask a way for now, and for what nobody waits any more."""

    ask: list[Blob]
    drop: list[Blob]


class Fetch:
    """One payload being fetched. One thread.

    Args:
        partial: where the blobs go, and which are missing.
        answer_s: seconds without any answer after which a blob is asked for again; slow links
            stretch it.
        bytes_per_s: most that may be asked for; None for no bound.

    Attributes:
        silence_s: for how long nothing has come while the way was open.
    """

    def __init__(
        self, partial: Partial, *, answer_s: float, bytes_per_s: int | None = None
    ) -> None:
        self.partial = partial
        self._bytes_per_s, self._free_ns = bytes_per_s, 0  # when the link is free again
        self._answer_s = self._patience_s = answer_s
        self._progress_ns = 0  # when anything arrived last
        self._sync_ns = 0  # when the next sync is due
        self._planned_ns: int | None = None  # when it was asked last, while the way was open
        self.silence_s = 0.0
        self._asked: dict[str, tuple[Blob, int]] = {}  # digest -> when
        self._later: dict[str, int] = {}  # digest -> when it is due again
        self._silences: dict[str, int] = {}
        self._wrong: dict[str, int] = {}
        self._given_up: list[Blob] = []  # to be dropped
        self._fresh: OrderedDict[str, None] = OrderedDict.fromkeys(partial.missing)

    @property
    def waiting_n(self) -> int:
        """Blobs that were asked for in vain often enough to be put off."""
        return sum(count >= _LATER for count in self._silences.values())

    @property
    def asked(self) -> list[Blob]:
        """What a way still knows of."""
        return [*(want for want, _ in self._asked.values()), *self._given_up]

    def plan(self, now_ns: int, window_n: int) -> Plan:
        """Advance to this moment: what to ask for and to give up.

        Args:
            now_ns: monotonic time.
            window_n: blobs that may be asked for at once.
        """
        if self._planned_ns is not None:
            self.silence_s += (now_ns - self._planned_ns) / _NS
        self._planned_ns = now_ns
        again = self._expire(now_ns)
        if not again and len(self._asked) > window_n // 2:
            return Plan([], [])  # one question for several costs a quarter less
        while (
            len(self._asked) < window_n
            and now_ns >= self._free_ns
            and (digest := self._next(now_ns))
        ):
            want = self.partial.want(digest)
            self._asked[digest] = want, now_ns
            self._spend(want.bytes, now_ns)
            again.append(want)
        gone, self._given_up = self._given_up, []
        return Plan(again, gone)

    def take(self, digest: str, payload: bytes, now_ns: int) -> None:
        """Judge and keep an answer.

        Raises:
            BundleError: wrong too often, or the bundle contradicts itself: give it up.
            StorageError: the disk refused; the blob will be asked for again.
        """
        asked = self._asked.get(digest)
        if asked is not None:
            took_s = (now_ns - max(asked[1], self._progress_ns)) / _NS
            self._patience_s = min(_PAUSE_S_MAX, max(self._answer_s, 2 * took_s))
        self._progress_ns = now_ns
        try:
            self.partial.put(digest, payload)
        except WrongBlobError:
            self._count_wrong(digest, now_ns)
            return
        self.silence_s = 0.0
        self._sync(now_ns)
        self._forget(digest)
        if not (self._fresh or self._asked or self._later):  # the index is there: chunks begin
            self._fresh = OrderedDict.fromkeys(self.partial.missing)

    def lost(self) -> None:
        """The connection is gone, and with it every subscription; nobody is to blame."""
        self._planned_ns = None
        self._fresh = OrderedDict.fromkeys([*self._asked, *self._fresh])
        self._asked.clear()
        self._given_up.clear()

    def absent(self, digest: str, now_ns: int) -> None:
        """The way is sure that it has no such blob now: it is asked for later."""
        if digest in self._asked:
            silences = self._silences[digest] = max(_LATER, self._silences.get(digest, 0) + 1)
            self._put_off(digest, now_ns, silences - _LATER)

    def _sync(self, now_ns: int) -> None:
        """Make what has arrived durable from time to time; a fast link does not wait for it."""
        if now_ns >= self._sync_ns:
            self.partial.sync()
            self._sync_ns = now_ns + round(SYNC_S * _NS)

    def _spend(self, count: int, now_ns: int) -> None:
        """Note when the link is free again after so many bytes."""
        if self._bytes_per_s is not None:
            took_ns = round(count * _NS / self._bytes_per_s)
            self._free_ns = max(self._free_ns, now_ns - _BURST_NS) + took_ns

    def _expire(self, now_ns: int) -> list[Blob]:
        """Put off what was asked for in vain; returns what to ask for again at once."""
        again = []
        for digest, (want, asked_ns) in list(self._asked.items()):
            if now_ns - max(asked_ns, self._progress_ns) < self._patience_s * _NS:
                continue
            silences = self._silences[digest] = self._silences.get(digest, 0) + 1
            if silences < _LATER:
                self._asked[digest] = want, now_ns
                again.append(want)
            else:
                self._put_off(digest, now_ns, silences - _LATER)
        return again

    def _next(self, now_ns: int) -> str | None:
        if self._fresh:
            return self._fresh.popitem(last=False)[0]
        for digest, due_ns in self._later.items():
            if due_ns <= now_ns:
                del self._later[digest]
                return digest
        return None

    def _count_wrong(self, digest: str, now_ns: int) -> None:
        wrong = self._wrong[digest] = self._wrong.get(digest, 0) + 1
        if wrong >= WRONG_MAX:
            name = self.partial.missing[digest]
            raise BundleError(
                f"{name} came {wrong} times with another digest than announced "
                f"({digest[:12]}…): publish the bundle again"
            )
        self._put_off(digest, now_ns, wrong - 1)

    def _put_off(self, digest: str, now_ns: int, doublings: int) -> None:
        pause_s = min(_PAUSE_S_MAX, self._answer_s * 2 ** min(doublings, 16))
        self._forget_place(digest)
        self._later[digest] = now_ns + round(pause_s * _NS)

    def _forget(self, digest: str) -> None:
        self._forget_place(digest)
        self._silences.pop(digest, None)
        self._wrong.pop(digest, None)

    def _forget_place(self, digest: str) -> None:
        """Take a blob out of wherever it waits."""
        if (asked := self._asked.pop(digest, None)) is not None:
            self._given_up.append(asked[0])
        self._later.pop(digest, None)
        self._fresh.pop(digest, None)
