"""What is in a file that Keras wrote: the model's description and its weights, and nothing run.

``.keras`` is a zip of ``config.json`` and ``model.weights.h5``; ``.h5`` is one HDF5 file with the
description in an attribute. Both are untrusted: sizes are bounded before anything is unpacked, and
no link leads out of the file.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np

from converter.frontends import require_package
from edge_agent.arrays import F32
from edge_agent.contract.errors import ConfigError

CONFIG_BYTES_MAX: Final = 16 * 2**20
WEIGHTS_BYTES_MAX: Final = 2**31 - 1  # what an ONNX file can hold
_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_CONTAINERS: Final = ("layers", "_layer_checkpoint_dependencies")  # Keras 3, and 2.12 to 2.15
_PLACES: Final = (
    "vars", "cell/vars", "layer/vars", "forward_layer/cell/vars", "backward_layer/cell/vars",
)  # fmt: skip


@dataclass(frozen=True)
class KerasFile:
    """A file's content.

    Attributes:
        config: the model as nested layers, as Keras describes it.
        version: of the Keras that wrote it, e.g. ``"3.9.0"``; empty when it does not say.
        weights: by the path of a layer, such as ``("encoder", "dense_1")``, its arrays in Keras's
            order. Layers without any are absent.
    """

    config: Mapping[str, Any]
    version: str
    weights: Mapping[tuple[str, ...], tuple[F32, ...]]


def read_keras(path: Path) -> KerasFile:
    """Read a ``.keras`` or ``.h5`` file.

    Raises:
        ConfigError: h5py is not installed; the file is damaged, too large, or links to others.
    """
    h5py = require_package("h5py", "keras")
    try:
        if zipfile.is_zipfile(path):
            return _read_archive(path, h5py)
        if h5py.is_hdf5(path):
            return _read_hdf5(path, h5py)
    # h5py passes on what its C library meets as one of these.
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile) as exc:
        raise ConfigError(f"is damaged: {exc}; save it again by model.save(...)") from exc
    raise ConfigError("is neither a .keras archive nor HDF5: save it again by model.save(...)")


def layers_of(config: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The layers inside a model's description; none in that of a plain layer."""
    inner = config.get("config")
    if isinstance(inner, list):  # a Sequential of Keras before 2.3
        return inner
    layers = inner.get("layers") if isinstance(inner, dict) else None
    return layers if isinstance(layers, list) else ()


def name_of(layer: Mapping[str, Any]) -> str:
    """The name of a layer, unique in its model."""
    return str(layer.get("name") or layer["config"]["name"])


def _read_archive(path: Path, h5py: ModuleType) -> KerasFile:
    with zipfile.ZipFile(path) as archive:
        config = _object(_member(archive, _CONFIG, CONFIG_BYTES_MAX))
        metadata = _object(_member(archive, _METADATA, CONFIG_BYTES_MAX))
        data = _member(archive, _WEIGHTS, WEIGHTS_BYTES_MAX)
    with h5py.File(io.BytesIO(data), "r") as file:
        reader = _Reader(h5py)
        reader.collect(file, config, ())
    return KerasFile(config, str(metadata.get("keras_version", "")), reader.found)


def _member(archive: zipfile.ZipFile, name: str, size_max: int) -> bytes:
    """One member, whose stated size is not believed."""
    try:
        info = archive.getinfo(name)
    except KeyError as exc:
        raise ConfigError(f"has no {name}: save the whole model by model.save(...)") from exc
    with archive.open(info) as file:
        data = file.read(size_max + 1)
    if len(data) > size_max:
        raise ConfigError(f"its {name} is larger than {size_max >> 20} MiB")
    return data


def _object(data: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except RecursionError as exc:
        raise ConfigError("its description is nested too deeply") from exc
    if not isinstance(value, dict):
        raise ConfigError("its description is no object: save it again by model.save(...)")
    return value


def _read_hdf5(path: Path, h5py: ModuleType) -> KerasFile:
    with h5py.File(path, "r") as file:
        if "model_config" not in file.attrs:
            raise ConfigError(
                "holds weights without a description of the model: save the whole model by "
                "model.save(...), not save_weights"
            )
        config = _object(_text(file.attrs["model_config"]))
        version = _text(file.attrs.get("keras_version", ""))
        reader = _Reader(h5py)
        root = reader.group(file, "model_weights")
        for layer in layers_of(config):
            if (group := reader.group(root, name_of(layer))) is not None:
                reader.collect_flat(group, layer)
    return KerasFile(config, version, reader.found)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@dataclass
class _Reader:
    """Reads arrays, which together are bounded.

    Attributes:
        found: see :attr:`KerasFile.weights`.
    """

    h5py: ModuleType
    found: dict[tuple[str, ...], tuple[F32, ...]] = field(default_factory=dict)
    _left: int = WEIGHTS_BYTES_MAX

    def collect(self, group: Any, model: Mapping[str, Any], path: tuple[str, ...]) -> None:
        """The weights of a model in a ``.keras`` file, whose groups are named after classes."""
        containers = (self.group(group, name) for name in _CONTAINERS)
        container = next((c for c in containers if c is not None), None)
        seen: dict[str, int] = {}
        for layer in layers_of(model):
            stem = _snake(str(layer["class_name"]))
            if str(layer.get("module", "")).startswith("keras.src.ops"):
                continue  # an operator, not a layer: it has no group
            number = seen[stem] = seen.get(stem, -1) + 1
            inner = self.group(container, f"{stem}_{number}" if number else stem)
            here = (*path, name_of(layer))
            if layers_of(layer):
                self.collect(inner, layer, here)
                continue
            groups = (self.group(inner, place) for place in _PLACES)
            arrays = [array for found in groups for array in self._numbered(found)]
            if arrays:
                self.found[here] = tuple(arrays)

    def collect_flat(self, group: Any, layer: Mapping[str, Any]) -> None:
        """The weights of a layer in a ``.h5`` file; those of an inner model lie side by side."""
        names = [_text(name) for name in group.attrs.get("weight_names", ())]
        arrays = {name: self.array(group, name) for name in names}

        def pick(inner: Mapping[str, Any], path: tuple[str, ...]) -> None:
            if layers_of(inner):
                for child in layers_of(inner):
                    pick(child, (*path, name_of(child)))
                return
            chosen = [a for n, a in arrays.items() if len(path) == 1 or path[-1] in n.split("/")]
            if chosen:
                self.found[path] = tuple(chosen)

        pick(layer, (name_of(layer),))

    def _numbered(self, group: Any) -> list[F32]:
        return [] if group is None else [self.array(group, str(n)) for n in range(len(group))]

    def group(self, parent: Any, name: str) -> Any:
        """A group below ``parent``, None when it is absent."""
        for part in name.split("/"):
            if parent is None or part not in parent:
                return None
            self._require_inside(parent, part)
            parent = parent[part]
        return parent

    def array(self, group: Any, name: str) -> F32:
        """An array below ``group`` as float32."""
        *parents, last = name.split("/")
        holder = self.group(group, "/".join(parents)) if parents else group
        self._require_inside(holder, last)
        data = holder[last]
        if not isinstance(data, self.h5py.Dataset) or data.external or data.is_virtual:
            raise ConfigError(f"its weight {name} lies in another file: save the model again")
        if data.dtype.kind not in "fiu":
            raise ConfigError(f"its weight {name} holds {data.dtype}, not numbers")
        self._left -= data.nbytes
        if self._left < 0:
            raise ConfigError("its weights are larger than 2 GiB, which no device would load")
        array: F32 = np.asarray(data[()], np.float32)
        return array

    def _require_inside(self, group: Any, name: str) -> None:
        if not isinstance(group.get(name, getlink=True), self.h5py.HardLink):
            raise ConfigError(f"its weight {name} is a link to elsewhere: save the model again")


def _snake(name: str) -> str:
    """``SeparableConv1D`` to ``separable_conv1d``, as Keras names the groups of its layers."""
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
