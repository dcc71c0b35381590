"""The commands ``edge-agent bench`` and ``edge-fleet bench``, and the way between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bundles import make_bundle
from svgs import words_of

from edge_agent.bench.compare import read_result
from edge_agent.bench.measure import RUNS_MAX, bench
from edge_agent.bench.publish import payload_of, publish
from edge_agent.config import BrokerConfig
from edge_agent.contract.bench import BenchResult, Conditions
from edge_agent.contract.errors import (
    BundleError,
    ConfigError,
    LinkError,
)
from edge_agent.contract.topics import CHUNK_BYTES, Topics
from edge_agent.fleet.benches import BENCH_HEADER, bench_notes, bench_rows, read_benches

pytest_plugins = ("brokers",)

TOPICS = Topics("edge")


@pytest.fixture(scope="module")
def bundle_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "motion.bundle"
    path.write_bytes(make_bundle(length=8, hop=4))
    return path


@pytest.fixture(scope="module")
def result(bundle_file) -> BenchResult:
    return bench(bundle_file, threads=(1, 2), seconds=1.0)


def command(program: str, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    module = {"edge-agent": "edge_agent", "edge-fleet": "edge_agent.fleet"}[program]
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        check=False,
        text=True,
        timeout=100,
    )
    assert done.returncode == code, done.stderr
    return done


# --- publishing ----------------------------------------------------------------------------------


def large(result: BenchResult, runs: int) -> BenchResult:
    """So many configurations on a machine of 64 cores that tells all it can."""
    conditions = Conditions(
        governors=("performance",),
        clock_mhz=(2400.123,) * 64,
        temperature_c={f"zone-{number}-thermal": 50.0 for number in range(32)},
    )
    return msgspec.structs.replace(
        result, runs=result.runs[:1] * runs, before=conditions, after=conditions
    )


def test_the_largest_result_fits_what_every_broker_keeps(result) -> None:
    assert len(payload_of(large(result, RUNS_MAX), "pi")) < CHUNK_BYTES
    with pytest.raises(LinkError, match="fewer configurations"):
        payload_of(large(result, 200), "pi")


@pytest.mark.parametrize("kind", ["mosquitto_broker", "nats_broker"])
def test_edge_fleet_shows_what_devices_published(kind, request, result) -> None:
    broker = request.getfixturevalue(kind)
    config = BrokerConfig(url=broker.url)
    remarked = msgspec.structs.replace(result, remarks=("it was hot",))
    other = msgspec.structs.replace(result, model="other")
    for device, sent in (("pi-2", result), ("pi-1", remarked), ("pi-1", other)):
        assert publish(config, device, sent, seconds=60.0) == TOPICS.bench(device, sent.model)
    shown = command("edge-fleet", "bench", "--broker", broker.url, "--model", "motion").stdout
    lines = shown.splitlines()
    assert lines[0].split()[:4] == ["model", "version", "board", "device"]
    assert shown.count("CPU x1") == shown.count("CPU x2") == 2
    assert "other" not in shown
    assert "pi-1: motion: it was hot" in shown
    arguments = ("--broker", broker.url, "--device", "pi-1", "--json")
    found = json.loads(command("edge-fleet", "bench", *arguments).stdout)
    assert [(each["device"], each["model"]) for each in found] == [
        ("pi-1", "motion"),
        ("pi-1", "other"),
    ]


def test_a_broker_that_is_away_is_said_so(result) -> None:
    with pytest.raises(LinkError, match=r"not published within 0\.5 s"):
        publish(BrokerConfig(url="mqtt://127.0.0.1:1"), "pi", result, seconds=0.5)


def test_the_table_believes_no_other_device_or_model(result) -> None:
    good = payload_of(result, "pi-1")
    newer = payload_of(msgspec.structs.replace(result, schema=99), "pi-3")
    answers = {
        TOPICS.bench("pi-1", "motion"): good,
        TOPICS.bench("pi-2", "motion"): good,
        TOPICS.bench("pi-1", "other"): good,
        TOPICS.bench("pi-3", "motion"): newer,
        TOPICS.bench("pi-4", "motion"): b"{",
        TOPICS.bench("pi-5", "motion"): b"",
    }
    results, faults = read_benches(TOPICS, answers)
    assert [each.device for each in results] == ["pi-1"]
    assert len(faults) == 4
    assert "update edge-fleet" in " ".join(faults)
    rows = bench_rows(results)
    assert {len(row) for row in rows} == {len(BENCH_HEADER)}
    assert [row[3] for row in rows] == ["pi-1", ""]


def test_what_a_device_says_is_shown_without_control_characters(result) -> None:
    run = msgspec.structs.replace(result.runs[0], provider="\x1b[31mred")
    machine = msgspec.structs.replace(result.machine, board="\x1b[2Jboard")
    hostile = msgspec.structs.replace(
        result, version="1\x07", runs=(run,), machine=machine, remarks=("\x1b[0m",), device="pi"
    )
    shown = str(bench_rows([hostile])) + str(bench_notes([hostile]))
    assert "\\x" not in shown


# --- the command ---------------------------------------------------------------------------------


def test_the_command_writes_compares_and_publishes(bundle_file, tmp_path, mosquitto_broker) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(
        "device: desk\ndata_dir: data\nupdate: {enabled: false}\n"
        f"broker: {{url: '{mosquitto_broker.url}'}}\n"
        "pipelines:\n"
        "  - {name: p, model: motion, channels: [a, b], source: {type: jsonl}}\n"
    )
    a, svg = tmp_path / "a.json", tmp_path / "a.svg"
    arguments = (bundle_file, "--seconds", "0.3", "--threads", "1")
    publishing = ("--publish", "--config", config)
    said = command(
        "edge-agent", "bench", *arguments, "--json", a, "--plot", svg, *publishing
    ).stdout
    assert "CPU x1" in said
    assert "published as edge/device/desk/bench/motion" in said
    assert "CPU x1" in words_of(svg.read_text())
    assert read_result(a).model == "motion"
    compared, drawn = tmp_path / "c.json", tmp_path / "c.svg"
    out = ("--json", compared, "--plot", drawn)
    assert "no difference" in command("edge-agent", "bench", "--compare", a, a, *out).stdout
    assert json.loads(compared.read_text())["same_input"] is True
    assert "B CPU x1" in words_of(drawn.read_text())


def test_the_exit_code_tells_what_cannot_be_compared(result, tmp_path) -> None:
    other = msgspec.structs.replace(result.input, sha256="1" * 64)
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    paths[0].write_bytes(msgspec.json.encode(result))
    paths[1].write_bytes(msgspec.json.encode(msgspec.structs.replace(result, input=other)))
    assert "no verdict" in command("edge-agent", "bench", "--compare", *paths, code=1).stdout
    paths[1].write_bytes(b"[]")
    said = command("edge-agent", "bench", "--compare", *paths, code=ConfigError.exit_code)
    assert "'edge-agent bench' wrote" in said.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name a bundle"),
        (("BUNDLE", "--publish"), "go together"),
        (("BUNDLE", "--config", "BUNDLE"), "go together"),
        (("BUNDLE", "--compare", "BUNDLE", "BUNDLE"), "no bundle"),
    ],
)
def test_options_that_do_not_fit_are_said_so(bundle_file, arguments, words) -> None:
    given = [str(bundle_file) if word == "BUNDLE" else word for word in arguments]
    assert words in command("edge-agent", "bench", *given, code=2).stderr


def test_a_file_that_is_no_bundle_is_refused(tmp_path) -> None:
    path = tmp_path / "no.bundle"
    path.write_bytes(b"PK")
    command("edge-agent", "bench", path, code=BundleError.exit_code)


def test_the_agent_starts_without_the_bench() -> None:
    program = "import sys, edge_agent.agent; print([m for m in sys.modules if '.bench' in m])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
        env=os.environ,
    )
    assert done.stdout.strip() == "[]"
