"""``edge-agent run`` under a wall clock that can be set while it runs.

Usage: python benchmarks/soak_agent.py CONFIG FILE

FILE holds the seconds by which the clock is wrong.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from edge_agent import agent
from edge_agent.clock import SystemClock
from edge_agent.config import load_config


class SetClock(SystemClock):
    """The machine's clocks, but for the wall clock.

    Args:
        offset: the file.
    """

    def __init__(self, offset: Path) -> None:
        super().__init__()
        self._offset = offset

    def wall(self) -> float:  # type: ignore[override]
        """Seconds since 1970, as somebody has set them."""
        return time.time() + float(self._offset.read_text() or 0)


def main() -> None:
    """Run the agent."""
    config, offset = map(Path, sys.argv[1:])
    loaded = load_config(config)
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    agent.run(loaded, config.parent, SetClock(offset))


if __name__ == "__main__":
    main()
