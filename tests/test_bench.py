"""``edge-agent bench``: what is measured, how the machine was, and what becomes of the figures."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from bundles import GOLDEN_N, make_bundle
from svgs import words_of
from test_infer import SUM, SUM_MODEL

from edge_agent.bench.compare import compare, format_comparison
from edge_agent.bench.feed import feed_of
from edge_agent.bench.machine import read_conditions, read_machine, remarks, usable_cores
from edge_agent.bench.measure import ROUNDS, bench
from edge_agent.bench.plot import plot
from edge_agent.bench.report import format_result
from edge_agent.bench.svg import scale_of, short
from edge_agent.contract.bench import BenchResult, Conditions
from edge_agent.contract.bundle import pack_bundle, parse_bundle
from edge_agent.contract.errors import (
    ConfigError,
    InferenceError,
    SourceError,
)
from edge_agent.infer import CPU, providers


@pytest.fixture(scope="module")
def bundle_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "motion.bundle"
    path.write_bytes(make_bundle(length=8, hop=4))
    return path


@pytest.fixture(scope="module")
def result(bundle_file) -> BenchResult:
    return bench(bundle_file, threads=(1, 2), seconds=1.0)


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
