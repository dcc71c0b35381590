"""What every command of ``edge-fleet`` takes: how to reach the broker."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import click
import msgspec

from edge_agent.config import BrokerConfig

BROKER_ENV: Final = "EDGE_FLEET_BROKER"
PASSWORD_ENV: Final = "EDGE_FLEET_PASSWORD"  # noqa: S105  # the name of a variable, not a password

_FILE = click.Path(exists=True, dir_okay=False)

PPM: Final = 1_000_000
_UNITS_S: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}

_OPTIONS: Final = (
    click.option(
        "--broker",
        metavar="URL",
        envvar=BROKER_ENV,
        show_envvar=True,
        default="mqtt://localhost",
        show_default=True,
        help="mqtt://HOST[:PORT], or mqtts:// for TLS.",
    ),
    click.option(
        "--prefix", default="edge", show_default=True, help="What every topic begins with."
    ),
    click.option("--username", help="For brokers that ask for one."),
    click.option(
        "--password-file",
        type=_FILE,
        help=f"File whose first line is the password; or set {PASSWORD_ENV}.",
    ),
    click.option("--ca-file", type=_FILE, help="PEM file to check the broker by."),
    click.option("--cert-file", type=_FILE, help="PEM client certificate, with --key-file."),
    click.option("--key-file", type=_FILE, help="PEM key of --cert-file."),
    click.option(
        "--protocol",
        type=click.Choice(["auto", "5", "3.1.1"]),
        default="auto",
        show_default=True,
        help="MQTT version; auto tries 5 first.",
    ),
)


def duration(text: str) -> float:
    """Read seconds, written as ``90``, ``90s``, ``30m``, ``2h`` or ``1d``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is no duration: write 90s, 30m, 2h or 1d")
    return float(found[1]) * _UNITS_S[found[2]]


def share_ppm(text: str) -> int:
    """Read a share in millionths, written as ``5%`` or ``0.5%``."""
    found = re.fullmatch(r"(\d{1,3}(?:\.\d{1,4})?)%", text.strip())
    ppm = int(Decimal(found[1]) * 10_000) if found else -1
    if not 0 <= ppm <= PPM:
        raise click.BadParameter(f"{text!r} is no share: write 5% or 0.5%")
    return ppm


def start_within_option(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``start_within_s``, in whole seconds."""
    option: Callable[..., Callable[..., None]] = click.option(
        "--start-within",
        "start_within_s",
        type=duration,
        metavar="TIME",
        default="0s",
        show_default=True,
        callback=lambda _ctx, _param, value: round(value),
        help="Devices begin at a stable random moment within this time, to spare the network.",
    )
    return option(command)


def broker_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options above; it takes them as one ``broker: BrokerConfig``."""

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        fields = {name: values.pop(name) for name in _FIELDS}
        fields["url"] = fields.pop("broker")
        if fields["password_file"] is None and os.environ.get(PASSWORD_ENV):
            fields["password_env"] = PASSWORD_ENV
        command(broker=msgspec.convert(fields, BrokerConfig), **values)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


_FIELDS: Final = (
    "broker",
    "prefix",
    "username",
    "password_file",
    "ca_file",
    "cert_file",
    "key_file",
    "protocol",
)
