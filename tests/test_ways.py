"""The ways by which bytes come: from a broker, on request, from a web server, from a folder."""

import functools
import http.server
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from fleets import Fleet

from edge_agent.contract.messages import decode, encode
from edge_agent.contract.requests import TrustIndex
from edge_agent.contract.topics import Topics
from edge_agent.fleet.export import export
from edge_agent.fleet.parcel import trust_files
from edge_agent.fleet.respond import Responder
from edge_agent.fleet.session import Session
from edge_agent.testing.broker import SimulatedBroker
from edge_agent.update.orders import Orders
from edge_agent.update.trust.check import TrustCheck
from edge_agent.update.ways.base import Answer, Blob, File
from edge_agent.update.ways.folder import FolderWay
from edge_agent.update.ways.https import HttpsWay
from edge_agent.update.ways.request import RequestWay
from edge_agent.update.ways.retained import RetainedWay
from edge_agent.update.ways.several import SeveralWays

TOPICS = Topics("edge")
DEADLINE_S = 20.0
TIMESTAMP = File("timestamp.json", 1_000_000)
ABSENT = File("9.root.json", 1_000_000)


@pytest.fixture
def fleet(tmp_path):
    fleet = Fleet(tmp_path)
    fleet.order(fleet.approve(fleet.release(padding=200_000)))
    return fleet


def chunks(fleet):
    """Wants for every blob of the ordered payload, with what they should give."""
    (payload,) = fleet.repository.approval(fleet.repository.bundles_of("motion")[0], ["all"])[
        1
    ].payloads
    data = fleet.repository.payload(payload.sha256)
    from edge_agent.contract.chunks import cut  # noqa: PLC0415

    pieces = cut(data)
    wants = {Blob(payload.index[0], "", 0, 48 * 1024): pieces.blobs[payload.index[0]]}
    for offset in range(0, len(data), payload.chunk_bytes):
        piece = data[offset : offset + payload.chunk_bytes]
        digest = next(d for d, blob in pieces.blobs.items() if blob == piece)
        wants[Blob(digest, payload.sha256, offset, len(piece))] = piece
    return wants


def collect(way, count, turn=lambda: None):
    found, deadline = [], time.monotonic() + DEADLINE_S
    while len(found) < count:
        assert time.monotonic() < deadline, found
        turn()
        found += way.answers()
        time.sleep(0.001)
    return {answer.want: answer.data for answer in found}


class Wire:
    """A way over a simulated broker that holds what an operator has put there."""

    def __init__(self, fleet, make):
        self.broker = SimulatedBroker()
        self.link = self.broker.link()
        self.port = self.link.port("update")
        self.way = make(self.port)
        self.trust = trust_files(fleet.files())
        for digest, data in (fleet.repository.blobs() | self.trust.blobs).items():
            self.broker.publish(TOPICS.blob(digest), data, retain=True)
        self.broker.publish(TOPICS.trust_index(), encode(self.trust.index), retain=True)
        self.link.start()

    def turn(self):
        while not self.port.events.empty():
            self.way.take(self.port.events.get())


def test_retained_messages_give_files_and_blobs_and_say_what_is_absent(fleet):
    wire = Wire(fleet, lambda port: RetainedWay(port, TOPICS))
    wire.turn()
    wants = chunks(fleet)
    wire.way.ask([TIMESTAMP, ABSENT, *wants])
    found = collect(wire.way, len(wants) + 2, wire.turn)
    assert found == {TIMESTAMP: fleet.files()["timestamp.json"], ABSENT: None, **wants}
    wire.way.drop(list(wants))


@pytest.mark.parametrize("has_index", [True, False])
def test_whether_there_is_a_newer_root_is_known_at_once_from_the_index_alone(
    fleet, tmp_path, has_index
):
    """python-tuf asks for ``2.root.json`` first; a broker says nothing of what it does not have."""
    wire = Wire(fleet, lambda port: RetainedWay(port, TOPICS))
    if not has_index:
        wire.broker.retained.pop(TOPICS.trust_index())
    seconds = DEADLINE_S if has_index else 2.0

    def check():
        return TrustCheck(
            tmp_path / "trust", root=fleet.root, device="pi-1", groups=(), models=("motion",),
            seconds=seconds, now=time.time(),
        )  # fmt: skip

    orders, now_ns = Orders(wire.way, check, answer_s=3.0, check_s=60.0), 0
    deadline = time.monotonic() + DEADLINE_S
    while (verdict := orders.step(now_ns)) is None and not orders.fault:
        assert time.monotonic() < deadline
        wire.turn()
        for answer in wire.way.answers():
            orders.take(answer)
        time.sleep(0.001)
    orders.close()
    if has_index:  # and on its clock no time has passed: nothing was waited for
        assert verdict.desired["motion"].version == "1.0.0"
    else:  # the hole: only its deadline ends it
        assert orders.fault == "the trust check took more than 2 s (it waits for 2.root.json)"


def test_a_changed_index_is_news(fleet):
    wire = Wire(fleet, lambda port: RetainedWay(port, TOPICS))
    wire.turn()
    wire.way.news()
    wire.turn()
    assert wire.way.news()
    assert not wire.way.news()
    fleet.repository.refresh()
    index = trust_files(fleet.files()).index
    wire.broker.publish(TOPICS.trust_index(), encode(index), retain=True)
    wire.turn()
    assert wire.way.news()
    assert decode(encode(index), TrustIndex) == index


def test_a_malformed_index_is_ignored(fleet):
    wire = Wire(fleet, lambda port: RetainedWay(port, TOPICS))
    wire.broker.publish(TOPICS.trust_index(), b"rubbish", retain=True)
    wire.turn()
    wire.way.ask([TIMESTAMP])
    wire.turn()
    assert wire.way.answers() == []
    wire.broker.publish(TOPICS.trust_index(), encode(wire.trust.index), retain=True)
    assert collect(wire.way, 1, wire.turn)[TIMESTAMP] == fleet.files()["timestamp.json"]


def test_requests_are_answered_by_the_operator(fleet):
    wire = Wire(fleet, lambda port: RequestWay(port, TOPICS, "pi-1"))
    session = Session(wire.broker.link("operator"))
    with session:
        session.connect(5.0)
        responder = Responder(session, TOPICS, fleet.repository.read)
        responder.listen()
        wire.turn()
        wants = chunks(fleet)
        wire.way.ask([TIMESTAMP, ABSENT, *wants])

        def turn():
            responder.step(0.01)
            wire.turn()

        found = collect(wire.way, len(wants) + 2, turn)
    assert found == {TIMESTAMP: fleet.files()["timestamp.json"], ABSENT: None, **wants}


def test_answers_that_nobody_asked_for_fill_no_memory(fleet):
    from edge_agent.contract.requests import Part, encode_part  # noqa: PLC0415

    wire = Wire(fleet, lambda port: RequestWay(port, TOPICS, "pi-1"))
    wire.turn()
    wire.way.ask([TIMESTAMP])
    for part in (Part(name="trust/other", parts=9), Part(name=TIMESTAMP.name, parts=10**6)):
        wire.broker.publish(TOPICS.response("pi-1"), encode_part(part, b"x" * 1000))
    wire.broker.publish(TOPICS.response("pi-1"), b"rubbish")
    wire.turn()
    assert wire.way.answers() == []
    assert wire.way._parts == {}


class Dumb(http.server.SimpleHTTPRequestHandler):
    """Python's own file server: it knows no ranges."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass


class Ranged(Dumb):
    """The same with ranges, as nginx and every object store have."""

    asked = 0

    def do_GET(self):
        span = self.headers.get("Range")
        if span is None:
            super().do_GET()
            return
        Ranged.asked += 1
        first, last = map(int, span.removeprefix("bytes=").split("-"))
        with Path(self.translate_path(self.path)).open("rb") as file:
            file.seek(first)
            data = file.read(last - first + 1)
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def web(folder, handler):
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("handler", [Dumb, Ranged])
def test_a_web_server_gives_ranges_or_else_whole_blobs(fleet, tmp_path, handler):
    export(fleet.repository, tmp_path / "web")
    woken = threading.Event()
    Ranged.asked = 0
    with web(tmp_path / "web", handler) as url:
        way = HttpsWay(url, None, woken.set)
        wants = chunks(fleet)
        way.ask([TIMESTAMP, ABSENT, *wants])
        found = collect(way, len(wants) + 2)
        way.close()
    assert found == {TIMESTAMP: fleet.files()["timestamp.json"], ABSENT: None, **wants}
    assert woken.is_set()
    assert Ranged.asked == (len(wants) - 1 if handler is Ranged else 0)


def test_a_web_server_that_is_away_is_tried_again(fleet, tmp_path, monkeypatch):
    export(fleet.repository, tmp_path / "web")
    with web(tmp_path / "web", Dumb) as url:
        pass  # it was here
    way = HttpsWay(url, None, lambda: None)
    way.ask([TIMESTAMP])
    assert way.answers() == []
    way.drop([TIMESTAMP])
    way.close()


class Babbling(Dumb):
    """Says that there is no such thing, and never stops saying so."""

    def do_GET(self):
        self.send_response(404)
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            while True:
                self.wfile.write(bytes(100_000))


def test_an_error_page_without_end_is_not_read_to_the_end(fleet, tmp_path):
    with web(tmp_path, Babbling) as url:
        way = HttpsWay(url, None, lambda: None)
        way.ask([ABSENT])
        assert collect(way, 1) == {ABSENT: None}
        way.close()


def test_a_folder_gives_what_is_in_it(fleet, tmp_path):
    way = FolderWay(tmp_path / "stick")
    assert not way.ready
    assert export(fleet.repository, tmp_path / "stick") > 5
    assert way.ready
    wants = chunks(fleet)
    way.ask([TIMESTAMP, ABSENT, *wants])
    found = collect(way, len(wants) + 2)
    assert found == {TIMESTAMP: fleet.files()["timestamp.json"], ABSENT: None, **wants}
    assert export(fleet.repository, tmp_path / "stick") == 1  # only the timestamp


class Scripted:
    """A way that says what a test tells it to."""

    def __init__(self, *, ready=True):
        self.ready, self.asked, self.dropped, self.said = ready, [], [], []

    def ask(self, wants):
        self.asked += wants

    def drop(self, wants):
        self.dropped += wants

    def take(self, event):
        return False

    def answers(self):
        said, self.said = self.said, []
        return said

    def news(self):
        return False

    def close(self):
        self.ready = False


def test_what_one_way_does_not_answer_the_next_is_asked_for():
    first, second, away = Scripted(), Scripted(), Scripted(ready=False)
    ways = SeveralWays([away, first, second])
    ways.ask([TIMESTAMP])
    assert (first.asked, second.asked) == ([TIMESTAMP], [])
    ways.ask([TIMESTAMP])  # again, after a silence
    assert (first.asked, second.asked) == ([TIMESTAMP], [TIMESTAMP])
    second.said = [Answer(TIMESTAMP, b"data")]
    assert ways.answers() == [Answer(TIMESTAMP, b"data")]
    assert away.asked == []


def test_absence_counts_when_every_way_says_so():
    first, second = Scripted(), Scripted()
    ways = SeveralWays([first, second])
    ways.ask([ABSENT])
    first.said = [Answer(ABSENT, None)]
    assert ways.answers() == []
    assert second.asked == [ABSENT]
    second.said = [Answer(ABSENT, None)]
    assert ways.answers() == [Answer(ABSENT, None)]
    ways.drop([ABSENT])
    assert first.dropped == [ABSENT]
    ways.close()
    assert not ways.ready
