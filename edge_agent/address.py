"""Where the broker is, and the password for it; where a web server may be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from edge_agent.contract.errors import ConfigError

if TYPE_CHECKING:  # edge_agent.config imports this module
    from edge_agent.config import BrokerConfig

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_LOCAL: Final = ("127.0.0.1", "::1", "localhost")


class Address(NamedTuple):
    """A parsed broker URL."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_url(url: str) -> Address:
    """Take ``mqtt://HOST[:PORT]`` or ``mqtts://HOST[:PORT]`` apart.

    Raises:
        ConfigError: it is anything else. The message never repeats what may be a password.
    """
    wanted = "give the broker as mqtt://HOST[:PORT], or mqtts://HOST[:PORT] for TLS"
    if "@" in url:
        raise ConfigError(
            "broker url: a user or password does not belong in it: "
            "use username with password_file or password_env"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text may quote what should have been kept secret
        raise ConfigError(f"broker url: host or port cannot be read: {wanted}") from None
    if parts.scheme not in _PORTS or port == 0:
        raise ConfigError(f"broker url {url!r}: {wanted}")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ConfigError(f"broker url {url!r}: nothing may follow the port: {wanted}")
    if not parts.hostname or any(letter.isspace() for letter in url):
        raise ConfigError(f"broker url {url!r}: {wanted}")
    return Address(parts.hostname, port or _PORTS[parts.scheme], parts.scheme == "mqtts")


def web_url_fault(url: str) -> str | None:
    """Why the address of a web server cannot be used; None when it can."""
    parts = urlsplit(url)
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        return f"{url!r}: give https://HOST/PATH"
    if parts.scheme == "http" and parts.hostname not in _LOCAL:
        return f"{url!r}: plain http is only for this machine: use https"
    return None


def read_password(config: BrokerConfig) -> str | None:
    """The broker password from where the configuration says; None when it says nothing.

    Raises:
        ConfigError: the file or the variable is missing or empty.
    """
    if config.password_file is not None:
        return _first_line(Path(config.password_file))
    if config.password_env is not None:
        password = os.environ.get(config.password_env)
        if not password:
            raise ConfigError(
                f"broker password_env: the environment variable {config.password_env} "
                "is not set or empty: set it, or use password_file"
            )
        return password
    return None


def _first_line(path: Path) -> str:
    try:
        password = path.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except OSError as exc:
        raise ConfigError(
            f"broker password_file: {path}: {exc.strerror}: "
            "it must exist and be readable by the user that runs this"
        ) from exc
    except UnicodeDecodeError:
        raise ConfigError(f"broker password_file: {path}: its text is not UTF-8") from None
    if not password:
        raise ConfigError(f"broker password_file: {path}: its first line must be the password")
    return password
