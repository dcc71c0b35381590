"""The broker in memory does what tests of the agent rely on."""

from queue import SimpleQueue

import pytest

from edge_agent.link import Denied, Down, Event, Link, Message, Port, Published, Refused, Up
from edge_agent.routes import Routes, matches
from edge_agent.testing.broker import SimulatedBroker, SimulatedLink, SimulatedPort


def drain(events: SimpleQueue[Event]) -> list[Event]:
    found = []
    while not events.empty():
        found.append(events.get())
    return found


def started(broker: SimulatedBroker, client_id: str = "a") -> tuple[SimulatedLink, SimulatedPort]:
    link = broker.link(client_id, will=(f"{client_id}/status", b"gone"))
    port = link.port("owner")
    link.start()
    assert drain(port.events) == [Up(broker.protocol)]
    return link, port


def test_it_is_a_link_and_a_port() -> None:
    link: Link = SimulatedBroker().link()
    port: Port = link.port("owner")
    assert not port.connected


def test_publish_is_routed_and_acknowledged() -> None:
    broker = SimulatedBroker()
    _, sender = started(broker, "a")
    _, receiver = started(broker, "b")
    receiver.subscribe(["x/+/z"])
    sender.publish(7, "x/y/z", b"1")
    assert drain(sender.events) == [Published(7)]
    assert drain(receiver.events) == [Message("x/y/z", b"1", retained=False)]
    receiver.unsubscribe(["x/+/z"])
    sender.publish(8, "x/y/z", b"2")
    assert drain(receiver.events) == []


def test_retained_messages_come_at_every_subscription_and_are_cleared_by_an_empty_payload() -> None:
    broker = SimulatedBroker()
    _, port = started(broker)
    port.publish(1, "r", b"kept", retain=True)
    port.subscribe(["r"])
    port.subscribe(["r"])
    kept = Message("r", b"kept", retained=True)
    assert drain(port.events) == [Published(1), kept, kept]
    broker.publish("r", b"", retain=True)
    port.subscribe(["r"])
    assert drain(port.events) == [Message("r", b"", retained=False)]


def test_acknowledgements_can_be_held_and_released_in_order() -> None:
    broker = SimulatedBroker()
    link, port = started(broker)
    broker.hold_acks()
    for token in range(3):
        port.publish(token, "t", b"")
    assert (drain(port.events), link.in_flight_n_peak) == ([], 3)
    broker.release_acks(1)
    assert drain(port.events) == [Published(0)]
    broker.release_acks()
    port.publish(9, "t", b"")
    assert drain(port.events) == [Published(1), Published(2), Published(9)]


def test_a_cut_link_loses_its_acknowledgements_and_subscriptions_and_its_will_is_published() -> (
    None
):
    broker = SimulatedBroker()
    link, port = started(broker, "a")
    _, watcher = started(broker, "b")
    watcher.subscribe(["a/status"])
    port.subscribe(["t"])
    broker.hold_acks()
    port.publish(1, "u", b"")
    broker.cut(link)
    assert drain(watcher.events) == [Message("a/status", b"gone", retained=False)]
    assert broker.retained["a/status"] == b"gone"
    port.publish(2, "u", b"into the void")
    broker.restore(link)
    broker.release_acks()
    broker.publish("t", b"not subscribed any more")
    assert drain(port.events) == [Down("connection lost"), Up(5)]
    assert [sent.payload for sent in broker.sent] == [b""]


def test_a_restart_keeps_or_loses_what_is_retained_and_publishes_no_will() -> None:
    broker = SimulatedBroker()
    _, port = started(broker)
    port.publish(1, "r", b"kept", retain=True)
    broker.restart()
    assert drain(port.events) == [Published(1), Down("connection lost"), Up(5)]
    assert broker.retained == {"r": b"kept"}
    broker.restart(lose_retained=True)
    assert broker.retained == {}


def test_the_first_exact_subscription_after_a_restart_may_be_silent() -> None:
    broker = SimulatedBroker(first_silence=True)
    broker.publish("r/1", b"kept", retain=True)
    _, port = started(broker)
    port.subscribe(["r/1"])
    assert len(drain(port.events)) == 1
    broker.restart()
    drain(port.events)
    port.subscribe(["r/1"])
    assert drain(port.events) == []
    port.subscribe(["r/1"])
    assert drain(port.events) == [Message("r/1", b"kept", retained=True)]


@pytest.mark.parametrize(("protocol", "answer"), [(5, Refused), (4, Published)])
def test_denied_topics(protocol: int, answer: type) -> None:
    broker = SimulatedBroker(protocol=protocol)
    _, port = started(broker)
    broker.deny("secret/#")
    port.publish(1, "secret/x", b"1", retain=True)
    port.subscribe(["secret/#"])
    published, subscribed = drain(port.events)
    assert isinstance(published, answer)
    assert isinstance(subscribed, Denied)
    assert broker.retained == {}
    broker.allow("secret/#")
    port.publish(1, "secret/x", b"1", retain=True)
    assert drain(port.events) == [Published(1)]


def test_lost_publishes_are_neither_routed_nor_acknowledged() -> None:
    broker = SimulatedBroker()
    link, port = started(broker)
    broker.lose_publishes(1)
    port.publish(1, "t", b"lost")
    port.publish(2, "t", b"arrives")
    assert drain(port.events) == [Published(2)]
    assert link.in_flight == {("owner", 1)}


def test_a_link_started_without_a_broker_comes_up_with_it_and_stops_in_order() -> None:
    broker = SimulatedBroker()
    broker.stop()
    link = broker.link("a", will=("a/status", b"gone"))
    port = link.port("owner")
    link.start()
    assert drain(port.events) == [Down("connection refused")]
    broker.start()
    assert drain(port.events) == [Up(5)]
    link.stop(("a/status", b"stopped"))
    assert drain(port.events) == [Down("stopped")]
    assert broker.retained == {"a/status": b"stopped"}
    broker.restart()
    assert drain(port.events) == []


def test_one_member_of_a_share_group_gets_each_message() -> None:
    broker = SimulatedBroker()
    _, first = started(broker, "a")
    link, second = started(broker, "b")
    for port in (first, second):
        port.subscribe(["$share/g/t/#"])
    for payload in (b"1", b"2"):
        broker.publish("t/x", payload)
    assert len(drain(first.events)) == len(drain(second.events)) == 1
    broker.cut(link)
    for payload in (b"3", b"4"):
        broker.publish("t/x", payload)
    assert len(drain(first.events)) == 2


def test_errors_of_the_caller_are_raised() -> None:
    broker = SimulatedBroker()
    _, port = started(broker)
    broker.hold_acks()
    port.publish(1, "t", b"")
    with pytest.raises(ValueError, match="in flight"):
        port.publish(1, "t", b"")


def test_what_is_not_a_topic_is_refused() -> None:
    _, port = started(SimulatedBroker())
    port.publish(2, "t/#", b"")
    (refused,) = drain(port.events)
    assert isinstance(refused, Refused)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/+/c", "a/b/c", True),
        ("a/+", "a", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/b/#", "a", False),
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("+", "", True),
        ("$share/g/a/+", "a/b", True),
        ("$share/g/a/+", "b", False),
        ("$share/g", "g", False),
    ],
)
def test_filters_match_as_the_standard_says(
    topic_filter: str, topic: str, *, expected: bool
) -> None:
    assert matches(topic_filter, topic) is expected


def test_routes_give_each_owner_once() -> None:
    routes: Routes[str] = Routes()
    routes.add("a/b", "x")
    routes.add("a/+", "x")
    routes.add("a/#", "y")
    assert routes.owners("a/b") == ["x", "y"]
    assert routes.remove("a/b", "x")
    assert routes.owners("a/b") == ["x", "y"]
    routes.add("a/+", "y")
    assert not routes.remove("a/+", "x")
    assert routes.holders("a/+") == ["y"]
