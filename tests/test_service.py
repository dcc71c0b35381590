"""What systemd is told, over a real socket, and the unit it runs us by."""

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from edge_agent.contract.errors import ConfigError
from edge_agent.service import Notifier, unit_text


@pytest.mark.parametrize("abstract", [False, True])
def test_notifications_arrive_at_the_socket(tmp_path: Path, *, abstract: bool) -> None:
    name = f"@edge-test-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000"})
        notifier.ready()
        notifier.status("two\nlines")
        notifier.watchdog()
        notifier.stopping()
        got = [manager.recv(100) for _ in range(4)]
    assert got == [b"READY=1", b"STATUS=two lines", b"WATCHDOG=1", b"STOPPING=1"]
    assert notifier.watchdog_s == 30.0


def test_nobody_to_tell_is_no_error(tmp_path: Path) -> None:
    assert Notifier({}).watchdog_s is None
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    other = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    assert Notifier(other).watchdog_s is None


def unit() -> str:
    return unit_text(
        Path("/etc/edge-agent.yaml"),
        executable=Path("/bin/true"),
        user="root",
        data_dir=Path("/var/lib/edge-agent"),
    )


def test_the_unit_names_its_paths_and_its_limits() -> None:
    text = unit()
    assert "ExecStart=/bin/true run /etc/edge-agent.yaml" in text
    assert "ReadWritePaths=/var/lib/edge-agent" in text
    assert "Type=notify" in text
    with pytest.raises(ConfigError, match="absolute path"):
        unit_text(Path("x y"), executable=Path("/a"), user="u", data_dir=Path("/d"))


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "edge-agent.service"
    path.write_text(unit())
    done = subprocess.run(
        ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False
    )
    assert "edge-agent.service" not in done.stderr
    assert done.returncode == 0, done.stderr
