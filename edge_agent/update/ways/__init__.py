"""The ways by which bytes come from the operator to the device, all under the same checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edge_agent.config import (
    FolderConfig,
    HttpsConfig,
    RequestConfig,
    RetainedConfig,
    WayConfig,
)
from edge_agent.contract.topics import Topics
from edge_agent.link import Port
from edge_agent.update.ways.base import Way
from edge_agent.update.ways.several import SeveralWays


def make_ways(
    configs: Sequence[WayConfig],
    *,
    port: Port | None,
    topics: Topics,
    device: str,
    wake: Callable[[], None],
) -> SeveralWays:
    """The ways that a configuration names; those over MQTT only where there is a link.

    Raises:
        ConfigError: a web server's address or certificate cannot be used.
    """
    made = [
        way
        for config in configs
        if (way := _make(config, port=port, topics=topics, device=device, wake=wake))
    ]
    return SeveralWays(made)


def _make(
    config: WayConfig, *, port: Port | None, topics: Topics, device: str, wake: Callable[[], None]
) -> Way | None:
    # Each is imported where it is used: a device that has no web server loads no http.client.
    match config:
        case RetainedConfig() if port:
            from edge_agent.update.ways.retained import RetainedWay  # noqa: PLC0415 (see above)

            return RetainedWay(port, topics)
        case RequestConfig() if port:
            from edge_agent.update.ways.request import RequestWay  # noqa: PLC0415 (see above)

            return RequestWay(port, topics, device)
        case HttpsConfig(url=url, ca_file=ca_file):
            from edge_agent.update.ways.https import HttpsWay  # noqa: PLC0415 (see above)

            return HttpsWay(url, ca_file, wake)
        case FolderConfig(path=path):
            from edge_agent.update.ways.folder import FolderWay  # noqa: PLC0415 (see above)

            return FolderWay(Path(path))
    return None
