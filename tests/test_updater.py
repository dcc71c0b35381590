"""Updates from the desired state on the broker to the models in the pipelines."""

import hashlib
import threading
import time
from itertools import pairwise

import pytest
from bundles import make_bundle

from edge_agent.clock import SystemClock
from edge_agent.config import PipelineConfig, TrialConfig, UpdateConfig
from edge_agent.contract.bundle import parse_bundle
from edge_agent.contract.errors import BundleError, InferenceError, StorageError
from edge_agent.contract.messages import Desired, encode
from edge_agent.contract.release import Payload
from edge_agent.contract.topics import CHUNK_BYTES, Topics
from edge_agent.health import Health
from edge_agent.pipeline import Pipeline
from edge_agent.sources.simulated import SimulatedConfig, SimulatedSource
from edge_agent.testing.broker import SimulatedBroker
from edge_agent.testing.clock import FakeClock
from edge_agent.update.states import TRANSITIONS
from edge_agent.update.store import Store
from edge_agent.update.updater import Updater

TOPICS = Topics("edge")
CHUNK = 512
WAY = ["offered", "fetching", "verified", "staged", "probing", "trial", "committed"]
AT_ONCE = TrialConfig(seconds=0, windows_min=0)


class Pipe:
    """Stands in for a pipeline: knows its channels, takes models when it is told to."""

    name, batch_n = "motion-1", 1

    def __init__(self, channels=("a", "b"), *, ready=True):
        self.channels, self.ready = channels, ready
        self.models, self.events, self.fault = [], [], None
        self.found, self.shadow = Health(), None

    def misfit(self, manifest):
        got = tuple(channel.name for channel in manifest.channels)
        return None if got == self.channels else f"wants {got}, the pipeline has {self.channels}"

    def swap(self, model):
        if self.fault:
            raise self.fault
        self.models.append(model)
        self.events.append(threading.Event())
        if self.ready:
            self.events[-1].set()
        return self.events[-1]

    def exchange(self, load, back):
        self.models.append(None)  # the old one is let go first
        return self.swap(load())

    def withdraw(self):
        self.models.append(None)

    def accompany(self, companion):
        self.shadow = companion

    def share(self, model, holds):
        raise BundleError("one sensor")

    def health(self):
        return self.found

    @property
    def version(self):
        return self.models[-1].manifest.version if any(self.models[-1:]) else None


class Device:
    """An updater with its surroundings. ``restart`` is a kill and a new start."""

    def __init__(self, tmp_path, broker, pipes=None, *, others=(), disk=None, **config):
        self.folder, self.broker, self.clock = tmp_path / "store", broker, FakeClock()
        self.pipes, self.disk = pipes or [Pipe()], disk
        self.targets = {"motion": self.pipes} | {model: [Pipe()] for model in others}
        self.config = UpdateConfig(**{"unsigned": True, "trial": AT_ONCE} | config)
        self.records = []
        self.start()

    def start(self):
        self.link = self.broker.link()
        self.port = self.link.port("update")
        self.store = Store(self.folder, self.disk)
        self.updater = Updater(
            store=self.store,
            trust=self.folder.parent / "trust",
            port=self.port,
            topics=TOPICS,
            device="pi-1",
            groups=("hall", "north"),
            targets=self.targets,
            report=self.records.append,
            config=self.config,
            clock=self.clock,
        )
        self.link.start()

    def restart(self):
        self.broker.cut(self.link)
        self.start()

    def turn(self, seconds=0.0):
        self.clock.advance(seconds)
        self.updater.step()

    def until(self, state, *, seconds=0.0):
        """Steps until the latest report has this state; ``seconds`` pass in each on its clock."""
        deadline = time.monotonic() + 30
        while not (self.states and self.states[-1] == state):
            assert time.monotonic() < deadline, (self.states, self.updater.reports())
            self.turn(seconds)
            time.sleep(0.002)  # for the child process
        return self.records[-1]

    @property
    def states(self):
        return [record.state for record in self.records]

    @property
    def latest(self):
        (report,) = self.updater.reports()
        return report

    def blobs_asked(self):
        return [t for t in self.broker.subscriptions if t.startswith(TOPICS.blob(""))]


def sha(data):
    return hashlib.sha256(data).hexdigest()


def cut_small(data):
    pieces = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)]
    listing = b"".join(hashlib.sha256(piece).digest() for piece in pieces)
    assert len(listing) <= CHUNK_BYTES
    return listing, pieces


def payload_of(data):
    """The bundle itself, in chunks that are small enough to count."""
    return Payload(
        encoding="raw",
        sha256=sha(data),
        bytes=len(data),
        chunk_bytes=CHUNK,
        index=(sha(cut_small(data)[0]),),
    )


def seed(broker, data):
    listing, pieces = cut_small(data)
    for blob in (listing, *pieces):
        broker.publish(TOPICS.blob(sha(blob)), blob, retain=True)


def desire(broker, data, revision, *, topic=None, **changes):
    manifest = parse_bundle(data).manifest
    fields = {
        "revision": revision,
        "model": "motion",
        "version": manifest.version,
        "sha256": sha(data),
        "bytes": len(data),
        "payloads": (payload_of(data),),
    }
    topic = topic or TOPICS.desired_for_device("pi-1", "motion")
    broker.publish(topic, encode(Desired(**fields | changes)), retain=True)


def publish(broker, data, revision, **changes):
    seed(broker, data)
    desire(broker, data, revision, **changes)


OLD, NEW, NEWER = (make_bundle(version=v, padding=8_000) for v in ("1.0.0", "1.1.0", "1.2.0"))


@pytest.fixture
def broker():
    return SimulatedBroker()


@pytest.fixture
def device(tmp_path, broker):
    """A device that runs OLD, installed by hand."""
    device = Device(tmp_path, broker)
    device.store.install(OLD)
    device.restart()
    return device


# --- the way -------------------------------------------------------------------------------------


def test_a_model_reaches_every_pipeline_through_every_state(tmp_path, broker):
    device = Device(tmp_path, broker, [Pipe(), Pipe()])
    publish(broker, NEW, 5)
    device.until("committed")
    assert device.states == WAY
    assert {(r.version, r.sha256, r.revision) for r in device.records} == {("1.1.0", sha(NEW), 5)}
    assert [pipe.version for pipe in device.pipes] == ["1.1.0", "1.1.0"]
    assert device.pipes[0].models[0] is not device.pipes[1].models[0]
    assert device.store.pointer("motion").current.sha256 == sha(NEW)
    assert device.updater.reports() == (device.records[-1],)


def test_every_state_entered_is_in_the_table(tmp_path, broker, device):
    publish(broker, NEW, 5)
    device.until("committed")
    assert all(after in TRANSITIONS[before] for before, after in pairwise(device.states))


def test_the_bundle_before_is_kept_and_a_third_is_not(device, broker):
    for revision, bundle in enumerate((NEW, NEWER), 5):
        publish(broker, bundle, revision)
        device.until("committed")
        device.records.clear()
    device.turn()
    assert {path.stem for path in (device.folder / "blobs").iterdir()} == {sha(NEW), sha(NEWER)}
    assert list((device.folder / "partial").iterdir()) == []


def test_going_back_fetches_nothing(device, broker):
    publish(broker, NEW, 5)
    device.until("committed")
    device.records.clear()
    asked = len(device.blobs_asked())
    desire(broker, OLD, 6)
    device.until("committed")
    assert device.pipes[0].version == "1.0.0"
    assert len(device.blobs_asked()) == asked


def test_what_runs_already_is_committed_at_once(device, broker):
    desire(broker, OLD, 5)
    device.until("committed")
    assert device.states == ["offered", "committed"]
    assert device.pipes[0].models == []
    assert device.store.pointer("motion").revision == 5


def test_after_a_restart_the_new_model_runs_and_nothing_is_done_again(device, broker):
    publish(broker, NEW, 5)
    device.until("committed")
    before = len(device.records)
    device.restart()
    assert device.updater.initial("motion").manifest.version == "1.1.0"
    device.turn()
    assert len(device.records) == before
    assert (device.latest.state, device.latest.version) == ("committed", "1.1.0")


def test_a_pipeline_that_does_not_answer_is_waited_for_and_named(tmp_path, broker):
    slow = Pipe(ready=False)
    device = Device(tmp_path, broker, [Pipe(), slow])
    publish(broker, NEW, 5)
    device.until("trial")
    device.turn(31.0)
    assert device.latest.reason == "1 of 2 pipelines have not taken it"
    assert device.store.pointer("motion").update.state == "trial"
    slow.events[0].set()
    device.until("committed")


def test_a_model_that_a_pipeline_cannot_run_is_taken_back(device, broker):
    device.pipes[0].fault = InferenceError("the model answered nan")
    publish(broker, NEW, 5)
    assert device.until("rolled_back").reason == "the model answered nan"
    assert device.states == [*WAY[:-1], "rolled_back"]
    device.restart()
    assert device.updater.initial("motion").manifest.version == "1.0.0"
    assert device.store.pointer("motion").revision == 5


def test_running_pipelines_change_between_two_readings(tmp_path, broker):
    """Two real pipelines: every reading has its decision, by the old model, then by the new."""
    decisions = ([], [])
    stop = threading.Event()
    pipes = [
        running_pipeline(name, into.append) for name, into in zip("xy", decisions, strict=True)
    ]
    device = Device(tmp_path, broker, pipes)
    device.store.install(OLD)
    for pipe in pipes:
        pipe.swap(device.updater.initial("motion"))
    threads = [threading.Thread(target=pipe.run, args=(stop,)) for pipe in pipes]
    for thread in threads:
        thread.start()
    publish(broker, NEW, 5)
    device.until("committed")
    counts = [len(records) for records in decisions]
    deadline = time.monotonic() + 30
    while any(len(records) <= count for records, count in zip(decisions, counts, strict=True)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join(10)
    for records in decisions:
        readings = [record.reading for record in records]
        assert readings == list(range(readings[0], readings[0] + len(readings)))
        versions = [record.model for record in records]
        assert versions == sorted(versions)
        assert set(versions) == {"1.0.0", "1.1.0"}


def running_pipeline(name, offer):
    source, channels = SimulatedConfig(rate_hz=200.0), ("a", "b")
    return Pipeline(
        PipelineConfig(name=name, model="motion", channels=channels, source=source),
        SimulatedSource(source, channels, clock=SystemClock()),
        offer=offer,
        dispatch=lambda _: None,
        clock=SystemClock(),
        model=None,
    )


def test_its_own_thread_updates_and_ends(tmp_path, broker):
    device = Device(tmp_path, broker)
    stop = threading.Event()
    thread = threading.Thread(target=device.updater.run, args=(stop,))
    thread.start()
    publish(broker, NEW, 5)
    deadline = time.monotonic() + 30
    while "committed" not in device.states:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert device.states == WAY


# --- which desired state counts ------------------------------------------------------------------


def test_a_group_asks_like_a_device(device, broker):
    publish(broker, NEW, 5, topic=TOPICS.desired_for_group("north", "motion"))
    device.until("committed")
    assert device.pipes[0].version == "1.1.0"


@pytest.mark.parametrize("restart", [False, True])
def test_a_stale_group_does_not_undo_a_devices_newer_state(device, broker, restart):
    publish(broker, NEWER, 9)
    device.until("committed")
    publish(broker, NEW, 7, topic=TOPICS.desired_for_group("hall", "motion"))
    if restart:
        device.restart()
    for _ in range(5):
        device.turn(1.0)
    assert device.pipes[0].version == "1.2.0"
    assert device.store.pointer("motion").revision == 9


def test_a_newer_state_ends_an_update_that_is_under_way(device, broker):
    desire(broker, NEW, 5)
    device.until("fetching")
    publish(broker, NEWER, 6)
    device.until("committed")
    seed(broker, NEW)
    device.turn(10.0)
    assert [r.version for r in device.records if r.state == "committed"] == ["1.2.0"]
    assert list((device.folder / "partial").iterdir()) == []


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"rubbish", "not a Desired message"),
        (b"{}", "not a Desired message"),
        ({"schema": 3}, "schema 3"),
        ({"sha256": "../../etc"}, "a digest is malformed"),
        ({"model": "other"}, "speaks of the model other"),
        ({"revision": 0}, "at least 1"),
    ],
)
def test_a_malformed_state_is_refused_once_and_the_old_model_stays(device, broker, payload, reason):
    topic = TOPICS.desired_for_device("pi-1", "motion")
    if isinstance(payload, bytes):
        broker.publish(topic, payload, retain=True)
    else:
        desire(broker, NEW, **{"revision": 5} | payload)
    device.turn()
    broker.restart()
    device.turn()
    assert device.states == ["refused"]
    assert reason in device.latest.reason
    assert device.latest.model == "motion"
    publish(broker, NEW, 6)
    device.until("committed")


def test_a_state_that_is_taken_away_changes_nothing(device, broker):
    publish(broker, NEW, 5)
    device.until("committed")
    broker.publish(TOPICS.desired_for_device("pi-1", "motion"), b"", retain=True)
    device.turn()
    assert device.states == WAY


# --- brokers -------------------------------------------------------------------------------------


def asked_for(broker, topic):
    return broker.subscriptions.count(topic)


def test_an_unanswered_topic_is_asked_ever_more_rarely(device, broker):
    topic = TOPICS.desired_for_group("hall", "motion")
    device.turn()
    times = []
    for second in range(1000):
        count = asked_for(broker, topic)
        device.turn(1.0)
        if asked_for(broker, topic) > count:
            times.append(second + 1)
    assert times == [3, 13, 43, 343, 643, 943]


def test_an_answered_topic_is_asked_again_only_after_a_reconnect(device, broker):
    desire(broker, OLD, 5)
    topic = TOPICS.desired_for_device("pi-1", "motion")
    device.turn()
    for _ in range(100):
        device.turn(10.0)
    assert asked_for(broker, topic) == 1
    broker.restart()
    device.turn()
    assert asked_for(broker, topic) == 2


def test_a_broker_that_answers_the_first_subscription_with_silence(tmp_path):
    broker = SimulatedBroker(first_silence=True)
    device = Device(tmp_path, broker)
    publish(broker, NEW, 5)
    broker.restart()
    device.until("committed", seconds=0.5)
    assert device.pipes[0].version == "1.1.0"


def test_a_broker_that_lost_everything_is_waited_for(device, broker):
    publish(broker, NEW, 5)
    first = broker.retained.pop(TOPICS.blob(sha(cut_small(NEW)[1][3])))
    for _ in range(9):
        device.turn()
    broker.restart(lose_retained=True)
    for _ in range(600):
        device.turn(1.0)
    assert device.states == ["offered", "fetching"]
    assert device.latest.reason == f"waiting for 1 of {len(cut_small(NEW)[1])} chunks"
    assert device.pipes[0].models == []
    publish(broker, NEW, 5)
    assert first in broker.retained.values()
    device.until("committed", seconds=1.0)
    assert device.states == WAY


def test_an_offline_device_waits_and_goes_on_by_itself(device, broker):
    publish(broker, NEW, 5)
    broker.retained.pop(TOPICS.blob(sha(cut_small(NEW)[1][3])))
    device.turn()
    broker.cut(device.link)
    for _ in range(100):
        device.turn(60.0)
    seed(broker, NEW)
    broker.restore(device.link)
    device.until("committed")


def test_a_window_is_not_exceeded_and_nothing_stays_subscribed(device, broker):
    listing, pieces = cut_small(NEW)
    broker.publish(TOPICS.blob(sha(listing)), listing, retain=True)
    desire(broker, NEW, 5)
    for _ in range(5):
        device.turn(0.1)
    assert len(device.blobs_asked()) == 1 + 8 < len(pieces)
    seed(broker, NEW)
    device.until("committed", seconds=0.1)
    device.turn()
    for blob in (listing, *pieces):
        broker.publish(TOPICS.blob(sha(blob)), blob)
    assert device.port.events.empty()


@pytest.mark.parametrize("missing", [1, 9, 16])
def test_a_killed_agent_resumes_and_fetches_only_the_rest(device, broker, missing):
    seed(broker, NEW)
    pieces = cut_small(NEW)[1]
    for blob in pieces[-missing:]:
        del broker.retained[TOPICS.blob(sha(blob))]
    desire(broker, NEW, 5)
    for _ in range(40):
        device.turn(1.0)
    device.restart()  # without a word to the one before
    broker.subscriptions.clear()
    seed(broker, NEW)
    device.until("committed")
    assert len(device.blobs_asked()) == missing
    assert device.pipes[0].version == "1.1.0"


def test_an_agent_killed_while_probing_probes_again_and_fetches_nothing(device, broker):
    publish(broker, NEW, 5)
    device.until("probing")
    asked = len(device.blobs_asked())
    device.restart()
    assert device.updater.initial("motion").manifest.version == "1.0.0"
    device.until("committed")
    assert len(device.blobs_asked()) == asked


# --- refusals ------------------------------------------------------------------------------------


def refused(device):
    report = device.until("refused", seconds=5.0)
    device.turn()
    assert device.pipes[0].models == []
    assert device.store.pointer("motion").current.sha256 == sha(OLD)
    assert {path.stem for path in (device.folder / "blobs").iterdir()} == {sha(OLD)}
    assert list((device.folder / "partial").iterdir()) == []
    device.restart()
    assert device.updater.initial("motion").manifest.version == "1.0.0"
    assert (device.latest.state, device.latest.reason) == ("refused", report.reason)
    count = len(device.records)
    for _ in range(10):
        device.turn(1.0)
    assert len(device.records) == count
    return report


def test_a_golden_mismatch_is_refused(device, broker):
    publish(broker, make_bundle(version="1.1.0", wrong_golden=True), 5)
    assert "golden vector 0" in refused(device).reason
    assert device.states == ["offered", "fetching", "verified", "staged", "probing", "refused"]


def test_other_channels_are_refused(device, broker):
    publish(broker, make_bundle(version="1.1.0", channels=("a", "c")), 5)
    assert "('a', 'c')" in refused(device).reason


def test_a_newer_agents_bundle_is_refused(device, broker):
    data = make_bundle(version="1.1.0", agent_min="99.0.0")
    seed(broker, data)
    fields = Desired(
        revision=5,
        model="motion",
        version="1.1.0",
        sha256=sha(data),
        bytes=len(data),
        payloads=(payload_of(data),),
    )
    broker.publish(TOPICS.desired_for_device("pi-1", "motion"), encode(fields), retain=True)
    assert "needs agent 99.0.0" in refused(device).reason


def test_a_wrong_digest_of_the_whole_is_refused(device, broker):
    publish(broker, NEW, 5, sha256=sha(NEWER))
    assert "does not give the announced digest" in refused(device).reason


def test_a_blob_that_stays_wrong_is_refused(device, broker):
    publish(broker, NEW, 5)
    broker.retained[TOPICS.blob(sha(cut_small(NEW)[1][3]))] = b"rubbish"
    assert "chunk 3 came 5 times" in refused(device).reason


def test_another_model_or_version_than_announced_is_refused(device, broker):
    publish(broker, make_bundle(name="other", version="1.1.0"), 5)
    assert "the bundle is other 1.1.0" in refused(device).reason


def test_an_oversized_bundle_is_refused_before_it_is_fetched(tmp_path, broker):
    device = Device(tmp_path, broker, bundle_bytes_max=len(OLD))
    device.store.install(OLD)
    publish(broker, make_bundle(version="1.1.0", padding=20_000), 5)
    assert "bundle_bytes_max" in refused(device).reason
    assert device.blobs_asked() == []


def test_a_refused_bundle_is_tried_again_when_a_higher_revision_asks_for_it(device, broker):
    publish(broker, NEW, 5, bytes=len(NEW) + 1)
    device.until("refused", seconds=5.0)
    publish(broker, NEW, 6)
    device.until("committed")
    assert device.store.pointer("motion").refused == ()


def test_two_models_that_ask_for_one_bundle_are_told_apart(tmp_path, broker):
    device = Device(tmp_path, broker, others=("other",))
    publish(broker, NEW, 5, model="other", topic=TOPICS.desired_for_device("pi-1", "other"))
    publish(broker, NEW, 5)
    device.turn()
    deadline = time.monotonic() + 30
    while {"committed", "refused"} - set(device.states):
        assert time.monotonic() < deadline
        device.turn()
        time.sleep(0.002)
    outcome = {report.model: report.state for report in device.updater.reports()}
    assert outcome == {"motion": "committed", "other": "refused"}
    assert device.pipes[0].version == "1.1.0"


# --- starting with a damaged store ---------------------------------------------------------------


@pytest.fixture
def updated(device, broker):
    """A device that runs NEW, with OLD before it."""
    publish(broker, NEW, 5)
    device.until("committed")
    device.records.clear()
    return device


def test_a_damaged_bundle_gives_way_to_the_one_before_and_is_fetched_again(updated):
    updated.store.path(sha(NEW)).write_bytes(NEW[:100])
    updated.restart()
    assert updated.updater.initial("motion").manifest.version == "1.0.0"
    assert updated.latest.state == "refused"
    assert "back to 1.0.0" in updated.latest.reason
    updated.records.clear()
    updated.until("committed")
    assert updated.pipes[0].version == "1.1.0"


def test_two_damaged_bundles_mean_no_model_until_one_is_fetched(updated):
    for data in (OLD, NEW):
        updated.store.path(sha(data)).write_bytes(b"")
    updated.restart()
    assert updated.updater.initial("motion") is None
    assert "no model before it" in updated.latest.reason
    updated.records.clear()
    updated.until("committed")
    assert updated.updater.initial("motion").manifest.version == "1.1.0"


def test_a_damaged_pointer_is_repaired_reported_and_made_good(updated):
    (updated.folder / "models" / "motion.json").write_bytes(b"\x00" * 50)
    updated.restart()
    assert updated.updater.initial("motion").manifest.version == "1.1.0"  # on trial once more
    assert "the pointer is damaged" in updated.records[0].reason
    updated.records.clear()
    asked = len(updated.blobs_asked())
    updated.until("committed")
    assert updated.store.pointer("motion").current.sha256 == sha(NEW)
    assert len(updated.blobs_asked()) == asked


def test_a_bundle_that_no_longer_fits_the_configuration_stays_and_does_not_run(updated):
    updated.pipes[0].channels = ("x", "y")
    updated.restart()
    assert updated.updater.initial("motion") is None
    assert "the pipeline has ('x', 'y')" in updated.latest.reason
    updated.pipes[0].channels = ("a", "b")
    updated.restart()
    assert updated.updater.initial("motion").manifest.version == "1.1.0"


def test_a_newer_pointer_stops_the_start(updated):
    (updated.folder / "models" / "motion.json").write_bytes(b'{"format":99}')
    with pytest.raises(StorageError, match="format 99"):
        updated.restart()


def test_a_disk_that_refuses_is_reported_and_tried_again(device, broker):
    in_the_way = device.store.partial(sha(NEW))
    in_the_way.write_bytes(b"a file where the folder belongs")
    publish(broker, NEW, 5)
    for _ in range(3):
        device.turn()
    assert device.states == ["offered", "fetching", "fetching"]
    assert "check the free space" in device.records[-1].reason
    count = len(device.records)
    in_the_way.unlink()
    device.turn(10.0)
    assert len(device.records) == count
    device.clock.advance(30.0)
    device.until("committed")
