"""All of it at once: broker, collector and agent die in the middle of a push and of a backlog."""

import json
import random

import pytest
from bundles import make_bundle

from .processes import finish, pipeline, wait_for, write_config
from .records import complete, outbox_bytes, read_rows, readings

LENGTH = 4
LARGE = make_bundle(version="1.1.0", padding=8_000_000)
FAST = {"type": "simulated", "rate_hz": 500.0}


@pytest.mark.parametrize("seed", [1, 5])
def test_nothing_is_lost_and_the_model_arrives(programs, listen, home, broker, seed):
    path, bundle = home / "records.jsonl", home / "new.bundle"
    bundle.write_bytes(LARGE)
    config = write_config(home, broker.url, [pipeline(FAST)], uplink={"backlog_n_per_s": 600})
    agent = programs.agent(config)
    wait_for(lambda: outbox_bytes(home / "data") > 800_000, "a backlog")
    collector = programs.collector(broker, path)
    publisher = programs.publisher(broker, bundle, "pi-1")
    wait_for(lambda: path.exists() and read_rows(path), "the drain to begin")
    for victim in random.Random(seed).sample(["broker", "agent", "collector"], 3):
        many = len(read_rows(path))
        if victim == "broker":
            broker.restart(kill=True)
        elif victim == "agent":
            agent.kill()
            agent = programs.agent(config)
        else:
            collector.kill()
            collector = programs.collector(broker, path)
        wait_for(lambda many=many: len(read_rows(path)) > many, f"records after the {victim}")
    assert publisher.wait() == 0
    assert json.loads(publisher.out)["committed"] == 1
    ears = listen(broker)
    wait_for(lambda: ears.statuses() and ears.status().outbox, "the agent's status")
    wait_for(lambda: complete(path, ears.status()), "the backlog to arrive")
    wait_for(lambda: ears.status().pipelines[0].version == "1.1.0", "a status that says so")
    assert agent.terminate() == 0
    wait_for(lambda: ears.status().reason == "stopped", "the last status")
    last = ears.status()
    wait_for(lambda: complete(path, last), "the last record")
    result = finish(collector)
    assert (result["missing"], result["ledgered"]) == (0, 0)
    rows = read_rows(path)
    for boot in {row.boot for row in rows}:
        numbers = readings(row for row in rows if row.boot == boot)
        assert numbers == list(range(LENGTH, LENGTH + len(numbers)))
        for late in (False, True):
            seqs = [row.seq for row in rows if (row.boot, row.late) == (boot, late)]
            assert seqs == sorted(seqs)
