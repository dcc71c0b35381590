"""Power cuts in the store: whole updates by the real updater, payloads on their way, and by hand.

Where an update goes on after a cut depends on the pointer, on which bundles are whole and on
whether the payload is; so of the states that agree in these one is led to its end. That a payload
is completed from whatever is left of it is shown by itself, for every state.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bundles import make_bundle
from power import RecordingDisk, power_cuts, put, tree
from test_fetch import Conversation, content, offer, some
from test_updater import TOPICS, Device, desire

from edge_agent.contract.bundle import parse_bundle
from edge_agent.contract.chunks import cut
from edge_agent.contract.errors import EdgeError, InferenceError
from edge_agent.testing.broker import SimulatedBroker
from edge_agent.update.disk import Disk
from edge_agent.update.pointer import Refusal
from edge_agent.update.store import Store

FIRST, OLD, NEW = (make_bundle(version=version) for version in ("0.9.0", "1.0.0", "1.1.0"))
WRONG = make_bundle(version="1.1.0", wrong_golden=True)
FORMAT_1: Final = Path(__file__).parent / "fixtures" / "store" / "v1"
CHUNKS_N: Final = 6
REVISION: Final = 5
DEADLINE_S: Final = 60.0
UPDATES: Final[dict[str, tuple[bytes, set[str | None], set[str | None]]]] = {
    # the bundle, what may be loaded after a cut, and what the update may end on after it; a fault
    # that had a model taken back may not come again
    "taken": (NEW, {"1.0.0", "1.1.0"}, {"1.1.0"}),
    "taken back": (NEW, {"1.0.0", "1.1.0"}, {"1.0.0", "1.1.0"}),
    "refused": (WRONG, {"1.0.0"}, {"1.0.0"}),
    "the first": (NEW, {None, "1.1.0"}, {"1.1.0"}),
}
MakeDisk = Callable[[], RecordingDisk]


def updates(make_disk: MakeDisk, place: Path, *, lead: bool = True) -> Iterator[str | None]:
    """What is wrong with each state, or None, of whole updates.

    Args:
        make_disk: the disk.
        place: an empty folder.
        lead: whether updates are led to their end after the cut.
    """
    led: set[object] = set()
    for kind, (data, loaded, ends) in UPDATES.items():
        fails, folder = kind == "taken back", place / kind / "store"
        folder.parent.mkdir(parents=True)
        if kind != "the first":
            stock(folder)
        before, disk = tree(folder.parent), make_disk()
        device = updating(folder, data, disk, fails=fails)
        led_to_an_end(device)
        device.turn()  # what is no longer needed is removed
        for _, state in power_cuts(before, disk.log):
            left = put(state, folder.parent, place / "left") / "store"
            try:
                fault = _fault(left, loaded)
                look = _look(left, fails=fails)
                if lead and not fault and look not in led:
                    led.add(look)
                    ended = led_to_an_end(updating(left, data, Disk(), fails=fails))
                    fault = "" if ended in ends else f"the update ended on {ended}"
            except EdgeError as exc:
                fault = str(exc)
            yield f"{kind}: {fault}" if fault else None


def changes(make_disk: MakeDisk, place: Path) -> Iterator[str | None]:
    """The same of everything else that changes a store."""
    old_or_new = {"1.0.0", "1.1.0"}
    refusal = Refusal(sha256=parse_bundle(OLD).digest, version="1.0.0", revision=0, reason="no")

    def fall_back(store: Store) -> None:
        store.fall_back("motion", refusal)
        store.collect()

    yield from _change(make_disk, place, lambda store: store.install(NEW), old_or_new)
    yield from _change(make_disk, place, fall_back, {"0.9.0", "1.0.0"})
    damage = {"models/motion.json": b"torn"}
    yield from _change(make_disk, place, lambda store: None, {"0.9.0"}, damage=damage)
    yield from _change(make_disk, place, lambda store: None, {"1.1.0"}, fixture=FORMAT_1)


def payloads(make_disk: MakeDisk, place: Path) -> Iterator[str | None]:
    """The same of a payload of six chunks that is synced in the middle.

    Every state is completed, and of what was synced nothing is fetched again.
    """
    place.mkdir()
    data, disk = content(chunks=CHUNKS_N - 1), make_disk()
    payload, blobs = offer(data)
    folder = place / "partial" / payload.sha256
    folder.parent.mkdir()
    before = tree(place)
    talk = Conversation(folder, payload, some(blobs, payload, data, CHUNKS_N // 2), disk=disk)
    talk.turn()
    talk.partial.sync()
    disk.log.append(("promise", CHUNKS_N // 2))
    for digest in list(talk.partial.missing):
        talk.fetch.take(digest, blobs[digest], talk.now_ns)
    talk.partial.close()
    disk.log.append(("promise", CHUNKS_N))
    for promised, state in power_cuts(before, disk.log):
        left = put(state, place, place.with_name("left")) / "partial" / payload.sha256
        resumed = Conversation(left, payload, blobs)
        resumed.turn()
        resumed.partial.close()
        again_n = len(set(resumed.asked) - set(payload.index))
        if resumed.partial.file.read_bytes() != data:
            yield "the payload is not completed"
        elif again_n > CHUNKS_N - (promised or 0):
            yield f"{again_n} chunks are fetched again, {promised} were synced"
        else:
            yield None


def _change(
    make_disk: MakeDisk,
    place: Path,
    change: Callable[[Store], object],
    loaded: set[str | None],
    *,
    damage: dict[str, bytes] | None = None,
    fixture: Path | None = None,
) -> Iterator[str | None]:
    folder = place / "changed" / "store"
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.parent.mkdir(parents=True)
    if fixture:
        shutil.copytree(fixture, folder)
        for part in ("blobs", "partial", "models"):
            (folder / part).mkdir(exist_ok=True)
    else:
        stock(folder)
    for name, damaged in (damage or {}).items():
        (folder / name).write_bytes(damaged)
    before, disk = tree(folder.parent), make_disk()
    change(Store(folder, disk))
    for _, state in power_cuts(before, disk.log):
        left = put(state, folder.parent, place / "left") / "store"
        try:
            yield _fault(left, loaded) or None
        except EdgeError as exc:
            yield str(exc)


def stock(folder: Path) -> None:
    """A store with a bundle that runs and one before it."""
    store = Store(folder)
    for data in (FIRST, OLD):
        store.install(data)


def updating(folder: Path, data: bytes, disk: Disk, *, fails: bool) -> Device:
    """A device that is about to take a bundle, which is on its broker."""
    broker, whole = SimulatedBroker(), cut(data)
    for digest, blob in whole.blobs.items():
        broker.publish(TOPICS.blob(digest), blob, retain=True)
    desire(broker, data, REVISION, payloads=(whole.payload,))
    device = Device(folder.parent, broker, disk=disk)
    if fails:
        device.pipes[0].fault = InferenceError("the model answered nan")
    return device


def led_to_an_end(device: Device) -> str | None:
    """Lead the update of a device to its end; the version that it would start with then."""
    deadline = time.monotonic() + DEADLINE_S
    device.updater.initial("motion")
    while device.store.pointer("motion").revision < REVISION or device.updater._jobs:
        assert time.monotonic() < deadline, device.updater.reports()
        device.turn(0.5)
        threading.Event().wait(0.002)  # for the child process
    return loadable(device.folder)


def loadable(folder: Path) -> str | None:
    """The version that an agent would start with.

    Raises:
        EdgeError: the store does not open, or what it names is not whole.
    """
    store = Store(folder)
    current = store.pointer("motion").current
    return store.read(current.sha256).manifest.version if current else None


def _fault(folder: Path, loaded: set[str | None]) -> str:
    version = loadable(folder)
    return "" if version in loaded else f"{version} is loaded"


def _look(folder: Path, *, fails: bool) -> object:
    """What an update goes on from."""
    store = Store(folder)
    blobs = {path.name for path in (folder / "blobs").iterdir() if store.has(path.stem)}
    pointer = store.pointer("motion")
    payload_n = sum(_is_whole(path) for path in (folder / "partial").glob("*/data"))
    on_trial = pointer.update is not None and pointer.update.state == "trial"
    return repr(pointer), frozenset(blobs), payload_n, fails and on_trial


def _is_whole(path: Path) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == path.parent.name
