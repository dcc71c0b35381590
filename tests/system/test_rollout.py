"""Rollouts by the real commands over a real broker: rings, halts, pauses, and kills in between."""

import json
import os
import signal
from contextlib import contextmanager

import pytest
from bundles import make_bundle
from crowd import Crowd

from edge_agent.contract.release import group_path
from edge_agent.fleet.rollout.database import open_database
from edge_agent.fleet.rollout.state import Rollouts
from edge_agent.fleet.trust.repository import Repository

from .processes import pipeline, wait_for, write_config

pytest_plugins = ("postgres",)

NAMES = [f"pi-{number}" for number in range(1, 11)]
LONG_S = 90.0
pytestmark = pytest.mark.timeout(300)  # programs that wait for windows and leases


class Operator:
    """Types commands with the repository of this test."""

    def __init__(self, programs, broker, folder):
        self.programs, self.broker, self.folder = programs, broker, folder
        self.repo = folder / "fleet"
        made = programs.start_fleet(
            "init", str(self.repo), "--keys", str(folder / "keys"), "--no-passphrase"
        )
        assert made.wait() == 0, made.log

    def bundle(self, version, **fields):
        path = self.folder / f"{version}.bundle"
        path.write_bytes(make_bundle(version=version, **fields))
        return str(path)

    def approve(self, bundle):
        options = ("--repo", str(self.repo), "--keys", str(self.folder / "keys"))
        done = self.programs.start_fleet("approve", bundle, "--yes", *options)
        assert done.wait() == 0, done.log
        return bundle

    def start(self, *arguments):
        return self.programs.fleet(arguments[0], self.broker, *arguments[1:], *self._repo)

    def offline(self, *arguments, code=0):
        """A command that needs no broker; what it printed."""
        done = self.programs.start_fleet(*arguments, *self._repo)
        assert done.wait() == code, done.log
        return done.out

    def rollout(self, bundle, *options):
        return self.start("rollout", bundle, "--window", "1s", *options)

    def status(self, *options):
        return json.loads(self.offline("rollouts", "status", "--json", *options))[-1]

    @property
    def newest(self):
        """The newest rollout, as it is on disk now."""
        kept = Rollouts(open_database(str(self.repo / "rollouts.db")))
        try:
            return kept.all()[-1]
        finally:
            kept.close()

    @property
    def _repo(self):
        return ("--repo", str(self.repo))


@contextmanager
def held(broker):
    """A broker that answers nothing for a while."""
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)


@pytest.fixture
def operator(programs, broker, tmp_path):
    """Version 1.0.0 is approved, as what devices go back to."""
    found = Operator(programs, broker, tmp_path)
    found.approve(found.bundle("1.0.0"))
    return found


def crowd_of(broker, bad=(), names=NAMES, groups=()):
    return Crowd(broker, dict.fromkeys(names, groups), bad)


def share(operator, crowd, ring=1):
    """The devices that the rings up to this one hold."""
    plan = operator.newest.plan
    return [d.name for d in crowd.devices if plan.ring_of(d.name, d.groups) <= ring]


@pytest.mark.parametrize("where", ["sqlite", "postgres"])
def test_a_good_bundle_reaches_everybody_ring_by_ring(operator, broker, where, request):
    state = ()
    if where == "postgres":
        state = ("--state", request.getfixturevalue("postgres").url)
    bundle = operator.approve(operator.bundle("1.1.0"))
    with crowd_of(broker) as crowd:
        program = operator.rollout(bundle, "--rings", "20%,60%,100%", "--json", *state)
        assert program.wait(LONG_S) == 0, program.log
        assert crowd.running("1.1.0") == NAMES
    report = json.loads(program.out.splitlines()[-1])
    assert (report["phase"], report["ring"], report["base"]) == ("finished", 3, "1.0.0")
    assert sum(counts["committed"] for counts in report["counts"]) == len(NAMES)
    assert report["counts"][0]["committed"] >= 1
    notes = [step["note"] for step in operator.status(*state)["history"]]
    rings = [f"ring {n} of 3 is opened" for n in (1, 2, 3)]
    assert [note for note in notes if note in rings] == rings
    assert "1 waiting" not in operator.offline("rollouts", "status", *state)


def test_a_bad_bundle_is_halted_and_taken_back_where_it_was(operator, broker):
    bundle = operator.approve(operator.bundle("6.6.6"))
    with crowd_of(broker, bad=["6.6.6"]) as crowd:
        program = operator.rollout(bundle, "--rings", "20%,100%")
        assert program.wait(LONG_S) == 8, program.log
        first = share(operator, crowd)
        assert crowd.touched() == first
        wait_for(
            lambda: all(d.report.state == "committed" for d in crowd.devices if d.name in first),
            "what was before to be ordered again",
        )
        assert crowd.running("1.0.0") == NAMES
    report = operator.status()
    assert (report["phase"], report["ring"]) == ("returned", 1)
    assert "devices of ring 1 failed" in report["reason"]
    assert "ring 1 failed" in operator.offline("rollouts", "status", report["name"])


def test_an_order_for_everybody_comes_back_for_everybody(operator, broker):
    operator.start("publish", operator.bundle("1.0.0"), "--to", "all", "--wait", "0").wait(LONG_S)
    bundle = operator.approve(operator.bundle("1.1.0"))
    with crowd_of(broker) as crowd:
        assert operator.rollout(bundle, "--rings", "20%,100%", "--detach").wait(LONG_S) == 0
        service = operator.start("rollouts", "run")
        wait_for(lambda: crowd.running("1.1.0"), "the first ring")
        aborted = operator.start("rollouts", "abort")
        assert aborted.wait(LONG_S) == 0, aborted.log
        wait_for(lambda: crowd.running("1.0.0") == NAMES, "everybody on what was before")
        assert operator.status()["reason"] == "aborted by hand"
        late = crowd_of(broker, names=["pi-late"])
        late.devices[0].runs = "0.9.0"  # it was away all the time
        with late:
            wait_for(lambda: late.running("1.0.0"), "an old order to reach who has missed it")
        assert service.terminate() == 0, service.log


def test_a_paused_rollout_orders_nothing_until_it_is_resumed(operator, broker):
    bundle = operator.approve(operator.bundle("1.1.0"))
    with crowd_of(broker) as crowd:
        assert operator.rollout(bundle, "--rings", "20%,100%", "--detach").wait(LONG_S) == 0
        assert operator.offline("rollouts", "pause").endswith("paused\n")
        services = [operator.start("rollouts", "run") for _ in range(2)]
        assert operator.start("rollouts", "run", "--once").wait(LONG_S) == 0
        assert operator.status()["ring"] == 0
        assert crowd.touched() == []
        assert operator.offline("rollouts", "resume").endswith("running\n")
        wait_for(lambda: operator.newest.state.phase == "finished", "the end", LONG_S)
        assert crowd.running("1.1.0") == NAMES
        assert [service.terminate() for service in services] == [0, 0]
    notes = [step["note"] for step in operator.status()["history"]]
    assert notes == [
        "started",
        "paused",
        "resumed",
        "ring 1 of 2 is opened",
        "ring 1 is out",
        "ring 2 of 2 is opened",
        "ring 2 is out",
        "finished",
    ]  # two services: each step once


def test_the_computer_may_be_off_between_two_steps(operator, broker):
    bundle = operator.approve(operator.bundle("1.1.0"))
    with crowd_of(broker) as crowd:
        assert operator.rollout(bundle, "--rings", "20%,100%", "--detach").wait(LONG_S) == 0

        def look():
            assert operator.start("rollouts", "run", "--once").wait(LONG_S) == 0
            return operator.newest.state.phase == "finished"

        wait_for(look, "the end", LONG_S)
        assert crowd.running("1.1.0") == NAMES
    assert operator.offline("rollouts", "watch", "motion-1.1.0").startswith(
        "motion-1.1.0: finished"
    )


def test_a_controller_killed_before_its_order_is_out_goes_on(operator, broker):
    """The broker is stopped, so that the state is written and the order cannot be published."""
    bundle = operator.approve(operator.bundle("1.1.0"))
    with crowd_of(broker) as crowd:
        assert operator.rollout(bundle, "--rings", "20%,100%", "--detach").wait(LONG_S) == 0
        operator.offline("rollouts", "pause")
        first = operator.start("rollouts", "run")
        wait_for(lambda: operator.newest.owner, "somebody to lead it")
        wait_for(lambda: "motion-1.1.0: paused" in first.out, "it to have heard the devices")
        with held(broker):
            operator.offline("rollouts", "resume")
            wait_for(lambda: operator.newest.state.ring == 1, "the step on disk")
            first.kill()
        assert operator.newest.state.out_t is None
        assert crowd.touched() == []
        second = operator.start("rollouts", "run")
        wait_for(lambda: operator.newest.state.phase == "finished", "the end", LONG_S)
        assert crowd.running("1.1.0") == NAMES
        assert second.terminate() == 0, second.log
    notes = [step["note"] for step in operator.status()["history"]]
    assert notes.count("ring 1 of 2 is opened") == notes.count("ring 1 is out") == 1


def test_a_broker_that_forgot_everything_is_given_it_again(operator, broker):
    bundle = operator.approve(operator.bundle("1.1.0"))
    with crowd_of(broker) as crowd:
        program = operator.rollout(bundle, "--rings", "20%,100%", "--window", "5m")
        wait_for(lambda: crowd.running("1.1.0"), "the first ring")
        broker.kill()
        broker.start()
        plan = operator.newest.plan
        late = next(n for n in (f"late-{n}" for n in range(99)) if plan.ring_of(n, ()) == 1)
        with crowd_of(broker, names=[late]) as others:
            wait_for(lambda: others.running("1.1.0"), "a device that came after", LONG_S)
        assert program.terminate() == 9, program.log
        assert len(crowd.running("1.1.0")) == len(share(operator, crowd))


def test_somebody_elses_newer_order_ends_a_rollout_where_it_is(operator, broker):
    bundle = operator.approve(operator.bundle("1.1.0"))
    with crowd_of(broker) as crowd:
        program = operator.rollout(bundle, "--rings", "20%,100%", "--window", "5m")
        wait_for(lambda: crowd.running("1.1.0"), "the first ring")
        other = operator.approve(operator.bundle("1.2.0"))
        options = ("--to", "all", "--wait", "0", "--start-within", "1m")
        out = operator.start("publish", other, *options)
        assert out.wait(LONG_S) == 0, out.log
        assert program.wait(LONG_S) == 8, program.log
        wait_for(lambda: crowd.running("1.2.0") == NAMES, "the newer order")
    assert operator.status()["phase"] == "superseded"
    order = Repository(operator.repo).orders()[group_path("all", "motion")]
    assert (order.choice.version, order.start_within_s) == ("1.2.0", 60)


def test_real_agents_take_it_in_rings_that_are_groups(operator, programs, broker, tmp_path, listen):
    """The canary refuses a bundle with wrong golden vectors; a right one reaches both."""
    ears = listen(broker)
    for device, groups in (("pi-1", ["canary"]), ("pi-2", [])):
        home = tmp_path / device
        home.mkdir()
        (home / "motion.bundle").write_bytes(make_bundle(version="1.0.0"))
        update = {
            "root_file": str(operator.repo / "root.json"),
            "answer_s": 1.0,
            "trial": {"seconds": 0.3, "windows_min": 1},
        }
        source = pipeline({"type": "simulated", "rate_hz": 50.0})
        fields = {"device": device, "groups": groups, "update": update}
        programs.agent(write_config(home, broker.url, [source], **fields))

    def versions():
        found = [next(reversed(ears.statuses(name)), None) for name in ("pi-1", "pi-2")]
        return [status and status.pipelines and status.pipelines[0].version for status in found]

    wait_for(lambda: versions() == ["1.0.0", "1.0.0"], "the agents")
    bad = operator.approve(operator.bundle("1.1.0", wrong_golden=True))
    program = operator.rollout(bad, "--rings", "group:canary,100%")
    assert program.wait(LONG_S) == 8, program.log
    report = operator.status()
    assert (report["ring"], report["counts"][0]["failed"]) == (1, 1)
    assert [u.state for u in ears.statuses("pi-2")[-1].updates] == []
    good = operator.approve(operator.bundle("1.2.0"))
    program = operator.rollout(
        good, "--rings", "group:canary,100%", "--window", "3s", "--start-within", "1s"
    )
    assert program.wait(LONG_S) == 0, program.log
    wait_for(lambda: versions() == ["1.2.0", "1.2.0"], "the good one on both")
