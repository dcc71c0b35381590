"""Publishes a bundle: its blobs, the signed metadata, the desired state; watches what devices do.

The operator may leave as soon as the desired state can be read back. Until then, and as long as
somebody waits for the devices' verdict, a broker that dies and forgets is given everything again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from edge_agent.contract.errors import LinkError
from edge_agent.contract.experiment import Experiment
from edge_agent.contract.messages import Desired, Status, decode, encode
from edge_agent.contract.release import EXPERIMENT_SCHEMA, SCOPE_ALL
from edge_agent.contract.topics import Topics
from edge_agent.fleet.devices import read_status, read_statuses
from edge_agent.fleet.parcel import Parcel, Target, TrustFiles
from edge_agent.fleet.records import SEQ_MAX, parse_batch, update_of
from edge_agent.fleet.seed import Progress, Seeded, put_index, seed
from edge_agent.fleet.session import ConnectionLostError, Session
from edge_agent.fleet.verdicts import Verdict, Verdicts
from edge_agent.link import Message

_ROUNDS: Final = 5


class PublishReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was published, and what became of it as far as was waited for.

    Attributes:
        held: blobs that the broker had already.
        uploaded: blobs that it had not; those that it lost and got again count again.
        repeated: publishes that had to be repeated.
        comparing: devices that compare it with what they run.
        reconnects: how often the broker was lost.
        devices: verdicts of the addressed devices that are known.
    """

    model: str
    version: str
    sha256: str
    to: str
    revision: int
    bytes: int
    blobs: int
    held: int
    uploaded: int
    repeated: int
    reconnects: int
    committed: int
    refused: int
    comparing: int
    unanswered: int
    devices: tuple[Verdict, ...]


class Publisher:
    """Publishes one parcel to one target. Used by one thread.

    Args:
        session: entered; connected by :meth:`run`.
        topics: names of the topics.
        parcel: what to publish.
        target: for whom.
        trust: the signed metadata that order it; None for devices that run unsigned.
        revision: of that order; unsigned, one above all that the broker knows.
        start_within_s: devices begin at a stable random moment within so many seconds.
        experiment: how devices compare it before it decides; None for not at all.
        wait_s: how long to wait for verdicts once the desired state is out; 0 does not wait.
        connect_s: how long the broker may be away.
        answer_s: how long the broker may take to answer for retained messages.
        reseed_s: how often the blobs are checked again while a device says that it lacks some.
        tell: takes one sentence for people.
        progress: takes the progress of uploading.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        session: Session,
        topics: Topics,
        parcel: Parcel,
        target: Target,
        *,
        trust: TrustFiles | None = None,
        revision: int | None = None,
        start_within_s: int = 0,
        experiment: Experiment | None = None,
        wait_s: float,
        connect_s: float,
        tell: Callable[[str], None],
        progress: Progress,
        answer_s: float = 3.0,
        reseed_s: float = 10.0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._session = session
        self._topics = topics
        self._parcel = parcel
        self._target = target
        self._trust = trust
        self._revision = revision
        self._start_within_s = start_within_s
        self._experiment = experiment
        self._wait_s = wait_s
        self._connect_s = connect_s
        self._answer_s = answer_s
        self._reseed_s = reseed_s
        self._tell = tell
        self._progress = progress
        self._wall = wall
        self._topic = target.topic(topics, parcel.model)
        self._desired: Desired | None = None
        self._deadline: float | None = None  # of the wait, by the monotonic clock
        self._verdicts = Verdicts(parcel.model, tell)
        self._seeded = Seeded(0, 0, 0)
        self._reconnects = 0

    def run(self) -> PublishReport:
        """Publish and wait; starts over whenever the connection was lost.

        Raises:
            LinkError: the broker stays away, refuses, or does not keep what it acknowledges.
        """
        while True:
            self._session.connect(self._connect_s)
            try:
                self._seed()
                desired = self._announce()
                self._watch()
            except ConnectionLostError as exc:
                self._reconnects += 1
                self._tell(f"{exc}: connecting again, then everything is checked anew")
                continue
            return self._report(desired)

    # --- the broker's side -----------------------------------------------------------------------

    def _seed(self) -> None:
        seeded = seed(
            self._session,
            self._topics,
            self._parcel.blobs | (self._trust.blobs if self._trust else {}),
            answer_s=self._answer_s,
            progress=self._progress,
        )
        before = self._seeded
        first = self._desired is None and not before.uploaded
        self._seeded = Seeded(
            held=seeded.held if first else before.held,
            uploaded=before.uploaded + seeded.uploaded,
            repeated=before.repeated + seeded.repeated,
        )
        if self._trust is not None:
            put_index(self._session, self._topics, self._trust.index, self._answer_s)

    def _announce(self) -> Desired:
        """Publish the desired state until it, or somebody's newer one, can be read back."""
        new = self._desired is None
        self._desired = desired = self._desired or self._compared(self._make_desired())
        payload = encode(desired)
        if self._wait_s > 0:
            self._session.subscribe(self._filters())  # before, so as not to miss the first states
        for attempt in range(_ROUNDS):
            if new or attempt:
                self._session.publish([(self._topic, payload)], retain=True)
            held = self._session.ask([self._topic], self._answer_s).get(self._topic)
            if held == payload or (held is not None and _revision(held) > desired.revision):
                break
        else:
            raise LinkError(
                f"the broker acknowledges {self._topic} and does not keep it: "
                "check its access rules and its limit on retained messages"
            )
        if self._deadline is None:
            self._deadline = time.monotonic() + self._wait_s
            self._tell(f"{self._parcel.model} {self._parcel.version} is out for {self._target}")
        return desired

    def _make_desired(self) -> Desired:
        """Unsigned, above every revision that the broker knows: the highest one wins."""
        if self._revision is not None:
            return self._parcel.desired(self._revision, self._start_within_s)
        model = self._parcel.model
        filters = [
            self._topics.desired_for_device("+", model),
            self._topics.desired_for_group("+", model),
        ]
        answers = self._session.ask_all(filters, self._answer_s)
        highest = max((_revision(payload) for payload in answers.values()), default=0)
        revision = max(int(self._wall() * 1000), highest + 1)
        return self._parcel.desired(revision, self._start_within_s)

    def _compared(self, desired: Desired) -> Desired:
        """With the rule of the comparison, if there is one."""
        rule = self._experiment
        if rule is None:
            return desired
        return msgspec.structs.replace(desired, experiment=rule, schema=EXPERIMENT_SCHEMA)

    # --- the devices' side -----------------------------------------------------------------------

    def _watch(self) -> None:
        """Follow the verdicts until all are there or the time is over."""
        assert self._deadline is not None, "announced before"
        assert self._desired is not None, "announced before"
        if self._wait_s <= 0:
            return
        self._verdicts.revision = self._desired.revision
        self._find_devices()
        self._session.subscribe(self._filters())
        asked = checked = time.monotonic()
        while not self._verdicts.settled and time.monotonic() < self._deadline:
            message = self._session.receive(min(1.0, self._deadline - time.monotonic()))
            if message is not None:
                self._take(message)
            now = time.monotonic()
            if asked and now - asked > self._answer_s:  # the first answer may have been silence
                self._session.subscribe(self._filters())
                asked = 0.0
            if self._verdicts.starving and now - checked > self._reseed_s:
                self._seed()
                checked = time.monotonic()

    def _find_devices(self) -> None:
        """Know whom to wait for: the device itself, or whoever says that it is in the group."""
        if not self._target.group:
            self._verdicts.expect(self._target.name)
            return
        answers = self._session.ask_all([self._topics.status("+")], self._answer_s)
        statuses, _ = read_statuses(self._topics, answers)
        for status in statuses:
            self._consider(status)
        if self._verdicts.settled and not self._verdicts.all():
            self._tell(f"no device says yet that it belongs to {self._target}")

    def _filters(self) -> list[str]:
        """Of a device also its records, which are sooner; of a group they would be a flood."""
        if self._target.group:
            return [self._topics.status("+")]
        name = self._target.name
        return [self._topics.status(name), self._topics.records(name, "+")]

    def _take(self, message: Message) -> None:
        try:
            status = read_status(self._topics, message.topic, message.payload)
            if status is not None:
                self._consider(status)
                return
            parsed = parse_batch(self._topics, message.topic, message.payload)
        except LinkError:
            return  # not for us to judge: the collector counts what cannot be read
        for row in parsed.rows:
            if report := update_of(row):
                self._verdicts.note(row.device, report)

    def _consider(self, status: Status) -> None:
        models = {pipeline.model for pipeline in status.pipelines}
        other = self._target.name == SCOPE_ALL and self._parcel.model not in models
        if other or not self._target.addresses(status):
            return
        self._verdicts.expect(status.device, online=status.online)
        for report in status.updates:
            self._verdicts.note(status.device, report)
        if models and self._parcel.model not in models:
            reason = f"it has no pipeline for model {self._parcel.model!r}"
            self._verdicts.refuse(status.device, reason)

    def _report(self, desired: Desired) -> PublishReport:
        verdicts = self._verdicts.all()
        states = [verdict.state for verdict in verdicts]
        committed = states.count("committed")
        refused = states.count("refused") + states.count("rolled_back")
        comparing = states.count("comparing")
        return PublishReport(
            model=self._parcel.model,
            version=self._parcel.version,
            sha256=self._parcel.sha256,
            to=str(self._target),
            revision=desired.revision,
            bytes=self._parcel.bytes,
            blobs=len(self._parcel.blobs),
            held=self._seeded.held,
            uploaded=self._seeded.uploaded,
            repeated=self._seeded.repeated,
            reconnects=self._reconnects,
            committed=committed,
            refused=refused,
            comparing=comparing,
            unanswered=len(states) - committed - refused - comparing,
            devices=verdicts,
        )


def _revision(payload: bytes) -> int:
    """The revision in a desired state; 0 when it cannot be read, as devices refuse it too."""
    try:
        revision = decode(payload, Desired).revision
    except LinkError:
        return 0
    return revision if revision <= SEQ_MAX else 0
