"""The steady state: agent, broker and collector, and how an agent ends."""

import brokers
import pytest

from .processes import finish, pipeline, wait_for, write_config
from .records import complete, count_rows, decisions, gaps, kept, read_rows, readings

LENGTH = 4  # of the bundle's window: the first decision is on this reading

FAST = {"type": "simulated", "rate_hz": 500.0}


@pytest.fixture(params=["mosquitto 5", "mosquitto 3.1.1", "nats auto"])
def spoken(request, tmp_path):
    """A broker and the version that the agent is told to speak."""
    name, protocol = request.param.split()
    with getattr(brokers, name)(tmp_path) as running:
        yield running, protocol


def test_a_steady_run_ends_in_order_with_everything_delivered(
    programs, listen, home, spoken, tmp_path
):
    broker, protocol = spoken
    path = tmp_path / "records.db"
    ears = listen(broker)
    collector = programs.collector(broker, path)
    config = write_config(
        home, broker.url, [pipeline(FAST)], broker={"protocol": protocol}, metrics_s=0.5
    )
    agent = programs.agent(config)
    wait_for(lambda: count_rows(path) > 1000, "a thousand records at the collector")
    # What was sent before the collector listened comes again; only then the run is steady.
    wait_for(lambda: complete(path, ears.status()), "what the collector came too late for")
    assert agent.terminate() == 0
    wait_for(lambda: ears.status().reason == "stopped", "the last status")
    last = ears.status()
    assert not last.online
    wait_for(lambda: count_rows(path) == last.outbox.seq_last, "the last record")
    result = finish(collector)
    assert (result["produced"], result["missing"], result["ledgered"]) == (count_rows(path), 0, 0)
    rows = read_rows(path)
    assert gaps(rows, {last.boot: last.outbox.seq_last}) == []
    numbers = readings(rows)
    assert numbers == list(range(LENGTH, LENGTH + len(numbers)))
    assert numbers[-1] == last.pipelines[0].counts["readings"]
    assert {row.kind for row in rows} == {"started", "decision", "metrics"}


def test_an_agent_whose_input_ends_delivers_everything_and_ends(programs, home, broker, tmp_path):
    path = tmp_path / "records.db"
    config = write_config(home, broker.url, [pipeline({"type": "jsonl"})])
    agent = programs.agent(config)
    agent.feed([[0.0, 0.0], {"a": 1.0, "b": 1.0}] * 1000)
    agent.end_input()
    collector = programs.collector(broker, path)  # comes later than everything
    assert agent.wait() == 0
    assert kept(home / "data") == 0
    result = finish(collector)
    rows = read_rows(path)
    assert result["missing"] == result["ledgered"] == 0
    assert readings(rows) == list(range(LENGTH, 2001))
    assert gaps(rows) == []
    assert {body["label"] for body in decisions(rows)} <= {"rest", "move"}
