"""The composition root: the only module that knows all parts. It starts and stops them in order.

Threads: one for each pipeline, and one for its blocking actions if it has any; one for the outbox
and publishing; one for model updates; the link's own. The calling thread supervises: it keeps the
status current, records metrics and feeds the service manager's watchdog while the pipelines turn.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from edge_agent import __version__
from edge_agent.actions import make_action
from edge_agent.actions.mqtt import MqttAction
from edge_agent.actions.worker import ActionWorker
from edge_agent.check import require_fit
from edge_agent.clock import Clock, SystemClock
from edge_agent.config import AgentConfig, PipelineConfig
from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.messages import Metrics, PipelineStatus, Status, encode
from edge_agent.contract.topics import Topics
from edge_agent.crowd import CrowdPipeline
from edge_agent.folder import DataFolder
from edge_agent.link import Link
from edge_agent.memory import release_code
from edge_agent.metrics import rss_bytes
from edge_agent.mqtt import MqttLink
from edge_agent.pipeline import Pipeline
from edge_agent.service import Notifier
from edge_agent.sources import make_source
from edge_agent.sources.mqtt import MqttSource
from edge_agent.status import StatusBoard
from edge_agent.update.store import Store
from edge_agent.update.updater import Updater
from edge_agent.uplink.uplink import Uplink
from edge_agent.watch import ClockWatch, LossWatch, ReadingWatch

log = logging.getLogger(__name__)

_TURN_S: Final = 0.5  # of the supervising loop
_STUCK_NS: Final = 10_000_000_000  # a pipeline that has not turned for so long is stuck
_END_S: Final = 15.0  # for the pipelines to decide what their sources have given
_SEND_S: Final = 5.0  # for fresh records to leave
_DRAIN_S: Final = 10.0  # for the outbox to empty when the sources have ended by themselves
_SWITCH_S: Final = 1e-4  # beside a busy thread: p50 of 0.3 ms, where the default gives 3.2 ms


def run(config: AgentConfig, base: Path, clock: Clock | None = None) -> None:
    """Run the agent until SIGTERM, SIGINT or the end of every source. The main thread.

    Args:
        config: as read by :func:`edge_agent.config.load_config`.
        base: folder of the configuration file; relative paths start there.
        clock: the time; by default that of this machine.

    Raises:
        EdgeError: it cannot start; nothing is left running.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sys.setswitchinterval(_SWITCH_S)
    folder = DataFolder(base / config.data_dir)
    with folder.locked():
        agent = Agent(config, base, folder, clock or SystemClock())
        try:
            agent.start()
            agent.supervise(stop)
        finally:
            agent.stop()


class Agent:
    """All parts of one agent. The constructor opens the outbox and the store.

    Args:
        config: of the agent.
        base: folder of the configuration file.
        folder: locked by the caller.
        clock: the time.

    Raises:
        EdgeError: something that the configuration names cannot be used.
    """

    def __init__(self, config: AgentConfig, base: Path, folder: DataFolder, clock: Clock) -> None:
        self._config, self._base, self._clock = config, base, clock
        self._started_t = clock.wall()
        self._clock_watch = ClockWatch(clock.monotonic_ns(), self._started_t)
        self._loss_watch, self._loses = LossWatch(clock.monotonic_ns()), False
        self._swaps = -1  # models taken over when code was let go last
        self._notifier = Notifier()
        self._topics = Topics(config.broker.prefix if config.broker else "edge")
        self._uplink = Uplink(
            folder.outbox,
            topics=self._topics,
            device=config.device,
            outbox=config.outbox,
            uplink=config.uplink,
            clock=clock,
        )
        self._link = self._make_link()
        self._rooms = [self._make_room(item) for item in config.pipelines]
        store = Store(folder.store)
        self._updater = self._make_updater(store, folder.trust)
        _install_first(store, config.pipelines, base)
        self._board = self._make_board()
        self._halt = threading.Event()  # pipelines and updates
        self._sent = threading.Event()  # the uplink, which goes last
        self._threads = [
            *(_thread(room.pipeline.name, room.pipeline.run, self._halt) for room in self._rooms),
            _thread("update", self._updater.run, self._halt),
        ]
        self._uplink_thread = _thread("uplink", self._uplink.run, self._sent)

    # --- the three acts --------------------------------------------------------------------------

    def start(self) -> None:
        """Load the models, then set everything going."""
        for room in self._rooms:
            if model := self._updater.initial(room.pipeline.model_name):
                room.pipeline.swap(model)
        self._uplink.attach(self._link.port("uplink") if self._link else None)
        self._uplink_thread.start()
        if self._link:
            self._link.start()
        gc.collect()
        gc.freeze()  # what is alive now stays: no collection needs to look at it again
        for thread in self._threads:
            thread.start()
        log.info("agent %s is device %s, boot %s", __version__, self._config.device, self.boot)

    def supervise(self, stop: threading.Event) -> None:
        """Keep watch until ``stop``, or until every source has ended and its records are gone."""
        self._notifier.ready()
        metrics_ns = self._clock.monotonic_ns()
        while not stop.wait(_TURN_S):
            now = self._clock.monotonic_ns()
            self._look(now)
            self._release_code()
            if self._board:
                self._board.step()
            if not self._stuck(now):
                self._notifier.watchdog()
            if now - metrics_ns >= self._config.metrics_s * 1e9:
                metrics_ns = now
                self._record_metrics()
            if all(room.pipeline.is_over for room in self._rooms):
                self._record_metrics()
                self._drain(stop)
                return

    def stop(self) -> None:
        """End everything in order: first what makes records, last what sends them."""
        self._notifier.stopping()
        self._halt.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_END_S)
        for room in self._rooms:
            room.worker.close()
        self._sent.set()
        if self._uplink_thread.ident is not None:
            self._uplink_thread.join()
        try:
            self._uplink.close(_SEND_S)
        finally:
            if self._link:  # the last status comes last: what was committed just now has its seq
                last = msgspec.structs.replace(self.status(), online=False, reason="stopped")
                self._link.stop((self._topics.status(self._config.device), encode(last)))

    # --- what it says of itself ------------------------------------------------------------------

    @property
    def boot(self) -> str:
        """This start of the agent, in every record."""
        return self._uplink.boot

    def status(self) -> Status:
        """Everything that the retained status says, but for the clones."""
        return msgspec.structs.replace(
            self._plain_status(),
            online=True,
            t=self._clock.wall(),
            synced=self._clock.synced(),
            started_t=self._started_t,
            clock_set_s=self._clock_watch.set_s,
            groups=self._config.groups,
            rss_bytes=rss_bytes(),
            pipelines=tuple(room.status() for room in self._rooms),
            outbox=self._uplink.status(),
            updates=self._updater.reports(),
            trust=self._updater.trust,
        )

    def _plain_status(self) -> Status:
        """What is known without asking anybody: the will says no more."""
        return Status(
            device=self._config.device,
            boot=self.boot,
            host=socket.gethostname(),
            agent=__version__,
            online=False,
        )

    def _look(self, now: int) -> None:
        """Say in the log what has gone wrong, or is well again, outside of the agent."""
        for room in self._rooms:
            room.look(now)
        if step_s := self._clock_watch.look(now, self._clock.wall()):
            log.warning("the clock was set by %+.1f s; nothing but stamps depends on it", step_s)
        loses = self._loss_watch.look(now, self._uplink.status().dropped)
        if loses and not self._loses:
            log.warning("records are dropped and said in the ledger: the outbox cannot take them")
        self._loses = loses

    def _release_code(self) -> None:
        """After the start, and after each new model: loading needs code that deciding does not."""
        swaps = sum(room.pipeline.meters.counters.swaps for room in self._rooms)
        if swaps != self._swaps:
            self._swaps = swaps
            release_code()

    def _record_metrics(self) -> None:
        for room in self._rooms:
            self._uplink.offer(room.metrics())

    def _stuck(self, now: int) -> bool:
        """Whether a pipeline has stopped turning."""
        running = (room.pipeline for room in self._rooms if not room.pipeline.is_over)
        return any(now - pipeline.beat_ns > _STUCK_NS for pipeline in running)

    def _drain(self, stop: threading.Event) -> None:
        """Let the records of an ended recording leave, if there is anybody to take them."""
        end = self._clock.monotonic_ns() + int(_DRAIN_S * 1e9)
        while self._link and self._uplink.status().records and self._clock.monotonic_ns() < end:
            if stop.wait(_TURN_S / 10):
                return

    # --- making the parts ------------------------------------------------------------------------

    def _make_link(self) -> Link | None:
        """The link under a client id of this boot's own, so that a clone is not thrown out."""
        if self._config.broker is None:
            return None
        will = msgspec.structs.replace(self._plain_status(), reason="connection lost")
        return MqttLink(
            self._config.broker,
            client_id=f"{self._config.device}-{self.boot}",
            will=(self._topics.status(self._config.device), encode(will)),
            in_flight_n_max=self._config.uplink.in_flight_n_max,
        )

    def _make_room(self, config: PipelineConfig) -> _Room:
        source = make_source(
            config.source,
            channels=config.channels,
            base=self._base,
            broker=self._config.broker,
            clock=self._clock,
        )
        direct = source.send if isinstance(source, MqttSource) else None
        send = self._uplink.send
        actions = [make_action(action, send=send, direct=direct) for action in config.actions]
        stream = [it for it in actions if isinstance(it, MqttAction) and it.streams]
        worker = ActionWorker(actions, stream=stream)
        make: type[Pipeline] = CrowdPipeline if config.sensors else Pipeline
        pipeline = make(
            config,
            source,
            offer=self._uplink.offer,
            dispatch=worker.dispatch,
            clock=self._clock,
            model=None,
            dispatch_all=worker.wants_all,
        )
        return _Room(pipeline, worker, ReadingWatch(config.silent_s, self._clock.monotonic_ns()))

    def _make_updater(self, store: Store, trust: Path) -> Updater:
        targets: dict[str, list[Pipeline]] = {}
        for room in self._rooms:
            targets.setdefault(room.pipeline.model_name, []).append(room.pipeline)
        listens = self._link if self._config.update.enabled else None
        return Updater(
            store=store,
            trust=trust,
            port=listens.port("update") if listens else None,
            topics=self._topics,
            device=self._config.device,
            groups=self._config.groups,
            targets=targets,
            report=self._uplink.offer,
            config=self._config.update,
            clock=self._clock,
        )

    def _make_board(self) -> StatusBoard | None:
        if self._link is None:
            return None
        return StatusBoard(
            self._link.port("status"),
            self._topics,
            make=self.status,
            every_s=self._config.status_s,
            clock=self._clock,
        )


class _Room:
    """A pipeline with its actions, which both count, and an eye on its readings."""

    def __init__(self, pipeline: Pipeline, worker: ActionWorker, watch: ReadingWatch) -> None:
        self.pipeline = pipeline
        self.worker = worker
        self._watch = watch
        self._fault = ""

    def look(self, now: int) -> None:
        """See whether readings come and are taken."""
        fault = self._watch.look(
            now,
            readings=self.pipeline.meters.counters.readings,
            overrun=self.pipeline.overrun,
            expected=self.pipeline.is_running,
        )
        if fault != self._fault:
            log.warning("pipeline %s: %s", self.pipeline.name, fault or "readings are well again")
        self._fault = fault

    def status(self) -> PipelineStatus:
        status = self.pipeline.status()
        return msgspec.structs.replace(
            status,
            fault=status.fault or self._fault,
            counts=status.counts | self.worker.counts,
        )

    def metrics(self) -> Metrics:
        metrics = self.pipeline.metrics()
        return msgspec.structs.replace(metrics, counts=metrics.counts | self.worker.counts)


def _install_first(store: Store, pipelines: Sequence[PipelineConfig], base: Path) -> None:
    """Install the configuration's bundles for models of which nothing is installed yet.

    Raises:
        BundleError: a bundle cannot be used.
        ConfigError: a bundle is not for its pipeline.
        StorageError: the disk refused.
    """
    for pipeline in pipelines:
        if pipeline.bundle and store.pointer(pipeline.model).current is None:
            path = base / pipeline.bundle
            require_fit(pipeline, read_bundle(path).manifest)
            store.install(path)


def _thread(
    name: str, body: Callable[[threading.Event], None], stop: threading.Event
) -> threading.Thread:
    return threading.Thread(target=body, args=(stop,), name=name, daemon=True)
