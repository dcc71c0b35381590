"""``edge-agent bench``: what is measured, how the machine was, and what becomes of the figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import pytest
from bundles import GOLDEN_N, make_bundle
from test_infer import SUM, SUM_MODEL

from edge_agent.bench.compare import compare, format_comparison, read_result
from edge_agent.bench.feed import feed_of
from edge_agent.bench.machine import read_conditions, read_machine, remarks, usable_cores
from edge_agent.bench.measure import ROUNDS, RUNS_MAX, bench
from edge_agent.bench.plot import plot
from edge_agent.bench.publish import payload_of, publish
from edge_agent.bench.report import format_result
from edge_agent.bench.svg import scale_of, short
from edge_agent.config import BrokerConfig
from edge_agent.contract.bench import BenchResult, Conditions
from edge_agent.contract.bundle import pack_bundle, parse_bundle
from edge_agent.contract.errors import (
    BundleError,
    ConfigError,
    InferenceError,
    LinkError,
    SourceError,
)
from edge_agent.contract.topics import CHUNK_BYTES, Topics
from edge_agent.fleet.benches import BENCH_HEADER, bench_notes, bench_rows, read_benches
from edge_agent.infer import CPU, providers

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


# --- measuring -----------------------------------------------------------------------------------


def test_every_configuration_is_measured_in_turns(result, bundle_file) -> None:
    assert [(run.provider, run.threads) for run in result.runs] == [(CPU, 1), (CPU, 2)]
    bundle = parse_bundle(bundle_file.read_bytes())
    assert (result.model, result.version, result.sha256) == ("motion", "1.0.0", bundle.digest)
    for run in result.runs:
        took, memory = run.latency_us, run.rss_bytes
        assert 0 < took.p50 <= took.p90 <= took.p99 <= took.p999 <= took.max
        assert took.n >= 20 * ROUNDS
        assert len(run.rounds_p50_us) == ROUNDS
        assert min(run.rounds_p50_us) <= took.p50 <= max(run.rounds_p50_us)
        assert run.init.load_ms > 0
        assert run.init.read_ms > 0
        assert run.warm_up.first_us > 0
        assert 1 <= run.warm_up.n <= 50
        assert 0 < run.per_s <= 1e6 / took.p50 * 2
        assert 0 < memory.engine <= memory.load


def test_a_provider_that_does_nothing_for_the_model_is_named(result) -> None:
    assert set(result.skipped) == set(providers()) - {CPU}


def test_operators_and_the_whole_way_are_there(result) -> None:
    assert {row.kind for row in result.operators} >= {"Softmax"}
    assert all(row.nodes == 1 and row.us >= 0 for row in result.operators)
    assert result.way is not None
    total = result.way.latency_us["total"]
    assert list(result.way.latency_us) == ["read", "window", "infer", "decide", "offer", "total"]
    assert total.n >= result.way.latency_us["infer"].n > 0
    assert total.p50 <= total.p99 <= total.p999 <= total.max
    assert result.way.readings_per_s > 0


def test_text_and_json_say_everything(result) -> None:
    text = format_result(result)
    for word in ("CPU x1", "CPU x2", "p99.9", "onnxruntime", "governor", "Softmax", "offer"):
        assert word in text
    assert msgspec.json.decode(msgspec.json.encode(result), type=BenchResult) == result


def test_a_model_that_carries_state_is_measured_too(tmp_path) -> None:
    bundle = parse_bundle(make_bundle(task="regression"))
    members = {
        "model.onnx": SUM_MODEL,
        "golden.npz": bundle.golden,
        "reference.json": bundle.reference,
        "report.json": bundle.report,
    }
    path = tmp_path / "sums.bundle"
    manifest = msgspec.structs.replace(bundle.manifest, states=(SUM,))
    path.write_bytes(pack_bundle(manifest, members))
    found = bench(path, threads=(1,), seconds=0.2)
    assert [run.name for run in found.runs] == ["CPU x1"]
    assert found.operators
    assert found.way is not None
    assert found.way.latency_us["total"].n > 0


def test_a_model_that_cannot_run_is_refused_with_what_it_said(tmp_path) -> None:
    bundle = parse_bundle(make_bundle())
    members = {
        "model.onnx": b"not onnx",
        "golden.npz": bundle.golden,
        "reference.json": bundle.reference,
        "report.json": bundle.report,
    }
    path = tmp_path / "broken.bundle"
    path.write_bytes(pack_bundle(bundle.manifest, members))
    with pytest.raises(InferenceError, match="the model cannot be loaded"):
        bench(path, seconds=0.2)


def test_threads_and_providers_that_do_not_exist_are_refused(bundle_file) -> None:
    with pytest.raises(ConfigError, match="--threads"):
        bench(bundle_file, threads=(0,))
    with pytest.raises(ConfigError, match=r"--provider quantum.*cpu"):
        bench(bundle_file, providers_wanted=("quantum",))


# --- input ---------------------------------------------------------------------------------------


def test_the_golden_vectors_are_the_input_by_default(result) -> None:
    assert (result.input.source, result.input.windows) == ("golden", GOLDEN_N)


def test_a_recording_is_cut_into_windows_without_gaps(tmp_path) -> None:
    bundle = parse_bundle(make_bundle(length=2, hop=1))
    path = tmp_path / "day.csv"
    path.write_text("b,a\n0,1\n2,3\n,5\n6,7\n8,9\n")
    feed = feed_of(bundle, path)
    assert feed.windows.tolist() == [[[1, 0], [3, 2]], [[7, 6], [9, 8]]]
    assert (feed.said.source, feed.said.windows) == ("day.csv", 2)
    assert len(feed.rows) == 5


def test_of_a_long_recording_windows_are_taken_from_all_over(tmp_path) -> None:
    bundle = parse_bundle(make_bundle(length=2, hop=1))
    path = tmp_path / "day.npz"
    np.savez(path, signal=np.arange(8_000, dtype=np.float32).reshape(-1, 2))
    feed = feed_of(bundle, path)
    assert len(feed.windows) == 1_024
    assert feed.windows[0, 0, 0] == 0
    assert feed.windows[-1, -1, -1] == 7_999


def test_windows_do_not_span_two_recordings(tmp_path) -> None:
    bundle = parse_bundle(make_bundle(length=2, hop=1))
    path = tmp_path / "day.npz"
    signal = np.repeat(np.arange(4, dtype=np.float32)[:, None], 2, axis=1)
    np.savez(path, signal=signal, offsets=[0, 2, 4])
    assert feed_of(bundle, path).windows[:, :, 0].tolist() == [[0, 1], [2, 3]]


def test_a_recording_that_is_too_short_is_refused(tmp_path) -> None:
    path = tmp_path / "day.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SourceError, match="no 4 readings in a row"):
        feed_of(parse_bundle(make_bundle(length=4)), path)


def test_the_digest_tells_inputs_apart(tmp_path) -> None:
    bundle = parse_bundle(make_bundle(length=2))
    digests = set()
    for number in range(2):
        path = tmp_path / f"{number}.csv"
        path.write_text(f"a,b\n1,2\n3,{number}\n")
        digests.add(feed_of(bundle, path).said.sha256)
    assert len(digests) == 2


# --- the machine ---------------------------------------------------------------------------------


def put(root: Path, path: str, content: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


@pytest.fixture
def pi(tmp_path) -> Path:
    """What a Raspberry Pi shows of itself."""
    put(tmp_path, "proc/cpuinfo", "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n")
    put(tmp_path, "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    put(tmp_path, "proc/meminfo", "MemTotal:  1000 kB\n")
    for core in usable_cores():
        folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        put(tmp_path, f"{folder}/scaling_governor", "ondemand\n")
        put(tmp_path, f"{folder}/scaling_cur_freq", "1500000\n")
        put(tmp_path, f"{folder}/cpuinfo_max_freq", "2400000\n")
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "81250\n")
    put(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    return tmp_path


def test_a_pi_tells_board_clock_heat_and_throttling(pi) -> None:
    machine = read_machine(pi)
    assert machine.board == machine.name == "Raspberry Pi 5 Model B Rev 1.0"
    assert (machine.cpu, machine.memory_bytes) == ("", 1_024_000)
    found = read_conditions(pi, vcgencmd=None)
    assert found == Conditions(
        governors=("ondemand",),
        clock_mhz=(1500.0,) * len(usable_cores()),
        clock_mhz_max=2400.0,
        temperature_c={"cpu-thermal": 81.25},
        pi_flags=0x50005,
    )
    said = " | ".join(remarks(Conditions(), found))
    for words in ("ondemand", "voltage is too low now", "throttled now", "80 °C or hotter"):
        assert words in said


def test_where_the_kernel_is_silent_vcgencmd_is_asked(tmp_path) -> None:
    program = tmp_path / "vcgencmd"
    program.write_text('#!/bin/sh\n[ "$1" = get_throttled ] && echo throttled=0x20000\n')
    program.chmod(0o755)
    found = read_conditions(tmp_path / "empty", vcgencmd=str(program))
    assert found == Conditions(pi_flags=0x20000)


def test_what_came_up_while_measuring_is_told_from_what_was_before() -> None:
    flags = Conditions(pi_flags=0x20000)
    assert "came up while measuring" in remarks(Conditions(pi_flags=0), flags)[0]
    assert "perhaps before" in remarks(flags, flags)[0]
    assert remarks(Conditions(pi_flags=0), Conditions(pi_flags=0)) == ()


def test_an_x86_machine_counts_its_throttling(tmp_path) -> None:
    put(tmp_path, "proc/cpuinfo", "processor : 0\nmodel name\t: Intel N100\ncpu MHz\t\t: 800.5\n")
    put(tmp_path, "sys/class/dmi/id/product_name", "Box 7\n")
    count = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    put(tmp_path, count, "3\n")
    assert (read_machine(tmp_path).board, read_machine(tmp_path).name) == ("Box 7", "Intel N100")
    before = read_conditions(tmp_path, vcgencmd=None)
    assert before.throttle_events == 3
    put(tmp_path, count, "5\n")
    after = read_conditions(tmp_path, vcgencmd=None)
    assert "throttled 2 times" in remarks(before, after)[0]


def test_a_machine_that_tells_nothing_is_said_to_be_unknown(tmp_path, result) -> None:
    nothing = read_conditions(tmp_path, vcgencmd=None)
    assert nothing == Conditions()
    assert read_machine(tmp_path).name == "unnamed processor"
    text = format_result(msgspec.structs.replace(result, before=nothing))
    assert "governor unknown; clock unknown; temperature unknown; throttling unknown" in text


# --- comparing -----------------------------------------------------------------------------------


def changed(result: BenchResult, rounds: tuple[float, ...], **fields) -> BenchResult:
    """The first configuration only, with medians of our own."""
    run = result.runs[0]
    p50 = sorted(rounds)[len(rounds) // 2]
    took = msgspec.structs.replace(run.latency_us, p50=p50, p99=2 * p50)
    run = msgspec.structs.replace(run, latency_us=took, rounds_p50_us=rounds)
    return msgspec.structs.replace(result, runs=(run,), **fields)


def test_what_is_faster_beyond_noise_is_said_with_by_how_much(result) -> None:
    a, b = changed(result, (20.0, 21.0, 22.0)), changed(result, (9.0, 10.0, 10.5))
    (pair,) = compare(a, b).pairs
    assert (pair.faster, pair.at_least) == ("b", 1.905)  # 20 / 10.5
    assert (pair.p50_ratio, pair.p99_ratio) == (0.476, 0.476)
    assert compare(b, a).pairs[0].faster == "a"
    text = format_comparison(compare(a, b))
    assert "B is 2.10 times as fast by the median, and at least 1.91 times" in text


@pytest.mark.parametrize("other", [(10.0, 11.0, 12.0), (10.1, 10.1, 10.1), (9.9, 30.0, 40.0)])
def test_what_overlaps_or_nearly_does_is_no_difference(result, other) -> None:
    a, b = changed(result, (9.0, 9.5, 10.0)), changed(result, other)
    assert [pair.faster for pair in compare(a, b).pairs] == ["neither"]
    assert "no difference beyond noise" in format_comparison(compare(a, b))


def test_other_input_gets_no_verdict(result) -> None:
    said = msgspec.structs.replace(result.input, sha256="1" * 64)
    a, b = changed(result, (20.0,) * 3), changed(result, (10.0,) * 3, input=said)
    found = compare(a, b)
    assert not found.same_input
    assert "no verdict" in format_comparison(found)
    assert "times as fast" not in format_comparison(found)


def test_what_only_one_has_is_named(result) -> None:
    found = compare(result, changed(result, (10.0,) * 3))
    assert found.unmatched == ("CPU x2",)
    assert [pair.name for pair in found.pairs] == ["CPU x1"]


# --- drawing -------------------------------------------------------------------------------------


def words_of(svg: str) -> list[str]:
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return [item.text or "" for item in root.iter("{http://www.w3.org/2000/svg}text")]


def test_the_plot_is_well_formed_and_names_every_configuration(result) -> None:
    assert {"CPU x1", "CPU x2"} <= set(words_of(plot([result])))
    both = words_of(plot([result, changed(result, (10.0,) * 3)]))
    assert {"A CPU x1", "A CPU x2", "B CPU x1"} <= set(both)


def test_names_cannot_break_the_drawing(result) -> None:
    hostile = msgspec.structs.replace(result, model="<script>&\0", version='"')
    assert "<script>&?: latency of one inference" in words_of(plot([hostile]))


def test_percentiles_stand_in_order_on_the_axis(result) -> None:
    took = result.runs[0].latency_us
    scale = scale_of([took.p50, took.max], 100, 700, log=True)
    places = [scale.at(us) for us in (took.p50, took.p90, took.p99, took.p999, took.max)]
    assert all(a <= b for a, b in pairwise(places))
    assert places[0] >= 100
    assert places[-1] <= 700


def test_axes_hold_what_they_are_made_for() -> None:
    assert scale_of([3.0, 40.0], 0, 100, log=True).ticks() == [1, 10, 100]
    linear = scale_of([0.3, 2.0], 0, 100, log=False)
    assert linear.at(0) == 0
    assert linear.ticks() == [0, 0.5, 1.0, 1.5, 2.0]
    assert scale_of([], 0, 100, log=False).at(0.5) < 100
    assert [short(value) for value in (0.251, 12.34, 1234.4, 56_700, 2.5e6)] == [
        "0.251",
        "12.3",
        "1234",
        "56.7k",
        "2.5M",
    ]


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
