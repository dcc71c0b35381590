"""What stands in the archives: a device's configuration, and how to use what is there."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from edge_agent.config import load_config
from edge_agent.contract.bundle import parse_bundle
from edge_agent.contract.errors import BundleError, ConfigError
from edge_agent.fleet.access.archive import KEY_SUFFIX, PASSWORD
from edge_agent.settings import format_fields, read_fields

CA: Final = "ca.crt"
CONFIG: Final = "agent.yaml"
ROOT: Final = "root.json"
README: Final = "README.txt"

_CREDENTIALS: Final = (
    "username",
    "password_file",
    "password_env",
    "ca_file",
    "cert_file",
    "key_file",
)


def device_files(
    base: Path,
    device: str,
    *,
    groups: Sequence[str],
    url: str | None,
    prefix: str,
    root: bytes,
    credential: dict[str, bytes],
    archive: str,
) -> dict[str, bytes]:
    """The files of one device: the base configuration with what is its own, and what that names.

    Args:
        base: the configuration of all devices of this kind.
        device: its id.
        groups: that it belongs to; none leaves those of ``base``.
        url: of the broker; None leaves that of ``base``.
        prefix: of the topics.
        root: the root of trust.
        credential: files by name: ``ca.crt``, and DEVICE.crt and DEVICE.key, or ``password``.
        archive: what the archive is called.

    Raises:
        ConfigError: what comes out is no configuration.
        BundleError: a bundle that it names cannot be read.
    """
    fields = read_fields(base)
    fields["device"] = device
    if groups:
        fields["groups"] = list(groups)
    fields["broker"] = _broker(_part(fields, "broker"), device, url, prefix, credential)
    update = _part(fields, "update")
    update.pop("unsigned", None)
    fields["update"] = update | {"root_file": ROOT}
    bundles = _take_bundles(fields, base.parent)
    text = format_fields(fields)
    files = {CONFIG: text.encode(), ROOT: root, **credential, **bundles}
    _require_sound(files, base)
    return files | {README: _device_readme(device, archive, credential).encode()}


def prefix_of(base: Path) -> str | None:
    """The prefix of the topics that a base configuration names."""
    prefix = _part(read_fields(base), "broker").get("prefix")
    return None if prefix is None else str(prefix)


def user_readme(user: str, url: str | None, credential: dict[str, bytes]) -> str:
    """How an operator uses its credential."""
    options = [f"--broker {url or 'mqtts://BROKER'}"]
    if CA in credential:
        options.append(f"--ca-file {CA}")
    if PASSWORD in credential:
        options.append(f"--username {user} --password-file {PASSWORD}")
    else:
        options.append(f"--cert-file {user}.crt --key-file {user}{KEY_SUFFIX}")
    command = {"publisher": "publish", "collector": "collect", "viewer": "status"}[user]
    return (
        f"The credential of the {user}. Keep it where only this user reads it.\n\n"
        f"  edge-fleet {command} … {' '.join(options)}\n"
    )


def broker_readme() -> str:
    """What a broker does with its certificate."""
    return (
        "The certificate of the broker, for the names that it was made for. mosquitto:\n\n"
        f"  cafile ca.crt\n  certfile broker.crt\n  keyfile broker{KEY_SUFFIX}\n\n"
        "Both files beside this one belong where mosquitto.conf or nats.conf look for them.\n"
    )


def _part(fields: dict[str, Any], name: str) -> dict[str, Any]:
    part = fields.get(name)
    return dict(part) if isinstance(part, dict) else {}


def _broker(
    broker: dict[str, Any],
    device: str,
    url: str | None,
    prefix: str,
    credential: dict[str, bytes],
) -> dict[str, Any]:
    kept = {name: value for name, value in broker.items() if name not in _CREDENTIALS}
    if url is not None:
        kept["url"] = url
    kept["prefix"] = prefix
    if CA in credential:
        kept["ca_file"] = CA
    if PASSWORD in credential:
        return kept | {"username": device, "password_file": PASSWORD}
    return kept | {"cert_file": f"{device}.crt", "key_file": f"{device}{KEY_SUFFIX}"}


def _take_bundles(fields: dict[str, Any], folder: Path) -> dict[str, bytes]:
    """Take the bundles along that pipelines are to start with, and name them by their own names."""
    found: dict[str, bytes] = {}
    pipelines = fields.get("pipelines")
    for pipeline in pipelines if isinstance(pipelines, list) else []:
        if isinstance(pipeline, dict) and (path := pipeline.get("bundle")):
            try:
                data = (folder / path).read_bytes()
            except OSError as exc:
                raise BundleError(f"{folder / path}: {exc.strerror}") from exc
            parse_bundle(data)
            pipeline["bundle"] = Path(path).name
            found[Path(path).name] = data
    return found


def _require_sound(files: dict[str, bytes], base: Path) -> None:
    """Read the configuration as the agent will.

    Raises:
        ConfigError: it could not.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CONFIG
        path.write_bytes(files[CONFIG])
        try:
            load_config(path)
        except ConfigError as exc:
            said = str(exc).replace(str(path), "")
            raise ConfigError(f"{base} gives no configuration for this device: {said}") from exc


def _device_readme(device: str, archive: str, credential: dict[str, bytes]) -> str:
    secret = PASSWORD if PASSWORD in credential else f"{device}{KEY_SUFFIX}"
    return (
        f"All that makes a machine the device {device}. There, with edge-agent installed:\n\n"
        f"  sudo tar -xzf {archive} -C /etc --no-same-owner\n"
        f"  sudo edge-agent service install /etc/edge-agent/{CONFIG}\n\n"
        f"The file {secret} is this device's alone: whoever has it speaks for the device. Remove\n"
        "the archive once it is unpacked. For an agent that runs as another user than root, give\n"
        "that user the folder and name it: sudo chown -R USER /etc/edge-agent, and --user USER.\n"
    )
