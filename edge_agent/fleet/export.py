"""A folder with everything that devices fetch: for a web server, or a USB stick."""

from __future__ import annotations

from pathlib import Path

from edge_agent.contract.bundle import write_bundle
from edge_agent.contract.errors import BundleError, ConfigError
from edge_agent.fleet.trust.repository import Repository


def export(repository: Repository, folder: Path) -> int:
    """Write the metadata, and the payloads and blobs of every bundle that is ordered.

    The timestamp comes last, so that a device that looks meanwhile sees the release before.

    Returns:
        How many files were written; what is there already is left alone.

    Raises:
        ConfigError: the folder cannot be written.
    """
    files = repository.files()
    names = [f"trust/{name}" for name in files if name != "timestamp.json"]
    contents = {f"blob/{digest}": data for digest, data in repository.blobs().items()}
    contents |= {f"payload/{digest}": repository.payload(digest) for digest in repository.payloads}
    contents |= {name: files[name.removeprefix("trust/")] for name in names}
    contents["trust/timestamp.json"] = files["timestamp.json"]
    written = 0
    try:
        for name, data in contents.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name == "trust/timestamp.json" or not path.exists():
                write_bundle(path, data)
                written += 1
    except (OSError, BundleError) as exc:
        raise ConfigError(f"{folder}: {exc}: give a folder that can be written") from exc
    return written
