"""Power cuts at every moment of an update, of the trust mark and of the outbox."""

import shutil

import pytest
from outboxes import decision, kept, open_outbox
from test_store import (
    NEW,
    NEWER,
    OLD,
    LoggingDisk,
    crash_states,
    every_power_cut,
    loadable,
    take,
)

from edge_agent.contract.bundle import parse_bundle
from edge_agent.contract.chunks import cut
from edge_agent.contract.messages import Desired
from edge_agent.outbox.items import item_of
from edge_agent.update.pointer import Installed, Journal, Refusal
from edge_agent.update.store import Store
from edge_agent.update.trust.mark import Mark, read_mark, write_mark

WAY = ("offered", "fetching", "verified", "staged", "probing", "trial")


def desired(data):
    whole = cut(data)
    return Desired(
        revision=3,
        model="motion",
        version=parse_bundle(data).manifest.version,
        sha256=whole.payload.sha256,
        bytes=len(data),
        payloads=(whole.payload,),
    )


@pytest.mark.parametrize("outcome", ["committed", "rolled_back"])
def test_a_whole_update_leaves_a_model_and_a_journal_that_can_be_gone_on_with(tmp_path, outcome):
    folder = tmp_path / "store"
    store = Store(folder)
    take(store, tmp_path, NEWER, 1)
    take(store, tmp_path, OLD, 2)
    wanted = desired(NEW)

    def change(store):
        for state in WAY:
            if state == "staged":
                file = store.partial(wanted.sha256)
                store.disk.write(file, NEW)
                store.adopt(wanted.sha256, file)
            store.record("motion", Journal(desired=wanted, state=state))
        if outcome == "committed":
            store.commit("motion", Installed(sha256=wanted.sha256, version="1.1.0", revision=3))
        else:
            refusal = Refusal(
                sha256=wanted.sha256, version="1.1.0", revision=3, reason="ill", trial=True
            )
            store.refuse("motion", refusal)
        store.collect()

    states, found = 0, set()
    for left in every_power_cut(folder, change):
        states += 1
        found.add(loadable(left))
        reopened = Store(left)
        update = reopened.pointer("motion").update
        if update is not None and update.state in {"staged", "probing", "trial"}:
            assert reopened.has(update.desired.sha256), update.state
    assert states > 60
    assert found == ({"1.0.0", "1.1.0"} if outcome == "committed" else {"1.0.0"})


def test_the_mark_is_the_old_or_the_new_one_and_never_gone(tmp_path):
    path, log = tmp_path / "mark.json", []
    first = Mark(root=1, keys="k", timestamp=1, snapshot=1, roles={"targets.json": 1})
    second = Mark(root=2, keys="k", timestamp=9, snapshot=9, roles={"targets.json": 3})
    disk = LoggingDisk(log)
    write_mark(path, first, disk)
    durable = {path: path.read_bytes()}
    log.clear()
    write_mark(path, second, disk)
    seen = set()
    for length in range(len(log) + 1):
        for state in crash_states(durable, log[:length]):
            for file in tmp_path.iterdir():
                file.unlink()
            for file, data in state.items():
                file.write_bytes(data)
            seen.add(read_mark(path).timestamp)
    assert seen == {1, 9}


def test_a_log_that_is_cut_anywhere_after_its_last_sync_holds_what_was_accepted(tmp_path):
    """Every append syncs the log; what comes after may be there, be torn, or be gone."""
    path = tmp_path / "outbox.db"
    outbox = open_outbox(path)
    wal = path.with_name("outbox.db-wal")
    accepted = [(wal.stat().st_size, outbox.position)]
    main = path.read_bytes()
    for number in range(12):
        outbox.append([item_of(decision(number * 10 + each)) for each in range(10)])
        accepted.append((wal.stat().st_size, outbox.position))
    assert path.read_bytes() == main, "a checkpoint would need its pages modelled too"
    log = wal.read_bytes()
    outbox.close()
    cuts = 0
    for (synced, position), (later, _) in zip(
        accepted, [*accepted[1:], (len(log), 0)], strict=True
    ):
        for length in range(synced, later + 1, 1031):
            for tail in (b"", b"\x5a" * 4096):
                folder = tmp_path / "cut"
                folder.mkdir()
                (folder / "outbox.db").write_bytes(main)
                (folder / "outbox.db-wal").write_bytes(log[:length] + tail)
                reopened = open_outbox(folder / "outbox.db")
                there = {seq for boot, seq in kept(reopened) if boot == outbox.boot}
                assert there >= set(range(1, position + 1)), (length, synced)
                reopened.close()
                shutil.rmtree(folder)
                cuts += 1
    assert cuts > 100
