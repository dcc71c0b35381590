"""`edge-fleet provision`: from the archive for an SD card to the device's records."""

import contextlib
import os
import signal
import tarfile

import pytest
import yaml
from access import BASE, DEADLINE_S, TOPICS, Client, Members, lay_out, members, unpack
from bundles import make_bundle
from cryptography import x509
from system.processes import wait_for

from edge_agent.config import load_config
from edge_agent.contract.errors import BundleError, ConfigError
from edge_agent.fleet.access.archive import pack
from edge_agent.fleet.access.book import Book, Given, nats_users, read_book
from edge_agent.link import Down, Up

WORLDS = [(kind, how) for kind in ("mosquitto", "nats") for how in ("mtls", "password")]


@pytest.mark.parametrize(("kind", "how"), WORLDS)
def test_a_revoked_device_comes_in_no_more(tmp_path, kind, how):
    with members(tmp_path, kind, how) as (found, broker):
        with Client(found.settings("pi-1")), Client(found.settings("pi-2")):
            pass
        found.edge_fleet("provision", "pi-1", "--revoke")
        lay_out(found, found.folder / "etc")
        os.kill(broker.pid, signal.SIGHUP)
        wait_for(lambda: not comes_in(found, "pi-1"), "the broker to know of it", DEADLINE_S)
        assert comes_in(found, "pi-2")
        found.provision("pi-1", "--force")  # found again: a new credential
        lay_out(found, found.folder / "etc")
        os.kill(broker.pid, signal.SIGHUP)
        wait_for(lambda: comes_in(found, "pi-1"), "the new credential", DEADLINE_S)


@pytest.mark.parametrize(("kind", "how"), WORLDS)
def test_an_open_connection_of_a_revoked_device_ends(tmp_path, kind, how):
    with members(tmp_path, kind, how) as (found, broker), Client(found.settings("pi-1")) as open_:
        found.edge_fleet("provision", "pi-1", "--revoke")
        lay_out(found, found.folder / "etc")
        if (kind, how) == ("mosquitto", "mtls"):
            broker.restart(kill=False)  # it asks for certificates at the connection alone
        else:
            os.kill(broker.pid, signal.SIGHUP)
        open_.until(Down)
        assert isinstance(open_.until(Down, Up), Down)  # the attempt after it


def comes_in(found, user):
    """Whether the broker lets a user in and takes what it says."""
    with contextlib.suppress(AssertionError), Client(found.settings(user)) as client:
        return client.publish(TOPICS.status(user), b"here")
    return False


@pytest.fixture
def operator(tmp_path):
    found = Members(tmp_path, "password")
    found.base.write_text(yaml.safe_dump(BASE))
    return found


def secrets_of(folder):
    return [path.read_text().split("\n")[0] for path in folder.glob("password")] + [
        line
        for path in folder.glob("*.key")
        for line in path.read_text().splitlines()
        if "-----" not in line
    ]


@pytest.mark.parametrize("how", ["--mtls", "--password"])
def test_a_secret_is_in_the_archive_alone_and_for_its_owner(operator, how):
    archive = operator.folder / "pi-7.tar.gz"
    said = operator.edge_fleet(
        *("provision", "pi-7", how, "--config", operator.base, "--out", archive)
    )
    with tarfile.open(archive) as tar:
        modes = {entry.name: entry.mode for entry in tar.getmembers() if entry.isfile()}
    private = {name for name, mode in modes.items() if mode == 0o600}
    assert private == {"edge-agent/pi-7.key" if how == "--mtls" else "edge-agent/password"}
    assert {"edge-agent/agent.yaml", "edge-agent/root.json", "edge-agent/README.txt"} < set(modes)
    assert archive.stat().st_mode & 0o777 == 0o600
    folder = unpack(archive, operator.folder / "card")
    assert secrets_of(folder)
    kept = "".join(p.read_text() for p in operator.fleet.folder.rglob("*") if p.is_file())
    assert not [secret for secret in secrets_of(folder) if secret in said or secret in kept]


def test_only_for_nats_the_password_is_kept_in_the_clear(operator):
    folder = operator.provision("pi-7")  # which says --nats
    (password,) = secrets_of(folder)
    assert (
        f'user: "pi-7", password: "{password}"' in (operator.access / "nats-users.conf").read_text()
    )
    assert {path.stat().st_mode & 0o777 for path in operator.access.iterdir()} == {0o600}


def test_the_configuration_is_the_base_with_what_is_the_devices_own(operator):
    base = BASE | {"groups": ["hall"], "log_level": "debug"}
    base["broker"] = {"url": "mqtts://old", "prefix": "plant/a", "password_env": "OLD"}
    base["broker"] |= {"username": "old", "keepalive_s": 7}
    base["update"] = {"ways": [{"type": "request"}], "root_file": "old.json"}
    operator.base.write_text(yaml.safe_dump(base))
    config = load_config(operator.provision("pi-7", "--group", "kitchen") / "agent.yaml")
    assert (config.device, config.groups, config.log_level) == ("pi-7", ("kitchen",), "debug")
    assert (config.broker.url, config.broker.username) == (operator.url, "pi-7")
    assert (config.broker.prefix, config.broker.keepalive_s) == ("plant/a", 7)
    assert config.broker.password_env is None
    assert config.update.root_file.endswith("/edge-agent/root.json")
    assert [way.__struct_config__.tag for way in config.update.ways] == ["request"]
    assert '"plant.a.device.pi-7.status"' in (operator.access / "nats-users.conf").read_text()
    kept = load_config(operator.provision("pi-8") / "agent.yaml")
    assert kept.groups == ("hall",)


def test_a_password_on_an_open_network_is_warned_of(operator):
    operator.provision("broker", "--mtls", "--host", "127.0.0.1")  # so there is a ca.crt
    out = ("--out", operator.folder / "pi-7.tar.gz", "--broker", "mqtt://192.168.1.10")
    said = operator.edge_fleet("provision", "pi-7", "--password", "--config", operator.base, *out)
    assert "reads the password along" in said


def test_bundles_to_start_with_come_along(operator):
    (operator.folder / "first").mkdir()
    (operator.folder / "first" / "motion.bundle").write_bytes(make_bundle())
    base = BASE | {"pipelines": [BASE["pipelines"][0] | {"bundle": "first/motion.bundle"}]}
    operator.base.write_text(yaml.safe_dump(base))
    folder = operator.provision("pi-7")
    assert load_config(folder / "agent.yaml").pipelines[0].bundle == "motion.bundle"
    assert (folder / "motion.bundle").read_bytes() == make_bundle()
    (operator.folder / "first" / "motion.bundle").write_bytes(b"rubbish")
    operator.edge_fleet(
        *("provision", "pi-8", "--password", "--config", operator.base), code=BundleError.exit_code
    )


def test_topics_of_the_pipelines_are_allowed_on_nats(tmp_path):
    """Those of mosquitto.acl are for its author; nats-users.conf is written by us."""
    pipeline = BASE["pipelines"][0] | {
        "source": {"type": "mqtt", "topic": "sensors/v2.1/#"},
        "actions": [{"type": "mqtt", "topic": "alarms/door"}],
    }
    with members(tmp_path, "nats", "mtls", pipelines=[pipeline]) as (found, _):
        admin, device = Client(found.settings("admin")), Client(found.settings("pi-1"))
        with admin, device:
            admin.subscribe("alarms/#")
            device.subscribe("sensors/v2.1/#")
            assert device.denied == []
            assert admin.publish("sensors/v2.1/door", b"for it")
            device.hear(b"for it")
            device.publish("alarms/window", b"not its own")
            device.publish("alarms/door", b"mine")
            admin.hear(b"mine")
    assert admin.topics == {"alarms/door"}


def test_nothing_is_replaced_without_a_word(operator):
    first = operator.provision("pi-7")
    config = ("--password", "--config", operator.base, "--out", operator.folder / "other.tar.gz")
    said = operator.edge_fleet("provision", "pi-7", *config, code=2)
    assert "--force replaces it" in said
    said = operator.edge_fleet(
        *("provision", "pi-8", *config[:-1], operator.folder / "pi-7.tar.gz"), code=2
    )
    assert "pi-7.tar.gz exists" in said
    assert "pi-8" not in read_book(operator.access).given
    (before,) = secrets_of(first)
    assert secrets_of(operator.provision("pi-7", "--force")) != [before]


def test_a_certificate_that_is_replaced_is_revoked(operator):
    operator.provision("pi-7", "--mtls")
    serial = int(read_book(operator.access).given["pi-7"].serial, 16)
    operator.provision("pi-7", "--mtls", "--force")
    revoked = x509.load_pem_x509_crl((operator.access / "revoked.crl").read_bytes())
    assert [entry.serial_number for entry in revoked] == [serial]
    operator.provision("pi-7", "--force")  # by a password from now on
    revoked = x509.load_pem_x509_crl((operator.access / "revoked.crl").read_bytes())
    assert len(list(revoked)) == 2


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["pi-7", "--mtls", "--password"], "--mtls or --password"),
        (["pi-7"], "--mtls or --password"),
        (["pi-7", "--password"], "--config"),
        (["pi/7", "--password"], "letters"),
        (["pi-7", "--password", "--group", "a/b"], "group"),
        (["pi-7", "--password", "--host", "x"], "--host is for broker"),
        (["broker", "--mtls"], "--host NAME"),
        (["pi-7", "--revoke"], "has no credential"),
        (["viewer", "--password", "--config", "BASE"], "is an operator"),
        (["pi-7", "--password", "--config", "BASE", "--broker", "nonsense"], "give the broker as"),
        (["pi-7", "--mtls", "--config", "BASE", "--broker", "mqtt://h"], "need mqtts://"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(operator, arguments, part):
    arguments = [str(operator.base) if word == "BASE" else word for word in arguments]
    out = operator.folder / "x.tar.gz"
    said = operator.edge_fleet("provision", *arguments, "--out", out, code=ConfigError.exit_code)
    assert part in said
    assert not out.exists()
    assert read_book(operator.access) == Book()


def test_the_key_of_the_authority_is_as_safe_as_the_others(operator):
    said = operator.edge_fleet("provision", "viewer", "--mtls", code=2, secret="")
    assert "the offline keys have a passphrase" in said
    assert not (operator.fleet.keys / "ca.key").exists()
    operator.provision("viewer", "--mtls")
    assert b"ENCRYPTED" in (operator.fleet.keys / "ca.key").read_bytes()
    assert not list(operator.fleet.folder.rglob("ca.key"))
    (operator.fleet.keys / "ca.key").rename(operator.folder / "elsewhere")
    said = operator.edge_fleet("provision", "collector", "--mtls", code=2)
    assert "bring the folder of the offline keys" in said


def test_the_same_files_give_the_same_archive():
    files = {"b": b"2", "password": b"1", "a.key": b"3"}
    assert pack("edge-agent", files) == pack("edge-agent", dict(reversed(files.items())))


def test_a_password_does_not_break_out_of_the_list_for_nats():
    text = nats_users(Book(given={"pi-1": Given(clear='x"}')}))
    assert r'password: "x\"}"' in text
