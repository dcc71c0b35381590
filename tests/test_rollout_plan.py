"""The planner: rules by hand, properties, and ten thousand devices behind an unruly network."""

import heapq
import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.errors import ConfigError
from edge_agent.contract.messages import PipelineStatus, Status, UpdateReport
from edge_agent.contract.release import Choice, Order, group_path
from edge_agent.fleet.rollout.devices import Devices
from edge_agent.fleet.rollout.orders import newer, orders_back, orders_out
from edge_agent.fleet.rollout.plan import (
    OVER,
    Counts,
    Open,
    Part,
    Plan,
    Return,
    State,
    abort,
    done,
    pause,
    resume,
    step,
)

NEW = Choice(sha256="b" * 64, version="1.1.0")
BASE = Choice(sha256="a" * 64, version="1.0.0")
OLDER = Choice(sha256="c" * 64, version="0.9.0")
T0 = 1_700_000_000.0
WINDOW_S = 1800.0
REVISION = 1000


def make_plan(rings=("1%", "10%", "100%"), **fields):
    values = {
        "model": "motion",
        "to": "all",
        "choice": NEW,
        "base": BASE,
        "revision": REVISION,
        "salt": "salt",
        "rings": tuple(part(ring) for ring in rings),
        "abort_over_ppm": 50_000,
        "window_s": WINDOW_S,
    }
    return Plan(**{**values, **fields})


def part(text):
    if text.endswith("%"):
        return Part(share_ppm=int(float(text[:-1]) * 10_000))
    return Part(group=text)


PLAN = make_plan()


def opened(ring=1, phase="running"):
    return State(phase=phase, ring=ring, out_t=T0)


def rings(*first):
    """Counts of three rings, those that are not given being empty."""
    return (*first, *[Counts()] * (3 - len(first)))


# --- one step at a time --------------------------------------------------------------------------


def test_the_first_ring_opens_at_once_and_its_window_begins_when_it_is_out():
    state, action = step(PLAN, State(), rings(), T0)
    assert (state.ring, state.out_t, action) == (1, None, Open(1))
    assert step(PLAN, state, rings(), T0 + 5000)[1] == Open(1)  # killed before it was out
    assert done(state, action, T0 + 7) == opened().__class__(ring=1, out_t=T0 + 7)


def test_a_ring_is_done_when_its_window_is_over_and_enough_have_answered():
    found = rings(Counts(committed=90, waiting=10, away=500))
    assert step(PLAN, opened(), found, T0 + WINDOW_S - 1) == (opened(), None)
    state, action = step(PLAN, opened(), found, T0 + WINDOW_S)
    assert (state.ring, state.out_t, action) == (2, None, Open(2))
    late = rings(Counts(committed=89, waiting=11))
    assert step(PLAN, opened(), late, T0 + 10 * WINDOW_S) == (opened(), None)


def test_after_the_last_ring_it_is_finished():
    found = (Counts(committed=100), Counts(committed=900), Counts(committed=9000, away=9))
    state, action = step(PLAN, opened(3), found, T0 + WINDOW_S)
    assert (state.phase, action) == ("finished", None)
    assert step(PLAN, state, found, T0 + 9 * WINDOW_S) == (state, None)


@pytest.mark.parametrize(
    ("ppm", "failed", "of", "halts"),
    [
        (50_000, 5, 100, False),  # 5 % are not over 5 %
        (50_000, 6, 100, True),
        (290_000, 29, 100, False),  # as a float 0.29 * 100 is below 29
        (290_000, 30, 100, True),
        (70_000, 7, 100, False),
        (0, 1, 1000, True),
        (0, 0, 1000, False),
        (1_000_000, 1000, 1000, False),
    ],
)
def test_the_threshold_is_exact(ppm, failed, of, halts):
    plan = make_plan(abort_over_ppm=ppm)
    found = rings(Counts(committed=of - failed, failed=failed))
    state, action = step(plan, opened(), found, T0 + WINDOW_S)
    assert (state.phase == "returning", action == Return()) == (halts, halts)
    if halts:
        assert f"{failed} of {of} devices of ring 1" in state.reason


def test_early_failures_are_measured_by_all_that_were_asked():
    early = rings(Counts(failed=5, committed=0, waiting=95))
    assert step(PLAN, opened(), early, T0 + 60) == (opened(), None)
    certain = rings(Counts(failed=6, committed=0, waiting=94))
    assert step(PLAN, opened(), certain, T0 + 60)[1] == Return()


def test_a_ring_of_one_that_fails_goes_back_unless_more_failures_are_asked_for():
    found = rings(Counts(failed=1))
    assert step(PLAN, opened(), found, T0 + 1)[1] == Return()
    tolerant = make_plan(failures_min=2)
    state, action = step(tolerant, opened(), found, T0 + 2 * WINDOW_S)
    assert (state, action) == (opened(), None)  # nobody has committed it: it does not go on


def test_a_failing_ring_does_not_hide_behind_a_large_good_one():
    found = rings(Counts(committed=1000), Counts(committed=60, failed=40))
    assert step(PLAN, opened(2), found, T0 + WINDOW_S)[1] == Return()


def test_late_failures_of_an_earlier_ring_count():
    found = rings(Counts(committed=90, failed=10), Counts(waiting=900))
    assert step(PLAN, opened(2), found, T0 + 1)[1] == Return()


def test_failures_of_a_ring_that_is_not_out_yet_do_not_open_it():
    state = State(ring=2)
    found = rings(Counts(committed=80, failed=20))
    assert step(PLAN, state, found, T0)[1] == Return()


def test_before_the_first_ring_is_out_nothing_can_have_failed():
    impossible = (Counts(failed=9), Counts(failed=9), Counts(failed=9))
    assert step(PLAN, State(), impossible, T0)[1] == Open(1)
    assert step(PLAN, State(ring=1), impossible, T0)[1] == Open(1)


def test_devices_that_are_offline_are_not_waited_for():
    found = rings(Counts(committed=1, away=99))
    assert step(PLAN, opened(), found, T0 + WINDOW_S)[1] == Open(2)


def test_a_ring_that_nobody_could_be_asked_in_is_passed_but_never_to_everybody():
    nobody = rings(Counts(away=3))
    assert step(PLAN, opened(), nobody, T0 + WINDOW_S)[1] == Open(2)
    nobody = rings(Counts(away=3), Counts(away=30))
    assert step(PLAN, opened(2), nobody, T0 + 99 * WINDOW_S) == (opened(2), None)
    one = rings(Counts(away=3), Counts(committed=1, away=29))
    assert step(PLAN, opened(2), one, T0 + 99 * WINDOW_S)[1] == Open(3)


def test_a_pause_orders_nothing_and_a_resumed_rollout_goes_on():
    bad = rings(Counts(failed=50))
    paused = pause(opened())
    assert step(PLAN, paused, bad, T0 + 9 * WINDOW_S) == (paused, None)
    assert step(PLAN, resume(paused), bad, T0)[1] == Return()
    with pytest.raises(ConfigError, match="is running, not paused"):
        resume(opened())


def test_an_abort_goes_back_also_from_a_pause_and_only_once():
    state = abort(pause(opened()))
    assert step(PLAN, state, rings(), T0) == (state, Return())
    over = done(state, Return(), T0)
    assert over.phase == "returned"
    for rule in (abort, pause, resume):
        with pytest.raises(ConfigError, match="returned"):
            rule(over)


def test_an_action_that_came_too_late_changes_nothing():
    state = abort(State(ring=2))
    assert done(state, Open(2), T0).phase == "returning"
    assert done(opened(), Return(), T0) == opened()


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"rings": ("1%", "10%")}, "last ring must be 100%"),
        ({"rings": ()}, "last ring must be 100%"),
        ({"rings": ("10%", "1%", "100%")}, "must rise"),
        ({"rings": ("10%", "10%", "100%")}, "must rise"),
        ({"rings": ("0%", "100%")}, "must rise"),
        ({"rings": ("canary", "100%"), "to": "line-1"}, "--to all"),
        ({"window_s": 60.0, "start_within_s": 60}, "longer than"),
        ({"base": NEW}, "ordered already"),
    ],
)
def test_plans_that_contradict_themselves(fields, fault):
    assert fault in make_plan(**fields).fault
    assert PLAN.fault is None


# --- orders --------------------------------------------------------------------------------------


def test_orders_hold_exactly_the_open_rings_and_keep_their_revision():
    path = group_path("all", "motion")
    names = [f"pi-{n}" for n in range(3000)]
    for ring in (1, 2, 3):
        order = orders_out(PLAN, ring)[path]
        assert order.fault is None
        assert order.revision == REVISION
        held = {name for name in names if order.chosen(name) == NEW}
        assert held == {name for name in names if PLAN.ring_of(name, ()) <= ring}
        others = {order.chosen(name) for name in set(names) - held}
        assert others <= {None}
    assert orders_out(PLAN, 0) == {}
    spread = make_plan(start_within_s=600)
    assert orders_out(spread, 1)[path].start_within_s == 600


def test_rings_may_be_groups():
    plan = make_plan(("canary", "10%", "100%"))
    assert plan.ring_of("pi-1", ("x", "canary")) == 1
    assert list(orders_out(plan, 1)) == [group_path("canary", "motion")]
    assert len(orders_out(plan, 2)) == 2
    assert orders_out(plan, 3)[group_path("canary", "motion")].ring is None


def test_the_way_back_restores_what_stood_before():
    path = group_path("all", "motion")
    before = Order(revision=5, model="motion", choice=OLDER)
    plan = make_plan(before={path: before})
    back = orders_back(plan, 2, 2000)[path]
    assert back == msgspec.structs.replace(before, revision=2000)
    bare = orders_back(PLAN, 2, 2000)[path]  # nothing was ordered: only the open rings go back
    assert (bare.choice, bare.ring) == (BASE, orders_out(PLAN, 2)[path].ring)


def test_somebody_elses_newer_order_is_seen():
    path = group_path("all", "motion")
    theirs = Order(revision=REVISION + 1, model="motion", choice=OLDER)
    assert newer({path: theirs}, PLAN) == path
    assert newer(orders_out(PLAN, 1), PLAN) == ""


# --- what devices say ----------------------------------------------------------------------------


def update(state, revision=REVISION, model="motion"):
    return UpdateReport(
        t=1.0, model=model, version="1.1.0", sha256="b" * 64, revision=revision, state=state
    )


def status(device, *updates, online=True, groups=(), model="motion"):
    return Status(
        device=device,
        boot="b",
        host="h",
        agent="1",
        online=online,
        t=1.0,
        groups=groups,
        pipelines=(PipelineStatus(name="p", model=model, state="running"),),
        updates=updates,
    )


def will(device):
    return Status(device=device, boot="b", host="h", agent="1", online=False)


def totals(devices):
    return sum(devices.counts(), Counts())


def test_a_final_word_stands_whatever_comes_after():
    devices = Devices(PLAN)
    for said in (update("committed"), update("fetching"), update("refused"), update("offered")):
        devices.hear(status("pi-1", said))
    assert totals(devices) == Counts(committed=1)


def test_reports_on_other_revisions_and_models_say_nothing_or_that_it_is_superseded():
    devices = Devices(PLAN)
    devices.hear(status("pi-1", update("committed", REVISION - 1)))
    devices.hear(status("pi-2", update("committed", model="sound")))
    devices.hear(status("pi-3", update("offered", REVISION + 1)))
    devices.hear(status("pi-4", model="sound"))  # none of ours
    assert totals(devices) == Counts(waiting=2, superseded=1)


def test_a_will_says_only_that_a_known_device_is_away():
    devices = Devices(PLAN)
    devices.hear(will("pi-9"))
    assert totals(devices) == Counts()
    devices.hear(status("pi-1"))
    devices.hear(will("pi-1"))
    assert totals(devices) == Counts(away=1)
    devices.hear(status("pi-1", update("rolled_back")))
    devices.hear(will("pi-1"))
    assert totals(devices) == Counts(failed=1)


def test_what_devices_have_said_can_be_kept_and_read_again():
    devices = Devices(PLAN)
    devices.hear(status("pi-1", update("committed")))
    kept = devices.take_changed()
    assert devices.take_changed() == []
    devices.hear(status("pi-1", update("committed")))
    assert devices.take_changed() == []
    again = Devices(PLAN, kept)
    again.hear(status("pi-1", update("fetching")))
    assert again.counts() == devices.counts()


def test_only_devices_of_the_group_belong_to_a_rollout_for_it():
    devices = Devices(make_plan(to="line"))
    devices.hear(status("pi-1", groups=("line",)))
    devices.hear(status("pi-2", groups=("other",)))
    assert totals(devices) == Counts(waiting=1)


# --- properties ----------------------------------------------------------------------------------

counts_of = st.builds(Counts, *[st.integers(0, 30)] * 5)
moves = st.one_of(
    st.tuples(st.just("hear"), st.tuples(counts_of, counts_of, counts_of)),
    st.tuples(st.just("time"), st.floats(0, 2 * WINDOW_S)),
    st.tuples(st.sampled_from(["pause", "resume", "abort", "act", "killed"]), st.none()),
)


def ruled(state, move):
    """The state after an operator's word, which may be out of place."""
    try:
        return {"pause": pause, "resume": resume, "abort": abort}[move](state)
    except ConfigError:
        return state


@given(st.lists(moves, max_size=60))
def test_it_never_goes_backwards_never_skips_a_ring_and_a_pause_orders_nothing(script):
    state, now, found, action = State(), T0, rings(), None
    for move, value in script:
        if move == "hear":
            found = value
        elif move == "time":
            now += value
        elif move == "act" and action is not None:
            state = done(state, action, now)
        elif move in ("pause", "resume", "abort"):
            state = ruled(state, move)
        after, action = step(PLAN, state, found, now)
        if state.phase == "paused" or state.phase in OVER:
            assert (after, action) == (state, None)
        if state.phase in ("returning", "returned"):
            assert after.phase == state.phase
        assert after.ring in (state.ring, state.ring + 1)
        assert action in (None, Return(), Open(after.ring))
        if after.ring > state.ring > 0:
            assert now - state.out_t >= WINDOW_S
        assert after.ring <= len(PLAN.rings)
        state = after


said = st.tuples(
    st.sampled_from(["pi-1", "pi-2"]),
    st.sampled_from(["offered", "fetching", "trial", "committed", "rolled_back", "refused"]),
)


@given(st.lists(said, max_size=12), st.randoms(use_true_random=False))
def test_doubles_change_nothing_and_the_first_final_word_decides(words, chance):
    finals: dict[str, str] = {}
    devices, doubled = Devices(PLAN), Devices(PLAN)
    for device, state in words:
        if state in ("committed", "rolled_back", "refused"):
            finals.setdefault(device, state)
        for target, times in ((devices, 1), (doubled, chance.randint(1, 3))):
            for _ in range(times):
                target.hear(status(device, update(state)))
    assert devices.counts() == doubled.counts()
    outcome = Counter("committed" if s == "committed" else "failed" for s in finals.values())
    assert totals(devices).committed == outcome["committed"]
    assert totals(devices).failed == outcome["failed"]


# --- ten thousand devices ------------------------------------------------------------------------

DEVICES_N = 10_000


class Simulation:
    """A fleet behind a network that loses, delays, doubles and reorders; devices reboot and sleep.

    A device obeys an order that holds it some time after the order is out. Every word is a status;
    statuses come again from time to time, so that what was lost is only late.
    """

    def __init__(self, plan, *, failing, seed, offline=0.1, loss=0.3):
        self.plan, self.chance = plan, random.Random(seed)
        self.failing, self.loss = failing, loss
        self.names = [f"device-{number}" for number in range(DEVICES_N)]
        asleep = self.chance.sample(self.names, round(offline * DEVICES_N))
        self.asleep = set(asleep)
        self.state_of = dict.fromkeys(self.names)  # None: it has not begun
        self.ordered: set[str] = set()
        self.events: list[tuple[float, int, str, object]] = []
        self.sent = 0
        self.devices = Devices(plan)
        self.state, self.now, self.returned = State(), T0, False
        for name in self.names:
            if name not in self.asleep:
                self.at(self.chance.uniform(0, 60), "say", name)

    def at(self, delay, kind, value):
        self.sent += 1
        heapq.heappush(self.events, (self.now + delay, self.sent, kind, value))

    def say(self, name):
        """Its status, late, twice or not at all."""
        state = self.state_of[name]
        word = status(name, *([update(state)] if state else []))
        for _ in range(1 + (self.chance.random() < 0.2)):
            if self.chance.random() >= self.loss:
                self.at(self.chance.expovariate(1 / 20), "heard", word)

    def obey(self, name):
        """Takes the bundle, with a reboot on the way for some."""
        if self.state_of[name] is not None or self.returned:
            return
        self.state_of[name] = "fetching"
        self.say(name)
        if self.chance.random() < 0.1:
            self.at(self.chance.uniform(0, 30), "heard", will(name))
        bad = self.chance.random() < self.failing
        end = self.chance.choice(["refused", "rolled_back"]) if bad else "committed"
        self.at(self.chance.uniform(20, 600), "end", (name, end))

    def act(self, action):
        if isinstance(action, Return):
            self.returned = True
        else:
            order = orders_out(self.plan, action.ring)[group_path("all", "motion")]
            for name in self.names:
                if name not in self.ordered and order.chosen(name) is not None:
                    self.ordered.add(name)
                    if name not in self.asleep:
                        self.at(self.chance.uniform(0, 60), "obey", name)

    def run(self):
        """Until it is over; a controller that looks once a minute, and was killed now and then."""
        tick = T0
        while not self.state.over and tick < T0 + 40 * WINDOW_S:
            tick += 60.0
            while self.events and self.events[0][0] <= tick:
                self.now, _, kind, value = heapq.heappop(self.events)
                self.take(kind, value)
            self.now = tick
            for name in self.chance.sample(self.names, DEVICES_N // 20):
                if name not in self.asleep:
                    self.say(name)
            self.state, action = step(self.plan, self.state, self.devices.counts(), tick)
            if action is not None:
                self.act(action)
                if self.chance.random() < 0.7:  # else it is killed before that is written
                    self.state = done(self.state, action, tick)
            if self.chance.random() < 0.1:
                self.devices = Devices(self.plan, self.devices._members.values())
        while self.events:  # what is still under way
            self.now, _, kind, value = heapq.heappop(self.events)
            self.take(kind, value)
        return self

    def take(self, kind, value):
        if kind == "heard":
            self.devices.hear(value)
        elif kind == "say":
            self.say(value)
        elif kind == "obey":
            self.obey(value)
        else:
            name, self.state_of[name] = value[0], value[1]
            self.say(name)


def outcome(simulation):
    return Counter(state for state in simulation.state_of.values() if state)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("failing", [0.0, 0.01])
def test_a_good_bundle_ends_on_every_device_that_is_there(failing, seed):
    simulation = Simulation(PLAN, failing=failing, seed=seed).run()
    assert simulation.state.phase == "finished"
    assert simulation.ordered == set(simulation.names)
    found = outcome(simulation)
    assert set(found) <= {"committed", "refused", "rolled_back"}
    assert sum(found.values()) == DEVICES_N - len(simulation.asleep) == 9000
    assert found["committed"] >= (1 - 2 * failing) * 9000
    counted = totals(simulation.devices)  # what was lost is missing, and nothing is miscounted
    assert 0.9 * 9000 <= counted.answered <= 9000
    assert counted.failed <= found["refused"] + found["rolled_back"]
    assert counted.committed <= found["committed"]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("failing", [0.2, 1.0])
def test_a_bad_bundle_is_halted_in_the_first_ring_and_touches_nobody_else(failing, seed):
    simulation = Simulation(PLAN, failing=failing, seed=seed).run()
    assert (simulation.state.phase, simulation.state.ring) == ("returned", 1)
    first = {name for name in simulation.names if PLAN.ring_of(name, ()) == 1}
    assert {name for name, state in simulation.state_of.items() if state} <= first
    assert 60 < len(first) < 140


def test_a_bundle_that_is_a_little_bad_is_halted_before_everybody_has_it():
    plan = make_plan(abort_over_ppm=20_000)
    simulation = Simulation(plan, failing=0.06, seed=4).run()
    assert simulation.state.phase == "returned"
    assert simulation.state.ring <= 2
    assert len(simulation.ordered) < 0.15 * DEVICES_N


def test_a_fleet_that_sleeps_for_the_most_part_is_not_waited_for():
    simulation = Simulation(PLAN, failing=0.0, seed=5, offline=0.8).run()
    assert simulation.state.phase == "finished"
