"""What goes wrong with readings, and what it must not touch."""

import json

import pytest
from bundles import make_bundle

from edge_agent.contract.manifest import Channel

from .processes import finish, pipeline, wait_for, write_config
from .records import decisions, gaps, read_rows, readings

LENGTH = 4
GOOD = [0.5, 0.5]
CHANNELS = (
    Channel(name="a", minimum=-10.0, maximum=10.0, on_missing="hold", on_range="clip"),
    Channel(name="b", on_missing="skip"),
)


def test_bad_readings_are_counted_and_survived(programs, listen, home, broker):
    (home / "motion.bundle").write_bytes(make_bundle(channels=CHANNELS))
    path = home / "records.db"
    ears = listen(broker)
    collector = programs.collector(broker, path)
    agent = programs.agent(write_config(home, broker.url, [pipeline({"type": "jsonl"})]))
    agent.feed([GOOD] * 10)
    agent.feed(['{"a": 1.0, "b"', "[0.5, 0.", "}{"])  # torn
    agent.feed([[1.0, 2.0, 3.0], [1.0], {"x": 1.0}, '"text"'])
    agent.feed(["[NaN, 0.5]", [None, 0.5], "[-Infinity, 0.5]", {"b": 0.5}])  # held
    agent.feed([[0.5, None], {"a": 0.5}])  # skipped
    agent.feed([[99.0, 0.5], [-99.0, 0.5]])  # clipped
    agent.feed([GOOD] * 10)
    agent.end_input()
    assert agent.wait() == 0
    assert finish(collector)["missing"] == 0
    wait_for(lambda: ears.status().reason == "stopped", "the last status")
    rows = read_rows(path)
    (metrics,) = [row.body for row in rows if row.kind == "metrics"]
    for counts in (metrics["counts"], ears.status().pipelines[0].counts):
        wanted = {
            "torn": 3,
            "malformed": 4,
            "readings": 28,
            "missing": 6,
            "skipped": 2,
            "out_of_range": 2,
            "windows": 28 - 2 - (LENGTH - 1),
        }
        assert {name: counts[name] for name in wanted} == wanted
    found = decisions(rows)
    assert len(found) == wanted["windows"]
    by_reading = {body["reading"]: body["score"] for body in found}
    assert by_reading[28] == pytest.approx(by_reading[10])


def test_a_failing_source_disturbs_no_other_and_is_taken_up_when_it_is_there(
    programs, listen, home, broker
):
    path, recording = home / "records.db", home / "late.csv"
    ears = listen(broker)
    collector = programs.collector(broker, path)
    good = pipeline({"type": "simulated", "rate_hz": 200.0})
    bad = pipeline({"type": "replay", "path": "late.csv"}, name="bad")
    agent = programs.agent(write_config(home, broker.url, [good, bad]))

    def state(name):
        lines = ears.status().pipelines if ears.statuses() else ()
        return next((line.state, line.fault) for line in lines if line.name == name)

    wait_for(lambda: ears.statuses() and state("bad")[0] == "failed", "the fault in the status")
    assert str(recording) in state("bad")[1]
    assert state("main") == ("running", "")
    recording.write_text("a,b\n" + "0.5,0.5\n" * 50)
    wait_for(lambda: state("bad") == ("ended", ""), "the recording to be replayed")
    assert state("main") == ("running", "")
    assert agent.terminate() == 0
    wait_for(lambda: ears.status().reason == "stopped", "the last status")
    assert finish(collector)["missing"] == 0
    rows, last = read_rows(path), ears.status()
    assert gaps(rows, {last.boot: last.outbox.seq_last}) == []
    assert readings(rows, "bad") == list(range(LENGTH, 51))
    numbers = readings(rows)
    assert numbers == list(range(LENGTH, LENGTH + len(numbers)))


@pytest.mark.parametrize("send", ["at_once", "confirmed", "kept"])
def test_every_decision_on_readings_from_the_broker_goes_back_to_it(
    send, programs, listen, home, broker
):
    (home / "motion.bundle").write_bytes(make_bundle(channels=CHANNELS))
    ears = listen(broker, "decisions/motion")
    action = {"type": "mqtt", "topic": "decisions/motion", "send": send, "every": "window"}
    source = {"type": "mqtt", "topic": "sensors/motion"}
    agent = programs.agent(write_config(home, broker.url, [pipeline(source, actions=[action])]))

    def decided() -> list[int]:
        return [json.loads(text)["reading"] for text in ears.payloads("decisions/motion")]

    def first() -> bool:
        ears.publish([("sensors/motion", json.dumps(GOOD).encode())])
        return bool(decided())

    wait_for(first, "a decision")
    ears.publish(
        ("sensors/motion", json.dumps([number / 100, 0.5]).encode()) for number in range(300)
    )
    wait_for(lambda: len(decided()) >= 300, "a message for each window")
    assert agent.terminate() == 0
    wait_for(lambda: ears.status().reason == "stopped", "the last status")
    windows = ears.status().pipelines[0].counts["windows"]
    assert decided() == list(range(LENGTH, LENGTH + windows))
