"""Readings and fired decisions over an encrypted broker that asks for a password."""

import json
import secrets

import brokers
import pytest

from .ears import TOPICS
from .processes import finish, pipeline, wait_for, write_config
from .records import count_rows, decisions, read_rows

SENSOR, ALARM = "sensors/room", "alarms/room"
PASSWORD = f"correct-horse-{secrets.token_hex(8)}"
CALM, BUSY = [[0.0, 0.0]] * 10, [[1.0, 1.0]] * 10  # the mean of a window is the label's number


@pytest.fixture
def guarded(tmp_path):
    """A mosquitto with TLS that knows one user, and says who subscribes to what."""
    with brokers.mosquitto(
        tmp_path, tls=True, users={"pi": PASSWORD}, extra="log_type all"
    ) as running:
        yield running


@pytest.fixture
def login(home, guarded):
    """How to get in, for a configuration file."""
    (home / "password").write_text(f"{PASSWORD}\n")
    return {
        "username": "pi",
        "password_file": str(home / "password"),
        "ca_file": str(guarded.certificates.ca),
    }


def test_actions_fire_and_the_password_is_nowhere_to_be_read(
    programs, listen, home, guarded, login
):
    path, fired = home / "records.db", home / "fired.jsonl"
    ears = listen(guarded, ALARM, **login)
    options = [word for key in login for word in (f"--{key.replace('_', '-')}", login[key])]
    collector = programs.collector(guarded, path, *options)
    actions = [
        {"type": "log"},
        {"type": "mqtt", "topic": ALARM},
        {"type": "exec", "command": ["sh", "-c", f"cat >> {fired}; echo {{state}} >> {fired}"]},
    ]
    source = {"type": "mqtt", "topic": SENSOR}
    config = write_config(
        home, guarded.url, [pipeline(source, actions=actions)], broker={**login, "protocol": "5"}
    )
    agent = programs.agent(config)
    wait_for(lambda: f"\t{SENSOR} " in guarded.log_file.read_text(), "the source's subscription")
    for block in (CALM, BUSY, CALM, BUSY):
        ears.publish([(SENSOR, json.dumps(block[:5]).encode())])  # many in a message
        ears.publish((SENSOR, json.dumps(row).encode()) for row in block[5:])  # one in each
    wait_for(lambda: count_rows(path) >= 38, "every decision")
    wait_for(lambda: len(ears.payloads(ALARM)) == 4, "a message for each change of state")
    wait_for(lambda: fired.exists() and fired.read_text().count("\n") == 4, "a run for each change")
    assert agent.terminate() == 0
    wait_for(lambda: ears.status().reason == "stopped", "the last status")
    assert finish(collector)["missing"] == 0
    stored = [body for body in decisions(read_rows(path)) if body.get("fired")]
    states = [body["state"] for body in sorted(stored, key=lambda body: body["reading"])]
    assert states == ["rest", "move", "rest", "move"]
    assert [json.loads(text)["state"] for text in ears.payloads(ALARM)] == states
    lines = fired.read_text().splitlines()
    assert [line.rpartition("}")[2] for line in lines] == states
    assert [json.loads(line.rpartition("}")[0] + "}")["state"] for line in lines] == states
    checks = [programs.check_config(config), programs.check_config(config, "--json")]
    assert [check.wait() for check in checks] == [0, 0]
    said = [program.out + program.log for program in (agent, collector, *checks)]
    said += [text.decode() for text in ears.payloads(TOPICS.status("pi-1"))]
    assert not [text for text in said if PASSWORD in text]


def test_a_wrong_password_is_said_without_saying_it_and_costs_no_decision(
    programs, home, guarded, login
):
    wrong = f"battery-{secrets.token_hex(8)}"
    source = {"type": "jsonl"}
    login = {key: login[key] for key in ("username", "ca_file")} | {"password_env": "PI_PASSWORD"}
    config = write_config(home, guarded.url, [pipeline(source)], broker=login)
    agent = programs.agent(config, env={"PI_PASSWORD": wrong})
    agent.feed(CALM)
    wait_for(lambda: "not connected" in agent.log, "the refusal")
    agent.feed(BUSY)
    assert agent.terminate() == 0
    assert "not authori" in agent.log.lower()
    assert wrong not in agent.log + agent.out
    agent = programs.agent(config, env={"PI_PASSWORD": PASSWORD})
    path = home / "records.db"
    env = {"EDGE_FLEET_PASSWORD": PASSWORD}
    collector = programs.collector(
        guarded, path, "--username", "pi", "--ca-file", login["ca_file"], env=env
    )
    agent.end_input()
    assert agent.wait() == 0
    assert finish(collector)["missing"] == 0
    assert [body["label"] for body in decisions(read_rows(path))][-1] == "move"
