"""Everything is killed in the middle of everything; the collector's file tells what was lost."""

import random
import time

import brokers
import pytest

from .processes import finish, pipeline, wait_for, write_config
from .records import complete, count_rows, gaps, outbox_bytes, read_rows, readings

LENGTH = 4
RECORDS = "edge/device/+/records/+"
FAST = {"type": "simulated", "rate_hz": 1000.0}
FASTER = {"type": "simulated", "rate_hz": 2500.0}


def settle(agent, ears):
    """Stop an agent in order; its last status."""
    assert agent.terminate() == 0
    wait_for(lambda: ears.statuses() and ears.status().reason == "stopped", "the last status")
    return ears.status()


def late_n(path):
    """Backlog records in a file of lines, cheaply."""
    return path.read_bytes().count(b'"late":true')


def test_a_broker_killed_in_the_middle_of_a_drain_loses_nothing_and_keeps_the_order(
    programs, listen, home, broker, tmp_path
):
    path = tmp_path / "records.jsonl"
    ears = listen(broker, RECORDS)
    config = write_config(home, broker.url, [pipeline(FASTER)], uplink={"backlog_n_per_s": 3000})
    agent = programs.agent(config)
    wait_for(lambda: outbox_bytes(home / "data") > 1_500_000, "a backlog of thousands")
    collector = programs.collector(broker, path)
    wait_for(lambda: path.exists() and late_n(path) > 500, "the drain to begin")
    with collector.held():  # it lags: what the broker holds for it will be lost
        passed = len(ears.messages)
        wait_for(lambda: len(ears.messages) > passed + 5, "messages that only the broker has")
        wait_for(ears.statuses, "a status")
        assert ears.status().outbox.records > 500
        broker.restart(kill=True)
    wait_for(lambda: complete(path, ears.status()), "the backlog to arrive")
    last = settle(agent, ears)
    wait_for(lambda: complete(path, last), "the last record")
    result = finish(collector)
    assert (result["missing"], result["ledgered"]) == (0, 0)
    rows = read_rows(path)
    assert gaps(rows, {last.boot: last.outbox.seq_last}) == []
    numbers = readings(rows)
    assert numbers == list(range(LENGTH, LENGTH + len(numbers)))
    live, late = ([row.seq for row in rows if row.late is kind] for kind in (False, True))
    assert live
    assert late
    assert live == sorted(live)
    assert late == sorted(late)


def test_an_agent_killed_again_and_again_proves_every_boot(
    programs, listen, home, broker, tmp_path
):
    path = tmp_path / "records.db"
    config = write_config(home, broker.url, [pipeline(FAST)])
    collector = programs.collector(broker, path)
    moments = random.Random(7)
    for online, starting in ((True, False), (False, True), (False, False), (True, False)):
        if not online:
            broker.kill()
        agent = programs.agent(config)
        if not starting:
            wait_for(lambda agent=agent: "boot" in agent.log, "the agent to have started")
        time.sleep(moments.uniform(0.0, 0.8))  # the moment of the kill is what varies
        agent.kill()
        if not online:
            broker.start()
    ears = listen(broker)
    agent = programs.agent(config)
    wait_for(lambda: ears.statuses() and ears.status().online, "the agent to be back")
    wait_for(lambda: complete(path, ears.status()), "the backlog to arrive")
    last = settle(agent, ears)
    wait_for(lambda: complete(path, last), "every boot whole")
    assert finish(collector)["missing"] == 0
    rows = read_rows(path)
    boots = {row.boot for row in rows}
    assert len(boots) >= 3
    assert sum(row.kind == "started" for row in rows) == len(boots)
    for boot in boots:
        numbers = readings(row for row in rows if row.boot == boot)
        assert numbers == list(range(LENGTH, LENGTH + len(numbers)))


@pytest.mark.parametrize("names", [("all.db", "all.db"), ("one.db", "two.db")], ids=" ".join)
def test_collectors_killed_and_started_again_lose_nothing_together(
    programs, listen, home, broker, names
):
    one, two = (home.parent / name for name in names)
    ears = listen(broker)
    victim, other = programs.collector(broker, one), programs.collector(broker, two)
    agent = programs.agent(write_config(home, broker.url, [pipeline(FAST)]))

    def stored():
        return {row[:3]: row for path in {one, two} for row in read_rows(path)}

    for more in (600, 1200):
        wait_for(lambda more=more: len(stored()) > more, "records at the collectors")
        victim.kill()
        many = count_rows(two) + 300
        wait_for(lambda many=many: count_rows(two) > many, "the other to take over")
        victim = programs.collector(broker, one)
    last = settle(agent, ears)
    wait_for(
        lambda: gaps(stored().values(), {last.boot: last.outbox.seq_last}) == [], "every record"
    )
    finish(victim)
    finish(other)
    for path in {one, two}:
        rows = read_rows(path)
        assert len({row[:3] for row in rows}) == len(rows)


def test_what_the_byte_cap_drops_is_accounted_for_exactly(programs, home, tmp_path):
    readings_n, port = 40_000, brokers.free_port()
    path = tmp_path / "records.db"
    config = write_config(
        home,
        f"mqtt://127.0.0.1:{port}",
        [pipeline({"type": "jsonl"}, record="fired", record_raw="window")],
        outbox={"bytes_max": 1024 * 1024, "flush_s": 0.05},
    )
    agent = programs.agent(config)
    agent.feed([[0.5, 0.5]] * readings_n)
    wait_for(lambda: outbox_bytes(home / "data") > 600_000, "the outbox to be full")
    with brokers.mosquitto(tmp_path, port=port) as broker:
        collector = programs.collector(broker, path)
        agent.end_input()
        assert agent.wait() == 0
        result = finish(collector)
    rows = read_rows(path)
    assert result["missing"] == 0
    ledgers = [row.body for row in rows if row.kind == "ledger"]
    assert {body["reason"] for body in ledgers} <= {"byte cap", "queue full"}
    assert result["ledgered"] > 1000
    assert result["produced"] == result["received"] + result["ledgered"]
    others = sum(row.kind in {"decision", "ledger", "metrics"} for row in rows)
    offered = (readings_n - LENGTH + 1) + 1 + others
    assert result["produced"] + result["unsequenced"] == offered
    assert gaps(rows) == []
