"""Installing by hand: a stick is checked like the network, a bare bundle is not taken silently."""

import json
import shutil
import subprocess
import sys
import time

import pytest
import yaml
from bundles import make_bundle
from fleets import Fleet

from edge_agent.config import load_config
from edge_agent.contract.errors import BundleError, ConfigError, StorageError
from edge_agent.contract.release import group_path
from edge_agent.fleet.export import export
from edge_agent.folder import DataFolder
from edge_agent.install import install_folder
from edge_agent.update.store import Store

DEADLINE_S = 60.0
INSTALL = (sys.executable, "-m", "edge_agent", "install")
YEAR_S = 365 * 86_400.0
PIPELINE = {
    "name": "main",
    "model": "motion",
    "channels": ["a", "b"],
    "source": {"type": "simulated", "rate_hz": 50.0},
}


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path)


class Stick:
    """A device without a broker, and an operator's exports."""

    def __init__(self, folder, root, **update):
        self.folder = folder
        folder.mkdir()
        self.config = folder / "agent.yaml"
        trial = {"seconds": 0.2, "windows_min": 1}
        update = {"root_file": str(root), "answer_s": 0.05, "trial": trial} | update
        self.write(update)

    def write(self, update):
        fields = {"device": "pi-1", "groups": ["kitchen"], "data_dir": "data"}
        self.config.write_text(
            yaml.safe_dump({**fields, "pipelines": [PIPELINE], "update": update})
        )

    def install(self, folder):
        return install_folder(load_config(self.config), self.folder, folder, lambda _: None)

    def command(self, *arguments):
        return subprocess.run(
            [*INSTALL, *map(str, arguments), "--config", str(self.config)],
            capture_output=True,
            check=False,
            text=True,
            timeout=DEADLINE_S,
        )

    @property
    def pointer(self):
        return Store(DataFolder(self.folder / "data").store).pointer("motion")


@pytest.fixture
def device(tmp_path, fleet):
    return Stick(tmp_path / "device", fleet.root)


def exported(fleet, name="stick"):
    folder = fleet.folder.parent / name
    export(fleet.repository, folder)
    return folder


def ordered(fleet, version="1.1.0", **fields):
    release = fleet.approve(fleet.release(version, **fields))
    fleet.order(release)
    return release


def test_a_stick_installs_what_is_ordered_and_the_agent_tries_it(fleet, device):
    release = ordered(fleet)
    ended = device.command(exported(fleet))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "installed motion 1.1.0, on trial from the agent's next start\n"
    assert "motion 1.1.0: probing" in ended.stderr.splitlines()
    pointer = device.pointer
    assert (pointer.current, pointer.update.state) == (None, "trial")
    agent = subprocess.Popen([sys.executable, "-m", "edge_agent", "run", str(device.config)])
    try:
        deadline = time.monotonic() + DEADLINE_S
        while device.pointer.current is None:
            assert time.monotonic() < deadline
            assert agent.poll() is None
            time.sleep(0.05)
    finally:
        agent.terminate()
        agent.wait(DEADLINE_S)
    assert device.pointer.current.sha256 == release.sha256
    again = device.install(exported(fleet))
    assert again == ["motion 1.1.0 is installed; nothing newer is ordered"]


def test_an_order_for_the_group_counts_and_waits_for_nothing_random(fleet, device):
    release = fleet.approve(fleet.release("1.1.0"))
    fleet.order(release, group_path("kitchen", "motion"), start_within_s=86_400)
    assert device.install(exported(fleet))[0].startswith("installed motion 1.1.0")


def test_what_is_ordered_for_others_is_not_for_this_device(fleet, device):
    release = fleet.approve(fleet.release("1.1.0"))
    fleet.order(release, group_path("cellar", "motion"))
    assert device.install(exported(fleet)) == [
        "motion: nothing is ordered for this device or its groups"
    ]
    assert device.pointer.update is None


def test_an_older_stick_is_refused(fleet, device):
    ordered(fleet, "1.0.0")
    old = exported(fleet, "old")
    ordered(fleet, "1.1.0")
    device.install(exported(fleet, "new"))
    with pytest.raises(BundleError, match="New timestamp version 3 must be >= 5"):
        device.install(old)
    assert device.pointer.update.desired.version == "1.1.0"


def test_an_expired_stick_is_refused(tmp_path):
    fleet = Fleet(tmp_path, now=lambda: time.time() - YEAR_S)
    ordered(fleet)
    device = Stick(tmp_path / "device", fleet.root)
    with pytest.raises(BundleError, match="expired"):
        device.install(exported(fleet))
    assert device.pointer.update is None


def test_what_nobody_approved_is_refused(fleet, device):
    fleet.order(fleet.release("6.6.6"))
    with pytest.raises(BundleError, match="ordered and not approved"):
        device.install(exported(fleet))
    assert device.pointer.update is None


def test_another_fleets_stick_is_refused(tmp_path, fleet, device):
    (tmp_path / "other").mkdir()
    other = Fleet(tmp_path / "other")
    ordered(other)
    with pytest.raises(BundleError, match="cannot be trusted"):
        device.install(exported(other))
    assert device.pointer.update is None


def test_a_stick_with_wrong_bytes_is_refused(fleet, device):
    ordered(fleet)
    stick = exported(fleet)
    for blob in (stick / "blob").iterdir():
        blob.write_bytes(b"rubbish")
    with pytest.raises(BundleError, match="with another digest than announced"):
        device.install(stick)
    assert device.pointer.refused[-1].version == "1.1.0"


def test_a_stick_that_is_not_whole_is_named_and_gone_on_with(fleet, device):
    ordered(fleet, padding=200_000)
    stick = exported(fleet)
    shutil.move(stick / "blob", stick / "elsewhere")
    with pytest.raises(BundleError, match=r"waiting for \d+ of \d+ chunks: the folder is not"):
        device.install(stick)
    shutil.move(stick / "elsewhere", stick / "blob")
    assert device.install(stick)[0].startswith("installed motion 1.1.0")


def test_the_probe_judges_a_stick_too(fleet, device):
    ordered(fleet, wrong_golden=True)
    with pytest.raises(BundleError, match=r"motion 1\.1\.0 is refused: .*golden vector 0"):
        device.install(exported(fleet))
    with pytest.raises(BundleError, match="golden vector 0"):  # and it is remembered
        device.install(exported(fleet))


def test_a_running_agent_is_not_disturbed(fleet, device):
    ordered(fleet)
    with (
        DataFolder(device.folder / "data").locked(),
        pytest.raises(StorageError, match="another agent works in this data_dir: stop it first"),
    ):
        device.install(exported(fleet))
    assert not (device.folder / "data" / "trust").exists()


@pytest.mark.parametrize(
    ("update", "match"),
    [
        ({"enabled": False}, "root_file"),
        ({"unsigned": True}, "root_file"),
        ({"enabled": False, "root_file": "root.json"}, "enabled is false"),
    ],
)
def test_a_folder_needs_a_root_of_trust_and_an_agent_that_updates(fleet, device, update, match):
    ordered(fleet)
    device.write(update)
    with pytest.raises(ConfigError, match=match):
        device.install(exported(fleet))


def test_a_folder_that_is_no_export_is_named(device, tmp_path):
    with pytest.raises(ConfigError, match="edge-fleet export"):
        device.install(tmp_path)


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "motion.bundle"
    path.write_bytes(make_bundle(version="1.2.0"))
    return path


def test_a_bare_bundle_is_refused_where_models_are_signed(device, bundle):
    ended = device.command(bundle)
    assert ended.returncode == ConfigError.exit_code
    assert "signed models only" in ended.stderr
    assert device.pointer.current is None


def test_a_bare_bundle_is_taken_on_request_and_loudly(device, bundle):
    ended = device.command(bundle, "--unsigned")
    assert ended.returncode == 0, ended.stderr
    assert "UNSIGNED: motion 1.2.0 is installed although nobody" in ended.stderr
    assert device.pointer.current.version == "1.2.0"


def test_a_bare_bundle_is_taken_as_it_is_where_nothing_is_signed(device, bundle):
    device.write({"enabled": False})
    ended = device.command(bundle)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "installed motion 1.2.0; restart the agent to use it now\n"
    assert device.pointer.current.version == "1.2.0"


def test_a_folder_is_never_taken_unsigned(fleet, device):
    ordered(fleet)
    ended = device.command(exported(fleet), "--unsigned")
    assert ended.returncode == ConfigError.exit_code
    assert "a folder is always checked" in ended.stderr


def test_the_way_of_a_stick_leaves_the_mark_that_the_network_respects(fleet, device):
    ordered(fleet)
    device.install(exported(fleet))
    mark = json.loads((device.folder / "data" / "trust" / "mark.json").read_bytes())
    assert mark["timestamp"] == fleet.repository.timestamp.signed.version
