"""What a device believes: every attack that The Update Framework names, and three of our own."""

import json
import shutil
import subprocess
import sys
import time

import msgspec
import pytest
from fleets import DEVICE, SECRET, Fleet, ask
from tuf.api.exceptions import DownloadHTTPError, RepositoryError
from tuf.api.metadata import Metadata
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from edge_agent.contract.chunks import cut
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.release import Choice, Order, Ring, bundle_path, group_path
from edge_agent.contract.topics import CHUNK_BYTES
from edge_agent.fleet.trust.keys import make_key, read_keys
from edge_agent.fleet.trust.repository import Repository
from edge_agent.fleet.trust.signed import ChangedError
from edge_agent.update.partial import Partial, WrongBlobError
from edge_agent.update.trust.child import MADE, Piped, floor
from edge_agent.update.trust.mark import read_mark

DAY_S = 86_400.0
OLD_FILES = "timestamp.json"


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path, groups=("kitchen",))


@pytest.fixture
def trust(tmp_path):
    return tmp_path / "trust"


def plain_client(fleet, folder, files):
    """python-tuf's client as it is, without what this project adds."""
    folder.mkdir(exist_ok=True)
    updater = Updater(
        str(folder), "edge:/", fetcher=Piped(files.get), bootstrap=fleet.root.read_bytes()
    )
    updater.refresh()
    return updater


def test_an_approved_and_ordered_bundle_is_desired(fleet, trust):
    release = fleet.approve(fleet.release())
    order = fleet.order(release)
    answer = ask(fleet, trust)
    assert answer.ok
    desired = answer.desired["motion"]
    assert (desired.sha256, desired.version, desired.revision) == (
        release.sha256,
        "1.0.0",
        order.revision,
    )
    assert desired.payloads == release.approval.payloads
    newer = fleet.approve(fleet.release("0.9.0"))
    fleet.reopen()
    assert fleet.repository.bundles_of("motion") == [release.sha256, newer.sha256]
    assert desired.bytes == len(release.data)


def test_nothing_ordered_is_nothing_desired(fleet, trust):
    assert ask(fleet, trust).desired == {}


def test_a_check_without_the_cryptography_package_gives_the_same(fleet, trust, tmp_path):
    """A device has only the pure-Python verification."""
    fleet.order(fleet.approve(fleet.release()))
    block = tmp_path / "without"
    block.mkdir()
    (block / "without_cryptography.py").write_text(
        "import sys; sys.modules['cryptography'] = None\n"
        "from edge_agent.update.trust.child import main; main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import without_cryptography"],
        input=json.dumps(
            {
                "folder": str(trust), "root": str(fleet.root), "device": DEVICE, "groups": [],
                "models": [], "seconds": 30, "bytes_max": 2**28, "now": time.time(),
            }
        ).encode() + b"\n" + b"\xff" * 8 * 3,
        capture_output=True, env={"PYTHONPATH": str(block)}, check=False,
    )  # fmt: skip
    assert b"there is no timestamp.json" in done.stdout, done.stderr
    assert b"ModuleNotFoundError" not in done.stderr


# --- the attacks of the specification -------------------------------------------------------------


def test_an_older_release_is_refused(fleet, trust):
    fleet.order(fleet.approve(fleet.release("1.0.0")))
    before = fleet.files()
    fleet.order(fleet.approve(fleet.release("1.1.0")))
    assert ask(fleet, trust).desired["motion"].version == "1.1.0"
    answer = ask(fleet, trust, before)
    assert not answer.ok
    assert answer.desired == {}


def test_expired_metadata_install_nothing(fleet, trust):
    fleet.order(fleet.approve(fleet.release()))
    answer = ask(fleet, trust, now=time.time() + 15 * DAY_S)
    assert (answer.ok, answer.later) == (False, True)
    assert "expired" in answer.reason
    assert "edge-fleet refresh" in answer.reason


def test_files_of_two_releases_do_not_mix(fleet, trust):
    fleet.order(fleet.approve(fleet.release("1.0.0")))
    before = fleet.files()
    fleet.order(fleet.approve(fleet.release("1.1.0")))
    mixed = {**fleet.files(), "timestamp.json": before["timestamp.json"]}
    snapshot = next(name for name in before if name.endswith("snapshot.json"))
    mixed[snapshot] = next(
        data for name, data in fleet.files().items() if name.endswith("snapshot.json")
    )
    assert not ask(fleet, trust, mixed).ok


def test_an_unknown_key_signs_in_vain(fleet, trust, tmp_path):
    stranger = Fleet(tmp_path / "stranger")
    stranger.order(stranger.approve(stranger.release("6.6.6")))
    forged = {**stranger.files(), "1.root.json": fleet.files()["1.root.json"]}
    answer = ask(fleet, trust, forged)
    assert not answer.ok
    assert "cannot be trusted" in answer.reason


def test_every_flipped_bit_is_refused(fleet, trust):
    fleet.order(fleet.approve(fleet.release()))
    good = fleet.files()
    wanted = {"timestamp.json"} | {n for n in good if "root" not in n and "group" not in n}
    for name in sorted(wanted):
        at = len(good[name]) // 2
        bad = good[name][:at] + bytes([good[name][at] ^ 1]) + good[name][at + 1 :]
        answer = ask(fleet, trust, {**good, name: bad})
        assert not answer.ok, name
        shutil.rmtree(trust)
    assert ask(fleet, trust, good).ok


def test_endless_data_are_refused(fleet, trust):
    endless = {**fleet.files(), "timestamp.json": b"{" + b" " * 6_000_000}
    answer = ask(fleet, trust, endless)
    assert not answer.ok
    assert "larger than signed metadata may be" in answer.reason


def test_slow_retrieval_ends(fleet, trust):
    check_s = 1.5
    from edge_agent.update.trust.check import TrustCheck  # noqa: PLC0415

    check = TrustCheck(
        trust, root=fleet.root, device=DEVICE, groups=(), models=("motion",),
        seconds=check_s, now=time.time(),
    )  # fmt: skip
    began = time.monotonic()
    while (answer := check.poll()) is None:
        assert time.monotonic() < began + 30
        time.sleep(0.01)
    assert answer.later
    assert "took more than 1.5 s (it waits for 2.root.json)" in answer.reason


# --- ours -----------------------------------------------------------------------------------------


def test_a_power_cut_that_empties_the_cache_lets_plain_tuf_go_back_and_not_us(fleet, trust):
    fleet.order(fleet.approve(fleet.release("1.0.0")))
    before = fleet.files()
    fleet.order(fleet.approve(fleet.release("1.1.0")))
    plain = trust.parent / "plain"
    plain_client(fleet, plain, fleet.files())
    assert ask(fleet, trust).ok
    for cache in (plain, trust / "metadata"):
        for name in ("timestamp.json", "snapshot.json", "targets.json", "rollout.json"):
            if (cache / name).exists():
                (cache / name).write_bytes(b"")
    updater = plain_client(fleet, plain, before)  # the hole: it takes the older release
    assert updater.get_targetinfo(f"rollout/device/{DEVICE}/motion").custom["choice"][
        "version"
    ] == ("1.0.0")
    answer = ask(fleet, trust, before)
    assert not answer.ok
    assert "an older release is offered" in answer.reason
    assert ask(fleet, trust).desired["motion"].version == "1.1.0"


class Counting(FetcherInterface):
    """Gives files in pieces of a chunk, and counts the bytes that were taken."""

    def __init__(self, files):
        self.files, self.taken = files, 0

    def _fetch(self, url):
        if (data := self.files.get(url.removeprefix("edge:/"))) is None:
            raise DownloadHTTPError("absent", 404)
        return self._pieces(data)

    def _pieces(self, data):
        for at in range(0, len(data), CHUNK_BYTES):
            piece = data[at : at + CHUNK_BYTES]
            self.taken += len(piece)
            yield piece


def test_plain_tuf_takes_all_of_a_bundle_before_it_sees_a_bad_byte_and_we_one_chunk(
    fleet, trust, tmp_path
):
    """What a ``url`` without a hash costs, and why chunk digests are signed."""
    release = fleet.approve(fleet.release(padding=20 * CHUNK_BYTES))
    fleet.order(release)
    updater = plain_client(fleet, tmp_path / "plain", fleet.files())
    info = updater.get_targetinfo(bundle_path("all", release.sha256))
    bad = bytes([release.data[0] ^ 1]) + release.data[1:]
    fetcher = updater._fetcher = Counting({"bundle": bad})
    info.path = "bundle"
    updater.config.prefix_targets_with_hash = False
    with pytest.raises(RepositoryError):
        updater.download_target(info, str(tmp_path / "target"), "edge:/")
    assert fetcher.taken == len(bad) > 20 * CHUNK_BYTES  # the hole
    (payload,) = ask(fleet, trust).desired["motion"].payloads
    blobs = cut(fleet.repository.payload(payload.sha256)).blobs
    partial = Partial(tmp_path / "partial", payload)
    for digest in payload.index:
        partial.put(digest, blobs[digest])
    first, name = next(iter(partial.missing.items()))
    assert name == "chunk 0"
    with pytest.raises(WrongBlobError, match="chunk 0 does not have the announced digest"):
        partial.put(first, bytes([blobs[first][0] ^ 1]) + blobs[first][1:])
    assert partial.want(first).bytes <= CHUNK_BYTES
    assert first in partial.missing
    partial.close()


def test_hidden_new_roots_are_noticed_after_a_power_cut(fleet, trust):
    before = fleet.files()
    fleet.repository.rotate("online", fleet.keys, SECRET)
    fleet.reopen()
    assert ask(fleet, trust).ok
    shutil.rmtree(trust / "metadata")
    answer = ask(fleet, trust, before)
    assert not answer.ok
    assert "root.json has version 1" in answer.reason


def test_a_damaged_mark_installs_nothing(fleet, trust):
    assert ask(fleet, trust).ok
    (trust / "mark.json").write_bytes(b"{")
    answer = ask(fleet, trust)
    assert not answer.ok
    assert "damaged" in answer.reason


def test_an_order_for_all_reaches_a_device_of_no_group_and_the_newest_order_wins(fleet, trust):
    release = fleet.approve(fleet.release())
    everybody = fleet.order(release, group_path("all", "motion"))
    assert ask(fleet, trust).desired["motion"].revision == everybody.revision
    own = fleet.order(release)
    assert ask(fleet, trust).desired["motion"].revision == own.revision


def test_a_ring_of_all_leaves_the_devices_outside_alone(fleet, trust):
    release = fleet.approve(fleet.release())
    path = group_path("all", "motion")
    nobody, everybody = Ring(salt="s", share_ppm=0), Ring(salt="s", share_ppm=1_000_000)
    fleet.order(release, path, ring=nobody)
    assert ask(fleet, trust).desired == {}
    fleet.order(release, path, ring=everybody, start_within_s=600)
    assert ask(fleet, trust).desired["motion"].start_within_s == 600


def test_of_equal_revisions_that_of_the_own_group_comes_before_that_of_all(fleet, trust):
    """As in a rollout whose first ring is a group, and whose second does not hold this device."""
    release = fleet.approve(fleet.release())
    choice = Choice(sha256=release.sha256, version="1.0.0")
    order = Order(revision=7, model="motion", choice=choice)
    outside = msgspec.structs.replace(order, ring=Ring(salt="s", share_ppm=0))
    orders = {group_path("all", "motion"): outside, group_path("canary", "motion"): order}
    fleet.repository.order_all(orders)
    assert ask(fleet, trust, groups=("canary",)).desired["motion"].revision == 7
    assert ask(fleet, trust).desired == {}


def test_two_commands_at_once_do_not_overwrite_each_others_orders(fleet):
    release = fleet.approve(fleet.release())
    second = Repository(fleet.folder)
    order = fleet.order(release)
    before = fleet.files()
    with pytest.raises(ChangedError, match="changed by another command"):
        second.refresh()
    assert fleet.files() == before
    again = Repository(fleet.folder)
    again.refresh()
    assert list(again.orders().values()) == [order]


def test_after_other_online_keys_the_numbers_may_begin_anew(fleet, trust):
    """How an operator recovers from a thief who has signed a huge version."""
    for _ in range(3):
        fleet.repository.refresh()
    assert ask(fleet, trust).ok
    assert read_mark(trust / "mark.json").timestamp == 4
    fleet.repository.rotate("online", fleet.keys, SECRET)
    fleet.repository.timestamp.signed.version = 1
    fleet.repository.snapshot.signed.version = 1
    fleet.repository.refresh()
    fleet.reopen()
    assert ask(fleet, trust).ok
    assert read_mark(trust / "mark.json").timestamp == 2


def test_with_every_online_key_stolen_no_unapproved_bundle_is_desired(fleet, trust):
    approved = fleet.approve(fleet.release("1.0.0"))
    fleet.order(approved)
    evil = fleet.release("6.6.6")
    fleet.order(evil)  # the thief has the rollout key
    answer = ask(fleet, trust)
    assert answer.desired == {}
    assert "ordered and not approved" in answer.refused["motion"]
    thief = Repository(fleet.folder)
    targets = thief.roles["rollout"].signed.targets
    target = thief.roles["targets"].signed.targets[f"bundles/all/{approved.sha256}"]
    target.path = f"bundles/all/{evil.sha256}"
    targets[target.path] = target  # and approves in the only role that he can sign
    thief.refresh()
    fleet.reopen()
    answer = ask(fleet, trust)
    assert "ordered and not approved" in answer.refused["motion"]
    with pytest.raises(ConfigError, match="none of the keys given is a key of targets"):
        thief.approve(evil, read_keys(fleet.folder / "online", "rollout", None))


def test_the_online_key_alone_orders_nothing(fleet, trust):
    fleet.approve(fleet.release("1.0.0"))
    before = fleet.files()
    fleet.order(fleet.approve(fleet.release("0.9.0")))
    (online,) = read_keys(fleet.folder / "online", "online", None)
    order = Metadata.from_bytes(files_of(fleet, "rollout"))
    order.sign(online)
    forged = {**fleet.files(), f"{order.signed.version}.rollout.json": order.to_bytes()}
    assert ask(fleet, trust, before).desired == {}
    assert "cannot be trusted" in ask(fleet, trust, forged).reason
    assert ask(fleet, trust).desired["motion"].version == "0.9.0"


def test_the_targets_key_alone_changes_nothing(fleet, tmp_path):
    fleet.order(fleet.approve(fleet.release("1.0.0")))
    before, version = fleet.files(), fleet.repository.roles["targets"].signed.version
    fleet.approve(fleet.release("6.6.6"))
    new = files_of(fleet, "targets")
    instead = ask(fleet, tmp_path / "a", {**before, f"{version}.targets.json": new})
    assert "cannot be trusted" in instead.reason
    beside = ask(fleet, tmp_path / "b", {**before, f"{version + 1}.targets.json": new})
    assert beside.desired["motion"].version == "1.0.0"


def test_one_root_key_changes_nothing(fleet, trust, tmp_path):
    fleet.order(fleet.approve(fleet.release("1.0.0")))
    root = Metadata.from_bytes(fleet.files()["1.root.json"])
    root.signed.version += 1
    for role in ("timestamp", "snapshot", "targets"):
        root.signed.add_key(make_key(tmp_path / f"{role}.key", None).public_key, role)
    root.sign(read_keys(fleet.keys, "root", SECRET)[0])
    answer = ask(fleet, trust, fleet.files() | {"2.root.json": root.to_bytes()})
    assert "cannot be trusted" in answer.reason


def files_of(fleet, role):
    """The newest metadata of a role."""
    return fleet.files()[f"{fleet.repository.roles[role].signed.version}.{role}.json"]


def test_a_groups_key_approves_for_that_group_alone(fleet, trust, tmp_path):
    release = fleet.approve(fleet.release("1.0.0"), "kitchen")
    fleet.order(release, group_path("kitchen", "motion"), scope="kitchen")
    assert ask(fleet, trust, groups=("kitchen",)).desired["motion"].version == "1.0.0"
    fleet.order(release, scope="kitchen")
    answer = ask(fleet, tmp_path / "other", groups=())
    assert "approved for the group kitchen" in answer.refused["motion"]


def test_a_ring_holds_its_share_of_the_devices_and_grows(fleet, trust, tmp_path):
    from edge_agent.contract.release import Ring  # noqa: PLC0415

    devices = [f"d{number}" for number in range(4000)]
    small, large = Ring(salt="x", share_ppm=10_000), Ring(salt="x", share_ppm=100_000)
    inside = {device for device in devices if small.holds(device)}
    assert 20 <= len(inside) <= 65
    assert inside <= {device for device in devices if large.holds(device)}
    release = fleet.approve(fleet.release())
    fleet.order(release, group_path("kitchen", "motion"), ring=small)
    outside = next(device for device in devices if device not in inside)
    for device, expected in ((inside.pop(), 1), (outside, 0)):
        found = ask(fleet, tmp_path / device, groups=("kitchen",), device=device)
        assert len(found.desired) == expected


# --- the clock ------------------------------------------------------------------------------------


def test_a_device_without_a_clock_judges_by_what_was_signed(fleet, trust):
    fleet.order(fleet.approve(fleet.release()))
    assert ask(fleet, trust, now=0.0).ok
    assert read_mark(trust / "mark.json").issued > time.time() - 60


def test_old_metadata_are_expired_for_a_clock_at_1970_too(tmp_path, trust):
    past = MADE.timestamp() - 400 * DAY_S
    fleet = Fleet(tmp_path, now=lambda: past)
    answer = ask(fleet, trust, now=0.0)
    assert "expired" in answer.reason


def test_a_clock_that_jumps_ten_years_and_comes_back_has_done_no_harm(fleet, trust):
    fleet.order(fleet.approve(fleet.release()))
    assert not ask(fleet, trust, now=time.time() + 3650 * DAY_S).ok
    assert ask(fleet, trust).ok


def test_a_thief_of_the_online_keys_cannot_make_the_offline_roles_expire(fleet, trust):
    fleet.order(fleet.approve(fleet.release()))
    fleet.repository._now = lambda: time.time() + 3000 * DAY_S
    fleet.repository.refresh()
    assert ask(fleet, trust, now=time.time()).ok
    mark = read_mark(trust / "mark.json")
    assert mark.issued <= time.time() + 366 * DAY_S
    fleet.repository._now = time.time
    fleet.repository.refresh()
    assert "expired" in ask(fleet, trust).reason  # for this device a year has passed
    fleet.repository.rotate("online", fleet.keys, SECRET)
    fleet.reopen()
    assert ask(fleet, trust).ok  # what the stolen keys said is forgotten with them
    assert ask(fleet, trust).ok
    assert floor(0.0, 0.0) == MADE


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["root", "targets", "online", "rollout", "group-kitchen"])
def test_devices_follow_every_rotation(fleet, trust, role):
    release = fleet.approve(fleet.release())
    fleet.order(release)
    assert ask(fleet, trust).ok
    before = fleet.repository.key_ids()
    fleet.repository.rotate(role, fleet.keys, SECRET)
    fleet.reopen()
    assert fleet.repository.key_ids() != before
    fleet.order(release)
    answer = ask(fleet, trust)
    assert answer.ok, answer.reason
    assert answer.desired["motion"].version == "1.0.0"


def test_a_new_group_gets_a_key(fleet, trust):
    signers = read_keys(fleet.keys, "targets", SECRET)
    fleet.repository.add_group("hall", fleet.keys, SECRET, signers)
    release = fleet.approve(fleet.release(), "hall")
    fleet.order(release, group_path("hall", "motion"), scope="hall")
    assert ask(fleet, trust, groups=("hall",)).desired["motion"].version == "1.0.0"
    with pytest.raises(ConfigError, match="has a key already"):
        fleet.repository.add_group("hall", fleet.keys, SECRET, signers)


def test_keys_need_their_passphrase_and_are_never_overwritten(tmp_path):
    path = tmp_path / "x-1.key"
    signer = make_key(path, b"secret")
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in path.read_bytes()
    (again,) = read_keys(tmp_path, "x", b"secret")
    assert again.public_key.keyid == signer.public_key.keyid
    for wrong, says in ((b"other", "passphrase is wrong"), (None, "has a passphrase")):
        with pytest.raises(ConfigError, match=says):
            read_keys(tmp_path, "x", wrong)
    with pytest.raises(ConfigError, match="never overwritten"):
        make_key(path, None)
    with pytest.raises(ConfigError, match="has no y-N"):
        read_keys(tmp_path, "y", None)


def test_plain_tuf_agrees_with_what_the_repository_signs(fleet, tmp_path):
    fleet.order(fleet.approve(fleet.release()))
    assert plain_client(fleet, tmp_path / "plain", fleet.files()) is not None
    with pytest.raises(RepositoryError):
        plain_client(fleet, tmp_path / "bad", {**fleet.files(), "timestamp.json": b"{}"})


def test_renewing_keeps_devices_going(fleet, trust):
    fleet.order(fleet.approve(fleet.release()))
    assert ask(fleet, trust).ok
    before = fleet.repository.root.signed.expires
    fleet.repository._now = lambda: time.time() + 300 * DAY_S
    fleet.repository.renew(fleet.keys, SECRET)
    fleet.reopen()
    assert fleet.repository.root.signed.expires > before
    assert ask(fleet, trust, now=time.time() + 301 * DAY_S).desired["motion"].version == "1.0.0"
