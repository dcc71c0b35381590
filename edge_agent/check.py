"""What ``check-config`` looks at beyond the file itself, and what it says. Never a secret."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from edge_agent.chain import misfit
from edge_agent.config import AgentConfig, BrokerConfig, PipelineConfig
from edge_agent.contract.bundle import Bundle, read_bundle
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.manifest import Manifest
from edge_agent.sources.replay import ReplayConfig


def check(config: AgentConfig, base: Path) -> str:
    """Look at the files that a configuration names, and describe what it will do.

    Args:
        config: as read by :func:`edge_agent.config.load_config`.
        base: folder of the configuration file.

    Returns:
        A summary for people, several lines.

    Raises:
        ConfigError: a file that it names is missing, or a bundle does not fit its pipeline.
        BundleError: a bundle is damaged or needs a newer agent.
    """
    bundles = {
        pipeline.name: read_bundle(base / pipeline.bundle)
        for pipeline in config.pipelines
        if pipeline.bundle
    }
    missing = [f"{what}: {base / path} is not there" for what, path in _files(config, base)]
    if missing:
        raise ConfigError("; ".join(missing))
    for pipeline in config.pipelines:
        if bundle := bundles.get(pipeline.name):
            require_fit(pipeline, bundle.manifest)
    return "\n".join(_lines(config, base, bundles))


def _files(config: AgentConfig, base: Path) -> Iterator[tuple[str, str]]:
    """The files that are named and not there."""
    named: list[tuple[str, str | None]] = []
    if broker := config.broker:
        named += [
            ("broker.password_file", broker.password_file),
            ("broker.ca_file", broker.ca_file),
            ("broker.cert_file", broker.cert_file),
            ("broker.key_file", broker.key_file),
        ]
        if broker.password_env and broker.password_env not in os.environ:
            raise ConfigError(f"broker.password_env: the variable {broker.password_env} is not set")
    named += [
        (f"source of {pipeline.name}", pipeline.source.path)
        for pipeline in config.pipelines
        if isinstance(pipeline.source, ReplayConfig)
    ]
    for what, path in named:
        if path and not (base / path).is_file():
            yield what, path


def require_fit(pipeline: PipelineConfig, manifest: Manifest) -> None:
    """Check that a bundle can run in a pipeline.

    Raises:
        ConfigError: it cannot.
    """
    if fault := misfit(pipeline, manifest):
        raise ConfigError(fault)


def _lines(config: AgentConfig, base: Path, bundles: dict[str, Bundle]) -> Iterator[str]:
    groups = f" in {', '.join(config.groups)}" if config.groups else ""
    yield f"device    {config.device}{groups}"
    yield f"data      {base / config.data_dir}, records up to {config.outbox.bytes_max >> 20} MiB"
    yield f"broker    {_broker(config.broker, base)}"
    for pipeline in config.pipelines:
        kind = type(pipeline.source).__struct_config__.tag
        actions = [str(type(action).__struct_config__.tag) for action in pipeline.actions]
        yield f"pipeline  {pipeline.name}: {', '.join(pipeline.channels)} from {kind}"
        if bundle := bundles.get(pipeline.name):
            yield f"          model {pipeline.model} {bundle.manifest.version} to start with"
        else:
            yield f"          model {pipeline.model}, waits for one from the broker"
        yield f"          actions {', '.join(actions) or 'none'}"


def _broker(broker: BrokerConfig | None, base: Path) -> str:
    if broker is None:
        return "none: records stay on the device"
    user = f", user {broker.username}" if broker.username else ""
    secret = ""
    if broker.password_file:
        secret = f", password from {base / broker.password_file}"
    elif broker.password_env:
        secret = f", password from the variable {broker.password_env}"
    return f"{broker.url}, MQTT {broker.protocol}, topics under {broker.prefix}/{user}{secret}"
