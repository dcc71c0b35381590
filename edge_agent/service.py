"""systemd: the unit that runs the agent, and the notifications that it sends.

The protocol is sd_notify(3): datagrams of ``NAME=value`` lines to the socket in
``$NOTIFY_SOCKET``; a leading ``@`` means the abstract namespace.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from edge_agent.contract.errors import ConfigError

log = logging.getLogger(__name__)

UNIT_PATH: Final = Path("/etc/systemd/system/edge-agent.service")

_UNIT: Final = """\
# Written by `edge-agent service install`.
[Unit]
Description=Edge agent: decisions from local sensors
Documentation=file:{config}
Wants=network-online.target time-sync.target
After=network-online.target time-sync.target

[Service]
Type=notify
ExecStart={executable} run {config}
User={user}
Restart=always
RestartSec=5
# The watchdog is fed only while every pipeline turns.
WatchdogSec=30
TimeoutStopSec=30
MemoryMax={memory_max}
# A model on probation that wants too much memory is ended alone.
OOMPolicy=continue
# Decisions come before everything that can wait.
Nice=-5

NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={data_dir}
ProtectHome=read-only
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
CapabilityBoundingSet=
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0077
# A sensor on a device file needs a line such as:
# DeviceAllow=/dev/i2c-1 rw
# SupplementaryGroups=i2c

[Install]
WantedBy=multi-user.target
"""


def unit_text(
    config: Path, *, executable: Path, user: str, data_dir: Path, memory_max: str = "384M"
) -> str:
    """The unit file.

    Args:
        config: absolute path of the agent's configuration.
        executable: absolute path of ``edge-agent``.
        user: whom the service runs as; it must be able to write ``data_dir``.
        data_dir: absolute path; the only place that the service can write to.
        memory_max: as systemd writes it; beyond it the kernel ends the service.

    Raises:
        ConfigError: a path is not absolute, or has a character that a unit file cannot hold.
    """
    for path in (config, executable, data_dir):
        if not path.is_absolute() or any(letter in str(path) for letter in " \t\n%\"'\\$"):
            raise ConfigError(
                f"{path}: a service needs an absolute path without blanks, quotes or %"
            )
    return _UNIT.format(
        config=config,
        executable=executable,
        user=user,
        data_dir=data_dir,
        memory_max=memory_max,
    )


class Notifier:
    """Tells the service manager how the agent is. Without one, every call does nothing.

    Attributes:
        watchdog_s: within how many seconds ``watchdog`` must be called again and again; None when
            nobody watches.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environ.get("WATCHDOG_USEC", "")
        watched = bool(address) and for_us and microseconds.isdigit()
        self.watchdog_s = int(microseconds) / 1e6 if watched else None

    def ready(self) -> None:
        """Start-up is complete."""
        self._send("READY=1")

    def watchdog(self) -> None:
        """The pipelines turn."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """An orderly stop has begun."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send("STATUS=" + text.replace("\n", " "))

    def _send(self, line: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.settimeout(1.0)
                out.sendto(line.encode(), self._address)
        except OSError as exc:  # deciding goes on: the watchdog acts if nothing ever arrives
            log.warning("the service manager cannot be told %s: %s", line, exc)
