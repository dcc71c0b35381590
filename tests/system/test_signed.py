"""Signed pushes by the real programs: what is approved runs, and nothing else does."""

import json

import pytest
from bundles import make_bundle

from edge_agent.contract.messages import encode
from edge_agent.contract.release import Choice, Order, device_path
from edge_agent.fleet.parcel import read_parcel, trust_files
from edge_agent.fleet.trust.repository import Repository

from .ears import TOPICS
from .processes import pipeline, wait_for, write_config

SLOW = {"type": "simulated", "rate_hz": 50.0}


@pytest.fixture
def world(programs, listen, home, broker, tmp_path):
    return programs, listen, home, broker, tmp_path


@pytest.fixture
def fleet(programs, broker, tmp_path):
    """Runs edge-fleet with the repository and the keys of this test."""
    options = ("--repo", str(tmp_path / "fleet"), "--keys", str(tmp_path / "keys"))

    def run(command, *arguments, code=0):
        program = programs.fleet(command, broker, *arguments, *options)
        assert program.wait() == code, program.log
        return program.out

    made = programs.start_fleet("init", str(tmp_path / "fleet"), *options[2:], "--no-passphrase")
    assert made.wait() == 0, made.log
    return run


def start(programs, home, broker, tmp_path):
    update = {
        "root_file": str(tmp_path / "fleet" / "root.json"),
        "answer_s": 1.0,
        "trial": {"seconds": 0.3, "windows_min": 1},
    }
    return programs.agent(write_config(home, broker.url, [pipeline(SLOW)], update=update))


def runs(ears, version):
    status = next(reversed(ears.statuses()), None)
    return status is not None and status.pipelines[0].version == version


def bundle(tmp_path, version):
    path = tmp_path / f"{version}.bundle"
    path.write_bytes(make_bundle(version=version, padding=200_000))
    return path


def test_an_approved_model_is_pushed_and_rolled_back(world, fleet):
    programs, listen, home, broker, tmp_path = world
    ears = listen(broker)
    agent = start(programs, home, broker, tmp_path)
    wait_for(lambda: runs(ears, "1.0.0"), "the agent")
    for version in ("1.1.0", "1.2.0"):
        out = fleet("publish", str(bundle(tmp_path, version)), "--to", "pi-1", "--yes", "--json")
        assert json.loads(out.splitlines()[-1])["committed"] == 1
        wait_for(lambda version=version: runs(ears, version), version)
    assert ears.status().trust == "signed"
    fleet_out = fleet_without_keys(programs, broker, tmp_path, "rollback", "motion")
    assert json.loads(fleet_out.splitlines()[-1])["committed"] == 1
    wait_for(lambda: runs(ears, "1.1.0"), "the version before")
    assert agent.terminate() == 0


RULE = """
windows_min: 300
agree_bad_ppm: 800000
latency_percent_max: null
"""


def test_a_model_is_compared_under_a_signed_rule_across_a_restart_without_a_broker(world, fleet):
    programs, listen, home, broker, tmp_path = world
    ears = listen(broker, TOPICS.records("pi-1", "+"))
    agent = start(programs, home, broker, tmp_path)
    wait_for(lambda: runs(ears, "1.0.0"), "the agent")
    rule = tmp_path / "rule.yaml"
    rule.write_text(RULE)
    options = ("--to", "pi-1", "--yes", "--json", "--rule", str(rule))
    out = fleet("publish", str(bundle(tmp_path, "1.1.0")), *options)
    assert json.loads(out.splitlines()[-1])["comparing"] == 1
    wait_for(lambda: (compared(ears) or [0])[-1] >= 50, "windows that both have answered")
    assert ears.status().pipelines[0].version == "1.0.0"
    broker.kill()
    assert agent.terminate() == 0
    agent = start(programs, home, broker, tmp_path)
    broker.start()
    wait_for(lambda: runs(ears, "1.1.0"), "the verdict")
    counts = compared(ears)
    assert counts == sorted(counts)  # it went on where it was
    assert agent.terminate() == 0
    outcomes = [report["outcome"] for report in reports(ears)]
    assert (outcomes[0], outcomes[-1]) == ("look", "promote")
    assert reports(ears)[-1]["pipelines"]["main"]["compared"] >= 300


def compared(ears):
    """How many windows both have answered, in every status that says so."""
    lines = [line for status in ears.statuses() for line in status.pipelines]
    return [line.comparison.compared for line in lines if line.comparison]


def reports(ears):
    """The experiment records that were heard."""
    topics = [TOPICS.records("pi-1", "live"), TOPICS.records("pi-1", "backlog")]
    payloads = [payload for topic in topics for payload in ears.payloads(topic)]
    records = [record for payload in payloads for record in json.loads(payload)["records"]]
    found = {record["t"]: record for record in records if record["kind"] == "experiment"}
    return [found[t] for t in sorted(found)]


def fleet_without_keys(programs, broker, tmp_path, *command):
    """Going back needs the online key alone."""
    program = programs.fleet(
        command[0],
        broker,
        *command[1:],
        "--to",
        "pi-1",
        "--json",
        "--repo",
        str(tmp_path / "fleet"),
    )
    assert program.wait() == 0, program.log
    return program.out


def test_the_broker_and_the_online_keys_together_run_nothing_unapproved(world, fleet):
    programs, listen, home, broker, tmp_path = world
    ears = listen(broker)
    agent = start(programs, home, broker, tmp_path)
    wait_for(lambda: runs(ears, "1.0.0"), "the agent")
    evil = bundle(tmp_path, "6.6.6")
    hint = programs.publisher(broker, evil, "pi-1", "--wait", "1")  # unsigned: the broker alone
    assert hint.wait() == 0
    thief = Repository(tmp_path / "fleet")
    parcel = read_parcel(evil)
    choice = Choice(sha256=parcel.sha256, version="6.6.6")
    order = Order(revision=thief.next_revision(), model="motion", choice=choice)
    thief.order(device_path("pi-1", "motion"), order)
    trust = trust_files(thief.files())
    blobs = [(TOPICS.blob(d), data) for d, data in (parcel.blobs | trust.blobs).items()]
    ears.publish([*blobs, (TOPICS.trust_index(), encode(trust.index))], retain=True)
    wait_for(
        lambda: any("not approved" in update.reason for update in ears.status().updates),
        "the refusal",
    )
    assert runs(ears, "1.0.0")
    fleet("publish", str(bundle(tmp_path, "1.1.0")), "--to", "pi-1", "--yes", "--json")
    wait_for(lambda: runs(ears, "1.1.0"), "what is approved")
    assert agent.terminate() == 0
