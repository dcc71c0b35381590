"""Models from a real MLflow server, and bundles back into it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import skops.io
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from converter import build
from converter.order import Order, carry_out
from converter.recipe import Recipe, load_recipe
from converter.registry import MODEL_BYTES_MAX, fetched
from edge_agent.contract.bundle import read_bundle
from edge_agent.contract.errors import ConfigError

SERVER_S_MAX = 90.0
RECIPE = """\
name: level
version: 1.0.0
model: {model}
rate_hz: 10
channels: [{{name: a}}, {{name: b}}]
data: {{path: val.csv, label: level}}
quantize: {{int8: false}}
"""

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("flask") is None or importlib.util.find_spec("mlflow") is None,
        reason="needs MLflow with its server: pip install mlflow",
    ),
    pytest.mark.timeout(300),
]


@dataclass(frozen=True)
class Server:
    """A running server with one registered model, version 1 being the champion."""

    client: Any
    run_id: str
    folder: Path

    def recipe(self, model: str) -> Recipe:
        path = self.folder / "level.yaml"
        path.write_text(RECIPE.format(model=model), encoding="utf-8")
        return load_recipe(path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    old = dict(os.environ)
    os.environ["MLFLOW_TRACKING_URI"] = uri = f"http://127.0.0.1:{port}"
    log = (folder / "log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_up(process, f"{uri}/health")
        yield fill(folder)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        log.close()
        os.environ.clear()
        os.environ.update(old)


def wait_until_up(process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + SERVER_S_MAX
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)


def fill(folder: Path) -> Server:
    """Train, log and register as MLflow's users do; and leave validation data in the folder."""
    mlflow = importlib.import_module("mlflow")
    sklearn = importlib.import_module("mlflow.sklearn")
    x = np.random.default_rng(0).normal(size=(160, 2))
    y = np.where(x.sum(axis=1) > 0, "high", "low")
    rows = [f"{a},{b},{label}" for (a, b), label in zip(x[60:], y[60:], strict=True)]
    (folder / "val.csv").write_text("\n".join(["a,b,level", *rows]), encoding="utf-8")
    log = {"pip_requirements": ["scikit-learn"]}
    with mlflow.start_run() as run:
        model = LogisticRegression().fit(x[:60], y[:60])
        sklearn.log_model(model, name="model", registered_model_name="level", **log)
        forest = RandomForestClassifier(3, random_state=0).fit(x[:60], y[:60])
        sklearn.log_model(
            forest, name="forest", skops_trusted_types=["sklearn.tree._tree.Tree"], **log
        )
        sklearn.log_model(model, name="pickled", serialization_format="cloudpickle", **log)
        skops.io.dump(model, folder / "plain.skops")
        mlflow.log_artifact(str(folder / "plain.skops"), "files")
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("level", "champion", "1")
    return Server(client, run.info.run_id, folder)


def test_a_model_by_its_alias_becomes_a_bundle(server: Server) -> None:
    built = build(server.recipe("models:/level@champion"))
    assert built.manifest.provenance.estimator == "LogisticRegression"
    assert built.notes[0] == (
        f"models:/level@champion is version 1 of level, of the run {server.run_id}."
    )
    again = build(server.recipe("models:/level@champion"))
    assert again.digest == built.digest


@pytest.mark.parametrize(
    ("uri", "suffix"),
    [
        ("models:/level/1", "model.skops"),
        ("runs:/{run}/forest", "model.skops"),
        ("runs:/{run}/pickled", "model.pkl"),
        ("runs:/{run}/files/plain.skops", "plain.skops"),
    ],
)
def test_every_way_to_name_a_model_finds_its_file(server: Server, uri: str, suffix: str) -> None:
    with fetched(uri.format(run=server.run_id)) as (path, origin):
        assert path.name == suffix
        assert path.stat().st_size > 0
        assert origin.run_id == server.run_id
    assert not path.exists()


def test_the_bundle_goes_back_as_an_artifact_with_tags(server: Server) -> None:
    server.recipe("models:/level@champion")
    order = Order(recipe=str(server.folder / "level.yaml"), mlflow_log=True)
    done = carry_out(order, lambda _: None)
    assert done.figures["mlflow_run"] == server.run_id
    bundle = read_bundle(done.built.bundle)
    wanted = {
        "edge.bundle": "edge/level-1.0.0.bundle",
        "edge.bundle.sha256": bundle.digest,
        "edge.bundle.bytes": str(done.built.bundle.stat().st_size),
        "edge.bundle.accuracy": f"{bundle.manifest.chosen.parity.converted:.6g}",
    }
    run = server.client.get_run(server.run_id)
    assert wanted.items() <= run.data.tags.items()
    assert wanted.items() <= server.client.get_model_version("level", "1").tags.items()
    copy = server.client.download_artifacts(server.run_id, wanted["edge.bundle"])
    assert read_bundle(Path(copy)).digest == bundle.digest


def test_a_model_from_a_file_gets_a_run_of_its_own(server: Server) -> None:
    server.recipe("plain.skops")
    order = Order(recipe=str(server.folder / "level.yaml"), mlflow_log=True)
    done = carry_out(order, lambda _: None)
    run = server.client.get_run(done.mlflow_run)
    assert run.info.run_id != server.run_id
    assert run.info.status == "FINISHED"
    assert run.data.tags["edge.bundle.sha256"] == done.built.digest


def test_a_pickle_from_mlflow_needs_consent(server: Server) -> None:
    uri = f"runs:/{server.run_id}/pickled"
    with pytest.raises(ConfigError, match="allow_pickle") as caught:
        build(server.recipe(uri))
    assert str(caught.value).startswith(f"{uri}: ")  # and no temporary file
    consent = msgspec.structs.replace(server.recipe(uri), allow_pickle=True)
    assert build(consent).manifest.provenance.estimator == "LogisticRegression"


def test_what_is_not_there_is_said(server: Server) -> None:
    with pytest.raises(ConfigError, match="models:/level@nobody: MLflow at http"):
        build(server.recipe("models:/level@nobody"))
    with pytest.raises(ConfigError, match="name the model file"):
        build(server.recipe(f"runs:/{server.run_id}/files"))


def test_what_is_too_large_is_not_downloaded(server: Server) -> None:
    artifacts = server.folder / "artifacts" / "0" / server.run_id / "artifacts"
    (artifacts / "huge").mkdir(parents=True)
    with (artifacts / "huge" / "model.skops").open("wb") as file:
        file.truncate(MODEL_BYTES_MAX + 1)  # sparse: it takes no room
    uri = f"runs:/{server.run_id}/huge"
    with pytest.raises(ConfigError, match="2048 are allowed"), fetched(uri):
        pass


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"flavors": {"prophet": {}}}, "has the flavors prophet"),
        ({"flavors": {"sklearn": {"pickled_model": "../../../../etc/passwd"}}}, "names no file"),
        ([1, 2], "cannot be read"),
        ({"flavors": {"lightgbm": {"data": "model.lgb"}}}, ""),
    ],
)
def test_a_description_is_not_trusted(server: Server, said: Any, message: str) -> None:
    name = f"described-{len(repr(said))}"
    folder = server.folder / name
    folder.mkdir()
    (folder / "MLmodel").write_bytes(msgspec.yaml.encode(said))
    (folder / "model.lgb").write_text("tree\nversion=v4\n", encoding="utf-8")
    server.client.log_artifacts(server.run_id, str(folder), name)
    uri = f"runs:/{server.run_id}/{name}"
    if not message:
        with fetched(uri) as (path, _):
            assert path.name == "model.txt"  # as LightGBM's own files are known
        return
    with pytest.raises(ConfigError, match=message), fetched(uri):
        pass


def test_a_server_that_is_gone_is_a_link_error() -> None:
    code = (
        "from converter.registry import fetched\n"
        "from edge_agent.contract.errors import LinkError\n"
        "try:\n  fetched('models:/level/1').__enter__()\n"
        "except LinkError as exc: print(exc)"
    )
    gone = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | gone,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "cannot be reached" in done.stdout
    assert "set MLFLOW_TRACKING_URI" in done.stdout
