"""The client under test: the suite's command line around the device's own trust check.

Files come by requests over the broker that ``EDGE_CONFORMANCE_BROKER`` names.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.ngclient import Updater

from edge_agent.config import BrokerConfig
from edge_agent.contract.errors import EdgeError
from edge_agent.contract.topics import Topics
from edge_agent.link import Down, Up, take_events
from edge_agent.mqtt import MqttLink
from edge_agent.update.trust.check import METADATA_BYTES_MAX
from edge_agent.update.trust.child import refresh
from edge_agent.update.ways.base import File
from edge_agent.update.ways.request import RequestWay

ANSWER_S = 20.0


def main() -> int:
    """Do what the suite asks for; 0 when it could be done."""
    given = arguments()
    metadata = Path(given.metadata_dir)
    own = metadata.with_name(f"{metadata.name}-own")  # the provisioned root, and the mark
    if given.command == "init":
        own.mkdir(parents=True, exist_ok=True)
        for target in (own / "root.json", metadata / "root.json"):
            shutil.copyfile(given.trusted_root, target)
        return 0
    try:
        with over_mqtt() as get:
            updater = refresh(
                metadata,
                own / "mark.json",
                root=(own / "root.json").read_bytes(),
                get=get,
                now=time.time(),
                url=given.metadata_url,
                made=datetime.fromtimestamp(0, UTC),  # the suite also plays in the past
            )
            for name in given.target_name or ():
                download(updater, name, Path(given.target_dir), given.target_base_url)
    except (RepositoryError, DownloadError, EdgeError, OSError, ValueError) as exc:
        print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
        return 1
    return 0


def download(updater: Updater, name: str, folder: Path, base_url: str) -> None:
    """Bring one target and have it checked."""
    info = updater.get_targetinfo(name)
    if info is None:
        raise ValueError(f"there is no target {name}")
    path = str(folder / quote(name, ""))
    if not updater.find_cached_target(info, path):
        updater.download_target(info, path, base_url)


@contextmanager
def over_mqtt() -> Iterator[Callable[[str], bytes | None]]:
    """A function that gets a file by its URL over the broker."""
    device = f"client-{secrets.token_hex(4)}"
    link = MqttLink(BrokerConfig(url=os.environ["EDGE_CONFORMANCE_BROKER"]), client_id=device)
    port = link.port("conformance")
    way = RequestWay(port, Topics("edge"), device)
    link.start()

    def get(url: str) -> bytes | None:
        want, deadline = File(url, METADATA_BYTES_MAX), time.monotonic() + ANSWER_S
        way.ask([want])
        while time.monotonic() < deadline:
            for event in take_events(port.events, n_max=64, wait_s=0.05):
                if isinstance(event, Down):
                    raise OSError(event.reason)
                way.take(event)
            for answer in way.answers():
                return answer.data
        raise OSError(f"no answer for {url}")

    def await_link() -> None:
        while not isinstance(event := port.events.get(timeout=ANSWER_S), Up):
            way.take(event)

    try:
        await_link()
        yield get
    finally:
        link.stop()


def arguments() -> argparse.Namespace:
    """The suite's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--metadata-url", default="")
    parser.add_argument("--metadata-dir", required=True)
    parser.add_argument("--target-name", action="append")
    parser.add_argument("--target-dir")
    parser.add_argument("--target-base-url")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root")
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
