"""What stands in the archives: a device's configuration, and how to use what is there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from edge_agent.actions.mqtt import MqttConfig as Action
from edge_agent.address import parse_url
from edge_agent.config import AgentConfig, load_config
from edge_agent.contract.bundle import parse_bundle
from edge_agent.contract.errors import BundleError, ConfigError
from edge_agent.fleet.access.archive import KEY_SUFFIX, PASSWORD
from edge_agent.fleet.access.roles import BROKER
from edge_agent.settings import format_fields, read_fields
from edge_agent.sources.mqtt import MqttConfig as Source

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


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """What a device is to be.

    Attributes:
        name: its id.
        base: the configuration that all devices of its kind share.
        groups: that it belongs to; none leaves those of ``base``.
        url: of the broker; None leaves that of ``base``.
        prefix: of the topics.
        root: the root of trust.
        credential: files by name: ``ca.crt``, and NAME.crt and NAME.key, or ``password``.
        archive: what the archive is called.
    """

    name: str
    base: Path
    groups: tuple[str, ...]
    url: str | None
    prefix: str
    root: bytes
    credential: dict[str, bytes]
    archive: str


class Rendered(NamedTuple):
    """The files of a device, how it reaches the broker, and topics that its pipelines need."""

    files: dict[str, bytes]
    tls: bool
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def render(device: Device) -> Rendered:
    """The base configuration with what is this device's own, and the files that it names.

    Raises:
        ConfigError: what comes out is no configuration.
        BundleError: a bundle that it names cannot be read.
    """
    fields = read_fields(device.base)
    fields["device"] = device.name
    if device.groups:
        fields["groups"] = list(device.groups)
    fields["broker"] = _broker(_part(fields, "broker"), device)
    update = _part(fields, "update")
    update.pop("unsigned", None)
    fields["update"] = update | {"root_file": ROOT}
    bundles = _take_bundles(fields, device.base.parent)
    text = format_fields(fields).encode()
    config = _read_back(text, device.base)
    actions = (action for pipeline in config.pipelines for action in pipeline.actions)
    sources = (pipeline.source for pipeline in config.pipelines)
    files = {
        CONFIG: text,
        ROOT: device.root,
        README: _device_readme(device).encode(),
        **device.credential,
        **bundles,
    }
    assert config.broker is not None, "made above"
    return Rendered(
        files,
        tls=parse_url(config.broker.url).tls,
        reads=tuple(source.topic for source in sources if isinstance(source, Source)),
        writes=tuple(action.topic for action in actions if isinstance(action, Action)),
    )


def prefix_of(base: Path) -> str | None:
    """The prefix of the topics that a base configuration names."""
    prefix = _part(read_fields(base), "broker").get("prefix")
    return None if prefix is None else str(prefix)


def user_readme(user: str, url: str | None, credential: dict[str, bytes]) -> str:
    """How an operator, or the broker itself, uses its credential."""
    if user == BROKER:
        return (
            "The certificate of the broker, for the names that it was made for. broker.crt,\n"
            "broker.key and ca.crt go where mosquitto.conf or nats.conf look for them.\n"
        )
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


def _part(fields: dict[str, Any], name: str) -> dict[str, Any]:
    part = fields.get(name)
    return dict(part) if isinstance(part, dict) else {}


def _broker(broker: dict[str, Any], device: Device) -> dict[str, Any]:
    kept = {name: value for name, value in broker.items() if name not in _CREDENTIALS}
    if device.url is not None:
        kept["url"] = device.url
    kept["prefix"] = device.prefix
    if CA in device.credential and str(kept.get("url")).startswith("mqtts:"):
        kept["ca_file"] = CA
    if PASSWORD in device.credential:
        return kept | {"username": device.name, "password_file": PASSWORD}
    return kept | {"cert_file": f"{device.name}.crt", "key_file": f"{device.name}{KEY_SUFFIX}"}


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
            name = pipeline["bundle"] = Path(path).name
            if found.setdefault(name, data) != data:
                raise ConfigError(f"two different bundles are called {name}: rename one")
    return found


def _read_back(text: bytes, base: Path) -> AgentConfig:
    """Read the configuration as the agent will.

    Raises:
        ConfigError: it could not.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CONFIG
        path.write_bytes(text)
        try:
            return load_config(path)
        except ConfigError as exc:
            said = str(exc).removeprefix(f"{path}:")
            raise ConfigError(f"{base}, with what is the device's own in it, line {said}") from exc


def _device_readme(device: Device) -> str:
    secret = PASSWORD if PASSWORD in device.credential else f"{device.name}{KEY_SUFFIX}"
    return (
        f"All that makes a machine the device {device.name}. There, with edge-agent installed:\n\n"
        f"  sudo tar -xzf {device.archive} -C /etc --no-same-owner\n"
        f"  sudo edge-agent service install /etc/edge-agent/{CONFIG}\n\n"
        f"The file {secret} is this device's alone: whoever has it speaks for the device. Remove\n"
        "the archive once it is unpacked. For an agent that runs as another user than root, give\n"
        "that user the folder and name it: sudo chown -R USER /etc/edge-agent, and --user USER.\n"
    )
