"""The status is kept current, and a cloned card is named instead of fought."""

import msgspec

from edge_agent.contract.messages import PipelineStatus, Status, decode
from edge_agent.contract.topics import Topics
from edge_agent.status import StatusBoard
from edge_agent.testing.broker import SimulatedBroker, SimulatedLink
from edge_agent.testing.clock import FakeClock

TOPICS = Topics("edge")
TOPIC = TOPICS.status("pi")


class Device:
    """A status board on a link of its own, as the agent has it."""

    def __init__(self, broker: SimulatedBroker, boot: str, host: str) -> None:
        self.clock = FakeClock()
        self.status = Status(device="pi", boot=boot, host=host, agent="1", online=True)
        will = msgspec.structs.replace(self.status, online=False, reason="connection lost")
        self.link: SimulatedLink = broker.link(
            f"pi-{boot}", will=(TOPIC, msgspec.json.encode(will))
        )
        self.board = StatusBoard(
            self.link.port("status"),
            TOPICS,
            make=lambda: self.status,
            every_s=30,
            clock=self.clock,
        )
        self.link.start()

    def step(self) -> None:
        self.board.step()


def kept(broker: SimulatedBroker) -> Status:
    return decode(broker.retained[TOPIC], Status)


def published(broker: SimulatedBroker) -> int:
    return sum(sent.topic == TOPIC for sent in broker.sent)


def test_the_status_is_published_when_it_changes_and_when_it_is_due() -> None:
    broker = SimulatedBroker()
    device = Device(broker, "aaaa", "kitchen")
    device.step()
    assert kept(broker).boot == "aaaa"
    device.step()
    assert published(broker) == 1
    running = PipelineStatus(name="p", model="m", state="running")
    device.status = msgspec.structs.replace(device.status, pipelines=(running,))
    device.step()
    assert published(broker) == 2
    device.clock.advance(30)
    device.step()
    assert published(broker) == 3


def test_clones_name_each_other_and_do_not_quarrel() -> None:
    broker = SimulatedBroker()
    first, second = Device(broker, "aaaa", "kitchen"), Device(broker, "bbbb", "cellar")
    for _ in range(20):
        first.step()
        second.step()
    assert published(broker) <= 8
    first.clock.advance(30)
    first.step()
    assert kept(broker).conflicts == ("bbbb on cellar",)
    second.clock.advance(30)
    second.step()
    assert kept(broker).conflicts == ("aaaa on kitchen",)


def test_a_clone_that_goes_is_forgotten_and_its_last_word_is_mended() -> None:
    broker = SimulatedBroker()
    first, second = Device(broker, "aaaa", "kitchen"), Device(broker, "bbbb", "cellar")
    for _ in range(4):
        first.step()
        second.step()
    broker.cut(second.link)
    assert not kept(broker).online
    first.step()
    status = kept(broker)
    assert status.online
    assert status.conflicts == ()


def test_what_others_left_behind_is_no_clone() -> None:
    broker = SimulatedBroker()
    earlier = Status(device="pi", boot="0000", host="kitchen", agent="1", online=True)
    broker.publish(TOPIC, msgspec.json.encode(earlier), retain=True)
    device = Device(broker, "aaaa", "kitchen")
    device.step()
    device.step()
    assert kept(broker).conflicts == ()
    broker.publish(TOPIC, b"noise")
    device.step()
    assert kept(broker).boot == "aaaa"
