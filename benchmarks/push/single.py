"""One whole agent that is given new models: how long a push takes until the model decides."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.push import MODEL, TOPICS
from benchmarks.push.operator import CHANNELS, Operator
from edge_agent.config import BrokerConfig
from edge_agent.contract.messages import UpdateReport
from edge_agent.demo.programs import Program, StepError, console
from edge_agent.fleet.records import parse_batch, update_of
from edge_agent.fleet.session import Session, open_session

DEVICE: Final = "bench-1"
_PATIENCE_S: Final = 60.0


class Times(msgspec.Struct, frozen=True):
    """Milliseconds of one push, by the stamps that the agent puts on its reports.

    Attributes:
        transfer: from the first chunk asked for to the last one durable.
        active: from the first hint on the broker to the new model deciding.
        steps: the whole way, state by state.
    """

    transfer: float
    active: float
    steps: dict[str, float]


class Single:
    """An agent under way. ``push`` may be called again and again.

    Args:
        operator: who pushes.
        folder: for the agent, which exists.
    """

    def __init__(self, operator: Operator, folder: Path) -> None:
        self._operator = operator
        config = folder / "agent.yaml"
        config.write_text(json.dumps(_config(operator, folder)))  # JSON is YAML
        self._agent = Program("agent", console("edge-agent", "run", config), folder)
        self._agent.start()

    def push(self, version: str) -> Times:
        """Push one bundle and follow it.

        Raises:
            StepError: the device does not take it.
        """
        bundle = self._operator.approve(version)
        with open_session(BrokerConfig(url=self._operator.url)) as session:
            session.connect(_PATIENCE_S)
            session.subscribe([TOPICS.records(DEVICE, "+")])
            pushed = self._operator.push(bundle, DEVICE)
            entered = self._follow(session, version)
        steps, before = dict[str, float](), pushed.hinted_t
        for state, moment in entered.items():
            steps[state], before = (moment - before) * 1e3, moment
        return Times(
            transfer=(entered["verified"] - entered["fetching"]) * 1e3,
            active=(entered["committed"] - pushed.hinted_t) * 1e3,
            steps=steps,
        )

    def close(self) -> None:
        """End the agent."""
        self._agent.end()

    def _follow(self, session: Session, version: str) -> dict[str, float]:
        """When each state was entered, up to the last."""
        entered: dict[str, float] = {}
        until = time.monotonic() + _PATIENCE_S
        while "committed" not in entered:
            self._agent.require_running()
            if time.monotonic() > until:
                raise StepError(f"the agent has not taken {version} over: {entered}")
            for report in _reports(session):
                if report.version == version:
                    entered.setdefault(report.state, report.t)
                    if report.state in ("refused", "rolled_back"):
                        raise StepError(f"{version} is {report.state}: {report.reason}")
        return entered


def _reports(session: Session) -> list[UpdateReport]:
    message = session.receive(1.0)
    if message is None or not message.payload:
        return []
    rows = parse_batch(TOPICS, message.topic, message.payload).rows
    return [report for row in rows if (report := update_of(row))]


def _config(operator: Operator, folder: Path) -> dict[str, object]:
    return {
        "device": DEVICE,
        "data_dir": str(folder / "data"),
        "broker": {"url": operator.url},
        "update": {
            "root_file": str(operator.root),
            "trial": {"seconds": 0, "windows_min": 0},  # it decides when it is committed
        },
        "pipelines": [
            {
                "name": "only",
                "model": MODEL,
                "bundle": str(operator.bundle),
                "channels": list(CHANNELS),
                "source": {"type": "simulated", "rate_hz": 100.0},
            }
        ],
    }
