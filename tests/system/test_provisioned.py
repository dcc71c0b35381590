"""A device from its archive, on the brokers that are shipped, with everybody's own credential."""

import re

import pytest
from access import BASE, DEADLINE_S, TOPICS, Client, members
from bundles import make_bundle

from .processes import wait_for
from .records import read_rows

WORLDS = [(kind, how) for kind in ("mosquitto", "nats") for how in ("mtls", "password")]


@pytest.mark.parametrize("way", ["retained", "request"])
@pytest.mark.parametrize(("kind", "how"), WORLDS)
def test_an_unpacked_device_sends_records_and_takes_models(tmp_path, programs, kind, how, way):
    with members(tmp_path, kind, how, ways=[{"type": way}]) as (found, _):
        config = found.folder / "of" / "pi-1" / "edge-agent" / "agent.yaml"
        checked = programs.check_config(config)
        assert checked.wait() == 0, checked.log
        assert "device    pi-1 in kitchen" in checked.out
        agent = programs.agent(config)
        collected = tmp_path / "records.jsonl"
        programs.start_fleet("collect", "--to", str(collected), *found.options("collector"))
        publisher = ("--repo", str(found.fleet.folder), *found.options("publisher"))
        programs.start_fleet("serve", "--every", "1", *publisher)
        bundle = tmp_path / "motion.bundle"
        bundle.write_bytes(found.fleet.approve(found.fleet.release("1.1.0")).data)
        pushed = programs.start_fleet(
            "publish", str(bundle), "--to", "group:kitchen", "--json", *publisher
        )
        assert pushed.wait(2 * DEADLINE_S) == 0, pushed.log
        assert '"committed":1' in pushed.out

        def kinds():
            return {row.kind for row in read_rows(collected)}

        wait_for(lambda: kinds() >= {"update", "decision"}, "records", DEADLINE_S)
        assert {row.device for row in read_rows(collected)} == {"pi-1"}
        shown = programs.start_fleet("status", "--json", *found.options("viewer"))
        assert shown.wait(DEADLINE_S) == 0
        assert '"device":"pi-1"' in shown.out
        assert agent.terminate() == 0, agent.log
        assert re.search("refuse|denie", agent.log) is None


def test_a_thief_among_the_collectors_delays_records_and_loses_none(tmp_path, programs):
    """mosquitto lets anybody join a shared subscription, and drops what falls to the thief."""
    (tmp_path / "motion.bundle").write_bytes(make_bundle())
    pipeline = BASE["pipelines"][0] | {"bundle": str(tmp_path / "motion.bundle")}
    with members(tmp_path, "mosquitto", "password", pipelines=[pipeline]) as (found, _):
        config = found.folder / "of" / "pi-1" / "edge-agent" / "agent.yaml"
        collected = tmp_path / "records.db"
        with Client(found.settings("pi-2")) as thief:
            thief.subscribe(f"$share/edge-collect/{TOPICS.records('+', '+')}")
            collector = programs.start_fleet(
                "collect", "--to", str(collected), *found.options("collector")
            )
            agent = programs.agent(config)
            wait_for(lambda: len(read_rows(collected)) > 100, "records", DEADLINE_S)
            assert agent.terminate() == 0, agent.log
            agent = programs.agent(config)  # what it could not deliver before
            wait_for(lambda: is_whole(read_rows(collected)), "every record", DEADLINE_S)
        assert thief.messages == []
        assert agent.terminate() == 0, agent.log
        assert collector.terminate() == 0


def is_whole(rows):
    """Whether everything of the boot before the last one is there, as that one says."""
    for row in rows:
        if row.body.get("previous_seq"):
            before = {other.seq for other in rows if other.boot == row.body["previous_boot"]}
            return before == set(range(1, row.body["previous_seq"] + 1))
    return False
