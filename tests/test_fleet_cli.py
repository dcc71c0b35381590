"""The command line: help, exit codes, and what each command prints against a real broker."""

import json
import os
import pty
import select
import subprocess
import sys
import time

import click
import pytest
from bundles import make_bundle

from edge_agent.config import BrokerConfig
from edge_agent.contract.messages import PipelineStatus, Status, UpdateReport, encode
from edge_agent.contract.release import Choice
from edge_agent.contract.topics import Topics
from edge_agent.fleet.__main__ import cli
from edge_agent.fleet.publishing import EXIT_REFUSED
from edge_agent.fleet.records import Row
from edge_agent.fleet.rollout.database import open_database
from edge_agent.fleet.rollout.devices import Member
from edge_agent.fleet.rollout.plan import Part, Plan
from edge_agent.fleet.rollout.plan import State as RolloutState
from edge_agent.fleet.rollout.state import Rollouts
from edge_agent.fleet.session import open_session
from edge_agent.fleet.sinks import open_sink
from edge_agent.fleet.verdicts import Verdict

pytest_plugins = ("brokers",)

TOPICS = Topics("edge")
NOWHERE = "mqtt://127.0.0.1:1"


def edge_fleet(*arguments, env=None, prelude=""):
    """Run the command; ``prelude`` is Python to run before it."""
    program = f"{prelude}\nfrom edge_agent.fleet.__main__ import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
        env={**os.environ, **(env or {})},
    )


def retain(broker, topic, payload):
    with open_session(BrokerConfig(url=broker.url)) as session:
        session.connect(20.0)
        session.publish([(topic, payload)], retain=True)


def status(state="committed", *, device="pi-1", **fields):
    report = UpdateReport(
        t=1.0, model="motion", version="1", sha256="0" * 64, revision=2**50, state=state
    )
    return Status(
        device=device,
        boot="b1",
        host="h",
        agent="0.1.0",
        online=True,
        pipelines=(PipelineStatus(name="p", model="motion", version="1.0.0", state="running"),),
        updates=(report,),
        **fields,
    )


@pytest.mark.parametrize("command", cli.commands.values(), ids=lambda command: command.name)
def test_every_command_shows_an_example_and_explains_every_option(command):
    context = click.Context(command, info_name=f"edge-fleet {command.name}")
    assert f"Example: edge-fleet {command.name} " in command.get_help(context)
    for option in command.params:
        assert isinstance(option, click.Argument) or option.help, option.name


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("status", "--broker", NOWHERE, "--timeout", "0.2"), 7, "refuses connections"),
        (("status", "--broker", "http://x"), 2, "mqtt://HOST"),
        (("status", "--broker", NOWHERE, "--prefix", "a/#"), 2, "prefix"),
        (("status", "--device", "a b"), 2, "--device"),
        (("publish", __file__, "--to", "pi-1", "--unsigned"), 3, "not a bundle"),
        (("publish", __file__, "--to", "pi-1"), 2, "EDGE_FLEET_REPO"),
        (("publish", __file__, "--to", "all", "--unsigned"), 2, "needs signed orders"),
        (("publish", __file__, "--to", "a", "--start-within", "soon"), 2, "30m, 2h or 1d"),
        (("rollout", __file__), 2, "EDGE_FLEET_REPO"),
        (("rollout", __file__, "--rings", "1%,much"), 2, "'much' is no share"),
        (("rollout", __file__, "--rings", "group:a b,100%"), 2, "group 'a b'"),
        (("rollout", __file__, "--abort-over", "101%"), 2, "no share"),
        (("rollout", __file__, "--window", "long"), 2, "no duration"),
        (("rollouts", "status", "--repo", "/none"), 2, "edge-fleet init"),
        (("rollouts", "pause"), 2, "EDGE_FLEET_REPO"),
        (("rollouts", "status", "--state", "postgresql://127.0.0.1:1/x"), 6, "PostgreSQL: "),
        (("refresh", "--repo", "/none"), 2, "edge-fleet init"),
        (("publish", __file__, "--to", "pi 1"), 2, "device 'pi 1'"),
        (("publish", __file__), 2, "--to"),
        (("collect", "--to", "/none/x.db"), 6, "create it first"),
        (("collect", "--to", "/none/x.db", "--summary"), 2, "does not exist"),
        (("collect", "--to", "x.db", "--for", "1", "--until-idle", "1"), 2, "give one of them"),
        (("collect", "--to", "x.db", "--share", "a/b"), 2, "--share"),
    ],
)
def test_mistakes_are_one_sentence_and_an_exit_code(arguments, code, part):
    done = edge_fleet(*arguments)
    assert done.returncode == code
    assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_passwords_are_never_printed(tmp_path):
    file = tmp_path / "password"
    file.write_text("hunter2-file\n")
    for options, env in ((("--password-file", file), {}), ((), {"EDGE_FLEET_PASSWORD": "hunter2"})):
        done = edge_fleet(
            *("status", "--broker", NOWHERE, "--timeout", "0.2", "--username", "me", *options),
            env=env,
        )
        assert "hunter2" not in done.stdout + done.stderr


def test_the_broker_may_come_from_the_environment(mosquitto_broker):
    done = edge_fleet("status", env={"EDGE_FLEET_BROKER": mosquitto_broker.url})
    assert (done.returncode, done.stderr) == (0, "")
    assert "no device has a status" in done.stdout


@pytest.mark.parametrize("prelude", ["", "import sys; sys.modules['rich'] = None"])
def test_status_shows_devices_with_and_without_rich(mosquitto_broker, prelude):
    retain(mosquitto_broker, TOPICS.status("pi-1"), encode(status(conflicts=("b2 on copy",))))
    done = edge_fleet("status", "--wait", "1", "--broker", mosquitto_broker.url, prelude=prelude)
    assert "pi-1" in done.stdout
    assert "motion 1.0.0" in done.stdout
    assert "b2 on copy" in done.stdout
    read = edge_fleet("status", "--broker", mosquitto_broker.url, "--json", prelude=prelude)
    assert [device["device"] for device in json.loads(read.stdout)] == ["pi-1"]


def test_the_first_status_after_a_restart_of_nats_is_there(nats_broker):
    retain(nats_broker, TOPICS.status("pi-1"), encode(status()))
    nats_broker.restart()
    done = edge_fleet("status", "--broker", nats_broker.url, "--device", "pi-1", "--json")
    assert [device["device"] for device in json.loads(done.stdout)] == ["pi-1"]


def test_watch_gives_a_json_object_a_line(mosquitto_broker):
    retain(mosquitto_broker, TOPICS.status("pi-1"), encode(status()))
    done = edge_fleet("watch", "--broker", mosquitto_broker.url, "--json", "--for", "1")
    assert json.loads(done.stdout.splitlines()[0])["status"]["device"] == "pi-1"


def on_a_terminal(*arguments, until):
    """Run the command with a terminal for its output; what it drew."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_agent.fleet", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "160"},
    )
    os.close(follower)
    drawn = b""
    deadline = time.monotonic() + 30
    try:
        while until not in drawn and time.monotonic() < deadline:
            if select.select([leader], [], [], 0.2)[0]:
                drawn += os.read(leader, 65536)
    except OSError:
        pass  # the command has ended and closed its side
    finally:
        process.terminate()
        process.wait(10)
        os.close(leader)
    return drawn.decode(errors="replace"), process.returncode


def test_watch_draws_a_live_table_on_a_terminal_and_ends_in_order(mosquitto_broker):
    retain(mosquitto_broker, TOPICS.status("pi-1"), encode(status()))
    drawn, code = on_a_terminal("watch", "--broker", mosquitto_broker.url, until="│ pi-1".encode())
    assert "motion 1.0.0" in drawn
    assert code == 0


def test_rollouts_watch_draws_a_live_table_on_a_terminal(tmp_path):
    where = tmp_path / "rollouts.db"
    rollouts = Rollouts(open_database(str(where)))
    plan = Plan(
        model="motion",
        to="all",
        choice=Choice(sha256="b" * 64, version="1.1.0"),
        base=Choice(sha256="a" * 64, version="1.0.0"),
        revision=7,
        salt="s",
        rings=(Part(group="canary"), Part(share_ppm=1_000_000)),
        abort_over_ppm=50_000,
        window_s=3600.0,
    )
    begun = rollouts.begin(plan, time.time())
    state = RolloutState(ring=1, out_t=time.time())
    rollouts.save(begun, state, time.time(), "ring 1 is out")
    rollouts.keep(begun.name, [Member(1, Verdict(device="pi-1", state="committed"))])
    rollouts.close()
    drawn, code = on_a_terminal("rollouts", "watch", "--state", str(where), until=b"group:canary")
    assert "ring 1 of 2" in drawn
    assert "of its window left" in drawn
    assert code == 0
    read = edge_fleet("rollouts", "status", "--state", where, "--json")
    assert json.loads(read.stdout)[0]["counts"][0]["committed"] == 1
    shown = edge_fleet("rollouts", "status", begun.name, "--state", where)
    assert "ring 1 is out" in shown.stdout
    unknown = edge_fleet("rollouts", "resume", "motion-9", "--state", where)
    assert (unknown.returncode, "no rollout motion-9" in unknown.stderr) == (2, True)


def test_publish_draws_its_progress_on_a_terminal(mosquitto_broker, tmp_path):
    path = tmp_path / "m.bundle"
    path.write_bytes(make_bundle(padding=100_000))
    drawn, _ = on_a_terminal(
        *("publish", str(path), "--to", "pi-1", "--unsigned", "--wait", "0"),
        *("--broker", mosquitto_broker.url),
        until=b"published",
    )
    assert "blobs, 100 %" in drawn


def test_a_refusal_has_an_exit_code_of_its_own(mosquitto_broker, tmp_path):
    path = tmp_path / "m.bundle"
    path.write_bytes(make_bundle(name="sound"))
    retain(mosquitto_broker, TOPICS.status("pi-1"), encode(status()))
    done = edge_fleet(
        *("publish", path, "--to", "pi-1", "--unsigned", "--wait", "20", "--json"),
        *("--broker", mosquitto_broker.url),
    )
    assert done.returncode == EXIT_REFUSED
    assert json.loads(done.stdout)["devices"][0]["state"] == "refused"
    assert "no pipeline for model 'sound'" in done.stderr


def test_an_unanswered_publish_says_so_and_succeeds(mosquitto_broker, tmp_path):
    path = tmp_path / "m.bundle"
    path.write_bytes(make_bundle())
    done = edge_fleet(
        *("publish", path, "--to", "pi-1", "--unsigned", "--wait", "0.5"),
        *("--broker", mosquitto_broker.url),
    )
    assert done.returncode == 0
    assert "1 not yet answered" in done.stdout


def test_a_summary_needs_no_broker(tmp_path):
    path = tmp_path / "records.jsonl"
    body = b'{"seq":%d,"kind":"decision","t":1.0}'
    rows = [
        Row(device="pi-1", boot="b1", seq=seq, kind="decision", t=1.0, late=False, body=body % seq)
        for seq in (1, 3)
    ]
    sink = open_sink(str(path))
    sink.store(rows, received_t=1.0)
    sink.close()
    done = edge_fleet("collect", "--to", path, "--summary", "--broker", NOWHERE)
    found = json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))
    assert (found["received"], found["missing"]) == (2, 1)


def test_a_collector_without_a_broker_keeps_trying_says_so_and_ends_in_order(tmp_path):
    options = ("--broker", NOWHERE, "--to", str(tmp_path / "records.db"))
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_agent.fleet", "collect", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert "not connected" in process.stderr.readline()
        process.terminate()
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait(10)
    assert process.returncode == 0
    assert out.splitlines()[-1].startswith("RESULT {")
