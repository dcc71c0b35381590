"""What every command of ``edge-fleet`` takes: how to reach the broker."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, Final

import click
import msgspec

from edge_agent.config import BrokerConfig

BROKER_ENV: Final = "EDGE_FLEET_BROKER"
PASSWORD_ENV: Final = "EDGE_FLEET_PASSWORD"  # noqa: S105  # the name of a variable, not a password

_FILE = click.Path(exists=True, dir_okay=False)

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
