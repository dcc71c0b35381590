"""From what is typed to a plan: rings, what to go back to, and whom the first ring holds."""

import click
import pytest
from crowd import Device
from fleets import Fleet

from edge_agent.contract.errors import ConfigError
from edge_agent.contract.release import group_path
from edge_agent.fleet.options import duration, share_ppm
from edge_agent.fleet.parcel import Target
from edge_agent.fleet.rollout.begin import make_plan, parse_rings
from edge_agent.fleet.rollout.orders import orders_back
from edge_agent.fleet.rollout.plan import Counts, Part, State
from edge_agent.fleet.rollout.state import Rollout
from edge_agent.fleet.rollout.views import headline, line, ring_rows

ALL = Target.parse("all")


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path, groups=("kitchen",))


def plan_of(fleet, release, target=ALL, *, statuses=(), rings="1%,100%", base=None, **fields):
    values = {
        "abort_over_ppm": 50_000,
        "failures_min": 1,
        "enough_ppm": 900_000,
        "window_s": 60.0,
        "start_within_s": 0,
        **fields,
    }
    return make_plan(
        fleet.repository,
        release.sha256,
        target,
        statuses=statuses,
        rings=parse_rings(rings),
        base=base,
        **values,
    )


def approved(fleet, *versions, **fields):
    return [fleet.approve(fleet.release(version), **fields) for version in versions]


def test_rings_are_shares_and_groups():
    assert parse_rings("group:canary, 0.5%,100%") == (
        Part(group="canary"),
        Part(share_ppm=5000),
        Part(share_ppm=1_000_000),
    )


@pytest.mark.parametrize("text", ["", "5", "101%", "-1%", "0.00001%", "five%"])
def test_what_is_no_share(text):
    with pytest.raises(click.BadParameter, match="no share"):
        share_ppm(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1d", 86_400)]
)
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "5w"])
def test_what_is_no_duration(text):
    with pytest.raises(click.BadParameter, match="no duration"):
        duration(text)


def test_it_goes_back_to_what_is_ordered(fleet):
    old, _, new = approved(fleet, "1.0.0", "1.1.0", "1.2.0")
    order = fleet.order(old, group_path("all", "motion"))
    plan = plan_of(fleet, new)
    assert (plan.choice.sha256, plan.base) == (new.sha256, order.choice)
    assert plan.before == {group_path("all", "motion"): order}
    assert plan.revision > order.revision


def test_it_goes_back_to_what_was_approved_before_where_nothing_is_ordered(fleet):
    _, before, new = approved(fleet, "1.0.0", "1.1.0", "1.2.0")
    assert plan_of(fleet, new).base.sha256 == before.sha256
    assert plan_of(fleet, new, base="1.0.0").base.version == "1.0.0"
    with pytest.raises(ConfigError, match=r"9\.9\.9 is not among"):
        plan_of(fleet, new, base="9.9.9")


def test_a_base_that_is_named_comes_before_what_is_ordered(fleet):
    _, ordered, new = approved(fleet, "1.0.0", "1.1.0", "1.2.0")
    path = group_path("all", "motion")
    fleet.order(ordered, path)
    plan = plan_of(fleet, new, base="1.0.0")
    back = orders_back(plan, 1, plan.revision + 1)[path]
    assert (plan.base.version, back.choice.version, back.ring) == ("1.0.0", "1.0.0", None)


def test_there_must_be_something_to_go_back_to(fleet):
    (only,) = approved(fleet, "1.0.0")
    with pytest.raises(ConfigError, match="to go back to"):
        plan_of(fleet, only)
    fleet.order(only, group_path("all", "motion"))
    with pytest.raises(ConfigError, match="ordered already"):
        plan_of(fleet, only)


def test_what_is_not_approved_for_the_target_is_refused(fleet):
    approved(fleet, "1.0.0")
    (new,) = approved(fleet, "1.1.0", scope="kitchen")
    with pytest.raises(ConfigError, match="not approved for all"):
        plan_of(fleet, new)
    kitchen = plan_of(fleet, new, Target.parse("group:kitchen"))
    assert (kitchen.choice.scope, kitchen.base.scope) == ("kitchen", "all")
    with pytest.raises(ConfigError, match="publish is for one device"):
        plan_of(fleet, new, Target.parse("pi-1"))


def test_a_small_first_ring_holds_a_device_that_is_online(fleet):
    _, new = approved(fleet, "1.0.0", "1.1.0")
    statuses = [Device(f"pi-{number}").status for number in range(3)]
    for _ in range(5):
        plan = plan_of(fleet, new, statuses=statuses)
        assert 1 in {plan.ring_of(status.device, ()) for status in statuses}
    assert plan_of(fleet, new).salt != plan_of(fleet, new).salt  # nobody is known


def test_how_it_looks(fleet):
    _, new = approved(fleet, "1.0.0", "1.1.0")
    rollout = Rollout(
        name="motion-1.1.0",
        begun_t=0.0,
        plan=plan_of(fleet, new, rings="group:canary,10%,100%"),
        state=State(ring=2, out_t=1000.0),
        version=1,
        owner="",
        lease_t=0.0,
    )
    counts = (Counts(committed=3), Counts(failed=1, waiting=4, away=2), Counts(away=9))
    rows = ring_rows(rollout, counts)
    assert rows[0] == ("1", "group:canary", "out", "3", "0", "0", "0", "0")
    assert rows[1] == ("2", "10 %", "out", "0", "1", "4", "2", "0")
    assert rows[2][2] == ""
    text = headline(rollout, counts, 1050.0)
    assert text == "motion-1.1.0 for all: running, ring 2 of 3, 0:00:10 of its window left"
    assert headline(rollout, counts, 1060.0).endswith(
        "; 4 of 5 devices of the ring have not answered yet"
    )
    assert "3 committed, 1 failed, 4 waiting, 2 away" in line(rollout, counts)
