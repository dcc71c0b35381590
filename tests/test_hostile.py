"""Hostile bundles, payloads and metadata, against the real updater and a pipeline that decides.

Whatever comes, it is refused with the reason, the pipeline decides on with the model that it has,
and the next good bundle is taken. The hostile bundles come unsigned, as they would from a thief of
every key; the hostile metadata from a thief of the broker.
"""

import hashlib
import io
import re
import stat
import threading
import time
import zipfile

import msgspec
import numpy as np
import pytest
from bundles import make_bundle
from fleets import SECRET, Fleet
from onnx import helper
from test_contract import repacked
from test_probe import endless, with_graph
from test_updater import (
    NEW,
    NEWER,
    OLD,
    TOPICS,
    Device,
    cut_small,
    desire,
    payload_of,
    publish,
    running_pipeline,
    seed,
    sha,
)

from edge_agent.contract.bundle import MEMBERS, pack_bundle, parse_bundle
from edge_agent.contract.chunks import cut
from edge_agent.contract.messages import encode
from edge_agent.contract.release import Payload
from edge_agent.contract.requests import TrustIndex
from edge_agent.contract.topics import CHUNK_BYTES
from edge_agent.encoding import compress
from edge_agent.fleet.parcel import trust_files
from edge_agent.testing.broker import SimulatedBroker

DEADLINE_S = 60.0
DAY_S = 86_400.0
MEMORY = 256 * 1024 * 1024


class Victim:
    """A device whose pipeline decides all the time, with OLD installed."""

    def __init__(self, folder, **config):
        self.broker, self.decisions, self._stop = SimulatedBroker(), [], threading.Event()
        self.pipe = running_pipeline("p", self.decisions.append)
        limits = {"probe_s": 5.0, "probe_bytes_max": MEMORY, "silence_s_max": DAY_S}
        self.device = Device(folder, self.broker, [self.pipe], **limits | config)
        self.device.store.install(OLD)
        self.pipe.swap(self.device.updater.initial("motion"))
        self._thread = threading.Thread(target=self.pipe.run, args=(self._stop,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(DEADLINE_S)

    def decides_with(self, version):
        """Whether the next decision is of this model."""
        count, deadline = len(self.decisions), time.monotonic() + DEADLINE_S
        while len(self.decisions) <= count:
            assert self._thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return self.decisions[-1].model == version

    def refusal(self):
        """Why the update was refused; nothing else has changed."""
        reason = self.device.until("refused", seconds=5.0).reason
        self.device.turn()
        assert self.device.store.pointer("motion").current.sha256 == sha(OLD)
        assert list((self.device.folder / "partial").iterdir()) == []
        assert self.device.latest.reason == reason  # in the status
        assert self.decides_with("1.0.0")
        return reason

    def takes(self, data, revision):
        """The agent lives: a good bundle is taken."""
        publish(self.broker, data, revision)
        self.device.until("committed", seconds=0.5)
        deadline = time.monotonic() + DEADLINE_S
        while not self.decides_with(parse_bundle(data).manifest.version):
            assert time.monotonic() < deadline


@pytest.fixture
def victim(tmp_path):
    with Victim(tmp_path) as victim:
        yield victim


# --- bundles --------------------------------------------------------------------------------------


def with_members(change, **manifest):
    """NEW with other members, their digests right; or with other words in the manifest."""
    bundle = parse_bundle(NEW)
    members = {name: getattr(bundle, name.split(".")[0]) for name in MEMBERS}
    return pack_bundle(msgspec.structs.replace(bundle.manifest, **manifest), members | change)


def with_manifest(old, new):
    """NEW with other words in its manifest."""
    with zipfile.ZipFile(io.BytesIO(NEW)) as archive:
        manifest = archive.read("manifest.json")
    assert old in manifest
    return repacked(NEW, {"manifest.json": manifest.replace(old, new)})


def with_entry(name, content=b"x", mode=stat.S_IFREG | 0o644):
    """NEW with one entry more in its archive."""
    out = io.BytesIO(NEW)
    with zipfile.ZipFile(out, "a") as archive:
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, mode << 16
        archive.writestr(info, content)
    return out.getvalue()


def a_bomb_in_the_golden_vectors():
    """A golden.npz of 400 kB that unpacks to 400 MB, with a header that asks for them."""
    out, header = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (100_000_000,)}
    )
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("window.npy", "w", force_zip64=True) as file,
    ):
        file.write(header.getvalue())
        for _ in range(400):
            file.write(bytes(1_000_000))
    return with_members({"golden.npz": out.getvalue()})


def a_model_of_100_gb():
    return with_graph(
        [
            helper.make_node("ConstantOfShape", ["size"], ["huge"]),
            helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
            helper.make_node("ReduceMean", ["window"], ["means"], axes=[1], keepdims=0),
            helper.make_node("Add", ["means", "sum"], ["scores"]),
        ],
        {"size": np.array([25_000, 1_000_000], np.int64)},  # of four bytes each
        "1.1.0",
    )


def said(field):
    """Another value of the manifest of NEW than its model has."""
    manifest = parse_bundle(NEW).manifest
    return {
        "window": msgspec.structs.replace(manifest.window, length=5),
        "outputs": tuple(msgspec.structs.replace(o, name="other") for o in manifest.outputs),
        "channels": manifest.channels[:1],
    }[field]


BUNDLES = {
    "a zip bomb": (lambda: repacked(NEW, {"report.json": bytes(10**7)}, compress=True),
                   "is compressed"),
    "a bomb inside": (a_bomb_in_the_golden_vectors, "more memory than 256 MiB"),
    "a path upwards": (lambda: with_entry("../x"), r"'\.\./x' is no plain file"),
    "an absolute path": (lambda: with_entry("/etc/x"), "'/etc/x' is no plain file"),
    "a path of Windows": (lambda: with_entry("..\\x"), "is no plain file"),
    "a symbolic link": (lambda: with_entry("x", b"/etc/passwd", stat.S_IFLNK | 0o777),
                        "'x' is no plain file"),
    "a member twice": (lambda: with_entry("model.onnx"), "occurs twice"),
    "another digest of a member": (lambda: repacked(NEW, {"report.json": b"{}".ljust(
        len(parse_bundle(NEW).report))}), "does not have the digest"),
    "another size of a member": (lambda: repacked(NEW, {"report.json": b"{}"}),
                                 "does not have the digest"),
    "another name": (lambda: with_members({}, name="other"), "the bundle is other 1.1.0"),
    "another version": (lambda: with_members({}, version="7.0.0"), "the bundle is motion 7.0.0"),
    "other channels": (lambda: with_members({}, channels=said("channels")), "channel"),
    "another window": (lambda: with_members({}, window=said("window")), "window"),
    "another output": (lambda: with_members({}, outputs=said("outputs")), "output|other"),
    "more labels": (lambda: with_manifest(b'"move"', b'"move", "fly"'), "one score for each"),
    "wrong answers": (lambda: make_bundle(version="1.1.0", wrong_golden=True), "golden vector 0"),
    "for a newer agent": (lambda: make_bundle(version="1.1.0", agent_min="99.0.0"),
                          "needs agent 99.0.0"),
    "no answer ever": (lambda: endless("1.1.0"), "did not answer within|all the processor time"),
    "a model of 100 GB": (a_model_of_100_gb, "more memory than 256 MiB"),
    "no model": (lambda: with_members({"model.onnx": b"\x08\x08rubbish"}), "cannot be loaded"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", BUNDLES)
def test_a_hostile_bundle_is_refused_with_the_reason(victim, name):
    make, reason = BUNDLES[name]
    data = make()
    seed(victim.broker, data)
    desire(victim.broker, NEW, 5, sha256=sha(data), bytes=len(data), payloads=(payload_of(data),))
    found = victim.refusal()
    assert re.search(reason, found), found
    victim.takes(NEWER, 6)


# --- payloads -------------------------------------------------------------------------------------


def packed(data):
    """A compressed payload of a bundle, and what is said of it."""
    whole = cut(data, "zstd")
    return whole.blobs, {"payloads": (whole.payload,)}


def a_list_that_lies():
    """One digest too few."""
    listing, pieces = cut_small(NEW)
    short = listing[:-32]
    payload = msgspec.structs.replace(payload_of(NEW), index=(sha(short),))
    blobs = {sha(blob): blob for blob in (short, *pieces)}
    return blobs, {"payloads": (payload,)}


def never_sent(chunks_n=100_000, chunk_bytes=256):
    """The list of a hundred thousand chunks, and none of them."""
    listing = b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(chunks_n))
    index = [listing[at : at + CHUNK_BYTES] for at in range(0, len(listing), CHUNK_BYTES)]
    size = chunks_n * chunk_bytes
    payload = Payload(
        encoding="raw",
        sha256="0" * 64,
        bytes=size,
        chunk_bytes=chunk_bytes,
        index=tuple(map(sha, index)),
    )
    return {sha(blob): blob for blob in index}, {"payloads": (payload,), "bytes": size}


def a_blob_without_end():
    listing, pieces = cut_small(NEW)
    blobs = {sha(blob): blob for blob in (listing, *pieces)}
    return blobs | {sha(pieces[0]): bytes(5_000_000)}, {"payloads": (payload_of(NEW),)}


PAYLOADS = {
    "it unpacks to more than announced": (lambda: packed(compress(NEW + b"x")),
                                          "unpacks to more than the"),
    "a bomb of zstd": (lambda: packed(compress(bytes(200_000_000))),
                       "unpacks to more than the"),
    "a chunk list that is too short": (a_list_that_lies, "the chunk list has"),
    "a hundred thousand chunks, never sent": (never_sent, "no chunk has come for .* 100000 are"),
    "chunks of a byte": (lambda: ({}, {"payloads": (msgspec.structs.replace(
        payload_of(NEW), chunk_bytes=1),)}), "chunks of 1 bytes are announced"),
    "a terabyte": (lambda: ({}, {"bytes": 10**12}), "bundle_bytes_max"),
    "a blob without end": (a_blob_without_end, "came 5 times with another digest"),
}  # fmt: skip


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_hostile_payload_is_refused_with_the_reason(victim, name):
    make, reason = PAYLOADS[name]
    blobs, fields = make()
    for digest, blob in blobs.items():
        victim.broker.publish(TOPICS.blob(digest), blob, retain=True)
    desire(victim.broker, NEW, 5, **fields)
    if name.endswith("never sent"):
        victim.device.until("fetching")
        assert victim.decides_with("1.0.0")
        for _ in range(100):
            victim.device.turn(60.0)
        assert "chunks" in victim.device.latest.reason
        victim.device.turn(DAY_S)
    found = victim.refusal()
    assert re.search(reason, found), found
    victim.takes(NEWER, 6)


def test_a_flipped_bit_in_any_chunk_is_refused(victim):
    listing, pieces = cut_small(NEW)
    for number, piece in enumerate((listing, *pieces)):
        seed(victim.broker, NEW)
        flipped = bytes([piece[0] ^ 1]) + piece[1:]
        victim.broker.publish(TOPICS.blob(sha(piece)), flipped, retain=True)
        victim.device.records.clear()
        desire(victim.broker, NEW, 5 + number)
        assert "with another digest than announced" in victim.refusal()
    victim.takes(NEW, 100)


# --- metadata -------------------------------------------------------------------------------------


class Signed:
    """A victim that believes what an operator has signed, and the broker between them."""

    def __init__(self, tmp_path):
        self.fleet = Fleet(tmp_path / "fleet")
        root = str(self.fleet.root)
        self.victim = Victim(tmp_path / "device", unsigned=False, root_file=root, answer_s=1.0)

    def order(self, version):
        """Approve and order a bundle; what is signed then."""
        self.fleet.order(self.fleet.approve(self.fleet.release(version, padding=8_000)))
        return self.fleet.files()

    def offer(self, files, **entries):
        """Put files of metadata on the broker, and every blob of a payload."""
        trust = trust_files(files)
        blobs = self.fleet.repository.blobs() | trust.blobs
        for digest, blob in blobs.items():
            self.victim.broker.publish(TOPICS.blob(digest), blob, retain=True)
        index = TrustIndex(files=trust.index.files | entries)
        self.victim.broker.publish(TOPICS.trust_index(), encode(index), retain=True)

    def distrust(self):
        """Why the metadata are not believed, as the status says it."""
        device, deadline = self.victim.device, time.monotonic() + DEADLINE_S
        while device.updater.trust == "signed":
            assert time.monotonic() < deadline
            device.turn(0.1)
            time.sleep(0.002)
        return device.updater.trust

    def commits(self):
        self.victim.device.until("committed", seconds=0.1)
        return self.victim.device.store.pointer("motion").current.version


@pytest.fixture
def signed(tmp_path):
    (tmp_path / "fleet").mkdir()
    (tmp_path / "device").mkdir()
    signed = Signed(tmp_path)
    with signed.victim:
        yield signed


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "rollout"])
def test_a_flipped_bit_in_any_file_of_metadata_is_refused(signed, role):
    signed.order("1.1.0")
    signed.fleet.repository.rotate("online", signed.fleet.keys, SECRET)
    signed.fleet.reopen()
    files = signed.order("1.2.0")
    name = max(name for name in files if name.endswith(f"{role}.json"))
    middle = len(files[name]) // 2
    flipped = files[name][:middle] + bytes([files[name][middle] ^ 1]) + files[name][middle + 1 :]
    signed.offer(files | {name: flipped})
    assert re.search("cannot be trusted|are not whole", signed.distrust())
    assert signed.victim.decides_with("1.0.0")
    assert signed.victim.device.records == []
    signed.offer(files)
    assert signed.commits() == "1.2.0"


def test_old_metadata_and_old_orders_that_are_replayed_are_refused(signed):
    before = signed.order("1.0.5")
    signed.offer(before)
    assert signed.commits() == "1.0.5"
    hint = {"payloads": (payload_of(OLD),)}
    after = signed.order("1.1.0")
    signed.offer(after)
    signed.victim.device.records.clear()
    assert signed.commits() == "1.1.0"
    signed.offer(before)
    desire(signed.victim.broker, OLD, 10**15, **hint)  # what a thief of the broker may say
    assert re.search("cannot be trusted|an older release", signed.distrust())
    assert signed.victim.device.store.pointer("motion").current.version == "1.1.0"
    assert signed.victim.decides_with("1.1.0")


@pytest.mark.parametrize("size", [5_200_000, 10**9])
def test_metadata_of_a_gigabyte_are_not_even_asked_for(signed, size):
    files = signed.order("1.1.0")
    blobs = tuple(f"{number:064x}" for number in range(-(-size // CHUNK_BYTES)))
    entry = msgspec.structs.replace(trust_files(files).index.files["timestamp.json"], blobs=blobs)
    signed.offer(files, **{"timestamp.json": entry})
    assert "timestamp.json" in signed.distrust()
    assert not set(signed.victim.broker.subscriptions) & {TOPICS.blob(blob) for blob in blobs}
    assert signed.victim.decides_with("1.0.0")
    signed.offer(files)
    assert signed.commits() == "1.1.0"
