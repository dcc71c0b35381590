"""Rollouts on disk, the same in SQLite and in a real PostgreSQL."""

import threading

import msgspec
import pytest

from edge_agent.contract.errors import ConfigError, StorageError
from edge_agent.contract.release import Choice
from edge_agent.fleet.rollout.database import open_database
from edge_agent.fleet.rollout.devices import Member
from edge_agent.fleet.rollout.plan import Part, Plan, State, abort, pause, resume
from edge_agent.fleet.rollout.state import ConflictError, Rollouts
from edge_agent.fleet.verdicts import Verdict

pytest_plugins = ("postgres",)

TABLES = ("rollouts", "rollout_steps", "rollout_devices", "rollout_format")
PLAN = Plan(
    model="motion",
    to="all",
    choice=Choice(sha256="b" * 64, version="1.1.0"),
    base=Choice(sha256="a" * 64, version="1.0.0"),
    revision=7,
    salt="s",
    rings=(Part(group="canary"), Part(share_ppm=100_000), Part(share_ppm=1_000_000)),
    abort_over_ppm=50_000,
    window_s=60.0,
)


@pytest.fixture(params=["sqlite", "postgres"])
def where(request, tmp_path):
    if request.param == "sqlite":
        return str(tmp_path / "rollouts.db")
    url = request.getfixturevalue("postgres").url
    database = open_database(url)
    with database.transaction() as work:
        for table in TABLES:
            work.run(f"DROP TABLE IF EXISTS {table}")
    database.close()
    return url


@pytest.fixture
def rollouts(where):
    found = Rollouts(open_database(where))
    yield found
    found.close()


def plan(**fields):
    return msgspec.structs.replace(PLAN, **fields)


def test_a_rollout_and_its_steps_are_there_after_a_restart(where, rollouts):
    begun = rollouts.begin(PLAN, 10.0)
    state = State(ring=1)
    saved = rollouts.save(begun, state, 11.0, "ring 1 of 3 is opened")
    again = Rollouts(open_database(where))
    assert again.load("motion-1.1.0") == saved
    assert (saved.plan, saved.state, saved.begun_t) == (PLAN, state, 10.0)
    history = [(entry.t, entry.note, entry.state) for entry in again.history("motion-1.1.0")]
    assert history == [(10.0, "started", State()), (11.0, "ring 1 of 3 is opened", state)]
    again.close()


def test_who_has_not_read_the_newest_cannot_write(rollouts):
    read = rollouts.begin(PLAN, 1.0)
    rollouts.save(read, pause(read.state), 2.0, "paused")
    with pytest.raises(ConflictError, match="changed by somebody else"):
        rollouts.save(read, State(ring=1), 3.0, "ring 1")
    assert rollouts.load(read.name).state.phase == "paused"
    assert len(rollouts.history(read.name)) == 2


def test_a_change_is_made_on_top_of_whatever_is_there(where, rollouts):
    """Two writers at once: every one of their steps is in the history, one after the other."""
    name = rollouts.begin(PLAN, 1.0).name

    def toggle(state):
        return resume(state) if state.phase == "paused" else pause(state)

    def writer():
        mine = Rollouts(open_database(where))
        for _ in range(20):
            mine.change(name, toggle, 2.0, "toggled")
        mine.close()

    threads = [threading.Thread(target=writer) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    phases = [entry.state.phase for entry in rollouts.history(name)]
    assert phases == ["running", "paused"] * 20 + ["running"]


def test_a_rule_that_changes_nothing_leaves_no_step(rollouts):
    name = rollouts.begin(PLAN, 1.0).name
    rollouts.change(name, lambda state: state, 2.0, "nothing")
    assert len(rollouts.history(name)) == 1
    with pytest.raises(ConfigError, match="not paused"):
        rollouts.change(name, resume, 2.0, "resumed")


def test_one_controller_leads_until_its_lease_is_over(rollouts):
    name = rollouts.begin(PLAN, 1.0).name
    assert rollouts.lease(name, "first", 100.0, 20.0)
    assert not rollouts.lease(name, "second", 119.0, 20.0)
    assert rollouts.lease(name, "first", 119.0, 20.0)
    assert not rollouts.lease(name, "second", 138.0, 20.0)
    assert rollouts.lease(name, "second", 140.0, 20.0)  # the first one was killed
    assert not rollouts.lease(name, "first", 141.0, 20.0)
    rollouts.release("second")
    assert rollouts.lease(name, "first", 142.0, 20.0)


def test_what_devices_said_is_kept_and_replaced(rollouts):
    name = rollouts.begin(PLAN, 1.0).name
    other = rollouts.begin(plan(model="sound"), 1.0).name
    members = [Member(1, Verdict(device=f"pi-{n}", state="fetching")) for n in range(3)]
    rollouts.keep(name, members)
    rollouts.keep(other, members[:1])
    newer = Member(2, Verdict(device="pi-1", state="refused", reason="ünlösbar ?"))
    rollouts.keep(name, [newer])
    rollouts.keep(name, [])
    assert rollouts.members(name) == [members[0], newer, members[2]]
    assert rollouts.members(other) == members[:1]


def test_one_open_rollout_for_the_same_devices_of_a_model(rollouts):
    first = rollouts.begin(plan(to="line-1", rings=PLAN.rings[1:]), 1.0)
    rollouts.begin(plan(to="line-2", rings=PLAN.rings[1:]), 2.0)
    for to in ("line-1", "all"):
        with pytest.raises(ConfigError, match=r"motion-1\.1\.0 is not over"):
            rollouts.begin(plan(to=to, rings=PLAN.rings[1:]), 3.0)
    rollouts.begin(plan(model="sound", rings=PLAN.rings[1:]), 3.0)
    rollouts.change(first.name, lambda state: state.__class__(phase="returned"), 4.0, "over")
    again = rollouts.begin(plan(to="line-1", rings=PLAN.rings[1:]), 5.0)
    assert again.name == "motion-1.1.0-3"
    assert first.name not in {rollout.name for rollout in rollouts.open()}
    assert len(rollouts.all()) == 4


def test_a_plan_that_contradicts_itself_is_not_begun(rollouts):
    with pytest.raises(ConfigError, match="must rise"):
        rollouts.begin(plan(rings=(PLAN.rings[2], PLAN.rings[2])), 1.0)
    assert rollouts.all() == []


def test_an_unknown_name_is_said(rollouts):
    with pytest.raises(ConfigError, match="no rollout motion-2"):
        rollouts.change("motion-2", abort, 1.0, "aborted")


def test_a_newer_format_is_refused(where, rollouts):
    database = open_database(where)
    with database.transaction() as work:
        work.run("UPDATE rollout_format SET format = 9")
    with pytest.raises(StorageError, match="format 9"):
        Rollouts(database)
    database.close()


def test_many_may_open_a_new_database_at_once(where):
    faults = []

    def opens():
        try:
            Rollouts(open_database(where)).close()
        except StorageError as exc:
            faults.append(exc)

    threads = [threading.Thread(target=opens) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert faults == []


def test_half_a_transaction_is_none(where):
    database = open_database(where)
    Rollouts(database)

    def half():
        with database.transaction() as work:
            work.run("INSERT INTO rollout_devices VALUES ('a', 'b', 'c')")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    with database.transaction() as work:
        assert work.rows("SELECT * FROM rollout_devices") == []
    database.close()


def test_a_server_that_was_started_again_is_connected_anew(postgres):
    rollouts = Rollouts(open_database(postgres.url))
    postgres.stop()
    with pytest.raises(StorageError, match="PostgreSQL: "):
        rollouts.all()
    postgres.start()
    assert isinstance(rollouts.all(), list)
    rollouts.close()


def test_a_server_that_is_not_there_is_one_sentence_without_the_password():
    with pytest.raises(StorageError, match="check the server") as caught:
        open_database("postgresql://me:secret-word@127.0.0.1:1/fleet")
    assert "secret-word" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "rollouts.db"
    path.write_bytes(b"something else entirely, and long enough to have a header" * 20)
    with pytest.raises(StorageError, match=r"rollouts\.db"):
        Rollouts(open_database(str(path)))


def test_every_step_is_synced(tmp_path):
    database = open_database(str(tmp_path / "rollouts.db"))
    assert database._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    database.close()
