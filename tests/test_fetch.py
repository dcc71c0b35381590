"""Fetching: which blobs are asked for and when, what is kept on disk, how a kill is resumed."""

import hashlib
import itertools
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.chunks import cut
from edge_agent.contract.errors import BundleError, StorageError
from edge_agent.contract.messages import Desired
from edge_agent.contract.release import Payload
from edge_agent.contract.topics import CHUNK_BYTES
from edge_agent.update.fetch import WRONG_MAX, Fetch
from edge_agent.update.partial import Partial, announced_fault

ANSWER_S = 3.0
CHUNK = 256


def sha(data):
    return hashlib.sha256(data).hexdigest()


def content(chunks=40, tail=100):
    return random.Random(1).randbytes(chunks * CHUNK + tail)


def offer(data, chunk_bytes=CHUNK):
    """The description and the blobs of a payload that is cut small."""
    pieces = [data[i : i + chunk_bytes] for i in range(0, len(data), chunk_bytes)]
    listing = b"".join(hashlib.sha256(piece).digest() for piece in pieces)
    index = [listing[i : i + CHUNK_BYTES] for i in range(0, len(listing), CHUNK_BYTES)]
    payload = Payload(
        encoding="raw",
        sha256=sha(data),
        bytes=len(data),
        chunk_bytes=chunk_bytes,
        index=tuple(sha(blob) for blob in index),
    )
    return payload, {sha(blob): blob for blob in (*index, *pieces)}


class Conversation:
    """A fetch, a broker that answers at once with what it has, and the time."""

    def __init__(self, folder, payload, blobs, window_n=8, disk=None):
        self.partial = Partial(folder, payload, disk=disk)
        self.fetch = Fetch(self.partial, answer_s=ANSWER_S)
        self.blobs, self.window_n = dict(blobs), window_n
        self.now_ns, self.asked, self.subscribed = 0, [], set()
        self.widest = 0

    def turn(self, seconds=0.0):
        """Let time pass, then ask and answer until nothing moves; returns what was asked for."""
        self.now_ns += round(seconds * 1e9)
        before = len(self.asked)
        while True:
            plan = self.fetch.plan(self.now_ns, self.window_n)
            asked = [want.sha256 for want in plan.ask]
            self.subscribed |= set(asked)
            self.subscribed -= {want.sha256 for want in plan.drop}
            self.widest = max(self.widest, len(self.subscribed))
            self.asked += asked
            answers = [digest for digest in asked if digest in self.blobs]
            for digest in answers:
                self.fetch.take(digest, self.blobs[digest], self.now_ns)
            if not answers:
                return self.asked[before:]


def test_a_bundle_arrives_whole_in_one_question_a_blob(tmp_path):
    data = content()
    payload, blobs = offer(data)
    talk = Conversation(tmp_path / "p", payload, blobs)
    talk.turn()
    assert talk.partial.complete
    assert talk.partial.file.read_bytes() == data
    assert sorted(talk.asked) == sorted(blobs)
    assert talk.widest <= 8
    assert talk.subscribed == set()


def test_a_real_cut_with_several_index_blobs_arrives(tmp_path):
    data = random.Random(2).randbytes(CHUNK * (CHUNK_BYTES // 32 + 3))
    payload, blobs = offer(data)
    assert len(payload.index) == 2
    talk = Conversation(tmp_path / "p", payload, blobs)
    talk.turn()
    assert talk.partial.file.read_bytes() == data


def test_the_blobs_of_the_contract_are_those_that_are_asked_for(tmp_path):
    data = random.Random(3).randbytes(3 * CHUNK_BYTES + 5)
    whole = cut(data)
    payload, _ = offer(data, CHUNK_BYTES)
    assert payload == whole.payload
    talk = Conversation(tmp_path / "p", payload, whole.blobs)
    talk.turn()
    assert talk.partial.file.read_bytes() == data


def test_a_chunk_that_occurs_twice_is_fetched_once(tmp_path):
    data = b"a" * CHUNK + b"b" * CHUNK + b"a" * CHUNK + b"tail"
    payload, blobs = offer(data)
    talk = Conversation(tmp_path / "p", payload, blobs)
    talk.turn()
    assert talk.partial.file.read_bytes() == data
    assert len(talk.asked) == 4


def test_only_a_window_is_asked_for_until_answers_come(tmp_path):
    payload, blobs = offer(content())
    index = payload.index[0]
    talk = Conversation(tmp_path / "p", payload, {index: blobs[index]}, window_n=3)
    asked = talk.turn()
    assert len(asked) == 1 + 3
    assert talk.turn(ANSWER_S / 2) == []


def test_the_first_silence_is_asked_again_at_once_the_second_lets_others_go_first(tmp_path):
    payload, blobs = offer(content())
    talk = Conversation(tmp_path / "p", payload, {payload.index[0]: blobs[payload.index[0]]}, 2)
    first = talk.turn()[1:]
    assert talk.turn(ANSWER_S) == first
    assert talk.fetch.waiting_n == 0
    others = talk.turn(ANSWER_S)
    assert others
    assert not set(others) & set(first)
    assert talk.fetch.waiting_n == 2


def test_missing_blobs_come_back_after_pauses_that_grow_to_a_minute_for_ever(tmp_path):
    payload, blobs = offer(content(chunks=1, tail=1))
    talk = Conversation(tmp_path / "p", payload, {})
    times = [second for second in range(1200) if talk.turn(1.0)]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps[0] == ANSWER_S
    assert max(gaps) == gaps[-1] == pytest.approx(60 + ANSWER_S, abs=1)
    assert talk.fetch.waiting_n == 1
    talk.blobs = blobs
    for _ in range(70):
        talk.turn(1.0)
    assert talk.partial.complete


def test_a_slow_link_is_not_asked_twice_for_what_is_on_its_way(tmp_path):
    payload, blobs = offer(content())
    talk = Conversation(tmp_path / "p", payload, {payload.index[0]: blobs[payload.index[0]]})
    window = talk.turn()[1:]
    for digest in window:  # one every 2 s, so the last comes long after ANSWER_S
        assert not set(talk.turn(2.0)) & set(window)
        talk.fetch.take(digest, blobs[digest], talk.now_ns)


def test_a_link_slower_than_the_bound_stretches_it(tmp_path):
    payload, blobs = offer(content())
    talk = Conversation(tmp_path / "p", payload, {payload.index[0]: blobs[payload.index[0]]}, 1)
    (first,) = talk.turn()[1:]
    talk.turn(ANSWER_S)
    talk.now_ns += round(2.9e9)
    talk.fetch.take(first, blobs[first], talk.now_ns)
    talk.now_ns += 1
    (second,) = talk.turn()
    assert talk.turn(ANSWER_S + 1) == []
    talk.fetch.take(second, blobs[second], talk.now_ns)


def test_a_lost_connection_is_nobodys_silence(tmp_path):
    payload, blobs = offer(content())
    talk = Conversation(tmp_path / "p", payload, {payload.index[0]: blobs[payload.index[0]]})
    window = talk.turn()[1:]
    for _ in range(5):
        talk.fetch.lost()
        assert talk.turn(ANSWER_S) == window
    assert talk.fetch.waiting_n == 0


def test_a_wrong_answer_is_asked_again_later_and_refused_when_it_stays_wrong(tmp_path):
    payload, blobs = offer(content())
    bad = sha(content()[:CHUNK])
    talk = Conversation(tmp_path / "p", payload, {**blobs, bad: b"rubbish"})
    for _ in range(WRONG_MAX - 1):
        talk.turn(60.0)
    with pytest.raises(BundleError, match="chunk 0 came 5 times"):
        talk.turn(60.0)
    assert talk.asked.count(bad) == WRONG_MAX
    assert talk.partial.missing.keys() == {bad}


def test_a_wrong_answer_that_is_put_right_is_forgiven(tmp_path):
    payload, blobs = offer(content())
    bad = sha(content()[:CHUNK])
    talk = Conversation(tmp_path / "p", payload, {**blobs, bad: b"rubbish"})
    talk.turn()
    talk.blobs = blobs
    talk.turn(ANSWER_S)
    assert talk.partial.file.read_bytes() == content()


def test_answers_that_nobody_asked_for_are_kept_when_they_are_missing(tmp_path):
    payload, blobs = offer(content())
    talk = Conversation(tmp_path / "p", payload, {payload.index[0]: blobs[payload.index[0]]}, 1)
    talk.turn()
    for digest, blob in blobs.items():
        talk.fetch.take(digest, blob, talk.now_ns)
    talk.fetch.take("0" * 64, b"of somebody else", talk.now_ns)
    assert talk.partial.file.read_bytes() == content()
    talk.turn()
    assert talk.subscribed == set()


def announced(payload, size):
    return Desired(
        revision=1,
        model="motion",
        version="1.0.0",
        sha256="0" * 64,
        bytes=size,
        payloads=(payload,),
    )


@pytest.mark.parametrize(
    ("change", "size", "reason"),
    [
        ({}, 2001, "bundle_bytes_max"),
        ({"chunk_bytes": 1}, 900, "chunks of 1 bytes"),
        ({"chunk_bytes": CHUNK_BYTES + 1}, 900, "chunks of"),
        ({"index": ()}, 900, "0 index blobs"),
        ({"index": ("0" * 64,) * 2}, 900, "2 index blobs"),
        ({"bytes": 10_000_000}, 900, "a payload of 10000000 bytes"),
    ],
)
def test_announced_sizes_that_make_no_sense_are_not_tried(change, size, reason):
    payload, _ = offer(content(chunks=3))
    assert announced_fault(announced(payload, 900), 2000) is None
    changed = msgspec.structs.replace(payload, **change)
    assert reason in announced_fault(announced(changed, size), 2000)


def test_an_index_for_another_size_is_refused(tmp_path):
    payload, blobs = offer(content())
    other = msgspec.structs.replace(payload, bytes=payload.bytes + CHUNK)
    with pytest.raises(BundleError, match="the chunk list has"):
        Conversation(tmp_path / "p", other, blobs).turn()


def test_a_chunk_that_cannot_belong_where_the_list_puts_it_is_refused(tmp_path):
    data = content(chunks=2, tail=0)
    blob = b"short"
    listing = hashlib.sha256(data[:CHUNK]).digest() + hashlib.sha256(blob).digest()
    payload, _ = offer(data)
    other = msgspec.structs.replace(payload, index=(sha(listing),))
    blobs = {sha(b): b for b in (listing, data[:CHUNK], blob)}
    with pytest.raises(BundleError, match="chunk 1 has 5 bytes"):
        Conversation(tmp_path / "p", other, blobs).turn()


def test_no_more_is_asked_for_than_the_rate_allows(tmp_path):
    payload, blobs = offer(content(chunks=40, tail=0))
    talk = Conversation(tmp_path / "p", payload, blobs)
    talk.fetch = Fetch(talk.partial, answer_s=ANSWER_S, bytes_per_s=4 * CHUNK)
    talk.turn()
    for second in range(1, 10):
        talk.turn(1.0)
        assert len(talk.asked) - 1 <= 4 * second + 1
    while not talk.partial.complete:
        talk.turn(1.0)
    assert talk.partial.file.read_bytes() == content(chunks=40, tail=0)


def test_steps_that_are_far_apart_do_not_slow_down_what_the_rate_allows(tmp_path):
    payload, blobs = offer(content(chunks=40, tail=0))
    talk = Conversation(tmp_path / "p", payload, blobs)
    talk.fetch = Fetch(talk.partial, answer_s=ANSWER_S, bytes_per_s=16 * CHUNK)
    for _ in range(12):
        talk.turn(0.25)
    assert talk.partial.complete


def test_a_blob_that_is_surely_absent_is_asked_for_later(tmp_path):
    payload, blobs = offer(content(chunks=1, tail=1))
    talk = Conversation(tmp_path / "p", payload, {payload.index[0]: blobs[payload.index[0]]}, 1)
    first = talk.turn()[-1]
    talk.fetch.absent(first, talk.now_ns)
    assert first not in talk.turn()
    talk.blobs |= blobs
    while not talk.partial.complete:
        talk.turn(ANSWER_S)
    assert talk.asked.count(first) == 2


# --- resuming ------------------------------------------------------------------------------------


def some(blobs, payload, data, n):
    """The index and the first n chunks alone."""
    kept = {sha(data[i * CHUNK : (i + 1) * CHUNK]) for i in range(n)} | set(payload.index)
    return {digest: blob for digest, blob in blobs.items() if digest in kept}


@given(arrived=st.integers(0, 40))
def test_a_kill_costs_nothing_that_was_written(tmp_path_factory, arrived):
    folder = tmp_path_factory.mktemp("partials") / "p"
    data = content()
    payload, blobs = offer(data)
    Conversation(folder, payload, some(blobs, payload, data, arrived)).turn()  # never closed
    talk = Conversation(folder, payload, blobs)
    talk.turn()
    assert talk.partial.file.read_bytes() == data
    assert len(talk.asked) == 41 - arrived


def test_an_orderly_stop_costs_nothing(tmp_path):
    data = content()
    payload, blobs = offer(data)
    talk = Conversation(tmp_path / "p", payload, some(blobs, payload, data, 21))
    talk.turn()
    talk.partial.sync()
    talk.partial.close()
    talk = Conversation(tmp_path / "p", payload, blobs)
    talk.turn()
    assert len(talk.asked) == 41 - 21


def test_chunks_that_a_power_cut_took_are_fetched_again(tmp_path):
    data = content()
    payload, blobs = offer(data)
    talk = Conversation(tmp_path / "p", payload, blobs)
    talk.turn()
    with talk.partial.file.open("r+b") as file:
        file.seek(5 * CHUNK)
        file.write(bytes(2 * CHUNK))
    talk = Conversation(tmp_path / "p", payload, blobs)
    assert list(talk.partial.missing.values()) == ["chunk 5", "chunk 6"]
    talk.turn()
    assert talk.partial.file.read_bytes() == data


@pytest.mark.parametrize("name", ["index-0", "data"])
@pytest.mark.parametrize("damage", [b"", b"\xff" * 7])
def test_damaged_bookkeeping_costs_fetching_and_no_more(tmp_path, name, damage):
    data = content()
    payload, blobs = offer(data)
    Conversation(tmp_path / "p", payload, some(blobs, payload, data, 30)).turn()
    (tmp_path / "p" / name).write_bytes(damage)
    talk = Conversation(tmp_path / "p", payload, blobs)
    talk.turn()
    assert talk.partial.file.read_bytes() == data


def test_a_bundle_that_is_cut_anew_into_other_chunks_is_fetched_anew(tmp_path):
    data = content()
    payload, blobs = offer(data)
    Conversation(tmp_path / "p", payload, some(blobs, payload, data, 30)).turn()
    payload, blobs = offer(data, chunk_bytes=1000)
    talk = Conversation(tmp_path / "p", payload, blobs)
    talk.turn()
    assert talk.partial.file.read_bytes() == data


def test_a_disk_without_room_says_so_and_is_not_filled(tmp_path):
    data = content()
    payload, blobs = offer(data)
    partial = Partial(tmp_path / "p", payload, room_bytes=2**60)
    with pytest.raises(StorageError, match="bytes are free"):
        partial.put(payload.index[0], blobs[payload.index[0]])
    assert partial.file.stat().st_size == 0
    talk = Conversation(tmp_path / "p", payload, blobs)  # room has been made
    talk.turn()
    assert talk.partial.file.read_bytes() == data
