"""Every power cut at every moment, and what it leaves: ``make crash-model``, and a test.

What may be left is said in :mod:`power`; each part says what it does and what must hold then:
a model that loads and an update that goes on to its end (:mod:`crash_store`), a mark below which
nothing is believed (:mod:`crash_trust`), every acknowledged record (:mod:`crash_outbox`).
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import crash_outbox
import crash_store
import crash_trust
from power import RecordingDisk

PARTS: Final[dict[str, Callable[[Path], Iterator[str | None]]]] = {
    "updates": partial(crash_store.updates, RecordingDisk),
    "store": partial(crash_store.changes, RecordingDisk),
    "payloads": partial(crash_store.payloads, RecordingDisk),
    "trust": partial(crash_trust.checks, RecordingDisk),
    "outbox": crash_outbox.boots,
}


@contextmanager
def place() -> Iterator[Path]:
    """An empty folder; in memory where that can be: thousands of states are built there."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder) / "crash"


def main() -> int:
    """Build and judge every state; prints RESULT."""
    logging.disable(logging.CRITICAL)  # every damaged state is said
    states, bad = dict[str, int](), 0
    for name, part in PARTS.items():
        with place() as folder:
            faults = list(part(folder))
        states[name] = len(faults)
        wrong = [fault for fault in faults if fault]
        bad += len(wrong)
        print(f"{name}: {len(faults)} states, {len(wrong)} bad", flush=True)  # noqa: T201
        for fault in sorted(set(wrong))[:10]:
            print(f"  {fault}")  # noqa: T201
    print(f"RESULT {json.dumps({'states': sum(states.values()), 'bad': bad, 'of': states})}")  # noqa: T201
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
