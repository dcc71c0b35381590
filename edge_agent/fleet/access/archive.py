"""One file with everything that a device, an operator or a broker is given."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from typing import Final

PASSWORD: Final = "password"  # noqa: S105 (the name of a file)
KEY_SUFFIX: Final = ".key"


def pack(folder: str, files: Mapping[str, bytes]) -> bytes:
    """A ``.tar.gz`` with one folder; the same files give the same bytes.

    Keys and passwords can be read by their owner only.
    """
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=buffer, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        head = tarfile.TarInfo(folder)
        head.type, head.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(head)
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(data)
            private = name == PASSWORD or name.endswith(KEY_SUFFIX)
            entry.mode = 0o600 if private else 0o644
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
