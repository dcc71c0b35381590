"""The operator's desk: recordings, trained models, recipes and the agent's configuration."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from edge_agent.contract.errors import ConfigError, StorageError
from edge_agent.demo.broker import KINDS
from edge_agent.demo.programs import Program, console
from edge_agent.demo.recording import CHANNELS, RATE_HZ, Take, load_watch
from edge_agent.demo.tape import Tape, make_tape, write_npz
from edge_agent.demo.training import MODEL, Version, save, train, versions

Say = Callable[[str], None]

DEVICE: Final = "demo-device"
TRAINING: Final = range(1, 8)  # subjects
REPLAYED: Final = 8  # the next one, whom no model has seen
VALIDATION: Final = (9, 10)

_VALIDATION_FILE: Final = "validation.npz"
_RECORDING_FILE: Final = "recording.csv"
_MARK: Final = ".edge-agent-demo"
_SIGN_S: Final = 30.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How long what takes, at the recording's real rate.

    After the outage there must be time for an agent that looks for its broker twice a minute, and
    for the second push.

    Attributes:
        piece_s: of each exercise that the device is given to see.
        before_s: of the recording, until the broker dies.
        outage_s: until it is back.
        brokers: programs to choose from; the first that is installed is used.
    """

    piece_s: float = 9.0
    before_s: float = 10.0
    outage_s: float = 16.0
    brokers: tuple[str, ...] = KINDS


class Files(msgspec.Struct, frozen=True):
    """What lies where in the demo's folder, which exists."""

    out: Path

    @property
    def logs(self) -> Path:
        """What the programs have printed."""
        return self.out / "logs"

    @property
    def broker(self) -> Path:
        """The broker's configuration and storage."""
        return self.out / "broker"

    @property
    def fleet(self) -> Path:
        """The operator's signed repository."""
        return self.out / "fleet"

    @property
    def keys(self) -> Path:
        """The operator's offline keys; in real life on a stick, under a passphrase."""
        return self.out / "keys"

    @property
    def device(self) -> Path:
        """The agent's data."""
        return self.out / "device"

    @property
    def outbox(self) -> Path:
        """The agent's records."""
        return self.device / "outbox.db"

    @property
    def collected(self) -> Path:
        """The collector's records."""
        return self.out / "collected.db"

    @property
    def config(self) -> Path:
        """The agent's configuration."""
        return self.out / "agent.yaml"

    @property
    def recording(self) -> Path:
        """What the device is given to see, with its truth."""
        return self.out / _RECORDING_FILE

    def bundle(self, version: Version) -> Path:
        """The bundle of a version."""
        return self.out / f"{version.stem}.bundle"

    def recipe(self, version: Version) -> Path:
        """The recipe of a version."""
        return self.out / f"{version.stem}.yaml"


class Desk(msgspec.Struct, frozen=True):
    """Everything that the play needs.

    Attributes:
        files: where it lies.
        tape: what the device is given to see.
        first: the fitted version to begin with; its model and recipe are there, no bundle yet.
        second: the one that follows, likewise.
    """

    files: Files
    tape: Tape
    first: Version
    second: Version


def prepare(out: Path, plan: Plan, say: Say) -> Desk:
    """Train both versions, and write down what the device will see.

    Raises:
        EdgeError: a step failed.
    """
    try:
        return _prepare(_fresh(out), plan, say)
    except OSError as exc:
        place = exc.filename or out
        raise StorageError(f"{place}: {exc.strerror}: make room, or name another --out") from exc


def conversion(version: Version, files: Files) -> Program:
    """The program that turns a trained version into a bundle, not started yet."""
    command = console("edge-convert", "build", files.recipe(version))
    return Program(f"convert-{version.number}", command, files.logs)


def say_built(found: dict[str, Any], say: Say) -> None:
    """Say what has become of a model, by the figures of its conversion."""
    size, p50_us = found["file_bytes"] / 1000, found["p50_us"]
    say(
        f"  {found['version']} is built: {found['chosen']}, {size:.0f} kB, {p50_us:.1f} us a window"
    )
    flips, windows = found["label_flips"], found["windows"]
    say(f"  {flips} of {windows} windows of subjects 9 and 10 answered other than by the original")


def write_config(files: Files, url: str) -> None:
    """Write the agent's configuration for the demo's broker."""
    files.config.write_text(
        f"""\
# The agent of `edge-agent demo`. Its broker is gone when the demo has ended: without one the
# agent decides as before and keeps its records; or put the address of yours here.
device: {DEVICE}
data_dir: {files.device.name}
broker: {{url: "{url}"}}
pipelines:
  - name: wrist
    model: {MODEL}
    channels: [{", ".join(CHANNELS)}]
    source: {{type: replay, path: {files.recording.name}, rate_hz: {RATE_HZ:g}}}
    actions: [{{type: log}}]
update:
  root_file: {files.fleet.name}/root.json # models come from whom it leads to
  trial: {{seconds: 2}}
uplink: {{confirm: collector}} # a record may be forgotten when the collector has it
status_s: 5
metrics_s: 5
""",
        encoding="utf-8",
    )


def sign_for(files: Files) -> None:
    """Make the operator's keys and signed repository.

    Raises:
        StepError: it could not be made.
    """
    options = ("--keys", files.keys, "--no-passphrase")
    program = Program("init", console("edge-fleet", "init", files.fleet, *options), files.logs)
    program.start()
    program.wait(_SIGN_S)


def _prepare(files: Files, plan: Plan, say: Say) -> Desk:
    """As :func:`prepare`, in a folder that is ready."""
    takes = load_watch()
    say(f"{len(takes)} recordings of ten people, seven exercises, a watch on the wrist: seglearn")
    tape = make_tape(takes, REPLAYED, piece_s=plan.piece_s)
    tape.write_csv(files.recording)
    write_npz(_of(takes, VALIDATION), files.out / _VALIDATION_FILE)
    first, second = versions()
    for version in (first, second):
        say(f"training {version.number}, {version.about}")
        accuracy = train(version, _of(takes, TRAINING))
        save(version, files.out, validation=_VALIDATION_FILE)
        say(f"  on subjects 1 to 7; {accuracy:.1%} of its own training windows are right")
    return Desk(files, tape, first, second)


def _fresh(out: Path) -> Files:
    """Make the folder, without what an earlier demo has left in it.

    Raises:
        ConfigError: somebody else's things are there.
        OSError: it cannot be made.
    """
    files, mark = Files(out), out / _MARK
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is not a folder: name another one by --out")
    out.mkdir(parents=True, exist_ok=True)
    if not mark.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} holds other things than a demo: name another folder by --out")
    mark.touch()
    for file in out.glob(f"{files.collected.name}*"):
        file.unlink()
    for folder in (files.device, files.broker, files.logs, files.fleet, files.keys):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
    return files


def _of(takes: list[Take], subjects: range | tuple[int, ...]) -> list[Take]:
    return [take for take in takes if take.subject in subjects]
