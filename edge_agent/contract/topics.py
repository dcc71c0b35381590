"""The MQTT topics: human-readable, at most 7 slashes and 256 bytes, one prefix in front of all.

================================================  ========  ======================================
topic                                             retained  payload
================================================  ========  ======================================
``PREFIX/device/DEVICE/status``                   yes       :class:`~.messages.Status`, and the will
``PREFIX/device/DEVICE/records/live``             no        :class:`~.messages.Batch`
``PREFIX/device/DEVICE/records/backlog``          no        :class:`~.messages.Batch`, sent late
``PREFIX/device/DEVICE/ack``                      no        :class:`~.messages.Ack`, by a collector
``PREFIX/device/DEVICE/truth``                    no        :class:`~.experiment.Truth`
``PREFIX/desired/device/DEVICE/MODEL``            yes       :class:`~.messages.Desired`
``PREFIX/desired/group/GROUP/MODEL``              yes       :class:`~.messages.Desired`
``PREFIX/blob/SHA256``                            yes       raw bytes with that digest, <= 48 KiB
``PREFIX/trust/index``                            yes       :class:`~.requests.TrustIndex`
``PREFIX/device/DEVICE/request``                  no        :class:`~.requests.Request`
``PREFIX/device/DEVICE/response``                 no        :func:`~.requests.encode_part`
``PREFIX/device/DEVICE/bench/MODEL``              yes       :class:`~.bench.BenchResult`
================================================  ========  ======================================
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from edge_agent.contract.errors import ConfigError
from edge_agent.contract.names import prefix_fault

CHUNK_BYTES: Final = 48 * 1024
"""Largest payload we publish: hosted brokers retain at most 64 KB a message."""

RecordClass = Literal["live", "backlog"]


class Topics(msgspec.Struct, frozen=True):
    """Topic names under one prefix.

    Raises:
        ConfigError: the prefix is not 1 to 3 plain levels.
    """

    prefix: str = "edge"

    def __post_init__(self) -> None:
        if fault := prefix_fault(self.prefix):
            raise ConfigError(fault)

    def status(self, device: str) -> str:
        """Retained status and Last Will of one device; ``+`` for all."""
        return f"{self.prefix}/device/{device}/status"

    def records(self, device: str, record_class: RecordClass | Literal["+"]) -> str:
        """Record batches of one device (``+`` for all), by delivery class."""
        return f"{self.prefix}/device/{device}/records/{record_class}"

    def ack(self, device: str) -> str:
        """Where collectors acknowledge to one device."""
        return f"{self.prefix}/device/{device}/ack"

    def truth(self, device: str) -> str:
        """Where one device is told what its windows really were."""
        return f"{self.prefix}/device/{device}/truth"

    def desired_for_device(self, device: str, model: str) -> str:
        """Retained desired state of one model on one device."""
        return f"{self.prefix}/desired/device/{device}/{model}"

    def desired_for_group(self, group: str, model: str) -> str:
        """Retained desired state of one model on every device of a group."""
        return f"{self.prefix}/desired/group/{group}/{model}"

    def blob(self, sha256: str) -> str:
        """Retained content-addressed bytes: a chunk of a bundle, or a chunk of a chunk list."""
        return f"{self.prefix}/blob/{sha256}"

    def trust_index(self) -> str:
        """Retained hint which blobs make up which file of the signed metadata."""
        return f"{self.prefix}/trust/index"

    def request(self, device: str) -> str:
        """Where one device (``+`` for all) asks for blobs and files."""
        return f"{self.prefix}/device/{device}/request"

    def response(self, device: str) -> str:
        """Where one device is answered."""
        return f"{self.prefix}/device/{device}/response"

    def bench(self, device: str, model: str) -> str:
        """Retained figures of one model on one device; ``+`` for all of either."""
        return f"{self.prefix}/device/{device}/bench/{model}"

    def device_of(self, topic: str) -> str | None:
        """The device named in a topic of its own; None for any other topic."""
        head = f"{self.prefix}/device/"
        if not topic.startswith(head):
            return None
        return topic[len(head) :].split("/", 1)[0] or None
