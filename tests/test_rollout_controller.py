"""The controller over a simulated broker, killed at every moment at which it touches the disk."""

import shutil
import threading
from contextlib import contextmanager
from itertools import count

import msgspec
import pytest
from fleets import Fleet

from edge_agent.config import BrokerConfig
from edge_agent.contract.messages import PipelineStatus, Status, UpdateReport, decode, encode
from edge_agent.contract.release import group_path
from edge_agent.contract.requests import TrustIndex
from edge_agent.contract.topics import Topics
from edge_agent.fleet.parcel import Target, trust_files
from edge_agent.fleet.rollout.begin import make_plan, parse_rings
from edge_agent.fleet.rollout.controller import Controller
from edge_agent.fleet.rollout.database import open_database
from edge_agent.fleet.rollout.orders import orders_out
from edge_agent.fleet.rollout.plan import pause
from edge_agent.fleet.rollout.state import Rollouts
from edge_agent.fleet.session import Session, open_session
from edge_agent.fleet.trust.repository import Repository
from edge_agent.testing.broker import SimulatedBroker

pytest_plugins = ("brokers",)

TOPICS = Topics("edge")
PATH = group_path("all", "motion")
WINDOW_S = 60.0
LEASE_S = 0.5
NAMES = [f"pi-{number}" for number in range(6)]
GOOD = [
    "started",
    "ring 1 of 2 is opened",
    "ring 1 is out",
    "ring 2 of 2 is opened",
    "ring 2 is out",
    "finished",
]


class KilledError(BaseException):
    """As ``kill -9`` would: nothing of ours may catch it."""


class Mortal:
    """A database that kills its user before or after the transaction with this number."""

    def __init__(self, database, at):
        self._database, self._left = database, at or 10**9

    def prepare(self, statements):
        self._database.prepare(statements)

    @contextmanager
    def transaction(self):
        self._count()
        with self._database.transaction() as work:
            yield work
        self._count()

    def close(self):
        self._database.close()

    def _count(self):
        self._left -= 1
        if self._left <= 0:
            raise KilledError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A repository with one approved bundle more than is ordered, and the plan to roll it out."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    old, new = (fleet.approve(fleet.release(version)) for version in ("1.0.0", "1.1.0"))
    fleet.order(old, PATH)
    plan = make_plan(
        fleet.repository,
        new.sha256,
        Target.parse("all"),
        statuses=[status(name) for name in NAMES],
        rings=parse_rings("40%,100%"),
        base=None,
        abort_over_ppm=50_000,
        failures_min=1,
        enough_ppm=900_000,
        window_s=WINDOW_S,
        start_within_s=0,
    )
    return fleet.folder, plan


@pytest.fixture
def world(made, tmp_path):
    """Makes worlds, each with a rollout that has just begun."""
    numbers = count(1)

    def make(*, bad=False):
        folder = tmp_path / str(next(numbers))
        shutil.copytree(made[0], folder)
        return World(folder, made[1], "refused" if bad else "committed")

    return make


class World:
    """A repository, a broker, and devices whose answer is there as soon as they are asked."""

    def __init__(self, folder, plan, answer):
        self.folder, self.plan, self.broker = folder, plan, SimulatedBroker()
        self.file = str(folder / "rollouts.db")
        self.now = 1_700_000_000.0
        self.name = self.read(lambda rollouts: rollouts.begin(plan, self.now)).name
        for name in NAMES:
            self.say(name, answer)

    def say(self, name, state):
        said = encode(status(name, state, self.plan.revision))
        self.broker.publish(TOPICS.status(name), said, retain=True)

    def look(self, kill_at=0):
        """A new controller looks once; whether it lived."""
        database = open_database(self.file)
        try:
            with Session(self.broker.link(f"controller-{self.now}")) as session:
                Controller(
                    session,
                    TOPICS,
                    self.folder,
                    Rollouts(Mortal(database, kill_at)),
                    connect_s=5.0,
                    tell=lambda _: None,
                    show=lambda *_: None,
                    answer_s=0.04,
                    lease_s=LEASE_S,
                    wall=self.wall,
                ).run(threading.Event(), once=True)
        except KilledError:
            return False
        finally:
            database.close()
            self.now += WINDOW_S  # longer than any lease
        return True

    def wall(self):
        """Runs so fast that the lease is renewed, on disk, at every step of publishing."""
        self.now += 0.6 * LEASE_S
        return self.now

    @property
    def state(self):
        return self.read(lambda rollouts: rollouts.load(self.name).state)

    @property
    def notes(self):
        return self.read(lambda rollouts: [step.note for step in rollouts.history(self.name)])

    def read(self, what):
        rollouts = Rollouts(open_database(self.file))
        try:
            return what(rollouts)
        finally:
            rollouts.close()

    def to_the_end(self):
        for _ in range(10):
            assert self.look()
            if self.state.over:
                return
        raise AssertionError(self.notes)

    @property
    def order(self):
        return Repository(self.folder).orders()[PATH]

    @property
    def is_out(self):
        """Whether the broker has exactly what is signed."""
        payload = self.broker.retained.get(TOPICS.trust_index())
        files = trust_files(Repository(self.folder).files())
        blobs = {d: self.broker.retained.get(TOPICS.blob(d)) for d in files.blobs}
        return payload and decode(payload, TrustIndex) == files.index and blobs == files.blobs


def status(device, state=None, revision=0):
    report = UpdateReport(
        t=1.0,
        model="motion",
        version="1.1.0",
        sha256="b" * 64,
        revision=revision,
        state=state or "offered",
    )
    return Status(
        device=device,
        boot="b",
        host="h",
        agent="1",
        online=True,
        t=1.0,
        pipelines=(PipelineStatus(name="p", model="motion", state="running"),),
        updates=(report,) if state else (),
    )


def test_a_good_rollout_is_three_looks(world):
    there = world()
    seen = []
    while not there.state.over:
        assert there.look()
        seen.append((there.state.ring, there.order.ring))
    first = orders_out(there.plan, 1)[PATH].ring
    assert seen == [(1, first), (2, None), (2, None)]
    assert there.notes == GOOD
    assert there.order == orders_out(there.plan, 2)[PATH]
    assert there.is_out


@pytest.mark.parametrize("looks", [0, 1, 2])
def test_killed_at_any_moment_it_goes_on_and_does_everything_once(world, looks):
    for kill_at in range(1, 99):
        there = world()
        for _ in range(looks):
            assert there.look()
        if there.look(kill_at):
            break  # it has lived: every moment was tried
        there.to_the_end()
        assert there.notes == GOOD
        assert there.order == orders_out(there.plan, 2)[PATH]
        assert there.is_out
    assert kill_at > 8


def test_killed_on_the_way_back_it_goes_all_the_way(world):
    for kill_at in range(1, 99):
        there = world(bad=True)
        assert there.look()
        assert (there.state.phase, there.state.ring) == ("running", 1)
        if there.look(kill_at):
            break
        there.to_the_end()
        assert (there.state.phase, there.order.choice) == ("returned", there.plan.base)
        assert there.order.ring is None
        assert there.order.revision > there.plan.revision
        assert there.is_out
    assert kill_at > 8


def test_a_look_while_somebody_else_leads_changes_nothing(world):
    there = world()
    before = there.order
    there.read(lambda rollouts: rollouts.lease(there.name, "other", there.now, 9 * WINDOW_S))
    assert there.look()
    assert (there.notes, there.order) == (["started"], before)


def test_a_pause_between_two_looks_orders_nothing(world):
    there = world()
    assert there.look()
    there.read(lambda rollouts: rollouts.change(there.name, pause, there.now, "paused"))
    before = there.order
    for _ in range(3):
        assert there.look()
    assert (there.state.phase, there.state.ring, there.order) == ("paused", 1, before)


def test_what_was_ordered_by_somebody_else_stays(world):
    there = world(bad=True)
    assert there.look()
    theirs = msgspec.structs.replace(there.order, revision=there.plan.revision + 5, ring=None)
    Repository(there.folder).order(PATH, theirs)
    assert there.look()
    assert (there.state.phase, there.order) == ("superseded", theirs)
    assert there.look()
    assert there.order == theirs


def test_a_fleet_larger_than_the_brokers_answer_is_heard_as_a_whole(world, mosquitto_broker):
    """mosquitto drops all but a thousand of the retained statuses; devices say them again."""
    there, names = world(), [f"many-{number}" for number in range(1500)]
    said = [(TOPICS.status(name), encode(status(name))) for name in names]
    over = threading.Event()

    def devices():
        with open_session(BrokerConfig(url=mosquitto_broker.url)) as session:
            session.connect(60.0)
            while not over.is_set():
                session.publish(said, retain=True)
                begun.set()
                over.wait(5.0)

    begun = threading.Event()
    thread = threading.Thread(target=devices)
    thread.start()
    try:
        assert begun.wait(60.0)
        with open_session(BrokerConfig(url=mosquitto_broker.url)) as session:
            Controller(
                session,
                TOPICS,
                there.folder,
                Rollouts(open_database(there.file)),
                connect_s=60.0,
                tell=lambda _: None,
                show=lambda *_: None,
                period_s=12.0,
            ).run(threading.Event(), once=True)
    finally:
        over.set()
        thread.join(60.0)
    kept = there.read(lambda rollouts: rollouts.members(there.name))
    assert {member.verdict.device for member in kept} == set(names)
