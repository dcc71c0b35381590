"""Models from somebody's hand: one bundle file, or the folder that ``edge-fleet export`` wrote.

A folder goes the way of every update: an :class:`.Updater` with this folder as its only way, and
nothing in the place of the pipelines. What passes every check stays on disk *on trial*; the agent
goes on from there at its next start, and takes the model back by itself if it fails. So the agent
must not run meanwhile: both would lead the same update, and write the same trust files.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.chain import misfit
from edge_agent.check import require_fit
from edge_agent.clock import SystemClock
from edge_agent.config import AgentConfig, FolderConfig, PipelineConfig
from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.errors import BundleError, ConfigError, StorageError
from edge_agent.contract.manifest import Manifest
from edge_agent.contract.messages import Record, UpdateReport, UpdateState
from edge_agent.contract.topics import Topics
from edge_agent.folder import DataFolder
from edge_agent.health import Health
from edge_agent.infer import Model
from edge_agent.shadow import Companion
from edge_agent.update.store import Store
from edge_agent.update.updater import Updater

log = logging.getLogger(__name__)

_WITHOUT_PIPELINES: Final[frozenset[UpdateState]] = frozenset(
    {"offered", "fetching", "verified", "staged", "probing"}
)
_TURN_S: Final = 0.01
_STALLED: Final = 10  # times update.answer_s in which nothing that is waited for has come

Tell = Callable[[str], None]


def install_bundle(config: AgentConfig, base: Path, bundle: Path, *, unsigned: bool) -> str:
    """Make one bundle file current; an agent that runs meanwhile takes it at its next start.

    Args:
        config: of the agent.
        base: folder of the configuration file.
        bundle: the file.
        unsigned: take it although the device runs signed models only.

    Returns:
        A sentence on what was done.

    Raises:
        ConfigError: no pipeline runs it, or the device runs signed models only.
        BundleError: not a bundle for this agent.
        StorageError: the disk refused.
    """
    manifest = read_bundle(bundle).manifest
    pipelines = [item for item in config.pipelines if item.model == manifest.name]
    if not pipelines:
        raise ConfigError(f"no pipeline runs the model {manifest.name!r}")
    for pipeline in pipelines:
        require_fit(pipeline, manifest)
    if config.update.root_file:
        if not unsigned:
            raise ConfigError(
                f"this device runs signed models only (update.root_file), and {bundle} proves "
                "nothing: give the folder that edge-fleet export wrote; or --unsigned, if you "
                "answer for the file yourself"
            )
        log.warning(
            "UNSIGNED: %s %s is installed although nobody has signed for it: %s",
            manifest.name,
            manifest.version,
            bundle,
        )
    Store(DataFolder(base / config.data_dir).store).install(bundle)
    return f"installed {manifest.name} {manifest.version}; restart the agent to use it now"


def install_folder(config: AgentConfig, base: Path, folder: Path, tell: Tell) -> list[str]:
    """Take what the signed metadata in a folder order for this device, as over a network.

    Args:
        config: of the agent, which must not run.
        base: folder of the configuration file.
        folder: as ``edge-fleet export`` writes it.
        tell: gets a line for every state of an update.

    Returns:
        A sentence on each model of the device.

    Raises:
        ConfigError: this is no such folder, or the device has no root of trust or takes no updates.
        BundleError: the metadata or a bundle are refused, with the reason.
        StorageError: an agent runs, or the disk refused.
    """
    if not config.update.root_file:
        raise ConfigError("a folder is checked by update.root_file: name it, or give a .bundle")
    if not config.update.enabled:
        raise ConfigError("update.enabled is false: the agent would not go on from there")
    if not (folder / "trust" / "timestamp.json").is_file():
        raise ConfigError(f"{folder} has no signed metadata: write it with edge-fleet export")
    with _alone(DataFolder(base / config.data_dir)) as data:
        updater = _updater(config, data, folder, tell)
        try:
            _lead(updater, _STALLED * config.update.answer_s)
        finally:
            updater.pause()
    if updater.trust != "signed":
        raise BundleError(f"{folder} is refused: {updater.trust}")
    found = {report.model: report for report in updater.reports()}
    failed = [_refusal(r) for r in found.values() if r.state in ("refused", "rolled_back")]
    if failed:
        raise BundleError("; ".join(failed))
    models = dict.fromkeys(pipeline.model for pipeline in config.pipelines)
    return [_outcome(model, found.get(model)) for model in models]


@contextmanager
def _alone(data: DataFolder) -> Iterator[DataFolder]:
    with ExitStack() as stack:
        try:
            stack.enter_context(data.locked())
        except StorageError as exc:
            raise StorageError(
                f"{exc}: stop it first (systemctl stop edge-agent), or let it read the folder by "
                "itself: update.ways: [{type: folder, path: …}]"
            ) from exc
        yield data


def _updater(config: AgentConfig, data: DataFolder, folder: Path, tell: Tell) -> Updater:
    """The updater of this device, cut off from everything but the folder."""

    def report(record: Record) -> None:
        if isinstance(record, UpdateReport):
            tell(f"{record.model} {record.version}: {record.state}")

    targets: dict[str, list[_Vacant]] = {}
    for pipeline in config.pipelines:
        targets.setdefault(pipeline.model, []).append(_Vacant(pipeline))
    return Updater(
        store=Store(data.store),
        trust=data.trust,
        port=None,
        topics=Topics(),
        device=config.device,
        groups=config.groups,
        targets=targets,
        report=report,
        config=msgspec.structs.replace(
            config.update,
            ways=(FolderConfig(path=str(folder)),),
            bytes_per_s_max=None,
        ),
        clock=SystemClock(),
        at_once=True,
    )


def _lead(updater: Updater, stalled_s: float) -> None:
    """Step until every update is over, or needs pipelines to go on.

    Raises:
        BundleError: the folder does not hold what it announces.
    """
    before: tuple[UpdateReport, ...] = ()
    since_s = time.monotonic()
    while not _is_over(updater):
        updater.step(_TURN_S)
        if updater.reports() != before:
            before, since_s = updater.reports(), time.monotonic()
        waiting = [report.reason for report in before if _is_under_way(report) and report.reason]
        if waiting and time.monotonic() - since_s > stalled_s:
            raise BundleError(f"{'; '.join(waiting)}: the folder is not whole, write it again")


def _is_over(updater: Updater) -> bool:
    if updater.checked and updater.trust != "signed":
        return True
    return updater.checked and not any(_is_under_way(report) for report in updater.reports())


def _is_under_way(report: UpdateReport) -> bool:
    return report.state in _WITHOUT_PIPELINES


def _refusal(report: UpdateReport) -> str:
    return f"{report.model} {report.version} is {report.state.replace('_', ' ')}: {report.reason}"


def _outcome(model: str, report: UpdateReport | None) -> str:
    if report is None:
        return f"{model}: nothing is ordered for this device or its groups"
    if report.state == "committed":
        return f"{model} {report.version} is installed; nothing newer is ordered"
    begins = "compared with what runs" if report.state == "comparing" else "on trial"
    return f"installed {model} {report.version}, {begins} from the agent's next start"


class _Vacant:
    """In the place of a pipeline: see :class:`.field_test.Target`. It never takes a model."""

    batch_n = 1

    def __init__(self, pipeline: PipelineConfig) -> None:
        self.name = pipeline.name
        self._pipeline = pipeline

    def misfit(self, manifest: Manifest) -> str | None:
        return misfit(self._pipeline, manifest)

    def swap(self, model: Model) -> threading.Event:
        del model
        return threading.Event()

    def exchange(self, load: Callable[[], Model], back: Callable[[], Model]) -> threading.Event:
        del load, back
        return threading.Event()

    def withdraw(self) -> threading.Event:
        return threading.Event()

    def accompany(self, companion: Companion | None) -> None:
        """It shows nothing."""

    def share(self, model: Model | None, holds: Callable[[str], bool]) -> None:
        """It has no sensors."""

    def health(self) -> Health:
        return Health()
