"""The rules that both sides share."""

import hashlib
import io
import zipfile
from pathlib import Path

import msgspec
import pytest
from bundles import make_bundle
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.bundle import MEMBERS, parse_bundle, read_bundle, write_bundle
from edge_agent.contract.chunks import chunk_list, cut
from edge_agent.contract.errors import BundleError, ConfigError, LinkError
from edge_agent.contract.manifest import decode_manifest, encode_manifest
from edge_agent.contract.messages import (
    Decision,
    Desired,
    Head,
    Record,
    Status,
    decode,
    encode,
    with_seq,
)
from edge_agent.contract.topics import CHUNK_BYTES, Topics
from edge_agent.infer import engine_of, golden_fault


def repacked(data: bytes, change: dict[str, bytes], *, compress: bool = False) -> bytes:
    """A bundle file with some members replaced, or deflated."""
    out = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, change.get(name, old.read(name)))
    return out.getvalue()


def test_a_bundle_is_deterministic_and_reads_back(tmp_path: Path) -> None:
    data = make_bundle()
    assert data == make_bundle()
    path = tmp_path / "a.bundle"
    write_bundle(path, data)
    bundle = read_bundle(path)
    assert bundle.digest == hashlib.sha256(data).hexdigest()
    assert list(tmp_path.iterdir()) == [path]


def test_a_bundle_of_the_first_format_still_runs() -> None:
    bundle = read_bundle(Path(__file__).parent / "fixtures" / "bundle" / "v1.bundle")
    assert bundle.manifest.schema_version == 1
    assert golden_fault(bundle, engine_of(bundle)) is None


@pytest.mark.parametrize("member", MEMBERS)
def test_a_changed_member_is_refused(member: str) -> None:
    data = make_bundle()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        content = archive.read(member)
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(BundleError, match=f"{member} does not have the digest"):
        parse_bundle(repacked(data, {member: flipped}))
    with pytest.raises(BundleError, match=f"{member} has"):
        parse_bundle(repacked(data, {member: content + b"x"}))


def test_compressed_members_are_refused_unread() -> None:
    with pytest.raises(BundleError, match="is compressed"):
        parse_bundle(repacked(make_bundle(padding=100_000), {}, compress=True))


@pytest.mark.parametrize("data", [b"", b"PK", b"no zip at all", make_bundle()[:-30]])
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        parse_bundle(data)


def test_every_flipped_byte_is_noticed_or_harmless() -> None:
    data = make_bundle()
    whole = parse_bundle(data)
    for at in range(0, len(data), 97):
        broken = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        try:
            got = parse_bundle(broken)
        except BundleError:
            continue  # noticed
        assert got.digest != whole.digest  # harmless inside, and still another file
        assert got.model == whole.model


def test_a_bundle_for_a_newer_agent_or_of_a_newer_schema_is_refused() -> None:
    with pytest.raises(BundleError, match=r"needs agent 99\.0\.0"):
        parse_bundle(make_bundle(agent_min="99.0.0"))
    manifest = encode_manifest(parse_bundle(make_bundle()).manifest)
    with pytest.raises(BundleError, match="schema 2"):
        decode_manifest(manifest.replace(b'"schema_version": 1', b'"schema_version": 2'))
    extended = manifest.replace(b'"schema_version": 1', b'"schema_version": 1, "later": true')
    assert decode_manifest(extended) == decode_manifest(manifest)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (b'"hop": 1', b'"hop": 0', "window.hop"),
        (b'"name": "motion"', b'"name": "a/b"', "name 'a/b'"),
        (b'"chosen": true', b'"chosen": false', "not one variant"),
        (b'"labels": [', b'"labels": ["extra",', "one score for each"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(old: bytes, new: bytes, text: str) -> None:
    manifest = encode_manifest(parse_bundle(make_bundle()).manifest)
    assert old in manifest
    with pytest.raises(BundleError, match=text):
        decode_manifest(manifest.replace(old, new, 1))


@given(st.integers(min_value=1, max_value=5 * CHUNK_BYTES))
def test_a_cut_bundle_can_be_put_together_again(size: int) -> None:
    data = (b"0123456789" * (size // 10 + 1))[:size]
    pieces = cut(data)
    payload = pieces.payload
    desired = Desired(
        revision=1, model="m", version="1", sha256=payload.sha256, bytes=size, payloads=(payload,)
    )
    assert desired.fault is None
    chunks = chunk_list(payload, [pieces.blobs[digest] for digest in payload.index])
    assert b"".join(pieces.blobs[digest] for digest in chunks) == data
    assert all(hashlib.sha256(blob).hexdigest() == name for name, blob in pieces.blobs.items())
    with pytest.raises(BundleError, match="chunk list"):
        chunk_list(msgspec.structs.replace(payload, bytes=size + CHUNK_BYTES), [b""])


def test_a_record_carries_its_seq_and_newer_fields_are_accepted() -> None:
    decision = Decision(t=1.5, pipeline="p", model="1", reading=3, score=0.5)
    wire = with_seq(7, encode(decision))
    assert decode(wire, Head) == Head(seq=7, kind="decision", t=1.5)
    assert msgspec.json.decode(wire[:-1] + b',"later":1}', type=Record) == decision
    with pytest.raises(LinkError, match="not a Status message"):
        decode(b"{", Status)


def test_topics_stay_within_the_limits_of_hosted_brokers() -> None:
    topics = Topics("a" * 32 + "/" + "b" * 32 + "/" + "c" * 32)
    longest = [
        topics.records("d" * 64, "backlog"),
        topics.desired_for_group("g" * 64, "m" * 64),
        topics.blob("0" * 64),
    ]
    assert all(topic.count("/") <= 7 and len(topic) <= 256 for topic in longest)
    assert topics.device_of(topics.status("pi")) == "pi"
    assert topics.device_of("other/device/pi/status") is None
    with pytest.raises(ConfigError, match="topic prefix"):
        Topics("a/b/c/d")
