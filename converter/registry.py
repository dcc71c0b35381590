"""Models that live in MLflow: fetch one, and log the bundle that became of it.

The only importer of mlflow, of which the small client (``mlflow-skinny``) is enough. The server is
the one that ``MLFLOW_TRACKING_URI`` names, with MLflow's own variables for users and passwords.

A fetched file is read like any other: a ``.skops`` file under the reviewed list of types, a pickle
only with consent. What else MLflow keeps beside it is never run.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import yaml

from converter.frontends import require_package
from edge_agent.contract.errors import ConfigError, LinkError

if TYPE_CHECKING:
    from converter.convert import Built

MODEL_BYTES_MAX: Final = 2 * 1024**3  # of all files of a model; an ONNX file has no more
FOLDER: Final = "edge"  # of the artifacts that are logged
_BY_ALIAS: Final = re.compile(r"models:/+(?P<name>[^/@]+)@(?P<alias>[^/@]+)")
_BY_VERSION: Final = re.compile(r"models:/+(?P<name>[^/@]+)/(?P<version>\d+)")
_MODEL_FILE: Final = "MLmodel"
_MODEL_FILE_BYTES_MAX: Final = 1024 * 1024
# By flavor, the key of the file, and the suffix that frontends know such a file by.
_FLAVORS: Final = {
    "sklearn": ("pickled_model", ""),
    "xgboost": ("data", ""),
    "lightgbm": ("data", ".txt"),
    "catboost": ("data", ".cbm"),
    "onnx": ("data", ".onnx"),
}
_PICKLES: Final = (".pkl", ".pickle", ".joblib")
_DEFAULTS: Final = {  # MLflow's own would retry for minutes, and draw bars
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True)
class Origin:
    """Where in MLflow a model is.

    Attributes:
        uri: as the recipe gives it.
        run_id: of the run that made it; empty when that is unknown.
        name: in the registry; empty for a model of a run.
        version: in the registry, or empty.
    """

    uri: str
    run_id: str = ""
    name: str = ""
    version: str = ""

    @property
    def note(self) -> str:
        """The same as a sentence, for the report."""
        version = f" is version {self.version} of {self.name}" if self.version else ""
        run = f"{', ' if version else ' is '}of the run {self.run_id}" if self.run_id else ""
        return f"{self.uri}{version}{run}." if version or run else f"{self.uri} is in MLflow."


@contextmanager
def fetched(uri: str) -> Iterator[tuple[Path, Origin]]:
    """Download a model; its file is gone when the context ends.

    Args:
        uri: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, ``models:/MODEL_ID`` or
            ``runs:/RUN_ID/PATH``.

    Raises:
        ConfigError: there is no such model, it is of a kind that cannot be read, or mlflow is not
            installed. Errors inside the context name the URI in place of the file.
        LinkError: the server cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as folder:
        origin = _resolved(uri)
        exact = f"models:/{origin.name}/{origin.version}" if origin.version else uri
        place = Path(_ask(uri, lambda mlflow: _download(mlflow, exact, folder)))
        path, run_id = _file_of(place, uri)
        try:
            yield path, replace(origin, run_id=origin.run_id or run_id)
        except ConfigError as exc:
            raise ConfigError(str(exc).replace(str(path), uri)) from exc


def log_bundle(built: Built) -> str:
    """Log a bundle and its report as artifacts, with size, digest and quality as tags.

    They go to the run that made the model; its version in the registry gets the tags too. A model
    that does not come from MLflow gets a run of its own, in ``MLFLOW_EXPERIMENT_NAME``.

    Returns:
        The id of the run.

    Raises:
        ConfigError: the server refuses, or mlflow is not installed.
        LinkError: the server cannot be reached.
    """
    origin, tags = built.origin or Origin(""), _tags(built)

    def log(mlflow: Any) -> str:
        client = mlflow.MlflowClient()
        name = f"{built.manifest.name} {built.manifest.version}"
        run_id = origin.run_id or _new_run(client, name)
        for path in (built.bundle, built.report):
            client.log_artifact(run_id, str(path), FOLDER)
        for key, value in tags.items():
            client.set_tag(run_id, key, value)
            if origin.version:
                client.set_model_version_tag(origin.name, origin.version, key, value)
        if not origin.run_id:
            client.set_terminated(run_id)
        return run_id

    return str(_ask(str(built.bundle), log))


def _tags(built: Built) -> Mapping[str, str]:
    parity = built.manifest.chosen.parity
    return {
        "edge.bundle": f"{FOLDER}/{built.bundle.name}",
        "edge.bundle.bytes": str(built.bundle.stat().st_size),
        "edge.bundle.sha256": built.digest,
        "edge.bundle.form": built.manifest.chosen.name,
        f"edge.bundle.{parity.metric}": f"{parity.converted:.6g}",
        f"edge.bundle.{parity.metric}_original": f"{parity.original:.6g}",
    }


def _resolved(uri: str) -> Origin:
    """What an alias stands for now, so that it cannot move while the model is fetched."""
    if found := _BY_ALIAS.fullmatch(uri):
        name, alias = found["name"], found["alias"]
        entry = _ask(uri, lambda m: m.MlflowClient().get_model_version_by_alias(name, alias))
    elif found := _BY_VERSION.fullmatch(uri):
        name, version = found["name"], found["version"]
        entry = _ask(uri, lambda m: m.MlflowClient().get_model_version(name, version))
    else:
        run_id = uri.removeprefix("runs:/").strip("/").partition("/")[0]
        return Origin(uri, run_id=run_id if uri.startswith("runs:/") else "")
    return Origin(uri, run_id=entry.run_id or "", name=name, version=str(entry.version))


def _download(mlflow: Any, uri: str, folder: str) -> str:
    """Download what is no larger than a model can be; a store that tells no sizes is believed."""
    listed = mlflow.artifacts.list_artifacts(artifact_uri=uri)
    if (size := sum(entry.file_size or 0 for entry in listed)) > MODEL_BYTES_MAX:
        raise ConfigError(f"{uri}: has {size >> 20} MiB, {MODEL_BYTES_MAX >> 20} are allowed")
    return str(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))


def _new_run(client: Any, name: str) -> str:
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
    found = client.get_experiment_by_name(experiment)
    number = found.experiment_id if found else client.create_experiment(experiment)
    return str(client.create_run(number, run_name=name).info.run_id)


def _file_of(place: Path, uri: str) -> tuple[Path, str]:
    """The model file in what was downloaded, and the run that made it, if that is said."""
    if place.is_file():
        return place, ""
    said = _described(place / _MODEL_FILE, uri)
    flavors = said.get("flavors", {})
    for flavor, (key, suffix) in _FLAVORS.items():
        if flavor not in flavors:
            continue
        path = (place / str(flavors[flavor].get(key, ""))).resolve()
        if not path.is_relative_to(place.resolve()) or not path.is_file():
            raise ConfigError(f"{uri}: its {_MODEL_FILE} names no file as {flavor}.{key}")
        if suffix and path.suffix not in {suffix, *_PICKLES}:
            path = path.rename(path.with_suffix(suffix))
        return path, str(said.get("run_id") or "")
    raise ConfigError(
        f"{uri}: has the flavors {', '.join(flavors) or 'none'}, of which none can be read; those "
        f"are {', '.join(_FLAVORS)}"
    )


def _described(path: Path, uri: str) -> dict[str, Any]:
    """The content of ``MLmodel``."""
    try:
        if path.stat().st_size > _MODEL_FILE_BYTES_MAX:
            raise ConfigError(f"{uri}: its {_MODEL_FILE} is too large")
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
        return msgspec.convert(said, dict[str, Any])
    except FileNotFoundError as exc:
        raise ConfigError(
            f"{uri}: is a folder without {_MODEL_FILE}: name the model file in it"
        ) from exc
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as exc:
        raise ConfigError(f"{uri}: its {_MODEL_FILE} cannot be read: {exc}") from exc


def _ask(what: str, question: Callable[[Any], Any]) -> Any:
    """Ask MLflow, with its errors as ours."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)  # MLflow reads them at every request
    mlflow = require_package("mlflow", "mlflow")
    try:
        return question(mlflow)
    except mlflow.exceptions.MlflowException as exc:
        server = mlflow.get_tracking_uri()
        text = str(exc).splitlines()[0]
        if "Max retries exceeded" in text or "Connection" in text:
            raise LinkError(
                f"{what}: MLflow at {server} cannot be reached: {text}; set MLFLOW_TRACKING_URI"
            ) from exc
        raise ConfigError(f"{what}: MLflow at {server} says: {text}") from exc
    except OSError as exc:  # requests' errors are OSErrors as well
        raise LinkError(f"{what}: cannot be transferred: {exc}") from exc
