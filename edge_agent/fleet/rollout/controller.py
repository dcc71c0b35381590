"""Leads rollouts: hears devices, decides by the plan, signs orders and puts them on the broker.

It may be killed at any moment, and be away between two steps: what is to be done is on disk before
it is done, and doing it again changes nothing. Devices learn of new orders from the index of the
signed metadata; no desired state is published, since a device that runs unsigned would obey it.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from edge_agent.contract.errors import LinkError
from edge_agent.contract.messages import Status
from edge_agent.contract.release import Choice
from edge_agent.contract.topics import Topics
from edge_agent.fleet.devices import read_status, read_statuses
from edge_agent.fleet.parcel import trust_files
from edge_agent.fleet.rollout.devices import Devices
from edge_agent.fleet.rollout.orders import newer, orders_back, orders_out
from edge_agent.fleet.rollout.plan import (
    Action,
    Counts,
    Open,
    State,
    done,
    step,
    supersede,
)
from edge_agent.fleet.rollout.state import ConflictError, Rollout, Rollouts
from edge_agent.fleet.seed import put_index, seed
from edge_agent.fleet.session import ConnectionLostError, Session
from edge_agent.fleet.trust.repository import Repository
from edge_agent.fleet.trust.signed import ChangedError

_EVERYBODY: Final = "+"
_CUT_N: Final = 900  # answers from which on there may be more

Show = Callable[[Rollout, Sequence[Counts]], None]
"""Takes a rollout as it stands, and the counts of its rings."""


class Controller:
    """Leads the rollouts that nobody else leads. Used by one thread.

    Args:
        session: entered.
        topics: names of the topics.
        folder: of the signed repository; read anew for every order, as other commands change it.
        rollouts: where they are kept.
        connect_s: how long the broker may be away.
        tell: takes one sentence for people.
        show: see :data:`Show`; called every turn.
        answer_s: how long the broker may take to answer for retained messages.
        period_s: within how many seconds every device says how it is (``status_s`` of the agent).
        turn_s: seconds between two looks.
        lease_s: after so many seconds another controller takes over from one that was killed.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        session: Session,
        topics: Topics,
        folder: Path,
        rollouts: Rollouts,
        *,
        connect_s: float,
        tell: Callable[[str], None],
        show: Show,
        answer_s: float = 3.0,
        period_s: float = 35.0,
        turn_s: float = 1.0,
        lease_s: float = 20.0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._session, self._topics = session, topics
        self._folder, self._rollouts = folder, rollouts
        self._connect_s, self._answer_s, self._turn_s = connect_s, answer_s, turn_s
        self._period_s, self._lease_s, self._wall = period_s, lease_s, wall
        self._tell, self._show = tell, show
        self._owner = secrets.token_hex(8)
        self._devices: dict[str, Devices] = {}  # of the rollouts that are led from here
        self._lease_t: dict[str, float] = {}
        self._supplied: set[str] = set()  # rollouts whose blobs this broker has

    def run(self, stop: threading.Event, *, only: str | None = None, once: bool = False) -> None:
        """Lead until ``stop`` is set.

        Args:
            stop: set from outside.
            only: lead this rollout, and end when it is over; None leads all.
            once: look once, do what is due, and end.

        Raises:
            LinkError: the broker stays away, refuses, or does not keep what it acknowledges.
            StorageError: the database refuses.
            ConfigError: the repository cannot be used.
        """
        ended = False
        try:
            while not ended and not stop.is_set():
                self._session.connect(self._connect_s)
                try:
                    ended = self._work(stop, only, once=once)
                except ConnectionLostError as exc:
                    self._supplied.clear()
                    self._tell(f"{exc}: connecting again")
        finally:
            self._rollouts.release(self._owner)

    def _work(self, stop: threading.Event, only: str | None, *, once: bool) -> bool:
        """Lead until the connection is lost; True when there is nothing more to do."""
        listens = False
        while not stop.is_set():
            mine = [self._rollouts.load(only)] if only else self._rollouts.open()
            new = [rollout for rollout in mine if self._join(rollout)]
            if new or not listens:
                decides = any(rollout.state.phase == "running" for rollout in mine)
                self._listen(self._period_s if decides else 0.0, stop)
                listens = True
            for rollout in mine:
                self._lead(rollout)
            if once or (only and self._rollouts.load(only).state.over):
                return True
            self._hear(self._turn_s)
        return True

    # --- what devices say ------------------------------------------------------------------------

    def _listen(self, period_s: float, stop: threading.Event) -> None:
        """Hear what every device has said last, and then whatever they say.

        mosquitto answers a wildcard with about a thousand retained messages, and drops the rest in
        silence. So where there are many, nothing is decided before every device has had the time
        to say how it is: ``period_s``.
        """
        filters = [self._topics.status(_EVERYBODY)]
        answers = self._session.ask_all(filters, self._answer_s)
        for status in read_statuses(self._topics, answers)[0]:
            self._take(status)
        self._session.subscribe(filters)
        deadline = time.monotonic() + (period_s if len(answers) >= _CUT_N else 0.0)
        while time.monotonic() < deadline and not stop.is_set():
            self._hear(self._turn_s)
            for name in self._devices:
                self._hold(name)

    def _hear(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            message = self._session.receive(left)
            if message is None:
                return
            try:
                status = read_status(self._topics, message.topic, message.payload)
            except LinkError:
                continue  # not for us to judge: edge-fleet status tells
            if status is not None:
                self._take(status)

    def _take(self, status: Status) -> None:
        for devices in self._devices.values():
            devices.hear(status)

    # --- one rollout -----------------------------------------------------------------------------

    def _join(self, rollout: Rollout) -> bool:
        """Take or keep the lead; whether it is new here, so that devices must be heard."""
        name = rollout.name
        if rollout.state.over or not self._hold(name):
            self._devices.pop(name, None)
            return False
        if name in self._devices:
            return False
        self._devices[name] = Devices(rollout.plan, self._rollouts.members(name))
        return True

    def _hold(self, name: str) -> bool:
        """Renew the lease in time; whether it is ours."""
        now = self._wall()
        if now < self._lease_t.get(name, 0.0) - self._lease_s / 2:
            return True
        held = self._rollouts.lease(name, self._owner, now, self._lease_s)
        self._lease_t[name] = now + self._lease_s if held else 0.0
        return held

    def _lead(self, rollout: Rollout) -> None:
        """One turn: keep what was heard, write the next state, do what it asks for."""
        devices = self._devices.get(rollout.name)
        if devices is None:  # led by somebody else, or over
            kept = Devices(rollout.plan, self._rollouts.members(rollout.name))
            self._show(rollout, kept.counts())
            return
        self._rollouts.keep(rollout.name, devices.take_changed())
        counts, now = devices.counts(), self._wall()
        repository = Repository(self._folder)
        try:
            state, action = self._next(rollout, repository, counts, now)
            if state != rollout.state:
                rollout = self._rollouts.save(rollout, state, now, _note(rollout, state))
            self._show(rollout, counts)
            if action is None and rollout.state.ring and rollout.name not in self._supplied:
                self._supply(repository, rollout.name, [rollout.plan.choice])
            if action is not None:
                rollout = self._act(rollout, action, repository)
                self._show(rollout, counts)
        except ConflictError:
            return  # somebody pauses it, or goes back: looked at anew in the next turn
        except ChangedError as exc:
            self._tell(f"{exc}: in the next turn")

    @staticmethod
    def _next(
        rollout: Rollout, repository: Repository, counts: Sequence[Counts], now: float
    ) -> tuple[State, Action | None]:
        """By the plan, unless somebody has ordered something newer for these devices."""
        path = newer(repository.orders(), rollout.plan)
        if path and rollout.state.phase in ("running", "paused"):
            return supersede(rollout.state, f"{path} was ordered anew by somebody else"), None
        return step(rollout.plan, rollout.state, counts, now)

    def _act(self, rollout: Rollout, action: Action, repository: Repository) -> Rollout:
        """Sign and publish. May have been done before, in whole or in part.

        Args:
            rollout: with the state in which this is to be done.
            action: what.
            repository: as it was read before that was decided.
        """
        plan, ring, standing = rollout.plan, rollout.state.ring, repository.orders()
        if isinstance(action, Open):
            wanted, note = orders_out(plan, ring), f"ring {ring} is out"
            paths = set(wanted)
        else:
            wanted = orders_back(plan, ring, repository.next_revision())
            note = "what was before is out"
            paths = {p for p, order in standing.items() if order.revision == plan.revision}
        changed = {p: o for p, o in wanted.items() if p in paths and standing.get(p) != o}
        if changed:
            repository.order_all(changed)
        self._supply(repository, rollout.name, [order.choice for order in wanted.values()])
        now = self._wall()
        return self._rollouts.change(rollout.name, lambda s: done(s, action, now), now, note)

    def _supply(self, repository: Repository, name: str, choices: Sequence[Choice]) -> None:
        """Put bundles and metadata on the broker, and read them back.

        Done again after every reconnect, and by a controller that takes over: a broker may forget.
        """

        def progress(*_: int) -> None:
            self._hold(name)  # it may take longer than the lease lasts

        trust = trust_files(repository.files())
        blobs = repository.blobs(choices) | trust.blobs
        seed(self._session, self._topics, blobs, answer_s=self._answer_s, progress=progress)
        put_index(self._session, self._topics, trust.index, self._answer_s)
        self._supplied.add(name)


def _note(rollout: Rollout, state: State) -> str:
    if state.phase == rollout.state.phase == "running":
        return f"ring {state.ring} of {len(rollout.plan.rings)} is opened"
    return f"{state.phase}: {state.reason}" if state.reason else state.phase
