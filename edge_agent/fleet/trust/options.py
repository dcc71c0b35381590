"""What the commands that sign take: the repository, the offline keys, their passphrase."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from getpass import getpass
from pathlib import Path
from typing import Any, Final

import click

from edge_agent.contract.errors import ConfigError

REPO_ENV: Final = "EDGE_FLEET_REPO"
KEYS_ENV: Final = "EDGE_FLEET_KEYS"
PASSPHRASE_ENV: Final = "EDGE_FLEET_PASSPHRASE"  # noqa: S105 (the name of a variable)

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

repo_option = click.option(
    "--repo",
    type=FOLDER,
    envvar=REPO_ENV,
    show_envvar=True,
    help="Folder of the signed repository, made by init.",
)
Secret = Callable[[], bytes | None]
"""Asks for the passphrase when it is first called."""

keys_option = click.option(
    "--keys",
    type=FOLDER,
    envvar=KEYS_ENV,
    show_envvar=True,
    help="Folder of the offline keys, such as a USB stick.",
)


def passphrase_option(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``passphrase: Secret``, which asks for it when it is first needed."""

    @functools.wraps(command)
    def wrapped(passphrase_file: Path | None, **values: Any) -> None:
        ask: Secret = functools.cache(lambda: _passphrase(passphrase_file))
        command(passphrase=ask, **values)

    help_text = f"File whose first line opens the offline keys; or set {PASSPHRASE_ENV}."
    option: Callable[..., Callable[..., None]] = click.option(
        "--passphrase-file", type=FILE, help=help_text
    )
    return option(wrapped)


def need_keys(keys: Path | None) -> Path:
    """The folder of the offline keys.

    Raises:
        ConfigError: none was named.
    """
    if keys is None:
        raise ConfigError(f"--keys or {KEYS_ENV} must name the folder of the offline keys")
    return keys


def _passphrase(file: Path | None) -> bytes | None:
    if file is not None:
        return file.read_bytes().split(b"\n")[0].rstrip(b"\r") or None
    if given := os.environ.get(PASSPHRASE_ENV):
        return given.encode()
    if sys.stdin.isatty():
        return getpass("Passphrase of the offline keys: ").encode() or None
    return None
