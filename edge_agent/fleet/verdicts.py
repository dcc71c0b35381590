"""What the addressed devices have said so far about one desired state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec

from edge_agent.contract.messages import UpdateReport, UpdateState

State = UpdateState | Literal["unanswered", "superseded"]

_ORDER: Final[tuple[State, ...]] = (
    "unanswered",
    "offered",
    "fetching",
    "verified",
    "staged",
    "probing",
    "comparing",
    "trial",
    "committed",
    "rolled_back",
    "refused",
    "superseded",
)
_FINAL: Final = frozenset({"committed", "rolled_back", "refused", "superseded"})


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Where one device stands.

    Attributes:
        state: as the device reported it; ``unanswered`` when it has not, ``superseded`` when it
            follows a newer desired state.
        reason: the device's words.
        online: what its status says; None when it has none.
    """

    device: str
    state: State = "unanswered"
    reason: str = ""
    online: bool | None = None

    def heard(self, report: UpdateReport, revision: int) -> Verdict:
        """The verdict after a report, about the desired state with this revision.

        Older revisions say nothing about it; states never go back, and final ones stay.
        """
        if report.revision > revision:
            reason = f"it follows {report.version}, which somebody published since"
            return self.advanced("superseded", reason)
        if report.revision == revision:
            return self.advanced(report.state, report.reason)
        return self

    def advanced(self, state: State, reason: str) -> Verdict:
        """The verdict with this state, unless that would be a step back."""
        if _ORDER.index(state) < _ORDER.index(self.state) or self.state in _FINAL:
            return self
        return msgspec.structs.replace(self, state=state, reason=reason)


class Verdicts:
    """Collects reports, in whatever order statuses and records bring them.

    Args:
        model: name of the model; reports on others are passed over.
        tell: takes one sentence for each change.

    Attributes:
        revision: of the desired state; reports on older ones are passed over.
    """

    def __init__(self, model: str, tell: Callable[[str], None]) -> None:
        self._model = model
        self._tell = tell
        self._verdicts: dict[str, Verdict] = {}
        self.revision = 0

    def expect(self, device: str, *, online: bool | None = None) -> None:
        """This device is addressed."""
        before = self._verdicts.setdefault(device, Verdict(device=device))
        if online is not None:
            self._verdicts[device] = msgspec.structs.replace(before, online=online)

    def note(self, device: str, report: UpdateReport) -> None:
        """Take one report in; states never go back, since statuses may lag behind records."""
        if device not in self._verdicts or report.model != self._model:
            return
        self._put(self._verdicts[device].heard(report, self.revision))

    def refuse(self, device: str, reason: str) -> None:
        """The device will not take it, as can be seen from its status."""
        self._put(self._verdicts[device].advanced("refused", reason))

    def all(self) -> tuple[Verdict, ...]:
        """Every addressed device that is known, by name."""
        return tuple(self._verdicts[device] for device in sorted(self._verdicts))

    @property
    def settled(self) -> bool:
        """Whether nothing is left to wait for; a comparison may last for weeks."""
        rests = _FINAL | {"comparing"}
        return all(verdict.state in rests for verdict in self._verdicts.values())

    @property
    def starving(self) -> bool:
        """Whether a device says that it waits for blobs."""
        waiting = (v.state == "fetching" and v.reason for v in self._verdicts.values())
        return any(waiting)

    def _put(self, verdict: Verdict) -> None:
        if verdict != self._verdicts[verdict.device]:
            self._verdicts[verdict.device] = verdict
            reason = f": {verdict.reason}" if verdict.reason else ""
            self._tell(f"{verdict.device}: {verdict.state}{reason}")
