"""No power cut leaves a device without a model, its mark or a record; and holes are noticed."""

import logging
from pathlib import Path

import crash_outbox
import crash_store
import crash_trust
import pytest
from crash_model import PARTS, place
from power import FOLDER, Link, RecordingDisk, power_cuts, put, tree

from edge_agent.folder import DataFolder


@pytest.fixture
def folder():
    with place() as folder:
        yield folder


@pytest.mark.parametrize("part", PARTS)
def test_no_power_cut_leaves_anything_bad(folder, part, caplog):
    caplog.set_level(logging.CRITICAL + 1)  # every damaged state is said
    faults = list(PARTS[part](folder))
    assert not [fault for fault in faults if fault]
    assert len(faults) > {"store": 35, "payloads": 80}.get(part, 400)


def test_what_is_kept_in_a_new_data_folder_is_not_lost_with_it(tmp_path):
    before, disk = tree(tmp_path), RecordingDisk()
    folder = DataFolder(tmp_path / "var" / "data", disk)
    disk.replace(folder.outbox, b"records")
    disk.log.append(("promise", "kept"))
    states = [state for promise, state in power_cuts(before, disk.log) if promise]
    assert [state.get(folder.outbox) for state in states] == [b"records"]


# --- the model notices what is missing ------------------------------------------------------------


class WithoutFolders(RecordingDisk):
    """Syncs files, and no names."""

    def sync(self, path):
        if not path.is_dir():
            super().sync(path)


class WithoutFiles(RecordingDisk):
    """Syncs names, and no content that is put in place by its name."""

    def sync(self, path):
        if path.is_dir():
            super().sync(path)


class InPlace(RecordingDisk):
    """Overwrites what is there."""

    def replace(self, path, data):
        self.write(path, data)
        self.sync(path)
        self.sync(path.parent)


class WithoutMark(RecordingDisk):
    """Syncs everything but the mark."""

    def sync(self, path):
        if path.name not in (".mark.json.tmp", "trust"):
            super().sync(path)


def bad(faults):
    return next(filter(None, faults), None)


@pytest.mark.parametrize("disk", [WithoutFolders, WithoutFiles, InPlace])
def test_a_disk_that_forgets_something_leaves_no_model(folder, disk):
    updates = crash_store.updates(disk, folder / "updates", lead=False)
    assert bad(crash_store.changes(disk, folder / "changes")) or bad(updates)


def test_a_disk_that_forgets_names_loses_what_was_fetched(folder):
    assert "are fetched again" in bad(crash_store.payloads(WithoutFolders, folder))


@pytest.mark.parametrize("disk", [WithoutFiles, WithoutMark])
def test_a_mark_that_is_not_synced_gets_lost(folder, disk):
    assert "mark.json: damaged" in bad(crash_trust.checks(disk, folder))


def test_a_log_of_records_that_is_not_synced_loses_some(folder):
    def is_sync_of_the_log(operation):
        return operation[0] == "sync" and operation[1].name == "outbox.db-wal"

    assert bad(crash_outbox.boots(folder, without=is_sync_of_the_log))


# --- what the model says --------------------------------------------------------------------------


def left(folder, before, log):
    """Each state of a folder, by name."""
    return [
        {str(path.relative_to(folder)): seen for path, seen in state.items() if path != folder}
        for _, state in power_cuts(before, log)
    ]


def test_what_is_not_synced_may_be_torn_each_by_itself(tmp_path):
    (tmp_path / "a").write_bytes(b"old!")
    (tmp_path / "b").write_bytes(b"")
    before, disk = tree(tmp_path), RecordingDisk()
    with disk.open(tmp_path / "a") as a, disk.open(tmp_path / "b") as b:
        a.write(0, b"new!")
        b.write(0, b"bb")
    found = {(state["a"], state["b"]) for state in left(tmp_path, before, disk.log)}
    contents = {b"old!", b"new!", b"ned!", b"\0\0\0\0"}
    assert found == {(x, y) for x in contents for y in (b"", b"b", b"bb", b"\0\0")}


def test_a_rename_may_be_there_before_the_content_and_is_never_half(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    before, disk = tree(tmp_path), RecordingDisk()
    disk.write(tmp_path / "t", b"new")
    disk.rename(tmp_path / "t", tmp_path / "a")
    states = left(tmp_path, before, disk.log)
    assert {"a": b""} in states
    assert {"a": b"new"} in states
    assert {"a": b"old", "t": b"n"} in states
    assert all("a" in state for state in states)
    disk.sync(tmp_path / "a")
    disk.sync(tmp_path)
    disk.log.append(("promise", "done"))
    assert [s for p, s in power_cuts(before, disk.log) if p] == [tree(tmp_path)]


def test_what_lies_in_a_folder_that_is_lost_is_lost(tmp_path):
    before, disk = tree(tmp_path), RecordingDisk()
    disk.make_folder(tmp_path / "f")
    disk.write(tmp_path / "f" / "x", b"x")
    disk.sync(tmp_path / "f" / "x")
    disk.sync(tmp_path / "f")
    assert {} in left(tmp_path, before, disk.log)
    assert {"f": FOLDER, "f/x": b"x"} in left(tmp_path, before, disk.log)


def test_states_are_built_as_they_are(tmp_path):
    source = tmp_path / "source"
    (source / "in").mkdir(parents=True)
    (source / "in" / "x").write_bytes(b"x")
    (source / "link").symlink_to("in/x")
    state = tree(source)
    assert state[source / "link"] == Link("in/x")
    built = put(state, source, tmp_path / "built")
    assert {path.relative_to(built): seen for path, seen in tree(built).items()} == {
        path.relative_to(source): seen for path, seen in state.items()
    }
    assert Path(built / "link").read_bytes() == b"x"
