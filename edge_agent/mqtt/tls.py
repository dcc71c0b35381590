"""TLS as the configuration asks for it."""

from __future__ import annotations

import ssl
from pathlib import Path

from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import ConfigError


def tls_context(config: BrokerConfig) -> ssl.SSLContext:
    """Check the broker by ``ca_file``, else by the system's store; show ``cert_file`` if given.

    Raises:
        ConfigError: a file cannot be read or is not what it should be.
    """
    for field, name in (
        ("ca_file", config.ca_file),
        ("cert_file", config.cert_file),
        ("key_file", config.key_file),
    ):
        if name is not None:
            _require_readable(field, Path(name))
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
    except ssl.SSLError as exc:
        raise ConfigError(f"broker ca_file: {config.ca_file}: not a PEM certificate") from exc
    if config.cert_file is not None:
        try:
            # Without this an encrypted key would ask for its password on the terminal.
            context.load_cert_chain(config.cert_file, config.key_file, password=lambda: "")
        except ssl.SSLError as exc:
            raise ConfigError(
                f"broker cert_file: {config.cert_file} with key_file {config.key_file}: "
                f"{exc.reason or exc}: give a PEM certificate and its key, not encrypted"
            ) from exc
    return context


def _require_readable(field: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as exc:
        raise ConfigError(f"broker {field}: {path}: {exc.strerror}: give a PEM file") from exc
