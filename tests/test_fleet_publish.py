"""Publishing over a simulated broker: everything is read back, and verdicts are followed."""

import hashlib

import msgspec
import pytest
from bundles import make_bundle

from edge_agent.contract.chunks import cut
from edge_agent.contract.errors import BundleError, ConfigError, LinkError
from edge_agent.contract.experiment import Experiment
from edge_agent.contract.messages import (
    Batch,
    Desired,
    PipelineStatus,
    Status,
    UpdateReport,
    decode,
    encode,
    with_seq,
)
from edge_agent.contract.topics import Topics
from edge_agent.encoding import compress
from edge_agent.fleet.parcel import Target, read_parcel
from edge_agent.fleet.publish import Publisher
from edge_agent.fleet.session import Session
from edge_agent.testing.broker import SimulatedBroker

TOPICS = Topics("edge")
DESIRED = TOPICS.desired_for_device("pi-1", "motion")
NOW = 1_700_000_000.0
BUNDLE = make_bundle(padding=500_000)
WHOLE = cut(compress(BUNDLE), "zstd")
BLOBS = {TOPICS.blob(digest): data for digest, data in WHOLE.blobs.items()}


class Operator:
    """Publishes ``BUNDLE``; ``when`` runs a function the first time that a text is told."""

    def __init__(self, tmp_path, broker, *, to="pi-1", wait_s=0.0, connect_s=5.0, **how):
        path = tmp_path / "motion.bundle"
        path.write_bytes(BUNDLE)
        self.broker = broker
        self.told = []
        self.steps = []
        self._when = {}
        self._at = {}
        self.session = Session(broker.link("operator"))
        self.publisher = Publisher(
            self.session,
            TOPICS,
            read_parcel(path),
            Target.parse(to),
            wait_s=wait_s,
            connect_s=connect_s,
            answer_s=0.1,
            reseed_s=0.2,
            tell=self._tell,
            progress=self._progress,
            wall=lambda: NOW,
            **how,
        )

    def when(self, text, act):
        self._when[text] = act

    def at(self, blobs, act):
        self._at[blobs] = act

    def run(self):
        with self.session:
            return self.publisher.run()

    def _tell(self, sentence):
        self.told.append(sentence)
        for text in [text for text in self._when if text in sentence]:
            self._when.pop(text)()

    def _progress(self, done, total):
        self.steps.append((done, total))
        if act := self._at.pop(done, None):
            act()


def desired(broker, topic=DESIRED):
    return decode(broker.retained[topic], Desired)


def update(state, *, revision=int(NOW * 1000), reason="", version="1.0.0"):
    return UpdateReport(
        t=1.0,
        model="motion",
        version=version,
        sha256="0" * 64,
        revision=revision,
        state=state,
        reason=reason,
    )


def status(device, *updates, groups=(), online=True, model="motion"):
    return Status(
        device=device,
        boot="b1",
        host="h",
        agent="1",
        online=online,
        groups=groups,
        pipelines=(PipelineStatus(name="p", model=model, state="running"),),
        updates=updates,
    )


def say(broker, said):
    broker.publish(TOPICS.status(said.device), encode(said), retain=True)


def record(broker, device, seq, report):
    body = msgspec.Raw(with_seq(seq, encode(report)))
    payload = encode(Batch(device=device, boot="b1", records=[body]))
    broker.publish(TOPICS.records(device, "live"), payload)


def test_every_blob_and_the_desired_state_are_retained(tmp_path):
    broker = SimulatedBroker()
    report = Operator(tmp_path, broker).run()
    assert {topic: broker.retained[topic] for topic in BLOBS} == BLOBS
    wanted = desired(broker)
    assert wanted.sha256 == report.sha256 == hashlib.sha256(BUNDLE).hexdigest()
    assert (wanted.revision, wanted.bytes, wanted.model) == (
        1_700_000_000_000,
        len(BUNDLE),
        "motion",
    )
    assert wanted.payloads == (WHOLE.payload,)
    assert (report.blobs, report.uploaded, report.held, report.repeated) == (len(BLOBS),) * 2 + (
        0,
        0,
    )


def test_blobs_that_the_broker_holds_are_not_uploaded_again(tmp_path):
    broker = SimulatedBroker()
    Operator(tmp_path, broker).run()
    missing = list(BLOBS)[-2]
    del broker.retained[missing]
    broker.sent.clear()
    report = Operator(tmp_path, broker).run()
    assert [sent.topic for sent in broker.sent] == [missing, DESIRED]
    assert (report.held, report.uploaded) == (len(BLOBS) - 1, 1)


def test_a_damaged_retained_blob_is_replaced(tmp_path):
    broker = SimulatedBroker()
    broker.retained[list(BLOBS)[3]] = b"something else"
    Operator(tmp_path, broker).run()
    assert {topic: broker.retained[topic] for topic in BLOBS} == BLOBS


def test_blobs_that_a_broker_acknowledged_and_lost_are_published_again(tmp_path):
    broker = SimulatedBroker()
    operator = Operator(tmp_path, broker)

    class Forgetful(dict):
        forgotten = 0

        def __setitem__(self, topic, payload):
            if topic in BLOBS and self.forgotten < 3:
                self.forgotten += 1
            else:
                super().__setitem__(topic, payload)

    broker.retained = Forgetful()
    report = operator.run()
    assert report.repeated == 3
    assert {topic: broker.retained[topic] for topic in BLOBS} == BLOBS


def test_a_broker_that_never_keeps_anything_is_named(tmp_path):
    broker = SimulatedBroker()

    class Sieve(dict):
        def __setitem__(self, topic, payload):
            pass

    broker.retained = Sieve()
    with pytest.raises(LinkError, match="does not keep them"):
        Operator(tmp_path, broker).run()


def test_a_refused_publish_ends_with_the_brokers_reason(tmp_path):
    broker = SimulatedBroker()
    broker.deny(f"{TOPICS.prefix}/blob/+")
    with pytest.raises(LinkError, match="Not authorized"):
        Operator(tmp_path, broker).run()


@pytest.mark.parametrize("lose", [True, False])
@pytest.mark.parametrize("silence", [True, False])
def test_a_broker_restarted_in_the_middle_gets_everything(tmp_path, lose, silence):
    broker = SimulatedBroker(first_silence=silence)
    operator = Operator(tmp_path, broker)
    operator.at(len(BLOBS), lambda: broker.restart(lose_retained=lose))
    report = operator.run()
    assert report.reconnects == 1
    assert {topic: broker.retained[topic] for topic in BLOBS} == BLOBS
    assert desired(broker).sha256 == report.sha256


def test_a_broker_that_stays_away_is_an_error_with_the_reason(tmp_path):
    broker = SimulatedBroker()
    broker.stop()
    with pytest.raises(LinkError, match="connection refused"):
        Operator(tmp_path, broker, connect_s=0.1).run()


@pytest.mark.parametrize(
    "topic",
    [
        DESIRED,
        TOPICS.desired_for_device("pi-2", "motion"),
        TOPICS.desired_for_group("line", "motion"),
    ],
)
def test_the_revision_is_above_every_other_one_of_the_model(tmp_path, topic):
    broker = SimulatedBroker()
    before = Desired(
        revision=int(NOW * 1000) + 5000,
        model="motion",
        version="1",
        sha256="0" * 64,
        bytes=1,
        payloads=(WHOLE.payload,),
    )
    broker.retained[topic] = encode(before)
    broker.retained[TOPICS.desired_for_device("pi-3", "motion")] = b"not json"
    report = Operator(tmp_path, broker).run()
    assert report.revision == desired(broker).revision == before.revision + 1


def test_a_committed_update_ends_the_wait(tmp_path):
    broker = SimulatedBroker()
    operator = Operator(tmp_path, broker, wait_s=20.0)

    def device():
        for seq, state in enumerate(("fetching", "verified", "committed"), start=1):
            record(broker, "pi-1", seq, update(state))

    operator.when("is out for pi-1", lambda: say(broker, status("pi-1", update("offered"))))
    operator.when("pi-1: offered", device)
    report = operator.run()
    assert (report.committed, report.refused, report.unanswered) == (1, 0, 0)
    states = [line for line in operator.told if line.startswith("pi-1:")]
    assert states == [f"pi-1: {s}" for s in ("offered", "fetching", "verified", "committed")]


def test_a_refusal_comes_with_its_reason(tmp_path):
    broker = SimulatedBroker()
    operator = Operator(tmp_path, broker, wait_s=20.0)
    refused = update("refused", reason="golden vector 3 differs")
    operator.when("is out", lambda: say(broker, status("pi-1", refused)))
    report = operator.run()
    assert report.refused == 1
    assert report.devices[0].reason == "golden vector 3 differs"
    assert "pi-1: refused: golden vector 3 differs" in operator.told


def test_a_comparison_that_has_begun_ends_the_wait(tmp_path):
    broker, rule = SimulatedBroker(), Experiment(windows_min=7)
    operator = Operator(tmp_path, broker, wait_s=20.0, experiment=rule)
    begun = update("comparing", reason="0 windows")
    operator.when("is out", lambda: say(broker, status("pi-1", begun)))
    report = operator.run()
    assert (report.comparing, report.refused, report.unanswered) == (1, 0, 0)
    assert (desired(broker).experiment, desired(broker).schema) == (rule, 2)


def test_reports_on_older_revisions_and_other_models_are_no_verdict(tmp_path):
    broker = SimulatedBroker()
    old = update("committed", revision=int(NOW * 1000) - 1)
    say(broker, status("pi-1", old, msgspec.structs.replace(update("committed"), model="sound")))
    report = Operator(tmp_path, broker, wait_s=0.3).run()
    assert (report.committed, report.unanswered) == (0, 1)


def test_a_newer_publish_by_somebody_else_ends_the_wait(tmp_path):
    broker = SimulatedBroker()
    operator = Operator(tmp_path, broker, wait_s=20.0)
    newer = update("fetching", revision=int(NOW * 1000) + 1, version="2.0.0")
    operator.when("is out", lambda: say(broker, status("pi-1", newer)))
    report = operator.run()
    assert report.devices[0].state == "superseded"
    assert "2.0.0" in report.devices[0].reason


def test_a_device_without_such_a_pipeline_will_not_take_it(tmp_path):
    broker = SimulatedBroker()
    say(broker, status("pi-1", model="sound"))
    report = Operator(tmp_path, broker, wait_s=20.0).run()
    assert report.devices[0].state == "refused"
    assert "no pipeline for model 'motion'" in report.devices[0].reason


def test_a_group_waits_for_every_device_that_says_it_belongs(tmp_path):
    broker = SimulatedBroker()
    for device in ("pi-1", "pi-2"):
        say(broker, status(device, groups=("line",)))
    say(broker, status("pi-3", groups=("other",)))
    operator = Operator(tmp_path, broker, to="group:line", wait_s=20.0)

    def answer(device, state):
        return lambda: say(broker, status(device, update(state), groups=("line",)))

    operator.when("is out", answer("pi-1", "committed"))
    operator.when("pi-1: committed", answer("pi-2", "refused"))
    report = operator.run()
    assert desired(broker, TOPICS.desired_for_group("line", "motion")).revision == report.revision
    assert [(v.device, v.state) for v in report.devices] == [
        ("pi-1", "committed"),
        ("pi-2", "refused"),
    ]


def test_a_group_that_nobody_belongs_to_yet_is_said(tmp_path):
    operator = Operator(tmp_path, SimulatedBroker(), to="group:line", wait_s=20.0)
    report = operator.run()
    assert report.devices == ()
    assert any("no device says yet" in sentence for sentence in operator.told)


@pytest.mark.parametrize("silence", [True, False])
def test_a_broker_that_dies_while_the_device_fetches_is_seeded_again(tmp_path, silence):
    broker = SimulatedBroker(first_silence=silence)
    operator = Operator(tmp_path, broker, wait_s=20.0)

    def finish():
        assert {topic: broker.retained.get(topic) for topic in BLOBS} == BLOBS
        say(broker, status("pi-1", update("committed")))

    operator.when("is out", lambda: say(broker, status("pi-1", update("fetching"))))
    operator.when("pi-1: fetching", lambda: broker.restart(lose_retained=True))
    operator.when("connecting again", lambda: operator.at(len(BLOBS), finish))
    report = operator.run()
    assert (report.committed, report.reconnects) == (1, 1)
    assert desired(broker).revision == report.revision


def test_blobs_that_a_device_waits_for_are_checked_and_put_back(tmp_path):
    broker = SimulatedBroker()
    operator = Operator(tmp_path, broker, wait_s=20.0)
    lost = list(BLOBS)[4]

    def starve():
        del broker.retained[lost]
        reason = "waiting for 1 chunk"
        say(broker, status("pi-1", update("fetching", reason=reason)))
        operator.at(len(BLOBS), finish)

    def finish():
        assert broker.retained[lost] == BLOBS[lost]
        say(broker, status("pi-1", update("committed")))

    operator.when("is out", starve)
    assert operator.run().committed == 1


@pytest.mark.parametrize("text", ["", "pi 1", "group:", "group:a b", "a/b", "+", "grp:x"])
def test_bad_targets_are_refused(text):
    with pytest.raises(ConfigError):
        Target.parse(text)


def test_a_damaged_bundle_is_refused_before_anything_is_sent(tmp_path):
    path = tmp_path / "x.bundle"
    path.write_bytes(BUNDLE[:-5000])
    with pytest.raises(BundleError):
        read_parcel(path)


def test_all_are_the_devices_that_have_the_model(tmp_path):
    broker = SimulatedBroker()
    say(broker, status("pi-1", groups=("line",)))
    say(broker, status("pi-2"))
    say(broker, status("pi-3", model="sound"))
    operator = Operator(tmp_path, broker, to="all", wait_s=20.0)

    def answer():
        for device in ("pi-1", "pi-2"):
            say(broker, status(device, update("committed")))

    operator.when("is out for all", answer)
    report = operator.run()
    assert (report.committed, report.refused, report.unanswered) == (2, 0, 0)


def test_devices_are_told_within_which_time_to_begin(tmp_path):
    broker = SimulatedBroker()
    Operator(tmp_path, broker, start_within_s=600).run()
    assert desired(broker).start_within_s == 600
