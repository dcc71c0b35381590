"""Models pushed to running agents, with every party killed in the middle."""

import json

import brokers
import msgspec
import pytest
from bundles import make_bundle

from edge_agent.contract.chunks import cut
from edge_agent.contract.messages import Desired, decode, encode
from edge_agent.fleet.publishing import EXIT_REFUSED

from .ears import TOPICS
from .processes import finish, pipeline, wait_for, write_config
from .records import count_rows, decisions, read_rows, readings

LENGTH = 4
MODEL_BLOBS = "edge/blob/+"
DESIRED = TOPICS.desired_for_device("pi-1", "motion")
FAST = {"type": "simulated", "rate_hz": 2000.0}
SLOW = {"type": "simulated", "rate_hz": 20.0}
LARGE = make_bundle(version="1.1.0", padding=12_000_000)


def write_bundle(folder, data, name="new.bundle"):
    path = folder / name
    path.write_bytes(data)
    return path


def announcement(model, version, data):
    """Every blob of a bundle, and last the desired state of the device: topics and payloads."""
    whole = cut(data)
    desired = Desired(
        revision=5,
        model=model,
        version=version,
        sha256=whole.payload.sha256,
        bytes=len(data),
        payloads=(whole.payload,),
    )
    topic = TOPICS.desired_for_device("pi-1", model)
    blobs = [(TOPICS.blob(digest), blob) for digest, blob in whole.blobs.items()]
    return [*blobs, (topic, encode(desired))]


def runs(ears, version):
    """Whether the newest status says that a version decides, and is there to stay."""
    status = next(reversed(ears.statuses()), None)
    if status is None or not status.online:
        return False
    settled = all(update.state == "committed" for update in status.updates)
    return status.pipelines[0].version == version and settled


@pytest.fixture(params=["mosquitto", "nats"])
def either(request, tmp_path):
    with getattr(brokers, request.param)(tmp_path) as running:
        yield running


def test_a_pushed_model_takes_over_without_a_missed_window(programs, home, either, tmp_path):
    path = tmp_path / "records.db"
    collector = programs.collector(either, path)
    agent = programs.agent(write_config(home, either.url, [pipeline(FAST)]))
    wait_for(lambda: count_rows(path) > 1000, "decisions of the first version")
    new = write_bundle(tmp_path, make_bundle(version="1.1.0", padding=500_000))
    publisher = programs.publisher(either, new, "pi-1")
    assert publisher.wait() == 0
    assert json.loads(publisher.out)["committed"] == 1
    many = count_rows(path) + 2000
    wait_for(lambda: count_rows(path) > many, "decisions of the second version")
    status = programs.fleet("status", either, "--json")
    assert status.wait() == 0
    assert json.loads(status.out)[0]["pipelines"][0]["version"] == "1.1.0"
    assert agent.terminate() == 0
    assert finish(collector)["missing"] == 0
    rows = read_rows(path)
    numbers = readings(rows)
    assert numbers == list(range(LENGTH, LENGTH + len(numbers)))
    versions = [body["model"] for body in sorted(decisions(rows), key=lambda b: b["reading"])]
    assert versions == sorted(versions)
    assert set(versions) == {"1.0.0", "1.1.0"}
    states = [row.body["state"] for row in sorted(rows) if row.kind == "update"]
    assert states == [
        *("offered", "fetching", "verified", "staged", "probing", "trial", "committed"),
    ]


def test_a_broker_killed_in_the_middle_of_a_publish_does_not_keep_the_model_away(
    programs, listen, home, broker, tmp_path
):
    ears = listen(broker, MODEL_BLOBS, DESIRED)
    agent = programs.agent(write_config(home, broker.url, [pipeline(SLOW)]))
    wait_for(lambda: runs(ears, "1.0.0"), "the first version")
    publisher = programs.publisher(broker, write_bundle(tmp_path, LARGE), "pi-1")
    wait_for(lambda: len(ears.messages) > 40, "the upload to be under way")
    with publisher.held():
        assert not ears.payloads(DESIRED), "too late for this test"
        broker.restart(kill=True)
    assert publisher.wait() == 0
    report = json.loads(publisher.out)
    assert (report["committed"], report["reconnects"]) == (1, 1)
    assert agent.terminate() == 0


def test_a_publisher_that_is_killed_leaves_nothing_half_done(
    programs, listen, home, broker, tmp_path
):
    ears = listen(broker, MODEL_BLOBS, DESIRED)
    new = write_bundle(tmp_path, LARGE)
    first = programs.publisher(broker, new, "pi-1", "--wait", "0")
    wait_for(lambda: len(ears.messages) > 40, "the upload to be under way")
    first.kill()
    assert not ears.payloads(DESIRED)
    second = programs.publisher(broker, new, "pi-1", "--wait", "0")
    assert second.wait() == 0
    assert json.loads(second.out)["held"] > 20
    ears = listen(broker)
    programs.agent(write_config(home, broker.url, [pipeline(SLOW)]))  # it was away all the time
    wait_for(lambda: runs(ears, "1.1.0"), "the second version")
    assert ears.status().updates[0].version == "1.1.0"


def test_an_agent_killed_while_fetching_goes_on_where_it_was(programs, listen, home, broker):
    """What was fetched before the kill is no longer on the broker when the agent returns."""
    *blobs, desired = announcement(
        "motion", "1.1.0", make_bundle(version="1.1.0", padding=3_000_000)
    )
    half = 1 + 48  # the index, and chunks that have been synced in groups of 16
    ears = listen(broker)
    ears.publish([*blobs[:half], desired], retain=True)
    config = write_config(home, broker.url, [pipeline(SLOW)])
    agent = programs.agent(config)
    wait_for(
        lambda: (
            ears.statuses()
            and ears.status().updates
            and "waiting for" in ears.status().updates[0].reason
        ),
        "the first half to be fetched",
    )
    agent.kill()
    ears.publish([(topic, b"") for topic, _ in blobs[:half]], retain=True)
    ears.publish(blobs[half:], retain=True)
    agent = programs.agent(config)
    wait_for(lambda: runs(ears, "1.1.0"), "the second version")
    assert ears.status().updates[0].version == "1.1.0"


def test_what_does_not_fit_is_refused_with_the_reason_and_the_old_model_decides_on(
    programs, listen, home, broker, tmp_path
):
    bad = {
        "channels": make_bundle(name="channels", version="2.0.0", channels=("a", "c")),
        "golden": make_bundle(name="golden", version="2.0.0", wrong_golden=True),
        "newer": make_bundle(name="newer", version="2.0.0", agent_min="99.0.0"),
        "digest": make_bundle(name="digest", version="2.0.0"),
    }
    path = tmp_path / "records.db"
    for name in bad:
        write_bundle(home, make_bundle(name=name), f"{name}.bundle")
    lines = [pipeline(SLOW, name=name, model=name, bundle=f"{name}.bundle") for name in bad]
    ears = listen(broker)
    collector = programs.collector(broker, path)
    agent = programs.agent(write_config(home, broker.url, lines))
    wait_for(ears.statuses, "the agent")
    publisher = programs.publisher(broker, write_bundle(tmp_path, bad["golden"]), "pi-1")
    for name in ("channels", "newer", "digest"):
        *blobs, (topic, payload) = announcement(name, "2.0.0", bad[name])
        if name == "digest":
            payload = encode(msgspec.structs.replace(decode(payload, Desired), sha256="0" * 64))
        ears.publish([*blobs, (topic, payload)], retain=True)
    wait_for(
        lambda: [update.state for update in ears.status().updates] == ["refused"] * len(bad),
        "a refusal of each",
    )
    assert publisher.wait() == EXIT_REFUSED
    reasons = {update.model: update.reason for update in ears.status().updates}
    assert "golden" in json.loads(publisher.out)["devices"][0]["reason"]
    for name, words in {
        "channels": "wants the channels a, c",
        "golden": "golden",
        "newer": "needs agent 99.0.0",
        "digest": "does not give the announced digest",
    }.items():
        assert words in reasons[name]
    many = count_rows(path) + 100
    wait_for(lambda: count_rows(path) > many, "decisions after the refusals")
    assert {line.version for line in ears.status().pipelines} == {"1.0.0"}
    assert agent.terminate() == 0
    finish(collector)
    rows = read_rows(path)
    for name in bad:
        assert {body["model"] for body in decisions(rows, name)} == {"1.0.0"}
        numbers = readings(rows, name)
        assert numbers == list(range(LENGTH, LENGTH + len(numbers)))


def test_the_first_agent_after_a_restart_of_nats_finds_its_desired_state(
    programs, listen, home, tmp_path
):
    with brokers.nats(tmp_path) as broker:
        new = write_bundle(tmp_path, make_bundle(version="1.1.0", padding=300_000))
        publisher = programs.publisher(broker, new, "group:hall", "--wait", "0")
        assert publisher.wait() == 0
        broker.restart(kill=False)
        config = write_config(home, broker.url, [pipeline(SLOW)], groups=["hall"])
        agent = programs.agent(config)
        ears = listen(broker)
        wait_for(lambda: runs(ears, "1.1.0"), "the second version")
        assert agent.terminate() == 0
