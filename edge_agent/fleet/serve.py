"""Runs a collector on a broker connection until it is told to stop."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

from edge_agent.clock import SystemClock
from edge_agent.config import BrokerConfig
from edge_agent.contract.topics import Topics
from edge_agent.fleet.collect import Collector, CollectReport
from edge_agent.fleet.sinks import Sink
from edge_agent.mqtt import MqttLink

_ROUND_S: Final = 0.25  # how soon a signal is noticed
_FINISH_S: Final = 2.0


def run_collector(
    broker: BrokerConfig,
    sink: Sink,
    *,
    share: str,
    for_s: float | None,
    idle_s: float | None,
    every_s: float | None,
    show: Callable[[CollectReport], None],
    stop: threading.Event,
) -> CollectReport:
    """Collect until ``stop`` is set, or for a time.

    Args:
        broker: where devices publish.
        sink: where records go; the caller closes it.
        share: name that collectors of the same work have in common.
        for_s: end after so many seconds; None does not.
        idle_s: end when no record came for so many seconds; None does not.
        every_s: seconds between two calls of ``show``; None never calls it.
        show: takes what is known so far.
        stop: set from a signal handler.

    Raises:
        ConfigError: the broker's settings cannot be used.
        StorageError: the disk refuses; what it refused is not acknowledged.
        LinkError: the broker forbids what a collector needs.
    """
    link = MqttLink(broker, client_id=f"edge-collect-{secrets.token_hex(6)}")
    collector = Collector(
        link.port("collector"), Topics(broker.prefix), sink, share=share, clock=SystemClock()
    )
    started = shown = time.monotonic()
    link.start()
    try:
        while not stop.is_set():
            collector.step(_ROUND_S)
            now = time.monotonic()
            if every_s is not None and now - shown >= every_s:
                show(collector.report())
                shown = now
            if for_s is not None and now - started >= for_s:
                break
            if idle_s is not None and collector.idle_s() >= idle_s:
                break
        collector.finish(_FINISH_S)
    finally:
        link.stop()
    return collector.report()
