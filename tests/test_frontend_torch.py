"""PyTorch: exported programs and modules answer on the device as they do in PyTorch."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_runs import assert_same_answers

from converter.frontends import Imported, import_model
from converter.model_io import ModelIO
from edge_agent.contract.errors import ConfigError
from edge_agent.infer import Engine

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

from torch import nn  # noqa: E402 - only where it is installed

from converter.frontends.torch import import_module  # noqa: E402 - the same

L, C, K = 32, 3, 4
CLASSES = ModelIO(task="classification")
FIRST = ModelIO(task="classification", layout="channels_first")


def windows(count: int = 24) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, L, C)).astype(np.float32)


def live(module: nn.Module, io: ModelIO, **more: Any) -> Imported:
    names = tuple(f"c{at}" for at in range(C))
    return import_module(module, length=L, channels=names, rate_hz=10.0, model_io=io, **more)


def load(path: Path, io: ModelIO = CLASSES, *, consent: bool = False) -> Imported:
    return import_model(
        path,
        length=L,
        channels=tuple(f"c{at}" for at in range(C)),
        rate_hz=10.0,
        consent_pickle=consent,
        model_io=io,
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(C, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.depth = nn.Conv1d(8, 8, 5, padding=2, groups=8)
        self.point = nn.Conv1d(8, 8, 1)
        self.head = nn.Linear(8, K)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.norm(self.first(x)))
        x = x + nn.functional.gelu(self.point(self.depth(x)))
        return self.head(x.mean(dim=2))


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.Module]) -> None:
        super().__init__()
        self.cell = cell(C, 6, batch_first=True)
        self.head = nn.Linear(6, K)

    def forward(self, x: Any) -> Any:
        return self.head(self.cell(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(C, 8)
        self.place = nn.Parameter(torch.randn(L, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, K)

    def forward(self, x: Any) -> Any:
        return self.head(self.layer(self.embed(x) + self.place).mean(1)).softmax(-1)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(L * C, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, K))


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(C, 8, 5),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(8, 8, 3, stride=2),
        nn.Hardswish(),
        nn.Flatten(),
        nn.LazyLinear(K),
        nn.Softmax(dim=1),
    )


def image() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, L)),
        nn.Conv2d(1, 4, (5, C)),
        nn.BatchNorm2d(4),
        nn.ELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 1),
        nn.Sigmoid(),
    )


def trained(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Weights far from zero, and statistics of normalisation that do something."""
    torch.manual_seed(0)
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(16, *shape) * 2 + 0.5)
        for weight in module.parameters():
            weight.copy_(torch.randn_like(weight) / max(1, weight[0].numel()) ** 0.5)
    return module.eval()


ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], ModelIO]] = {
    "mlp": (mlp, (L * C,), CLASSES),
    "convolution": (convolution, (C, L), CLASSES),
    "residual": (Residual, (C, L), CLASSES),
    "image": (image, (L, C), ModelIO()),
    "gru": (lambda: Recurrent(nn.GRU), (L, C), CLASSES),
    "lstm": (lambda: Recurrent(nn.LSTM), (L, C), CLASSES),
    "attention": (Attention, (L, C), ModelIO()),
}


@pytest.mark.parametrize("name", ZOO)
def test_architectures_answer_as_in_pytorch(name: str) -> None:
    make, shape, io = ZOO[name]
    module = trained(make(), shape)
    imported = live(module, io)
    given = windows()
    rows = given.transpose(0, 2, 1) if shape == (C, L) else given.reshape(-1, *shape)
    with torch.no_grad():
        raw = module(torch.from_numpy(np.ascontiguousarray(rows)))
        want = raw if name in {"convolution", "attention", "image"} else raw.softmax(1)
    want = want.numpy() if want.shape[1] > 1 else np.hstack([1 - want.numpy(), want.numpy()])
    np.testing.assert_allclose(imported.original(given).scores, want, rtol=1e-5, atol=1e-6)
    assert want.std(axis=0).max() > 0.005
    assert_same_answers(imported, given, rtol=1e-5, atol=2e-6)
    kinds = {node.op_type for node in imported.graph.graph.node}
    assert not kinds & {"BatchNormalization", "Dropout"}
    assert imported.packages == ("torch", "onnxscript")


def test_a_module_is_left_as_it_was() -> None:
    module = mlp().train()
    live(module, CLASSES)
    assert module.training


def test_a_layout_that_a_module_leaves_open_is_asked_for() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(L * C, K))
    with pytest.raises(ConfigError, match="layout: readings_first"):
        live(module, CLASSES)
    assert_same_answers(live(module, FIRST), windows())


def test_a_module_that_takes_no_such_window_is_refused() -> None:
    with pytest.raises(ConfigError, match="takes none of the inputs"):
        live(nn.Linear(7, K), CLASSES)


def test_state_of_a_module_is_carried() -> None:
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(L * C, 5)
            self.head = nn.Linear(5, K)

        def forward(self, x: Any, h: Any) -> Any:
            h = self.cell(x.flatten(1), h)
            return self.head(h), h

    module = Step().eval()
    example = (torch.zeros(1, L, C), torch.zeros(1, 5))
    with pytest.raises(ConfigError, match="nothing says what they take"):
        live(module, CLASSES, example=example)
    io = ModelIO(task="classification", states={"h": "output_1"})
    imported = live(module, io, example=example)
    given, h, want = windows(), torch.zeros(1, 5), []
    with torch.no_grad():
        for window in given:
            scores, h = module(torch.from_numpy(window[None]), h)
            want.append(scores.softmax(1).numpy()[0])
    np.testing.assert_allclose(imported.original(given).scores, want, rtol=1e-5)
    engine = Engine(
        imported.graph.SerializeToString(),
        length=L,
        channels=C,
        outputs=imported.outputs,
        states=imported.states,
    )
    for window, scores in zip(given, want, strict=True):
        engine.run(window)
        np.testing.assert_allclose(engine.outputs["scores"][0], scores, rtol=1e-5)


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torch.export.save writes it, its batch open."""
    module = trained(convolution(), (C, L))
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, (torch.randn(2, C, L),), dynamic_shapes=({0: batch},))
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    torch.export.save(program, path)
    return path


def test_a_pt2_file_answers_as_in_pytorch(pt2: Path) -> None:
    imported = load(pt2, ModelIO())
    module = torch.export.load(pt2).module()
    given = windows()
    with torch.no_grad():
        want = module(torch.from_numpy(np.ascontiguousarray(given.transpose(0, 2, 1))))
    np.testing.assert_allclose(imported.original(given).scores, want.numpy(), rtol=1e-5, atol=1e-7)
    assert_same_answers(imported, given, rtol=1e-5, atol=1e-6)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def tampered(source: Path, folder: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """A copy of a pt2 file whose members have been changed."""
    path = folder / "model.pt2"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    return path


def edited(member: str, edit: Callable[[str], str]) -> Callable[[str, bytes], bytes]:
    """Change the text of one member."""

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith(member):
            return content
        after = edit(content.decode())
        assert after != content.decode()
        return after.encode()

    return change


MODEL, WEIGHTS = "models/model.json", "model_weights_config.json"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (edited(WEIGHTS, lambda t: t.replace('"use_pickle": false', '"use_pickle": true')), "pick"),
        (edited(WEIGHTS, lambda t: t.replace('"weight_0"', '"opaque_obj_0"')), "is a pickle"),
        (edited(MODEL, lambda t: t.replace("Symbol('s", "__import__('s")), "no formula"),
        (edited(MODEL, lambda t: t.replace('aten.relu.default"', 'aten.relu"')), "the operator"),
        (edited(MODEL, lambda t: t.replace("ops.aten.relu", "ops.my.relu")), r"ops\.my"),
        (edited(MODEL, lambda t: t.replace("torch.ops.aten.relu.default", "torch.load")), "load"),
        (edited(MODEL, lambda t: t.replace('"relu"', '"relu = open()"')), "which is no name"),
        (edited(MODEL, lambda t: t.replace("builtins.tuple", "collections.defaultdict")), "tuples"),
        (edited(MODEL, lambda t: t[:-9]), "damaged"),
    ],
)  # fmt: skip
def test_a_pt2_file_that_could_run_code_is_refused(
    pt2: Path, tmp_path: Path, change: Any, text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        load(tampered(pt2, tmp_path, change))


def test_a_pickle_in_a_pt2_file_is_not_run(pt2: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def change(name: str, content: bytes) -> bytes:
        return pickle.dumps(Trap(mark)) if "sample_inputs" in name else content

    with pytest.raises(ConfigError, match="holds more than tensors"):
        load(tampered(pt2, tmp_path, change))
    assert not mark.exists()


def test_what_is_no_part_of_a_model_is_refused(pt2: Path, tmp_path: Path) -> None:
    path = tampered(pt2, tmp_path, lambda _, content: content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/data/aotinductor/model/run.so", b"code")
    with pytest.raises(ConfigError, match=r"run\.so, no part of a plain model"):
        load(path)


def test_notes_for_people_do_not_hinder(pt2: Path, tmp_path: Path) -> None:
    def guard(text: str) -> str:
        model = json.loads(text)
        model["guards_code"] = ["__import__('os').abort()"]
        model["graph_module"]["graph"]["nodes"][0]["metadata"]["stack_trace"] = "f'\"\\n; x"
        return json.dumps(model)

    imported = load(tampered(pt2, tmp_path, edited(MODEL, guard)), ModelIO())
    assert_same_answers(imported, windows(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cut", [0, 100, 4000])
def test_a_damaged_pt2_file_is_refused(pt2: Path, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(pt2.read_bytes()[:cut])
    with pytest.raises(ConfigError, match="damaged"):
        load(path)


def test_weights_without_the_architecture_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(mlp().state_dict(), path)
    for consent in (False, True):
        with pytest.raises(ConfigError, match=r"a state_dict, weights without the architecture"):
            load(path, consent=consent)


def test_a_pickled_module_needs_consent(tmp_path: Path) -> None:
    path, mark = tmp_path / "model.pt", tmp_path / "mark"
    torch.save(Trap(mark), path)
    with pytest.raises(ConfigError, match=r"runs any code .*allow_pickle: true"):
        load(path)
    assert not mark.exists()
    module = trained(mlp(), (L * C,))
    torch.save(module, path)
    with pytest.raises(ConfigError, match="runs any code"):
        load(path)
    assert_same_answers(load(path, consent=True), windows(), rtol=1e-5, atol=1e-6)


def test_torchscript_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.trace(mlp().eval(), torch.zeros(1, L * C)), path)
    with pytest.raises(ConfigError, match="is TorchScript"):
        load(path, consent=True)
