"""The operator's side of the measurements: a signed repository, bundles of 5 MB, a broker."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.peers.cnn import NAMES, write_bundle
from benchmarks.push import MODEL, TOPICS
from edge_agent.config import BrokerConfig
from edge_agent.contract.bundle import Bundle, pack_bundle, read_bundle
from edge_agent.contract.release import Choice, Order
from edge_agent.demo.broker import LocalBroker
from edge_agent.demo.programs import console
from edge_agent.fleet.parcel import Target, trust_files
from edge_agent.fleet.publish import Publisher, PublishReport
from edge_agent.fleet.session import open_session
from edge_agent.fleet.trust.approving import ordered_parcel
from edge_agent.fleet.trust.keys import read_keys
from edge_agent.fleet.trust.release import make_release
from edge_agent.fleet.trust.repository import Repository

CHANNELS: Final = NAMES
PAYLOAD_BYTES: Final = 5_000_000
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Pushed(msgspec.Struct, frozen=True):
    """A publish, and the moment of its first hint to devices.

    Attributes:
        hinted_t: seconds since 1970 when all chunks were there and the index came next.
    """

    report: PublishReport
    hinted_t: float


class Operator:
    """Keys, bundles and a broker in one folder, which exists.

    Attributes:
        root: the root file for devices.
        bundle: a small first one, for devices to start with.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._keys = folder, folder / "keys"
        self._broker = LocalBroker(folder, folder, ("mosquitto",))
        self._broker.start()
        self.url = self._broker.url
        self.repository = folder / "repository"
        self._repository = Repository.create(self.repository, self._keys, None)
        self.root = folder / "root.json"
        self.root.write_bytes(self._repository.files()["1.root.json"])
        self.bundle = write_bundle(folder)
        self._first = read_bundle(self.bundle)

    def approve(self, version: str) -> Path:
        """Make and approve a bundle of 5 MB that is like no other."""
        path = self.folder / f"{version}.bundle"
        path.write_bytes(_packed(self._first, version, _heavier(self._first.model)))
        signers = read_keys(self._keys, "targets", None)
        self._repository.approve(make_release(path, {}), signers)
        return path

    def push(self, bundle: Path, to: str) -> Pushed:
        """Order and publish an approved bundle; leave when everything is out."""
        target, sha256 = Target.parse(to), read_bundle(bundle).digest
        _, parcel = ordered_parcel(self._repository, sha256, target)
        revision = self._repository.next_revision()
        choice = Choice(sha256=sha256, version=parcel.version)
        order = Order(revision=revision, model=MODEL, choice=choice)
        self._repository.order(target.path(MODEL), order)
        seeded: list[float] = []
        with open_session(BrokerConfig(url=self.url)) as session:
            report = Publisher(
                session,
                TOPICS,
                parcel,
                target,
                trust=trust_files(self._repository.files()),
                revision=revision,
                wait_s=0,
                connect_s=30,
                tell=lambda _: None,
                progress=lambda *_: seeded.append(time.time()),
            ).run()
        return Pushed(report, seeded[-1])

    def publishing(self, bundle: Path, to: str) -> list[str]:
        """The command that does the same in a process of its own."""
        rest = ("--repo", self.repository, "--broker", self.url, "--wait", "0")
        return console("edge-fleet", "publish", bundle, "--to", to, *rest)

    def reopen(self) -> None:
        """Read what another process has signed."""
        self._repository = Repository(self.repository)

    def cut(self) -> None:
        """The broker dies as by a power cut, and comes back on the same port and storage."""
        self._broker.cut()
        self._broker.start()

    def broker_cpu_s(self) -> float:
        """CPU time that the broker has used, in seconds."""
        fields = Path(f"/proc/{self._broker.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def close(self) -> None:
        """End the broker."""
        self._broker.end()


def _packed(bundle: Bundle, version: str, model: bytes) -> bytes:
    manifest = msgspec.structs.replace(bundle.manifest, version=version)
    members = {
        "model.onnx": model,
        "golden.npz": bundle.golden,
        "reference.json": bundle.reference,
        "report.json": bundle.report,
    }
    return pack_bundle(manifest, members)


def _heavier(model: bytes) -> bytes:
    """The same answers from 5 MB more: a dense layer of new random int8 weights, times nought.

    Random bytes cannot be compressed, and every call makes others, so that nothing is there yet.
    """
    heavier = onnx.load_from_string(model)
    graph = heavier.graph
    (window,), output = graph.input, graph.output[0].name
    inputs = int(np.prod([dim.dim_value for dim in window.type.tensor_type.shape.dim[1:]]))
    weights = np.frombuffer(os.urandom(PAYLOAD_BYTES // inputs * inputs), np.int8)
    for node in graph.node:
        node.output[:] = ["light" if name == output else name for name in node.output]
        node.input[:] = ["light" if name == output else name for name in node.input]
    constants = {
        "heavy_weights": weights.reshape(inputs, -1),
        "heavy_scale": np.float32(1 / 128),
        "heavy_nought": np.zeros(1, np.float32),
        "heavy_axis": np.array([1], np.int64),
    }
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()
    )
    graph.node.extend(
        [
            helper.make_node("DequantizeLinear", ["heavy_weights", "heavy_scale"], ["heavy"]),
            helper.make_node("Flatten", [window.name], ["heavy_window"], axis=1),
            helper.make_node("MatMul", ["heavy_window", "heavy"], ["heavy_hidden"]),
            helper.make_node("ReduceSum", ["heavy_hidden", "heavy_axis"], ["heavy_sum"]),
            helper.make_node("Mul", ["heavy_sum", "heavy_nought"], ["heavy_term"]),
            helper.make_node("Add", ["light", "heavy_term"], [output]),
        ]
    )
    content: bytes = heavier.SerializeToString(deterministic=True)
    return content
