"""What travels over MQTT, as JSON. Unknown fields are accepted: senders may be newer.

A *record* is what a device keeps until it is delivered. Each has ``(device, boot, seq)``: ``boot``
names one start of the agent, and ``seq`` counts up from 1 within it without a gap, in the order
in which the outbox accepted the records. So a receiver can drop duplicates and prove completeness:
whatever is dropped on purpose is said in a :class:`Ledger` record.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeVar

import msgspec

from edge_agent.contract.errors import LinkError
from edge_agent.contract.experiment import Comparison, Experiment
from edge_agent.contract.names import is_sha256, name_fault, version_fault
from edge_agent.contract.release import EXPERIMENT_SCHEMA, Payload

MESSAGE_SCHEMA: Final = 1

UpdateState = Literal[
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
]


# --- records -------------------------------------------------------------------------------------


class Stamp(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """When a record was made: what all kinds of record share.

    Attributes:
        t: seconds since 1970 by the device's wall clock.
        synced: whether that clock was synchronised; a Pi has no battery clock.
    """

    t: float
    synced: bool = True


class Decision(Stamp, frozen=True, kw_only=True, tag="decision", gc=False):
    """One decided window. It can be in no cycle, so the garbage collector need not look at it.

    Attributes:
        pipeline: name of the pipeline in the agent's configuration.
        sensor: which of the pipeline's sensors; empty where there is one only.
        model: version of the bundle that decided.
        reading: how many readings the source had given when the window was complete, from 1.
        label: the model's own answer; empty for regression.
        score: the label's score, the anomaly score, or the first value.
        values: all values of a regression with more than one target; else empty.
        state: the stable state after threshold, hysteresis and debounce.
        fired: whether this window changed the state and fired the actions.
    """

    pipeline: str
    sensor: str = ""
    model: str
    reading: int
    label: str = ""
    score: float
    values: tuple[float, ...] = ()
    state: str = ""
    fired: bool = False


class RawWindow(Stamp, frozen=True, kw_only=True, tag="window"):
    """The readings of one decided window, to train the next model on.

    Attributes:
        pipeline: name of the pipeline in the agent's configuration.
        reading: as in the :class:`Decision` on it.
        shape: (length, channels).
        data: reading after reading, as float32 with the lowest byte first; base64 on the wire.
    """

    pipeline: str
    reading: int
    shape: tuple[int, int]
    data: bytes


class Started(Stamp, frozen=True, kw_only=True, tag="started"):
    """The agent started: always seq 1 of a boot.

    Attributes:
        agent: version of the agent.
        previous_boot: the boot before on the same outbox; empty for the first.
        previous_seq: the last seq that the boot before used, so that its tail can be proved too.
    """

    agent: str
    previous_boot: str = ""
    previous_seq: int = 0


class Ledger(Stamp, frozen=True, kw_only=True, tag="ledger"):
    """Records that were dropped on purpose.

    Attributes:
        boot: whose seqs ``ranges`` names; it may be an earlier boot than the ledger's own.
        ranges: inclusive (first, last) seqs that will never be sent.
        count: how many records; more than ``ranges`` covers when they were dropped before they had
            a seq.
        reason: e.g. ``"byte cap"`` or ``"queue full"``.
    """

    boot: str
    ranges: tuple[tuple[int, int], ...] = ()
    count: int
    reason: str


class UpdateReport(Stamp, frozen=True, kw_only=True, tag="update"):
    """A model update entered a state.

    Attributes:
        model: name of the model.
        version: version of the bundle that is offered.
        sha256: digest of the bundle that is offered.
        revision: of the desired state that asked for it.
        state: the state that was entered.
        reason: why it was refused or rolled back; before that, what it waits for, if it does.
    """

    model: str
    version: str
    sha256: str
    revision: int
    state: UpdateState
    reason: str = ""


class ExperimentReport(Stamp, frozen=True, kw_only=True, tag="experiment"):
    """How a candidate does beside the incumbent: when it begins, at the verdict, and hourly.

    Attributes:
        model: name of the model.
        version: of the candidate.
        sha256: digest of the candidate.
        revision: of the desired state that asked for it.
        incumbent: version of the model that it is compared with.
        outcome: ``look`` for no verdict yet.
        reason: of the verdict, or where it stands.
        seconds: how long they have been compared.
        pipelines: the figures, by the names of the pipelines.
    """

    model: str
    version: str
    sha256: str
    revision: int
    incumbent: str
    outcome: Literal["look", "promote", "drop"]
    reason: str = ""
    seconds: float = 0.0
    pipelines: dict[str, Comparison] = {}


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of one stage since the agent started, in microseconds."""

    n: int
    p50: float
    p99: float
    p999: float
    max: float


class Metrics(Stamp, frozen=True, kw_only=True, tag="metrics"):
    """Counters and latencies of one pipeline at one moment.

    Attributes:
        counts: totals since start, by the names of :class:`edge_agent.metrics.Counters`.
        latency_us: by stage: ``read``, ``window``, ``infer``, ``decide``, ``offer``, ``total``.
        rss_bytes: resident memory of the agent.
    """

    pipeline: str
    counts: dict[str, int]
    latency_us: dict[str, Latency]
    rss_bytes: int


Record = Decision | RawWindow | Started | Ledger | UpdateReport | ExperimentReport | Metrics


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Records of one boot in rising ``seq``, on the live or the backlog topic.

    Each element of ``records`` is a :data:`Record` as JSON with a ``seq`` field added, see
    :func:`with_seq`. They stay raw so that a collector stores kinds it does not know.
    """

    schema: int = MESSAGE_SCHEMA
    device: str
    boot: str
    records: list[msgspec.Raw]


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What every record has, whatever its kind."""

    seq: int
    kind: str
    t: float
    synced: bool = True


def with_seq(seq: int, body: bytes) -> bytes:
    """The wire form of a record: its JSON object with ``seq`` in front of the other fields."""
    return b'{"seq":%d,%b' % (seq, body[1:])


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """What a collector has stored durably of one boot of a device.

    Attributes:
        boot: whose seqs are acknowledged.
        through: every seq up to this one is stored or was ledgered; 0 for none.
        ranges: further inclusive (first, last) seqs beyond ``through``, the newest at most 64.
    """

    schema: int = MESSAGE_SCHEMA
    boot: str
    through: int
    ranges: tuple[tuple[int, int], ...] = ()


# --- state ---------------------------------------------------------------------------------------


class PipelineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One pipeline in the status.

    Attributes:
        state: ``waiting`` for a model, ``running``, ``ended`` (its recording is over) or
            ``failed``, with the reason in ``fault``.
        comparison: the figures while a second model runs beside this one.
    """

    name: str
    model: str
    version: str = ""
    sha256: str = ""
    state: Literal["waiting", "running", "ended", "failed"]
    fault: str = ""
    counts: dict[str, int] = {}
    latency_us: dict[str, Latency] = {}
    last_label: str = ""
    last_state: str = ""
    comparison: Comparison | None = None


class OutboxStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How full the outbox is.

    Attributes:
        records: records kept now.
        file_bytes: size of its files on disk.
        seq_last: last seq of this boot.
        oldest_t: wall time of the oldest record kept, 0 when empty.
        dropped: records dropped since start and said in the ledger.
        fault: why it cannot store at the moment, or empty.
    """

    records: int
    file_bytes: int
    seq_last: int
    oldest_t: float
    dropped: int
    fault: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The retained state of a device. As the Last Will, only the fields before ``t`` are set.

    Attributes:
        online: False as the will and after an orderly stop.
        reason: why it is offline: ``"stopped"`` or ``"connection lost"``; else empty.
        boot: which start of the agent speaks.
        host: host name, to find a cloned SD card by.
        clock_set_s: by how many seconds the wall clock was set since the start of the agent.
        conflicts: ``BOOT on HOST`` of other live agents that use this device id.
        trust: whose models it runs: ``signed``, ``unsigned``, empty for none, or what is wrong.
    """

    schema: int = MESSAGE_SCHEMA
    device: str
    boot: str
    host: str
    agent: str
    online: bool
    reason: str = ""
    t: float = 0.0
    synced: bool = True
    started_t: float = 0.0
    clock_set_s: float = 0.0
    groups: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    rss_bytes: int = 0
    pipelines: tuple[PipelineStatus, ...] = ()
    outbox: OutboxStatus | None = None
    updates: tuple[UpdateReport, ...] = ()
    trust: str = ""


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """Which bundle a model should run. Of all that apply to a device, the highest revision wins.

    On the broker it is only a hint to look at the signed metadata, which alone decide; what these
    say has the same form. An agent that runs unsigned believes the broker's.

    Attributes:
        revision: rises with every publish and rollback; milliseconds since 1970.
        model: name in the bundle's manifest, and of the pipelines that it is for.
        sha256: of the whole bundle file.
        bytes: size of the whole bundle file.
        payloads: how it travels; the first needs no base.
        start_within_s: devices begin at a stable random moment within so many seconds.
        experiment: how it is compared before it decides; ``schema`` is 2 where there is one, so
            that an agent that knows of none refuses it.
    """

    schema: int = MESSAGE_SCHEMA
    revision: int
    model: str
    version: str
    sha256: str
    bytes: int
    payloads: tuple[Payload, ...]
    start_within_s: int = 0
    experiment: Experiment | None = None

    @property
    def fault(self) -> str | None:
        """The first contradiction in the message, or None."""
        if self.schema > EXPERIMENT_SCHEMA:
            return f"the desired state has schema {self.schema}: update the agent first"
        if not is_sha256(self.sha256):
            return "a digest is malformed"
        if self.bytes < 1 or self.revision < 1 or self.start_within_s < 0:
            return "bytes and revision must be at least 1, start_within_s at least 0"
        if not self.payloads or self.payloads[0].base:
            return "the first payload must need no base"
        if self.experiment and (fault := self.experiment.fault):
            return f"experiment: {fault}"
        faults = (payload.fault for payload in self.payloads)
        return next(filter(None, faults), None) or (
            name_fault("model", self.model) or version_fault(self.version)
        )


T = TypeVar("T")


def decode(data: bytes, kind: type[T]) -> T:
    """Read one message.

    Raises:
        LinkError: not a message of this kind.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise LinkError(f"not a {kind.__name__} message: {exc}") from exc


def encode(message: Any) -> bytes:
    """Write one message or record as JSON."""
    return msgspec.json.encode(message)
