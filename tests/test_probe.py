"""The probe: real child processes on good, wrong and hostile bundles."""

import os
import signal
import time

import numpy as np
import pytest
from bundles import make_bundle
from onnx import TensorProto, helper, numpy_helper

from edge_agent.contract.bundle import MEMBERS, pack_bundle, parse_bundle
from edge_agent.update.probe import Probe, run_probe

GIB = 2**30


def probe(tmp_path, bundle, *, seconds=30.0, bytes_max=GIB):
    path = tmp_path / "some.bundle"
    path.write_bytes(bundle)
    return run_probe(path, seconds=seconds, bytes_max=bytes_max)


def with_graph(nodes, constants, version="1.0.0"):
    """A bundle whose model is these nodes, from ``window`` (N, 4, 2) to ``scores`` (N, 2)."""
    bundle = parse_bundle(make_bundle(version=version))
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, ["N", 4, 2])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    members = {name: getattr(bundle, name.split(".")[0]) for name in MEMBERS}
    return pack_bundle(bundle.manifest, members | {"model.onnx": model.SerializeToString()})


def greedy():
    """A model of a few hundred bytes that wants 4 GiB."""
    return with_graph(
        [
            helper.make_node("ConstantOfShape", ["size"], ["huge"]),
            helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
            helper.make_node("ReduceMean", ["window"], ["means"], axes=[1], keepdims=0),
            helper.make_node("Add", ["means", "sum"], ["scores"]),
        ],
        {"size": np.array([2**15, 2**15], np.int64)},
    )


def endless(version="1.0.0"):
    """A model that multiplies matrices for hours."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("MatMul", ["state", "state"], ["product"]),
            helper.make_node("Tanh", ["product"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [200, 200]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [200, 200]),
        ],
    )
    return with_graph(
        [
            helper.make_node("ReduceMean", ["window"], ["mean"], keepdims=0),
            helper.make_node("Add", ["start", "mean"], ["state0"]),
            helper.make_node("Loop", ["turns", "", "state0"], ["end"], body=body),
            helper.make_node("ReduceSum", ["end"], ["sum"], keepdims=0),
            helper.make_node("ReduceMean", ["window"], ["means"], axes=[1], keepdims=0),
            helper.make_node("Add", ["means", "sum"], ["scores"]),
        ],
        {"turns": np.array(2**40, np.int64), "start": np.eye(200, dtype=np.float32)},
        version,
    )


@pytest.mark.parametrize("task", ["classification", "anomaly", "regression"])
def test_a_good_bundle_is_measured(tmp_path, task):
    result = probe(tmp_path, make_bundle(task=task))
    assert (result.ok, result.reason) == (True, "")
    assert result.load_ms > 0
    assert result.p50_us > 0
    assert 0 <= result.rss_bytes < GIB


def test_other_answers_than_the_original_gave_are_named(tmp_path):
    result = probe(tmp_path, make_bundle(wrong_golden=True))
    assert not result.ok
    assert result.reason.startswith("golden vector 0: output 'scores' differs by 1")


def test_a_bundle_for_a_newer_agent_is_named(tmp_path):
    result = probe(tmp_path, make_bundle(agent_min="99.0.0"))
    assert "needs agent 99.0.0" in result.reason


def test_rubbish_and_a_missing_file_are_named(tmp_path):
    assert "not a bundle" in probe(tmp_path, b"rubbish").reason
    missing = run_probe(tmp_path / "absent", seconds=30.0, bytes_max=GIB)
    assert "No such file" in missing.reason


def test_a_model_that_onnxruntime_cannot_load_is_named(tmp_path):
    bundle = with_graph([helper.make_node("NoSuchOperator", ["window"], ["scores"])], {})
    assert "the model cannot be loaded" in probe(tmp_path, bundle).reason


def test_a_model_that_wants_more_memory_than_allowed_is_refused(tmp_path):
    result = probe(tmp_path, greedy(), bytes_max=GIB)
    assert result.reason == "it needs more memory than 1024 MiB"


def test_a_model_that_never_answers_is_ended(tmp_path):
    result = probe(tmp_path, endless(), seconds=2.0)
    assert result.reason in {
        "the model did not answer within 2 s",
        "the model took all the processor time that it may",
    }


def test_a_child_that_crashes_takes_nobody_with_it(tmp_path):
    (tmp_path / "some.bundle").write_bytes(endless())
    probing = Probe(tmp_path / "some.bundle", seconds=60.0, bytes_max=GIB)
    assert probing.poll() is None
    os.kill(probing._child.pid, signal.SIGSEGV)
    assert ended(probing).reason == "crashed with signal 11"


def test_a_child_that_the_kernel_kills_is_told_apart(tmp_path):
    (tmp_path / "some.bundle").write_bytes(endless())
    probing = Probe(tmp_path / "some.bundle", seconds=60.0, bytes_max=GIB)
    os.kill(probing._child.pid, signal.SIGKILL)
    assert "memory is short" in ended(probing).reason


def test_a_probe_that_is_called_off_leaves_no_child(tmp_path):
    (tmp_path / "some.bundle").write_bytes(endless())
    probing = Probe(tmp_path / "some.bundle", seconds=60.0, bytes_max=GIB)
    pid = probing._child.pid
    probing.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not probing.poll().ok


def test_what_a_library_prints_does_not_disturb_the_answer(tmp_path, capfd):
    result = probe(tmp_path, make_bundle())
    assert result.ok
    assert capfd.readouterr().out == ""


def ended(probing):
    deadline = time.monotonic() + 20
    while (result := probing.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return result
