"""The store: what it keeps and what it repairs."""

import json
import shutil
from pathlib import Path

import pytest
from bundles import make_bundle

from edge_agent.contract.bundle import parse_bundle
from edge_agent.contract.errors import BundleError, StorageError
from edge_agent.update.pointer import FORMAT, Installed, Refusal
from edge_agent.update.store import Store

OLD, NEW, NEWER = (make_bundle(version=version) for version in ("1.0.0", "1.1.0", "1.2.0"))
FIXTURES = Path(__file__).parent / "fixtures" / "store"


def digest(bundle):
    return parse_bundle(bundle).digest


def put(store, tmp_path, bundle):
    """A fetched bundle, whole, as the updater hands it over."""
    file = tmp_path / "fetched"
    file.write_bytes(bundle)
    store.adopt(digest(bundle), file)


def take(store, tmp_path, bundle, revision):
    put(store, tmp_path, bundle)
    version = parse_bundle(bundle).manifest.version
    store.commit("motion", Installed(sha256=digest(bundle), version=version, revision=revision))
    store.collect()


def blobs(folder):
    return {path.name.removesuffix(".bundle") for path in (folder / "blobs").iterdir()}


def test_a_new_store_knows_nothing(tmp_path):
    pointer = Store(tmp_path / "store").pointer("motion")
    assert (pointer.current, pointer.previous, pointer.revision) == (None, None, 0)


def test_installing_by_hand_makes_a_bundle_current_and_keeps_the_one_before(tmp_path):
    store = Store(tmp_path / "store")
    store.install(OLD)
    (tmp_path / "new.bundle").write_bytes(NEW)
    manifest = store.install(tmp_path / "new.bundle")
    pointer = Store(tmp_path / "store").pointer("motion")
    assert manifest.version == pointer.current.version == "1.1.0"
    assert pointer.previous.sha256 == digest(OLD)
    assert store.read(digest(NEW)).digest == digest(NEW)


def test_installing_by_hand_again_and_again_keeps_two_bundles(tmp_path):
    store = Store(tmp_path / "store")
    for bundle in (OLD, NEW, NEWER):
        store.install(bundle)
    assert blobs(tmp_path / "store") == {digest(NEW), digest(NEWER)}


def test_installing_keeps_the_revision_that_was_decided_on(tmp_path):
    store = Store(tmp_path / "store")
    take(store, tmp_path, OLD, 7)
    store.install(NEW)
    assert store.pointer("motion").revision == 7


def test_installing_rubbish_leaves_the_store_as_it_was(tmp_path):
    store = Store(tmp_path / "store")
    store.install(OLD)
    with pytest.raises(BundleError, match="not a bundle"):
        store.install(b"rubbish")
    with pytest.raises(BundleError, match=r"absent\.bundle"):
        store.install(tmp_path / "absent.bundle")
    assert blobs(tmp_path / "store") == {digest(OLD)}


def test_what_no_pointer_names_is_removed_and_shared_bundles_stay(tmp_path):
    store = Store(tmp_path / "store")
    for revision, bundle in enumerate((OLD, NEW, NEWER), 1):
        take(store, tmp_path, bundle, revision)
    store.commit("other", Installed(sha256=digest(NEW), version="1.1.0", revision=1))
    take(store, tmp_path, make_bundle(version="1.3.0"), 4)
    take(store, tmp_path, make_bundle(version="1.4.0"), 5)
    assert digest(NEW) in blobs(tmp_path / "store")
    assert len(blobs(tmp_path / "store")) == 3


def test_collecting_keeps_what_is_on_its_way(tmp_path):
    store = Store(tmp_path / "store")
    put(store, tmp_path, NEW)
    store.partial("a" * 64).mkdir()
    store.partial("b" * 64).mkdir()
    store.collect({digest(NEW), "a" * 64})
    assert blobs(tmp_path / "store") == {digest(NEW)}
    assert store.partial("a" * 64).exists()
    assert not store.partial("b" * 64).exists()


def test_going_back_to_the_previous_bundle_needs_no_third_one(tmp_path):
    store = Store(tmp_path / "store")
    for revision, bundle in enumerate((OLD, NEW), 1):
        take(store, tmp_path, bundle, revision)
    store.commit("motion", Installed(sha256=digest(OLD), version="1.0.0", revision=3))
    pointer = store.pointer("motion")
    assert (pointer.current.sha256, pointer.previous.sha256) == (digest(OLD), digest(NEW))


def test_refusals_are_remembered_within_a_bound_and_count_as_decided(tmp_path):
    store = Store(tmp_path / "store")
    for number in range(40):
        store.refuse(
            "motion", Refusal(sha256=f"{number:064}", version="1", revision=number, reason="no")
        )
    pointer = Store(tmp_path / "store").pointer("motion")
    assert pointer.revision == 39
    assert len(pointer.refused) == 16
    assert pointer.refused[-1].sha256 == f"{39:064}"


def test_what_another_agent_refused_is_asked_again(tmp_path):
    store = Store(tmp_path / "store")
    refusal = Refusal(sha256="0" * 64, version="1", revision=7, reason="too new", agent="0.0.1")
    store.refuse("motion", refusal)
    assert Store(tmp_path / "store").pointer("motion").revision == 0


def test_a_bundle_that_is_taken_after_all_is_no_longer_refused(tmp_path):
    store = Store(tmp_path / "store")
    store.refuse("motion", Refusal(sha256=digest(NEW), version="1.1.0", revision=1, reason="no"))
    take(store, tmp_path, NEW, 2)
    assert store.pointer("motion").refused == ()


def test_a_damaged_bundle_is_noticed_and_removed(tmp_path):
    store = Store(tmp_path / "store")
    store.install(OLD)
    path = store.path(digest(OLD))
    path.write_bytes(OLD[:-1] + b"?")
    with pytest.raises(BundleError):
        store.read(digest(OLD))
    assert not store.has(digest(OLD))
    assert not path.exists()


def test_another_whole_bundle_under_the_name_is_noticed(tmp_path):
    store = Store(tmp_path / "store")
    store.install(OLD)
    store.path(digest(OLD)).write_bytes(NEW)
    with pytest.raises(BundleError, match="its digest is not its name"):
        store.read(digest(OLD))


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"format":1}', b"\xff\x00", None])
def test_a_damaged_pointer_gives_way_to_the_one_before(tmp_path, damage):
    store = Store(tmp_path / "store")
    take(store, tmp_path, OLD, 1)
    take(store, tmp_path, NEW, 2)
    path = tmp_path / "store" / "models" / "motion.json"
    path.write_bytes(damage) if damage is not None else path.unlink()
    with pytest.raises(StorageError):
        store.pointer("motion")
    store.collect()  # must not remove what the earlier pointer needs
    store = Store(tmp_path / "store")
    assert "the one before is used" in store.repaired["motion"]
    pointer = store.pointer("motion")
    assert pointer.current.sha256 == digest(OLD)
    assert store.read(pointer.current.sha256).manifest.version == "1.0.0"
    assert Store(tmp_path / "store").repaired == {}


def test_a_damaged_pointer_without_one_before_means_no_model(tmp_path):
    store = Store(tmp_path / "store")
    store.install(OLD)
    (tmp_path / "store" / "models" / "motion.json").write_bytes(b"torn")
    store = Store(tmp_path / "store")
    assert "no model" in store.repaired["motion"]
    assert store.pointer("motion").current is None
    store.install(OLD)
    assert store.pointer("motion").current.sha256 == digest(OLD)


def test_installing_over_a_damaged_pointer_repairs_it(tmp_path):
    store = Store(tmp_path / "store")
    store.install(OLD)
    (tmp_path / "store" / "models" / "motion.json").write_bytes(b"torn")
    store.install(NEW)
    assert store.pointer("motion").current.sha256 == digest(NEW)


def snapshot(folder):
    return {
        path.relative_to(folder): (
            path.read_bytes() if path.is_file() else None,
            path.stat().st_mtime_ns,
        )
        for path in folder.rglob("*")
    }


def test_a_newer_store_is_refused_and_not_touched(tmp_path):
    Store(tmp_path / "store").install(OLD)
    (tmp_path / "store" / "FORMAT").write_text(f"{FORMAT + 1}\n")
    before = snapshot(tmp_path)
    with pytest.raises(StorageError, match=f"format {FORMAT + 1}"):
        Store(tmp_path / "store")
    assert snapshot(tmp_path) == before


def test_a_newer_pointer_is_refused_and_not_touched(tmp_path):
    store = Store(tmp_path / "store")
    store.install(OLD)
    path = tmp_path / "store" / "models" / "motion.json"
    path.write_bytes(json.dumps({"format": FORMAT + 1, "something": "else"}).encode())
    before = snapshot(tmp_path)
    for call in (store.pointer, store.repair):
        with pytest.raises(StorageError, match=f"format {FORMAT + 1}"):
            call("motion")
    for call in (store.collect, lambda: Store(tmp_path / "store")):
        with pytest.raises(StorageError, match=f"format {FORMAT + 1}"):
            call()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("content", ["", "one", None])
def test_a_store_whose_format_is_lost_is_not_guessed_at(tmp_path, content):
    Store(tmp_path / "store")
    path = tmp_path / "store" / "FORMAT"
    path.write_text(content) if content is not None else path.unlink()
    with pytest.raises(StorageError, match=f"write {FORMAT}"):
        Store(tmp_path / "store")


@pytest.mark.parametrize("number", [1, 2])
def test_a_committed_store_of_an_earlier_format_opens_and_goes_on(tmp_path, number):
    shutil.copytree(FIXTURES / f"v{number}", tmp_path / "store")
    store = Store(tmp_path / "store")
    pointer = store.pointer("motion")
    assert (pointer.current.version, pointer.previous.version) == ("1.1.0", "1.0.0")
    assert [refusal.version for refusal in pointer.refused] == ["1.2.0"]
    assert pointer.revision == 30
    assert store.read(pointer.current.sha256).manifest.version == "1.1.0"
    assert store.read(pointer.previous.sha256).manifest.version == "1.0.0"
    assert (tmp_path / "store" / "FORMAT").read_text() == f"{FORMAT}\n"
    assert (pointer.update.state if pointer.update else None) == {1: None, 2: "fetching"}[number]
    store.install(NEWER)
    assert store.pointer("motion").previous.version == "1.1.0"
