"""What ``edge-agent bench`` measured: its JSON file, and the retained message with the same.

Unknown fields are accepted: senders may be newer. Durations are in microseconds unless the name
says otherwise, memory in bytes; what a machine does not tell is None, never a guess.
"""

from __future__ import annotations

from typing import Final

import msgspec

from edge_agent.contract.messages import Latency

BENCH_SCHEMA: Final = 1


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Of ``n`` inferences, exact."""

    n: int
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


class Init(msgspec.Struct, frozen=True, kw_only=True):
    """Before the first answer; medians over the rounds.

    Attributes:
        read_ms: to read and check the bundle file, which the disk's cache may hold.
        load_ms: to create the session.
    """

    read_ms: float
    load_ms: float


class WarmUp(msgspec.Struct, frozen=True, kw_only=True):
    """The first answers; medians over the rounds.

    Attributes:
        first_us: the very first one.
        n: how many followed it before the steady state was measured.
        p50_us: the median of those.
    """

    first_us: float
    n: int
    p50_us: float


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Resident memory of the measuring process, the most of all rounds.

    Attributes:
        engine: onnxruntime ready, no model.
        load: the model loaded, and one answer given.
        steady: at the end of the steady state.
    """

    engine: int
    load: int
    steady: int


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration of the engine, in fresh processes.

    Attributes:
        provider: onnxruntime's name of what executes the nodes.
        threads: inside one operator.
        latency_us: of one inference in the steady state, all rounds together.
        rounds_p50_us: the median of each round; how far they differ is the noise.
        per_s: inferences a second, one after the other.
    """

    provider: str
    threads: int
    init: Init
    warm_up: WarmUp
    latency_us: Percentiles
    rounds_p50_us: tuple[float, ...]
    per_s: float
    rss_bytes: Memory

    @property
    def name(self) -> str:
        """For people and as a key, e.g. ``CPU x2``."""
        return f"{self.provider.removesuffix('ExecutionProvider')} x{self.threads}"


class Operator(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes of one kind, as onnxruntime runs them.

    Attributes:
        kind: name of the operator; the last one may be ``other``.
        nodes: how many there are.
        us: microseconds that they take together with the profiler on, the mean over windows.
    """

    kind: str
    nodes: int
    us: float


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """A reading's whole way through the device's pipeline, readings given one by one.

    Attributes:
        latency_us: by stage, see :class:`edge_agent.metrics.Meters`; within 6.25 %.
        readings_per_s: as fast as it goes.
        rss_bytes: resident memory at the end.
    """

    latency_us: dict[str, Latency]
    readings_per_s: float
    rss_bytes: int


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """What the model was fed, in turn.

    Attributes:
        source: ``golden``, or the name of a recording.
        windows: different windows.
        sha256: of all their values, so that only like is compared with like.
    """

    source: str
    windows: int
    sha256: str


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What it was measured on.

    Attributes:
        board: by the device tree or the firmware; empty if they do not say.
        cpu: the processor; empty if it has no name.
        cores: that this process may use.
        memory_bytes: of the machine; 0 if unknown.
    """

    board: str
    cpu: str
    arch: str
    cores: int
    system: str
    memory_bytes: int

    @property
    def name(self) -> str:
        """The processor, or the board where the processor has no name."""
        return self.cpu or self.board or "unnamed processor"


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """How the machine was at one moment.

    Attributes:
        governors: of the usable cores, each once.
        clock_mhz: of each usable core.
        clock_mhz_max: that the fastest of them may reach.
        temperature_c: by thermal zone.
        pi_flags: a Raspberry Pi's throttling flags, as its firmware numbers them.
        throttle_events: of an x86 processor since its start, all cores together.
    """

    governors: tuple[str, ...] | None = None
    clock_mhz: tuple[float, ...] | None = None
    clock_mhz_max: float | None = None
    temperature_c: dict[str, float] | None = None
    pi_flags: int | None = None
    throttle_events: int | None = None


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """One ``edge-agent bench``.

    Attributes:
        device: who published it; empty in a file.
        t: when it began, seconds since 1970.
        seconds: measuring time that was given.
        form: the variant of the model that the bundle holds.
        sha256: of the bundle file.
        model_sha256: of its ONNX file, which ``edge-convert build --target`` goes by.
        runs: the configurations, the device's own (one thread on the CPU) first if measured.
        skipped: what was not measured, and why.
        operators: where the time goes, those that take longest first; at one thread on the CPU.
        remarks: what makes the figures doubtful.
    """

    schema: int = BENCH_SCHEMA
    device: str = ""
    t: float
    seconds: float
    model: str
    version: str
    form: str
    sha256: str
    model_sha256: str
    file_bytes: int
    input: Input
    machine: Machine
    before: Conditions
    after: Conditions
    versions: dict[str, str]
    runs: tuple[Run, ...]
    skipped: dict[str, str] = {}
    operators: tuple[Operator, ...] = ()
    way: Way | None = None
    remarks: tuple[str, ...] = ()

    @property
    def measured_on(self) -> str:
        """What figures depend on: processor, engine and its version."""
        return measured_on(self.machine, self.versions.get("onnxruntime", "unknown"))


def measured_on(machine: Machine, onnxruntime: str) -> str:
    """What figures depend on, in words: processor, architecture, engine and its version."""
    return f"{machine.name} ({machine.arch}), onnxruntime {onnxruntime}"
